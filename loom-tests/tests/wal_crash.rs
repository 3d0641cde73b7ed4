//! The log after every crash, as models of one thread: so that the bugs in `mutants.txt` can be
//! switched on, each of which loses an acknowledged record, delivers one that is not, or refuses a
//! log after an ordinary power cut. The crash states themselves are many; each is a model.
#![cfg(latchwork_loom)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use latchwork::fs::crash::{self, Bounds};
use latchwork::fs::{Call, FailingFs, Failure, Fault, Fs, MemoryFs, OpenMode, RecordingFs};
use latchwork::model::model;
use latchwork::wal::{AppendError, Durability, Lsn, Replay, Wal};

type Records = Vec<(u64, Vec<u8>)>;

/// A body that says whose it is; most are longer than a sector.
fn body(lsn: u64) -> Vec<u8> {
    let len = [3, 700, 0, 40, 1300, 600][(lsn % 6) as usize];
    (0..len).map(|at| (lsn * 31 + at) as u8 | 1).collect()
}

fn open_with(
    fs: &(impl Fs + Clone),
    durability: Durability,
) -> Result<(Wal, Records), latchwork::wal::WalError> {
    let mut records = Vec::new();
    let (wal, _) = Wal::builder("/log")
        .fs(Arc::new(fs.clone()))
        .segment_bytes(1 << 13)
        .durability(durability)
        .open(|lsn: Lsn, body| {
            records.push((lsn.get(), body.to_vec()));
            Ok::<(), std::io::Error>(())
        })?;
    Ok((wal, records))
}

fn open(fs: &(impl Fs + Clone)) -> (Wal, Records) {
    open_with(fs, Durability::Sync).unwrap()
}

/// Runs `work` once, as a model, over a copy of `start`, and returns what it did.
fn record(start: &MemoryFs, work: impl Fn(&RecordingFs) + Send + Sync + 'static) -> RecordingFs {
    let fs = RecordingFs::new(Arc::new(start.copy()));
    let kept = fs.clone();
    once(move || work(&fs));
    kept
}

fn once(work: impl Fn() + Send + Sync + 'static) {
    model(work);
}

fn append(wal: &Wal, fs: &RecordingFs, count: u64) {
    for _ in 0..count {
        let lsn = wal.last_lsn().get() + 1;
        assert_eq!(wal.append(&body(lsn)).unwrap().get(), lsn);
        fs.note(lsn);
    }
}

fn check(records: &Records, acknowledged: u64, state: &str) {
    for (at, (lsn, found)) in records.iter().enumerate() {
        assert_eq!(*lsn, at as u64 + 1, "in order: {state}");
        assert_eq!(*found, body(*lsn), "record {lsn} is whole: {state}");
    }
    let count = records.len() as u64;
    assert!(count >= acknowledged, "{count} < {acknowledged}: {state}");
}

fn every_crash(start: &MemoryFs, fs: &RecordingFs, bounds: Bounds) {
    let ops = fs.ops();
    for state in crash::states(&ops, start, bounds) {
        let acknowledged = state.notes.last().copied().unwrap_or(0);
        once(move || {
            let fs = state.fs.copy();
            let (_wal, records) =
                open_with(&fs, Durability::Sync).unwrap_or_else(|error| panic!("{error}: {state}"));
            check(&records, acknowledged, &state.to_string());
        });
    }
}

/// Catches each sync of an append, of a segment's header and of its name gone.
#[test]
fn no_acknowledged_record_is_lost_in_a_power_cut() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, _) = open(fs);
        append(&wal, fs, 12);
        wal.close().unwrap();
    });
    every_crash(&start, &fs, Bounds::short());
}

/// Catches a refusal because of valid records behind bad ones, and torn records that are delivered.
#[test]
fn an_unsynced_tail_is_cut_wherever_it_is_torn() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, _) = open_with(fs, Durability::None).unwrap();
        append(&wal, &RecordingFs::new(Arc::new(MemoryFs::new())), 2);
        wal.sync().unwrap();
        fs.note(2);
        for lsn in 3..=7 {
            wal.append(&body(lsn)).unwrap();
        }
        wal.sync().unwrap();
        fs.note(7);
    });
    every_crash(&start, &fs, Bounds::short());
}

/// Catches a copy of the tail that is not synced before it counts, and none at all.
#[test]
fn a_crash_during_recovery_loses_nothing() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, _) = open(fs);
        append(&wal, fs, 5);
    });
    let start = MemoryFs::load(&fs, "/").unwrap();
    let again = record(&start, |fs| {
        fs.note(5);
        let (wal, records) = open(fs);
        check(&records, 5, "the first recovery");
        append(&wal, fs, 2);
    });
    every_crash(&start, &again, Bounds::short());
}

/// A sync fails, and what was written stays in the page cache, clean, and not on disk. Catches a
/// recovery that takes it from there and leaves it there.
#[test]
fn what_is_recovered_is_synced_anew() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let failing = FailingFs::new(Arc::new(fs.clone()));
        let (wal, _) = open(&failing);
        failing.inject(Fault::new(Failure::Io).on(Call::SyncData));
        assert!(wal.append(&body(1)).unwrap_err().is_in_doubt());
        drop(wal);
        let (_wal, records) = open(fs);
        assert_eq!(records.len(), 1);
        fs.note(1);
    });
    every_crash(&start, &fs, Bounds::short());
}

/// Catches a snapshot that is believed without a look.
#[test]
fn a_damaged_snapshot_is_stood_in_for_by_the_one_before() {
    once(|| {
        let fs = MemoryFs::new();
        let (wal, _) = open(&fs);
        for _ in 0..2 {
            wal.append(b"x").unwrap();
            wal.snapshot().unwrap().commit().unwrap();
        }
        drop(wal);
        let path = Path::new("/log/snapshot-0000000000000002");
        let bytes = fs.contents(path).unwrap();
        overwrite(
            &fs,
            path,
            bytes.len() as u64 - 1,
            &[!bytes[bytes.len() - 1]],
        );
        let (_wal, records) = open(&fs);
        assert_eq!(records, [(2, b"x".to_vec())]);
    });
}

/// Catches a snapshot that is renamed before it is synced, or relied upon before its name is.
#[test]
fn a_snapshot_is_there_whole_or_the_records_are() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, _) = open(fs);
        for _ in 0..3 {
            append(&wal, fs, 2);
            let mut snapshot = wal.snapshot().unwrap();
            let covered = snapshot.lsn().get();
            snapshot.write_all(&covered.to_le_bytes()).unwrap();
            snapshot.commit().unwrap();
            fs.note(1000 + covered);
        }
        append(&wal, fs, 1);
    });
    let ops = fs.ops();
    for state in crash::states(&ops, &start, Bounds::short()) {
        once(move || {
            let mut last = 0;
            let mut found = 0;
            let replayed = Wal::builder("/log")
                .fs(Arc::new(state.fs.copy()))
                .segment_bytes(1 << 13)
                .replay(|step| {
                    match step {
                        Replay::Snapshot(mut snapshot) => {
                            let mut bytes = [0; 8];
                            snapshot.read_exact(&mut bytes)?;
                            last = u64::from_le_bytes(bytes);
                            found = last;
                            assert_eq!(snapshot.lsn().get(), last, "{state}");
                        }
                        Replay::Record(lsn, body_found) => {
                            last += 1;
                            assert_eq!((lsn.get(), body_found), (last, &body(last)[..]), "{state}");
                        }
                        _ => unreachable!(),
                    }
                    Ok::<(), std::io::Error>(())
                });
            let (_, recovery) = replayed.unwrap_or_else(|error| panic!("{error}: {state}"));
            assert!(recovery.damaged_snapshots().is_empty(), "{state}");
            let notes = |of: std::ops::Range<u64>| {
                state
                    .notes
                    .iter()
                    .filter(|note| of.contains(note))
                    .max()
                    .copied()
                    .unwrap_or(0)
            };
            assert!(last >= notes(0..1000), "{last}: {state}");
            // A committed snapshot is there.
            assert!(found + 1000 >= notes(1000..2000), "{found}: {state}");
        });
    }
}

/// Catches removals that leave a hole in the middle.
#[test]
fn a_crash_while_segments_are_released_leaves_a_log_that_opens() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, _) = open(fs);
        for _ in 0..3 {
            append(&wal, fs, 1);
            wal.rotate().unwrap();
        }
        append(&wal, fs, 1);
        assert_eq!(wal.release(Lsn::new(4)).unwrap(), 3);
    });
    let ops = fs.ops();
    for state in crash::states(&ops, &start, Bounds::short()) {
        once(move || {
            let opened = open_with(&state.fs.copy(), Durability::Sync);
            opened.unwrap_or_else(|error| panic!("{error}: {state}"));
        });
    }
}

fn segments(fs: &MemoryFs) -> BTreeSet<PathBuf> {
    let names = fs.read_dir(Path::new("/log")).unwrap();
    let paths = names.into_iter().map(|name| Path::new("/log").join(name));
    paths
        .filter(|path| path.extension().is_some_and(|it| it == "wal"))
        .collect()
}

fn overwrite(fs: &MemoryFs, path: &Path, at: u64, bytes: &[u8]) {
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    assert_eq!(file.write_at(bytes, at).unwrap(), bytes.len());
}

/// Catches a bad record that had been acknowledged and is taken for a torn tail.
#[test]
fn a_bad_record_that_was_synced_is_corruption() {
    once(|| {
        let fs = MemoryFs::new();
        let (wal, _) = open(&fs);
        for lsn in 1..=4 {
            wal.append(&body(lsn)).unwrap();
        }
        drop(wal);
        overwrite(&fs, &segments(&fs).pop_first().unwrap(), 48 + 30, b"!!");
        let error = open_with(&fs, Durability::Sync).unwrap_err();
        assert!(error.is_corrupt(), "{error}");
    });
}

/// Catches records whose CRC does not tell whose they are.
#[test]
fn a_body_that_holds_another_log_is_not_taken_for_records() {
    once(|| {
        let other = MemoryFs::new();
        let (wal, _) = open(&other);
        for lsn in 1..=9 {
            wal.append(&[lsn; 20]).unwrap();
        }
        drop(wal);
        let foreign = other
            .contents(segments(&other).pop_first().unwrap())
            .unwrap();
        let fs = MemoryFs::new();
        let (wal, _) = open(&fs);
        wal.append(&foreign).unwrap();
        drop(wal);
        overwrite(&fs, &segments(&fs).pop_first().unwrap(), 48, &[0; 40]);
        let (_wal, records) = open_with(&fs, Durability::Sync).unwrap();
        assert_eq!(records, []);
    });
}

/// Catches a record that failed for want of space, is left in the file, and comes back.
#[test]
fn a_write_without_space_leaves_nothing() {
    once(|| {
        let memory = MemoryFs::new();
        let fs = FailingFs::new(Arc::new(memory.clone()));
        let (wal, _) = open(&fs);
        fs.inject(
            Fault::new(Failure::NoSpace)
                .on(Call::WriteAt)
                .although_done(),
        );
        let error = wal.append(b"one").unwrap_err();
        assert!(matches!(error, AppendError::NoSpace(_)), "{error:?}");
        assert_eq!(open(&memory.copy()).1, []);
    });
}

/// Catches a log that goes on after a failed sync, over what that has dropped.
#[test]
fn after_a_failed_sync_nothing_is_acknowledged() {
    once(|| {
        let memory = MemoryFs::new();
        let fs = FailingFs::new(Arc::new(memory.clone()));
        let (wal, _) = open(&fs);
        let fault = Fault::new(Failure::Io).on(Call::SyncData);
        fs.inject(fault.dropping_unsynced());
        assert!(wal.append(b"one").unwrap_err().is_in_doubt());
        let kept = Mutex::new(wal.append(b"two").is_ok());
        let found = open(&memory.copy()).1;
        assert!(!*kept.lock().unwrap() || found.iter().any(|(_, body)| body == b"two"));
    });
}
