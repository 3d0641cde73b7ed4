//! The claim list of a thread.
//!
//! A [`Table`] belongs to one thread at a time and is a chain of [`Chunk`]s of 64 [`Slot`]s, whose
//! free ones are on a list. A claim takes the first and writes what it is, as far as the slot does
//! not say so already; a release compares a serial number and moves it on. In the steady state that
//! is one store each way: stores are what an atomic step next to them waits for. So a slot stays on
//! the list while it is the first, and leaves when another one is wanted before it is free again.
//!
//! | bits of a serial | hold |
//! |---|---|
//! | 0..6 | the slot's index, always |
//! | 6 | `LIVE`: the slot holds a claim |
//! | 7..64 | how many claims the slot has held |
//!
//! A slot never has the same serial twice, so whoever still has the serial of a claim that has been
//! reclaimed (a guard that was leaked and is dropped after all) finds another one, and does
//! nothing: a claim is given back exactly once. Guards are not `Send`, so release and reclaim run
//! on the same thread and need no atomic step between them.
//!
//! Tables and chunks are never freed but pooled for the next thread, so there are as many as there
//! were threads at once: a serial can be compared however late, and other threads may look. What
//! those read (`holders`) is a seqlock around relaxed words, each of which is valid on its own.

#![allow(unsafe_code)]

mod chunk;
mod seen;

pub(crate) use seen::{holders, owner};

use chunk::{Chunk, Slot};

use std::cell::Cell;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::ptr::{self, NonNull};

use super::anchor;
use crate::sync::thread;
use crate::sync::unmodelled::{AtomicU64, Mutex, OnceLock, Ordering, fence};
use crate::sync::{hint, mutant};

const SLOTS: usize = 64;
const LIVE: u64 = 64;

/// The end of every list of free slots, and the start before a thread has one. Never written.
static NOWHERE: Slot = Slot::nowhere();

/// A serial that no slot gets to.
const NEVER: u64 = u64::MAX;

/// The component's own words about a claim: how many permits, which latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

/// A claim whose guard was leaked.
pub(crate) struct Leak {
    /// See [`Claim::tag`].
    pub(crate) tag: u64,
    pub(crate) held: Held,
    pub(crate) acquired_at: &'static Location<'static>,
    pub(crate) thread: Option<String>,
}

struct Table {
    first: Chunk,
    /// The newest chunk; `None` for the first. The owner's, as the two below.
    last: Cell<Option<&'static Chunk>>,
    /// Of the slots in their order, none from here on is live; above the first free one.
    high: Cell<usize>,
    /// The list of free slots, while the table is pooled. `None`: it is to be made again.
    pooled: Cell<Option<&'static Slot>>,
    /// The thread that has the table; 0 while it is pooled. Never used twice.
    thread_id: AtomicU64,
    thread_name: Mutex<Option<String>>,
}

// SAFETY: the `Cell`s are touched by the thread that the table is registered for only, and it is
// registered for one thread at a time, with the registry's lock between two of them. The rest is
// atomic or locked.
unsafe impl Sync for Table {}

#[derive(Default)]
struct Registry {
    all: Vec<&'static Table>,
    free: Vec<&'static Table>,
    threads: u64,
}

// SAFETY: tables are `Sync`, and the references are to leaked boxes.
unsafe impl Send for Registry {}

fn registry() -> &'static Mutex<Registry> {
    static REGISTRY: OnceLock<Mutex<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(Mutex::default)
}

crate::sync::local! {
    /// The first of the calling thread's free slots; live, if it was claimed since it became the
    /// first. It has no destructor, so claims can be made and released in the destructors of other
    /// thread-locals.
    static FREE: Cell<&'static Slot> = Cell::new(&NOWHERE)
}

crate::sync::local! {
    /// The calling thread's table, if it has made claims.
    static TABLE: Cell<Option<&'static Table>> = Cell::new(None)
}

impl Table {
    fn current() -> &'static Self {
        TABLE.with(Cell::get).unwrap_or_else(Self::register)
    }

    /// Gives the calling thread a table, and asks for the reclaim at its end.
    #[cold]
    fn register() -> &'static Self {
        // First, because it may panic: no claim without a reclaim.
        thread::on_exit(reclaim_thread);
        let mut registry = registry().lock();
        let table = registry.free.pop().unwrap_or_else(|| {
            let table: &'static Self = Box::leak(Box::new(Self {
                first: Chunk::new(0),
                last: Cell::new(None),
                high: Cell::new(1),
                pooled: Cell::new(None),
                thread_id: AtomicU64::new(0),
                thread_name: Mutex::new(None),
            }));
            registry.all.push(table);
            table
        });
        registry.threads += 1;
        // Release, as in `retire`: who sees the next thread here sees this one's reclaim.
        table.thread_id.store(registry.threads, Ordering::Release);
        *table.thread_name.lock() = thread::name();
        drop(registry);
        TABLE.with(|own| own.set(Some(table)));
        match table.pooled.take() {
            Some(free) => FREE.with(|first| first.set(free)),
            None => table.list_free(),
        }
        table
    }

    fn chunks(&'static self) -> impl Iterator<Item = &'static Chunk> {
        std::iter::successors(Some(&self.first), |chunk| {
            // SAFETY: `next` is null or a chunk leaked by `grow`, which is never freed.
            unsafe { chunk.next.load(Ordering::Acquire).as_ref() }
        })
    }

    /// A new chunk's first slot, for an empty list of free ones.
    fn grow(&'static self) -> &'static Slot {
        let last = self.last.get().unwrap_or(&self.first);
        let new: &Chunk = Box::leak(Box::new(Chunk::new(last.end())));
        let first = link(new.slots.iter());
        last.next
            .store(ptr::from_ref(new).cast_mut(), Ordering::Release);
        self.last.set(Some(new));
        first
    }

    /// Makes the list of free slots again, the lowest first. For the table of the calling thread.
    #[cold]
    fn list_free(&'static self) {
        let mut above_live = 0;
        let free = self.chunks().flat_map(|chunk| &chunk.slots).filter(|slot| {
            if slot.is_live() {
                slot.is_listed.set(false);
                above_live = slot.order() + 1;
            }
            !slot.is_live()
        });
        let first = link(free);
        FREE.with(|free| free.set(first));
        self.high.set(above_live.max(first.order() + 1));
    }

    /// Whether a claim that `picks` stands. For the table of the calling thread.
    #[inline]
    fn any(&'static self, picks: impl Fn(&Slot) -> bool) -> bool {
        let mut high = self.high.get();
        if high > SLOTS {
            return self.any_of_many(picks);
        }
        let least = FREE.with(Cell::get).order() + 1;
        while high > least && !self.first.slots[high - 1].is_live() {
            high -= 1;
            self.high.set(high);
        }
        let mut slots = self.first.slots[..high].iter();
        slots.any(|slot| slot.is_live() && picks(slot))
    }

    #[cold]
    fn any_of_many(&'static self, picks: impl Fn(&Slot) -> bool) -> bool {
        let mut count = 0;
        let counted = self.live().inspect(|_| count += 1);
        if counted.map(|(slot, _)| slot).any(picks) {
            return true;
        }
        // The claims that there are would have room in front: let the next ones go there.
        if FREE.with(Cell::get).order() >= SLOTS && count < SLOTS {
            self.list_free();
        }
        false
    }

    /// The live slots and their serials.
    fn live(&'static self) -> impl Iterator<Item = (&'static Slot, u64)> {
        let slots = self.chunks().flat_map(|chunk| &chunk.slots);
        slots.take(self.high.get()).filter_map(|slot| {
            let serial = slot.serial.load(Ordering::Relaxed);
            (serial & LIVE != 0).then_some((slot, serial))
        })
    }

    /// Gives back every claim but those that `spares` picks. Returns whether there were any, whose
    /// slots are not on the list of free ones then.
    fn reclaim(&'static self, spares: impl Fn(&Slot, u64) -> bool) -> bool {
        let mut is_any = false;
        for (slot, serial) in self.live() {
            let Some(core) = slot.core() else {
                continue;
            };
            if spares(slot, serial) {
                continue;
            }
            is_any = true;
            // SAFETY: the claim stands, and keeps the core.
            let kind = unsafe { anchor::kind(core) };
            let leak = Leak {
                tag: tag(NonNull::from(slot), serial),
                held: slot.held(),
                // SAFETY: a live slot's location was stored from a `&'static Location`.
                acquired_at: unsafe { &*slot.acquired_at.load(Ordering::Relaxed) },
                thread: self.thread_name.lock().clone(),
            };
            // SAFETY: the slot is live, so the claim is not released.
            unsafe { (kind.announce)(core) };
            if !mutant::enabled("claim-stays-after-reclaim") {
                slot.move_on(serial);
            }
            // SAFETY: the slot was live, so the claim is not released, and vacating it makes this
            // the only time.
            unsafe { (kind.reclaim)(core, leak) };
        }
        is_any
    }

    /// Hands an empty table to the next thread.
    fn retire(&'static self) {
        let mut registry = registry().lock();
        self.thread_id.store(0, Ordering::Release);
        registry.free.push(self);
    }
}

/// Makes a list of `free`.
fn link(free: impl Iterator<Item = &'static Slot>) -> &'static Slot {
    let (mut first, mut last) = (&NOWHERE, None::<&Slot>);
    for slot in free {
        slot.is_listed.set(true);
        match last {
            Some(last) => last.next_free.set(slot),
            None => first = slot,
        }
        last = Some(slot);
    }
    if let Some(last) = last {
        last.next_free.set(&NOWHERE);
    }
    first
}

/// Runs when a thread that made claims ends, after its Rust thread-locals.
fn reclaim_thread() {
    // A claim that is made from here on is on another table.
    let free = FREE.with(|free| free.replace(&NOWHERE));
    if let Some(table) = TABLE.with(Cell::take) {
        let is_whole = !table.reclaim(|_, _| false);
        table.pooled.set(is_whole.then_some(free));
        table.retire();
    }
}

/// A claim on the calling thread's list. Dropping it does nothing: the component's guard releases
/// it, or the thread's end does.
#[derive(Debug)]
pub(crate) struct Claim {
    slot: NonNull<Slot>,
    serial: u64,
}

/// Where the calling thread's next claim goes: a free slot.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    slot: &'static Slot,
    serial: u64,
}

impl Seat {
    #[inline(always)]
    pub(crate) fn find() -> Self {
        let slot = FREE.with(Cell::get);
        let serial = slot.serial.load(Ordering::Relaxed);
        match serial & LIVE {
            0 => Self { slot, serial },
            _ => Self::find_another(),
        }
    }

    /// Takes live slots off the list, or finds new ones: what a claim costs does not depend on how
    /// many there are.
    #[cold]
    #[inline(never)]
    fn find_another() -> Self {
        let table = Table::current();
        loop {
            let slot = FREE.with(Cell::get);
            let serial = slot.serial.load(Ordering::Relaxed);
            if serial & LIVE == 0 {
                table.high.set(table.high.get().max(slot.order() + 1));
                return Self { slot, serial };
            }
            let next = match ptr::eq(slot, &NOWHERE) {
                true => table.grow(),
                false => {
                    slot.is_listed.set(false);
                    slot.next_free.get()
                }
            };
            FREE.with(|free| free.set(next));
        }
    }

    /// A claim that holds nothing, stands on no list, and is as good as reclaimed.
    pub(crate) fn nothing() -> Claim {
        Claim {
            slot: NonNull::from(&NOWHERE),
            serial: NEVER,
        }
    }

    /// Writes down what is about to be claimed.
    ///
    /// Before the atomic step that takes it: what comes after that step waits for it, and what
    /// comes before does not. A seat that is not taken after all needs no undoing.
    #[inline(always)]
    pub(crate) fn write(
        self,
        core: NonNull<()>,
        held: Held,
        acquired_at: &'static Location<'static>,
        since: u64,
    ) -> Self {
        let slot = self.slot;
        // Pairs with the fence in `holders`: a reader that sees a word written below sees the
        // serial that the last release stored, or a later one.
        fence(Ordering::Release);
        set(&slot.first, held.first);
        // A word that a component does not use keeps what another left there: 0 says so.
        if held.second != 0 {
            set(&slot.second, held.second);
        }
        if since != 0 {
            slot.since.store(since, Ordering::Relaxed);
        }
        if slot.core.load(Ordering::Relaxed) != core.as_ptr() {
            slot.core.store(core.as_ptr(), Ordering::Relaxed);
        }
        self.write_place(acquired_at);
        self
    }

    /// What the last claim here held in its first word, if it was on `core` as well. With
    /// [`write_place`](Self::write_place) all but the second word is written down again.
    #[inline(always)]
    pub(crate) fn last_on(&self, core: NonNull<()>) -> Option<u64> {
        let is_same = self.slot.core.load(Ordering::Relaxed) == core.as_ptr();
        (is_same && hint::remembers()).then(|| self.slot.first.load(Ordering::Relaxed))
    }

    /// Writes down where the guard is acquired.
    #[inline(always)]
    pub(crate) fn write_place(&self, acquired_at: &'static Location<'static>) {
        let acquired_at = ptr::from_ref(acquired_at).cast_mut();
        if self.slot.acquired_at.load(Ordering::Relaxed) != acquired_at {
            // As in `write`.
            fence(Ordering::Release);
            self.slot.acquired_at.store(acquired_at, Ordering::Relaxed);
        }
    }

    /// What tells the claim that is about to be made here from others, see [`Claim::tag`].
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        tag(NonNull::from(self.slot), self.serial + LIVE)
    }

    /// Puts what was written on the calling thread's list.
    ///
    /// # Safety
    ///
    /// The seat was found and written with `core` since this thread last made a claim, and the
    /// reclaim of [`anchor::kind`] may be called with `core` until [`Claim::release`] has returned
    /// what was held.
    #[inline(always)]
    pub(crate) unsafe fn claim(self) -> Claim {
        let serial = self.serial + LIVE;
        debug_assert_eq!(self.slot.serial.load(Ordering::Relaxed), self.serial);
        self.slot.serial.store(serial, Ordering::Release);
        Claim {
            slot: NonNull::from(self.slot),
            serial,
        }
    }
}

#[inline(always)]
fn tag(slot: NonNull<Slot>, serial: u64) -> u64 {
    // Slots of a chunk have serials of their own, and all slots have addresses.
    serial.wrapping_add(slot.addr().get() as u64)
}

impl Claim {
    #[inline]
    fn slot(&self) -> Option<&'static Slot> {
        // SAFETY: slots are never freed. A claim is not `Send`, so unless its serial is gone this
        // is the thread that made it.
        let slot: &'static Slot = unsafe { self.slot.as_ref() };
        let is_mine = slot.serial.load(Ordering::Relaxed) == self.serial
            || mutant::enabled("claim-ignores-its-serial")
            // The comparison there is the second line of defence: this is the first.
            || mutant::enabled("latch-release-without-compare");
        is_mine.then_some(slot)
    }

    /// Takes the claim off the list, and says what it held. `None`: it has been reclaimed, and
    /// there is nothing for the caller to give back.
    #[inline]
    pub(crate) fn release(&self) -> Option<Held> {
        let slot = self.slot()?;
        let held = slot.held();
        vacate(slot, self.serial);
        Some(held)
    }

    /// [`release`](Self::release) for who knows what it held. `false`: it has been reclaimed.
    #[inline]
    pub(crate) fn withdraw(&self) -> bool {
        let slot = self.slot();
        if let Some(slot) = slot {
            vacate(slot, self.serial);
        }
        slot.is_some()
    }

    /// What it held, if it was withdrawn and nothing has been claimed since.
    #[inline]
    pub(crate) fn withdrawn(&self) -> Held {
        // SAFETY: slots are never freed.
        unsafe { self.slot.as_ref() }.held()
    }

    /// A number that no other claim of the process has that stands, nor this slot's next ones; in
    /// its lower bits too, for all but one in as many as they are.
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        tag(self.slot, self.serial)
    }

    /// Counts the claims that its slot has held.
    #[inline]
    pub(crate) fn turn(&self) -> u64 {
        self.serial / (2 * LIVE)
    }

    /// Whether it has not been reclaimed.
    #[inline]
    pub(crate) fn stands(&self) -> bool {
        self.slot().is_some()
    }

    /// What the claim holds, unless it has been reclaimed.
    #[inline]
    pub(crate) fn held(&self) -> Option<Held> {
        self.slot().map(Slot::held)
    }

    /// Changes how much the claim holds, unless it has been reclaimed.
    pub(crate) fn set_first(&self, first: u64) -> bool {
        self.slot()
            .map(|slot| slot.first.store(first, Ordering::Relaxed))
            .is_some()
    }

    /// Since when the claim stands, unless it has been reclaimed; 0 where that is not tracked.
    pub(crate) fn since(&self) -> u64 {
        self.slot()
            .map_or(0, |slot| slot.since.load(Ordering::Relaxed))
    }

    /// Where the guard was acquired, unless the claim has been reclaimed.
    pub(crate) fn acquired_at(&self) -> Option<&'static Location<'static>> {
        self.slot().map(|slot| {
            // SAFETY: a live slot's location was stored from a `&'static Location`.
            unsafe { &*slot.acquired_at.load(Ordering::Relaxed) }
        })
    }
}

// The words of a claim are written whole before it stands.
impl UnwindSafe for Claim {}
impl RefUnwindSafe for Claim {}

/// Stores what is not there yet: a load and a comparison cost less than a store that the next
/// atomic step waits for.
#[inline]
fn set(word: &AtomicU64, value: u64) {
    if word.load(Ordering::Relaxed) != value {
        word.store(value, Ordering::Relaxed);
    }
}

/// Frees a live slot of the calling thread's.
#[inline]
fn vacate(slot: &'static Slot, serial: u64) {
    slot.move_on(serial);
    if !slot.is_listed.get() {
        slot.is_listed.set(true);
        slot.next_free.set(FREE.with(|free| free.replace(slot)));
    }
}

/// Registers the calling thread, if that has not been done: what may panic in its first claim. For
/// who makes the claim where a panic does harm.
///
/// # Panics
///
/// As [`thread::on_exit`].
pub(crate) fn register() {
    Table::current();
}

/// Whether the calling thread has a claim on `core`.
#[inline]
pub(crate) fn holds(core: NonNull<()>) -> bool {
    TABLE
        .with(Cell::get)
        .is_some_and(|table| table.any(|slot| slot.core() == Some(core)))
}

/// A thread, as the owner of something: it can be asked whether it has ended.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    table: &'static Table,
    id: u64,
}

impl Thread {
    /// Whether the thread has ended and its claims have been given back. Never asks the kernel:
    /// thread ids come again, these do not.
    pub(crate) fn has_ended(self) -> bool {
        // Pairs with `retire`: who sees the end sees the reclaim.
        self.table.thread_id.load(Ordering::Acquire) != self.id
            || mutant::enabled("holder-buries-the-living")
    }
}

impl PartialEq for Thread {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.table, other.table) && self.id == other.id
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Thread({})", self.id)
    }
}

/// The claims that the calling thread had at one moment.
pub(crate) struct Mark {
    table: &'static Table,
    /// Usually empty, and then not allocated.
    there: Vec<(*const Slot, u64)>,
}

impl Mark {
    pub(crate) fn now() -> Self {
        let table = Table::current();
        Self {
            table,
            there: table
                .live()
                .map(|(slot, serial)| (ptr::from_ref(slot), serial))
                .collect(),
        }
    }

    /// Gives back every claim that was made since, and still stands.
    pub(crate) fn reclaim(&self) {
        let was_there = |slot: &Slot, serial| self.there.contains(&(ptr::from_ref(slot), serial));
        if self.table.reclaim(was_there) {
            self.table.list_free();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a claim on this thread's list that is released before the thread ends.
    fn claim() -> Claim {
        let held = Held {
            first: 1,
            second: 0,
        };
        let seat = Seat::find().write(NonNull::dangling(), held, Location::caller(), 0);
        // SAFETY: written just now; it is not leaked, so nobody asks its core.
        unsafe { seat.claim() }
    }

    #[test]
    fn places_are_used_again_in_whatever_order_they_become_free() {
        let chunks = || Table::current().chunks().count();
        let before = chunks();
        for _ in 0..1_000 {
            let [one, two, three] = [claim(), claim(), claim()];
            for claim in [two, one, three] {
                assert!(claim.release().is_some());
                assert!(claim.release().is_none());
            }
        }
        assert_eq!(chunks(), before);
    }
}
