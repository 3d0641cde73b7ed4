//! What can go wrong with the files, and what a writer is told.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use latchwork::flush::BuildError;
use latchwork::wal::{AppendError, WalError};

/// Something went wrong with the data directory.
#[derive(Clone, Debug)]
pub(crate) struct StorageError(Arc<Why>);

#[derive(Debug)]
enum Why {
    Io {
        doing: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    Corrupt {
        path: PathBuf,
        offset: u64,
        what: String,
    },
    Version {
        path: PathBuf,
        found: u32,
    },
    Log(WalError),
    Append(AppendError),
    Pipeline(BuildError),
    Thread(io::Error),
    /// The log takes no records.
    Refused(Halt),
    /// What is to be flushed is stuck; the text says why.
    Stuck(String),
    Closed,
}

impl StorageError {
    /// For `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| {
            let path = path.to_owned();
            Self(Arc::new(Why::Io { doing, path, error }))
        }
    }

    pub(super) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self(Arc::new(Why::Corrupt {
            path: path.to_owned(),
            offset,
            what: what.into(),
        }))
    }

    pub(super) fn version(path: &Path, found: u32) -> Self {
        let path = path.to_owned();
        Self(Arc::new(Why::Version { path, found }))
    }

    pub(super) fn thread(error: io::Error) -> Self {
        Self(Arc::new(Why::Thread(error)))
    }

    pub(super) fn stuck(why: impl Into<String>) -> Self {
        Self(Arc::new(Why::Stuck(why.into())))
    }

    pub(super) fn refused(halt: Halt) -> Self {
        Self(Arc::new(Why::Refused(halt)))
    }

    pub(super) fn closed() -> Self {
        Self(Arc::new(Why::Closed))
    }

    /// Whether the disk, or the quota, is full.
    #[allow(dead_code, reason = "for the tests")]
    pub(crate) fn is_no_space(&self) -> bool {
        match &*self.0 {
            Why::Io { error, .. } => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            Why::Log(error) => error.is_no_space(),
            Why::Append(error) => matches!(error, AppendError::NoSpace(_)),
            Why::Refused(halt) => *halt == Halt::NoSpace,
            _ => false,
        }
    }

    /// Whether a file holds what was never written there.
    #[allow(dead_code, reason = "for the tests")]
    pub(crate) fn is_corrupt(&self) -> bool {
        match &*self.0 {
            Why::Corrupt { .. } | Why::Version { .. } => true,
            Why::Log(error) => error.is_corrupt(),
            _ => false,
        }
    }

    /// Whether another server has the directory.
    #[allow(dead_code, reason = "for the tests")]
    pub(crate) fn is_locked(&self) -> bool {
        matches!(&*self.0, Why::Log(error) if error.is_locked())
    }
}

impl From<WalError> for StorageError {
    fn from(error: WalError) -> Self {
        Self(Arc::new(Why::Log(error)))
    }
}

impl From<AppendError> for StorageError {
    fn from(error: AppendError) -> Self {
        Self(Arc::new(Why::Append(error)))
    }
}

impl From<BuildError> for StorageError {
    fn from(error: BuildError) -> Self {
        Self(Arc::new(Why::Pipeline(error)))
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Why::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())
            }
            Why::Corrupt { path, offset, what } => write!(
                f,
                "{} is damaged at byte {offset}: {what}; nothing was changed: restore the data \
                 directory from a copy",
                path.display()
            ),
            Why::Version { path, found } => write!(
                f,
                "{} has the format version {found}, which this kvnode does not know: it was \
                 written by a newer one, use that",
                path.display()
            ),
            Why::Log(error) if error.is_locked() => {
                write!(f, "{error}: another server uses the data directory")
            }
            Why::Log(error) if error.is_corrupt() => write!(
                f,
                "{error}; nothing was changed: restore the data directory from a copy"
            ),
            Why::Log(error) => error.fmt(f),
            Why::Append(error) => write!(f, "the log could not be written: {error}"),
            Why::Pipeline(error) => error.fmt(f),
            Why::Thread(error) => write!(f, "cannot start a thread: {error}"),
            Why::Refused(halt) => halt.fmt(f),
            Why::Stuck(why) => f.write_str(why),
            Why::Closed => f.write_str("the storage has been closed"),
        }
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // What the text does not say already.
        match &*self.0 {
            Why::Log(error) => error.source(),
            Why::Append(error) => error.source(),
            Why::Pipeline(error) => error.source(),
            _ => None,
        }
    }
}

/// Why a write is refused. It prints as the error reply, without the leading `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The disk is full; writes are taken again when it is not.
    NoSpace,
    /// The log could not be written for another reason; it is tried again.
    Stuck(String),
    /// The log takes nothing any more.
    Failed(String),
    /// As much waits to be written as may.
    Behind,
    /// The change is longer than the log takes.
    TooLarge,
    /// The server is being stopped.
    Closed,
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Halt::NoSpace => f.write_str(
                "MISCONF No space left on device: writes are refused until there is space; reads \
                 go on",
            ),
            Halt::Stuck(why) => write!(
                f,
                "MISCONF The log cannot be written ({why}): writes are refused until it can; reads \
                 go on"
            ),
            Halt::Failed(why) => write!(
                f,
                "MISCONF The log has failed ({why}): writes are refused until kvnode is restarted; \
                 reads go on"
            ),
            Halt::Behind => f.write_str(
                "MISCONF The disk is too slow: too many changes wait to be written; try again",
            ),
            Halt::TooLarge => {
                f.write_str("ERR the change is longer than a record of the log may be")
            }
            Halt::Closed => f.write_str("ERR the server is being stopped"),
        }
    }
}

impl Error for Halt {}
