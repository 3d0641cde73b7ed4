//! Versions and effects: what tells one value of a key from the next, and what a log replays.
#![cfg(not(latchwork_loom))]

#[macro_use]
#[path = "support/forward.rs"]
mod forward;
#[path = "support/logged.rs"]
mod logged;
#[path = "support/seed.rs"]
mod seed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use latchwork::rmw::{Clock, ExpireWhen, GetExpiry, Record, Rmw, RmwError, SetOptions, Value};

use logged::Logged;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn every_change_of_a_key_gives_it_a_version_that_it_never_had() {
    let rmw = Rmw::builder().clock(Clock::manual(1_000)).build();
    let mut seen = BTreeSet::new();
    let changes: &[&dyn Fn()] = &[
        &|| rmw.set("k", "1").unwrap(),
        &|| {
            rmw.incr_by("k", 1).unwrap();
        },
        &|| {
            rmw.append("k", "2").unwrap();
        },
        &|| {
            rmw.append("k", vec![b'3'; 100]).unwrap();
        },
        &|| {
            rmw.append("k", "in place").unwrap();
        },
        &|| {
            rmw.append("k", vec![b'4'; 10_000]).unwrap();
        },
        &|| {
            rmw.setrange("k", 3, "x").unwrap();
        },
        &|| assert!(rmw.expire_in("k", SECOND, ExpireWhen::Always).unwrap()),
        &|| assert!(rmw.persist("k").unwrap()),
        &|| {
            rmw.getex("k", GetExpiry::In(SECOND)).unwrap();
        },
        &|| {
            rmw.getset("k", "v").unwrap();
        },
        &|| rmw.update("k", |entry| entry.set("w")).unwrap(),
        &|| rmw.mset([("k", 1), ("other", 2)]).unwrap(),
        &|| {
            rmw.del(&["k"]).unwrap();
            assert_eq!(rmw.version("k"), 0);
            rmw.set("k", "again").unwrap();
        },
        &|| {
            rmw.clear().unwrap();
            rmw.set("k", "and again").unwrap();
        },
    ];
    for (i, change) in changes.iter().enumerate() {
        change();
        let version = rmw.version("k");
        assert!(
            version > 0 && seen.insert(version),
            "change {i}: {version} in {seen:?}"
        );
    }
}

#[test]
fn what_changes_nothing_leaves_the_version() {
    let rmw = Rmw::new();
    rmw.set("k", "v").unwrap();
    let version = rmw.version("k");
    rmw.get("k").unwrap();
    rmw.append("k", "").unwrap();
    rmw.persist("k").unwrap();
    assert!(!rmw.set_if_missing("k", 1).unwrap());
    assert_eq!(rmw.incr_by("k", 1), Err(RmwError::NotAnInteger));
    rmw.update("k", |_| ()).unwrap();
    rmw.getex("k", GetExpiry::Keep).unwrap();
    assert_eq!(rmw.version("k"), version);
}

#[test]
fn an_expired_key_has_version_zero() {
    let clock = Clock::manual(1_000);
    let rmw = Rmw::builder().clock(clock.clone()).build();
    let soon = SetOptions::new().expire_in(SECOND);
    rmw.set_with("k", "v", &soon).unwrap();
    let version = rmw.version("k");
    clock.advance(2 * SECOND);
    assert_eq!(
        (rmw.version("k"), rmw.get_versioned("k")),
        (0, Ok((None, 0)))
    );
    assert_eq!(rmw.compare_and_set("k", version, "w"), Ok(Err(0)));
    assert!(rmw.compare_and_set("k", 0, "w").unwrap().is_ok());
    assert_eq!(rmw.get("k"), Ok(Some("w".into())));
    assert_eq!(rmw.stats().expired, 1);
}

#[test]
fn compare_and_set_writes_only_over_the_version_it_was_given() {
    let rmw = Rmw::builder().max_value_len(20).build();
    let first = rmw.compare_and_set("k", 0, "a").unwrap().unwrap();
    assert_eq!(rmw.version("k"), first);
    assert_eq!(rmw.compare_and_set("k", 0, "b"), Ok(Err(first)));
    let second = rmw.compare_and_set("k", first, "c").unwrap().unwrap();
    assert_eq!(rmw.compare_and_set("k", first, "d"), Ok(Err(second)));
    assert_eq!(rmw.get("k"), Ok(Some("c".into())));
    let too_long = rmw.compare_and_set("k", second, vec![0; 21]);
    assert_eq!(too_long, Err(RmwError::TooLong { len: 21, max: 20 }));
    rmw.del(&["k"]).unwrap();
    assert_eq!(rmw.compare_and_set("k", second, "e"), Ok(Err(0)));
}

#[test]
fn no_compare_and_set_is_lost_among_threads() {
    const THREADS: i64 = 8;
    const EACH: i64 = 500;
    let rmw = Rmw::new();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    loop {
                        let (value, version) = rmw.get_versioned("n").unwrap();
                        let number = value.map_or(0, |value| value.as_integer().unwrap());
                        let outcome = rmw.compare_and_set("n", version, number + 1).unwrap();
                        if outcome.is_ok() {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(rmw.get("n"), Ok(Some((THREADS * EACH).into())));
}

#[test]
fn replaying_the_effects_of_a_random_run_gives_the_same_records() {
    let seed = seed::announced();
    let mut random = fastrand::Rng::with_seed(seed);
    let store = Logged::default();
    let replayed = Arc::clone(&store.replayed);
    let clock = Clock::manual(1_000_000);
    let rmw = Rmw::builder().store(store).clock(clock.clone()).build();
    let keys = ["a", "b", "c", "d", "a key too long to be inline, by far"];
    for _ in 0..20_000 {
        clock.advance(Duration::from_millis(random.u64(..100)));
        let key = *random.choice(&keys).unwrap();
        let other = *random.choice(&keys).unwrap();
        match random.u8(..10) {
            0 => rmw.set(key, random.i64(-5..5)).unwrap(),
            1 => drop(rmw.append(key, vec![b'x'; random.usize(..3_000)])),
            2 => drop(rmw.setrange(key, random.u64(..9_000), "123")),
            3 => drop(rmw.incr_by(key, 3)),
            4 => drop(rmw.expire_in(key, Duration::from_millis(500), ExpireWhen::Always)),
            5 => drop(rmw.persist(key)),
            6 => drop(rmw.del(&[key, other])),
            7 => rmw.mset([(key, 1), (other, 2)]).unwrap(),
            8 => rmw.update(key, |entry| entry.set("updated")).unwrap(),
            _ => drop(rmw.getex(key, GetExpiry::In(Duration::from_millis(900)))),
        }
        let replayed = replayed.lock().unwrap();
        for key in keys {
            let record = replayed.get(key.as_bytes());
            let live = record.filter(|record| !record.is_expired(clock.now()));
            let expected: Option<&Value> = live.map(|record| &record.value);
            assert_eq!(rmw.get(key).unwrap().as_ref(), expected);
            assert_eq!(rmw.expires_at(key), live.map(Record::expires_at));
        }
    }
}
