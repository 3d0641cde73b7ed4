//! Why a message was refused.

use std::fmt;
use std::io;

/// Why [`Worker::submit`](super::Worker::submit) refused a message, which it carries. The handler
/// has not seen it.
///
/// ```
/// use latchwork::worker::{SubmitError, Worker};
///
/// let worker = Worker::new("squares", |n: u64| n * n);
/// worker.drain();
/// let error = worker.submit(7).unwrap_err();
/// assert!(matches!(error, SubmitError::Closed(7)));
/// ```
#[non_exhaustive]
pub enum SubmitError<M> {
    /// As many messages as the worker allows stand in line.
    Busy(M),
    /// The worker has been shut down, or is in another process, which this one was forked from.
    Closed(M),
    /// The system refused the thread.
    NoThread(M, io::Error),
}

impl<M> SubmitError<M> {
    /// The message.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("squares", |n: u64| n * n);
    /// worker.drain();
    /// assert_eq!(worker.submit(7).unwrap_err().into_message(), 7);
    /// ```
    pub fn into_message(self) -> M {
        match self {
            Self::Busy(message) | Self::Closed(message) | Self::NoThread(message, _) => message,
        }
    }
}

impl<M> fmt::Display for SubmitError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy(_) => {
                "too many messages stand in line: try again later, or raise the worker's `capacity`"
            }
            Self::Closed(_) => "the worker has been shut down",
            Self::NoThread(..) => "the worker's thread could not be started",
        })
    }
}

/// Without the message, which need not be `Debug`.
impl<M> fmt::Debug for SubmitError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(_) => f.write_str("Busy(..)"),
            Self::Closed(_) => f.write_str("Closed(..)"),
            Self::NoThread(_, error) => f.debug_tuple("NoThread").field(error).finish(),
        }
    }
}

impl<M> std::error::Error for SubmitError<M> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoThread(_, error) => Some(error),
            _ => None,
        }
    }
}
