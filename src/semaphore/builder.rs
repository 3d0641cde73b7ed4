//! How a semaphore is made.

use std::fmt;

use crate::holder::anchor::Anchor;
use crate::holder::{LeakReport, OnLeak};
use crate::sweeper::Sweeper;
use crate::sync::unmodelled::Arc;
use crate::waiter::dispatcher;

use super::core::Core;
use super::lease::{ExpiredLease, Leases, OnExpire};
use super::state::MOST_PERMITS;
use super::{Fairness, Semaphore};

/// Makes a [`Semaphore`].
///
/// ```
/// use latchwork::semaphore::{Fairness, Semaphore};
///
/// let saves = Semaphore::builder("saves")
///     .permits(8)
///     .max_permits(64)
///     .fairness(Fairness::Fifo)
///     .track_holders(true)
///     .build()?;
/// let permit = saves.acquire()?;
/// let holder = &saves.holders()[0];
/// assert_eq!(holder.permits, 1);
/// assert!(holder.acquired_at.file().ends_with(".rs"));
/// # drop(permit);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Builder {
    name: String,
    permits: u64,
    max_permits: u64,
    fairness: Fairness,
    tracks_holders: bool,
    on_leak: Option<OnLeak>,
    sweeper: Option<Sweeper>,
    on_expire: Option<OnExpire>,
}

impl Builder {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            permits: 1,
            max_permits: MOST_PERMITS,
            fairness: Fairness::default(),
            tracks_holders: false,
            on_leak: None,
            sweeper: None,
            on_expire: None,
        }
    }

    /// How many permits there are at first. Default: 1.
    pub fn permits(mut self, permits: u64) -> Self {
        self.permits = permits;
        self
    }

    /// The ceiling for `set_max` and `acquire_many`. Default: 2^48 - 1, the most there can be.
    pub fn max_permits(mut self, max_permits: u64) -> Self {
        self.max_permits = max_permits;
        self
    }

    /// Who gets a permit that comes back while others wait. Default: [`Fairness::Eventual`].
    pub fn fairness(mut self, fairness: Fairness) -> Self {
        self.fairness = fairness;
        self
    }

    /// Whether [`Semaphore::holders`] can say who holds permits. Costs a reading of a coarse clock
    /// an acquire. Default: no.
    pub fn track_holders(mut self, track: bool) -> Self {
        self.tracks_holders = track;
        self
    }

    /// Tells `handler` of each leaked guard whose permits came back. It runs on the library's
    /// thread `lw-dispatch`, and a panic in it is caught.
    pub fn on_leak(mut self, handler: impl Fn(LeakReport) + Send + Sync + 'static) -> Self {
        self.on_leak = Some(Arc::new(handler));
        self
    }

    /// The sweeper that takes permits back when their [`Lease`](super::Lease) expires. Default: one
    /// of the semaphore's own, whose thread starts with the first lease.
    ///
    /// Do not shut it down while there are leases: they would no longer expire, and no further ones
    /// are granted.
    pub fn sweeper(mut self, sweeper: Sweeper) -> Self {
        self.sweeper = Some(sweeper);
        self
    }

    /// Tells `handler` of each lease that expired before its holder gave it back. It runs on the
    /// library's thread `lw-dispatch`, and a panic in it is caught.
    pub fn on_expire(mut self, handler: impl Fn(ExpiredLease) + Send + Sync + 'static) -> Self {
        self.on_expire = Some(Arc::new(handler));
        self
    }

    /// Makes the semaphore.
    ///
    /// # Errors
    ///
    /// [`BuildError::Permits`] if the number of permits is zero or above the ceiling, or the
    /// ceiling above 2^48 - 1. [`BuildError::Thread`] if an `on_leak` or `on_expire` handler was
    /// given and the system refuses the thread that would run it.
    pub fn build(self) -> Result<Semaphore, BuildError> {
        InvalidPermits::check(self.max_permits, MOST_PERMITS)?;
        InvalidPermits::check(self.permits, self.max_permits)?;
        if self.on_leak.is_some() || self.on_expire.is_some() {
            dispatcher::start().map_err(BuildError::Thread)?;
        }
        Ok(Semaphore {
            core: Anchor::new(Core::new(
                self.permits,
                self.max_permits,
                self.fairness,
                self.tracks_holders,
                self.name.into(),
                self.on_leak,
                Leases::new(self.sweeper, self.on_expire),
            )),
        })
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("permits", &self.permits)
            .field("max_permits", &self.max_permits)
            .field("fairness", &self.fairness)
            .field("track_holders", &self.tracks_holders)
            .finish_non_exhaustive()
    }
}

/// A number of permits that a semaphore cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidPermits {
    /// What was asked for.
    pub requested: u64,
    /// The most there can be; the least is 1.
    pub ceiling: u64,
}

impl InvalidPermits {
    pub(super) fn check(requested: u64, ceiling: u64) -> Result<(), Self> {
        if requested == 0 || requested > ceiling {
            return Err(Self { requested, ceiling });
        }
        Ok(())
    }
}

impl fmt::Display for InvalidPermits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a semaphore cannot have {} permits: give it at least 1 and at most {}",
            self.requested, self.ceiling
        )
    }
}

impl std::error::Error for InvalidPermits {}

/// Why a semaphore could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// No permits, or too many.
    Permits(InvalidPermits),
    /// The library's thread could not be started.
    Thread(std::io::Error),
}

impl From<InvalidPermits> for BuildError {
    fn from(error: InvalidPermits) -> Self {
        Self::Permits(error)
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permits(error) => error.fmt(f),
            Self::Thread(_) => f.write_str(
                "the thread that runs `on_leak` and `on_expire` handlers could not be started",
            ),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Permits(_) => None,
            Self::Thread(error) => Some(error),
        }
    }
}
