//! The manifest: which segments there are, and up to where they hold the log.
//!
//! It is written whole: to a file with another name, which is synced, takes the manifest's name,
//! and is there for good once the directory is synced.

use std::path::{Path, PathBuf};

use crc32c::crc32c;
use latchwork::fs::{Fs, OpenMode, read_full, write_all};
use serde::{Deserialize, Serialize};

use super::content::encode;
use super::error::StorageError;

const NAME: &str = "MANIFEST";
const TEMPORARY: &str = "MANIFEST.new";
const MAGIC: [u8; 8] = *b"kvnode M";
const VERSION: u32 = 1;
/// Magic, version, and the sum of what follows.
const HEADER: usize = 16;
/// Far more than there are segments.
const LONGEST: u64 = 64 << 20;

/// What is in segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// All records up to this one are in the segments.
    pub(super) position: u64,
    /// Above every segment's number so far.
    pub(super) next_segment: u64,
    /// When it was written, in Unix seconds.
    pub(super) saved_at: u64,
    pub(super) segments: Vec<Segment>,
}

/// A segment of the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) entries: u64,
}

impl Segment {
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        segment_path(dir, self.number)
    }
}

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.segment"))
}

impl Manifest {
    /// Reads the manifest; `None`: there is none yet.
    pub(super) fn read(fs: &dyn Fs, dir: &Path) -> Result<Option<Self>, StorageError> {
        let path = dir.join(NAME);
        let file = match fs.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io("open", &path)(error)),
        };
        let len = file.len().map_err(StorageError::io("read", &path))?;
        if len > LONGEST {
            return Err(StorageError::corrupt(&path, 0, "it is too long"));
        }
        let mut bytes = vec![0; len as usize];
        let read = read_full(&*file, &mut bytes, 0).map_err(StorageError::io("read", &path))?;
        bytes.truncate(read);
        Self::decode(&bytes, &path).map(Some)
    }

    fn decode(bytes: &[u8], path: &Path) -> Result<Self, StorageError> {
        let corrupt = |offset, what: &str| StorageError::corrupt(path, offset, what);
        let Some((header, body)) = bytes.split_first_chunk::<HEADER>() else {
            return Err(corrupt(bytes.len() as u64, "it ends in its header"));
        };
        let word = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_le_bytes(bytes)
        };
        if header[..8] != MAGIC {
            return Err(corrupt(0, "it is no manifest of kvnode's"));
        }
        if word(8) != VERSION {
            return Err(StorageError::version(path, word(8)));
        }
        if word(12) != crc32c(body) {
            return Err(corrupt(HEADER as u64, "its checksum is wrong"));
        }
        match postcard::take_from_bytes(body) {
            Ok((manifest, [])) => Ok(manifest),
            _ => Err(corrupt(HEADER as u64, "it cannot be read")),
        }
    }

    /// Writes the manifest in place of the one there is, durably.
    pub(super) fn write(&self, fs: &dyn Fs, dir: &Path) -> Result<(), StorageError> {
        let (path, temporary) = (dir.join(NAME), dir.join(TEMPORARY));
        let mut bytes = Vec::from(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        encode(self, &mut bytes)
            .map_err(|error| StorageError::stuck(format!("cannot encode the manifest: {error}")))?;
        let sum = crc32c(&bytes[HEADER..]);
        bytes[12..HEADER].copy_from_slice(&sum.to_le_bytes());
        // A file whose sync has failed is never written to again.
        remove(fs, &temporary)?;
        let file = fs
            .open(&temporary, OpenMode::CreateNew)
            .map_err(StorageError::io("make", &temporary))?;
        write_all(&*file, &bytes, 0).map_err(StorageError::io("write to", &temporary))?;
        file.sync_data()
            .map_err(StorageError::io("sync", &temporary))?;
        fs.rename(&temporary, &path)
            .map_err(StorageError::io("rename", &temporary))?;
        fs.sync_dir(dir).map_err(StorageError::io("sync", dir))
    }

    /// Removes what a crash, or a failure, has left: files that belong to no manifest.
    pub(super) fn sweep(&self, fs: &dyn Fs, dir: &Path) -> Result<(), StorageError> {
        remove(fs, &dir.join(TEMPORARY))?;
        let names = fs.read_dir(dir).map_err(StorageError::io("list", dir))?;
        for name in names {
            let Some(number) = name.to_str().and_then(number_of) else {
                continue;
            };
            if !self.segments.iter().any(|it| it.number == number) {
                remove(fs, &dir.join(name))?;
            }
        }
        Ok(())
    }

    /// The highest number that a segment in the directory has.
    pub(super) fn highest(fs: &dyn Fs, dir: &Path) -> Result<u64, StorageError> {
        let names = fs.read_dir(dir).map_err(StorageError::io("list", dir))?;
        let numbers = names.iter().filter_map(|name| number_of(name.to_str()?));
        Ok(numbers.max().unwrap_or(0))
    }

    pub(super) fn entries(&self) -> u64 {
        self.segments.iter().map(|segment| segment.entries).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    let is_number = digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

/// Removes a file, if it is there.
pub(super) fn remove(fs: &dyn Fs, path: &Path) -> Result<(), StorageError> {
    match fs.remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
