//! A store that panics when one key is changed.

use latchwork::rmw::{Effect, Key, MemStore, Record, Seen, Store, StoreError};

/// Panics when the key `breaks` is changed; else as [`MemStore`].
#[derive(Debug, Default)]
pub(crate) struct Faulty(MemStore);

impl Store for Faulty {
    forward_to!(0);

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

    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError> {
        self.0.publish(key, effect, seen)
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.0.clear()
    }
}
