//! Models of the coordinator.
#![cfg(latchwork_loom)]

use std::sync::Arc;
use std::time::Duration;

use latchwork::LatchTable;
use latchwork::model::{Clock, model, thread};
use latchwork::rmw::{
    Command, CoordinatorError, CoordinatorOptions, Entry, ListEnd, ListOp, MemStore, Reply, Rmw,
    RmwCoordinator,
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

fn push(key: &str) -> Command {
    Command::list_op(key, ListOp::push(ListEnd::Back, ["x"]))
}

/// Catches a command that moves its element on, for a blocked call, beside another write of the
/// destination.
#[test]
fn a_command_that_serves_a_blocked_move_has_the_latch_of_its_destination() {
    model(|| {
        let (rmw, _, coordinator) = coordinated();
        let pending = rmw.blmove_with("a", "b", ListEnd::Front, ListEnd::Back, drop);
        let other = thread::spawn(move || {
            // Only tries: nobody serves.
            coordinator.execute_timeout(0, push("a"), Duration::ZERO)
        });
        rmw.set("b", "string").unwrap();
        let called = other.join().unwrap();
        assert_eq!(pending.is_delivered(), called.is_ok());
        // Moved before, and overwritten; or refused, and left where it was.
        assert_eq!(rmw.get("b").unwrap(), Some("string".into()));
        assert!(called.is_ok() || rmw.llen("a").unwrap() == 0);
    });
}

/// The same for a command that is served by the shard's thread.
#[test]
fn a_queued_command_that_serves_a_blocked_move_has_the_latch_of_its_destination() {
    model(|| {
        let (rmw, latches, coordinator) = coordinated();
        let pending = rmw.blmove_with("a", "b", ListEnd::Front, ListEnd::Back, drop);
        drop(coordinator.submit(0, push("a")).unwrap());
        let server = thread::spawn({
            let coordinator = coordinator.clone();
            move || coordinator.shard(0).unwrap().serve()
        });
        rmw.set("b", "string").unwrap();
        let left = coordinator.shutdown();
        server.join().unwrap();
        assert_eq!(pending.is_delivered(), left.is_empty());
        assert_eq!(rmw.get("b").unwrap(), Some("string".into()));
        assert_eq!((latches.held(), latches.waiters()), (0, 0));
    });
}

/// Catches a command that gets into a turn which is just ending, and is forgotten there.
#[test]
fn a_command_that_comes_at_the_end_of_a_turn_is_executed() {
    model(|| {
        let (_, latches, coordinator) = coordinated();
        let first = coordinator.submit(0, Command::incr("n", 1)).unwrap();
        let server = thread::spawn({
            let coordinator = coordinator.clone();
            move || coordinator.shard(0).unwrap().serve()
        });
        let second = coordinator.submit(0, Command::incr("n", 1)).unwrap();
        assert_eq!(second.wait().unwrap(), Ok(Reply::Integer(2)));
        assert_eq!(first.wait().unwrap(), Ok(Reply::Integer(1)));
        coordinator.shutdown();
        server.join().unwrap();
        assert_eq!((latches.held(), latches.waiters()), (0, 0));
    });
}

/// Catches a command that gets into a turn whose commands ran out with its thread's budget, and is
/// forgotten there.
#[test]
fn a_command_that_comes_after_a_spent_turn_is_executed() {
    model(|| {
        let (_, latches, coordinator) = coordinated();
        let first = coordinator.submit(0, Command::incr("n", 1)).unwrap();
        let caller = thread::spawn({
            let coordinator = coordinator.clone();
            move || {
                // The budget, if the turn has begun.
                Clock::advance(SECOND);
                let second = coordinator.submit(0, Command::incr("n", 1)).unwrap();
                assert_eq!(second.wait().unwrap(), Ok(Reply::Integer(2)));
                coordinator.shutdown();
            }
        });
        coordinator.shard(0).unwrap().serve();
        caller.join().unwrap();
        assert_eq!(first.wait().unwrap(), Ok(Reply::Integer(1)));
        assert_eq!((latches.held(), latches.waiters()), (0, 0));
    });
}
