//! What stands for a shared file in a model, and for processes and their deaths.

use std::path::Path;

use crate::SharedSemaphore;
use crate::os::shared::Attachment;
use crate::os::shared::area::Shape;
use crate::os::shared::modelled::Memory;
use crate::semaphore::shared::control::{self, Cell, Control};
use crate::sync::unmodelled::Arc;

/// A shared semaphore's memory. Each [`attach`](Self::attach) is a process of its own, up to three;
/// whichever threads of the model use what it returns are that process's.
///
/// ```ignore
/// let memory = SharedMemory::new(1, 1, false);
/// let (first, second) = (memory.attach(), memory.attach());
/// std::mem::forget(first.acquire().unwrap().detach());
/// memory.kill(0); // the first process
/// assert!(second.acquire().is_ok());
/// ```
#[derive(Clone)]
pub struct SharedMemory(Arc<Memory<Control, Cell>>);

impl SharedMemory {
    /// A semaphore of `permits` permits, which can be made up to `ceiling`.
    pub fn new(permits: u32, ceiling: u32, strict: bool) -> Self {
        let shape = Shape {
            purpose: control::PURPOSE,
            cells: ceiling,
            parameters: [permits, u32::from(strict)],
        };
        let memory = Memory::new(shape, Control::zeroed(), Cell::zeroed);
        control::prepare(memory.control(), memory.cells(), permits);
        Self(memory)
    }

    /// Another process opens the semaphore.
    pub fn attach(&self) -> SharedSemaphore {
        let attached = Attachment::modelled(self.0.clone());
        SharedSemaphore::with_attachment(attached, Path::new("model"), false, None)
    }

    /// The process that attached as the `index`-th, from 0 on, is killed: the kernel marks it, and
    /// wakes one who sleeps on that. Its threads may take some more steps, as real ones do.
    pub fn kill(&self, index: usize) {
        self.0.die(index);
    }

    /// What a killed process had open is closed: the second evidence, and the one that a strict
    /// semaphore waits for.
    pub fn close_descriptors(&self, index: usize) {
        self.0.close_descriptor(index);
    }
}

impl std::fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedMemory").finish_non_exhaustive()
    }
}
