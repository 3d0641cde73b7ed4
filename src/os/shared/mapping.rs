//! A mapped file, with room in front of it for what is this process's.
//!
//! ```text
//! base                base + PRIVATE          base + FRONT
//! | private, wiped    | nodes, this process's | the file, everybody's ...
//! ```
//!
//! The kernel finds a robust futex by adding one offset, the same for a whole list, to the address
//! of its node. Here that offset is [`NODES`] for every mapping: the node of a word in the file's
//! first 64 kilobytes has the word's own offset in the room in front. So no pointer stands in the
//! file, and one list serves any number of mappings.
//!
//! The nodes are in shared anonymous memory, which outlives the tear-down of a killed process's
//! private pages, and are not inherited by a fork's child. The private page says who this process
//! is; in a fork's child it is zero. So who works with what it says need not ask whether it is in
//! one.

#![allow(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};

use crate::sync::unmodelled::{AtomicU64, Ordering};

use super::area::{Area, Own, Plain, SLOTS};
use super::layout::{CELLS_AT, CONTROL, SLOTS_AT};
use super::lifeline::Node;
use super::process::ProcessSlot;
use super::word::Owner;

/// Bytes of the room in front, and how far a node is from its word.
pub(crate) const NODES: usize = 64 << 10;

/// Bytes of the private room: a page, of whatever size the kernel has them.
const PRIVATE: usize = 64 << 10;

/// How far the file is from the base.
const FRONT: usize = PRIVATE + NODES;

/// What stands at the base, all zero in a fork's child.
#[repr(C)]
struct Private {
    owner: AtomicU64,
    cells: AtomicU64,
}

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
        let whole = FRONT.checked_add(size).ok_or(io::ErrorKind::InvalidInput)?;
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
        unsafe { mprotect(base, PRIVATE, MprotectFlags::READ | MprotectFlags::WRITE)? };
        // SAFETY: whole pages of private memory; nothing changes in this process.
        unsafe { madvise(base, PRIVATE, Advice::LinuxWipeOnFork)? };
        let nodes = base.wrapping_byte_add(PRIVATE);
        // SAFETY: as for the private room.
        unsafe { mmap_anonymous(nodes, NODES, access, shared)? };
        // SAFETY: the range is this mapping's, and a child does not use it.
        unsafe { madvise(nodes, NODES, Advice::LinuxDontFork)? };
        let contents = base.wrapping_byte_add(FRONT);
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
        let first = unsafe { self.base.add(FRONT + offset) };
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
        // SAFETY: within the room for nodes.
        unsafe { self.base.add(PRIVATE + offset) }.cast()
    }

    #[inline(always)]
    fn private(&self) -> &Private {
        // SAFETY: mapped for as long as `self`, at the start of a page, and atomics of which all
        // bits are good.
        unsafe { self.base.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let unmap = |from: usize, to: usize| {
            // SAFETY: within what was mapped.
            let start = unsafe { self.base.add(from) };
            // SAFETY: the range is this mapping's; references into it do not outlive `self`, and
            // its nodes have been unlinked.
            let _ = unsafe { munmap(start.as_ptr().cast(), to - from) };
        };
        let end = FRONT + self.size;
        if self.has_nodes {
            unmap(0, end);
        } else {
            unmap(0, PRIVATE);
            unmap(FRONT, end);
        }
    }
}

/// A mapping of which it is known what is where.
pub(crate) struct Mapped<T, C> {
    mapping: Mapping,
    cells: usize,
    contents: PhantomData<(T, C)>,
}

impl<T: Plain, C: Plain> Mapped<T, C> {
    /// # Panics
    ///
    /// As [`Mapping::at`].
    pub(crate) fn new(mapping: Mapping, cells: usize) -> Self {
        // What they find need not be found again.
        mapping.at::<T>(CONTROL);
        mapping.slice::<ProcessSlot>(SLOTS_AT, SLOTS);
        mapping.slice::<C>(CELLS_AT, cells);
        Self {
            mapping,
            cells,
            contents: PhantomData,
        }
    }

    /// # Safety
    ///
    /// `new` has found so many there.
    #[inline(always)]
    unsafe fn found<P: Plain>(&self, offset: usize, count: usize) -> &[P] {
        // SAFETY: within the mapping, since `new` has looked.
        let first = unsafe { self.mapping.base.add(FRONT + offset) };
        // SAFETY: as in `Mapping::slice`.
        unsafe { std::slice::from_raw_parts(first.as_ptr().cast(), count) }
    }

    #[inline(always)]
    pub(crate) fn area(&self) -> Area<'_, T, C> {
        // SAFETY: `new` has found it.
        let control = unsafe { self.found(CONTROL, 1) };
        // SAFETY: as above.
        let slots = unsafe { self.found(SLOTS_AT, SLOTS) };
        // SAFETY: as above.
        let cells = unsafe { self.found(CELLS_AT, self.cells) };
        Area {
            control: &control[0],
            slots,
            cells,
        }
    }

    /// Says who this process is.
    pub(crate) fn set_owner(&self, owner: Owner) {
        let private = self.mapping.private();
        private.owner.store(owner.bits(), Ordering::Relaxed);
        private.cells.store(self.cells as u64, Ordering::Relaxed);
    }

    #[inline(always)]
    pub(crate) fn own(&self) -> Own<'_, C> {
        let private = self.mapping.private();
        let cells = private.cells.load(Ordering::Relaxed) as usize;
        Own {
            owner: Owner::from_bits(private.owner.load(Ordering::Relaxed)),
            // SAFETY: `new` has found so many, or it is none.
            cells: unsafe { self.found(CELLS_AT, cells) },
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
