//! One connection: bytes in, commands run, replies out.
//!
//! An idle connection owns no buffer. Input is read into its I/O thread's scratch buffer and parsed
//! there; replies gather in the thread's [`Reply`] and leave in one write a burst, after the thread
//! has read from everybody who had something to say: a peer that is woken by the first of the
//! writes then finds the others there too. Only what is left over stays with the connection:
//!
//! | state | it keeps | it waits for | deadline |
//! |---|---|---|---|
//! | idle | nothing | input | none |
//! | `half` | the request's bytes so far | the rest | [`PROGRESS`] more bytes or a request's end, each stall-timeout |
//! | `unsent` | replies, and the input not yet acted on | room to write; reads nothing | some room, each stall-timeout |
//! | [`held`](crate::held) | replies | the log; reads on, until there are [`FLUSH_AT`] bytes of them | none |
//! | crowded out | the input not yet acted on | room in the log; reads nothing | none |
//! | [`blocked`](crate::blocked) | the input not yet acted on | its outcome; reads nothing | the command's time-out |
//!
//! Replies that may leave are `unsent` before, and those that may not yet are `held` behind them.
//!
//! So a client that does not read its replies is not read from either: what it can make the server
//! hold is one burst of input, [`FLUSH_AT`] bytes of replies (of either kind), and one reply more.

mod replies;

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use latchwork::semaphore::SendPermit;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};

use crate::blocked::Ending;
use crate::clients::Client;
use crate::commands::{self, Place};
use crate::held::{Held, Line, Observed};
use crate::inbox::Post;
use crate::reply::Reply;
use crate::request::Parser;
use crate::server::{Counters, Server};
use crate::session::Session;

/// How much is read at a time.
pub(crate) const READ_SIZE: usize = 64 * 1024;
/// How many bytes of replies gather before they are written, though the burst has not ended.
const FLUSH_AT: usize = 256 * 1024;
/// Replies up to this size wait until the others in the same round of events have been read from.
const DEFER_MAX: usize = 16 * 1024;
/// What the epoll set watches for at first, and most of the time. That the peer has finished
/// sending shows in a read as well, but a blocked connection does not read.
pub(crate) const WATCHED: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
/// A request half received must grow by this much within the stall-timeout, or be completed.
const PROGRESS: usize = 64 * 1024;

/// What the connections of one I/O thread share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) server: Arc<Server>,
    /// Which of the server's counters are this thread's.
    pub(crate) thread: usize,
    /// When the current round of events began.
    pub(crate) now: Instant,
    /// Whose replies wait for the log, where replies do.
    pub(crate) line: Option<Line>,
    /// The slots of those whose next request waits until the log has room. As in the line, another
    /// connection may have got the slot meanwhile.
    pub(crate) crowded_out: Vec<usize>,
    input: Vec<u8>,
    parser: Parser,
    reply: Reply,
}

impl Shared {
    pub(crate) fn new(server: Arc<Server>, thread: usize) -> Self {
        Self {
            line: server.log_to_wait_for().map(Line::new),
            crowded_out: Vec::new(),
            server,
            thread,
            now: Instant::now(),
            input: Vec::with_capacity(READ_SIZE),
            parser: Parser::default(),
            reply: Reply::default(),
        }
    }

    /// The replies of the connection that has just run.
    pub(crate) fn replies(&self) -> Range<usize> {
        self.reply.range()
    }

    /// All replies have been delivered.
    pub(crate) fn clear_replies(&mut self) {
        self.reply.clear();
    }

    fn counters(&self) -> &Counters {
        &self.server.counters[self.thread]
    }
}

/// What became of a connection after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Open,
    Closed,
    /// Its replies lie in the shared buffer and are to be [delivered](Connection::deliver).
    Replies,
}

/// What a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Bytes,
    Nothing,
    End,
}

/// Input that could not be acted on yet.
#[derive(Debug)]
struct Half {
    bytes: Vec<u8>,
    /// Where the current request starts.
    start: usize,
    parser: Parser,
    /// How many of its bytes had arrived when the deadline was last set.
    seen: usize,
}

/// Replies that found no room.
#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

/// One connection. Dropping it gives its place back and closes the socket, in this order: a client
/// that has seen the end of its connection finds a place for the next one.
#[derive(Debug)]
pub(crate) struct Connection {
    _place: SendPermit,
    socket: OwnedFd,
    pub(crate) client: Arc<Client>,
    session: Session,
    half: Option<Box<Half>>,
    unsent: Option<Box<Unsent>>,
    held: Option<Box<Held>>,
    /// The next request waits until the log has room.
    is_crowded_out: bool,
    /// Requests are put off, for one of the reasons above.
    pauses: bool,
    /// What the replies tell of that have not been sent or held yet.
    observed: Observed,
    /// The socket is of no further use.
    broken: bool,
    /// Something went forward since the deadline was set.
    progress: bool,
    /// When half a request or unsent replies must have moved on.
    stall: Option<Instant>,
    /// The next thing to happen by itself: a stall, or the end of a wait.
    pub(crate) deadline: Option<Instant>,
    /// Blocked, and the peer has sent more all the same.
    held_up: bool,
    /// What the epoll set watches for.
    pub(crate) watched: EventFlags,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd, client: Arc<Client>, place: SendPermit) -> Self {
        Self {
            _place: place,
            socket,
            client,
            half: None,
            unsent: None,
            held: None,
            is_crowded_out: false,
            pauses: false,
            observed: Observed::Nothing,
            session: Session::default(),
            broken: false,
            progress: false,
            stall: None,
            deadline: None,
            held_up: false,
            watched: WATCHED,
        }
    }

    /// Something that the epoll set watches for has happened.
    pub(crate) fn serve(&mut self, events: EventFlags, shared: &mut Shared) -> Fate {
        let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if self.session.blocked.is_none() {
            if self.unsent.is_some() {
                self.writable(shared)
            } else if self.is_running() {
                self.readable(shared)
            } else if events.intersects(EventFlags::HUP | EventFlags::ERR) {
                Fate::Closed
            } else {
                self.settle(shared)
            }
        } else if events.intersects(gone) {
            self.peer_ends(events, shared)
        } else {
            if self.unsent.is_some() {
                self.send_rest(shared);
            }
            self.held_up |= events.contains(EventFlags::IN);
            self.settle(shared)
        }
    }

    /// Input has arrived, or the peer has gone.
    fn readable(&mut self, shared: &mut Shared) -> Fate {
        if self.receive(shared) == Read::End {
            return self.peer_ends(EventFlags::RDHUP, shared);
        }
        if (1..=DEFER_MAX).contains(&shared.reply.len()) && !self.broken {
            return Fate::Replies;
        }
        self.flush(shared);
        self.settle(shared)
    }

    /// The peer will send nothing more; it may still read, if it has only said that much.
    fn peer_ends(&mut self, events: EventFlags, shared: &Shared) -> Fate {
        if self.held.is_none() || events.intersects(EventFlags::HUP | EventFlags::ERR) {
            return Fate::Closed;
        }
        // Whatever it has waited for comes too late.
        self.client.cancel_wait();
        self.session.blocked = None;
        self.session.ends = true;
        self.half = None;
        self.settle(shared)
    }

    /// The log has room, or refuses: either way the next request can be acted on.
    pub(crate) fn go_on(&mut self, shared: &mut Shared) -> Fate {
        self.is_crowded_out = false;
        self.weigh();
        self.resume(shared);
        self.settle(shared)
    }

    /// There is room for replies again.
    fn writable(&mut self, shared: &mut Shared) -> Fate {
        self.send_rest(shared);
        self.settle(shared)
    }

    /// Acts on all that the peer has sent so far, the server being about to stop; a peer that does
    /// not cease to send is heard until `limit`. Open if replies still wait for room.
    pub(crate) fn finish(&mut self, shared: &mut Shared, limit: Instant) -> Fate {
        if self.session.blocked.is_some() && self.client.cancel_wait() {
            self.session.blocked = None;
            self.session.ends = true;
        }
        while self.is_running() {
            if self.receive(shared) != Read::Bytes || Instant::now() >= limit {
                self.session.ends = true;
            }
            self.flush(shared);
        }
        self.settle(shared)
    }

    /// Somebody else than the peer has something to say.
    pub(crate) fn receive_post(&mut self, post: Post, shared: &mut Shared) -> Fate {
        match post {
            Post::Close => Fate::Closed,
            Post::Ending(ending) if self.awaits(&ending) => self.unblock(ending, shared),
            Post::Ending(_) => self.settle(shared),
        }
    }

    /// Whether it is this that it waits for.
    fn awaits(&self, ending: &Ending) -> bool {
        let blocked = self.session.blocked.as_ref();
        blocked.is_some_and(|blocked| blocked.awaits(ending))
    }

    /// Replies to the command that has waited, and acts on the input that had to wait meanwhile.
    fn unblock(&mut self, ending: Ending, shared: &mut Shared) -> Fate {
        // An outcome that was on its way when the wait was cancelled does not exist.
        self.client.cancel_wait();
        if let Some(blocked) = self.session.blocked.take() {
            self.held_up = false;
            shared.reply.begin(self.client.protocol());
            // What it got was taken from a list, or there was none.
            self.observed = Observed::Anything;
            if blocked.is_stopped_by(&ending) {
                shared.server.request_stop();
                self.session.ends = true;
            } else {
                blocked.reply(ending, &mut shared.reply);
            }
            if self.is_running()
                && let Some(half) = self.half.take()
            {
                self.advance(half, shared);
            }
            self.flush(shared);
        }
        self.settle(shared)
    }

    /// The deadline has passed. Best effort: whoever is stuck half-way through a request is told
    /// why.
    pub(crate) fn time_out(&mut self, shared: &mut Shared) -> Fate {
        if let Some(blocked) = &mut self.session.blocked
            && blocked.deadline.take_if(|at| *at <= shared.now).is_some()
        {
            if self.client.cancel_wait() {
                return self.unblock(Ending::TimedOut, shared);
            }
            // The outcome is on its way.
            return self.settle(shared);
        }
        Counters::add(&shared.counters().stalled, 1);
        if self.unsent.is_none() && self.held.is_none() {
            let text = b"-ERR Protocol error: timed out in the middle of a request\r\n";
            let _ = send(&self.socket, text, SendFlags::NOSIGNAL);
        }
        Fate::Closed
    }

    /// Tells the peer that there will be no more replies.
    pub(crate) fn end_replies(&self) {
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Makes the coming close wait, at most this long, until the peer's kernel has all that was
    /// written.
    pub(crate) fn linger(&self, limit: Duration) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(limit));
    }

    /// What the epoll set is to watch for.
    pub(crate) fn wants(&self) -> EventFlags {
        match (self.unsent.is_some(), self.session.blocked.is_some()) {
            // Not for the peer's end: there it stays, and there is nothing to do about it yet.
            (true, false) => EventFlags::OUT,
            (true, true) => EventFlags::OUT | EventFlags::RDHUP,
            (false, true) if self.held_up => EventFlags::RDHUP,
            // Until the log has come further there is nothing to do here, either.
            (false, false) if !self.is_running() => EventFlags::empty(),
            (false, _) => WATCHED,
        }
    }

    fn is_running(&self) -> bool {
        let session = &self.session;
        self.unsent.is_none()
            && session.blocked.is_none()
            && !session.ends
            && !self.broken
            && !self.pauses
    }

    /// After a change of what it waits for.
    fn weigh(&mut self) {
        let held = self.held.as_ref().map_or(0, |held| held.len());
        self.pauses = held >= FLUSH_AT || self.is_crowded_out;
    }

    /// Acts on the input that had to wait, if it need not any longer.
    fn resume(&mut self, shared: &mut Shared) {
        if self.is_running()
            && let Some(half) = self.half.take()
        {
            shared.reply.begin(self.client.protocol());
            self.advance(half, shared);
            self.flush(shared);
        }
    }

    /// Reads once and acts on it. The replies, if there are any, are the current ones in the shared
    /// buffer.
    fn receive(&mut self, shared: &mut Shared) -> Read {
        shared.reply.begin(self.client.protocol());
        let Some(mut half) = self.half.take() else {
            return self.receive_fresh(shared);
        };
        half.bytes.drain(..half.start);
        half.start = 0;
        // Room for the next read and, for a long argument, for as much again as has arrived: the
        // announced length bounds the guess but never makes it.
        let room = half
            .parser
            .wants(half.bytes.len())
            .min(half.bytes.len())
            .max(READ_SIZE);
        half.bytes.reserve(room);
        match self.read(&mut half.bytes, shared) {
            Read::Bytes => self.advance(half, shared),
            outcome => {
                self.half = Some(half);
                return outcome;
            }
        }
        Read::Bytes
    }

    /// Reads into the shared buffer, and keeps what is left over.
    fn receive_fresh(&mut self, shared: &mut Shared) -> Read {
        let mut input = std::mem::take(&mut shared.input);
        input.clear();
        let outcome = self.read(&mut input, shared);
        if outcome == Read::Bytes {
            let mut parser = std::mem::take(&mut shared.parser);
            let used = self.run(&input, &mut parser, shared);
            // A parser that has stopped in the middle of a request is of no use to another
            // connection.
            if used == input.len() {
                shared.parser = parser;
            } else if !self.session.ends && !self.broken {
                let bytes = input[used..].to_vec();
                self.half = Some(Box::new(Half {
                    bytes,
                    start: 0,
                    parser,
                    seen: 0,
                }));
            }
        }
        shared.input = input;
        outcome
    }

    /// Acts on what `half` holds, and keeps what is left over.
    fn advance(&mut self, mut half: Box<Half>, shared: &mut Shared) {
        let used = self.run(&half.bytes[half.start..], &mut half.parser, shared);
        half.start += used;
        if used > 0 {
            half.seen = 0;
        }
        let got = half.bytes.len() - half.start;
        if got >= half.seen + PROGRESS {
            half.seen = got;
            self.progress = true;
        }
        if got > 0 && !self.session.ends && !self.broken {
            self.half = Some(half);
        }
    }

    fn read(&mut self, buffer: &mut Vec<u8>, shared: &Shared) -> Read {
        match rustix::io::read(&self.socket, spare_capacity(buffer)) {
            Ok(0) => Read::End,
            Ok(number) => {
                Counters::add(&shared.counters().received, number as u64);
                Read::Bytes
            }
            Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
            Err(_) => {
                self.broken = true;
                Read::End
            }
        }
    }

    /// Runs the complete requests in `bytes` until none is left or their replies find no room;
    /// returns how many bytes that used up. The last replies are not written yet.
    fn run(&mut self, bytes: &[u8], parser: &mut Parser, shared: &mut Shared) -> usize {
        let mut used = 0;
        while self.is_running() && used < bytes.len() {
            match parser.parse(&bytes[used..]) {
                Ok(Some(request)) => {
                    let len = request.len;
                    if !request.args.is_empty() {
                        let place = Place {
                            server: &shared.server,
                            counters: &shared.server.counters[shared.thread],
                            client: &self.client,
                            session: &mut self.session,
                            reply: &mut shared.reply,
                        };
                        if !commands::run(place, request.args) {
                            shared.crowded_out.push(self.client.slot());
                            self.is_crowded_out = true;
                            self.weigh();
                            break;
                        }
                    }
                    used += len;
                    self.progress = true;
                    if shared.reply.len() >= FLUSH_AT {
                        self.flush(shared);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    shared
                        .reply
                        .error(format!("ERR Protocol error: {}", error.text()).as_bytes());
                    self.session.ends = true;
                }
            }
        }
        parser.shrink();
        self.observed = self.observed.and(shared.reply.take_observed());
        let errors = shared.reply.take_errors();
        if errors > 0 {
            Counters::add(&shared.counters().errors, errors);
        }
        if shared.reply.has_overflowed() {
            Counters::add(&shared.counters().overflowed, 1);
            shared.reply.discard();
            self.broken = true;
        }
        used
    }

    /// How many bytes this connection makes the server hold.
    fn memory(&self) -> usize {
        let half = self.half.as_ref();
        let half = half.map_or(0, |half| half.bytes.capacity() + half.parser.memory());
        let unsent = self.unsent.as_ref();
        let unsent = unsent.map_or(0, |unsent| unsent.bytes.capacity());
        let held = self.held.as_ref().map_or(0, |held| held.memory());
        size_of::<Self>() + size_of::<Client>() + half + unsent + held + self.session.memory()
    }

    /// After an event: is it over, and if not, until when may what is pending take?
    fn settle(&mut self, shared: &Shared) -> Fate {
        let owes = self.unsent.is_some() || self.held.is_some();
        if self.broken || (self.session.ends && !owes) {
            return Fate::Closed;
        }
        let progress = std::mem::take(&mut self.progress);
        let blocked = self.session.blocked.as_ref();
        // Input that waits for a blocked command or for the log is no fault of the peer's.
        let waits = blocked.is_some() || self.held.is_some() || self.is_crowded_out;
        let is_half = self.half.is_some() && !waits;
        if !is_half && self.unsent.is_none() {
            self.stall = None;
        } else if self.stall.is_none() || progress {
            self.stall = Some(shared.now + shared.server.options.stall_timeout);
        }
        let ends = blocked.and_then(|blocked| blocked.deadline);
        self.deadline = [self.stall, ends].into_iter().flatten().min();
        let half = self.half.as_ref();
        let unsent = self.unsent.as_ref();
        self.client.seen(
            shared.now,
            half.map_or(0, |half| half.bytes.len() - half.start),
            unsent.map_or(0, |unsent| unsent.bytes.len() - unsent.sent)
                + self.held.as_ref().map_or(0, |held| held.len()),
            self.session.transaction.as_ref().map(|queue| queue.len()),
            self.session.blocked.is_some(),
            self.memory(),
        );
        Fate::Open
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
