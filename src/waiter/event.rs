//! The descriptor of something that is awaited: made when somebody asks for it, readable from then
//! on when it is done.
//!
//! Who is done stores that and then looks for the descriptor; who makes the descriptor sets it and
//! then looks whether it is done. The fence between the two on each side makes one of them see the
//! other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::os::event;
use crate::sync::atomic::{Ordering, fence};
use crate::sync::unmodelled::OnceLock;

pub(super) struct Event(OnceLock<OwnedFd>);

impl Event {
    pub(super) fn new() -> Self {
        Self(OnceLock::new())
    }

    /// After what `is_done` reads was stored, and after the descriptor was set.
    pub(super) fn announce(&self, is_done: impl FnOnce() -> bool) {
        fence(Ordering::SeqCst);
        if is_done()
            && let Some(event) = self.0.get()
        {
            event::signal(event);
        }
    }

    /// The descriptor, made at the first call.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub(super) fn as_fd(&self, is_done: impl FnOnce() -> bool) -> io::Result<BorrowedFd<'_>> {
        if self.0.get().is_none() {
            let _ = self.0.set(event::create()?);
            self.announce(is_done);
        }
        let event = self.0.get().expect("set above");
        Ok(event.as_fd())
    }
}
