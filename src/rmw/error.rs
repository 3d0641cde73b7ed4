//! Why a command was refused.

use std::error::Error;
use std::fmt;

use crate::latch::{LatchError, LatchTimeoutError};
use crate::sync::unmodelled::Arc;

/// Why a command was refused. Whatever the reason, nothing was changed.
///
/// ```
/// use latchwork::rmw::{Rmw, RmwError};
///
/// let rmw = Rmw::new();
/// rmw.set("name", "ada")?;
/// assert_eq!(rmw.incr_by("name", 1), Err(RmwError::NotAnInteger));
/// assert_eq!(rmw.get("name")?, Some("ada".into()));
/// # Ok::<(), RmwError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RmwError {
    /// The value is not the canonical decimal form of an `i64`.
    NotAnInteger,
    /// The result would not fit an `i64`.
    Overflow,
    /// The value or the increment is not a number that [`incr_float`](super::Rmw::incr_float)
    /// accepts.
    NotAFloat,
    /// The sum would be infinite, or no number.
    NotFinite,
    /// The string would be longer than the limit that the builder set.
    TooLong {
        /// Bytes that the string would have; `u64::MAX` when that cannot be said.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// The expiry is zero, or beyond what a signed 64-bit count of milliseconds can say.
    InvalidExpiry,
    /// The key holds a value of another type.
    WrongType,
    /// The key is missing, and the command needs it.
    NoSuchKey,
    /// The list has no element at the index.
    IndexOutOfRange,
    /// The calling thread is inside an [`update`](super::Rmw::update), or holds a latch of the
    /// same table: waiting could be for ever.
    Reentrant,
    /// As many requests as the latch table's `max_waiters` wait for the key.
    Busy,
    /// The handle's [deadline](super::Rmw::with_deadline) has passed before the command could
    /// begin.
    TimedOut,
    /// A [transaction](super::Rmw::update_many) used a key that it had not named.
    Undeclared,
    /// The store failed.
    Store(StoreError),
}

impl fmt::Display for RmwError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RmwError::NotAnInteger => f.write_str("value is not an integer or out of range"),
            RmwError::Overflow => f.write_str("increment or decrement would overflow"),
            RmwError::NotAFloat => f.write_str("value is not a valid float"),
            RmwError::NotFinite => f.write_str("increment would produce NaN or Infinity"),
            RmwError::TooLong { len, max } => {
                write!(f, "string of {len} bytes exceeds the limit of {max} bytes")
            }
            RmwError::InvalidExpiry => f.write_str("invalid expire time"),
            RmwError::WrongType => {
                f.write_str("operation against a key holding the wrong kind of value")
            }
            RmwError::IndexOutOfRange => f.write_str("index out of range"),
            RmwError::Reentrant => f.write_str(
                "this thread is inside an update, or holds a latch of the same table: for several \
                     keys use `update_many`",
            ),
            RmwError::Busy => f.write_str("too many requests wait for the key: try again later"),
            RmwError::TimedOut => f.write_str("the key's latch did not come free in time"),
            RmwError::NoSuchKey => f.write_str("no such key"),
            RmwError::Undeclared => {
                f.write_str("the transaction used a key that it had not named: add it to `keys`")
            }
            RmwError::Store(_) => f.write_str("the store failed"),
        }
    }
}

impl Error for RmwError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RmwError::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<LatchError> for RmwError {
    fn from(error: LatchError) -> Self {
        match error {
            LatchError::Reentrant => RmwError::Reentrant,
            LatchError::Busy => RmwError::Busy,
        }
    }
}

impl From<LatchTimeoutError> for RmwError {
    fn from(error: LatchTimeoutError) -> Self {
        match error {
            LatchTimeoutError::TimedOut => RmwError::TimedOut,
            LatchTimeoutError::Reentrant => RmwError::Reentrant,
            LatchTimeoutError::Busy => RmwError::Busy,
        }
    }
}

impl From<StoreError> for RmwError {
    fn from(error: StoreError) -> Self {
        RmwError::Store(error)
    }
}

/// A [`Store`](super::Store)'s own failure. The embedded store has none.
///
/// ```
/// use latchwork::rmw::StoreError;
///
/// let error = StoreError::new(std::io::Error::other("the disk is full"));
/// assert_eq!(error.to_string(), "the disk is full");
/// ```
#[derive(Clone, Debug)]
pub struct StoreError(Arc<dyn Error + Send + Sync>);

impl StoreError {
    /// Wraps a store's error.
    ///
    /// ```
    /// # use latchwork::rmw::{RmwError, StoreError};
    /// let error = RmwError::from(StoreError::new(std::io::Error::other("gone")));
    /// assert!(matches!(error, RmwError::Store(_)));
    /// ```
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }
}

/// Two clones of one failure are equal; two failures never are.
impl PartialEq for StoreError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for StoreError {}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
