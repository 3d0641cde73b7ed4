//! How long waits took: one counter for each power of two of nanoseconds.

use std::fmt;
use std::time::Duration;

use crate::sync::unmodelled::{AtomicU64, Ordering};

/// Waits up to 2^40 ns (18 minutes) have a bucket of their own; longer ones share the last.
const BUCKETS: usize = 41;

/// Counts waits as they end.
#[derive(Debug)]
pub(crate) struct Recorder([AtomicU64; BUCKETS]);

impl Recorder {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }

    pub(crate) fn record(&self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - nanos.leading_zeros()) as usize;
        self.0[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> WaitHistogram {
        WaitHistogram(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}

/// A histogram of waiting times. Buckets double: good for orders of magnitude, not for digits.
///
/// ```
/// use latchwork::Semaphore;
/// use std::time::Duration;
///
/// let permits = Semaphore::new(1).unwrap();
/// let held = permits.acquire().unwrap();
/// permits.acquire_timeout(Duration::from_millis(2)).unwrap_err();
/// let waits = permits.stats().waits;
/// assert_eq!(waits.count(), 1);
/// assert!(waits.quantile(0.5).unwrap() >= Duration::from_millis(2));
/// # drop(held);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct WaitHistogram([u64; BUCKETS]);

impl WaitHistogram {
    /// How many waits have ended, in whatever way.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The buckets that are not empty: the time that their waits stayed below, and how many.
    ///
    /// The last bucket takes in everything longer too.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
            .map(|(i, count)| (Duration::from_nanos(1 << i), *count))
    }

    /// A time that the share `quantile` (0 to 1) of the waits stayed below; at most twice the exact
    /// one. `None` without waits.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * quantile.clamp(0.0, 1.0))
            .ceil()
            .max(1.0) as u64;
        let mut seen = 0;
        self.buckets()
            .find(|(_, count)| {
                seen += count;
                seen >= rank
            })
            .map(|(below, _)| below)
    }
}

impl fmt::Debug for WaitHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_below_the_next_power_of_two() {
        let recorder = Recorder::new();
        for nanos in [0, 1, 900, 1024, u64::MAX] {
            recorder.record(Duration::from_nanos(nanos));
        }
        let waits = recorder.read();
        let below: Vec<u64> = waits.buckets().map(|(d, _)| d.as_nanos() as u64).collect();
        assert_eq!(below, [1, 2, 1024, 2048, 1 << 40]);
        assert_eq!(waits.quantile(0.5), Some(Duration::from_nanos(1024)));
        assert_eq!(Recorder::new().read().quantile(0.5), None);
    }
}
