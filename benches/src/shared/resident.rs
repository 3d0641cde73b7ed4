//! Memory that is resident.
#![allow(unsafe_code)]

use std::io;
use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// Makes so many bytes of this process's own memory resident, until it ends.
///
/// # Errors
///
/// What the system reports: there is not so much.
pub(super) fn grow(bytes: usize) -> io::Result<()> {
    // SAFETY: no address is asked for.
    let memory = unsafe {
        mmap_anonymous(
            ptr::null_mut(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )?
    };
    // Each page is written to, as by a loop, but by one call.
    // SAFETY: the pages were mapped above, and nobody else knows of them.
    unsafe { madvise(memory, bytes, Advice::LinuxPopulateWrite)? };
    Ok(())
}
