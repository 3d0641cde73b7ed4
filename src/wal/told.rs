//! Who is told what became of a group: event loops, which do not wait.
//!
//! All are called outside all locks by whoever led the group. Two calls may come at once and out of
//! order; what counts is the greatest.

use crate::sync::unmodelled;

use super::{Lsn, Wal, WalError};

impl Wal {
    /// Calls `f` with [`durable_lsn`](Self::durable_lsn) whenever that has risen, so that an event
    /// loop can acknowledge what it enqueued. It runs outside all locks on the thread that wrote
    /// the group, and must not wait. Two calls may come at the same time and out of order: the
    /// greatest counts.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// wal.on_durable(move |lsn| drop(send.send(lsn)));
    /// wal.enqueue(b"one")?;
    /// assert_eq!(receive.recv()?, Lsn::new(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_durable(&self, f: impl Fn(Lsn) + Send + Sync + 'static) {
        self.core.on_durable.lock().push(unmodelled::Arc::new(f));
    }

    /// Calls `f` after each group with the last record that was written, synced or not; otherwise
    /// as [`on_durable`](Self::on_durable). For an event loop that has stopped enqueueing because
    /// too much [waits](Self::pending_bytes).
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Durability, Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// let (wal, _) = Wal::builder("/log").fs(fs)
    ///     .durability(Durability::None)
    ///     .open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// wal.on_written(move |lsn| drop(send.send(lsn)));
    /// wal.enqueue(b"one")?;
    /// assert_eq!(receive.recv()?, Lsn::new(1));
    /// assert_eq!(wal.durable_lsn(), Lsn::ZERO);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_written(&self, f: impl Fn(Lsn) + Send + Sync + 'static) {
        self.core.on_written.lock().push(unmodelled::Arc::new(f));
    }

    /// Calls `f` with the reason whenever a group could not be written or synced, as
    /// [`on_durable`](Self::on_durable). If the error [`is_poisoned`](WalError::is_poisoned), the
    /// log takes no more records; else [`resume`](Self::resume) tries again.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::Wal};
    /// let fs = MemoryFs::new();
    /// let (wal, _) = Wal::builder("/log").fs(std::sync::Arc::new(fs.clone()))
    ///     .segment_bytes(4096)
    ///     .open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// wal.on_failure(move |error| drop(send.send(error.clone())));
    /// fs.set_capacity(fs.used());
    /// wal.enqueue(&[0; 8192])?;
    /// assert!(receive.recv()?.is_no_space());
    ///
    /// fs.set_capacity(u64::MAX);
    /// wal.resume()?;
    /// assert_eq!(wal.durable_lsn(), wal.last_lsn());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_failure(&self, f: impl Fn(&WalError) + Send + Sync + 'static) {
        self.core.on_failure.lock().push(unmodelled::Arc::new(f));
    }
}
