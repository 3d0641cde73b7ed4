//! What can be refused, one type for each kind of call.

use std::fmt;

/// Why [`latch`](super::LatchTable::latch) gave no latch. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatchError {
    /// The thread holds a latch of this table already: waiting for another could wait for ever.
    Reentrant,
    /// As many as the table allows wait for the key.
    Busy,
}

/// Why [`try_latch`](super::LatchTable::try_latch) gave no latch. Nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TryLatchError {
    /// The latch is held, or taking it would be unfair to those who wait.
    WouldBlock,
}

/// Why [`latch_timeout`](super::LatchTable::latch_timeout) gave no latch. Nothing was taken, and
/// nothing will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LatchTimeoutError {
    /// The time is up.
    TimedOut,
    /// The thread holds a latch of this table already: waiting for another could wait for ever.
    Reentrant,
    /// As many as the table allows wait for the key.
    Busy,
}

const REENTRANT: &str = "this thread holds a latch of the table already: \
     take all keys at once with `latch_many`, or use `try_latch`";
const BUSY: &str =
    "too many wait for this key: try again later, or raise the table's `max_waiters`";

impl fmt::Display for LatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reentrant => REENTRANT,
            Self::Busy => BUSY,
        })
    }
}

impl fmt::Display for TryLatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the key's latch is held")
    }
}

impl fmt::Display for LatchTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "the key's latch did not come free in time",
            Self::Reentrant => REENTRANT,
            Self::Busy => BUSY,
        })
    }
}

impl std::error::Error for LatchError {}
impl std::error::Error for TryLatchError {}
impl std::error::Error for LatchTimeoutError {}

impl From<LatchError> for LatchTimeoutError {
    fn from(error: LatchError) -> Self {
        match error {
            LatchError::Reentrant => Self::Reentrant,
            LatchError::Busy => Self::Busy,
        }
    }
}
