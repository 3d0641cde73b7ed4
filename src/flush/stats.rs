//! Counters, gauges and samples of a pipeline.

use crate::sync::Padded;
use crate::sync::hint;
use crate::sync::time::{Instant, now};
use crate::waiter::{Counter, Recorder, WaitHistogram};

/// One flush in so many is timed: reading the clock costs as much as a hand-over.
const SAMPLED: u64 = 64;

/// Counters, gauges and histograms of a pipeline, see
/// [`FlushPipeline::stats`](super::FlushPipeline::stats).
///
/// Counters are exact. The histograms of phases hold one flush in 64.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FlushStats {
    /// Flushes that have a number and are not finalized or skipped.
    pub pending: u64,
    /// Places in flight that are taken, by pending flushes and by reservations.
    pub in_flight: u64,
    /// Bytes that are in flight; 0 without
    /// [`max_in_flight_bytes`](super::Builder::max_in_flight_bytes).
    pub bytes_in_flight: u64,
    /// Flushes that were submitted or completed.
    pub submitted: u64,
    /// Flushes that were finalized.
    pub finalized: u64,
    /// Flushes that failed for good, and were skipped.
    pub skipped: u64,
    /// Batches that the finalizer was called with.
    pub batches: u64,
    /// Tries of streams that failed and were repeated.
    pub retried: u64,
    /// Streams that took too long.
    pub timed_out: u64,
    /// How often the pipeline halted.
    pub halts: u64,
    /// How long streams ran.
    pub stream: WaitHistogram,
    /// How long complete flushes waited for their turn.
    pub reorder: WaitHistogram,
    /// How long the finalizer took, for each batch.
    pub finalize: WaitHistogram,
    /// How long reservations had to wait.
    pub reserve: WaitHistogram,
}

pub(super) struct Counters {
    /// Without a stream of the pipeline's; the queue counts the others.
    pub(super) completed: Padded<Counter>,
    pub(super) finalized: Counter,
    pub(super) skipped: Counter,
    pub(super) batches: Counter,
    pub(super) retried: Counter,
    pub(super) timed_out: Counter,
    pub(super) halts: Counter,
    pub(super) stream: Recorder,
    pub(super) reorder: Recorder,
    pub(super) finalize: Recorder,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            completed: Padded(Counter::new()),
            finalized: Counter::new(),
            skipped: Counter::new(),
            batches: Counter::new(),
            retried: Counter::new(),
            timed_out: Counter::new(),
            halts: Counter::new(),
            stream: Recorder::new(),
            reorder: Recorder::new(),
            finalize: Recorder::new(),
        }
    }

    /// The present, for a flush that is sampled.
    pub(super) fn sample(&self, sequence: u64) -> Option<Instant> {
        hint::samples(sequence, SAMPLED).then(now)
    }
}

/// Notes how long something took that began at a sampled time.
pub(super) fn record(recorder: &Recorder, began: Option<Instant>) {
    if let Some(began) = began {
        recorder.record(now().saturating_duration_since(began));
    }
}
