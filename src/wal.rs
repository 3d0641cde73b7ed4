//! A write-ahead log: checksummed records in one order. All threads that append at the same time
//! share one write and one sync (group commit).
//!
//! Use a [`Wal`] where what was acknowledged must survive a crash. [`Durability`] says what an
//! append promises. Old records go with a [`Snapshot`], or with [`rotate`](Wal::rotate) and
//! [`release`](Wal::release) when the caller has their contents elsewhere.
//!
//! | module | holds |
//! |---|---|
//! | `record` | a record as bytes |
//! | `segment` | a file of the log |
//! | `batch` | the records that are written together |
//! | `writer` | the leader's hands on the files, and what each failure means |
//! | `group_commit` | who leads, who waits, and for what |
//! | `recover` | the way from the files to a log that can go on |
//! | `defer` | records for which the log's thread is woken once |
//! | `told` | the callbacks that learn what became of a group |
//! | `release` | the removal of old records |
//! | `snapshot` | the state so far in one file, so that old records can be removed |
//!
//! What is promised, and why it holds:
//!
//! * An acknowledged record survives. It was synced before ([`Durability::Sync`]), in a segment
//!   whose header and name had been synced before that.
//! * A record is delivered whole or not at all: its CRC covers it and its place.
//! * A power cut is not an error. What it leaves behind the last synced record is cut off. Opening
//!   fails for a bad record only if a later one, or a later segment, shows that it had been synced.
//!   See `recover`.
//! * An error means that the record is not in the log; except [`AppendError::InDoubt`], which says
//!   so.
//! * After a failed sync nothing is written to that file any more. [Opening](Wal::builder) the log
//!   again copies what is not known to be synced into a new one.

mod batch;
mod builder;
mod defer;
mod error;
mod group_commit;
mod lsn;
mod record;
mod recover;
mod release;
mod segment;
mod snapshot;
mod stats;
mod told;
mod window;
mod writer;

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use builder::{Builder, Durability, Progress, Recovery, Replay};
pub use error::{AppendError, WalError};
pub use lsn::Lsn;
pub use recover::Cut;
pub use snapshot::{Snapshot, SnapshotReader};
pub use stats::WalStats;

use crate::os::fs::Fs;
use crate::sync::time::Instant;
use crate::sync::{Arc, unmodelled};
use crate::waiter::contain;
use group_commit::{Core, Patience, Tell};

/// A log that records are appended to, and that gives them back after a crash.
///
/// Use it for what must not be lost: a store's changes before they are applied, a queue's messages
/// before they are confirmed. Appends of the same moment share one write and one sync, which one of
/// the appending threads does for all. The log's own thread (`lw-wal`) writes what no thread waits
/// for.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("latchwork-wal-{}", std::process::id()));
/// use latchwork::Wal;
///
/// let (wal, recovery) = Wal::builder(&dir).open(|_lsn, _body| Ok::<(), std::io::Error>(()))?;
/// assert_eq!(recovery.records(), 0);
/// std::thread::scope(|scope| {
///     for name in ["left", "right"] {
///         let wal = &wal;
///         scope.spawn(move || wal.append(name.as_bytes()).unwrap());
///     }
/// });
/// wal.close()?;
///
/// let mut bodies = Vec::new();
/// let (_wal, _) = Wal::builder(&dir).open(|_lsn, body| {
///     bodies.push(body.to_vec());
///     Ok::<(), std::io::Error>(())
/// })?;
/// bodies.sort();
/// assert_eq!(bodies, [b"left".to_vec(), b"right".to_vec()]);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping it [closes](Self::close) it. A process that forks keeps the log: in the child every
/// append is refused with [`Closed`](AppendError::Closed), and the drop does nothing; while the
/// child lives, it shares the lock.
pub struct Wal {
    core: Arc<Core>,
    fs: unmodelled::Arc<dyn Fs>,
    /// One at a time removes files. Whether a removal has yet to be synced.
    removing: crate::sync::lock::Mutex<bool>,
    /// The LSNs of the snapshots that the recovery found damaged.
    damaged: Vec<u64>,
}

impl Wal {
    /// Starts the description of the log in the directory `dir`, which belongs to it.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("latchwork-wal-dir-{}", std::process::id()));
    /// use latchwork::Wal;
    ///
    /// let (wal, _) = Wal::builder(&dir).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let again = Wal::builder(&dir).open(|_, _| Ok::<(), std::io::Error>(()));
    /// assert!(again.unwrap_err().is_locked());
    /// # drop(wal);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn builder(dir: impl Into<PathBuf>) -> Builder {
        Builder::new(dir.into())
    }

    fn with(core: Core, fs: unmodelled::Arc<dyn Fs>, damaged: Vec<u64>) -> Self {
        let core = Arc::new(core);
        Core::open(&core);
        Self {
            core,
            fs,
            removing: crate::sync::lock::Mutex::new(false),
            damaged,
        }
    }

    /// The log's directory.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// assert_eq!(wal.path(), std::path::Path::new("/log"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn path(&self) -> &Path {
        &self.core.dir
    }

    /// Appends a record, waits until it is as durable as the log [promises](Durability), and
    /// returns its place.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// assert_eq!(wal.append(b"one")?, Lsn::new(1));
    /// assert_eq!(wal.durable_lsn(), Lsn::new(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// See [`AppendError`]; [`InDoubt`](AppendError::InDoubt) is the one after which the record may
    /// be in the log.
    ///
    /// # Panics
    /// When the file system panics while the calling thread leads.
    ///
    /// # Blocking
    /// Until the record's group has been written and synced; before, while too much
    /// [waits](Builder::max_pending_bytes).
    pub fn append(&self, body: &[u8]) -> Result<Lsn, AppendError> {
        self.core.append(body, Patience::Endless)
    }

    /// As [`append`](Self::append), but waits no longer than `timeout`.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.append_timeout(b"one", std::time::Duration::from_secs(5))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`append`](Self::append). [`TimedOut`](AppendError::TimedOut) when the record's group had
    /// not been begun: the record is not in the log. [`InDoubt`](AppendError::InDoubt) when it had.
    ///
    /// # Blocking
    /// Up to `timeout`, unless this thread leads: then until its group has been written and synced.
    pub fn append_timeout(&self, body: &[u8], timeout: Duration) -> Result<Lsn, AppendError> {
        self.core.append(body, Patience::timeout(timeout))
    }

    /// As [`append`](Self::append), but does not wait past `deadline`.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let soon = std::time::Instant::now() + std::time::Duration::from_secs(5);
    /// assert_eq!(wal.append_deadline(b"one", soon)?, Lsn::new(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`append_timeout`](Self::append_timeout).
    ///
    /// # Blocking
    /// Until `deadline`, unless this thread leads: then until its group has been written and
    /// synced.
    pub fn append_deadline(&self, body: &[u8], deadline: Instant) -> Result<Lsn, AppendError> {
        self.core.append(body, Patience::Until(deadline))
    }

    /// Appends a record and calls `f` once with the outcome: at once on this thread if the record
    /// is refused, else later on the thread that writes its group. For event loops. `f` must not
    /// wait. It cannot be cancelled.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// wal.append_with(b"one", move |outcome| send.send(outcome).unwrap());
    /// assert_eq!(receive.recv()??, Lsn::new(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `f` gets what [`append`](Self::append) returns; [`Full`](AppendError::Full) instead of a
    /// wait.
    ///
    /// # Blocking
    /// It does not block, unless the system refuses the log's thread: then the calling thread
    /// writes and syncs the group.
    pub fn append_with(
        &self,
        body: &[u8],
        f: impl FnOnce(Result<Lsn, AppendError>) + Send + 'static,
    ) {
        let tell = Tell::Callback(Box::new(f));
        if let Err((error, Some(f))) = Core::enqueue(&self.core, body, tell, Patience::None) {
            self.core.refuse(f, error);
        }
    }

    /// Gives a record its place and returns at once, before it is written. It goes with the next
    /// group; if no thread appends one, the log's thread (`lw-wal`) writes it.
    ///
    /// When a write fails for want of space, enqueued records stay in line; they are written when
    /// the log [goes on](Self::resume).
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let lsn = wal.enqueue(b"one")?;
    /// wal.wait_durable(lsn)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The record was not taken: [`Closed`](AppendError::Closed),
    /// [`TooLarge`](AppendError::TooLarge), [`Poisoned`](AppendError::Poisoned), or the reason why
    /// the last group could not be written.
    ///
    /// # Blocking
    /// While too much [waits](Builder::max_pending_bytes) to be written.
    pub fn enqueue(&self, body: &[u8]) -> Result<Lsn, AppendError> {
        self.enqueue_patiently(body, Patience::Endless)
    }

    /// As [`enqueue`](Self::enqueue), but does not wait for room.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// assert_eq!(wal.try_enqueue(b"one")?, Lsn::new(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and [`Full`](AppendError::Full).
    pub fn try_enqueue(&self, body: &[u8]) -> Result<Lsn, AppendError> {
        self.enqueue_patiently(body, Patience::None)
    }

    /// As [`enqueue`](Self::enqueue), but waits for room no longer than `timeout`.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.enqueue_timeout(b"one", std::time::Duration::from_secs(5))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and [`TimedOut`](AppendError::TimedOut).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn enqueue_timeout(&self, body: &[u8], timeout: Duration) -> Result<Lsn, AppendError> {
        self.enqueue_patiently(body, Patience::timeout(timeout))
    }

    /// As [`enqueue`](Self::enqueue), but does not wait for room past `deadline`.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let soon = std::time::Instant::now() + std::time::Duration::from_secs(5);
    /// wal.enqueue_deadline(b"one", soon)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`enqueue_timeout`](Self::enqueue_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn enqueue_deadline(&self, body: &[u8], deadline: Instant) -> Result<Lsn, AppendError> {
        self.enqueue_patiently(body, Patience::Until(deadline))
    }

    fn enqueue_patiently(&self, body: &[u8], patience: Patience) -> Result<Lsn, AppendError> {
        Core::enqueue(&self.core, body, Tell::Nobody, patience).map_err(|(error, _)| error)
    }

    /// Waits until every record up to `lsn` is synced. It syncs at once, whatever the log's
    /// [`Durability`].
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let lsn = wal.enqueue(b"one")?;
    /// wal.wait_durable(lsn)?;
    /// assert!(wal.durable_lsn() >= lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Unassigned`](AppendError::Unassigned) for a place that no record has; otherwise why the
    /// records could not be synced. Enqueued records may stay in line nevertheless, and be written
    /// later.
    ///
    /// # Blocking
    /// Until the sync has been done.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<(), AppendError> {
        self.core.wait_durable(Some(lsn), Patience::Endless)
    }

    /// As [`wait_durable`](Self::wait_durable), but waits no longer than `timeout`.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let lsn = wal.enqueue(b"one")?;
    /// wal.wait_durable_timeout(lsn, std::time::Duration::from_secs(5))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait_durable`](Self::wait_durable); [`TimedOut`](AppendError::TimedOut), which says
    /// nothing about the records.
    ///
    /// # Blocking
    /// Up to `timeout`, unless this thread leads: then until the sync has been done.
    pub fn wait_durable_timeout(&self, lsn: Lsn, timeout: Duration) -> Result<(), AppendError> {
        self.core
            .wait_durable(Some(lsn), Patience::timeout(timeout))
    }

    /// As [`wait_durable`](Self::wait_durable), but does not wait past `deadline`.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let soon = std::time::Instant::now() + std::time::Duration::from_secs(5);
    /// wal.wait_durable_deadline(wal.enqueue(b"one")?, soon)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait_durable_timeout`](Self::wait_durable_timeout).
    ///
    /// # Blocking
    /// Until `deadline`, unless this thread leads: then until the sync has been done.
    pub fn wait_durable_deadline(&self, lsn: Lsn, deadline: Instant) -> Result<(), AppendError> {
        self.core.wait_durable(Some(lsn), Patience::Until(deadline))
    }

    /// How many bytes wait to be written, without those of the group that is being written.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::Wal};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.append(b"one")?;
    /// assert_eq!(wal.pending_bytes(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pending_bytes(&self) -> u64 {
        self.core.counters.pending_bytes.get()
    }

    /// The last place up to which everything is synced.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// assert_eq!(wal.durable_lsn(), Lsn::ZERO);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn durable_lsn(&self) -> Lsn {
        Lsn::new(self.core.counters.durable_lsn.get())
    }

    /// The last place that was given out.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.append(b"one")?;
    /// assert_eq!(wal.last_lsn(), Lsn::new(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn last_lsn(&self) -> Lsn {
        Lsn::new(self.core.counters.last_lsn.get())
    }

    /// Syncs everything that was appended and enqueued before, whatever the log's durability.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.enqueue(b"one")?;
    /// wal.sync()?;
    /// assert_eq!(wal.durable_lsn(), Lsn::new(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait_durable`](Self::wait_durable).
    ///
    /// # Blocking
    /// Until the sync has been done.
    pub fn sync(&self) -> Result<(), AppendError> {
        self.core.wait_durable(None, Patience::Endless)
    }

    /// Tries again to write what could not be written for want of space. An append does the same.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.resume()?; // nothing was in the way
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The reason why it still cannot be written. A log that is
    /// [poisoned](WalError::is_poisoned) stays so.
    ///
    /// # Blocking
    /// Until the records are synced.
    pub fn resume(&self) -> Result<(), WalError> {
        let resumed = self.core.resume();
        resumed.map_err(|error| error.into_wal_error(&self.core.dir))
    }

    /// Writes and syncs everything that is pending, whatever the log's durability, and lets go of
    /// the files. A second call returns what the first did.
    ///
    /// In a callback of this log it does not wait for the log's thread.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.close()?;
    /// assert!(wal.append(b"late").is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When something could not be written or synced. The log is closed all the same.
    ///
    /// # Blocking
    /// Until that is done, and the log's thread has ended.
    pub fn close(&self) -> Result<(), WalError> {
        self.core.close()
    }

    /// Does on the calling thread what `lw-wal` would, until the log is closed. Returns `false` at
    /// once if another thread does. For a thread with a priority or an affinity, and for models,
    /// where no thread is started.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| wal.serve());
    ///     wal.append(b"one").unwrap();
    ///     wal.close().unwrap();
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Blocking
    /// Until [`close`](Self::close).
    pub fn serve(&self) -> bool {
        self.core.serve()
    }

    /// Counters and gauges, read without the log's lock.
    pub fn stats(&self) -> WalStats {
        self.core.counters.read()
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        if self.core.is_forked() {
            // The files, and the thread's handle, are the parent's.
            std::mem::forget(Arc::clone(&self.core));
        } else {
            // Who wants to know closes it before.
            contain(|| drop(self.close()));
        }
    }
}

// No panic leaves half a change behind: the leader's guard ends its group.
impl UnwindSafe for Wal {}
impl RefUnwindSafe for Wal {}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("path", &self.core.dir)
            .field("durability", &self.core.durability)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
