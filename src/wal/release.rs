//! Old records go: rotations, releases, and the beginning of a snapshot.
//!
//! Segments go from the oldest on, and each removal is durable before the next: a hole between two
//! segments that a power cut left would look like a loss.

use crate::sync::mutant;

use super::{AppendError, Lsn, Snapshot, Wal, WalError, snapshot};

impl Wal {
    /// Syncs, and has later records go to a new segment. Returns the first place there: what is
    /// below lies in older segments, and can be [released](Self::release).
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.append(b"one")?;
    /// assert_eq!(wal.rotate()?, Lsn::new(2));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait_durable`](Self::wait_durable).
    ///
    /// # Blocking
    /// Until the sync has been done.
    pub fn rotate(&self) -> Result<Lsn, AppendError> {
        self.core.rotate().map(|(first, _)| first)
    }

    /// Removes the segments whose records are all below `before`, and says how many. The newest
    /// stays. The caller has what they hold: in a snapshot of its own, in tables that were flushed.
    ///
    /// ```
    /// # use latchwork::{fs::MemoryFs, wal::{Lsn, Wal}};
    /// # let fs = std::sync::Arc::new(MemoryFs::new());
    /// # let (wal, _) = Wal::builder("/log").fs(fs).open(|_, _| Ok::<(), std::io::Error>(()))?;
    /// wal.append(b"one")?;
    /// let first = wal.rotate()?;
    /// wal.append(b"two")?;
    /// assert_eq!(wal.release(first)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// When a file cannot be removed or the directory not be synced. What was not removed stays for
    /// the next release.
    ///
    /// # Blocking
    /// While another removes segments, and while the directory is synced.
    pub fn release(&self, before: Lsn) -> Result<u64, WalError> {
        let core = &self.core;
        if core.is_forked() {
            return Err(WalError::closed(&core.dir));
        }
        let mut is_unsynced = self.removing.lock();
        let mut count = 0;
        loop {
            if *is_unsynced && !mutant::enabled("wal-removals-unsynced") {
                let synced = self.fs.sync_dir(&core.dir);
                synced.map_err(WalError::io("sync", &core.dir))?;
            }
            *is_unsynced = false;
            let oldest = match &core.segments.lock()[..] {
                [oldest, next, ..] if next.1 <= before.get() => oldest.0,
                _ => return Ok(count),
            };
            let path = oldest.path(&core.dir);
            match self.fs.remove_file(&path) {
                // The last try reported an error, and had removed it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(WalError::io("remove", &path))?,
            }
            *is_unsynced = true;
            core.segments.lock().remove(0);
            core.counters.segments.sub(1);
            count += 1;
        }
    }

    /// Begins a snapshot of the state that the records so far have led to. To be called when the
    /// state that will be written holds what every record up to [`last_lsn`](Self::last_lsn) did:
    /// under the lock that the caller orders its appends by, or where a record that is replayed
    /// over a newer state does no harm.
    ///
    /// See [`Snapshot`] for an example.
    ///
    /// # Errors
    /// When the records so far cannot be synced, or the file not be made.
    ///
    /// # Blocking
    /// Until the records so far are synced.
    pub fn snapshot(&self) -> Result<Snapshot<'_>, WalError> {
        let rotated = self.core.rotate();
        let (_, last) = rotated.map_err(|error| error.into_wal_error(&self.core.dir))?;
        Snapshot::begin(self, self.fs.clone(), last)
    }

    /// After a snapshot has been committed: removes what the one before it made superfluous.
    pub(super) fn forget_before(&self, newest: Lsn) -> Result<(), WalError> {
        let kept = snapshot::remove_old(&*self.fs, &self.core.dir, newest, &self.damaged)?;
        if let Some(kept) = kept {
            self.release(Lsn::new(kept + 1))?;
        }
        Ok(())
    }
}
