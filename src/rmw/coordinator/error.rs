//! Why a command was not executed, or what came of it.

use std::error::Error;
use std::fmt;
use std::io;

use crate::rmw::error::RmwError;

/// Why [`execute`](super::RmwCoordinator::execute) returned no reply.
///
/// ```
/// use latchwork::rmw::{Command, CoordinatorError, CoordinatorOptions};
/// use latchwork::rmw::{Rmw, RmwCoordinator, RmwError};
///
/// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
/// coordinator.execute(0, Command::append("name", "ada"))?;
/// let error = coordinator.execute(0, Command::incr("name", 1)).unwrap_err();
/// assert_eq!(error, CoordinatorError::Command(RmwError::NotAnInteger));
/// # Ok::<(), CoordinatorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// The command was executed and refused; nothing was changed.
    Command(RmwError),
    /// The command had not begun when the time was up. It has not been executed, and will not be.
    TimedOut,
    /// As many commands as the shard allows wait, or as many requests as the latch table allows for
    /// the key. It has not been executed.
    Busy,
    /// The command panicked, with this message. The store answers for what it had changed by then.
    Crashed(String),
    /// The coordinator has been shut down. The command has not been executed, and will not be.
    ShutDown,
    /// There is no such shard.
    NoSuchShard {
        /// The shard that was asked for.
        shard: usize,
        /// How many there are.
        shards: usize,
    },
    /// The system refused the shard's thread.
    NoThread(io::ErrorKind),
}

impl fmt::Display for CoordinatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(_) => f.write_str("the command was refused"),
            Self::TimedOut => f.write_str("the command could not begin in time"),
            Self::Busy => f.write_str("too many commands wait: try again later"),
            Self::Crashed(message) => write!(f, "the command panicked: {message}"),
            Self::ShutDown => f.write_str("the coordinator has been shut down"),
            Self::NoSuchShard { shard, shards } => {
                write!(
                    f,
                    "there is no shard {shard}: there are {shards}, numbered from 0"
                )
            }
            Self::NoThread(kind) => write!(f, "the shard's thread could not be started: {kind}"),
        }
    }
}

impl Error for CoordinatorError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Command(error) => Some(error),
            _ => None,
        }
    }
}

impl From<RmwError> for CoordinatorError {
    fn from(error: RmwError) -> Self {
        Self::Command(error)
    }
}
