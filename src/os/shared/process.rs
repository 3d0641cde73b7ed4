//! The process slots: who is attached to an area.
//!
//! | `life` | means | next |
//! |---|---|---|
//! | 0 | nobody | a thread id, by who attaches, holding the slot's byte of the file locked |
//! | a thread id, perhaps with `FUTEX_WAITERS` | the process of that thread is attached | 0, by itself; `FUTEX_OWNER_DIED`, by the kernel when it dies |
//! | `FUTEX_OWNER_DIED` | its process is dead | 0, by who attaches next |
//!
//! The generation is raised before each attachment, so a word that names an older one has no owner,
//! whoever has the slot now.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::futex::SharedFutex;

use super::word::Owner;

/// The kernel's bits of a robust futex.
pub(crate) const WAITERS: u32 = 0x8000_0000;
pub(crate) const OWNER_DIED: u32 = 0x4000_0000;
const TID: u32 = 0x3fff_ffff;

const COMMAND_WORDS: usize = 5;

/// A process that is attached, or was, or nobody. One cache line.
///
/// All but the first two words are for people: nothing is decided by them.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct ProcessSlot {
    pub(super) life: SharedFutex,
    pub(super) generation: AtomicU32,
    pid: AtomicU32,
    /// How many threads of the process wait.
    waiting: AtomicU32,
    started: AtomicU64,
    command: [AtomicU64; COMMAND_WORDS],
}

/// What a slot says of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

/// Whether a life word says that a process lives.
pub(crate) fn is_life(life: u32) -> bool {
    life & TID != 0 && life & OWNER_DIED == 0
}

impl ProcessSlot {
    #[allow(
        dead_code,
        reason = "a model's memory is made of it; elsewhere it is a file's"
    )]
    pub(crate) fn new() -> Self {
        Self {
            life: SharedFutex::new(0),
            generation: AtomicU32::new(0),
            pid: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            started: AtomicU64::new(0),
            command: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Whether the slot is `owner`'s, and its process not known to be dead.
    ///
    /// The life is read before the generation: the other way round, the life of a new owner would
    /// do for the old one.
    pub(crate) fn is_alive(&self, owner: Owner) -> bool {
        is_life(self.life.load()) && self.has_generation_of(owner)
    }

    /// Another thread of the process waits, or another request of its.
    pub(crate) fn start_waiting(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stop_waiting(&self) {
        // Others may have written over it.
        let less = |waiting: u32| waiting.checked_sub(1);
        let _ = self
            .waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Whether a process is attached, and not known to be dead.
    pub(crate) fn is_attached(&self) -> bool {
        is_life(self.life.load())
    }

    pub(crate) fn has_generation_of(&self, owner: Owner) -> bool {
        owner.is_of(self.generation.load(Ordering::SeqCst))
    }

    /// The life word and what it holds, marked so that the kernel wakes who sleeps on it when its
    /// process dies. `None`: it is dead already.
    ///
    /// The mark goes onto a life that was seen, by compare-and-swap: set blindly, it would turn up
    /// on the word of nobody and keep the slot from being taken.
    pub(crate) fn watch_life(&self) -> Option<(&SharedFutex, u32)> {
        let mut seen = self.life.load();
        loop {
            if !is_life(seen) {
                return None;
            }
            if seen & WAITERS != 0 {
                return Some((&self.life, seen));
            }
            match self.life.compare_exchange(seen, seen | WAITERS) {
                Ok(_) => return Some((&self.life, seen | WAITERS)),
                Err(now) => seen = now,
            }
        }
    }

    /// Writes down who is about to attach, for people.
    pub(super) fn introduce(&self, pid: u32, started: u64, command: &[u8]) {
        self.pid.store(pid, Ordering::Relaxed);
        self.waiting.store(0, Ordering::Relaxed);
        self.started.store(started, Ordering::Relaxed);
        for (i, word) in self.command.iter().enumerate() {
            let mut bytes = [0; 8];
            let rest = command.get(i * 8..).unwrap_or_default();
            let count = rest.len().min(8);
            bytes[..count].copy_from_slice(&rest[..count]);
            word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        }
    }

    /// What the slot says of its process. Others may be writing it: what comes out is text.
    pub(crate) fn process(&self) -> Process {
        let mut command = Vec::with_capacity(COMMAND_WORDS * 8);
        for word in &self.command {
            command.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        let end = command.iter().position(|&byte| byte == 0);
        command.truncate(end.unwrap_or(command.len()));
        let text = String::from_utf8_lossy(&command);
        Process {
            pid: self.pid.load(Ordering::Relaxed),
            // It goes to terminals.
            command: text.replace(char::is_control, "?"),
        }
    }
}
