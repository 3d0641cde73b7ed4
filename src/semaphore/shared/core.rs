//! What a process has of a shared semaphore: its attachment, and the steps on the words.
//!
//! The uncontended way in is one look at the control words and one compare-and-swap on a free cell,
//! the way out one compare-and-swap and one look. Everything else, dead owners above all, is the
//! slow way's ([`Attempt`](super::attempt::Attempt)).

use std::cell::Cell as Local;
use std::ptr::NonNull;

use crate::holder::bound::{self, Claimed};
use crate::holder::claim::{self, Held};
use crate::holder::{OnLeak, anchor};
use crate::os::clock;
use crate::os::shared::Attachment;
use crate::os::shared::area::Area;
use crate::os::shared::watcher::LONGEST_SLEEP;
use crate::os::shared::word::{Owner, Value};
use crate::sync::atomic::{Ordering, model_fence};
use crate::sync::lock::Mutex;
use crate::sync::mutant;
use crate::sync::time::monotonic_millis;
use crate::sync::unmodelled::{Arc, AtomicU32, AtomicU64};
use crate::waiter::{Counter, Recorder, Wakes};

use super::control::{
    CLOSED, Cell, Control, Entry, GATED, LeaseWord, ONE, RETIRED, WAITERS, is_leased, is_retiring,
    leased, retiring, since,
};
use super::requests::Requests;

/// An entry in `starving` counts for so long, unless it is renewed.
const ENTRY_MILLIS: u64 = 50;

/// How often a cell is looked at again when others keep changing it.
const LOOKS: usize = 8;

/// Sequence numbers that a thread takes at once.
const BLOCK: u32 = 1 << 10;

/// A permit that has been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) cell: usize,
    pub(super) value: Value,
}

/// In a claim on a list: its value is in the second word. Without, its sequence number is made of
/// the claim's own tag, and nothing has to be stored but the cell.
const EXPLICIT: u64 = 1 << 63;

/// In a claim on a list: it is noted since when it stands, and so must the next one be. Like the
/// bit above it makes the number one that no cell has.
const TIMED: u64 = 1 << 62;

/// A claim with a value of its own.
impl From<Claim> for Held {
    fn from(claim: Claim) -> Self {
        Self {
            first: claim.cell as u64 | EXPLICIT,
            second: claim.value.bits(),
        }
    }
}

/// What a look at a cell found, once it was put in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Free,
    Retired,
    Held(Value),
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) waits: Recorder,
    pub(super) timeouts: Counter,
    pub(super) reaped: Counter,
    pub(super) expired: Counter,
    pub(super) leaked: Counter,
    pub(super) lost: Counter,
}

pub(crate) struct Core {
    pub(super) attached: Attachment<Control, Cell>,
    pub(super) tracks_holders: bool,
    pub(super) is_strict: bool,
    pub(super) name: Arc<str>,
    pub(super) on_leak: Option<OnLeak>,
    pub(super) counters: Counters,
    pub(super) requests: Mutex<Requests>,
    /// When one who did not wait looked at the second evidence last, in milliseconds.
    deep_looked_at: AtomicU64,
}

/// What a thread keeps for its next claim.
struct Own {
    /// A sequence number that no other recent claim of this process has; those of a thread come in
    /// blocks, and at a block's beginning the next block is to be had.
    sequence: Local<u32>,
    /// Where it found a free cell last.
    hint: Local<u32>,
}

crate::sync::local! {
    static OWN: Own = Own { sequence: Local::new(0), hint: Local::new(0) }
}

#[inline(always)]
fn sequence() -> u32 {
    OWN.with(|own| {
        let mut next = own.sequence.get();
        if next.is_multiple_of(BLOCK) {
            next = next_block();
        }
        own.sequence.set(next.wrapping_add(1));
        next
    })
}

/// The number after a block's first one, which is nobody's.
#[cold]
fn next_block() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes begin at different numbers.
    let begin = std::process::id().wrapping_mul(0x9e37_79b1) & !(BLOCK - 1);
    begin.wrapping_add(NEXT.fetch_add(BLOCK, Ordering::Relaxed)) + 1
}

impl anchor::Core for Core {
    const KIND: &'static anchor::Kind = bound::kind::<Self>();

    /// By this process's own lists: what the file says is others' to write too.
    fn is_idle(&self, at: NonNull<()>) -> bool {
        claim::holders(at).is_empty()
    }
}

// SAFETY: a claim that stands is on a list, and the core is not idle.
#[allow(unsafe_code)]
unsafe impl Claimed for Core {
    type Told = ();

    fn take_back(&self, held: Held, tag: u64) -> Option<Wakes<()>> {
        let is_back = self.give_back(self.claim_of(held, tag));
        self.counters.leaked.add(u64::from(is_back));
        is_back.then(Wakes::new)
    }

    fn amount(_held: Held) -> u64 {
        1
    }

    fn reports_to(&self) -> (&Arc<str>, Option<&OnLeak>) {
        (&self.name, self.on_leak.as_ref())
    }
}

impl Core {
    pub(super) fn new(
        attached: Attachment<Control, Cell>,
        tracks_holders: bool,
        name: Arc<str>,
        on_leak: Option<OnLeak>,
    ) -> Self {
        Self {
            is_strict: attached.shape().parameters[1] != 0,
            attached,
            tracks_holders,
            name,
            on_leak,
            counters: Counters {
                waits: Recorder::new(),
                timeouts: Counter::new(),
                reaped: Counter::new(),
                expired: Counter::new(),
                leaked: Counter::new(),
                lost: Counter::new(),
            },
            requests: Mutex::new(Requests::default()),
            deep_looked_at: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn area(&self) -> Area<'_, Control, Cell> {
        self.attached.area()
    }

    #[inline]
    pub(super) fn control(&self) -> &Control {
        self.area().control
    }

    /// Where a claim of this process's stands.
    pub(super) fn cell(&self, claim: Claim) -> &Cell {
        &self.area().cells[claim.cell]
    }

    /// A claim of this process's that nobody has had.
    #[inline]
    pub(super) fn new_claim(&self) -> Value {
        Value::new(self.attached.owner(), sequence())
    }

    /// What a claim with this tag on a list of this process's holds.
    pub(super) fn claim_of(&self, held: Held, tag: u64) -> Claim {
        let value = match held.first & EXPLICIT {
            0 => self.tagged(tag),
            _ => Value::from_bits(held.second),
        };
        Claim {
            cell: (held.first & !(EXPLICIT | TIMED)) as usize,
            value,
        }
    }

    /// The value of a claim whose sequence number is made of a tag.
    #[inline(always)]
    pub(super) fn tagged(&self, tag: u64) -> Value {
        Value::new(self.attached.own().owner, tag as u32)
    }

    /// How many permits there are to be. The file may say anything.
    #[inline]
    pub(super) fn target(&self) -> usize {
        let target = self.control().target.load(Ordering::SeqCst) as usize;
        target.min(self.area().cells.len())
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.control().change.load() & CLOSED != 0
    }

    /// Whether newcomers may take what is free.
    #[inline(always)]
    fn is_open(&self) -> bool {
        let control = self.control();
        !self.attached.is_inherited() && control.change.load() & (CLOSED | GATED) == 0
    }

    /// The cell of a claim that the thread has had, if it was not [timed](TIMED), and newcomers may
    /// take it; it is not looked at, since taking it is one. `None`: [`find`](Self::find) another.
    #[inline(always)]
    pub(super) fn cell_again(&self, first: u64) -> Option<&Cell> {
        let own = self.attached.own();
        let cell = own.cells.get(first as usize)?;
        let change = self.control().change.load();
        (change & (CLOSED | GATED) == 0).then_some(cell)
    }

    /// A cell that is free for everybody to see, and not taken yet. `None`: look closer.
    pub(super) fn find(&self) -> Option<(usize, &Cell)> {
        if !self.is_open() {
            return None;
        }
        let cells = &self.area().cells[..self.target()];
        let hint = OWN.with(|own| own.hint.get()) as usize;
        if let Some(cell) = cells.get(hint).filter(|cell| cell.word.looks_free()) {
            return Some((hint, cell));
        }
        let mut cells = cells.iter().enumerate();
        let (index, cell) = cells.find(|(_, cell)| cell.word.looks_free())?;
        OWN.with(|own| own.hint.set(index as u32));
        Some((index, cell))
    }

    /// What a claim on a cell has on its list, whose value is to be [tagged](Self::tagged).
    pub(super) fn held_at(&self, cell: usize) -> Held {
        let timed = if self.tracks_holders { TIMED } else { 0 };
        Held {
            first: cell as u64 | timed,
            second: 0,
        }
    }

    /// Takes a permit that is free for everybody to see. `None`: look closer.
    pub(super) fn try_take(&self) -> Option<Claim> {
        loop {
            let (index, cell) = self.find()?;
            let value = self.new_claim();
            if self.take(cell, value) {
                return self.keep(Claim { cell: index, value });
            }
        }
    }

    /// Looks at the gate again after a permit has been taken: if it was shut meanwhile, who shut it
    /// may not have counted this one. Gives it back then.
    fn keep(&self, claim: Claim) -> Option<Claim> {
        if self.is_gated() {
            self.give_back(claim);
            return None;
        }
        Some(claim)
    }

    /// Takes a free cell as `value`. `false`: it is not free.
    #[inline(always)]
    pub(super) fn take(&self, cell: &Cell, value: Value) -> bool {
        let is_taken = cell.word.change(Value::FREE, value);
        if is_taken && self.tracks_holders {
            Self::note_start(cell, value);
        }
        is_taken
    }

    #[cold]
    fn note_start(cell: &Cell, value: Value) {
        cell.since
            .store(since(value, clock::coarse_nanos()), Ordering::Relaxed);
    }

    /// Gives back a claim with this tag that was on a list: [`give_back`](Self::give_back) where
    /// nothing is in the way, and little enough of it to be compiled into every place where a guard
    /// is dropped. A claim with a value of its own is in the way.
    #[inline(always)]
    pub(super) fn give_back_tagged(&self, cell: &Cell, tag: u64, held: impl FnOnce() -> Held) {
        // Found before the step: what comes after waits for it.
        let control = self.control();
        if !cell.word.change(self.tagged(tag), Value::FREE) {
            self.give_back_closely(held(), tag);
        } else if Self::has_waiters(control) && !mutant::enabled("shared-release-wakes-nobody") {
            self.call(1);
        }
    }

    #[cold]
    #[inline(never)]
    fn give_back_closely(&self, held: Held, tag: u64) {
        self.give_back(self.claim_of(held, tag));
    }

    /// Gives a permit back, and calls a waiter if there are any. `false`: it was not this claim's
    /// any more, or this is a fork's child, whose claims are its parent's.
    pub(super) fn give_back(&self, claim: Claim) -> bool {
        let Some(cell) = self.area().cells.get(claim.cell) else {
            return false;
        };
        let value = claim.value;
        if self.attached.is_inherited() {
            return false;
        }
        if !cell.word.change(value, Value::FREE) {
            return self.retire(cell, value);
        }
        if !mutant::enabled("shared-release-wakes-nobody") {
            self.announce(1);
        }
        true
    }

    /// Gives back what somebody has changed meanwhile.
    #[cold]
    fn retire(&self, cell: &Cell, value: Value) -> bool {
        let Some(vacated) = cell.word.vacate(value) else {
            self.counters.lost.add(1);
            return false;
        };
        // Also where it was a permit no more: after a cut, others wait for that.
        if vacated == Value::FREE || !mutant::enabled("shared-retired-wakes-nobody") {
            self.announce(1);
        }
        true
    }

    /// Has a claim go on as a lease under another value, or its own. `None`: it does not stand any
    /// more.
    pub(super) fn exchange(&self, claim: Claim, next: Value) -> Option<Value> {
        let cell = &self.area().cells[claim.cell];
        let mut seen = cell.word.read();
        while seen.is_same_claim(claim.value) || mutant::enabled("shared-renews-blindly") {
            let next = leased(next.with_state(seen.state()));
            if cell.word.change(seen, next) {
                return Some(next.with_state(0));
            }
            seen = cell.word.read();
        }
        None
    }

    /// Calls waiters, if there are any, for `count` permits that have come free.
    #[inline]
    pub(super) fn announce(&self, count: u32) {
        if Self::has_waiters(self.control()) {
            self.call(count);
        }
    }

    /// Whether somebody waits for what has just been freed.
    #[inline(always)]
    fn has_waiters(control: &Control) -> bool {
        // The word was freed before this look; a waiter sets the flag before it looks at the word.
        model_fence();
        control.change.load() & WAITERS != 0
    }

    /// The flag goes with the call: who is called sets it again, even when it needs no more, since
    /// there may be others.
    #[cold]
    fn call(&self, count: u32) {
        let control = self.control();
        let mut seen = control.change.load();
        loop {
            if seen & WAITERS == 0 {
                return;
            }
            let called = (seen & !WAITERS).wrapping_add(ONE);
            match control.change.compare_exchange(seen, called) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        let starving = Entry(control.starving.load(Ordering::SeqCst));
        if self.is_entitled(starving) && !mutant::enabled("shared-starving-not-called") {
            control.turn.fetch_add(1);
            control.turn.wake(u32::MAX);
            if count > 1 {
                control.change.wake(count - 1);
            }
        } else {
            control.change.wake(count);
        }
    }

    /// Calls those who wait aside, for several permits.
    pub(super) fn call_aside(&self) {
        let turn = &self.control().turn;
        turn.fetch_add(1);
        turn.wake(u32::MAX);
    }

    /// Whether it is time for one who does not wait to look at the second evidence.
    pub(super) fn is_deep_look_due(&self) -> bool {
        let now = monotonic_millis();
        let last = self.deep_looked_at.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(last) >= LONGEST_SLEEP.as_millis() as u64;
        if is_due {
            self.deep_looked_at.store(now, Ordering::Relaxed);
        }
        is_due
    }

    /// Calls everybody.
    pub(super) fn call_all(&self) {
        let control = self.control();
        control.change.fetch_add(ONE);
        control.change.wake(u32::MAX);
        control.turn.fetch_add(1);
        control.turn.wake(u32::MAX);
    }

    /// Whether an entry in `starving` is one that newcomers stand behind.
    pub(super) fn is_entitled(&self, entry: Entry) -> bool {
        entry.0 != 0
            && entry.age(monotonic_millis()) < ENTRY_MILLIS
            && entry
                .claim()
                .owner()
                .is_some_and(|owner| self.is_alive(owner))
    }

    /// Whether an owner's process is not known to be dead, by the first evidence.
    pub(super) fn is_alive(&self, owner: Owner) -> bool {
        let slots = self.area().slots;
        let slot = owner.slot().and_then(|slot| slots.get(slot));
        slot.is_some_and(|slot| slot.is_alive(owner))
    }

    /// The owners that live by the first evidence and not by the second: their life word has been
    /// written over, or they ended while they detached.
    ///
    /// Who attaches locks the byte before its life begins, and who detaches unlocks it after that
    /// has ended: a life whose byte nobody has, in one generation, is none.
    pub(super) fn find_dead(&self) -> Vec<Owner> {
        let Area { cells, slots, .. } = self.area();
        let mut seen = Vec::new();
        let mut dead = Vec::new();
        let collector = Value::from_bits(self.control().collector.load(Ordering::SeqCst));
        let values = cells.iter().map(|cell| cell.word.read());
        for owner in values.chain([collector]).filter_map(Value::owner) {
            if seen.contains(&owner) || !self.is_alive(owner) {
                continue;
            }
            seen.push(owner);
            let is_dead = owner.slot().is_some_and(|index| {
                self.attached.is_unlocked(index) && slots[index].has_generation_of(owner)
            });
            if is_dead {
                dead.push(owner);
            }
        }
        dead
    }

    /// Whether what an owner holds is its own still; not if it is among the `dead`.
    fn stands(&self, owner: Owner, dead: &[Owner]) -> bool {
        let slots = self.area().slots;
        let Some((index, slot)) = owner
            .slot()
            .and_then(|index| Some((index, slots.get(index)?)))
        else {
            return false;
        };
        if slot.is_alive(owner) {
            return !dead.contains(&owner);
        }
        // A slot is taken again only when its byte is free.
        self.is_strict
            && slot.has_generation_of(owner)
            && !self.attached.is_unlocked(index)
            && !mutant::enabled("shared-strict-believes-the-first")
    }

    /// What a held cell's lease has left; `None` without one.
    pub(super) fn lease_left(&self, cell: &Cell, value: Value) -> Option<u64> {
        if !is_leased(value) {
            return None;
        }
        let lease = LeaseWord(cell.lease(value).load(Ordering::SeqCst));
        lease.left(value, monotonic_millis())
    }

    /// Looks at a cell and puts it in order: takes back what nobody has any more, and finishes a
    /// change of the number of permits that somebody began. Says how often it was taken back.
    pub(super) fn inspect(&self, index: usize, dead: &[Owner]) -> (Found, u32) {
        let cell = &self.area().cells[index];
        let mut freed = 0;
        let mut value = cell.word.read();
        for _ in 0..LOOKS {
            let retires = index >= self.target();
            let next = if value == Value::FREE {
                match retires {
                    true => RETIRED,
                    false => return (Found::Free, freed),
                }
            } else if value == RETIRED {
                match retires {
                    true => return (Found::Retired, freed),
                    false => Value::FREE,
                }
            } else if let Some(owner) = value.owner() {
                let is_over = self.lease_left(cell, value) == Some(0);
                if is_over || !self.stands(owner, dead) {
                    if cell.word.vacate(value).is_some() {
                        let counters = &self.counters;
                        let counter = if is_over {
                            &counters.expired
                        } else {
                            &counters.reaped
                        };
                        counter.add(1);
                        freed += 1;
                    }
                    value = cell.word.read();
                    continue;
                }
                match is_retiring(value) == retires {
                    true => return (Found::Held(value), freed),
                    false => retiring(value, retires),
                }
            } else {
                // Neither: garbage.
                Value::FREE
            };
            cell.word.change(value, next);
            value = cell.word.read();
        }
        // Others are at it all the time.
        (Found::Held(value), freed)
    }

    pub(super) fn close(&self) {
        self.control().change.fetch_or(CLOSED);
        if !mutant::enabled("shared-close-wakes-nobody") {
            self.call_all();
        }
    }

    /// The permits that are held, by whom.
    pub(super) fn held(&self) -> impl Iterator<Item = (usize, Value)> {
        let cells = self.area().cells;
        cells.iter().enumerate().filter_map(|(index, cell)| {
            let value = cell.word.read();
            let owner = value.owner()?;
            let is_held = self.stands(owner, &[]) && self.lease_left(cell, value) != Some(0);
            is_held.then_some((index, value))
        })
    }

    /// How many threads wait, in processes that live.
    pub(super) fn waiting(&self) -> impl Iterator<Item = (usize, u32)> {
        let slots = self.area().slots.iter().enumerate();
        slots.filter_map(|(index, slot)| {
            let waiting = slot.waiting();
            (waiting > 0 && slot.is_attached()).then_some((index, waiting))
        })
    }
}
