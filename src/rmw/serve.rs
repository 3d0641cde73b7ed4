//! Serving blocked calls: what a write does that may have made an element for one.
//!
//! A write that finds its key awaited lets go of the latch and runs as a transaction instead, on
//! its keys and on every key that elements may be moved on to: their latches are taken together,
//! and the lines are looked at again under them. No line of a latched key grows meanwhile, because
//! who gets in line holds its latch too. The write, the pops and the moves on behalf of the blocked
//! calls, and what these make possible in turn are published at one moment; then the latches are
//! released, and then the calls are told.

use std::collections::VecDeque;
use std::convert::Infallible;

use super::blocked::{Blocked, OwnedKey, Popped, Served, Waiter, Want};
use super::entry::Entry;
use super::error::RmwError;
use super::store::{Effect, Key, Record, Store};
use super::{Rmw, Transaction};
use crate::latch::Latches;
use crate::sync::mutant;

/// What an error that cannot be amounts to.
pub(super) fn infallible<R>(error: Infallible) -> R {
    match error {}
}

impl<S: Store> Rmw<S> {
    /// A [`write`](Self::write) of a key that somebody waits for.
    #[cold]
    #[inline(never)]
    pub(super) fn serve_write<'e, R: Send>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> Result<(Effect<'e>, R), RmwError> + Send,
    ) -> Result<R, RmwError> {
        let write = |tx: &Transaction| Ok(tx.write(key.bytes, decide));
        self.transact(&[key], write, || ())?
            .unwrap_or_else(infallible)
    }

    /// An [`update`](Self::update) of a key that somebody waits for.
    #[cold]
    #[inline(never)]
    pub(super) fn serve_update<R: Send>(
        &self,
        key: Key<'_>,
        operation: impl FnOnce(&mut Entry) -> R + Send,
    ) -> Result<R, RmwError> {
        let update = |tx: &Transaction| Ok(tx.update(key.bytes, operation));
        self.transact(&[key], update, || ())?
            .unwrap_or_else(infallible)
    }

    /// The latches of these keys, and those of every key that elements may go on to from there.
    pub(super) fn latch_reach(
        &self,
        keys: &[Key<'_>],
    ) -> Result<(Option<Latches<'_>>, Vec<OwnedKey>), RmwError> {
        let Some(blocked) = &self.core.blocked else {
            return Ok((None, Vec::new()));
        };
        let mut latched: Vec<OwnedKey> = Vec::new();
        loop {
            let extra = latched.iter().map(OwnedKey::as_key);
            let all: Vec<_> = keys.iter().copied().chain(extra).collect();
            let latches = self.latch_many(&all)?;
            // Under these latches it can only get smaller.
            let reached = blocked.reach(keys);
            let is_latched = |key: &OwnedKey| latched.iter().any(|l| l.as_key() == key.as_key());
            if reached.iter().all(is_latched) || mutant::enabled("rmw-serve-latches-no-destination")
            {
                return Ok((latches, reached));
            }
            drop(latches);
            latched = reached;
        }
    }

    /// Does at once what a blocked call wants, if one of its keys is a list.
    pub(super) fn try_want(
        &self,
        keys: &[Key<'_>],
        want: &Want,
    ) -> Result<Option<Popped>, RmwError> {
        match want {
            Want::Pop { end, count } => {
                let popped = self.pop_first(keys, *end, *count)?;
                Ok(popped.map(|(index, values)| Popped { index, values }))
            }
            Want::Move {
                from,
                to,
                destination,
            } => {
                let [source] = keys else { return Ok(None) };
                let moved = self.lmove(source.bytes, &destination.bytes, *from, *to)?;
                Ok(moved.map(|value| Popped {
                    index: 0,
                    values: vec![value],
                }))
            }
        }
    }
}

impl Transaction {
    /// Serves those who wait for the keys, and for what that makes possible in turn. The oldest of
    /// each key goes first, in the order in which the keys became lists.
    pub(super) fn serve(&self, blocked: &Blocked, named: &[Key<'_>], served: &mut Served) {
        let awaited = named.iter().filter(|key| blocked.waits_for(**key));
        let mut lists: Vec<_> = awaited
            .filter_map(|key| Some((self.core.store.listed(*key)?, *key)))
            .collect();
        lists.sort_by_key(|(listed, _)| *listed);
        let mut ready: VecDeque<OwnedKey> = lists
            .into_iter()
            .map(|(_, key)| OwnedKey::from(key))
            .collect();
        while let Some(key) = ready.pop_front() {
            let key = key.as_key();
            while matches!(self.llen(key.bytes), Ok(1..)) {
                let Some(waiter) = blocked.claim_next(key) else {
                    break;
                };
                served.claimed(&waiter);
                served.gets(self.serve_one(key, &waiter));
                if let Want::Move { destination, .. } = &waiter.want {
                    ready.push_back(destination.clone());
                }
            }
        }
    }

    fn serve_one(&self, key: Key<'_>, waiter: &Waiter) -> Result<Popped, RmwError> {
        let popped = self.try_want(&[key], &waiter.want)?;
        // Nobody but this transaction takes elements here.
        let popped = popped.ok_or(RmwError::NoSuchKey)?;
        Ok(Popped {
            index: waiter.index_of(key),
            ..popped
        })
    }
}
