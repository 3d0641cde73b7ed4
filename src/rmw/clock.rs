//! The clock that expiry goes by.

use std::fmt;
use std::time::Duration;

use crate::sync::time;
use crate::sync::unmodelled::{Arc, AtomicU64, Ordering};

/// The time by which keys expire: the system's, or one that a test moves.
///
/// A clone of a manual clock is the same clock. Under it, no thread deletes expired keys, because
/// its deadlines say nothing about real time, and so that tests are repeatable: they read as
/// missing at once, and [`sweep`](super::Rmw::sweep) deletes them.
///
/// ```
/// use std::time::Duration;
/// use latchwork::rmw::{Clock, Rmw, SetOptions};
///
/// let clock = Clock::manual(1_700_000_000_000);
/// let rmw = Rmw::builder().clock(clock.clone()).build();
/// rmw.set_with("session", "ada", &SetOptions::new().expire_in(Duration::from_secs(60)))?;
/// clock.advance(Duration::from_secs(61));
/// assert_eq!(rmw.get("session")?, None);
/// # Ok::<(), latchwork::rmw::RmwError>(())
/// ```
#[derive(Clone)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The system's wall clock.
    ///
    /// ```
    /// # use latchwork::rmw::Clock;
    /// assert!(Clock::system().now() > 1_700_000_000_000);
    /// ```
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `unix_millis` until it is moved.
    ///
    /// ```
    /// # use latchwork::rmw::Clock;
    /// assert_eq!(Clock::manual(5).now(), 5);
    /// ```
    pub fn manual(unix_millis: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(unix_millis))))
    }

    /// Milliseconds since the Unix epoch.
    ///
    /// ```
    /// # use latchwork::rmw::Clock;
    /// assert_eq!(Clock::manual(7).now(), 7);
    /// ```
    #[inline]
    pub fn now(&self) -> u64 {
        match &self.0 {
            None => time::unix_millis(),
            Some(now) => now.load(Ordering::Acquire),
        }
    }

    #[inline]
    pub(super) fn is_manual(&self) -> bool {
        self.0.is_some()
    }

    /// Moves a manual clock on; the system's stays as it is.
    ///
    /// ```
    /// # use latchwork::rmw::Clock;
    /// let clock = Clock::manual(5);
    /// clock.advance(std::time::Duration::from_millis(2));
    /// assert_eq!(clock.now(), 7);
    /// ```
    pub fn advance(&self, by: Duration) {
        if let Some(now) = &self.0 {
            let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            now.fetch_add(by, Ordering::AcqRel);
        }
    }

    /// Sets a manual clock; the system's stays as it is.
    ///
    /// ```
    /// # use latchwork::rmw::Clock;
    /// let clock = Clock::manual(5);
    /// clock.set(3);
    /// assert_eq!(clock.now(), 3);
    /// ```
    pub fn set(&self, unix_millis: u64) {
        if let Some(now) = &self.0 {
            now.store(unix_millis, Ordering::Release);
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("Clock::system"),
            Some(_) => write!(f, "Clock::manual({})", self.now()),
        }
    }
}
