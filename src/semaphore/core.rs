//! Who gets the next permit.
//!
//! | step | how | ordering |
//! |---|---|---|
//! | take | CAS on the word, if neither `DUE` nor `CLOSED` is set | Acquire, pairs with the release |
//! | release | add to the word; then serve the line, if there is one and its head is not on its way | Release |
//! | join, leave, serve, resize, close | under the queue's lock | the lock |
//!
//! `WAITERS` is set by a CAS on the very word that showed too few permits, so a release comes
//! either before it, and is seen, or after it, and serves the line: no wake-up is lost.
//!
//! Only the head of the line is served. Under `Eventual` it is told to try again when enough
//! permits are there, and competes with newcomers; while it is on its way (`TOLD`), nobody tells it
//! twice. When it has waited for [`PATIENCE`] it is `DUE`, as it always is under `Fifo`: newcomers
//! may not pass it any more, and whatever is available is handed to it until it has all it wanted.
//! A waiter finds out by itself that it has become due, by a first sleep that is no longer than
//! that; it may not get a processor to, so one release in 256 looks for it.
//!
//! A request for more than `max` cannot be served by any release: it is parked aside, keeps its
//! age, and comes back when `set_max` makes it possible. Whoever leaves the line returns what it
//! was handed, and that feeds the next.

mod capacity;

use crate::holder::bound::{self, Claimed};
use crate::holder::claim::Held;
use crate::holder::{OnLeak, anchor};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::Arc;
use crate::sync::{hint, mutant, unmodelled};
use crate::waiter::{
    Callback, Counter, Gauge, Key, Line, PATIENCE, Parker, Recorder, Signal, Slab, Waiter, Wakes,
};
use std::ptr::NonNull;

use super::lease::Leases;
use super::state::{CLOSED, DUE, State, TOLD, WAITERS};
use super::{AcquireError, Fairness};

/// One release in so many looks after a head of the line that is on its way: the head finds out by
/// itself that it is due, but only once it gets a processor, and who runs hot may have them all.
const LOOK_EVERY: u64 = 256;

/// What a registered request is told: it owns what it wanted, or never will.
pub(super) type Outcome = Result<(), AcquireError>;

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Closed,
    /// Not without waiting; or not before the deadline.
    NotNow,
}

struct Request {
    waiter: Waiter<Outcome>,
    wanted: u64,
    /// Handed over already; only the head of the line has any.
    got: u64,
    since: Instant,
    /// Told to try again, and not back yet.
    retries: bool,
    parked: bool,
}

struct Queue {
    slab: Slab<Request>,
    line: Line,
    parked: Line,
}

/// Counters that nothing synchronises through.
pub(super) struct Counters {
    pub(super) waits: Recorder,
    pub(super) waiters: Gauge,
    pub(super) timeouts: Counter,
    pub(super) hand_offs: Counter,
    pub(super) leaked: Counter,
}

pub(super) struct Core {
    state: State,
    max: AtomicU64,
    /// Odd while `state` and `max` are moved together.
    resizes: AtomicU64,
    queue: Mutex<Queue>,
    pub(super) fairness: Fairness,
    pub(super) ceiling: u64,
    pub(super) tracks_holders: bool,
    pub(super) name: unmodelled::Arc<str>,
    pub(super) on_leak: Option<OnLeak>,
    pub(super) counters: Counters,
    pub(super) leases: Leases,
}

impl anchor::Core for Core {
    const KIND: &'static anchor::Kind = bound::kind::<Self>();

    fn is_idle(&self, _at: NonNull<()>) -> bool {
        let available = self.state.read(Ordering::Relaxed).available();
        available == self.max.load(Ordering::Relaxed) as i64
    }
}

// SAFETY: a claim holds permits, one at least and no more than there were, that are taken: so
// `available` is below `max` until they are given back or forgotten, which lowers `max`; the claim
// has been released before either.
#[allow(unsafe_code)]
unsafe impl Claimed for Core {
    type Told = Outcome;

    fn take_back(&self, held: Held, _tag: u64) -> Option<Wakes<Outcome>> {
        self.counters.leaked.add(held.first);
        Some(self.put_back(held.first))
    }

    fn amount(held: Held) -> u64 {
        held.first
    }

    fn reports_to(&self) -> (&unmodelled::Arc<str>, Option<&OnLeak>) {
        (&self.name, self.on_leak.as_ref())
    }
}

impl Core {
    pub(super) fn new(
        permits: u64,
        ceiling: u64,
        fairness: Fairness,
        tracks_holders: bool,
        name: unmodelled::Arc<str>,
        on_leak: Option<OnLeak>,
        leases: Leases,
    ) -> Self {
        Self {
            state: State::new(permits),
            max: AtomicU64::new(permits),
            resizes: AtomicU64::new(0),
            queue: Mutex::new(Queue {
                slab: Slab::new(),
                line: Line::new(),
                parked: Line::new(),
            }),
            fairness,
            ceiling,
            tracks_holders,
            name,
            on_leak,
            counters: Counters {
                waits: Recorder::new(),
                waiters: Gauge::new(),
                timeouts: Counter::new(),
                hand_offs: Counter::new(),
                leaked: Counter::new(),
            },
            leases,
        }
    }

    /// Takes `n` permits if they are there and that is fair.
    #[inline]
    pub(super) fn try_take(&self, n: u64) -> Result<(), Refusal> {
        match self.state.take(n, CLOSED | DUE) {
            Ok(()) => Ok(()),
            Err(state) if state.has(CLOSED) => Err(Refusal::Closed),
            // Nothing is there for everybody, whatever the line.
            Err(_) if n == 0 => Ok(()),
            Err(_) => Err(Refusal::NotNow),
        }
    }

    /// Waits for `n` permits until `deadline`. When it refuses, nothing was taken and nothing will
    /// be.
    #[cold]
    pub(super) fn take_or_wait(&self, n: u64, deadline: Option<Instant>) -> Result<(), Refusal> {
        let since = now();
        if deadline.is_some_and(|deadline| since >= deadline) {
            return self.try_take(n).inspect_err(|refusal| {
                if *refusal == Refusal::NotNow {
                    self.count_timeout();
                }
            });
        }
        for pauses in hint::backoff() {
            (0..pauses).for_each(|_| hint::spin_loop());
            match self.try_take(n) {
                Err(Refusal::NotNow) => {}
                decided => return decided,
            }
        }
        let parker = Parker::current();
        let key = {
            let mut queue = self.queue.lock();
            match self.try_take_or_flag(&queue, n) {
                Err(Refusal::NotNow) => {}
                decided => return decided,
            }
            parker.prepare();
            self.join(&mut queue, Waiter::Thread(Arc::clone(&parker)), n, since)
        };
        // The first sleep ends when the request becomes due.
        let mut patience = (self.fairness == Fairness::Eventual).then(|| since + PATIENCE);
        let mut retried = false;
        let outcome = loop {
            let signal = parker.park(deadline.into_iter().chain(patience).min(), retried);
            match signal {
                Some(Signal::Granted) => break Ok(()),
                Some(Signal::Refused) => break Err(Refusal::Closed),
                Some(Signal::Retry | Signal::Served) | None => {}
            }
            let mut wakes = Wakes::new();
            let decided = {
                let mut queue = self.queue.lock();
                match parker.news() {
                    // Told while this thread was on its way to the lock: a time-out comes too late.
                    Some(Signal::Granted) if !mutant::enabled("semaphore-timeout-keeps-grant") => {
                        Some(Ok(()))
                    }
                    Some(Signal::Refused) => Some(Err(Refusal::Closed)),
                    _ if signal.is_none() && deadline.is_some_and(|time| now() >= time) => {
                        self.leave(&mut queue, key, &mut wakes);
                        self.count_timeout();
                        Some(Err(Refusal::NotNow))
                    }
                    _ => {
                        patience = patience.filter(|_| signal.is_some());
                        self.retry(&mut queue, key, &parker, &mut wakes);
                        (parker.news() == Some(Signal::Granted)).then_some(Ok(()))
                    }
                }
            };
            retried = signal == Some(Signal::Retry);
            match decided {
                Some(decided) => {
                    wakes.deliver();
                    break decided;
                }
                // Still in line.
                None => wakes.deliver_by_dispatcher(),
            }
        };
        self.counters
            .waits
            .record(now().saturating_duration_since(since));
        outcome
    }

    fn count_timeout(&self) {
        self.counters.timeouts.add(1);
    }

    /// Puts a callback in line. It comes back with its outcome if that can be said at once.
    pub(super) fn take_or_register(
        &self,
        n: u64,
        callback: Callback<Outcome>,
    ) -> Result<Key, (Callback<Outcome>, Outcome)> {
        let since = now();
        let mut queue = self.queue.lock();
        match self.try_take_or_flag(&queue, n) {
            Ok(()) => Err((callback, Ok(()))),
            Err(Refusal::Closed) => Err((callback, Err(AcquireError::Closed))),
            Err(Refusal::NotNow) => Ok(self.join(&mut queue, Waiter::Callback(callback), n, since)),
        }
    }

    /// Takes a registered request out of line, if it still stands there.
    pub(super) fn cancel(&self, key: Key) {
        let mut wakes = Wakes::new();
        let request = {
            let mut queue = self.queue.lock();
            self.leave(&mut queue, key, &mut wakes)
        };
        wakes.deliver();
        // The user's closure is dropped outside the lock.
        drop(request);
    }

    /// Takes `n`, or sets `WAITERS` on the very word that did not allow it.
    fn try_take_or_flag(&self, queue: &MutexGuard<'_, Queue>, n: u64) -> Result<(), Refusal> {
        if n == 0 {
            return self.try_take(0);
        }
        let is_possible = n <= self.max.load(Ordering::Relaxed);
        loop {
            let Err(state) = self.state.take(n, CLOSED | DUE) else {
                return Ok(());
            };
            if state.has(CLOSED) {
                return Err(Refusal::Closed);
            }
            if !is_possible || state.has(WAITERS) {
                return Err(Refusal::NotNow);
            }
            debug_assert!(queue.line.is_empty());
            let flags = match self.fairness {
                Fairness::Fifo => WAITERS | DUE,
                Fairness::Eventual => WAITERS,
            };
            if self.state.flag(state, flags) || mutant::enabled("semaphore-waits-unflagged") {
                return Err(Refusal::NotNow);
            }
        }
    }

    fn join(&self, queue: &mut Queue, waiter: Waiter<Outcome>, wanted: u64, since: Instant) -> Key {
        let parked = wanted > self.max.load(Ordering::Relaxed);
        let request = Request {
            waiter,
            wanted,
            got: 0,
            since,
            retries: false,
            parked,
        };
        self.counters.waiters.add(1);
        if parked {
            return queue.parked.push(&mut queue.slab, request);
        }
        queue.line.push(&mut queue.slab, request)
    }

    /// A request's thread is back: it was told to try again, or has become due.
    fn retry(&self, queue: &mut Queue, key: Key, parker: &Arc<Parker>, wakes: &mut Wakes<Outcome>) {
        if let Some(request) = queue.slab.get_mut(key) {
            request.retries = false;
            parker.prepare();
            self.feed(queue, 0, Some(key), wakes);
        }
    }

    /// Takes a request out of line without serving it. What it had been handed feeds others.
    fn leave(&self, queue: &mut Queue, key: Key, wakes: &mut Wakes<Outcome>) -> Option<Request> {
        let is_parked = queue.slab.get_mut(key)?.parked;
        let line = if is_parked {
            &mut queue.parked
        } else {
            &mut queue.line
        };
        let request = line.remove(&mut queue.slab, key)?;
        self.counters.waiters.sub(1);
        let handed = if mutant::enabled("semaphore-timeout-keeps-share") {
            0
        } else {
            request.got
        };
        if !mutant::enabled("semaphore-timeout-swallows-turn") {
            self.feed(queue, handed, None, wakes);
        }
        Some(request)
    }

    /// Gives `n` permits back. `turn` counts the caller's releases, for [`LOOK_EVERY`].
    #[inline]
    pub(super) fn give(&self, n: u64, turn: u64) {
        let order = if mutant::enabled("semaphore-relaxed-release") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        let before = self.state.put(n, order);
        if before.has(WAITERS)
            && (before.has(DUE) || !before.has(TOLD) || hint::samples(turn, LOOK_EVERY))
        {
            self.serve_waiters();
        }
    }

    /// Gives back `n` permits that their holder did not, and leaves the wake-ups to the caller.
    pub(super) fn put_back(&self, n: u64) -> Wakes<Outcome> {
        let mut wakes = Wakes::new();
        if mutant::enabled("semaphore-leak-wakes-nobody") {
            self.state.put(n, Ordering::Release);
        } else {
            self.feed(&mut self.queue.lock(), n, None, &mut wakes);
        }
        wakes
    }

    #[cold]
    fn serve_waiters(&self) {
        let mut wakes = Wakes::new();
        self.feed(&mut self.queue.lock(), 0, None, &mut wakes);
        wakes.deliver();
    }

    /// Serves the line with `pool` permits that come from its caller and with those that are
    /// available, and makes the rest available. `present` is a request whose thread is here, and
    /// can take for itself.
    fn feed(
        &self,
        queue: &mut Queue,
        mut pool: u64,
        present: Option<Key>,
        wakes: &mut Wakes<Outcome>,
    ) {
        loop {
            let (flags, enough) = self.serve_heads(queue, &mut pool, present, wakes);
            let before = self.state.settle(std::mem::take(&mut pool), flags);
            // A release that came before this step went by the old flags, and may have left serving
            // the line to this thread.
            let enough = enough.filter(|_| !mutant::enabled("semaphore-settle-blindly"));
            if before.is_none_or(|before| enough.is_none_or(|n| before.available() < n)) {
                return;
            }
        }
    }

    /// Serves heads until one cannot be. Returns the flags that the line is left with, and how many
    /// permits would be enough to go on.
    fn serve_heads(
        &self,
        queue: &mut Queue,
        pool: &mut u64,
        present: Option<Key>,
        wakes: &mut Wakes<Outcome>,
    ) -> (u64, Option<i64>) {
        let time = now();
        while let Some((key, head)) = queue.line.front(&mut queue.slab) {
            let missing = head.wanted - head.got;
            let is_due = self.fairness == Fairness::Fifo
                || (time.saturating_duration_since(head.since) >= PATIENCE
                    && !mutant::enabled("semaphore-never-hands-over"));
            if is_due {
                let share = missing.min(*pool);
                *pool -= share;
                head.got += share + self.state.take_up_to(missing - share);
                if head.got < head.wanted {
                    return (WAITERS | DUE, Some(1));
                }
            } else {
                if *pool > 0 {
                    self.state.put(std::mem::take(pool), Ordering::Release);
                }
                match &head.waiter {
                    Waiter::Thread(parker) if present != Some(key) => {
                        let available = self.state.read(Ordering::Relaxed).available();
                        if !head.retries && available >= missing as i64 {
                            head.retries = true;
                            wakes.signal(parker, Signal::Retry);
                        }
                    }
                    // Here to compete; or a callback, which cannot come back to.
                    _ => {
                        if self.state.take(missing, 0).is_ok() {
                            head.got = head.wanted;
                        }
                    }
                }
                if head.retries {
                    return (WAITERS | TOLD, None);
                }
                if head.got < head.wanted {
                    return (WAITERS, Some(missing as i64));
                }
            }
            if let Some(request) = queue.line.remove(&mut queue.slab, key) {
                self.grant(request, wakes);
            }
        }
        (0, None)
    }

    fn grant(&self, request: Request, wakes: &mut Wakes<Outcome>) {
        self.counters.waiters.sub(1);
        self.counters.hand_offs.add(1);
        match request.waiter {
            Waiter::Thread(parker) => wakes.signal(&parker, Signal::Granted),
            Waiter::Callback(callback) => {
                self.counters
                    .waits
                    .record(now().saturating_duration_since(request.since));
                wakes.call(callback, Ok(()));
            }
        }
    }

    /// Refuses everybody in line, and everybody after.
    pub(super) fn close(&self) {
        self.refuse_all().deliver();
    }

    /// As [`close`](Self::close); who stood in line is told when the result is delivered.
    pub(super) fn refuse_all(&self) -> Wakes<Outcome> {
        let mut wakes = Wakes::new();
        {
            let mut queue = self.queue.lock();
            let queue = &mut *queue;
            if !mutant::enabled("semaphore-close-without-flag") {
                self.state.set(CLOSED);
            }
            let mut pool = 0;
            for line in [&mut queue.line, &mut queue.parked] {
                while let Some((key, _)) = line.front(&mut queue.slab) {
                    let Some(request) = line.remove(&mut queue.slab, key) else {
                        break;
                    };
                    if !mutant::enabled("semaphore-close-keeps-share") {
                        pool += request.got;
                    }
                    self.counters.waiters.sub(1);
                    match request.waiter {
                        Waiter::Thread(parker) => wakes.signal(&parker, Signal::Refused),
                        Waiter::Callback(callback) => {
                            wakes.call(callback, Err(AcquireError::Closed));
                        }
                    }
                }
            }
            self.state.settle(pool, 0);
        }
        wakes
    }

    /// Ends [`close`](Self::close). Whoever it has turned away has been told.
    #[cfg(feature = "flush")]
    pub(super) fn reopen(&self) {
        let _queue = self.queue.lock();
        self.state.clear(CLOSED);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.read(Ordering::Relaxed).has(CLOSED)
    }
}
