//! From the files to a store that goes on where the last one ended.
//!
//! | step | why it is correct |
//! |---|---|
//! | the log's lock | nobody else is in the directory |
//! | the manifest, then its segments, merged, by ranges of keys on all processors | each key is put once, as it was last |
//! | the log, from the manifest's position on; an effect that a segment's entry has seen is left out | the entry says after which record it was so |
//! | a clear of the log; what an entry says that is newer stays | the flush had begun before the clear and ended after it |
//! | keys that have expired are removed | at the end, since the log's records were made while they were there |
//! | files that nobody lists are removed | only now: had anything been missing, nothing would have been changed |
//!
//! Only entries that are newer than the manifest's position are remembered, for the log: those that
//! changed while they were flushed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use latchwork::rmw::{Bytes, Effect, Key, KeyHasher, MemStore, Record, Store};
use latchwork::wal::{Lsn, Wal};
use latchwork::{LatchTable, fs::Fs};
use parking_lot::Mutex;

use super::Config;
use super::change::{Bad, Logged};
use super::core::{Core, Parts};
use super::error::StorageError;
use super::manifest::Manifest;
use super::memtable::Tables;
use super::merge::merged;
use super::segment::Reader;

/// The longest record of the log: the longest transaction.
const LONGEST_RECORD: usize = 1 << 30;

/// How much may wait to be written before writes are refused: a record of any length, though what
/// makes a storage [crowded](super::Storage::is_crowded) waits already.
const MOST_PENDING: usize = LONGEST_RECORD + super::CROWDED as usize;

/// How long a record waits to be written with others, where no reply waits for it.
const LINGER: Duration = Duration::from_millis(1);

/// Keys between two reports.
const REPORT: u64 = 1 << 14;

/// How far the start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loading {
    pub(crate) phase: Phase,
    pub(crate) done_bytes: u64,
    pub(crate) total_bytes: u64,
    /// Keys so far.
    pub(crate) keys: u64,
}

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Segments,
    Log,
}

type OnProgress = Arc<Mutex<Box<dyn FnMut(Loading) + Send>>>;

pub(super) fn load(
    config: Config,
    latches: &LatchTable<Vec<u8>>,
    progress: Box<dyn FnMut(Loading) + Send>,
) -> Result<Core, StorageError> {
    let latches = latches.clone();
    let same = latches.clone();
    let hasher = KeyHasher::new(move |key: &[u8]| same.hash_of(key));
    let mut mem = MemStore::new();
    mem.hash_with(hasher.clone());
    let mem = Arc::new(mem);
    let progress = Arc::new(Mutex::new(progress));
    let mut loader = Loader {
        config: &config,
        mem: Arc::clone(&mem),
        hasher: hasher.clone(),
        progress: Arc::clone(&progress),
        manifest: None,
        ahead: HashMap::new(),
        tables: Tables::new(),
        failed: None,
    };
    let keys = Arc::clone(&mem);
    let opened = Wal::builder(&config.dir)
        .durability(config.fsync.durability())
        .segment_bytes(config.log_segment_bytes)
        .max_record_bytes(LONGEST_RECORD)
        .max_pending_bytes(MOST_PENDING)
        .linger(LINGER)
        .fs(Arc::clone(&config.fs))
        .on_progress(move |log| {
            (progress.lock())(Loading {
                phase: Phase::Log,
                done_bytes: log.bytes,
                total_bytes: log.total,
                keys: keys.len(),
            });
        })
        .open(|lsn, body| loader.deliver(lsn, body));
    let (wal, _) = match (opened, loader.failed.take()) {
        (Err(_), Some(error)) => return Err(error),
        (opened, _) => opened?,
    };
    let manifest = loader.finish(wal.last_lsn())?;
    let parts = Parts {
        mem,
        latches,
        hasher,
        fs: Arc::clone(&config.fs),
        clock: config.clock.clone(),
        dir: config.dir.clone(),
        memtable_bytes: config.memtable_bytes,
        manifest,
        tables: loader.tables,
    };
    Ok(Core::new(parts, wal))
}

struct Loader<'a> {
    config: &'a Config,
    mem: Arc<MemStore>,
    hasher: KeyHasher,
    progress: OnProgress,
    /// `None`: the segments have not been read.
    manifest: Option<Manifest>,
    /// Keys that segments have as of a record that the manifest is not at yet.
    ahead: HashMap<Vec<u8>, Lsn>,
    tables: Tables,
    /// Why a record was refused.
    failed: Option<StorageError>,
}

/// Stands for the error that is kept.
#[derive(Debug)]
struct Refused;

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it cannot be replayed")
    }
}

impl std::error::Error for Refused {}

impl Loader<'_> {
    /// Takes the next record of the log. The first one finds the directory locked.
    fn deliver(&mut self, lsn: Lsn, body: &[u8]) -> Result<(), Refused> {
        self.replay(lsn, body).map_err(|error| {
            self.failed = Some(error);
            Refused
        })
    }

    fn replay(&mut self, lsn: Lsn, body: &[u8]) -> Result<(), StorageError> {
        let is_first = self.manifest.is_none();
        let position = self.begin()?;
        if is_first && lsn > position.next() {
            return Err(self.corrupt(format!(
                "the log begins with record {lsn}, and the segments end with {position}"
            )));
        }
        if lsn <= position {
            return Ok(());
        }
        let bad = |bad: Bad| match bad {
            Bad::Version(version) => StorageError::version(&self.config.dir, version.into()),
            Bad::Form(what) => self.corrupt(format!("record {lsn} of the log is {what}")),
        };
        match Logged::read(body).map_err(bad)? {
            Logged::Clear => {
                self.clear(lsn);
                return Ok(());
            }
            Logged::Changes(changes) => {
                for change in changes {
                    let change = change.map_err(bad)?;
                    let key = change.key(&self.hasher);
                    if !self.is_ahead(key, lsn) {
                        self.mem
                            .change(key, |record| match change.effect(record) {
                                Ok(effect) => (effect, Ok(())),
                                Err(error) => (Effect::Keep, Err(error)),
                            })
                            .map_err(|error| StorageError::stuck(error.to_string()))?
                            .map_err(bad)?;
                    }
                    self.tables.active.note(key, lsn);
                }
            }
        }
        self.tables.active.add_logged(body.len());
        Ok(())
    }

    fn is_ahead(&self, key: Key<'_>, lsn: Lsn) -> bool {
        !self.ahead.is_empty() && self.ahead.get(key.bytes).is_some_and(|it| *it >= lsn)
    }

    fn corrupt(&self, what: String) -> StorageError {
        StorageError::corrupt(&self.config.dir, 0, what)
    }

    /// Removes all keys but those whose entries are newer.
    fn clear(&mut self, lsn: Lsn) {
        self.ahead.retain(|_, entry| *entry > lsn);
        let kept: Vec<(&Vec<u8>, Option<Record>)> = self
            .ahead
            .keys()
            .map(|name| {
                let key = self.hasher.key(name);
                (name, self.mem.view(key, |record| record.cloned()))
            })
            .collect();
        // The embedded store does not fail.
        let _ = self.mem.clear();
        for (name, record) in kept {
            if let Some(record) = record {
                put(&self.mem, self.hasher.key(name), record);
            }
        }
        self.tables.active.clear(lsn);
    }

    /// Reads the segments, if that is not done, and returns the manifest's position.
    fn begin(&mut self) -> Result<Lsn, StorageError> {
        if self.manifest.is_none() {
            let (fs, dir) = (&*self.config.fs, &*self.config.dir);
            let mut manifest = Manifest::read(fs, dir)?.unwrap_or_default();
            let above = Manifest::highest(fs, dir)? + 1;
            manifest.next_segment = manifest.next_segment.max(above);
            self.ahead = self.read_segments(fs, &manifest)?;
            self.manifest = Some(manifest);
        }
        let position = self.manifest.as_ref().map_or(0, |it| it.position);
        Ok(Lsn::new(position))
    }

    fn read_segments(
        &self,
        fs: &dyn Fs,
        manifest: &Manifest,
    ) -> Result<HashMap<Vec<u8>, Lsn>, StorageError> {
        let readers = manifest.segments.iter();
        let readers = readers.map(|segment| Reader::open(fs, &self.config.dir, segment));
        let readers: Vec<Reader> = readers.collect::<Result<_, _>>()?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let bounds = bounds(&readers, 8 * threads);
        let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
        let total = manifest.bytes();
        let ahead = Mutex::new(HashMap::new());
        let report = |progress: &mut dyn FnMut(Loading)| {
            progress(Loading {
                phase: Phase::Segments,
                done_bytes: done.load(Ordering::Relaxed).min(total),
                total_bytes: total,
                keys: self.mem.len(),
            });
        };
        let read = || -> Result<(), StorageError> {
            let mut count = 0;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at > bounds.len() {
                    return Ok(());
                }
                let from = at.checked_sub(1).map(|at| &*bounds[at]);
                let to = bounds.get(at).map(|to| &**to);
                for item in merged(&readers, from, to, &done) {
                    let item = item?;
                    let key = self.hasher.key(&item.key);
                    if item.lsn.get() > manifest.position {
                        ahead.lock().insert(item.key.to_vec(), item.lsn);
                    }
                    if let Some(record) = item.record {
                        put(&self.mem, key, record);
                    }
                    count += 1;
                    if count % REPORT == 0
                        && let Some(mut progress) = self.progress.try_lock()
                    {
                        report(&mut **progress);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..threads.min(bounds.len() + 1))
                .map(|_| std::thread::Builder::new().spawn_scoped(scope, read))
                .collect();
            // A thread that could not be started leaves its share to the others.
            let own = read();
            let ended = helpers.into_iter().flatten().map(|helper| {
                let panicked = || Err(StorageError::stuck("a loading thread panicked"));
                helper.join().unwrap_or_else(|_| panicked())
            });
            let ended: Result<Vec<()>, StorageError> = ended.collect();
            own.and(ended.map(drop))
        })?;
        if total > 0 {
            report(&mut **self.progress.lock());
        }
        Ok(ahead.into_inner())
    }

    fn finish(&mut self, last: Lsn) -> Result<Manifest, StorageError> {
        let position = self.begin()?;
        if last < position {
            return Err(self.corrupt(format!(
                "the log ends with record {last}, and the segments with {position}"
            )));
        }
        let mem = &self.mem;
        let now = self.config.clock.now();
        mem.visit_expired(now, |hash| {
            mem.remove_expired(hash, now);
        });
        let manifest = self.manifest.take().unwrap_or_default();
        manifest.sweep(&*self.config.fs, &self.config.dir)?;
        Ok(manifest)
    }
}

fn put(mem: &MemStore, key: Key<'_>, record: Record) {
    // The embedded store does not fail.
    let _ = mem.change(key, |_| (Effect::Put(record), ()));
}

/// Keys that cut the segments into about as many parts, of about the same size.
fn bounds(readers: &[Reader], parts: usize) -> Vec<Bytes> {
    let mut blocks: Vec<(&Bytes, u64)> = readers.iter().flat_map(Reader::blocks).collect();
    blocks.sort_unstable_by(|a, b| (**a.0).cmp(b.0));
    let total: u64 = blocks.iter().map(|(_, bytes)| bytes).sum();
    let share = total / parts as u64 + 1;
    let mut bounds: Vec<Bytes> = Vec::new();
    let mut sum = 0;
    for (first, bytes) in blocks {
        if sum >= share {
            bounds.push(first.clone());
            sum = 0;
        }
        sum += bytes;
    }
    bounds.dedup();
    bounds
}
