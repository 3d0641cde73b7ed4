//! From a memtable to the manifest: what the pipeline streams and finalizes.
//!
//! A rotation takes the memtable whole, and cuts it into parts that are streamed at the same time.
//! A part's stream reads each of its keys in the store: the value may be newer than the rotation,
//! so it goes with the last record that it holds.
//!
//! | order | why |
//! |---|---|
//! | the key's latch, then the gate, then value and last record | no change is between its log record and its application, and no clear |
//! | a segment, its sync, its name's sync | the manifest lists what is there |
//! | a sync of the log, then the manifest | a value that the manifest has is not newer than the log: a crash would show half a transaction, and its number would be given out again |
//! | the manifest, its name's sync, then the log's release and the removal of segments | until then the old manifest needs them |
//! | the rotation's position with its last part | all parts before it are in the manifest |
//! | with a clear, the older segments go at that moment too | until then the log's records before the clear need them |

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use latchwork::FlushPipeline;
use latchwork::flush::{Batch, Failed, Failure, Finalize, Job};
use latchwork::rmw::{Key, Store};
use latchwork::wal::Lsn;

use super::core::Core;
use super::error::StorageError;
use super::manifest::{Manifest, Segment, remove};
use super::memtable::{Memtable, SHARDS, Tables};
use super::merge;
use super::segment::Writer;

/// Flushes and merges in the pipeline at once.
const IN_FLIGHT: usize = 8;

/// A memtable with more keys than this is streamed in parts.
const KEYS_A_PART: u64 = 4096;

/// Streams at once.
pub(super) const STREAMERS: usize = 2;

/// What is rotated.
pub(super) enum Work {
    Flush(Part),
    /// All segments that the manifest has when it begins.
    Merge,
}

/// A part of a memtable.
pub(super) struct Part {
    table: Arc<Memtable>,
    shards: Range<usize>,
    is_first: bool,
    /// The last part has the last record that was noted in the table, or in one before.
    until: Option<Lsn>,
}

/// What a stream made.
pub(super) enum Made {
    Flushed {
        table: Arc<Memtable>,
        is_first: bool,
        until: Option<Lsn>,
        segment: Option<Segment>,
    },
    Merged {
        inputs: Vec<Segment>,
        output: Option<Segment>,
    },
    /// A merge that has failed: it is no loss.
    Nothing,
}

/// Takes the memtable, and cuts it into parts. Returns the last record that they hold.
pub(super) fn rotate(core: &Core) -> (Vec<Work>, Lsn) {
    let mut closed = core.gate.close();
    // All records so far are noted, and the next ones are noted in the new table.
    let until = core.wal.last_lsn();
    let table = Arc::clone(&closed.get().active);
    let rotated = Arc::new(closed.get().rotated());
    let old = closed.replace(&rotated);
    drop(closed);
    drop::<Vec<Arc<Tables>>>(old);
    core.counters.rotations.fetch_add(1, Ordering::Relaxed);
    let parts = match table.keys() {
        0..=KEYS_A_PART => 1,
        _ => STREAMERS,
    };
    let work = (0..parts).map(|part| {
        Work::Flush(Part {
            table: Arc::clone(&table),
            shards: part * SHARDS / parts..(part + 1) * SHARDS / parts,
            is_first: part == 0,
            until: (part + 1 == parts).then_some(until),
        })
    });
    (work.collect(), until)
}

/// What the pipeline's threads do with what was rotated.
pub(super) fn stream(core: &Core, job: &mut Job<Work>) -> Result<Made, StorageError> {
    match &**job {
        Work::Flush(part) => stream_part(core, part),
        Work::Merge => Ok(stream_merge(core).unwrap_or_else(|error| {
            core.fail(error);
            Made::Nothing
        })),
    }
}

fn stream_part(core: &Core, part: &Part) -> Result<Made, StorageError> {
    let keys = part.table.sorted(part.shards.clone());
    let mut segment = None;
    if !keys.is_empty() {
        let mut writer = Writer::create(&core.fs, &core.dir, core.new_number())?;
        for (name, hash) in &keys {
            let key = Key {
                bytes: name,
                hash: *hash,
            };
            let latch = core.latches.latch(key.bytes);
            let latch = latch.map_err(|error| StorageError::stuck(error.to_string()))?;
            let tables = core.gate.enter();
            let record = core.mem.view(key, |record| record.cloned());
            let last = tables.last(key).or_else(|| part.table.last(key));
            drop(tables);
            drop(latch);
            writer.add(name, last.unwrap_or_default(), record.as_ref())?;
        }
        segment = writer.finish()?;
        core.sync_dir()?;
    }
    Ok(Made::Flushed {
        table: Arc::clone(&part.table),
        is_first: part.is_first,
        until: part.until,
        segment,
    })
}

fn stream_merge(core: &Core) -> Result<Made, StorageError> {
    let manifest = core.manifest.lock().clone();
    let inputs = manifest.segments;
    let output = merge::merge(core, &inputs, manifest.position)?;
    Ok(Made::Merged { inputs, output })
}

impl Core {
    /// A segment's number, which none has had.
    pub(super) fn new_number(&self) -> u64 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn sync_dir(&self) -> Result<(), StorageError> {
        let synced = self.fs.sync_dir(&self.dir);
        synced.map_err(StorageError::io("sync", &self.dir))
    }

    /// Keeps why something failed, to be shown, and has the keeper look.
    pub(super) fn fail(&self, error: StorageError) {
        self.note_trouble(error);
        self.wish(|wishes| wishes.look = true);
    }

    fn note_trouble(&self, error: StorageError) {
        self.counters.failed_flushes.fetch_add(1, Ordering::Relaxed);
        *self.counters.trouble.lock() = Some(error);
    }
}

pub(super) fn pipeline(core: &Arc<Core>) -> Result<FlushPipeline<Finalizer>, StorageError> {
    Ok(FlushPipeline::builder("kvnode")
        .max_in_flight(IN_FLIGHT)
        .streamers(STREAMERS)
        .finalizer(Finalizer {
            core: Arc::clone(core),
            round: Vec::new(),
        })
        .build()?)
}

/// Writes the manifest, once for all that is ready.
pub(super) struct Finalizer {
    core: Arc<Core>,
    /// The segments of the rotation whose parts are coming in.
    round: Vec<u64>,
}

/// What the manifest becomes, and what follows from it.
struct Draft {
    manifest: Manifest,
    round: Vec<u64>,
    /// Tables that are in it whole.
    flushed: Vec<Arc<Memtable>>,
    /// Segments that it no longer lists, or never will.
    obsolete: Vec<Segment>,
    merges: u64,
}

impl Draft {
    fn add(&mut self, made: &Made) {
        match made {
            Made::Nothing => {}
            Made::Flushed {
                table,
                is_first,
                until,
                segment,
            } => {
                if *is_first {
                    self.round.clear();
                }
                if let Some(segment) = segment {
                    self.round.push(segment.number);
                    self.manifest.segments.push(segment.clone());
                }
                if let Some(until) = until {
                    self.manifest.position = until.get();
                    self.flushed.push(Arc::clone(table));
                    if table.cleared().is_some() {
                        let round = &self.round;
                        let is_older = |it: &mut Segment| !round.contains(&it.number);
                        let older = self.manifest.segments.extract_if(.., is_older);
                        self.obsolete.extend(older);
                    }
                }
            }
            Made::Merged { inputs, output } => {
                let segments = &mut self.manifest.segments;
                // A clear may have dropped them meanwhile.
                if inputs.iter().all(|input| segments.contains(input)) {
                    let is_input = |it: &mut Segment| inputs.contains(it);
                    self.obsolete.extend(segments.extract_if(.., is_input));
                    segments.extend(output.clone());
                    self.merges += 1;
                } else {
                    self.obsolete.extend(output.clone());
                }
            }
        }
    }
}

impl Finalizer {
    fn commit(&mut self, mut draft: Draft) -> Result<(), StorageError> {
        let core = &*self.core;
        if draft.manifest != *core.manifest.lock() {
            core.wal.sync()?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            draft.manifest.saved_at = now.map_or(0, |now| now.as_secs());
            draft.manifest.next_segment = core.next_segment.load(Ordering::Relaxed);
            draft.manifest.write(&*core.fs, &core.dir)?;
        }
        let Draft {
            manifest,
            round,
            flushed,
            obsolete,
            merges,
        } = draft;
        self.round = round;
        let counters = &core.counters;
        counters
            .last_save
            .store(manifest.saved_at, Ordering::Relaxed);
        counters.merges.fetch_add(merges, Ordering::Relaxed);
        *counters.trouble.lock() = None;
        let position = Lsn::new(manifest.position);
        *core.manifest.lock() = manifest;
        if !flushed.is_empty() {
            let mut closed = core.gate.close();
            let tables = flushed.iter().fold((**closed.get()).clone(), |tables, it| {
                Tables::without(&tables, it)
            });
            let old = closed.replace(&Arc::new(tables));
            drop(closed);
            drop(old);
        }
        // What is left behind here is removed by a later flush, or at the next start.
        if let Err(error) = core.wal.release(position.next()) {
            *counters.trouble.lock() = Some(error.into());
        }
        for segment in obsolete {
            if remove(&*core.fs, &segment.path(&core.dir)).is_err() {
                counters.failed_removals.fetch_add(1, Ordering::Relaxed);
            }
        }
        core.saved.store(position.get(), Ordering::Release);
        Ok(())
    }
}

impl Finalize for Finalizer {
    type Job = Work;
    type Item = Made;
    type Output = ();
    type Error = StorageError;

    fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
        let mut draft = Draft {
            manifest: self.core.manifest.lock().clone(),
            round: self.round.clone(),
            flushed: Vec::new(),
            obsolete: Vec::new(),
            merges: 0,
        };
        batch.iter().for_each(|(_, made)| draft.add(made));
        match self.commit(draft) {
            Ok(()) => batch.done_all(|_, _| ()),
            Err(error) => batch.fail(error),
        }
    }

    fn finalize_one(&mut self, _: u64, _: &mut Made) -> Result<(), StorageError> {
        Err(StorageError::stuck("flushes are finalized in batches"))
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> StorageError {
        let error = match failed.failure {
            Failure::Stream(error) | Failure::Finalize(error) => error,
            other => StorageError::stuck(other.to_string()),
        };
        // The pipeline halts now, until the keeper has it go on. Who sees that sees why.
        self.core.note_trouble(error.clone());
        self.core.has_flush_halted.store(true, Ordering::Release);
        self.core.wish(|wishes| wishes.look = true);
        error
    }
}
