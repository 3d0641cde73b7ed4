//! What a store is: records by key, read in place, changed by effects.
//!
//! A command looks at the record, decides on an [`Effect`], and returns its result: the store
//! applies the effect in the same step, so a key is found once. Effects are data, absolute and
//! complete (they say what becomes of the key, with the deadline as a time and not as a
//! duration): a store that logs them can replay its log.
//!
//! The caller holds the key's latch in every method that changes it, so a store serves one writer
//! a key, and any number of readers.

use std::fmt;
use std::num::NonZeroU64;

use super::error::StoreError;
use super::list::{List, ListEdit};
use super::value::{Bytes, Value};
use crate::sync::unmodelled::Arc;

/// A key and its hash, which the latch table computed: a store uses the same one.
///
/// Both refer to one table; equal keys have equal hashes, and two keys may share one.
///
/// ```
/// use latchwork::rmw::Key;
///
/// let key = Key { bytes: b"name", hash: 7 };
/// assert_eq!(key.bytes.len(), 4);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// The key.
    pub bytes: &'a [u8],
    /// Its seeded 64-bit hash. It differs from process to process.
    pub hash: u64,
}

/// How a store's keys are hashed: the same as in the latch table.
///
/// A store that resizes computes the hashes of the keys that it moves, and need not keep them.
///
/// ```
/// use latchwork::rmw::{KeyHasher, MemStore, Store};
///
/// let hasher = KeyHasher::new(|key| key.len() as u64);
/// assert_eq!(hasher.key(b"name").hash, 4);
/// MemStore::new().hash_with(hasher);
/// ```
#[derive(Clone)]
pub struct KeyHasher(Arc<Hash>);

type Hash = dyn Fn(&[u8]) -> u64 + Send + Sync;

impl KeyHasher {
    /// A hasher. Equal keys must have equal hashes.
    ///
    /// ```
    /// # use latchwork::rmw::KeyHasher;
    /// assert_eq!(KeyHasher::new(|_| 7).hash(b"name"), 7);
    /// ```
    pub fn new(hash: impl Fn(&[u8]) -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(hash))
    }

    /// A store's, before it was told one.
    pub(super) fn unknown() -> Self {
        Self::new(|_| panic!("a store is told its hasher before its first key"))
    }

    /// The hash of a key.
    ///
    /// ```
    /// # use latchwork::rmw::KeyHasher;
    /// assert_eq!(KeyHasher::new(|key| key.len() as u64).hash(b"name"), 4);
    /// ```
    pub fn hash(&self, key: &[u8]) -> u64 {
        (self.0)(key)
    }

    /// A key with its hash.
    ///
    /// ```
    /// # use latchwork::rmw::KeyHasher;
    /// assert_eq!(KeyHasher::new(|_| 7).key(b"name").bytes, b"name");
    /// ```
    pub fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        Key {
            bytes,
            hash: self.hash(bytes),
        }
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyHasher").finish_non_exhaustive()
    }
}

/// A value, its deadline and its version. Two records are equal when value and deadline are.
///
/// ```
/// use latchwork::rmw::Record;
///
/// let record = Record::new("v", Some(1_000));
/// assert!(!record.is_expired(1_000));
/// assert!(record.is_expired(1_001));
/// ```
#[derive(Clone, Debug)]
pub struct Record {
    /// The value.
    pub value: Value,
    deadline: Option<NonZeroU64>,
    version: u64,
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value && self.deadline == other.deadline
    }
}

impl Eq for Record {}

impl Record {
    /// A record that expires after `expires_at`, in Unix milliseconds. Time zero is no deadline.
    ///
    /// ```
    /// # use latchwork::rmw::Record;
    /// assert_eq!(Record::new("v", None).expires_at(), None);
    /// ```
    pub fn new(value: impl Into<Value>, expires_at: Option<u64>) -> Self {
        Self {
            value: value.into(),
            deadline: expires_at.and_then(NonZeroU64::new),
            version: 0,
        }
    }

    /// The version that the store gave the record when it was last changed, its deadline included:
    /// never the same twice for a key, also if the key was deleted in between. Zero: no store has
    /// it.
    ///
    /// ```
    /// # use latchwork::rmw::Record;
    /// assert_eq!(Record::new("v", None).version(), 0);
    /// ```
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// For a store: what it does whenever it applies an effect to the record. Versions begin at 1
    /// and stay below 2^63.
    ///
    /// ```
    /// # use latchwork::rmw::Record;
    /// let mut record = Record::new("v", None);
    /// record.set_version(3);
    /// assert_eq!(record.version(), 3);
    /// ```
    #[inline]
    pub fn set_version(&mut self, version: u64) {
        self.version = version;
    }

    /// The deadline in Unix milliseconds.
    ///
    /// ```
    /// # use latchwork::rmw::Record;
    /// assert_eq!(Record::new("v", Some(5)).expires_at(), Some(5));
    /// ```
    #[inline]
    pub fn expires_at(&self) -> Option<u64> {
        self.deadline.map(NonZeroU64::get)
    }

    /// Another deadline for the same value.
    ///
    /// ```
    /// # use latchwork::rmw::Record;
    /// let mut record = Record::new("v", Some(5));
    /// record.set_expires_at(None);
    /// assert_eq!(record.expires_at(), None);
    /// ```
    pub fn set_expires_at(&mut self, expires_at: Option<u64>) {
        self.deadline = expires_at.and_then(NonZeroU64::new);
    }

    /// Whether the deadline has passed at `now`: the deadline's own millisecond still belongs to
    /// the value.
    ///
    /// ```
    /// # use latchwork::rmw::Record;
    /// assert!(!Record::new("v", None).is_expired(u64::MAX));
    /// ```
    #[inline]
    pub fn is_expired(&self, now: u64) -> bool {
        self.deadline.is_some_and(|at| at.get() < now)
    }
}

/// What a command does to its key: the record of it that a log would hold.
///
/// ```
/// use latchwork::rmw::{Effect, Record};
///
/// let effect = Effect::Put(Record::new("v", None));
/// assert!(!effect.is_keep());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect<'a> {
    /// Nothing: the command only looked, or was refused.
    Keep,
    /// The key holds this record now.
    Put(Record),
    /// The string, empty if the key is missing, is overwritten from `offset` on; a gap becomes
    /// zeros. The deadline stays. The caller has checked type and length.
    Write {
        /// Where the bytes go.
        offset: usize,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The list is changed; a push makes a missing key a list, and a list that has become empty is
    /// gone. The deadline stays. The caller has checked type and index.
    List(ListEdit<'a>),
    /// The existing value gets this deadline (Unix milliseconds), or none.
    Expire(Option<u64>),
    /// The key is gone.
    Delete,
}

impl Effect<'_> {
    /// The key holds this record now; as an empty list it is gone.
    #[inline]
    pub(super) fn put(record: Record) -> Self {
        match &record.value {
            Value::List(list) if list.is_empty() => Effect::Delete,
            _ => Effect::Put(record),
        }
    }

    /// Whether there is nothing to apply or log.
    ///
    /// ```
    /// # use latchwork::rmw::Effect;
    /// assert!(Effect::Keep.is_keep());
    /// ```
    pub fn is_keep(&self) -> bool {
        matches!(self, Effect::Keep)
    }

    /// What becomes of a record: the effect replayed outside a store. What a store would have
    /// ignored, such as a deadline for a missing key, is ignored; the version stays as it is.
    ///
    /// ```
    /// # use latchwork::rmw::{Effect, Record};
    /// let log = [
    ///     Effect::Put(Record::new("v", None)),
    ///     Effect::Write { offset: 1, bytes: b"alue" },
    ///     Effect::Expire(Some(5)),
    /// ];
    /// let replayed = log.into_iter().fold(None, |record, effect| effect.apply_to(record));
    /// assert_eq!(replayed, Some(Record::new("value", Some(5))));
    /// ```
    pub fn apply_to(self, record: Option<Record>) -> Option<Record> {
        match self {
            Effect::Keep => record,
            Effect::Put(new) => Some(new),
            Effect::Write { offset, bytes } => {
                let Some(mut record) = record else {
                    return Some(Record::new(Bytes::overwritten(b"", offset, bytes), None));
                };
                record.value = match record.value {
                    Value::Bytes(mut old) => {
                        if !old.write_in_place(offset, bytes, usize::MAX) {
                            old = Bytes::overwritten(&old, offset, bytes);
                        }
                        Value::Bytes(old)
                    }
                    old => Value::Bytes(Bytes::overwritten(&old.text(), offset, bytes)),
                };
                Some(record)
            }
            Effect::List(edit) => {
                let mut record = record.unwrap_or_else(|| Record::new(List::new(), None));
                let Value::List(list) = &mut record.value else {
                    return Some(record);
                };
                let list = Arc::make_mut(list);
                edit.apply_to(list);
                let is_empty = list.is_empty();
                Some(record).filter(|_| !is_empty)
            }
            Effect::Expire(at) => record.map(|mut record| {
                record.set_expires_at(at);
                record
            }),
            Effect::Delete => None,
        }
    }
}

/// Where a [`load`](Store::load) found its record; [`publish`](Store::publish) takes it back.
///
/// The two numbers are the store's own: `epoch` tells whether the store was cleared since, so that
/// an update which began before is dropped and not published after; `place` may spare a second
/// search.
///
/// ```
/// use latchwork::rmw::Seen;
///
/// let seen = Seen { epoch: 3, place: 12 };
/// assert_eq!(seen.epoch, 3);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it was, as the store counts.
    pub epoch: u64,
    /// A hint.
    pub place: usize,
}

/// Records by key, behind [`Rmw`](super::Rmw).
///
/// [`MemStore`](super::MemStore) is the embedded one. A durable store wraps it: log the effect,
/// then hand it on.
///
/// The rules: the closures are short and do not call back; a method that changes a key runs under
/// that key's latch, so no other change of it overlaps; a reader never sees half an effect. A
/// store does not look at the clock: an expired record is a record until somebody deletes it. An
/// effect that changes a record gives it a [version](Record::version) that the key has not had.
///
/// ```
/// use latchwork::rmw::{Effect, KeyHasher, MemStore, Record, Store};
///
/// let hasher = KeyHasher::new(|key| key.len() as u64);
/// let mut store = MemStore::new();
/// store.hash_with(hasher.clone());
/// let key = hasher.key(b"name");
/// let was_there = store.change(key, |found| {
///     (Effect::Put(Record::new("ada", None)), found.is_some())
/// })?;
/// assert!(!was_there);
/// assert_eq!(store.view(key, |found| found.map(|r| r.value.to_vec())), Some(b"ada".to_vec()));
/// # Ok::<(), latchwork::rmw::StoreError>(())
/// ```
pub trait Store: Send + Sync + 'static {
    /// Tells how the keys are hashed, once and before the first one. A store that wraps another
    /// hands it on.
    fn hash_with(&mut self, hasher: KeyHasher);

    /// Shows a key's record to `look`.
    fn view<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>) -> R) -> R;

    /// Shows several keys' records, all as of one moment; `look` gets the key's index.
    fn view_many(&self, keys: &[Key<'_>], look: impl FnMut(usize, Option<&Record>));

    /// Shows a key's record to `decide` and applies the effect that it returns.
    ///
    /// # Errors
    /// When the store fails; the effect was not applied then.
    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError>;

    /// Does the same with several keys, in their order, all at one moment. A key that appears
    /// twice is decided twice.
    ///
    /// # Errors
    /// When the store fails; no effect was applied then.
    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError>;

    /// Shows a key's record to `look`, with what `publish` needs: the start of an operation that
    /// takes its time and works on a copy.
    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R;

    /// Applies what became of a `load`, unless the store has been cleared in between: then the
    /// update is one that the clear has removed.
    ///
    /// # Errors
    /// When the store fails; the effect was not applied then.
    fn publish(&self, key: Key<'_>, effect: Effect<'_>, seen: Seen) -> Result<(), StoreError>;

    /// Deletes everything at one moment.
    ///
    /// # Errors
    /// When the store fails; nothing was deleted then.
    fn clear(&self) -> Result<(), StoreError>;

    /// How many keys there are, expired ones that nobody has deleted included.
    fn len(&self) -> u64;

    /// How many of them have a deadline.
    fn expiring(&self) -> u64;

    /// How many bytes of memory the keys take, without looking at each; zero if that is not known.
    fn memory(&self) -> u64 {
        0
    }

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows keys from a cursor on, about `count` places of the store, and returns the cursor to
    /// go on from. Zero starts a scan and ends it; any other number is valid. A key that is there
    /// from the first call to the last is shown at least once.
    fn scan(&self, cursor: u64, count: usize, visit: impl FnMut(&Bytes, &Record)) -> u64;

    /// A cursor to start in the middle, made from a random number.
    fn some_cursor(&self, _random: u64) -> u64 {
        0
    }

    /// Calls `visit` with the hash of every key whose deadline has passed at `now`, outside all
    /// of the store's locks.
    fn visit_expired(&self, now: u64, visit: impl FnMut(u64));

    /// Deletes the keys with this hash whose deadline has passed at `now`, under their latch, and
    /// says how many they were.
    fn remove_expired(&self, hash: u64, now: u64) -> u64;

    /// The earliest deadline of all records.
    fn next_deadline(&self) -> Option<u64>;
}
