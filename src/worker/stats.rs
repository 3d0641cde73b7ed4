//! What a worker counts.

use crate::sync::unmodelled::{AtomicBool, Mutex, Ordering};
use crate::waiter::{Counter, Gauge};

pub(super) struct Counters {
    /// Written under the worker's lock.
    pub(super) queued: Gauge,
    pub(super) handled: Counter,
    pub(super) busy: Counter,
    pub(super) failed_starts: Counter,
    panics: Counter,
    running: AtomicBool,
    last_panic: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            queued: Gauge::new(),
            handled: Counter::new(),
            busy: Counter::new(),
            failed_starts: Counter::new(),
            panics: Counter::new(),
            running: AtomicBool::new(false),
            last_panic: Mutex::new(None),
        }
    }

    pub(super) fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::Relaxed);
    }

    pub(super) fn panicked(&self, message: &str) {
        *self.last_panic.lock() = Some(message.to_owned());
        self.panics.add(1);
    }

    pub(super) fn read(&self) -> WorkerStats {
        WorkerStats {
            queued: self.queued.get(),
            handled: self.handled.get(),
            panics: self.panics.get(),
            busy: self.busy.get(),
            failed_starts: self.failed_starts.get(),
            running: self.running.load(Ordering::Relaxed),
            last_panic: self.last_panic.lock().clone(),
        }
    }
}

/// What [`Worker::stats`](super::Worker::stats) returns.
///
/// ```
/// use latchwork::worker::Worker;
///
/// let worker = Worker::new("squares", |n: u64| n * n);
/// worker.submit(2).unwrap().wait().unwrap();
/// assert_eq!(worker.stats().handled, 1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Messages that stand in line.
    pub queued: u64,
    /// Messages that the handler was given.
    pub handled: u64,
    /// How many of these ended in a panic.
    pub panics: u64,
    /// Messages that were refused because the line was full.
    pub busy: u64,
    /// Failed attempts to start the thread.
    pub failed_starts: u64,
    /// Whether a thread serves the mailbox.
    pub running: bool,
    /// The last panic's message.
    pub last_panic: Option<String>,
}
