//! Transactions: any commands on several keys, at one moment.
//!
//! All latches are taken, the records are copied, and the commands run on the copies in a
//! [`Staged`] store. What they leave is published in one step, so a reader sees none of it or all.
//! An error or a panic ends it before that step, and nothing has happened.
//!
//! A [`clear`](Rmw::clear) takes no latch. It removes every key at once, and nobody else can bring
//! one of ours back; so if any of our keys was there at the start and is missing at the end, the
//! clear came in between, the transaction counts as having come before it, and publishes nothing.
//! If all were missing at the start, it may as well have come after.

use super::Rmw;
use super::blocked::{OwnedKey, Served};
use super::clock::Clock;
use super::error::RmwError;
use super::staged::{Finished, OwnedEffect, Staged};
use super::store::{Effect, Key, Record, Store};
use super::{Core, Counters};
use crate::sync::unmodelled::Ordering;
use crate::sync::{Arc, mutant};

/// The keys inside [`update_many`](Rmw::update_many): every command works on them.
///
/// A command sees what those before it have done. All see one time: a key does not expire in the
/// middle. [Versions](Rmw::version) of keys that the transaction itself has changed are good inside
/// it only.
///
/// ```
/// use latchwork::rmw::{Rmw, RmwError, Transaction};
///
/// fn transfer(tx: &Transaction, amount: i64) -> Result<(), RmwError> {
///     tx.decr_by("from", amount)?;
///     tx.incr_by("to", amount)?;
///     Ok(())
/// }
///
/// let rmw = Rmw::new();
/// rmw.update_many(&["from", "to"], |tx| transfer(tx, 30))??;
/// assert_eq!(rmw.mget(&["from", "to"]), [Some((-30).into()), Some(30.into())]);
/// # Ok::<(), RmwError>(())
/// ```
pub type Transaction = Rmw<Staged>;

/// The order of a transaction's keys, each once.
fn in_order(mut keys: Vec<Key<'_>>) -> Vec<Key<'_>> {
    keys.sort_unstable_by_key(|key| (key.hash, key.bytes));
    keys.dedup();
    keys
}

impl<S: Store> Rmw<S> {
    /// Runs `operation` on several keys, and publishes what it did to them at one moment.
    ///
    /// Inside, every command works on the [`Transaction`], and on the keys that were named here.
    /// Nobody else writes them meanwhile; readers see the old values until it ends, and then all
    /// the new ones. If the closure returns an error or panics, nothing has happened.
    ///
    /// ```
    /// use latchwork::rmw::{Rmw, RmwError};
    ///
    /// let rmw = Rmw::new();
    /// rmw.mset([("stock", 3), ("sold", 0)])?;
    /// let sell = |count: i64| {
    ///     rmw.update_many(&["stock", "sold"], |tx| {
    ///         if tx.decr_by("stock", count)? < 0 {
    ///             return Err(RmwError::Overflow); // and nothing was taken
    ///         }
    ///         tx.incr_by("sold", count)
    ///     })
    /// };
    /// assert_eq!(sell(2)?, Ok(2));
    /// assert_eq!(sell(2)?, Err(RmwError::Overflow));
    /// assert_eq!(rmw.mget(&["stock", "sold"]), [Some(1.into()), Some(2.into())]);
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`Undeclared`](RmwError::Undeclared) if the closure used a key that `keys` does not name:
    /// to a command inside, such a key is missing. [`Reentrant`](RmwError::Reentrant) if the
    /// calling thread is inside an update, and for writes to this `Rmw` itself in the closure
    /// (of a transaction: to it, while an update or a transaction inside it runs);
    /// [`Busy`](RmwError::Busy). The closure's own error is the inner result.
    ///
    /// # Panics
    /// A panic of the closure unwinds into the caller; nothing is changed and the latches are
    /// released.
    ///
    /// # Blocking
    /// While another thread writes one of the keys.
    pub fn update_many<K: AsRef<[u8]>, R, E>(
        &self,
        keys: &[K],
        operation: impl FnOnce(&Transaction) -> Result<R, E>,
    ) -> Result<Result<R, E>, RmwError> {
        let keys: Vec<_> = keys.iter().map(|key| self.key(key.as_ref())).collect();
        self.transact(&keys, operation, || ())
    }

    /// The same with keys; `finally` runs once it is published, while the latches are held.
    ///
    /// Whoever is blocked on one of the keys and finds an element there is served in the same
    /// transaction, and told when the latches are free again.
    pub(super) fn transact<R, E>(
        &self,
        named: &[Key<'_>],
        operation: impl FnOnce(&Transaction) -> Result<R, E>,
        finally: impl FnOnce(),
    ) -> Result<Result<R, E>, RmwError> {
        let _nested = self.nest()?;
        let (latches, reached) = self.latch_reach(&in_order(named.to_vec()))?;
        let latches = latches.filter(|_| !mutant::enabled("rmw-transaction-unprotected"));
        let mut served = Served::default();
        let result = self.transact_latched(named, &reached, operation, finally, &mut served);
        drop(latches);
        served.tell();
        result
    }

    /// The same for a caller who holds the latches: of the keys, and of those that elements may go
    /// on to from there. Whoever has been served is to be told when they are free.
    pub(super) fn transact_latched<R, E>(
        &self,
        named: &[Key<'_>],
        reached: &[OwnedKey],
        operation: impl FnOnce(&Transaction) -> Result<R, E>,
        finally: impl FnOnce(),
        served: &mut Served,
    ) -> Result<Result<R, E>, RmwError> {
        let core = &*self.core;
        let mut keys = in_order(named.to_vec());
        let tx = self.transaction(&keys);
        let result = operation(&tx);
        let staged = &tx.core.store;
        if result.is_err() {
            staged.finish()?;
            return Ok(result);
        }
        if let Some(blocked) = &core.blocked
            && named.iter().any(|key| blocked.waits_for(*key))
        {
            staged.check()?;
            keys.extend(reached.iter().map(OwnedKey::as_key));
            keys = in_order(keys);
            let reached: Vec<_> = reached.iter().map(OwnedKey::as_key).collect();
            staged.declare(&reached, self.records(&reached));
            tx.serve(blocked, named, served);
        }
        let staged = staged.finish()?;
        if let Err(error) = self.publish(&keys, &staged) {
            served.fail(&error);
            return Err(error);
        }
        finally();
        let expired = tx.core.counters.expired.load(Ordering::Relaxed);
        core.counters.expired.fetch_add(expired, Ordering::Relaxed);
        let effects = staged.iter().flat_map(|key| &key.effects);
        if let Some(at) = effects.filter_map(OwnedEffect::deadline).min() {
            self.arm(at);
        }
        Ok(result)
    }

    fn records(&self, keys: &[Key<'_>]) -> Vec<Option<Record>> {
        let mut records = Vec::with_capacity(keys.len());
        let store = &self.core.store;
        store.view_many(keys, |_, record| records.push(record.cloned()));
        records
    }

    /// A transaction on keys whose latches are held, sorted and each there once.
    fn transaction(&self, keys: &[Key<'_>]) -> Transaction {
        let core = &*self.core;
        let now = core.clock.now();
        let records = self.records(keys);
        Rmw {
            core: Arc::new(Core {
                store: Staged::new(keys, records),
                latches: None,
                hasher: core.hasher.clone(),
                clock: Clock::manual(now),
                max_len: core.max_len,
                sweep_every: core.sweep_every,
                armed: crate::sync::atomic::AtomicU64::new(u64::MAX),
                counters: Counters::default(),
                blocked: None,
                is_nesting: false.into(),
            }),
            sweep: None,
            deadline: None,
            is_latched: false,
        }
    }

    /// Applies what a transaction left of its keys, at one moment.
    fn publish(&self, keys: &[Key<'_>], staged: &[Finished]) -> Result<(), RmwError> {
        let store = &self.core.store;
        // The first key is only looked at: was there a clear in between?
        let witness = staged.iter().position(|key| key.was_there);
        let mut order: Vec<_> = witness.map(|i| keys[i]).into_iter().collect();
        let mut effects: Vec<Option<&OwnedEffect>> = vec![None; order.len()];
        for (key, left) in keys.iter().zip(staged) {
            order.extend(left.effects.iter().map(|_| *key));
            effects.extend(left.effects.iter().map(Some));
        }
        if effects.iter().all(Option::is_none) {
            return Ok(());
        }
        if mutant::enabled("rmw-transaction-key-by-key") {
            for (key, effect) in order.iter().zip(effects) {
                let effect = effect.map_or(Effect::Keep, OwnedEffect::as_effect);
                store.change(*key, |_| (effect, ()))?;
            }
            return Ok(());
        }
        let mut cleared = false;
        store.change_many(&order, |i, record| match effects[i] {
            None => {
                cleared = record.is_none() && !mutant::enabled("rmw-transaction-outlives-clear");
                Effect::Keep
            }
            Some(effect) if !cleared => effect.as_effect(),
            Some(_) => Effect::Keep,
        })?;
        Ok(())
    }
}
