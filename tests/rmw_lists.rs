//! Lists as their users see them.
#![cfg(not(latchwork_loom))]

use std::collections::BTreeSet;
use std::num::NonZeroI64;
use std::thread;
use std::time::Duration;

use latchwork::rmw::{
    Bytes, Clock, GetExpiry, Inserted, List, ListEnd, PosOptions, Rmw, RmwError, SetOptions, Ttl,
    Value, ValueType,
};

const LONG: u64 = 100_000;

fn all(rmw: &Rmw, key: &str) -> Vec<String> {
    let elements = rmw.lrange(key, 0, -1).unwrap();
    elements.iter().map(text).collect()
}

fn text(value: &Bytes) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

fn numbers(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|i| i.to_string())
}

fn long_list() -> Rmw {
    let rmw = Rmw::new();
    assert_eq!(rmw.rpush("k", numbers(0..LONG)), Ok(LONG));
    rmw
}

#[test]
fn pushes_and_pops_at_both_ends() {
    let rmw = Rmw::new();
    assert_eq!(rmw.rpush("k", ["b", "c"]), Ok(2));
    assert_eq!(rmw.lpush("k", ["a", "z"]), Ok(4));
    assert_eq!(all(&rmw, "k"), ["z", "a", "b", "c"]);
    assert_eq!(rmw.lpop("k"), Ok(Some("z".into())));
    assert_eq!(rmw.rpop("k"), Ok(Some("c".into())));
    assert_eq!(
        rmw.rpop_many("k", 9),
        Ok(Some(vec!["b".into(), "a".into()]))
    );
    assert_eq!(rmw.rpop("k"), Ok(None));
    assert_eq!(rmw.lpop_many("k", 0), Ok(None));
}

#[test]
fn an_emptied_list_is_a_missing_key() {
    let rmw = Rmw::new();
    let empty: [&dyn Fn(); 6] = [
        &|| drop(rmw.lpop("k")),
        &|| drop(rmw.rpop_many("k", 1_000)),
        &|| drop(rmw.lrem("k", 0, "a")),
        &|| drop(rmw.ltrim("k", 1, 0)),
        &|| drop(rmw.rpoplpush("k", "other")),
        &|| drop(rmw.lmpop(&["k"], ListEnd::Back, 1)),
    ];
    for (i, empty) in empty.iter().enumerate() {
        rmw.rpush("k", ["a"]).unwrap();
        empty();
        assert!(!rmw.contains("k"), "way {i}");
    }
    let value = || Value::from(List::new());
    rmw.set("k", value()).unwrap();
    rmw.mset([("k", value()), ("l", value())]).unwrap();
    rmw.mset_if_missing([("k", value())]).unwrap();
    rmw.update("k", |entry| entry.set(value())).unwrap();
    assert_eq!(rmw.compare_and_set("k", 0, value()), Ok(Ok(0)));
    assert_eq!(rmw.exists(&["k", "l"]), 0);
    assert_eq!(rmw.rpush("k", Vec::<Bytes>::new()), Ok(0));
    assert!(!rmw.contains("k"));
}

#[test]
fn no_values_and_a_pop_of_none_change_nothing() {
    let rmw = Rmw::new();
    rmw.rpush("k", ["a"]).unwrap();
    let version = rmw.version("k");
    assert_eq!(rmw.lpush("k", Vec::<Bytes>::new()), Ok(1));
    assert_eq!(rmw.lpop_many("k", 0), Ok(Some(vec![])));
    assert_eq!(rmw.lrem("k", 0, "x"), Ok(0));
    assert_eq!(rmw.linsert_after("k", "x", "y"), Ok(Inserted::NoPivot));
    assert_eq!(rmw.version("k"), version);
    rmw.lset("k", 0, "b").unwrap();
    assert_ne!(rmw.version("k"), version);
}

#[test]
fn a_push_that_wants_a_list_makes_none() {
    let rmw = Rmw::new();
    assert_eq!(rmw.lpush_if_present("k", ["a"]), Ok(0));
    assert_eq!(rmw.rpush_if_present("k", ["a"]), Ok(0));
    assert!(rmw.is_empty());
}

#[test]
fn indices_count_from_either_end() {
    let rmw = Rmw::new();
    rmw.rpush("k", ["a", "b", "c"]).unwrap();
    for (index, expected) in [(0, "a"), (2, "c"), (-1, "c"), (-3, "a")] {
        assert_eq!(rmw.lindex("k", index), Ok(Some(expected.into())));
        rmw.lset("k", index, "x").unwrap();
        assert_eq!(rmw.lindex("k", index), Ok(Some("x".into())));
        rmw.lset("k", index, expected).unwrap();
    }
    for index in [3, -4, i64::MAX, i64::MIN] {
        assert_eq!(rmw.lindex("k", index), Ok(None));
        assert_eq!(rmw.lset("k", index, "x"), Err(RmwError::IndexOutOfRange));
    }
    assert_eq!(rmw.lset("missing", 0, "x"), Err(RmwError::NoSuchKey));
}

#[test]
fn ranges_are_cut_as_redis_cuts_them() {
    let rmw = Rmw::new();
    rmw.rpush("k", ["a", "b", "c", "d"]).unwrap();
    for (start, stop, expected) in [
        (0, -1, "abcd"),
        (1, 2, "bc"),
        (-2, -1, "cd"),
        (-100, 0, "a"),
        (0, -100, ""),
        (2, 100, "cd"),
        (3, 1, ""),
        (4, 9, ""),
        (i64::MIN, i64::MAX, "abcd"),
        (-1, -2, ""),
    ] {
        assert_eq!(rmw.lrange("k", start, stop).unwrap().len(), expected.len());
        let copy = Rmw::new();
        copy.rpush("k", rmw.lrange("k", 0, -1).unwrap()).unwrap();
        copy.ltrim("k", start, stop).unwrap();
        assert_eq!(all(&copy, "k").concat(), expected, "{start} {stop}");
    }
}

#[test]
fn positions_follow_rank_count_and_length() {
    let rmw = Rmw::new();
    rmw.rpush("k", ["a", "b", "c", "1", "2", "3", "c", "c"])
        .unwrap();
    let rank = |rank| PosOptions::new().rank(NonZeroI64::new(rank).unwrap());
    for (options, expected) in [
        (PosOptions::new(), &[2][..]),
        (rank(2), &[6]),
        (rank(-1), &[7]),
        (PosOptions::new().count(2), &[2, 6]),
        (rank(-1).count(2), &[7, 6]),
        (rank(2).count(0), &[6, 7]),
        (rank(4), &[]),
        (rank(i64::MIN), &[]),
        (PosOptions::new().count(0).max_len(7), &[2, 6]),
        (rank(-1).count(0).max_len(2), &[7, 6]),
        (PosOptions::new().max_len(2), &[]),
    ] {
        assert_eq!(rmw.lpos_with("k", "c", &options).unwrap(), expected);
    }
    assert_eq!(rmw.lpos("missing", "c"), Ok(None));
}

#[test]
fn inserts_beside_the_first_pivot() {
    let rmw = Rmw::new();
    rmw.rpush("k", ["a", "p", "p"]).unwrap();
    assert_eq!(rmw.linsert_before("k", "p", "x"), Ok(Inserted::Len(4)));
    assert_eq!(rmw.linsert_after("k", "p", "y"), Ok(Inserted::Len(5)));
    assert_eq!(all(&rmw, "k"), ["a", "x", "p", "y", "p"]);
    assert_eq!(rmw.linsert_after("none", "p", "y"), Ok(Inserted::Missing));
}

#[test]
fn removes_from_the_side_that_the_count_says() {
    for (count, expected, removed) in [
        (0, "bc", 4),
        (2, "bcaa", 2),
        (-2, "aabc", 2),
        (9, "bc", 4),
        (i64::MIN, "bc", 4),
    ] {
        let rmw = Rmw::new();
        rmw.rpush("k", ["a", "a", "b", "c", "a", "a"]).unwrap();
        assert_eq!(rmw.lrem("k", count, "a"), Ok(removed));
        assert_eq!(all(&rmw, "k").concat(), expected, "{count}");
    }
}

#[test]
fn moves_between_any_two_ends() {
    use ListEnd::{Back, Front};
    for (from, to, source, destination) in [
        (Front, Front, "bc", "axy"),
        (Front, Back, "bc", "xya"),
        (Back, Front, "ab", "cxy"),
        (Back, Back, "ab", "xyc"),
    ] {
        let rmw = Rmw::new();
        rmw.rpush("s", ["a", "b", "c"]).unwrap();
        rmw.rpush("d", ["x", "y"]).unwrap();
        assert!(rmw.lmove("s", "d", from, to).unwrap().is_some());
        assert_eq!(all(&rmw, "s").concat(), source);
        assert_eq!(all(&rmw, "d").concat(), destination);
    }
}

#[test]
fn a_move_onto_itself_rotates_and_keeps_the_expiry() {
    use ListEnd::{Back, Front};
    let rmw = Rmw::builder().clock(Clock::manual(1)).build();
    rmw.rpush("k", ["a", "b", "c"]).unwrap();
    for (from, to, expected) in [
        (Back, Front, "cab"),
        (Front, Back, "abc"),
        (Front, Front, "abc"),
        (Back, Back, "abc"),
    ] {
        rmw.lmove("k", "k", from, to).unwrap();
        assert_eq!(all(&rmw, "k").concat(), expected);
    }
    rmw.ltrim("k", 0, 0).unwrap();
    rmw.expire_at("k", 99, Default::default()).unwrap();
    assert_eq!(rmw.rpoplpush("k", "k"), Ok(Some("a".into())));
    assert_eq!(rmw.expires_at("k"), Some(Some(99)));
}

#[test]
fn a_move_looks_at_the_destination_only_if_there_is_something_to_move() {
    let rmw = Rmw::new();
    rmw.set("string", "v").unwrap();
    assert_eq!(rmw.rpoplpush("missing", "string"), Ok(None));
    rmw.rpush("k", ["a"]).unwrap();
    assert_eq!(rmw.rpoplpush("k", "string"), Err(RmwError::WrongType));
    assert_eq!(rmw.rpoplpush("string", "k"), Err(RmwError::WrongType));
    assert_eq!(rmw.rpoplpush("string", "string"), Err(RmwError::WrongType));
    assert_eq!(all(&rmw, "k"), ["a"]);
}

#[test]
fn takes_from_the_first_list_that_is_there() {
    let rmw = Rmw::new();
    assert_eq!(rmw.lmpop(&["a", "b"], ListEnd::Front, 1), Ok(None));
    rmw.rpush("b", ["1", "2", "3"]).unwrap();
    let popped = rmw.lmpop(&["a", "b", "b"], ListEnd::Back, 2);
    assert_eq!(popped, Ok(Some((1, vec!["3".into(), "2".into()]))));
    rmw.set("string", "v").unwrap();
    let wrong = rmw.lmpop(&["a", "string", "b"], ListEnd::Front, 1);
    assert_eq!(wrong, Err(RmwError::WrongType));
    let before = rmw.lmpop(&["b", "string"], ListEnd::Front, 1);
    assert_eq!(before, Ok(Some((0, vec!["1".into()]))));
}

#[test]
fn string_commands_refuse_a_list() {
    let rmw = Rmw::new();
    rmw.rpush("k", ["a"]).unwrap();
    let wrong = RmwError::WrongType;
    assert_eq!(rmw.get("k"), Err(wrong.clone()));
    assert_eq!(rmw.strlen("k"), Err(wrong.clone()));
    assert_eq!(rmw.getrange("k", 0, -1), Err(wrong.clone()));
    assert_eq!(rmw.append("k", "x"), Err(wrong.clone()));
    assert_eq!(rmw.append("k", ""), Err(wrong.clone()));
    assert_eq!(rmw.setrange("k", 0, "x"), Err(wrong.clone()));
    assert_eq!(rmw.setrange("k", 0, ""), Err(wrong.clone()));
    assert_eq!(rmw.incr_by("k", 1), Err(wrong.clone()));
    assert_eq!(rmw.getset("k", "x"), Err(wrong.clone()));
    assert_eq!(rmw.getdel("k"), Err(wrong.clone()));
    assert_eq!(rmw.getex("k", GetExpiry::Clear), Err(wrong.clone()));
    assert_eq!(rmw.get_versioned("k"), Err(wrong.clone()));
    let get = SetOptions::new().get();
    assert_eq!(rmw.set_with("k", "x", &get), Err(wrong.clone()));
    assert_eq!(rmw.update("k", |entry| entry.integer()), Ok(Err(wrong)));
    assert_eq!(rmw.mget(&["k"]), [None]);
    assert_eq!(all(&rmw, "k"), ["a"]);
}

#[test]
fn list_commands_refuse_a_string() {
    let rmw = Rmw::new();
    rmw.set("k", "v").unwrap();
    let wrong = RmwError::WrongType;
    assert_eq!(rmw.lpush("k", ["x"]), Err(wrong.clone()));
    assert_eq!(rmw.rpush("k", Vec::<Bytes>::new()), Err(wrong.clone()));
    assert_eq!(rmw.rpush_if_present("k", ["x"]), Err(wrong.clone()));
    assert_eq!(rmw.lpop("k"), Err(wrong.clone()));
    assert_eq!(rmw.rpop_many("k", 1), Err(wrong.clone()));
    assert_eq!(rmw.rpop_many("k", 1_000), Err(wrong.clone()));
    assert_eq!(rmw.llen("k"), Err(wrong.clone()));
    assert_eq!(rmw.lindex("k", 0), Err(wrong.clone()));
    assert_eq!(rmw.lset("k", 0, "x"), Err(wrong.clone()));
    assert_eq!(rmw.lrange("k", 0, 0), Err(wrong.clone()));
    assert_eq!(rmw.ltrim("k", 0, 0), Err(wrong.clone()));
    assert_eq!(rmw.lrem("k", 0, "x"), Err(wrong.clone()));
    assert_eq!(rmw.linsert_before("k", "x", "x"), Err(wrong.clone()));
    assert_eq!(rmw.lpos("k", "x"), Err(wrong));
    assert_eq!(rmw.get("k"), Ok(Some("v".into())));
}

#[test]
fn commands_for_any_type_take_a_list() {
    let rmw = Rmw::builder().clock(Clock::manual(1)).build();
    rmw.rpush("k", ["a"]).unwrap();
    assert_eq!(rmw.value_type("k"), Some(ValueType::List));
    assert_eq!(ValueType::List.name(), "list");
    assert_eq!(rmw.exists(&["k"]), 1);
    assert!(
        rmw.expire_in("k", Duration::from_secs(1), Default::default())
            .unwrap()
    );
    assert_eq!(rmw.ttl("k"), Ttl::Remaining(Duration::from_secs(1)));
    rmw.rpush("k", ["b"]).unwrap();
    assert_eq!(rmw.lpop("k"), Ok(Some("a".into())));
    assert_eq!(rmw.ttl("k"), Ttl::Remaining(Duration::from_secs(1)));
    assert!(rmw.persist("k").unwrap());
    assert!(!rmw.set_if_missing("k", 1).unwrap());
    assert_eq!(rmw.del(&["k"]), Ok(1));
    rmw.rpush("k", ["a"]).unwrap();
    rmw.set("k", "v").unwrap();
    assert_eq!(rmw.get("k"), Ok(Some("v".into())));
}

#[test]
fn an_expired_list_is_missing_to_every_list_command() {
    let clock = Clock::manual(10);
    let rmw = Rmw::builder().clock(clock.clone()).build();
    let expired = |key| {
        rmw.rpush(key, ["old", "old"]).unwrap();
        rmw.expire_at(key, clock.now() + 5, Default::default())
            .unwrap();
        clock.advance(Duration::from_millis(6));
    };
    expired("k");
    assert_eq!(rmw.rpush_if_present("k", ["a"]), Ok(0));
    expired("k");
    assert_eq!(rmw.rpush("k", ["a"]), Ok(1));
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    rmw.del(&["k"]).unwrap();
    expired("k");
    assert_eq!(rmw.lrem("k", 0, "old"), Ok(0));
    assert_eq!(rmw.len(), 0, "a write deletes what has expired");
    expired("k");
    assert_eq!(rmw.rpoplpush("k", "d"), Ok(None));
    assert_eq!(rmw.len(), 0);
    expired("d");
    rmw.rpush("k", ["a"]).unwrap();
    assert_eq!(rmw.rpoplpush("k", "d"), Ok(Some("a".into())));
    assert_eq!(all(&rmw, "d"), ["a"]);
    assert_eq!(rmw.ttl("d"), Ttl::Persistent);
    expired("k");
    assert_eq!(rmw.lmpop(&["k"], ListEnd::Front, 1), Ok(None));
    assert_eq!(rmw.lrange("k", 0, -1), Ok(vec![]));
    assert_eq!(rmw.lset("k", 0, "x"), Err(RmwError::NoSuchKey));
}

#[test]
fn an_element_above_the_limit_is_refused() {
    let rmw = Rmw::builder().max_value_len(3).build();
    let too_long = RmwError::TooLong { len: 4, max: 3 };
    rmw.rpush("k", ["abc"]).unwrap();
    assert_eq!(rmw.rpush("k", ["a", "long"]), Err(too_long.clone()));
    assert_eq!(rmw.lset("k", 0, "long"), Err(too_long.clone()));
    assert_eq!(
        rmw.linsert_before("k", "abc", "long"),
        Err(too_long.clone())
    );
    let list: List = ["a", "long"].into_iter().collect();
    assert_eq!(rmw.set("k", list.clone()), Err(too_long.clone()));
    assert_eq!(rmw.update("k", |entry| entry.set(list)), Err(too_long));
    assert_eq!(all(&rmw, "k"), ["abc"]);
    let mut list: List = ["a", "long"].into_iter().collect();
    list.pop(ListEnd::Back);
    rmw.set("k", list).unwrap();
    assert_eq!(all(&rmw, "k"), ["a"]);
}

#[test]
fn changes_of_many_elements_of_a_long_list_are_whole() {
    let rmw = long_list();
    let held = rmw.lrange("k", 0, -1).unwrap();
    assert_eq!(rmw.lpop_many("k", 10_000).unwrap().unwrap().len(), 10_000);
    assert_eq!(rmw.lindex("k", 0), Ok(Some("10000".into())));
    rmw.lset("k", 45_000, "middle").unwrap();
    assert_eq!(rmw.lindex("k", 45_000), Ok(Some("middle".into())));
    assert_eq!(
        rmw.linsert_after("k", "middle", "next"),
        Ok(Inserted::Len(90_001))
    );
    assert_eq!(rmw.lpos("k", "next"), Ok(Some(45_001)));
    assert_eq!(rmw.lrem("k", 0, "next"), Ok(1));
    rmw.ltrim("k", 100, 20_099).unwrap();
    assert_eq!(rmw.llen("k"), Ok(20_000));
    assert_eq!(rmw.lrange("k", 0, -1).unwrap()[..], held[10_100..30_100]);
    assert_eq!(rmw.rpush("k", numbers(0..5_000)), Ok(25_000));
    rmw.ltrim("k", 1, 0).unwrap();
    assert!(rmw.is_empty());
}

#[test]
fn a_snapshot_that_somebody_holds_stays_as_it_was() {
    let rmw = long_list();
    rmw.get_with("k", |value| {
        let Some(Value::List(list)) = value else {
            panic!("a list")
        };
        rmw.lpop("k").unwrap();
        rmw.rpush("k", ["x"]).unwrap();
        rmw.lset("k", 50_000, "y").unwrap();
        rmw.del(&["k"]).unwrap();
        assert!(list.iter().map(text).eq(numbers(0..LONG)));
    });
}

#[test]
fn every_element_is_popped_once_by_many_threads() {
    const THREADS: u64 = 8;
    const EACH: u64 = 5_000;
    let rmw = Rmw::new();
    let mut popped: Vec<Bytes> = Vec::new();
    thread::scope(|scope| {
        for t in 0..THREADS {
            let rmw = &rmw;
            scope.spawn(move || {
                for i in t * EACH..(t + 1) * EACH {
                    let value = [i.to_string()];
                    let pushed = if i % 2 == 0 {
                        rmw.lpush("k", value)
                    } else {
                        rmw.rpush("k", value)
                    };
                    pushed.unwrap();
                }
            });
        }
        let poppers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut popped = Vec::new();
                    while popped.len() < EACH as usize {
                        popped.extend(rmw.lpop("k").unwrap());
                        popped.extend(rmw.rpop("k").unwrap());
                    }
                    popped
                })
            })
            .collect();
        for popper in poppers {
            popped.extend(popper.join().unwrap());
        }
    });
    popped.extend(rmw.lrange("k", 0, -1).unwrap());
    assert_eq!(popped.len() as u64, THREADS * EACH);
    let distinct: BTreeSet<String> = popped.iter().map(text).collect();
    assert_eq!(distinct.len() as u64, THREADS * EACH);
}

#[test]
fn rings_of_moves_lose_and_double_nothing() {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    let rmw = Rmw::new();
    for (i, key) in KEYS.iter().enumerate() {
        let first = i as u64 * 100;
        rmw.rpush(key, numbers(first..first + 100)).unwrap();
    }
    thread::scope(|scope| {
        for t in 0..6 {
            let rmw = &rmw;
            scope.spawn(move || {
                for i in 0..5_000 {
                    let source = KEYS[(t + i) % 3];
                    let destination = KEYS[(t + i + 1 + i % 3) % 3];
                    rmw.rpoplpush(source, destination).unwrap();
                }
            });
        }
    });
    let left: Vec<String> = KEYS.iter().flat_map(|key| all(&rmw, key)).collect();
    assert_eq!(left.len(), 300);
    assert_eq!(left.iter().collect::<BTreeSet<_>>().len(), 300);
}
