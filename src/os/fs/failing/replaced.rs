//! What a file's unsynced writes have replaced.

use std::io;

use super::super::{File, read_full, write_all};
use crate::sync::unmodelled::Mutex;

/// The bytes that writes since the last sync have replaced, oldest first.
#[derive(Debug, Default)]
pub(super) struct Replaced(Mutex<Vec<(u64, Vec<u8>)>>);

impl Replaced {
    /// Writes, and keeps what was there. Beyond the end that is zeros.
    pub(super) fn write_at(&self, file: &dyn File, bytes: &[u8], offset: u64) -> io::Result<usize> {
        // Held through both calls: another write to these bytes comes before or after.
        let mut replaced = self.0.lock();
        let mut before = vec![0; bytes.len()];
        read_full(file, &mut before, offset)?;
        let count = file.write_at(bytes, offset)?;
        before.truncate(count);
        replaced.push((offset, before));
        Ok(count)
    }

    /// Syncs; what was written before that can no longer be dropped.
    pub(super) fn sync_data(&self, file: &dyn File) -> io::Result<()> {
        let covered = std::mem::take(&mut *self.0.lock());
        let result = file.sync_data();
        if result.is_err() {
            self.0.lock().splice(..0, covered);
        }
        result
    }

    /// Drops what was written since the last sync. The length stays.
    pub(super) fn put_back(&self, file: &dyn File) -> io::Result<()> {
        let mut replaced = self.0.lock();
        let len = file.len()?;
        while let Some((offset, mut before)) = replaced.pop() {
            let left = usize::try_from(len.saturating_sub(offset)).unwrap_or(usize::MAX);
            before.truncate(left);
            write_all(file, &before, offset)?;
        }
        Ok(())
    }
}
