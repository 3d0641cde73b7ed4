//! What can be refused, one type for each kind of call.
//!
//! Each is as wide as a word. A `Result` of a permit and of one byte would be moved as that byte
//! and what lies around it, which a processor reads much later than whole words that it has just
//! written.

use std::fmt;

/// Why [`acquire`](super::Semaphore::acquire) gave no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum AcquireError {
    /// The semaphore was closed.
    Closed,
    /// More permits than the builder's `max_permits`, which no `set_max` can reach.
    TooMany,
    /// For leases only: no thread would take the lease back at its deadline.
    NoSweeper,
}

/// Why [`try_acquire`](super::Semaphore::try_acquire) gave no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// No permit is free, or taking it would be unfair to those who wait.
    WouldBlock,
    /// The semaphore was closed.
    Closed,
    /// More permits than the builder's `max_permits`, which no `set_max` can reach.
    TooMany,
    /// For leases only: no thread would take the lease back at its deadline.
    NoSweeper,
}

/// Why [`acquire_timeout`](super::Semaphore::acquire_timeout) gave no permit. None was taken, and
/// none will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum AcquireTimeoutError {
    /// The time is up.
    TimedOut,
    /// The semaphore was closed.
    Closed,
    /// More permits than the builder's `max_permits`, which no `set_max` can reach.
    TooMany,
    /// For leases only: no thread would take the lease back at its deadline.
    NoSweeper,
}

const CLOSED: &str = "the semaphore is closed";

const TOO_MANY: &str = "more permits were asked for than the semaphore can ever have: \
     ask for fewer, or raise `max_permits` in its builder";

const NO_SWEEPER: &str = "no thread would take the lease back at its deadline: the system refuses to \
     start one, or the sweeper was shut down, or this process is a fork of the one where it runs";

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Closed => f.write_str(CLOSED),
            Self::TooMany => f.write_str(TOO_MANY),
            Self::NoSweeper => f.write_str(NO_SWEEPER),
        }
    }
}

impl fmt::Display for TryAcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WouldBlock => f.write_str("no permit is free"),
            Self::Closed => f.write_str(CLOSED),
            Self::TooMany => f.write_str(TOO_MANY),
            Self::NoSweeper => f.write_str(NO_SWEEPER),
        }
    }
}

impl fmt::Display for AcquireTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TimedOut => f.write_str("no permit came free in time"),
            Self::Closed => f.write_str(CLOSED),
            Self::TooMany => f.write_str(TOO_MANY),
            Self::NoSweeper => f.write_str(NO_SWEEPER),
        }
    }
}

impl std::error::Error for AcquireError {}
impl std::error::Error for TryAcquireError {}
impl std::error::Error for AcquireTimeoutError {}

impl From<AcquireError> for TryAcquireError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Closed => Self::Closed,
            AcquireError::TooMany => Self::TooMany,
            AcquireError::NoSweeper => Self::NoSweeper,
        }
    }
}

impl From<AcquireError> for AcquireTimeoutError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Closed => Self::Closed,
            AcquireError::TooMany => Self::TooMany,
            AcquireError::NoSweeper => Self::NoSweeper,
        }
    }
}
