//! What `INFO persistence` shows.

use std::sync::atomic::Ordering;

use latchwork::FlushPipeline;
use latchwork::flush::FlushStats;
use latchwork::wal::{Lsn, WalStats};

use super::core::Core;
use super::error::{Halt, StorageError};
use super::flush::Finalizer;

/// What there is on disk, and what has been done.
#[derive(Clone, Debug)]
pub(crate) struct StorageStats {
    pub(crate) log: WalStats,
    pub(crate) flush: FlushStats,
    /// All records up to this one are in segments.
    pub(crate) position: Lsn,
    pub(crate) segments: u64,
    pub(crate) segment_bytes: u64,
    /// Keys in segments, with those that came again.
    pub(crate) segment_entries: u64,
    /// Keys that have changed since they were last in a segment.
    pub(crate) dirty_keys: u64,
    /// Bytes of the records of these changes.
    pub(crate) dirty_bytes: u64,
    pub(crate) rotations: u64,
    pub(crate) merges: u64,
    /// Flushes and merges that have failed.
    pub(crate) failures: u64,
    /// Segments that could not be removed; the next start does it.
    pub(crate) failed_removals: u64,
    /// Writes that were refused.
    pub(crate) refused: u64,
    /// Why the last flush, merge or release failed.
    pub(crate) trouble: Option<StorageError>,
    /// Why writes are refused.
    pub(crate) halt: Option<Halt>,
}

impl StorageStats {
    pub(super) fn read(core: &Core, flush: &FlushPipeline<Finalizer>) -> Self {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &core.counters;
        let manifest = core.manifest.lock().clone();
        let (dirty_keys, dirty_bytes) = {
            let tables = core.gate.enter();
            (tables.keys(), tables.logged())
        };
        Self {
            log: core.wal.stats(),
            flush: flush.stats(),
            position: Lsn::new(manifest.position),
            segments: manifest.segments.len() as u64,
            segment_bytes: manifest.bytes(),
            segment_entries: manifest.entries(),
            dirty_keys,
            dirty_bytes,
            rotations: count(&counters.rotations),
            merges: count(&counters.merges),
            failures: count(&counters.failed_flushes),
            failed_removals: count(&counters.failed_removals),
            refused: count(&counters.refused),
            trouble: counters.trouble.lock().clone(),
            halt: core.refusal(),
        }
    }
}
