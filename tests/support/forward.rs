//! What a store that wraps another hands on unchanged.

/// The methods of [`Store`](latchwork::rmw::Store) that look and expire, handed on to a field; and
/// those that change, if they are named: `forward_to!(store: publish clear)`.
macro_rules! forward_to {
    ($field:tt: $($method:ident)+) => {
        forward_to!($field);
        $(forward_to!(@ $method $field);)+
    };
    (@ change $field:tt) => {
        fn change<'e, R>(
            &self,
            key: latchwork::rmw::Key<'_>,
            decide: impl FnOnce(Option<&latchwork::rmw::Record>) -> (latchwork::rmw::Effect<'e>, R),
        ) -> Result<R, latchwork::rmw::StoreError> {
            self.$field.change(key, decide)
        }
    };
    (@ change_many $field:tt) => {
        fn change_many<'e>(
            &self,
            keys: &[latchwork::rmw::Key<'_>],
            decide: impl FnMut(usize, Option<&latchwork::rmw::Record>) -> latchwork::rmw::Effect<'e>,
        ) -> Result<(), latchwork::rmw::StoreError> {
            self.$field.change_many(keys, decide)
        }
    };
    (@ publish $field:tt) => {
        fn publish(
            &self,
            key: latchwork::rmw::Key<'_>,
            effect: latchwork::rmw::Effect<'_>,
            seen: latchwork::rmw::Seen,
        ) -> Result<(), latchwork::rmw::StoreError> {
            self.$field.publish(key, effect, seen)
        }
    };
    (@ clear $field:tt) => {
        fn clear(&self) -> Result<(), latchwork::rmw::StoreError> {
            self.$field.clear()
        }
    };
    ($field:tt) => {
        fn hash_with(&mut self, hasher: latchwork::rmw::KeyHasher) {
            self.$field.hash_with(hasher);
        }

        fn view<R>(
            &self,
            key: latchwork::rmw::Key<'_>,
            look: impl FnOnce(Option<&latchwork::rmw::Record>) -> R,
        ) -> R {
            self.$field.view(key, look)
        }

        fn view_many(
            &self,
            keys: &[latchwork::rmw::Key<'_>],
            look: impl FnMut(usize, Option<&latchwork::rmw::Record>),
        ) {
            self.$field.view_many(keys, look);
        }

        fn load<R>(
            &self,
            key: latchwork::rmw::Key<'_>,
            look: impl FnOnce(Option<&latchwork::rmw::Record>, latchwork::rmw::Seen) -> R,
        ) -> R {
            self.$field.load(key, look)
        }

        fn len(&self) -> u64 {
            self.$field.len()
        }

        fn expiring(&self) -> u64 {
            self.$field.expiring()
        }

        fn scan(
            &self,
            cursor: u64,
            count: usize,
            visit: impl FnMut(&latchwork::rmw::Bytes, &latchwork::rmw::Record),
        ) -> u64 {
            self.$field.scan(cursor, count, visit)
        }

        fn visit_expired(&self, now: u64, visit: impl FnMut(u64)) {
            self.$field.visit_expired(now, visit);
        }

        fn remove_expired(&self, hash: u64, now: u64) -> u64 {
            self.$field.remove_expired(hash, now)
        }

        fn next_deadline(&self) -> Option<u64> {
            self.$field.next_deadline()
        }
    };
}
