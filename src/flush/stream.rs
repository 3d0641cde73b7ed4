//! The streams: what the user runs in parallel, and the threads that run it.

use crate::sync::Arc;
use crate::sync::time::{Instant, now};
use crate::waiter::{Panic, contain};

use super::core::{Completion, Core, Due, Entry, Fate};
use super::error::Failure;
use super::finalizer::Finalize;
use super::job::Job;
use super::queue::Begun;
use super::stats::record;

pub(super) type Stream<F> = Box<
    dyn FnMut(
            &mut Job<<F as Finalize>::Job>,
        ) -> Result<<F as Finalize>::Item, <F as Finalize>::Error>
        + Send,
>;

/// A stream that is to be run.
pub(super) struct Task<F: Finalize> {
    pub(super) due: Due<F>,
    pub(super) content: F::Job,
    /// How many tries there have been.
    pub(super) attempts: u32,
    pub(super) stream: Stream<F>,
}

impl<F: Finalize> Task<F> {
    /// The stream of a flush that has failed, for another try: its tries are counted anew.
    pub(super) fn again(entry: Entry<F>, job: Job<F::Job>, stream: Stream<F>) -> Self {
        let due = Due {
            sequence: entry.sequence,
            bytes: entry.bytes,
            completer: entry.completer,
        };
        Self {
            due,
            content: job.content,
            attempts: 0,
            stream,
        }
    }

    /// A shutdown keeps it from being run: its flush has failed, and is left over with its job.
    pub(super) fn give_up(self, core: &Core<F>) {
        let job = Job {
            content: self.content,
            sequence: self.due.sequence,
            attempt: self.attempts,
            deadline: None,
        };
        let fate = Fate::failed_with(Failure::Abandoned, Some((job, self.stream)), None);
        core.complete_due(self.due, fate);
    }
}

/// The body of a streamer.
pub(super) fn serve<F: Finalize>(core: &Arc<Core<F>>, streamer: usize) {
    core.serving(|| {
        while let Some(begun) = core.queue.pop(core.options.stream_timeout, streamer) {
            run(core, begun);
        }
    });
    core.queue.leave(streamer);
}

/// Runs the oldest stream that waits, on the calling thread. `false`: none does.
pub(super) fn run_one<F: Finalize>(core: &Arc<Core<F>>) -> bool {
    let begun = core.queue.begin_first(&core.options);
    begun.map(|begun| run_begun(core, begun)).is_some()
}

/// Runs a stream on the calling thread, which is not a streamer. The task comes back when the
/// pipeline has been stopped.
pub(super) fn run_here<F: Finalize>(core: &Core<F>, task: Task<F>) -> Result<(), Task<F>> {
    let begun = core.queue.begin_here(task, &core.options)?;
    run_begun(core, begun);
    Ok(())
}

pub(super) fn run_begun<F: Finalize>(core: &Core<F>, begun: Begun<F>) {
    let hand = begun.hand;
    core.serving(|| run(core, begun));
    core.queue.leave(hand);
    if core.is_stopped() {
        core.gone.announce(core.control.lock());
    }
}

fn run<F: Finalize>(core: &Core<F>, begun: Begun<F>) {
    let Begun {
        task,
        deadline,
        hand,
    } = begun;
    let Task {
        due,
        content,
        attempts,
        mut stream,
    } = task;
    let mut job = Job {
        content,
        sequence: due.sequence,
        attempt: attempts + 1,
        deadline,
    };
    let started = core.counters.sample(due.sequence);
    let mut completion = Completion {
        core,
        due: Some(due),
    };
    if let Some(deadline) = deadline {
        core.timers.arm(deadline);
    }
    let result = Panic::catch(|| stream(&mut job));
    record(&core.counters.stream, started);
    let is_late = deadline.is_some_and(|deadline| now() >= deadline);
    if deadline.is_some() {
        match (core.queue.end_run(hand), &mut completion.due) {
            (Ok(completer), Some(due)) => due.completer = completer,
            // The timer has completed it: what it still holds comes back.
            (_, due) => {
                contain(|| drop(result));
                contain(|| drop(stream));
                contain(|| drop(job));
                let bytes = due.take().map_or(0, |due| due.bytes);
                return core.give_back(1, bytes);
            }
        }
    }
    let failure = match result {
        _ if is_late => {
            contain(|| drop(result));
            core.counters.timed_out.add(1);
            Failure::StreamTimedOut
        }
        Ok(Ok(item)) => {
            // What the flush held goes before anybody learns that it is complete.
            contain(|| drop(stream));
            contain(|| drop(job));
            return completion.complete(Fate::Item(item));
        }
        Ok(Err(error)) => Failure::Stream(error),
        Err(panic) => Failure::StreamPanicked(panic),
    };
    if !is_late
        && job.attempt < core.options.policy.attempts()
        && let Some(due) = completion.due.take()
    {
        core.counters.retried.add(1);
        let at = now().checked_add(core.options.policy.backoff(job.attempt));
        contain(|| drop(failure));
        let task = Task {
            due,
            content: job.content,
            attempts: job.attempt,
            stream,
        };
        return core.timers.retry(core, at, task);
    }
    let task = if is_late {
        contain(|| drop((stream, job)));
        None
    } else {
        Some((job, stream))
    };
    completion.complete(Fate::failed_with(failure, task, None));
}

/// Fails the streams whose time is up at `now`; says when the next one's is.
pub(super) fn fail_late<F: Finalize>(core: &Core<F>, now: Instant) -> Option<Instant> {
    let late = core.queue.take_late(now);
    for (sequence, completer) in late.flushes {
        core.counters.timed_out.add(1);
        core.complete_late(sequence, completer);
    }
    late.next
}
