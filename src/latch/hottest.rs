//! Which keys are waited for most: a few counters that the busiest keys get to keep.
//!
//! The Space-Saving algorithm (Metwally, Agrawal, El Abbadi, 2005): a key without a counter takes
//! over the one that counts least and goes on from there. So a key that has more than its share of
//! the waits is always there, and each count is too high by `overcount` at most.

use super::word::Id;

/// Counters a shard.
const COUNTERS: usize = 8;

/// How much of a name is kept, in bytes.
const NAME: usize = 128;

/// A key of a table and how often it was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HotKey {
    /// The first 128 bytes of the key, for the table of an `Rmw`; else empty, since a table knows
    /// only the hashes of its keys.
    pub name: Box<[u8]>,
    /// The upper 44 bits of the key's hash, see
    /// [`LatchTable::is_hash_of`](super::LatchTable::is_hash_of).
    pub hash: u64,
    /// How many requests for its latch had to wait.
    pub waits: u64,
    /// How many of these waits, at most, were for other keys.
    pub overcount: u64,
}

/// The counters of one shard.
#[derive(Debug)]
pub(super) struct Hottest {
    counters: Vec<HotKey>,
}

impl Hottest {
    pub(super) const fn new() -> Self {
        Self {
            counters: Vec::new(),
        }
    }

    /// Counts waits.
    pub(super) fn count(&mut self, id: Id, name: &[u8], waits: u64) {
        let hash = id.bits();
        if let Some(counter) = self.counters.iter_mut().find(|key| key.hash == hash) {
            counter.waits += waits;
            return;
        }
        let mut fresh = HotKey {
            name: name[..name.len().min(NAME)].into(),
            hash,
            waits,
            overcount: 0,
        };
        if self.counters.len() < COUNTERS {
            self.counters.push(fresh);
        } else if let Some(least) = self.counters.iter_mut().min_by_key(|key| key.waits) {
            fresh.waits += least.waits;
            fresh.overcount = least.waits;
            *least = fresh;
        }
    }

    pub(super) fn keys(&self) -> &[HotKey] {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_a_quarter_of_the_waits_is_found_among_thousands() {
        let mut hottest = Hottest::new();
        let hot = Id::of(5 << 40);
        for i in 0..40_000_u64 {
            if i % 4 == 0 {
                hottest.count(hot, b"hot", 1);
            } else {
                hottest.count(Id::of((i + 1) << 20), b"cold", 1);
            }
        }
        let found = hottest.keys().iter().find(|key| key.hash == hot.bits());
        let found = found.expect("the hot key has a counter");
        assert_eq!(&*found.name, b"hot");
        assert!(found.waits - found.overcount <= 10_000 && found.waits >= 10_000);
    }
}
