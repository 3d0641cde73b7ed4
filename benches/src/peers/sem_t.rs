//! glibc's process-shared `sem_t`.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

const SIZE: usize = size_of::<libc::sem_t>();

/// An initialised `sem_t` at the beginning of a shared mapping.
///
/// It is not destroyed: another process may have it mapped, and with glibc it is nothing but its
/// memory.
#[derive(Debug)]
pub(crate) struct SemT(NonNull<libc::sem_t>);

// SAFETY: a `sem_t` is for any number of threads, and its mapping is the process's.
unsafe impl Send for SemT {}
// SAFETY: as above.
unsafe impl Sync for SemT {}

impl SemT {
    /// A process-shared semaphore with `permits` permits.
    ///
    /// # Errors
    ///
    /// What `sem_init` reports: more permits than an `int` holds.
    pub(crate) fn new(permits: u32) -> io::Result<SemT> {
        // SAFETY: no address is asked for.
        let page = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )?
        };
        SemT::at(page)?.init(permits)
    }

    /// The same in a new file.
    ///
    /// # Errors
    ///
    /// As `new`, and what the file system reports.
    pub(crate) fn create(path: &Path, permits: u32) -> io::Result<SemT> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        file.set_len(SIZE as u64)?;
        SemT::map(&file)?.init(permits)
    }

    /// One that was made by `create`, and that stays as long as it is.
    ///
    /// # Errors
    ///
    /// What the file system reports.
    pub(crate) fn open(path: &Path) -> io::Result<SemT> {
        SemT::map(&OpenOptions::new().read(true).write(true).open(path)?)
    }

    fn map(file: &File) -> io::Result<SemT> {
        // SAFETY: no address is asked for.
        let page = unsafe {
            mmap(
                ptr::null_mut(),
                SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file.as_fd(),
                0,
            )?
        };
        SemT::at(page)
    }

    fn at(page: *mut libc::c_void) -> io::Result<SemT> {
        let at = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(SemT(at))
    }

    fn init(self, permits: u32) -> io::Result<SemT> {
        // SAFETY: the pointer is to memory of a `sem_t`'s size and alignment that is not in use
        // yet, and it is mapped until the drop.
        let done = unsafe { libc::sem_init(self.0.as_ptr(), 1, permits) };
        if done == 0 {
            Ok(self)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    #[inline]
    pub(crate) fn wait(&self) {
        // SAFETY: the semaphore was initialised before anybody was told of it, and is mapped as
        // long as `self`.
        while unsafe { libc::sem_wait(self.0.as_ptr()) } != 0 {
            // Interrupted by a signal handler: the only error that `sem_wait` has here.
        }
    }

    #[inline]
    pub(crate) fn post(&self) {
        // SAFETY: as in `wait`.
        let done = unsafe { libc::sem_post(self.0.as_ptr()) };
        debug_assert_eq!(done, 0, "more posts than an int holds");
    }
}

impl Drop for SemT {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, and nobody in this process uses it afterwards.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), SIZE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_take_what_posts_give() {
        let semaphore = SemT::new(1).unwrap();
        for _ in 0..3 {
            semaphore.wait();
            semaphore.post();
        }
        assert!(SemT::new(u32::MAX).is_err());
    }
}
