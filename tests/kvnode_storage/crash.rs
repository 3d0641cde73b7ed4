//! A power cut at every moment, with every part of what was not synced.

use std::fmt::Display;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use latchwork::fs::crash::{self, Bounds};
use latchwork::fs::{File, Fs, MemoryFs, OpenMode, RecordingFs};
use latchwork::rmw::Value;

use crate::ledger::Ledger;
use crate::storage::Fsync;
use crate::support::{Node, config, open};

fn record(start: &MemoryFs, work: impl FnOnce(&RecordingFs)) -> RecordingFs {
    let fs = RecordingFs::new(Arc::new(start.copy()));
    work(&fs);
    fs
}

/// Opens the directory in every state. What was acknowledged has to be there.
fn every_crash(start: &MemoryFs, fs: &RecordingFs, bounds: Bounds) -> Result<usize, String> {
    let ops = fs.ops();
    let mut count = 0;
    for state in crash::states(&ops, start, bounds) {
        check_state(&state.fs, &state.notes, &state)?;
        count += 1;
    }
    Ok(count)
}

fn check_state(fs: &MemoryFs, notes: &[u64], state: &dyn Display) -> Result<(), String> {
    let node = open(config(fs, Fsync::Always)).map_err(|error| format!("{error}: {state}"))?;
    let found =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| Ledger::check(&node, state)));
    let (transfers, noted) = found.map_err(|panic| {
        let text = panic.downcast_ref::<String>();
        text.cloned().unwrap_or_else(|| "a panic".to_owned())
    })?;
    let acknowledged = notes.last().copied().unwrap_or(0);
    let (first, second) = (acknowledged >> 32, acknowledged & 0xffff_ffff);
    if transfers < first || noted < second {
        return Err(format!(
            "{first} and {second} were acknowledged, {transfers} and {noted} are there: {state}"
        ));
    }
    Ok(())
}

/// Transfers and notes in turns, each acknowledged once it is durable.
fn work(node: &Node, fs: &RecordingFs, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        Ledger::transfer(node, number).unwrap();
        Ledger::note(node, number).unwrap();
        // So that the log gets beyond a segment, and is released.
        node.rmw.set("pad", vec![number as u8; 900]).unwrap();
        if node.storage.fsync() == Fsync::Always {
            node.sync();
            fs.note(number << 32 | number);
        }
    }
}

/// The states of a run with all that there is: flushes in the middle of changes, merges, a clear.
fn scenario(fs: Arc<dyn Fs>, is_saving: &AtomicBool, notes: &RecordingFs, fsync: Fsync) {
    let mut with = config(notes, fsync);
    with.fs = fs;
    let node = open(with).unwrap();
    let save = || {
        is_saving.store(true, Ordering::Relaxed);
        node.save().unwrap();
        is_saving.store(false, Ordering::Relaxed);
    };
    work(&node, notes, 1..=3);
    save();
    work(&node, notes, 4..=10);
    save();
    work(&node, notes, 11..=12);
    node.storage.close().unwrap();
}

fn plain(start: &MemoryFs, fsync: Fsync) -> RecordingFs {
    record(start, |fs| {
        scenario(Arc::new(fs.clone()), &AtomicBool::new(false), fs, fsync);
    })
}

#[test]
fn nothing_that_was_acknowledged_is_lost_and_nothing_is_there_by_half() {
    let start = MemoryFs::new();
    let fs = plain(&start, Fsync::Always);
    let count = every_crash(&start, &fs, Bounds::short()).unwrap();
    assert!(count > 60, "{count} states");
}

#[test]
fn without_syncs_a_crash_leaves_a_beginning() {
    let start = MemoryFs::new();
    let fs = plain(&start, Fsync::No);
    let count = every_crash(&start, &fs, Bounds::short()).unwrap();
    assert!(count > 50, "{count} states");
}

/// Flushes that read what changes under them.
#[test]
fn a_crash_after_a_flush_under_writers_finds_whole_transactions() {
    let start = MemoryFs::new();
    for _ in 0..3 {
        let fs = record(&start, |fs| {
            let node = open(config(fs, Fsync::No)).unwrap();
            std::thread::scope(|scope| {
                let writer = scope.spawn(|| work(&node, fs, 1..=12));
                while !writer.is_finished() {
                    node.save().unwrap();
                }
            });
            node.storage.close().unwrap();
        });
        every_crash(&start, &fs, Bounds::short().samples(20)).unwrap();
    }
}

/// What a start does is cut off, and the next one finds the same.
#[test]
fn a_crash_during_a_start_loses_nothing() {
    let start = MemoryFs::new();
    let fs = plain(&start, Fsync::Always);
    let ops = fs.ops();
    let states: Vec<_> = crash::states(&ops, &start, Bounds::short()).collect();
    let step = (states.len() / 40).max(1);
    for state in states.iter().step_by(step) {
        let again = record(&state.fs, |fs| {
            fs.note(state.notes.last().copied().unwrap_or(0));
            let node = open(config(fs, Fsync::Always)).unwrap();
            let (transfers, notes) = Ledger::check(&node, state);
            fs.note(transfers << 32 | notes);
            node.storage.close().unwrap();
        });
        every_crash(&state.fs, &again, Bounds::short()).unwrap();
    }
}

#[test]
fn a_merge_that_is_cut_off_loses_nothing() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let node = open(config(fs, Fsync::Always)).unwrap();
        for number in 1..=9 {
            work(&node, fs, number..=number);
            node.save().unwrap();
        }
        work(&node, fs, 10..=10);
        node.save().unwrap();
        // The merge may stand behind this save's flush.
        let limit = Instant::now() + Duration::from_secs(30);
        while node.storage.stats().merges == 0 {
            let stats = node.storage.stats();
            assert!(Instant::now() < limit, "{stats:?}");
            std::thread::yield_now();
        }
        node.storage.close().unwrap();
    });
    every_crash(&start, &fs, Bounds::short().samples(20)).unwrap();
}

/// After a clear, and its flush, nothing of before comes back.
#[test]
fn a_clear_is_whole_whenever_the_crash_comes() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let node = open(config(fs, Fsync::Always)).unwrap();
        for key in ["a", "b", "c"] {
            node.rmw.set(key, "before").unwrap();
            node.save().unwrap();
        }
        node.rmw.clear().unwrap();
        node.rmw.append("b", "after").unwrap();
        node.sync();
        fs.note(1);
        node.save().unwrap();
        node.rmw.append("b", ", and later").unwrap();
        node.storage.close().unwrap();
    });
    let ops = fs.ops();
    for state in crash::states(&ops, &start, Bounds::short()) {
        let node = open(config(&state.fs, Fsync::Always)).unwrap();
        let dump = node.dump();
        let is = |key: &str, value: &str| {
            let found = dump.get(key.as_bytes());
            found.is_some_and(|(found, _)| *found == Value::from(value))
        };
        let is_cleared = !is("a", "before") && !is("c", "before");
        let has_after = is("b", "after") || is("b", "after, and later");
        if has_after {
            assert!(is_cleared && dump.len() == 1, "{dump:?}: {state}");
        }
        if !state.notes.is_empty() {
            assert!(has_after, "{dump:?}: {state}");
        }
    }
}

/// A file system that does not do some of the syncs.
#[derive(Clone, Debug)]
struct Careless {
    inner: Arc<dyn Fs>,
    left_out: LeftOut,
    /// The file that was made, or renamed, last.
    last: Arc<Mutex<String>>,
    is_saving: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LeftOut {
    /// Of files with names that hold this.
    Data(&'static str),
    /// Of the log, by a save.
    Log,
    /// Of the directory, after the last file that was made or renamed had a name that holds this.
    Names(&'static str),
}

#[derive(Debug)]
struct CarelessFile {
    inner: Box<dyn File>,
    name: String,
    fs: Careless,
}

fn name(path: &Path) -> String {
    path.file_name()
        .map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

impl Fs for Careless {
    pass_on!(inner: remove_file create_dir_all read_dir);

    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn File>> {
        let name = name(path);
        if mode == OpenMode::CreateNew {
            *self.last.lock().unwrap() = name.clone();
        }
        Ok(Box::new(CarelessFile {
            inner: self.inner.open(path, mode)?,
            name,
            fs: self.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
        *self.last.lock().unwrap() = name(to);
        self.inner.rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> std::io::Result<()> {
        match self.left_out {
            LeftOut::Names(of) if self.last.lock().unwrap().ends_with(of) => Ok(()),
            _ => self.inner.sync_dir(path),
        }
    }
}

impl File for CarelessFile {
    pass_on!(inner: read_at write_at allocate set_len len try_lock);

    fn sync_data(&self) -> std::io::Result<()> {
        let is_left_out = match self.fs.left_out {
            LeftOut::Data(of) => self.name.contains(of),
            LeftOut::Log => {
                self.name.ends_with(".wal") && self.fs.is_saving.load(Ordering::Relaxed)
            }
            LeftOut::Names(_) => false,
        };
        if is_left_out {
            return Ok(());
        }
        self.inner.sync_data()
    }
}

/// The suite finds each sync of the storage that is left out.
#[test]
fn each_sync_that_is_left_out_is_found() {
    let all = [
        (LeftOut::Data(".segment"), Fsync::Always),
        (LeftOut::Data("MANIFEST"), Fsync::Always),
        (LeftOut::Names(".segment"), Fsync::Always),
        (LeftOut::Names("MANIFEST"), Fsync::Always),
        // It comes before the manifest.
        (LeftOut::Log, Fsync::No),
    ];
    for (left_out, fsync) in all {
        let start = MemoryFs::new();
        let fs = record(&start, |fs| {
            let careless = Careless {
                inner: Arc::new(fs.clone()),
                left_out,
                last: Arc::default(),
                is_saving: Arc::default(),
            };
            let is_saving = Arc::clone(&careless.is_saving);
            scenario(Arc::new(careless), &is_saving, fs, fsync);
        });
        let found = every_crash(&start, &fs, Bounds::short());
        assert!(found.is_err(), "{left_out:?} is not found: {found:?}");
    }
}
