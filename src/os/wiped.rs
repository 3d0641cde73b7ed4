//! A page that a fork's child does not inherit: what is written to it is zero again there.
//!
//! It is in the program's own zero-filled memory, so that looking at it is one load.

#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::ptr;

/// A whole page, of whatever size the kernel has them.
#[repr(C, align(65536))]
pub(crate) struct Wiped<T>(T);

impl<T> Wiped<T> {
    /// # Safety
    ///
    /// All zeros are a `T`, too, and no step of a `T` is in two halves that a fork could part.
    pub(crate) const unsafe fn new(zero: T) -> Self {
        Self(zero)
    }

    /// Has the kernel wipe it in every child from now on.
    pub(crate) fn wipe_on_fork(&'static self) -> io::Result<()> {
        let page = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: whole pages of this program's own memory, which is private and anonymous; the
        // advice changes nothing in this process.
        match unsafe { libc::madvise(page, size_of::<Self>(), libc::MADV_WIPEONFORK) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
