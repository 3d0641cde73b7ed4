//! The shards of a latch table, and who gets a latch next.
//!
//! A key is its seeded 64-bit hash. A shard maps the hashes whose latch is held or waited for to an
//! [`Entry`], under one lock that is held for a lookup and a few writes; no user code runs under
//! it.
//!
//! | `holder` | line | the latch is | next |
//! |---|---|---|---|
//! | no entry | | free | held |
//! | a number | empty | held | no entry |
//! | a number | waiting | held, wanted | handed over if the oldest is due, else on offer |
//! | 0 | waiting | on offer: the oldest was told to try again, a newcomer may be faster | held |
//!
//! Every hold has a number of its own, given out by the shard: a release, a take-over and a leaked
//! guard's reclaim compare it, so none of them can take the latch from a fresh owner.
//!
//! A latch on offer goes to whoever comes first until the oldest waiter has waited [`PATIENCE`];
//! after that each release hands it over. Strict hand-off would cost a context switch an operation.

use std::time::Duration;

use crate::holder::bound::Claimed;
use crate::holder::claim::{Held, Thread};
use crate::holder::{OnLeak, anchor};
use crate::sync::lock::Mutex;
use crate::sync::mutant;
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::Arc;
use crate::waiter::{
    Callback, Counter, Gauge, Key, Line, PATIENCE, Parker, Recorder, Signal, Slab, Waiter, Wakes,
};

use super::entries::{Entries, Hashed};
use super::error::{LatchError, LatchTimeoutError};
use super::hold::Hold;

/// What a registered request is told.
pub(super) type Outcome = Result<Hold, LatchError>;

/// Why a latch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    TimedOut,
    Busy,
}

impl From<Refusal> for LatchTimeoutError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TimedOut => Self::TimedOut,
            Refusal::Busy => Self::Busy,
        }
    }
}

/// Without a deadline, nothing times out.
impl From<Refusal> for LatchError {
    fn from(_: Refusal) -> Self {
        Self::Busy
    }
}

struct Entry {
    hash: u64,
    /// The number of the hold; 0 while the latch is on offer.
    holder: u64,
    /// Whose claim list the hold stands on; `None` when it is detached.
    owner: Option<Thread>,
    line: Line,
}

impl Hashed for Entry {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }
}

struct Request {
    waiter: Waiter<Outcome>,
    /// The number that its hold will have.
    number: u64,
    owner: Option<Thread>,
    since: Instant,
    /// Told to try again, and not back yet.
    retries: bool,
}

struct Contents {
    entries: Entries<Entry>,
    waiting: Slab<Request>,
    numbered: u64,
}

/// Two cache lines apart, because the prefetcher fetches pairs.
#[repr(align(128))]
struct Shard {
    contents: Mutex<Contents>,
    held: Gauge,
    waiters: Gauge,
}

/// Counters that nothing synchronises through.
pub(super) struct Counters {
    pub(super) waits: Recorder,
    pub(super) hand_offs: Counter,
    pub(super) barges: Counter,
    pub(super) timeouts: Counter,
    pub(super) busy: Counter,
    pub(super) leaked: Counter,
}

pub(super) struct Core {
    shards: Box<[Shard]>,
    max_waiters: usize,
    /// How long a thread waits before it looks whether the holder's thread has ended.
    sweep_every: Duration,
    pub(super) name: Arc<str>,
    pub(super) on_leak: Option<OnLeak>,
    pub(super) counters: Counters,
}

impl anchor::Core for Core {
    fn is_idle(&self) -> bool {
        self.shards
            .iter()
            .all(|shard| shard.contents.lock().entries.is_empty())
    }
}

impl Contents {
    /// The entry that `hold` has, unless it has it no more.
    #[inline]
    fn entry_of(&mut self, hold: Hold) -> Option<&mut Entry> {
        self.entries.get_mut(hold.hash).filter(|entry| {
            entry.holder == hold.number || mutant::enabled("latch-release-without-compare")
        })
    }
}

// SAFETY: a hold has an entry until it is released, and a table with an entry is not idle.
#[allow(unsafe_code)]
unsafe impl Claimed for Core {
    type Told = Outcome;

    fn take_back(&self, held: Held) -> Option<Wakes<Outcome>> {
        let wakes = self.release_quietly(held.into())?;
        self.counters.leaked.add(1);
        Some(wakes)
    }

    fn amount(_held: Held) -> u64 {
        1
    }

    fn reports_to(&self) -> (&Arc<str>, Option<&OnLeak>) {
        (&self.name, self.on_leak.as_ref())
    }
}

impl Core {
    pub(super) fn new(
        shards: usize,
        max_waiters: usize,
        sweep_every: Duration,
        name: Arc<str>,
        on_leak: Option<OnLeak>,
    ) -> Self {
        let shard = || Shard {
            contents: Mutex::new(Contents {
                entries: Entries::new(),
                waiting: Slab::new(),
                numbered: 0,
            }),
            held: Gauge::new(),
            waiters: Gauge::new(),
        };
        Self {
            shards: std::iter::repeat_with(shard)
                .take(shards.next_power_of_two())
                .collect(),
            max_waiters,
            sweep_every,
            name,
            on_leak,
            counters: Counters {
                waits: Recorder::new(),
                hand_offs: Counter::new(),
                barges: Counter::new(),
                timeouts: Counter::new(),
                busy: Counter::new(),
                leaked: Counter::new(),
            },
        }
    }

    /// The map takes its buckets from the low bits and its tags from the top ones: these are
    /// neither.
    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }

    /// Takes a latch if that is fair without waiting.
    #[inline]
    pub(super) fn try_take(&self, hash: u64, owner: Option<Thread>) -> Option<Hold> {
        let shard = self.shard(hash);
        let contents = &mut *shard.contents.lock();
        self.take(shard, contents, hash, owner)
    }

    #[inline]
    fn take(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        hash: u64,
        owner: Option<Thread>,
    ) -> Option<Hold> {
        let number = contents.numbered + 1;
        match contents.entries.get_mut(hash) {
            None => contents.entries.insert(Entry {
                hash,
                holder: number,
                owner,
                line: Line::new(),
            }),
            Some(entry) => {
                if entry.holder != 0 {
                    return None;
                }
                let (_, oldest) = entry.line.front(&mut contents.waiting)?;
                if oldest.is_due(now()) && !mutant::enabled("latch-passes-for-ever") {
                    return None;
                }
                entry.holder = number;
                entry.owner = owner;
                self.counters.barges.add(1);
            }
        }
        contents.numbered = number;
        shard.held.add(1);
        Some(Hold { hash, number })
    }

    /// Waits for a latch until `deadline`. When it refuses, the latch was not taken and will not be.
    pub(super) fn take_or_wait(
        &self,
        hash: u64,
        owner: Thread,
        deadline: impl FnOnce() -> Option<Instant>,
    ) -> Result<Hold, Refusal> {
        match self.try_take(hash, Some(owner)) {
            Some(hold) => Ok(hold),
            None => self.wait(hash, owner, deadline()),
        }
    }

    #[cold]
    fn wait(&self, hash: u64, owner: Thread, deadline: Option<Instant>) -> Result<Hold, Refusal> {
        let shard = self.shard(hash);
        let since = now();
        let parker = Parker::current();
        let (key, hold) = {
            let contents = &mut *shard.contents.lock();
            if let Some(hold) = self.take(shard, contents, hash, Some(owner)) {
                return Ok(hold);
            }
            if deadline.is_some_and(|deadline| since >= deadline) {
                self.counters.timeouts.add(1);
                return Err(Refusal::TimedOut);
            }
            parker.prepare();
            let waiter = Waiter::Thread(parker.clone());
            self.join(shard, contents, hash, waiter, Some(owner), since)
                .map_err(|_| Refusal::Busy)?
        };
        let mut next_look = since.checked_add(self.sweep_every);
        let mut retried = false;
        let outcome = loop {
            let signal = parker.park(deadline.into_iter().chain(next_look).min(), retried);
            if signal == Some(Signal::Granted) {
                break Ok(hold);
            }
            let mut wakes = Wakes::new();
            let decided = {
                let contents = &mut *shard.contents.lock();
                if parker.news() == Some(Signal::Granted)
                    && !mutant::enabled("latch-timeout-keeps-grant")
                {
                    // Handed over on the way to the lock: a time-out comes too late.
                    Some(Ok(hold))
                } else if signal.is_none() && deadline.is_some_and(|time| now() >= time) {
                    self.leave(shard, contents, hash, key, &mut wakes);
                    self.counters.timeouts.add(1);
                    Some(Err(Refusal::TimedOut))
                } else {
                    if signal.is_none() {
                        self.take_over(shard, contents, hash);
                        next_look = now().checked_add(self.sweep_every);
                    }
                    parker.prepare();
                    if let Some(request) = contents.waiting.get_mut(key) {
                        request.retries = false;
                    }
                    self.offer(shard, contents, hash, Some(key), &mut wakes);
                    (parker.news() == Some(Signal::Granted)).then_some(Ok(hold))
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

    /// Puts a callback in line. It comes back if there is nothing to wait for, or no room to.
    pub(super) fn take_or_register(
        &self,
        hash: u64,
        callback: Callback<Outcome>,
    ) -> Result<Key, (Callback<Outcome>, Outcome)> {
        let shard = self.shard(hash);
        let contents = &mut *shard.contents.lock();
        if let Some(hold) = self.take(shard, contents, hash, None) {
            return Err((callback, Ok(hold)));
        }
        match self.join(
            shard,
            contents,
            hash,
            Waiter::Callback(callback),
            None,
            now(),
        ) {
            Ok((key, _)) => Ok(key),
            Err(Waiter::Callback(callback)) => Err((callback, Err(LatchError::Busy))),
            Err(Waiter::Thread(_)) => unreachable!("a callback was put in line"),
        }
    }

    /// Takes a registered request out of line, if it still stands there.
    pub(super) fn cancel(&self, hash: u64, key: Key) {
        let shard = self.shard(hash);
        let mut wakes = Wakes::new();
        let request = {
            let contents = &mut *shard.contents.lock();
            self.leave(shard, contents, hash, key, &mut wakes)
        };
        wakes.deliver();
        // The user's closure is dropped outside the lock.
        drop(request);
    }

    /// The latch is held, or on offer to somebody else: `waiter` gets in line, unless that is full.
    fn join(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        hash: u64,
        waiter: Waiter<Outcome>,
        owner: Option<Thread>,
        since: Instant,
    ) -> Result<(Key, Hold), Waiter<Outcome>> {
        let Contents {
            entries,
            waiting,
            numbered,
        } = contents;
        let entry = entries.get_mut(hash);
        let Some(entry) = entry.filter(|entry| entry.line.len() < self.max_waiters) else {
            self.counters.busy.add(1);
            return Err(waiter);
        };
        *numbered += 1;
        let number = *numbered;
        let request = Request {
            waiter,
            number,
            owner,
            since,
            retries: false,
        };
        let key = entry.line.push(waiting, request);
        shard.waiters.add(1);
        Ok((key, Hold { hash, number }))
    }

    /// Takes a request out of line without serving it; the next one may be waiting for the same
    /// offer.
    fn leave(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        hash: u64,
        key: Key,
        wakes: &mut Wakes<Outcome>,
    ) -> Option<Request> {
        contents.waiting.get_mut(key)?;
        let entry = contents.entries.get_mut(hash)?;
        let request = entry.line.remove(&mut contents.waiting, key)?;
        shard.waiters.sub(1);
        if !mutant::enabled("latch-timeout-swallows-offer") {
            self.offer(shard, contents, hash, None, wakes);
        }
        Some(request)
    }

    /// Gives a latch back, if `hold` still is the one that has it. Otherwise, nothing.
    #[inline]
    pub(super) fn release(&self, hold: Hold) {
        let shard = self.shard(hold.hash);
        {
            let contents = &mut *shard.contents.lock();
            let Some(entry) = contents.entry_of(hold) else {
                return;
            };
            if entry.line.is_empty() {
                contents.entries.remove(hold.hash);
                shard.held.sub(1);
                return;
            }
        }
        // The second look compares again: a sweep may have come in between.
        if let Some(wakes) = self.release_quietly(hold) {
            wakes.deliver();
        }
    }

    /// The same, and leaves the waking to the caller. `None`: the latch was somebody else's, or
    /// nobody's.
    #[cold]
    fn release_quietly(&self, hold: Hold) -> Option<Wakes<Outcome>> {
        let shard = self.shard(hold.hash);
        let contents = &mut *shard.contents.lock();
        let entry = contents.entry_of(hold)?;
        entry.holder = 0;
        entry.owner = None;
        shard.held.sub(1);
        let mut wakes = Wakes::new();
        if !mutant::enabled("latch-release-wakes-nobody") {
            self.offer(shard, contents, hold.hash, None, &mut wakes);
        }
        Some(wakes)
    }

    /// Finds a taker for a latch that nobody holds, or forgets it if nobody wants it. `present` is
    /// a request whose thread is here, and can take the latch without being called.
    fn offer(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        hash: u64,
        present: Option<Key>,
        wakes: &mut Wakes<Outcome>,
    ) {
        let Contents {
            entries, waiting, ..
        } = contents;
        let Some(entry) = entries.get_mut(hash).filter(|entry| entry.holder == 0) else {
            return;
        };
        let Some((key, oldest)) = entry.line.front(waiting) else {
            entries.remove(hash);
            return;
        };
        match &oldest.waiter {
            Waiter::Thread(parker) if present != Some(key) && !oldest.is_due(now()) => {
                if !oldest.retries {
                    oldest.retries = true;
                    wakes.signal(parker, Signal::Retry);
                }
            }
            // Due, here, or a callback, which cannot come back to try again.
            _ => {
                if let Some(request) = entry.line.remove(waiting, key) {
                    entry.holder = request.number;
                    entry.owner = request.owner;
                    shard.held.add(1);
                    shard.waiters.sub(1);
                    self.counters.hand_offs.add(1);
                    let hold = Hold {
                        hash,
                        number: request.number,
                    };
                    self.tell(request, hold, wakes);
                }
            }
        }
    }

    fn tell(&self, request: Request, hold: Hold, wakes: &mut Wakes<Outcome>) {
        match request.waiter {
            Waiter::Thread(parker) => wakes.signal(&parker, Signal::Granted),
            Waiter::Callback(callback) => {
                self.counters
                    .waits
                    .record(now().saturating_duration_since(request.since));
                wakes.call(callback, Ok(hold));
            }
        }
    }

    /// Binds a hold to a thread, or to none. `false`: it has been taken over.
    pub(super) fn bind(&self, hold: Hold, owner: Option<Thread>) -> bool {
        let contents = &mut *self.shard(hold.hash).contents.lock();
        contents
            .entry_of(hold)
            .map(|entry| entry.owner = owner)
            .is_some()
    }

    /// Takes the latch from a holder whose thread has ended. `false`: it has none such.
    fn take_over(&self, shard: &Shard, contents: &mut Contents, hash: u64) -> bool {
        let abandoned = contents
            .entries
            .get_mut(hash)
            .filter(|entry| entry.holder != 0 && entry.owner.is_some_and(Thread::has_ended));
        let Some(entry) = abandoned else {
            return false;
        };
        entry.holder = 0;
        entry.owner = None;
        shard.held.sub(1);
        self.counters.leaked.add(1);
        true
    }

    /// Takes over the latches that somebody waits for and whose owner's thread has ended. Returns
    /// how many.
    pub(super) fn sweep(&self) -> usize {
        let mut taken_over = 0;
        for shard in &self.shards {
            let mut wakes = Wakes::new();
            {
                let contents = &mut *shard.contents.lock();
                let wanted: Vec<u64> = contents
                    .entries
                    .iter()
                    .filter(|entry| !entry.line.is_empty())
                    .map(|entry| entry.hash)
                    .collect();
                for hash in wanted {
                    if self.take_over(shard, contents, hash) {
                        taken_over += 1;
                        self.offer(shard, contents, hash, None, &mut wakes);
                    }
                }
            }
            wakes.deliver();
        }
        taken_over
    }

    pub(super) fn held(&self) -> u64 {
        self.shards.iter().map(|shard| shard.held.get()).sum()
    }

    pub(super) fn waiters(&self) -> u64 {
        self.shards.iter().map(|shard| shard.waiters.get()).sum()
    }
}

impl Request {
    fn is_due(&self, time: Instant) -> bool {
        time.saturating_duration_since(self.since) >= PATIENCE
            && !mutant::enabled("latch-never-hands-over")
    }
}
