//! What one client writes, and what it must find.
//!
//! A client's commands follow from its number, their number and what it has written before. The
//! server executes them in their order, so what must be there after a crash is what some beginning
//! of them leads to: one that goes at least as far as the replies, and not farther than the
//! requests.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, Result, bail, ensure};

use super::client::{Client, Command, Reply, command};

/// Accounts that all clients transfer between; what is there stays there in sum.
pub(super) const ACCOUNTS: u64 = 8;

const SLOTS: u64 = 24;
const PAIRS: u64 = 8;
/// Deadlines are beyond it: the year 2100, in milliseconds.
const FAR: u64 = 4_102_444_800_000;

pub(super) fn account(number: u64) -> String {
    format!("account:{number}")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

/// What a client's commands have led to, by key, with the deadline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    client: u64,
    keys: BTreeMap<String, (Value, Option<u64>)>,
    /// How many of them.
    pub(super) done: u64,
}

impl Model {
    pub(super) fn new(client: u64) -> Model {
        Model {
            client,
            ..Model::default()
        }
    }

    /// After a FLUSHALL.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
    }

    fn key(&self, kind: &str, number: u64) -> String {
        format!("{kind}:{}:{number}", self.client)
    }

    fn set(&mut self, key: &str, text: Vec<u8>) {
        self.keys.insert(key.to_owned(), (Value::Text(text), None));
    }

    fn text(&mut self, key: &str) -> &mut Vec<u8> {
        let value = self.keys.entry(key.to_owned());
        let (value, _) = value.or_insert_with(|| (Value::Text(Vec::new()), None));
        match value {
            Value::Text(text) => text,
            Value::List(_) => unreachable!("each key has one type"),
        }
    }

    fn list(&mut self, key: &str) -> &mut VecDeque<Vec<u8>> {
        let value = self.keys.entry(key.to_owned());
        let (value, _) = value.or_insert_with(|| (Value::List(VecDeque::new()), None));
        match value {
            Value::List(list) => list,
            Value::Text(_) => unreachable!("each key has one type"),
        }
    }

    fn pop(&mut self, key: &str) -> Option<Vec<u8>> {
        if !self.keys.contains_key(key) {
            return None;
        }
        let list = self.list(key);
        let first = list.pop_front();
        if list.is_empty() {
            self.keys.remove(key);
        }
        first
    }

    /// The next commands, which stand or fall together, taken as done.
    pub(super) fn advance(&mut self) -> Vec<Command> {
        self.done += 1;
        let number = self.done;
        let mut random = fastrand::Rng::with_seed(number << 8 | self.client);
        let slot = self.key("slot", random.u64(..SLOTS));
        let text = number.to_string().repeat(match random.u8(..32) {
            0 => random.usize(1..2_000),
            _ => random.usize(1..8),
        });
        let (left, right) = (self.key("list", 0), self.key("list", 1));
        match random.u8(..20) {
            0..6 => {
                self.set(&slot, text.clone().into());
                vec![command!["SET", slot, text]]
            }
            6 | 7 => {
                self.keys.remove(&slot);
                vec![command!["DEL", slot]]
            }
            8 => {
                self.text(&slot).extend(text.bytes());
                vec![command!["APPEND", slot, text]]
            }
            9 => {
                let deadline = FAR + number;
                if let Some((_, there)) = self.keys.get_mut(&slot) {
                    *there = Some(deadline);
                }
                vec![command!["PEXPIREAT", slot, deadline.to_string()]]
            }
            10 | 11 => {
                let pair = random.u64(..PAIRS);
                let (one, other) = (self.key("one", pair), self.key("other", pair));
                self.set(&one, text.clone().into());
                self.set(&other, text.clone().into());
                vec![command!["MSET", one, text.clone(), other, text]]
            }
            12 | 13 => {
                self.list(&left).push_back(text.clone().into());
                vec![command!["RPUSH", left, text]]
            }
            14 => {
                self.pop(&right);
                vec![command!["LPOP", right]]
            }
            15 => {
                if let Some(first) = self.pop(&left) {
                    self.list(&right).push_back(first);
                }
                vec![command!["LMOVE", left, right, "LEFT", "RIGHT"]]
            }
            16 if self.keys.contains_key(&slot) => {
                let to = self.key("slot", random.u64(..SLOTS));
                if to != slot
                    && let Some(value) = self.keys.remove(&slot)
                {
                    self.keys.insert(to.clone(), value);
                }
                vec![command!["RENAME", slot, to]]
            }
            _ => {
                // A transfer. Nobody but this client has the mark of how far it has come.
                let (from, to) = (random.u64(..ACCOUNTS), random.u64(..ACCOUNTS));
                let amount = random.u64(1..100).to_string();
                let mark = self.key("transfers", 0);
                self.set(&mark, number.to_string().into());
                vec![
                    command!["MULTI"],
                    command!["DECRBY", account(from), amount.clone()],
                    command!["SET", mark, number.to_string()],
                    command!["INCRBY", account(to), amount],
                    command!["EXEC"],
                ]
            }
        }
    }

    /// What the server has of this client.
    pub(super) fn fetch(&self, from: &mut Client) -> Result<Model> {
        let mut found = Model {
            keys: BTreeMap::new(),
            ..self.clone()
        };
        let slots = (0..SLOTS).map(|slot| self.key("slot", slot));
        let pairs = (0..PAIRS).flat_map(|pair| [self.key("one", pair), self.key("other", pair)]);
        let texts: Vec<_> = slots
            .chain(pairs)
            .chain([self.key("transfers", 0)])
            .collect();
        let mut commands = Vec::new();
        for key in &texts {
            commands.push(command!["GET", key.as_str()]);
            commands.push(command!["PEXPIRETIME", key.as_str()]);
        }
        let replies = from.ask(&commands)?;
        for (key, replies) in texts.into_iter().zip(replies.as_chunks::<2>().0) {
            let [Reply::Bulk(text), Reply::Integer(deadline)] = replies else {
                bail!("{key}: {replies:?}");
            };
            if let Some(text) = text {
                let deadline = u64::try_from(*deadline).ok();
                found
                    .keys
                    .insert(key, (Value::Text(text.clone()), deadline));
            }
        }
        for key in [self.key("list", 0), self.key("list", 1)] {
            let replies = from.ask(&[command!["LRANGE", key.as_str(), "0", "-1"]])?;
            let [Reply::Array(Some(elements))] = &replies[..] else {
                bail!("{key}: {replies:?}");
            };
            for element in elements {
                let Reply::Bulk(Some(element)) = element else {
                    bail!("{key}: {replies:?}");
                };
                found.list(&key).push_back(element.clone());
            }
        }
        Ok(found)
    }

    /// Goes on until it is what was found, not farther than `requested`.
    pub(super) fn catch_up(&mut self, found: &Model, requested: u64) -> Result<()> {
        let promised = self.clone();
        loop {
            if self.keys == found.keys {
                return Ok(());
            }
            if self.done >= requested {
                break;
            }
            self.advance();
        }
        bail!(
            "client {}: nothing between {} commands, which were answered, and {requested} leads to \
             this; from the former it differs in {}",
            self.client,
            promised.done,
            promised.difference(found)
        )
    }

    fn difference(&self, found: &Model) -> String {
        let keys = self.keys.keys().chain(found.keys.keys());
        let differ = |key: &&String| self.keys.get(*key) != found.keys.get(*key);
        let mut keys: Vec<_> = keys.filter(differ).collect();
        keys.sort();
        keys.dedup();
        let show = |model: &Model, key: &str| match model.keys.get(key) {
            None => "nothing".to_owned(),
            Some((Value::Text(text), deadline)) => {
                let text = String::from_utf8_lossy(&text[..text.len().min(24)]);
                format!("{text:?} until {deadline:?}")
            }
            Some((Value::List(list), _)) => {
                let list: Vec<_> = list.iter().map(|one| &one[..one.len().min(6)]).collect();
                format!("{} elements {:?}", list.len(), list.first())
            }
        };
        let lines = keys.into_iter().take(8).map(|key| {
            format!(
                "\n    {key}: expected {}, found {}",
                show(self, key),
                show(found, key)
            )
        });
        lines.collect()
    }
}

/// An error unless the accounts add up to nothing, as they did at first.
pub(super) fn check_accounts(client: &mut Client) -> Result<()> {
    let gets: Vec<_> = (0..ACCOUNTS)
        .map(|number| command!["GET", account(number)])
        .collect();
    let mut sum = 0;
    for reply in client.ask(&gets)? {
        match reply {
            Reply::Bulk(None) => {}
            Reply::Bulk(Some(text)) => {
                let text = String::from_utf8(text)?;
                sum += text.parse::<i64>().context("an account")?;
            }
            other => bail!("an account is {other:?}"),
        }
    }
    ensure!(
        sum == 0,
        "the accounts add up to {sum}: half a transfer is there"
    );
    Ok(())
}
