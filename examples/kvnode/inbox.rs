//! How an I/O thread is reached: new connections, and messages to those it has.
//!
//! A thread looks into its inbox after every round of events, so what it sends itself (a push of
//! one of its connections served another one) wakes nobody. Others write to an eventfd, if nobody
//! has since the thread last looked.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use latchwork::semaphore::SendPermit;
use latchwork::wal::Lsn;
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

thread_local! {
    /// The inbox that this thread takes the mail from.
    static OWN: Cell<*const Inbox> = const { Cell::new(std::ptr::null()) };
}

/// What an I/O thread has been sent.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    pub(crate) arrivals: Vec<Arrival>,
    pub(crate) posts: Vec<(Arc<Client>, Post)>,
    /// The log has become unable to write.
    pub(crate) halted: bool,
    /// The record that the thread waits for; gone once it was told.
    awaited: Option<Lsn>,
    /// The thread waits until the log has room.
    awaits_room: bool,
    /// Nothing more will come: serve out what there is and end.
    pub(crate) last: bool,
}

/// One I/O thread's inbox.
#[derive(Debug)]
pub(crate) struct Inbox {
    mail: Mutex<Mail>,
    /// There is mail, and whoever put the first of it in sees to it that it is looked at.
    full: AtomicBool,
    /// How many connections the thread has, those in the inbox included.
    load: AtomicUsize,
    wake: OwnedFd,
}

impl Inbox {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            mail: Mutex::default(),
            full: AtomicBool::new(false),
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

    /// The thread waits until a record is durable. Whether it is already is to be looked at after
    /// this: either that shows it, or [`durable`](Self::durable) will see this.
    pub(crate) fn await_durable(&self, lsn: Lsn) {
        self.lock().awaited = Some(lsn);
    }

    /// Everything up to this record is durable.
    pub(crate) fn durable(&self, lsn: Lsn) {
        self.send_if(|mail| mail.awaited.take_if(|awaited| *awaited <= lsn).is_some());
    }

    /// The thread waits until the log has room; to be looked at after this, as above.
    pub(crate) fn await_room(&self) {
        self.lock().awaits_room = true;
    }

    /// The log has more room.
    pub(crate) fn room(&self) {
        self.send_if(|mail| std::mem::take(&mut mail.awaits_room));
    }

    /// The log cannot write any more, for the time being or for good.
    pub(crate) fn halt(&self) {
        self.send(|mail| mail.halted = true);
    }

    /// The calling thread is the one that will take the mail.
    pub(crate) fn own(self: &Arc<Self>) {
        OWN.set(Arc::as_ptr(self));
    }

    /// Whether there may be mail.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes what has arrived.
    pub(crate) fn take(&self) -> Mail {
        let mut mail = self.lock();
        self.full.store(false, Ordering::Relaxed);
        let kept = Mail {
            last: mail.last,
            awaited: mail.awaited,
            awaits_room: mail.awaits_room,
            ..Mail::default()
        };
        std::mem::replace(&mut *mail, kept)
    }

    /// The eventfd has been seen; it says no more until somebody wakes the thread again.
    pub(crate) fn hush(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.wake, &mut count);
    }

    fn send(&self, put: impl FnOnce(&mut Mail)) {
        self.send_if(|mail| {
            put(mail);
            true
        });
    }

    /// Puts something in, or finds that there is nothing to say.
    fn send_if(&self, put: impl FnOnce(&mut Mail) -> bool) {
        let mut mail = self.lock();
        if !put(&mut mail) {
            return;
        }
        let was_full = self.full.swap(true, Ordering::Release);
        drop(mail);
        if !was_full && !std::ptr::eq(OWN.get(), self) {
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
