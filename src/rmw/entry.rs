//! One key as an `update` sees it: the value found, and what is staged to replace it.

use super::error::RmwError;
use super::store::Record;
use super::value::Value;

/// A key inside [`update`](super::Rmw::update).
///
/// What is staged is stored when the closure returns, also if that returns an `Err`. Nothing is
/// stored if the closure panics, or if the update itself fails.
///
/// ```
/// use latchwork::rmw::Rmw;
///
/// let rmw = Rmw::new();
/// rmw.update("queue", |entry| {
///     let mut text = entry.get().map_or(Vec::new(), |value| value.to_vec());
///     text.extend_from_slice(b"job;");
///     entry.set(text);
/// })?;
/// assert_eq!(rmw.get("queue")?, Some("job;".into()));
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Debug)]
pub struct Entry {
    value: Option<Value>,
    expires_at: Option<u64>,
    staged: bool,
}

impl Entry {
    /// A missing key's.
    #[inline(always)]
    pub(super) fn missing() -> Self {
        Self {
            value: None,
            expires_at: None,
            staged: false,
        }
    }

    /// Becomes a live record's, where it is: to move a value whose fields were just stored is to
    /// wait for those stores. That is also why a number is copied by itself.
    #[inline(always)]
    pub(super) fn fill(&mut self, record: &Record) {
        match &record.value {
            Value::Integer(number) => self.value = Some(Value::Integer(*number)),
            value => self.value = Some(value.clone()),
        }
        self.expires_at = record.expires_at();
    }

    /// Whether anything was staged.
    #[inline]
    pub(super) fn is_staged(&self) -> bool {
        self.staged
    }

    #[inline]
    pub(super) fn take_value(&mut self) -> Option<Value> {
        self.value.take()
    }

    /// The value, as staged so far; `None` if the key is missing.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # let rmw = Rmw::new();
    /// assert!(rmw.update("k", |entry| entry.get().is_none())?);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    #[inline]
    pub fn get(&self) -> Option<&Value> {
        self.value.as_ref()
    }

    /// The value as a number; `None` if the key is missing.
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, RmwError};
    /// # let rmw = Rmw::new();
    /// rmw.set("k", "12")?;
    /// assert_eq!(rmw.update("k", |entry| entry.integer())?, Ok(Some(12)));
    /// # Ok::<(), RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`NotAnInteger`](RmwError::NotAnInteger), [`WrongType`](RmwError::WrongType).
    #[inline]
    pub fn integer(&self) -> Result<Option<i64>, RmwError> {
        self.value.as_ref().map(Value::integer).transpose()
    }

    /// Stages a value; the expiry stays as it is.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # let rmw = Rmw::new();
    /// rmw.update("k", |entry| entry.set("v"))?;
    /// assert_eq!(rmw.get("k")?, Some("v".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    #[inline]
    pub fn set(&mut self, value: impl Into<Value>) {
        self.value = Some(value.into());
        self.staged = true;
    }

    /// Stages that the key goes away.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// rmw.update("k", |entry| entry.remove())?;
    /// assert!(!rmw.contains("k"));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn remove(&mut self) {
        self.value = None;
        self.expires_at = None;
        self.staged = true;
    }

    /// The expiry in Unix milliseconds; `None` for a key that is missing or has none.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # let rmw = Rmw::new();
    /// assert_eq!(rmw.update("k", |entry| entry.expires_at())?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn expires_at(&self) -> Option<u64> {
        self.expires_at
    }

    /// Stages an expiry in Unix milliseconds, or none. A time that has passed deletes the key. On
    /// a missing key it does nothing.
    ///
    /// ```
    /// # use latchwork::rmw::Rmw;
    /// # let rmw = Rmw::new();
    /// rmw.update("k", |entry| {
    ///     entry.set("v");
    ///     entry.set_expires_at(Some(4_000_000_000_000));
    /// })?;
    /// assert_eq!(rmw.expires_at("k"), Some(Some(4_000_000_000_000)));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn set_expires_at(&mut self, unix_millis: Option<u64>) {
        if self.value.is_some() {
            // Time zero has passed, like any other; in a record it would mean "none".
            self.expires_at = unix_millis.map(|at| at.max(1));
            self.staged = true;
        }
    }
}
