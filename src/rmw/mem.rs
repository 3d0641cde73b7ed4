//! The embedded store: a sharded hash table.
//!
//! A key belongs to one of the shards by bits of its hash. A shard is a table of slots under a
//! reader-writer lock that is held for a lookup and never longer: user code, large copies and
//! frees happen outside. A slot is one cache line: key, hash, value and deadline.
//!
//! Why a reader never sees half a change: slots change under the write lock only, and a value
//! that a reader took along is immutable. Why no change is lost: the caller's latch makes it the
//! key's only writer, so what `load` saw is still there at `publish`, unless the table was cleared,
//! which the epoch tells.
//!
//! Each shard indexes its deadlines in order, so that expiry looks at nothing that has not
//! expired. Operations over several keys lock their shards in ascending order, each once.

use std::collections::BTreeSet;
use std::fmt;
use std::mem;
use std::panic::{RefUnwindSafe, UnwindSafe};

use hashbrown::HashTable;

use super::error::StoreError;
use super::list::{List, ListEdit};
use super::store::{Effect, Key, Record, Seen, Store};
use super::value::{Bytes, Value};
use crate::sync::lock::RwLock;
use crate::sync::mutant;
use crate::sync::unmodelled::{Arc, AtomicU64, Ordering};

/// Shards at least; a power of two, as is every count.
const SHARDS: usize = 256;

/// Bytes that an effect may copy under a shard's lock: a few hundred nanoseconds' worth.
const COPY_UNDER_LOCK: usize = 4096;

/// Steps that a change of a list may take under a shard's lock, beside the copy of one chunk.
const STEPS_UNDER_LOCK: usize = 256;

/// Keys whose expiry is collected under one hold of a shard's lock.
const EXPIRE_BATCH: usize = 64;

/// The embedded [`Store`]: everything in memory.
///
/// Keys of up to 22 bytes and values of up to 22 bytes live in the table itself, 64 bytes a key.
/// Memory follows the content: a shard shrinks when most of its keys are gone.
///
/// ```
/// use latchwork::rmw::{MemStore, Rmw};
///
/// let rmw = Rmw::builder().store(MemStore::new()).build();
/// rmw.set("key", "value")?;
/// assert_eq!(rmw.len(), 1);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
pub struct MemStore {
    shards: Box<[Shard]>,
}

// Two lines, because the hardware fetches lines in pairs.
#[repr(align(128))]
struct Shard {
    table: RwLock<Table>,
    /// `table.slots.len()` and `table.deadlines.len()`, to be read without a lock.
    len: AtomicU64,
    expiring: AtomicU64,
}

struct Table {
    slots: HashTable<Slot>,
    /// (deadline, hash) of every slot that has one.
    deadlines: BTreeSet<(u64, u64)>,
    /// How often this shard was cleared.
    epoch: u64,
}

struct Slot {
    key: Bytes,
    hash: u64,
    record: Record,
}

impl Slot {
    #[inline]
    fn is(&self, key: &[u8], hash: u64) -> bool {
        self.hash == hash && *self.key == *key
    }
}

/// What applying an effect left to do after the lock.
enum Left<'e> {
    /// To drop what was displaced.
    Drop(#[expect(dead_code, reason = "kept for its drop")] Option<Record>),
    /// To write a string that is too long to be copied under the lock.
    Copy {
        old: Bytes,
        deadline: Option<u64>,
        offset: usize,
        bytes: &'e [u8],
    },
    /// To change a list in more steps than may be taken under the lock.
    Edit {
        old: Arc<List>,
        deadline: Option<u64>,
        edit: ListEdit<'e>,
    },
}

impl Table {
    #[inline(always)]
    fn find(&self, Key { bytes, hash }: Key<'_>) -> Option<&Slot> {
        self.slots.find(hash, move |slot| slot.is(bytes, hash))
    }

    #[inline(always)]
    fn place(&self, Key { bytes, hash }: Key<'_>) -> Option<usize> {
        let is = move |slot: &Slot| slot.is(bytes, hash);
        self.slots.find_bucket_index(hash, is)
    }

    #[inline(always)]
    fn at(&self, place: usize) -> &Record {
        let slot = self.slots.get_bucket(place);
        &slot.expect("a place found under this lock is taken").record
    }

    #[inline(always)]
    fn at_mut(&mut self, place: usize) -> &mut Record {
        let slot = self.slots.get_bucket_mut(place);
        &mut slot.expect("a place found under this lock is taken").record
    }

    /// Applies an effect to the key, which is at `place` or missing.
    #[inline(always)]
    fn apply<'e>(&mut self, key: Key<'_>, place: Option<usize>, effect: Effect<'e>) -> Left<'e> {
        match (effect, place) {
            (Effect::Put(new), Some(place)) => {
                let now = new.expires_at();
                let old = mem::replace(self.at_mut(place), new);
                self.reindex(key.hash, old.expires_at(), now);
                Left::Drop(Some(old))
            }
            (Effect::Put(new), None) => self.insert(key, new),
            (Effect::Write { offset, bytes }, Some(place)) => self.write(place, offset, bytes),
            (Effect::Write { offset, bytes }, None) => self.write_new(key, offset, bytes),
            (Effect::List(edit), place) => self.edit(key, place, edit, STEPS_UNDER_LOCK),
            (Effect::Expire(at), Some(place)) => {
                let record = self.at_mut(place);
                let old = record.expires_at();
                record.set_expires_at(at);
                let now = record.expires_at();
                self.reindex(key.hash, old, now);
                Left::Drop(None)
            }
            (Effect::Delete, Some(place)) => Left::Drop(Some(self.remove(place))),
            (Effect::Keep, _) | (_, None) => Left::Drop(None),
        }
    }

    #[inline(never)]
    fn insert<'e>(&mut self, key: Key<'_>, record: Record) -> Left<'e> {
        self.reindex(key.hash, None, record.expires_at());
        let slot = Slot {
            key: Bytes::from(key.bytes),
            hash: key.hash,
            record,
        };
        self.slots.insert_unique(key.hash, slot, |slot| slot.hash);
        Left::Drop(None)
    }

    #[inline(never)]
    fn write_new<'e>(&mut self, key: Key<'_>, offset: usize, bytes: &'e [u8]) -> Left<'e> {
        if offset + bytes.len() <= COPY_UNDER_LOCK {
            let new = Bytes::overwritten(b"", offset, bytes);
            return self.insert(key, Record::new(new, None));
        }
        Left::Copy {
            old: Bytes::from(b""),
            deadline: None,
            offset,
            bytes,
        }
    }

    #[inline(never)]
    fn write<'e>(&mut self, place: usize, offset: usize, bytes: &'e [u8]) -> Left<'e> {
        let record = self.at_mut(place);
        if let Value::Integer(_) = record.value {
            record.value = Value::Bytes(Bytes::from(&*record.value.text()));
        }
        let deadline = record.expires_at();
        let Value::Bytes(old) = &mut record.value else {
            unreachable!("the caller has checked the type")
        };
        if old.write_in_place(offset, bytes, COPY_UNDER_LOCK) {
            return Left::Drop(None);
        }
        if old.len().max(offset + bytes.len()) <= COPY_UNDER_LOCK {
            let new = Record::new(Bytes::overwritten(old, offset, bytes), deadline);
            return Left::Drop(Some(mem::replace(record, new)));
        }
        Left::Copy {
            old: old.clone(),
            deadline,
            offset,
            bytes,
        }
    }

    /// Changes a list here if that takes no more than `budget` steps.
    #[inline(never)]
    fn edit<'e>(
        &mut self,
        key: Key<'_>,
        place: Option<usize>,
        edit: ListEdit<'e>,
        budget: usize,
    ) -> Left<'e> {
        let Some(place) = place else {
            let mut list = List::new();
            if edit.cost(&list, false) > budget {
                return Left::Edit {
                    old: Arc::new(list),
                    deadline: None,
                    edit,
                };
            }
            edit.apply_to(&mut list);
            return match list.is_empty() {
                true => Left::Drop(None),
                false => self.insert(key, Record::new(list, None)),
            };
        };
        let record = self.at_mut(place);
        let deadline = record.expires_at();
        let Value::List(list) = &mut record.value else {
            unreachable!("the caller has checked the type")
        };
        let is_shared = Arc::get_mut(list).is_none();
        if edit.cost(list, is_shared) > budget {
            let old = Arc::clone(list);
            return Left::Edit {
                old,
                deadline,
                edit,
            };
        }
        let list = Arc::make_mut(list);
        edit.apply_to(list);
        let is_empty = list.is_empty();
        Left::Drop(is_empty.then(|| self.remove(place)))
    }

    #[inline(never)]
    fn remove(&mut self, place: usize) -> Record {
        let entry = self.slots.get_bucket_entry(place);
        let (slot, _) = entry
            .unwrap_or_else(|_| unreachable!("a place found under this lock is taken"))
            .remove();
        if let Some(at) = slot.record.expires_at() {
            self.unindex(slot.hash, at);
        }
        self.shrink();
        slot.record
    }

    /// Gives memory back once seven eighths are unused; to twice the need, so that it takes as
    /// many changes again to pay for the next resize.
    fn shrink(&mut self) {
        let (len, capacity) = (self.slots.len(), self.slots.capacity());
        if capacity > 64 && len < capacity / 8 {
            self.slots.shrink_to(len * 2, |slot| slot.hash);
        }
    }

    #[inline(always)]
    fn reindex(&mut self, hash: u64, old: Option<u64>, new: Option<u64>) {
        if old == new {
            return;
        }
        if let Some(at) = old {
            self.unindex(hash, at);
        }
        if let Some(at) = new {
            self.deadlines.insert((at, hash));
        }
    }

    /// Takes a deadline out of the index, unless another key with the same hash has it too.
    #[inline(never)]
    fn unindex(&mut self, hash: u64, at: u64) {
        let shared = self
            .slots
            .iter_hash(hash)
            .any(|slot| slot.hash == hash && slot.record.expires_at() == Some(at));
        if !shared {
            self.deadlines.remove(&(at, hash));
        }
    }
}

impl Shard {
    fn new() -> Self {
        Self {
            table: RwLock::new(Table {
                slots: HashTable::new(),
                deadlines: BTreeSet::new(),
                epoch: 0,
            }),
            len: AtomicU64::new(0),
            expiring: AtomicU64::new(0),
        }
    }

    #[inline]
    fn count(&self, table: &Table) {
        self.len.store(table.slots.len() as u64, Ordering::Relaxed);
        let expiring = table.deadlines.len() as u64;
        if self.expiring.load(Ordering::Relaxed) != expiring {
            self.expiring.store(expiring, Ordering::Relaxed);
        }
    }

    /// Does after the lock what `apply` left.
    #[inline(always)]
    fn finish(&self, key: Key<'_>, left: Left<'_>, epoch: u64) {
        if !matches!(left, Left::Drop(_)) {
            self.copy(key, left, epoch);
        }
    }

    /// Makes a long change on a copy. Readers see the old value until it is made; the key's latch
    /// keeps writers away.
    #[cold]
    fn copy(&self, key: Key<'_>, left: Left<'_>, epoch: u64) {
        let new = match left {
            Left::Drop(_) => return,
            Left::Copy {
                old,
                deadline,
                offset,
                bytes,
            } => Record::new(Bytes::overwritten(&old, offset, bytes), deadline),
            Left::Edit {
                old,
                deadline,
                edit,
            } => {
                let mut list = List::clone(&old);
                edit.apply_to(&mut list);
                Record::new(list, deadline)
            }
        };
        let place = usize::MAX;
        self.publish(key, Effect::put(new), Seen { epoch, place });
    }

    #[inline(always)]
    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) {
        let mut table = self.table.write();
        if table.epoch != seen.epoch && !mutant::enabled("memstore-ignores-epoch") {
            return;
        }
        let place = match table.slots.get_bucket(seen.place) {
            Some(slot) if slot.is(key.bytes, key.hash) => Some(seen.place),
            _ => table.place(key),
        };
        let left = table.apply(key, place, effect);
        self.count(&table);
        drop(table);
        self.finish(key, left, seen.epoch);
    }
}

impl MemStore {
    /// An empty store. It allocates a few tens of kilobytes; tables come with their first keys.
    ///
    /// ```
    /// use latchwork::rmw::{MemStore, Store};
    ///
    /// assert!(MemStore::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::new()).collect(),
        }
    }

    /// The tables use a hash's lowest and highest bits; these are neither.
    #[inline]
    fn index(&self, hash: u64) -> usize {
        (hash >> 40) as usize & (self.shards.len() - 1)
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[self.index(hash)]
    }

    /// The shards of these keys, ascending, each once: the order in which they are locked.
    fn shards_of(&self, keys: &[Key<'_>]) -> Vec<usize> {
        let mut shards: Vec<_> = keys.iter().map(|key| self.index(key.hash)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

fn position(shards: &[usize], shard: usize) -> usize {
    let found = shards.binary_search(&shard);
    found.expect("every key's shard is in the list")
}

impl Store for MemStore {
    #[inline]
    fn view<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>) -> R) -> R {
        let table = self.shard(key.hash).table.read();
        look(table.find(key).map(|slot| &slot.record))
    }

    fn view_many(&self, keys: &[Key<'_>], mut look: impl FnMut(usize, Option<&Record>)) {
        let shards = self.shards_of(keys);
        let locked: Vec<_> = shards
            .iter()
            .map(|&i| self.shards[i].table.read())
            .collect();
        for (i, key) in keys.iter().enumerate() {
            let table = &locked[position(&shards, self.index(key.hash))];
            look(i, table.find(*key).map(|slot| &slot.record));
        }
    }

    #[inline(always)]
    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        let shard = self.shard(key.hash);
        let mut table = shard.table.write();
        let place = table.place(key);
        let (effect, result) = decide(place.map(|place| table.at(place)));
        if mutant::enabled("rmw-write-unprotected") {
            drop(table);
            table = shard.table.write();
        }
        let left = table.apply(key, place, effect);
        let epoch = table.epoch;
        shard.count(&table);
        drop(table);
        shard.finish(key, left, epoch);
        Ok(result)
    }

    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        mut decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError> {
        let shards = self.shards_of(keys);
        let mut displaced = Vec::with_capacity(keys.len());
        let mut locked: Vec<_> = shards
            .iter()
            .map(|&i| self.shards[i].table.write())
            .collect();
        for (i, key) in keys.iter().enumerate() {
            if mutant::enabled("memstore-many-one-by-one") {
                locked.clear();
                locked.extend(shards.iter().map(|&i| self.shards[i].table.write()));
            }
            let at = position(&shards, self.index(key.hash));
            let table = &mut *locked[at];
            let place = table.place(*key);
            let effect = decide(i, place.map(|place| table.at(place)));
            let mut left = table.apply(*key, place, effect);
            // All or nothing at one moment: a long change has to be made here.
            match left {
                Left::Drop(_) => {}
                Left::Copy {
                    old,
                    deadline,
                    offset,
                    bytes,
                } => {
                    let new = Record::new(Bytes::overwritten(&old, offset, bytes), deadline);
                    left = table.apply(*key, place, Effect::Put(new));
                }
                Left::Edit { old, edit, .. } => {
                    drop(old);
                    left = table.edit(*key, place, edit, usize::MAX);
                }
            }
            displaced.push(left);
            self.shards[shards[at]].count(table);
        }
        drop(locked);
        Ok(())
    }

    #[inline(always)]
    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R {
        let table = self.shard(key.hash).table.read();
        let place = table.place(key);
        let seen = Seen {
            epoch: table.epoch,
            place: place.unwrap_or(usize::MAX),
        };
        look(place.map(|place| table.at(place)), seen)
    }

    #[inline(always)]
    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError> {
        self.shard(key.hash).publish(key, effect, seen);
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        let mut locked: Vec<_> = self.shards.iter().map(|s| s.table.write()).collect();
        let mut displaced = Vec::with_capacity(locked.len());
        for (shard, table) in self.shards.iter().zip(&mut locked) {
            displaced.push((mem::take(&mut table.slots), mem::take(&mut table.deadlines)));
            table.epoch += 1;
            shard.count(table);
        }
        drop(locked);
        Ok(())
    }

    fn len(&self) -> u64 {
        let lens = self.shards.iter().map(|s| s.len.load(Ordering::Relaxed));
        lens.sum()
    }

    fn expiring(&self) -> u64 {
        let counts = self
            .shards
            .iter()
            .map(|s| s.expiring.load(Ordering::Relaxed));
        counts.sum()
    }

    fn visit_expired(&self, now: u64, mut visit: impl FnMut(u64)) {
        let mut batch = Vec::new();
        for shard in &self.shards {
            // Keys whose latch is held stay in the index; going on from the last one visited
            // keeps this finite.
            let mut from = (0, 0);
            loop {
                let table = shard.table.read();
                let due = table.deadlines.range(from..(now, 0));
                batch.extend(due.take(EXPIRE_BATCH).copied());
                drop(table);
                let Some(&(at, hash)) = batch.last() else {
                    break;
                };
                from = hash.checked_add(1).map_or((at + 1, 0), |hash| (at, hash));
                batch.drain(..).for_each(|(_, hash)| visit(hash));
            }
        }
    }

    fn remove_expired(&self, hash: u64, now: u64) -> u64 {
        let shard = self.shard(hash);
        let mut displaced = Vec::new();
        let mut table = shard.table.write();
        while let Some(place) = table.slots.find_bucket_index(hash, |slot| {
            slot.hash == hash && slot.record.is_expired(now)
        }) {
            displaced.push(table.remove(place));
        }
        shard.count(&table);
        drop(table);
        displaced.len() as u64
    }

    fn next_deadline(&self) -> Option<u64> {
        let firsts = self.shards.iter().filter_map(|shard| {
            let table = shard.table.read();
            table.deadlines.first().map(|&(at, _)| at)
        });
        firsts.min()
    }
}

// A closure that panics does so before its key is changed, and every key is whole by itself.
impl UnwindSafe for MemStore {}
impl RefUnwindSafe for MemStore {}

impl Default for MemStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemStore")
            .field("len", &self.len())
            .field("shards", &self.shards.len())
            .finish()
    }
}
