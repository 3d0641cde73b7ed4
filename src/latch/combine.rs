//! Combining: who holds the latch does what the others wait to do.
//!
//! When an operation is done and others stand in line, handing the latch to one of them would cost
//! a context switch for each. Instead the holder takes them out of line, oldest first, runs them
//! here and tells their threads: flat combining (Hendler, Incze, Shavit, Tzafrir, 2010), bounded.
//! It stops after [`BATCH`] operations, or [`BUDGET`] after the first, or at a request for the
//! latch itself, and the rest of the line goes with the latch to the next.
//!
//! While it runs them nobody else gets anything done, so it does little beside: who waited counts
//! that wait, and a clock, which takes as long to read as a short operation to run, is looked at
//! between two operations of others only.
//!
//! An operation is taken out of line under the lock, and is then run exactly once; one whose
//! deadline has passed is refused instead. A panic in it belongs to its submitter.

use std::time::Duration;

use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::Arc;
use crate::sync::{hint, mutant};
use crate::waiter::{Callback, Parker, Signal, Wakes};

use super::core::{Contents, Core, Counters, Outcome};
use super::hold::Hold;
use super::operation::Operation;
use super::submit::Submitted;
use super::wait::Who;

/// How many operations of others a holder runs at most.
const BATCH: u64 = 64;

/// How long it goes on beginning another after the first.
const BUDGET: Duration = Duration::from_micros(100);

/// One operation in so many is timed.
const SAMPLED: u64 = 16;

/// What comes after an operation.
enum Next {
    /// Another one, out of line.
    Run(Arc<Parker>, Operation),
    /// The same, and no thread waits for it.
    RunSubmitted(Callback<Outcome>, Submitted),
    /// One that is too late to be begun: look again.
    Again,
    /// Nothing: the latch has been let go.
    Done,
}

/// What a holder does for others, and how long it goes on.
struct Shift<'a> {
    counters: &'a Counters,
    /// When the first operation was done.
    since: Option<Instant>,
    done: u64,
    /// Who sleeps is woken when the latch is free: woken before, it would take the processor from
    /// the thread that it waits for.
    wakes: Wakes<Outcome>,
}

impl Core {
    /// Gives a latch back after an operation of its holder, and does what others wait to do first.
    /// Whom to wake, if anybody waited, is left to the caller.
    pub(super) fn finish(&self, hold: Hold) -> Option<Wakes<Outcome>> {
        (!self.release_by_word(hold)).then(|| self.combine(hold))
    }

    /// Does what others wait to do, where a latch could not be given back [by its
    /// word](Self::release_by_word), and gives it back.
    #[cold]
    pub(super) fn combine(&self, hold: Hold) -> Wakes<Outcome> {
        let mut shift = Shift::new(&self.counters);
        if !self.serve_stack(hold, &mut shift) {
            self.serve_line(hold, &mut shift);
        }
        if shift.done > 0 {
            self.counters.combined.add(shift.done);
        }
        shift.wakes
    }

    /// Runs what was handed over, without the lock. `true`: that was all, and the latch has been
    /// given back.
    fn serve_stack(&self, hold: Hold, shift: &mut Shift<'_>) -> bool {
        let shard = self.shard(hold.id);
        while let Some(mut batch) = shard.word(hold.id).collect(hold.id, hold.number) {
            while let Some(submission) = batch.pop() {
                if submission.id() != hold.id || !shift.goes_on() {
                    let contents = &mut *shard.contents.lock();
                    let wakes = &mut shift.wakes;
                    self.crowd_with(shard, contents, submission, batch, wakes);
                    return false;
                }
                if mutant::enabled("combine-tells-first") {
                    submission.served(&mut shift.wakes);
                } else {
                    if let Some(operation) = submission.operation() {
                        shift.run(|| operation.run());
                    }
                    submission.served(&mut shift.wakes);
                }
            }
            if self.release_by_word(hold) {
                return true;
            }
        }
        false
    }

    /// Runs the operations at the front of the line, and lets go of the latch.
    fn serve_line(&self, hold: Hold, shift: &mut Shift<'_>) {
        loop {
            match self.next(hold, shift) {
                Next::Run(parker, operation) => {
                    if mutant::enabled("combine-tells-first") {
                        shift.wakes.signal(&parker, Signal::Served);
                    }
                    shift.run(|| operation.run());
                    shift.wakes.signal(&parker, Signal::Served);
                }
                Next::RunSubmitted(callback, submitted) => {
                    // It would have brought the latch; its captures go outside the lock.
                    drop(callback);
                    if !mutant::enabled("combine-drops-submitted") {
                        shift.run(|| submitted.run());
                    }
                }
                Next::Again => {}
                Next::Done => return,
            }
        }
    }

    /// Takes the oldest operation out of line, or lets go of the latch.
    fn next(&self, hold: Hold, shift: &mut Shift<'_>) -> Next {
        let goes_on = shift.goes_on();
        let shard = self.shard(hold.id);
        let contents = &mut *shard.contents.lock();
        if contents.entry_of(hold).is_none() {
            return Next::Done;
        }
        let Contents {
            entries, waiting, ..
        } = &mut *contents;
        if let Some(entry) = entries.get_mut(hold.id.spread())
            && let Some((key, oldest)) = entry.line.front(waiting)
            && goes_on
            && matches!(oldest.who, Who::Operation(..) | Who::Submitted(..))
            && let Some(request) = entry.line.remove(waiting, key)
        {
            shard.waiters.sub(1);
            let (parker, operation) = match request.who {
                Who::Operation(parker, operation) => (parker, operation),
                Who::Submitted(callback, submitted) => {
                    return Next::RunSubmitted(callback, submitted);
                }
                Who::Latch(_) => unreachable!("it was an operation a moment ago"),
            };
            let is_late = request.deadline.is_some_and(|deadline| now() >= deadline);
            if is_late && !mutant::enabled("combine-runs-the-late") {
                self.counters.timeouts.add(1);
                shift.wakes.signal(&parker, Signal::Refused);
                return Next::Again;
            }
            return Next::Run(parker, operation);
        }
        if goes_on || !mutant::enabled("combine-keeps-the-latch") {
            self.let_go(shard, contents, hold.id, &mut shift.wakes);
        }
        Next::Done
    }
}

impl<'a> Shift<'a> {
    fn new(counters: &'a Counters) -> Self {
        Self {
            counters,
            since: None,
            done: 0,
            wakes: Wakes::new(),
        }
    }

    /// Whether another operation is to be begun.
    fn goes_on(&mut self) -> bool {
        if self.done == 0 {
            return true;
        }
        let time = now();
        let since = *self.since.get_or_insert(time);
        self.done < BATCH && time.saturating_duration_since(since) < BUDGET
    }

    fn run(&mut self, operation: impl FnOnce()) {
        let turn = self.counters.combined.get() + self.done;
        let begun = hint::samples(turn, SAMPLED).then(now);
        operation();
        if let Some(begun) = begun {
            let took = now().saturating_duration_since(begun);
            self.counters.services.record(took);
        }
        self.done += 1;
    }
}
