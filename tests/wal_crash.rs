//! The log after a power cut: every moment, and every part of what was not synced.

#[path = "wal/support.rs"]
mod support;

use std::io::{Read, Write};
use std::sync::Arc;

use latchwork::fs::crash::{self, Bounds};
use latchwork::fs::{Fs, MemoryFs, OpenMode, RecordingFs};
use latchwork::wal::{Durability, Replay, Wal};
use support::{Records, body, builder, open};

/// What was recovered is a beginning of what was appended, and holds all up to `acknowledged`.
fn check(records: &Records, acknowledged: u64, state: &dyn std::fmt::Display) {
    for (at, (lsn, found)) in records.iter().enumerate() {
        assert_eq!(*lsn, at as u64 + 1, "in order: {state}");
        assert_eq!(*found, body(*lsn), "record {lsn} is whole: {state}");
    }
    let count = records.len() as u64;
    assert!(
        count >= acknowledged,
        "{acknowledged} were acknowledged, {count} are there: {state}"
    );
}

/// Appends the next `count` records one by one, and notes each.
fn append(wal: &Wal, fs: &RecordingFs, count: u64) {
    for _ in 0..count {
        let lsn = wal.last_lsn().get() + 1;
        assert_eq!(wal.append(&body(lsn)).unwrap().get(), lsn);
        fs.note(lsn);
    }
}

/// Enqueues the next `count` records, waits for the last, and notes it.
fn enqueue(wal: &Wal, fs: &RecordingFs, count: u64) {
    let mut last = wal.last_lsn();
    for _ in 0..count {
        last = wal.enqueue(&body(last.get() + 1)).unwrap();
    }
    wal.wait_durable(last).unwrap();
    fs.note(last.get());
}

fn record(start: &MemoryFs, work: impl FnOnce(&RecordingFs)) -> RecordingFs {
    let fs = RecordingFs::new(Arc::new(start.copy()));
    work(&fs);
    fs
}

/// Opens the log in every state, checks it, and returns how many there were.
fn every_crash(start: &MemoryFs, fs: &RecordingFs, bounds: Bounds) -> usize {
    let mut count = 0;
    let ops = fs.ops();
    for state in crash::states(&ops, start, bounds) {
        let acknowledged = state.notes.last().copied().unwrap_or(0);
        let (wal, _, records) =
            open(builder(&state.fs)).unwrap_or_else(|error| panic!("{error}: {state}"));
        check(&records, acknowledged, &state);
        drop(wal);
        count += 1;
    }
    count
}

/// Also finds a refusal after a plain power cut, a torn record that is delivered, and each of the
/// syncs, the CRC, the place in the record or the rule about the torn tail gone.
#[test]
fn no_acknowledged_record_is_lost_in_a_power_cut() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, ..) = open(builder(fs)).unwrap();
        append(&wal, fs, 4);
        enqueue(&wal, fs, 5);
        append(&wal, fs, 2);
        wal.close().unwrap();
    });
    let count = every_crash(&start, &fs, Bounds::short());
    assert!(count > 50, "{count} states");
}

/// Many sectors, none of them acknowledged: any mixture of them is an ordinary end, valid records
/// beyond bad ones too.
#[test]
fn an_unsynced_tail_is_cut_wherever_it_is_torn() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let log = builder(fs).durability(Durability::None);
        let (wal, ..) = open(log.segment_bytes(1 << 14)).unwrap();
        for lsn in 1..=2 {
            wal.append(&body(lsn)).unwrap();
        }
        wal.sync().unwrap();
        fs.note(2);
        for lsn in 3..=10 {
            wal.append(&body(lsn)).unwrap();
        }
        wal.sync().unwrap();
        fs.note(10);
        for lsn in 11..=13 {
            wal.append(&body(lsn)).unwrap();
        }
        wal.close().unwrap();
        fs.note(13);
    });
    let count = every_crash(&start, &fs, Bounds::new().samples(2000));
    assert!(count > 1000, "{count} states");
}

/// One record of many sectors.
#[test]
fn a_torn_record_is_not_delivered() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, ..) = open(builder(fs)).unwrap();
        append(&wal, fs, 1);
        wal.append(&[7; 5000]).unwrap();
    });
    let ops = fs.ops();
    for state in crash::states(&ops, &start, Bounds::short()) {
        let (_wal, _, records) = open(builder(&state.fs)).unwrap();
        check(&records[..records.len().min(1)].to_vec(), 0, &state);
        assert!(records.len() < 2 || records[1].1 == [7; 5000], "{state}");
    }
}

/// A recovery is itself cut off, and what it found before must be found again.
#[test]
fn a_crash_during_recovery_loses_nothing() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, ..) = open(builder(fs)).unwrap();
        append(&wal, fs, 3);
        enqueue(&wal, fs, 4);
    });
    let ops = fs.ops();
    let states: Vec<_> = crash::states(&ops, &start, Bounds::short()).collect();
    let step = (states.len() / 60).max(1);
    for state in states.iter().step_by(step) {
        let acknowledged = state.notes.last().copied().unwrap_or(0);
        let again = record(&state.fs, |fs| {
            fs.note(acknowledged);
            let (wal, _, records) = open(builder(fs)).unwrap();
            check(&records, acknowledged, state);
            fs.note(records.len() as u64);
            append(&wal, fs, 2);
        });
        every_crash(&state.fs, &again, Bounds::short());
    }
}

#[test]
fn a_snapshot_is_there_whole_or_the_records_are() {
    let start = MemoryFs::new();
    let fs = record(&start, |fs| {
        let (wal, ..) = open(builder(fs)).unwrap();
        for round in 1..=3 {
            append(&wal, fs, 3);
            let mut snapshot = wal.snapshot().unwrap();
            let covered = snapshot.lsn().get();
            assert_eq!(covered, 3 * round);
            snapshot.write_all(covered.to_string().as_bytes()).unwrap();
            snapshot.commit().unwrap();
        }
        append(&wal, fs, 1);
    });
    let ops = fs.ops();
    let mut snapshots = std::collections::BTreeSet::new();
    for state in crash::states(&ops, &start, Bounds::short()) {
        let mut last = 0;
        let replayed = builder(&state.fs).replay(|step| {
            match step {
                Replay::Snapshot(mut snapshot) => {
                    let mut text = String::new();
                    snapshot.read_to_string(&mut text)?;
                    last = snapshot.lsn().get();
                    assert_eq!(text, last.to_string(), "{state}");
                    snapshots.insert(last);
                }
                Replay::Record(lsn, found) => {
                    last += 1;
                    assert_eq!((lsn.get(), found), (last, &body(last)[..]), "{state}");
                }
                _ => unreachable!(),
            }
            Ok::<(), std::io::Error>(())
        });
        let (_, recovery) = replayed.unwrap_or_else(|error| panic!("{error}: {state}"));
        assert!(recovery.damaged_snapshots().is_empty(), "{state}");
        let acknowledged = state.notes.last().copied().unwrap_or(0);
        assert!(last >= acknowledged, "{last} < {acknowledged}: {state}");
    }
    assert_eq!(snapshots.into_iter().collect::<Vec<_>>(), [3, 6, 9]);
}

/// The old segments go one after the other: a hole between them would look like a loss.
#[test]
fn a_crash_while_segments_are_released_leaves_a_log_that_opens() {
    let start = MemoryFs::new();
    let (wal, ..) = open(builder(&start)).unwrap();
    let fs = RecordingFs::new(Arc::new(start.clone()));
    append(&wal, &fs, 14);
    wal.close().unwrap();
    let fs = record(&start, |fs| {
        let (wal, ..) = open(builder(fs)).unwrap();
        let before = wal.rotate().unwrap();
        append(&wal, fs, 1);
        assert!(wal.release(before).unwrap() >= 3);
    });
    for state in crash::states(&fs.ops(), &start, Bounds::short()) {
        let acknowledged = state.notes.last().copied().unwrap_or(14);
        let (_wal, recovery, _) =
            open(builder(&state.fs)).unwrap_or_else(|error| panic!("{error}: {state}"));
        assert!(recovery.last_lsn().get() >= acknowledged, "{state}");
    }
}

/// A failed sync may leave pages that read well, count as clean and are not on disk.
#[test]
fn what_is_recovered_is_written_anew_where_it_is_not_known_to_be_synced() {
    let start = MemoryFs::new();
    let (wal, ..) = open(builder(&start)).unwrap();
    let fs = RecordingFs::new(Arc::new(start.clone()));
    append(&wal, &fs, 3);
    wal.close().unwrap();
    // The old segment's last record is in the page cache only: the disk loses it with the cut.
    let again = RecordingFs::new(Arc::new(start.copy()));
    let (wal, _, records) = open(builder(&again)).unwrap();
    assert_eq!(records.len(), 3);
    drop(wal);
    let names = again.read_dir("/log".as_ref()).unwrap();
    for name in names {
        let path = std::path::Path::new("/log").join(&name);
        let text = name.to_str().unwrap();
        if text.starts_with("0000000000000001") {
            let file = again.open(&path, OpenMode::ReadWrite).unwrap();
            // One record fewer than there were.
            file.set_len(48 + 24 + 704 + 24).unwrap();
        }
    }
    let (_, _, records) = open(builder(&again)).unwrap();
    check(&records, 3, &"after the old tail went");
    assert_eq!(records.len(), 3);
}
