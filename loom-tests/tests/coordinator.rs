//! Models of the coordinator.
#![cfg(latchwork_loom)]

use std::sync::Arc;
use std::time::Duration;

use latchwork::LatchTable;
use latchwork::model::{Clock, model, thread};
use latchwork::rmw::{
    Command, CoordinatorError, CoordinatorOptions, Entry, MemStore, Reply, Rmw, RmwCoordinator,
};

const SECOND: Duration = Duration::from_secs(1);

type Latches = LatchTable<Vec<u8>>;

fn coordinated() -> (Rmw, Latches, Arc<RmwCoordinator>) {
    let latches = LatchTable::builder().shards(1).build().unwrap();
    // Building it takes all the shards: each is a step of the model.
    let store = MemStore::with_shards(16);
    let rmw = Rmw::builder().store(store).latches(latches.clone()).build();
    let options = CoordinatorOptions::new().shards(1).timeout(SECOND);
    let coordinator = RmwCoordinator::start(&rmw, options);
    (rmw, latches, Arc::new(coordinator))
}

fn add_one(entry: &mut Entry) {
    let before = entry.integer().unwrap().unwrap_or(0);
    entry.set(before + 1);
}

/// Catches a command that runs inline beside an update of its key.
#[test]
fn a_command_loses_nothing_to_an_update() {
    model(|| {
        let (rmw, _, coordinator) = coordinated();
        let other = thread::spawn({
            let rmw = rmw.clone();
            move || rmw.update("n", add_one).unwrap()
        });
        // Only tries: nobody serves.
        let called = coordinator.execute_timeout(0, Command::incr("n", 1), Duration::ZERO);
        other.join().unwrap();
        let counted = match called {
            Ok(_) => 2,
            Err(error) => {
                assert_eq!(error, CoordinatorError::TimedOut);
                1
            }
        };
        assert_eq!(rmw.get("n").unwrap(), Some(counted.into()));
    });
}

/// Catches a queued command that the shard's thread runs beside an update of its key.
#[test]
fn a_queued_command_loses_nothing_to_an_update() {
    model(|| {
        let (rmw, _, coordinator) = coordinated();
        drop(coordinator.submit(0, Command::incr("n", 1)).unwrap());
        let server = thread::spawn({
            let coordinator = coordinator.clone();
            move || coordinator.shard(0).unwrap().serve()
        });
        rmw.update("n", add_one).unwrap();
        let left = coordinator.shutdown();
        server.join().unwrap();
        let counted = 2 - left.len() as i64;
        assert_eq!(rmw.get("n").unwrap(), Some(counted.into()));
    });
}

/// Catches a queued call that was told that it timed out, and is executed; and one that is neither
/// executed nor told.
#[test]
fn a_queued_call_is_executed_or_times_out() {
    model(|| {
        let (rmw, latches, coordinator) = coordinated();
        let held = latches.latch(b"n".as_slice()).unwrap();
        let caller = thread::spawn({
            let coordinator = coordinator.clone();
            move || {
                let called = coordinator.execute(0, Command::incr("n", 1));
                coordinator.shutdown();
                called
            }
        });
        Clock::advance(SECOND);
        drop(held);
        coordinator.shard(0).unwrap().serve();
        let counted = match caller.join().unwrap() {
            Ok(reply) => {
                assert_eq!(reply, Reply::Integer(1));
                Some(1.into())
            }
            Err(error) => {
                assert_eq!(error, CoordinatorError::TimedOut);
                None
            }
        };
        assert_eq!(rmw.get("n").unwrap(), counted);
        assert_eq!((latches.held(), latches.waiters()), (0, 0));
    });
}

/// Catches a caller that a shutdown leaves waiting for a latch.
#[test]
fn a_shutdown_tells_who_waits_for_a_latch() {
    model(|| {
        let (rmw, latches, coordinator) = coordinated();
        let held = latches.latch(b"n".as_slice()).unwrap();
        let caller = thread::spawn({
            let coordinator = coordinator.clone();
            move || coordinator.execute(0, Command::incr("n", 1))
        });
        let left = coordinator.shutdown();
        let called = caller.join().unwrap();
        assert_eq!(called, Err(CoordinatorError::ShutDown));
        assert!(left.len() <= 1);
        drop(held);
        assert_eq!(rmw.get("n").unwrap(), None);
        assert_eq!((latches.held(), latches.waiters()), (0, 0));
    });
}
