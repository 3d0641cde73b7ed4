//! Floating-point increments: the arithmetic and the text are Redis's.
#![cfg(not(latchwork_loom))]

mod oracle;
#[path = "support/seed.rs"]
mod seed;

use std::time::Duration;

use latchwork::rmw::{Clock, Rmw, RmwError, SetOptions, Ttl};
use oracle::{Answer, Redis};

/// (the key's value, the increment, the answer of redis-server 7.0.15)
const TABLE: &[(&str, &str, Result<&str, RmwError>)] = &[
    ("0.1", "0.2", Ok("0.3")),
    ("10.50", "0.1", Ok("10.6")),
    ("5.0e3", "2.0e2", Ok("5200")),
    ("3.0", "1.000000000000000005", Ok("4.00000000000000001")),
    ("0", "0x1p-4", Ok("0.0625")),
    ("0x10", "0x.8", Ok("16.5")),
    ("1", "-1", Ok("0")),
    ("-0", "-0", Ok("0")),
    ("0", "-1e-30", Ok("0")),
    ("1e19", "1", Ok("10000000000000000001")),
    ("1e20", "1", Ok("100000000000000000000")),
    ("0", "1e-17", Ok("0.00000000000000001")),
    ("0", "4e-18", Ok("0")),
    ("+1", ".5", Ok("1.5")),
    ("1.", "1E+2", Ok("101")),
    ("0e99999", "1", Ok("1")),
    ("0", "1e4933", Err(RmwError::NotAFloat)),
    ("0", "1e-4951", Err(RmwError::NotAFloat)),
    ("0", "1e-4950", Ok("0")),
    ("1e4932", "1e4932", Err(RmwError::NotFinite)),
    ("1", "inf", Err(RmwError::NotFinite)),
    ("1", "-Infinity", Err(RmwError::NotFinite)),
    ("inf", "-inf", Err(RmwError::NotFinite)),
    ("1", "nan", Err(RmwError::NotAFloat)),
    ("1", "", Err(RmwError::NotAFloat)),
    ("", "1", Err(RmwError::NotAFloat)),
    ("1", " 1", Err(RmwError::NotAFloat)),
    ("1", "1 ", Err(RmwError::NotAFloat)),
    ("1 ", "1", Err(RmwError::NotAFloat)),
    ("1", "1\0", Err(RmwError::NotAFloat)),
    ("1", "1e", Err(RmwError::NotAFloat)),
    ("1", "0x", Err(RmwError::NotAFloat)),
    ("1", "0x1p", Err(RmwError::NotAFloat)),
    ("1", ".", Err(RmwError::NotAFloat)),
    ("1", "--1", Err(RmwError::NotAFloat)),
    ("abc", "1", Err(RmwError::NotAFloat)),
];

fn ours(rmw: &Rmw, value: &[u8], by: &[u8]) -> Result<Vec<u8>, RmwError> {
    rmw.set("k", value)?;
    let sum = rmw.incr_float("k", by);
    let left = rmw.get("k")?.unwrap().to_vec();
    match sum {
        Ok(ref sum) => assert_eq!(sum.to_vec(), left),
        Err(_) => assert_eq!(value, left, "a refused increment changed the value"),
    }
    sum.map(|sum| sum.to_vec())
}

#[test]
fn sums_and_refusals_are_those_of_redis() {
    let rmw = Rmw::new();
    for (value, by, expected) in TABLE {
        let expected = expected.clone().map(|text| text.as_bytes().to_vec());
        let answer = ours(&rmw, value.as_bytes(), by.as_bytes());
        assert_eq!(answer, expected, "{value:?} + {by:?}");
    }
}

#[test]
fn a_text_of_5120_bytes_is_no_number() {
    let rmw = Rmw::new();
    let long = "0".repeat(5_119);
    assert_eq!(ours(&rmw, long.as_bytes(), b"1.5"), Ok(b"1.5".to_vec()));
    let longer = "0".repeat(5_120);
    assert_eq!(
        ours(&rmw, longer.as_bytes(), b"1"),
        Err(RmwError::NotAFloat)
    );
}

#[test]
fn a_float_increment_starts_at_zero_and_keeps_the_expiry() {
    let rmw = Rmw::builder().clock(Clock::manual(1_000)).build();
    assert_eq!(rmw.incr_float("new", "1.5"), Ok("1.5".into()));
    let soon = SetOptions::new().expire_in(Duration::from_secs(1));
    rmw.set_with("k", 7, &soon).unwrap();
    assert_eq!(rmw.incr_float("k", "-0.5"), Ok("6.5".into()));
    assert_eq!(rmw.ttl("k"), Ttl::Remaining(Duration::from_secs(1)));
    rmw.incr_float("k", "0.5").unwrap();
    assert_eq!(rmw.incr_by("k", 1), Ok(8), "a whole sum is an integer");
}

#[test]
fn a_sum_over_the_limit_changes_nothing() {
    let rmw = Rmw::builder().max_value_len(10).build();
    rmw.set("k", 1).unwrap();
    let too_long = RmwError::TooLong { len: 21, max: 10 };
    assert_eq!(rmw.incr_float("k", "1e20"), Err(too_long));
    assert_eq!(rmw.get("k"), Ok(Some(1.into())));
}

#[test]
fn no_float_increment_is_lost() {
    let rmw = Rmw::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    rmw.incr_float("k", "0.5").unwrap();
                }
            });
        }
    });
    assert_eq!(rmw.get("k"), Ok(Some("1000".into())));
}

/// The answers to a `SET` and an `INCRBYFLOAT` for each case.
fn ask(redis: &mut Redis, cases: &[(Vec<u8>, Vec<u8>)]) -> Vec<Result<Vec<u8>, String>> {
    let mut commands: Vec<Vec<&[u8]>> = Vec::new();
    for (value, by) in cases {
        commands.push(vec![b"SET", b"k", value]);
        commands.push(vec![b"INCRBYFLOAT", b"k", by]);
    }
    let answers = redis.ask(&commands).into_iter().skip(1).step_by(2);
    answers
        .map(|answer| match answer {
            Answer::Text(text) => Ok(text),
            Answer::Error(text) => Err(text),
            other => panic!("not expected: {other:?}"),
        })
        .collect()
}

fn random_text(random: &mut fastrand::Rng) -> Vec<u8> {
    let mut digits = |most: usize| -> String {
        let len = random.usize(..=most);
        (0..len).map(|_| random.digit(10)).collect()
    };
    let (whole, part, long) = (digits(20), digits(22), digits(60));
    let exponent = match random.u8(..12) {
        0..=5 => random.i32(-20..20),
        6..=9 => random.i32(-60..60),
        10 => random.i32(-5_000..5_000),
        // Around the smallest numbers and the largest ones.
        _ => *random
            .choice(&[-4_966, -4_951, -4_950, -4_932, 4_931, 4_932, 4_912])
            .unwrap(),
    };
    let sign = *random.choice(&["", "", "", "-", "+"]).unwrap();
    let mut text = match random.u8(..10) {
        0 => format!("{sign}{whole}"),
        1..=3 => format!("{sign}{whole}.{part}"),
        4 => format!("{sign}{long}"),
        5 => format!("{sign}0.{long}"),
        6 => format!("{sign}{whole}.{part}e{exponent}"),
        7 => format!("{sign}{whole}E{exponent:+}"),
        8 => format!(
            "{sign}0x{:x}.{:x}p{}",
            random.u64(..),
            random.u64(..),
            exponent * 3
        ),
        _ => format!("{sign}0X{:X}{:x}", random.u64(..), random.u64(..)),
    }
    .into_bytes();
    // Something that may spoil it.
    if random.u8(..6) == 0 {
        let spoilers = b"0159.eE+-xXpPinfa \t\n\0,_";
        for _ in 0..random.usize(1..3) {
            let at = random.usize(..=text.len());
            match random.u8(..3) {
                0 if at < text.len() => drop(text.remove(at)),
                _ => text.insert(at, *random.choice(spoilers).unwrap()),
            }
        }
    }
    text
}

#[test]
fn twenty_thousand_random_sums_agree_with_redis_server() {
    let Some(mut redis) = Redis::start() else {
        println!("skipped: redis-server is not installed");
        return;
    };
    let seed = seed::announced();
    let mut random = fastrand::Rng::with_seed(seed);
    let rmw = Rmw::new();
    let fixed = TABLE
        .iter()
        .map(|(value, by, _)| (value.as_bytes().to_vec(), by.as_bytes().to_vec()));
    let mut cases: Vec<_> = fixed.collect();
    for _ in 0..50 {
        cases.extend((0..400).map(|_| (random_text(&mut random), random_text(&mut random))));
        for ((value, by), expected) in cases.iter().zip(ask(&mut redis, &cases)) {
            let answer = ours(&rmw, value, by).map_err(|error| format!("ERR {error}"));
            assert_eq!(
                answer.map(|text| String::from_utf8(text).unwrap()),
                expected.map(|text| String::from_utf8(text).unwrap()),
                "seed {seed}: {:?} + {:?}",
                value.escape_ascii().to_string(),
                by.escape_ascii().to_string(),
            );
        }
        cases.clear();
    }
}
