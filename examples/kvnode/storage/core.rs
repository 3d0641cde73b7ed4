//! What the store, the flushes and the storage's own thread share.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use latchwork::fs::Fs;
use latchwork::rmw::{Clock, Effect, Key, KeyHasher, MemStore};
use latchwork::wal::{AppendError, Lsn, WalError};
use latchwork::{LatchTable, Wal};
use parking_lot::{Condvar, Mutex};

use super::change;
use super::error::{Halt, StorageError};
use super::gate::Gate;
use super::manifest::Manifest;
use super::memtable::Tables;

/// A buffer beyond this goes after its record.
const BUFFER_KEPT: usize = 1 << 20;

/// So many records wait for the end of a round; a longer round does not keep the disk idle.
const MOST_DEFERRED: u32 = 64;

thread_local! {
    /// How many records this thread has deferred since it last called for them. `None`: it does not
    /// defer.
    static DEFERRED: Cell<Option<u32>> = const { Cell::new(None) };

    /// The record that is being made.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

pub(super) struct Core {
    pub(super) mem: Arc<MemStore>,
    pub(super) latches: LatchTable<Vec<u8>>,
    pub(super) hasher: KeyHasher,
    pub(super) wal: Wal,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) clock: Clock,
    pub(super) dir: PathBuf,
    /// Whoever changes a key is inside; a rotation and a clear close it.
    pub(super) gate: Gate<Arc<Tables>>,
    /// How many bytes of the log make a flush.
    pub(super) memtable_bytes: u64,
    /// As it is on disk.
    pub(super) manifest: Mutex<Manifest>,
    /// All records up to this one are in the manifest, and what that made superfluous is gone.
    pub(super) saved: AtomicU64,
    /// The number that the next segment gets.
    pub(super) next_segment: AtomicU64,
    pub(super) counters: Counters,
    /// Whether the log takes no records, as a number: `WELL`, or an index of what `trouble` holds.
    halted: AtomicU8,
    trouble: Mutex<Option<Halt>>,
    /// Whether a merge is to be given up.
    pub(super) is_closing: AtomicBool,
    /// Whether a flush has failed and is to be tried again.
    pub(super) has_flush_halted: AtomicBool,
    on_halt: Mutex<Vec<Arc<dyn Fn() + Send + Sync>>>,
    wishes: Mutex<Wishes>,
    /// Rings when there is a wish.
    bell: Condvar,
}

/// What the storage's thread is asked to do.
#[derive(Default)]
pub(super) struct Wishes {
    /// The memtable is large.
    pub(super) rotate: bool,
    /// Room, a halt, segments to merge: it looks.
    pub(super) look: bool,
    pub(super) stop: bool,
    pub(super) saves: Vec<Save>,
}

/// Somebody waits until all up to `until` is in the manifest.
pub(super) struct Save {
    /// `None`: until what there is now, which is to be rotated first.
    pub(super) until: Option<Lsn>,
    pub(super) done: Box<dyn FnOnce(Result<(), StorageError>) + Send>,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) refused: AtomicU64,
    pub(super) rotations: AtomicU64,
    pub(super) merges: AtomicU64,
    pub(super) failed_flushes: AtomicU64,
    pub(super) failed_removals: AtomicU64,
    /// Unix seconds.
    pub(super) last_save: AtomicU64,
    /// Why the last flush, merge or release failed; empty after one that did not.
    pub(super) trouble: Mutex<Option<StorageError>>,
}

const WELL: u8 = 0;
/// The log is tried again.
const WAITING: u8 = 1;
/// It is not.
const FAILED: u8 = 2;

/// The parts of a core that are there before the log is.
pub(super) struct Parts {
    pub(super) mem: Arc<MemStore>,
    pub(super) latches: LatchTable<Vec<u8>>,
    pub(super) hasher: KeyHasher,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) clock: Clock,
    pub(super) dir: PathBuf,
    pub(super) memtable_bytes: u64,
    pub(super) manifest: Manifest,
    pub(super) tables: Tables,
}

impl Core {
    pub(super) fn new(parts: Parts, wal: Wal) -> Self {
        let counters = Counters::default();
        let saved_at = parts.manifest.saved_at;
        counters.last_save.store(saved_at, Ordering::Relaxed);
        Self {
            mem: parts.mem,
            latches: parts.latches,
            hasher: parts.hasher,
            wal,
            fs: parts.fs,
            clock: parts.clock,
            dir: parts.dir,
            gate: Gate::new(Arc::new(parts.tables)),
            memtable_bytes: parts.memtable_bytes,
            saved: AtomicU64::new(parts.manifest.position),
            next_segment: AtomicU64::new(parts.manifest.next_segment),
            manifest: Mutex::new(parts.manifest),
            counters,
            halted: AtomicU8::new(WELL),
            trouble: Mutex::new(None),
            is_closing: AtomicBool::new(false),
            has_flush_halted: AtomicBool::new(false),
            on_halt: Mutex::new(Vec::new()),
            wishes: Mutex::new(Wishes::default()),
            bell: Condvar::new(),
        }
    }

    /// Logs the effect of one key, and notes it. The caller applies it then.
    #[inline]
    pub(super) fn log_one(
        &self,
        tables: &Tables,
        key: Key<'_>,
        is_new: bool,
        effect: &Effect<'_>,
    ) -> Result<(), Halt> {
        let (lsn, len) = self.log(|body| change::push(body, key.bytes, is_new, effect))?;
        tables.active.note(key, lsn);
        self.grow(tables, len);
        Ok(())
    }

    /// The same for several, as one record. Each effect says whether its key was missing.
    pub(super) fn log_many(
        &self,
        tables: &Tables,
        keys: &[Key<'_>],
        effects: &[(bool, Effect<'_>)],
    ) -> Result<(), Halt> {
        let changes = || {
            let pairs = keys.iter().zip(effects);
            pairs.filter(|(_, (_, effect))| !effect.is_keep())
        };
        let (lsn, len) = self.log(|body| {
            changes().all(|(key, (is_new, effect))| change::push(body, key.bytes, *is_new, effect))
        })?;
        for (key, _) in changes() {
            tables.active.note(*key, lsn);
        }
        self.grow(tables, len);
        Ok(())
    }

    /// Logs the end of all keys; the gate is closed.
    pub(super) fn log_clear(&self) -> Result<Lsn, Halt> {
        self.check()?;
        let lsn = self.wal.try_enqueue(&change::CLEARED);
        lsn.map_err(|error| self.refuse(error))
    }

    #[inline]
    fn log(&self, fill: impl FnOnce(&mut Vec<u8>) -> bool) -> Result<(Lsn, usize), Halt> {
        self.check()?;
        BUFFER.with_borrow_mut(|body| {
            change::begin(body);
            if !fill(body) {
                return Err(Halt::Stuck("a change of an unknown kind".to_owned()));
            }
            let (lsn, len) = (self.enqueue(body), body.len());
            if body.capacity() > BUFFER_KEPT {
                *body = Vec::new();
            }
            match lsn {
                Ok(lsn) => Ok((lsn, len)),
                Err(error) => Err(self.refuse(error)),
            }
        })
    }

    #[inline]
    fn enqueue(&self, body: &[u8]) -> Result<Lsn, AppendError> {
        match DEFERRED.get() {
            Some(count) if count < MOST_DEFERRED => {
                DEFERRED.set(Some(count + 1));
                self.wal.defer(body)
            }
            Some(_) => {
                DEFERRED.set(Some(0));
                self.wal.try_enqueue(body)
            }
            None => self.wal.try_enqueue(body),
        }
    }

    /// From now on this thread calls for what it has logged when it has come to an end.
    pub(super) fn defer(&self) {
        DEFERRED.set(Some(0));
    }

    #[inline]
    pub(super) fn call_for_deferred(&self) {
        if DEFERRED.get().is_some_and(|count| count > 0) {
            DEFERRED.set(Some(0));
            self.wal.nudge();
        }
    }

    #[inline]
    fn grow(&self, tables: &Tables, len: usize) {
        let logged = tables.active.add_logged(len);
        if logged >= self.memtable_bytes && logged - (len as u64) < self.memtable_bytes {
            self.wish(|wishes| wishes.rotate = true);
        }
    }

    #[inline]
    fn check(&self) -> Result<(), Halt> {
        match self.refusal() {
            None => Ok(()),
            Some(halt) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                Err(halt)
            }
        }
    }

    /// Why writes are refused now.
    #[inline]
    pub(super) fn refusal(&self) -> Option<Halt> {
        if self.halted.load(Ordering::Relaxed) == WELL {
            return None;
        }
        self.trouble.lock().clone()
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Relaxed) != WELL
    }

    /// Whether the log is never tried again.
    pub(super) fn has_failed(&self) -> bool {
        self.halted.load(Ordering::Relaxed) == FAILED
    }

    /// What the log's refusal of a record means.
    #[cold]
    fn refuse(&self, error: AppendError) -> Halt {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        match error {
            AppendError::Full => Halt::Behind,
            AppendError::TooLarge { .. } => Halt::TooLarge,
            AppendError::Closed => Halt::Closed,
            AppendError::NoSpace(error)
            | AppendError::Failed(error)
            | AppendError::Poisoned(error) => self.halt(&error),
            error => Halt::Stuck(error.to_string()),
        }
    }

    /// The log could not write: writes are refused from now on.
    pub(super) fn halt(&self, error: &WalError) -> Halt {
        let (halt, state) = if error.is_poisoned() {
            (Halt::Failed(error.to_string()), FAILED)
        } else if error.is_no_space() {
            (Halt::NoSpace, WAITING)
        } else {
            (Halt::Stuck(error.to_string()), WAITING)
        };
        let mut trouble = self.trouble.lock();
        if self.has_failed() {
            return trouble.clone().unwrap_or(halt);
        }
        *trouble = Some(halt.clone());
        let before = self.halted.swap(state, Ordering::Relaxed);
        drop(trouble);
        if before != state {
            let told = self.on_halt.lock().clone();
            told.iter().for_each(|told| told());
            self.wish(|wishes| wishes.look = true);
        }
        halt
    }

    /// The log writes again.
    pub(super) fn end_halt(&self) {
        let mut trouble = self.trouble.lock();
        if !self.has_failed() {
            *trouble = None;
            self.halted.store(WELL, Ordering::Relaxed);
        }
    }

    pub(super) fn on_halt(&self, f: impl Fn() + Send + Sync + 'static) {
        self.on_halt.lock().push(Arc::new(f));
    }

    pub(super) fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        change(&mut self.wishes.lock());
        self.bell.notify_one();
    }

    /// Takes the wishes there are, or waits for some; up to `timeout`, if there is one.
    pub(super) fn wishes(&self, timeout: Option<std::time::Duration>) -> Wishes {
        let mut wishes = self.wishes.lock();
        let is_idle = |it: &mut Wishes| !it.rotate && !it.look && !it.stop && it.saves.is_empty();
        match timeout {
            None => self.bell.wait_while(&mut wishes, is_idle),
            Some(timeout) => {
                self.bell.wait_while_for(&mut wishes, is_idle, timeout);
            }
        }
        let stop = wishes.stop;
        let taken = std::mem::take(&mut *wishes);
        wishes.stop = stop;
        taken
    }
}
