//! Combining: who holds the latch does what the others wait to do.
//!
//! When an operation is done and others stand in line, handing the latch to one of them would cost
//! a context switch for each. Instead the holder takes them out of line, oldest first, runs them
//! here and tells their threads: flat combining (Hendler, Incze, Shavit, Tzafrir, 2010), bounded. It
//! stops after [`BATCH`] operations or [`BUDGET`], or at a request for the latch itself, and the
//! rest of the line goes with the latch to the next.
//!
//! An operation is taken out of line under the lock, and is then run exactly once; one whose
//! deadline has passed is refused instead. A panic in it belongs to its submitter.

use std::time::Duration;

use crate::sync::Arc;
use crate::sync::mutant;
use crate::sync::time::{Instant, now};
use crate::waiter::{Parker, Signal, Wakes};

use super::core::{Contents, Core, Outcome};
use super::hold::Hold;
use super::wait::{Request, Who};

/// How many operations of others a holder runs at most.
const BATCH: u64 = 64;

/// How long it goes on beginning another.
const BUDGET: Duration = Duration::from_micros(100);

/// What comes after an operation.
enum Next {
    /// Another one, out of line.
    Run(Request),
    /// The same, too late to be begun.
    Refuse(Request),
    /// Nothing: the latch has been let go.
    Done(Wakes<Outcome>),
}

impl Core {
    /// Gives a latch back after an operation of its holder, and does what others wait to do first.
    #[inline]
    pub(super) fn finish(&self, hold: Hold) {
        if !self.release_by_word(hold) {
            self.combine(hold);
        }
    }

    #[cold]
    fn combine(&self, hold: Hold) {
        let begun = now();
        let (mut time, mut turn) = (begun, 0);
        loop {
            let goes_on = turn < BATCH && time.saturating_duration_since(begun) < BUDGET;
            match self.next(hold, goes_on, time) {
                Next::Run(request) => {
                    self.counters
                        .waits
                        .record(time.saturating_duration_since(request.since));
                    serve(request);
                    let after = now();
                    self.counters
                        .services
                        .record(after.saturating_duration_since(time));
                    time = after;
                    turn += 1;
                }
                Next::Refuse(request) => {
                    self.counters.timeouts.add(1);
                    if let Who::Operation(parker, _) = request.who {
                        tell(&parker, Signal::Refused);
                    }
                }
                Next::Done(wakes) => {
                    if turn > 0 {
                        self.counters.combined.add(turn);
                    }
                    wakes.deliver();
                    return;
                }
            }
        }
    }

    /// Takes the oldest operation out of line, or lets go of the latch.
    fn next(&self, hold: Hold, goes_on: bool, time: Instant) -> Next {
        let shard = self.shard(hold.id);
        let contents = &mut *shard.contents.lock();
        let mut wakes = Wakes::new();
        if contents.entry_of(hold).is_none() {
            return Next::Done(wakes);
        }
        let Contents {
            entries, waiting, ..
        } = &mut *contents;
        if let Some(entry) = entries.get_mut(hold.id.bits())
            && let Some((key, oldest)) = entry.line.front(waiting)
            && goes_on
            && matches!(oldest.who, Who::Operation(..))
            && let Some(request) = entry.line.remove(waiting, key)
        {
            shard.waiters.sub(1);
            let is_late = request.deadline.is_some_and(|deadline| time >= deadline);
            if is_late && !mutant::enabled("combine-runs-the-late") {
                return Next::Refuse(request);
            }
            return Next::Run(request);
        }
        if goes_on || !mutant::enabled("combine-keeps-the-latch") {
            self.let_go(shard, contents, hold.id, &mut wakes);
        }
        Next::Done(wakes)
    }
}

/// Runs an operation that was taken out of line, and tells its thread.
fn serve(request: Request) {
    let Who::Operation(parker, operation) = request.who else {
        unreachable!("only operations are taken out of line to be run");
    };
    let early = mutant::enabled("combine-tells-first");
    if early {
        tell(&parker, Signal::Served);
    }
    operation.run();
    if !early {
        tell(&parker, Signal::Served);
    }
}

fn tell(parker: &Arc<Parker>, signal: Signal) {
    let mut wakes = Wakes::<Outcome>::new();
    wakes.signal(parker, signal);
    wakes.deliver();
}
