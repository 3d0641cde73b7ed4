//! The errors, one for each kind of call. As wide as a word, like [those](crate::semaphore::error)
//! of the semaphore of one process.

use std::fmt;

use super::attempt::Refusal;

const CLOSED: &str = "the semaphore has been closed";
const TOO_MANY: &str = "there can never be that many permits";
const DETACHED: &str = "this process has no place at the semaphore: it is a fork's child, or the file was written over; open it again";

/// Why an acquire that may wait has no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum AcquireError {
    /// The semaphore has been closed, by whichever process.
    Closed,
    /// More permits than the file has room for.
    TooMany,
    /// This process has no place at the semaphore any more: it is the child of a fork, or the file
    /// was written over. Opening it again makes a new place.
    Detached,
}

/// Why an acquire that does not wait has no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum TryAcquireError {
    /// No permit is free, or taking it would be unfair to those who wait.
    WouldBlock,
    /// As [`AcquireError::Closed`].
    Closed,
    /// As [`AcquireError::TooMany`].
    TooMany,
    /// As [`AcquireError::Detached`].
    Detached,
}

/// Why an acquire with a deadline has no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[non_exhaustive]
pub enum AcquireTimeoutError {
    /// No permit came free in time. Nothing was taken, and nothing will be.
    TimedOut,
    /// As [`AcquireError::Closed`].
    Closed,
    /// As [`AcquireError::TooMany`].
    TooMany,
    /// As [`AcquireError::Detached`].
    Detached,
}

impl From<Refusal> for AcquireError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            // Without a deadline, nothing times out.
            Refusal::Closed | Refusal::NotNow => Self::Closed,
            Refusal::Detached => Self::Detached,
        }
    }
}

impl From<Refusal> for TryAcquireError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotNow => Self::WouldBlock,
            Refusal::Closed => Self::Closed,
            Refusal::Detached => Self::Detached,
        }
    }
}

impl From<Refusal> for AcquireTimeoutError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotNow => Self::TimedOut,
            Refusal::Closed => Self::Closed,
            Refusal::Detached => Self::Detached,
        }
    }
}

impl From<AcquireError> for TryAcquireError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Closed => Self::Closed,
            AcquireError::TooMany => Self::TooMany,
            AcquireError::Detached => Self::Detached,
        }
    }
}

impl From<AcquireError> for AcquireTimeoutError {
    fn from(error: AcquireError) -> Self {
        match error {
            AcquireError::Closed => Self::Closed,
            AcquireError::TooMany => Self::TooMany,
            AcquireError::Detached => Self::Detached,
        }
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => CLOSED,
            Self::TooMany => TOO_MANY,
            Self::Detached => DETACHED,
        })
    }
}

impl fmt::Display for TryAcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WouldBlock => "no permit is free",
            Self::Closed => CLOSED,
            Self::TooMany => TOO_MANY,
            Self::Detached => DETACHED,
        })
    }
}

impl fmt::Display for AcquireTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TimedOut => "no permit came free in time",
            Self::Closed => CLOSED,
            Self::TooMany => TOO_MANY,
            Self::Detached => DETACHED,
        })
    }
}

impl std::error::Error for AcquireError {}
impl std::error::Error for TryAcquireError {}
impl std::error::Error for AcquireTimeoutError {}
