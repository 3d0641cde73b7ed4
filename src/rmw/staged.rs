//! The store of a transaction: what its keys held, and what is to become of them.
//!
//! The transaction holds the latches of its keys, so the records found at its start stay theirs
//! until it ends. A command inside looks at the copy and its effect is kept; nothing is applied
//! until the effects are published, all at one moment. A copy follows its effects only when another
//! command looks at the key: one command a key copies nothing.
//!
//! A key that was not declared has no latch. It reads as missing, nothing is kept for it, and the
//! transaction fails.

use std::fmt;
use std::mem;
use std::panic::{RefUnwindSafe, UnwindSafe};

use super::error::{RmwError, StoreError};
use super::list::OwnedEdit;
use super::store::{Effect, Key, KeyHasher, Record, Seen, Store};
use super::value::{Bytes, Value};
use crate::sync::unmodelled::Mutex;

/// Versions from here on are a transaction's own: no store gives them out.
const PROVISIONAL: u64 = 1 << 63;

/// A string up to this length may be copied when the effects are published, under locks.
const SHORT: usize = 4096;

/// The [`Store`] of a [`Transaction`](super::Transaction).
///
/// It holds the declared keys only, and forgets them when the transaction ends.
///
/// ```
/// use latchwork::rmw::{Rmw, RmwError};
///
/// let rmw = Rmw::new();
/// rmw.set("a", 1)?;
/// let keys = rmw.update_many(&["a", "b"], |tx| Ok::<_, RmwError>(tx.len()))??;
/// assert_eq!(keys, 1);
/// # Ok::<(), RmwError>(())
/// ```
pub struct Staged {
    state: Mutex<State>,
}

struct State {
    /// Ordered by hash and name.
    keys: Vec<StagedKey>,
    undeclared: bool,
    /// How often a key was looked for so far.
    steps: u64,
}

struct StagedKey {
    hash: u64,
    name: Bytes,
    /// Whether there was a record when the transaction began.
    was_there: bool,
    /// The record after the first `applied` effects.
    record: Option<Record>,
    effects: Vec<OwnedEffect>,
    applied: usize,
    /// Effects so far, those that a later one made void included.
    serial: u64,
    /// When it was last looked for.
    step: u64,
    /// When it first had a list made or changed.
    listed: Option<u64>,
}

/// An [`Effect`] that has outlived its command.
pub(super) enum OwnedEffect {
    Put(Record),
    Write { offset: usize, bytes: Bytes },
    Expire(Option<u64>),
    List(OwnedEdit),
    Delete,
}

impl OwnedEffect {
    fn new(effect: Effect<'_>) -> Option<Self> {
        Some(match effect {
            Effect::Keep => return None,
            Effect::Put(record) => OwnedEffect::Put(record),
            Effect::Write { offset, bytes } => OwnedEffect::Write {
                offset,
                bytes: Bytes::from(bytes),
            },
            Effect::Expire(at) => OwnedEffect::Expire(at),
            Effect::List(edit) => OwnedEffect::List(edit.into()),
            Effect::Delete => OwnedEffect::Delete,
        })
    }

    pub(super) fn as_effect(&self) -> Effect<'_> {
        match self {
            OwnedEffect::Put(record) => Effect::Put(record.clone()),
            &OwnedEffect::Write { offset, ref bytes } => Effect::Write { offset, bytes },
            OwnedEffect::Expire(at) => Effect::Expire(*at),
            OwnedEffect::List(edit) => Effect::List(edit.as_edit()),
            OwnedEffect::Delete => Effect::Delete,
        }
    }

    /// The deadline that it gives its key.
    pub(super) fn deadline(&self) -> Option<u64> {
        match self {
            OwnedEffect::Put(record) => record.expires_at(),
            OwnedEffect::Expire(at) => *at,
            _ => None,
        }
    }

    /// Whether it leaves a list.
    fn is_list(&self) -> bool {
        match self {
            OwnedEffect::Put(record) => matches!(record.value, Value::List(_)),
            OwnedEffect::List(_) => true,
            _ => false,
        }
    }

    /// Whether it leaves nothing of what the key held.
    fn is_absolute(&self) -> bool {
        matches!(self, OwnedEffect::Put(_) | OwnedEffect::Delete)
    }
}

impl StagedKey {
    fn new(key: Key<'_>, record: Option<Record>) -> Self {
        Self {
            hash: key.hash,
            name: Bytes::from(key.bytes),
            was_there: record.is_some(),
            record,
            effects: Vec::new(),
            applied: 0,
            serial: 0,
            step: 0,
            listed: None,
        }
    }

    /// The record as the next command finds it.
    fn look(&mut self) -> Option<&Record> {
        if self.applied < self.effects.len() {
            for effect in &self.effects[self.applied..] {
                self.record = effect.as_effect().apply_to(self.record.take());
            }
            self.applied = self.effects.len();
            if let Some(record) = &mut self.record {
                record.set_version(PROVISIONAL + self.serial);
            }
        }
        self.record.as_ref()
    }

    fn stage(&mut self, effect: Effect<'_>) {
        let Some(effect) = OwnedEffect::new(effect) else {
            return;
        };
        if effect.is_list() {
            self.listed = self.listed.or(Some(self.step));
        }
        if effect.is_absolute() {
            self.effects.clear();
            self.applied = 0;
        }
        self.effects.push(effect);
        self.serial += 1;
    }

    /// Whether publishing the effects one by one may copy a long string: then the copy is better
    /// made before, outside the locks.
    fn copies_much(&self) -> bool {
        let old = match (&self.record, self.effects.first()) {
            (Some(record), Some(first)) if !first.is_absolute() => match &record.value {
                Value::Bytes(bytes) => Some(bytes),
                _ => None,
            },
            _ => None,
        };
        self.effects.iter().any(|effect| match effect {
            OwnedEffect::Write { offset, bytes } => {
                let end = offset + bytes.len();
                let is_in_place = old.is_some_and(|old| old.has_room(*offset, bytes.len(), SHORT));
                !is_in_place && old.map_or(end, |old| old.len().max(end)) > SHORT
            }
            // What goes deep into a list is better done on the copy too.
            OwnedEffect::List(edit) => edit.is_deep(),
            _ => false,
        })
    }

    fn finish(mut self) -> Finished {
        if self.copies_much() {
            let whole = match self.look() {
                Some(record) => OwnedEffect::Put(record.clone()),
                None => OwnedEffect::Delete,
            };
            self.effects = vec![whole];
        }
        // The copy goes: while it shares the value, nothing can be changed in place.
        Finished {
            was_there: self.was_there,
            effects: self.effects,
        }
    }
}

/// What a transaction leaves of a key.
pub(super) struct Finished {
    pub(super) was_there: bool,
    pub(super) effects: Vec<OwnedEffect>,
}

impl State {
    fn find(&mut self, key: Key<'_>) -> Option<&mut StagedKey> {
        let order = |staged: &StagedKey| (staged.hash, &*staged.name).cmp(&(key.hash, key.bytes));
        match self.keys.binary_search_by(order) {
            Ok(i) => {
                self.steps += 1;
                self.keys[i].step = self.steps;
                Some(&mut self.keys[i])
            }
            Err(_) => {
                self.undeclared = true;
                None
            }
        }
    }
}

impl Staged {
    /// A transaction on these keys, which are sorted and each there once, with their records.
    pub(super) fn new(keys: &[Key<'_>], records: Vec<Option<Record>>) -> Self {
        let staged = keys.iter().zip(records);
        Self {
            state: Mutex::new(State {
                keys: staged
                    .map(|(key, record)| StagedKey::new(*key, record))
                    .collect(),
                undeclared: false,
                steps: 0,
            }),
        }
    }

    /// Adds keys, with their records, to those that were declared.
    pub(super) fn declare(&self, keys: &[Key<'_>], records: Vec<Option<Record>>) {
        let mut state = self.state.lock();
        let added = keys.iter().zip(records);
        state
            .keys
            .extend(added.map(|(key, record)| StagedKey::new(*key, record)));
        state
            .keys
            .sort_unstable_by(|a, b| (a.hash, &*a.name).cmp(&(b.hash, &*b.name)));
    }

    /// When the transaction first made or changed a list here: who comes first.
    pub(super) fn listed(&self, key: Key<'_>) -> Option<u64> {
        self.state.lock().find(key)?.listed
    }

    /// Whether only declared keys were used so far.
    pub(super) fn check(&self) -> Result<(), RmwError> {
        match self.state.lock().undeclared {
            true => Err(RmwError::Undeclared),
            false => Ok(()),
        }
    }

    /// Ends the transaction: what it leaves of each key, in the keys' order.
    pub(super) fn finish(&self) -> Result<Vec<Finished>, RmwError> {
        let mut state = self.state.lock();
        let keys = mem::take(&mut state.keys);
        if state.undeclared {
            return Err(RmwError::Undeclared);
        }
        Ok(keys.into_iter().map(StagedKey::finish).collect())
    }
}

impl Store for Staged {
    fn hash_with(&mut self, _hasher: KeyHasher) {}

    fn view<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>) -> R) -> R {
        look(self.state.lock().find(key).and_then(StagedKey::look))
    }

    fn view_many(&self, keys: &[Key<'_>], mut look: impl FnMut(usize, Option<&Record>)) {
        let mut state = self.state.lock();
        for (i, key) in keys.iter().enumerate() {
            look(i, state.find(*key).and_then(StagedKey::look));
        }
    }

    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        let mut state = self.state.lock();
        let Some(staged) = state.find(key) else {
            return Ok(decide(None).1);
        };
        let (effect, result) = decide(staged.look());
        staged.stage(effect);
        Ok(result)
    }

    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        mut decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        for (i, key) in keys.iter().enumerate() {
            match state.find(*key) {
                Some(staged) => {
                    let effect = decide(i, staged.look());
                    staged.stage(effect);
                }
                None => drop(decide(i, None)),
            }
        }
        Ok(())
    }

    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R {
        self.view(key, |record| look(record, Seen { epoch: 0, place: 0 }))
    }

    fn publish(&self, key: Key<'_>, effect: Effect<'_>, _seen: Seen) -> Result<(), StoreError> {
        if let Some(staged) = self.state.lock().find(key) {
            staged.stage(effect);
        }
        Ok(())
    }

    /// All keys are more than those that were declared.
    fn clear(&self) -> Result<(), StoreError> {
        self.state.lock().undeclared = true;
        Ok(())
    }

    fn len(&self) -> u64 {
        let mut state = self.state.lock();
        let keys = state.keys.iter_mut();
        keys.filter_map(StagedKey::look).count() as u64
    }

    fn expiring(&self) -> u64 {
        let mut state = self.state.lock();
        let records = state.keys.iter_mut().filter_map(StagedKey::look);
        records.filter_map(Record::expires_at).count() as u64
    }

    /// All keys are more than those that were declared.
    fn scan(&self, _cursor: u64, _count: usize, _visit: impl FnMut(&Bytes, &Record)) -> u64 {
        self.state.lock().undeclared = true;
        0
    }

    fn visit_expired(&self, _now: u64, _visit: impl FnMut(u64)) {}

    fn remove_expired(&self, _hash: u64, _now: u64) -> u64 {
        0
    }

    fn next_deadline(&self) -> Option<u64> {
        None
    }
}

// A closure that panics does so before its effect is kept.
impl UnwindSafe for Staged {}
impl RefUnwindSafe for Staged {}

impl fmt::Debug for Staged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.state.lock().keys.len();
        f.debug_struct("Staged").field("keys", &keys).finish()
    }
}
