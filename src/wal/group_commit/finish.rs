//! The end of a batch: who is told what.

use crate::os::serving::serving;
use crate::sync::mutant;
use crate::sync::time::now;
use crate::waiter::contain;

use super::super::batch::{Batch, Callback};
use super::super::builder::Durability;
use super::super::writer::{Failure, Group, Writer};
use super::super::{AppendError, Lsn, WalError};
use super::Core;
use super::state::{Next, Role, State, clean};

/// A leader's batch. Dropped by a panic, it fails the batch.
pub(super) struct Duty<'a> {
    pub(super) core: &'a Core,
    pub(super) work: Option<(Box<Writer>, Batch)>,
    pub(super) last: u64,
}

impl Duty<'_> {
    pub(super) fn commit(&mut self, sync: bool) -> Result<(), Failure> {
        let Some((writer, batch)) = &mut self.work else {
            return Ok(());
        };
        let begun = now();
        let result = writer.commit(&mut Group {
            first: batch.first,
            last: self.last,
            sync,
            rotate: batch.rotate,
            bytes: &mut batch.bytes,
        });
        self.core
            .counters
            .commits
            .record(now().saturating_duration_since(begun));
        result
    }

    pub(super) fn finish(mut self, result: Result<(), Failure>) -> (Result<(), AppendError>, bool) {
        match self.work.take() {
            Some((writer, batch)) => self.core.finish(writer, batch, self.last, result),
            None => (Ok(()), false),
        }
    }
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        let Some((writer, batch)) = self.work.take() else {
            return;
        };
        self.core.counters.panics.add(1);
        if mutant::enabled("wal-leader-panics-away") {
            return;
        }
        let is_torn = writer.is_torn;
        let failure = Failure {
            error: WalError::panicked(&writer.path),
            doubt: is_torn,
            poison: is_torn,
        };
        // Callbacks are contained, and nobody else leads for want of a thread: the panic goes on.
        let _ = self.core.finish(writer, batch, self.last, Err(failure));
    }
}

impl Core {
    /// After a batch has been written, or not: tells all whom it concerns.
    fn finish(
        &self,
        mut writer: Box<Writer>,
        mut batch: Batch,
        last: u64,
        result: Result<(), Failure>,
    ) -> (Result<(), AppendError>, bool) {
        let counters = &self.counters;
        if let Some(made) = writer.made.take() {
            self.segments.lock().push(made);
            counters.segments.add(1);
        }
        let mut callbacks = std::mem::take(&mut batch.callbacks);
        let mut abandoned = Vec::new();
        let mut state = self.state.lock();
        let before = state.durable;
        let mut trouble = None;
        let outcome = match result {
            Ok(()) => {
                state.halted = None;
                state.durable = writer.synced;
                if batch.rotate {
                    state.rotated = last + 1;
                }
                counters.durable_lsn.add(writer.synced - before);
                counters.records.add(batch.records);
                counters.bytes.add(batch.bytes.len() as u64);
                counters.groups.add(1);
                *counters.trouble.lock() = None;
                Ok(())
            }
            Err(failure) => {
                counters.failed_groups.add(1);
                let error = self.fail(&mut state, &batch, &failure, &mut abandoned);
                let poison = state.poisoned.clone();
                trouble = Some(poison.unwrap_or_else(|| failure.error.clone()));
                *counters.trouble.lock() = Some(failure.error);
                Err(error)
            }
        };
        let is_periodic = matches!(self.durability, Durability::Periodic(_));
        let mut next = Next::Nobody;
        if is_periodic && writer.synced < writer.written && state.poisoned.is_none() {
            // After a failure the next try is a period away, too.
            if state.unsynced_since.is_none() || outcome.is_err() {
                state.unsynced_since = Some(now());
                if self.end_sleep(&mut state) {
                    next = Next::Thread;
                }
            }
        } else {
            state.unsynced_since = None;
        }
        let sleepers = state.writing.take().map_or(0, |writing| writing.waiters);
        if let Err(error) = &outcome {
            state.fail(batch.number, sleepers, error);
        }
        state.completed = state.completed.max(batch.number);
        let is_offered = !mutant::enabled("wal-keeps-the-lead");
        let leader = if is_offered {
            self.pass_on(&mut state, writer)
        } else {
            state.role = Role::Free(writer);
            Next::Nobody
        };
        let durable = state.durable;
        let number = batch.number;
        // The callbacks' buffer comes back later, if there is one.
        state.spare = Some(batch);
        if sleepers > 0 {
            self.batch_bell(number).ring();
        }
        drop(state);
        let again = matches!(leader, Next::Oneself);
        self.wake(leader);
        self.wake(next);
        if sleepers > 0 && !mutant::enabled("wal-completes-silently") {
            self.batch_bell(number).wake_all();
        }
        serving(self, || {
            for (lsn, callback) in callbacks.drain(..) {
                self.contain(|| callback(outcome.clone().map(|()| lsn)));
            }
            for (_, callback, error) in abandoned {
                self.contain(|| callback(Err(error)));
            }
            if outcome.is_ok() {
                let told = self.on_written.lock().clone();
                for told in told {
                    self.contain(|| told(Lsn::new(last)));
                }
            }
            if durable > before {
                let told = self.on_durable.lock().clone();
                for told in told {
                    self.contain(|| told(Lsn::new(durable)));
                }
            }
            if let Some(error) = trouble {
                let told = self.on_failure.lock().clone();
                for told in told {
                    self.contain(|| told(&error));
                }
            }
        });
        (outcome, again)
    }

    /// Under the lock: what a failure means for the batch, and for what comes after it.
    fn fail(
        &self,
        state: &mut State,
        batch: &Batch,
        failure: &Failure,
        abandoned: &mut Vec<(Lsn, Callback, AppendError)>,
    ) -> AppendError {
        if !failure.poison || mutant::enabled("wal-goes-on-after-doubt") {
            state.halted = Some(failure.error.clone());
            let left = state.pending.put_before(batch);
            self.counters.pending_bytes.add(left as u64);
            return clean(failure.error.clone());
        }
        let poison = WalError::poisoned(&self.dir, failure.error.clone());
        state.poisoned = Some(poison.clone());
        let error = AppendError::Poisoned(poison);
        // Nothing of the pending batch was written, nor will be.
        let number = state.pending.number;
        let fresh = Batch::new(number + 1);
        let lost = std::mem::replace(&mut state.pending, fresh);
        self.counters.pending_bytes.sub(lost.bytes.len() as u64);
        state.fail(number, lost.waiters, &error);
        state.completed = number;
        let lost = lost.callbacks.into_iter();
        abandoned.extend(lost.map(|(lsn, callback)| (lsn, callback, error.clone())));
        let bell = self.batch_bell(number);
        bell.ring();
        bell.wake_all();
        if failure.doubt {
            AppendError::InDoubt(Some(failure.error.clone()))
        } else {
            error
        }
    }

    pub(super) fn contain(&self, f: impl FnOnce()) {
        let mut is_done = false;
        contain(|| {
            f();
            is_done = true;
        });
        if !is_done {
            self.counters.panics.add(1);
        }
    }

    /// Calls back at once, where there is nothing to wait for.
    pub(in super::super) fn refuse(&self, callback: Callback, error: AppendError) {
        serving(self, || self.contain(|| callback(Err(error))));
    }
}
