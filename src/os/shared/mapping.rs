//! A mapped file, with room in front of it for the nodes of a robust list.
//!
//! ```text
//! base                    base + NODES
//! | nodes, this process's | the file, everybody's ...
//! ```
//!
//! The kernel finds a robust futex by adding one offset, the same for a whole list, to the address
//! of its node. Here that offset is [`NODES`] for every mapping: the node of a word in the file's
//! first 64 kilobytes has the word's own offset in the room in front. So no pointer stands in the
//! file, and one list serves any number of mappings.
//!
//! The nodes are in shared anonymous memory, which outlives the tear-down of a killed process's
//! private pages, and are not inherited by a fork's child.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::area::{Area, Plain, SLOTS};
use super::layout::{CELLS_AT, CONTROL, SLOTS_AT};
use super::lifeline::Node;
use super::process::ProcessSlot;

/// Bytes of the room in front, and how far a node is from its word.
pub(crate) const NODES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    /// Of the file.
    size: usize,
    /// Not in a fork's child: what is in front of the file there may be another mapping.
    has_nodes: bool,
}

// SAFETY: what is reached through it is atomic; the mapping itself changes in `drop` only.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `size` bytes of a file, a whole number of pages.
    pub(crate) fn new(file: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let whole = NODES.checked_add(size).ok_or(io::ErrorKind::InvalidInput)?;
        let private = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so nothing that exists is mapped over.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), whole, ProtFlags::empty(), private)? };
        let this = Self {
            base: NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            size,
            has_nodes: true,
        };
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let shared = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the room was reserved above, and nobody has a pointer into it.
        unsafe { mmap_anonymous(base, NODES, access, shared)? };
        // SAFETY: the range is this mapping's, and a child does not use it.
        unsafe { madvise(base, NODES, Advice::LinuxDontFork)? };
        let contents = base.wrapping_byte_add(NODES);
        // SAFETY: as for the nodes.
        unsafe { mmap(contents, size, access, shared, file, 0)? };
        Ok(this)
    }

    /// # Panics
    ///
    /// If it does not lie in the file, which is for the caller to have made sure of.
    pub(crate) fn at<T: Plain>(&self, offset: usize) -> &T {
        &self.slice(offset, 1)[0]
    }

    /// # Panics
    ///
    /// As [`at`](Self::at).
    pub(crate) fn slice<T: Plain>(&self, offset: usize, count: usize) -> &[T] {
        let end = size_of::<T>()
            .checked_mul(count)
            .and_then(|bytes| bytes.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= self.size) && offset.is_multiple_of(align_of::<T>()),
            "the layout of the file has been checked"
        );
        // SAFETY: within the mapping.
        let first = unsafe { self.base.add(NODES + offset) };
        // SAFETY: the range is mapped for as long as `self`, aligned (a mapping starts at a page),
        // and `T` is atomics that are good with any bits, so others may write meanwhile. Where the
        // file was cut short, an access raises SIGBUS and does not return.
        unsafe { std::slice::from_raw_parts(first.as_ptr().cast(), count) }
    }

    /// In a fork's child, before the drop.
    pub(super) fn forget_nodes(&mut self) {
        self.has_nodes = false;
    }

    /// The node of the word at `offset` of the file.
    pub(super) fn node(&self, offset: usize) -> NonNull<Node> {
        assert!(
            offset + size_of::<Node>() <= NODES,
            "a life word is near the file's start"
        );
        // SAFETY: within the room in front.
        unsafe { self.base.add(offset) }.cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let front = if self.has_nodes { 0 } else { NODES };
        // SAFETY: within what was mapped.
        let start = unsafe { self.base.add(front) };
        // SAFETY: the range is this mapping's; references into it do not outlive `self`, and its
        // nodes have been unlinked.
        let _ = unsafe { munmap(start.as_ptr().cast(), NODES - front + self.size) };
    }
}

/// A mapping whose parts have been found.
pub(crate) struct Mapped<T, C> {
    mapping: Mapping,
    control: NonNull<T>,
    slots: NonNull<[ProcessSlot]>,
    cells: NonNull<[C]>,
}

// SAFETY: as for `Mapping`.
unsafe impl<T: Plain, C: Plain> Send for Mapped<T, C> {}
// SAFETY: as above.
unsafe impl<T: Plain, C: Plain> Sync for Mapped<T, C> {}

impl<T: Plain, C: Plain> Mapped<T, C> {
    pub(crate) fn new(mapping: Mapping, cells: usize) -> Self {
        Self {
            control: NonNull::from(mapping.at::<T>(CONTROL)),
            slots: NonNull::from(mapping.slice::<ProcessSlot>(SLOTS_AT, SLOTS)),
            cells: NonNull::from(mapping.slice::<C>(CELLS_AT, cells)),
            mapping,
        }
    }

    #[inline(always)]
    pub(crate) fn area(&self) -> Area<'_, T, C> {
        // SAFETY: the three were references into the mapping, which stays for as long as `self`.
        let control = unsafe { self.control.as_ref() };
        // SAFETY: as above.
        let slots = unsafe { self.slots.as_ref() };
        // SAFETY: as above.
        let cells = unsafe { self.cells.as_ref() };
        Area {
            control,
            slots,
            cells,
        }
    }
}

impl<T, C> Mapped<T, C> {
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    pub(crate) fn mapping_mut(&mut self) -> &mut Mapping {
        &mut self.mapping
    }
}
