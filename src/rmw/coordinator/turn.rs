//! How a shard's thread serves a turn: the commands of one key, under one grant of its latch.
//!
//! A grant costs a wake-up of the thread, and while that takes, everybody else who comes for the
//! key loses too. So the thread runs what has gathered meanwhile, the oldest first, up to [`BATCH`]
//! commands or [`BUDGET`]; then the latch goes on, and the rest asks for it again. Whether there is
//! another command, and the turn's end, are decided under the line's lock: who gets in before is
//! served, who comes after has a new turn.
//!
//! The callers are told when the latch is free: woken before, they would take the processor from
//! the thread that they wait for, and find the latch held.

use std::time::Duration;

use super::Answer;
use super::line::{Line, Waiting};
use crate::rmw::Rmw;
use crate::rmw::blocked::Served;
use crate::rmw::store::Store;
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, mutant};
use crate::waiter::Key;
use crate::worker::{Completer, Panic};

/// How many commands the thread runs at most, before it lets go of the latch.
const BATCH: usize = 64;

/// How long it goes on beginning another.
const BUDGET: Duration = Duration::from_micros(100);

/// A turn that has its latches, for the thread.
pub(super) struct Job {
    line: Arc<Line>,
    turn: Key,
}

/// What came of a command.
type Done = (Completer<Answer>, Result<(Answer, Served), Panic>);

impl Job {
    pub(super) fn new(line: Arc<Line>, turn: Key) -> Self {
        Self { line, turn }
    }

    pub(super) fn run<S: Store>(self, rmw: &Rmw<S>) {
        let held = self.line.state.lock().take_latches(self.turn);
        let held = held.filter(|_| !mutant::enabled("coordinator-worker-unprotected"));
        let begun = now();
        let mut done: Vec<Done> = Vec::new();
        let mut seen = 0;
        while let Some(waiting) = self.next(seen, begun) {
            seen += 1;
            let Waiting {
                command,
                mut completer,
                ..
            } = waiting;
            // `false`: cancelled between its turn and now.
            if completer.begin() {
                let run = || {
                    let mut served = Served::default();
                    let answer = command.run_latched(rmw, &mut served);
                    (answer, served)
                };
                done.push((completer, Panic::catch(run)));
            }
        }
        drop(held);
        let again = {
            let mut state = self.line.state.lock();
            state.served(seen);
            self.line.note(&state);
            state.begin_again(self.turn)
        };
        if again {
            Line::go_on(&self.line, self.turn, None);
        }
        for (completer, result) in done {
            let answer = result.map(|(answer, served)| {
                served.tell();
                answer
            });
            completer.complete(answer);
        }
    }

    /// The next command of the turn. `None`: there is none, and the turn is over; or the rest is to
    /// wait.
    fn next(&self, seen: usize, begun: Instant) -> Option<Waiting> {
        let is_spent =
            seen >= BATCH || (seen > 0 && now().saturating_duration_since(begun) >= BUDGET);
        let mut state = self.line.state.lock();
        // Who closed the turn came later than all that is in it, and is to be served later.
        if is_spent && state.may_stop(self.turn) {
            return None;
        }
        let next = state.pop(self.turn);
        if next.is_none() {
            if mutant::enabled("coordinator-ends-a-turn-late") {
                drop(state);
                state = self.line.state.lock();
            }
            let gone = state.remove(self.turn);
            drop(state);
            drop(gone);
        }
        next
    }
}
