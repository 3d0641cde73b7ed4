//! What all threads of the server share.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use latchwork::Semaphore;
use latchwork::rmw::Rmw;
use rustix::event::{EventfdFlags, eventfd};

use crate::clients::Clients;
use crate::commands::Saves;
use crate::options::{Fsync, Options};
use crate::storage::{DurableStore, Storage};

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) options: Options,
    /// Where it really listens, the port filled in.
    pub(crate) address: SocketAddr,
    pub(crate) started: Instant,
    /// The same in seconds since 1970.
    started_unix: u64,
    pub(crate) store: Rmw<DurableStore>,
    /// What makes the store durable, with `--data`.
    pub(crate) storage: Option<Arc<Storage>>,
    pub(crate) saves: Arc<Saves>,
    pub(crate) clients: Clients,
    /// A permit for each connection there may be.
    pub(crate) places: Semaphore,
    /// Connections turned away for want of a permit.
    pub(crate) turned_away: AtomicU64,
    /// One for each I/O thread.
    pub(crate) counters: Vec<Counters>,
    stop: Stop,
}

impl Server {
    pub(crate) fn new(
        options: Options,
        address: SocketAddr,
        store: Rmw<DurableStore>,
        storage: Option<Arc<Storage>>,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        Ok(Self {
            address,
            started: Instant::now(),
            started_unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            store,
            storage,
            saves: Arc::default(),
            clients: Clients::default(),
            places: Semaphore::new(options.max_clients)?,
            turned_away: AtomicU64::new(0),
            counters: (0..options.io_threads)
                .map(|_| Counters::default())
                .collect(),
            stop: Stop::new()?,
            options,
        })
    }

    /// Asks for an orderly end; returns at once.
    pub(crate) fn request_stop(&self) {
        self.stop.requested.store(true, Ordering::Release);
        // The counter cannot overflow, and a write to an eventfd fails in no other way.
        let _ = rustix::io::write(&self.stop.wake, &1u64.to_ne_bytes());
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.requested.load(Ordering::Acquire)
    }

    /// Readable once a stop was requested.
    pub(crate) fn stop_fd(&self) -> BorrowedFd<'_> {
        self.stop.wake.as_fd()
    }

    /// The log, if replies wait for it.
    pub(crate) fn log_to_wait_for(&self) -> Option<Arc<Storage>> {
        let waits = |storage: &Arc<Storage>| storage.fsync() == Fsync::Always;
        self.storage.clone().filter(waits)
    }

    /// When everything was last on disk, in seconds since 1970; if never, when the server started.
    pub(crate) fn last_save(&self) -> u64 {
        let last = self
            .storage
            .as_ref()
            .map_or(0, |storage| storage.last_save());
        if last == 0 { self.started_unix } else { last }
    }

    /// The sum of one counter over all I/O threads.
    pub(crate) fn total(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters
            .iter()
            .map(|counters| counter(counters).load(Ordering::Relaxed))
            .sum()
    }
}

#[derive(Debug)]
struct Stop {
    requested: AtomicBool,
    wake: OwnedFd,
}

impl Stop {
    fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            requested: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }
}

/// What an I/O thread counts. Only that thread writes, so a count is a load and a store; everybody
/// may read. Aligned so that no two threads write to one cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) commands: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) stalled: AtomicU64,
    pub(crate) overflowed: AtomicU64,
}

impl Counters {
    /// To be called by the owning thread only.
    pub(crate) fn add(counter: &AtomicU64, number: u64) {
        counter.store(
            counter.load(Ordering::Relaxed).wrapping_add(number),
            Ordering::Relaxed,
        );
    }
}
