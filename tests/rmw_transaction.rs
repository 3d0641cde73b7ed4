//! Transactions: any commands on several keys at one moment, or none of them.
#![cfg(not(latchwork_loom))]

#[path = "support/seed.rs"]
mod seed;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use latchwork::rmw::{
    Clock, ExpireWhen, GetExpiry, Rmw, RmwError, SetOptions, Transaction, Ttl, Value,
};

const START: u64 = 1_700_000_000_000;
const SECOND: Duration = Duration::from_secs(1);

fn timed() -> (Rmw, Clock) {
    let clock = Clock::manual(START);
    (Rmw::builder().clock(clock.clone()).build(), clock)
}

fn text(rmw: &Rmw, key: &str) -> Option<String> {
    let value = rmw.get(key).unwrap()?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

fn number(rmw: &Rmw, key: &str) -> i64 {
    let value = rmw.get(key).unwrap();
    value.map_or(0, |value| value.as_integer().unwrap())
}

#[test]
fn every_command_inside_sees_what_those_before_it_did() {
    let (rmw, _) = timed();
    rmw.set("a", "old").unwrap();
    let soon = SetOptions::new().expire_in(SECOND);
    let outcome = rmw.update_many(&["a", "b", "c"], |tx| {
        assert_eq!(tx.append("a", "er")?, 5);
        assert_eq!(tx.get("a")?, Some("older".into()));
        assert_eq!(tx.setrange("a", 0, "bold")?, 5);
        assert_eq!(tx.getset("a", "new")?, Some("boldr".into()));
        assert!(tx.set_with("b", 1, &soon)?.applied);
        assert_eq!(tx.ttl("b"), Ttl::Remaining(SECOND));
        assert_eq!(tx.incr_by("b", 9)?, 10);
        assert_eq!(tx.strlen("b")?, 2);
        assert!(tx.persist("b")?);
        assert!(!tx.set_if_missing("b", 5)?);
        assert!(!tx.mset_if_missing([("b", 1), ("c", 1)])?);
        assert!(!tx.contains("c"));
        tx.mset([("c", 7), ("c", 8)])?;
        assert_eq!(tx.mget(&["b", "c"]), [Some(10.into()), Some(8.into())]);
        assert_eq!(tx.exists(&["a", "b", "c"]), 3);
        assert_eq!(tx.len(), 3);
        assert_eq!(tx.del(&["c", "a"])?, 2);
        assert_eq!(tx.len(), 1);
        assert_eq!(tx.update("c", |entry| entry.get().cloned())?, None);
        tx.update("c", |entry| entry.set("updated"))?;
        assert_eq!(tx.getdel("b")?, Some(10.into()));
        tx.getex("c", GetExpiry::In(SECOND))
    });
    assert_eq!(outcome, Ok(Ok(Some("updated".into()))));
    assert_eq!(
        rmw.mget(&["a", "b", "c"]),
        [None, None, Some("updated".into())]
    );
    assert_eq!(rmw.expires_at("c"), Some(Some(START + 1_000)));
    assert_eq!(rmw.stats().keys, 1);
}

#[test]
fn nothing_is_seen_outside_before_the_end() {
    let (rmw, _) = timed();
    rmw.set("a", "before").unwrap();
    rmw.update_many(&["a", "b"], |tx| {
        tx.set("a", "after")?;
        tx.set("b", "after")?;
        assert_eq!(rmw.mget(&["a", "b"]), [Some("before".into()), None]);
        Ok::<_, RmwError>(())
    })
    .unwrap()
    .unwrap();
    assert_eq!(text(&rmw, "a").as_deref(), Some("after"));
}

#[test]
fn an_error_or_a_panic_leaves_every_key_as_it_was_and_free() {
    let (rmw, _) = timed();
    rmw.mset([("a", 1), ("b", 2)]).unwrap();
    let change = |tx: &Transaction| {
        tx.incr_by("a", 10).unwrap();
        tx.del(&["b", "c"]).unwrap();
        tx.set("c", "new").unwrap();
    };
    let refused = rmw.update_many(&["a", "b", "c"], |tx| {
        change(tx);
        Err::<Infallible, _>("changed my mind")
    });
    assert_eq!(refused, Ok(Err("changed my mind")));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        rmw.update_many(&["a", "b", "c"], |tx| -> Result<(), ()> {
            change(tx);
            panic!("in the middle");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(
        rmw.mget(&["a", "b", "c"]),
        [Some(1.into()), Some(2.into()), None]
    );
    assert_eq!(rmw.incr_by("a", 1), Ok(2));
}

#[test]
fn a_refused_command_inside_fails_alone() {
    let (rmw, _) = timed();
    rmw.set("a", "text").unwrap();
    rmw.update_many(&["a", "b"], |tx| {
        assert_eq!(tx.incr_by("a", 1), Err(RmwError::NotAnInteger));
        tx.set("b", 1)
    })
    .unwrap()
    .unwrap();
    assert_eq!(rmw.mget(&["a", "b"]), [Some("text".into()), Some(1.into())]);
}

#[test]
fn a_key_that_was_not_named_fails_the_whole_transaction() {
    let (rmw, _) = timed();
    rmw.mset([("a", 1), ("b", 2)]).unwrap();
    let uses: &[&dyn Fn(&Transaction)] = &[
        &|tx| assert_eq!(tx.get("b").unwrap(), None),
        &|tx| tx.set("b", 3).unwrap(),
        &|tx| assert_eq!(tx.mget(&["a", "b"]), [Some(9.into()), None]),
        &|tx| assert_eq!(tx.del(&["a", "b"]), Ok(1)),
        &|tx| tx.update("b", |entry| entry.set(3)).unwrap(),
        &|tx| tx.clear().unwrap(),
    ];
    for (i, use_it) in uses.iter().enumerate() {
        let outcome = rmw.update_many(&["a"], |tx| {
            tx.set("a", 9)?;
            use_it(tx);
            Ok::<_, RmwError>(())
        });
        assert_eq!(outcome, Err(RmwError::Undeclared), "use {i}");
        assert_eq!(rmw.mget(&["a", "b"]), [Some(1.into()), Some(2.into())]);
    }
}

#[test]
fn no_key_expires_in_the_middle() {
    let (rmw, clock) = timed();
    let soon = SetOptions::new().expire_in(SECOND);
    rmw.set_with("a", "v", &soon).unwrap();
    rmw.update_many(&["a"], |tx| {
        assert!(tx.contains("a"));
        clock.advance(2 * SECOND);
        assert!(tx.contains("a") && !rmw.contains("a"));
        assert_eq!(tx.ttl("a"), Ttl::Remaining(SECOND));
        tx.append("a", "w")
    })
    .unwrap()
    .unwrap();
    assert_eq!(rmw.get("a"), Ok(None));
    assert_eq!((rmw.len(), rmw.sweep()), (1, 1));
}

#[test]
fn an_expired_key_is_missing_inside_and_counted_when_it_goes() {
    let (rmw, clock) = timed();
    let soon = SetOptions::new().expire_in(SECOND);
    for key in ["a", "b", "c"] {
        rmw.set_with(key, "old", &soon).unwrap();
    }
    clock.advance(2 * SECOND);
    rmw.update_many(&["a", "b", "c"], |tx| {
        assert!(!tx.contains("a"));
        assert_eq!(tx.append("a", "new")?, 3);
        assert_eq!(tx.expire_in("b", SECOND, ExpireWhen::Always), Ok(false));
        Ok::<_, RmwError>(())
    })
    .unwrap()
    .unwrap();
    assert_eq!(text(&rmw, "a").as_deref(), Some("new"));
    assert_eq!(rmw.ttl("a"), Ttl::Persistent);
    assert_eq!((rmw.len(), rmw.stats().expired), (2, 2));
}

#[test]
fn a_deadline_that_was_set_inside_is_swept() {
    let rmw = Rmw::builder().sweep_every(Duration::ZERO).build();
    let at = Clock::system().now() + 1;
    rmw.update_many(&["a"], |tx| {
        tx.set_with("a", 1, &SetOptions::new().expire_at(at))
    })
    .unwrap()
    .unwrap();
    // Ends when the sweeper has come by; the test's own time limit is the runner's.
    while !rmw.is_empty() {
        thread::yield_now();
    }
}

#[test]
fn a_transaction_holds_the_latches_of_its_keys_alone() {
    let (rmw, _) = timed();
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            rmw.set("other", 1).unwrap();
            barrier.wait();
        });
        rmw.update_many(&["a", "b", "a"], |_| {
            barrier.wait();
            barrier.wait();
            assert_eq!(rmw.set("a", 1), Err(RmwError::Reentrant));
            let inner = rmw.update_many(&["c"], |_| Ok::<_, RmwError>(()));
            assert_eq!(inner, Err(RmwError::Reentrant));
            Ok::<_, RmwError>(())
        })
        .unwrap()
        .unwrap();
    });
    assert_eq!(number(&rmw, "other"), 1);
}

#[test]
fn a_transaction_inside_another_is_undone_alone() {
    let (rmw, _) = timed();
    rmw.update_many(&["a", "b"], |tx| {
        tx.set("a", 1)?;
        let inner = tx.update_many(&["a", "b"], |inner| {
            inner.incr_by("a", 5)?;
            Err::<(), _>(RmwError::Overflow)
        })?;
        assert_eq!(inner, Err(RmwError::Overflow));
        assert_eq!(tx.get("a")?, Some(1.into()));
        tx.update_many(&["a"], |inner| inner.incr_by("a", 1))?
    })
    .unwrap()
    .unwrap();
    assert_eq!(number(&rmw, "a"), 2);
}

#[test]
fn a_transaction_on_no_keys_or_with_no_effect_changes_nothing() {
    let (rmw, _) = timed();
    rmw.set("a", 1).unwrap();
    let version = rmw.version("a");
    let nothing = rmw.update_many::<&str, _, RmwError>(&[], |tx| Ok(tx.len()));
    assert_eq!(nothing, Ok(Ok(0)));
    let looked = rmw.update_many(&["a"], |tx| tx.get("a"));
    assert_eq!(looked, Ok(Ok(Some(1.into()))));
    assert_eq!(rmw.version("a"), version);
}

#[test]
fn versions_tell_a_transaction_whether_a_key_was_changed() {
    let (rmw, _) = timed();
    rmw.set("a", 1).unwrap();
    let watched = rmw.version("a");
    let exec = || {
        rmw.update_many(&["a"], |tx| {
            if tx.version("a") != watched {
                return Err("changed");
            }
            let before = tx.version("a");
            tx.set("a", 2).unwrap();
            let inside = tx.version("a");
            assert_ne!(inside, before);
            assert_eq!(tx.compare_and_set("a", before, 3), Ok(Err(inside)));
            let next = tx.compare_and_set("a", inside, 4).unwrap().unwrap();
            assert_eq!(tx.version("a"), next);
            Ok(next)
        })
        .unwrap()
    };
    let inside = exec().unwrap();
    assert_eq!(exec(), Err("changed"));
    let after = rmw.version("a");
    assert!(after > watched && after != inside);
    assert_eq!(rmw.compare_and_set("a", inside, 5), Ok(Err(after)));
}

#[test]
fn a_clear_in_the_middle_comes_after_the_transaction() {
    let (rmw, _) = timed();
    rmw.mset([("a", 1), ("c", 1)]).unwrap();
    rmw.update_many(&["a", "b"], |tx| {
        // `a` was only read, and `b` was missing: neither may be there after the clear.
        assert!(tx.contains("a"));
        tx.set("b", 2)?;
        rmw.clear()
    })
    .unwrap()
    .unwrap();
    assert!(rmw.is_empty());
}

#[test]
fn long_strings_are_appended_to_and_overwritten_in_any_form() {
    let (rmw, _) = timed();
    let mut expected: Vec<Vec<u8>> = Vec::new();
    let keys: Vec<String> = (0..6).map(|i| format!("k{i}")).collect();
    let lens = [10, 100, 3_000, 5_000, 100_000, 100_000];
    for (key, len) in keys.iter().zip(lens) {
        rmw.set(key, vec![b'x'; len]).unwrap();
        expected.push(vec![b'x'; len]);
    }
    for round in 0..50 {
        let reader = rmw.get(&keys[5]).unwrap();
        rmw.update_many(&keys, |tx| {
            for (key, text) in keys.iter().zip(&mut expected) {
                let bytes = vec![b'a' + round as u8 % 26; 1 + round * 200];
                tx.append(key, &bytes)?;
                text.extend_from_slice(&bytes);
                if round % 3 == 0 {
                    tx.setrange(key, 5, "middle")?;
                    text[5..11].copy_from_slice(b"middle");
                }
            }
            Ok::<_, RmwError>(())
        })
        .unwrap()
        .unwrap();
        drop(reader);
        for (key, text) in keys.iter().zip(&expected) {
            assert!(rmw.get(key).unwrap().unwrap().to_vec() == *text, "{key}");
        }
    }
}

#[test]
fn no_sum_is_lost_or_torn_among_transfers() {
    const ACCOUNTS: i64 = 10;
    const EACH: i64 = 1_000;
    let rmw = Rmw::new();
    let keys: Vec<String> = (0..ACCOUNTS).map(|i| format!("account {i}")).collect();
    rmw.mset(keys.iter().map(|key| (key, EACH))).unwrap();
    let sum = |values: Vec<Option<Value>>| -> i64 {
        let numbers = values.iter().flatten().map(|v| v.as_integer().unwrap());
        numbers.sum()
    };
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    thread::scope(|scope| {
        let (rmw, keys) = (&rmw, &keys);
        let writers: Vec<_> = (0..8)
            .map(|i| {
                let mut random = fastrand::Rng::with_seed(seed.wrapping_add(i));
                scope.spawn(move || {
                    for _ in 0..500 {
                        let (from, to) = (random.choice(keys), random.choice(keys));
                        let (from, to) = (from.unwrap(), to.unwrap());
                        let amount = random.i64(1..100);
                        let fails = random.u8(..8) == 0;
                        let outcome = rmw.update_many(&[from, to], |tx| {
                            if tx.decr_by(from, amount)? < 0 || fails {
                                return Err(RmwError::Overflow);
                            }
                            tx.incr_by(to, amount).map(drop)
                        });
                        outcome.unwrap().ok();
                    }
                })
            })
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let values = rmw.mget(keys);
            assert_eq!(sum(values), ACCOUNTS * EACH, "seed {seed}");
        }
    });
    let values = rmw.mget(&keys);
    assert!(
        values
            .iter()
            .flatten()
            .all(|v| v.as_integer().unwrap() >= 0)
    );
    assert_eq!(sum(values), ACCOUNTS * EACH, "seed {seed}");
}

#[test]
fn random_transactions_do_what_the_same_commands_do_alone() {
    let seed = seed::announced();
    let mut random = fastrand::Rng::with_seed(seed);
    let (whole, clock) = timed();
    let single = Rmw::builder().clock(clock.clone()).build();
    let keys = ["a", "b", "c", "d"];
    for step in 0..3_000 {
        clock.advance(Duration::from_millis(random.u64(..400)));
        let commands: Vec<(usize, u64)> = (0..random.usize(..12))
            .map(|_| (random.usize(..keys.len()), random.u64(..)))
            .collect();
        let run =
            |&(key, dice): &(usize, u64), on: &dyn Fn(&str, u64) -> String| on(keys[key], dice);
        let alone: Vec<String> = commands
            .iter()
            .map(|command| run(command, &|key, dice| command_on(&single, key, dice)))
            .collect();
        let staged = whole
            .update_many(&keys, |tx| {
                let on_tx = |key: &str, dice| command_on(tx, key, dice);
                let answers = commands.iter().map(|command| run(command, &on_tx));
                Ok::<Vec<String>, Infallible>(answers.collect())
            })
            .unwrap()
            .unwrap();
        assert_eq!(staged, alone, "seed {seed}, step {step}");
        for key in keys {
            assert_eq!(whole.get(key), single.get(key), "seed {seed}, step {step}");
            assert_eq!(whole.expires_at(key), single.expires_at(key));
        }
    }
}

/// One random command and its answer.
fn command_on<S: latchwork::rmw::Store>(rmw: &Rmw<S>, key: &str, dice: u64) -> String {
    let amount = dice / 16 % 900;
    let soon = Duration::from_millis(amount + 1);
    match dice % 16 {
        0 => format!("{:?}", rmw.set(key, amount as i64)),
        1 => format!("{:?}", rmw.append(key, vec![b'x'; amount as usize * 3])),
        2 => format!("{:?}", rmw.setrange(key, amount * 3, "123")),
        3 | 4 => format!("{:?}", rmw.incr_by(key, amount as i64)),
        5 => format!("{:?}", rmw.expire_in(key, soon, ExpireWhen::Always)),
        6 => format!("{:?}", rmw.persist(key)),
        7 => format!("{:?}", rmw.del(&[key])),
        8 => format!("{:?}", rmw.mset([(key, 1), ("d", 2)])),
        9 => format!("{:?}", rmw.update(key, |entry| entry.set("updated"))),
        10 => format!("{:?}", rmw.getex(key, GetExpiry::In(soon))),
        11 => format!("{:?}", rmw.getdel(key)),
        12 => format!("{:?}", rmw.mset_if_missing([(key, 5), ("a", 6)])),
        13 => format!(
            "{:?}",
            rmw.set_with(key, "v", &SetOptions::new().expire_in(soon).get())
        ),
        14 => format!("{:?}", rmw.ttl(key)),
        _ => format!("{:?}", rmw.exists(&[key, "a"])),
    }
}

#[test]
fn a_write_inside_an_update_of_a_transaction_is_refused_and_not_overwritten() {
    let (rmw, _) = timed();
    rmw.update_many(&["a", "b"], |tx| {
        tx.set("a", 1)?;
        tx.update("a", |entry| {
            let reentrant = Err(RmwError::Reentrant);
            assert_eq!(tx.incr_by("a", 10), reentrant);
            assert_eq!(tx.incr_by("b", 10), reentrant);
            assert_eq!(tx.update("a", |_| 0), reentrant);
            assert_eq!(tx.del(&["a", "b"]), Err(RmwError::Reentrant));
            assert_eq!(tx.lrem("b", 0, "x"), Err(RmwError::Reentrant));
            let nested = tx.update_many(&["a"], |inner| inner.incr_by("a", 10));
            assert_eq!(nested, Err(RmwError::Reentrant));
            // A look is none.
            assert_eq!(tx.get("a"), Ok(Some(1.into())));
            entry.set(2);
        })?;
        // That one is over, and so is one that panics.
        let panicked = catch_unwind(AssertUnwindSafe(|| tx.update("a", |_| panic!("of course"))));
        assert!(panicked.is_err());
        tx.incr_by("b", 1)
    })
    .unwrap()
    .unwrap();
    assert_eq!((number(&rmw, "a"), number(&rmw, "b")), (2, 1));
}

#[test]
fn a_write_to_the_outer_transaction_inside_an_inner_one_is_refused() {
    let (rmw, _) = timed();
    rmw.update_many(&["a"], |tx| {
        tx.update_many(&["a"], |inner| {
            inner.set("a", 1)?;
            assert_eq!(tx.incr_by("a", 10), Err(RmwError::Reentrant));
            inner.update_many(&["a"], |third| third.incr_by("a", 1))?
        })??;
        tx.incr_by("a", 1)
    })
    .unwrap()
    .unwrap();
    assert_eq!(number(&rmw, "a"), 3);
}
