//! The log over a file system that fails: every call, once and for ever, in every way.

#[path = "wal/support.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use latchwork::fs::{Call, FailingFs, Failure, Fault, MemoryFs};
use latchwork::wal::{AppendError, Durability, Wal};
use support::{Records, body, builder, open};

/// What a run was told.
#[derive(Default, Debug)]
struct Told {
    /// Records that are in the log: (LSN, body).
    kept: Records,
    /// Bodies that are not.
    refused: Vec<Vec<u8>>,
}

/// Appends as long as the log takes something, and closes it.
fn run(fs: &FailingFs, told: &mut Told) -> Result<(), Box<dyn std::error::Error>> {
    let (wal, ..) = open(builder(fs))?;
    for number in 1..=9 {
        let body = [&[number as u8][..], &body(number)].concat();
        match wal.append(&body) {
            Ok(lsn) => told.kept.push((lsn.get(), body)),
            Err(AppendError::InDoubt(_)) => {}
            Err(_) => told.refused.push(body),
        }
        if number == 5 {
            let before = wal.rotate();
            if let Ok(before) = before {
                let _ = wal.release(before.min(latchwork::wal::Lsn::new(2)));
            }
        }
    }
    Ok(wal.close()?)
}

fn check(memory: &MemoryFs, told: &Told, what: &str) {
    let (wal, _, records) = open(builder(memory)).unwrap_or_else(|error| panic!("{what}: {error}"));
    for kept in &told.kept {
        assert!(records.contains(kept), "{what}: {} is gone", kept.0);
    }
    for refused in &told.refused {
        let is_there = records.iter().any(|(_, body)| body == refused);
        assert!(!is_there, "{what}: a refused record is there");
    }
    let lsns: Vec<u64> = records.iter().map(|(lsn, _)| *lsn).collect();
    assert!(lsns.is_sorted_by(|a, b| a < b), "{what}: {lsns:?}");
    wal.append(b"and on").unwrap();
}

/// Runs once for each call that there is, and checks what is there after.
fn every_call(name: &str, fault: impl Fn(u64) -> Fault) {
    let calls = {
        let fs = FailingFs::new(Arc::new(MemoryFs::new()));
        run(&fs, &mut Told::default()).unwrap();
        fs.calls()
    };
    assert!(calls > 30, "{calls}");
    for nth in 1..=calls {
        let memory = MemoryFs::new();
        let fs = FailingFs::new(Arc::new(memory.clone()));
        fs.inject(fault(nth));
        let mut told = Told::default();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&fs, &mut told).is_ok()));
        check(&memory, &told, &format!("{name}, call {nth} ({outcome:?})"));
    }
}

#[test]
fn any_call_may_fail_once() {
    for failure in [Failure::NoSpace, Failure::Io, Failure::Interrupted] {
        every_call(&format!("{failure:?}"), |nth| Fault::new(failure).nth(nth));
        every_call(&format!("{failure:?} although done"), |nth| {
            Fault::new(failure).nth(nth).although_done()
        });
    }
}

#[test]
fn any_call_and_all_after_it_may_fail() {
    for failure in [Failure::NoSpace, Failure::Io] {
        every_call(&format!("{failure:?} for ever"), |nth| {
            Fault::new(failure).nth(nth).forever()
        });
    }
    every_call("short for ever", |nth| {
        Fault::new(Failure::Short(100)).nth(nth).forever()
    });
}

#[test]
fn any_sync_may_drop_what_it_should_have_written() {
    every_call("dropping", |nth| {
        Fault::new(Failure::Io)
            .nth(nth.div_ceil(4))
            .dropping_unsynced()
    });
}

#[test]
fn any_call_may_panic() {
    std::panic::set_hook(Box::new(|_| {}));
    every_call("panic", |nth| Fault::new(Failure::Panic).nth(nth));
    let _ = std::panic::take_hook();
}

fn failing() -> (MemoryFs, FailingFs, Wal) {
    let memory = MemoryFs::new();
    let fs = FailingFs::new(Arc::new(memory.clone()));
    let (wal, ..) = open(builder(&fs)).unwrap();
    (memory, fs, wal)
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_log_is_opened_again() {
    let (memory, fs, wal) = failing();
    wal.append(b"one").unwrap();
    fs.inject(
        Fault::new(Failure::Io)
            .on(Call::SyncData)
            .dropping_unsynced(),
    );
    assert!(wal.append(b"two").unwrap_err().is_in_doubt());
    let error = wal.append(b"three").unwrap_err();
    assert!(matches!(error, AppendError::Poisoned(_)), "{error:?}");
    assert!(wal.resume().unwrap_err().is_poisoned());
    assert!(wal.sync().is_err());
    assert!(wal.stats().trouble.is_some());
    assert!(wal.close().unwrap_err().is_poisoned());
    drop(wal);
    let (_wal, _, records) = open(builder(&memory)).unwrap();
    assert_eq!(records, [(1, b"one".to_vec())]);
}

/// Finds a record that failed, is left in the file, and comes back.
#[test]
fn a_write_without_space_leaves_nothing_and_the_next_one_takes_its_place() {
    let (memory, fs, wal) = failing();
    wal.append(b"one").unwrap();
    fs.inject(
        Fault::new(Failure::NoSpace)
            .on(Call::WriteAt)
            .although_done(),
    );
    let error = wal.append(b"two").unwrap_err();
    assert!(matches!(error, AppendError::NoSpace(_)), "{error:?}");
    let copy = memory.copy();
    let lsn = wal.append(b"three").unwrap();
    drop(wal);
    let (_wal, _, records) = open(builder(&copy)).unwrap();
    assert_eq!(records, [(1, b"one".to_vec())], "before the next append");
    let (_wal, _, records) = open(builder(&memory)).unwrap();
    let expected = [(1, b"one".to_vec()), (lsn.get(), b"three".to_vec())];
    assert_eq!(records, expected);
}

#[test]
fn enqueued_records_stay_in_line_while_there_is_no_space() {
    let (memory, fs, wal) = failing();
    fs.inject(Fault::new(Failure::NoSpace).on(Call::WriteAt).forever());
    let first = wal.enqueue(b"one").unwrap();
    let error = wal.wait_durable(first).unwrap_err();
    assert!(matches!(error, AppendError::NoSpace(_)), "{error:?}");
    assert!(matches!(wal.enqueue(b"two"), Err(AppendError::NoSpace(_))));
    assert!(matches!(wal.append(b"two"), Err(AppendError::NoSpace(_))));
    assert!(wal.resume().unwrap_err().is_no_space());
    assert!(wal.stats().pending_bytes > 0);
    fs.heal();
    wal.resume().unwrap();
    wal.wait_durable(first).unwrap();
    wal.enqueue(b"three").unwrap();
    wal.close().unwrap();
    let (_wal, _, records) = open(builder(&memory)).unwrap();
    let bodies: Vec<_> = records.into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [b"one".to_vec(), b"three".to_vec()]);
}

/// A whole segment is not the least that a record needs, and what frees the disk may wait for the
/// log.
#[test]
fn where_the_disk_has_no_room_for_a_whole_segment_a_smaller_one_does() {
    let memory = MemoryFs::new();
    let (wal, _, _) = open(builder(&memory).segment_bytes(1 << 20)).unwrap();
    wal.append(b"one").unwrap();
    // The first segment's room is given back when the next one is made.
    memory.set_capacity(memory.used() - (1 << 20) + (300 << 10));
    wal.rotate().unwrap();
    for _ in 0..50 {
        wal.append(&[2; 4096]).unwrap();
    }
    let error = (0..100).find_map(|_| wal.append(&[3; 4096]).err());
    assert!(matches!(error, Some(AppendError::NoSpace(_))), "{error:?}");
    memory.set_capacity(u64::MAX);
    wal.resume().unwrap();
    wal.append(b"last").unwrap();
    wal.close().unwrap();
    let (_wal, _, records) = open(builder(&memory)).unwrap();
    assert_eq!(records.last().unwrap().1, b"last");
    assert!(records.len() > 52, "{}", records.len());
}

/// A segment that could not be finished may be on disk with a valid header: nothing may be added to
/// the one before it, which a recovery would not read any further.
#[test]
fn no_record_goes_to_a_segment_whose_successor_has_been_begun() {
    let (memory, fs, wal) = failing();
    wal.append(&[1; 3000]).unwrap();
    fs.inject(Fault::new(Failure::Io).on(Call::SyncDir).although_done());
    fs.inject(Fault::new(Failure::Io).on(Call::RemoveFile).forever());
    let error = wal.append(&[2; 3000]).unwrap_err();
    assert!(matches!(error, AppendError::Failed(_)), "{error:?}");
    wal.append(b"small").unwrap();
    std::mem::forget(wal);
    let (_wal, _, records) = open(builder(&memory.copy())).unwrap();
    let bodies: Vec<_> = records.into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [vec![1; 3000], b"small".to_vec()]);
}

#[test]
fn a_log_that_syncs_from_time_to_time_is_poisoned_by_a_failed_sync_too() {
    let memory = MemoryFs::new();
    let fs = FailingFs::new(Arc::new(memory.clone()));
    let (wal, ..) = open(builder(&fs).durability(Durability::None)).unwrap();
    let lsn = wal.append(b"one").unwrap();
    fs.inject(Fault::new(Failure::Io).on(Call::SyncData));
    assert!(wal.wait_durable(lsn).is_err());
    let error = wal.append(b"two").unwrap_err();
    assert!(matches!(error, AppendError::Poisoned(_)), "{error:?}");
}

#[test]
fn a_panic_before_the_write_fails_one_group_and_one_during_it_poisons_the_log() {
    std::panic::set_hook(Box::new(|_| {}));
    let (_, fs, wal) = failing();
    wal.append(&[1; 3000]).unwrap();
    fs.inject(Fault::new(Failure::Panic).on(Call::Open));
    catch_unwind(AssertUnwindSafe(|| wal.append(&[2; 3000]))).unwrap_err();
    wal.append(&[3; 3000]).unwrap();
    fs.inject(Fault::new(Failure::Panic).on(Call::WriteAt));
    catch_unwind(AssertUnwindSafe(|| wal.append(b"four"))).unwrap_err();
    let error = wal.append(b"five").unwrap_err();
    assert!(matches!(error, AppendError::Poisoned(_)), "{error:?}");
    let _ = std::panic::take_hook();
}

/// Finds a thread of the log's that ends with the panic, so that a close waits for it for ever.
#[test]
fn a_panic_on_the_log_s_own_thread_is_told_and_leaves_a_log_that_closes() {
    std::panic::set_hook(Box::new(|_| {}));
    let (_, fs, wal) = failing();
    fs.inject(Fault::new(Failure::Panic).on(Call::WriteAt));
    let (send, receive) = std::sync::mpsc::channel();
    wal.append_with(b"one", move |outcome| send.send(outcome).unwrap());
    assert!(receive.recv().unwrap().unwrap_err().is_in_doubt());
    let error = wal.enqueue(b"two").unwrap_err();
    assert!(matches!(error, AppendError::Poisoned(_)), "{error:?}");
    assert!(wal.close().unwrap_err().is_poisoned());
    assert!(wal.stats().panics > 0);
    let _ = std::panic::take_hook();
}
