//! Looking through all keys, renaming, and what they take in memory.
#![cfg(not(latchwork_loom))]

mod oracle;
#[path = "support/seed.rs"]
mod seed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use latchwork::rmw::{
    Bytes, Clock, MemStore, Rmw, RmwError, ScanOptions, SetOptions, Ttl, ValueType,
};
use oracle::{Answer, Redis};

const SECOND: Duration = Duration::from_secs(1);

/// The store that tests of one table need.
fn one_shard() -> Rmw {
    Rmw::builder().store(MemStore::with_shards(1)).build()
}

fn fill(rmw: &Rmw, keys: std::ops::Range<u64>) {
    for i in keys {
        rmw.set(format!("key:{i}"), i as i64).unwrap();
    }
}

/// A whole scan: how often each key came, and how many calls it took.
fn scan_all(
    rmw: &Rmw,
    options: &ScanOptions,
    mut between: impl FnMut(),
) -> (BTreeMap<Vec<u8>, usize>, u64) {
    let (mut cursor, mut calls, mut seen) = (0, 0, BTreeMap::new());
    loop {
        let page = rmw.scan(cursor, options);
        for key in page.keys {
            *seen.entry(key.to_vec()).or_default() += 1;
        }
        calls += 1;
        cursor = page.cursor;
        assert!(cursor < 1 << 63, "a client may know signed numbers only");
        if cursor == 0 {
            return (seen, calls);
        }
        between();
    }
}

#[test]
fn a_scan_of_keys_at_rest_returns_each_once() {
    for rmw in [one_shard(), Rmw::new()] {
        for count in [1, 10, 1_000, 1_000_000] {
            let options = ScanOptions::new().count(count);
            assert_eq!(scan_all(&rmw, &options, || ()).0.len() as u64, rmw.len());
            fill(&rmw, 0..2_000);
            let (seen, calls) = scan_all(&rmw, &options, || ());
            assert_eq!(seen.len(), 2_000);
            assert!(seen.values().all(|&times| times == 1));
            assert!(
                calls <= 2_000 * 20 / count as u64 + 1,
                "{calls} calls of {count}"
            );
            rmw.clear().unwrap();
        }
    }
}

#[test]
fn a_call_looks_at_few_keys_and_no_more() {
    let rmw = one_shard();
    fill(&rmw, 0..5_000);
    let page = rmw.scan(0, &ScanOptions::new().count(50));
    assert!(page.keys.len() <= 50 && page.cursor != 0);
    assert!(rmw.scan(0, &ScanOptions::new().count(0)).keys.len() <= 1);
}

#[test]
fn a_key_that_is_there_throughout_is_returned_while_tables_grow_and_shrink() {
    let rmw = one_shard();
    fill(&rmw, 0..200);
    let mut next = 200;
    // Each call meets a table that has just grown, or shrunk.
    let (seen, calls) = scan_all(&rmw, &ScanOptions::new().count(7), || {
        if next < 100_000 {
            fill(&rmw, next..next * 2);
            next *= 2;
        } else if next < 1_000_000 {
            for i in 200..next {
                rmw.del(&[format!("key:{i}")]).unwrap();
            }
            next = 1_000_000;
        }
    });
    for i in 0..200 {
        assert!(seen.contains_key(format!("key:{i}").as_bytes()), "key:{i}");
    }
    assert!(calls > 1);
}

#[test]
fn a_scan_ends_beside_writers_that_never_do() {
    let rmw = Rmw::builder().store(MemStore::with_shards(2)).build();
    fill(&rmw, 0..1_000);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 1_000;
            while !stop.load(Ordering::Relaxed) {
                fill(&rmw, next..next + 5_000);
                for i in next..next + 5_000 {
                    rmw.del(&[format!("key:{i}")]).unwrap();
                }
                next += 5_000;
            }
        });
        for _ in 0..20 {
            let (seen, _) = scan_all(&rmw, &ScanOptions::new().count(3), || ());
            let fixed = (0..1_000).filter(|i| seen.contains_key(format!("key:{i}").as_bytes()));
            assert_eq!(fixed.count(), 1_000);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn any_number_is_a_cursor() {
    let rmw = one_shard();
    fill(&rmw, 0..100);
    let mut random = fastrand::Rng::new();
    let odd = [
        1,
        u64::MAX,
        u64::MAX >> 1,
        1 << 48,
        1 << 47,
        (1 << 48) - 1,
        1 << 32,
    ];
    for cursor in odd.into_iter().chain((0..1_000).map(|_| random.u64(..))) {
        let page = rmw.scan(cursor, &ScanOptions::new().count(1_000));
        assert!(page.keys.len() <= 100 && page.cursor == 0, "{cursor}");
    }
}

#[test]
fn a_scan_filters_by_pattern_and_type_and_leaves_out_expired_keys() {
    let clock = Clock::manual(1_000);
    let rmw = Rmw::builder().clock(clock.clone()).build();
    fill(&rmw, 0..100);
    rmw.rpush("list", ["a"]).unwrap();
    let soon = SetOptions::new().expire_in(SECOND);
    rmw.set_with("key:soon", "v", &soon).unwrap();
    let count = |options: &ScanOptions| scan_all(&rmw, options, || ()).0.len();
    assert_eq!(count(&ScanOptions::new()), 102);
    assert_eq!(count(&ScanOptions::new().matching("key:1?")), 10);
    assert_eq!(count(&ScanOptions::new().of_type(ValueType::List)), 1);
    clock.advance(2 * SECOND);
    assert_eq!(count(&ScanOptions::new().of_type(ValueType::String)), 100);
    assert_eq!(rmw.keys("key:s*"), Vec::<Bytes>::new());
    assert_eq!(rmw.len(), 102, "a look deletes nothing");
}

#[test]
fn keys_returns_all_that_match_once() {
    let rmw = Rmw::new();
    fill(&rmw, 0..3_000);
    let keys = rmw.keys("key:[12]*");
    let distinct: BTreeSet<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    assert_eq!(
        (keys.len(), distinct.len()),
        (1 + 10 + 100 + 1_000 + 1 + 10 + 100 + 1_000, 2_222)
    );
    assert_eq!(rmw.keys("*").len(), 3_000);
}

#[test]
fn a_random_key_is_one_of_them_and_not_always_the_same() {
    let rmw = Rmw::builder().store(MemStore::with_shards(4)).build();
    assert_eq!(rmw.random_key(), None);
    fill(&rmw, 0..1_000);
    let picked: BTreeSet<Vec<u8>> = (0..200)
        .map(|_| rmw.random_key().unwrap().to_vec())
        .collect();
    assert!(picked.iter().all(|key| rmw.contains(key)));
    assert!(picked.len() > 50, "{} of 200", picked.len());
}

#[test]
fn a_scan_inside_a_transaction_is_refused() {
    let rmw = Rmw::new();
    let outcome = rmw.update_many(&["a"], |tx| Ok::<_, RmwError>(tx.keys("*")));
    assert_eq!(outcome, Err(RmwError::Undeclared));
}

#[test]
fn rename_moves_value_and_expiry_and_drops_what_was_there() {
    let rmw = Rmw::builder().clock(Clock::manual(1_000)).build();
    let soon = SetOptions::new().expire_in(SECOND);
    rmw.set_with("a", "v", &soon).unwrap();
    rmw.rpush("b", ["x"]).unwrap();
    rmw.rename("a", "b").unwrap();
    assert_eq!(rmw.get("b"), Ok(Some("v".into())));
    assert_eq!(rmw.ttl("b"), Ttl::Remaining(SECOND));
    assert_eq!((rmw.contains("a"), rmw.len()), (false, 1));
    rmw.set("c", 1).unwrap();
    rmw.rename("c", "b").unwrap();
    assert_eq!(rmw.ttl("b"), Ttl::Persistent);
}

#[test]
fn rename_refuses_a_missing_key_and_leaves_one_that_is_its_own_target() {
    let clock = Clock::manual(1_000);
    let rmw = Rmw::builder().clock(clock.clone()).build();
    assert_eq!(rmw.rename("a", "b"), Err(RmwError::NoSuchKey));
    assert_eq!(rmw.rename_if_missing("a", "a"), Err(RmwError::NoSuchKey));
    let soon = SetOptions::new().expire_in(SECOND);
    rmw.set_with("a", "v", &soon).unwrap();
    let version = rmw.version("a");
    assert_eq!(rmw.rename("a", "a"), Ok(()));
    assert_eq!(rmw.rename_if_missing("a", "a"), Ok(false));
    assert_eq!(rmw.version("a"), version);
    clock.advance(2 * SECOND);
    assert_eq!(rmw.rename("a", "b"), Err(RmwError::NoSuchKey));
}

#[test]
fn a_key_that_is_renamed_back_and_forth_is_never_missing() {
    let rmw = Rmw::new();
    rmw.set("a", "v").unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..2_000 {
                rmw.rename("a", "b").unwrap();
                assert!(rmw.rename_if_missing("b", "a").unwrap());
            }
        });
        while !writer.is_finished() {
            assert_eq!(rmw.exists(&["a", "b"]), 1);
        }
    });
}

#[test]
fn memory_follows_keys_and_values_and_is_given_back() {
    let rmw = Rmw::new();
    let empty = rmw.stats().memory;
    rmw.set("k", vec![0; 1_000_000]).unwrap();
    assert!(rmw.memory_of("k") >= 1_000_000);
    assert_eq!(rmw.memory_of("missing"), 0);
    assert!((1_000_000..1_010_000).contains(&(rmw.stats().memory - empty)));
    rmw.append("k", vec![0; 1_000_000]).unwrap();
    assert!(rmw.stats().memory - empty >= 2_000_000);
    rmw.set("k", 1).unwrap();
    assert!(rmw.stats().memory - empty < 10_000);
    for i in 0..20_000 {
        rmw.set(
            format!("a key that is longer than inline {i}"),
            vec![0; 100],
        )
        .unwrap();
    }
    assert!(rmw.stats().memory - empty > 20_000 * (64 + 100 + 32));
    rmw.update_many(&["k"], |tx| tx.append("k", vec![0; 9_000]))
        .unwrap()
        .unwrap();
    rmw.del(&["k"]).unwrap();
    for i in 0..20_000 {
        rmw.del(&[format!("a key that is longer than inline {i}")])
            .unwrap();
    }
    let left = rmw.stats().memory - empty;
    // Small tables stay: eight slots a shard.
    assert!(left < 2_500_000, "{left} bytes are left");
    rmw.clear().unwrap();
    assert_eq!(rmw.stats().memory, empty);
}

#[test]
fn patterns_agree_with_redis_server() {
    let Some(mut redis) = Redis::start() else {
        return;
    };
    let seed = seed::announced();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut text = |from: &[u8], most: usize| -> Vec<u8> {
        let len = random.usize(..=most);
        (0..len).map(|_| *random.choice(from).unwrap()).collect()
    };
    let names: BTreeSet<Vec<u8>> = (0..300).map(|_| text(b"abc]-^\\*[", 5)).collect();
    let patterns: Vec<Vec<u8>> = (0..3_000).map(|_| text(b"aabbc?**[]]^--\\", 8)).collect();
    let rmw = Rmw::new();
    for name in &names {
        rmw.set(name, 1).unwrap();
        redis.ask(&[vec![b"SET", name, b"1"]]);
    }
    for pattern in &patterns {
        let answer = redis.ask(&[vec![b"KEYS", pattern]]).remove(0);
        let Answer::Array(expected) = answer else {
            panic!("not expected: {answer:?}")
        };
        let expected: BTreeSet<Vec<u8>> = expected
            .into_iter()
            .map(|key| match key {
                Answer::Text(key) => key,
                other => panic!("not expected: {other:?}"),
            })
            .collect();
        let keys = rmw.keys(pattern);
        let keys: BTreeSet<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        let pattern = pattern.escape_ascii();
        assert_eq!(keys, expected, "seed {seed}: pattern {pattern}");
    }
}
