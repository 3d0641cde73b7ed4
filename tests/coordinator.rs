//! The coordinator: which thread executes what, who waits for whom, and what comes back.
//!
//! The eight faults of the coordinator that this one was designed after each have a test that is
//! named after them, `fault_1_…` to `fault_8_…`.

#[macro_use]
#[path = "support/forward.rs"]
mod forward;
#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/watched.rs"]
mod watched;

use std::collections::HashSet;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use faulty::Faulty;
use latchwork::latch::SendLatch;
use latchwork::rmw::{
    Bytes, Command, CoordinatorError, CoordinatorOptions, ListEnd, ListOp, Reply, Rmw,
    RmwCoordinator, RmwError, Store, Value,
};
use latchwork::worker::TicketError;
use latchwork::{LatchTable, Pending};
use watched::Watched;

const HOUR: Duration = Duration::from_secs(3600);

type Latches = LatchTable<Vec<u8>>;

fn coordinated(options: CoordinatorOptions) -> (Rmw, Latches, RmwCoordinator) {
    let latches = Latches::new();
    let rmw = Rmw::builder().latches(latches.clone()).build();
    let coordinator = RmwCoordinator::start(&rmw, options);
    (rmw, latches, coordinator)
}

fn one_shard() -> CoordinatorOptions {
    CoordinatorOptions::new().shards(1).timeout(HOUR)
}

fn hold(latches: &Latches, key: &str) -> SendLatch {
    latches.latch(key.as_bytes()).unwrap().detach()
}

/// Returns once so many commands wait.
fn await_waiting<S: Store>(coordinator: &RmwCoordinator<S>, commands: u64) {
    while coordinator.stats().waiting != commands {
        thread::yield_now();
    }
}

fn text<S: Store>(rmw: &Rmw<S>, key: &str) -> Option<Value> {
    rmw.get(key).unwrap()
}

#[test]
fn fault_1_who_waits_sleeps_and_is_woken_by_nothing_but_its_turn() {
    let (_, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    let (tell, told) = channel();
    thread::scope(|scope| {
        let caller = scope.spawn(|| {
            tell.send(Watched::current()).unwrap();
            coordinator.execute(0, Command::incr("k", 1))
        });
        let caller_thread = told.recv().unwrap();
        await_waiting(&coordinator, 1);
        caller_thread.await_sleep();
        let before = caller_thread.sleeps();
        // A hundred times the original's polling period.
        thread::sleep(Duration::from_millis(100));
        assert_eq!(caller_thread.sleeps(), before);
        drop(held);
        assert_eq!(caller.join().unwrap(), Ok(Reply::Integer(1)));
    });
}

#[test]
fn fault_2_newcomers_do_not_pass_a_queued_call_for_ever() {
    let (_, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let queued = scope.spawn(|| {
            let reply = coordinator.execute(0, Command::append("k", "queued"));
            done.store(true, Ordering::SeqCst);
            reply
        });
        await_waiting(&coordinator, 1);
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    coordinator.execute(0, Command::getdel("k")).unwrap();
                }
            });
        }
        drop(held);
        // Ends at all: nobody else stops the newcomers.
        queued.join().unwrap().unwrap();
    });
}

#[test]
fn fault_3_a_call_that_timed_out_is_never_executed() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    for timeout in [Duration::ZERO, Duration::from_millis(2)] {
        let late = coordinator.execute_timeout(0, Command::append("k", "late"), timeout);
        assert_eq!(late, Err(CoordinatorError::TimedOut));
    }
    let late = coordinator.execute_deadline(0, Command::append("k", "late"), Instant::now());
    assert_eq!(late, Err(CoordinatorError::TimedOut));
    // They are out of the latch's line too.
    assert_eq!((latches.waiters(), coordinator.stats().waiting), (0, 0));
    let ticket = coordinator.submit(0, Command::append("k", "kept")).unwrap();
    drop(held);
    assert_eq!(ticket.wait().unwrap(), Ok(Reply::Length(4)));
    assert_eq!(text(&rmw, "k"), Some("kept".into()));
    assert_eq!(coordinator.stats().timed_out, 3);
}

#[test]
fn fault_4_a_slow_key_delays_no_other_key_of_its_shard() {
    let (_, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "slow");
    let slow = coordinator.submit(0, Command::incr("slow", 1)).unwrap();
    await_waiting(&coordinator, 1);
    // In the caller's thread, and by the shard's.
    assert_eq!(
        coordinator.execute(0, Command::incr("quick", 1)),
        Ok(Reply::Integer(1))
    );
    let quick = coordinator.submit(0, Command::incr("quick", 1)).unwrap();
    assert_eq!(quick.wait().unwrap(), Ok(Reply::Integer(2)));
    // And one that had to wait for its own key.
    let other = hold(&latches, "quick");
    let quick = coordinator.submit(0, Command::incr("quick", 1)).unwrap();
    drop(other);
    assert_eq!(quick.wait().unwrap(), Ok(Reply::Integer(3)));
    assert!(!slow.is_done());
    drop(held);
    assert_eq!(slow.wait().unwrap(), Ok(Reply::Integer(1)));
}

#[test]
fn fault_5_a_dead_holder_s_latch_is_taken_over_and_a_fresh_owner_keeps_it() {
    let (_, latches, coordinator) = coordinated(one_shard());
    let (leaked, wait) = channel();
    let (end, ended) = channel::<()>();
    let leaky = thread::spawn({
        let latches = latches.clone();
        move || {
            std::mem::forget(latches.latch(b"k".as_slice()).unwrap());
            leaked.send(()).unwrap();
            ended.recv().unwrap();
        }
    });
    wait.recv().unwrap();
    let ticket = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    assert_eq!(coordinator.sweep(0), 0, "its holder lives");
    end.send(()).unwrap();
    leaky.join().unwrap();
    assert_eq!(ticket.wait().unwrap(), Ok(Reply::Integer(1)));
    let fresh = hold(&latches, "k");
    let ticket = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    assert_eq!(coordinator.sweep(0), 0, "the fresh owner keeps it");
    assert!(!ticket.is_done());
    drop(fresh);
    assert_eq!(ticket.wait().unwrap(), Ok(Reply::Integer(2)));
    assert_eq!((latches.held(), latches.stats().leaked), (0, 1));
}

#[test]
fn fault_6_a_list_move_takes_both_latches() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    rmw.rpush("from", ["a", "b"]).unwrap();
    let lmove = || Command::lmove("from", "to", ListEnd::Front, ListEnd::Back);
    for key in ["from", "to"] {
        let held = hold(&latches, key);
        let late = coordinator.execute_timeout(0, lmove(), Duration::from_millis(1));
        assert_eq!(late, Err(CoordinatorError::TimedOut), "{key}");
        let ticket = coordinator.submit(0, lmove()).unwrap();
        assert!(!ticket.is_done(), "{key}");
        drop(held);
        assert!(matches!(ticket.wait().unwrap(), Ok(Reply::Value(Some(_)))));
    }
    assert_eq!(
        rmw.lrange("to", 0, -1).unwrap(),
        ["a".into(), "b".into()],
        "each moved once"
    );
    assert!(!rmw.contains("from"));
    assert_eq!(latches.held(), 0);
    // Inline, both are held at once too: and one key twice is one latch.
    let rotate = Command::lmove("to", "to", ListEnd::Front, ListEnd::Back);
    let rotated = coordinator.execute(0, rotate).unwrap();
    assert_eq!(rotated, Reply::Value(Some("a".into())));
}

#[test]
fn fault_7_a_full_queue_refuses_and_nothing_was_applied() {
    let (rmw, latches, coordinator) = coordinated(one_shard().queue_capacity(2));
    let held = hold(&latches, "k");
    let queued: Vec<_> = (0..2)
        .map(|_| coordinator.submit(0, Command::incr("k", 1)).unwrap())
        .collect();
    assert_eq!(
        coordinator.execute(0, Command::incr("k", 10)),
        Err(CoordinatorError::Busy)
    );
    assert!(matches!(
        coordinator.submit(0, Command::incr("k", 10)),
        Err(CoordinatorError::Busy)
    ));
    // A free key is not queued for.
    coordinator.execute(0, Command::incr("free", 1)).unwrap();
    // A cancelled command makes room.
    let [first, second] = queued.try_into().unwrap();
    assert!(first.cancel());
    let third = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    drop(held);
    assert_eq!(second.wait().unwrap(), Ok(Reply::Integer(1)));
    assert_eq!(third.wait().unwrap(), Ok(Reply::Integer(2)));
    assert_eq!(text(&rmw, "k"), Some(2.into()));
    assert_eq!(coordinator.stats().busy, 2);
}

#[test]
fn fault_7_a_full_line_of_the_latch_refuses_too() {
    let latches = Latches::builder().max_waiters(1).build().unwrap();
    let rmw = Rmw::builder().latches(latches.clone()).build();
    let coordinator = RmwCoordinator::start(&rmw, CoordinatorOptions::new().shards(2));
    let held = hold(&latches, "k");
    let first = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    assert_eq!(
        coordinator.execute(1, Command::incr("k", 1)),
        Err(CoordinatorError::Busy)
    );
    // In the same shard it shares the turn, and needs no place in the latch's line.
    let second = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    drop(held);
    assert_eq!(first.wait().unwrap(), Ok(Reply::Integer(1)));
    assert_eq!(second.wait().unwrap(), Ok(Reply::Integer(2)));
}

#[test]
fn fault_8_a_plain_set_waits_for_the_latch_that_a_queued_call_has() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    let hasty = rmw.with_deadline(Instant::now());
    assert_eq!(hasty.set("k", 100), Err(RmwError::TimedOut));
    let ticket = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    thread::scope(|scope| {
        let set = scope.spawn(|| rmw.set("k", 100));
        while latches.waiters() < 2 {
            thread::yield_now();
        }
        drop(held);
        // In line behind the call, and not beside it.
        assert_eq!(ticket.wait().unwrap(), Ok(Reply::Integer(1)));
        set.join().unwrap().unwrap();
    });
    assert_eq!(text(&rmw, "k"), Some(100.into()));
}

#[test]
fn a_command_whose_key_is_free_runs_in_the_caller_s_thread() {
    let (rmw, _, coordinator) = coordinated(one_shard());
    let replies = [
        (Command::incr("n", 2), Reply::Integer(2)),
        (
            Command::incr_float("f", "0.1"),
            Reply::Value(Some("0.1".into())),
        ),
        (
            Command::incr_float("f", "0.2"),
            Reply::Value(Some("0.3".into())),
        ),
        (Command::append("s", "abc"), Reply::Length(3)),
        (Command::setrange("s", 1, "xy"), Reply::Length(3)),
        (
            Command::getset("s", "new"),
            Reply::Value(Some("axy".into())),
        ),
        (
            Command::getex("s", latchwork::rmw::GetExpiry::At(u64::MAX >> 2)),
            Reply::Value(Some("new".into())),
        ),
        (Command::getdel("n"), Reply::Value(Some(2.into()))),
        (
            Command::list_op("l", ListOp::push(ListEnd::Back, ["a", "b", "c"])),
            Reply::Length(3),
        ),
        (
            Command::list_op(
                "l",
                ListOp::Set {
                    index: -1,
                    value: "z".into(),
                },
            ),
            Reply::Done,
        ),
        (
            Command::list_op(
                "l",
                ListOp::Remove {
                    count: 0,
                    value: "b".into(),
                },
            ),
            Reply::Length(1),
        ),
        (
            Command::list_op(
                "l",
                ListOp::PopMany {
                    end: ListEnd::Back,
                    count: 9,
                },
            ),
            Reply::Values(Some(vec!["z".into(), "a".into()])),
        ),
        (
            Command::list_op(
                "l",
                ListOp::Pop {
                    end: ListEnd::Front,
                },
            ),
            Reply::Value(None),
        ),
    ];
    let commands = replies.len() as u64;
    for (command, reply) in replies {
        assert_eq!(
            coordinator.execute(0, command.clone()),
            Ok(reply),
            "{command:?}"
        );
    }
    assert!(matches!(rmw.expires_at("s"), Some(Some(_))));
    let stats = coordinator.stats();
    assert_eq!((stats.fast, stats.queued), (commands, 0));
}

#[test]
fn commands_on_one_key_are_executed_in_the_order_of_their_submission() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    let tickets: Vec<_> = (0..20)
        .map(|n: u8| {
            let letter = [b'a' + n];
            coordinator.submit(0, Command::append("k", &letter[..]))
        })
        .collect();
    drop(held);
    for ticket in tickets {
        ticket.unwrap().wait().unwrap().unwrap();
    }
    assert_eq!(text(&rmw, "k"), Some("abcdefghijklmnopqrst".into()));
}

#[test]
fn the_threads_have_their_shards_names_and_start_when_they_are_needed() {
    let (_, _, coordinator) = coordinated(CoordinatorOptions::new().shards(3));
    let coordinator = &coordinator;
    let names: Vec<_> = (0..3)
        .map(|i| coordinator.shard(i).unwrap().name())
        .collect();
    assert_eq!(names, ["lw-rmw-0", "lw-rmw-1", "lw-rmw-2"]);
    assert!(coordinator.shard(3).is_none());
    assert_eq!(
        coordinator.execute(3, Command::incr("k", 1)),
        Err(CoordinatorError::NoSuchShard {
            shard: 3,
            shards: 3
        })
    );
    let shard = coordinator.shard(2).unwrap();
    let ticket = shard.submit(Command::incr("k", 1)).unwrap();
    ticket.wait().unwrap().unwrap();
    Watched::named("lw-rmw-2").await_sleep();
    assert_eq!((shard.index(), shard.stats().queued), (2, 1));
}

#[test]
fn keys_are_spread_over_all_shards() {
    let (_, _, coordinator) = coordinated(CoordinatorOptions::new().shards(7));
    let used: HashSet<_> = (0..1000)
        .map(|n| coordinator.shard_of(format!("key:{n}")))
        .collect();
    assert_eq!(used, (0..7).collect());
}

#[test]
fn a_command_s_own_error_comes_back_on_either_way() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    rmw.set("k", "text").unwrap();
    let refused = Err(CoordinatorError::Command(RmwError::NotAnInteger));
    assert_eq!(coordinator.execute(0, Command::incr("k", 1)), refused);
    let held = hold(&latches, "k");
    thread::scope(|scope| {
        let queued = scope.spawn(|| coordinator.execute(0, Command::incr("k", 1)));
        await_waiting(&coordinator, 1);
        drop(held);
        assert_eq!(queued.join().unwrap(), refused);
    });
}

#[test]
fn a_panic_is_an_error_of_its_call_and_those_behind_are_served() {
    let latches = Latches::new();
    let rmw = Rmw::builder()
        .store(Faulty::default())
        .latches(latches.clone())
        .build();
    let coordinator = RmwCoordinator::start(&rmw, one_shard());
    let crashed = Err(CoordinatorError::Crashed("the store broke".to_owned()));
    assert_eq!(coordinator.execute(0, Command::incr("breaks", 1)), crashed);
    let held = hold(&latches, "breaks");
    let others = hold(&latches, "k");
    thread::scope(|scope| {
        let queued: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| coordinator.execute(0, Command::incr("breaks", 1))))
            .collect();
        let behind: Vec<_> = (0..3)
            .map(|_| coordinator.submit(0, Command::incr("k", 1)).unwrap())
            .collect();
        await_waiting(&coordinator, 6);
        drop(held);
        drop(others);
        for call in queued {
            assert_eq!(call.join().unwrap(), crashed);
        }
        let sums: Vec<_> = behind.into_iter().map(|t| t.wait().unwrap()).collect();
        assert_eq!(sums, [1, 2, 3].map(|n| Ok(Reply::Integer(n))));
    });
    assert_eq!(coordinator.stats().crashed, 4);
    assert_eq!(latches.held(), 0);
}

#[test]
fn a_thread_that_holds_a_latch_is_refused_and_may_submit() {
    let (_, latches, coordinator) = coordinated(one_shard());
    let held = latches.latch(b"k".as_slice()).unwrap();
    assert_eq!(
        coordinator.execute(0, Command::incr("k", 1)),
        Err(CoordinatorError::Command(RmwError::Reentrant))
    );
    let ticket = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    drop(held);
    assert_eq!(ticket.wait().unwrap(), Ok(Reply::Integer(1)));
}

#[test]
fn a_command_that_serves_a_blocked_move_waits_for_the_latch_of_its_destination() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let push = || {
        let values = vec!["job".into()];
        let (end, if_present) = (ListEnd::Back, false);
        let push = ListOp::Push {
            end,
            values,
            if_present,
        };
        Command::list_op("from", push)
    };
    let submit = || coordinator.submit(0, push()).unwrap().wait().unwrap();
    let execute = || Ok(coordinator.execute(0, push()).unwrap());
    let ways: [&(dyn Fn() -> Result<Reply, RmwError> + Sync); 2] = [&submit, &execute];
    for (way, moved) in ways.into_iter().zip(1..) {
        let pending = rmw.blmove_with("from", "to", ListEnd::Front, ListEnd::Back, |moved| {
            assert_eq!(&*moved.unwrap(), b"job");
        });
        let held = hold(&latches, "to");
        thread::scope(|scope| {
            let call = scope.spawn(way);
            while latches.waiters() == 0 && !call.is_finished() {
                thread::yield_now();
            }
            assert_eq!(rmw.llen("to").unwrap(), moved - 1);
            drop(held);
            assert_eq!(call.join().unwrap(), Ok(Reply::Length(1)));
        });
        assert!(pending.is_delivered());
        assert_eq!(rmw.llen("to").unwrap(), moved);
    }
}

#[test]
fn a_shutdown_returns_what_was_not_executed_though_its_latch_is_held() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    let other = hold(&latches, "other");
    let lmove = Command::lmove("k", "other", ListEnd::Front, ListEnd::Front);
    let left = thread::scope(|scope| {
        let caller = scope.spawn(|| coordinator.execute(0, Command::incr("k", 1)));
        await_waiting(&coordinator, 1);
        let ticket = coordinator.submit(0, lmove.clone()).unwrap();
        let left = coordinator.shutdown();
        assert_eq!(caller.join().unwrap(), Err(CoordinatorError::ShutDown));
        assert!(matches!(ticket.wait(), Err(TicketError::Lost)));
        left
    });
    assert_eq!(left, [Command::incr("k", 1), lmove]);
    assert_eq!((latches.waiters(), coordinator.stats().waiting), (0, 0));
    drop((held, other));
    assert_eq!((latches.held(), text(&rmw, "k")), (0, None));
    assert_eq!(
        coordinator.execute(0, Command::incr("k", 1)),
        Err(CoordinatorError::ShutDown)
    );
    assert!(matches!(
        coordinator.submit(0, Command::incr("k", 1)),
        Err(CoordinatorError::ShutDown)
    ));
}

#[test]
fn dropping_a_coordinator_does_not_wait_for_a_latch() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let held = latches.latch(b"k".as_slice()).unwrap();
    let ticket = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    drop(coordinator);
    assert!(matches!(ticket.wait(), Err(TicketError::Lost)));
    drop(held);
    assert_eq!(rmw.incr_by("k", 1), Ok(1));
}

#[test]
fn a_dropped_ticket_lets_its_command_be_executed() {
    let (_, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    drop(coordinator.submit(0, Command::incr("k", 1)).unwrap());
    let behind = coordinator.submit(0, Command::incr("k", 1)).unwrap();
    drop(held);
    assert_eq!(behind.wait().unwrap(), Ok(Reply::Integer(2)));
}

#[test]
fn the_handles_may_cross_a_caught_panic() {
    fn check<T: UnwindSafe + RefUnwindSafe + Send + Sync>() {}
    check::<RmwCoordinator>();
}

fn push(key: &str, value: &str) -> Command {
    Command::list_op(key, ListOp::push(ListEnd::Back, [value]))
}

/// A registered pop; its callback writes the key that it was served from, and says how that went.
fn pop_and_write(rmw: &Rmw, key: &'static str) -> (Pending, Receiver<(Bytes, bool)>) {
    let (tell, told) = channel();
    let again = rmw.clone();
    let pending = rmw.blpop_with(&[key], move |popped| {
        let (_, value) = popped.unwrap();
        // Under the latch, this would be refused or wait for itself.
        tell.send((value, again.set(key, "seen").is_ok())).unwrap();
    });
    (pending, told)
}

#[test]
fn a_push_serves_who_is_blocked_on_either_way() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    thread::scope(|scope| {
        let blocked = scope.spawn(|| rmw.blpop(&["jobs"]).unwrap());
        while rmw.stats().blocked == 0 {
            thread::yield_now();
        }
        let pushed = coordinator.execute(0, push("jobs", "a"));
        assert_eq!(pushed, Ok(Reply::Length(1)));
        assert_eq!(blocked.join().unwrap(), (0, "a".into()));
    });
    assert!(!rmw.contains("jobs"));
    let (pending, told) = pop_and_write(&rmw, "jobs");
    coordinator.execute(0, push("jobs", "b")).unwrap();
    assert_eq!(told.recv().unwrap(), ("b".into(), true));
    assert!(pending.is_delivered());
    rmw.del(&["jobs"]).unwrap();
    let (pending, told) = pop_and_write(&rmw, "jobs");
    let held = hold(&latches, "jobs");
    let ticket = coordinator.submit(0, push("jobs", "c")).unwrap();
    drop(held);
    assert_eq!(ticket.wait().unwrap(), Ok(Reply::Length(1)));
    assert_eq!(told.recv().unwrap(), ("c".into(), true));
    assert!(pending.is_delivered());
    assert_eq!(latches.held(), 0);
}

#[test]
fn a_push_that_a_blocked_move_passes_on_takes_the_latch_of_the_destination() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let (front, back) = (ListEnd::Front, ListEnd::Back);
    let first = rmw.blmove_with("a", "b", front, back, drop);
    let second = rmw.blmove_with("b", "c", front, back, drop);
    let held = hold(&latches, "c");
    let late = coordinator.execute_timeout(0, push("a", "x"), Duration::from_millis(1));
    assert_eq!(late, Err(CoordinatorError::TimedOut));
    assert_eq!((rmw.len(), latches.held(), latches.waiters()), (0, 1, 0));
    let cancelled = coordinator.submit(0, push("a", "y")).unwrap();
    let ticket = coordinator.submit(0, push("a", "z")).unwrap();
    assert!(cancelled.cancel());
    assert!(!ticket.is_done() && !first.is_delivered());
    drop(held);
    assert_eq!(ticket.wait().unwrap(), Ok(Reply::Length(1)));
    assert!(first.is_delivered() && second.is_delivered());
    assert_eq!(rmw.lrange("c", 0, -1).unwrap(), ["z".into()]);
    assert_eq!((rmw.len(), latches.held()), (1, 0));
    // And with all of them free, in the caller's thread.
    let fast = coordinator.stats().fast;
    let pending = rmw.blmove_with("a", "c", front, back, drop);
    coordinator.execute(0, push("a", "w")).unwrap();
    assert_eq!(coordinator.stats().fast, fast + 1);
    assert!(pending.is_delivered());
    assert_eq!(rmw.lrange("c", 0, -1).unwrap(), ["z".into(), "w".into()]);
}

#[test]
fn a_move_on_to_an_awaited_key_serves_who_waits_there() {
    let (rmw, latches, coordinator) = coordinated(one_shard());
    let lmove = || Command::lmove("from", "to", ListEnd::Front, ListEnd::Back);
    rmw.rpush("from", ["a", "b"]).unwrap();
    let (_pending, told) = pop_and_write(&rmw, "to");
    let moved = coordinator.execute(0, lmove()).unwrap();
    assert_eq!(moved, Reply::Value(Some("a".into())));
    assert_eq!(told.recv().unwrap(), ("a".into(), true));
    rmw.del(&["to"]).unwrap();
    let (_pending, told) = pop_and_write(&rmw, "to");
    let held = hold(&latches, "from");
    let ticket = coordinator.submit(0, lmove()).unwrap();
    drop(held);
    let moved = ticket.wait().unwrap().unwrap();
    assert_eq!(moved, Reply::Value(Some("b".into())));
    assert_eq!(told.recv().unwrap(), ("b".into(), true));
    assert!(!rmw.contains("from"));
}

#[test]
fn commands_on_one_key_wait_for_its_latch_together_and_a_move_stands_between_them() {
    let (_, latches, coordinator) = coordinated(one_shard());
    let held = hold(&latches, "k");
    let append = |byte: &str| coordinator.submit(0, Command::append("k", byte)).unwrap();
    let before: Vec<_> = (0..200).map(|_| append("a")).collect();
    assert_eq!(latches.waiters(), 1);
    let lmove = Command::lmove("k", "other", ListEnd::Front, ListEnd::Back);
    let refused = coordinator.submit(0, lmove).unwrap();
    let after: Vec<_> = (0..200).map(|_| append("b")).collect();
    await_waiting(&coordinator, 401);
    drop(held);
    for (length, ticket) in (1..).zip(before.into_iter().chain(after)) {
        assert_eq!(ticket.wait().unwrap(), Ok(Reply::Length(length)));
    }
    assert_eq!(refused.wait().unwrap(), Err(RmwError::WrongType));
    assert_eq!((latches.held(), coordinator.stats().waiting), (0, 0));
}
