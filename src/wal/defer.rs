//! Records that an event loop enqueues in one round, and for which it calls the log's thread once.
//!
//! A deferred record is pending like any other, and whoever leads next takes it along; only, nobody
//! is woken to lead. So the loop has to [nudge](Wal::nudge) the log before it sleeps.

use super::group_commit::Core;
use super::{AppendError, Lsn, Wal};

impl Wal {
    /// As [`try_enqueue`](Self::try_enqueue), but does not wake the log's thread. For callers that
    /// enqueue several records and then [`nudge`](Self::nudge) it; until then the records may stay
    /// in memory.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::Wal};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// let (send, receive) = std::sync::mpsc::channel();
    /// wal.on_durable(move |lsn| drop(send.send(lsn)));
    /// for line in ["one", "two", "three"] {
    ///     wal.defer(line.as_bytes())?;
    /// }
    /// wal.nudge();
    /// while receive.recv()? < wal.last_lsn() {}
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`try_enqueue`](Self::try_enqueue).
    pub fn defer(&self, body: &[u8]) -> Result<Lsn, AppendError> {
        Core::defer(&self.core, body).map_err(|(error, _)| error)
    }

    /// Has the log's thread see to what was [deferred](Self::defer). Where records may
    /// [linger](super::Builder::linger), that begins with this, and ends as ever: a nudge does not
    /// end it.
    pub fn nudge(&self) {
        self.core.nudge();
    }
}
