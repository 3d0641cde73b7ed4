//! One shard's table: what an effect does to it.
//!
//! A slot is one cache line: key, value, deadline, version. Everything here runs under the shard's
//! lock and costs little: what would not, a long copy or a free, is handed back as [`Left`].

use std::collections::BTreeSet;
use std::mem;

use hashbrown::HashTable;

use crate::rmw::list::{List, ListEdit};
use crate::rmw::store::{Effect, Key, KeyHasher, Record, Seen};
use crate::rmw::value::{Bytes, Value};
use crate::sync::mutant;
use crate::sync::unmodelled::Arc;

/// Bytes that an effect may copy under a shard's lock: a few hundred nanoseconds' worth.
const COPY_UNDER_LOCK: usize = 4096;

/// Steps that a change of a list may take under a shard's lock, beside the copy of one chunk.
const STEPS_UNDER_LOCK: usize = 256;

/// The keys of one shard.
pub(super) struct Table {
    pub(super) slots: HashTable<Slot>,
    /// (deadline, hash) of every slot that has one.
    pub(super) deadlines: BTreeSet<(u64, u64)>,
    /// How often this shard was cleared.
    pub(super) epoch: u32,
    /// How often slots have moved: a position says nothing about another generation's.
    generation: u32,
    /// How often slots have moved or were vacated: what was found at some place is there as long as
    /// this stays.
    upheavals: u32,
    /// Bytes behind the keys and values.
    heap: u64,
    /// The version that was given out last. It outlives keys and clears, so that no version comes
    /// twice.
    version: u64,
    /// One for all shards: the hasher itself takes two words.
    hasher: Arc<KeyHasher>,
}

/// A position in a scan: shard, generation of its table, place in that. Together they stay below
/// 2^63, for clients that know signed numbers only.
#[derive(Clone, Copy, Default)]
pub(super) struct Cursor {
    pub(super) shard: usize,
    pub(super) generation: u32,
    pub(super) place: usize,
}

impl Cursor {
    const PLACE_BITS: u32 = 32;
    const GENERATION_BITS: u32 = 16;
    const GENERATIONS: u32 = 1 << Self::GENERATION_BITS;

    pub(super) fn read(cursor: u64) -> Self {
        Self {
            shard: (cursor >> (Self::PLACE_BITS + Self::GENERATION_BITS)) as usize,
            generation: (cursor >> Self::PLACE_BITS) as u32 & (Self::GENERATIONS - 1),
            place: cursor as u32 as usize,
        }
    }

    pub(super) fn write(self) -> u64 {
        let high = (self.shard as u64) << Self::GENERATION_BITS | u64::from(self.generation);
        high << Self::PLACE_BITS | self.place as u64
    }

    pub(super) fn next_shard(self) -> Self {
        Self {
            shard: self.shard + 1,
            ..Self::default()
        }
    }
}

/// Bytes of the index an entry: two words, in nodes that are three quarters full or so.
const DEADLINE: usize = 24;

/// A key and its record. The hash is not kept: what needs it again is a resize, which computes it
/// from the key that it moves anyway.
///
/// Aligned, because a slot of one line's size that lies across two costs a read two misses.
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) key: Bytes,
    pub(super) record: Record,
}

impl Slot {
    #[inline]
    pub(super) fn is(&self, key: &[u8]) -> bool {
        same(&self.key, key)
    }
}

/// Whether two keys are equal. The lengths that most keys have are compared as two words that may
/// overlap, which is a third of what calling `memcmp` costs.
#[inline(always)]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (ends(a), ends(b)) {
        (Some(a), Some(b)) => (a.0 ^ b.0) | (a.1 ^ b.1) == 0,
        _ => a == b,
    }
}

/// The first and the last eight bytes of 8 to 16.
#[inline(always)]
fn ends(bytes: &[u8]) -> Option<(u64, u64)> {
    if bytes.len() > 16 {
        return None;
    }
    let (first, last) = (bytes.first_chunk()?, bytes.last_chunk()?);
    Some((u64::from_ne_bytes(*first), u64::from_ne_bytes(*last)))
}

/// A put of a number, read out of its effect before the lock is taken: an effect is five words, and
/// to move it while its fields are still being stored takes longer than the rest of the put.
#[derive(Clone, Copy)]
pub(super) struct Number {
    value: i64,
    expires_at: Option<u64>,
}

impl Number {
    /// The number that the effect puts, if it is one.
    #[inline(always)]
    pub(super) fn put_by(effect: &Effect<'_>) -> Option<Self> {
        match effect {
            Effect::Put(record) => match record.value {
                Value::Integer(value) => Some(Self {
                    value,
                    expires_at: record.expires_at(),
                }),
                _ => None,
            },
            _ => None,
        }
    }
}

/// What applying an effect left to do after the lock.
pub(super) enum Left<'e> {
    /// Nothing.
    Nothing,
    /// To drop what was removed.
    Drop(#[expect(dead_code, reason = "kept for its drop")] Record),
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
    pub(super) fn new(hasher: Arc<KeyHasher>) -> Self {
        Self {
            slots: HashTable::new(),
            deadlines: BTreeSet::new(),
            epoch: 0,
            generation: 0,
            upheavals: 0,
            heap: 0,
            version: 0,
            hasher,
        }
    }

    pub(super) fn hash_with(&mut self, hasher: Arc<KeyHasher>) {
        self.hasher = hasher;
    }

    #[inline(always)]
    pub(super) fn find(&self, Key { bytes, hash }: Key<'_>) -> Option<&Slot> {
        self.slots.find(hash, move |slot| slot.is(bytes))
    }

    #[inline(always)]
    pub(super) fn place(&self, Key { bytes, hash }: Key<'_>) -> Option<usize> {
        self.slots
            .find_bucket_index(hash, move |slot| slot.is(bytes))
    }

    /// What to know of the table to publish later at `place`.
    #[inline(always)]
    pub(super) fn seen(&self, place: Option<usize>) -> Seen {
        Seen {
            epoch: u64::from(self.epoch) << 32 | u64::from(self.upheavals),
            place: place.unwrap_or(usize::MAX),
        }
    }

    /// The key's place, of which it is known what was seen.
    #[inline(always)]
    pub(super) fn place_again(&self, key: Key<'_>, seen: Seen) -> Option<usize> {
        match seen.epoch as u32 == self.upheavals && seen.place != usize::MAX {
            true => Some(seen.place),
            false => self.place(key),
        }
    }

    /// Whether the shard has not been cleared since.
    #[inline(always)]
    pub(super) fn has_epoch_of(&self, seen: Seen) -> bool {
        self.epoch == (seen.epoch >> 32) as u32 || mutant::enabled("memstore-ignores-epoch")
    }

    /// Before slots move.
    fn moves_slots(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.upheavals = self.upheavals.wrapping_add(1);
    }

    #[inline(always)]
    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    #[inline(always)]
    pub(super) fn at(&self, place: usize) -> &Record {
        let slot = self.slots.get_bucket(place);
        &slot.expect("a place found under this lock is taken").record
    }

    #[inline(always)]
    fn at_mut(&mut self, place: usize) -> &mut Record {
        let slot = self.slots.get_bucket_mut(place);
        &mut slot.expect("a place found under this lock is taken").record
    }

    /// Puts a number where a number is, if that leaves the deadline as it is. `false`: it is
    /// something else, and nothing was done.
    ///
    /// This changes none of the shard's gauges, and displaces nothing.
    #[inline(always)]
    pub(super) fn put_number(&mut self, place: Option<usize>, new: Number) -> bool {
        let Some(place) = place else {
            return false;
        };
        let version = self.version + 1;
        let record = self.at_mut(place);
        let has_deadline = record.expires_at() == new.expires_at;
        match &mut record.value {
            Value::Integer(old) if has_deadline => *old = new.value,
            _ => return false,
        }
        record.set_version(version);
        self.version = version;
        true
    }

    /// Applies an effect to the key, which is at `place` or missing. What a put displaces takes the
    /// effect's place, to be dropped with it after the lock.
    #[inline(never)]
    pub(super) fn apply<'e>(
        &mut self,
        key: Key<'_>,
        place: Option<usize>,
        effect: &mut Effect<'e>,
    ) -> Left<'e> {
        if let (Effect::Put(new), Some(place)) = (&mut *effect, place) {
            new.set_version(self.next_version());
            let (now, heap) = (new.expires_at(), new.value.heap());
            let record = self.at_mut(place);
            mem::swap(record, new);
            self.heap = self.heap + heap - new.value.heap();
            self.reindex(key.hash, new.expires_at(), now);
            return Left::Nothing;
        }
        match (mem::replace(effect, Effect::Keep), place) {
            (Effect::Put(new), None) => self.insert(key, new),
            (Effect::Write { offset, bytes }, Some(place)) => self.write(place, offset, bytes),
            (Effect::Write { offset, bytes }, None) => self.write_new(key, offset, bytes),
            (Effect::List(edit), place) => self.edit(key, place, edit, STEPS_UNDER_LOCK),
            (Effect::Expire(at), Some(place)) => {
                let version = self.next_version();
                let record = self.at_mut(place);
                let old = record.expires_at();
                record.set_expires_at(at);
                record.set_version(version);
                let now = record.expires_at();
                self.reindex(key.hash, old, now);
                Left::Nothing
            }
            (Effect::Delete, Some(place)) => Left::Drop(self.remove(place, key.hash)),
            // A put with a place was applied above.
            (Effect::Keep | Effect::Put(_), _) | (_, None) => Left::Nothing,
        }
    }

    #[inline(never)]
    fn insert<'e>(&mut self, key: Key<'_>, mut record: Record) -> Left<'e> {
        record.set_version(self.next_version());
        self.reindex(key.hash, None, record.expires_at());
        let slot = Slot {
            key: Bytes::from(key.bytes),
            record,
        };
        self.heap += slot.key.heap() + slot.record.value.heap();
        let is_full = self.slots.len() == self.slots.capacity();
        if is_full {
            self.moves_slots();
        }
        let hasher = &self.hasher;
        let hash_of = |slot: &Slot| hasher.hash(&slot.key);
        if is_full {
            // Slots move here and nowhere else, so the generation counts real moves only.
            self.slots.reserve(1, hash_of);
        }
        self.slots.insert_unique(key.hash, slot, hash_of);
        Left::Nothing
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
        let version = self.next_version();
        let record = self.at_mut(place);
        let before = record.value.heap();
        if let Value::Integer(_) = record.value {
            record.value = Value::Bytes(Bytes::from(&*record.value.text()));
        }
        let deadline = record.expires_at();
        let Value::Bytes(old) = &mut record.value else {
            unreachable!("the caller has checked the type")
        };
        if old.write_in_place(offset, bytes, COPY_UNDER_LOCK) {
            record.set_version(version);
            return Left::Nothing;
        }
        if old.len().max(offset + bytes.len()) <= COPY_UNDER_LOCK {
            let mut new = Record::new(Bytes::overwritten(old, offset, bytes), deadline);
            new.set_version(version);
            let after = new.value.heap();
            let old = mem::replace(record, new);
            self.heap = self.heap + after - before;
            return Left::Drop(old);
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
    pub(super) fn edit<'e>(
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
                true => Left::Nothing,
                false => self.insert(key, Record::new(list, None)),
            };
        };
        let version = self.next_version();
        let record = self.at_mut(place);
        let deadline = record.expires_at();
        let before = record.value.heap();
        let Value::List(list) = &mut record.value else {
            unreachable!("the caller has checked the type")
        };
        let is_shared = Arc::strong_count(list) > 1;
        if edit.cost(list, is_shared) > budget {
            return Left::Edit {
                old: Arc::clone(list),
                deadline,
                edit,
            };
        }
        let list = Arc::make_mut(list);
        edit.apply_to(list);
        let is_empty = list.is_empty();
        record.set_version(version);
        let after = record.value.heap();
        self.heap = self.heap + after - before;
        match is_empty {
            true => Left::Drop(self.remove(place, key.hash)),
            false => Left::Nothing,
        }
    }

    #[inline(never)]
    pub(super) fn remove(&mut self, place: usize, hash: u64) -> Record {
        self.upheavals = self.upheavals.wrapping_add(1);
        let entry = self.slots.get_bucket_entry(place);
        let (slot, _) = entry
            .unwrap_or_else(|_| unreachable!("a place found under this lock is taken"))
            .remove();
        if let Some(at) = slot.record.expires_at() {
            self.unindex(hash, at);
        }
        self.heap -= slot.key.heap() + slot.record.value.heap();
        self.shrink();
        slot.record
    }

    /// Gives memory back once seven eighths are unused; to twice the need, so that it takes as
    /// many changes again to pay for the next resize.
    fn shrink(&mut self) {
        let (len, capacity) = (self.slots.len(), self.slots.capacity());
        if capacity > 8 && len < capacity / 8 {
            self.moves_slots();
            let hasher = &self.hasher;
            self.slots.shrink_to(len * 2, |slot| hasher.hash(&slot.key));
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
        let shared = self.slots.iter_hash(hash).any(|slot| {
            slot.record.expires_at() == Some(at) && self.hasher.hash(&slot.key) == hash
        });
        if !shared {
            self.deadlines.remove(&(at, hash));
        }
    }

    /// Takes everything out; versions go on.
    pub(super) fn clear(&mut self) -> (HashTable<Slot>, BTreeSet<(u64, u64)>) {
        self.epoch = self.epoch.wrapping_add(1);
        self.moves_slots();
        self.heap = 0;
        (mem::take(&mut self.slots), mem::take(&mut self.deadlines))
    }

    /// Bytes that the table takes, with what is behind its keys and values.
    #[inline]
    pub(super) fn memory(&self) -> u64 {
        let deadlines = self.deadlines.len() * DEADLINE;
        self.heap + (self.slots.allocation_size() + deadlines) as u64
    }

    /// The part of the generation that a cursor has room for.
    pub(super) fn generation(&self) -> u32 {
        self.generation & (Cursor::GENERATIONS - 1)
    }

    /// Where a key with this hash is whose deadline has passed at `now`.
    pub(super) fn expired(&self, hash: u64, now: u64) -> Option<usize> {
        self.slots.find_bucket_index(hash, |slot| {
            slot.record.is_expired(now) && self.hasher.hash(&slot.key) == hash
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_one_cache_line() {
        assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (64, 64));
    }
}
