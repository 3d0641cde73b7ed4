//! The commands that look through all keys.
//!
//! None of them stops writers, so none sees one moment: a key that is there throughout is returned,
//! one that comes or goes meanwhile perhaps.

use std::hash::BuildHasher;

use super::Rmw;
use super::glob;
use super::store::{Record, Store};
use super::value::{Bytes, ValueType};
use crate::sync::unmodelled::Ordering;

/// Keys that a step of a scan looks at by default.
const COUNT: usize = 10;

/// What [`scan`](Rmw::scan) returns: keys by pattern and type, and how many to look at a call.
///
/// ```
/// use latchwork::rmw::{Rmw, ScanOptions, ValueType};
///
/// let rmw = Rmw::new();
/// rmw.mset([("user:1", "ada"), ("user:2", "bob"), ("job", "1")])?;
/// let options = ScanOptions::new().matching("user:*").of_type(ValueType::String).count(100);
/// let (mut cursor, mut keys) = (0, Vec::new());
/// loop {
///     let page = rmw.scan(cursor, &options);
///     keys.extend(page.keys);
///     cursor = page.cursor;
///     if cursor == 0 {
///         break;
///     }
/// }
/// assert_eq!(keys.len(), 2);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct ScanOptions {
    pattern: Option<Vec<u8>>,
    count: Option<usize>,
    value_type: Option<ValueType>,
}

impl ScanOptions {
    /// All keys, about ten a call.
    ///
    /// ```
    /// # use latchwork::rmw::ScanOptions;
    /// assert_eq!(ScanOptions::new(), ScanOptions::default());
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Keys that match a pattern only (`MATCH`), see [`keys`](Rmw::keys).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, ScanOptions};
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// let page = rmw.scan(0, &ScanOptions::new().matching("x*").count(10_000));
    /// assert!(page.keys.is_empty());
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn matching(mut self, pattern: impl AsRef<[u8]>) -> Self {
        self.pattern = Some(pattern.as_ref().to_vec());
        self
    }

    /// How many places a call looks at, roughly; one at least (`COUNT`). Also the measure of how
    /// long it takes.
    ///
    /// ```
    /// # use latchwork::rmw::ScanOptions;
    /// assert_ne!(ScanOptions::new().count(1_000), ScanOptions::new());
    /// ```
    pub fn count(mut self, count: usize) -> Self {
        self.count = Some(count);
        self
    }

    /// Keys of this type only (`TYPE`).
    ///
    /// ```
    /// # use latchwork::rmw::{ScanOptions, ValueType};
    /// assert_ne!(ScanOptions::new().of_type(ValueType::String), ScanOptions::new());
    /// ```
    pub fn of_type(mut self, value_type: ValueType) -> Self {
        self.value_type = Some(value_type);
        self
    }
}

/// What a call of [`scan`](Rmw::scan) found.
///
/// ```
/// use latchwork::rmw::{Rmw, ScanOptions};
///
/// let page = Rmw::new().scan(0, &ScanOptions::new());
/// assert!(page.cursor == 0 && page.keys.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScanPage {
    /// Where the next call goes on; zero: this was the last.
    pub cursor: u64,
    /// Keys, none perhaps, also before the end.
    pub keys: Vec<Bytes>,
}

impl<S: Store> Rmw<S> {
    /// Looks through the keys step by step, from cursor zero until the cursor is zero again
    /// (`SCAN`).
    ///
    /// A key that is there throughout is returned at least once, perhaps more often; one that comes
    /// or goes meanwhile is returned or not. The cursor is all there is of a scan: it may be
    /// abandoned, and any number may run. A cursor that no call returned starts somewhere. See
    /// [`ScanOptions`] for a whole scan.
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, ScanOptions};
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// let page = rmw.scan(0, &ScanOptions::new().count(10_000));
    /// assert_eq!((page.cursor, page.keys), (0, vec!["k".into()]));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn scan(&self, cursor: u64, options: &ScanOptions) -> ScanPage {
        let mut keys = Vec::new();
        let count = options.count.unwrap_or(COUNT);
        let cursor = self.visit(cursor, count, |key, record| {
            let value_type = options.value_type;
            if value_type.is_none_or(|of| of == record.value.value_type()) {
                keys.push(key.clone());
            }
        });
        // A match may take long; the store's lock is gone by now.
        if let Some(pattern) = &options.pattern {
            keys.retain(|key| glob::matches(pattern, key));
        }
        ScanPage { cursor, keys }
    }

    /// All keys that match a pattern (`KEYS`): `*` is any bytes, `?` any one, `[a-cx]` one of
    /// these, `[^x]` any other, and a backslash takes the next byte as it is. None comes twice.
    ///
    /// It looks at every key there is. In a server, prefer [`scan`](Self::scan).
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// rmw.mset([("user:1", "ada"), ("job", "1")])?;
    /// assert_eq!(rmw.keys("user:*"), ["user:1".into()]);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn keys(&self, pattern: impl AsRef<[u8]>) -> Vec<Bytes> {
        let options = ScanOptions::new().matching(pattern).count(usize::MAX);
        self.scan(0, &options).keys
    }

    /// A key, picked roughly at random (`RANDOMKEY`); `None` if there are none.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// let rmw = Rmw::new();
    /// assert_eq!(rmw.random_key(), None);
    /// rmw.set("k", "v")?;
    /// assert_eq!(rmw.random_key(), Some("k".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn random_key(&self) -> Option<Bytes> {
        let core = &self.core;
        // Hashes of a counter are random enough: the hasher's seed is.
        let turn = core.counters.turns.fetch_add(1, Ordering::Relaxed);
        let start = core.store.some_cursor(core.hasher.hash_one(turn));
        let mut found = None;
        for mut cursor in [start, 0] {
            loop {
                cursor = self.visit(cursor, COUNT, |key, _| found = Some(key.clone()));
                if found.is_some() {
                    return found;
                }
                if cursor == 0 {
                    break;
                }
            }
        }
        found
    }

    /// Shows the live keys from a cursor on.
    fn visit(&self, cursor: u64, count: usize, mut visit: impl FnMut(&Bytes, &Record)) -> u64 {
        let now = self.core.clock.now();
        self.core.store.scan(cursor, count, |key, record| {
            if !record.is_expired(now) {
                visit(key, record);
            }
        })
    }
}
