//! What can go wrong.

use std::fmt;

use crate::waiter::Panic;

use super::finalizer::Finalize;
use super::slot::Rotated;
use super::ticket::FlushTicket;

const WOULD_DEADLOCK: &str = "this thread would wait for itself: it is one of the pipeline's own, or \
     it has rotated a flush that it has not submitted; submit it first, or call `hand_over`";

fn halted(f: &mut fmt::Formatter<'_>, sequence: u64) -> fmt::Result {
    write!(
        f,
        "the pipeline has halted at flush {sequence}: remove the cause and call `resume`"
    )
}

/// Why there is no reservation. Nothing was taken.
///
/// ```
/// use latchwork::flush::{FlushPipeline, ReserveError, each};
///
/// let finalizer = each::<u64, _, _, _, _>(|_, page: &mut u64| Ok::<_, String>(*page));
/// let flush = FlushPipeline::builder("pages").finalizer(finalizer).build()?;
/// flush.close();
/// assert_eq!(flush.reserve(0).unwrap_err(), ReserveError::Closed);
/// # Ok::<(), latchwork::flush::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReserveError {
    /// The pipeline has been closed.
    Closed,
    /// The pipeline has halted at this flush, see [`OnFailure`](super::OnFailure).
    Halted(u64),
    /// There is no room now, and `try_reserve` does not wait.
    WouldBlock,
    /// No room came free in time.
    TimedOut,
    /// The call would wait for its own thread: this is one of the pipeline's threads, or it has
    /// rotated flushes that it has not submitted.
    WouldDeadlock,
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the pipeline has been closed"),
            Self::Halted(sequence) => halted(f, *sequence),
            Self::WouldBlock => {
                f.write_str("there is no room for another flush now: try again later")
            }
            Self::TimedOut => f.write_str("no room for another flush came free in time"),
            Self::WouldDeadlock => f.write_str(WOULD_DEADLOCK),
        }
    }
}

impl std::error::Error for ReserveError {}

/// Why the pipeline has not been drained.
///
/// ```
/// use latchwork::flush::DrainError;
///
/// assert!(DrainError::Halted(3).to_string().contains("flush 3"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainError {
    /// The pipeline has halted at this flush. Later ones are not finalized until
    /// [`resume`](super::FlushPipeline::resume).
    Halted(u64),
    /// Flushes were left when the time was up. They go on.
    TimedOut,
    /// The pipeline was shut down with flushes left.
    ShutDown,
    /// The call would wait for its own thread: this is one of the pipeline's threads, or it has
    /// rotated flushes that it has not submitted.
    WouldDeadlock,
}

impl fmt::Display for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halted(sequence) => halted(f, *sequence),
            Self::TimedOut => f.write_str("not every flush was finalized in time; they go on"),
            Self::ShutDown => f.write_str("the pipeline has been shut down with flushes left"),
            Self::WouldDeadlock => f.write_str(WOULD_DEADLOCK),
        }
    }
}

impl std::error::Error for DrainError {}

/// Why a flush could not be submitted: the pipeline has been shut down. The flush comes back.
pub struct SubmitError<F: Finalize>(pub Rotated<F>);

impl<F: Finalize> fmt::Debug for SubmitError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SubmitError").field(&self.0).finish()
    }
}

impl<F: Finalize> fmt::Display for SubmitError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "flush {} came after the pipeline's shutdown",
            self.0.sequence()
        )
    }
}

impl<F: Finalize> std::error::Error for SubmitError<F> {}

/// Why a flush is not finalized, or not yet.
#[non_exhaustive]
pub enum WaitError<F: Finalize> {
    /// The flush has failed, and the pipeline has gone on without it. The error is what
    /// [`finalize_failure`](Finalize::finalize_failure) returned.
    Failed(F::Error),
    /// The flush has failed, and [`finalize_failure`](Finalize::finalize_failure) panicked.
    FailurePanicked(Panic),
    /// The pipeline was shut down before the flush was finalized.
    ShutDown,
    /// The pipeline has halted at this flush or at an older one, whose number this is. Wait for the
    /// ticket again after [`resume`](super::FlushPipeline::resume).
    Halted(u64, FlushTicket<F>),
    /// The flush was not finalized in time. It goes on, and the ticket can be waited for again.
    TimedOut(FlushTicket<F>),
    /// The flush is not finalized yet, and the call does not wait.
    WouldBlock(FlushTicket<F>),
    /// The call would wait for its own thread: this is one of the pipeline's threads, or it has
    /// rotated flushes that it has not submitted.
    WouldDeadlock(FlushTicket<F>),
}

impl<F: Finalize> fmt::Debug for WaitError<F>
where
    F::Error: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
            Self::FailurePanicked(panic) => f.debug_tuple("FailurePanicked").field(panic).finish(),
            Self::ShutDown => f.write_str("ShutDown"),
            Self::Halted(sequence, _) => f.debug_tuple("Halted").field(sequence).finish(),
            Self::TimedOut(_) => f.write_str("TimedOut"),
            Self::WouldBlock(_) => f.write_str("WouldBlock"),
            Self::WouldDeadlock(_) => f.write_str("WouldDeadlock"),
        }
    }
}

impl<F: Finalize> fmt::Display for WaitError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(_) => f.write_str("the flush has failed"),
            Self::FailurePanicked(panic) => {
                write!(
                    f,
                    "the flush has failed, and `finalize_failure` panicked: {panic}"
                )
            }
            Self::ShutDown => f.write_str("the pipeline was shut down before the flush's turn"),
            Self::Halted(sequence, _) => halted(f, *sequence),
            Self::TimedOut(_) => f.write_str("the flush was not finalized in time; it goes on"),
            Self::WouldBlock(_) => f.write_str("the flush is not finalized yet"),
            Self::WouldDeadlock(_) => f.write_str(WOULD_DEADLOCK),
        }
    }
}

impl<F: Finalize> std::error::Error for WaitError<F>
where
    F::Error: std::error::Error + 'static,
{
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// How a flush failed.
///
/// ```
/// use latchwork::flush::Failure;
///
/// assert!(Failure::<String>::Abandoned.to_string().contains("dropped"));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure<E> {
    /// The stream returned an error, and no tries are left.
    Stream(E),
    /// The stream panicked, and no tries are left.
    StreamPanicked(Panic),
    /// The stream took longer than the builder's `stream_timeout`.
    StreamTimedOut,
    /// The guard was dropped between rotate and submit, or the stream was dropped before it ran.
    Abandoned,
    /// The finalizer returned an error for it.
    Finalize(E),
    /// The finalizer panicked before it was done with it.
    FinalizePanicked(Panic),
    /// The finalizer returned without marking it as done or failed.
    Unmarked,
}

impl<E> From<E> for Failure<E> {
    fn from(error: E) -> Self {
        Self::Stream(error)
    }
}

impl<E> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(_) => f.write_str("the stream failed"),
            Self::StreamPanicked(panic) => write!(f, "the stream panicked: {panic}"),
            Self::StreamTimedOut => f.write_str("the stream was not done in time"),
            Self::Abandoned => f.write_str("the flush was dropped before it was complete"),
            Self::Finalize(_) => f.write_str("the finalizer failed"),
            Self::FinalizePanicked(panic) => write!(f, "the finalizer panicked: {panic}"),
            Self::Unmarked => f.write_str("the finalizer returned without a word of the flush"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failure<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Stream(error) | Self::Finalize(error) => Some(error),
            // A panic's message stands in the text.
            _ => None,
        }
    }
}
