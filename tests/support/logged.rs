//! A store that keeps a plain copy by replaying the effects that it hands on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use latchwork::rmw::{Bytes, Effect, Key, KeyHasher, MemStore, Record, Seen, Store, StoreError};

#[derive(Default)]
pub(crate) struct Logged {
    store: MemStore,
    pub(crate) replayed: Replayed,
}

pub(crate) type Replayed = Arc<Mutex<BTreeMap<Vec<u8>, Record>>>;

impl Logged {
    fn log(&self, key: Key<'_>, effect: &Effect<'_>) {
        let mut replayed = self.replayed.lock().unwrap();
        let before = replayed.remove(key.bytes);
        if let Some(record) = effect.clone().apply_to(before) {
            replayed.insert(key.bytes.into(), record);
        }
    }
}

impl Store for Logged {
    fn hash_with(&mut self, hasher: KeyHasher) {
        self.store.hash_with(hasher);
    }

    fn view<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>) -> R) -> R {
        self.store.view(key, look)
    }

    fn view_many(&self, keys: &[Key<'_>], look: impl FnMut(usize, Option<&Record>)) {
        self.store.view_many(keys, look);
    }

    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        self.store.change(key, |record| {
            let (effect, result) = decide(record);
            self.log(key, &effect);
            (effect, result)
        })
    }

    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        mut decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError> {
        self.store.change_many(keys, |i, record| {
            let effect = decide(i, record);
            self.log(keys[i], &effect);
            effect
        })
    }

    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R {
        self.store.load(key, look)
    }

    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError> {
        self.log(key, &effect);
        self.store.publish(key, effect, seen)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.replayed.lock().unwrap().clear();
        self.store.clear()
    }

    fn len(&self) -> u64 {
        self.store.len()
    }

    fn expiring(&self) -> u64 {
        self.store.expiring()
    }

    fn scan(&self, cursor: u64, count: usize, visit: impl FnMut(&Bytes, &Record)) -> u64 {
        self.store.scan(cursor, count, visit)
    }

    fn visit_expired(&self, now: u64, visit: impl FnMut(u64)) {
        self.store.visit_expired(now, visit);
    }

    fn remove_expired(&self, hash: u64, now: u64) -> u64 {
        self.store.remove_expired(hash, now)
    }

    fn next_deadline(&self) -> Option<u64> {
        self.store.next_deadline()
    }
}
