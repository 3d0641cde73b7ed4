//! Commands as values, executed in the caller's thread or by a worker.
//!
//! A command whose latches are free is run at once, by the caller. Otherwise it gets in line, and
//! the caller sleeps on its ticket:
//!
//! | step | where | ends in |
//! |---|---|---|
//! | 1. in the latches' lines, as a registered waiter, one key after the other in the order that all share | `line` | the next step; a time-out or a shutdown takes it out |
//! | 2. with its latches in hand, in its shard's mailbox | [`Worker`] | the next; a time-out or a shutdown gives the latches back |
//! | 3. run by the shard's thread, which then gives the latches back | | the ticket gets the reply |
//!
//! So a shard's thread never waits for a latch, and a slow key delays nobody but its own callers.
//! They are served first come first served, and newcomers pass them for no longer than they pass
//! any waiter of the latch table.
//!
//! Exactly once or not at all: a command begins, or is given up, by one compare-exchange on its
//! ticket. The deadline bounds the beginning; what has begun is waited for.

mod command;
mod error;
mod held;
mod line;
mod list_op;
mod options;
mod shard;
mod stats;
mod turn;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

pub use command::{Command, Reply};
pub use error::CoordinatorError;
pub use list_op::ListOp;
pub use options::CoordinatorOptions;
pub use shard::Shard;
pub use stats::CoordinatorStats;

use super::Rmw;
use super::blocked::Served;
use super::error::RmwError;
use super::mem::MemStore;
use super::store::Store;
use crate::latch::{Latch, LatchTable, hashes_in_order};
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, mutant};
use crate::worker::{Panic, Ticket, TicketError};
use held::{Held, needed};
use line::Line;

/// What a command returns, once it has been executed.
type Answer = Result<Reply, RmwError>;

/// Executes [`Command`]s on an [`Rmw`]: in the caller's thread where the key is free, else by the
/// thread of one of its shards.
///
/// Use it where commands come as values (from a protocol, a log), must end by a deadline whatever
/// happens to the key, or are to be submitted without waiting. A panic and a timeout come back as
/// errors, and a call that timed out is never executed. Commands of the `Rmw` itself, and updates,
/// go on beside it: all take the same latches.
///
/// The threads (`lw-rmw-0` and so on) start when a command first meets a held latch, and sleep
/// while there is none.
///
/// ```
/// use latchwork::rmw::{Command, CoordinatorOptions, Reply, Rmw, RmwCoordinator};
///
/// let rmw = Rmw::new();
/// let coordinator = RmwCoordinator::start(&rmw, CoordinatorOptions::new().shards(2));
/// let shard = coordinator.shard_of("hits");
/// let command = Command::incr("hits", 1);
/// assert_eq!(coordinator.execute(shard, command)?, Reply::Integer(1));
/// assert_eq!(rmw.get("hits")?, Some(1.into()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping it is a [`shutdown`](Self::shutdown).
pub struct RmwCoordinator<S: Store = MemStore> {
    rmw: Rmw<S>,
    latches: LatchTable<Vec<u8>>,
    lines: Box<[Arc<Line>]>,
    timeout: Duration,
}

impl<S: Store> RmwCoordinator<S> {
    /// A coordinator of the keys of `rmw`. No thread is started.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new().shards(3));
    /// assert_eq!(coordinator.shards(), 3);
    /// ```
    pub fn start(rmw: &Rmw<S>, options: CoordinatorOptions) -> Self {
        let latched = rmw.latched();
        let latches = rmw.core.latches.clone().unwrap_or_default();
        let line = |index| Line::new(index, options.queue_capacity, &latched, &latches);
        Self {
            lines: (0..options.shards).map(line).collect(),
            timeout: options.timeout,
            rmw: latched,
            latches,
        }
    }

    /// How many shards there are.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// assert!(coordinator.shards() > 0);
    /// ```
    pub fn shards(&self) -> usize {
        self.lines.len()
    }

    /// The shard with this index; `None` if there are fewer.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new().shards(1));
    /// assert_eq!(coordinator.shard(0).unwrap().name(), "lw-rmw-0");
    /// assert!(coordinator.shard(1).is_none());
    /// ```
    pub fn shard(&self, index: usize) -> Option<Shard<'_, S>> {
        let line = self.lines.get(index)?;
        Some(Shard::new(self, line, index))
    }

    /// The shard that a key belongs to. Every shard executes commands on any key; this spreads the
    /// keys over them.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new().shards(4));
    /// assert!(coordinator.shard_of("key") < 4);
    /// ```
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> usize {
        let hash = self.rmw.key(key.as_ref()).hash;
        // The top bits: the fraction of all hashes that lie below this one.
        ((u128::from(hash) * self.lines.len() as u128) >> u64::BITS) as usize
    }

    /// Executes a command, or gives up after the time that the options say.
    ///
    /// If the latches of its keys are free, it runs here and now. Otherwise the shard's thread runs
    /// it when they come free, and this one sleeps.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, CoordinatorOptions, Reply, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// let shard = coordinator.shard_of("log");
    /// assert_eq!(coordinator.execute(shard, Command::append("log", "abc"))?, Reply::Length(3));
    /// # Ok::<(), latchwork::rmw::CoordinatorError>(())
    /// ```
    ///
    /// # Errors
    /// [`Command`](CoordinatorError::Command) with the command's own error;
    /// [`TimedOut`](CoordinatorError::TimedOut), [`Busy`](CoordinatorError::Busy),
    /// [`ShutDown`](CoordinatorError::ShutDown), [`NoSuchShard`](CoordinatorError::NoSuchShard) and
    /// [`NoThread`](CoordinatorError::NoThread): it has not been executed, and will not be;
    /// [`Crashed`](CoordinatorError::Crashed): the store panicked.
    ///
    /// # Blocking
    /// While another thread holds a latch of its keys, up to the timeout; past it while the
    /// command runs.
    pub fn execute(&self, shard: usize, command: Command) -> Result<Reply, CoordinatorError> {
        self.execute_timeout(shard, command, self.timeout)
    }

    /// Executes a command, or gives up after `timeout`. A zero timeout tries once.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, CoordinatorOptions, CoordinatorError, Rmw, RmwCoordinator};
    /// # use latchwork::LatchTable;
    /// # use std::time::Duration;
    /// let latches = LatchTable::new();
    /// let rmw = Rmw::builder().latches(latches.clone()).build();
    /// let coordinator = RmwCoordinator::start(&rmw, CoordinatorOptions::new());
    /// let held = latches.latch("key".as_bytes())?.detach();
    /// let late = coordinator.execute_timeout(0, Command::getdel("key"), Duration::from_millis(1));
    /// assert_eq!(late, Err(CoordinatorError::TimedOut));
    /// # drop(held);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    ///
    /// # Blocking
    /// As [`execute`](Self::execute).
    pub fn execute_timeout(
        &self,
        shard: usize,
        command: Command,
        timeout: Duration,
    ) -> Result<Reply, CoordinatorError> {
        // No clock is read unless there is a wait. A time-out beyond the end of time is none.
        self.execute_until(shard, command, || now().checked_add(timeout))
    }

    /// Executes a command, or gives up at `deadline`.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, CoordinatorOptions, Reply, Rmw, RmwCoordinator};
    /// # use std::time::Instant;
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// let reply = coordinator.execute_deadline(0, Command::getdel("key"), Instant::now());
    /// assert_eq!(reply, Ok(Reply::Value(None)));
    /// ```
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    ///
    /// # Blocking
    /// As [`execute`](Self::execute).
    pub fn execute_deadline(
        &self,
        shard: usize,
        command: Command,
        deadline: Instant,
    ) -> Result<Reply, CoordinatorError> {
        self.execute_until(shard, command, || Some(deadline))
    }

    fn execute_until(
        &self,
        shard: usize,
        command: Command,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Reply, CoordinatorError> {
        let line = self.line(shard)?;
        self.latches.check_reentry().map_err(RmwError::from)?;
        let hashes = command.hashes(&self.rmw);
        if let Some(held) = self.try_latches(&command, &hashes) {
            line.counters.fast.add(1);
            let held = Some(held).filter(|_| !mutant::enabled("coordinator-inline-unprotected"));
            let run = || {
                let mut served = Served::default();
                let answer = command.run_latched(&self.rmw, &mut served);
                (answer, served)
            };
            let done = Panic::catch(run);
            drop(held);
            let answer = done.map(|(answer, served)| {
                served.tell();
                answer
            });
            return line.result(answer.map_err(TicketError::from));
        }
        let deadline = deadline();
        if deadline.is_some_and(|deadline| now() >= deadline) {
            line.counters.timed_out.add(1);
            return Err(CoordinatorError::TimedOut);
        }
        let ticket = Line::enqueue(line, command, &self.rmw)?;
        let answer = match deadline {
            None => Some(ticket.wait()),
            Some(deadline) => ticket.wait_or_cancel(deadline),
        };
        match answer {
            Some(answer) => line.result(answer),
            None => {
                line.counters.timed_out.add(1);
                Err(CoordinatorError::TimedOut)
            }
        }
    }

    /// Hands a command to the shard's thread, and returns a ticket for its reply at once.
    ///
    /// Commands on one key that are submitted one after the other are executed in this order,
    /// unless a thread waits for the key itself at that time: then a later one may pass. Where the
    /// order matters, wait for the first. Dropping the ticket lets the command be executed;
    /// [cancelling](Ticket::cancel) it takes the command out of every line.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, CoordinatorOptions, Reply, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// let shard = coordinator.shard_of("hits");
    /// let tickets: Vec<_> = (0..3)
    ///     .map(|_| coordinator.submit(shard, Command::incr("hits", 1)))
    ///     .collect::<Result<_, _>>()?;
    /// for (sum, ticket) in (1..).zip(tickets) {
    ///     assert_eq!(ticket.wait().unwrap(), Ok(Reply::Integer(sum)));
    /// }
    /// # Ok::<(), latchwork::rmw::CoordinatorError>(())
    /// ```
    ///
    /// # Errors
    /// [`Busy`](CoordinatorError::Busy), [`ShutDown`](CoordinatorError::ShutDown),
    /// [`NoSuchShard`](CoordinatorError::NoSuchShard), [`NoThread`](CoordinatorError::NoThread).
    /// The ticket says the rest: it is [`Lost`](TicketError::Lost) if the coordinator shuts down
    /// before the command has begun.
    pub fn submit(
        &self,
        shard: usize,
        command: Command,
    ) -> Result<Ticket<Result<Reply, RmwError>>, CoordinatorError> {
        let line = self.line(shard)?;
        Line::enqueue(line, command, &self.rmw)
    }

    /// Takes over latches that are waited for and whose owner's thread has ended without giving
    /// them back, and says how many they were, as [`LatchTable::sweep`]. It sweeps the whole table,
    /// whichever the shard, and nothing for a shard that does not exist.
    ///
    /// It also runs by itself, every 5 s while a command waits for a latch.
    ///
    /// ```
    /// # use latchwork::rmw::{CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// assert_eq!(coordinator.sweep(0), 0);
    /// ```
    pub fn sweep(&self, shard: usize) -> usize {
        self.lines.get(shard).map_or(0, |_| self.latches.sweep())
    }

    /// Refuses new commands, waits for those that run, ends the threads, and returns the commands
    /// that have not been executed and will not be. Their callers get
    /// [`ShutDown`](CoordinatorError::ShutDown).
    ///
    /// ```
    /// # use latchwork::rmw::{Command, CoordinatorError, CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// assert_eq!(coordinator.shutdown(), []);
    /// let refused = coordinator.execute(0, Command::incr("hits", 1));
    /// assert_eq!(refused, Err(CoordinatorError::ShutDown));
    /// ```
    ///
    /// # Blocking
    /// While a shard's thread runs a command; not for a latch.
    pub fn shutdown(&self) -> Vec<Command> {
        self.lines.iter().flat_map(|line| line.shutdown()).collect()
    }

    /// Counters and gauges of all shards, read without a lock.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, CoordinatorOptions, Rmw, RmwCoordinator};
    /// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
    /// coordinator.execute(0, Command::incr("hits", 1))?;
    /// assert_eq!(coordinator.stats().fast, 1);
    /// # Ok::<(), latchwork::rmw::CoordinatorError>(())
    /// ```
    pub fn stats(&self) -> CoordinatorStats {
        let each = self.lines.iter().map(|line| line.counters.read());
        each.fold(CoordinatorStats::default(), CoordinatorStats::plus)
    }

    /// The shard's line, unless it has been shut down.
    fn line(&self, shard: usize) -> Result<&Arc<Line>, CoordinatorError> {
        let line = self.lines.get(shard).ok_or(CoordinatorError::NoSuchShard {
            shard,
            shards: self.lines.len(),
        })?;
        if line.is_closed() {
            return Err(CoordinatorError::ShutDown);
        }
        Ok(line)
    }

    /// The latches that a command on keys with these hashes needs, if all are free.
    fn try_latches(&self, command: &Command, hashes: &[Option<u64>; 2]) -> Option<Held<Latch<'_>>> {
        let mut held = Held::new();
        for hash in hashes.iter().flatten() {
            held.push(self.latches.try_latch_hashed(*hash).ok()?);
        }
        let blocked = self.rmw.core.blocked.as_deref();
        let Some(blocked) = blocked.filter(|blocked| blocked.count() != 0) else {
            return Some(held);
        };
        let keys = command.keys(&self.rmw);
        let own = keys.iter().map(|key| key.hash).collect();
        let mut taken: Vec<u64> = hashes_in_order(own).collect();
        loop {
            let mut missing = needed(Some(blocked), &keys);
            missing.retain(|hash| !taken.contains(hash));
            if missing.is_empty() {
                return Some(held);
            }
            for hash in missing {
                held.push(self.latches.try_latch_hashed(hash).ok()?);
                taken.push(hash);
            }
        }
    }
}

fn pair<T>(mut values: impl Iterator<Item = T>) -> [Option<T>; 2] {
    [values.next(), values.next()]
}

impl<S: Store> Drop for RmwCoordinator<S> {
    fn drop(&mut self) {
        self.shutdown();
    }
}

// A panicking command is a value here, and the store answers for its own half.
impl<S: Store + RefUnwindSafe> UnwindSafe for RmwCoordinator<S> {}
impl<S: Store + RefUnwindSafe> RefUnwindSafe for RmwCoordinator<S> {}

impl<S: Store> fmt::Debug for RmwCoordinator<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RmwCoordinator")
            .field("shards", &self.shards())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
