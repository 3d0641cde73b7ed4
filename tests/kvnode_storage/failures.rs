//! A disk that is full, or broken.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use latchwork::fs::{Call, FailingFs, Failure, Fault, MemoryFs};
use latchwork::rmw::{RmwError, Value};

use crate::ledger::Ledger;
use crate::storage::{Fsync, Halt};
use crate::support::{Node, config, open};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

/// Waits until all is durable. `false`: the log cannot be written.
fn is_synced(node: &Node) -> bool {
    let (send, receive) = mpsc::channel();
    let sender = send.clone();
    // Nobody may be waiting any more.
    node.storage
        .on_durable(move |_| sender.send(()).unwrap_or(()));
    node.storage.on_halt(move || send.send(()).unwrap_or(()));
    let last = node.storage.last();
    loop {
        if node.storage.durable() >= last {
            return true;
        }
        if node.storage.refusal().is_some() {
            return false;
        }
        receive.recv_timeout(LONG).unwrap();
    }
}

/// The refusal that a command was answered with.
#[track_caller]
fn refused(result: Result<(), RmwError>) -> String {
    match result {
        Err(RmwError::Store(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_refuses_writes_and_not_reads_until_there_is_space() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    node.rmw.set("before", "value").unwrap();
    assert!(is_synced(&node));
    assert!(!node.storage.any_in_doubt());

    fs.set_capacity(fs.used());
    // It has its place, and stays in line.
    node.rmw.set("doubtful", vec![7; 8192]).unwrap();
    assert!(!is_synced(&node));
    assert_eq!(node.storage.refusal(), Some(Halt::NoSpace));
    let error = refused(node.rmw.set("refused", 1));
    assert!(
        error.starts_with("MISCONF No space left on device"),
        "{error}"
    );
    let error = refused(node.rmw.mset([("refused", 1), ("before", 2)]));
    assert!(error.starts_with("MISCONF"), "{error}");
    refused(node.rmw.clear());
    refused(node.rmw.incr_by("refused", 1).map(drop));
    refused(node.rmw.update("before", |entry| entry.set("after")));
    assert_eq!(node.rmw.get("before").unwrap(), Some(Value::from("value")));
    assert!(!node.rmw.contains("refused"));
    assert!(node.storage.in_doubt(b"doubtful") && !node.storage.in_doubt(b"before"));
    assert!(node.storage.any_in_doubt());
    assert!(node.save().unwrap_err().is_no_space());

    let (send, receive) = mpsc::channel();
    node.storage
        .on_durable(move |_| send.send(()).unwrap_or(()));
    fs.set_capacity(u64::MAX);
    receive.recv_timeout(LONG).unwrap();
    assert_eq!(node.storage.refusal(), None);
    assert!(!node.storage.in_doubt(b"doubtful"));
    node.rmw.set("after", 1).unwrap();
    node.save().unwrap();
    let before = node.dump();
    assert_eq!(before.len(), 3);
    node.close();
    assert_eq!(open(config(&fs, Fsync::Always)).unwrap().dump(), before);
}

#[test]
fn a_flush_without_space_is_done_when_there_is_some() {
    let memory = MemoryFs::new();
    let fs = FailingFs::new(Arc::new(memory.clone()));
    let node = open(config(&fs, Fsync::No)).unwrap();
    node.rmw.set("key", 1).unwrap();
    let fault = Fault::new(Failure::NoSpace).on(Call::Rename).forever();
    fs.inject(fault);
    assert!(node.save().unwrap_err().is_no_space());
    assert!(node.storage.refusal().is_none(), "the log has space");
    node.rmw.set("key", 2).unwrap();
    fs.heal();
    let position = node.storage.last();
    loop {
        // A save fails as long as the flush before it has halted.
        match node.save() {
            Ok(()) => break,
            Err(error) => assert!(error.is_no_space(), "{error}"),
        }
    }
    assert!(node.storage.stats().position >= position);
    assert!(node.storage.stats().trouble.is_none());
}

#[test]
fn a_log_whose_sync_failed_takes_nothing_until_the_next_start() {
    let memory = MemoryFs::new();
    let fs = FailingFs::new(Arc::new(memory.clone()));
    let node = open(config(&fs, Fsync::Always)).unwrap();
    node.rmw.set("key", 1).unwrap();
    assert!(is_synced(&node));
    fs.inject(
        Fault::new(Failure::Io)
            .on(Call::SyncData)
            .dropping_unsynced(),
    );
    node.rmw.set("key", 2).unwrap();
    assert!(!is_synced(&node));
    assert!(matches!(node.storage.refusal(), Some(Halt::Failed(_))));
    let error = refused(node.rmw.set("other", 1));
    assert!(error.contains("restarted"), "{error}");
    assert!(node.storage.in_doubt(b"key"));
    assert_eq!(node.rmw.get("key").unwrap(), Some(Value::from(2)));
    node.save().unwrap_err();
    node.storage.close().unwrap_err();
    drop(node);
    let node = open(config(&memory, Fsync::Always)).unwrap();
    assert_eq!(node.rmw.get("key").unwrap(), Some(Value::from(1)));
    node.rmw.set("key", 3).unwrap();
    assert!(is_synced(&node));
}

#[test]
fn after_a_close_writes_are_refused() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    node.rmw.set("key", 1).unwrap();
    node.storage.close().unwrap();
    node.storage.close().unwrap();
    refused(node.rmw.set("key", 2));
    assert_eq!(node.rmw.get("key").unwrap(), Some(Value::from(1)));
    node.storage.save(|_| {}).unwrap_err();
}

fn is_full() -> bool {
    std::env::var("LATCHWORK_STORM").is_ok_and(|size| size == "full")
}

/// Starts, changes, saves and ends, twice, up to the first refusal. Returns how many transfers and
/// notes were acknowledged.
fn run(fs: &FailingFs) -> (u64, u64) {
    let mut acknowledged = (0, 0);
    for half in 0..2 {
        let Ok(node) = open(config(fs, Fsync::Always)) else {
            return acknowledged;
        };
        for number in half * 4 + 1..=half * 4 + 4 {
            if Ledger::transfer(&node, number).is_err() || Ledger::note(&node, number).is_err() {
                return acknowledged;
            }
            if !is_synced(&node) {
                return acknowledged;
            }
            acknowledged = (number, number);
            if number % 2 == 0 && node.save().is_err() && node.storage.refusal().is_some() {
                return acknowledged;
            }
        }
    }
    acknowledged
}

/// Every call fails, in every way, once and for ever; in a short run, every third in each way.
#[test]
fn whatever_call_fails_nothing_that_was_acknowledged_is_lost() {
    let healthy = FailingFs::new(Arc::new(MemoryFs::new()));
    assert_eq!(run(&healthy), (8, 8));
    let calls = healthy.calls();
    let failures = [
        (Failure::NoSpace, false),
        (Failure::Io, false),
        (Failure::Interrupted, false),
        (Failure::Short(100), false),
        (Failure::Io, true),
    ];
    let share = if is_full() { 1 } else { 3 };
    for nth in 1..=calls {
        for (at, (failure, drops)) in failures.into_iter().enumerate() {
            for forever in [false, true] {
                if !(nth as usize + at).is_multiple_of(share) {
                    continue;
                }
                let memory = MemoryFs::new();
                let fs = FailingFs::new(Arc::new(memory.clone()));
                let mut fault = Fault::new(failure).nth(nth);
                if drops {
                    fault = fault.on(Call::SyncData).dropping_unsynced();
                }
                fs.inject(if forever { fault.forever() } else { fault });
                let (transfers, notes) = run(&fs);
                let what = format!("call {nth} of {calls}, {failure:?}, {forever}, {drops}");
                let node = open(config(&memory, Fsync::Always))
                    .unwrap_or_else(|error| panic!("{error}: {what}"));
                let found = Ledger::check(&node, &what);
                assert!(
                    found.0 >= transfers && found.1 >= notes,
                    "{found:?}: {what}"
                );
            }
        }
    }
}
