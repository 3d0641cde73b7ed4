//! What the log's lock guards.

use std::time::Duration;

use crate::os::fs::File;
use crate::sync::lock::MutexGuard;
use crate::sync::mutant;
use crate::sync::thread::JoinHandle;
use crate::sync::time::{Instant, now};

use super::super::batch::{Batch, Callback};
use super::super::writer::Writer;
use super::super::{AppendError, WalError};

pub(super) struct State {
    pub(super) role: Role,
    pub(super) pending: Batch,
    /// The other batch, while it is not being written.
    pub(super) spare: Option<Batch>,
    pub(super) writing: Option<Writing>,
    /// The LSN of the next record.
    pub(super) next: u64,
    pub(super) durable: u64,
    /// The LSN of the first record after the last rotation.
    pub(super) rotated: u64,
    /// The last batch that has ended, well or not.
    pub(super) completed: u64,
    /// The batches that did not end well and that somebody has yet to hear of.
    pub(super) failed: Vec<Failed>,
    /// Why the last batch could not be written; enqueued records of it are pending.
    pub(super) halted: Option<WalError>,
    pub(super) poisoned: Option<WalError>,
    pub(super) closed: bool,
    /// How it was closed.
    pub(super) end: Option<Result<(), WalError>>,
    /// Whether somebody waits for room.
    pub(super) is_crowded: bool,
    /// Since when there are records that were written and not synced.
    pub(super) unsynced_since: Option<Instant>,
    /// Since when pending records wait for more of them.
    pub(super) lingers_since: Option<Instant>,
    pub(super) thread: Option<JoinHandle<()>>,
    /// Whether a thread serves who does not wait.
    pub(super) attended: bool,
    pub(super) asleep: bool,
    /// Kept open: it holds the lock.
    pub(super) lock_file: Option<Box<dyn File>>,
}

pub(super) enum Role {
    Free(Box<Writer>),
    Offered(Box<Writer>),
    Taken,
    Gone,
}

pub(super) struct Writing {
    pub(super) waiters: usize,
    pub(super) last: u64,
}

pub(super) struct Failed {
    pub(super) number: u64,
    pub(super) error: AppendError,
    pub(super) waiters: usize,
}

/// Who is told what became of a record.
pub(in super::super) enum Tell {
    Nobody,
    Thread,
    Callback(Callback),
}

/// How long to wait.
#[derive(Clone, Copy)]
pub(in super::super) enum Patience {
    None,
    Until(Instant),
    Endless,
}

impl Patience {
    pub(in super::super) fn timeout(timeout: Duration) -> Self {
        // A time-out beyond the end of time is none.
        now()
            .checked_add(timeout)
            .map_or(Self::Endless, Self::Until)
    }

    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Until(deadline) => Some(deadline),
            _ => None,
        }
    }

    pub(super) fn is_over(self) -> bool {
        match self {
            Self::None => true,
            Self::Until(deadline) => now() >= deadline,
            Self::Endless => false,
        }
    }
}

pub(super) type Guard<'a> = MutexGuard<'a, State>;

impl State {
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    pub(super) fn refusal(&self) -> Option<AppendError> {
        if self.closed && !mutant::enabled("wal-appends-when-closed") {
            return Some(AppendError::Closed);
        }
        self.poisoned.clone().map(AppendError::Poisoned)
    }

    /// Whether there is something to write for nobody who waits.
    pub(super) fn wants_service(&self) -> bool {
        let is_due = self.pending.is_wanted() || self.pending.records > 0 && self.halted.is_none();
        is_due && self.poisoned.is_none()
    }

    /// What became of a completed batch, for one who slept.
    pub(super) fn result(&mut self, number: u64) -> Result<(), AppendError> {
        let Some(at) = self
            .failed
            .iter()
            .position(|failed| failed.number == number)
        else {
            return Ok(());
        };
        let failed = &mut self.failed[at];
        failed.waiters -= 1;
        let error = failed.error.clone();
        if failed.waiters == 0 {
            self.failed.swap_remove(at);
        }
        Err(error)
    }

    pub(super) fn fail(&mut self, number: u64, waiters: usize, error: &AppendError) {
        let error = error.clone();
        if waiters > 0 {
            self.failed.push(Failed {
                number,
                error,
                waiters,
            });
        }
    }
}

pub(super) fn clean(error: WalError) -> AppendError {
    if error.is_no_space() {
        AppendError::NoSpace(error)
    } else {
        AppendError::Failed(error)
    }
}

/// Whom to wake.
pub(super) enum Next {
    Waiter(u64),
    Thread,
    /// There is nobody: the caller leads again.
    Oneself,
    Nobody,
}
