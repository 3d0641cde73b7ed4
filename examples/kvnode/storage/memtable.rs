//! What has changed since it was last written to a segment: keys, and the last record of each.
//!
//! The values are in the store; a flush reads them there. One table takes the changes, and those
//! before it are being flushed, until the manifest has them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashTable;
use latchwork::rmw::{Bytes, Key};
use latchwork::wal::Lsn;
use parking_lot::Mutex;

/// A power of two.
pub(super) const SHARDS: usize = 64;

/// Keys that have changed.
pub(super) struct Memtable {
    shards: Box<[Shard]>,
    /// The last record that cleared everything; zero if none did.
    cleared: AtomicU64,
    /// How many keys there are.
    keys: AtomicU64,
    /// Bytes of the log's records.
    logged: AtomicU64,
}

#[repr(align(64))]
struct Shard(Mutex<HashTable<Slot>>);

struct Slot {
    key: Bytes,
    hash: u64,
    lsn: u64,
}

impl Memtable {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| Shard(Mutex::new(HashTable::new())))
                .collect(),
            cleared: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            logged: AtomicU64::new(0),
        }
    }

    /// The store and the tables use other bits of a hash.
    fn shard(&self, hash: u64) -> &Mutex<HashTable<Slot>> {
        &self.shards[(hash >> 32) as usize & (SHARDS - 1)].0
    }

    /// Notes that the key's last record is this one. Those of a key come in order.
    #[inline]
    pub(super) fn note(&self, key: Key<'_>, lsn: Lsn) {
        let mut slots = self.shard(key.hash).lock();
        let is_it = |slot: &Slot| slot.hash == key.hash && *slot.key == *key.bytes;
        if let Some(slot) = slots.find_mut(key.hash, is_it) {
            slot.lsn = lsn.get();
            return;
        }
        let slot = Slot {
            key: Bytes::from(key.bytes),
            hash: key.hash,
            lsn: lsn.get(),
        };
        slots.insert_unique(key.hash, slot, |slot| slot.hash);
        drop(slots);
        self.keys.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a record's length, and returns the sum of all.
    #[inline]
    pub(super) fn add_logged(&self, bytes: usize) -> u64 {
        let bytes = bytes as u64;
        self.logged.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Forgets all keys: this record has cleared everything. To be called while nobody notes.
    pub(super) fn clear(&self, lsn: Lsn) {
        for shard in &self.shards {
            *shard.0.lock() = HashTable::new();
        }
        self.keys.store(0, Ordering::Relaxed);
        self.cleared.store(lsn.get(), Ordering::Relaxed);
    }

    /// The key's last record here.
    #[inline]
    pub(super) fn last(&self, key: Key<'_>) -> Option<Lsn> {
        let slots = self.shard(key.hash).lock();
        let is_it = |slot: &Slot| slot.hash == key.hash && *slot.key == *key.bytes;
        slots.find(key.hash, is_it).map(|slot| Lsn::new(slot.lsn))
    }

    /// The record that has cleared everything, if one did.
    pub(super) fn cleared(&self) -> Option<Lsn> {
        match self.cleared.load(Ordering::Relaxed) {
            0 => None,
            lsn => Some(Lsn::new(lsn)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys() == 0 && self.cleared().is_none()
    }

    pub(super) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    pub(super) fn logged(&self) -> u64 {
        self.logged.load(Ordering::Relaxed)
    }

    /// The keys of some shards, with their hashes, in their order.
    pub(super) fn sorted(&self, shards: Range<usize>) -> Vec<(Bytes, u64)> {
        let mut keys = Vec::new();
        for shard in &self.shards[shards] {
            let slots = shard.0.lock();
            keys.extend(slots.iter().map(|slot| (slot.key.clone(), slot.hash)));
        }
        keys.sort_unstable_by(|(a, _), (b, _)| <[u8]>::cmp(a, b));
        keys
    }
}

/// The table that takes changes, and those that are being flushed.
#[derive(Clone)]
pub(super) struct Tables {
    pub(super) active: Arc<Memtable>,
    /// The newest first.
    pub(super) frozen: Vec<Arc<Memtable>>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            active: Arc::new(Memtable::new()),
            frozen: Vec::new(),
        }
    }

    /// With a new table for changes.
    pub(super) fn rotated(&self) -> Self {
        let frozen = self.frozen.iter();
        Self {
            active: Arc::new(Memtable::new()),
            frozen: std::iter::once(&self.active)
                .chain(frozen)
                .cloned()
                .collect(),
        }
    }

    /// Without a table that has been flushed.
    pub(super) fn without(&self, table: &Arc<Memtable>) -> Self {
        let kept = self.frozen.iter().filter(|it| !Arc::ptr_eq(it, table));
        Self {
            active: Arc::clone(&self.active),
            frozen: kept.cloned().collect(),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Memtable> {
        let frozen = self.frozen.iter();
        std::iter::once(&self.active).chain(frozen).map(|it| &**it)
    }

    /// The last record of the key that is in no segment of the manifest.
    pub(super) fn last(&self, key: Key<'_>) -> Option<Lsn> {
        self.all().find_map(|table| table.last(key))
    }

    /// The last record that cleared everything, as far as it is not in the manifest.
    pub(super) fn cleared(&self) -> Option<Lsn> {
        self.all().find_map(Memtable::cleared)
    }

    pub(super) fn keys(&self) -> u64 {
        self.all().map(Memtable::keys).sum()
    }

    pub(super) fn logged(&self) -> u64 {
        self.all().map(Memtable::logged).sum()
    }
}
