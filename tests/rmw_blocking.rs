//! Blocking pops and moves as their users see them.
#![cfg(not(latchwork_loom))]

#[macro_use]
#[path = "support/forward.rs"]
mod forward;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::Pending;
use latchwork::rmw::{
    Bytes, Clock, Effect, Key, List, ListEnd, MemStore, Record, Rmw, RmwError, Store, StoreError,
};

const LONG: Duration = Duration::from_secs(60);

fn until_blocked<S: Store>(rmw: &Rmw<S>, calls: u64) {
    while rmw.stats().blocked != calls {
        thread::yield_now();
    }
}

fn list<const N: usize>(values: [&str; N]) -> List {
    values.into_iter().collect()
}

type Popped = Result<(usize, Bytes), RmwError>;

/// A registered pop of the front, and where its outcome arrives.
fn pop_with<S: Store>(rmw: &Rmw<S>, keys: &[&str]) -> (Pending, Receiver<Popped>) {
    let (send, receive) = channel();
    let pending = rmw.blpop_with(keys, move |popped| send.send(popped).unwrap());
    (pending, receive)
}

fn got(receive: &Receiver<Popped>) -> Option<(usize, Bytes)> {
    receive.try_recv().ok().map(Result::unwrap)
}

#[test]
fn takes_what_is_there_from_the_first_list() {
    let rmw = Rmw::new();
    rmw.rpush("b", ["1", "2", "3"]).unwrap();
    assert_eq!(rmw.blpop(&["a", "b"]), Ok((1, "1".into())));
    assert_eq!(rmw.brpop(&["b", "a"]), Ok((0, "3".into())));
    let (pending, receive) = pop_with(&rmw, &["b"]);
    assert_eq!(got(&receive), Some((0, "2".into())));
    assert!(pending.is_delivered());
    assert!(!rmw.contains("b"));
    assert_eq!(rmw.stats().blocked, 0);
}

#[test]
fn who_waits_for_two_keys_gets_the_one_that_a_transaction_first_made_a_list() {
    let rmw = Rmw::new();
    let (_pending, receive) = pop_with(&rmw, &["a", "b"]);
    rmw.update_many(&["a", "b"], |tx| {
        tx.del(&["a"])?;
        tx.rpush("b", ["x"])?;
        tx.rpush("a", ["y"])
    })
    .unwrap()
    .unwrap();
    assert_eq!(got(&receive), Some((1, "x".into())));
    assert_eq!(rmw.lpop("a"), Ok(Some("y".into())));
}

#[test]
fn a_thread_sleeps_until_an_element_comes() {
    let rmw = Rmw::new();
    thread::scope(|scope| {
        let popped = scope.spawn(|| rmw.blpop(&["a", "b"]));
        until_blocked(&rmw, 1);
        assert_eq!(rmw.rpush("b", ["x", "y"]), Ok(2));
        assert_eq!(popped.join().unwrap(), Ok((1, "x".into())));
    });
    assert_eq!(rmw.lrange("b", 0, -1).unwrap(), ["y".into()]);
    assert_eq!(rmw.stats().blocked, 0);
}

#[test]
fn a_time_out_takes_nothing_and_leaves_no_trace() {
    let rmw = Rmw::new();
    let soon = Duration::from_millis(2);
    let before = Instant::now();
    assert_eq!(rmw.blpop_timeout(&["a", "b", "a"], soon), Ok(None));
    assert_eq!(rmw.brpop_deadline(&["a"], Instant::now()), Ok(None));
    let (front, back) = (ListEnd::Front, ListEnd::Back);
    assert_eq!(rmw.blmove_timeout("a", "b", front, back, soon), Ok(None));
    assert_eq!(rmw.brpoplpush_timeout("a", "b", soon), Ok(None));
    assert_eq!(rmw.blmpop_timeout(&["a"], back, 2, soon), Ok(None));
    assert!(before.elapsed() >= soon * 4);
    assert_eq!(rmw.stats().blocked, 0);
    assert_eq!(rmw.rpush("a", ["x"]), Ok(1));
    assert_eq!(rmw.llen("a"), Ok(1));
}

#[test]
fn a_handles_deadline_ends_the_wait_with_an_error() {
    let rmw = Rmw::new();
    let hasty = rmw.with_deadline(Instant::now() + Duration::from_millis(2));
    assert_eq!(hasty.blpop(&["k"]), Err(RmwError::TimedOut));
    assert_eq!(hasty.blpop_timeout(&["k"], LONG), Err(RmwError::TimedOut));
    assert_eq!(rmw.stats().blocked, 0);
}

#[test]
fn first_come_is_first_served() {
    let rmw = Rmw::new();
    let line: Vec<_> = (0..5).map(|_| pop_with(&rmw, &["k"])).collect();
    assert_eq!(rmw.rpush("k", ["0", "1"]), Ok(2));
    assert_eq!(rmw.rpush("k", ["2", "3", "4", "5"]), Ok(4));
    for (i, (_, receive)) in line.iter().enumerate() {
        assert_eq!(got(receive), Some((0, Bytes::from(i.to_string()))));
    }
    assert_eq!(rmw.lrange("k", 0, -1).unwrap(), ["5".into()]);
}

#[test]
fn a_call_on_several_keys_is_served_once() {
    let rmw = Rmw::new();
    let (_pending, receive) = pop_with(&rmw, &["a", "b", "a"]);
    rmw.rpush("b", ["x"]).unwrap();
    rmw.rpush("a", ["y"]).unwrap();
    assert_eq!(got(&receive), Some((1, "x".into())));
    assert_eq!(got(&receive), None);
    assert_eq!(rmw.llen("a"), Ok(1));
    assert_eq!(rmw.stats().blocked, 0);
}

#[test]
fn every_way_to_make_a_list_serves() {
    let clock = Clock::manual(1_000);
    let rmw = Rmw::builder().clock(clock.clone()).build();
    let ways: &[&dyn Fn()] = &[
        &|| drop(rmw.lpush("k", ["x"])),
        &|| drop(rmw.rpush("k", ["x"])),
        &|| rmw.set("k", list(["x"])).unwrap(),
        &|| rmw.mset([("k", list(["x"])), ("l", list(["y"]))]).unwrap(),
        &|| {
            assert!(
                rmw.mset_if_missing([("k", list(["x"])), ("m", list(["y"]))])
                    .unwrap()
            )
        },
        &|| rmw.update("k", |entry| entry.set(list(["x"]))).unwrap(),
        &|| {
            let set = rmw.compare_and_set("k", 0, list(["x", "y"])).unwrap();
            assert_eq!(set, Ok(rmw.version("k")));
            rmw.del(&["k"]).unwrap();
        },
        &|| {
            rmw.update_many(&["k"], |tx| tx.rpush("k", ["x"]))
                .unwrap()
                .unwrap();
        },
        &|| {
            rmw.rpush("source", ["x"]).unwrap();
            rmw.rpoplpush("source", "k").unwrap();
        },
        &|| {
            rmw.rpush("source", ["x"]).unwrap();
            rmw.brpoplpush("source", "k").unwrap();
        },
        &|| {
            // In the place of another type.
            rmw.set("k", "string").unwrap();
            rmw.set("k", list(["x"])).unwrap();
        },
        &|| {
            // Over an expired one.
            rmw.set("k", "string").unwrap();
            rmw.expire_at("k", clock.now() + 1, Default::default())
                .unwrap();
            clock.advance(Duration::from_millis(2));
            rmw.rpush("k", ["x"]).unwrap();
        },
    ];
    for (i, way) in ways.iter().enumerate() {
        let (pending, receive) = pop_with(&rmw, &["k"]);
        assert!(!pending.is_delivered());
        way();
        assert_eq!(got(&receive), Some((0, "x".into())), "way {i}");
        assert!(!rmw.contains("k"), "way {i}");
        assert_eq!(rmw.stats().blocked, 0, "way {i}");
    }
}

#[test]
fn another_type_is_refused_at_first_and_waited_out_later() {
    let rmw = Rmw::new();
    rmw.set("string", "v").unwrap();
    assert_eq!(rmw.blpop(&["k", "string"]), Err(RmwError::WrongType));
    let (_, receive) = pop_with(&rmw, &["string"]);
    assert_eq!(receive.recv().unwrap(), Err(RmwError::WrongType));
    assert_eq!(rmw.stats().blocked, 0);
    let (pending, receive) = pop_with(&rmw, &["k"]);
    rmw.set("k", "string").unwrap();
    assert!(!pending.is_delivered());
    rmw.del(&["k"]).unwrap();
    rmw.rpush("k", ["x"]).unwrap();
    assert_eq!(got(&receive), Some((0, "x".into())));
}

#[test]
fn a_refused_write_serves_nobody() {
    let rmw = Rmw::builder().max_value_len(3).build();
    let (_pending, receive) = pop_with(&rmw, &["k"]);
    rmw.rpush("k", ["long"]).unwrap_err();
    let failed = rmw.update_many(&["k"], |tx| {
        tx.rpush("k", ["x"])?;
        Err::<(), _>(RmwError::Overflow)
    });
    assert_eq!(failed, Ok(Err(RmwError::Overflow)));
    let undeclared = rmw.update_many(&["k"], |tx| {
        tx.rpush("k", ["x"])?;
        tx.rpush("other", ["x"])
    });
    assert_eq!(undeclared, Err(RmwError::Undeclared));
    assert_eq!(got(&receive), None);
    assert_eq!(rmw.stats().blocked, 1);
}

#[test]
fn a_cancelled_call_takes_nothing_and_leaves_no_trace() {
    let rmw = Rmw::new();
    let (cancelled, none) = pop_with(&rmw, &["k", "l"]);
    let (dropped, neither) = pop_with(&rmw, &["k"]);
    let (_pending, receive) = pop_with(&rmw, &["l", "k"]);
    assert!(cancelled.cancel());
    drop(dropped);
    assert_eq!(rmw.stats().blocked, 1);
    rmw.rpush("k", ["x"]).unwrap();
    assert_eq!(got(&receive), Some((1, "x".into())));
    assert!(none.recv().is_err() && neither.recv().is_err());
    let (served, _) = pop_with(&rmw, &["k"]);
    rmw.rpush("k", ["x"]).unwrap();
    assert!(!served.cancel());
    assert_eq!(rmw.stats().blocked, 0);
}

#[test]
fn a_blocked_move_goes_on_to_who_waits_for_its_destination() {
    let rmw = Rmw::new();
    let (front, back) = (ListEnd::Front, ListEnd::Back);
    let (send, moved) = channel();
    let (_end, receive) = pop_with(&rmw, &["c"]);
    let chain = [("a", "b"), ("b", "c")].map(|(from, to)| {
        let send = send.clone();
        rmw.blmove_with(from, to, front, back, move |value| {
            send.send(value).unwrap()
        })
    });
    assert_eq!(rmw.rpush("a", ["x"]), Ok(1));
    assert_eq!(moved.try_recv().unwrap(), Ok("x".into()));
    assert_eq!(moved.try_recv().unwrap(), Ok("x".into()));
    assert_eq!(got(&receive), Some((0, "x".into())));
    assert_eq!(rmw.exists(&["a", "b", "c"]), 0);
    assert!(chain.iter().all(Pending::is_delivered));
}

#[test]
fn a_ring_of_blocked_moves_passes_an_element_round_once() {
    let rmw = Rmw::new();
    let (front, back) = (ListEnd::Front, ListEnd::Back);
    let ring = [("a", "b"), ("b", "c"), ("c", "a")]
        .map(|(from, to)| rmw.blmove_with(from, to, front, back, |v| assert!(v.is_ok())));
    rmw.rpush("b", ["x"]).unwrap();
    assert!(ring.iter().all(Pending::is_delivered));
    assert_eq!(rmw.lrange("b", 0, -1).unwrap(), ["x".into()]);
    // And one onto itself.
    let (send, moved) = channel();
    let pending = rmw.brpoplpush_with("k", "k", move |value| send.send(value).unwrap());
    rmw.rpush("k", ["a", "b"]).unwrap();
    assert_eq!(moved.recv().unwrap(), Ok("b".into()));
    assert_eq!(rmw.lrange("k", 0, -1).unwrap(), ["b".into(), "a".into()]);
    drop(pending);
}

#[test]
fn a_blocked_move_fails_if_its_destination_is_no_list_and_the_next_is_served() {
    let rmw = Rmw::new();
    let (send, moved) = channel();
    let (front, back) = (ListEnd::Front, ListEnd::Back);
    let _pending = rmw.blmove_with("a", "b", front, back, move |v| send.send(v).unwrap());
    let (_next, receive) = pop_with(&rmw, &["a"]);
    rmw.set("b", "string").unwrap();
    rmw.rpush("a", ["x"]).unwrap();
    assert_eq!(moved.recv().unwrap(), Err(RmwError::WrongType));
    assert_eq!(got(&receive), Some((0, "x".into())));
}

#[test]
fn several_elements_are_taken_at_once() {
    let rmw = Rmw::new();
    thread::scope(|scope| {
        let popped = scope.spawn(|| rmw.blmpop(&["a", "b"], ListEnd::Back, 2));
        until_blocked(&rmw, 1);
        rmw.rpush("b", ["1", "2", "3"]).unwrap();
        let popped = popped.join().unwrap();
        assert_eq!(popped, Ok((1, vec!["3".into(), "2".into()])));
    });
    assert_eq!(rmw.llen("b"), Ok(1));
}

#[test]
fn a_callback_may_use_the_keys() {
    let rmw = Rmw::new();
    let (send, receive) = channel();
    let again = rmw.clone();
    let _pending = rmw.blpop_with(&["k"], move |popped| {
        let (_, value) = popped.unwrap();
        again.rpush("done", [value]).unwrap();
        send.send(again.llen("done")).unwrap();
    });
    rmw.rpush("k", ["x"]).unwrap();
    assert_eq!(receive.recv().unwrap(), Ok(1));
}

#[test]
fn a_transaction_does_not_wait() {
    let rmw = Rmw::new();
    rmw.rpush("full", ["x"]).unwrap();
    rmw.update_many(&["k", "full"], |tx| {
        assert_eq!(tx.blpop_timeout(&["k"], LONG), Ok(None));
        assert_eq!(tx.blpop(&["k"]), Err(RmwError::Reentrant));
        let (_, receive) = pop_with(tx, &["k"]);
        assert_eq!(receive.recv().unwrap(), Err(RmwError::Reentrant));
        assert_eq!(tx.blpop(&["k", "full"]), Ok((1, "x".into())));
        Ok::<_, RmwError>(())
    })
    .unwrap()
    .unwrap();
    let inside = rmw.update("k", |_| rmw.blpop_timeout(&["k"], LONG));
    assert_eq!(inside, Ok(Err(RmwError::Reentrant)));
}

#[test]
fn a_pop_of_no_key_is_an_error() {
    let none: [&str; 0] = [];
    assert_eq!(Rmw::new().blpop(&none), Err(RmwError::NoSuchKey));
}

#[test]
fn who_is_served_sees_one_moment() {
    let rmw = Rmw::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                // The element is never in `a`: whoever pushes it there moves it on.
                assert!(!rmw.contains("a"));
            }
        });
        for _ in 0..2_000 {
            let pending = rmw.blmove_with("a", "b", ListEnd::Front, ListEnd::Back, |v| {
                drop(v.unwrap())
            });
            rmw.rpush("a", ["x"]).unwrap();
            assert!(pending.is_delivered());
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(rmw.llen("b"), Ok(2_000));
}

/// Fails or panics when it is told to, as it applies the effects of a transaction.
#[derive(Default)]
struct Failing {
    store: MemStore,
    fails: Arc<Mutex<Option<bool>>>,
}

impl Store for Failing {
    forward_to!(store: change publish clear);

    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError> {
        let fails = *self.fails.lock().unwrap();
        match fails {
            Some(true) => std::panic::resume_unwind(Box::new("planned")),
            Some(false) => Err(StoreError::new(std::io::Error::other("planned"))),
            None => self.store.change_many(keys, decide),
        }
    }
}

#[test]
fn a_store_that_fails_strands_nobody() {
    for panics in [false, true] {
        let store = Failing::default();
        let fails = Arc::clone(&store.fails);
        let rmw = Rmw::builder().store(store).build();
        thread::scope(|scope| {
            let sleeps = scope.spawn(|| rmw.blpop(&["k"]));
            until_blocked(&rmw, 1);
            let (_pending, called) = pop_with(&rmw, &["k"]);
            *fails.lock().unwrap() = Some(panics);
            let push = || rmw.rpush("k", ["x", "y"]);
            let pushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(push));
            assert!(!matches!(pushed, Ok(Ok(_))));
            assert!(matches!(sleeps.join().unwrap(), Err(RmwError::Store(_))));
            assert!(matches!(called.recv().unwrap(), Err(RmwError::Store(_))));
        });
        *fails.lock().unwrap() = None;
        assert_eq!(rmw.stats().blocked, 0);
        assert_eq!(rmw.rpush("k", ["x"]), Ok(1), "nothing was changed");
    }
}

#[test]
fn a_served_list_is_left_to_the_next_who_comes_after_a_clear() {
    let rmw = Rmw::new();
    let (_pending, receive) = pop_with(&rmw, &["k"]);
    rmw.clear().unwrap();
    assert_eq!(rmw.stats().blocked, 1);
    rmw.rpush("k", ["x", "y"]).unwrap();
    assert_eq!(got(&receive), Some((0, "x".into())));
    assert_eq!(rmw.blpop(&["k"]), Ok((0, "y".into())));
}
