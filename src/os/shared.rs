//! Memory that processes share, and whose death in it is known.
//!
//! | file | holds |
//! |---|---|
//! | `word` | owned words: claimed, released and reaped by one compare-and-swap each |
//! | `process` | the process slots: who is attached, who is alive |
//! | `futex` | words to sleep on, several at once |
//! | `layout` | what is where in a file |
//! | `file`, `error` | opening and making files |
//! | `mapping` | a mapped file, with room for robust nodes |
//! | `lifeline` | the robust list and the thread that keeps it: the first evidence of a death |
//! | `watcher` | who waits without a thread |
//! | `ofd` | locks on bytes of the file: the second |
//! | `fork` | what a fork's child must know |
//! | `area`, `attach` | what a process sees, and how it takes and leaves its slot |
//! | `modelled` | the same face for the model checker |
//!
//! A dead process is known by its life word, which the kernel marks when the process's keeper
//! thread ends, at once and before its memory is torn down; and, where that word was written over,
//! by the lock on its byte of the file, which goes with its last descriptor. Words that it owned
//! say so themselves, so anybody takes them back.

pub(crate) mod area;
#[cfg(not(latchwork_loom))]
mod attach;
pub(crate) mod error;
#[cfg(not(latchwork_loom))]
pub(crate) mod file;
#[cfg(not(latchwork_loom))]
mod fork;
#[cfg(not(latchwork_loom))]
pub(crate) mod futex;
#[cfg(not(latchwork_loom))]
pub(crate) mod layout;
#[cfg(not(latchwork_loom))]
pub(crate) mod lifeline;
#[cfg(not(latchwork_loom))]
pub(crate) mod mapping;
#[cfg(latchwork_loom)]
pub(crate) mod modelled;
#[cfg(not(latchwork_loom))]
mod ofd;
pub(crate) mod process;
pub(crate) mod watcher;
pub(crate) mod word;

#[cfg(not(latchwork_loom))]
pub(crate) use attach::Attachment;
#[cfg(latchwork_loom)]
pub(crate) use modelled::{Attachment, file};
