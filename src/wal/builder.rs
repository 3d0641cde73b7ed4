//! How a log is opened.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::os::fs::{File, Fs, OpenMode, RealFs};
use crate::sync::unmodelled::Arc;

use super::group_commit::Core;
use super::recover::{self, Cut, Plan};
use super::snapshot::{self, SnapshotReader};
use super::{Lsn, Wal, WalError, record, segment};

const SEGMENT_BYTES: u64 = 64 << 20;
const LONGEST: usize = 64 << 20;
const MOST_PENDING: usize = 8 << 20;
const LOCK: &str = "LOCK";

/// What an append promises when it returns.
///
/// ```
/// use latchwork::wal::Durability;
///
/// assert_eq!(Durability::default(), Durability::Sync);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The record has been handed to the kernel. It survives the end of the process, but not a
    /// power cut. Segments are synced when they are full.
    None,
    /// As `None`, and every record is synced within about this time.
    Periodic(Duration),
    /// The record has been synced to disk.
    #[default]
    Sync,
}

/// How far a recovery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Records delivered.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes in all files, with the unused room after the last record.
    pub total: u64,
    /// The last record that was read.
    pub lsn: Lsn,
}

/// What is replayed when a log is opened: a snapshot if there is one, then the records after it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Replay<'a> {
    /// The newest whole snapshot; comes first.
    Snapshot(SnapshotReader),
    /// The next record.
    Record(Lsn, &'a [u8]),
}

/// What a recovery found.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("latchwork-wal-recovery-{}", std::process::id()));
/// use latchwork::Wal;
///
/// let (_wal, recovery) = Wal::builder(&dir).open(|_, _| Ok::<(), std::io::Error>(()))?;
/// assert_eq!(recovery.records(), 0);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Recovery {
    records: u64,
    bytes: u64,
    last: Lsn,
    cut: Option<Cut>,
    snapshot: Option<SnapshotReader>,
    covered: Option<Lsn>,
    damaged: Vec<PathBuf>,
}

impl Recovery {
    /// Records that were delivered.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of records that were read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The LSN of the last record; the next append gets the one after it.
    pub fn last_lsn(&self) -> Lsn {
        self.last
    }

    /// Where a torn tail was cut off, if there was one. What stood there had not been acknowledged
    /// as synced.
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// The last record that the snapshot covers, if there is one.
    pub fn snapshot_lsn(&self) -> Option<Lsn> {
        self.covered
    }

    /// The snapshot, where the log was opened without [`Builder::replay`], which hands it over
    /// before the records.
    pub fn take_snapshot(&mut self) -> Option<SnapshotReader> {
        self.snapshot.take()
    }

    /// Snapshots that are damaged. An older one, with more records, was used instead. The next
    /// snapshot that is committed removes them, and keeps that older one.
    pub fn damaged_snapshots(&self) -> &[PathBuf] {
        &self.damaged
    }
}

pub(super) type OnProgress = Box<dyn FnMut(Progress) + Send>;

/// Opens a [`Wal`].
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("latchwork-wal-builder-{}", std::process::id()));
/// use std::time::Duration;
/// use latchwork::wal::{Durability, Wal};
///
/// let (wal, _) = Wal::builder(&dir)
///     .durability(Durability::Periodic(Duration::from_secs(1)))
///     .segment_bytes(16 << 20)
///     .max_record_bytes(1 << 20)
///     .linger(Duration::from_millis(1))
///     .on_progress(|progress| eprintln!("{} of {} bytes", progress.bytes, progress.total))
///     .open(|_lsn, _body| Ok::<(), std::io::Error>(()))?;
/// # drop(wal);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), latchwork::wal::WalError>(()).map_err(Into::<Box<dyn std::error::Error>>::into)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Builder {
    dir: PathBuf,
    durability: Durability,
    segment_bytes: u64,
    longest: usize,
    most_pending: usize,
    linger: Duration,
    fs: Arc<dyn Fs>,
    on_progress: Option<OnProgress>,
}

impl Builder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            durability: Durability::default(),
            segment_bytes: SEGMENT_BYTES,
            longest: LONGEST,
            most_pending: MOST_PENDING,
            linger: Duration::ZERO,
            fs: Arc::new(RealFs::new()),
            on_progress: None,
        }
    }

    /// What an append promises. Default: [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a segment is, unless one group needs more or the disk has no room for it. The room
    /// is allocated when the segment is made. Default: 64 MiB; at least 4 KiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = bytes.max(4 << 10);
        self
    }

    /// The longest body that is taken, and that a recovery accepts; at most 1 GiB. Default: 64 MiB.
    pub fn max_record_bytes(mut self, bytes: usize) -> Self {
        self.longest = bytes.min(record::LONGEST);
        self
    }

    /// How many bytes may wait to be written before appends have to wait. A longer record is taken
    /// alone. Default: 8 MiB.
    pub fn max_pending_bytes(mut self, bytes: usize) -> Self {
        self.most_pending = bytes;
        self
    }

    /// How long [enqueued](Wal::enqueue) records that no thread waits for may be held back, to be
    /// written together: each group costs the log's thread a wake-up and a system call. A process
    /// that is killed loses them. From 256 KiB on they are written at once, and with
    /// [`Durability::Sync`] always. Default: zero.
    pub fn linger(mut self, time: Duration) -> Self {
        self.linger = time;
        self
    }

    /// The file system. Default: the kernel's.
    pub fn fs(mut self, fs: Arc<dyn Fs>) -> Self {
        self.fs = fs;
        self
    }

    /// Calls `f` from time to time during the recovery.
    pub fn on_progress(mut self, f: impl FnMut(Progress) + Send + 'static) -> Self {
        self.on_progress = Some(Box::new(f));
        self
    }

    /// Opens the log, makes it if it is not there, and calls `deliver` with each record, in order.
    /// If there is a snapshot, with those after it; the snapshot itself is in the [`Recovery`].
    ///
    /// What is delivered is synced when this returns.
    ///
    /// # Errors
    /// When the log is open elsewhere ([`is_locked`](WalError::is_locked)), when `deliver` fails,
    /// when a file cannot be read or made, and when a record is bad that had been acknowledged
    /// ([`is_corrupt`](WalError::is_corrupt)).
    ///
    /// # Blocking
    /// While the log is read.
    pub fn open<E: Into<Box<dyn Error + Send + Sync>>>(
        self,
        mut deliver: impl FnMut(Lsn, &[u8]) -> Result<(), E>,
    ) -> Result<(Wal, Recovery), WalError> {
        let mut kept = None;
        let (wal, mut recovery) = self.replay(|step| match step {
            Replay::Snapshot(snapshot) => {
                kept = Some(snapshot);
                Ok(())
            }
            Replay::Record(lsn, body) => deliver(lsn, body),
        })?;
        recovery.snapshot = kept;
        Ok((wal, recovery))
    }

    /// As [`open`](Self::open), with the snapshot handed over before the records.
    ///
    /// See [`Snapshot`](super::Snapshot) for an example.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    ///
    /// # Blocking
    /// While the log is read.
    pub fn replay<E: Into<Box<dyn Error + Send + Sync>>>(
        self,
        mut each: impl FnMut(Replay<'_>) -> Result<(), E>,
    ) -> Result<(Wal, Recovery), WalError> {
        let (fs, dir) = (self.fs.clone(), self.dir.clone());
        make_dir(&*fs, &dir)?;
        let lock_file = lock(&*fs, &dir)?;
        snapshot::sweep(&*fs, &dir);
        let (newest, damaged) = snapshot::newest(&*fs, &dir)?;
        let covered = newest.as_ref().map(SnapshotReader::lsn);
        let refused = |error: E| WalError::refused(&dir, error.into());
        if let Some(newest) = newest {
            each(Replay::Snapshot(newest)).map_err(refused)?;
        }
        let plan = Plan {
            fs: fs.clone(),
            dir: dir.clone(),
            epoch: recover::new_epoch(),
            segment_bytes: self.segment_bytes.max(segment::HEADER),
            longest: self.longest,
            covered: covered.map_or(0, Lsn::get),
            must_continue: !damaged.is_empty(),
            on_progress: self.on_progress,
        };
        let mut deliver = |lsn: Lsn, body: &[u8]| each(Replay::Record(lsn, body)).map_err(refused);
        let found = recover::recover(plan, &mut deliver)?;
        let recovery = Recovery {
            records: found.records,
            bytes: found.bytes,
            last: Lsn::new(found.writer.written),
            cut: found.cut,
            snapshot: None,
            covered,
            damaged: snapshot::paths_of(&dir, &damaged),
        };
        let core = Core::new(
            found.writer,
            self.durability,
            self.longest,
            self.most_pending,
            self.linger,
            found.segments,
            lock_file,
        );
        Ok((Wal::with(core, fs, damaged), recovery))
    }
}

/// Makes the log's directory, durably. One that is there may not be durable yet either.
fn make_dir(fs: &dyn Fs, dir: &Path) -> Result<(), WalError> {
    // What is above the deepest directory that is there was not made here.
    let above: Vec<&Path> = dir.ancestors().skip(1).map(or_here).collect();
    let missing = above.iter().take_while(|dir| fs.read_dir(dir).is_err());
    let missing = missing.count();
    fs.create_dir_all(dir).map_err(WalError::io("make", dir))?;
    for parent in above.iter().take(missing + 1) {
        fs.sync_dir(parent).map_err(WalError::io("sync", parent))?;
    }
    Ok(())
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

fn lock(fs: &dyn Fs, dir: &Path) -> Result<Box<dyn File>, WalError> {
    let path = dir.join(LOCK);
    let file = fs.open(&path, OpenMode::Create);
    let file = file.map_err(WalError::io("open", &path))?;
    match file.try_lock() {
        Ok(true) => Ok(file),
        Ok(false) => Err(WalError::locked(&path)),
        Err(error) => Err(WalError::io("lock", &path)(error)),
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("dir", &self.dir)
            .field("durability", &self.durability)
            .field("segment_bytes", &self.segment_bytes)
            .field("fs", &self.fs)
            .finish_non_exhaustive()
    }
}
