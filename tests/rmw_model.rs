//! Random commands against a plain model: whatever the library answers, a map that a child could
//! have written answers too.
#![cfg(not(latchwork_loom))]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use latchwork::rmw::{
    Clock, ExpireWhen, GetExpiry, MemStore, Rmw, RmwError, ScanOptions, SetOptions, Ttl, ValueType,
};
use support::size;

const LIMIT: usize = 6_000;

/// xorshift64*: the whole run follows from the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }

    fn text(&mut self) -> Vec<u8> {
        match self.below(8) {
            0 => Vec::new(),
            1 => vec![b'x'; self.below(60) as usize],
            2 => vec![b'y'; self.below(LIMIT as u64 + 40) as usize],
            3 => self.pick(&["-0", "+1", "01", " 1", "1 ", "1.5"]).into(),
            4 => self.number().to_string().into_bytes(),
            _ => self.below(1000).to_string().into_bytes(),
        }
    }

    fn number(&mut self) -> i64 {
        match self.below(5) {
            0 => self.pick(&[i64::MAX, i64::MIN, i64::MAX - 1, i64::MIN + 1, 0]),
            _ => self.below(2000) as i64 - 1000,
        }
    }
}

/// Values and deadlines, as plain as can be.
#[derive(Default)]
struct Model {
    keys: BTreeMap<String, (Vec<u8>, Option<u64>)>,
    now: u64,
}

impl Model {
    fn expire(&mut self) {
        let now = self.now;
        self.keys.retain(|_, (_, at)| at.is_none_or(|at| at >= now));
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.keys.get(key).map(|(text, _)| text.clone())
    }

    fn deadline(&self, key: &str) -> Option<u64> {
        self.keys.get(key).and_then(|(_, at)| *at)
    }

    fn put(&mut self, key: &str, text: Vec<u8>, at: Option<u64>) {
        self.keys.insert(key.to_owned(), (text, at));
    }

    fn write(&mut self, key: &str, offset: usize, new: &[u8]) -> Result<u64, RmwError> {
        let mut text = self.get(key).unwrap_or_default();
        let end = offset + new.len();
        if end > LIMIT {
            return Err(too_long(end));
        }
        text.resize(text.len().max(end), 0);
        text[offset..end].copy_from_slice(new);
        let len = text.len() as u64;
        let at = self.deadline(key);
        self.put(key, text, at);
        Ok(len)
    }

    fn incr(&mut self, key: &str, by: i64) -> Result<i64, RmwError> {
        let old = match self.get(key) {
            None => 0,
            Some(text) => {
                let text = String::from_utf8(text).unwrap();
                let number: i64 = text.parse().map_err(|_| RmwError::NotAnInteger)?;
                if number.to_string() != text {
                    return Err(RmwError::NotAnInteger);
                }
                number
            }
        };
        let new = old.checked_add(by).ok_or(RmwError::Overflow)?;
        let at = self.deadline(key);
        self.put(key, new.to_string().into_bytes(), at);
        Ok(new)
    }
}

/// What floating-point increments count in here: with few of them, 80-bit sums are exact.
const PARTS: i128 = 64;

/// A decimal number in [`PARTS`]; `Err(())` if it has other fractions or is very large.
fn parts(text: &[u8]) -> Result<Option<i128>, ()> {
    if text.windows(2).any(|pair| pair == b"0x") {
        return Err(());
    }
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        _ => (1, text),
    };
    let mut halves = digits.splitn(2, |&byte| byte == b'.');
    let (whole, rest) = (halves.next().unwrap_or(b""), halves.next().unwrap_or(b""));
    let all = [whole, rest].concat();
    if all.is_empty() || !all.iter().all(u8::is_ascii_digit) {
        return Ok(None);
    }
    if whole.len() > 13 || rest.len() > 12 {
        return Err(());
    }
    let number: i128 = std::str::from_utf8(&all).unwrap().parse().unwrap();
    let (scaled, unit) = (number * PARTS, 10_i128.pow(rest.len() as u32));
    match scaled % unit {
        0 => Ok(Some(sign * scaled / unit)),
        _ => Err(()),
    }
}

/// The decimal form of so many [`PARTS`], without trailing zeros.
fn decimal(parts: i128) -> String {
    let sign = if parts < 0 { "-" } else { "" };
    let (whole, rest) = (parts.abs() / PARTS, parts.abs() % PARTS);
    let text = format!("{sign}{whole}.{:06}", rest * 1_000_000 / PARTS);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    text.to_owned()
}

fn too_long(len: usize) -> RmwError {
    RmwError::TooLong {
        len: len as u64,
        max: LIMIT as u64,
    }
}

fn bytes(value: Option<latchwork::rmw::Value>) -> Option<Vec<u8>> {
    value.map(|value| value.to_vec())
}

#[test]
fn random_commands_agree_with_a_plain_map() {
    let seed = support::seed::announced();
    let mut random = Random(seed | 1);
    let clock = Clock::manual(1_000_000);
    // Few shards: every look through all keys, and every sweep, looks at each.
    let rmw = Rmw::builder()
        .store(MemStore::with_shards(4))
        .clock(clock.clone())
        .max_value_len(LIMIT)
        .build();
    let mut model = Model {
        now: clock.now(),
        ..Model::default()
    };
    let keys = ["a", "b", "c", "d", "a key too long to be inline, by far"];

    for step in 0..size(100_000, 650_000) {
        if random.below(4) == 0 {
            let by = random.below(300);
            clock.advance(Duration::from_millis(by));
            model.now += by;
            model.expire();
        }
        let key = random.pick(&keys);
        let other = random.pick(&keys);
        let text = random.text();
        let command = random.below(27);
        let context = format!("seed {seed}, step {step}, command {command}, key {key}");
        match command {
            0 => {
                let expected = if text.len() > LIMIT {
                    Err(too_long(text.len()))
                } else {
                    model.put(key, text.clone(), None);
                    Ok(())
                };
                assert_eq!(rmw.set(key, text), expected, "{context}");
            }
            1 | 2 => {
                let text = random.below(1000).to_string().into_bytes();
                let mut options = SetOptions::new().get();
                let after = random.below(800);
                let mut at = None;
                let mut valid = true;
                match random.below(4) {
                    0 => {}
                    1 => {
                        options = options.keep_expiry();
                        at = model.deadline(key);
                    }
                    2 => {
                        options = options.expire_in(Duration::from_millis(after));
                        at = Some(model.now + after);
                        valid = after > 0;
                    }
                    _ => {
                        options = options.expire_at(model.now + after - 100);
                        at = Some(model.now + after - 100);
                    }
                }
                let previous = model.get(key);
                let applies = match random.below(3) {
                    0 => true,
                    1 => {
                        options = options.if_missing();
                        previous.is_none()
                    }
                    _ => {
                        options = options.if_present();
                        previous.is_some()
                    }
                };
                let outcome = rmw.set_with(key, text.clone(), &options);
                if valid {
                    let outcome = outcome.unwrap();
                    assert_eq!(outcome.applied, applies, "{context}");
                    assert_eq!(bytes(outcome.previous), previous, "{context}");
                    if applies {
                        model.put(key, text, at);
                        model.expire();
                    }
                } else {
                    assert_eq!(outcome, Err(RmwError::InvalidExpiry), "{context}");
                }
            }
            3 | 4 => {
                let by = random.number();
                assert_eq!(rmw.incr_by(key, by), model.incr(key, by), "{context}");
            }
            5 | 6 => {
                let offset = model.get(key).map_or(0, |text| text.len());
                let expected = model.write(key, offset, &text);
                assert_eq!(rmw.append(key, &text), expected, "{context}");
            }
            7 => {
                let offset = random.below(LIMIT as u64 + 100);
                let expected = if text.is_empty() {
                    Ok(model.get(key).map_or(0, |text| text.len() as u64))
                } else {
                    model.write(key, offset as usize, &text)
                };
                assert_eq!(rmw.setrange(key, offset, &text), expected, "{context}");
            }
            8 => {
                let text = b"getset".to_vec();
                let expected = model.get(key);
                model.put(key, text.clone(), None);
                assert_eq!(bytes(rmw.getset(key, text).unwrap()), expected, "{context}");
            }
            9 => {
                let expected = model.keys.remove(key).map(|(text, _)| text);
                assert_eq!(bytes(rmw.getdel(key).unwrap()), expected, "{context}");
            }
            10 => {
                let expected = model.get(key);
                let at = model.now + random.below(500) - 50;
                let (expiry, at) = match random.below(3) {
                    0 => (GetExpiry::Keep, model.deadline(key)),
                    1 => (GetExpiry::Clear, None),
                    _ => (GetExpiry::At(at), Some(at)),
                };
                assert_eq!(
                    bytes(rmw.getex(key, expiry).unwrap()),
                    expected,
                    "{context}"
                );
                if let Some(text) = expected {
                    model.put(key, text, at);
                    if matches!(expiry, GetExpiry::At(at) if at <= model.now) {
                        model.keys.remove(key);
                    }
                }
            }
            11 => {
                let at = model.now + random.below(500) - 50;
                let old = model.deadline(key);
                use ExpireWhen::*;
                let when = random.pick(&[
                    Always,
                    Persistent,
                    Expiring,
                    Later,
                    Earlier,
                    ExpiringAndEarlier,
                ]);
                let old_or_never = old.unwrap_or(u64::MAX);
                let applies = model.keys.contains_key(key)
                    && match when {
                        Persistent => old.is_none(),
                        Expiring => old.is_some(),
                        Later => at > old_or_never,
                        Earlier => at < old_or_never,
                        ExpiringAndEarlier => old.is_some() && at < old_or_never,
                        _ => true,
                    };
                assert_eq!(rmw.expire_at(key, at, when).unwrap(), applies, "{context}");
                if applies && at <= model.now {
                    model.keys.remove(key);
                } else if applies {
                    model.keys.get_mut(key).unwrap().1 = Some(at);
                }
            }
            12 => {
                let expected = model.deadline(key).is_some();
                assert_eq!(rmw.persist(key).unwrap(), expected, "{context}");
                if let Some((_, at)) = model.keys.get_mut(key) {
                    *at = None;
                }
            }
            13 => {
                let (a, b) = (random.number(), random.number());
                rmw.mset([(key, a), (other, b)]).unwrap();
                model.put(key, a.to_string().into_bytes(), None);
                model.put(other, b.to_string().into_bytes(), None);
            }
            14 => {
                let free = model.get(key).is_none() && model.get(other).is_none();
                let set = rmw.mset_if_missing([(key, "1"), (other, "2")]).unwrap();
                assert_eq!(set, free, "{context}");
                if free {
                    model.put(key, b"1".to_vec(), None);
                    model.put(other, b"2".to_vec(), None);
                }
            }
            15 => {
                let mut gone = u64::from(model.keys.remove(key).is_some());
                gone += u64::from(model.keys.remove(other).is_some());
                assert_eq!(rmw.del(&[key, other]).unwrap(), gone, "{context}");
            }
            16 => {
                let (start, end) = (random.number(), random.number());
                let text = model.get(key).unwrap_or_default();
                let len = text.len() as i128;
                let place = |i: i64| {
                    if i < 0 {
                        (len + i128::from(i)).max(0)
                    } else {
                        i.into()
                    }
                };
                let (first, last) = (place(start), place(end).min(len - 1));
                let expected = match (start < 0 && end < 0 && start > end) || first > last {
                    true => &[][..],
                    false => &text[first as usize..=last as usize],
                };
                let part = rmw.getrange(key, start, end).unwrap();
                assert_eq!(part.to_vec(), expected, "{context}");
            }
            17 => {
                let expected = model.get(key);
                let stage = random.below(4);
                let at = model.now + random.below(500) - 50;
                let seen = rmw.update(key, |entry| {
                    let seen = entry.get().map(|value| value.to_vec());
                    match stage {
                        0 => entry.set("updated"),
                        1 => entry.remove(),
                        2 => entry.set_expires_at(Some(at)),
                        _ => {}
                    }
                    seen
                });
                assert_eq!(seen.unwrap(), expected, "{context}");
                match stage {
                    0 => {
                        let kept = model.deadline(key);
                        model.put(key, b"updated".to_vec(), kept);
                    }
                    1 => {
                        model.keys.remove(key);
                    }
                    2 if expected.is_some() => {
                        let same = model.deadline(key) == Some(at);
                        model.keys.get_mut(key).unwrap().1 = Some(at);
                        if at <= model.now && !same {
                            model.keys.remove(key);
                        }
                    }
                    _ => {}
                }
            }
            18 | 19 => {
                let missing = model.get(key).is_none();
                let taken = model.get(other).is_some();
                if missing {
                    let refused = Err(RmwError::NoSuchKey);
                    assert_eq!(rmw.rename(key, other), refused, "{context}");
                } else if command == 18 || !taken {
                    match command {
                        18 => rmw.rename(key, other).unwrap(),
                        _ => assert!(rmw.rename_if_missing(key, other).unwrap(), "{context}"),
                    }
                    let moved = model.keys.remove(key).unwrap();
                    model.keys.insert(other.to_owned(), moved);
                } else {
                    assert!(!rmw.rename_if_missing(key, other).unwrap(), "{context}");
                }
            }
            20 => {
                let (value, version) = rmw.get_versioned(key).unwrap();
                assert_eq!(bytes(value), model.get(key), "{context}");
                assert_eq!(version == 0, model.get(key).is_none(), "{context}");
                let refused = rmw.compare_and_set(key, version + 1, "no").unwrap();
                assert_eq!(refused, Err(version), "{context}");
                let new = rmw.compare_and_set(key, version, "compared").unwrap();
                assert!(new.unwrap() > version, "{context}");
                model.put(key, b"compared".to_vec(), None);
            }
            21 => {
                let by = random.number();
                let fails = random.below(3) == 0;
                let (first, second) = (model.get(key), model.get(other));
                let (at, other_at) = (model.deadline(key), model.deadline(other));
                let expected = model
                    .incr(key, by)
                    .and_then(|_| model.write(other, 0, b"12"))
                    .and_then(|_| {
                        if fails {
                            Err(RmwError::Overflow)
                        } else {
                            Ok(())
                        }
                    });
                let outcome = rmw.update_many(&[key, other], |tx| {
                    tx.incr_by(key, by)?;
                    tx.setrange(other, 0, "12")?;
                    if fails {
                        Err(RmwError::Overflow)
                    } else {
                        Ok(())
                    }
                });
                assert_eq!(outcome.unwrap(), expected, "{context}");
                if expected.is_err() {
                    for (key, text, at) in [(key, first, at), (other, second, other_at)] {
                        match text {
                            Some(text) => model.put(key, text, at),
                            None => drop(model.keys.remove(key)),
                        }
                    }
                }
            }
            22 => {
                let mut names: Vec<_> = rmw.keys("*").iter().map(|key| key.to_vec()).collect();
                names.sort();
                let expected: Vec<_> = model.keys.keys().map(|key| key.as_bytes()).collect();
                assert_eq!(names, expected, "{context}");
            }
            23 | 24 => {
                let old = match model.get(key) {
                    None => Ok(Some(0)),
                    Some(text) => parts(&text),
                };
                let by = i128::from(random.number() % 10_000);
                let (by, text) = match random.below(10) {
                    0 => (None, "1,5".to_owned()),
                    1 => (Some(by * PARTS), format!("{by}e0")),
                    _ => (Some(by), decimal(by)),
                };
                let expected = match (old, by) {
                    (Err(()), _) => continue,
                    (Ok(Some(old)), Some(by)) => Ok(decimal(old + by).into_bytes()),
                    _ => Err(RmwError::NotAFloat),
                };
                let sum = rmw.incr_float(key, text).map(|sum| sum.to_vec());
                assert_eq!(sum, expected, "{context}");
                if let Ok(sum) = expected {
                    let at = model.deadline(key);
                    model.put(key, sum, at);
                }
            }
            25 => {
                let pattern = random.pick(&["*", "?", "[b-c]", "a*", "*far"]);
                let matches = |key: &str| match pattern {
                    "*" => true,
                    "?" => key.len() == 1,
                    "[b-c]" => key == "b" || key == "c",
                    "a*" => key.starts_with('a'),
                    _ => key.ends_with("far"),
                };
                let kind = random.pick(&[ValueType::String, ValueType::String, ValueType::List]);
                let options = ScanOptions::new()
                    .matching(pattern)
                    .of_type(kind)
                    .count(random.below(4) as usize);
                let (mut found, mut cursor) = (BTreeSet::new(), 0);
                loop {
                    let page = rmw.scan(cursor, &options);
                    found.extend(page.keys.iter().map(|key| key.to_vec()));
                    cursor = page.cursor;
                    if cursor == 0 {
                        break;
                    }
                }
                let expected = model
                    .keys
                    .keys()
                    .filter(|key| matches(key) && kind == ValueType::String);
                let expected: BTreeSet<_> = expected.map(|key| key.as_bytes().to_vec()).collect();
                assert_eq!(found, expected, "{context}, {pattern}");
            }
            _ if random.below(50) == 0 => {
                rmw.clear().unwrap();
                model.keys.clear();
            }
            _ => {
                rmw.sweep();
                assert_eq!(rmw.len(), model.keys.len() as u64, "{context}");
            }
        }
        for key in [key, other] {
            assert_eq!(bytes(rmw.get(key).unwrap()), model.get(key), "{context}");
            let ttl = match model.keys.get(key) {
                None => Ttl::Missing,
                Some((_, None)) => Ttl::Persistent,
                Some((_, Some(at))) => Ttl::Remaining(Duration::from_millis(at - model.now)),
            };
            assert_eq!(rmw.ttl(key), ttl, "{context}");
        }
    }
}
