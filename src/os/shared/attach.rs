//! Attachments: a process's place in an area.
//!
//! Attaching is done under an exclusive lock on byte 0 of the file, in this order:
//!
//! | step | what a kill after it leaves |
//! |---|---|
//! | lock the byte of a slot whose byte nobody has | nothing: the kernel drops the lock |
//! | clear the slot: life 0, generation + 1 | a free slot |
//! | put the life word's node on the robust list | a free slot; the node's word is 0 and not marked |
//! | life = the keeper's thread id | a dead process, marked |
//!
//! A robust node points at a life word only while the word is this process's, or is 0 and the lock
//! is held: a process that dies with the same thread id in another pid namespace would otherwise
//! mark the life of the winner.
//!
//! Detaching takes the node off the list, then clears the life, then gives the byte back. It needs
//! no lock, and a kill in between leaves a life that no mark will come to: the second evidence, the
//! byte that nobody has locked, frees it.

use std::os::fd::BorrowedFd;

use crate::sync::atomic::Ordering;
use crate::sync::unmodelled::Arc;

use super::area::{Area, Own, Plain, SLOTS, Shape};
use super::error::{Cause, OpenError};
use super::file::{self, ATTACH, Open, Opened};
use super::fork::{OwnFd, Process};
use super::layout::{CELLS_AT, CONTROL, SLOTS_AT};
use super::mapping::{Mapped, Mapping};
use super::ofd;
use super::process::{OWNER_DIED, ProcessSlot, is_life};
use super::watcher::Watcher;
use super::word::Owner;

/// A mapped file with a slot in it. Dropping it detaches.
pub(crate) struct Attachment<T, C> {
    mapped: Mapped<T, C>,
    shape: Shape,
    process: &'static Process,
    fd: Option<OwnFd>,
    slot: usize,
    owner: Owner,
    thread_id: u32,
}

fn byte(slot: usize) -> u64 {
    slot as u64 + 1
}

impl<T: Plain, C: Plain> Attachment<T, C> {
    /// Opens, or makes, and attaches. `prepare` writes the first contents.
    pub(crate) fn open(
        path: &std::path::Path,
        shape: Shape,
        existing_only: bool,
        prepare: impl Fn(&T, &[C], Shape),
    ) -> Result<Self, OpenError> {
        let open = Open {
            path,
            shape,
            existing_only,
            sizes: (size_of::<T>(), size_of::<C>()),
        };
        let opened = file::open(open, &|mapping, shape| {
            prepare(
                mapping.at(CONTROL),
                mapping.slice(CELLS_AT, shape.cells as usize),
                shape,
            );
        })?;
        Self::attach(opened).map_err(|cause| OpenError::new(path, "attach to", cause))
    }

    fn attach(opened: Opened) -> Result<Self, Cause> {
        let Opened {
            file,
            mapping,
            shape,
        } = opened;
        let process = Process::current()?;
        // Opened once more: a mapping keeps the description that it was made from, also in a fork's
        // child, and with it the locks. From here on a child closes it.
        let fd = OwnFd::new(file::reopen(&file)?);
        drop(file);
        ofd::lock(fd.borrow(), ATTACH)?;
        let slot = free_slot(fd.borrow(), &mapping)?;
        let offset = SLOTS_AT + slot * size_of::<ProcessSlot>();
        let own: &ProcessSlot = mapping.at(offset);
        // Who slept on the life that was there looks again.
        clear(own);
        let generation = own.generation.load(Ordering::Relaxed).wrapping_add(1);
        own.generation.store(generation, Ordering::SeqCst);
        let (pid, started, command) = introduction();
        own.introduce(pid, started, &command);
        let node = mapping.node(offset);
        let thread_id = process.lifeline.link(node)?;
        if own.life.compare_exchange(0, thread_id).is_err() {
            process.lifeline.unlink(node);
            return Err(Cause::Invalid("its process slots are being written over"));
        }
        // What fails from here on would be undone by the drop.
        let this = Self {
            mapped: Mapped::new(mapping, shape.cells as usize),
            shape,
            process,
            fd: Some(fd),
            slot,
            owner: Owner::new(slot, generation),
            thread_id,
        };
        this.mapped.set_owner(this.owner);
        ofd::unlock(this.lock_fd(), ATTACH)?;
        Ok(this)
    }

    #[inline(always)]
    pub(crate) fn area(&self) -> Area<'_, T, C> {
        self.mapped.area()
    }

    #[inline(always)]
    pub(crate) fn own(&self) -> Own<'_, C> {
        self.mapped.own()
    }

    fn slots(&self) -> &[ProcessSlot] {
        self.area().slots
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    /// Whether this is a fork's child, which inherited the attachment and may not use it.
    pub(crate) fn is_inherited(&self) -> bool {
        !self.process.is_current()
    }

    /// Whether somebody has written over this process's slot, so that others take it for dead.
    pub(crate) fn is_lost(&self) -> bool {
        let slot = &self.slots()[self.slot];
        let life = slot.life.load();
        !is_life(life)
            || life & !super::process::WAITERS != self.thread_id
            || !slot.has_generation_of(self.owner)
    }

    /// The descriptor that holds the lock on the slot's byte.
    pub(crate) fn lock_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.borrow(),
            None => unreachable!("it is there until the drop"),
        }
    }

    /// The second evidence: whether nobody has the lock on the slot's byte, so that no process of
    /// its owner is left, nor one that was handed its descriptor.
    pub(crate) fn is_unlocked(&self, slot: usize) -> bool {
        !self.is_inherited()
            && slot != self.slot
            && matches!(
                ofd::is_locked_elsewhere(self.lock_fd(), byte(slot)),
                Ok(false)
            )
    }

    /// The calling process's slot.
    pub(crate) fn own_slot(&self) -> &ProcessSlot {
        &self.slots()[self.slot]
    }

    pub(crate) fn own_index(&self) -> usize {
        self.slot
    }

    /// Has the keeper look again after whom it looks after.
    pub(crate) fn ring(&self) {
        self.process.lifeline.ring();
    }

    /// Has the keeper look after somebody.
    pub(crate) fn watch(&self, watcher: Arc<dyn Watcher>) {
        self.process.lifeline.watch(watcher);
    }
}

impl<T, C> Drop for Attachment<T, C> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // The child has neither the node nor the descriptor.
            self.mapped.mapping_mut().forget_nodes();
            std::mem::forget(self.fd.take());
            return;
        }
        let offset = SLOTS_AT + self.slot * size_of::<ProcessSlot>();
        let mapping = self.mapped.mapping();
        self.process.lifeline.unlink(mapping.node(offset));
        let slot: &ProcessSlot = mapping.at(offset);
        let mut seen = slot.life.load();
        // If it is another's, somebody has written over it, and it is not this one's to clear.
        while seen & !super::process::WAITERS == self.thread_id {
            match slot.life.compare_exchange(seen, 0) {
                Ok(_) => {
                    slot.life.wake(u32::MAX);
                    break;
                }
                Err(now) => seen = now,
            }
        }
        // A duplicate of the descriptor, which somebody was handed, would keep the lock.
        if let Some(fd) = &self.fd {
            let _ = ofd::unlock(fd.borrow(), byte(self.slot));
        }
    }
}

/// A slot whose byte nobody had, and `file` has now: free ones first, then those whose process has
/// died, then those whose life is garbage.
fn free_slot(file: BorrowedFd<'_>, mapping: &Mapping) -> Result<usize, Cause> {
    let slots: &[ProcessSlot] = mapping.slice(SLOTS_AT, SLOTS);
    let rank = |slot: &ProcessSlot| match slot.life.load() {
        0 => 0,
        life if life & OWNER_DIED != 0 => 1,
        _ => 2,
    };
    for wanted in 0..=2 {
        for (index, slot) in slots.iter().enumerate() {
            if rank(slot) == wanted && ofd::try_lock(file, byte(index))? {
                return Ok(index);
            }
        }
    }
    Err(Cause::Full)
}

/// Makes a life 0, whatever it was: its byte is locked by this process, so it is nobody's.
fn clear(slot: &ProcessSlot) {
    let mut seen = slot.life.load();
    while seen != 0 {
        match slot.life.compare_exchange(seen, 0) {
            Ok(_) => {
                slot.life.wake(u32::MAX);
                return;
            }
            Err(now) => seen = now,
        }
    }
}

/// What people are told of this process.
fn introduction() -> (u32, u64, Vec<u8>) {
    let command = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    // There is little room: without the directory.
    let end = command.iter().position(|&byte| byte == 0);
    let program = &command[..end.unwrap_or(command.len())];
    let name = program.iter().rposition(|&byte| byte == b'/');
    let mut command: Vec<u8> = command[name.map_or(0, |at| at + 1)..]
        .iter()
        .map(|&byte| if byte == 0 { b' ' } else { byte })
        .collect();
    while command.last() == Some(&b' ') {
        command.pop();
    }
    let started = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The 22nd field, counted from behind the command, which may contain anything.
    let started = started.rsplit_once(')').and_then(|(_, rest)| {
        let field = rest.split_ascii_whitespace().nth(19)?;
        field.parse().ok()
    });
    (std::process::id(), started.unwrap_or(0), command)
}

impl<T, C> std::fmt::Debug for Attachment<T, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("slot", &self.slot)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}
