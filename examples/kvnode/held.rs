//! Replies that wait for the log (`--fsync always`).
//!
//! A command is logged when it runs, and made durable later, together with many others. Its reply,
//! and every reply that may tell of what it did, stays until then: with the connection, behind the
//! number of the last record that there was when the replies were ready. So a reader never learns
//! what a crash could still take back.
//!
//! | who | keeps | learns |
//! |---|---|---|
//! | a connection | [`Held`]: the replies in order, and up to which record each part of them waits | by its I/O thread |
//! | an I/O thread | [`Line`]: its connections that wait, the oldest record first | by its inbox, which it told the first record that it waits for |
//!
//! The records that a thread's connections wait for come in the order of their numbers, because the
//! last number only grows: the line is sorted without being sorted. No thread waits for a sync, and
//! one that holds nothing is told nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use latchwork::wal::Lsn;

use crate::inbox::Inbox;
use crate::storage::Storage;

/// Emptied buffers are kept for the next connection that has to wait, up to so many a thread.
const SPARE: usize = 256;
/// And up to this size.
const SPARE_BYTES: usize = 4096;

/// What a connection's replies may tell of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Observed {
    /// No key.
    #[default]
    Nothing,
    /// Keys of which everything was durable while this was the last record.
    Settled(Lsn),
    Anything,
}

impl Observed {
    /// Both.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, other) => other,
            (one, Self::Nothing) => one,
            (one, other) if one == other => one,
            _ => Self::Anything,
        }
    }
}

/// What is to be done with replies that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Send,
    /// Until this record is durable.
    Hold(Lsn),
    /// The record may never be.
    Lose,
}

/// One connection's replies that may not leave yet.
#[derive(Debug, Default)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    /// Up to which record each part waits, and where it ends.
    parts: VecDeque<(Lsn, usize)>,
}

impl Held {
    pub(crate) fn push(&mut self, replies: &[u8], until: Lsn) {
        self.bytes.extend_from_slice(replies);
        let end = self.bytes.len();
        match self.parts.back_mut() {
            Some((last, old_end)) if *last == until => *old_end = end,
            _ => self.parts.push_back((until, end)),
        }
    }

    /// The record that the last part waits for.
    pub(crate) fn last(&self) -> Option<Lsn> {
        self.parts.back().map(|&(lsn, _)| lsn)
    }

    /// The replies that may leave once `durable` is.
    pub(crate) fn free(&self, durable: Lsn) -> &[u8] {
        let free = self.parts.iter().take_while(|(lsn, _)| *lsn <= durable);
        &self.bytes[..free.last().map_or(0, |&(_, end)| end)]
    }

    /// Forgets the first `count` bytes, which are whole parts.
    pub(crate) fn forget(&mut self, count: usize) {
        while self.parts.pop_front_if(|(_, end)| *end <= count).is_some() {}
        for (_, end) in &mut self.parts {
            *end -= count;
        }
        self.bytes.drain(..count);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How many bytes it makes the server hold.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + self.bytes.capacity()
            + self.parts.capacity() * size_of::<(Lsn, usize)>()
    }
}

/// The connections of one I/O thread that hold replies.
#[derive(Debug)]
pub(crate) struct Line {
    log: Arc<Storage>,
    /// A record and the slot of a connection that waits for it. Once it comes to its turn, another
    /// connection may have the slot, or none; that does no harm.
    waiting: VecDeque<(Lsn, usize)>,
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: Vec<Box<Held>>,
}

impl Line {
    pub(crate) fn new(log: Arc<Storage>) -> Self {
        Self {
            log,
            waiting: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// What to do with replies that tell of this.
    pub(crate) fn judge(&self, observed: Observed) -> Verdict {
        match observed {
            Observed::Nothing => Verdict::Send,
            Observed::Settled(last) if self.log.last() == last => Verdict::Send,
            Observed::Settled(_) | Observed::Anything => match self.log.must_wait() {
                None => Verdict::Send,
                Some(_) if self.has_halted() => Verdict::Lose,
                Some(lsn) => Verdict::Hold(lsn),
            },
        }
    }

    /// Whether the log cannot write now, so that nobody knows what becomes of its last records.
    pub(crate) fn has_halted(&self) -> bool {
        self.log.refusal().is_some()
    }

    /// A connection begins to wait.
    pub(crate) fn join(&mut self, lsn: Lsn, slot: usize) {
        if self.waiting.back() != Some(&(lsn, slot)) {
            self.waiting.push_back((lsn, slot));
        }
    }

    /// Up to which record everything is durable, if somebody here has waited for that; otherwise
    /// the inbox will be told when it has come so far.
    pub(crate) fn due(&self, inbox: &Inbox) -> Option<Lsn> {
        let &(first, _) = self.waiting.front()?;
        let is_due = |durable: &Lsn| *durable >= first;
        Some(self.log.durable()).filter(is_due).or_else(|| {
            inbox.await_durable(first);
            // It may have come so far before the inbox knew.
            Some(self.log.durable()).filter(is_due)
        })
    }

    /// The next connection that waits for `durable` or less.
    pub(crate) fn next(&mut self, durable: Lsn) -> Option<usize> {
        let next = self.waiting.pop_front_if(|(lsn, _)| *lsn <= durable);
        next.map(|(_, slot)| slot)
    }

    /// Everybody who waits, whatever for.
    pub(crate) fn leave(&mut self) -> VecDeque<(Lsn, usize)> {
        std::mem::take(&mut self.waiting)
    }

    /// An empty buffer.
    pub(crate) fn buffer(&mut self) -> Box<Held> {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps an emptied buffer, if that is worth it.
    pub(crate) fn put_back(&mut self, held: Box<Held>) {
        if self.spare.len() < SPARE && held.memory() <= SPARE_BYTES {
            self.spare.push(held);
        }
    }
}
