//! An I/O thread: an epoll loop over its share of the connections. Commands run inline; nothing
//! here waits for another client.
//!
//! It sleeps without a time-out unless some connection is stalled (half a request, or replies
//! unread), so a server whose clients are idle makes no system calls at all. While requests come one
//! upon the other it watches for the next before it sleeps. Level-triggered: a burst longer than one
//! read is announced again, after everybody else has had a turn.

use std::collections::BTreeSet;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use latchwork::wal::Lsn;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::connection::{Connection, Fate, Shared};
use crate::inbox::{Arrival, Inbox};
use crate::server::Server;

/// How long a stop may take: for replies still unsent, and for clients that keep sending.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How many events are taken at a time.
const EVENTS: usize = 256;
/// How long a thread that has just had something to do watches for more before it sleeps. To wake a
/// sleeping thread costs the client that sends to it several microseconds a time.
const WATCH: Duration = Duration::from_micros(50);
/// The inbox's token in the epoll set; connections have their slot's number.
const INBOX: u64 = u64::MAX;

/// The thread's own state.
#[derive(Debug)]
pub(crate) struct IoThread {
    epoll: OwnedFd,
    inbox: Arc<Inbox>,
    /// A connection keeps its slot for life; free slots are used again.
    slots: Vec<Option<Box<Connection>>>,
    free: Vec<usize>,
    /// The connections with a deadline, the nearest first.
    stalled: BTreeSet<(Instant, usize)>,
    /// The connections whose replies lie in the shared buffer, and where.
    answered: Vec<(usize, Range<usize>)>,
    /// Whether the last wait was a short one, so that the next may be worth watching for.
    is_busy: bool,
    /// When a stop that has begun must be over.
    stop_by: Option<Instant>,
    /// Closed while stopping, but not yet for the kernel.
    leaving: Vec<Connection>,
    shared: Shared,
}

impl IoThread {
    pub(crate) fn new(
        server: Arc<Server>,
        thread: usize,
        inbox: Arc<Inbox>,
    ) -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &*inbox,
            epoll::EventData::new_u64(INBOX),
            epoll::EventFlags::IN,
        )?;
        Ok(Self {
            epoll,
            inbox,
            slots: Vec::new(),
            free: Vec::new(),
            stalled: BTreeSet::new(),
            answered: Vec::new(),
            is_busy: false,
            stop_by: None,
            leaving: Vec::new(),
            shared: Shared::new(server, thread),
        })
    }

    /// Serves until the server stops and every connection has what it is owed.
    pub(crate) fn run(mut self) -> rustix::io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        self.inbox.own();
        let storage = self.shared.server.storage.clone();
        let end_round = || {
            if let Some(storage) = &storage {
                storage.end_round();
            }
        };
        if let Some(storage) = &storage {
            storage.begin_rounds();
        }
        loop {
            self.wait(&mut events)?;
            self.shared.now = Instant::now();
            for event in events.drain(..) {
                match event.data.u64() {
                    INBOX => self.inbox.hush(),
                    slot => {
                        let flags = event.flags;
                        self.turn(slot as usize, |connection, shared| {
                            connection.serve(flags, shared)
                        });
                    }
                }
            }
            // Now, so that the log is written while the replies are.
            end_round();
            self.deliver();
            self.time_out();
            // After the events: a slot freed above must not be given to a newcomer while an event
            // of its former owner may still be in the batch.
            loop {
                while self.inbox.is_full() {
                    self.read_mail();
                }
                if !self.release() && !self.let_in() {
                    break;
                }
                end_round();
            }
            end_round();
            if let Some(limit) = self.stop_by
                && (self.free.len() == self.slots.len() || self.shared.now >= limit)
            {
                self.leave(limit);
                return Ok(());
            }
        }
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> rustix::io::Result<()> {
        let begun = Instant::now();
        while self.is_busy && begun.elapsed() < WATCH {
            self.poll(events, Some(Duration::ZERO))?;
            if !events.is_empty() {
                return Ok(());
            }
            // Whoever is to send the next request may need this processor for it.
            thread::yield_now();
        }
        let wake_at = self
            .stalled
            .first()
            .map(|&(deadline, _)| deadline)
            .into_iter()
            .chain(self.stop_by)
            .min();
        let left = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
        self.poll(events, left)?;
        // With a log to wait for, its thread has more use for the processor.
        self.is_busy = self.shared.line.is_none() && begun.elapsed() < WATCH;
        Ok(())
    }

    fn poll(
        &self,
        events: &mut Vec<epoll::Event>,
        timeout: Option<Duration>,
    ) -> rustix::io::Result<()> {
        let timeout = timeout.map(|time| Timespec {
            // No deadline is further away than a day.
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read_mail(&mut self) {
        let mail = self.inbox.take();
        for arrival in mail.arrivals {
            self.adopt(arrival);
        }
        for (client, post) in mail.posts {
            let slot = client.slot();
            let is_here = |connection: &Connection| Arc::ptr_eq(&connection.client, &client);
            if self
                .slots
                .get(slot)
                .is_some_and(|held| held.as_deref().is_some_and(is_here))
            {
                self.turn(slot, |connection, shared| {
                    connection.receive_post(post, shared)
                });
            }
        }
        if mail.halted {
            self.give_up_waiting();
        }
        if mail.last && self.stop_by.is_none() {
            self.stop_by = Some(self.shared.now + STOP_LIMIT);
            for slot in 0..self.slots.len() {
                self.turn(slot, |_, _| Fate::Open);
            }
        }
    }

    /// Lets the replies go that have waited for what is durable by now; false if there are none.
    fn release(&mut self) -> bool {
        let line = self.shared.line.as_ref();
        let Some(durable) = line.and_then(|line| line.due(&self.inbox)) else {
            return false;
        };
        while let Some(slot) = self.next_in_line(durable) {
            self.turn(slot, |connection, shared| {
                connection.release(durable, shared)
            });
        }
        true
    }

    /// Lets those go on whose requests have waited until the log has room; false if it has none,
    /// or nobody waits.
    fn let_in(&mut self) -> bool {
        let Some(storage) = self.shared.server.storage.as_ref() else {
            return false;
        };
        if self.shared.crowded_out.is_empty() {
            return false;
        }
        let has_news = || !storage.is_crowded() || storage.refusal().is_some();
        if !has_news() {
            self.inbox.await_room();
            // There may have been room before the inbox knew.
            if !has_news() {
                return false;
            }
        }
        for slot in std::mem::take(&mut self.shared.crowded_out) {
            self.turn(slot, Connection::go_on);
        }
        true
    }

    fn next_in_line(&mut self, durable: Lsn) -> Option<usize> {
        self.shared.line.as_mut()?.next(durable)
    }

    /// The log cannot write: whoever waits for it is told so, and let go.
    fn give_up_waiting(&mut self) {
        self.release();
        let Some(line) = self.shared.line.as_mut().filter(|line| line.has_halted()) else {
            return;
        };
        for (_, slot) in line.leave() {
            self.turn(slot, Connection::lose);
        }
    }

    fn adopt(&mut self, arrival: Arrival) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        arrival.client.set_slot(slot);
        let connection = Box::new(Connection::new(
            arrival.socket,
            arrival.client,
            arrival.place,
        ));
        let data = epoll::EventData::new_u64(slot as u64);
        let added = epoll::add(&self.epoll, &*connection, data, connection.watched);
        self.slots[slot] = Some(connection);
        if added.is_err() {
            // Out of kernel memory, or over the user's limit of watches.
            self.close(slot);
        }
    }

    /// Lets a connection act; then brings the epoll set and the deadlines in line with what it
    /// waits for, or closes it.
    fn turn(&mut self, slot: usize, act: impl FnOnce(&mut Connection, &mut Shared) -> Fate) {
        let Some(connection) = self.slots[slot].as_deref_mut() else {
            return;
        };
        let old_deadline = connection.deadline;
        let mut fate = act(connection, &mut self.shared);
        if fate == Fate::Replies {
            self.answered.push((slot, self.shared.replies()));
            return;
        }
        if fate == Fate::Open
            && let Some(limit) = self.stop_by
        {
            fate = connection.finish(&mut self.shared, limit);
        }
        if fate == Fate::Open && connection.wants() != connection.watched {
            connection.watched = connection.wants();
            let data = epoll::EventData::new_u64(slot as u64);
            if epoll::modify(&self.epoll, &*connection, data, connection.watched).is_err() {
                fate = Fate::Closed;
            }
        }
        let new_deadline = if fate == Fate::Open {
            connection.deadline
        } else {
            None
        };
        if old_deadline != new_deadline {
            if let Some(deadline) = old_deadline {
                self.stalled.remove(&(deadline, slot));
            }
            if let Some(deadline) = new_deadline {
                self.stalled.insert((deadline, slot));
            }
        }
        if fate == Fate::Closed {
            self.close(slot);
        }
    }

    /// Writes the replies of this round.
    fn deliver(&mut self) {
        let mut answered = std::mem::take(&mut self.answered);
        for (slot, replies) in answered.drain(..) {
            self.turn(slot, |connection, shared| {
                connection.deliver(replies, shared)
            });
        }
        self.answered = answered;
        self.shared.clear_replies();
    }

    /// Closes what has been stalled for too long.
    fn time_out(&mut self) {
        while let Some(&(deadline, slot)) = self.stalled.first()
            && deadline <= self.shared.now
        {
            self.turn(slot, Connection::time_out);
        }
    }

    fn close(&mut self, slot: usize) {
        let Some(connection) = self.slots[slot].take() else {
            return;
        };
        self.shared.server.clients.remove(connection.client.id);
        connection.client.cancel_wait();
        self.inbox.unload();
        self.free.push(slot);
        if self.stop_by.is_some() {
            connection.end_replies();
            self.leaving.push(*connection);
        }
    }

    /// Lets the sockets go for good. The process is about to end, so the last replies must have
    /// reached the peers' kernels: each close waits for that. The ends were all announced before,
    /// so the waits overlap.
    fn leave(&mut self, limit: Instant) {
        for connection in self.leaving.drain(..) {
            if Instant::now() < limit {
                connection.linger(Duration::from_secs(1));
            }
        }
    }
}
