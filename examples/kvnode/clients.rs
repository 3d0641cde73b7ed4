//! Who is connected: what `CLIENT LIST` shows, readable from every I/O thread.
//!
//! A connection itself belongs to one I/O thread. What others may ask about it lives in a
//! [`Client`], of atomics that its I/O thread stores once a burst, and in the registry, whose lock
//! is held for a look-up or a copy of pointers only.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::commands;

/// One connected client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    fd: i32,
    connected: Instant,
    /// Set by the client about itself; absent for most.
    said: Mutex<Option<Box<Said>>>,
    no_evict: AtomicBool,
    /// Milliseconds from `connected` to the last burst.
    active: AtomicU64,
    /// The last command, for [`commands::name_of`].
    command: AtomicUsize,
    unread: AtomicU32,
    unsent: AtomicU32,
    memory: AtomicUsize,
}

#[derive(Debug, Default, Clone)]
struct Said {
    name: Vec<u8>,
    library: Vec<u8>,
    version: Vec<u8>,
}

impl Client {
    pub(crate) fn name(&self) -> Vec<u8> {
        self.said().name
    }

    pub(crate) fn set_name(&self, name: &[u8]) {
        self.say(|said| said.name = name.to_vec());
    }

    pub(crate) fn set_library(&self, name: &[u8]) {
        self.say(|said| said.library = name.to_vec());
    }

    pub(crate) fn set_library_version(&self, version: &[u8]) {
        self.say(|said| said.version = version.to_vec());
    }

    pub(crate) fn set_no_evict(&self, on: bool) {
        self.no_evict.store(on, Ordering::Relaxed);
    }

    /// Forgets what the client set, as `RESET` asks.
    pub(crate) fn reset(&self) {
        self.say(|said| said.name.clear());
        self.set_no_evict(false);
    }

    /// The command about to run, so that `CLIENT LIST` can name it while it does.
    pub(crate) fn runs(&self, code: usize) {
        self.command.store(code, Ordering::Relaxed);
    }

    /// After a burst: when it was, and what is left over.
    pub(crate) fn seen(&self, now: Instant, unread: usize, unsent: usize, memory: usize) {
        let active = now.saturating_duration_since(self.connected).as_millis();
        self.active.store(active as u64, Ordering::Relaxed);
        self.unread.store(unread as u32, Ordering::Relaxed);
        self.unsent.store(unsent as u32, Ordering::Relaxed);
        self.memory.store(memory, Ordering::Relaxed);
    }

    /// Appends this client's line in the format of `CLIENT LIST`, without the line's end.
    pub(crate) fn describe(&self, line: &mut Vec<u8>) {
        let said = self.said();
        let age = self.connected.elapsed();
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        let unsent = self.unsent.load(Ordering::Relaxed);
        // Writing to a Vec cannot fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd={} name=",
            self.id, self.peer, self.local, self.fd
        );
        line.extend_from_slice(&said.name);
        let _ = write!(
            line,
            " age={} idle={} flags={} db=0 sub=0 psub=0 ssub=0 multi=-1 qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 \
             rbs=0 rbp=0 obl={unsent} oll=0 omem=0 tot-mem={} events=r cmd={} user=default redir=-1 resp=2 lib-name=",
            age.as_secs(),
            age.saturating_sub(active).as_secs(),
            if self.no_evict.load(Ordering::Relaxed) {
                "e"
            } else {
                "N"
            },
            self.unread.load(Ordering::Relaxed),
            self.memory.load(Ordering::Relaxed),
            commands::name_of(self.command.load(Ordering::Relaxed)),
        );
        line.extend_from_slice(&said.library);
        line.extend_from_slice(b" lib-ver=");
        line.extend_from_slice(&said.version);
    }

    fn said(&self) -> Said {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.as_deref().cloned().unwrap_or_default()
    }

    fn say(&self, set: impl FnOnce(&mut Said)) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        set(said.get_or_insert_default());
        if said
            .as_ref()
            .is_some_and(|s| s.name.is_empty() && s.library.is_empty() && s.version.is_empty())
        {
            *said = None;
        }
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
        now: Instant,
    ) -> Arc<Client> {
        let client = Arc::new(Client {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            local,
            fd,
            connected: now,
            said: Mutex::new(None),
            no_evict: AtomicBool::new(false),
            active: AtomicU64::new(0),
            command: AtomicUsize::new(0),
            unread: AtomicU32::new(0),
            unsent: AtomicU32::new(0),
            memory: AtomicUsize::new(0),
        });
        self.lock().insert(client.id, Arc::clone(&client));
        client
    }

    pub(crate) fn remove(&self, id: u64) {
        self.lock().remove(&id);
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

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Client>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
