//! A store that keeps a plain copy by replaying the effects that it hands on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use latchwork::rmw::{Effect, Key, MemStore, Record, Seen, Store, StoreError};

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
    forward_to!(store);

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

    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError> {
        self.log(key, &effect);
        self.store.publish(key, effect, seen)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.replayed.lock().unwrap().clear();
        self.store.clear()
    }
}
