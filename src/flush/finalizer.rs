//! What is called in order: the user's finalizer, and the batch that it is given.

use std::fmt;
use std::marker::PhantomData;

use super::core::Entry;
use super::error::Failure;

/// What a pipeline does with its flushes, one after the other, in the order in which they were
/// rotated.
///
/// All its methods are called by one thread (`lw-finalize`), so it needs no lock. A panic in one of
/// them fails what it was called for; the finalizer is used again, in the state that the panic
/// left.
///
/// The default [`finalize`](Self::finalize) takes the flushes one at a time; where one write and
/// one sync can cover many, implement it over the whole batch. [`each`] makes a finalizer of a
/// closure.
///
/// ```
/// use latchwork::flush::{Batch, Failed, Finalize};
///
/// /// Appends the names of segments to a manifest, with one sync for all that are ready.
/// struct Manifest(Vec<String>);
///
/// impl Finalize for Manifest {
///     type Job = Vec<u8>;
///     type Item = String;
///     type Output = usize;
///     type Error = std::io::Error;
///
///     fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
///         for (_, name) in batch.iter() {
///             self.0.push(name.clone());
///         }
///         // ... and here they are written and synced, once ...
///         let lines = self.0.len();
///         batch.done_all(|_, _| lines);
///     }
///
///     fn finalize_one(&mut self, _: u64, name: &mut String) -> Result<usize, Self::Error> {
///         self.0.push(name.clone());
///         Ok(self.0.len())
///     }
///
///     fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> Self::Error {
///         std::io::Error::other(failed.failure.to_string())
///     }
/// }
/// ```
pub trait Finalize: Sized + Send + 'static {
    /// What is rotated: the state that a flush is about.
    type Job: Send + 'static;
    /// What a stream makes of it.
    type Item: Send + 'static;
    /// What a ticket returns.
    type Output: Send + 'static;
    /// What fails.
    type Error: Send + 'static;

    /// Finalizes the flushes that are ready, oldest first, and marks each of them as done or
    /// failed.
    ///
    /// What is left unmarked has failed, see [`Batch`].
    fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
        while let Some((sequence, item)) = batch.next_mut() {
            match self.finalize_one(sequence, item) {
                Ok(output) => batch.done(output),
                Err(error) => return batch.fail(error),
            }
        }
    }

    /// Finalizes one flush.
    ///
    /// # Errors
    /// Why it cannot be finalized. The item is kept as it is, for the next try after a
    /// [`resume`](super::FlushPipeline::resume).
    fn finalize_one(
        &mut self,
        sequence: u64,
        item: &mut Self::Item,
    ) -> Result<Self::Output, Self::Error>;

    /// Called once for each failure of a flush, when it is its turn. If the flush is skipped, what
    /// this returns is the ticket's error, [`WaitError::Failed`](super::WaitError::Failed).
    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> Self::Error;
}

/// A flush that has failed, for [`Finalize::finalize_failure`].
#[non_exhaustive]
pub struct Failed<'a, F: Finalize> {
    /// Its number.
    pub sequence: u64,
    /// Why, and of what.
    pub failure: Failure<F::Error>,
    /// What was rotated, if it is still there: after a stream that failed or panicked.
    pub job: Option<&'a mut F::Job>,
    /// What the stream returned, if it was the finalizer that failed.
    pub item: Option<&'a mut F::Item>,
}

impl<F: Finalize> fmt::Debug for Failed<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed")
            .field("sequence", &self.sequence)
            .field("failure", &format_args!("{}", self.failure))
            .finish_non_exhaustive()
    }
}

/// The flushes that are ready, oldest first. They are marked in this order too, so that none is
/// finalized before an older one.
///
/// What is left unmarked when [`Finalize::finalize`] returns has failed. After a
/// [`fail`](Self::fail), only the one that was marked has failed, and the rest comes again in
/// another batch.
pub struct Batch<'a, F: Finalize> {
    entries: &'a mut [Entry<F>],
    outputs: &'a mut Vec<F::Output>,
    error: &'a mut Option<F::Error>,
}

impl<'a, F: Finalize> Batch<'a, F> {
    pub(super) fn new(
        entries: &'a mut [Entry<F>],
        outputs: &'a mut Vec<F::Output>,
        error: &'a mut Option<F::Error>,
    ) -> Self {
        Self {
            entries,
            outputs,
            error,
        }
    }

    fn unmarked(&self) -> &[Entry<F>] {
        match self.error {
            None => &self.entries[self.outputs.len()..],
            Some(_) => &[],
        }
    }

    /// How many are not marked yet.
    pub fn len(&self) -> usize {
        self.unmarked().len()
    }

    /// Whether all are marked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers and items of those that are not marked yet.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &F::Item)> {
        let entries = self.unmarked().iter();
        entries.filter_map(|entry| Some((entry.sequence, entry.item()?)))
    }

    /// The oldest that is not marked yet.
    pub fn next_mut(&mut self) -> Option<(u64, &mut F::Item)> {
        if self.error.is_some() {
            return None;
        }
        let entry = self.entries.get_mut(self.outputs.len())?;
        Some((entry.sequence, entry.item_mut()?))
    }

    /// Marks the oldest as done.
    ///
    /// # Panics
    /// If all are marked.
    pub fn done(&mut self, output: F::Output) {
        assert!(!self.is_empty(), "every flush of the batch is marked");
        self.outputs.push(output);
    }

    /// Marks all that are left as done.
    pub fn done_all(&mut self, mut output: impl FnMut(u64, &mut F::Item) -> F::Output) {
        while let Some((sequence, item)) = self.next_mut() {
            let output = output(sequence, item);
            self.done(output);
        }
    }

    /// Marks the oldest as failed, and leaves the rest for the next batch.
    ///
    /// # Panics
    /// If all are marked.
    pub fn fail(&mut self, error: F::Error) {
        assert!(!self.is_empty(), "every flush of the batch is marked");
        *self.error = Some(error);
    }
}

impl<F: Finalize> fmt::Debug for Batch<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// A finalizer of a closure that takes one flush at a time, see [`each`].
pub struct Each<J, T, R, E, C> {
    call: C,
    types: PhantomData<fn(J, T, E) -> R>,
}

/// Makes a finalizer of a closure that takes one flush at a time. Tickets of failed flushes return
/// the [`Failure`].
///
/// ```
/// use latchwork::flush::{FlushPipeline, each};
///
/// let mut log = Vec::new();
/// let flush = FlushPipeline::builder("squares")
///     .finalizer(each(move |sequence, square: &mut u64| {
///         log.push((sequence, *square));
///         Ok::<_, std::io::Error>(log.len())
///     }))
///     .build()?;
/// let mut state = 7;
/// let slot = flush.reserve(0)?.rotate(&mut state, |state, _| *state);
/// let ticket = slot.submit(|job| Ok(**job * **job))?;
/// assert_eq!(ticket.wait()?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn each<J, T, R, E, C>(call: C) -> Each<J, T, R, E, C>
where
    C: FnMut(u64, &mut T) -> Result<R, E> + Send + 'static,
{
    Each {
        call,
        types: PhantomData,
    }
}

impl<J, T, R, E, C> Finalize for Each<J, T, R, E, C>
where
    J: Send + 'static,
    T: Send + 'static,
    R: Send + 'static,
    E: Send + 'static,
    C: FnMut(u64, &mut T) -> Result<R, E> + Send + 'static,
{
    type Job = J;
    type Item = T;
    type Output = R;
    type Error = Failure<E>;

    fn finalize_one(&mut self, sequence: u64, item: &mut T) -> Result<R, Failure<E>> {
        (self.call)(sequence, item).map_err(Failure::Finalize)
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> Failure<E> {
        match failed.failure {
            Failure::Stream(failure) | Failure::Finalize(failure) => failure,
            Failure::StreamPanicked(panic) => Failure::StreamPanicked(panic),
            Failure::StreamTimedOut => Failure::StreamTimedOut,
            Failure::Abandoned => Failure::Abandoned,
            Failure::FinalizePanicked(panic) => Failure::FinalizePanicked(panic),
            Failure::Unmarked => Failure::Unmarked,
        }
    }
}

impl<J, T, R, E, C> fmt::Debug for Each<J, T, R, E, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Each").finish_non_exhaustive()
    }
}
