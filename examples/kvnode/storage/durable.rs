//! The store of a durable server: the one in memory, with every effect logged before it is applied.
//!
//! | operation | order |
//! |---|---|
//! | a change of a key | inside the store's step: decide, log, note in the memtable, apply |
//! | a publish | look, log, note, apply, all under the key's latch |
//! | a change of several keys | look at all and decide, log one record, note, apply at one moment |
//! | a clear | with the gate closed: log, apply, forget what was noted |
//!
//! Why the log has the order in which effects are applied: the key's latch makes it so for each
//! key, and the [gate](super::gate) for clears, which take no latch. Why nobody sees an effect that
//! the log does not have: it is logged before it is applied. Why a refused one is not half applied:
//! nothing is applied before the record has its place.
//!
//! A record that has its place may still be lost, in a crash or with the disk; then all later ones
//! are, too. Whoever must not tell of it before it is durable waits, see
//! [`Storage::must_wait`](super::Storage::must_wait).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use latchwork::rmw::{Bytes, Effect, Key, KeyHasher, MemStore, Record, Seen, Store, StoreError};

use super::core::Core;

/// A [`MemStore`], durable or not.
pub(crate) struct DurableStore {
    mem: Arc<MemStore>,
    core: Option<Arc<Core>>,
}

impl DurableStore {
    /// Nothing is kept on disk.
    pub(crate) fn in_memory() -> Self {
        Self {
            mem: Arc::new(MemStore::new()),
            core: None,
        }
    }

    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            mem: Arc::clone(&core.mem),
            core: Some(core),
        }
    }
}

impl Store for DurableStore {
    /// A durable one knows it already: it was loaded with it.
    fn hash_with(&mut self, hasher: KeyHasher) {
        if self.core.is_none()
            && let Some(mem) = Arc::get_mut(&mut self.mem)
        {
            mem.hash_with(hasher);
        }
    }

    #[inline]
    fn view<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>) -> R) -> R {
        self.mem.view(key, look)
    }

    fn view_many(&self, keys: &[Key<'_>], look: impl FnMut(usize, Option<&Record>)) {
        self.mem.view_many(keys, look);
    }

    #[inline(always)]
    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        let Some(core) = &self.core else {
            return self.mem.change(key, decide);
        };
        let tables = core.gate.enter();
        self.mem.change(key, |record| {
            let is_new = record.is_none();
            let (effect, result) = decide(record);
            if effect.is_keep() {
                return (effect, Ok(result));
            }
            match core.log_one(&tables, key, is_new, &effect) {
                Ok(()) => (effect, Ok(result)),
                Err(halt) => (Effect::Keep, Err(StoreError::new(halt))),
            }
        })?
    }

    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        mut decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError> {
        let Some(core) = &self.core else {
            return self.mem.change_many(keys, decide);
        };
        let tables = core.gate.enter();
        let next = Repeats::find(keys);
        let mut repeated = HashMap::new();
        let mut effects = Vec::with_capacity(keys.len());
        // The latches keep what is seen here as it is, and the gate keeps clears out.
        self.mem.view_many(keys, |i, record| {
            let before: Option<Option<Record>> = repeated.remove(&i);
            let seen = before.as_ref().map_or(record, Option::as_ref);
            let is_new = seen.is_none();
            let effect = decide(i, seen);
            if let Some(next) = next.after(i) {
                let record = before.unwrap_or_else(|| record.cloned());
                repeated.insert(next, effect.clone().apply_to(record));
            }
            effects.push((is_new, effect));
        });
        // A copy of a value keeps the store from changing that in place.
        drop(repeated);
        if effects.iter().all(|(_, effect)| effect.is_keep()) {
            return Ok(());
        }
        let logged = core.log_many(&tables, keys, &effects);
        logged.map_err(StoreError::new)?;
        let mut effects = effects.into_iter();
        self.mem.change_many(keys, |_, _| {
            let effect = effects.next();
            effect.map_or(Effect::Keep, |(_, effect)| effect)
        })
    }

    #[inline(always)]
    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R {
        self.mem.load(key, look)
    }

    #[inline(always)]
    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError> {
        let Some(core) = &self.core else {
            return self.mem.publish(key, effect, seen);
        };
        if effect.is_keep() {
            return Ok(());
        }
        let tables = core.gate.enter();
        let (is_new, epoch) = self
            .mem
            .load(key, |record, seen| (record.is_none(), seen.epoch));
        if epoch != seen.epoch {
            // A clear has removed the update with everything else.
            return Ok(());
        }
        let logged = core.log_one(&tables, key, is_new, &effect);
        logged.map_err(StoreError::new)?;
        self.mem.publish(key, effect, seen)
    }

    fn clear(&self) -> Result<(), StoreError> {
        let Some(core) = &self.core else {
            return self.mem.clear();
        };
        let tables = core.gate.close();
        let lsn = core.log_clear().map_err(StoreError::new)?;
        self.mem.clear()?;
        tables.get().active.clear(lsn);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.mem.len()
    }

    fn expiring(&self) -> u64 {
        self.mem.expiring()
    }

    fn memory(&self) -> u64 {
        self.mem.memory()
    }

    fn scan(&self, cursor: u64, count: usize, visit: impl FnMut(&Bytes, &Record)) -> u64 {
        self.mem.scan(cursor, count, visit)
    }

    fn some_cursor(&self, random: u64) -> u64 {
        self.mem.some_cursor(random)
    }

    fn visit_expired(&self, now: u64, visit: impl FnMut(u64)) {
        self.mem.visit_expired(now, visit);
    }

    /// Without a record: a replay drops what has expired, too.
    fn remove_expired(&self, hash: u64, now: u64) -> u64 {
        self.mem.remove_expired(hash, now)
    }

    fn next_deadline(&self) -> Option<u64> {
        self.mem.next_deadline()
    }
}

impl fmt::Debug for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableStore")
            .field("durable", &self.core.is_some())
            .field("mem", &self.mem)
            .finish()
    }
}

/// Where keys come again.
struct Repeats(Vec<Option<usize>>);

impl Repeats {
    fn find(keys: &[Key<'_>]) -> Self {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by_key(|&i| (keys[i].hash, keys[i].bytes, i));
        let mut next = Vec::new();
        for pair in order.windows(2) {
            if keys[pair[0]] == keys[pair[1]] {
                next.resize(keys.len(), None);
                next[pair[0]] = Some(pair[1]);
            }
        }
        Self(next)
    }

    /// The next place of the key at `i`.
    fn after(&self, i: usize) -> Option<usize> {
        *self.0.get(i)?
    }
}
