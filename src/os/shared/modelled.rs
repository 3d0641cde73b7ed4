//! An area for the model checker: processes are threads there, and a death is a step of the model.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::sync::futex::SharedFutex;
use crate::sync::unmodelled::{Arc, AtomicBool, Mutex, Ordering};

use super::area::{Area, Own, Shape};
use super::error::OpenError;
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
    watchers: Mutex<Vec<Arc<dyn Watcher>>>,
}

/// A model has no files.
pub(crate) mod file {
    use std::path::{Path, PathBuf};

    use super::super::error::{Cause, OpenError};

    pub(super) fn absent(path: &Path, action: &'static str) -> OpenError {
        let cause = Cause::Invalid("a model has no files: its memory is `model::SharedMemory`");
        OpenError::new(path, action, cause)
    }

    pub(crate) fn resolve(name: &Path) -> Result<PathBuf, OpenError> {
        Ok(name.to_owned())
    }

    pub(crate) fn remove(path: &Path) -> Result<bool, OpenError> {
        Err(absent(path, "remove"))
    }
}

impl<T, C> Attachment<T, C> {
    pub(crate) fn open(
        path: &Path,
        _shape: Shape,
        _existing_only: bool,
        _prepare: impl Fn(&T, &[C], Shape),
    ) -> Result<Self, OpenError> {
        Err(file::absent(path, "open"))
    }

    /// # Panics
    ///
    /// Always: a model has no descriptors.
    pub(crate) fn lock_fd(&self) -> BorrowedFd<'_> {
        panic!("a model has no descriptors")
    }

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
            watchers: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn area(&self) -> Area<'_, T, C> {
        Area {
            control: &self.memory.control,
            slots: &self.memory.slots,
            cells: &self.memory.cells,
        }
    }

    pub(crate) fn own(&self) -> Own<'_, C> {
        Own {
            owner: self.owner,
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

    /// No thread is started in a model: whoever rings looks.
    pub(crate) fn ring(&self) {
        let watchers = std::mem::take(&mut *self.watchers.lock());
        for watcher in watchers {
            if watcher.look(&mut |_: &SharedFutex, _, _| {}) {
                self.watchers.lock().push(watcher);
            }
        }
    }

    pub(crate) fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.watchers.lock().push(watcher);
        self.ring();
    }
}
