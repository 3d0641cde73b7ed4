//! A job, as its owner sees it.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use super::schedule::JobId;
use super::{Core, Sweeper};
use crate::sync::Arc;
use crate::sync::thread;
use crate::sync::time::{self, Instant};

/// A job of a [`Sweeper`]. Dropping it cancels the job.
///
/// ```
/// use std::time::Duration;
/// use latchwork::sweeper::{Next, Sweeper};
///
/// let sweeper = Sweeper::new();
/// let job = sweeper.job("housekeeping", || Next::Idle);
/// assert!(!job.is_armed());
/// job.arm_after(Duration::from_secs(3600));
/// assert!(job.is_armed());
/// drop(job); // cancelled
/// ```
///
/// # Blocking
/// The drop waits for a run that has begun, so that nothing which the job uses is in use
/// afterwards; unless the job itself drops it: then the closure is dropped when it returns. Two
/// jobs that run at the same time and drop each other would wait for ever.
#[must_use = "dropping it cancels the job"]
pub struct Job {
    pub(super) sweeper: Sweeper,
    pub(super) id: JobId,
}

impl Job {
    /// Arms the job to run at `at`, unless it is armed for an earlier time, which stays. `false` if
    /// the sweeper has been shut down. Can be called on any thread, also by the job itself.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let job = Sweeper::new().job("hourly", || Next::Idle);
    /// assert!(job.arm_at(Instant::now() + Duration::from_secs(3600)));
    /// ```
    pub fn arm_at(&self, at: Instant) -> bool {
        Core::arm(self.core(), self.id, at)
    }

    /// Arms the job to run after a time, as [`arm_at`](Self::arm_at). A time beyond what an
    /// `Instant` can express is never.
    ///
    /// ```
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let job = Sweeper::new().job("hourly", || Next::Idle);
    /// assert!(job.arm_after(std::time::Duration::from_secs(3600)));
    /// ```
    pub fn arm_after(&self, after: Duration) -> bool {
        match time::now().checked_add(after) {
            Some(at) => self.arm_at(at),
            None => !self.core().state.lock().stopped,
        }
    }

    /// Takes the deadline back. A run that has begun goes on.
    ///
    /// ```
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let job = Sweeper::new().job("hourly", || Next::Idle);
    /// job.arm_after(std::time::Duration::from_secs(3600));
    /// job.disarm();
    /// assert!(!job.is_armed());
    /// ```
    pub fn disarm(&self) {
        let core = self.core();
        let mut state = core.state.lock();
        state.schedule.disarm(self.id);
        core.gauge(&state);
    }

    /// Whether the job has a deadline.
    ///
    /// ```
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// assert!(!Sweeper::new().job("hourly", || Next::Idle).is_armed());
    /// ```
    pub fn is_armed(&self) -> bool {
        self.core().state.lock().schedule.is_armed(self.id)
    }

    /// Whether a thread attends to the job; in a model, whoever steps it. `false` after a start
    /// that failed, and so the next arming tries again.
    pub(crate) fn is_attended(&self) -> bool {
        !thread::STARTS_ITS_OWN || self.core().state.lock().running
    }

    /// Makes sure that a thread attends to the job once it is armed; in a model, whoever steps it.
    /// `false` if none will: the system refuses one, the sweeper was shut down, or this process is
    /// a fork of the one that had it.
    pub(crate) fn attend(&self) -> bool {
        let core = self.core();
        if core.is_forked() {
            return false;
        }
        let mut state = core.state.lock();
        !state.stopped && Core::start(core, &mut state).is_ok()
    }

    fn core(&self) -> &Arc<Core> {
        &self.sweeper.owner.core
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.core().is_forked() {
            self.core().cancel(self.id);
        }
    }
}

// As the sweeper.
impl UnwindSafe for Job {}
impl RefUnwindSafe for Job {}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
