//! What is where in a shared file.
//!
//! | offset | holds |
//! |---|---|
//! | 0 | the header: what the file is, written before anybody sees it and not after |
//! | 256 | the component's control words |
//! | 4096 | 960 process slots, a cache line each |
//! | 65536 | the component's cells |
//!
//! All life words lie in the first 64 kilobytes, see [`mapping`](super::mapping).

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::area::{MOST_CELLS, Plain, SLOTS, Shape};
use super::error::Cause;
use super::mapping::{Mapping, NODES};
use super::process::ProcessSlot;

pub(crate) const CONTROL: usize = 256;
pub(crate) const SLOTS_AT: usize = 4096;
pub(crate) const CELLS_AT: usize = SLOTS_AT + SLOTS * size_of::<ProcessSlot>();

const PAGE: usize = 4096;

const _: () = assert!(CELLS_AT <= NODES, "every life word has its node");
const _: () = assert!(size_of::<Header>() <= CONTROL);
const _: () = assert!(size_of::<ProcessSlot>() == 64);

const MAGIC: u64 = u64::from_le_bytes(*b"latchwrk");

/// Raised with every change of what the words mean.
const VERSION: u32 = 1;

/// The numbers of this boot of the machine.
pub(crate) type BootId = [u64; 2];

#[repr(C)]
pub(super) struct Header {
    magic: AtomicU64,
    version: AtomicU32,
    /// Of sizes and places, so that two builds that lay the file out differently do not meet in it.
    layout: AtomicU32,
    size: AtomicU64,
    boot: [AtomicU64; 2],
    uuid: [AtomicU64; 2],
    purpose: AtomicU32,
    cells: AtomicU32,
    /// The component's own, compared at each open.
    parameters: [AtomicU32; 2],
}

// SAFETY: `repr(C)`, atomics only.
#[allow(unsafe_code)]
unsafe impl Plain for Header {}

// SAFETY: `repr(C)`, atomics only, one of them in a transparent wrapper.
#[allow(unsafe_code)]
unsafe impl Plain for ProcessSlot {}

impl Shape {
    /// Bytes of the file.
    pub(super) fn size(self, cell: usize) -> usize {
        (CELLS_AT + self.cells as usize * cell).next_multiple_of(PAGE)
    }
}

fn layout(control: usize, cell: usize) -> u32 {
    let numbers = [
        CONTROL,
        SLOTS_AT,
        SLOTS,
        size_of::<ProcessSlot>(),
        control,
        cell,
    ];
    // FNV-1a: any number that differs makes another sum.
    numbers.iter().fold(0x811c_9dc5_u32, |sum, &number| {
        (sum ^ number as u32).wrapping_mul(0x0100_0193)
    })
}

impl Header {
    /// Writes the header of a file that nobody else knows.
    pub(super) fn write(
        mapping: &Mapping,
        shape: Shape,
        size: usize,
        sizes: (usize, usize),
        boot: BootId,
        uuid: [u64; 2],
    ) {
        let header: &Self = mapping.at(0);
        let set = |word: &AtomicU32, value| word.store(value, Ordering::Relaxed);
        set(&header.version, VERSION);
        set(&header.layout, layout(sizes.0, sizes.1));
        set(&header.purpose, shape.purpose);
        set(&header.cells, shape.cells);
        for (word, value) in header.parameters.iter().zip(shape.parameters) {
            set(word, value);
        }
        header.size.store(size as u64, Ordering::Relaxed);
        for (word, value) in header.boot.iter().zip(boot) {
            word.store(value, Ordering::Relaxed);
        }
        for (word, value) in header.uuid.iter().zip(uuid) {
            word.store(value, Ordering::Relaxed);
        }
        header.magic.store(MAGIC, Ordering::Release);
    }

    /// Reads the header of a file of `size` bytes, which may be anything.
    pub(super) fn read(
        mapping: &Mapping,
        size: usize,
        sizes: (usize, usize),
    ) -> Result<(Shape, BootId), Cause> {
        let header: &Self = mapping.at(0);
        let get = |word: &AtomicU32| word.load(Ordering::Relaxed);
        if header.magic.load(Ordering::Acquire) != MAGIC {
            return Err(Cause::Invalid("it is not a file of latchwork's"));
        }
        if (get(&header.version), get(&header.layout)) != (VERSION, layout(sizes.0, sizes.1)) {
            return Err(Cause::Version);
        }
        let shape = Shape {
            purpose: get(&header.purpose),
            cells: get(&header.cells),
            parameters: std::array::from_fn(|i| get(&header.parameters[i])),
        };
        let is_whole = (1..=MOST_CELLS).contains(&shape.cells)
            && header.size.load(Ordering::Relaxed) == size as u64
            && shape.size(sizes.1) == size;
        if !is_whole {
            return Err(Cause::Invalid("its header has been written over"));
        }
        let boot = std::array::from_fn(|i| header.boot[i].load(Ordering::Relaxed));
        Ok((shape, boot))
    }
}
