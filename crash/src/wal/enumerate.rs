//! All that a power cut may leave of what was done to a file system in memory.
//!
//! Each work is recorded, cut off at every moment, and what was not synced by then comes back in
//! every combination that the bounds ask for. Then the log must open, deliver whole records in
//! their order, and among them all that were acknowledged. See [`latchwork::fs::crash`].

use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use latchwork::fs::crash::{self, Bounds, CrashState};
use latchwork::fs::{Fs, MemoryFs, RecordingFs};
use latchwork::wal::{Builder, Durability, Replay, Wal};

use crate::forgetful::{Change, Forgetful, Sync};
use crate::scene::Scene;

const DIR: &str = "/data/log";

/// A body that says whose it is, of many lengths.
fn body(lsn: u64) -> Vec<u8> {
    let len = [3, 700, 0, 40, 1_300, 8, 2_500][(lsn % 7) as usize];
    (0..len).map(|at| (lsn * 31 + at) as u8 | 1).collect()
}

fn builder(fs: Arc<dyn Fs>) -> Builder {
    Wal::builder(DIR).fs(fs).segment_bytes(4096)
}

/// What a log holds: a snapshot, and whole records in their order, without a gap between them.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// What the snapshot covers.
    covered: u64,
    /// The LSN of the first record.
    first: Option<u64>,
    last: u64,
}

fn open(builder: Builder) -> Result<(Wal, Held)> {
    let mut held = Held::default();
    let (wal, recovery) = builder
        .replay(|step| {
            match step {
                Replay::Snapshot(mut snapshot) => {
                    let mut text = String::new();
                    snapshot.read_to_string(&mut text)?;
                    held.covered = snapshot.lsn().get();
                    held.last = held.covered;
                    ensure!(text == held.last.to_string(), "torn: a snapshot: {text}");
                }
                Replay::Record(lsn, found) => {
                    let lsn = lsn.get();
                    if held.first.is_none() {
                        held.first = Some(lsn);
                    } else {
                        ensure!(lsn == held.last + 1, "LSN {lsn} after {}", held.last);
                    }
                    held.last = lsn;
                    ensure!(found == body(lsn), "torn: record {lsn}");
                }
                _ => ensure!(false, "something else was replayed"),
            }
            Ok(())
        })
        .context("refused")?;
    let damaged = recovery.damaged_snapshots();
    ensure!(damaged.is_empty(), "damaged: {damaged:?}");
    Ok((wal, held))
}

/// What a note says, besides its number: up to where the records are acknowledged, or may be gone,
/// or are in a snapshot that was committed.
const RELEASED: u64 = 1 << 63;
const COMMITTED: u64 = 1 << 62;

/// What must be there.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    acknowledged: u64,
    released: u64,
    committed: u64,
}

impl Owed {
    fn after(notes: &[u64]) -> Owed {
        let mut owed = Owed::default();
        for note in notes {
            let (kind, lsn) = (note & (RELEASED | COMMITTED), note & (COMMITTED - 1));
            match kind {
                RELEASED => owed.released = lsn,
                COMMITTED => owed.committed = lsn,
                _ => owed.acknowledged = lsn,
            }
        }
        owed
    }

    fn check(&self, held: &Held) -> Result<()> {
        let Owed {
            acknowledged,
            released,
            committed,
        } = *self;
        let there = held.last.max(released);
        ensure!(
            there >= acknowledged,
            "lost: {acknowledged} records were acknowledged, {there} are there"
        );
        if let Some(first) = held.first {
            let gone = held.covered.max(released);
            ensure!(
                first <= gone + 1,
                "lost: {gone} may be gone, the first is {first}"
            );
            ensure!(first > held.covered, "record {first} is in the snapshot");
        }
        ensure!(
            held.covered >= committed,
            "lost: a snapshot of {committed} records was committed, there is one of {}",
            held.covered
        );
        Ok(())
    }
}

/// Something that is done to a log.
struct Work {
    name: &'static str,
    /// What is done before, and durable.
    before: fn(&Stage) -> Result<()>,
    run: fn(&Stage) -> Result<()>,
}

/// A log's file system, and the record of what was acknowledged.
struct Stage {
    fs: Arc<dyn Fs>,
    recording: RecordingFs,
    /// For works that go by chance.
    seed: u64,
}

impl Stage {
    fn open(&self) -> Result<Wal> {
        Ok(open(builder(self.fs.clone()))?.0)
    }

    fn open_unsynced(&self) -> Result<Wal> {
        let builder = builder(self.fs.clone()).durability(Durability::None);
        Ok(open(builder.segment_bytes(1 << 15))?.0)
    }

    fn append(&self, wal: &Wal, count: u64) -> Result<()> {
        for _ in 0..count {
            let lsn = wal.append(&body(wal.last_lsn().get() + 1))?;
            self.recording.note(lsn.get());
        }
        Ok(())
    }

    fn enqueue(&self, wal: &Wal, count: u64) -> Result<()> {
        for _ in 0..count {
            wal.enqueue(&body(wal.last_lsn().get() + 1))?;
        }
        wal.sync()?;
        self.recording.note(wal.last_lsn().get());
        Ok(())
    }

    fn snapshot(&self, wal: &Wal) -> Result<()> {
        let mut snapshot = wal.snapshot()?;
        let lsn = snapshot.lsn();
        snapshot.write_all(lsn.to_string().as_bytes())?;
        snapshot.commit()?;
        self.recording.note(COMMITTED | lsn.get());
        Ok(())
    }
}

fn nothing(_: &Stage) -> Result<()> {
    Ok(())
}

const WORKS: &[Work] = &[
    Work {
        name: "appends",
        before: nothing,
        run: |stage| {
            let wal = stage.open()?;
            stage.append(&wal, 4)?;
            stage.enqueue(&wal, 5)?;
            stage.append(&wal, 3)?;
            wal.close()?;
            Ok(())
        },
    },
    Work {
        name: "unsynced-tail",
        before: nothing,
        run: |stage| {
            let wal = stage.open_unsynced()?;
            for group in [2, 6, 3] {
                for _ in 0..group {
                    wal.append(&body(wal.last_lsn().get() + 1))?;
                }
                wal.sync()?;
                stage.recording.note(wal.last_lsn().get());
            }
            wal.append(&body(12))?;
            wal.close()?;
            stage.recording.note(12);
            Ok(())
        },
    },
    Work {
        name: "snapshots",
        before: nothing,
        run: |stage| {
            let wal = stage.open()?;
            for _ in 0..4 {
                stage.append(&wal, 3)?;
                stage.snapshot(&wal)?;
            }
            stage.append(&wal, 1)
        },
    },
    Work {
        name: "release",
        before: |stage| {
            let wal = stage.open()?;
            stage.append(&wal, 14)?;
            wal.close()?;
            Ok(())
        },
        run: |stage| {
            stage.recording.note(14);
            let wal = stage.open()?;
            let first = wal.rotate()?;
            stage.append(&wal, 1)?;
            stage.recording.note(RELEASED | (first.get() - 1));
            ensure!(wal.release(first)? > 2, "little was released");
            stage.append(&wal, 1)
        },
    },
    Work {
        name: "random",
        before: nothing,
        run: at_random,
    },
    Work {
        name: "recovery",
        before: |stage| {
            let wal = stage.open_unsynced()?;
            stage.append(&wal, 6)?;
            // Its tail has never been synced, and is copied.
            std::mem::forget(wal);
            Ok(())
        },
        run: |stage| {
            stage.recording.note(6);
            let wal = stage.open()?;
            stage.append(&wal, 2)
        },
    },
];

/// Opens and closes the log and does whatever can be done to it, by chance.
fn at_random(stage: &Stage) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(stage.seed);
    let mut released = 0;
    for _ in 0..random.u8(1..4) {
        let durability = match random.bool() {
            true => Durability::Sync,
            false => Durability::None,
        };
        let builder = builder(stage.fs.clone()).durability(durability);
        let (wal, held) = open(builder.segment_bytes(4096 << random.u8(..3)))?;
        stage.recording.note(held.last);
        for _ in 0..random.u8(1..8) {
            match random.u8(..8) {
                0..3 if durability == Durability::Sync => stage.append(&wal, random.u64(1..4))?,
                0..3 => {
                    for _ in 0..random.u8(1..6) {
                        wal.append(&body(wal.last_lsn().get() + 1))?;
                    }
                }
                3..6 => stage.enqueue(&wal, random.u64(1..6))?,
                6 => stage.snapshot(&wal)?,
                _ => {
                    // What is released is elsewhere, as in a table that was flushed.
                    let first = wal.rotate()?;
                    stage.recording.note(wal.last_lsn().get());
                    released = released.max(first.get() - 1);
                    stage.recording.note(RELEASED | released);
                    wal.release(first)?;
                }
            }
        }
        if random.bool() {
            wal.close()?;
            stage.recording.note(wal.last_lsn().get());
        } else {
            // As a process that is killed leaves it; but for the lock, which goes with that.
            drop(wal);
        }
    }
    Ok(())
}

/// What is left out, and the work in which that must be found.
struct Control {
    name: &'static str,
    work: &'static str,
    leaves_out: fn(Sync<'_>) -> bool,
}

fn is_snapshot(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("snapshot-")
}

const CONTROLS: &[Control] = &[
    Control {
        name: "records",
        work: "appends",
        leaves_out: |sync| matches!(sync, Sync::File { path, times: 1.., .. } if !is_snapshot(path)),
    },
    Control {
        name: "segment-header",
        work: "recovery",
        leaves_out: |sync| matches!(sync, Sync::File { path, is_begun: true, times: 0 } if !is_snapshot(path)),
    },
    Control {
        name: "segment-name",
        work: "appends",
        leaves_out: |sync| matches!(sync, Sync::Directory { path, change: Change::Created } if path == Path::new(DIR)),
    },
    Control {
        name: "log-name",
        work: "appends",
        leaves_out: |sync| matches!(sync, Sync::Directory { path, .. } if path == Path::new("/data")),
    },
    Control {
        name: "parent-name",
        work: "appends",
        leaves_out: |sync| matches!(sync, Sync::Directory { path, .. } if path == Path::new("/")),
    },
    Control {
        name: "snapshot",
        work: "snapshots",
        leaves_out: |sync| matches!(sync, Sync::File { path, .. } if is_snapshot(path)),
    },
    Control {
        name: "snapshot-name",
        work: "snapshots",
        leaves_out: |sync| {
            matches!(
                sync,
                Sync::Directory {
                    change: Change::Renamed,
                    ..
                }
            )
        },
    },
    Control {
        name: "removals",
        work: "release",
        leaves_out: |sync| {
            matches!(
                sync,
                Sync::Directory {
                    change: Change::Removed,
                    ..
                }
            )
        },
    },
    Control {
        name: "copied-tail",
        work: "recovery",
        leaves_out: |sync| matches!(sync, Sync::File { path, is_begun: false, .. } if !is_snapshot(path)),
    },
];

/// What was done to which file system.
struct Recorded {
    start: MemoryFs,
    recording: RecordingFs,
}

/// Does a work on a file system that may forget, and records it.
fn record(work: &Work, start: MemoryFs, seed: u64, rule: fn(Sync<'_>) -> bool) -> Result<Recorded> {
    let stage = |start: &MemoryFs| {
        let recording = RecordingFs::new(Arc::new(start.clone()));
        let fs = Forgetful::new(Arc::new(recording.clone()), rule);
        Stage {
            fs: Arc::new(fs),
            recording,
            seed,
        }
    };
    (work.before)(&stage(&start))?;
    let start = start.copy();
    let stage = stage(&start.copy());
    (work.run)(&stage).with_context(|| work.name)?;
    Ok(Recorded {
        start,
        recording: stage.recording,
    })
}

/// What is wrong with a state.
struct Wrong {
    why: anyhow::Error,
    state: CrashState,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}: {}", self.why, self.state)
    }
}

fn check(state: &CrashState) -> Result<()> {
    let (wal, held) = open(builder(Arc::new(state.fs.clone())))?;
    Owed::after(&state.notes).check(&held)?;
    // It goes on.
    wal.append(&body(held.last + 1))?;
    Ok(())
}

/// Checks all states, and calls `each` with those that are right.
fn all_states(
    recorded: &Recorded,
    bounds: Bounds,
    mut each: impl FnMut(&CrashState) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    let ops = recorded.recording.ops();
    for state in crash::states(&ops, &recorded.start, bounds) {
        // The check writes.
        let mut copy = state.clone();
        copy.fs = state.fs.copy();
        match check(&copy) {
            Ok(()) => each(&state)?,
            Err(why) => return Err(Wrong { why, state }),
        }
    }
    Ok(())
}

pub(super) fn states(scene: &mut Scene) -> Result<()> {
    for work in WORKS {
        let started = Instant::now();
        let rounds = match work.name {
            "random" => scene.choose(60, 300),
            _ => 1,
        };
        let mut figures = Figures::default();
        let result = (0..rounds).try_for_each(|round| {
            let seed = scene.seed.wrapping_add(round);
            let result = all_of(scene, work, seed, &mut figures);
            result.with_context(|| format!("round {round}"))
        });
        let figures = format!(
            "operations={} states={} during-recovery={} seconds={:.1}",
            figures.operations,
            figures.states,
            figures.again,
            started.elapsed().as_secs_f64()
        );
        scene.report(&format!("states {}", work.name), figures, result);
    }
    Ok(())
}

#[derive(Default)]
struct Figures {
    operations: usize,
    states: u64,
    again: u64,
}

/// All states of one work.
fn all_of(scene: &Scene, work: &Work, seed: u64, figures: &mut Figures) -> Result<()> {
    // By chance there is more to do, and so less is done of each.
    let (samples, stride) = match work.name {
        "random" => (scene.choose(20, 200), 50),
        _ => (scene.choose(1_000, 10_000), scene.choose(4, 2)),
    };
    let bounds = match work.name {
        "random" => Bounds::short(),
        _ => Bounds::new(),
    };
    let recorded = record(work, MemoryFs::new(), seed, |_| false)?;
    figures.operations += recorded.recording.ops().len();
    let result = all_states(&recorded, bounds.samples(samples).seed(seed), |state| {
        figures.states += 1;
        if figures.states.is_multiple_of(64) {
            scene.beat();
        }
        // Of so many one is recovered from, and cut off again.
        if figures.states.is_multiple_of(stride) {
            figures.again += cut_again(state, seed)?;
        }
        Ok(())
    });
    result.map_err(|wrong| anyhow!("{wrong}"))
}

/// Recovers from a state, and cuts that off at every moment.
fn cut_again(state: &CrashState, seed: u64) -> Result<u64, Wrong> {
    let work = Work {
        name: "again",
        before: nothing,
        run: |stage| {
            let (wal, held) = open(builder(stage.fs.clone()))?;
            // What was delivered is synced.
            stage.recording.note(held.last);
            stage.append(&wal, 1)
        },
    };
    let wrong = |why| Wrong {
        why,
        state: state.clone(),
    };
    let recorded = record(&work, state.fs.copy(), seed, |_| false).map_err(wrong)?;
    let ops = recorded.recording.ops();
    let mut count = 0;
    for mut after in crash::states(&ops, &recorded.start, Bounds::short().seed(seed)) {
        count += 1;
        // What was owed at first is owed still.
        after.notes = state.notes.iter().chain(&*after.notes).copied().collect();
        if let Err(why) = check(&after) {
            let why = why.context(format!("{state}, and again"));
            return Err(Wrong { why, state: after });
        }
    }
    Ok(count)
}

/// Leaves out each kind of sync, which must be found.
pub(super) fn controls(scene: &mut Scene) -> Result<()> {
    for control in CONTROLS {
        let work = WORKS.iter().find(|work| work.name == control.work);
        let work = work.context("no such work")?;
        let recorded = record(work, MemoryFs::new(), scene.seed, control.leaves_out)?;
        let mut states = 0;
        let bounds = Bounds::new().samples(1_000).seed(scene.seed);
        let found = all_states(&recorded, bounds, |_| {
            states += 1;
            if u32::is_multiple_of(states, 64) {
                scene.beat();
            }
            Ok(())
        });
        let result = match &found {
            Ok(_) => Err(anyhow!("nothing was found although the sync is left out")),
            Err(wrong) => {
                println!("  {}: found: {:#}", control.name, wrong.why);
                Ok(())
            }
        };
        let name = format!("states-controls {}", control.name);
        scene.report(&name, format!("work={} states={states}", work.name), result);
    }
    Ok(())
}
