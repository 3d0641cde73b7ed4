//! The end of a pipeline, and what did not get finalized by then.

use std::fmt;

use crate::sync::atomic::Ordering;
use crate::sync::mutant;
use crate::sync::time::{Instant, now};
use crate::waiter::contain;

use super::core::{Core, Entry, FailedFlush, Fate, Finalizing, Name, Refused, STOP, STOPPED};
use super::error::{DrainError, Failure};
use super::finalizer::Finalize;
use super::queue::Run;
use super::ring::Closed;
use super::stream::Task;

/// How a pipeline is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shutdown {
    /// End at once. What is not finalized comes back.
    Now,
    /// End when all that was rotated is finalized, at this time at the latest.
    Drain(Instant),
    /// End when all that was rotated is finalized, however long that takes, or when it halts.
    DrainAll,
}

/// The flushes that were not finalized when a pipeline was shut down, in order.
///
/// ```
/// use std::time::Instant;
/// use latchwork::flush::{FlushPipeline, LeftoverState, Shutdown, each};
///
/// let flush = FlushPipeline::builder("numbers")
///     .finalizer(each(|_, item: &mut u64| Ok::<_, std::io::Error>(*item)))
///     .build()?;
/// let slot = flush.reserve(0)?.rotate(&mut 7, |state, _| *state);
/// let left = flush.shutdown(Shutdown::Drain(Instant::now()));
/// assert!(matches!(left.flushes[0].state, LeftoverState::Unsubmitted));
/// # drop(slot);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "what was not finalized is in it"]
#[non_exhaustive]
pub struct Leftovers<F: Finalize> {
    /// The flushes.
    pub flushes: Vec<Leftover<F>>,
}

impl<F: Finalize> Leftovers<F> {
    /// Whether nothing was left.
    pub fn is_empty(&self) -> bool {
        self.flushes.is_empty()
    }

    pub(super) fn none() -> Self {
        Self {
            flushes: Vec::new(),
        }
    }
}

impl<F: Finalize> fmt::Debug for Leftovers<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.flushes).finish()
    }
}

/// A flush that was not finalized, or whose stream, which took too long for that, still runs.
#[non_exhaustive]
pub struct Leftover<F: Finalize> {
    /// Its number.
    pub sequence: u64,
    /// How far it had come.
    pub state: LeftoverState,
    /// What was rotated; `None` while a guard or a stream still has it.
    pub job: Option<F::Job>,
    /// What its stream returned, if it was done.
    pub item: Option<F::Item>,
    /// Where it had failed: what the stream or the finalizer returned, or what
    /// [`finalize_failure`](Finalize::finalize_failure) made of it.
    pub error: Option<F::Error>,
}

impl<F: Finalize> fmt::Debug for Leftover<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leftover")
            .field("sequence", &self.sequence)
            .field("state", &self.state)
            .field("job", &self.job.is_some())
            .field("item", &self.item.is_some())
            .field("error", &self.error.is_some())
            .finish()
    }
}

/// How far a flush had come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftoverState {
    /// A [`Rotated`](super::Rotated) guard still has it, with its job.
    Unsubmitted,
    /// Its stream had not begun, or was to be tried again.
    Queued,
    /// This thread runs its stream, and holds what belongs to it until that returns.
    Running(String),
    /// Its stream was done.
    Streamed,
    /// It had failed.
    Failed,
    /// This thread runs the finalizer for it, and holds it until that returns.
    Finalizing(String),
}

impl<F: Finalize> Core<F> {
    /// Has no more reservations be made.
    pub(super) fn close(&self) {
        let control = self.control.lock();
        self.is_closed.store(1, Ordering::SeqCst);
        let tell = self.turn_away();
        drop(control);
        tell();
    }

    /// Ends the pipeline, waiting for its threads until `deadline` where they run the user's code.
    pub(super) fn stop(&self, deadline: Option<Instant>) -> Leftovers<F> {
        let is_own = self.is_served_here();
        let was_stopped = {
            let mut control = self.control.lock();
            // With it: who finds nothing to take up because of this sees the order.
            self.orders.fetch_or(STOP, Ordering::AcqRel);
            std::mem::replace(&mut control.is_stopped, true)
        };
        if was_stopped {
            if !is_own {
                self.await_end(deadline);
            }
            return Leftovers::none();
        }
        // What is dropped here may call the pipeline, and must not wait for this.
        let left = self.serving(|| self.end(is_own, deadline));
        let mut control = self.control.lock();
        control.is_over = true;
        self.gone.announce(control);
        left
    }

    /// Another shutdown is on its way: waits for its end, but not past `deadline`.
    fn await_end(&self, deadline: Option<Instant>) {
        loop {
            let number = self.gone.number();
            let is_late = deadline.is_some_and(|deadline| now() >= deadline);
            if is_late || self.control.lock().is_over {
                return;
            }
            self.gone.sleep(number, deadline);
        }
    }

    fn end(&self, is_own: bool, deadline: Option<Instant>) -> Leftovers<F> {
        let end = self.next.fetch_or(STOPPED, Ordering::AcqRel);
        let queued = self.queue.close();
        let delayed = self.timers.close();
        self.order(STOP);
        let finalizes = self.await_threads(is_own, deadline);
        let (hand, threads) = {
            let mut control = self.control.lock();
            let threads = std::mem::take(&mut control.threads);
            control.is_left = true;
            (control.finalizing.take(), threads)
        };
        let running = self.queue.running();
        let is_running = !running.is_empty() || finalizes.is_some();
        // A stream that took too long is complete, and the watermark may have passed it; it is
        // named all the same. Another that is complete has been completed by the thread that ran
        // it.
        let (late, running): (Vec<_>, Vec<_>) = running.into_iter().partition(|run| run.is_late);
        let mut left: Vec<Leftover<F>> = Vec::new();
        left.extend(late.into_iter().map(Run::into_leftover));
        let tasks = queued.into_iter().chain(delayed);
        left.extend(tasks.map(|task| task.into_leftover(self)));
        let mut elsewhere: Vec<Leftover<F>> = Vec::new();
        for sequence in self.watermark()..end {
            let closed = match mutant::enabled("flush-shutdown-closes-no-place") {
                true => Closed::Open,
                false => self.ring.close(sequence),
            };
            let state = match (closed, &finalizes) {
                (Closed::Complete(entry), _) => {
                    left.push(entry.into_leftover(self));
                    continue;
                }
                (Closed::Taken, Some(thread)) => LeftoverState::Finalizing(thread.to_string()),
                (Closed::Taken, None) => continue,
                (Closed::Open, _) => match running.iter().find(|run| run.sequence == sequence) {
                    Some(run) => LeftoverState::Running(run.thread.clone()),
                    None => LeftoverState::Unsubmitted,
                },
            };
            elsewhere.push(Leftover {
                sequence,
                state,
                job: None,
                item: None,
                error: None,
            });
        }
        let drains = std::mem::take(&mut self.control.lock().drains);
        for drain in drains {
            drain.completer.complete(Ok(Err(DrainError::ShutDown)));
        }
        if let Some(Finalizing {
            finalizer, backlog, ..
        }) = hand
        {
            left.extend(backlog.into_iter().map(|entry| entry.into_leftover(self)));
            contain(|| drop(finalizer));
        }
        // Of what is known of a flush, the first is kept.
        left.extend(elsewhere);
        left.sort_by_key(|flush| flush.sequence);
        left.dedup_by_key(|flush| flush.sequence);
        // Those that run the user's code end when that returns.
        if !is_own && !is_running {
            threads.into_iter().for_each(|thread| drop(thread.join()));
        }
        Leftovers { flushes: left }
    }

    /// Waits until the threads are at their end; where they run the user's code, until `deadline`.
    /// Says which thread still runs the finalizer.
    fn await_threads(&self, is_own: bool, deadline: Option<Instant>) -> Option<Name> {
        loop {
            let number = self.gone.number();
            let (finalizes, is_attended) = {
                let control = self.control.lock();
                (control.finalizer_runs.clone(), control.is_attended)
            };
            let streamers = self.queue.busy();
            let is_leaving = streamers.leaving || (is_attended && finalizes.is_none());
            let is_running = streamers.running || finalizes.is_some();
            let is_over = is_own || deadline.is_some_and(|deadline| now() >= deadline);
            if is_own || (!is_leaving && (!is_running || is_over)) {
                return finalizes;
            }
            self.gone.sleep(number, deadline.filter(|_| !is_leaving));
        }
    }
}

impl Run {
    fn into_leftover<F: Finalize>(self) -> Leftover<F> {
        Leftover {
            sequence: self.sequence,
            state: LeftoverState::Running(self.thread),
            job: None,
            item: None,
            error: None,
        }
    }
}

impl<F: Finalize> Task<F> {
    fn into_leftover(self, core: &Core<F>) -> Leftover<F> {
        let Task {
            due,
            content,
            stream,
            ..
        } = self;
        core.give_back(1, due.bytes);
        contain(|| drop(stream));
        Leftover {
            sequence: due.sequence,
            state: LeftoverState::Queued,
            job: Some(content),
            item: None,
            error: None,
        }
    }
}

impl<F: Finalize> Entry<F> {
    fn into_leftover(self, core: &Core<F>) -> Leftover<F> {
        core.give_back(self.permits, self.bytes);
        let (state, job, item, error) = match self.fate {
            Fate::Item(item) => (LeftoverState::Streamed, None, Some(item), None),
            Fate::Failed(failed) => {
                let FailedFlush {
                    failure,
                    task,
                    item,
                    refused,
                    ..
                } = *failed;
                let error = match (refused, failure) {
                    (Some(Refused::Failed(error)), _)
                    | (_, Some(Failure::Stream(error) | Failure::Finalize(error))) => Some(error),
                    _ => None,
                };
                let job = task.map(|(job, stream)| {
                    contain(|| drop(stream));
                    job.content
                });
                (LeftoverState::Failed, job, item, error)
            }
        };
        Leftover {
            sequence: self.sequence,
            state,
            job,
            item,
            error,
        }
    }
}
