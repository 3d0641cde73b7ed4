//! Who is connected: what `CLIENT LIST` shows, readable from every I/O thread.
//!
//! A connection itself belongs to one I/O thread. What others may ask about it lives in a
//! [`Client`], of atomics that its I/O thread stores once a burst, and in the registry, whose lock
//! is held for a look-up or a copy of pointers only.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use latchwork::Pending;

use crate::commands;
use crate::inbox::{Inbox, Post};
use crate::reply::Protocol;

/// One connected client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    fd: i32,
    connected: Instant,
    /// Where its I/O thread is reached, and the thread's number for the connection.
    inbox: Arc<Inbox>,
    slot: AtomicUsize,
    name: Mutex<Option<Box<[u8]>>>,
    resp3: AtomicBool,
    /// Cancels what the client waits for. See [`blocked`](crate::blocked).
    waiter: Mutex<Option<Pending>>,
    no_evict: AtomicBool,
    /// Milliseconds from `connected` to the last burst.
    active: AtomicU64,
    /// The last command, for [`commands::name_of`].
    command: AtomicUsize,
    unread: AtomicU32,
    unsent: AtomicU32,
    /// Commands queued since `MULTI`; -1 outside a transaction.
    queued: AtomicI64,
    blocked: AtomicBool,
    memory: AtomicUsize,
}

impl Client {
    pub(crate) fn name(&self) -> Vec<u8> {
        self.lock_name().as_deref().unwrap_or_default().to_vec()
    }

    pub(crate) fn set_name(&self, name: &[u8]) {
        *self.lock_name() = Some(name).filter(|name| !name.is_empty()).map(Into::into);
    }

    pub(crate) fn protocol(&self) -> Protocol {
        if self.resp3.load(Ordering::Relaxed) {
            Protocol::Resp3
        } else {
            Protocol::Resp2
        }
    }

    pub(crate) fn set_protocol(&self, protocol: Protocol) {
        self.resp3
            .store(protocol == Protocol::Resp3, Ordering::Relaxed);
    }

    /// Where its I/O thread keeps the connection.
    pub(crate) fn slot(&self) -> usize {
        self.slot.load(Ordering::Relaxed)
    }

    pub(crate) fn set_slot(&self, slot: usize) {
        self.slot.store(slot, Ordering::Relaxed);
    }

    /// Tells the connection something, from any thread.
    pub(crate) fn post(self: Arc<Self>, post: Post) {
        let inbox = Arc::clone(&self.inbox);
        inbox.post(self, post);
    }

    /// The client waits from now on. Who counts it among those that wait finds that it does, and
    /// can cancel that.
    pub(crate) fn wait(&self, register: impl FnOnce() -> Pending) {
        let mut waiter = self.lock_waiter();
        self.blocked.store(true, Ordering::Relaxed);
        *waiter = Some(register());
    }

    /// Cancels the client's wait. True: nobody else will say how it ends. False: it has ended, or
    /// somebody else has cancelled it.
    pub(crate) fn cancel_wait(&self) -> bool {
        let waiter = self.lock_waiter().take();
        waiter.is_some_and(Pending::cancel)
    }

    fn lock_waiter(&self) -> MutexGuard<'_, Option<Pending>> {
        self.waiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether these are its addresses, as far as they are given.
    pub(crate) fn has_addresses(&self, peer: Option<&[u8]>, local: Option<&[u8]>) -> bool {
        let is = |address: &SocketAddr, wanted: Option<&[u8]>| {
            wanted.is_none_or(|wanted| address.to_string().as_bytes() == wanted)
        };
        is(&self.peer, peer) && is(&self.local, local)
    }

    pub(crate) fn set_no_evict(&self, on: bool) {
        self.no_evict.store(on, Ordering::Relaxed);
    }

    /// Forgets what the client set, as `RESET` asks.
    pub(crate) fn reset(&self) {
        self.set_name(b"");
        self.set_protocol(Protocol::Resp2);
        self.set_no_evict(false);
    }

    /// The command about to run, so that `CLIENT LIST` can name it while it does.
    pub(crate) fn runs(&self, code: usize) {
        self.command.store(code, Ordering::Relaxed);
    }

    /// After a burst: when it was, what is left over, and how many commands are queued since
    /// `MULTI`.
    pub(crate) fn seen(
        &self,
        now: Instant,
        unread: usize,
        unsent: usize,
        queued: Option<usize>,
        blocked: bool,
        memory: usize,
    ) {
        let active = now.saturating_duration_since(self.connected).as_millis();
        self.active.store(active as u64, Ordering::Relaxed);
        self.unread.store(unread as u32, Ordering::Relaxed);
        self.unsent.store(unsent as u32, Ordering::Relaxed);
        let queued = queued.map_or(-1, |queued| queued as i64);
        self.queued.store(queued, Ordering::Relaxed);
        self.blocked.store(blocked, Ordering::Relaxed);
        self.memory.store(memory, Ordering::Relaxed);
    }

    /// Appends this client's line in the format of `CLIENT LIST`, without the line's end.
    pub(crate) fn describe(&self, line: &mut Vec<u8>) {
        let age = self.connected.elapsed();
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        let unsent = self.unsent.load(Ordering::Relaxed);
        let queued = self.queued.load(Ordering::Relaxed);
        let flags: String = [
            (queued >= 0, 'x'),
            (self.blocked.load(Ordering::Relaxed), 'b'),
            (self.no_evict.load(Ordering::Relaxed), 'e'),
        ]
        .into_iter()
        .filter_map(|(is_set, flag)| is_set.then_some(flag))
        .collect();
        let flags = if flags.is_empty() { "N" } else { &flags };
        // Writing to a Vec cannot fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd={} name=",
            self.id, self.peer, self.local, self.fd
        );
        line.extend_from_slice(&self.name());
        let _ = write!(
            line,
            " age={} idle={} flags={} db=0 sub=0 psub=0 ssub=0 multi={queued} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 \
             rbs=0 rbp=0 obl={unsent} oll=0 omem=0 tot-mem={} events=r cmd={} user=default redir=-1 resp={}",
            age.as_secs(),
            age.saturating_sub(active).as_secs(),
            flags,
            self.unread.load(Ordering::Relaxed),
            self.memory.load(Ordering::Relaxed),
            commands::name_of(self.command.load(Ordering::Relaxed)),
            self.protocol().number(),
        );
    }

    fn lock_name(&self) -> MutexGuard<'_, Option<Box<[u8]>>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every connected client, by id.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    last_id: AtomicU64,
    by_id: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Clients {
    /// Registers a connection; ids start at 1 and are never used twice.
    pub(crate) fn add(
        &self,
        fd: i32,
        peer: SocketAddr,
        local: SocketAddr,
        inbox: &Arc<Inbox>,
    ) -> Arc<Client> {
        let client = Arc::new(Client {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            local,
            fd,
            connected: Instant::now(),
            inbox: Arc::clone(inbox),
            slot: AtomicUsize::new(usize::MAX),
            name: Mutex::new(None),
            resp3: AtomicBool::new(false),
            waiter: Mutex::new(None),
            no_evict: AtomicBool::new(false),
            active: AtomicU64::new(0),
            command: AtomicUsize::new(0),
            unread: AtomicU32::new(0),
            unsent: AtomicU32::new(0),
            queued: AtomicI64::new(-1),
            blocked: AtomicBool::new(false),
            memory: AtomicUsize::new(0),
        });
        self.lock().insert(client.id, Arc::clone(&client));
        client
    }

    /// Forgets one; false if that has happened before.
    pub(crate) fn remove(&self, id: u64) -> bool {
        self.lock().remove(&id).is_some()
    }

    /// All of them, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn get(&self, id: u64) -> Option<Arc<Client>> {
        self.lock().get(&id).cloned()
    }

    pub(crate) fn ever(&self) -> u64 {
        self.last_id.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
