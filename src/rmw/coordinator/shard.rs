//! One shard, as the user sees it.

use std::fmt;
use std::time::Duration;

use super::RmwCoordinator;
use super::command::{Command, Reply};
use super::error::CoordinatorError;
use super::line::Line;
use super::stats::CoordinatorStats;
use crate::rmw::error::RmwError;
use crate::rmw::mem::MemStore;
use crate::rmw::store::Store;
use crate::sync::Arc;
use crate::worker::Ticket;

/// A shard of an [`RmwCoordinator`]: a line of commands, and a thread that executes them.
///
/// ```
/// use latchwork::rmw::{Command, CoordinatorOptions, Reply, Rmw, RmwCoordinator};
///
/// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
/// let shard = coordinator.shard(0).unwrap();
/// assert_eq!(shard.execute(Command::incr("hits", 1))?, Reply::Integer(1));
/// # Ok::<(), latchwork::rmw::CoordinatorError>(())
/// ```
pub struct Shard<'a, S: Store = MemStore> {
    coordinator: &'a RmwCoordinator<S>,
    line: &'a Arc<Line>,
    index: usize,
}

impl<'a, S: Store> Shard<'a, S> {
    pub(super) fn new(
        coordinator: &'a RmwCoordinator<S>,
        line: &'a Arc<Line>,
        index: usize,
    ) -> Self {
        Self {
            coordinator,
            line,
            index,
        }
    }

    /// The name of the shard's thread: `lw-rmw-` and its index.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new().shards(2));
    /// assert_eq!(coordinator.shard(1).unwrap().name(), "lw-rmw-1");
    /// ```
    pub fn name(&self) -> &'a str {
        self.line.name()
    }

    /// The shard's index.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new().shards(2));
    /// assert_eq!(coordinator.shard(1).unwrap().index(), 1);
    /// ```
    pub fn index(&self) -> usize {
        self.index
    }

    /// [`RmwCoordinator::execute`] in this shard.
    ///
    /// # Errors
    /// As that.
    ///
    /// # Blocking
    /// As that.
    pub fn execute(&self, command: Command) -> Result<Reply, CoordinatorError> {
        self.coordinator.execute(self.index, command)
    }

    /// [`RmwCoordinator::execute_timeout`] in this shard.
    ///
    /// # Errors
    /// As that.
    ///
    /// # Blocking
    /// As that.
    pub fn execute_timeout(
        &self,
        command: Command,
        timeout: Duration,
    ) -> Result<Reply, CoordinatorError> {
        self.coordinator
            .execute_timeout(self.index, command, timeout)
    }

    /// [`RmwCoordinator::submit`] in this shard.
    ///
    /// # Errors
    /// As that.
    pub fn submit(
        &self,
        command: Command,
    ) -> Result<Ticket<Result<Reply, RmwError>>, CoordinatorError> {
        self.coordinator.submit(self.index, command)
    }

    /// Executes what others submit on the calling thread until the coordinator is shut down, in
    /// place of a thread of the shard's own: for a thread with a priority or an affinity, and for
    /// models, where no thread is started. `false`, at once: the shard has a thread.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, CoordinatorOptions, Reply, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new().shards(1));
    /// let shard = coordinator.shard(0).unwrap();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| shard.serve());
    ///     let ticket = shard.submit(Command::incr("hits", 1)).unwrap();
    ///     assert_eq!(ticket.wait().unwrap(), Ok(Reply::Integer(1)));
    ///     coordinator.shutdown();
    /// });
    /// ```
    ///
    /// # Blocking
    /// Until [`RmwCoordinator::shutdown`].
    pub fn serve(&self) -> bool {
        self.line.serve()
    }

    /// The shard's counters and gauges, read without a lock.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// assert_eq!(coordinator.shard(0).unwrap().stats().waiting, 0);
    /// ```
    pub fn stats(&self) -> CoordinatorStats {
        self.line.counters.read()
    }
}

impl<S: Store> Clone for Shard<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Store> Copy for Shard<'_, S> {}

impl<S: Store> fmt::Debug for Shard<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard")
            .field("name", &self.name())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
