//! The embedded store: a sharded hash table.
//!
//! A key belongs to one of the shards by bits of its hash. A shard is a table of slots under a
//! reader-writer lock that is held for a lookup and never longer: user code, large copies and
//! frees happen outside.
//!
//! Why a reader never sees half a change: slots change under the write lock only, and a value
//! that a reader took along is immutable. Why no change is lost: the caller's latch makes it the
//! key's only writer, so what `load` saw is still there at `publish`, unless the table was cleared,
//! which the epoch tells.
//!
//! Each shard indexes its deadlines in order, so that expiry looks at nothing that has not
//! expired. Operations over several keys lock their shards in ascending order, each once.

mod table;

use std::fmt;
use std::mem;
use std::panic::{RefUnwindSafe, UnwindSafe};

use self::table::{Cursor, Left, Number, Table};
use super::error::StoreError;
use super::list::List;
use super::store::{Effect, Key, KeyHasher, Record, Seen, Store};
use super::value::Bytes;
use crate::sync::lock::RwLock;
use crate::sync::mutant;
use crate::sync::unmodelled::{Arc, AtomicU64, Ordering};

/// Shards by default; a power of two, as is every count.
///
/// What they are for is the operation that meets a full table and moves its slots. With ten million
/// keys in 256 shards it moves 28,672 of them and has taken 15 to 20 ms of a loaded processor; in
/// 1,024 shards 7,168, and 1.3 to 3.7 ms. With 4,096 the fill was slower and the longest operation
/// no shorter, and a look at every shard's gauges costs four times as much.
const SHARDS: usize = 1024;

/// The most shards that there may be: a cursor has room for them.
const MAX_SHARDS: usize = 1 << 12;

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
    /// `table.slots.len()`, `table.deadlines.len()` and `table.memory()`, to be read without a lock.
    len: AtomicU64,
    expiring: AtomicU64,
    memory: AtomicU64,
}

impl Shard {
    fn new(hasher: Arc<KeyHasher>) -> Self {
        Self {
            table: RwLock::new(Table::new(hasher)),
            len: AtomicU64::new(0),
            expiring: AtomicU64::new(0),
            memory: AtomicU64::new(0),
        }
    }

    #[inline]
    fn count(&self, table: &Table) {
        self.len.store(table.slots.len() as u64, Ordering::Relaxed);
        let expiring = table.deadlines.len() as u64;
        if self.expiring.load(Ordering::Relaxed) != expiring {
            self.expiring.store(expiring, Ordering::Relaxed);
        }
        self.memory.store(table.memory(), Ordering::Relaxed);
    }

    /// Does after the lock what `apply` left.
    #[inline(always)]
    fn finish(&self, key: Key<'_>, left: Left<'_>, seen: Seen) {
        if !matches!(left, Left::Nothing | Left::Drop(_)) {
            self.copy(key, left, seen);
        }
    }

    /// Makes a long change on a copy. Readers see the old value until it is made; the key's latch
    /// keeps writers away.
    #[cold]
    fn copy(&self, key: Key<'_>, left: Left<'_>, seen: Seen) {
        let new = match left {
            Left::Nothing | Left::Drop(_) => return,
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
        self.publish(key, Effect::put(new), seen);
    }

    /// Publishes a number where a number is. `false`: it is something else, and nothing was done.
    #[inline(always)]
    fn publish_number(&self, key: Key<'_>, number: Number, seen: Seen) -> bool {
        let mut table = self.table.write();
        if !table.has_epoch_of(seen) {
            return true;
        }
        let place = table.place_again(key, seen);
        table.put_number(place, number)
    }

    #[inline(never)]
    fn publish(&self, key: Key<'_>, mut effect: Effect<'_>, seen: Seen) {
        let mut table = self.table.write();
        if !table.has_epoch_of(seen) {
            return;
        }
        let place = table.place_again(key, seen);
        let left = table.apply(key, place, &mut effect);
        self.count(&table);
        drop(table);
        self.finish(key, left, seen);
    }
}

impl MemStore {
    /// An empty store. It allocates 128 kilobytes; tables come with their first keys.
    ///
    /// ```
    /// use latchwork::rmw::{MemStore, Store};
    ///
    /// assert!(MemStore::new().is_empty());
    /// ```
    pub fn new() -> Self {
        Self::with_shards(SHARDS)
    }

    /// An empty store of about so many shards: the next power of two, up to 4096. More of them keep
    /// a table's growth short and threads apart; each takes 128 bytes.
    ///
    /// ```
    /// use latchwork::rmw::{MemStore, Rmw};
    ///
    /// let small = Rmw::builder().store(MemStore::with_shards(1)).build();
    /// # drop(small);
    /// ```
    pub fn with_shards(shards: usize) -> Self {
        let shards = shards.clamp(1, MAX_SHARDS).next_power_of_two();
        let hasher = Arc::new(KeyHasher::unknown());
        let shard = |_| Shard::new(Arc::clone(&hasher));
        Self {
            shards: (0..shards).map(shard).collect(),
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

    /// The shards with deadlines, by their gauges. Who stores a deadline sets the gauge before it
    /// arms the sweep, and arming and the sweep's look meet in one read-modify-write: a look that
    /// came before the gauge is followed by another.
    fn with_deadlines(&self) -> impl Iterator<Item = &Shard> {
        let shards = self.shards.iter();
        shards.filter(|shard| shard.expiring.load(Ordering::Relaxed) > 0)
    }

    /// The shards of these keys, ascending, each once: the order in which they are locked.
    fn shards_of(&self, keys: &[Key<'_>]) -> Vec<usize> {
        let mut shards: Vec<_> = keys.iter().map(|key| self.index(key.hash)).collect();
        shards.sort_unstable();
        shards.dedup();
        shards
    }
}

/// The bytes that a key takes in a store: a slot, and what is behind the key and the value.
pub(super) fn memory_of(key: &[u8], record: &Record) -> u64 {
    let slot = size_of::<table::Slot>() as u64;
    slot + Bytes::from(key).heap() + record.value.heap()
}

fn position(shards: &[usize], shard: usize) -> usize {
    let found = shards.binary_search(&shard);
    found.expect("every key's shard is in the list")
}

impl Store for MemStore {
    fn hash_with(&mut self, hasher: KeyHasher) {
        let hasher = Arc::new(hasher);
        for shard in &self.shards {
            shard.table.write().hash_with(Arc::clone(&hasher));
        }
    }

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
        if let Some(number) = Number::put_by(&effect)
            && table.put_number(place, number)
        {
            return Ok(result);
        }
        // From here on the effect has an address; a number's has been in registers.
        let mut effect = effect;
        let left = table.apply(key, place, &mut effect);
        let seen = table.seen(None);
        shard.count(&table);
        drop(table);
        shard.finish(key, left, seen);
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
            let mut effect = decide(i, place.map(|place| table.at(place)));
            let mut left = table.apply(*key, place, &mut effect);
            // All or nothing at one moment: a long change has to be made here.
            match left {
                Left::Nothing | Left::Drop(_) => {}
                Left::Copy {
                    old,
                    deadline,
                    offset,
                    bytes,
                } => {
                    let new = Record::new(Bytes::overwritten(&old, offset, bytes), deadline);
                    effect = Effect::Put(new);
                    left = table.apply(*key, place, &mut effect);
                }
                Left::Edit { old, edit, .. } => {
                    drop(old);
                    left = table.edit(*key, place, edit, usize::MAX);
                }
            }
            displaced.push((effect, left));
            self.shards[shards[at]].count(table);
        }
        drop(locked);
        Ok(())
    }

    #[inline(always)]
    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R {
        let table = self.shard(key.hash).table.read();
        let place = table.place(key);
        let seen = table.seen(place);
        look(place.map(|place| table.at(place)), seen)
    }

    #[inline(always)]
    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError> {
        let shard = self.shard(key.hash);
        if let Some(number) = Number::put_by(&effect)
            && shard.publish_number(key, number, seen)
        {
            // A number has nothing to drop.
            mem::forget(effect);
            return Ok(());
        }
        shard.publish(key, effect, seen);
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        let mut locked: Vec<_> = self.shards.iter().map(|s| s.table.write()).collect();
        let mut displaced = Vec::with_capacity(locked.len());
        for (shard, table) in self.shards.iter().zip(&mut locked) {
            displaced.push(table.clear());
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

    fn memory(&self) -> u64 {
        let gauges = self.shards.iter().map(|s| s.memory.load(Ordering::Relaxed));
        gauges.sum::<u64>() + size_of_val(&*self.shards) as u64
    }

    /// Goes through the places of one shard after the other. A key keeps its place while the
    /// generation lasts. If slots have moved since the last call, the shard is gone through again,
    /// now in one call, so that no crowd of writers keeps a scan from its end.
    fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&Bytes, &Record)) -> u64 {
        let mut at = Cursor::read(cursor);
        let mut left = count.max(1);
        while left > 0 {
            let Some(shard) = self.shards.get(at.shard) else {
                return 0;
            };
            if shard.len.load(Ordering::Relaxed) == 0 {
                at = at.next_shard();
                continue;
            }
            let table = shard.table.read();
            let has_moved = at.place > 0 && at.generation != table.generation();
            if has_moved {
                at.place = 0;
            }
            let places = table.slots.num_buckets();
            let end = match has_moved {
                true => places,
                false => places.min(at.place.saturating_add(left)),
            };
            for place in at.place..end {
                if let Some(slot) = table.slots.get_bucket(place) {
                    visit(&slot.key, &slot.record);
                }
            }
            left = left.saturating_sub(end.saturating_sub(at.place));
            at = match end {
                _ if end >= places => at.next_shard(),
                place => Cursor {
                    place,
                    generation: table.generation(),
                    ..at
                },
            };
        }
        match at.shard < self.shards.len() {
            true => at.write(),
            false => 0,
        }
    }

    fn some_cursor(&self, random: u64) -> u64 {
        let shard = random as usize % self.shards.len();
        let table = self.shards[shard].table.read();
        let places = table.slots.num_buckets().max(1);
        let cursor = Cursor {
            shard,
            generation: table.generation(),
            place: (random >> 32) as usize % places,
        };
        cursor.write()
    }

    fn visit_expired(&self, now: u64, mut visit: impl FnMut(u64)) {
        let mut batch = Vec::new();
        for shard in self.with_deadlines() {
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
        while let Some(place) = table.expired(hash, now) {
            displaced.push(table.remove(place, hash));
        }
        shard.count(&table);
        drop(table);
        displaced.len() as u64
    }

    fn next_deadline(&self) -> Option<u64> {
        let firsts = self.with_deadlines().filter_map(|shard| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_a_pair_of_cache_lines() {
        assert_eq!(size_of::<Shard>(), 128);
    }
}
