//! The state of a semaphore, and who gets the next permit.
//!
//! `state` is one word, so that there is one modification order to reason about:
//!
//! | bits | hold |
//! |---|---|
//! | 2..64 | available permits, signed: negative while `set_max` has left more running than it allows |
//! | 1 | `CLOSED` |
//! | 0 | `WAITERS`: the line is not empty |
//!
//! | step | how | ordering |
//! |---|---|---|
//! | take, nobody in line | CAS, if no flag is set | Acquire, pairs with the release |
//! | release | add; then, if `WAITERS` was set, serve the line | Release |
//! | take past the line | CAS, while the oldest waiter is young ([`PATIENCE`]) and the order is `Eventual` | Acquire |
//! | join, leave, serve, resize, close | under the queue's lock | the lock |
//!
//! `WAITERS` is set by a CAS on the word that showed too few permits, so a release comes either before it,
//! and is seen, or after it, and serves the line: no wake-up is lost. A permit that is released while somebody
//! waits is there for all to see, but a newcomer takes it only where it may pass the line.
//!
//! Only the head of the line is served. While it is young it is told to try again and competes
//! with newcomers; then, or from the start under `Fifo`, permits are handed to it, as many as there are, until it has all it wanted.
//! A request for more than `max` cannot be served by any release: it is parked aside, keeps its age, and comes back
//! when `set_max` makes it possible. Whoever leaves the line returns what it was handed, and that feeds the next.

use crate::holder::bound::Claimed;
use crate::holder::claim::Held;
use crate::holder::{OnLeak, anchor};
use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::time::{Instant, now};
use crate::sync::{hint, mutant, unmodelled};
use crate::waiter::{
    Callback, Counter, Gauge, Key, Line, PATIENCE, Parker, Recorder, Signal, Slab, Waiter, Wakes,
};

use super::{AcquireError, Fairness};

/// What the builder allows when nothing else is asked for, and the most it can: 2^48 - 1.
pub(super) const MOST_PERMITS: u64 = (1 << 48) - 1;

const WAITERS: u64 = 1;
const CLOSED: u64 = 2;
const FLAGS: u64 = WAITERS | CLOSED;
const SHIFT: u32 = 2;

fn available(state: u64) -> i64 {
    state as i64 >> SHIFT
}

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
    state: AtomicU64,
    max: AtomicU64,
    /// Odd while `state` and `max` are moved together.
    resizes: AtomicU64,
    /// When the oldest waiter came, in nanoseconds since `born`.
    oldest: AtomicU64,
    queue: Mutex<Queue>,
    pub(super) fairness: Fairness,
    pub(super) ceiling: u64,
    pub(super) tracks_holders: bool,
    pub(super) name: unmodelled::Arc<str>,
    pub(super) on_leak: Option<OnLeak>,
    pub(super) counters: Counters,
    born: Instant,
}

impl anchor::Core for Core {
    fn is_idle(&self) -> bool {
        let available = available(self.state.load(Ordering::Relaxed));
        available == self.max.load(Ordering::Relaxed) as i64
    }
}

// SAFETY: permits on a claim are taken, so `available` is below `max` until they are given back or
// forgotten, which lowers `max`; the claim has been released before either.
#[allow(unsafe_code)]
unsafe impl Claimed for Core {
    type Told = Outcome;

    fn take_back(&self, held: Held) -> Option<Wakes<Outcome>> {
        let mut wakes = Wakes::new();
        self.counters.leaked.add(held.first);
        if mutant::enabled("semaphore-leak-wakes-nobody") {
            self.state.fetch_add(held.first << SHIFT, Ordering::Release);
        } else {
            self.feed(&mut self.queue.lock(), held.first, None, &mut wakes);
        }
        Some(wakes)
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
    ) -> Self {
        Self {
            state: AtomicU64::new(permits << SHIFT),
            max: AtomicU64::new(permits),
            resizes: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
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
            born: now(),
        }
    }

    /// Takes `n` permits if nobody waits and nobody closed: the path without contention.
    #[inline]
    pub(super) fn take_uncontended(&self, n: u64) -> bool {
        let wanted = n << SHIFT;
        let mut state = self.state.load(Ordering::Relaxed);
        while state & FLAGS == 0 && state as i64 >= wanted as i64 {
            match self.state.compare_exchange_weak(
                state,
                state - wanted,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(seen) => state = seen,
            }
        }
        false
    }

    /// Takes `n` permits if that is fair without waiting.
    pub(super) fn try_take(&self, n: u64) -> Result<(), Refusal> {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            if state & CLOSED != 0 {
                return Err(Refusal::Closed);
            }
            if available(state) < n as i64 || (state & WAITERS != 0 && !self.may_barge()) {
                return Err(Refusal::NotNow);
            }
            match self.state.compare_exchange_weak(
                state,
                state - (n << SHIFT),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(()),
                Err(seen) => state = seen,
            }
        }
    }

    /// Whether a newcomer may pass the line: the oldest in it is still young.
    fn may_barge(&self) -> bool {
        self.fairness == Fairness::Eventual
            && self.nanos(now()) < self.oldest.load(Ordering::Relaxed) + PATIENCE.as_nanos() as u64
    }

    fn nanos(&self, time: Instant) -> u64 {
        time.saturating_duration_since(self.born).as_nanos() as u64
    }

    /// Waits for `n` permits until `deadline`. When it refuses, nothing was taken and nothing will be.
    #[cold]
    pub(super) fn take_or_wait(&self, n: u64, deadline: Option<Instant>) -> Result<(), Refusal> {
        let since = now();
        if deadline.is_some_and(|deadline| since >= deadline) {
            return self.try_take(n).inspect_err(|_| self.count_timeout());
        }
        for _ in 0..hint::SPINS {
            match self.try_take(n) {
                Err(Refusal::NotNow) => hint::spin_loop(),
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
            self.join(&mut queue, Waiter::Thread(parker.clone()), n, since)
        };
        let outcome = loop {
            let signal = parker.park(deadline);
            match signal {
                Some(Signal::Granted) => break Ok(()),
                Some(Signal::Refused) => break Err(Refusal::Closed),
                Some(Signal::Retry) | None => {}
            }
            let mut wakes = Wakes::new();
            let decided = {
                let mut queue = self.queue.lock();
                match parker.news() {
                    // Told while this thread was on its way to the lock: the time-out comes too late.
                    Some(Signal::Granted) if !mutant::enabled("semaphore-timeout-keeps-grant") => {
                        Some(Ok(()))
                    }
                    Some(Signal::Refused) => Some(Err(Refusal::Closed)),
                    _ if signal.is_some() => {
                        self.retry(&mut queue, key, &parker, &mut wakes);
                        (parker.news() == Some(Signal::Granted)).then_some(Ok(()))
                    }
                    _ => {
                        self.leave(&mut queue, key, &mut wakes);
                        self.count_timeout();
                        Some(Err(Refusal::NotNow))
                    }
                }
            };
            wakes.deliver();
            if let Some(decided) = decided {
                break decided;
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

    /// Takes `n`, or sets `WAITERS` on the very state that did not allow it.
    fn try_take_or_flag(&self, queue: &MutexGuard<'_, Queue>, n: u64) -> Result<(), Refusal> {
        let is_possible = n <= self.max.load(Ordering::Relaxed);
        loop {
            match self.try_take(n) {
                Err(Refusal::NotNow) => {}
                decided => return decided,
            }
            let state = self.state.load(Ordering::Relaxed);
            if !is_possible || state & WAITERS != 0 {
                return Err(Refusal::NotNow);
            }
            // A request behind nobody is refused for one reason only.
            if state & CLOSED == 0 && available(state) < n as i64 {
                debug_assert!(queue.line.is_empty());
                let flagged = self.state.compare_exchange(
                    state,
                    state | WAITERS,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                if flagged.is_ok() {
                    return Err(Refusal::NotNow);
                }
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
        if queue.line.is_empty() {
            self.oldest.store(self.nanos(since), Ordering::Relaxed);
        }
        queue.line.push(&mut queue.slab, request)
    }

    /// The head of the line is back from a [`Signal::Retry`].
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
        self.feed(queue, handed, None, wakes);
        Some(request)
    }

    /// Gives `n` permits back.
    #[inline]
    pub(super) fn give(&self, n: u64) {
        let order = if mutant::enabled("semaphore-relaxed-release") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        if self.state.fetch_add(n << SHIFT, order) & WAITERS != 0 {
            self.serve_waiters();
        }
    }

    #[cold]
    fn serve_waiters(&self) {
        let mut wakes = Wakes::new();
        self.feed(&mut self.queue.lock(), 0, None, &mut wakes);
        wakes.deliver();
    }

    /// Serves the line with `pool` permits that come from its caller and with those that are available, and
    /// makes the rest available. `present` is the head when it is the caller, and can take for itself.
    fn feed(
        &self,
        queue: &mut Queue,
        mut pool: u64,
        present: Option<Key>,
        wakes: &mut Wakes<Outcome>,
    ) {
        let time = now();
        while let Some((key, head)) = queue.line.front(&mut queue.slab) {
            let missing = head.wanted - head.got;
            let is_due = self.fairness == Fairness::Fifo
                || time.saturating_duration_since(head.since) >= PATIENCE;
            if is_due {
                let share = pool.min(missing);
                pool -= share;
                head.got += share + self.take_up_to(missing - share);
            } else {
                self.make_available(&mut pool);
                if present == Some(key) {
                    head.got += self.take_exactly(missing);
                } else if !head.retries
                    && available(self.state.load(Ordering::Relaxed)) >= missing as i64
                {
                    match &head.waiter {
                        Waiter::Thread(parker) => {
                            head.retries = true;
                            wakes.signal(parker, Signal::Retry);
                        }
                        // A callback cannot come back to compete: it is served here and now.
                        Waiter::Callback(_) => head.got += self.take_exactly(missing),
                    }
                }
            }
            if head.got < head.wanted {
                break;
            }
            if let Some(request) = queue.line.remove(&mut queue.slab, key) {
                self.grant(request, wakes);
            }
        }
        self.settle(queue, pool);
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

    fn make_available(&self, pool: &mut u64) {
        let permits = std::mem::take(pool);
        if permits > 0 {
            self.state.fetch_add(permits << SHIFT, Ordering::Release);
        }
    }

    /// Leaves `WAITERS` and `oldest` as the line is.
    fn settle(&self, queue: &mut Queue, mut pool: u64) {
        match queue.line.front(&mut queue.slab) {
            Some((_, head)) => {
                self.oldest.store(self.nanos(head.since), Ordering::Relaxed);
                self.make_available(&mut pool);
            }
            None => {
                let flag = self.state.load(Ordering::Relaxed) & WAITERS;
                let change = (pool << SHIFT).wrapping_sub(flag);
                if change != 0 {
                    self.state.fetch_add(change, Ordering::Release);
                }
            }
        }
    }

    /// Takes as many available permits as there are, up to `most`.
    fn take_up_to(&self, most: u64) -> u64 {
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let share = available(state).clamp(0, most as i64) as u64;
            if share == 0 {
                return 0;
            }
            match self.state.compare_exchange_weak(
                state,
                state - (share << SHIFT),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return share,
                Err(seen) => state = seen,
            }
        }
    }

    /// Takes `n` available permits, or none.
    fn take_exactly(&self, n: u64) -> u64 {
        let mut state = self.state.load(Ordering::Relaxed);
        while available(state) >= n as i64 {
            match self.state.compare_exchange_weak(
                state,
                state - (n << SHIFT),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return n,
                Err(seen) => state = seen,
            }
        }
        0
    }
}

/// What changes the number of permits, and what reads it.
impl Core {
    /// Sets the number of permits. Running ones stay.
    pub(super) fn set_max(&self, max: u64) {
        self.resize(|old, _| (max, max as i64 - old as i64));
    }

    /// Lowers the number of permits by `n` that are taken, and will not come back. What a cut by
    /// `set_max` is still owed is paid with them first.
    pub(super) fn forget(&self, n: u64) {
        self.resize(|old, available| {
            let paid = n.min(available.min(0).unsigned_abs());
            (old - (n - paid), paid as i64)
        });
    }

    /// Moves `max` and the available permits together: `change` is given both, and says the new `max`
    /// and by how much the available ones change.
    fn resize(&self, change: impl FnOnce(u64, i64) -> (u64, i64)) {
        let mut wakes = Wakes::new();
        {
            let mut queue = self.queue.lock();
            let Queue { slab, line, parked } = &mut *queue;
            let (max, more) = change(
                self.max.load(Ordering::Relaxed),
                available(self.state.load(Ordering::Relaxed)),
            );
            let mut pool = 0;
            line.move_to(parked, slab, |request| {
                request.parked = request.wanted > max;
                if request.parked {
                    pool += std::mem::take(&mut request.got);
                }
                request.parked
            });
            let unparks = !mutant::enabled("semaphore-resize-forgets-parked");
            parked.move_to(line, slab, |request| {
                request.parked = !unparks || request.wanted > max;
                !request.parked
            });
            // The line is flagged before the new permits show, so that no newcomer passes it unfairly.
            if let Some((_, head)) = line.front(slab) {
                self.oldest.store(self.nanos(head.since), Ordering::Relaxed);
                self.state.fetch_or(WAITERS, Ordering::Relaxed);
            }
            self.resizes.fetch_add(1, Ordering::AcqRel);
            self.state
                .fetch_add((more << SHIFT) as u64, Ordering::AcqRel);
            self.max.store(max, Ordering::Release);
            self.resizes.fetch_add(1, Ordering::AcqRel);
            self.feed(&mut queue, pool, None, &mut wakes);
        }
        wakes.deliver();
    }

    /// Refuses everybody in line, and everybody after.
    pub(super) fn close(&self) {
        let mut wakes = Wakes::new();
        {
            let mut queue = self.queue.lock();
            let queue = &mut *queue;
            if !mutant::enabled("semaphore-close-without-flag") {
                self.state.fetch_or(CLOSED, Ordering::Relaxed);
            }
            let mut pool = 0;
            for line in [&mut queue.line, &mut queue.parked] {
                while let Some((key, _)) = line.front(&mut queue.slab) {
                    let Some(request) = line.remove(&mut queue.slab, key) else {
                        break;
                    };
                    pool += request.got;
                    self.counters.waiters.sub(1);
                    match request.waiter {
                        Waiter::Thread(parker) => wakes.signal(&parker, Signal::Refused),
                        Waiter::Callback(callback) => {
                            wakes.call(callback, Err(AcquireError::Closed));
                        }
                    }
                }
            }
            self.settle(queue, pool);
        }
        wakes.deliver();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) & CLOSED != 0
    }

    pub(super) fn available(&self) -> u64 {
        available(self.state.load(Ordering::Relaxed)).max(0) as u64
    }

    pub(super) fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// How many permits are taken: `max - available` of one moment.
    pub(super) fn taken(&self) -> u64 {
        loop {
            let before = self.resizes.load(Ordering::Acquire);
            let max = self.max.load(Ordering::Acquire);
            let available = available(self.state.load(Ordering::Acquire));
            if before.is_multiple_of(2) && self.resizes.load(Ordering::Acquire) == before {
                return (max as i64 - available) as u64;
            }
            hint::spin_loop();
        }
    }
}
