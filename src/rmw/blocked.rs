//! Who is blocked on which keys.
//!
//! A waiter stands in the line of each key that it waits for, oldest first. It gets in line under
//! the latches of its keys, having found nothing there, so whoever writes one of them later finds
//! it: the latch orders the two. From then on it is settled by one compare-and-swap.
//!
//! | the waiter is | next | by |
//! |---|---|---|
//! | waiting | claimed | whoever makes an element for it, before taking that out of the list |
//! | waiting | cancelled | its time-out, its `Pending` |
//! | claimed | told | whoever claimed it, outside the latches |
//!
//! So an element is taken for a waiter only when nobody else can settle it any more, and a
//! cancelled one takes nothing. Whoever claims it takes it out of all its lines; one that is
//! cancelled leaves them itself. Both happen under one lock, held for that alone.

use std::collections::BTreeMap;

use hashbrown::HashTable;

use super::error::{RmwError, StoreError};
use super::list::ListEnd;
use super::store::Key;
use super::value::Bytes;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::futex::{Futex, Wait};
use crate::sync::lock::Mutex;
use crate::sync::time::Instant;
use crate::sync::unmodelled::{Mutex as Slot, OnceLock};
use crate::sync::{Arc, mutant};
use crate::waiter::{Callback, Delivery, Key as Place, Line, Slab, dispatcher};

/// Places in lines at most; what would go beyond is refused.
const MAX_PLACES: usize = 1 << 24;

/// Keys are told apart by so many hints before the lines are looked at.
const HINTS: usize = 256;

/// A key that outlives the call that named it.
#[derive(Clone, Debug)]
pub(super) struct OwnedKey {
    pub(super) bytes: Bytes,
    pub(super) hash: u64,
}

impl OwnedKey {
    pub(super) fn as_key(&self) -> Key<'_> {
        Key {
            bytes: &self.bytes,
            hash: self.hash,
        }
    }
}

impl From<Key<'_>> for OwnedKey {
    fn from(key: Key<'_>) -> Self {
        Self {
            bytes: Bytes::from(key.bytes),
            hash: key.hash,
        }
    }
}

/// What a waiter wants of the first of its keys that is a list.
#[derive(Clone, Debug)]
pub(super) enum Want {
    Pop {
        end: ListEnd,
        count: u64,
    },
    Move {
        from: ListEnd,
        to: ListEnd,
        destination: OwnedKey,
    },
}

/// What a waiter got: the index of the key, and the elements.
pub(super) struct Popped {
    pub(super) index: usize,
    pub(super) values: Vec<Bytes>,
}

pub(super) type Outcome = Result<Popped, RmwError>;

/// A blocked call.
pub(super) struct Waiter {
    /// Each once, with its index among those that the call named.
    keys: Vec<(usize, OwnedKey)>,
    pub(super) want: Want,
    teller: Teller,
    /// In the lines of `keys`; set and read under the lock of the lines.
    places: OnceLock<Vec<Place>>,
}

/// How a waiter is settled and told.
enum Teller {
    Thread {
        state: Futex,
        outcome: Slot<Option<Outcome>>,
    },
    Callback {
        delivery: Arc<Delivery>,
        callback: Slot<Option<Callback<Outcome>>>,
    },
}

const WAITING: u32 = 0;
const CLAIMED: u32 = 1;
const TOLD: u32 = 2;
const CANCELLED: u32 = 3;

impl Waiter {
    fn new(keys: &[Key<'_>], want: Want, teller: Teller) -> Arc<Self> {
        let mut distinct: Vec<(usize, OwnedKey)> = Vec::with_capacity(keys.len());
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by_key(|&i| (keys[i].hash, keys[i].bytes));
        order.dedup_by_key(|i| (keys[*i].hash, keys[*i].bytes));
        order.sort_unstable();
        distinct.extend(order.into_iter().map(|i| (i, keys[i].into())));
        Arc::new(Self {
            keys: distinct,
            want,
            teller,
            places: OnceLock::new(),
        })
    }

    /// One whose thread sleeps.
    pub(super) fn thread(keys: &[Key<'_>], want: Want) -> Arc<Self> {
        let teller = Teller::Thread {
            state: Futex::new(WAITING),
            outcome: Slot::new(None),
        };
        Self::new(keys, want, teller)
    }

    /// One that is called.
    pub(super) fn callback(keys: &[Key<'_>], want: Want, callback: Callback<Outcome>) -> Arc<Self> {
        let teller = Teller::Callback {
            delivery: callback.delivery.clone(),
            callback: Slot::new(Some(callback)),
        };
        Self::new(keys, want, teller)
    }

    /// The index that the caller knows a key by.
    pub(super) fn index_of(&self, key: Key<'_>) -> usize {
        let found = self.keys.iter().find(|(_, own)| own.as_key() == key);
        found.map_or(0, |(index, _)| *index)
    }

    /// Settles it: it will be told. `false`: it was cancelled.
    fn claim(&self) -> bool {
        match &self.teller {
            Teller::Thread { state, .. } => leave_waiting(state, CLAIMED),
            Teller::Callback { delivery, .. } => begins_late() || delivery.begin(),
        }
    }

    /// Tells one that was claimed. Not under a latch: the callback runs.
    pub(super) fn tell(&self, outcome: Outcome) {
        match &self.teller {
            Teller::Thread { .. } => self.wake(outcome),
            Teller::Callback { callback, .. } => {
                let callback = callback.lock().take();
                match callback {
                    Some(callback) if begins_late() => callback.deliver(outcome),
                    Some(callback) => callback.deliver_begun(outcome),
                    None => {}
                }
            }
        }
    }

    fn wake(&self, told: Outcome) {
        if let Teller::Thread { state, outcome } = &self.teller {
            *outcome.lock() = Some(told);
            state.store(TOLD, Ordering::Release);
            state.wake_one();
        }
    }

    fn is_thread(&self) -> bool {
        matches!(self.teller, Teller::Thread { .. })
    }

    /// Sleeps until it is told. `None`: the deadline came first, and nothing will be taken for it.
    fn sleep(&self, deadline: Option<Instant>) -> Option<Outcome> {
        let Teller::Thread { state, outcome } = &self.teller else {
            return None;
        };
        loop {
            let now = state.load(Ordering::Acquire);
            if now == TOLD {
                return outcome.lock().take();
            }
            // Once claimed, the outcome is on its way.
            let deadline = deadline.filter(|_| now == WAITING);
            if state.wait(now, deadline) == Wait::TimedOut && leave_waiting(state, CANCELLED) {
                return None;
            }
        }
    }

    /// Settles one that never slept: it is not to be served. `false`: it is being served.
    pub(super) fn give_up(&self) -> bool {
        match &self.teller {
            Teller::Thread { state, .. } => leave_waiting(state, CANCELLED),
            Teller::Callback { delivery, .. } => delivery.begin(),
        }
    }
}

fn begins_late() -> bool {
    mutant::enabled("rmw-blocked-begins-late")
}

fn leave_waiting(state: &Futex, next: u32) -> bool {
    state
        .compare_exchange(WAITING, next, Ordering::AcqRel, Ordering::Acquire)
        .is_ok()
}

/// The line of one key.
struct KeyLine {
    key: OwnedKey,
    line: Line,
    /// Where its waiters want elements moved to, and how many of them.
    destinations: BTreeMap<Vec<u8>, (u64, usize)>,
}

struct Lines {
    keys: HashTable<KeyLine>,
    slab: Slab<Arc<Waiter>>,
    places: usize,
}

/// The blocked calls of one [`Rmw`](super::Rmw).
pub(super) struct Blocked {
    /// How many waiters there are. Whoever holds a key's latch sees those of that key.
    count: AtomicU64,
    /// The places in lines by bits of their key's hash: most writes look no further.
    hints: Box<[AtomicU64]>,
    lines: Mutex<Lines>,
}

impl Blocked {
    pub(super) fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            hints: (0..HINTS).map(|_| AtomicU64::new(0)).collect(),
            lines: Mutex::new(Lines {
                keys: HashTable::new(),
                slab: Slab::new(),
                places: 0,
            }),
        }
    }

    /// How many calls are blocked.
    #[inline]
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn hint(&self, hash: u64) -> &AtomicU64 {
        &self.hints[(hash >> 16) as usize % HINTS]
    }

    /// Whether somebody waits for the key, whose latch the caller holds.
    #[inline]
    pub(super) fn waits_for(&self, key: Key<'_>) -> bool {
        self.count() != 0 && self.looks_for(key.bytes, key.hash)
    }

    /// The parts of a key, which stay in registers: a whole one is passed in memory, and put there
    /// before it is known that it is needed.
    #[cold]
    #[inline(never)]
    fn looks_for(&self, bytes: &[u8], hash: u64) -> bool {
        let key = Key { bytes, hash };
        self.hint(hash).load(Ordering::Relaxed) != 0 && self.lines.lock().find(key).is_some()
    }

    /// Puts a waiter in line, under the latches of its keys and of its destination.
    pub(super) fn register(&self, waiter: &Arc<Waiter>) -> Result<(), RmwError> {
        let lines = &mut *self.lines.lock();
        if lines.places + waiter.keys.len() > MAX_PLACES {
            return Err(RmwError::Busy);
        }
        let places = waiter.keys.iter().map(|(_, key)| {
            self.hint(key.hash).fetch_add(1, Ordering::Relaxed);
            lines.join(key, waiter)
        });
        let places = places.collect();
        let _ = waiter.places.set(places);
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Takes a waiter out of its lines, if it is in any.
    pub(super) fn remove(&self, waiter: &Waiter) {
        let removed = self.leave(&mut self.lines.lock(), waiter, None);
        // Not under the lock: it may be the last reference, and the callback is the user's.
        drop(removed);
    }

    fn leave(&self, lines: &mut Lines, waiter: &Waiter, only: Option<Key<'_>>) -> Vec<Arc<Waiter>> {
        let places = waiter.places.get().map_or(&[][..], |places| places);
        let mut removed = Vec::new();
        for ((_, key), &place) in waiter.keys.iter().zip(places) {
            if only.is_some_and(|only| only != key.as_key()) {
                continue;
            }
            if let Some(waiter) = lines.leave(key, place, &waiter.want) {
                self.hint(key.hash).fetch_sub(1, Ordering::Relaxed);
                removed.push(waiter);
            }
        }
        if !removed.is_empty() {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// Claims the oldest waiter of a key, whose latch the caller holds.
    pub(super) fn claim_next(&self, key: Key<'_>) -> Option<Arc<Waiter>> {
        loop {
            let lines = &mut *self.lines.lock();
            let waiter = lines.oldest(key)?;
            let stays = mutant::enabled("rmw-blocked-stays-in-other-lines");
            let removed = self.leave(lines, &waiter, stays.then_some(key));
            let is_claimed = waiter.claim() || mutant::enabled("rmw-blocked-serves-the-cancelled");
            drop(removed);
            if is_claimed {
                return Some(waiter);
            }
        }
    }

    /// Where elements may go from these keys, one waiter after the other, without the keys
    /// themselves.
    pub(super) fn reach(&self, keys: &[Key<'_>]) -> Vec<OwnedKey> {
        if self.count() == 0 {
            return Vec::new();
        }
        let lines = &*self.lines.lock();
        let mut found: Vec<OwnedKey> = Vec::new();
        let mut next = 0;
        let mut from = keys.to_vec();
        loop {
            let fresh: Vec<OwnedKey> = from
                .iter()
                .filter_map(|key| lines.find(*key))
                .flat_map(|line| &line.destinations)
                .map(|(bytes, &(hash, _))| OwnedKey {
                    bytes: Bytes::from(bytes),
                    hash,
                })
                .collect();
            for key in fresh {
                let is_known = |known: Key<'_>| known == key.as_key();
                if !keys.iter().copied().any(is_known)
                    && !found.iter().any(|known| is_known(known.as_key()))
                {
                    found.push(key);
                }
            }
            if next == found.len() {
                return found;
            }
            from = found[next..].iter().map(OwnedKey::as_key).collect();
            next = found.len();
        }
    }

    /// Waits until a registered waiter is told, or takes it out of line at the deadline.
    pub(super) fn wait(&self, waiter: &Waiter, deadline: Option<Instant>) -> Option<Outcome> {
        let outcome = waiter.sleep(deadline);
        if outcome.is_none() {
            self.remove(waiter);
        }
        outcome
    }
}

impl Lines {
    fn find(&self, key: Key<'_>) -> Option<&KeyLine> {
        self.keys.find(key.hash, |line| line.key.as_key() == key)
    }

    fn oldest(&mut self, key: Key<'_>) -> Option<Arc<Waiter>> {
        let line = self.keys.find(key.hash, |line| line.key.as_key() == key)?;
        let (_, waiter) = line.line.front(&mut self.slab)?;
        Some(Arc::clone(waiter))
    }

    fn join(&mut self, key: &OwnedKey, waiter: &Arc<Waiter>) -> Place {
        let hash = key.hash;
        let entry = self.keys.entry(
            hash,
            |line| line.key.as_key() == key.as_key(),
            |line| line.key.hash,
        );
        let mut entry = entry.or_insert_with(|| KeyLine {
            key: key.clone(),
            line: Line::new(),
            destinations: BTreeMap::new(),
        });
        let line = entry.get_mut();
        if let Want::Move { destination, .. } = &waiter.want {
            let name = destination.bytes.to_vec();
            line.destinations
                .entry(name)
                .or_insert((destination.hash, 0))
                .1 += 1;
        }
        self.places += 1;
        line.line.push(&mut self.slab, Arc::clone(waiter))
    }

    fn leave(&mut self, key: &OwnedKey, place: Place, want: &Want) -> Option<Arc<Waiter>> {
        let found = self
            .keys
            .find_entry(key.hash, |line| line.key.as_key() == key.as_key());
        let mut entry = found.ok()?;
        let line = entry.get_mut();
        let removed = line.line.remove(&mut self.slab, place)?;
        if let Want::Move { destination, .. } = want
            && let Some((_, count)) = line.destinations.get_mut(&*destination.bytes)
        {
            *count -= 1;
            if *count == 0 {
                line.destinations.remove(&*destination.bytes);
            }
        }
        if line.line.is_empty() {
            entry.remove();
        }
        self.places -= 1;
        if self.places == 0 && self.keys.capacity() > HINTS {
            self.keys = HashTable::new();
        }
        Some(removed)
    }
}

/// The waiters that one transaction claimed, until they are told. Dropped before, they are told
/// that the store failed: their elements were not taken.
#[derive(Default)]
pub(super) struct Served(Vec<(Arc<Waiter>, Option<Outcome>)>);

impl Served {
    /// Adds a claimed waiter.
    pub(super) fn claimed(&mut self, waiter: &Arc<Waiter>) {
        self.0.push((Arc::clone(waiter), None));
    }

    /// What the last one added will be told.
    pub(super) fn gets(&mut self, outcome: Outcome) {
        if let Some((_, slot)) = self.0.last_mut() {
            *slot = Some(outcome);
        }
    }

    /// Tells them: first the threads, so that none sleeps on because of the user's code.
    pub(super) fn tell(mut self) {
        for (waiter, outcome) in &mut self.0 {
            if waiter.is_thread() {
                waiter.wake(outcome.take().unwrap_or_else(|| Err(failed())));
            }
        }
        for (waiter, outcome) in self.0.drain(..) {
            if let Some(outcome) = outcome {
                waiter.tell(outcome);
            }
        }
    }

    /// Nothing was taken for them: that is what they will be told.
    pub(super) fn fail(&mut self, error: &RmwError) {
        for (_, outcome) in &mut self.0 {
            *outcome = Some(Err(error.clone()));
        }
    }
}

fn failed() -> RmwError {
    let error = "the store panicked";
    RmwError::Store(StoreError::new(std::io::Error::other(error)))
}

impl Drop for Served {
    fn drop(&mut self) {
        // A panic is passing through, latches may be held: the library's thread runs callbacks.
        for (waiter, _) in self.0.drain(..) {
            match waiter.is_thread() {
                true => waiter.wake(Err(failed())),
                false => dispatcher::post(move || waiter.tell(Err(failed()))),
            }
        }
    }
}
