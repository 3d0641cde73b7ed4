//! How a latch table is made.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use crate::holder::{LeakReport, OnLeak};
use crate::sweeper::Sweeper;
use crate::sync::thread;
use crate::sync::unmodelled::Arc;
use crate::waiter::dispatcher;

use super::LatchTable;

/// Makes a [`LatchTable`].
///
/// ```
/// use latchwork::LatchTable;
///
/// let table = LatchTable::<u64>::builder()
///     .name("accounts")
///     .shards(64)
///     .max_waiters(1000)
///     .on_leak(|report| eprintln!("{report}"))
///     .build()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub struct Builder<K: ?Sized> {
    pub(super) shards: usize,
    pub(super) max_waiters: usize,
    pub(super) name: String,
    pub(super) on_leak: Option<OnLeak>,
    pub(super) sweeper: Option<Sweeper>,
    pub(super) sweep_every: Duration,
    keys: PhantomData<fn(&K)>,
}

impl<K: ?Sized> Builder<K> {
    pub(super) fn new() -> Self {
        Self {
            shards: thread::parallelism() * 4,
            max_waiters: 1 << 16,
            name: "latches".to_owned(),
            on_leak: None,
            sweeper: None,
            sweep_every: Duration::from_secs(5),
            keys: PhantomData,
        }
    }

    /// How many locks the table is spread over, rounded up to a power of two. Default: four for
    /// each processor.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards.clamp(1, 1 << 16);
        self
    }

    /// How many may wait for one key before others are refused. Default: 65,536.
    pub fn max_waiters(mut self, max_waiters: usize) -> Self {
        self.max_waiters = max_waiters;
        self
    }

    /// What the table is called in reports. Default: `latches`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Tells `handler` of each leaked guard whose latch came back. It runs on the library's thread
    /// `lw-dispatch`, and a panic in it is caught.
    pub fn on_leak(mut self, handler: impl Fn(LeakReport) + Send + Sync + 'static) -> Self {
        self.on_leak = Some(Arc::new(handler));
        self
    }

    /// Whose thread runs the periodic sweep on behalf of registered waiters; blocked threads look
    /// for themselves. Default: a sweeper of its own, whose thread starts with the first of them.
    pub fn sweeper(mut self, sweeper: Sweeper) -> Self {
        self.sweeper = Some(sweeper);
        self
    }

    /// How long a request waits before it is checked whether the holder's thread has ended, as
    /// [`sweep`](LatchTable::sweep) does; at least a millisecond. Default: 5 s.
    pub fn sweep_every(mut self, period: Duration) -> Self {
        self.sweep_every = period.max(Duration::from_millis(1));
        self
    }

    /// Makes the table.
    ///
    /// # Errors
    ///
    /// If an `on_leak` handler was given and the system refuses the thread that would run it.
    pub fn build(self) -> io::Result<LatchTable<K>> {
        if self.on_leak.is_some() {
            dispatcher::start()?;
        }
        Ok(LatchTable::with(self))
    }
}

impl<K: ?Sized> fmt::Debug for Builder<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("shards", &self.shards)
            .field("max_waiters", &self.max_waiters)
            .finish_non_exhaustive()
    }
}
