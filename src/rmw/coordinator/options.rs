//! How a coordinator is made.

use std::time::Duration;

use crate::sync::thread;

/// Describes an [`RmwCoordinator`](super::RmwCoordinator).
///
/// ```
/// use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
/// use std::time::Duration;
///
/// let options = CoordinatorOptions::new()
///     .shards(4)
///     .queue_capacity(256)
///     .timeout(Duration::from_millis(500));
/// let coordinator = RmwCoordinator::start(&Rmw::new(), options);
/// assert_eq!(coordinator.shards(), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CoordinatorOptions {
    pub(super) shards: usize,
    pub(super) queue_capacity: usize,
    pub(super) timeout: Duration,
}

impl CoordinatorOptions {
    /// The defaults.
    ///
    /// ```
    /// # use latchwork::rmw::CoordinatorOptions;
    /// assert_eq!(CoordinatorOptions::new(), CoordinatorOptions::default());
    /// ```
    pub fn new() -> Self {
        Self {
            shards: thread::parallelism(),
            queue_capacity: 1024,
            timeout: Duration::from_secs(5),
        }
    }

    /// How many shards, each with a thread of its own; from 1 to 1,024. Default: one for each
    /// processor.
    ///
    /// ```
    /// # use latchwork::rmw::CoordinatorOptions;
    /// let options = CoordinatorOptions::new().shards(8);
    /// ```
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards.clamp(1, 1024);
        self
    }

    /// How many commands may wait in each shard before others are refused; one at least. Default:
    /// 1,024.
    ///
    /// ```
    /// # use latchwork::rmw::CoordinatorOptions;
    /// let options = CoordinatorOptions::new().queue_capacity(64);
    /// ```
    pub fn queue_capacity(mut self, commands: usize) -> Self {
        self.queue_capacity = commands.max(1);
        self
    }

    /// How long [`execute`](super::RmwCoordinator::execute) waits for a command to begin. Default:
    /// 5 s.
    ///
    /// ```
    /// # use latchwork::rmw::CoordinatorOptions;
    /// let options = CoordinatorOptions::new().timeout(std::time::Duration::from_secs(1));
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

impl Default for CoordinatorOptions {
    fn default() -> Self {
        Self::new()
    }
}
