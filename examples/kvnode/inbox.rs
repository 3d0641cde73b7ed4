//! How an I/O thread is reached: new connections, and messages to those it has.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use latchwork::semaphore::SendPermit;
use rustix::event::{EventfdFlags, eventfd};

use crate::blocked::Ending;
use crate::clients::Client;

/// A new connection, on its way to its I/O thread.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) socket: OwnedFd,
    pub(crate) client: Arc<Client>,
    pub(crate) place: SendPermit,
}

/// What a connection is told by somebody else than its client.
#[derive(Debug)]
pub(crate) enum Post {
    /// Another client wants it closed.
    Close,
    /// What it has waited for, or why it need not wait any longer.
    Ending(Ending),
}

/// What an I/O thread has been sent.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) posts: Vec<(Arc<Client>, Post)>,
    /// Nothing more will come: serve out what there is and end.
    pub(crate) last: bool,
}

/// One I/O thread's inbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    mail: Mutex<Mail>,
    /// How many connections the thread has, those in the inbox included.
    load: AtomicUsize,
    wake: OwnedFd,
}

impl Inbox {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            mail: Mutex::default(),
            load: AtomicUsize::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// One connection less.
    pub(crate) fn unload(&self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn hand_over(&self, arrival: Arrival) {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.send(|mail| mail.arrivals.push(arrival));
    }

    pub(crate) fn post(&self, to: Arc<Client>, post: Post) {
        self.send(|mail| mail.posts.push((to, post)));
    }

    /// Asks the thread to end in good order; nothing may be handed over after this.
    pub(crate) fn stop(&self) {
        self.send(|mail| mail.last = true);
    }

    /// Takes what has arrived.
    pub(crate) fn take(&self) -> Mail {
        // Before the mail: whatever comes later signals anew.
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
        let mut mail = self.lock();
        let last = mail.last;
        let taken = std::mem::take(&mut *mail);
        mail.last = last;
        taken
    }

    fn send(&self, put: impl FnOnce(&mut Mail)) {
        let mut mail = self.lock();
        let is_first = mail.arrivals.is_empty() && mail.posts.is_empty();
        put(&mut mail);
        let is_last = mail.last;
        drop(mail);
        // Whoever put the first thing in has woken the thread.
        if is_first || is_last {
            // The counter cannot overflow, and a write to an eventfd fails in no other way.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Inbox {
    /// Readable when there is mail.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
