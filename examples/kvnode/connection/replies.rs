//! The replies' way out: at once, or when there is room, or when the log has what they tell of
//! (see [`held`](crate::held)).

use std::ops::Range;

use latchwork::wal::Lsn;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use super::{Connection, Fate, Shared, Unsent};
use crate::held::{Line, Verdict};
use crate::server::Counters;

impl Connection {
    /// Writes the replies that were put off.
    pub(crate) fn deliver(&mut self, replies: Range<usize>, shared: &mut Shared) -> Fate {
        self.answer(replies, shared);
        self.settle(shared)
    }

    /// Writes the replies that have waited for what is durable by now.
    pub(crate) fn release(&mut self, durable: Lsn, shared: &mut Shared) -> Fate {
        let Some(mut held) = self.held.take() else {
            return self.settle(shared);
        };
        let free = held.free(durable);
        let count = free.len();
        self.write_or_keep(free, shared.counters());
        held.forget(count);
        if !held.is_empty() {
            self.held = Some(held);
        } else if let Some(line) = &mut shared.line {
            line.put_back(held);
        }
        self.weigh();
        self.resume(shared);
        self.settle(shared)
    }

    /// Nobody knows whether the log will have what the replies tell of: they must not leave, and
    /// none can come after them. An error says so, in their place.
    pub(crate) fn lose(&mut self, shared: &mut Shared) -> Fate {
        if self.held.take().is_some() {
            self.leave_in_doubt(shared.counters());
        }
        self.settle(shared)
    }

    fn leave_in_doubt(&mut self, counters: &Counters) {
        self.held = None;
        self.half = None;
        self.client.cancel_wait();
        self.session.blocked = None;
        self.session.ends = true;
        Counters::add(&counters.errors, 1);
        let text = b"-INDOUBT the log could not be written: what became of the commands that have \
                     no reply is not known\r\n";
        self.write_or_keep(text, counters);
    }

    /// Writes the current replies now.
    pub(super) fn flush(&mut self, shared: &mut Shared) {
        self.observed = self.observed.and(shared.reply.take_observed());
        self.answer(shared.reply.range(), shared);
        shared.reply.discard();
    }

    /// Writes replies, unless they have to wait for the log.
    fn answer(&mut self, replies: Range<usize>, shared: &mut Shared) {
        let counters = &shared.server.counters[shared.thread];
        let replies = shared.reply.get(replies);
        match &mut shared.line {
            Some(line) => self.answer_in_line(replies, line, counters),
            None => self.write_or_keep(replies, counters),
        }
    }

    fn answer_in_line(&mut self, replies: &[u8], line: &mut Line, counters: &Counters) {
        let observed = std::mem::take(&mut self.observed);
        if replies.is_empty() || self.broken {
            return;
        }
        let last = self.held.as_ref().and_then(|held| held.last());
        match (line.judge(observed), last) {
            (Verdict::Send, None) => self.write_or_keep(replies, counters),
            (Verdict::Lose, _) => self.leave_in_doubt(counters),
            (Verdict::Hold(until), _) | (Verdict::Send, Some(until)) => {
                let held = self.held.get_or_insert_with(|| line.buffer());
                held.push(replies, until);
                line.join(until, self.client.slot());
                self.weigh();
            }
        }
    }

    /// Writes replies; what finds no room stays with the connection.
    fn write_or_keep(&mut self, replies: &[u8], counters: &Counters) {
        if replies.is_empty() || self.broken {
            return;
        }
        if let Some(unsent) = &mut self.unsent {
            unsent.bytes.extend_from_slice(replies);
            return;
        }
        let sent = self.write(replies, counters);
        if sent < replies.len() && !self.broken {
            let bytes = replies[sent..].to_vec();
            self.unsent = Some(Box::new(Unsent { bytes, sent: 0 }));
        }
    }

    /// Writes on after a wait; once all is written, acts on the input that had to wait meanwhile.
    pub(super) fn send_rest(&mut self, shared: &mut Shared) {
        let Some(mut unsent) = self.unsent.take() else {
            return;
        };
        let sent = self.write(&unsent.bytes[unsent.sent..], shared.counters());
        self.progress |= sent > 0;
        unsent.sent += sent;
        if unsent.sent < unsent.bytes.len() {
            self.unsent = Some(unsent);
        } else {
            self.resume(shared);
        }
    }

    fn write(&mut self, bytes: &[u8], counters: &Counters) -> usize {
        match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
            Ok(number) => {
                Counters::add(&counters.sent, number as u64);
                number
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.broken = true;
                0
            }
        }
    }
}
