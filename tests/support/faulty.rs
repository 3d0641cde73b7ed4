//! A store that panics when one key is changed.

use latchwork::rmw::{Bytes, Effect, Key, KeyHasher, MemStore, Record, Seen, Store, StoreError};

/// Panics when the key `breaks` is changed; else as [`MemStore`].
#[derive(Debug, Default)]
pub(crate) struct Faulty(MemStore);

impl Store for Faulty {
    fn hash_with(&mut self, hasher: KeyHasher) {
        self.0.hash_with(hasher);
    }

    fn view<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>) -> R) -> R {
        self.0.view(key, look)
    }

    fn view_many(&self, keys: &[Key<'_>], look: impl FnMut(usize, Option<&Record>)) {
        self.0.view_many(keys, look);
    }

    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        assert!(key.bytes != b"breaks", "the store broke");
        self.0.change(key, decide)
    }

    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError> {
        self.0.change_many(keys, decide)
    }

    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R {
        self.0.load(key, look)
    }

    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError> {
        self.0.publish(key, effect, seen)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.0.clear()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn expiring(&self) -> u64 {
        self.0.expiring()
    }

    fn scan(&self, cursor: u64, count: usize, visit: impl FnMut(&Bytes, &Record)) -> u64 {
        self.0.scan(cursor, count, visit)
    }

    fn visit_expired(&self, now: u64, visit: impl FnMut(u64)) {
        self.0.visit_expired(now, visit);
    }

    fn remove_expired(&self, hash: u64, now: u64) -> u64 {
        self.0.remove_expired(hash, now)
    }

    fn next_deadline(&self) -> Option<u64> {
        self.0.next_deadline()
    }
}
