//! What each command does, refuses and leaves alone. Redis 7.0.15 is the oracle.
#![cfg(not(latchwork_loom))]

#[macro_use]
#[path = "support/forward.rs"]
mod forward;
#[path = "support/threadless.rs"]
mod threadless;

use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use latchwork::rmw::{
    Bytes, Clock, Effect, ExpireWhen, GetExpiry, Key, KeyHasher, MemStore, Record, Rmw, RmwError,
    SetOptions, Store, StoreError, Ttl, Value, ValueType,
};
use threadless::is_threadless;

const START: u64 = 1_700_000_000_000;
const MAX: u64 = i64::MAX as u64;
const SECOND: Duration = Duration::from_secs(1);

fn timed() -> (Rmw, Clock) {
    let clock = Clock::manual(START);
    (Rmw::builder().clock(clock.clone()).build(), clock)
}

fn text(rmw: &Rmw, key: &str) -> Option<String> {
    let value = rmw.get(key).unwrap()?;
    Some(String::from_utf8(value.to_vec()).unwrap())
}

/// A key with a value and a deadline one second away.
fn expiring(rmw: &Rmw, key: &str, value: impl Into<Value>) {
    let soon = SetOptions::new().expire_in(SECOND);
    assert!(rmw.set_with(key, value, &soon).unwrap().applied);
}

#[test]
fn keys_and_values_are_any_bytes_of_any_length() {
    let rmw = Rmw::new();
    for len in [0, 1, 21, 22, 23, 24, 100, 4095, 4096, 100_000] {
        let key: Vec<u8> = (0..len).map(|i| i as u8).collect();
        rmw.set(&key, key.clone()).unwrap();
        assert_eq!(rmw.get(&key).unwrap().unwrap().to_vec(), key);
    }
    assert_eq!(rmw.len(), 10);
}

#[test]
fn set_replaces_any_value_and_clears_the_expiry() {
    let (rmw, _) = timed();
    expiring(&rmw, "k", "v");
    rmw.set("k", 5).unwrap();
    assert_eq!(text(&rmw, "k").as_deref(), Some("5"));
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
}

#[test]
fn set_if_missing_and_if_present_change_nothing_otherwise() {
    let (rmw, clock) = timed();
    let (nx, xx) = (
        SetOptions::new().if_missing(),
        SetOptions::new().if_present(),
    );
    assert!(!rmw.set_with("k", "a", &xx).unwrap().applied);
    assert_eq!(rmw.get("k").unwrap(), None);
    assert!(rmw.set_with("k", "b", &nx).unwrap().applied);
    assert!(!rmw.set_with("k", "c", &nx).unwrap().applied);
    assert!(rmw.set_with("k", "d", &xx).unwrap().applied);
    assert_eq!(text(&rmw, "k").as_deref(), Some("d"));

    // An expired key is missing.
    expiring(&rmw, "k", "e");
    clock.advance(SECOND + SECOND);
    assert!(!rmw.set_with("k", "f", &xx).unwrap().applied);
    assert!(rmw.set_if_missing("k", "g").unwrap());
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
}

#[test]
fn set_get_returns_the_previous_value_also_when_it_does_not_apply() {
    let rmw = Rmw::new();
    let get = SetOptions::new().get();
    assert_eq!(rmw.set_with("k", "a", &get).unwrap().previous, None);
    let outcome = rmw.set_with("k", "b", &get.if_missing()).unwrap();
    assert_eq!(
        (outcome.applied, outcome.previous),
        (false, Some("a".into()))
    );
    let outcome = rmw.set_with("k", "c", &get.if_present()).unwrap();
    assert_eq!(
        (outcome.applied, outcome.previous),
        (true, Some("a".into()))
    );
    let without = rmw.set_with("k", "d", &SetOptions::new()).unwrap();
    assert_eq!(without.previous, None);
}

#[test]
fn set_keepttl_keeps_the_deadline_and_nothing_else_does() {
    let (rmw, _) = timed();
    expiring(&rmw, "k", "a");
    rmw.set_with("k", "b", &SetOptions::new().keep_expiry())
        .unwrap();
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 1000)));
    rmw.set_with("k", "c", &SetOptions::new()).unwrap();
    assert_eq!(rmw.expires_at("k"), Some(None));
}

#[test]
fn set_refuses_an_expiry_that_is_zero_or_cannot_be_said() {
    let (rmw, _) = timed();
    rmw.set("k", "old").unwrap();
    for bad in [
        SetOptions::new().expire_in(Duration::ZERO),
        SetOptions::new().expire_in(Duration::MAX),
        SetOptions::new().expire_in(Duration::from_millis(MAX - START + 1)),
        SetOptions::new().expire_at(0),
        SetOptions::new().expire_at(MAX + 1),
    ] {
        assert_eq!(rmw.set_with("k", "new", &bad), Err(RmwError::InvalidExpiry));
    }
    assert_eq!(text(&rmw, "k").as_deref(), Some("old"));
    let last = SetOptions::new().expire_in(Duration::from_millis(MAX - START));
    rmw.set_with("k", "new", &last).unwrap();
    assert_eq!(rmw.expires_at("k"), Some(Some(MAX)));
}

#[test]
fn durations_are_rounded_up_to_milliseconds() {
    let (rmw, _) = timed();
    for (nanos, millis) in [(1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)] {
        let options = SetOptions::new().expire_in(Duration::from_nanos(nanos));
        rmw.set_with("k", "v", &options).unwrap();
        assert_eq!(rmw.expires_at("k"), Some(Some(START + millis)));
    }
}

#[test]
fn a_deadline_in_the_past_leaves_the_key_missing() {
    let (rmw, _) = timed();
    rmw.set("k", "old").unwrap();
    let past = SetOptions::new().expire_at(START - 1);
    assert!(rmw.set_with("k", "v", &past).unwrap().applied);
    assert_eq!(rmw.get("k").unwrap(), None);
}

#[test]
fn a_key_lives_through_its_deadline_and_not_a_millisecond_longer() {
    let (rmw, clock) = timed();
    expiring(&rmw, "k", "v");
    clock.advance(SECOND);
    assert_eq!(rmw.ttl("k"), Ttl::Remaining(Duration::ZERO));
    assert!(rmw.contains("k"));
    clock.advance(Duration::from_millis(1));
    assert_eq!(rmw.ttl("k"), Ttl::Missing);
    assert!(!rmw.contains("k"));
}

#[test]
fn an_expired_key_is_missing_to_every_command() {
    let (rmw, clock) = timed();
    let gone = || {
        expiring(&rmw, "k", "12");
        clock.advance(SECOND * 2);
    };
    gone();
    assert_eq!(rmw.get("k").unwrap(), None);
    assert!(rmw.get_with("k", |value| value.is_none()));
    assert_eq!(rmw.mget(&["k", "k"]), [None, None]);
    assert_eq!((rmw.exists(&["k"]), rmw.exists(&["k", "k"])), (0, 0));
    assert_eq!(rmw.strlen("k").unwrap(), 0);
    assert_eq!(rmw.getrange("k", 0, -1).unwrap(), "".into());
    assert_eq!(rmw.value_type("k"), None);
    assert_eq!(rmw.expires_at("k"), None);
    assert_eq!(rmw.len(), 1, "reads delete nothing");
    assert_eq!(rmw.getdel("k").unwrap(), None);
    assert_eq!(rmw.len(), 0, "the first write does");

    gone();
    assert_eq!(rmw.del(&["k"]).unwrap(), 0);
    gone();
    assert_eq!(rmw.del(&["k", "other"]).unwrap(), 0);
    assert_eq!(rmw.len(), 0);
    gone();
    assert_eq!(rmw.incr_by("k", 1).unwrap(), 1);
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    gone();
    assert_eq!(rmw.append("k", "x").unwrap(), 1);
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    gone();
    assert_eq!(rmw.setrange("k", 1, "x").unwrap(), 2);
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    gone();
    assert_eq!(rmw.setrange("k", 1, "").unwrap(), 0);
    assert_eq!(rmw.len(), 0);
    gone();
    assert_eq!(rmw.getset("k", "v").unwrap(), None);
    gone();
    assert_eq!(rmw.getex("k", GetExpiry::Clear).unwrap(), None);
    gone();
    assert!(!rmw.persist("k").unwrap());
    gone();
    assert!(!rmw.expire_in("k", SECOND, ExpireWhen::Always).unwrap());
    gone();
    let keep = SetOptions::new().keep_expiry();
    rmw.set_with("k", "v", &keep).unwrap();
    assert_eq!(rmw.ttl("k"), Ttl::Persistent, "there was nothing to keep");
    gone();
    assert!(rmw.mset_if_missing([("k", 1), ("l", 2)]).unwrap());
    gone();
    assert!(rmw.update("k", |entry| entry.get().is_none()).unwrap());
    assert!(rmw.stats().expired >= 12);
}

#[test]
fn incr_counts_from_zero_and_keeps_the_expiry() {
    let (rmw, _) = timed();
    assert_eq!(rmw.incr_by("new", 1).unwrap(), 1);
    expiring(&rmw, "k", "10");
    assert_eq!(rmw.incr_by("k", -15).unwrap(), -5);
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 1000)));
    assert_eq!(text(&rmw, "k").as_deref(), Some("-5"));
    assert_eq!(rmw.strlen("k").unwrap(), 2);
}

#[test]
fn incr_refuses_what_is_not_a_canonical_integer() {
    let rmw = Rmw::new();
    let long = "1".repeat(100);
    for bad in [
        "",
        " ",
        "-",
        "+1",
        "01",
        "-0",
        "1 ",
        " 1",
        "1.0",
        "abc",
        "0x10",
        "1\n",
        "9223372036854775808",
        "-9223372036854775809",
        &long,
    ] {
        rmw.set("k", bad).unwrap();
        assert_eq!(rmw.incr_by("k", 1), Err(RmwError::NotAnInteger), "{bad:?}");
        assert_eq!(text(&rmw, "k").as_deref(), Some(bad));
    }
}

#[test]
fn incr_that_would_overflow_changes_nothing() {
    let rmw = Rmw::new();
    for (start, by) in [
        (i64::MAX, 1),
        (i64::MIN, -1),
        (1, i64::MAX),
        (-2, i64::MIN + 1),
        (-1, i64::MIN),
    ] {
        rmw.set("k", start.to_string()).unwrap();
        assert_eq!(rmw.incr_by("k", by), Err(RmwError::Overflow));
        assert_eq!(rmw.get("k").unwrap(), Some(start.into()));
    }
    rmw.set("k", i64::MAX - 1).unwrap();
    assert_eq!(rmw.incr_by("k", 1).unwrap(), i64::MAX);
    assert_eq!(rmw.incr_by("new", i64::MIN).unwrap(), i64::MIN);
}

#[test]
fn decr_subtracts_and_refuses_to_negate_the_smallest_number() {
    let rmw = Rmw::new();
    assert_eq!(rmw.decr_by("k", 3).unwrap(), -3);
    assert_eq!(rmw.decr_by("k", -5).unwrap(), 2);
    assert_eq!(rmw.decr_by("k", i64::MIN), Err(RmwError::Overflow));
    assert_eq!(rmw.get("k").unwrap(), Some(2.into()));
}

#[test]
fn append_makes_extends_and_keeps_the_expiry() {
    let (rmw, _) = timed();
    assert_eq!(rmw.append("new", "").unwrap(), 0);
    assert!(rmw.contains("new"), "an empty append makes the key");
    expiring(&rmw, "k", 12);
    assert_eq!(rmw.append("k", "3").unwrap(), 3);
    assert_eq!(rmw.append("k", "").unwrap(), 3);
    assert_eq!(rmw.incr_by("k", 1).unwrap(), 124);
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 1000)));
}

#[test]
fn a_string_grows_by_appends_through_every_representation() {
    let rmw = Rmw::new();
    let mut expected = Vec::new();
    let mut kept = Vec::new();
    for i in 0..3_000_u32 {
        let piece = i.to_string();
        expected.extend_from_slice(piece.as_bytes());
        assert_eq!(rmw.append("k", &piece).unwrap(), expected.len() as u64);
        if i % 97 == 0 {
            // A reader's value must not change under it.
            kept.push((rmw.get("k").unwrap().unwrap(), expected.clone()));
        }
    }
    assert_eq!(rmw.get("k").unwrap().unwrap().to_vec(), expected);
    for (value, expected) in kept {
        assert_eq!(value.to_vec(), expected);
    }
}

#[test]
fn setrange_overwrites_pads_and_keeps_the_expiry() {
    let (rmw, _) = timed();
    assert_eq!(rmw.setrange("none", 5, "").unwrap(), 0);
    assert!(!rmw.contains("none"), "nothing to write makes no key");
    assert_eq!(rmw.setrange("new", 3, "ab").unwrap(), 5);
    assert_eq!(text(&rmw, "new").as_deref(), Some("\0\0\0ab"));
    expiring(&rmw, "k", 123_456);
    assert_eq!(rmw.setrange("k", 1, "99").unwrap(), 6);
    assert_eq!(text(&rmw, "k").as_deref(), Some("199456"));
    assert_eq!(rmw.setrange("k", 9, "").unwrap(), 6);
    assert_eq!(rmw.setrange("k", 10_000, "z").unwrap(), 10_001);
    assert_eq!(rmw.getrange("k", 5, 6).unwrap(), "6\0".into());
    assert_eq!(rmw.getrange("k", -1, -1).unwrap(), "z".into());
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 1000)));
}

#[test]
fn nothing_grows_over_the_limit() {
    let rmw = Rmw::builder().max_value_len(10).build();
    let too_long = |len| Err(RmwError::TooLong { len, max: 10 });
    rmw.set("k", "0123456789").unwrap();
    assert_eq!(rmw.append("k", "x"), too_long(11));
    assert_eq!(rmw.setrange("k", 10, "x"), too_long(11));
    assert_eq!(rmw.setrange("k", u64::MAX, "x"), too_long(u64::MAX));
    assert_eq!(rmw.setrange("k", 1 << 40, "x"), too_long((1 << 40) + 1));
    assert_eq!(rmw.setrange("none", 10, "x"), too_long(11));
    assert_eq!(rmw.setrange("k", u64::MAX, "").unwrap(), 10);
    assert_eq!(rmw.set("k", "01234567890").map(|()| 0), too_long(11));
    assert_eq!(rmw.set("k", i64::MIN).map(|()| 0), too_long(20));
    assert_eq!(
        rmw.mset([("a", "1"), ("b", "01234567890")]).map(|()| 0),
        too_long(11)
    );
    assert_eq!(
        rmw.update("k", |entry| entry.set("01234567890"))
            .map(|()| 0),
        too_long(11)
    );
    assert_eq!(rmw.incr_by("n", 10_000_000_000).map(|_| 0), too_long(11));
    assert_eq!(text(&rmw, "k").as_deref(), Some("0123456789"));
    assert_eq!(rmw.len(), 1);

    let default = Rmw::new();
    let max = 512 << 20;
    assert_eq!(
        default.setrange("k", max, "x"),
        Err(RmwError::TooLong { len: max + 1, max })
    );
    assert!(default.is_empty());
}

#[test]
fn getrange_cuts_like_redis() {
    let rmw = Rmw::new();
    rmw.set("k", "0123456789").unwrap();
    for (start, end, expected) in [
        (0, -1, "0123456789"),
        (0, 0, "0"),
        (-3, -1, "789"),
        (-100, 2, "012"),
        (-100, -100, "0"),
        (-100, -101, ""),
        (5, 2, ""),
        (-1, -3, ""),
        (7, 100, "789"),
        (10, 12, ""),
        (i64::MIN, i64::MAX, "0123456789"),
        (i64::MAX, i64::MAX, ""),
        (0, i64::MIN, "0"),
    ] {
        assert_eq!(
            rmw.getrange("k", start, end).unwrap(),
            expected.into(),
            "{start} {end}"
        );
    }
    rmw.set("n", -120).unwrap();
    assert_eq!(rmw.getrange("n", 0, 1).unwrap(), "-1".into());
    assert_eq!(rmw.getrange("missing", 0, -1).unwrap(), "".into());
    rmw.set("empty", "").unwrap();
    assert_eq!(rmw.getrange("empty", -1, 0).unwrap(), "".into());
}

#[test]
fn getset_and_getdel_return_what_was_there() {
    let (rmw, _) = timed();
    expiring(&rmw, "k", "a");
    assert_eq!(rmw.getset("k", "b").unwrap(), Some("a".into()));
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    assert_eq!(rmw.getdel("k").unwrap(), Some("b".into()));
    assert_eq!(rmw.getdel("k").unwrap(), None);
}

#[test]
fn getex_sets_clears_or_leaves_the_expiry() {
    let (rmw, _) = timed();
    rmw.set("k", "v").unwrap();
    let value = Some(Value::from("v"));
    assert_eq!(rmw.getex("k", GetExpiry::In(SECOND)).unwrap(), value);
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 1000)));
    assert_eq!(rmw.getex("k", GetExpiry::Keep).unwrap(), value);
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 1000)));
    assert_eq!(rmw.getex("k", GetExpiry::At(START + 5)).unwrap(), value);
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 5)));
    for bad in [
        GetExpiry::In(Duration::ZERO),
        GetExpiry::At(0),
        GetExpiry::At(MAX + 1),
    ] {
        assert_eq!(rmw.getex("k", bad), Err(RmwError::InvalidExpiry));
        assert_eq!(rmw.getex("missing", bad), Ok(None));
    }
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 5)));
    assert_eq!(rmw.getex("k", GetExpiry::Clear).unwrap(), value);
    assert_eq!(rmw.getex("k", GetExpiry::Clear).unwrap(), value);
    assert_eq!(rmw.expires_at("k"), Some(None));
    assert_eq!(rmw.getex("k", GetExpiry::At(START)).unwrap(), value);
    assert!(rmw.is_empty(), "a time that has passed deletes");
}

#[test]
fn expire_obeys_its_condition() {
    let (rmw, _) = timed();
    let try_at = |old: Option<u64>, new: u64, when| {
        rmw.set("k", "v").unwrap();
        if let Some(old) = old {
            assert!(rmw.expire_at("k", START + old, ExpireWhen::Always).unwrap());
        }
        let applied = rmw.expire_at("k", START + new, when).unwrap();
        let expected = if applied { Some(new) } else { old };
        assert_eq!(rmw.expires_at("k"), Some(expected.map(|at| START + at)));
        applied
    };
    use ExpireWhen::*;
    for (old, new, when, applies) in [
        (None, 9, Always, true),
        (Some(5), 9, Always, true),
        (None, 9, Persistent, true),
        (Some(5), 9, Persistent, false),
        (None, 9, Expiring, false),
        (Some(5), 9, Expiring, true),
        (None, 9, Later, false),
        (Some(5), 9, Later, true),
        (Some(9), 9, Later, false),
        (Some(9), 5, Later, false),
        (None, 9, Earlier, true),
        (Some(5), 9, Earlier, false),
        (Some(9), 9, Earlier, false),
        (Some(9), 5, Earlier, true),
        (None, 9, ExpiringAndEarlier, false),
        (Some(9), 5, ExpiringAndEarlier, true),
    ] {
        assert_eq!(try_at(old, new, when), applies, "{old:?} {new} {when:?}");
    }
    assert!(!rmw.expire_at("missing", START + 1, Always).unwrap());
}

#[test]
fn expire_with_a_time_that_has_passed_deletes_the_key() {
    let (rmw, _) = timed();
    for at in [0, 1, START - 1, START] {
        rmw.set("k", "v").unwrap();
        assert!(rmw.expire_at("k", at, ExpireWhen::Always).unwrap());
        assert!(rmw.is_empty());
    }
    rmw.set("k", "v").unwrap();
    assert!(
        rmw.expire_in("k", Duration::ZERO, ExpireWhen::Always)
            .unwrap()
    );
    assert!(rmw.is_empty());
    rmw.set("k", "v").unwrap();
    let beyond = rmw.expire_at("k", MAX + 1, ExpireWhen::Always);
    assert_eq!(beyond, Err(RmwError::InvalidExpiry));
    let beyond = rmw.expire_in("k", Duration::MAX, ExpireWhen::Always);
    assert_eq!(beyond, Err(RmwError::InvalidExpiry));
    assert!(rmw.expire_at("k", MAX, ExpireWhen::Always).unwrap());
}

#[test]
fn persist_says_whether_there_was_an_expiry() {
    let (rmw, clock) = timed();
    assert!(!rmw.persist("k").unwrap());
    expiring(&rmw, "k", "v");
    assert!(rmw.persist("k").unwrap());
    assert!(!rmw.persist("k").unwrap());
    clock.advance(SECOND * 10);
    assert_eq!(rmw.sweep(), 0);
    assert!(rmw.contains("k"));
}

#[test]
fn mset_and_mget_handle_repeated_and_missing_keys() {
    let (rmw, _) = timed();
    expiring(&rmw, "a", "old");
    rmw.mset([("a", "1"), ("b", "2"), ("a", "3")]).unwrap();
    assert_eq!(
        rmw.mget(&["b", "x", "a", "a"]),
        [Some("2".into()), None, Some("3".into()), Some("3".into())]
    );
    assert_eq!(rmw.ttl("a"), Ttl::Persistent);
    rmw.mset([("one", 1)]).unwrap();
    rmw.mset::<&str, Value>([]).unwrap();
    assert_eq!(rmw.mget::<&str>(&[]), []);
    assert_eq!(rmw.exists(&["a", "b", "a", "x"]), 3);
    assert_eq!(rmw.del(&["a", "b", "a", "x"]).unwrap(), 2);
    assert_eq!(rmw.del::<&str>(&[]).unwrap(), 0);
}

#[test]
fn mset_if_missing_is_all_or_nothing() {
    let rmw = Rmw::new();
    rmw.set("b", 0).unwrap();
    assert!(!rmw.mset_if_missing([("a", 1), ("b", 2)]).unwrap());
    assert_eq!(rmw.len(), 1);
    assert!(rmw.mset_if_missing([("a", 1), ("a", 2), ("c", 3)]).unwrap());
    assert_eq!(rmw.get("a").unwrap(), Some(2.into()));
    assert!(!rmw.mset_if_missing([("c", 4)]).unwrap());
    assert!(rmw.mset_if_missing([("d", 4)]).unwrap());
}

#[test]
fn value_type_and_len_and_clear() {
    let rmw = Rmw::new();
    rmw.set("text", "v").unwrap();
    rmw.incr_by("number", 1).unwrap();
    assert_eq!(rmw.value_type("text"), Some(ValueType::String));
    assert_eq!(rmw.value_type("number"), Some(ValueType::String));
    assert_eq!(rmw.value_type("missing"), None);
    assert_eq!(rmw.len(), 2);
    rmw.clear().unwrap();
    assert_eq!((rmw.len(), rmw.get("text")), (0, Ok(None)));
}

#[test]
fn clones_are_handles_on_the_same_keys() {
    let rmw = Rmw::new();
    let other = rmw.clone();
    rmw.set("k", "v").unwrap();
    drop(rmw);
    assert_eq!(other.get("k").unwrap(), Some("v".into()));
}

#[test]
fn update_reads_writes_removes_and_expires() {
    let (rmw, _) = timed();
    rmw.update("k", |entry| {
        assert!(entry.get().is_none());
        entry.set_expires_at(Some(START + 5)); // missing: nothing
        entry.set(1);
        assert_eq!(entry.integer(), Ok(Some(1)));
        entry.set_expires_at(Some(START + 9));
    })
    .unwrap();
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 9)));
    rmw.update("k", |entry| entry.set("text")).unwrap();
    assert_eq!(rmw.expires_at("k"), Some(Some(START + 9)), "set keeps it");
    let not = rmw.update("k", |entry| entry.integer()).unwrap();
    assert_eq!(not, Err(RmwError::NotAnInteger));
    rmw.update("k", |entry| entry.set_expires_at(None)).unwrap();
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    let beyond = rmw.update("k", |entry| entry.set_expires_at(Some(MAX + 1)));
    assert_eq!(beyond, Err(RmwError::InvalidExpiry));
    assert_eq!(rmw.ttl("k"), Ttl::Persistent);
    rmw.update("k", |entry| entry.set_expires_at(Some(0)))
        .unwrap();
    assert!(!rmw.contains("k"));
    rmw.update("k", |entry| {
        entry.set("v");
        entry.remove();
    })
    .unwrap();
    assert!(rmw.is_empty());
}

#[test]
fn a_panicking_update_leaves_the_value_and_releases_the_latch() {
    let rmw = Rmw::new();
    rmw.set("k", "before").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        rmw.update("k", |entry| {
            entry.set("staged");
            panic!("no");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(text(&rmw, "k").as_deref(), Some("before"));
    thread::scope(|scope| scope.spawn(|| rmw.set("k", "after")).join().unwrap()).unwrap();
    assert_eq!(text(&rmw, "k").as_deref(), Some("after"));
}

#[test]
fn a_write_inside_an_update_is_reentrant_and_a_read_is_not() {
    let rmw = Rmw::new();
    rmw.set("k", "before").unwrap();
    rmw.update("k", |entry| {
        entry.set("staged");
        assert_eq!(rmw.get("k").unwrap(), Some("before".into()));
        assert_eq!(rmw.mget(&["k", "l"]), [Some("before".into()), None]);
        for key in ["k", "other"] {
            assert_eq!(rmw.set(key, 1), Err(RmwError::Reentrant));
            assert_eq!(rmw.update(key, |_| ()), Err(RmwError::Reentrant));
        }
        assert_eq!(rmw.mset([("a", 1), ("b", 2)]), Err(RmwError::Reentrant));
        assert_eq!(rmw.del(&["a", "b"]), Err(RmwError::Reentrant));
    })
    .unwrap();
    assert_eq!(text(&rmw, "k").as_deref(), Some("staged"));
    rmw.set("other", 1).unwrap();
}

#[test]
fn a_clear_during_an_update_comes_after_it() {
    let rmw = Rmw::new();
    rmw.set("k", 5).unwrap();
    let seen = rmw.update("k", |entry| {
        rmw.clear().unwrap();
        let seen = entry.integer().unwrap();
        entry.set(6);
        seen
    });
    assert_eq!(seen, Ok(Some(5)));
    assert_eq!(rmw.get("k").unwrap(), None);
}

#[test]
fn no_update_is_lost_beside_plain_sets() {
    let rmw = Rmw::new();
    let mut seen: Vec<i64> = thread::scope(|scope| {
        let setters: Vec<_> = (0..2)
            .map(|t| {
                let rmw = &rmw;
                scope.spawn(move || {
                    for i in 0..2_000 {
                        rmw.set(format!("other:{t}:{}", i % 50), i).unwrap();
                    }
                })
            })
            .collect();
        let counters: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    let counts = (0..1_000).map(|_| rmw.incr_by("hits", 1).unwrap());
                    counts.collect::<Vec<_>>()
                })
            })
            .collect();
        for setter in setters {
            setter.join().unwrap();
        }
        let counts = counters.into_iter().flat_map(|c| c.join().unwrap());
        counts.collect()
    });
    seen.sort_unstable();
    assert!(
        seen.iter().copied().eq(1..=50_000),
        "a permutation of the counts"
    );
    assert_eq!(rmw.get("hits").unwrap(), Some(50_000.into()));
}

#[test]
fn a_plain_set_does_not_bypass_a_running_update() {
    // The original's fault 8: the set slipped in between the update's read and its write.
    let rmw = Rmw::new();
    let inside = Barrier::new(2);
    thread::scope(|scope| {
        let setter = scope.spawn(|| {
            inside.wait();
            rmw.set("k", "set").unwrap();
        });
        rmw.update("k", |entry| {
            inside.wait();
            entry.set("updated");
        })
        .unwrap();
        setter.join().unwrap();
    });
    assert_eq!(
        text(&rmw, "k").as_deref(),
        Some("set"),
        "the set came second"
    );
}

#[test]
fn a_read_does_not_wait_for_a_running_update() {
    let rmw = Rmw::new();
    rmw.set("k", "before").unwrap();
    rmw.update("k", |entry| {
        entry.set("after");
        let read = || (rmw.get("k").unwrap(), rmw.strlen("k").unwrap());
        let seen = thread::scope(|scope| scope.spawn(read).join().unwrap());
        assert_eq!(seen, (Some("before".into()), 6));
    })
    .unwrap();
}

#[test]
fn mget_never_sees_half_an_mset() {
    let rmw = Rmw::new();
    let keys: Vec<String> = (0..8).map(|i| format!("k{i}")).collect();
    let set = |n: i64| rmw.mset(keys.iter().map(|key| (key, n))).unwrap();
    set(0);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|t| scope.spawn(move || (0..2_000).for_each(|n| set(n * 2 + t))))
            .collect();
        while !writers.iter().all(|writer| writer.is_finished()) {
            let seen = rmw.mget(&keys);
            assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "{seen:?}");
        }
    });
}

#[test]
fn expired_keys_are_swept_and_fresh_values_are_not() {
    let (rmw, clock) = timed();
    for i in 0..1_000_u64 {
        let at = SetOptions::new().expire_at(START + i);
        rmw.set_with(format!("k{i}"), "v", &at).unwrap();
    }
    clock.set(START + 500);
    rmw.set("k100", "fresh").unwrap();
    rmw.persist("k500").unwrap();
    assert_eq!(rmw.sweep(), 499);
    assert_eq!(rmw.len(), 501);
    assert_eq!(text(&rmw, "k100").as_deref(), Some("fresh"));
    assert_eq!(rmw.sweep(), 0);
    clock.set(MAX);
    assert_eq!(rmw.sweep(), 499);
    assert_eq!(rmw.len(), 2);
    assert_eq!(rmw.stats().expired, 499 + 499 + 1);
}

#[test]
fn nothing_is_swept_by_itself_under_a_manual_clock() {
    let sweeper = latchwork::sweeper::Sweeper::new();
    let clock = Clock::manual(START);
    let rmw = Rmw::builder()
        .clock(clock.clone())
        .sweeper(sweeper.clone())
        .build();
    expiring(&rmw, "k", "v");
    assert_eq!(sweeper.stats().armed, 0);
    assert!(!sweeper.stats().running);
}

#[test]
fn the_sweep_is_armed_for_deadlines_that_the_store_comes_with() {
    let latches = latchwork::LatchTable::<Vec<u8>>::new();
    let same = latches.clone();
    let hasher = KeyHasher::new(move |key: &[u8]| same.hash_of(key));
    let mut store = MemStore::new();
    store.hash_with(hasher.clone());
    let record = Record::new("v", Some(MAX));
    store
        .change(hasher.key(b"k"), |_| (Effect::Put(record), ()))
        .unwrap();
    let sweeper = latchwork::sweeper::Sweeper::new();
    let rmw = Rmw::builder()
        .sweeper(sweeper.clone())
        .latches(latches)
        .store(store)
        .build();
    assert_eq!(sweeper.stats().armed, 1);
    assert!(rmw.contains("k"));
}

#[test]
fn a_sweep_leaves_a_key_whose_latch_is_held_to_the_next() {
    let (rmw, clock) = timed();
    expiring(&rmw, "k", "v");
    rmw.update("k", |_| {
        clock.advance(SECOND * 2);
        assert_eq!(rmw.sweep(), 0);
        assert_eq!(rmw.stats().sweep_skipped, 1);
    })
    .unwrap();
    assert_eq!(rmw.sweep(), 1);
}

#[test]
fn the_sweeper_deletes_expired_keys_by_itself_and_then_rests() {
    let sweeper = latchwork::sweeper::Sweeper::new();
    let rmw = Rmw::builder()
        .sweeper(sweeper.clone())
        .sweep_every(Duration::from_millis(1))
        .build();
    rmw.set("persistent", "v").unwrap();
    assert_eq!(sweeper.stats().armed, 0, "nothing expires");
    assert!(!sweeper.stats().running, "and no thread was started");

    // Long past by the system's clock.
    let past = SetOptions::new().expire_at(START - 1);
    rmw.set_with("k", "v", &past).unwrap();
    while rmw.len() > 1 {
        thread::yield_now();
    }
    // Waits for the run to end.
    assert!(sweeper.shutdown().unfinished.is_empty(), "it rests again");
    assert_eq!(rmw.stats().expired, 1);
    assert_eq!(text(&rmw, "persistent").as_deref(), Some("v"));
}

#[test]
fn memory_is_given_back_after_a_mass_deletion() {
    let rmw = Rmw::new();
    let keys: Vec<String> = (0..50_000).map(|i| format!("key:{i}")).collect();
    for key in &keys {
        rmw.set(key, "v").unwrap();
    }
    for key in &keys[10..] {
        rmw.del(&[key]).unwrap();
    }
    assert_eq!(rmw.len(), 10);
    for key in &keys[..10] {
        assert!(rmw.contains(key), "{key} survived the shrinking");
    }
}

#[test]
fn dropping_the_last_handle_frees_the_store_while_the_sweeper_lives() {
    let sweeper = latchwork::sweeper::Sweeper::new();
    let rmw = Rmw::builder().sweeper(sweeper.clone()).build();
    // Far away by the system's clock.
    let far = SetOptions::new().expire_in(SECOND * 3_600);
    assert!(rmw.set_with("k", "v", &far).unwrap().applied);
    let value = rmw.get("k").unwrap();
    drop(rmw);
    assert_eq!(sweeper.stats().jobs, 0);
    assert_eq!(value, Some("v".into()), "what a reader took stays");
}

#[test]
fn a_store_keeps_two_keys_with_one_hash_apart() {
    let mut store = MemStore::new();
    let hasher = KeyHasher::new(|_| 7);
    store.hash_with(hasher.clone());
    let (a, b) = (hasher.key(b"a"), hasher.key(b"b"));
    for (key, value) in [(a, "1"), (b, "2")] {
        let put = Effect::Put(Record::new(value, Some(5)));
        store.change(key, |_| (put, ())).unwrap();
    }
    let read = |key| store.view(key, |found| found.map(|r| r.value.to_vec()));
    assert_eq!(
        (read(a), read(b)),
        (Some(b"1".to_vec()), Some(b"2".to_vec()))
    );
    // They also share a deadline; losing one must not hide the other from the sweep.
    store.change(a, |_| (Effect::Expire(None), ())).unwrap();
    assert_eq!(store.next_deadline(), Some(5));
    let mut due = Vec::new();
    store.visit_expired(6, |hash| due.push(hash));
    assert_eq!(due, [7]);
    assert_eq!(store.remove_expired(7, 6), 1);
    assert_eq!((read(a), read(b)), (Some(b"1".to_vec()), None));
    assert_eq!(store.next_deadline(), None);
}

#[test]
fn equal_strings_are_equal_values_whatever_their_form() {
    assert_eq!(Value::from(12), Value::from("12"));
    assert_ne!(Value::from(12), Value::from("012"));
    assert_eq!(
        Value::from(Bytes::from(vec![b'x'; 50])),
        Value::from("x".repeat(50))
    );
    assert_eq!(format!("{:?}", Value::from("a\n")), r#"Bytes(b"a\n")"#);
}

#[test]
fn errors_say_what_is_wrong() {
    for (error, text) in [
        (
            RmwError::NotAnInteger,
            "value is not an integer or out of range",
        ),
        (RmwError::Overflow, "increment or decrement would overflow"),
        (RmwError::InvalidExpiry, "invalid expire time"),
        (
            RmwError::TooLong { len: 11, max: 10 },
            "string of 11 bytes exceeds the limit of 10 bytes",
        ),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

#[test]
fn keys_with_a_deadline_are_counted() {
    let rmw = Rmw::builder().clock(Clock::manual(1_000)).build();
    let day = Duration::from_secs(86_400);
    for key in ["a", "b", "c"] {
        rmw.set_with(key, "v", &SetOptions::new().expire_in(day))
            .unwrap();
    }
    rmw.set("d", "v").unwrap();
    assert_eq!((rmw.stats().keys, rmw.stats().expiring), (4, 3));
    rmw.persist("a").unwrap();
    rmw.del(&["b"]).unwrap();
    rmw.set("c", "v").unwrap();
    assert_eq!((rmw.stats().keys, rmw.stats().expiring), (3, 0));
}

#[test]
fn the_handles_may_cross_a_caught_panic() {
    fn check<T: UnwindSafe + RefUnwindSafe>() {}
    check::<Rmw>();
    check::<MemStore>();
}

/// A store that counts changes, and the most memory that went back to the system inside a decision
/// and so under the lock.
#[derive(Default)]
struct Watched {
    store: MemStore,
    changes: Arc<AtomicU64>,
    freed: Arc<AtomicU64>,
}

/// The size of the address space in bytes.
fn address_space() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split_whitespace().next().unwrap();
    pages.parse::<u64>().unwrap() * 4096
}

impl Store for Watched {
    forward_to!(store: change_many publish clear);

    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.store.change(key, |record| {
            let before = address_space();
            let decided = decide(record);
            let freed = before.saturating_sub(address_space());
            self.freed.fetch_max(freed, Ordering::Relaxed);
            decided
        })
    }
}

#[test]
fn a_value_that_is_not_set_is_freed_outside_the_lock() {
    const HUGE: usize = 512 << 20;
    let store = Watched::default();
    let freed = Arc::clone(&store.freed);
    let rmw = Rmw::builder().store(store).build();
    rmw.set("k", "v").unwrap();
    // Zeros that nobody touches: address space, and no memory.
    assert!(!rmw.set_if_missing("k", vec![0; HUGE]).unwrap());
    assert_eq!(freed.swap(0, Ordering::Relaxed) / (HUGE as u64 / 2), 0);
    assert!(!rmw.mset_if_missing([("k", vec![0; HUGE])]).unwrap());
    assert_eq!(freed.swap(0, Ordering::Relaxed) / (HUGE as u64 / 2), 0);
}

#[test]
fn an_expired_key_that_a_command_leaves_missing_is_changed_once() {
    let (store, clock) = (Watched::default(), Clock::manual(START));
    let changes = Arc::clone(&store.changes);
    let rmw = Rmw::builder().store(store).clock(clock.clone()).build();
    let expired = |command: &dyn Fn()| {
        let soon = SetOptions::new().expire_in(SECOND);
        rmw.set_with("k", "v", &soon).unwrap();
        clock.advance(2 * SECOND);
        changes.store(0, Ordering::Relaxed);
        command();
        changes.load(Ordering::Relaxed)
    };
    assert_eq!(expired(&|| assert!(!rmw.persist("k").unwrap())), 1);
    assert_eq!(expired(&|| assert_eq!(rmw.del(&["k"]), Ok(0))), 1);
    assert_eq!(rmw.len(), 0);
    assert_eq!(expired(&|| assert_eq!(rmw.append("k", "ab"), Ok(2))), 2);
    assert_eq!(rmw.get("k"), Ok(Some("ab".into())));
}

#[test]
fn no_limit_lets_a_length_overflow() {
    let rmw = Rmw::builder().max_value_len(usize::MAX).build();
    let max = isize::MAX as u64 / 4;
    for offset in [max, isize::MAX as u64 + 10, u64::MAX - 1, u64::MAX] {
        let len = offset.saturating_add(1);
        let error = rmw.setrange("k", offset, "y").unwrap_err();
        assert_eq!(error, RmwError::TooLong { len, max });
    }
    assert!(rmw.is_empty());
}

#[test]
fn the_next_expiry_starts_the_sweeper_again_after_a_failed_start() {
    if !is_threadless("the_next_expiry_starts_the_sweeper_again_after_a_failed_start") {
        return;
    }
    let sweeper = latchwork::sweeper::Sweeper::new();
    let rmw = Rmw::builder().sweeper(sweeper.clone()).build();
    for failed in 1..4 {
        let ever_later = SetOptions::new().expire_in(failed * 3600 * SECOND);
        rmw.set_with("k", "v", &ever_later).unwrap();
        assert_eq!(sweeper.stats().failed_starts, u64::from(failed));
    }
}
