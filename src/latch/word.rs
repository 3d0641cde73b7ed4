//! The words that say who holds a latch while nobody else wants it.
//!
//! Each shard has a few. A key belongs to one of them, and while no two requests meet there, taking
//! and releasing its latch is one step each on the word, without the shard's lock:
//!
//! | word | means | next |
//! |---|---|---|
//! | free | no key of this word is held | held, by the taker's step |
//! | held, key | that key is held, nobody waits | free, by the holder's step; crowded, by the next request's, under the lock |
//! | crowded | the shard's entries say who holds and who waits | free, under the lock, when the last entry of this word goes |
//!
//! | bits | hold |
//! |---|---|
//! | 0 | held |
//! | 1 | crowded |
//! | 2..20 | how often a key of this word was held, to tell one hold from the next |
//! | 20..64 | the key, see [`Id`] |
//!
//! A hold that the word says is taken with `Acquire` and given back with `Release`: who holds next
//! sees what the last one did. A crowded word is opened again with `Release`, under the lock, after
//! the release of the last hold.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::mutant;

const HELD: u64 = 1;
const CROWDED: u64 = 2;
const ONE_HOLD: u64 = 4;
const COUNT: u64 = (1 << 20) - ONE_HOLD;

/// Marks the numbers of holds that a word gave out, which the entries do not count.
const BY_WORD: u64 = 1 << 63;

/// What a table knows a key by: the upper 44 bits of its seeded hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u64);

impl Id {
    #[inline]
    pub(super) fn of(hash: u64) -> Self {
        Self(hash & !(COUNT | HELD | CROWDED))
    }

    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }
}

/// One word.
#[derive(Debug)]
pub(super) struct Word(AtomicU64);

/// What a try to take a key's latch by its word came to.
pub(super) enum Try {
    /// It is the caller's, under this number.
    Taken(u64),
    /// Somebody holds a key of the word.
    Held(Holder),
    /// The entries know.
    Crowded,
}

/// A word as it was when somebody held a key of it.
#[derive(Clone, Copy)]
pub(super) struct Holder(u64);

impl Holder {
    #[inline]
    pub(super) fn id(self) -> Id {
        Id::of(self.0)
    }

    /// The number of the hold.
    pub(super) fn number(self) -> u64 {
        BY_WORD | (self.0 & COUNT)
    }
}

impl Word {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Takes the latch of `id` if no key of the word is held or waited for.
    #[inline]
    pub(super) fn take(&self, id: Id) -> Try {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            if seen & CROWDED != 0 {
                return Try::Crowded;
            }
            if seen & HELD != 0 {
                return Try::Held(Holder(seen));
            }
            let count = seen.wrapping_add(ONE_HOLD) & COUNT;
            match self.0.compare_exchange(
                seen,
                id.0 | count | HELD,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Try::Taken(BY_WORD | count),
                Err(now) => seen = now,
            }
        }
    }

    /// Gives a latch back. `false`: it is not to be found here, but in the entries, or nowhere.
    #[inline]
    pub(super) fn release(&self, id: Id, number: u64) -> bool {
        if number & BY_WORD == 0 {
            return false;
        }
        let count = number & COUNT;
        if mutant::enabled("latch-release-without-compare") {
            let seen = self.0.load(Ordering::Relaxed);
            if seen & CROWDED == 0 {
                self.0.store(seen & COUNT, Ordering::Release);
                return true;
            }
        }
        let order = if mutant::enabled("latch-word-relaxed-release") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.0
            .compare_exchange(id.0 | count | HELD, count, order, Ordering::Relaxed)
            .is_ok()
    }

    /// Leaves it to the entries, from `holder` on. `false`: the word has changed since. Under the
    /// shard's lock.
    pub(super) fn crowd(&self, holder: Holder) -> bool {
        // Acquire: who takes the latch from the entries sees what the holders before did.
        self.0
            .compare_exchange(
                holder.0,
                (holder.0 & COUNT) | CROWDED,
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// The last entry of a crowded word is gone. Under the shard's lock.
    pub(super) fn open(&self) {
        let count = self.0.load(Ordering::Relaxed) & COUNT;
        self.0.store(count, Ordering::Release);
    }

    /// Whether a key is held, and the word says so.
    pub(super) fn is_held(&self) -> bool {
        self.0.load(Ordering::Acquire) & HELD != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_that_is_over_does_not_release_the_next_one_of_the_same_key() {
        let (word, id) = (Word::new(), Id::of(7 << 40));
        let take = || match word.take(id) {
            Try::Taken(number) => number,
            _ => panic!("the latch is free"),
        };
        let first = take();
        assert!(word.release(id, first));
        let second = take();
        assert!(!word.release(id, first));
        assert!(word.is_held());
        assert!(word.release(id, second));
        assert!(!word.is_held());
    }

    #[test]
    fn the_count_of_holds_wraps_around_inside_its_bits() {
        let (word, id) = (Word::new(), Id::of(u64::MAX));
        for _ in 0..1 << 19 {
            let Try::Taken(number) = word.take(id) else {
                panic!("the latch is free");
            };
            assert!(matches!(word.take(id), Try::Held(holder) if holder.id() == id));
            assert!(word.release(id, number));
        }
    }

    #[test]
    fn a_crowded_word_leaves_it_to_the_entries_until_it_is_opened() {
        let (word, id) = (Word::new(), Id::of(3 << 30));
        let Try::Taken(number) = word.take(id) else {
            panic!("the latch is free");
        };
        let Try::Held(holder) = word.take(id) else {
            panic!("the latch is held");
        };
        assert_eq!((holder.id(), holder.number()), (id, number));
        assert!(word.crowd(holder));
        assert!(!word.release(id, number));
        assert!(matches!(word.take(id), Try::Crowded));
        word.open();
        assert!(matches!(word.take(id), Try::Taken(_)));
    }
}
