//! The words that say who holds a latch while no other thread wants it for itself.
//!
//! Each shard has a few. A key belongs to one of them. While no two requests meet there, taking and
//! releasing its latch is one step each on the word; an operation that meets a holder is handed
//! over to it, in two. Neither takes the shard's lock.
//!
//! | word | means | next |
//! |---|---|---|
//! | free | no key of this word is held | held, by the taker's step |
//! | held, key | that key is held, nobody waits | free, by the holder's step |
//! | | | held with mail, by who has put an operation on this key on the stack |
//! | held with mail, key | the same, and there are operations on the stack | held, by the holder, who then takes the stack |
//! | either of these | | crowded, under the lock, by who wants the latch itself |
//! | crowded | the shard's entries say who holds and who waits | free, under the lock, when the last entry of this word goes |
//!
//! | bits | hold |
//! |---|---|
//! | 0, 1, 2 | held, crowded, mail |
//! | 3..20 | how often a key of this word was held, to tell one hold from the next |
//! | 20..64 | the key, see [`Id`] |
//!
//! A hold is taken with `Acquire` and given back with `Release`: who holds next sees what the last
//! one did. An operation is on the stack before the word is told, in one `Release` step after the
//! other: the holder's step that takes the mail flag away either sees the flag, and then the stack
//! has the operation; or it came before, and the flag is there again when the holder would release.

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::mutant;

use super::submission::{Batch, Stack};

const HELD: u64 = 1;
const CROWDED: u64 = 2;
const MAIL: u64 = 4;
const ONE_HOLD: u64 = 8;
const COUNT: u64 = (1 << 20) - ONE_HOLD;

/// Marks the numbers of holds that a word gave out, which the entries do not count.
const BY_WORD: u64 = 1 << 63;

/// What a table knows a key by: the upper 44 bits of its seeded hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(u64);

impl Id {
    #[inline]
    pub(super) fn of(hash: u64) -> Self {
        Self(hash & !(COUNT | HELD | CROWDED | MAIL))
    }

    #[inline]
    pub(super) fn bits(self) -> u64 {
        self.0
    }

    /// The same for a hash table, which wants bits that differ at both ends. No two are equal.
    #[inline]
    pub(super) fn spread(self) -> u64 {
        // An odd factor, 2^64 over the golden ratio: Knuth's multiplicative hashing.
        (self.0 >> 20).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// One word, and the operations that were handed over to its holder.
#[derive(Debug)]
pub(super) struct Word {
    state: AtomicU64,
    pub(super) stack: Stack,
}

/// What became of telling a word that there is an operation on its stack.
pub(super) enum Post {
    /// The holder finds it.
    Told,
    /// Nobody held the latch: now the caller does, under this number, and has the mail.
    Taken(u64),
    /// The entries know who holds, or have to be told: the word is another key's, whose holder may
    /// keep it for long.
    Crowded,
}

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
        Self {
            state: AtomicU64::new(0),
            stack: Stack::new(),
        }
    }

    /// Takes the latch of `id` if no key of the word is held or waited for.
    #[inline]
    pub(super) fn take(&self, id: Id) -> Try {
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            if seen & CROWDED != 0 {
                return Try::Crowded;
            }
            if seen & HELD != 0 {
                return Try::Held(Holder(seen));
            }
            let count = seen.wrapping_add(ONE_HOLD) & COUNT;
            match self.state.compare_exchange(
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
            let seen = self.state.load(Ordering::Relaxed);
            if seen & CROWDED == 0 {
                self.state.store(seen & COUNT, Ordering::Release);
                return true;
            }
        }
        let order = if mutant::enabled("latch-word-relaxed-release") {
            Ordering::Relaxed
        } else {
            Ordering::Release
        };
        self.state
            .compare_exchange(id.0 | count | HELD, count, order, Ordering::Relaxed)
            .is_ok()
    }

    /// Says that there is an operation on the stack. A step that writes the word, see above, unless
    /// the operation has to be put in line.
    pub(super) fn post(&self, id: Id) -> Post {
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            if seen & CROWDED != 0 {
                return Post::Crowded;
            }
            let count = seen.wrapping_add(ONE_HOLD) & COUNT;
            if seen & HELD != 0 && Id::of(seen) != id && !mutant::enabled("word-post-to-anybody") {
                return Post::Crowded;
            }
            let (next, posted) = if seen & HELD != 0 {
                (seen | MAIL, Post::Told)
            } else {
                (id.0 | count | HELD | MAIL, Post::Taken(BY_WORD | count))
            };
            if mutant::enabled("word-post-without-step") && next == seen {
                return posted;
            }
            match self
                .state
                .compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return posted,
                Err(now) => seen = now,
            }
        }
    }

    /// The mail of this hold. `None`: it is not to be found here, but in the entries, or nowhere.
    pub(super) fn collect(&self, id: Id, number: u64) -> Option<Batch> {
        let held = id.0 | (number & COUNT) | HELD;
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            if number & BY_WORD == 0 || seen & !MAIL != held {
                return None;
            }
            // Acquire: what was on the stack before the flag was set is there.
            match self
                .state
                .compare_exchange(seen, held, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return Some(self.stack.take()),
                Err(now) => seen = now,
            }
        }
    }

    /// Leaves it to the entries; the holder that the word knew is to get one, and the stack is to
    /// be put in line. Under the shard's lock.
    pub(super) fn crowd(&self) -> Option<Holder> {
        let mut seen = self.state.load(Ordering::Relaxed);
        loop {
            if seen & CROWDED != 0 {
                return None;
            }
            // Acquire: who takes the latch from the entries sees what the holders before did.
            match self.state.compare_exchange(
                seen,
                (seen & COUNT) | CROWDED,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return (seen & HELD != 0).then_some(Holder(seen)),
                Err(now) => seen = now,
            }
        }
    }

    /// Whether the word says that this hold stands.
    pub(super) fn has(&self, id: Id, number: u64) -> bool {
        let seen = self.state.load(Ordering::Relaxed);
        seen & !MAIL == id.0 | (number & COUNT) | HELD && number & BY_WORD != 0
    }

    /// Whether operations were handed over and not collected.
    pub(super) fn has_mail(&self) -> bool {
        self.state.load(Ordering::Relaxed) & MAIL != 0
    }

    /// The key that the word says is held.
    pub(super) fn held_key(&self) -> Option<Id> {
        let seen = self.state.load(Ordering::Relaxed);
        (seen & HELD != 0).then_some(Id::of(seen))
    }

    /// The last entry of a crowded word is gone. Under the shard's lock.
    pub(super) fn open(&self) {
        let count = self.state.load(Ordering::Relaxed) & COUNT;
        self.state.store(count, Ordering::Release);
    }

    /// Whether a key is held, and the word says so.
    pub(super) fn is_held(&self) -> bool {
        self.state.load(Ordering::Acquire) & HELD != 0
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
    fn a_hold_with_mail_is_not_released_before_it_is_collected() {
        let (word, id) = (Word::new(), Id::of(9 << 30));
        let Try::Taken(number) = word.take(id) else {
            panic!("the latch is free");
        };
        assert!(matches!(word.post(id), Post::Told));
        assert!(word.has(id, number) && word.has_mail());
        assert!(!word.release(id, number));
        assert!(
            word.collect(id, number)
                .is_some_and(|mut batch| batch.pop().is_none())
        );
        assert!(word.release(id, number));
        assert!(word.collect(id, number).is_none());
        assert!(matches!(word.post(id), Post::Taken(next) if next != number));
    }

    #[test]
    fn the_holder_of_another_key_is_handed_nothing() {
        let (word, id) = (Word::new(), Id::of(9 << 30));
        let Try::Taken(number) = word.take(id) else {
            panic!("the latch is free");
        };
        assert!(matches!(word.post(Id::of(7 << 30)), Post::Crowded));
        assert!(!word.has_mail());
        assert!(word.release(id, number));
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
        let holder = word.crowd().expect("the latch is held");
        assert_eq!((holder.id(), holder.number()), (id, number));
        assert!(!word.release(id, number));
        assert!(matches!(word.take(id), Try::Crowded));
        assert!(word.crowd().is_none());
        word.open();
        assert!(matches!(word.take(id), Try::Taken(_)));
    }
}
