//! What makes the server's keys durable: a log of every change, and sorted segments of what has
//! changed, listed in a manifest.
//!
//! All keys are in memory. Each effect is [logged](latchwork::Wal) before it is applied, and its
//! key is noted in the memtable. When that has grown, it is rotated through a
//! [pipeline](latchwork::FlushPipeline): streamed to a segment, finalized in order into the
//! manifest; then the log that it covers is released. Segments are read at the start only, and
//! merged in the background.
//!
//! | module | noun |
//! |---|---|
//! | `durable` | the store: logs, notes, applies |
//! | `core` | what all parts share; whether the log takes records |
//! | `gate` | who changes a key is inside, who rotates closes it |
//! | `memtable` | the keys that have changed |
//! | `change`, `content` | a record of the log; values as bytes |
//! | `segment` | a sorted file of keys and values |
//! | `merge` | several segments as one |
//! | `manifest` | which segments there are |
//! | `flush` | from a memtable to the manifest |
//! | `keeper` | the thread that rotates, merges, and tries again what failed |
//! | `load` | from the files to a store |
//!
//! What is promised, and why it holds, is in `DESIGN.md`, under "kvnode's files".

// With paths, since tests include this file as a module of their own.
#[path = "storage/change.rs"]
mod change;
#[path = "storage/content.rs"]
mod content;
#[path = "storage/core.rs"]
mod core;
#[path = "storage/durable.rs"]
mod durable;
#[path = "storage/error.rs"]
mod error;
#[path = "storage/flush.rs"]
mod flush;
#[path = "storage/gate.rs"]
mod gate;
#[path = "storage/keeper.rs"]
mod keeper;
#[path = "storage/load.rs"]
mod load;
#[path = "storage/manifest.rs"]
mod manifest;
#[path = "storage/memtable.rs"]
mod memtable;
#[path = "storage/merge.rs"]
mod merge;
#[path = "storage/segment.rs"]
mod segment;
#[path = "storage/stats.rs"]
mod stats;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use latchwork::flush::Shutdown;
use latchwork::fs::{Fs, RealFs};
use latchwork::rmw::Clock;
use latchwork::wal::{Durability, Lsn};
use latchwork::{FlushPipeline, LatchTable};
use parking_lot::Mutex;

pub(crate) use durable::DurableStore;
pub(crate) use error::{Halt, StorageError};
pub(crate) use load::{Loading, Phase};
pub(crate) use stats::StorageStats;

use self::core::{Core, Save};
use self::flush::Finalizer;

/// How much may wait to be written before who can wait should.
const CROWDED: u64 = 32 << 20;

/// When a change is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fsync {
    /// Before its reply is sent.
    Always,
    /// Within about a second.
    EverySecond,
    /// When the system writes it out, or a flush needs it.
    No,
}

impl Fsync {
    fn durability(self) -> Durability {
        match self {
            Fsync::Always => Durability::Sync,
            Fsync::EverySecond => Durability::Periodic(std::time::Duration::from_secs(1)),
            Fsync::No => Durability::None,
        }
    }
}

/// Where the keys are kept, and how.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) dir: PathBuf,
    pub(crate) fsync: Fsync,
    /// How many bytes of the log make a flush.
    pub(crate) memtable_bytes: u64,
    /// How long a file of the log is.
    pub(crate) log_segment_bytes: u64,
    pub(crate) fs: Arc<dyn Fs>,
    /// What says which keys have expired.
    pub(crate) clock: Clock,
}

impl Config {
    pub(crate) fn new(dir: impl Into<PathBuf>, fsync: Fsync) -> Self {
        Self {
            dir: dir.into(),
            fsync,
            memtable_bytes: 64 << 20,
            log_segment_bytes: 64 << 20,
            fs: Arc::new(RealFs::new()),
            clock: Clock::system(),
        }
    }
}

/// Loads what the directory holds, and makes it if it is not there.
///
/// The store is for an `Rmw` over these latches: `Rmw::builder().latches(..).store(..)`.
///
/// # Errors
/// When the directory is in use, cannot be read or written, or holds what was never written there.
pub(crate) fn open(
    config: Config,
    latches: &LatchTable<Vec<u8>>,
    progress: impl FnMut(Loading) + Send + 'static,
) -> Result<(Arc<Storage>, DurableStore), StorageError> {
    let fsync = config.fsync;
    let core = Arc::new(load::load(config, latches, Box::new(progress))?);
    let weak = Arc::downgrade(&core);
    core.wal.on_failure(move |error| {
        if let Some(core) = weak.upgrade() {
            core.halt(error);
        }
    });
    let weak = Arc::downgrade(&core);
    // Before anybody else's: who is told that the log writes again may write.
    core.wal.on_durable(move |_| {
        if let Some(core) = weak.upgrade()
            && core.is_halted()
        {
            core.end_halt();
        }
    });
    let flush = flush::pipeline(&core)?;
    let keeper = keeper::start(&core, &flush)?;
    let storage = Storage {
        core: Arc::clone(&core),
        flush,
        keeper: Mutex::new(Some(keeper)),
        fsync,
    };
    Ok((Arc::new(storage), DurableStore::new(core)))
}

/// The files of a durable server. Dropping it closes it.
pub(crate) struct Storage {
    core: Arc<Core>,
    flush: FlushPipeline<Finalizer>,
    keeper: Mutex<Option<JoinHandle<()>>>,
    fsync: Fsync,
}

impl Storage {
    /// The last record of the log. Whoever has seen a change finds it here.
    pub(crate) fn last(&self) -> Lsn {
        self.core.wal.last_lsn()
    }

    /// The last record that is on disk.
    pub(crate) fn durable(&self) -> Lsn {
        self.core.wal.durable_lsn()
    }

    pub(crate) fn fsync(&self) -> Fsync {
        self.fsync
    }

    /// What has to be [durable](Self::durable) before a reply is sent that is made now.
    pub(crate) fn must_wait(&self) -> Option<Lsn> {
        if self.fsync != Fsync::Always {
            return None;
        }
        // In this order: what becomes durable in between need not be waited for.
        let last = self.last();
        Some(last).filter(|last| self.durable() < *last)
    }

    /// Has `f` called with what is durable, whenever that has risen, by the thread that wrote it.
    pub(crate) fn on_durable(&self, f: impl Fn(Lsn) + Send + Sync + 'static) {
        self.core.wal.on_durable(f);
    }

    /// What the calling thread changes from now on is written when it says that
    /// [its round is over](Self::end_round), or before.
    pub(crate) fn begin_rounds(&self) {
        self.core.defer();
    }

    /// The calling thread will change nothing for a while.
    pub(crate) fn end_round(&self) {
        self.core.call_for_deferred();
    }

    /// Whether so much waits to be written that who can wait should, until
    /// [there is room](Self::on_room). Nobody has to.
    pub(crate) fn is_crowded(&self) -> bool {
        self.core.wal.pending_bytes() >= CROWDED
    }

    /// Has `f` called whenever there is more room, by the thread that has written.
    pub(crate) fn on_room(&self, f: impl Fn() + Send + Sync + 'static) {
        self.core.wal.on_written(move |_| f());
    }

    /// Has `f` called when the log has become unable to write, by the thread that found out; that
    /// may be in the middle of a command, so `f` must not use the store.
    pub(crate) fn on_halt(&self, f: impl Fn() + Send + Sync + 'static) {
        self.core.on_halt(f);
    }

    /// Why writes are refused now.
    pub(crate) fn refusal(&self) -> Option<Halt> {
        self.core.refusal()
    }

    /// Whether the key's last change is not durable.
    pub(crate) fn in_doubt(&self, key: &[u8]) -> bool {
        let core = &self.core;
        let durable = self.durable();
        let tables = core.gate.enter();
        let last = tables.last(core.hasher.key(key));
        last.max(tables.cleared()).is_some_and(|lsn| lsn > durable)
    }

    /// Whether any change is not durable.
    pub(crate) fn any_in_doubt(&self) -> bool {
        let last = self.last();
        self.durable() < last
    }

    /// Has all that has changed written to segments, and `done` called when the manifest has them.
    /// It does not wait.
    ///
    /// # Errors
    /// After a close.
    pub(crate) fn save(
        &self,
        done: impl FnOnce(Result<(), StorageError>) + Send + 'static,
    ) -> Result<(), StorageError> {
        if self.keeper.lock().is_none() {
            return Err(StorageError::closed());
        }
        let save = Save {
            until: None,
            done: Box::new(done),
        };
        self.core.wish(|wishes| wishes.saves.push(save));
        Ok(())
    }

    /// When the manifest was last written, in Unix seconds; zero: never.
    pub(crate) fn last_save(&self) -> u64 {
        self.core.counters.last_save.load(Ordering::Relaxed)
    }

    pub(crate) fn stats(&self) -> StorageStats {
        StorageStats::read(&self.core, &self.flush)
    }

    /// Writes and syncs what was logged, and ends all work on the files. Writes are refused from
    /// now on. What was not flushed is in the log.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn close(&self) -> Result<(), StorageError> {
        self.core.is_closing.store(true, Ordering::Relaxed);
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            self.core.wish(|wishes| wishes.stop = true);
            // A panic has been printed already.
            let _ = keeper.join();
        }
        drop(self.flush.shutdown(Shutdown::DrainAll));
        Ok(self.core.wal.close()?)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        // Who wants to know closes it before.
        let _ = self.close();
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage")
            .field("dir", &self.core.dir)
            .field("fsync", &self.fsync)
            .field("last", &self.last())
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}
