//! Owned words: what is claimed in shared memory, with its owner in the same word.
//!
//! | bits | hold |
//! |---|---|
//! | 52..64 | the owner's process slot + 1; 0: nobody's |
//! | 32..52 | the generation of that slot |
//! | 30..32 | state bits, the user's |
//! | 0..30 | the claim's sequence number |
//!
//! A claim, a release and a reap are one compare-and-swap each, on the full value. So any number of
//! processes may reap at the same time, and the late release of a claim that was taken back meets
//! another value and changes nothing: neither a process that is about to end nor a sibling thread
//! can free what is somebody else's. At whatever instruction a process is killed, the word says who
//! has it.

use std::marker::PhantomData;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::mutant;

const SEQUENCE_BITS: u32 = 30;
const STATE_SHIFT: u32 = SEQUENCE_BITS;
const OWNER_SHIFT: u32 = 32;
const OWNER: u64 = u64::MAX << OWNER_SHIFT;
const SEQUENCE: u64 = (1 << SEQUENCE_BITS) - 1;
const STATE: u64 = 3 << STATE_SHIFT;
const GENERATION_BITS: u32 = 20;
const GENERATION: u32 = (1 << GENERATION_BITS) - 1;

/// The most slots that an owner can name.
pub(crate) const MOST_SLOTS: usize = (1 << 12) - 1;

/// An attachment of a process: its slot, and how often that had been taken before. The bits stand
/// where a word has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner(u64);

impl Owner {
    pub(crate) fn new(slot: usize, generation: u32) -> Self {
        debug_assert!(slot < MOST_SLOTS);
        let number = (slot as u32 + 1) << GENERATION_BITS | (generation & GENERATION);
        Self(u64::from(number) << OWNER_SHIFT)
    }

    /// What [`bits`](Self::bits) gave; 0 names nobody.
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// `None`: it names no slot. Whether there is one with that number, the caller checks.
    pub(crate) fn slot(self) -> Option<usize> {
        (self.number() >> GENERATION_BITS)
            .checked_sub(1)
            .map(|slot| slot as usize)
    }

    /// Whether `generation` is the one of this attachment.
    pub(crate) fn is_of(self, generation: u32) -> bool {
        self.number() & GENERATION == generation & GENERATION
    }

    fn number(self) -> u32 {
        (self.0 >> OWNER_SHIFT) as u32
    }
}

/// What an owned word holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value(u64);

impl Value {
    pub(crate) const FREE: Self = Self(0);

    pub(crate) fn new(owner: Owner, sequence: u32) -> Self {
        Self(owner.0 | u64::from(sequence) & SEQUENCE)
    }

    /// Nobody's word in a state of its own.
    pub(crate) const fn vacant(state: u64) -> Self {
        Self(state << STATE_SHIFT & STATE)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    /// `None`: nobody's.
    #[inline]
    pub(crate) fn owner(self) -> Option<Owner> {
        let owner = Owner(self.0 & OWNER);
        owner.slot().map(|_| owner)
    }

    pub(crate) fn state(self) -> u64 {
        (self.0 & STATE) >> STATE_SHIFT
    }

    pub(crate) fn with_state(self, state: u64) -> Self {
        Self(self.0 & !STATE | state << STATE_SHIFT & STATE)
    }

    pub(crate) fn sequence(self) -> u32 {
        (self.0 & SEQUENCE) as u32
    }

    /// Whether the two are the same claim, in whatever state.
    #[inline]
    pub(crate) fn is_same_claim(self, other: Self) -> bool {
        (self.0 ^ other.0) & !STATE == 0
    }
}

/// What words are used for.
pub(crate) trait Role {
    /// What becomes of a word whose claim, in this state, is given up or taken back.
    fn vacated(state: u64) -> Value;
}

/// A word in shared memory that one owner at a time has.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct OwnedWord<R> {
    word: AtomicU64,
    role: PhantomData<R>,
}

impl<R: Role> OwnedWord<R> {
    pub(crate) fn new(value: Value) -> Self {
        Self {
            word: AtomicU64::new(value.0),
            role: PhantomData,
        }
    }

    /// What the word holds. `Acquire`: who finds it free sees what its last owner did.
    #[inline]
    pub(crate) fn read(&self) -> Value {
        Value(self.word.load(Ordering::SeqCst))
    }

    /// Whether the word may be free: a look that orders nothing.
    #[inline]
    pub(crate) fn looks_free(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }

    /// Changes the word if it is `from`. `SeqCst`: a release writes the word and then looks for
    /// waiters, who announce themselves and then look at the word.
    #[inline]
    pub(crate) fn change(&self, from: Value, to: Value) -> bool {
        self.word
            .compare_exchange(from.0, to.0, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives up a claim, or takes it back from who can not. `None`: it does not stand any more.
    #[inline]
    pub(crate) fn vacate(&self, claim: Value) -> Option<Value> {
        let mut seen = claim;
        loop {
            if mutant::enabled("word-vacated-without-compare") {
                seen = self.read();
            }
            let vacated = R::vacated(seen.state());
            match self
                .word
                .compare_exchange(seen.0, vacated.0, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return Some(vacated),
                // Its state was changed meanwhile, by somebody who is not the owner.
                Err(now) if Value(now).is_same_claim(claim) => seen = Value(now),
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain;

    impl Role for Plain {
        fn vacated(state: u64) -> Value {
            match state {
                1 => Value::vacant(2),
                _ => Value::FREE,
            }
        }
    }

    #[test]
    fn an_owner_and_its_claim_are_found_again_in_the_word() {
        let owner = Owner::new(MOST_SLOTS - 1, 0xabcde);
        let value = Value::new(owner, 77).with_state(3);
        assert_eq!(value.owner(), Some(owner));
        assert_eq!((value.sequence(), value.state()), (77, 3));
        assert_eq!(owner.slot(), Some(MOST_SLOTS - 1));
        assert!(owner.is_of(0xabcde) && owner.is_of(0x10_abcde) && !owner.is_of(1));
        assert_eq!(Value::vacant(2).owner(), None);
    }

    #[test]
    fn the_late_release_of_a_claim_that_was_taken_back_frees_nobody_elses() {
        let claim = Value::new(Owner::new(3, 1), 5);
        let word = OwnedWord::<Plain>::new(Value::FREE);
        assert!(word.change(Value::FREE, claim));
        assert_eq!(word.vacate(claim), Some(Value::FREE));
        let next = Value::new(Owner::new(3, 1), 6);
        assert!(word.change(Value::FREE, next));
        assert_eq!(word.vacate(claim), None);
        assert_eq!(word.read(), next);
    }

    #[test]
    fn a_state_that_others_have_set_decides_what_becomes_of_the_word() {
        let claim = Value::new(Owner::new(0, 9), 1);
        let word = OwnedWord::<Plain>::new(claim.with_state(1));
        assert_eq!(word.vacate(claim), Some(Value::vacant(2)));
    }
}
