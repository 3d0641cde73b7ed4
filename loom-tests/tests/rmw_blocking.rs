//! Models of blocking pops and moves.
#![cfg(latchwork_loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use latchwork::model::{Clock, model, thread};
use latchwork::rmw::{ListEnd, MemStore, Rmw};
use latchwork::{LatchTable, Pending};

fn rmw() -> Rmw {
    let latches = LatchTable::builder().shards(1).build().unwrap();
    // Building it takes all the shards: each is a step of the model.
    let store = MemStore::with_shards(16);
    Rmw::builder().store(store).latches(latches).build()
}

/// Starts a thread of the model with a handle of its own.
fn spawn<T: 'static>(rmw: &Rmw, body: impl FnOnce(&Rmw) -> T + 'static) -> thread::JoinHandle<T> {
    let rmw = rmw.clone();
    thread::spawn(move || body(&rmw))
}

/// A registered pop, and how often it was served.
fn pop_with(rmw: &Rmw, keys: &[&str]) -> (Pending, Arc<AtomicU64>) {
    let served = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&served);
    let pending = rmw.blpop_with(keys, move |popped| {
        popped.unwrap();
        count.fetch_add(1, Ordering::Relaxed);
    });
    (pending, served)
}

/// Catches a call that finds nothing, and gets in line too late for the push that has just come.
#[test]
fn a_push_finds_who_has_found_nothing() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.blpop(&["k"]).unwrap());
        rmw.rpush("k", ["x"]).unwrap();
        assert_eq!(other.join().unwrap(), (0, "x".into()));
        assert_eq!(rmw.llen("k").unwrap(), 0);
        assert_eq!(rmw.stats().blocked, 0, "it still stands in line");
    });
}

/// Catches an element that is lost between a push and a time-out, or is there twice.
#[test]
fn an_element_goes_to_a_waiter_or_stays_when_its_time_is_up() {
    model(|| {
        let rmw = rmw();
        let soon = Duration::from_millis(1);
        let other = spawn(&rmw, move |rmw| rmw.blpop_timeout(&["k"], soon).unwrap());
        Clock::advance(soon);
        rmw.rpush("k", ["x"]).unwrap();
        // Who has started late waits for the clock, if the push came even before it.
        let popped = other.join().unwrap().is_some();
        assert_eq!(u64::from(popped) + rmw.llen("k").unwrap(), 1);
        assert_eq!(rmw.stats().blocked, 0, "it still stands in line");
    });
}

/// Catches an element that is lost between a push and a cancel, or is there twice.
#[test]
fn an_element_goes_to_a_callback_or_stays_when_that_is_cancelled() {
    model(|| {
        let rmw = rmw();
        let (pending, served) = pop_with(&rmw, &["k"]);
        let other = spawn(&rmw, |rmw| rmw.rpush("k", ["x"]).unwrap());
        let cancelled = pending.cancel();
        other.join().unwrap();
        assert_eq!(served.load(Ordering::Relaxed), u64::from(!cancelled));
        assert_eq!(rmw.llen("k").unwrap(), u64::from(cancelled));
        assert_eq!(rmw.stats().blocked, 0, "it still stands in line");
    });
}

/// Catches a call on two keys that is served from both, or stays in a line.
#[test]
fn a_call_on_two_keys_is_served_once() {
    model(|| {
        let rmw = rmw();
        let (pending, served) = pop_with(&rmw, &["a", "b"]);
        let other = spawn(&rmw, |rmw| rmw.rpush("a", ["x"]).unwrap());
        rmw.rpush("b", ["y"]).unwrap();
        other.join().unwrap();
        assert!(pending.is_delivered());
        assert_eq!(served.load(Ordering::Relaxed), 1);
        assert_eq!(rmw.llen("a").unwrap() + rmw.llen("b").unwrap(), 1);
        assert_eq!(rmw.stats().blocked, 0, "it still stands in line");
    });
}

/// Catches a move on behalf of a blocked call beside another write of its destination.
#[test]
fn a_blocked_move_has_the_latch_of_its_destination() {
    model(|| {
        let rmw = rmw();
        let (front, back) = (ListEnd::Front, ListEnd::Back);
        let pending = rmw.blmove_with("a", "b", front, back, drop);
        let other = spawn(&rmw, |rmw| rmw.rpush("a", ["x"]).unwrap());
        rmw.set("b", "string").unwrap();
        other.join().unwrap();
        assert!(pending.is_delivered());
        // Moved before, and overwritten; or refused, and left where it was.
        assert_eq!(rmw.get("b").unwrap(), Some("string".into()));
        assert!(rmw.llen("a").unwrap() <= 1);
    });
}

/// Catches a chain of blocked calls of which a reader sees the middle.
#[test]
fn a_chain_is_served_at_one_moment() {
    model(|| {
        let rmw = rmw();
        let (front, back) = (ListEnd::Front, ListEnd::Back);
        let moves = rmw.blmove_with("a", "b", front, back, drop);
        let (pops, served) = pop_with(&rmw, &["b"]);
        let other = spawn(&rmw, |rmw| rmw.rpush("a", ["x", "y"]).unwrap());
        assert!(rmw.llen("a").unwrap() < 2, "what is moved on was seen");
        other.join().unwrap();
        assert!(moves.is_delivered() && pops.is_delivered());
        assert_eq!(served.load(Ordering::Relaxed), 1);
        assert_eq!(rmw.lrange("a", 0, -1).unwrap(), ["y".into()]);
        assert!(!rmw.contains("b"));
    });
}
