//! The thread that keeps the files in order: `kvnode-storage`.
//!
//! It alone rotates, so what it submits is numbered in the order of the rotations. It sleeps until
//! the memtable has grown, somebody saves, or a flush has ended; and while the log or the pipeline
//! has halted, it tries them again every second.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use latchwork::flush::ReserveError;
use latchwork::rmw::Store;
use latchwork::wal::Lsn;
use latchwork::{FlushPipeline, Pending};

use super::core::{Core, Save};
use super::error::StorageError;
use super::flush::{self, Finalizer, Work};

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// With more segments than this they are merged.
const MOST_SEGMENTS: usize = 8;

/// After a merge that has failed.
const MERGE_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Keeper {
    core: Arc<Core>,
    flush: FlushPipeline<Finalizer>,
    /// What was rotated and has no place in the pipeline yet.
    queue: VecDeque<Work>,
    saves: Vec<Save>,
    /// What the last rotation took.
    until: Lsn,
    /// Keep the pipeline's callbacks, which ring here.
    pending: Vec<Pending>,
    /// The merge that is going on, and whether it has ended.
    merge: Option<Arc<AtomicBool>>,
    merges: u64,
    next_merge: Option<Instant>,
    /// When what has halted is tried again.
    next_try: Option<Instant>,
}

pub(super) fn start(
    core: &Arc<Core>,
    flush: &FlushPipeline<Finalizer>,
) -> Result<JoinHandle<()>, StorageError> {
    let mut keeper = Keeper {
        core: Arc::clone(core),
        flush: flush.clone(),
        queue: VecDeque::new(),
        saves: Vec::new(),
        until: Lsn::new(core.manifest.lock().position),
        pending: Vec::new(),
        merge: None,
        merges: 0,
        next_merge: None,
        next_try: None,
    };
    // What was replayed may be enough for a flush, and a merge may not have been done.
    core.wish(|wishes| wishes.look = true);
    let spawned: io::Result<_> = std::thread::Builder::new()
        .name("kvnode-storage".to_owned())
        .spawn(move || keeper.run());
    spawned.map_err(StorageError::thread)
}

impl Keeper {
    fn run(&mut self) {
        loop {
            let now = Instant::now();
            let times = [self.next_try, self.next_merge];
            let next = times.into_iter().flatten().min();
            let wishes = self
                .core
                .wishes(next.map(|next| next.saturating_duration_since(now)));
            self.saves.extend(wishes.saves);
            if wishes.stop {
                return self.fail_saves(&StorageError::closed());
            }
            self.try_again();
            self.rotate();
            self.submit();
            self.merge();
            self.settle();
        }
    }

    /// Whether something waits for the disk.
    fn is_stuck(&self) -> bool {
        self.core.is_halted() || self.core.has_flush_halted.load(Ordering::Acquire)
    }

    fn try_again(&mut self) {
        if !self.is_stuck() || self.core.has_failed() {
            self.next_try = None;
            return;
        }
        let now = Instant::now();
        if self.next_try.is_some_and(|at| now >= at) {
            if self.core.is_halted() && self.core.wal.resume().is_ok() {
                self.core.end_halt();
            }
            if !self.core.is_halted() {
                let has_halted = &self.core.has_flush_halted;
                let expects_halt = has_halted.swap(false, Ordering::AcqRel);
                if !self.flush.resume() && expects_halt {
                    // It is on its way there still.
                    has_halted.store(true, Ordering::Release);
                }
            }
            self.next_try = self.is_stuck().then_some(now + PAUSE);
        } else if self.next_try.is_none() {
            self.next_try = Some(now + PAUSE);
        }
    }

    /// Takes the memtable, if somebody saves or it has grown.
    fn rotate(&mut self) {
        if !self.queue.is_empty() {
            return;
        }
        let tables = Arc::clone(&self.core.gate.enter());
        let is_saved = self.saves.iter().any(|save| save.until.is_none());
        let is_large = tables.active.logged() >= self.core.memtable_bytes;
        if !tables.active.is_empty() && (is_saved || is_large) {
            let (work, until) = flush::rotate(&self.core);
            self.queue.extend(work);
            self.until = until;
        }
        for save in &mut self.saves {
            save.until.get_or_insert(self.until);
        }
    }

    fn submit(&mut self) {
        while !self.queue.is_empty() {
            if self.submit_next().is_none() {
                return;
            }
        }
    }

    /// Gives the first of the queue its place in the pipeline. `None`: there is none now.
    fn submit_next(&mut self) -> Option<Arc<AtomicBool>> {
        let slot = match self.flush.try_reserve(0) {
            Ok(slot) => slot,
            Err(ReserveError::Closed) => {
                self.queue.clear();
                return None;
            }
            // A flush that ends makes room, and rings.
            Err(_) => return None,
        };
        let rotated = slot.rotate(&mut self.queue, |queue, _| {
            queue.pop_front().unwrap_or(Work::Merge)
        });
        let core = Arc::clone(&self.core);
        let submitted = rotated.submit(move |job| flush::stream(&core, job));
        let ticket = submitted.ok()?;
        let core = Arc::clone(&self.core);
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&is_done);
        self.pending.retain(|pending| !pending.is_delivered());
        self.pending.push(ticket.wait_with(move |_| {
            done.store(true, Ordering::Release);
            core.wish(|wishes| wishes.look = true);
        }));
        Some(is_done)
    }

    /// Merges the segments, where there are many, or where most of what they hold is void.
    fn merge(&mut self) {
        let is_done = |it: &Arc<AtomicBool>| it.load(Ordering::Acquire);
        if self.merge.as_ref().is_some_and(is_done) {
            self.merge = None;
            let merges = self.core.counters.merges.load(Ordering::Relaxed);
            let has_failed = merges == self.merges;
            self.next_merge = has_failed.then(|| Instant::now() + MERGE_PAUSE);
            self.merges = merges;
        }
        if self.next_merge.is_some_and(|at| Instant::now() >= at) {
            self.next_merge = None;
        }
        if self.merge.is_some() || self.next_merge.is_some() || !self.queue.is_empty() {
            return;
        }
        if self.is_worth_merging() {
            self.queue.push_back(Work::Merge);
            self.merge = self.submit_next();
            self.queue.clear();
        }
    }

    fn is_worth_merging(&self) -> bool {
        let manifest = self.core.manifest.lock();
        let segments = manifest.segments.len();
        // One entry a key is alive.
        let has_more_dead = manifest.entries() > 2 * self.core.mem.len().max(1);
        let is_large = manifest.bytes() > self.core.memtable_bytes;
        segments > MOST_SEGMENTS || (segments > 1 && has_more_dead && is_large)
    }

    /// Tells those whose keys are in the manifest, or, where that cannot be, all.
    fn settle(&mut self) {
        let saved = Lsn::new(self.core.saved.load(Ordering::Acquire));
        let is_over = |save: &mut Save| save.until.is_some_and(|until| until <= saved);
        for save in self.saves.extract_if(.., is_over) {
            (save.done)(Ok(()));
        }
        if !self.saves.is_empty() && self.is_stuck() {
            let trouble = self.core.counters.trouble.lock().clone();
            let refusal = self.core.refusal();
            let stuck = || match refusal {
                Some(halt) => StorageError::refused(halt),
                None => StorageError::stuck("the flushes have halted"),
            };
            self.fail_saves(&trouble.unwrap_or_else(stuck));
        }
    }

    fn fail_saves(&mut self, error: &StorageError) {
        for save in self.saves.drain(..) {
            (save.done)(Err(error.clone()));
        }
    }
}
