//! What has been completed and not finalized: one place for each flush in flight, by its sequence
//! number.
//!
//! | a place is | becomes | by |
//! |---|---|---|
//! | `Open` | `Complete` | [`complete`](Ring::complete) |
//! | `Open` | `Awaited` | [`await_turn`](Ring::await_turn): the finalizer is about to sleep |
//! | `Awaited` | `Complete`, and the finalizer is to be woken | [`complete`](Ring::complete) |
//! | `Open`, `Awaited` | `Closed` | [`close`](Ring::close) |
//! | `Complete` | `Open`, for the number one lap later | [`take`](Ring::take) |
//!
//! The finalizer sleeps for one place, the next in order, and finds out under its lock that it is
//! not complete: whoever completes it later sees that it is awaited. So a completion wakes somebody
//! if it was the one that was missing, and no other does. A nap, which ends by itself, may be for a
//! later place.
//!
//! There is a place for each flush that may be in flight: the number that comes to a place next is
//! given out only when its last one has been finalized.

use crate::sync::lock::Mutex;
use crate::sync::mutant;
use crate::sync::unmodelled::{AtomicU64, Ordering};

#[derive(Debug)]
enum State<T> {
    Open,
    Awaited,
    Complete(T),
    Closed,
}

#[derive(Debug)]
struct Turn<T> {
    sequence: u64,
    state: State<T>,
}

/// A place. Neighbours are completed by different threads.
#[derive(Debug)]
#[repr(align(64))]
struct Place<T> {
    turn: Mutex<Turn<T>>,
    /// The last number that was completed, plus 1.
    completed: AtomicU64,
}

/// What became of a completion.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Completed<T> {
    Stored,
    /// It was the finalizer's next: wake it.
    Awaited,
    /// It came too late, or is not the first for its number.
    Refused(T),
}

/// What a place held when it was closed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Closed<T> {
    /// Nothing yet: the flush is in somebody's hand.
    Open,
    Complete(T),
    /// Nothing any more: the finalizer has it.
    Taken,
}

#[derive(Debug)]
pub(super) struct Ring<T> {
    places: Box<[Place<T>]>,
    /// For each place, the thread that has rotated and not submitted, 0 for none. Not in the
    /// places: those who rotate would take their lines from those who complete.
    holders: Box<[AtomicU64]>,
}

impl<T> Ring<T> {
    pub(super) fn new(places: usize) -> Self {
        let places = places.next_power_of_two() as u64;
        let place = |sequence| Place {
            turn: Mutex::new(Turn {
                sequence,
                state: State::Open,
            }),
            completed: AtomicU64::new(0),
        };
        Self {
            places: (0..places).map(place).collect(),
            holders: (0..places).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn index(&self, sequence: u64) -> usize {
        sequence as usize & (self.places.len() - 1)
    }

    fn place(&self, sequence: u64) -> &Place<T> {
        &self.places[self.index(sequence)]
    }

    pub(super) fn complete(&self, sequence: u64, value: T) -> Completed<T> {
        let place = self.place(sequence);
        let mut turn = place.turn.lock();
        if turn.sequence != sequence {
            return Completed::Refused(value);
        }
        let is_awaited = match turn.state {
            State::Open => false,
            State::Awaited => true,
            State::Complete(_) | State::Closed => return Completed::Refused(value),
        };
        turn.state = State::Complete(value);
        place.completed.store(sequence + 1, Ordering::Relaxed);
        if is_awaited && !mutant::enabled("flush-completes-silently") {
            Completed::Awaited
        } else {
            Completed::Stored
        }
    }

    /// What is complete for `sequence`, if it is; the place is then the next lap's.
    pub(super) fn take(&self, sequence: u64) -> Option<T> {
        let mut turn = self.place(sequence).turn.lock();
        if turn.sequence != sequence || !matches!(turn.state, State::Complete(_)) {
            return None;
        }
        turn.sequence += self.places.len() as u64;
        match std::mem::replace(&mut turn.state, State::Open) {
            State::Complete(value) => Some(value),
            State::Open | State::Awaited | State::Closed => None,
        }
    }

    /// A look without the lock, and so no more than a hint.
    pub(super) fn seems_complete(&self, sequence: u64) -> bool {
        self.place(sequence).completed.load(Ordering::Relaxed) == sequence + 1
    }

    /// Before the finalizer sleeps until `sequence` is complete. `false`: it is.
    pub(super) fn await_turn(&self, sequence: u64) -> bool {
        let mut turn = self.place(sequence).turn.lock();
        if turn.sequence != sequence {
            return false;
        }
        match turn.state {
            State::Open | State::Awaited => turn.state = State::Awaited,
            // A shutdown has come in between, and will not let it sleep.
            State::Closed => {}
            State::Complete(_) => return false,
        }
        true
    }

    /// Has `sequence`, which was taken, be completed once more.
    pub(super) fn again(&self, sequence: u64) {
        let place = self.place(sequence);
        let mut turn = place.turn.lock();
        turn.sequence = sequence;
        turn.state = State::Open;
        place.completed.store(0, Ordering::Relaxed);
    }

    /// Refuses a completion of `sequence` from now on; what is complete comes back.
    pub(super) fn close(&self, sequence: u64) -> Closed<T> {
        let mut turn = self.place(sequence).turn.lock();
        if turn.sequence != sequence {
            return Closed::Taken;
        }
        match std::mem::replace(&mut turn.state, State::Closed) {
            State::Complete(value) => Closed::Complete(value),
            State::Open | State::Awaited | State::Closed => Closed::Open,
        }
    }

    /// Notes which thread has `sequence` in hand, before it is submitted; 0 for none.
    pub(super) fn hold(&self, sequence: u64, thread: u64) {
        // A thread finds its own note; others' are not asked for.
        self.holders[self.index(sequence)].store(thread, Ordering::Relaxed);
    }

    /// Whether `thread` has a flush in hand.
    pub(super) fn is_held_by(&self, thread: u64) -> bool {
        let mut holders = self.holders.iter();
        holders.any(|holder| holder.load(Ordering::Relaxed) == thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completions_come_out_in_order_whatever_the_order_they_came_in() {
        let ring = Ring::new(3);
        for sequence in [2, 0, 1] {
            assert_eq!(ring.complete(sequence, sequence * 10), Completed::Stored);
        }
        for sequence in 0..3 {
            assert_eq!(ring.take(sequence), Some(sequence * 10));
        }
        assert_eq!(ring.take(3), None);
    }

    #[test]
    fn only_the_awaited_completion_wakes() {
        let ring = Ring::new(4);
        assert!(ring.await_turn(0));
        assert_eq!(ring.complete(1, 'b'), Completed::Stored);
        assert_eq!(ring.complete(0, 'a'), Completed::Awaited);
        assert!(!ring.await_turn(0), "it is complete");
    }

    #[test]
    fn a_later_place_can_be_awaited_over_the_next_one() {
        let ring = Ring::new(4);
        assert!(ring.await_turn(2));
        assert_eq!(ring.complete(0, 'a'), Completed::Stored);
        assert_eq!(ring.complete(2, 'c'), Completed::Awaited);
        assert!(ring.seems_complete(2));
        assert_eq!(ring.take(0), Some('a'));
        assert!(ring.await_turn(1));
        assert_eq!(ring.complete(1, 'b'), Completed::Awaited);
        assert_eq!((ring.take(1), ring.take(2)), (Some('b'), Some('c')));
    }

    #[test]
    fn the_second_completion_of_a_number_is_refused() {
        let ring = Ring::new(1);
        assert_eq!(ring.complete(0, 'a'), Completed::Stored);
        assert_eq!(ring.complete(0, 'b'), Completed::Refused('b'));
        assert_eq!(ring.take(0), Some('a'));
        assert_eq!(ring.complete(0, 'c'), Completed::Refused('c'), "finalized");
        assert_eq!(ring.complete(1, 'd'), Completed::Stored);
    }

    #[test]
    fn a_number_that_is_done_again_is_completed_again() {
        let ring = Ring::new(2);
        ring.complete(0, 'a');
        ring.take(0);
        ring.again(0);
        assert!(!ring.seems_complete(0));
        assert_eq!(ring.complete(0, 'b'), Completed::Stored);
        assert_eq!(ring.take(0), Some('b'));
    }

    #[test]
    fn a_closed_place_refuses_and_gives_back_what_it_had() {
        let ring = Ring::new(2);
        ring.complete(1, 'b');
        assert_eq!(ring.close(0), Closed::Open);
        assert_eq!(ring.close(1), Closed::Complete('b'));
        assert_eq!(ring.complete(0, 'a'), Completed::Refused('a'));
        assert!(ring.await_turn(0));
        assert_eq!(ring.complete(0, 'a'), Completed::Refused('a'), "still");
        let ring = Ring::new(2);
        ring.complete(0, 'a');
        ring.take(0);
        assert_eq!(ring.close(0), Closed::Taken);
    }

    #[test]
    fn a_thread_finds_what_it_has_in_hand() {
        let ring = Ring::<()>::new(2);
        assert!(!ring.is_held_by(7));
        ring.hold(1, 7);
        assert!(ring.is_held_by(7));
        ring.hold(1, 0);
        assert!(!ring.is_held_by(7));
    }
}
