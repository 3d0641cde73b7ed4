//! A store that panics when one key is changed.

use latchwork::rmw::{Effect, Key, MemStore, Record, Store, StoreError};

/// Panics when the key `breaks` is changed; else as [`MemStore`].
#[derive(Debug, Default)]
pub(crate) struct Faulty(MemStore);

impl Store for Faulty {
    forward_to!(0: change_many publish clear);

    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        assert!(key.bytes != b"breaks", "the store broke");
        self.0.change(key, decide)
    }
}
