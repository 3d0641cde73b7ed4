//! Models of read-modify-write commands.
#![cfg(latchwork_loom)]

use std::collections::BTreeMap;
use std::time::Duration;

use latchwork::model::{Clock, loom, model, thread};
use latchwork::rmw::{
    Bytes, Effect, Entry, Key, KeyHasher, MemStore, Record, Rmw, Seen, SetOptions, Store,
    StoreError,
};
use latchwork::{LatchTable, Sweeper};

fn rmw() -> Rmw {
    let latches = LatchTable::builder().shards(1).build().unwrap();
    // A clear takes all the shards: each is a step of the model.
    let store = MemStore::with_shards(16);
    Rmw::builder().store(store).latches(latches).build()
}

/// Starts a thread of the model with a handle of its own.
fn spawn<S: Store, T: 'static>(
    rmw: &Rmw<S>,
    body: impl FnOnce(&Rmw<S>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let rmw = rmw.clone();
    thread::spawn(move || body(&rmw))
}

fn add_one(entry: &mut Entry) {
    let before = entry.integer().unwrap().unwrap_or(0);
    entry.set(before + 1);
}

/// Catches an increment that reads before, and writes after, another one's write.
#[test]
fn two_increments_both_count() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.incr_by("n", 1).unwrap());
        let mine = rmw.incr_by("n", 1).unwrap();
        let others = other.join().unwrap();
        assert_eq!(mine + others, 3, "both saw the same value");
        assert_eq!(rmw.get("n").unwrap(), Some(2.into()));
    });
}

/// Catches an update whose closure runs beside another write of the key.
#[test]
fn an_update_loses_nothing_to_another_write() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.incr_by("n", 1).unwrap());
        rmw.update("n", add_one).unwrap();
        other.join().unwrap();
        assert_eq!(rmw.get("n").unwrap(), Some(2.into()));
    });
}

/// Catches two updates whose closures run side by side.
#[test]
fn two_updates_both_count() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.update("n", add_one).unwrap());
        rmw.update("n", add_one).unwrap();
        other.join().unwrap();
        assert_eq!(rmw.get("n").unwrap(), Some(2.into()));
    });
}

/// Catches a reader that sees something between the value before an update and the one after.
#[test]
fn a_read_sees_the_value_before_an_update_or_after() {
    model(|| {
        let rmw = rmw();
        rmw.set("n", 1).unwrap();
        let other = spawn(&rmw, |rmw| rmw.update("n", add_one).unwrap());
        let seen = rmw.get("n").unwrap().map(|value| value.as_integer());
        assert!(matches!(seen, Some(Some(1 | 2))), "saw {seen:?}");
        other.join().unwrap();
    });
}

/// Catches a command over several keys that a reader sees half done.
#[test]
fn several_keys_are_set_at_one_moment() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.mset([("a", 1), ("b", 1)]).unwrap());
        let seen = rmw.mget(&["a", "b"]);
        assert_eq!(seen[0], seen[1], "half of it was seen");
        other.join().unwrap();
    });
}

fn move_one(rmw: &Rmw) {
    rmw.update_many(&["a", "b"], |tx| {
        tx.decr_by("a", 1)?;
        tx.incr_by("b", 1)
    })
    .unwrap()
    .unwrap();
}

/// Catches a transaction that a reader sees half done.
#[test]
fn a_transaction_is_seen_whole_or_not_at_all() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, move_one);
        let seen = rmw.mget(&["a", "b"]);
        let number = |i: usize| seen[i].as_ref().map_or(0, |v| v.as_integer().unwrap());
        assert_eq!(number(0) + number(1), 0, "half of it was seen");
        other.join().unwrap();
    });
}

/// Catches a transaction that runs beside another write of its keys.
#[test]
fn a_transaction_loses_nothing_to_another_write() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.incr_by("b", 1).unwrap());
        move_one(&rmw);
        other.join().unwrap();
        assert_eq!(rmw.get("b").unwrap(), Some(2.into()));
    });
}

/// Catches two transactions that name their keys in different orders and run side by side, or wait
/// for each other.
#[test]
fn two_transactions_on_the_same_keys_come_one_after_the_other() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| {
            let outcome = rmw.update_many(&["b", "a"], |tx| {
                tx.incr_by("a", 10)?;
                tx.decr_by("b", 10)
            });
            outcome.unwrap().unwrap();
        });
        move_one(&rmw);
        other.join().unwrap();
        assert_eq!(rmw.mget(&["a", "b"]), [Some(9.into()), Some((-9).into())]);
    });
}

/// Catches a transaction that brings back keys that were cleared while it ran.
#[test]
fn a_transaction_does_not_survive_a_clear() {
    model(|| {
        let rmw = rmw();
        rmw.set("a", 1).unwrap();
        let other = spawn(&rmw, move_one);
        rmw.clear().unwrap();
        other.join().unwrap();
        let left = rmw.mget(&["a", "b"]);
        let before = [None, None];
        let after = [Some((-1).into()), Some(1.into())];
        assert!(left == before || left == after, "back: {left:?}");
    });
}

/// Catches two who both find the key missing and both set it.
#[test]
fn one_of_two_sets_a_missing_key() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.set_if_missing("k", 1).unwrap());
        let mine = rmw.set_if_missing("k", 2).unwrap();
        assert_ne!(other.join().unwrap(), mine);
        assert_eq!(rmw.get("k").unwrap(), Some(if mine { 2 } else { 1 }.into()));
    });
}

/// Catches a command over several keys that writes beside an update of one of them.
#[test]
fn several_keys_are_set_before_or_after_an_update() {
    model(|| {
        let rmw = rmw();
        let other = spawn(&rmw, |rmw| rmw.update("a", add_one).unwrap());
        rmw.mset([("a", 10), ("b", 10)]).unwrap();
        other.join().unwrap();
        let left = rmw.get("a").unwrap().unwrap().as_integer();
        assert!(
            matches!(left, Some(10 | 11)),
            "the later write is gone: {left:?}"
        );
    });
}

/// Catches an update that brings back the value of a key that was cleared while its closure ran.
#[test]
fn an_update_does_not_survive_a_clear() {
    model(|| {
        let rmw = rmw();
        rmw.set("n", 1).unwrap();
        let other = spawn(&rmw, |rmw| rmw.update("n", add_one).unwrap());
        rmw.clear().unwrap();
        other.join().unwrap();
        let left = rmw.get("n").unwrap();
        assert!(left.is_none() || left == Some(1.into()), "back: {left:?}");
    });
}

/// Catches a deadline that is stored while the sweep looks for the next one, and that nobody comes
/// by for.
#[test]
fn a_deadline_stored_during_a_sweep_is_swept_too() {
    model(|| {
        let sweeper = Sweeper::new();
        let rmw = Rmw::builder()
            .store(OneShard::default())
            .latches(LatchTable::builder().shards(1).build().unwrap())
            .sweeper(sweeper.clone())
            .sweep_every(Duration::ZERO)
            .build();
        rmw.set_with("early", 1, &SetOptions::new().expire_at(1))
            .unwrap();
        Clock::advance(Duration::from_millis(2));
        let other = spawn(&rmw, |rmw| {
            rmw.set_with("late", 1, &SetOptions::new().expire_at(10))
                .unwrap();
        });
        sweeper.run_due(Clock::now());
        other.join().unwrap();
        Clock::advance(Duration::from_millis(20));
        sweeper.run_due(Clock::now());
        assert_eq!(rmw.len(), 0, "an expired key was forgotten");
    });
}

/// A store of one shard: the sweep looks through all 256 of the library's own, which is too many
/// steps for a model.
#[derive(Default)]
struct OneShard(loom::sync::Mutex<BTreeMap<u64, Record>>);

impl Store for OneShard {
    fn hash_with(&mut self, _hasher: KeyHasher) {}

    fn view<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>) -> R) -> R {
        look(self.0.lock().unwrap().get(&key.hash))
    }

    fn view_many(&self, keys: &[Key<'_>], mut look: impl FnMut(usize, Option<&Record>)) {
        let records = self.0.lock().unwrap();
        for (i, key) in keys.iter().enumerate() {
            look(i, records.get(&key.hash));
        }
    }

    fn change<'e, R>(
        &self,
        key: Key<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Effect<'e>, R),
    ) -> Result<R, StoreError> {
        let mut records = self.0.lock().unwrap();
        let (effect, result) = decide(records.get(&key.hash));
        match effect {
            Effect::Put(record) => drop(records.insert(key.hash, record)),
            Effect::Delete => drop(records.remove(&key.hash)),
            effect => assert!(effect.is_keep(), "not of this model: {effect:?}"),
        }
        Ok(result)
    }

    fn change_many<'e>(
        &self,
        keys: &[Key<'_>],
        mut decide: impl FnMut(usize, Option<&Record>) -> Effect<'e>,
    ) -> Result<(), StoreError> {
        for (i, key) in keys.iter().enumerate() {
            self.change(*key, |record| (decide(i, record), ()))?;
        }
        Ok(())
    }

    fn load<R>(&self, key: Key<'_>, look: impl FnOnce(Option<&Record>, Seen) -> R) -> R {
        self.view(key, |record| look(record, Seen { epoch: 0, place: 0 }))
    }

    fn publish(&self, key: Key<'_>, effect: Effect<'_>, _seen: Seen) -> Result<(), StoreError> {
        self.change(key, |_| (effect, ()))
    }

    fn clear(&self) -> Result<(), StoreError> {
        self.0.lock().unwrap().clear();
        Ok(())
    }

    fn len(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    fn expiring(&self) -> u64 {
        let records = self.0.lock().unwrap();
        let deadlines = records.values().filter_map(Record::expires_at);
        deadlines.count() as u64
    }

    fn scan(&self, _cursor: u64, _count: usize, _visit: impl FnMut(&Bytes, &Record)) -> u64 {
        0
    }

    fn visit_expired(&self, now: u64, mut visit: impl FnMut(u64)) {
        let expired: Vec<u64> = {
            let records = self.0.lock().unwrap();
            let expired = records.iter().filter(|(_, record)| record.is_expired(now));
            expired.map(|(&hash, _)| hash).collect()
        };
        for hash in expired {
            visit(hash);
        }
    }

    fn remove_expired(&self, hash: u64, now: u64) -> u64 {
        let mut records = self.0.lock().unwrap();
        if records
            .get(&hash)
            .is_some_and(|record| record.is_expired(now))
        {
            records.remove(&hash);
            return 1;
        }
        0
    }

    fn next_deadline(&self) -> Option<u64> {
        let records = self.0.lock().unwrap();
        records.values().filter_map(Record::expires_at).min()
    }
}
