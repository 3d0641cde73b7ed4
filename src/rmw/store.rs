//! What a store is: records by key, read in place, changed by effects.
//!
//! A command looks at the record, decides on an [`Effect`], and returns its result: the store
//! applies the effect in the same step, so a key is found once. Effects are data, absolute and
//! complete (they say what becomes of the key, with the deadline as a time and not as a
//! duration): a store that logs them can replay its log.
//!
//! The caller holds the key's latch in every method that changes it, so a store serves one writer
//! a key, and any number of readers.

use std::num::NonZeroU64;

use super::error::StoreError;
use super::list::ListEdit;
use super::value::Value;

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

/// A value and its deadline.
///
/// ```
/// use latchwork::rmw::Record;
///
/// let record = Record::new("v", Some(1_000));
/// assert!(!record.is_expired(1_000));
/// assert!(record.is_expired(1_001));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Value,
    deadline: Option<NonZeroU64>,
}

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
        }
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
}

/// Where a [`load`](Store::load) found its record; [`publish`](Store::publish) takes it back.
///
/// The two numbers are the store's own: `epoch` changes when the store is cleared, so that an
/// update which began before is dropped and not published after; `place` may spare a second
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
    /// How often the store had been cleared.
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
/// store does not look at the clock: an expired record is a record until somebody deletes it.
///
/// ```
/// use latchwork::rmw::{Effect, Key, MemStore, Record, Store};
///
/// let store = MemStore::new();
/// let key = Key { bytes: b"name", hash: 7 };
/// let was_there = store.change(key, |found| {
///     (Effect::Put(Record::new("ada", None)), found.is_some())
/// })?;
/// assert!(!was_there);
/// assert_eq!(store.view(key, |found| found.map(|r| r.value.to_vec())), Some(b"ada".to_vec()));
/// # Ok::<(), latchwork::rmw::StoreError>(())
/// ```
pub trait Store: Send + Sync + 'static {
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

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
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
