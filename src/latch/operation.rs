//! An operation that somebody else may run: a closure in its submitter's frame, and room for what
//! it returns.
//!
//! | a [`Cell`]'s state | next | by |
//! |---|---|---|
//! | `Waiting` | `Done` | whoever took the operation out of line, once |
//! | `Waiting` | gone | the submitter, after it has left the line or got the latch |
//! | `Done` | gone | the submitter, after it was told |
//!
//! An [`Operation`] points to its cell without a lifetime. It stays good because the submitter does
//! not leave the frame while the operation stands in line or runs: [`InLine`] makes a panic there
//! an abort. Who runs the operation tells the submitter by the parker's word, with `Release`, and
//! does not touch the cell after that.

#![allow(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use crate::sync::cell::UnsafeCell;
use crate::sync::mutant;
use crate::sync::time::Instant;
use crate::sync::track::Track;

use super::core::Core;
use super::hold::Hold;
use super::wait::{Ended, Place, Refusal};

/// A table that lets at least so many wait for a key need not count them: each is a thread.
const UNCOUNTED: usize = 1 << 16;

/// What an operation came to: what it returned, or the panic that belongs to its submitter.
pub(super) type Outcome<R> = Result<R, Box<dyn Any + Send>>;

enum State<F, R> {
    Waiting(F),
    Done(Outcome<R>),
    Gone,
}

/// A closure and, later, its result.
struct Cell<F, R> {
    state: UnsafeCell<State<F, R>>,
    _leak_check: Track<()>,
}

/// A reference to a cell, good for running what is in it, once.
pub(super) struct Operation {
    cell: NonNull<()>,
    run: unsafe fn(NonNull<()>),
}

// SAFETY: made by `Cell::operation` only, whose closure and result are `Send`.
unsafe impl Send for Operation {}

impl Operation {
    /// Runs it. A panic ends in the cell.
    pub(super) fn run(self) {
        // SAFETY: `run` is the function for this cell's types, and who made the operation promised
        // that the cell stays and is left alone until this has been run and told.
        unsafe { (self.run)(self.cell) };
    }
}

/// How an operation that was put in line ended.
pub(super) enum Finished<F, R> {
    /// Somebody else ran it.
    Elsewhere(Outcome<R>),
    /// Its thread has the latch, and runs it.
    Granted(Hold, F),
}

impl Core {
    /// Waits until `operation` has been run under the latch by somebody else, or the latch is there
    /// for running it here. `work` is what to do with a latch that is there for everybody's. When
    /// it refuses, it has not been run and will not be.
    pub(super) fn wait_with<F: FnOnce() -> R + Send, R: Send>(
        &self,
        place: Place<'_>,
        deadline: Option<Instant>,
        operation: F,
        work: impl FnOnce(Hold),
    ) -> Result<Finished<F, R>, Refusal> {
        let cell = Cell::new(operation);
        // SAFETY: both calls below return only when the operation is out of line and either nobody
        // has run it, or whoever did has said that it is done; and they do not unwind while it is
        // there.
        let pointer = unsafe { cell.operation() };
        // What was handed over cannot be taken back, and is not counted before it stands in line.
        let ended = if deadline.is_none() && self.max_waiters >= UNCOUNTED {
            self.hand_over(place, pointer, work)?
        } else {
            self.wait(place, Some(pointer), deadline)?
        };
        Ok(match ended {
            Ended::Served => Finished::Elsewhere(cell.into_outcome()),
            Ended::Granted(hold) => Finished::Granted(hold, cell.into_closure()),
        })
    }
}

impl<F: FnOnce() -> R + Send, R: Send> Cell<F, R> {
    fn new(operation: F) -> Self {
        Self {
            state: UnsafeCell::new(State::Waiting(operation)),
            _leak_check: Track::new(()),
        }
    }

    /// The operation, to be run where this cell is out of sight.
    ///
    /// # Safety
    ///
    /// Until the operation has been dropped unrun, or its runner has said that it is done, the cell
    /// is not moved, dropped or touched.
    unsafe fn operation(&self) -> Operation {
        Operation {
            cell: NonNull::from(self).cast(),
            run: Self::run_erased,
        }
    }

    /// # Safety
    ///
    /// `cell` points to a cell of this type that is there, and that nobody else touches, until this
    /// returns.
    unsafe fn run_erased(cell: NonNull<()>) {
        // SAFETY: the caller's promise.
        let cell = unsafe { cell.cast::<Self>().as_ref() };
        cell.state.with_mut(|state| {
            // SAFETY: nobody else touches the cell before its submitter is told.
            let state = unsafe { &mut *state };
            if let State::Waiting(operation) = std::mem::replace(state, State::Gone) {
                *state = State::Done(if mutant::enabled("combine-lets-panics-out") {
                    Ok(operation())
                } else {
                    catch_unwind(AssertUnwindSafe(operation))
                });
            }
        });
    }

    fn into_closure(self) -> F {
        match self.into_state() {
            State::Waiting(operation) => operation,
            _ => unreachable!("whoever has the latch has an operation that nobody ran"),
        }
    }

    fn into_outcome(self) -> Outcome<R> {
        match self.into_state() {
            State::Done(outcome) => outcome,
            _ => unreachable!("who was told that it is done finds it done"),
        }
    }

    fn into_state(self) -> State<F, R> {
        // SAFETY: the cell is owned, so nobody else has access.
        self.state
            .with_mut(|state| unsafe { std::mem::replace(&mut *state, State::Gone) })
    }
}

/// Held while an operation of this frame stands in line: leaving the frame then, by a panic, would
/// leave a pointer into it behind.
pub(super) struct InLine;

impl InLine {
    /// The operation is out of line, and done if anybody ran it.
    pub(super) fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        std::process::abort();
    }
}
