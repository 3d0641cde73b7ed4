//! What a fork's child must know: that it is one.
//!
//! A page that the kernel wipes in the child holds a pointer to what belongs to this process. An
//! attachment remembers whose it is; where the page says otherwise, it was inherited, and its
//! guards do nothing. The child makes a pointer of its own when it attaches.
//!
//! The descriptors that hold the locks of attachments are closed in the child: they would keep the
//! parent's locks after its death. What a child is to keep it is handed on purpose, as a duplicate.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use crate::sync::unmodelled::{AtomicPtr, AtomicU32, OnceLock, Ordering};

use super::super::wiped::Wiped;
use super::lifeline::Lifeline;

/// What belongs to the calling process, once it has been made.
// SAFETY: a null pointer is a pointer.
static HOME: Wiped<AtomicPtr<Process>> = unsafe { Wiped::new(AtomicPtr::new(ptr::null_mut())) };

/// What belongs to this process, and not to a child.
pub(crate) struct Process {
    pub(crate) lifeline: Lifeline,
}

impl Process {
    /// The calling process's; made at its first call.
    pub(crate) fn current() -> io::Result<&'static Self> {
        prepare()?;
        let seen = HOME.load(Ordering::Acquire);
        // SAFETY: it is null or comes from a box that was leaked, below.
        if let Some(process) = unsafe { seen.as_ref() } {
            return Ok(process);
        }
        let new = Box::into_raw(Box::new(Self {
            lifeline: Lifeline::new(),
        }));
        let made = HOME.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire);
        match made {
            // SAFETY: leaked, and whole.
            Ok(_) => Ok(unsafe { &*new }),
            Err(winner) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: as above; not null, because nothing makes it null but a fork, and a
                // fork's child has one thread.
                Ok(unsafe { &*winner })
            }
        }
    }

    /// Whether the calling process is this one, and not a child of it.
    #[inline(always)]
    pub(crate) fn is_current(&self) -> bool {
        ptr::eq(HOME.load(Ordering::Relaxed), self)
    }
}

/// Has forks wipe the page, and their children close what they should not have.
fn prepare() -> io::Result<()> {
    static IS_DONE: OnceLock<()> = OnceLock::new();
    if IS_DONE.get().is_some() {
        return Ok(());
    }
    super::futex::is_there()?;
    HOME.wipe_on_fork()?;
    // SAFETY: the handler makes system calls only.
    let error = unsafe { libc::pthread_atfork(None, None, Some(close_inherited)) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // Two threads may have come here: what was done twice does no harm.
    IS_DONE.get_or_init(|| ());
    Ok(())
}

/// A descriptor that a fork's child closes.
pub(crate) struct OwnFd {
    entry: &'static Entry,
    fd: RawFd,
}

/// One of the list of such descriptors. Never freed, used again.
struct Entry {
    /// A descriptor, or `NONE`.
    fd: AtomicU32,
    next: Option<&'static Entry>,
}

const NONE: u32 = u32::MAX;

static ENTRIES: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

fn entries() -> impl Iterator<Item = &'static Entry> {
    // SAFETY: null, or an entry that was leaked.
    let first = unsafe { ENTRIES.load(Ordering::Acquire).as_ref() };
    std::iter::successors(first, |entry| entry.next)
}

impl OwnFd {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let fd = fd.into_raw_fd();
        let is_free = |entry: &&Entry| {
            let take =
                entry
                    .fd
                    .compare_exchange(NONE, fd as u32, Ordering::AcqRel, Ordering::Relaxed);
            take.is_ok()
        };
        let entry = entries().find(is_free).unwrap_or_else(|| Entry::add(fd));
        Self { entry, fd }
    }

    /// The descriptor; in a fork's child, where it was closed, whatever has its number now.
    pub(crate) fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: open until `drop`, in the process that made it; callers have asked whether they
        // are in that one.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Entry {
    fn add(fd: RawFd) -> &'static Self {
        let mut first = ENTRIES.load(Ordering::Acquire);
        loop {
            let new = Box::into_raw(Box::new(Self {
                fd: AtomicU32::new(fd as u32),
                // SAFETY: null, or an entry that was leaked.
                next: unsafe { first.as_ref() },
            }));
            match ENTRIES.compare_exchange(first, new, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: leaked.
                Ok(_) => return unsafe { &*new },
                Err(now) => {
                    // SAFETY: nobody else has seen it.
                    drop(unsafe { Box::from_raw(new) });
                    first = now;
                }
            }
        }
    }
}

impl Drop for OwnFd {
    fn drop(&mut self) {
        // In a fork's child the entry is empty, and the number may be another file's.
        if self.entry.fd.swap(NONE, Ordering::AcqRel) == self.fd as u32 {
            // SAFETY: open, and this value's.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// In a fork's child.
extern "C" fn close_inherited() {
    for entry in entries() {
        let fd = entry.fd.swap(NONE, Ordering::AcqRel);
        if fd != NONE {
            // SAFETY: open, and no attachment uses it in this process.
            unsafe { libc::close(fd as RawFd) };
        }
    }
}
