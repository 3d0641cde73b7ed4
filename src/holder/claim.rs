//! The claim list of a thread.
//!
//! A [`Table`] belongs to one thread at a time and is a chain of [`Chunk`]s of 64 [`Slot`]s. A claim
//! takes the lowest free slot of a chunk (one bit in `active`) and writes what it is; a release
//! compares the serial number and clears the bit. Both are a handful of plain stores by the owning thread.
//!
//! | serial of a slot | means |
//! |---|---|
//! | 0 | free, or being written |
//! | `n * 64 + index` | the claim that got number `n` of this table |
//!
//! Serial numbers are never used again in a table, so whoever still has the number of a claim that has
//! been reclaimed (a guard that was leaked and is dropped after all) finds another one, and does nothing: a claim
//! is given back exactly once. Guards are not `Send`, so release and reclaim run on the same
//! thread and need no atomic step between them.
//!
//! Tables and chunks are never freed but pooled for the next thread, so there are as many as there were
//! threads at once: a serial can be compared however late, and other threads may look. What those read (`holders`)
//! is a seqlock around relaxed words, each of which is valid on its own.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::time::Duration;

use crate::sync::thread;
use crate::sync::unmodelled::{AtomicPtr, AtomicU64, Mutex, OnceLock, Ordering, fence};

const SLOTS: usize = 64;

/// The component's own words about a claim: how many permits, which latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

/// How a kind of claim is given back when its guard was leaked.
pub(crate) struct Kind {
    /// Called on the thread that leaked, once, with the pointer and the words of the claim.
    ///
    /// # Safety
    ///
    /// `core` is the pointer that the claim was made with, and the claim has not been released.
    pub(crate) reclaim: unsafe fn(core: NonNull<()>, leak: Leak),
}

/// A claim whose guard was leaked.
pub(crate) struct Leak {
    pub(crate) held: Held,
    pub(crate) acquired_at: &'static Location<'static>,
    pub(crate) thread: Option<String>,
}

#[repr(align(64))]
struct Slot {
    serial: AtomicU64,
    core: AtomicPtr<()>,
    first: AtomicU64,
    second: AtomicU64,
    acquired_at: AtomicPtr<Location<'static>>,
    /// Coarse nanoseconds since boot; 0 where nobody asked for it.
    since: AtomicU64,
    kind: Cell<Option<&'static Kind>>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            serial: AtomicU64::new(0),
            core: AtomicPtr::new(ptr::null_mut()),
            first: AtomicU64::new(0),
            second: AtomicU64::new(0),
            acquired_at: AtomicPtr::new(ptr::null_mut()),
            since: AtomicU64::new(0),
            kind: Cell::new(None),
        }
    }
}

struct Chunk {
    slots: [Slot; SLOTS],
    /// Bit `i`: slot `i` holds a claim. The owner's.
    active: Cell<u64>,
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    const fn new() -> Self {
        Self {
            slots: [const { Slot::new() }; SLOTS],
            active: Cell::new(0),
            next: AtomicPtr::new(ptr::null_mut()),
        }
    }
}

struct Table {
    first: Chunk,
    /// The chunk that the next claim tries first. The owner's.
    hint: Cell<*const Chunk>,
    /// The last number given to a claim. The owner's.
    numbered: Cell<u64>,
    /// The thread that has the table; 0 while it is pooled. Never used twice.
    thread_id: AtomicU64,
    thread_name: Mutex<Option<String>>,
}

// SAFETY: the `Cell`s are touched by the thread that the table is registered for only, and it is
// registered for one thread at a time, with the registry's lock between two of them. The rest is atomic or locked.
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
    /// The calling thread's table. It has no destructor, so claims can be made and released in the
    /// destructors of other thread-locals.
    static TABLE: Cell<Option<&'static Table>> = Cell::new(None)
}

impl Table {
    #[inline]
    fn current() -> &'static Self {
        TABLE.with(Cell::get).unwrap_or_else(Self::register)
    }

    /// Gives the calling thread a table, and asks for the reclaim at its end.
    #[cold]
    fn register() -> &'static Self {
        let mut registry = registry().lock();
        let table = registry.free.pop().unwrap_or_else(|| {
            let table: &'static Self = Box::leak(Box::new(Self {
                first: Chunk::new(),
                hint: Cell::new(ptr::null()),
                numbered: Cell::new(0),
                thread_id: AtomicU64::new(0),
                thread_name: Mutex::new(None),
            }));
            registry.all.push(table);
            table
        });
        registry.threads += 1;
        table.hint.set(&raw const table.first);
        table.thread_id.store(registry.threads, Ordering::Relaxed);
        *table.thread_name.lock() = thread::name();
        drop(registry);
        TABLE.with(|slot| slot.set(Some(table)));
        thread::on_exit(reclaim_thread);
        table
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        std::iter::successors(Some(&self.first), |chunk| {
            // SAFETY: `next` is null or a chunk leaked by `roomy_chunk`, which is never freed.
            unsafe { chunk.next.load(Ordering::Acquire).as_ref() }
        })
    }

    /// A chunk with a free slot, when the hinted one is full.
    #[cold]
    fn roomy_chunk(&self) -> &Chunk {
        let mut last = &self.first;
        for chunk in self.chunks() {
            if chunk.active.get() != u64::MAX {
                return chunk;
            }
            last = chunk;
        }
        let new: &Chunk = Box::leak(Box::new(Chunk::new()));
        last.next
            .store(ptr::from_ref(new).cast_mut(), Ordering::Release);
        new
    }

    /// Gives back every claim that is numbered above `mark`.
    fn reclaim_after(&self, mark: u64) {
        for chunk in self.chunks() {
            let mut left = chunk.active.get();
            while left != 0 {
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                let slot = &chunk.slots[index];
                if slot.serial.load(Ordering::Relaxed) / SLOTS as u64 <= mark {
                    continue;
                }
                let core = NonNull::new(slot.core.load(Ordering::Relaxed));
                let (Some(core), Some(kind)) = (core, slot.kind.get()) else {
                    continue;
                };
                let leak = Leak {
                    held: Held {
                        first: slot.first.load(Ordering::Relaxed),
                        second: slot.second.load(Ordering::Relaxed),
                    },
                    // SAFETY: an active slot's location was stored from a `&'static Location`.
                    acquired_at: unsafe { &*slot.acquired_at.load(Ordering::Relaxed) },
                    thread: self.thread_name.lock().clone(),
                };
                slot.serial.store(0, Ordering::Relaxed);
                chunk.active.set(chunk.active.get() & !(1 << index));
                // SAFETY: the slot was active, so the claim is not released, and clearing it
                // makes this the only time.
                unsafe { (kind.reclaim)(core, leak) };
            }
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
    if let Some(table) = TABLE.with(Cell::take) {
        table.reclaim_after(0);
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

impl Claim {
    /// Puts a claim of `held` on `core` on the calling thread's list.
    ///
    /// # Safety
    ///
    /// `kind.reclaim` may be called with `core` until [`release`](Self::release) has returned what was held.
    #[inline]
    pub(crate) unsafe fn new(
        kind: &'static Kind,
        core: NonNull<()>,
        held: Held,
        acquired_at: &'static Location<'static>,
        since: Option<Duration>,
    ) -> Self {
        let table = Table::current();
        // SAFETY: the hint is a chunk of the calling thread's own table.
        let mut chunk = unsafe { &*table.hint.get() };
        if chunk.active.get() == u64::MAX {
            chunk = table.roomy_chunk();
            table.hint.set(chunk);
        }
        let active = chunk.active.get();
        let index = (!active).trailing_zeros();
        chunk.active.set(active | (1 << index));
        let number = table.numbered.get() + 1;
        table.numbered.set(number);
        let serial = number * SLOTS as u64 + u64::from(index);

        let slot = &chunk.slots[index as usize % SLOTS];
        // Pairs with the fence in `holders`: a reader that sees a word written below sees the 0 that
        // the last release stored, or this serial.
        fence(Ordering::Release);
        slot.core.store(core.as_ptr(), Ordering::Relaxed);
        slot.first.store(held.first, Ordering::Relaxed);
        slot.second.store(held.second, Ordering::Relaxed);
        slot.acquired_at
            .store(ptr::from_ref(acquired_at).cast_mut(), Ordering::Relaxed);
        slot.kind.set(Some(kind));
        if let Some(since) = since {
            slot.since.store(since.as_nanos() as u64, Ordering::Relaxed);
        }
        slot.serial.store(serial, Ordering::Release);
        Self {
            chunk: NonNull::from(chunk),
            serial,
        }
    }

    #[inline]
    fn slot(&self) -> Option<(&Chunk, usize, &Slot)> {
        // SAFETY: chunks are never freed. A claim is not `Send`, so unless its serial is gone this
        // is the thread that made it.
        let chunk = unsafe { self.chunk.as_ref() };
        let index = self.serial as usize % SLOTS;
        let slot = &chunk.slots[index];
        (slot.serial.load(Ordering::Relaxed) == self.serial).then_some((chunk, index, slot))
    }

    /// Takes the claim off the list, and says what it held. `None`: it has been reclaimed, and there
    /// is nothing for the caller to give back.
    #[inline]
    pub(crate) fn release(&self) -> Option<Held> {
        let (chunk, index, slot) = self.slot()?;
        slot.serial.store(0, Ordering::Relaxed);
        chunk.active.set(chunk.active.get() & !(1 << index));
        Some(Held {
            first: slot.first.load(Ordering::Relaxed),
            second: slot.second.load(Ordering::Relaxed),
        })
    }

    /// What the claim holds, unless it has been reclaimed.
    #[inline]
    pub(crate) fn held(&self) -> Option<Held> {
        self.slot().map(|(_, _, slot)| Held {
            first: slot.first.load(Ordering::Relaxed),
            second: slot.second.load(Ordering::Relaxed),
        })
    }

    /// Changes how much the claim holds, unless it has been reclaimed.
    pub(crate) fn set_first(&self, first: u64) -> bool {
        self.slot()
            .map(|(_, _, slot)| slot.first.store(first, Ordering::Relaxed))
            .is_some()
    }

    /// Where the guard was acquired, unless the claim has been reclaimed.
    pub(crate) fn acquired_at(&self) -> Option<&'static Location<'static>> {
        self.slot().map(|(_, _, slot)| {
            // SAFETY: an active slot's location was stored from a `&'static Location`.
            unsafe { &*slot.acquired_at.load(Ordering::Relaxed) }
        })
    }
}

/// Whether the calling thread has a claim on `core`.
#[inline]
pub(crate) fn holds(core: NonNull<()>) -> bool {
    TABLE.with(Cell::get).is_some_and(|table| {
        table.chunks().any(|chunk| {
            let mut left = chunk.active.get();
            while left != 0 {
                let slot = &chunk.slots[left.trailing_zeros() as usize];
                if slot.core.load(Ordering::Relaxed) == core.as_ptr() {
                    return true;
                }
                left &= left - 1;
            }
            false
        })
    })
}

/// A thread, as the owner of something: it can be asked whether it has ended.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    table: &'static Table,
    id: u64,
}

impl Thread {
    /// The calling thread.
    #[inline]
    pub(crate) fn current() -> Self {
        let table = Table::current();
        Self {
            table,
            id: table.thread_id.load(Ordering::Relaxed),
        }
    }

    /// Whether the thread has ended and its claims have been given back. Never asks the kernel:
    /// thread ids come again, these do not.
    pub(crate) fn has_ended(self) -> bool {
        // Pairs with `retire`: who sees the end sees the reclaim.
        self.table.thread_id.load(Ordering::Acquire) != self.id
    }
}

impl std::fmt::Debug for Thread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Thread({})", self.id)
    }
}

/// A place in the calling thread's history of claims.
pub(crate) struct Mark {
    table: &'static Table,
    number: u64,
}

impl Mark {
    pub(crate) fn now() -> Self {
        let table = Table::current();
        Self {
            table,
            number: table.numbered.get(),
        }
    }

    /// Gives back every claim that was made since, and still stands.
    pub(crate) fn reclaim(&self) {
        self.table.reclaim_after(self.number);
    }
}

/// A claim as another thread sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) thread: Option<String>,
    pub(crate) held: Held,
    pub(crate) acquired_at: &'static Location<'static>,
    pub(crate) since: Duration,
}

/// The claims on `core`, on whichever thread's list they stand.
pub(crate) fn holders(core: NonNull<()>) -> Vec<Seen> {
    let registry = registry().lock();
    let mut seen = Vec::new();
    for table in &registry.all {
        for slot in table.chunks().flat_map(|chunk| &chunk.slots) {
            // Pairs with the release store of the serial in `Claim::new`.
            let serial = slot.serial.load(Ordering::Acquire);
            if serial == 0 || slot.core.load(Ordering::Relaxed) != core.as_ptr() {
                continue;
            }
            let held = Held {
                first: slot.first.load(Ordering::Relaxed),
                second: slot.second.load(Ordering::Relaxed),
            };
            let acquired_at = slot.acquired_at.load(Ordering::Relaxed);
            let since = Duration::from_nanos(slot.since.load(Ordering::Relaxed));
            // Pairs with the fence in `Claim::new`: the same serial after the reads means that they
            // all belong to it.
            fence(Ordering::Acquire);
            if slot.serial.load(Ordering::Relaxed) == serial {
                seen.push(Seen {
                    thread: table.thread_name.lock().clone(),
                    held,
                    // SAFETY: a slot with a serial has a location stored from a `&'static Location`.
                    acquired_at: unsafe { &*acquired_at },
                    since,
                });
            }
        }
    }
    seen
}
