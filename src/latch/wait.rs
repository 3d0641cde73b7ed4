//! In line for a latch: how requests get there, and how each of them ends.
//!
//! Whatever ends a request takes it out of the line under the shard's lock, so it ends once:
//!
//! | a request | is told | by |
//! |---|---|---|
//! | for the latch | granted | a release that hands over, or itself, when it comes back to an offer |
//! | with an operation | granted, and runs it itself | the same |
//! | with an operation | served: it has been run | whoever holds the latch and [combines](super::combine) |
//! | with a submitted operation | the latch, by a callback | a release that hands over |
//! | the same | nothing: it has been run | whoever holds the latch and combines |
//! | with a deadline | nothing: it leaves by itself | its thread |
//!
//! An operation that somebody has taken out of line runs or is about to: its deadline comes too
//! late then, and its thread waits for the result.

use std::ptr::NonNull;

use crate::sync::mutant;
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::Arc;
use crate::waiter::{Callback, Key, Parker, Signal, Waiter, Wakes};

use super::core::{Contents, Core, Outcome, Shard};
use super::error::{LatchError, LatchTimeoutError};
use super::hold::Hold;
use super::operation::{InLine, Operation};
use super::submit::Submitted;
use super::word::Id;

/// Why a latch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    TimedOut,
    Busy,
}

impl From<Refusal> for LatchTimeoutError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TimedOut => Self::TimedOut,
            Refusal::Busy => Self::Busy,
        }
    }
}

/// Without a deadline, nothing times out.
impl From<Refusal> for LatchError {
    fn from(_: Refusal) -> Self {
        Self::Busy
    }
}

/// Who waits, and for what.
pub(super) enum Who {
    /// For the latch.
    Latch(Waiter<Outcome>),
    /// For its operation to be done under the latch, by itself or by somebody else.
    Operation(Arc<Parker>, Operation),
    /// The same without a thread that waits: the callback brings the latch to who runs it.
    Submitted(Callback<Outcome>, Submitted),
}

pub(super) struct Request {
    pub(super) who: Who,
    /// The number that its hold will have.
    pub(super) number: u64,
    pub(super) since: Instant,
    /// After that, an operation is not begun any more.
    pub(super) deadline: Option<Instant>,
    /// Told to try again, and not back yet.
    pub(super) retries: bool,
}

/// How a wait ended well.
pub(super) enum Ended {
    /// With the latch.
    Granted(Hold),
    /// With the operation done.
    Served,
}

/// What a thread waits with: where the table is, and what to call the key in the statistics.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    /// The core, as claims know it.
    pub(super) at: NonNull<()>,
    pub(super) id: Id,
    pub(super) name: &'a [u8],
}

impl Core {
    /// Waits for a latch, or for `operation` to be done under it, until `deadline`. When it
    /// refuses, neither has happened or will.
    #[cold]
    pub(super) fn wait(
        &self,
        place: Place<'_>,
        operation: Option<Operation>,
        deadline: Option<Instant>,
    ) -> Result<Ended, Refusal> {
        let id = place.id;
        let shard = self.shard(id);
        let since = now();
        let parker = Parker::current();
        let combines = operation.is_some();
        let mut wakes = Wakes::new();
        let joined = {
            let contents = &mut *shard.contents.lock();
            if let Some(hold) = self.take(shard, contents, id, &mut wakes) {
                Err(Ok(Ended::Granted(hold)))
            } else if deadline.is_some_and(|deadline| since >= deadline) {
                self.counters.timeouts.add(1);
                Err(Err(Refusal::TimedOut))
            } else {
                parker.prepare();
                let who = match operation {
                    Some(operation) => Who::Operation(Arc::clone(&parker), operation),
                    None => Who::Latch(Waiter::Thread(Arc::clone(&parker))),
                };
                self.join(shard, contents, id, who, since, deadline)
                    .map_err(|_| Err(Refusal::Busy))
            }
        };
        wakes.deliver_by_dispatcher();
        let (key, hold) = match joined {
            Ok(joined) => joined,
            Err(ended) => return ended,
        };
        let in_line = InLine;
        let outcome = self.wait_in_line(place, key, hold, &parker, deadline, combines);
        in_line.end();
        self.waited(place, since);
        outcome
    }

    /// Waits for the end of a request that stands in line, or stood there until now.
    pub(super) fn wait_in_line(
        &self,
        place: Place<'_>,
        key: Key,
        hold: Hold,
        parker: &Parker,
        deadline: Option<Instant>,
        combines: bool,
    ) -> Result<Ended, Refusal> {
        let Place { at, id, .. } = place;
        let shard = self.shard(id);
        let mut next_look = now().checked_add(self.sweep_every);
        let mut expects = combines;
        let mut may_give_up = true;
        loop {
            let wake_at = deadline.into_iter().chain(next_look).min();
            let signal = parker.park(wake_at.filter(|_| may_give_up), expects);
            if let Some(ended) = ended(signal, hold) {
                return ended;
            }
            let mut wakes = Wakes::new();
            let decided = {
                let contents = &mut *shard.contents.lock();
                if let Some(ended) = ended(parker.news(), hold)
                    && !mutant::enabled("latch-timeout-keeps-grant")
                {
                    // Handed over or served on the way to the lock: a time-out comes too late.
                    Some(ended)
                } else if contents.waiting.get_mut(key).is_none()
                    && !mutant::enabled("latch-timeout-keeps-grant")
                    && !mutant::enabled("combine-timeout-abandons")
                {
                    may_give_up = false;
                    parker.await_service();
                    None
                } else if signal.is_none() && deadline.is_some_and(|time| now() >= time) {
                    self.leave(shard, contents, id, key, &mut wakes);
                    self.counters.timeouts.add(1);
                    Some(Err(Refusal::TimedOut))
                } else {
                    if signal.is_none() {
                        self.take_over(at, shard, contents, id);
                        next_look = now().checked_add(self.sweep_every);
                    }
                    parker.prepare();
                    if let Some(request) = contents.waiting.get_mut(key) {
                        request.retries = false;
                    }
                    self.offer(shard, contents, id, Some(key), &mut wakes);
                    ended(parker.news(), hold)
                }
            };
            expects = combines || signal == Some(Signal::Retry);
            match decided {
                Some(decided) => {
                    wakes.deliver();
                    return decided;
                }
                // Still in line.
                None => wakes.deliver_by_dispatcher(),
            }
        }
    }

    pub(super) fn waited(&self, place: Place<'_>, since: Instant) {
        let waits = &self.counters.waits;
        waits.record(now().saturating_duration_since(since));
        let hottest = &self.shard(place.id).hottest;
        hottest.lock().count(place.id, place.name, 1);
    }

    /// Puts a callback in line. It comes back if there is nothing to wait for, or no room to.
    pub(super) fn take_or_register(
        &self,
        id: Id,
        callback: Callback<Outcome>,
    ) -> Result<Key, (Callback<Outcome>, Outcome)> {
        self.take_or_join(id, Who::Latch(Waiter::Callback(callback)))
    }

    /// The same for an operation, with the callback that brings it the latch.
    pub(super) fn take_or_submit(
        &self,
        id: Id,
        callback: Callback<Outcome>,
        submitted: Submitted,
    ) -> Result<Key, (Callback<Outcome>, Outcome)> {
        self.take_or_join(id, Who::Submitted(callback, submitted))
    }

    fn take_or_join(&self, id: Id, who: Who) -> Result<Key, (Callback<Outcome>, Outcome)> {
        let shard = self.shard(id);
        let mut wakes = Wakes::new();
        let joined = {
            let contents = &mut *shard.contents.lock();
            match self.take(shard, contents, id, &mut wakes) {
                Some(hold) => Err((who, Ok(hold))),
                None => self
                    .join(shard, contents, id, who, now(), None)
                    .map_err(|who| (who, Err(LatchError::Busy))),
            }
        };
        wakes.deliver();
        match joined {
            Ok((key, _)) => {
                shard.hottest.lock().count(id, b"", 1);
                Ok(key)
            }
            Err((
                Who::Latch(Waiter::Callback(callback)) | Who::Submitted(callback, _),
                outcome,
            )) => Err((callback, outcome)),
            Err(_) => unreachable!("a callback was to be put in line"),
        }
    }

    /// Takes a registered request out of line, if it still stands there.
    pub(super) fn cancel(&self, id: Id, key: Key) {
        let shard = self.shard(id);
        let mut wakes = Wakes::new();
        let request = {
            let contents = &mut *shard.contents.lock();
            self.leave(shard, contents, id, key, &mut wakes)
        };
        wakes.deliver();
        // The user's closure is dropped outside the lock.
        drop(request);
    }

    /// The latch is held, or on offer to somebody else: `who` gets in line, unless that is full.
    fn join(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        id: Id,
        who: Who,
        since: Instant,
        deadline: Option<Instant>,
    ) -> Result<(Key, Hold), Who> {
        let number = contents.number();
        let Contents {
            entries, waiting, ..
        } = contents;
        let entry = entries.get_mut(id.spread());
        let Some(entry) = entry.filter(|entry| entry.line.len() < self.max_waiters) else {
            self.counters.busy.add(1);
            return Err(who);
        };
        let request = Request {
            who,
            number,
            since,
            deadline,
            retries: false,
        };
        let key = entry.line.push(waiting, request);
        shard.waiters.add(1);
        Ok((key, Hold { id, number }))
    }

    /// Takes a request out of line without serving it; the next one may be waiting for the same
    /// offer.
    fn leave(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        id: Id,
        key: Key,
        wakes: &mut Wakes<Outcome>,
    ) -> Option<Request> {
        contents.waiting.get_mut(key)?;
        let entry = contents.entries.get_mut(id.spread())?;
        let request = entry.line.remove(&mut contents.waiting, key)?;
        shard.waiters.sub(1);
        if !mutant::enabled("latch-timeout-swallows-offer") {
            self.offer(shard, contents, id, None, wakes);
        }
        Some(request)
    }
}

/// The end of a wait that this signal brings.
fn ended(signal: Option<Signal>, hold: Hold) -> Option<Result<Ended, Refusal>> {
    match signal? {
        Signal::Granted => Some(Ok(Ended::Granted(hold))),
        Signal::Served => Some(Ok(Ended::Served)),
        Signal::Refused => Some(Err(Refusal::TimedOut)),
        Signal::Retry => None,
    }
}
