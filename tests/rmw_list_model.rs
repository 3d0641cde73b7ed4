//! Random list commands against plain deques, and their effects against a replay of them.
#![cfg(not(latchwork_loom))]

#[macro_use]
#[path = "support/forward.rs"]
mod forward;

#[path = "support/logged.rs"]
mod logged;
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroI64;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use latchwork::rmw::{
    Bytes, Clock, ExpireWhen, Inserted, List, ListEnd, PosOptions, Record, Rmw, RmwError, Value,
};
use logged::{Logged, Replayed};
use support::size;

const KEYS: [&str; 4] = ["a", "b", "c", "a key too long to be inline, by far"];

/// What a key holds: a list, or a string for the commands to refuse.
#[derive(Clone, Debug, PartialEq)]
enum Held {
    List(VecDeque<String>),
    Text(String),
}

/// Lists and deadlines, as plain as can be.
#[derive(Default)]
struct Model {
    keys: BTreeMap<&'static str, (Held, Option<u64>)>,
    now: u64,
}

type Refused<T> = Result<T, RmwError>;

impl Model {
    fn expire(&mut self) {
        let now = self.now;
        self.keys.retain(|_, (_, at)| at.is_none_or(|at| at >= now));
    }

    fn list(&mut self, key: &str) -> Refused<Option<&mut VecDeque<String>>> {
        match self.keys.get_mut(key) {
            None => Ok(None),
            Some((Held::List(list), _)) => Ok(Some(list)),
            Some(_) => Err(RmwError::WrongType),
        }
    }

    fn drop_empty(&mut self) {
        self.keys
            .retain(|_, (held, _)| *held != Held::List(VecDeque::new()));
    }

    fn push(&mut self, key: &'static str, end: ListEnd, values: &[String]) -> Refused<u64> {
        self.list(key)?;
        let fresh = (Held::List(VecDeque::new()), None);
        self.keys.entry(key).or_insert(fresh);
        let list = self.list(key)?.unwrap();
        for value in values {
            match end {
                ListEnd::Front => list.push_front(value.clone()),
                ListEnd::Back => list.push_back(value.clone()),
            }
        }
        Ok(list.len() as u64)
    }

    fn pop(&mut self, key: &str, end: ListEnd) -> Refused<Option<String>> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        let value = match end {
            ListEnd::Front => list.pop_front(),
            ListEnd::Back => list.pop_back(),
        };
        self.drop_empty();
        Ok(value)
    }

    fn pop_many(&mut self, key: &str, end: ListEnd, count: u64) -> Refused<Option<Vec<String>>> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        let count = count.min(list.len() as u64);
        let popped = (0..count).map(|_| self.pop(key, end).unwrap().unwrap());
        Ok(Some(popped.collect()))
    }

    fn lmove(
        &mut self,
        source: &'static str,
        destination: &'static str,
        from: ListEnd,
        to: ListEnd,
    ) -> Refused<Option<String>> {
        if self.list(source)?.is_none() {
            return Ok(None);
        }
        self.list(destination)?;
        let deadline = self.keys[source].1;
        let value = self.pop(source, from)?.unwrap();
        self.push(destination, to, std::slice::from_ref(&value))?;
        if source == destination {
            self.keys.get_mut(source).unwrap().1 = deadline;
        }
        Ok(Some(value))
    }
}

/// Redis's rule for two inclusive, possibly negative indices.
fn bounds(len: usize, start: i64, stop: i64) -> std::ops::Range<usize> {
    let len = len as i64;
    let start = if start < 0 {
        (len + start).max(0)
    } else {
        start
    };
    let stop = if stop < 0 { len + stop } else { stop }.min(len - 1);
    if start > stop {
        return 0..0;
    }
    start as usize..stop as usize + 1
}

fn index_in(len: usize, index: i64) -> Option<usize> {
    let index = if index < 0 { len as i64 + index } else { index };
    (0..len as i64).contains(&index).then_some(index as usize)
}

fn text(value: &Bytes) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

fn texts(values: impl IntoIterator<Item = Bytes>) -> Vec<String> {
    values.into_iter().map(|value| text(&value)).collect()
}

struct Run {
    random: Rng,
    rmw: Rmw<Logged>,
    replayed: Replayed,
    model: Model,
}

impl Run {
    fn end(&mut self) -> ListEnd {
        match self.random.bool() {
            true => ListEnd::Front,
            false => ListEnd::Back,
        }
    }

    fn value(&mut self) -> String {
        match self.random.u32(0..20) {
            0 => "long".repeat(20),
            _ => self.random.u32(0..12).to_string(),
        }
    }

    fn index(&mut self) -> i64 {
        match self.random.u32(0..30) {
            0 => i64::MAX - 1,
            1 => i64::MIN / 2,
            2..12 => self.random.i64(-2_000..2_000),
            _ => self.random.i64(-12..12),
        }
    }

    fn count(&mut self) -> u64 {
        match self.random.u32(0..30) {
            0 => u64::MAX,
            1 => 1_000,
            _ => self.random.u64(0..5),
        }
    }

    fn step(&mut self, key: &'static str, other: &'static str, context: &str) {
        let (end, to) = (self.end(), self.end());
        let (value, start, stop) = (self.value(), self.index(), self.index());
        let rmw = self.rmw.clone();
        match self.random.u32(0..20) {
            0..4 => {
                let many = match self.random.u32(0..60) {
                    0 => 3_000,
                    1 => 300,
                    _ => self.random.usize(0..6),
                };
                let values: Vec<String> = (0..many).map(|_| self.value()).collect();
                let expected = match &values[..] {
                    [] => (self.model.list(key)).map(|list| list.map_or(0, |l| l.len() as u64)),
                    values => self.model.push(key, end, values),
                };
                let pushed = match end {
                    ListEnd::Front => rmw.lpush(key, values),
                    ListEnd::Back => rmw.rpush(key, values),
                };
                assert_eq!(pushed, expected, "{context}");
            }
            4 => {
                let expected = match self.model.list(key) {
                    Ok(None) => Ok(0),
                    _ => self.model.push(key, end, std::slice::from_ref(&value)),
                };
                let pushed = match end {
                    ListEnd::Front => rmw.lpush_if_present(key, [value]),
                    ListEnd::Back => rmw.rpush_if_present(key, [value]),
                };
                assert_eq!(pushed, expected, "{context}");
            }
            5 => {
                let popped = match end {
                    ListEnd::Front => rmw.lpop(key),
                    ListEnd::Back => rmw.rpop(key),
                };
                let popped = popped.map(|value| value.as_ref().map(text));
                assert_eq!(popped, self.model.pop(key, end), "{context}");
            }
            6 => {
                let count = self.count();
                let popped = match end {
                    ListEnd::Front => rmw.lpop_many(key, count),
                    ListEnd::Back => rmw.rpop_many(key, count),
                };
                let expected = self.model.pop_many(key, end, count);
                assert_eq!(popped.map(|v| v.map(texts)), expected, "{context}");
            }
            7 => {
                let expected = self.model.list(key).map(|list| {
                    let list = list?;
                    Some(list[index_in(list.len(), start)?].clone())
                });
                let found = rmw.lindex(key, start).map(|v| v.as_ref().map(text));
                assert_eq!(found, expected, "{context}");
            }
            8 => {
                let expected = self.model.list(key).and_then(|list| {
                    let list = list.ok_or(RmwError::NoSuchKey)?;
                    let index = index_in(list.len(), start).ok_or(RmwError::IndexOutOfRange)?;
                    list[index] = value.clone();
                    Ok(())
                });
                assert_eq!(rmw.lset(key, start, value), expected, "{context}");
            }
            9 => {
                let after = self.random.bool();
                let pivot = self.value();
                let expected = self.model.list(key).map(|list| {
                    let Some(list) = list else {
                        return Inserted::Missing;
                    };
                    let Some(found) = list.iter().position(|v| *v == pivot) else {
                        return Inserted::NoPivot;
                    };
                    list.insert(found + usize::from(after), value.clone());
                    Inserted::Len(list.len() as u64)
                });
                let inserted = match after {
                    true => rmw.linsert_after(key, pivot, value),
                    false => rmw.linsert_before(key, pivot, value),
                };
                assert_eq!(inserted, expected, "{context}");
            }
            10 => {
                let count = self.random.i64(-4..5);
                let expected = self.model.list(key).map(|list| {
                    let Some(list) = list else { return 0 };
                    let mut removed = 0;
                    while count == 0 || removed < count.unsigned_abs() {
                        let found = match count {
                            ..0 => list.iter().rposition(|v| *v == value),
                            _ => list.iter().position(|v| *v == value),
                        };
                        let Some(found) = found else { break };
                        list.remove(found);
                        removed += 1;
                    }
                    removed
                });
                self.model.drop_empty();
                assert_eq!(rmw.lrem(key, count, value), expected, "{context}");
            }
            11 => {
                // Mostly near the ends: the lists are to stay long for a while.
                let (start, stop) = match self.random.u32(0..4) {
                    0 => (start, stop),
                    _ => (self.random.i64(0..4), self.random.i64(-4..0)),
                };
                let expected = self.model.list(key).map(|list| {
                    if let Some(list) = list {
                        let range = bounds(list.len(), start, stop);
                        list.truncate(range.end);
                        list.drain(..range.start);
                    }
                });
                self.model.drop_empty();
                assert_eq!(rmw.ltrim(key, start, stop), expected, "{context}");
            }
            12 => {
                let expected = self.model.list(key).map(|list| match list {
                    None => Vec::new(),
                    Some(list) => {
                        let range = bounds(list.len(), start, stop);
                        list.range(range).cloned().collect::<Vec<_>>()
                    }
                });
                let found = rmw.lrange(key, start, stop).map(texts);
                assert_eq!(found, expected, "{context}");
                let len = self.model.list(key);
                let len = len.map(|list| list.map_or(0, |list| list.len() as u64));
                assert_eq!(rmw.llen(key), len, "{context}");
            }
            13 => {
                let rank: i64 = self.random.choice([1, 1, 2, 3, -1, -2]).unwrap();
                let (count, looks) = (self.random.u64(0..4), self.random.u64(0..9));
                let expected = self.model.list(key).map(|list| {
                    let Some(list) = list else {
                        return Vec::new();
                    };
                    let mut places: Vec<usize> = (0..list.len()).collect();
                    if rank < 0 {
                        places.reverse();
                    }
                    if looks > 0 {
                        places.truncate(looks as usize);
                    }
                    places.retain(|&i| list[i] == value);
                    places.drain(..places.len().min(rank.unsigned_abs() as usize - 1));
                    if count > 0 {
                        places.truncate(count as usize);
                    }
                    places.into_iter().map(|i| i as u64).collect()
                });
                let rank = NonZeroI64::new(rank).unwrap();
                let options = PosOptions::new().rank(rank).count(count).max_len(looks);
                assert_eq!(rmw.lpos_with(key, value, &options), expected, "{context}");
            }
            14 | 15 => {
                let moved = rmw.lmove(key, other, end, to);
                let expected = self.model.lmove(key, other, end, to);
                assert_eq!(moved.map(|v| v.as_ref().map(text)), expected, "{context}");
            }
            16 => {
                let count = self.count();
                let popped = rmw.lmpop(&[key, other], end, count);
                let expected = (|| {
                    for (i, key) in [key, other].into_iter().enumerate() {
                        if let Some(popped) = self.model.pop_many(key, end, count)? {
                            return Ok(Some((i, popped)));
                        }
                    }
                    Ok(None)
                })();
                let popped = popped.map(|found| found.map(|(i, values)| (i, texts(values))));
                assert_eq!(popped, expected, "{context}");
            }
            17 => {
                let at = self.model.now + self.random.u64(1..500);
                let held = self
                    .model
                    .keys
                    .get_mut(key)
                    .map(|(_, deadline)| *deadline = Some(at));
                let expiring = rmw.expire_at(key, at, ExpireWhen::Always);
                assert_eq!(expiring, Ok(held.is_some()), "{context}");
            }
            18 => match self.random.u32(0..4) {
                0 => {
                    rmw.set(key, value.clone()).unwrap();
                    self.model.keys.insert(key, (Held::Text(value), None));
                }
                1 => {
                    let list: List = (0..self.random.usize(0..4))
                        .map(|i| i.to_string())
                        .collect();
                    let held = list.iter().map(text).collect();
                    self.model.keys.insert(key, (Held::List(held), None));
                    self.model.drop_empty();
                    rmw.set(key, list).unwrap();
                }
                _ => {
                    let held = self.model.keys.remove(key);
                    assert_eq!(rmw.del(&[key]), Ok(held.is_some().into()), "{context}");
                }
            },
            _ => {
                // Through a closure: the list taken out, changed and stored.
                let expected = match self.model.list(key) {
                    Ok(Some(list)) => {
                        list.push_back(value.clone());
                        list.len()
                    }
                    _ => 0,
                };
                let len = rmw.update(key, |entry| {
                    let Some(Value::List(list)) = entry.get() else {
                        return 0;
                    };
                    let mut list = List::clone(list);
                    list.push(ListEnd::Back, value);
                    let len = list.len();
                    entry.set(list);
                    len
                });
                assert_eq!(len, Ok(expected), "{context}");
            }
        }
    }

    /// What the store, the replay of its effects and the model have.
    fn compare(&self, context: &str) {
        let replayed = self.replayed.lock().unwrap();
        for key in KEYS {
            let expected = self.model.keys.get(key);
            let live = replayed
                .get(key.as_bytes())
                .filter(|record| !record.is_expired(self.model.now));
            self.rmw.get_with(key, |value| {
                assert_eq!(value, live.map(|record| &record.value), "{context}");
                let held = value.map(|value| match value {
                    Value::List(list) => Held::List(list.iter().map(text).collect()),
                    value => Held::Text(String::from_utf8(value.to_vec()).unwrap()),
                });
                assert_eq!(held.as_ref(), expected.map(|(held, _)| held), "{context}");
            });
            let deadline = self.rmw.expires_at(key);
            assert_eq!(deadline, expected.map(|(_, at)| *at), "{context}");
            assert_eq!(deadline, live.map(Record::expires_at), "{context}");
        }
    }
}

#[test]
fn random_list_commands_agree_with_plain_deques_and_their_effects_can_be_replayed() {
    let seed = support::seed::announced();
    let store = Logged::default();
    let replayed = Arc::clone(&store.replayed);
    let clock = Clock::manual(1_000_000);
    let rmw = Rmw::builder().store(store).clock(clock.clone()).build();
    let mut run = Run {
        random: Rng::with_seed(seed),
        rmw,
        replayed,
        model: Model {
            now: clock.now(),
            ..Model::default()
        },
    };
    for step in 0..size(40_000, 250_000) {
        if run.random.u32(0..20) == 0 {
            let by = run.random.u64(0..100);
            clock.advance(Duration::from_millis(by));
            run.model.now += by;
            run.model.expire();
        }
        let key = KEYS[run.random.usize(0..KEYS.len())];
        let other = KEYS[run.random.usize(0..KEYS.len())];
        let context = format!("seed {seed}, step {step}, keys {key} and {other}");
        run.step(key, other, &context);
        if step % 20 == 0 {
            run.compare(&context);
        }
    }
    run.compare("at the end");
}
