//! One file of the log.
//!
//! A segment's name says its number, one higher than any before, and the epoch of the opening that
//! made it. It begins with a header: magic, number, epoch, the LSN of its first record, and a CRC.
//! What counts is in the order of its making: what it begins with (the tail that a recovery copies)
//! is written and synced, then the header, then its name in the directory. Only then is a record
//! acknowledged that stands in it. So a file without a valid header holds nothing that counts, and
//! one with a valid header says that all records below its first had been synced: those in the
//! segments before it that are not below it are void.

use std::io;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

use crate::os::fs::{File, Fs, OpenMode, read_full, write_all};
use crate::sync::mutant;

use super::WalError;
use super::error::is_no_space;
use super::lsn::UNREACHABLE;

/// Bytes before the first record.
pub(super) const HEADER: u64 = 48;
const VERSION: u16 = 1;
const MAGIC: &[u8; 6] = b"lw-wal";
const SUFFIX: &str = ".wal";

/// Which segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) number: u64,
    pub(super) epoch: u64,
}

impl Name {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (number, epoch) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let hex = |digits: &str| {
            let is_plain = digits.len() == 16 && !digits.starts_with('+');
            is_plain.then(|| u64::from_str_radix(digits, 16).ok())?
        };
        let number = hex(number)?;
        (number < UNREACHABLE).then_some(Self {
            number,
            epoch: hex(epoch)?,
        })
    }

    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:016x}-{:016x}{SUFFIX}", self.number, self.epoch))
    }
}

/// What a file says that it holds.
#[derive(Debug)]
pub(super) enum Head {
    /// Records from this LSN on.
    From(u64),
    /// Nothing: it was never finished, or is damaged.
    Unborn,
}

/// Reads a segment's header.
pub(super) fn read_head(file: &dyn File, name: Name, path: &Path) -> Result<Head, WalError> {
    let mut bytes = [0; HEADER as usize];
    let len = read_full(file, &mut bytes, 0).map_err(WalError::io("read", path))?;
    let (content, crc) = bytes.split_at(44);
    if len < bytes.len() || &content[..6] != MAGIC || crc32c(content).to_le_bytes() != crc {
        return Ok(Head::Unborn);
    }
    let number = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&content[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let version = u16::from_le_bytes([content[6], content[7]]);
    if version != VERSION {
        return Err(WalError::unsupported(path, version));
    }
    let is_it = number(8) == name.number && number(16) == name.epoch && number(24) != 0;
    Ok(if is_it {
        Head::From(number(24))
    } else {
        Head::Unborn
    })
}

fn head(name: Name, first: u64) -> [u8; HEADER as usize] {
    let mut bytes = [0; HEADER as usize];
    bytes[..6].copy_from_slice(MAGIC);
    bytes[6..8].copy_from_slice(&VERSION.to_le_bytes());
    bytes[8..16].copy_from_slice(&name.number.to_le_bytes());
    bytes[16..24].copy_from_slice(&name.epoch.to_le_bytes());
    bytes[24..32].copy_from_slice(&first.to_le_bytes());
    let crc = crc32c(&bytes[..44]);
    bytes[44..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// A segment that has been made.
pub(super) struct Made {
    pub(super) file: Box<dyn File>,
    /// Where the next record goes.
    pub(super) end: u64,
    /// Where the last one has to end.
    pub(super) room: u64,
}

/// Makes a segment for `room` bytes, or for fewer where the disk has not so many, but for `least`,
/// whose first record is `first`. `fill` writes what it begins with, and says where that ends.
pub(super) fn create(
    fs: &dyn Fs,
    dir: &Path,
    name: Name,
    first: u64,
    room: u64,
    least: u64,
    fill: impl FnOnce(&dyn File) -> Result<u64, WalError>,
) -> Result<Made, WalError> {
    let path = name.path(dir);
    let file = fs
        .open(&path, OpenMode::CreateNew)
        .map_err(WalError::io("create", &path))?;
    let made = || -> Result<(u64, u64), WalError> {
        let room = allocate(&*file, room, least).map_err(WalError::io("allocate", &path))?;
        let end = fill(&*file)?;
        if end > HEADER && !mutant::enabled("wal-copies-unsynced") {
            file.sync_data().map_err(WalError::io("sync", &path))?;
        }
        write_all(&*file, &head(name, first), 0).map_err(WalError::io("write", &path))?;
        if !mutant::enabled("wal-header-unsynced") {
            file.sync_data().map_err(WalError::io("sync", &path))?;
        }
        if !mutant::enabled("wal-name-unsynced") {
            fs.sync_dir(dir).map_err(WalError::io("sync", dir))?;
        }
        Ok((end, room))
    };
    match made() {
        Ok((end, room)) => Ok(Made { file, end, room }),
        Err(error) => {
            // Whatever is left of it holds no record that counts.
            let _: io::Result<()> = fs.remove_file(&path);
            Err(error)
        }
    }
}

/// Has the file's blocks be there before they are written: so many, or half of that, and so on.
/// Says how many.
fn allocate(file: &dyn File, room: u64, least: u64) -> io::Result<u64> {
    let mut room = room.max(least);
    loop {
        match file.allocate(room) {
            Err(error) if is_no_space(&error) && room > least => {
                // Some of them may be there.
                file.set_len(0)?;
                room = (room / 2).max(least);
            }
            allocated => return allocated.map(|()| room),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written_and_others_are_none() {
        let name = Name {
            number: 31,
            epoch: u64::MAX,
        };
        let path = name.path(Path::new(""));
        let text = path.to_str().unwrap();
        assert_eq!(Name::parse(text), Some(name));
        for other in [
            "",
            "LOCK",
            "x.wal",
            "1-2.wal",
            &text[1..],
            "8000000000000000-0000000000000001.wal",
            &format!("{text}~"),
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
