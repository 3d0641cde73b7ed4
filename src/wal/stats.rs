//! What a log counts.

use crate::sync::unmodelled::Mutex;
use crate::waiter::{Counter, Gauge, Recorder, WaitHistogram};

use super::{Lsn, WalError};

pub(super) struct Counters {
    /// The gauges are written under the log's lock.
    pub(super) last_lsn: Gauge,
    pub(super) durable_lsn: Gauge,
    pub(super) pending_bytes: Gauge,
    pub(super) segments: Gauge,
    pub(super) records: Counter,
    pub(super) bytes: Counter,
    pub(super) groups: Counter,
    pub(super) timed_out: Counter,
    pub(super) failed_groups: Counter,
    pub(super) panics: Counter,
    pub(super) failed_starts: Counter,
    pub(super) commits: Recorder,
    pub(super) trouble: Mutex<Option<WalError>>,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            last_lsn: Gauge::new(),
            durable_lsn: Gauge::new(),
            pending_bytes: Gauge::new(),
            segments: Gauge::new(),
            records: Counter::new(),
            bytes: Counter::new(),
            groups: Counter::new(),
            timed_out: Counter::new(),
            failed_groups: Counter::new(),
            panics: Counter::new(),
            failed_starts: Counter::new(),
            commits: Recorder::new(),
            trouble: Mutex::new(None),
        }
    }

    pub(super) fn read(&self) -> WalStats {
        WalStats {
            last_lsn: Lsn::new(self.last_lsn.get()),
            durable_lsn: Lsn::new(self.durable_lsn.get()),
            pending_bytes: self.pending_bytes.get(),
            segments: self.segments.get(),
            records: self.records.get(),
            bytes: self.bytes.get(),
            groups: self.groups.get(),
            timed_out: self.timed_out.get(),
            failed_groups: self.failed_groups.get(),
            panics: self.panics.get(),
            failed_starts: self.failed_starts.get(),
            commits: self.commits.read(),
            trouble: self.trouble.lock().clone(),
        }
    }
}

/// What [`Wal::stats`](super::Wal::stats) returns.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("latchwork-wal-stats-{}", std::process::id()));
/// use latchwork::Wal;
///
/// let (wal, _) = Wal::builder(&dir).open(|_, _| Ok::<(), std::io::Error>(()))?;
/// wal.append(b"one")?;
/// let stats = wal.stats();
/// assert_eq!((stats.records, stats.groups), (1, 1));
/// assert_eq!(stats.durable_lsn, stats.last_lsn);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WalStats {
    /// The last place that was given out.
    pub last_lsn: Lsn,
    /// The last place that is known to be synced.
    pub durable_lsn: Lsn,
    /// Bytes of records that wait for a leader.
    pub pending_bytes: u64,
    /// Segments on disk.
    pub segments: u64,
    /// Records written since the log was opened.
    pub records: u64,
    /// Bytes written, with headers.
    pub bytes: u64,
    /// Groups written; records over groups is how much a write and a sync are shared.
    pub groups: u64,
    /// Appends that timed out before their group was begun.
    pub timed_out: u64,
    /// Groups that could not be written or synced.
    pub failed_groups: u64,
    /// Panics of callbacks, and of the file system.
    pub panics: u64,
    /// Failed attempts to start the log's thread.
    pub failed_starts: u64,
    /// How long the groups took to write and sync.
    pub commits: WaitHistogram,
    /// Why the log writes nothing at present.
    pub trouble: Option<WalError>,
}
