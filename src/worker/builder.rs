//! How a worker is made.

use std::fmt;
use std::marker::PhantomData;

use super::Worker;

/// Messages that may stand in line by default.
const CAPACITY: usize = 1024;

/// Describes a [`Worker`].
///
/// ```
/// use latchwork::worker::Worker;
///
/// let worker = Worker::builder("mailer").capacity(64).build(|letter: String| letter.len());
/// # drop(worker);
/// ```
#[must_use]
pub struct WorkerBuilder<M, R = ()> {
    name: String,
    capacity: usize,
    kind: PhantomData<fn(M) -> R>,
}

impl<M: Send + 'static, R: Send + 'static> WorkerBuilder<M, R> {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            capacity: CAPACITY,
            kind: PhantomData,
        }
    }

    /// How many messages may stand in line before others are refused; one at least. Default: 1,024.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::builder("nothing").capacity(2).build(|()| ());
    /// # drop(worker);
    /// ```
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages.max(1);
        self
    }

    /// Makes the worker. `handler` handles the messages, one at a time. It must not own the worker,
    /// which would then never go. No thread is started.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::builder("squares").build(|n: u64| n * n);
    /// assert!(!worker.stats().running);
    /// ```
    pub fn build(self, handler: impl Fn(M) -> R + Send + Sync + 'static) -> Worker<M, R> {
        Worker::with(self.name, self.capacity, Box::new(handler))
    }
}

impl<M, R> fmt::Debug for WorkerBuilder<M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("name", &self.name)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
