//! Random blocking calls and what serves them, against plain deques and plain lines of waiters: who
//! gets what, and in which order.
#![cfg(not(latchwork_loom))]

mod support;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use latchwork::Pending;
use latchwork::rmw::{Bytes, List, ListEnd, Rmw, RmwError, Value};
use support::{Storm, size};

const KEYS: [&str; 4] = ["a", "b", "c", "a key too long to be inline, by far"];

/// A key by its place in [`KEYS`].
type Name = usize;

/// What a key holds: a list, or a string for the commands to refuse.
#[derive(Clone, Debug, PartialEq)]
enum Held {
    List(VecDeque<String>),
    Text(String),
}

#[derive(Clone, Debug)]
enum Want {
    Pop(ListEnd, u64),
    Move(ListEnd, ListEnd, Name),
}

/// Who waits, for which keys, and for what.
#[derive(Clone, Debug)]
struct Waiter {
    id: usize,
    keys: Vec<Name>,
    want: Want,
}

/// What a waiter is told: which of its keys, and the elements.
type Told = Result<(usize, Vec<String>), RmwError>;

/// Lists and lines, as plain as can be.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Name, Held>,
    /// Oldest first.
    line: Vec<Waiter>,
    told: Vec<(usize, Told)>,
}

impl Model {
    fn push(&mut self, key: Name, end: ListEnd, values: &[String]) -> Result<u64, RmwError> {
        let fresh = Held::List(VecDeque::new());
        match self.keys.entry(key).or_insert(fresh) {
            Held::Text(_) => Err(RmwError::WrongType),
            Held::List(list) => {
                for value in values {
                    match end {
                        ListEnd::Front => list.push_front(value.clone()),
                        ListEnd::Back => list.push_back(value.clone()),
                    }
                }
                Ok(list.len() as u64)
            }
        }
    }

    fn pop(&mut self, key: Name, end: ListEnd) -> Result<Option<String>, RmwError> {
        let popped = match self.keys.get_mut(&key) {
            None => return Ok(None),
            Some(Held::Text(_)) => return Err(RmwError::WrongType),
            Some(Held::List(list)) => match end {
                ListEnd::Front => list.pop_front(),
                ListEnd::Back => list.pop_back(),
            },
        };
        self.keys
            .retain(|_, held| *held != Held::List(VecDeque::new()));
        Ok(popped)
    }

    fn shift(
        &mut self,
        source: Name,
        to: Name,
        ends: (ListEnd, ListEnd),
    ) -> Result<Option<String>, RmwError> {
        match (self.keys.get(&source), self.keys.get(&to)) {
            (None, _) => return Ok(None),
            (Some(Held::Text(_)), _) | (_, Some(Held::Text(_))) => return Err(RmwError::WrongType),
            _ => {}
        }
        let value = self.pop(source, ends.0)?.unwrap();
        self.push(to, ends.1, std::slice::from_ref(&value))?;
        Ok(Some(value))
    }

    /// What a call gets at once from the first of its keys that exists, or from this one.
    fn take(
        &mut self,
        waiter: &Waiter,
        from: Option<Name>,
    ) -> Result<Option<(usize, Vec<String>)>, RmwError> {
        for (index, &key) in waiter.keys.iter().enumerate() {
            if from.is_some_and(|from| from != key) {
                continue;
            }
            match waiter.want {
                Want::Move(from, to, destination) => {
                    let moved = self.shift(key, destination, (from, to))?;
                    return Ok(moved.map(|value| (index, vec![value])));
                }
                Want::Pop(end, count) => {
                    let mut values = Vec::new();
                    while (values.len() as u64) < count
                        && let Some(value) = self.pop(key, end)?
                    {
                        values.push(value);
                    }
                    if !values.is_empty() {
                        return Ok(Some((index, values)));
                    }
                }
            }
        }
        Ok(None)
    }

    fn block(&mut self, waiter: Waiter) {
        match self.take(&waiter, None).transpose() {
            // Like a push, it serves others before it is told itself.
            Some(outcome) => {
                if let Want::Move(.., destination) = waiter.want {
                    self.serve(&[waiter.keys[0], destination]);
                }
                self.told.push((waiter.id, outcome));
            }
            None => self.line.push(waiter),
        }
    }

    /// After a write of these keys: the first one's waiters, oldest first, then the next one's,
    /// then those of what was moved.
    fn serve(&mut self, written: &[Name]) {
        let mut ready: VecDeque<Name> = written.iter().copied().collect();
        while let Some(key) = ready.pop_front() {
            while let Some(Held::List(_)) = self.keys.get(&key)
                && let Some(place) = self.line.iter().position(|w| w.keys.contains(&key))
            {
                let waiter = self.line.remove(place);
                let outcome = self.take(&waiter, Some(key)).map(Option::unwrap);
                self.told.push((waiter.id, outcome));
                if let Want::Move(.., destination) = waiter.want {
                    ready.push_back(destination);
                }
            }
        }
    }
}

fn text(value: &Bytes) -> String {
    String::from_utf8(value.to_vec()).unwrap()
}

struct Run {
    random: Rng,
    rmw: Rmw,
    model: Model,
    told: Arc<Mutex<Vec<(usize, Told)>>>,
    pending: BTreeMap<usize, Pending>,
    next: usize,
}

impl Run {
    fn key(&mut self) -> Name {
        self.random.usize(0..KEYS.len())
    }

    fn end(&mut self) -> ListEnd {
        match self.random.bool() {
            true => ListEnd::Front,
            false => ListEnd::Back,
        }
    }

    fn values(&mut self) -> Vec<String> {
        (0..self.random.usize(1..4))
            .map(|_| self.random.u32(0..100).to_string())
            .collect()
    }

    fn block(&mut self) {
        let (id, told) = (self.next, Arc::clone(&self.told));
        self.next += 1;
        let mut keys = vec![self.key()];
        let want = if self.random.bool() {
            keys.extend((0..self.random.usize(0..3)).map(|_| self.random.usize(0..KEYS.len())));
            Want::Pop(self.end(), self.random.u64(1..4))
        } else {
            Want::Move(self.end(), self.end(), self.key())
        };
        let named: Vec<_> = keys.iter().map(|&key| KEYS[key]).collect();
        let tell = move |outcome| told.lock().unwrap().push((id, outcome));
        let pending = match want {
            Want::Pop(end, count) => self.rmw.blmpop_with(&named, end, count, move |popped| {
                tell(popped.map(|(index, values)| (index, values.iter().map(text).collect())));
            }),
            Want::Move(from, to, destination) => {
                self.rmw
                    .blmove_with(named[0], KEYS[destination], from, to, move |moved| {
                        tell(moved.map(|value| (0, vec![text(&value)])));
                    })
            }
        };
        self.pending.insert(id, pending);
        self.model.block(Waiter { id, keys, want });
    }

    fn step(&mut self, context: &str) {
        let rmw = self.rmw.clone();
        let (key, other) = (self.key(), self.key());
        let (end, to, values) = (self.end(), self.end(), self.values());
        match self.random.u32(0..22) {
            0..9 => self.block(),
            9..12 => {
                let expected = self.model.push(key, end, &values);
                self.model.serve(&[key]);
                let pushed = match end {
                    ListEnd::Front => rmw.lpush(KEYS[key], values),
                    ListEnd::Back => rmw.rpush(KEYS[key], values),
                };
                assert_eq!(pushed, expected, "{context}");
            }
            12 => {
                let expected = self.model.shift(key, other, (end, to));
                self.model.serve(&[key, other]);
                let moved = rmw.lmove(KEYS[key], KEYS[other], end, to);
                assert_eq!(
                    moved.map(|value| value.as_ref().map(text)),
                    expected,
                    "{context}"
                );
            }
            13 => {
                let expected = self.model.pop(key, end);
                let popped = match end {
                    ListEnd::Front => rmw.lpop(KEYS[key]),
                    ListEnd::Back => rmw.rpop(KEYS[key]),
                };
                assert_eq!(
                    popped.map(|value| value.as_ref().map(text)),
                    expected,
                    "{context}"
                );
            }
            14 => {
                let held = self.model.keys.remove(&key);
                let expected = held.is_some().then_some(()).ok_or(RmwError::NoSuchKey);
                if let Some(held) = held {
                    self.model.keys.insert(other, held);
                    self.model.serve(&[other]);
                }
                assert_eq!(rmw.rename(KEYS[key], KEYS[other]), expected, "{context}");
            }
            15 => {
                self.model.keys.insert(key, Held::Text(values[0].clone()));
                rmw.set(KEYS[key], values[0].as_str()).unwrap();
            }
            16 => {
                let expected = self.model.keys.remove(&key).is_some();
                assert_eq!(rmw.del(&[KEYS[key]]), Ok(expected.into()), "{context}");
            }
            17 => {
                let list: List = values.iter().map(String::as_str).collect();
                let pairs = [(KEYS[key], list.clone()), (KEYS[other], list)];
                for key in [key, other] {
                    let held = values.iter().cloned().collect();
                    self.model.keys.insert(key, Held::List(held));
                }
                self.model.serve(&[key, other]);
                rmw.mset(pairs).unwrap();
            }
            18 | 19 => {
                // A transaction serves after its end: what comes and goes within serves nobody.
                let goes = self.random.bool();
                let expected = self.model.push(key, end, &values);
                if goes {
                    self.model.keys.remove(&key);
                }
                let pushed = self.model.push(other, to, &values);
                self.model.serve(&[key, other]);
                let mut declared = [KEYS[key], KEYS[other]];
                // Who comes first is a matter of what is done, not of what is declared.
                self.random.shuffle(&mut declared);
                let outcome = rmw.update_many(&declared, |tx| {
                    let first = match end {
                        ListEnd::Front => tx.lpush(KEYS[key], values.clone()),
                        ListEnd::Back => tx.rpush(KEYS[key], values.clone()),
                    };
                    if goes {
                        tx.del(&[KEYS[key]])?;
                    }
                    let second = match to {
                        ListEnd::Front => tx.lpush(KEYS[other], values.clone()),
                        ListEnd::Back => tx.rpush(KEYS[other], values.clone()),
                    };
                    Ok::<_, RmwError>((first, second))
                });
                assert_eq!(outcome, Ok(Ok((expected, pushed))), "{context}");
            }
            20 => {
                let ids: Vec<_> = self.pending.keys().copied().collect();
                if let Some(&id) = self.random.choice(&ids) {
                    let waits = self.model.line.iter().position(|waiter| waiter.id == id);
                    if let Some(place) = waits {
                        self.model.line.remove(place);
                    }
                    let cancelled = self.pending.remove(&id).unwrap().cancel();
                    assert_eq!(cancelled, waits.is_some(), "{context}");
                }
            }
            _ => {
                rmw.clear().unwrap();
                self.model.keys.clear();
            }
        }
    }

    fn compare(&mut self, context: &str) {
        let told = std::mem::take(&mut *self.told.lock().unwrap());
        assert_eq!(told, std::mem::take(&mut self.model.told), "{context}");
        for (id, _) in told {
            assert!(
                self.pending.remove(&id).unwrap().is_delivered(),
                "{context}"
            );
        }
        let waiting = self.model.line.len() as u64;
        assert_eq!(self.rmw.stats().blocked, waiting, "{context}");
        for (name, key) in KEYS.iter().enumerate() {
            let held = self.rmw.get_with(key, |value| match value? {
                Value::List(list) => Some(Held::List(list.iter().map(text).collect())),
                value => Some(Held::Text(String::from_utf8(value.to_vec()).unwrap())),
            });
            assert_eq!(
                held.as_ref(),
                self.model.keys.get(&name),
                "{context}, {key}"
            );
        }
    }
}

#[test]
fn random_blocking_calls_are_served_as_plain_lines_say() {
    let storm = Storm::new("random_blocking_calls_are_served_as_plain_lines_say");
    let mut run = Run {
        random: storm.rng(0),
        rmw: Rmw::new(),
        model: Model::default(),
        told: Arc::default(),
        pending: BTreeMap::new(),
        next: 0,
    };
    for step in 0..size(8_000, 150_000) {
        let context = format!("step {step}");
        run.step(&context);
        run.compare(&context);
        // Long lines are as good as short ones, and short ones are served more often.
        if run.model.line.len() > 12 {
            run.pending.clear();
            run.model.line.clear();
        }
    }
}
