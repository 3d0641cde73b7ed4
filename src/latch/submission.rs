//! Operations handed to whoever holds the latch, without a lock: one stack of them a word.
//!
//! A [`Submission`] stands in the frame of the thread that waits for it. The thread pushes it onto
//! the stack of its key's word and then, in a second step, tells the word, so the holder finds it
//! when it would release (see [`Word`](super::word::Word)). It can not be taken back.
//!
//! | `status` | means | next | by |
//! |---|---|---|---|
//! | `WAITING` | on the stack, or in the holder's hands; its thread looks at this word | `SERVED`, `LINED` | who has it |
//! | | | `SLEEPING` | its thread |
//! | `SLEEPING` | the same; its thread looks at its parker only | | |
//! | `SERVED` | it has been run | gone | its thread |
//! | `LINED` | it stands in line, at `place` | as any request | its thread |
//!
//! Whoever takes the stack has all submissions on it, and nobody else touches these but through
//! `status`, until it is written. The next one is read before that, because it is the last access:
//! the frame may be gone then. A sleeping thread is told by its parker, of which a reference is
//! taken before.

#![allow(unsafe_code)]

use std::ptr;

use crate::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use crate::sync::cell::UnsafeCell;
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::Arc;
use crate::sync::{hint, mutant};
use crate::waiter::{Key, OwnParker, Parker, Signal, Wakes};

use super::core::{Contents, Core, Outcome, Shard};
use super::hold::Hold;
use super::operation::{InLine, Operation};
use super::wait::{Ended, Place, Refusal};
use super::word::{Id, Post};

const WAITING: u32 = 0;
const SLEEPING: u32 = 1;
const SERVED: u32 = 2;
const LINED: u32 = 3;

/// How often a thread looks for the news before it sleeps: some two microseconds, a few short
/// operations' time. With more threads than processors, who looks for longer keeps the processor
/// from a holder that has lost its own.
const LOOKS: usize = 80;

/// How many pauses a thread makes before it hands an operation over: a microsecond or so, in which
/// a thread that runs hot does several of its own. One that comes from another processor costs it
/// half as much again, because its cache lines have to come as well.
const PAUSES: usize = 64;

/// An operation that its thread has handed over.
///
/// In this order: what the holder needs is on one cache line, which it has for itself from when it
/// takes the operation on until it tells.
#[repr(C, align(64))]
pub(super) struct Submission {
    status: AtomicU32,
    id: Id,
    inner: UnsafeCell<Inner>,
    since: Instant,
    parker: OwnParker,
}

#[repr(C)]
struct Inner {
    next: *const Submission,
    operation: Option<Operation>,
    /// Where it stands in line, and the number that its hold will have.
    place: Option<(Key, u64)>,
}

/// How far a submission has come, for its thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Waiting,
    Served,
    Lined,
}

impl Submission {
    pub(super) fn new(id: Id, since: Instant, parker: OwnParker, operation: Operation) -> Self {
        Self {
            status: AtomicU32::new(WAITING),
            id,
            since,
            parker,
            inner: UnsafeCell::new(Inner {
                next: ptr::null(),
                operation: Some(operation),
                place: None,
            }),
        }
    }

    #[inline]
    pub(super) fn status(&self) -> Status {
        match self.status.load(Ordering::Acquire) {
            SERVED => Status::Served,
            LINED => Status::Lined,
            _ => Status::Waiting,
        }
    }

    /// From here on the news comes by the parker. `false`: there is some already.
    pub(super) fn sleeps(&self) -> bool {
        // Release: who tells the parker has seen that this thread has prepared it.
        self.status
            .compare_exchange(WAITING, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Where it stands in line, and the number of its hold. For its thread, under the shard's lock
    /// or after the news that it is there.
    pub(super) fn place(&self) -> Option<(Key, u64)> {
        // SAFETY: `place` is written under the shard's lock, or before the news, by one who then
        // leaves the submission alone.
        self.inner.with_mut(|inner| unsafe { (*inner).place })
    }
}

/// The submissions of a word.
#[derive(Debug)]
pub(super) struct Stack(AtomicPtr<Submission>);

impl Stack {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Hands a submission over.
    ///
    /// # Safety
    ///
    /// It stays where it is until it is served, or has been taken out of line.
    pub(super) unsafe fn push(&self, submission: &Submission) {
        let pointer = ptr::from_ref(submission).cast_mut();
        let mut first = self.0.load(Ordering::Relaxed);
        loop {
            submission.inner.with_mut(|inner| {
                // SAFETY: nobody else knows the submission before the step below.
                unsafe { (*inner).next = first };
            });
            // Release: who takes the stack finds the submission as it was written.
            match self
                .0
                .compare_exchange(first, pointer, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Takes all submissions, to be gone through from the oldest on.
    pub(super) fn take(&self) -> Batch {
        let mut newest = self.0.swap(ptr::null_mut(), Ordering::Acquire).cast_const();
        let mut oldest: *const Submission = ptr::null();
        // SAFETY: a submission that was pushed stays until it is served, and it is in no other
        // hands.
        while let Some(submission) = unsafe { newest.as_ref() } {
            let this = newest;
            submission.inner.with_mut(|inner| {
                // SAFETY: as above.
                newest = unsafe { std::mem::replace(&mut (*inner).next, oldest) };
            });
            oldest = this;
        }
        Batch(oldest)
    }
}

/// Submissions that were taken, oldest first. Each must be served or put in line.
pub(super) struct Batch(*const Submission);

/// One of them.
pub(super) struct Taken(*const Submission);

impl Batch {
    /// Takes the oldest off.
    pub(super) fn pop(&mut self) -> Option<Taken> {
        // SAFETY: as in `Stack::take`: it has not been told yet.
        let submission = unsafe { self.0.as_ref() }?;
        let this = self.0;
        submission.inner.with_mut(|inner| {
            // SAFETY: as above.
            self.0 = unsafe { (*inner).next };
        });
        Some(Taken(this))
    }
}

impl Taken {
    fn get(&self) -> &Submission {
        // SAFETY: it has not been told yet, so its thread waits in the frame where it stands.
        unsafe { &*self.0 }
    }

    pub(super) fn id(&self) -> Id {
        self.get().id
    }

    pub(super) fn since(&self) -> Instant {
        self.get().since
    }

    pub(super) fn parker(&self) -> &Arc<Parker> {
        &self.get().parker
    }

    /// The operation, once.
    pub(super) fn operation(&self) -> Option<Operation> {
        // SAFETY: it is in nobody else's hands.
        let take = |inner: *mut Inner| unsafe { (*inner).operation.take() };
        self.get().inner.with_mut(take)
    }

    /// Tells its thread that it has been run. The wake, if it sleeps, is left to the caller.
    pub(super) fn served(self, wakes: &mut Wakes<Outcome>) {
        let submission = self.get();
        // Release: its thread sees what the operation did, and its result.
        let told = submission.status.compare_exchange(
            WAITING,
            SERVED,
            Ordering::Release,
            Ordering::Acquire,
        );
        if told.is_err() && !mutant::enabled("submission-served-unsaid") {
            let parker = Arc::clone(&submission.parker);
            wakes.signal(&parker, Signal::Served);
        }
    }

    /// Tells its thread that it stands in line. Under the shard's lock: the news that comes by the
    /// parker comes later.
    pub(super) fn lined(self, key: Key, number: u64) {
        let submission = self.get();
        submission.inner.with_mut(|inner| {
            // SAFETY: it is in nobody else's hands.
            unsafe { (*inner).place = Some((key, number)) };
        });
        // Who sleeps hears by the parker what comes of it.
        let _ = submission.status.compare_exchange(
            WAITING,
            LINED,
            Ordering::Release,
            Ordering::Relaxed,
        );
    }
}

impl Core {
    /// Hands `operation` over to whoever holds the latch, and waits until it has been run; or comes
    /// back with the latch, for running it. `work` is what to do with the latch where nobody holds
    /// it: everything that was handed over.
    #[cold]
    pub(super) fn hand_over(
        &self,
        place: Place<'_>,
        operation: Operation,
        work: impl FnOnce(Hold),
    ) -> Result<Ended, Refusal> {
        let id = place.id;
        let shard = self.shard(id);
        let since = now();
        for () in hint::spins(true).take(PAUSES) {
            hint::spin_loop();
        }
        if let Some(hold) = self.try_take(id) {
            self.waited(place, since);
            return Ok(Ended::Granted(hold));
        }
        let parker = Parker::current();
        parker.prepare();
        let submission = Submission::new(id, since, parker, operation);
        let in_line = InLine;
        shard.posted.add(1);
        // SAFETY: the submission stays in this frame, which is left after the news only: that it
        // has been served, or that it stood in line and does so no more.
        unsafe { shard.word(id).stack.push(&submission) };
        match shard.word(id).post(id) {
            Post::Told => {}
            Post::Taken(number) => work(Hold { id, number }),
            Post::Crowded => self.line_up_all(shard, id, |_, _| ()),
        }
        let outcome = self.await_news(place, &submission);
        in_line.end();
        // Otherwise it was counted in line since.
        if submission.place().is_none() {
            shard.posted.sub(1);
        }
        self.waited(place, since);
        outcome
    }

    fn await_news(&self, place: Place<'_>, submission: &Submission) -> Result<Ended, Refusal> {
        for () in hint::spins(true).take(LOOKS) {
            if submission.status() != Status::Waiting {
                break;
            }
            hint::spin_loop();
        }
        let parker: &Parker = &submission.parker;
        let lined = if submission.status() == Status::Waiting && submission.sleeps() {
            loop {
                let next_look = now().checked_add(self.sweep_every);
                match parker.park(next_look, false) {
                    Some(Signal::Served) => return Ok(Ended::Served),
                    Some(_) => break submission.place(),
                    None => {
                        let Place { at, id, .. } = place;
                        let shard = self.shard(id);
                        let lined = self.line_up_all(shard, id, |contents, wakes| {
                            if self.take_over(at, shard, contents, id) {
                                self.offer(shard, contents, id, None, wakes);
                            }
                            submission.place()
                        });
                        if lined.is_some() {
                            break lined;
                        }
                    }
                }
            }
        } else if submission.status() == Status::Lined {
            submission.place()
        } else {
            return Ok(Ended::Served);
        };
        let (key, number) = lined.expect("who is told anything else stands in line");
        let id = place.id;
        self.wait_in_line(place, key, Hold { id, number }, parker, None, true)
    }

    /// Puts what was handed over in line, and goes on to `then` under the same lock.
    fn line_up_all<R>(
        &self,
        shard: &Shard,
        id: Id,
        then: impl FnOnce(&mut Contents, &mut Wakes<Outcome>) -> R,
    ) -> R {
        let mut wakes = Wakes::new();
        let result = {
            let contents = &mut *shard.contents.lock();
            self.crowd(shard, contents, id, &mut wakes);
            then(contents, &mut wakes)
        };
        wakes.deliver_by_dispatcher();
        result
    }
}
