//! What can go wrong with a log, and what an append is told.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::sync::unmodelled::Arc;

use super::Lsn;

/// Something went wrong with the files of a log: what was being done, to which path, and why it
/// failed.
///
/// ```
/// use latchwork::Wal;
///
/// let replay = |_, _: &[u8]| Ok::<(), std::io::Error>(());
/// let error = Wal::builder("/proc/no-such-place").open(replay).unwrap_err();
/// assert!(error.path().starts_with("/proc"));
/// assert!(!error.is_corrupt() && error.io_error().is_some());
/// ```
#[derive(Clone)]
pub struct WalError(Arc<Inner>);

struct Inner {
    doing: &'static str,
    path: PathBuf,
    why: Why,
}

enum Why {
    Io(io::Error),
    Locked,
    Corrupt { offset: u64, lsn: Lsn, what: String },
    Unsupported(u16),
    Refused(Box<dyn Error + Send + Sync>),
    Poisoned(WalError),
    Panicked,
    Closed,
}

/// Whether the disk, or the quota, is full.
pub(super) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl WalError {
    fn new(doing: &'static str, path: &Path, why: Why) -> Self {
        Self(Arc::new(Inner {
            doing,
            path: path.to_owned(),
            why,
        }))
    }

    /// For `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(doing, path, Why::Io(error))
    }

    pub(super) fn locked(path: &Path) -> Self {
        Self::new("lock", path, Why::Locked)
    }

    pub(super) fn corrupt(path: &Path, offset: u64, lsn: u64, what: impl Into<String>) -> Self {
        let (lsn, what) = (Lsn::new(lsn), what.into());
        Self::new("recover", path, Why::Corrupt { offset, lsn, what })
    }

    pub(super) fn unsupported(path: &Path, version: u16) -> Self {
        Self::new("recover", path, Why::Unsupported(version))
    }

    pub(super) fn refused(path: &Path, error: Box<dyn Error + Send + Sync>) -> Self {
        Self::new("replay", path, Why::Refused(error))
    }

    pub(super) fn poisoned(path: &Path, cause: Self) -> Self {
        Self::new("write to", path, Why::Poisoned(cause))
    }

    pub(super) fn panicked(path: &Path) -> Self {
        Self::new("write to", path, Why::Panicked)
    }

    pub(super) fn closed(path: &Path) -> Self {
        Self::new("use", path, Why::Closed)
    }

    /// The file or directory that it happened to.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The system's error, where that is the cause.
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.0.why {
            Why::Io(error) => Some(error),
            Why::Poisoned(cause) => cause.io_error(),
            _ => None,
        }
    }

    /// The system's kind, where the system's error is the cause, and else the one that comes
    /// closest.
    fn io_kind(&self) -> io::ErrorKind {
        match &self.0.why {
            Why::Corrupt { .. } => io::ErrorKind::InvalidData,
            Why::Unsupported(_) => io::ErrorKind::Unsupported,
            Why::Locked => io::ErrorKind::ResourceBusy,
            _ => self
                .io_error()
                .map_or(io::ErrorKind::Other, io::Error::kind),
        }
    }

    /// Whether another process, or another handle in this one, has the log open.
    pub fn is_locked(&self) -> bool {
        matches!(self.0.why, Why::Locked)
    }

    /// Whether the files are damaged in a way that no crash explains: a record is bad that had been
    /// acknowledged, or is missing. Nothing was changed on disk. Also for a record that is longer
    /// than the builder's [`max_record_bytes`](super::Builder::max_record_bytes).
    pub fn is_corrupt(&self) -> bool {
        matches!(self.0.why, Why::Corrupt { .. })
    }

    /// Whether the disk, or the quota, is full.
    pub fn is_no_space(&self) -> bool {
        matches!(&self.0.why, Why::Io(error) if is_no_space(error))
    }

    /// Whether the log takes no more records because a write or a sync failed. Open it again to go
    /// on from what is on disk.
    pub fn is_poisoned(&self) -> bool {
        matches!(self.0.why, Why::Poisoned(_))
    }

    /// Whether the log has been closed.
    pub fn is_closed(&self) -> bool {
        matches!(self.0.why, Why::Closed)
    }

    /// Whether the function that records are replayed to returned an error, which is the
    /// [source](Error::source).
    pub fn is_refused(&self) -> bool {
        matches!(self.0.why, Why::Refused(_))
    }
}

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { doing, path, why } = &*self.0;
        write!(f, "cannot {doing} {}: ", path.display())?;
        match why {
            Why::Io(error) => error.fmt(f),
            Why::Locked => f.write_str("the log is open elsewhere, and must be closed there first"),
            Why::Corrupt { offset, lsn, what } => {
                write!(f, "at byte {offset}, record {lsn}: {what}")
            }
            Why::Unsupported(version) => write!(
                f,
                "its format has version {version}, which this version of latchwork does not know"
            ),
            Why::Refused(_) => f.write_str("a record was refused"),
            Why::Poisoned(cause) => write!(
                f,
                "the log takes no more records until it is opened again, because it {cause}"
            ),
            Why::Panicked => f.write_str("the file system panicked"),
            Why::Closed => f.write_str("the log is closed"),
        }
    }
}

impl fmt::Debug for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WalError({self})")
    }
}

impl Error for WalError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0.why {
            // Its text stands in the error's own.
            Why::Io(error) => error.source(),
            Why::Poisoned(cause) => cause.source(),
            Why::Refused(error) => Some(&**error),
            _ => None,
        }
    }
}

/// With the system's kind where the system's error is the cause, and else the one that comes
/// closest.
///
/// ```
/// use std::io;
/// use latchwork::Wal;
///
/// fn open() -> io::Result<()> {
///     Wal::builder("/proc/no-such-place").open(|_, _| Ok::<(), io::Error>(()))?;
///     Ok(())
/// }
/// assert_eq!(open().unwrap_err().kind(), io::ErrorKind::NotFound);
/// ```
impl From<WalError> for io::Error {
    fn from(error: WalError) -> Self {
        Self::new(error.io_kind(), error)
    }
}

/// Why an append, or a wait for one, did not end well.
///
/// Every variant but [`InDoubt`](Self::InDoubt) means that the record is not in the log and will
/// not be. (For what was [enqueued](super::Wal::enqueue) before, see there.)
///
/// ```
/// use latchwork::wal::AppendError;
///
/// let error = AppendError::TooLarge { len: 10, limit: 5 };
/// assert!(error.to_string().starts_with("a record of 10 bytes is above the limit of 5"));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AppendError {
    /// The log has been closed, or is in another process, which this one was forked from.
    Closed,
    /// The body is above the log's limit.
    TooLarge {
        /// Its length.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The log's [`max_pending_bytes`](super::Builder::max_pending_bytes) wait to be written, and
    /// the call does not wait.
    Full,
    /// The time was up before the record's group was begun.
    TimedOut,
    /// No record has this place yet.
    Unassigned,
    /// The disk is full. The log goes on with the next append that finds room, or after a
    /// [`resume`](super::Wal::resume).
    NoSpace(WalError),
    /// The record could not be written, and was not; another one may be.
    Failed(WalError),
    /// The log takes no more records because a write or a sync failed. Open it again to go on.
    Poisoned(WalError),
    /// The record may be in the log or not: its group was being written when the time was up, or
    /// when a write or a sync failed. The next recovery will find it or not find it, whole.
    InDoubt(Option<WalError>),
}

impl AppendError {
    /// Whether the record may be in the log.
    ///
    /// ```
    /// # use latchwork::wal::AppendError;
    /// assert!(AppendError::InDoubt(None).is_in_doubt());
    /// assert!(!AppendError::TimedOut.is_in_doubt());
    /// ```
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::InDoubt(_))
    }

    /// As an error of the log's as a whole.
    pub(super) fn into_wal_error(self, path: &Path) -> WalError {
        match self {
            Self::NoSpace(error)
            | Self::Failed(error)
            | Self::Poisoned(error)
            | Self::InDoubt(Some(error)) => error,
            _ => WalError::closed(path),
        }
    }
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the log is closed"),
            Self::TooLarge { len, limit } => {
                write!(
                    f,
                    "a record of {len} bytes is above the limit of {limit}: split it, or raise \
                     `max_record_bytes`"
                )
            }
            Self::Full => f.write_str("too much waits to be written: try again later"),
            Self::TimedOut => f.write_str("the time was up before the record was written"),
            Self::Unassigned => f.write_str("no record has this LSN yet"),
            Self::NoSpace(_) => f.write_str(
                "the disk is full: the next append that finds room, or `resume`, goes on",
            ),
            Self::Failed(_) => f.write_str("the record could not be written"),
            Self::Poisoned(_) => {
                f.write_str("the log takes no more records after an error: open it again")
            }
            Self::InDoubt(_) => f.write_str(
                "it is not known whether the record is in the log: the next recovery tells",
            ),
        }
    }
}

impl Error for AppendError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NoSpace(error)
            | Self::Failed(error)
            | Self::Poisoned(error)
            | Self::InDoubt(Some(error)) => Some(error),
            _ => None,
        }
    }
}

/// With the system's kind where the system's error is the cause, and else the one that comes
/// closest.
///
/// ```
/// use std::io;
/// use latchwork::wal::AppendError;
///
/// let error = io::Error::from(AppendError::TooLarge { len: 10, limit: 5 });
/// assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
/// ```
impl From<AppendError> for io::Error {
    fn from(error: AppendError) -> Self {
        let kind = match &error {
            AppendError::TooLarge { .. } => io::ErrorKind::InvalidInput,
            AppendError::Full => io::ErrorKind::WouldBlock,
            AppendError::TimedOut => io::ErrorKind::TimedOut,
            AppendError::NoSpace(cause)
            | AppendError::Failed(cause)
            | AppendError::Poisoned(cause)
            | AppendError::InDoubt(Some(cause)) => cause.io_kind(),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
