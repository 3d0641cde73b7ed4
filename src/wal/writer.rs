//! The leader's hands on the files: who owns the writer leads.
//!
//! One write and one sync a group. Writes say where, so what a failed one left behind is
//! overwritten by the next, or cut off.
//!
//! | what fails | the group | the log |
//! |---|---|---|
//! | making a segment | is not in the log | goes on, in a segment with another number |
//! | a write, for want of space, and the file is cut and synced | is not in the log | goes on at the same place |
//! | any other write, or that cut | in doubt | is poisoned |
//! | the sync of a segment before this group | is not in the log | is poisoned |
//! | the sync of this group | in doubt | is poisoned |
//!
//! After a failed sync the kernel may have dropped what it could not write, and calls it clean: a
//! second sync of that file would succeed and mean nothing. So there is none.

use std::path::PathBuf;

use crate::os::fs::{File, Fs, write_all};
use crate::sync::mutant;
use crate::sync::unmodelled::Arc;

use super::error::{WalError, is_no_space};
use super::record;
use super::segment::{self, Name};

pub(super) struct Writer {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) segment_bytes: u64,
    pub(super) epoch: u64,
    /// The highest number that a segment has, or was to have.
    pub(super) number: u64,
    pub(super) file: Box<dyn File>,
    pub(super) path: PathBuf,
    /// Where the next record goes.
    pub(super) end: u64,
    /// What the segment has room for.
    pub(super) room: u64,
    /// Nothing may be added to this segment: a next one is wanted, or was begun.
    pub(super) is_full: bool,
    /// The last LSN that was written.
    pub(super) written: u64,
    /// The last LSN that is known to be synced.
    pub(super) synced: u64,
    /// Whether a write or sync has begun and has not ended well.
    pub(super) is_torn: bool,
    /// A segment that was made, and the LSN that it begins with.
    pub(super) made: Option<(Name, u64)>,
}

/// What a leader writes.
pub(super) struct Group<'a> {
    /// Unfinished records.
    pub(super) bytes: &'a mut [u8],
    /// The first and the last LSN.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) sync: bool,
    /// The next record goes to another segment.
    pub(super) rotate: bool,
}

pub(super) struct Failure {
    pub(super) error: WalError,
    /// Whether the group may be in the log.
    pub(super) doubt: bool,
    pub(super) poison: bool,
}

impl Writer {
    pub(super) fn commit(&mut self, group: &mut Group<'_>) -> Result<(), Failure> {
        if !group.bytes.is_empty() {
            if self.is_full || self.end + group.bytes.len() as u64 > self.room {
                self.next_segment(group.first, group.bytes.len() as u64)?;
            }
            self.write(group)?;
        }
        if group.sync || group.rotate {
            self.sync(!group.bytes.is_empty())?;
        }
        // An empty segment is as good as a new one.
        self.is_full |= group.rotate && self.end > segment::HEADER;
        self.is_torn = false;
        Ok(())
    }

    fn write(&mut self, group: &mut Group<'_>) -> Result<(), Failure> {
        let synced_below = self.synced + 1;
        record::finish(group.bytes, self.epoch, synced_below);
        self.is_torn = true;
        match write_all(&*self.file, group.bytes, self.end) {
            Ok(()) => {}
            Err(error) => {
                let is_cut = is_no_space(&error) && self.cut().is_ok();
                self.is_torn = !is_cut;
                return Err(Failure {
                    error: WalError::io("write to", &self.path)(error),
                    doubt: !is_cut,
                    poison: !is_cut,
                });
            }
        }
        self.end += group.bytes.len() as u64;
        self.written = group.last;
        Ok(())
    }

    /// Takes back what a write may have left in the file beyond its end: a record that failed must
    /// not be found by a recovery.
    fn cut(&self) -> std::io::Result<()> {
        if mutant::enabled("wal-leaves-what-failed") {
            return Ok(());
        }
        self.file.set_len(self.end)?;
        self.file.sync_data()
    }

    fn sync(&mut self, doubt: bool) -> Result<(), Failure> {
        if self.synced == self.written {
            return Ok(());
        }
        self.is_torn = true;
        if !mutant::enabled("wal-acknowledges-unsynced")
            && let Err(error) = self.file.sync_data()
        {
            return Err(Failure {
                error: WalError::io("sync", &self.path)(error),
                doubt,
                poison: true,
            });
        }
        self.synced = self.written;
        Ok(())
    }

    /// Goes on in a segment that begins with `first` and has room for `bytes` at least.
    fn next_segment(&mut self, first: u64, bytes: u64) -> Result<(), Failure> {
        // The next header says that all below `first` is synced.
        self.sync(false)?;
        self.is_torn = false;
        // From here on there may be a file that says that this one has ended.
        self.is_full = true;
        self.number += 1;
        let name = Name {
            number: self.number,
            epoch: self.epoch,
        };
        // What it did not use may be what the next one lacks.
        self.trim();
        let least = segment::HEADER + bytes;
        let room = self.segment_bytes;
        let made = segment::create(&*self.fs, &self.dir, name, first, room, least, |_| {
            Ok(segment::HEADER)
        });
        let made = made.map_err(|error| Failure {
            error,
            doubt: false,
            poison: false,
        })?;
        self.file = made.file;
        self.path = name.path(&self.dir);
        self.end = made.end;
        self.room = made.room;
        self.is_full = false;
        self.made = Some((name, first));
        Ok(())
    }

    /// Gives back room that was not used. Nothing depends on it.
    pub(super) fn trim(&self) {
        if self.end < self.room {
            let _: std::io::Result<()> = self.file.set_len(self.end);
        }
    }
}
