//! An area for the model checker: processes are threads there, and a death is a step of the model.

use crate::sync::futex::SharedFutex;
use crate::sync::unmodelled::{Arc, AtomicBool, Mutex, Ordering};

use super::area::{Area, Shape};
use super::process::{OWNER_DIED, ProcessSlot, WAITERS};
use super::watcher::Watcher;
use super::word::Owner;

/// How many processes a model can have.
const SLOTS: usize = 3;

/// What stands for the file.
pub(crate) struct Memory<T, C> {
    control: T,
    slots: Vec<ProcessSlot>,
    cells: Vec<C>,
    shape: Shape,
    taken: Mutex<usize>,
    unlocked: [AtomicBool; SLOTS],
}

impl<T, C> Memory<T, C> {
    pub(crate) fn new(shape: Shape, control: T, cell: impl Fn() -> C) -> Arc<Self> {
        Arc::new(Self {
            control,
            slots: (0..SLOTS).map(|_| ProcessSlot::new()).collect(),
            cells: (0..shape.cells).map(|_| cell()).collect(),
            shape,
            taken: Mutex::new(0),
            unlocked: std::array::from_fn(|_| AtomicBool::new(false)),
        })
    }

    pub(crate) fn control(&self) -> &T {
        &self.control
    }

    pub(crate) fn cells(&self) -> &[C] {
        &self.cells
    }

    /// What the kernel does when a process dies: marks its life, and wakes one who sleeps there if
    /// the word says that somebody does.
    pub(crate) fn die(&self, slot: usize) {
        let life = &self.slots[slot].life;
        let mut seen = life.load();
        loop {
            match life.compare_exchange(seen, seen & WAITERS | OWNER_DIED) {
                Ok(_) if seen & WAITERS != 0 => return life.wake(1),
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// The last descriptor of a dead process is closed.
    pub(crate) fn close_descriptor(&self, slot: usize) {
        self.unlocked[slot].store(true, Ordering::Relaxed);
    }
}

pub(crate) struct Attachment<T, C> {
    memory: Arc<Memory<T, C>>,
    slot: usize,
    owner: Owner,
}

impl<T, C> Attachment<T, C> {
    pub(crate) fn modelled(memory: Arc<Memory<T, C>>) -> Self {
        let slot = {
            let mut taken = memory.taken.lock();
            *taken += 1;
            *taken - 1
        };
        let own = &memory.slots[slot];
        let generation = 1;
        own.generation
            .store(generation, crate::sync::atomic::Ordering::SeqCst);
        let _ = own.life.compare_exchange(0, slot as u32 + 1);
        Self {
            owner: Owner::new(slot, generation),
            slot,
            memory,
        }
    }

    pub(crate) fn area(&self) -> Area<'_, T, C> {
        Area {
            control: &self.memory.control,
            slots: &self.memory.slots,
            cells: &self.memory.cells,
        }
    }

    pub(crate) fn shape(&self) -> Shape {
        self.memory.shape
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn is_inherited(&self) -> bool {
        false
    }

    pub(crate) fn is_lost(&self) -> bool {
        false
    }

    pub(crate) fn is_unlocked(&self, slot: usize) -> bool {
        self.memory.unlocked[slot].load(Ordering::Relaxed)
    }

    pub(crate) fn own_slot(&self) -> &ProcessSlot {
        &self.memory.slots[self.slot]
    }

    pub(crate) fn own_index(&self) -> usize {
        self.slot
    }

    pub(crate) fn ring(&self) {}

    /// No thread is started in a model: it looks itself.
    pub(crate) fn watch(&self, watcher: Arc<dyn Watcher>) {
        watcher.look(&mut |_: &SharedFutex, _| {});
    }
}
