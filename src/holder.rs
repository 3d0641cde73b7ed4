//! Who holds what: every claim on its thread's list, and back again when the thread ends.
//!
//! A guard that is dropped releases its claim. A guard that is leaked ([`std::mem::forget`], an
//! `Rc` cycle, [`Box::leak`]) does not, and in most libraries its permit or lock is then gone until
//! the process restarts. Here each claim that is bound to a thread also stands on that thread's
//! claim list, and what the list still holds when the thread ends is given back, exactly once,
//! counted and reported.
//!
//! | part | is |
//! |---|---|
//! | `claim` | the list: blocks of 64 slots, no allocation a claim |
//! | `anchor` | the reference-counted core, which a leaked guard may keep when all its handles are gone |
//! | `bound` | a claim on such a core, as the guards own it |
//!
//! Reclaim runs after all Rust thread-locals of the thread have been destroyed, so a guard that
//! sits in a thread-local is dropped by its owner first. It gives back counts and latches, never
//! memory that a guard has lent, and runs no code of the user's.
//!
//! The promise holds at an explicit [`std::thread::JoinHandle::join`]. The implicit join of
//! [`std::thread::scope`] may return before thread-local destructors, and so before reclaim, have
//! run.
//!
//! A thread's first claim registers it, which panics if the process has used up its pthread keys
//! (1,024 with glibc; the library takes one).

pub(crate) mod anchor;
pub(crate) mod bound;
pub(crate) mod claim;

use std::panic::Location;

use crate::sync::unmodelled::Arc;

/// A claim that came back from a leaked guard: what an `on_leak` handler is told.
///
/// ```
/// use latchwork::Semaphore;
/// use std::sync::mpsc;
///
/// let (send, reports) = mpsc::channel();
/// let permits = Semaphore::builder("uploads")
///     .permits(2)
///     .on_leak(move |report| send.send(report.to_string()).unwrap())
///     .build()
///     .unwrap();
/// let leaky = permits.clone();
/// std::thread::spawn(move || std::mem::forget(leaky.acquire().unwrap()))
///     .join()
///     .unwrap();
/// assert_eq!(permits.available(), 2);
/// assert!(reports.recv().unwrap().starts_with("uploads: 1 leaked by a guard acquired at "));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LeakReport {
    /// The name of the component that the claim was on.
    pub component: Arc<str>,
    /// How many permits came back; 1 for a latch.
    pub amount: u64,
    /// Where the guard was acquired.
    pub acquired_at: &'static Location<'static>,
    /// The name of the thread that leaked it, where it had one.
    pub thread: Option<String>,
}

impl std::fmt::Display for LeakReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}: {} leaked by a guard acquired at {}",
            self.component, self.amount, self.acquired_at
        )?;
        match &self.thread {
            Some(thread) => write!(f, " in thread {thread}"),
            None => Ok(()),
        }
    }
}

/// A handler of leak reports, run by the library's thread.
pub(crate) type OnLeak = Arc<dyn Fn(LeakReport) + Send + Sync>;

/// Runs `job`, then gives back what it leaked, as the end of its thread would.
///
/// For the threads of a pool, which do not end: wrap each job. What the job acquired on this thread
/// and still holds when it returns or panics (it can only be leaked, or sit in a thread-local) is
/// released and reported. A guard that is dropped after that changes nothing.
///
/// `job` and its result are `Send`, so no guard, which is not, gets in or out.
///
/// ```
/// use latchwork::{Semaphore, holder};
///
/// let permits = Semaphore::new(1).unwrap();
/// holder::scope(|| std::mem::forget(permits.acquire().unwrap()));
/// assert_eq!(permits.available(), 1);
/// assert_eq!(permits.stats().leaked, 1);
/// ```
///
/// # Panics
///
/// With whatever `job` panics with, after the reclaim.
pub fn scope<R: Send>(job: impl FnOnce() -> R + Send) -> R {
    struct Reclaim(claim::Mark);

    impl Drop for Reclaim {
        fn drop(&mut self) {
            self.0.reclaim();
        }
    }

    let _reclaim = Reclaim(claim::Mark::now());
    job()
}
