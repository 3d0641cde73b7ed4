//! The latches of a shard that are held or waited for.
//!
//! At any moment a shard has few: as many as threads happen to be in it. The first ones sit side by
//! side and are found by comparing; only a crowd (latches that travel detached, say) goes to a hash
//! table.

use hashbrown::HashTable;

/// How many are found by comparing: a cache line or two of them.
const FEW: usize = 4;

/// Something that is known by its hash.
pub(super) trait Hashed {
    fn hash(&self) -> u64;
}

pub(super) struct Entries<T> {
    few: [Option<T>; FEW],
    /// How many of `few` are there.
    used: usize,
    crowd: HashTable<T>,
}

impl<T: Hashed> Entries<T> {
    pub(super) fn new() -> Self {
        Self {
            few: [const { None }; FEW],
            used: 0,
            crowd: HashTable::new(),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, hash: u64) -> Option<&mut T> {
        if self.used > 0 {
            for place in &mut self.few {
                if let Some(entry) = place
                    && entry.hash() == hash
                {
                    return Some(entry);
                }
            }
        }
        if self.crowd.is_empty() {
            return None;
        }
        self.crowd.find_mut(hash, |entry| entry.hash() == hash)
    }

    /// Adds an entry with a hash that is not there yet.
    #[inline]
    pub(super) fn insert(&mut self, entry: T) {
        match self.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => {
                *place = Some(entry);
                self.used += 1;
            }
            None => self.insert_into_crowd(entry),
        }
    }

    #[cold]
    fn insert_into_crowd(&mut self, entry: T) {
        self.crowd.insert_unique(entry.hash(), entry, T::hash);
    }

    #[inline]
    pub(super) fn remove(&mut self, hash: u64) {
        for place in &mut self.few {
            if place.as_ref().is_some_and(|entry| entry.hash() == hash) {
                *place = None;
                self.used -= 1;
                return;
            }
        }
        self.remove_from_crowd(hash);
    }

    #[cold]
    fn remove_from_crowd(&mut self, hash: u64) {
        if let Ok(place) = self.crowd.find_entry(hash, |entry| entry.hash() == hash) {
            place.remove();
        }
        if self.crowd.is_empty() {
            self.crowd = HashTable::new();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0 && self.crowd.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.few.iter().flatten().chain(&self.crowd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Hashed for u64 {
        fn hash(&self) -> u64 {
            *self
        }
    }

    #[test]
    fn a_crowd_is_found_and_leaves_nothing_behind() {
        let mut entries = Entries::new();
        for hash in 0..100_u64 {
            assert_eq!(entries.get_mut(hash), None);
            entries.insert(hash);
        }
        assert_eq!(entries.iter().count(), 100);
        for hash in (0..100).rev() {
            assert_eq!(entries.get_mut(hash), Some(&mut hash.clone()));
            entries.remove(hash);
            assert_eq!(entries.get_mut(hash), None);
        }
        assert!(entries.is_empty());
        assert_eq!(entries.crowd.capacity(), 0);
    }

    #[test]
    fn places_among_the_few_are_used_again_while_there_is_a_crowd() {
        let mut entries = Entries::new();
        (0..6_u64).for_each(|hash| entries.insert(hash));
        entries.remove(1);
        entries.insert(9);
        let mut there: Vec<u64> = entries.iter().copied().collect();
        there.sort_unstable();
        assert_eq!(there, [0, 2, 3, 4, 5, 9]);
        assert_eq!(entries.crowd.len(), 2);
    }
}
