//! What a fork's child must know: that it is one.
//!
//! A page that the kernel wipes in the child holds a pointer to what belongs to this process. An
//! attachment remembers whose it is; where the page says otherwise, it was inherited, and its guards
//! do nothing. The child makes a pointer of its own when it attaches.
//!
//! The descriptors that hold the locks of attachments are closed in the child: they would keep the
//! parent's locks after its death. What a child is to keep it is handed on purpose, as a duplicate.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

use crate::sync::unmodelled::{AtomicI32, AtomicPtr, OnceLock, Ordering};

use super::lifeline::Lifeline;

/// What belongs to this process, and not to a child.
pub(crate) struct Process {
    page: &'static AtomicPtr<Process>,
    pub(crate) lifeline: Lifeline,
}

impl Process {
    /// The calling process's; made at its first call.
    pub(crate) fn current() -> io::Result<&'static Self> {
        let page = page()?;
        let seen = page.load(Ordering::Acquire);
        // SAFETY: it is null or comes from a box that was leaked, below.
        if let Some(process) = unsafe { seen.as_ref() } {
            return Ok(process);
        }
        let new = Box::into_raw(Box::new(Self {
            page,
            lifeline: Lifeline::new(),
        }));
        match page.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: leaked, and whole.
            Ok(_) => Ok(unsafe { &*new }),
            Err(winner) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: as above; not null, because nothing makes it null but a fork, and a fork's
                // child has one thread.
                Ok(unsafe { &*winner })
            }
        }
    }

    /// Whether the calling process is this one, and not a child of it.
    pub(crate) fn is_current(&self) -> bool {
        self.home().is(self)
    }

    pub(crate) fn home(&self) -> Home {
        Home(self.page)
    }
}

/// Where a process says which one it is.
#[derive(Clone, Copy)]
pub(crate) struct Home(&'static AtomicPtr<Process>);

impl Home {
    #[inline(always)]
    pub(crate) fn is(self, process: &Process) -> bool {
        ptr::eq(self.0.load(Ordering::Relaxed), process)
    }
}

fn page() -> io::Result<&'static AtomicPtr<Process>> {
    static PAGE: OnceLock<&'static AtomicPtr<Process>> = OnceLock::new();
    if let Some(page) = PAGE.get() {
        return Ok(page);
    }
    let size = size_of::<AtomicPtr<Process>>();
    // SAFETY: no address is asked for.
    let page = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            size,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )?
    };
    // SAFETY: the page was mapped above.
    unsafe { madvise(page, size, Advice::LinuxWipeOnFork)? };
    // SAFETY: close what forks hand down; the handler makes system calls only.
    let error = unsafe { libc::pthread_atfork(None, None, Some(close_inherited)) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: mapped for good, zeroed and aligned. If two threads come here, one page stays unused.
    let page = unsafe { &*page.cast::<AtomicPtr<Process>>() };
    Ok(PAGE.get_or_init(|| page))
}

/// A descriptor that a fork's child closes.
pub(crate) struct OwnFd {
    entry: &'static Entry,
    fd: RawFd,
}

/// One of the list of such descriptors. Never freed, used again.
struct Entry {
    fd: AtomicI32,
    next: Option<&'static Entry>,
}

const NONE: RawFd = -1;

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
            let take = entry
                .fd
                .compare_exchange(NONE, fd, Ordering::AcqRel, Ordering::Relaxed);
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
                fd: AtomicI32::new(fd),
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
        if self.entry.fd.swap(NONE, Ordering::AcqRel) == self.fd {
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
            unsafe { libc::close(fd) };
        }
    }
}
