//! Expiry: deadlines as commands set them, and the sweep that deletes what they left behind.
//!
//! The job is armed for the earliest deadline there is. Who stores a deadline lowers `armed` to
//! it, and arms the job if that made a difference; the job raises `armed` to "none" before it looks
//! for the next deadline. Both are read-modify-writes of one word, so either the job's look sees
//! the stored deadline, or the one who stored it sees "none" and arms the job. "None" is always
//! safe to say: arming twice costs a call.

use std::time::Duration;

use super::error::RmwError;
use super::options::ExpireWhen;
use super::store::{Effect, Record, Store};
use super::{Core, Rmw};
use crate::sweeper::Next;
use crate::sync::atomic::Ordering as Modelled;
use crate::sync::mutant;
use crate::sync::unmodelled::Ordering;

const NEVER: u64 = u64::MAX;

impl Effect<'_> {
    /// The deadline that this effect gives its key, if the key did not have it before.
    #[inline]
    pub(super) fn deadline_after(&self, before: Option<&Record>) -> Option<u64> {
        let at = match self {
            Effect::Put(record) => record.expires_at()?,
            Effect::Expire(at) => (*at)?,
            _ => return None,
        };
        (before.and_then(Record::expires_at) != Some(at)).then_some(at)
    }
}

impl<S: Store> Core<S> {
    /// The time `after` from now; durations are rounded up to milliseconds.
    fn time_in(&self, after: Duration) -> Result<u64, RmwError> {
        let whole = u64::try_from(after.as_millis()).ok();
        let millis = whole.and_then(|ms| {
            ms.checked_add(u64::from(!after.subsec_nanos().is_multiple_of(1_000_000)))
        });
        millis
            .and_then(|millis| self.clock.now().checked_add(millis))
            .filter(|&at| at <= i64::MAX as u64)
            .ok_or(RmwError::InvalidExpiry)
    }

    /// A deadline that a `set` or `getex` may ask for.
    pub(super) fn deadline_in(&self, after: Duration) -> Result<u64, RmwError> {
        if after.is_zero() {
            return Err(RmwError::InvalidExpiry);
        }
        self.time_in(after)
    }

    /// The same as a time.
    pub(super) fn check_deadline(&self, at: u64) -> Result<u64, RmwError> {
        match at {
            0 => Err(RmwError::InvalidExpiry),
            _ if at > i64::MAX as u64 => Err(RmwError::InvalidExpiry),
            _ => Ok(at),
        }
    }

    /// What giving an existing key this deadline amounts to.
    pub(super) fn expire<'e>(&self, at: u64) -> Effect<'e> {
        if at <= self.clock.now() {
            Effect::Delete
        } else {
            Effect::Expire(Some(at))
        }
    }

    /// Deletes what has expired; a key whose latch is held is left to the next sweep.
    fn sweep(&self) -> u64 {
        let Some(latches) = &self.latches else {
            return 0;
        };
        let now = self.clock.now();
        let (mut removed, mut skipped) = (0, 0);
        self.store.visit_expired(now, |hash| {
            // The latch keeps the key's writers away, and the store compares the deadline again:
            // a value that was set since is not touched.
            match latches.try_latch_hashed(hash) {
                Ok(_latch) => removed += self.store.remove_expired(hash, now),
                Err(_) => skipped += 1,
            }
        });
        let counters = &self.counters;
        counters.expired.fetch_add(removed, Ordering::Relaxed);
        counters.skipped.fetch_add(skipped, Ordering::Relaxed);
        counters.sweeps.fetch_add(1, Ordering::Relaxed);
        removed
    }

    /// The sweeper's job.
    pub(super) fn run_sweep(&self) -> Next {
        if !mutant::enabled("rmw-sweep-disarms-late") {
            self.armed.swap(NEVER, Modelled::AcqRel);
        }
        self.sweep();
        let next = self.store.next_deadline();
        if mutant::enabled("rmw-sweep-disarms-late") {
            self.armed.swap(NEVER, Modelled::AcqRel);
        }
        match next {
            None => Next::Idle,
            Some(at) => {
                self.armed.fetch_min(at, Modelled::AcqRel);
                Next::After(self.delay(at))
            }
        }
    }

    /// How long the sweep for a deadline waits: until it has passed, and a pause at least.
    fn delay(&self, at: u64) -> Duration {
        let left = at.saturating_sub(self.clock.now()).saturating_add(1);
        Duration::from_millis(left).max(self.sweep_every)
    }
}

impl<S: Store> Rmw<S> {
    /// Has the sweeper come by for a deadline that was stored.
    #[inline]
    pub(super) fn arm(&self, at: u64) {
        let core = &self.core;
        let Some(sweep) = &self.sweep else {
            return;
        };
        if !core.clock.is_manual() && at < core.armed.fetch_min(at, Modelled::AcqRel) {
            let is_armed = sweep.arm_after(core.delay(at));
            if is_armed && !sweep.is_attended() {
                // No thread could be started: the next deadline tries again, a later one too.
                core.armed.swap(NEVER, Modelled::AcqRel);
            }
        }
    }

    /// Sets a key's expiry to a time in Unix milliseconds, under a condition, and says whether that
    /// was done (`PEXPIREAT`). A time that has passed deletes the key.
    ///
    /// ```
    /// # use latchwork::rmw::{Clock, ExpireWhen, Rmw};
    /// let rmw = Rmw::builder().clock(Clock::manual(1_000)).build();
    /// assert!(!rmw.expire_at("k", 2_000, ExpireWhen::Always)?);
    /// rmw.set("k", "v")?;
    /// assert!(rmw.expire_at("k", 2_000, ExpireWhen::Always)?);
    /// assert!(!rmw.expire_at("k", 1_500, ExpireWhen::Later)?);
    /// assert!(rmw.expire_at("k", 0, ExpireWhen::Always)?);
    /// assert!(!rmw.contains("k"));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidExpiry`](RmwError::InvalidExpiry) beyond `i64::MAX`;
    /// [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    pub fn expire_at(
        &self,
        key: impl AsRef<[u8]>,
        unix_millis: u64,
        when: ExpireWhen,
    ) -> Result<bool, RmwError> {
        if unix_millis > i64::MAX as u64 {
            return Err(RmwError::InvalidExpiry);
        }
        self.write(key.as_ref(), |record| match record {
            Some(record) if when.holds(record.expires_at(), unix_millis) => {
                Ok((self.core.expire(unix_millis), true))
            }
            _ => Ok((Effect::Keep, false)),
        })
    }

    /// Sets a key to expire after a time, rounded up to milliseconds, under a condition, and says
    /// whether that was done (`PEXPIRE`). Zero deletes the key.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use latchwork::rmw::{ExpireWhen, Rmw};
    /// let rmw = Rmw::new();
    /// rmw.set("k", "v")?;
    /// assert!(rmw.expire_in("k", Duration::from_secs(60), ExpireWhen::Persistent)?);
    /// assert!(!rmw.expire_in("k", Duration::from_secs(90), ExpireWhen::Persistent)?);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// As [`expire_at`](Self::expire_at).
    pub fn expire_in(
        &self,
        key: impl AsRef<[u8]>,
        after: Duration,
        when: ExpireWhen,
    ) -> Result<bool, RmwError> {
        self.expire_at(key, self.core.time_in(after)?, when)
    }

    /// Clears a key's expiry and says whether it had one (`PERSIST`).
    ///
    /// ```
    /// # use latchwork::rmw::{Rmw, SetOptions};
    /// let rmw = Rmw::new();
    /// rmw.set_with("k", "v", &SetOptions::new().expire_at(4_000_000_000_000))?;
    /// assert!(rmw.persist("k")?);
    /// assert!(!rmw.persist("k")?);
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    ///
    /// # Errors
    /// [`Reentrant`](RmwError::Reentrant), [`Busy`](RmwError::Busy).
    pub fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, RmwError> {
        self.write(key.as_ref(), |record| {
            match record.and_then(Record::expires_at) {
                Some(_) => Ok((Effect::Expire(None), true)),
                None => Ok((Effect::Keep, false)),
            }
        })
    }

    /// Deletes the keys that have expired by now, and says how many they were. The sweeper does
    /// this by itself; call it under a manual [`Clock`](super::Clock), or to have the memory back
    /// at once. A key that is being written is left out.
    ///
    /// ```
    /// # use latchwork::rmw::{Clock, Rmw, SetOptions};
    /// let clock = Clock::manual(1);
    /// let rmw = Rmw::builder().clock(clock.clone()).build();
    /// rmw.set_with("k", "v", &SetOptions::new().expire_at(5))?;
    /// clock.set(6);
    /// assert_eq!((rmw.len(), rmw.sweep(), rmw.len()), (1, 1, 0));
    /// # Ok::<(), latchwork::rmw::RmwError>(())
    /// ```
    pub fn sweep(&self) -> u64 {
        self.core.sweep()
    }
}
