//! What a sweeper counts, and what it reports of that.

use crate::sync::unmodelled::{AtomicU64, Mutex, Ordering};

#[derive(Default)]
pub(super) struct Counters {
    pub(super) jobs: AtomicU64,
    pub(super) armed: AtomicU64,
    /// 1 while the thread is, else 0.
    pub(super) running: AtomicU64,
    pub(super) runs: AtomicU64,
    pub(super) panics: AtomicU64,
    pub(super) failed_starts: AtomicU64,
    pub(super) last_panic: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn read(&self) -> SweeperStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SweeperStats {
            jobs: read(&self.jobs),
            armed: read(&self.armed),
            runs: read(&self.runs),
            panics: read(&self.panics),
            failed_starts: read(&self.failed_starts),
            running: read(&self.running) != 0,
            last_panic: self.last_panic.lock().clone(),
        }
    }
}

/// What [`Sweeper::shutdown`](super::Sweeper::shutdown) left undone, and what went wrong.
///
/// ```
/// use latchwork::sweeper::Sweeper;
///
/// let leftovers = Sweeper::new().shutdown();
/// assert!(leftovers.unfinished.is_empty() && leftovers.last_panic.is_none());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftovers {
    /// The names of the jobs that were armed, the oldest first.
    pub unfinished: Vec<String>,
    /// How many runs panicked, ever.
    pub panics: u64,
    /// The last of these: the job's name and the message.
    pub last_panic: Option<String>,
}

/// What [`Sweeper::stats`](super::Sweeper::stats) returns.
///
/// ```
/// use latchwork::sweeper::Sweeper;
///
/// assert_eq!(Sweeper::new().stats().panics, 0);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweeperStats {
    /// Jobs there are.
    pub jobs: u64,
    /// Jobs with a deadline.
    pub armed: u64,
    /// Runs.
    pub runs: u64,
    /// Runs that panicked.
    pub panics: u64,
    /// Failed attempts to start the thread.
    pub failed_starts: u64,
    /// Whether the thread has been started, and has not stopped.
    pub running: bool,
    /// The last panic: the job's name and the message.
    pub last_panic: Option<String>,
}
