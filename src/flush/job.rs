//! What a stream is given.

use std::fmt;
use std::ops::{Deref, DerefMut};

use crate::sync::time::Instant;

/// What was rotated, as its stream gets it. It derefs to that.
///
/// ```
/// use latchwork::flush::{FlushPipeline, each};
///
/// let flush = FlushPipeline::builder("numbers")
///     .finalizer(each(|_, item: &mut u64| Ok::<_, std::io::Error>(*item)))
///     .build()?;
/// let slot = flush.reserve(0)?.rotate(&mut 20, |state, _| *state);
/// let ticket = slot.submit(|job| Ok(**job + job.sequence() + u64::from(job.attempt())))?;
/// assert_eq!(ticket.wait()?, 21);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Job<J> {
    pub(super) content: J,
    pub(super) sequence: u64,
    pub(super) attempt: u32,
    pub(super) deadline: Option<Instant>,
}

impl<J> Job<J> {
    /// The flush's number.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The number of this try, from 1 on.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When the stream must be done. After that it has failed, whatever it returns. `None`: there
    /// is no limit.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl<J> Deref for Job<J> {
    type Target = J;

    fn deref(&self) -> &J {
        &self.content
    }
}

impl<J> DerefMut for Job<J> {
    fn deref_mut(&mut self) -> &mut J {
        &mut self.content
    }
}

impl<J> fmt::Debug for Job<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("sequence", &self.sequence)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}
