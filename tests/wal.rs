//! The log on the kernel's file system and on one in memory.

#[macro_use]
#[path = "support/pass_on.rs"]
mod pass_on;
#[path = "wal/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use latchwork::fs::{Call, FailingFs, Failure, Fault, File, Fs, MemoryFs, OpenMode};
use latchwork::wal::{AppendError, Durability, Lsn, Replay, Wal};
use support::{body, builder, open};

/// The paths of the log's segments, the oldest first.
fn segments(fs: &MemoryFs) -> Vec<PathBuf> {
    let names = fs.read_dir(Path::new("/log")).unwrap();
    let paths = names.into_iter().map(|name| Path::new("/log").join(name));
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "wal"))
        .collect();
    paths.sort();
    paths
}

fn overwrite(fs: &MemoryFs, path: &Path, at: u64, bytes: &[u8]) {
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    assert_eq!(file.write_at(bytes, at).unwrap(), bytes.len());
}

#[test]
fn what_was_appended_comes_back_in_order() {
    let fs = MemoryFs::new();
    for round in 0..4 {
        let (wal, recovery, records) = open(builder(&fs)).unwrap();
        assert_eq!(recovery.last_lsn().get(), round * 10);
        let expected: Vec<_> = (1..=round * 10).map(|lsn| (lsn, body(lsn))).collect();
        assert_eq!(records, expected);
        for lsn in round * 10 + 1..=round * 10 + 10 {
            assert_eq!(wal.append(&body(lsn)).unwrap().get(), lsn);
        }
    }
}

#[test]
fn appends_of_many_threads_share_groups_and_have_one_order() {
    let dir = std::env::temp_dir().join(format!("latchwork-wal-many-{}", std::process::id()));
    let (wal, _) = Wal::builder(&dir)
        .segment_bytes(1 << 14)
        .open(|_, _| Ok::<(), std::io::Error>(()))
        .unwrap();
    let (threads, each) = (16, 100);
    let mut appended = BTreeMap::new();
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..threads)
            .map(|thread| {
                let wal = &wal;
                scope.spawn(move || {
                    let mut last = Lsn::ZERO;
                    let mut mine = Vec::new();
                    for turn in 0..each {
                        let body = format!("{thread}:{turn}");
                        let lsn = wal.append(body.as_bytes()).unwrap();
                        assert!(lsn > last && wal.durable_lsn() >= lsn);
                        last = lsn;
                        mine.push((lsn, body));
                    }
                    mine
                })
            })
            .collect();
        for task in tasks {
            appended.extend(task.join().unwrap());
        }
    });
    let stats = wal.stats();
    assert_eq!(stats.records, threads * each);
    assert!(stats.groups < stats.records, "{stats:?}");
    assert!(stats.segments > 1, "{stats:?}");
    wal.close().unwrap();
    let mut recovered = BTreeMap::new();
    let (_wal, recovery) = Wal::builder(&dir)
        .open(|lsn, body| {
            recovered.insert(lsn, String::from_utf8(body.to_vec())?);
            Ok::<(), std::string::FromUtf8Error>(())
        })
        .unwrap();
    assert_eq!(recovery.cut(), None);
    assert_eq!(recovered, appended);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn enqueued_records_are_written_when_nobody_waits() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    let (send, receive) = mpsc::channel();
    wal.on_durable(move |lsn| send.send(lsn).unwrap_or(()));
    let last = (1..=20).map(|lsn| wal.enqueue(&body(lsn)).unwrap()).last();
    assert_eq!(receive.iter().find(|lsn| Some(*lsn) >= last), last);
    let (_, _, records) = open(builder(&fs.copy())).unwrap();
    assert_eq!(records.len(), 20);
}

#[test]
fn callbacks_are_told_once_and_may_append_and_panic_and_close() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    let wal = Arc::new(wal);
    let (send, receive) = mpsc::channel();
    wal.append_with(b"panics", |_| panic!("on purpose"));
    wal.append_with(b"appends", {
        let (wal, send) = (wal.clone(), send.clone());
        move |outcome| {
            let second = wal.append(b"from within").unwrap();
            assert!(outcome.unwrap() < second);
            wal.close().unwrap();
            wal.append_with(b"late", move |outcome| drop(send.send(outcome.err())));
        }
    });
    assert!(matches!(receive.recv().unwrap(), Some(AppendError::Closed)));
    wal.close().unwrap();
    assert_eq!(wal.stats().panics, 1);
}

#[test]
fn a_log_that_is_open_is_not_opened_again() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    assert!(open(builder(&fs)).unwrap_err().is_locked());
    wal.close().unwrap();
    let (_wal, ..) = open(builder(&fs)).unwrap();
    assert!(matches!(wal.append(b"x"), Err(AppendError::Closed)));
    wal.close().unwrap();
}

#[test]
fn a_body_above_the_limit_is_refused_and_one_on_disk_is_an_error() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    wal.append(&[7; 9000]).unwrap();
    drop(wal);
    let error = open(builder(&fs).max_record_bytes(8999)).unwrap_err();
    assert!(error.to_string().contains("above the limit"), "{error}");
    let (wal, _, records) = open(builder(&fs).max_record_bytes(9000)).unwrap();
    assert_eq!(records.len(), 1);
    let error = wal.append(&[7; 9001]).unwrap_err();
    assert!(matches!(
        error,
        AppendError::TooLarge {
            len: 9001,
            limit: 9000
        }
    ));
}

/// Finds a bad record that had been acknowledged and is taken for a torn tail.
#[test]
fn a_bad_record_that_was_synced_is_corruption_and_changes_nothing() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    for lsn in 1..=4 {
        wal.append(&body(lsn)).unwrap();
    }
    drop(wal);
    // In the body of the second record; the third says that it had been synced.
    let path = segments(&fs).pop().unwrap();
    overwrite(&fs, &path, 48 + 728 + 24, b"!!");
    let before = fs.contents(&path).unwrap();
    let error = open(builder(&fs)).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    assert_eq!(segments(&fs), std::slice::from_ref(&path));
    assert_eq!(fs.contents(&path).unwrap(), before);
}

/// Finds a loss in an older segment, or of a whole one, that goes unnoticed.
#[test]
fn a_segment_that_is_damaged_or_missing_is_corruption() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    for lsn in 1..=20 {
        wal.append(&body(lsn)).unwrap();
    }
    drop(wal);
    let paths = segments(&fs);
    assert!(paths.len() >= 3);
    for damage in 0..3 {
        let fs = fs.copy();
        match damage {
            0 => fs.remove_file(&paths[1]).unwrap(),
            1 => overwrite(&fs, &paths[0], 100, b"!!"),
            _ => overwrite(&fs, &paths[1], 20, b"!!"),
        }
        let error = open(builder(&fs)).unwrap_err();
        assert!(error.is_corrupt(), "{damage}: {error}");
    }
    // Of the last segment's header, a later record tells.
    overwrite(&fs, paths.last().unwrap(), 30, b"!!");
    let error = open(builder(&fs)).unwrap_err();
    assert!(error.is_corrupt(), "{error}");
}

/// Finds bytes in a body that are taken for records, when the tail is torn before them.
#[test]
fn a_body_that_holds_another_log_is_not_taken_for_records() {
    let other = MemoryFs::new();
    let (wal, ..) = open(builder(&other)).unwrap();
    for lsn in 1..=9 {
        wal.append(&[lsn; 20]).unwrap();
    }
    drop(wal);
    let foreign = other.contents(&segments(&other)[0]).unwrap();
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    wal.append(&foreign).unwrap();
    drop(wal);
    // As a power cut may leave it: the record's first sector is lost.
    let path = segments(&fs).pop().unwrap();
    overwrite(&fs, &path, 48, &[0; 40]);
    let (_wal, recovery, records) = open(builder(&fs)).unwrap();
    assert_eq!(records, []);
    assert_eq!(recovery.cut().unwrap().lsn, Lsn::new(1));
}

#[test]
fn a_damaged_snapshot_is_stood_in_for_by_the_one_before_and_the_records_since() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    for round in 1..=3 {
        wal.append(&[round]).unwrap();
        let mut snapshot = wal.snapshot().unwrap();
        snapshot.write_all(&vec![round; 100_000]).unwrap();
        snapshot.commit().unwrap();
    }
    wal.append(&[4]).unwrap();
    drop(wal);
    let replay = |fs: &MemoryFs| {
        let mut found = Vec::new();
        let replayed = builder(fs).replay(|step| {
            match step {
                Replay::Snapshot(mut snapshot) => {
                    let mut bytes = Vec::new();
                    snapshot.read_to_end(&mut bytes)?;
                    assert_eq!(bytes.len(), 100_000);
                    found.push(bytes[0]);
                }
                Replay::Record(_, body) => found.push(body[0]),
                _ => unreachable!(),
            }
            Ok::<(), std::io::Error>(())
        });
        replayed.map(|(_, recovery)| (found, recovery))
    };
    assert_eq!(replay(&fs.copy()).unwrap().0, [3, 4]);
    overwrite(&fs, Path::new("/log/snapshot-0000000000000003"), 500, b"!");
    let (found, recovery) = replay(&fs.copy()).unwrap();
    assert_eq!(found, [2, 3, 4]);
    assert_eq!(recovery.damaged_snapshots().len(), 1);
    {
        let fs = fs.copy();
        overwrite(&fs, Path::new("/log/snapshot-0000000000000002"), 500, b"!");
        assert!(replay(&fs).unwrap_err().is_corrupt());
    }
    // The next one does not take the damaged one for the one before.
    let (wal, ..) = open(builder(&fs)).unwrap();
    let mut snapshot = wal.snapshot().unwrap();
    snapshot.write_all(&vec![9; 100_000]).unwrap();
    snapshot.commit().unwrap();
    drop(wal);
    let (found, recovery) = replay(&fs.copy()).unwrap();
    assert_eq!((found, recovery.damaged_snapshots().len()), (vec![9], 0));
    overwrite(&fs, Path::new("/log/snapshot-0000000000000004"), 500, b"!");
    let (found, _) = replay(&fs).unwrap();
    assert_eq!(found, [2, 3, 4]);
}

#[test]
fn an_error_says_its_cause_once() {
    let error = Wal::builder("/proc/no-such-place").open(|_, _| Ok::<(), std::io::Error>(()));
    let error = error.unwrap_err();
    let cause = error.io_error().unwrap().to_string();
    assert!(error.to_string().ends_with(&cause), "{error}");
    assert!(std::error::Error::source(&error).is_none());
}

#[test]
fn an_error_of_the_replay_is_handed_on() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    wal.append(b"x").unwrap();
    drop(wal);
    let error = builder(&fs).open(|_, _| Err("no thanks")).unwrap_err();
    assert!(error.is_refused());
    let cause = std::error::Error::source(&error).unwrap();
    assert_eq!(cause.to_string(), "no thanks");
    assert_eq!(segments(&fs).len(), 1);
}

/// A file system whose syncs wait until they are let through.
#[derive(Clone, Debug)]
struct Gated {
    inner: MemoryFs,
    gate: Arc<(std::sync::Mutex<Gate>, std::sync::Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    is_shut: bool,
    waiting: usize,
}

#[derive(Debug)]
struct GatedFile(Box<dyn File>, Gated);

impl Gated {
    fn new() -> Self {
        Self {
            inner: MemoryFs::new(),
            gate: Arc::default(),
        }
    }

    fn shut(&self, is_shut: bool) {
        self.gate.0.lock().unwrap().is_shut = is_shut;
        self.gate.1.notify_all();
    }

    fn until_somebody_waits(&self) {
        let gate = self.gate.0.lock().unwrap();
        drop(self.gate.1.wait_while(gate, |gate| gate.waiting == 0));
    }
}

impl Fs for Gated {
    pass_on!(inner: rename remove_file create_dir_all read_dir sync_dir);

    fn open(&self, path: &Path, mode: OpenMode) -> std::io::Result<Box<dyn File>> {
        let file = self.inner.open(path, mode)?;
        Ok(Box::new(GatedFile(file, self.clone())))
    }
}

impl File for GatedFile {
    pass_on!(0: read_at write_at allocate set_len len try_lock);

    fn sync_data(&self) -> std::io::Result<()> {
        let (lock, condvar) = &*self.1.gate;
        let mut gate = lock.lock().unwrap();
        gate.waiting += 1;
        condvar.notify_all();
        let mut gate = condvar.wait_while(gate, |gate| gate.is_shut).unwrap();
        gate.waiting -= 1;
        drop(gate);
        self.0.sync_data()
    }
}

#[test]
fn a_record_that_timed_out_before_its_group_was_begun_is_not_delivered() {
    let fs = Gated::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    fs.shut(true);
    std::thread::scope(|scope| {
        scope.spawn(|| wal.append(b"one").unwrap());
        fs.until_somebody_waits();
        // The first group is being synced: this one's is pending.
        let error = wal.append_timeout(b"two", Duration::ZERO).unwrap_err();
        assert!(matches!(error, AppendError::TimedOut), "{error:?}");
        let error = wal.append_deadline(b"three", Instant::now()).unwrap_err();
        assert!(matches!(error, AppendError::TimedOut), "{error:?}");
        assert!(matches!(
            wal.wait_durable_timeout(Lsn::new(1), Duration::ZERO),
            Err(AppendError::TimedOut)
        ));
        fs.shut(false);
    });
    assert_eq!(wal.append(b"four").unwrap(), Lsn::new(4));
    assert_eq!(wal.stats().timed_out, 2);
    wal.close().unwrap();
    let (_wal, _, records) = open(builder(&fs)).unwrap();
    assert_eq!(records, [(1, b"one".to_vec()), (4, b"four".to_vec())]);
}

#[test]
fn what_a_timeout_says_of_a_record_is_so() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    let told = std::sync::Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let (wal, told) = (&wal, &told);
            scope.spawn(move || {
                for turn in 0..200u8 {
                    let body = vec![thread, turn];
                    let patience = Duration::from_micros(u64::from(turn % 8));
                    let outcome = wal.append_timeout(&body, patience);
                    told.lock().unwrap().insert(body, outcome);
                }
            });
        }
    });
    drop(wal);
    let (_wal, _, records) = open(builder(&fs)).unwrap();
    let found: BTreeMap<_, _> = records.into_iter().map(|(lsn, body)| (body, lsn)).collect();
    for (body, outcome) in told.into_inner().unwrap() {
        match outcome {
            Ok(lsn) => assert_eq!(found.get(&body), Some(&lsn.get())),
            Err(AppendError::TimedOut) => assert_eq!(found.get(&body), None),
            Err(error) => assert!(error.is_in_doubt(), "{error:?}"),
        }
    }
}

#[test]
fn who_enqueues_too_much_waits_or_is_refused() {
    let fs = Gated::new();
    let (wal, ..) = open(builder(&fs).max_pending_bytes(100)).unwrap();
    fs.shut(true);
    std::thread::scope(|scope| {
        scope.spawn(|| wal.append(b"one").unwrap());
        fs.until_somebody_waits();
        wal.enqueue(&[2; 500]).unwrap();
        assert!(matches!(wal.try_enqueue(b"three"), Err(AppendError::Full)));
        let error = wal.enqueue_timeout(b"three", Duration::ZERO).unwrap_err();
        assert!(matches!(error, AppendError::TimedOut), "{error:?}");
        let waits = scope.spawn(|| wal.enqueue(b"three"));
        fs.shut(false);
        assert_eq!(waits.join().unwrap().unwrap(), Lsn::new(3));
    });
}

#[test]
fn a_close_writes_what_is_pending_and_refuses_what_comes_after() {
    let fs = MemoryFs::new();
    for round in 0..20 {
        let (wal, _, before) = open(builder(&fs).durability(Durability::None)).unwrap();
        let taken = AtomicU64::new(0);
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    barrier.wait();
                    loop {
                        match wal.enqueue(b"x") {
                            Ok(_) => taken.fetch_add(1, Ordering::Relaxed),
                            Err(AppendError::Closed) => break,
                            Err(error) => panic!("{error}"),
                        };
                    }
                });
            }
            barrier.wait();
            wal.close().unwrap();
        });
        let (_wal, _, records) = open(builder(&fs)).unwrap();
        let found = (records.len() - before.len()) as u64;
        assert_eq!(found, taken.into_inner(), "round {round}");
    }
}

#[test]
fn records_are_synced_when_their_period_is_over() {
    let fs = MemoryFs::new();
    let period = Durability::Periodic(Duration::from_millis(1));
    let (wal, ..) = open(builder(&fs).durability(period)).unwrap();
    let (send, receive) = mpsc::channel();
    wal.on_durable(move |lsn| send.send(lsn).unwrap_or(()));
    let lsn = wal.append(b"one").unwrap();
    assert_eq!(receive.iter().find(|durable| *durable >= lsn), Some(lsn));
}

#[test]
fn a_rotation_makes_older_records_releasable() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    wal.append(b"one").unwrap();
    wal.append(b"two").unwrap();
    assert_eq!(wal.rotate().unwrap(), Lsn::new(3));
    assert_eq!(wal.release(Lsn::new(3)).unwrap(), 0, "the newest stays");
    wal.append(b"three").unwrap();
    assert_eq!(wal.release(Lsn::new(2)).unwrap(), 0);
    assert_eq!(wal.release(Lsn::new(3)).unwrap(), 1);
    drop(wal);
    let (_wal, _, records) = open(builder(&fs)).unwrap();
    assert_eq!(records, [(3, b"three".to_vec())]);
}

#[test]
fn a_recovery_reports_its_progress_and_what_it_cut() {
    let fs = MemoryFs::new();
    let (wal, ..) = open(builder(&fs)).unwrap();
    for lsn in 1..=9 {
        wal.append(&body(lsn)).unwrap();
    }
    drop(wal);
    let path = segments(&fs).pop().unwrap();
    let len = fs.contents(&path).unwrap().len() as u64;
    overwrite(&fs, &path, len - 8, b"!!!!!!!!");
    let (send, receive) = mpsc::channel();
    let watched = builder(&fs).on_progress(move |progress| send.send(progress).unwrap());
    let (_wal, recovery, records) = open(watched).unwrap();
    assert_eq!(records.len(), 8);
    let cut = recovery.cut().unwrap();
    assert_eq!((&cut.path, cut.lsn), (&path, Lsn::new(9)));
    let last = receive.iter().last().unwrap();
    assert_eq!((last.records, last.lsn), (8, Lsn::new(8)));
    assert!(last.bytes <= last.total);
}

/// Finds a torn tail full of headers that each want their body's CRC: time that grows with the
/// square of the segment.
#[test]
fn a_tail_full_of_plausible_headers_is_judged_in_reasonable_time() {
    let fs = MemoryFs::new();
    let log = || builder(&fs).segment_bytes(8 << 20);
    let (wal, ..) = open(log()).unwrap();
    // Enough to be felt: without optimisation, each header takes a hundred times as long.
    let bytes = if cfg!(debug_assertions) {
        64 << 10
    } else {
        4_u32 << 20
    };
    let count = bytes / 24;
    let mut crafted = Vec::new();
    for at in 0..count {
        let left = (count - at - 1) * 24;
        crafted.extend_from_slice(&left.to_le_bytes());
        crafted.extend_from_slice(&[7; 4]);
        crafted.extend_from_slice(&(u64::from(at) + 3).to_le_bytes());
        crafted.extend_from_slice(&(u64::from(at) + 3).to_le_bytes());
    }
    wal.append(&crafted).unwrap();
    drop(wal);
    let path = segments(&fs).pop().unwrap();
    overwrite(&fs, &path, 48, &[0; 24]);
    let (_wal, recovery, records) = open(log()).unwrap();
    assert_eq!(records, []);
    assert!(recovery.cut().is_some());
}

#[test]
fn records_that_may_linger_are_written_together() {
    let fs = MemoryFs::new();
    let log = builder(&fs).durability(Durability::None);
    let (wal, ..) = open(log.linger(Duration::from_secs(3600))).unwrap();
    for lsn in 1..=20 {
        wal.enqueue(&body(lsn)).unwrap();
    }
    assert_eq!(wal.stats().groups, 0);
    wal.sync().unwrap();
    assert_eq!((wal.stats().groups, wal.stats().records), (1, 20));
    wal.enqueue(&body(21)).unwrap();
    wal.close().unwrap();
    drop(wal);
    let (_, _, records) = open(builder(&fs)).unwrap();
    assert_eq!(records.len(), 21);
}

/// What cannot be written tells that it was tried.
#[test]
fn lingering_ends_by_itself_and_with_many_bytes_at_once() {
    for (linger, bytes) in [(1, 10), (3_600_000, 300 << 10)] {
        let fs = FailingFs::new(Arc::new(MemoryFs::new()));
        let log = builder(&fs).durability(Durability::None);
        let (wal, ..) = open(log.linger(Duration::from_millis(linger))).unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        wal.on_failure(move |error| send.send(error.is_no_space()).unwrap_or(()));
        fs.inject(Fault::new(Failure::NoSpace).on(Call::WriteAt).forever());
        wal.enqueue(&vec![1; bytes]).unwrap();
        assert_eq!(receive.recv(), Ok(true));
        fs.heal();
        wal.resume().unwrap();
        assert_eq!(wal.durable_lsn(), wal.last_lsn());
    }
}

#[test]
fn a_failed_group_is_told_of_and_a_poisoned_log_says_so() {
    let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    let (wal, ..) = open(builder(&fs)).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    wal.on_failure(move |error| send.send(error.clone()).unwrap_or(()));
    wal.append(b"well").unwrap();
    fs.inject(Fault::new(Failure::Io).on(Call::SyncData));
    wal.append(b"not so").unwrap_err();
    assert!(receive.recv().unwrap().is_poisoned());
    drop(wal);
    receive.recv().unwrap_err();
}
