//! What the commands can be asked to do: conditions, expiries, and their answers.

use std::time::Duration;

use super::value::Value;

/// When a `set` applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum When {
    #[default]
    Always,
    Missing,
    Present,
}

/// What a `set` does to the expiry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Expiry {
    #[default]
    Clear,
    Keep,
    In(Duration),
    At(u64),
}

/// How [`set_with`](super::Rmw::set_with) sets: `NX`, `XX`, `GET`, `KEEPTTL`, and a new expiry.
///
/// A later condition replaces an earlier one, and so does a later expiry. By default the value is
/// set always, and what expiry there was is cleared.
///
/// ```
/// use std::time::Duration;
/// use latchwork::rmw::{Rmw, SetOptions};
///
/// let rmw = Rmw::new();
/// let lock = SetOptions::new().if_missing().expire_in(Duration::from_secs(30));
/// assert!(rmw.set_with("lock", "me", &lock)?.applied);
/// assert!(!rmw.set_with("lock", "you", &lock)?.applied);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct SetOptions {
    pub(super) when: When,
    pub(super) expiry: Expiry,
    pub(super) get: bool,
}

impl SetOptions {
    /// Set always, clear the expiry.
    ///
    /// ```
    /// # use latchwork::rmw::SetOptions;
    /// assert_eq!(SetOptions::new(), SetOptions::default());
    /// ```
    pub const fn new() -> Self {
        Self {
            when: When::Always,
            expiry: Expiry::Clear,
            get: false,
        }
    }

    /// Only if the key is missing (`NX`).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, SetOptions};
    /// let rmw = Rmw::new();
    /// assert!(rmw.set_with("k", "v", &SetOptions::new().if_missing())?.applied);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn if_missing(mut self) -> Self {
        self.when = When::Missing;
        self
    }

    /// Only if the key is there (`XX`).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, SetOptions};
    /// let rmw = Rmw::new();
    /// assert!(!rmw.set_with("k", "v", &SetOptions::new().if_present())?.applied);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn if_present(mut self) -> Self {
        self.when = When::Present;
        self
    }

    /// Expire after a time (`EX`, `PX`), rounded up to milliseconds. Zero is an error.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use latchwork::rmw::{Clock, Rmw, SetOptions};
    /// let rmw = Rmw::builder().clock(Clock::manual(1_000)).build();
    /// rmw.set_with("k", "v", &SetOptions::new().expire_in(Duration::from_millis(5)))?;
    /// assert_eq!(rmw.expires_at("k"), Some(Some(1_005)));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn expire_in(mut self, after: Duration) -> Self {
        self.expiry = Expiry::In(after);
        self
    }

    /// Expire at a time in Unix milliseconds (`EXAT`, `PXAT`). Zero is an error; a time that has
    /// passed leaves the key missing.
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, SetOptions};
    /// let rmw = Rmw::new();
    /// rmw.set_with("k", "v", &SetOptions::new().expire_at(1))?;
    /// assert_eq!(rmw.get("k")?, None);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn expire_at(mut self, unix_millis: u64) -> Self {
        self.expiry = Expiry::At(unix_millis);
        self
    }

    /// Keep the key's expiry (`KEEPTTL`).
    ///
    /// ```
    /// # use latchwork::rmw::{Clock, Rmw, SetOptions};
    /// let rmw = Rmw::builder().clock(Clock::manual(1)).build();
    /// rmw.set_with("k", "v", &SetOptions::new().expire_at(9))?;
    /// rmw.set_with("k", "w", &SetOptions::new().keep_expiry())?;
    /// assert_eq!(rmw.expires_at("k"), Some(Some(9)));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn keep_expiry(mut self) -> Self {
        self.expiry = Expiry::Keep;
        self
    }

    /// Return the previous value, whether or not the new one is set (`GET`).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, SetOptions};
    /// let rmw = Rmw::new();
    /// rmw.set("k", "old")?;
    /// let outcome = rmw.set_with("k", "new", &SetOptions::new().get())?;
    /// assert_eq!(outcome.previous, Some("old".into()));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub const fn get(mut self) -> Self {
        self.get = true;
        self
    }
}

/// What [`set_with`](super::Rmw::set_with) did.
///
/// ```
/// use latchwork::rmw::{Rmw, SetOptions};
///
/// let outcome = Rmw::new().set_with("k", "v", &SetOptions::new().get())?;
/// assert!(outcome.applied && outcome.previous.is_none());
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetOutcome {
    /// Whether the condition held and the value was set.
    pub applied: bool,
    /// What the key held before, if [`get`](SetOptions::get) asked for it.
    pub previous: Option<Value>,
}

/// What [`getex`](super::Rmw::getex) does to the expiry.
///
/// ```
/// use latchwork::rmw::{GetExpiry, Rmw};
///
/// let rmw = Rmw::new();
/// rmw.set("k", "v")?;
/// rmw.getex("k", GetExpiry::In(std::time::Duration::from_secs(9)))?;
/// assert!(matches!(rmw.expires_at("k"), Some(Some(_))));
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GetExpiry {
    /// Leave it.
    Keep,
    /// Clear it (`PERSIST`).
    Clear,
    /// Expire after a time (`EX`, `PX`), rounded up to milliseconds. Zero is an error.
    In(Duration),
    /// Expire at a time in Unix milliseconds (`EXAT`, `PXAT`). Zero is an error; a time that has
    /// passed deletes the key.
    At(u64),
}

/// When [`expire_at`](super::Rmw::expire_at) applies. A key without expiry counts as expiring
/// never, later than any time.
///
/// ```
/// use latchwork::rmw::{ExpireWhen, Rmw};
///
/// let rmw = Rmw::new();
/// rmw.set("k", "v")?;
/// let soon = std::time::Duration::from_secs(9);
/// assert!(!rmw.expire_in("k", soon, ExpireWhen::Later)?);
/// assert!(rmw.expire_in("k", soon, ExpireWhen::Earlier)?);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpireWhen {
    /// Always.
    #[default]
    Always,
    /// If the key has no expiry (`NX`).
    Persistent,
    /// If the key has an expiry (`XX`).
    Expiring,
    /// If the new expiry is later (`GT`, and `XX GT`).
    Later,
    /// If the new expiry is earlier (`LT`).
    Earlier,
    /// If the key has an expiry and the new one is earlier (`XX LT`).
    ExpiringAndEarlier,
}

impl ExpireWhen {
    pub(super) fn holds(self, old: Option<u64>, new: u64) -> bool {
        match (self, old) {
            (ExpireWhen::Always, _) | (ExpireWhen::Persistent, None) => true,
            (ExpireWhen::Expiring, Some(_)) | (ExpireWhen::Earlier, None) => true,
            (ExpireWhen::Later, Some(old)) => new > old,
            (ExpireWhen::Earlier | ExpireWhen::ExpiringAndEarlier, Some(old)) => new < old,
            _ => false,
        }
    }
}

/// How long a key has.
///
/// ```
/// use latchwork::rmw::{Rmw, Ttl};
///
/// let rmw = Rmw::new();
/// assert_eq!(rmw.ttl("k"), Ttl::Missing);
/// rmw.set("k", "v")?;
/// assert_eq!(rmw.ttl("k"), Ttl::Persistent);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// There is no such key.
    Missing,
    /// It does not expire.
    Persistent,
    /// It expires after this time.
    Remaining(Duration),
}
