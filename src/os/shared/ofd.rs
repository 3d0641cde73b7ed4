//! Locks on single bytes of a file, owned by an open file description.
//!
//! The kernel drops such a lock when the last descriptor of the description is closed, and so at
//! the end of a process, after its memory has been torn down; and not, as with traditional record
//! locks, when any other descriptor of the file is.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Waits for the lock on a byte.
pub(crate) fn lock(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    control(file, libc::F_OFD_SETLKW, libc::F_WRLCK, byte).map(drop)
}

/// Takes the lock on a byte. `false`: another description has it.
pub(crate) fn try_lock(file: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    match control(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn unlock(file: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    control(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte).map(drop)
}

/// Whether a description other than `file`'s has the lock on a byte.
pub(crate) fn is_locked_elsewhere(file: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    let found = control(file, libc::F_OFD_GETLK, libc::F_WRLCK, byte)?;
    Ok(found != libc::F_UNLCK)
}

/// The same for `count` bytes from `first` on.
pub(crate) fn is_any_locked_elsewhere(
    file: BorrowedFd<'_>,
    first: u64,
    count: u64,
) -> io::Result<bool> {
    let found = control_range(file, libc::F_OFD_GETLK, libc::F_WRLCK, first, count)?;
    Ok(found != libc::F_UNLCK)
}

fn control(
    file: BorrowedFd<'_>,
    command: libc::c_int,
    kind: libc::c_int,
    byte: u64,
) -> io::Result<libc::c_int> {
    control_range(file, command, kind, byte, 1)
}

/// Says which kind of lock the kernel has left in the request.
fn control_range(
    file: BorrowedFd<'_>,
    command: libc::c_int,
    kind: libc::c_int,
    byte: u64,
    count: u64,
) -> io::Result<libc::c_int> {
    // SAFETY: a plain structure, for which zero is good; the kernel wants `l_pid` to be zero.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    request.l_start = byte as libc::off_t;
    request.l_len = count as libc::off_t;
    loop {
        // SAFETY: the descriptor is open for as long as it is borrowed, and `request` is valid.
        let status = unsafe { libc::fcntl(file.as_raw_fd(), command, &mut request) };
        if status == 0 {
            return Ok(libc::c_int::from(request.l_type));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
