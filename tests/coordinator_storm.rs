//! The coordinator under many threads: every increment counts, every error left the value
//! untouched, and list moves lose nothing.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use latchwork::LatchTable;
use latchwork::rmw::{
    Command, CoordinatorError, CoordinatorOptions, ListEnd, Reply, Rmw, RmwCoordinator,
};
use support::{Storm, dawdle, size};

type Latches = LatchTable<Vec<u8>>;

const HOUR: Duration = Duration::from_secs(3600);

fn coordinated(shards: usize) -> (Rmw, Latches, RmwCoordinator) {
    let latches = Latches::new();
    let rmw = Rmw::builder().latches(latches.clone()).build();
    let options = CoordinatorOptions::new().shards(shards).timeout(HOUR);
    let coordinator = RmwCoordinator::start(&rmw, options);
    (rmw, latches, coordinator)
}

/// Everything is back.
#[track_caller]
fn assert_quiet(latches: &Latches, coordinator: &RmwCoordinator) {
    assert_eq!((latches.held(), latches.waiters()), (0, 0), "{latches:?}");
    assert_eq!(coordinator.stats().waiting, 0, "{coordinator:?}");
    assert_eq!(latches.stats().leaked, 0);
}

/// `numbers` are all those from 1 on, each once.
fn assert_permutation(mut numbers: Vec<i64>) {
    numbers.sort_unstable();
    let all: Vec<i64> = (1..=numbers.len() as i64).collect();
    assert_eq!(numbers, all);
}

/// 50 threads, 1,000 increments of one key each, by every way: all are there, and every sum was
/// seen by one caller.
#[test]
fn fifty_threads_lose_no_increment() {
    const THREADS: u64 = 50;
    let rounds = size(1, 20);
    let storm = Storm::new("no lost increment");
    for _ in 0..rounds {
        let (rmw, latches, coordinator) = coordinated(2);
        let seen = storm.run(THREADS, |index, rng| {
            let shard = (index % 2) as usize;
            let mut seen = Vec::with_capacity(1000);
            while seen.len() < 1000 {
                let command = Command::incr("n", 1);
                let reply = match rng.u8(0..8) {
                    0 => rmw.incr_by("n", 1).map(Reply::Integer).unwrap(),
                    1 => {
                        let ticket = coordinator.submit(shard, command).unwrap();
                        ticket.wait().unwrap().unwrap()
                    }
                    2 => rmw
                        .update("n", |entry| {
                            let sum = entry.integer().unwrap().unwrap_or(0) + 1;
                            entry.set(sum);
                            Reply::Integer(sum)
                        })
                        .unwrap(),
                    _ => coordinator.execute(shard, command).unwrap(),
                };
                match reply {
                    Reply::Integer(sum) => seen.push(sum),
                    other => panic!("{other:?}"),
                }
            }
            seen
        });
        assert_permutation(seen.concat());
        assert_eq!(
            rmw.get("n").unwrap().and_then(|n| n.as_integer()),
            Some(THREADS as i64 * 1000)
        );
        assert_quiet(&latches, &coordinator);
        println!("{:?}", coordinator.stats());
    }
}

/// Time-outs and cancels race the execution: every error left the value untouched, and everything
/// else was executed once.
#[test]
fn a_time_out_that_races_the_execution_changes_nothing() {
    const THREADS: u64 = 8;
    let tries = size(100_000, 1_000_000);
    for keys in [1, 3] {
        let storm = Storm::new("cancel means never");
        let (rmw, latches, coordinator) = coordinated(2);
        let executed = AtomicU64::new(0);
        let (timed_out, cancelled) = (AtomicU64::new(0), AtomicU64::new(0));
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        storm.run(THREADS, |_, rng| {
            for _ in 0..tries / THREADS {
                let key = format!("k{}", rng.u64(0..keys));
                let shard = coordinator.shard_of(&key);
                match rng.u8(0..8) {
                    // The holder that makes the others queue.
                    0 => {
                        let held = latches.latch(key.as_bytes()).unwrap();
                        dawdle(rng, 2000);
                        drop(held);
                    }
                    1 | 2 => {
                        let ticket = coordinator.submit(shard, Command::incr(&*key, 1)).unwrap();
                        dawdle(rng, 3000);
                        let is_cancelled = ticket.cancel();
                        count(if is_cancelled { &cancelled } else { &executed });
                    }
                    how => {
                        let timeout = Duration::from_micros(rng.u64(0..100));
                        let command = Command::incr(&*key, 1);
                        let outcome = if how < 5 {
                            coordinator.execute_timeout(shard, command, timeout)
                        } else {
                            coordinator.execute_deadline(shard, command, Instant::now() + timeout)
                        };
                        match outcome {
                            Ok(Reply::Integer(_)) => count(&executed),
                            Err(CoordinatorError::TimedOut) => count(&timed_out),
                            other => panic!("{other:?}"),
                        };
                    }
                }
            }
        });
        let stats = coordinator.stats();
        // What was executed and not waited for may still hold its latch here.
        assert_eq!(coordinator.shutdown(), []);
        assert_quiet(&latches, &coordinator);
        let sum: i64 = (0..keys)
            .filter_map(|key| rmw.get(format!("k{key}")).unwrap()?.as_integer())
            .sum();
        assert_eq!(sum as u64, executed.into_inner());
        assert_eq!(stats.timed_out, timed_out.into_inner());
        println!("{keys} keys, {tries} tries: {cancelled:?} cancelled, {stats:?}");
    }
}

/// Lists in a ring, moved both ways round at once: no element is lost or doubled, and nobody waits
/// for somebody who waits for him.
#[test]
fn list_moves_round_a_ring_lose_nothing() {
    const LISTS: u64 = 4;
    const ELEMENTS: i64 = 100;
    let steps = size(2_000, 100_000);
    let storm = Storm::new("rings");
    let (rmw, latches, coordinator) = coordinated(2);
    for n in 1..=ELEMENTS {
        let list = format!("l{}", n as u64 % LISTS);
        rmw.rpush(list, [n.to_string().into_bytes()]).unwrap();
    }
    storm.run(8, |_, rng| {
        for _ in 0..steps {
            let from = rng.u64(0..LISTS);
            let to = (from + [1, LISTS - 1, 0][rng.usize(0..3)]) % LISTS;
            let (from, to) = (format!("l{from}"), format!("l{to}"));
            let end = |front| if front { ListEnd::Front } else { ListEnd::Back };
            let shard = coordinator.shard_of(&from);
            let (take, give) = (end(rng.bool()), end(rng.bool()));
            let command = Command::lmove(&*from, &*to, take, give);
            match rng.u8(0..8) {
                0 => drop(rmw.lmove(from, to, take, give).unwrap()),
                cancels @ (1 | 2) => match coordinator.submit(shard, command) {
                    Ok(ticket) if cancels == 1 => drop(ticket),
                    Ok(ticket) => drop(ticket.cancel()),
                    Err(error) => assert_eq!(error, CoordinatorError::Busy),
                },
                3 => {
                    let timeout = Duration::from_micros(rng.u64(0..100));
                    match coordinator.execute_timeout(shard, command, timeout) {
                        Ok(_) | Err(CoordinatorError::TimedOut) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                4 => {
                    // Both at once, so that moves of either key queue.
                    let held = latches.latch_many([from.as_bytes(), to.as_bytes()]);
                    dawdle(rng, 2000);
                    drop(held);
                }
                _ => drop(coordinator.execute(shard, command).unwrap()),
            }
        }
    });
    drop(coordinator.shutdown());
    assert_quiet(&latches, &coordinator);
    let elements = (0..LISTS).flat_map(|list| rmw.lrange(format!("l{list}"), 0, -1).unwrap());
    let numbers = elements.map(|element| String::from_utf8_lossy(&element).parse().unwrap());
    assert_permutation(numbers.collect());
    println!("{:?}", coordinator.stats());
}

/// Coordinators that are shut down in the middle: every call was executed, or refused and not
/// executed.
#[test]
fn a_shutdown_in_the_middle_executes_or_refuses_each_call() {
    let rounds = size(50, 2_000);
    let storm = Storm::new("shutdowns");
    for round in 0..rounds {
        let (rmw, latches, coordinator) = coordinated(1);
        let executed = AtomicU64::new(0);
        storm.run(6, |index, rng| {
            if index == 0 {
                let held = latches.latch(b"n".as_slice()).unwrap();
                dawdle(rng, 20_000);
                drop(held);
                dawdle(rng, 20_000);
                drop(coordinator.shutdown());
                return;
            }
            loop {
                match coordinator.execute(0, Command::incr("n", 1)) {
                    Ok(_) => drop(executed.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => return assert_eq!(error, CoordinatorError::ShutDown),
                }
            }
        });
        let sum = rmw.get("n").unwrap().map_or(0, |n| n.as_integer().unwrap());
        assert_eq!(sum as u64, executed.into_inner(), "round {round}");
        assert_quiet(&latches, &coordinator);
    }
}
