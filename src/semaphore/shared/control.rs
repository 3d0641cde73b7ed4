//! The words of a shared semaphore.
//!
//! | word | holds |
//! |---|---|
//! | `change` | `WAITERS`, `CLOSED`, `GATED`, and a count that moves with every wake: what waiters sleep on |
//! | `turn` | a count that moves when the one in `starving` is called |
//! | `starving` | who has waited so long that newcomers queue behind it, see [`Entry`] |
//! | `collector` | who collects several permits, one request at a time |
//! | `target` | how many permits there are to be |
//! | `tokens` | the fencing token that was given out last |
//!
//! A permit is a cell. Its word names who has it; cells from `target` on are retired:
//!
//! | word | means |
//! |---|---|
//! | `FREE` | anybody's |
//! | an owner | held |
//! | an owner, `LEASED` | held until the deadline in the lease word of its sequence number |
//! | an owner, `RETIRING` | held, and no permit any more once it is given back |
//! | `RETIRED` | no permit |
//!
//! `GATED` sends newcomers the slow way: somebody starves, or the number of permits is being changed.
//! It is set before that is written, and taken away by whoever has looked at everything and found
//! it in order, if `change` has not moved meanwhile; so who is killed in between leaves it set, and
//! the next one finishes what was begun.

#![allow(unsafe_code)]

use std::time::Duration;

use crate::os::shared::area::Plain;
use crate::os::shared::word::{OwnedWord, Role, Value};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::futex::SharedFutex;

pub(super) const WAITERS: u32 = 1;
pub(super) const CLOSED: u32 = 2;
pub(super) const GATED: u32 = 4;
/// One wake.
pub(super) const ONE: u32 = 8;

/// Of a held permit; `LEASED` beside it or not.
const RETIRING: u64 = 1;
const LEASED: u64 = 2;
pub(super) const RETIRED: Value = Value::vacant(2);

/// Which component's file it is.
pub(crate) const PURPOSE: u32 = 1;

/// One cache line: a free permit is found by looking here and at its cell.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Control {
    pub(super) change: SharedFutex,
    pub(super) turn: SharedFutex,
    pub(super) starving: AtomicU64,
    pub(super) collector: AtomicU64,
    pub(super) target: AtomicU32,
    pub(super) tokens: AtomicU64,
}

// SAFETY: `repr(C)`, atomics only, some in transparent wrappers.
unsafe impl Plain for Control {}

/// A permit.
#[derive(Debug)]
#[repr(C, align(32))]
pub(crate) struct Cell {
    pub(super) word: OwnedWord<Permits>,
    /// [When](since) it was taken; for people, and only where that is tracked.
    pub(super) since: AtomicU64,
    /// Those of even and of odd sequence numbers: a renewal writes the one before it changes the
    /// number, so the lease that is in force is always whole.
    pub(super) leases: [AtomicU64; 2],
}

// SAFETY: as for `Control`.
unsafe impl Plain for Cell {}

/// What the words of cells are used for.
#[derive(Debug)]
pub(crate) struct Permits;

impl Role for Permits {
    #[inline]
    fn vacated(state: u64) -> Value {
        match state & RETIRING {
            0 => Value::FREE,
            _ => RETIRED,
        }
    }
}

/// Whether a held permit is to be retired.
pub(super) fn is_retiring(value: Value) -> bool {
    value.state() & RETIRING != 0
}

/// Whether a held permit has a lease.
pub(super) fn is_leased(value: Value) -> bool {
    value.state() & LEASED != 0
}

pub(super) fn leased(value: Value) -> Value {
    value.with_state(value.state() | LEASED)
}

impl Cell {
    /// Where the lease of a claim is.
    pub(super) fn lease(&self, claim: Value) -> &AtomicU64 {
        &self.leases[claim.sequence() as usize & 1]
    }
}

pub(super) fn retiring(value: Value, retires: bool) -> Value {
    let others = value.state() & !RETIRING;
    value.with_state(if retires { others | RETIRING } else { others })
}

/// Writes the first contents: `permits` free cells, the others retired.
pub(crate) fn prepare(control: &Control, cells: &[Cell], permits: u32) {
    control.target.store(permits, Ordering::Relaxed);
    for cell in cells.iter().skip(permits as usize) {
        cell.word.change(Value::FREE, RETIRED);
    }
}

/// Since when a claim holds a cell: milliseconds of the coarse clock above the claim's sequence
/// number, so that it says nothing of the next one.
pub(super) fn since(claim: Value, nanos: u64) -> u64 {
    (nanos / 1_000_000) << 30 | u64::from(claim.sequence())
}

/// How long a claim has held its cell; `None` if that was not written down.
pub(super) fn age(claim: Value, since: u64, nanos: u64) -> Option<Duration> {
    if since == 0 || since & ((1 << 30) - 1) != u64::from(claim.sequence()) {
        return None;
    }
    Some(Duration::from_millis(
        (nanos / 1_000_000).saturating_sub(since >> 30),
    ))
}

/// Until when a cell is leased, in the word beside it.
///
/// | bits | hold |
/// |---|---|
/// | 30..64 | the deadline in milliseconds of the machine's clock, modulo 2^34 (198 days) |
/// | 0..30 | the sequence number of the claim that it is for |
///
/// A lease of another claim than the one in the cell's word says nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseWord(pub(super) u64);

const LEASE_BITS: u32 = 34;
const LEASE: u64 = (1 << LEASE_BITS) - 1;

/// The longest lease: far from where the clock's 34 bits turn over.
pub(super) const LONGEST_LEASE_MILLIS: u64 = LEASE / 4;

impl LeaseWord {
    pub(super) fn new(claim: Value, deadline_millis: u64) -> Self {
        Self((deadline_millis & LEASE) << 30 | u64::from(claim.sequence()))
    }

    /// Milliseconds that are left at `now`, if this is the lease of `claim`; 0: it is over.
    pub(super) fn left(self, claim: Value, now: u64) -> Option<u64> {
        if self.0 == 0 || self.0 & ((1 << 30) - 1) != u64::from(claim.sequence()) {
            return None;
        }
        let left = (self.0 >> 30).wrapping_sub(now) & LEASE;
        Some(if left > LEASE / 2 { 0 } else { left })
    }
}

/// Who starves, and since when: the upper half an owner, then 16 bits of milliseconds, then 16 that
/// tell its threads apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    pub(super) fn new(claim: Value, millis: u64) -> Self {
        let owner = claim.bits() >> 32;
        Self(owner << 32 | (millis & 0xffff) << 16 | u64::from(claim.sequence() & 0xffff))
    }

    /// Whose it is, as a claim that no cell holds.
    pub(super) fn claim(self) -> Value {
        Value::from_bits(self.0 & !0xffff_ffff)
    }

    /// Milliseconds since it was made, up to a minute.
    pub(super) fn age(self, millis: u64) -> u64 {
        millis.wrapping_sub(self.0 >> 16) & 0xffff
    }
}

impl Control {
    #[allow(
        dead_code,
        reason = "a model's memory is made of it; elsewhere it is a file's"
    )]
    pub(crate) fn zeroed() -> Self {
        Self {
            change: SharedFutex::new(0),
            turn: SharedFutex::new(0),
            starving: AtomicU64::new(0),
            collector: AtomicU64::new(0),
            target: AtomicU32::new(0),
            tokens: AtomicU64::new(0),
        }
    }
}

impl Cell {
    #[allow(
        dead_code,
        reason = "a model's memory is made of it; elsewhere it is a file's"
    )]
    pub(crate) fn zeroed() -> Self {
        Self {
            word: OwnedWord::new(Value::FREE),
            since: AtomicU64::new(0),
            leases: [AtomicU64::new(0), AtomicU64::new(0)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::shared::word::Owner;

    fn claim(sequence: u32) -> Value {
        Value::new(Owner::new(4, 7), sequence)
    }

    #[test]
    fn a_lease_is_of_one_claim_and_over_at_its_deadline() {
        let lease = LeaseWord::new(claim(9), 1_000);
        assert_eq!(lease.left(claim(9), 400), Some(600));
        assert_eq!(lease.left(claim(9), 1_000), Some(0));
        assert_eq!(lease.left(claim(9), 5_000), Some(0));
        assert_eq!(lease.left(claim(10), 5_000), None);
        assert_eq!(LeaseWord(0).left(claim(0), 0), None);
    }

    #[test]
    fn a_lease_passes_the_end_of_its_clock() {
        let end = 1 << 34;
        let lease = LeaseWord::new(claim(9), end + 5);
        assert_eq!(lease.left(claim(9), end - 5), Some(10));
        assert_eq!(lease.left(claim(9), end + 6), Some(0));
    }

    #[test]
    fn an_entry_tells_its_owner_and_its_age() {
        let entry = Entry::new(claim(3), 0x1_fff0);
        assert_eq!(entry.claim().owner(), Some(Owner::new(4, 7)));
        assert_eq!(entry.age(0x2_0005), 0x15);
    }
}
