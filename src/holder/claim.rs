//! The claim list of a thread.
//!
//! A [`Table`] belongs to one thread at a time and is a chain of [`Chunk`]s of 64 [`Slot`]s. A
//! claim takes the lowest free slot and writes what it is, as far as the slot does not say so
//! already; a release compares a serial number and moves it on. In the steady state that is one
//! store each way: stores are what an atomic step next to them waits for.
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

use crate::sync::mutant;
use crate::sync::thread;
use crate::sync::unmodelled::{AtomicU64, Mutex, OnceLock, Ordering, fence};

const SLOTS: usize = 64;
const LIVE: u64 = 64;

/// A serial that no slot gets to.
const NEVER: u64 = u64::MAX;

/// Below this many slots, looking at each costs less than keeping account of them.
const FEW: usize = 4;

/// The component's own words about a claim: how many permits, which latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

/// How a kind of claim is given back when its guard was leaked.
pub(crate) struct Kind {
    /// Called before that, while the claim still stands on its list.
    ///
    /// # Safety
    ///
    /// As `reclaim`, which follows.
    pub(crate) announce: unsafe fn(core: NonNull<()>),
    /// Called on the thread that leaked, once, with the pointer and the words of the claim.
    ///
    /// # Safety
    ///
    /// `core` is the pointer that the claim was made with, and the claim has not been released.
    pub(crate) reclaim: unsafe fn(core: NonNull<()>, leak: Leak),
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
    /// Chunks that were full and are not any more.
    roomy: Cell<Option<&'static Chunk>>,
    /// Whether claims may stand in other chunks than the first.
    spread: Cell<bool>,
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
    /// The chunk of the calling thread's table that the next claim tries first. It has no
    /// destructor, so claims can be made and released in the destructors of other thread-locals.
    static CHUNK: Cell<Option<&'static Chunk>> = Cell::new(None)
}

impl Table {
    fn current() -> &'static Self {
        Self::registered().unwrap_or_else(Self::register)
    }

    /// The calling thread's table, if it has made claims.
    #[inline]
    fn registered() -> Option<&'static Self> {
        CHUNK.with(Cell::get)?.table.get()
    }

    /// Gives the calling thread a table, and asks for the reclaim at its end.
    #[cold]
    fn register() -> &'static Self {
        // First, because it may panic: no claim without a reclaim.
        thread::on_exit(reclaim_thread);
        let mut registry = registry().lock();
        let table = registry.free.pop().unwrap_or_else(|| {
            let table: &'static Self = Box::leak(Box::new(Self {
                first: Chunk::new(),
                last: Cell::new(None),
                roomy: Cell::new(None),
                spread: Cell::new(false),
                thread_id: AtomicU64::new(0),
                thread_name: Mutex::new(None),
            }));
            table.first.table.set(Some(table));
            registry.all.push(table);
            table
        });
        registry.threads += 1;
        // Release, as in `retire`: who sees the next thread here sees this one's reclaim.
        table.thread_id.store(registry.threads, Ordering::Release);
        *table.thread_name.lock() = thread::name();
        drop(registry);
        CHUNK.with(|chunk| chunk.set(Some(&table.first)));
        table
    }

    fn chunks(&'static self) -> impl Iterator<Item = &'static Chunk> {
        std::iter::successors(Some(&self.first), |chunk| {
            // SAFETY: `next` is null or a chunk leaked by `roomy_chunk`, which is never freed.
            unsafe { chunk.next.load(Ordering::Acquire).as_ref() }
        })
    }

    /// A chunk with a free slot at its `low`, when the one that was tried first has none.
    ///
    /// Each step takes a full chunk off the list, or makes a new one: what a claim costs does not
    /// depend on how many there are.
    #[cold]
    fn roomy_chunk() -> &'static Chunk {
        let table = Self::current();
        let current = CHUNK.with(Cell::get).unwrap_or(&table.first);
        let mut candidate = Some(current);
        while let Some(chunk) = candidate {
            if chunk.vacancy_above().is_some() {
                return table.use_next(chunk);
            }
            candidate = table.roomy.take();
            if let Some(next) = candidate {
                next.is_listed.set(false);
                table.roomy.set(next.next_roomy.take());
            }
        }
        let new: &Chunk = Box::leak(Box::new(Chunk::new()));
        new.table.set(Some(table));
        let last = table.last.replace(Some(new)).unwrap_or(&table.first);
        last.next
            .store(ptr::from_ref(new).cast_mut(), Ordering::Release);
        table.use_next(new)
    }

    fn use_next(&'static self, chunk: &'static Chunk) -> &'static Chunk {
        CHUNK.with(|first| first.set(Some(chunk)));
        if !ptr::eq(chunk, &self.first) {
            self.spread.set(true);
        }
        chunk
    }

    /// Whether a claim that `picks` stands. If none stands outside the first chunk, it looks there
    /// only from now on.
    #[cold]
    fn any_spread(&'static self, picks: impl Fn(&Slot) -> bool) -> bool {
        let mut is_spread = false;
        for chunk in self.chunks().skip(1) {
            for slot in chunk.occupied().iter().filter(|slot| slot.is_live()) {
                is_spread = true;
                if picks(slot) {
                    return true;
                }
            }
        }
        if !is_spread {
            self.leave(CHUNK.with(|chunk| chunk.replace(Some(&self.first))));
        }
        false
    }

    /// No claim stands outside the first chunk, and the next one goes there instead of to
    /// `current`.
    fn leave(&self, current: Option<&'static Chunk>) {
        self.spread.set(false);
        if let Some(current) = current {
            current.has_room_again();
        }
    }

    /// The live slots and their serials.
    fn live(&'static self) -> impl Iterator<Item = (&'static Chunk, &'static Slot, u64)> {
        self.chunks().flat_map(|chunk| {
            chunk.occupied().iter().filter_map(move |slot| {
                let serial = slot.serial.load(Ordering::Relaxed);
                (serial & LIVE != 0).then_some((chunk, slot, serial))
            })
        })
    }

    /// Gives back every claim but those that `spares` picks.
    fn reclaim(&'static self, spares: impl Fn(&Chunk, u64) -> bool) {
        for (chunk, slot, serial) in self.live() {
            let (Some(core), Some(kind)) = (slot.core(), slot.kind.get()) else {
                continue;
            };
            if spares(chunk, serial) {
                continue;
            }
            let leak = Leak {
                tag: tag(NonNull::from(chunk), serial),
                held: slot.held(),
                // SAFETY: a live slot's location was stored from a `&'static Location`.
                acquired_at: unsafe { &*slot.acquired_at.load(Ordering::Relaxed) },
                thread: self.thread_name.lock().clone(),
            };
            // SAFETY: the slot is live, so the claim is not released.
            unsafe { (kind.announce)(core) };
            if !mutant::enabled("claim-stays-after-reclaim") {
                chunk.vacate(slot, serial);
            }
            // SAFETY: the slot was live, so the claim is not released, and vacating it makes this
            // the only time.
            unsafe { (kind.reclaim)(core, leak) };
        }
    }

    /// Hands an empty table to the next thread.
    fn retire(&'static self) {
        let mut registry = registry().lock();
        self.thread_id.store(0, Ordering::Release);
        registry.free.push(self);
    }
}

/// Runs when a thread that made claims ends, after its Rust thread-locals.
fn reclaim_thread() {
    let current = CHUNK.with(Cell::take);
    if let Some(table) = current.and_then(|chunk| chunk.table.get()) {
        table.reclaim(|_, _| false);
        table.leave(current);
        table.retire();
    }
}

/// A claim on the calling thread's list. Dropping it does nothing: the component's guard releases
/// it, or the thread's end does.
#[derive(Debug)]
pub(crate) struct Claim {
    chunk: NonNull<Chunk>,
    serial: u64,
}

/// Where the calling thread's next claim goes.
#[derive(Clone, Copy)]
pub(crate) struct Seat {
    chunk: &'static Chunk,
    /// The free slot, not found by its serial again, which would be one step after another.
    slot: &'static Slot,
    serial: u64,
}

impl Seat {
    #[inline(always)]
    pub(crate) fn find() -> Self {
        if let Some(chunk) = CHUNK.with(Cell::get)
            && let Some((slot, serial)) = chunk.vacancy()
        {
            return Self {
                chunk,
                slot,
                serial,
            };
        }
        let chunk = Table::roomy_chunk();
        let (slot, serial) = chunk.vacancy().expect("made roomy just now");
        Self {
            chunk,
            slot,
            serial,
        }
    }

    /// A claim that holds nothing, stands on no list, and is as good as reclaimed.
    pub(crate) fn nothing(self) -> Claim {
        Claim {
            chunk: NonNull::from(self.chunk),
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
        kind: &'static Kind,
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
        let acquired_at = ptr::from_ref(acquired_at).cast_mut();
        if slot.acquired_at.load(Ordering::Relaxed) != acquired_at {
            slot.acquired_at.store(acquired_at, Ordering::Relaxed);
        }
        if slot.core.load(Ordering::Relaxed) != core.as_ptr() {
            slot.core.store(core.as_ptr(), Ordering::Relaxed);
        }
        // A core's address may come again as another kind's.
        if !slot.kind.get().is_some_and(|seen| ptr::eq(seen, kind)) {
            slot.kind.set(Some(kind));
        }
        self
    }

    /// What tells the claim that is about to be made here from others, see [`Claim::tag`].
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        tag(NonNull::from(self.chunk), self.serial + LIVE)
    }

    /// Puts what was written on the calling thread's list.
    ///
    /// # Safety
    ///
    /// The seat was found and written with `kind` and `core` since this thread last made a claim,
    /// and `kind.reclaim` may be called with `core` until [`Claim::release`] has returned what was
    /// held.
    #[inline(always)]
    pub(crate) unsafe fn claim(self) -> Claim {
        let serial = self.serial + LIVE;
        debug_assert_eq!(self.slot.serial.load(Ordering::Relaxed), self.serial);
        self.slot.serial.store(serial, Ordering::Release);
        Claim {
            chunk: NonNull::from(self.chunk),
            serial,
        }
    }
}

#[inline(always)]
fn tag(chunk: NonNull<Chunk>, serial: u64) -> u64 {
    // Slots of a chunk have serials of their own, and chunks have addresses.
    serial.wrapping_add(chunk.addr().get() as u64)
}

impl Claim {
    #[inline]
    fn slot(&self) -> Option<(&'static Chunk, &'static Slot)> {
        // SAFETY: chunks are never freed. A claim is not `Send`, so unless its serial is gone this
        // is the thread that made it.
        let chunk: &'static Chunk = unsafe { self.chunk.as_ref() };
        let slot = chunk.slot_of(self.serial);
        let is_mine = slot.serial.load(Ordering::Relaxed) == self.serial
            || mutant::enabled("claim-ignores-its-serial")
            // The comparison there is the second line of defence: this is the first.
            || mutant::enabled("latch-release-without-compare");
        is_mine.then_some((chunk, slot))
    }

    /// Takes the claim off the list, and says what it held. `None`: it has been reclaimed, and
    /// there is nothing for the caller to give back.
    #[inline]
    pub(crate) fn release(&self) -> Option<Held> {
        let (chunk, slot) = self.slot()?;
        chunk.vacate(slot, self.serial);
        Some(slot.held())
    }

    /// A number that no other claim of the process has that stands, nor this slot's next ones; in
    /// its lower bits too, for all but one in as many as they are.
    #[inline(always)]
    pub(crate) fn tag(&self) -> u64 {
        tag(self.chunk, self.serial)
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
        self.slot().map(|(_, slot)| slot.held())
    }

    /// Changes how much the claim holds, unless it has been reclaimed.
    pub(crate) fn set_first(&self, first: u64) -> bool {
        self.slot()
            .map(|(_, slot)| slot.first.store(first, Ordering::Relaxed))
            .is_some()
    }

    /// Since when the claim stands, unless it has been reclaimed; 0 where that is not tracked.
    pub(crate) fn since(&self) -> u64 {
        self.slot()
            .map_or(0, |(_, slot)| slot.since.load(Ordering::Relaxed))
    }

    /// Where the guard was acquired, unless the claim has been reclaimed.
    pub(crate) fn acquired_at(&self) -> Option<&'static Location<'static>> {
        self.slot().map(|(_, slot)| {
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
    let Some(table) = Table::registered() else {
        return false;
    };
    let is_of_core = |slot: &Slot| slot.core() == Some(core);
    let mut first = table.first.occupied().iter();
    first.any(|slot| slot.is_live() && is_of_core(slot))
        || (table.spread.get() && table.any_spread(is_of_core))
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

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Thread({})", self.id)
    }
}

/// The claims that the calling thread had at one moment.
pub(crate) struct Mark {
    table: &'static Table,
    /// Usually empty, and then not allocated.
    there: Vec<(*const Chunk, u64)>,
}

impl Mark {
    pub(crate) fn now() -> Self {
        let table = Table::current();
        Self {
            table,
            there: table
                .live()
                .map(|(chunk, _, serial)| (ptr::from_ref(chunk), serial))
                .collect(),
        }
    }

    /// Gives back every claim that was made since, and still stands.
    pub(crate) fn reclaim(&self) {
        self.table
            .reclaim(|chunk, serial| self.there.contains(&(ptr::from_ref(chunk), serial)));
    }
}
