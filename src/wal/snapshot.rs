//! The state that a log has led to, in one file, so that old records can go.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic and version |
//! | 8 | the LSN of the last record that it covers |
//! | n | what was written |
//! | 8 | n |
//! | 4 | CRC32C of all before |
//!
//! It is written under a temporary name, synced, renamed, and the directory synced; only then do
//! the segments go that the snapshot before it covers already. That one is kept, with the records
//! since: should the newest be damaged, the state can still be had. One that a recovery has found
//! damaged is of no such use, and goes.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crc32c::crc32c_append;

use crate::os::fs::{File, Fs, OpenMode, read_full, write_all};
use crate::sync::mutant;
use crate::sync::unmodelled::Arc;

use super::lsn::UNREACHABLE;
use super::{Lsn, Wal, WalError};

const MAGIC: &[u8; 8] = b"lw-snp\x01\0";
const HEADER: u64 = 16;
const TRAILER: u64 = 12;
const PREFIX: &str = "snapshot-";
const UNFINISHED: &str = ".tmp";
const CHUNK: usize = 64 << 10;

fn path_of(dir: &Path, lsn: u64) -> PathBuf {
    dir.join(format!("{PREFIX}{lsn:016x}"))
}

fn parse(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?;
    let is_plain = digits.len() == 16 && !digits.starts_with('+');
    let lsn = is_plain.then(|| u64::from_str_radix(digits, 16).ok())?;
    lsn.filter(|lsn| *lsn < UNREACHABLE)
}

/// A snapshot that is being written; made by [`Wal::snapshot`]. Dropping it uncommitted leaves the
/// log as it was.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("latchwork-wal-snap-{}", std::process::id()));
/// use std::io::{Read, Write};
/// use latchwork::Wal;
/// use latchwork::wal::Replay;
///
/// let (wal, _) = Wal::builder(&dir).open(|_, _| Ok::<(), std::io::Error>(()))?;
/// wal.append(b"+2")?;
/// wal.append(b"+3")?;
/// let mut snapshot = wal.snapshot()?;
/// snapshot.write_all(b"5")?;
/// snapshot.commit()?;
/// wal.append(b"+4")?;
/// wal.close()?;
///
/// let mut text = String::new();
/// Wal::builder(&dir).replay(|step| match step {
///     Replay::Snapshot(mut snapshot) => snapshot.read_to_string(&mut text).map(drop),
///     Replay::Record(_, body) => body.take(8).read_to_string(&mut text).map(drop),
///     _ => Ok(()),
/// })?;
/// assert_eq!(text, "5+4");
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a snapshot counts once it is committed"]
pub struct Snapshot<'a> {
    wal: &'a Wal,
    fs: Arc<dyn Fs>,
    file: Box<dyn File>,
    path: PathBuf,
    lsn: Lsn,
    buffer: Vec<u8>,
    end: u64,
    crc: u32,
    is_committed: bool,
}

impl<'a> Snapshot<'a> {
    pub(super) fn begin(wal: &'a Wal, fs: Arc<dyn Fs>, lsn: Lsn) -> Result<Self, WalError> {
        let mut path = path_of(&wal.core.dir, lsn.get()).into_os_string();
        path.push(UNFINISHED);
        let path = PathBuf::from(path);
        let file = fs.open(&path, OpenMode::Create);
        let file = file.map_err(WalError::io("create", &path))?;
        file.set_len(0).map_err(WalError::io("create", &path))?;
        let mut snapshot = Self {
            wal,
            fs,
            file,
            path,
            lsn,
            buffer: Vec::with_capacity(CHUNK),
            end: 0,
            crc: 0,
            is_committed: false,
        };
        snapshot.put(MAGIC);
        snapshot.put(&lsn.get().to_le_bytes());
        Ok(snapshot)
    }

    /// The last record that it covers.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn put(&mut self, bytes: &[u8]) {
        self.crc = crc32c_append(self.crc, bytes);
        self.buffer.extend_from_slice(bytes);
    }

    fn write_out(&mut self) -> io::Result<()> {
        write_all(&*self.file, &self.buffer, self.end)?;
        self.end += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the snapshot the one that the next recovery begins with. The snapshot before it stays,
    /// as do the records since that one; what is older is removed.
    ///
    /// # Errors
    /// When the file or the directory cannot be written or synced. The snapshot then counts, or it
    /// does not; nothing that a recovery would need is gone.
    ///
    /// # Blocking
    /// While the file is synced.
    pub fn commit(mut self) -> Result<(), WalError> {
        let temporary = self.path.clone();
        let failed = |doing| WalError::io(doing, &temporary);
        let len = self.end + self.buffer.len() as u64 - HEADER;
        let (write, sync, rename) = (failed("write to"), failed("sync"), failed("rename"));
        self.put(&len.to_le_bytes());
        let crc = self.crc;
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.write_out().map_err(write)?;
        if !mutant::enabled("wal-snapshot-unsynced") {
            self.file.sync_data().map_err(sync)?;
        }
        let dir = self.wal.core.dir.clone();
        let path = path_of(&dir, self.lsn.get());
        self.fs.rename(&self.path, &path).map_err(rename)?;
        self.is_committed = true;
        if !mutant::enabled("wal-snapshot-name-unsynced") {
            let synced = self.fs.sync_dir(&dir);
            synced.map_err(WalError::io("sync", &dir))?;
        }
        self.wal.forget_before(self.lsn)
    }
}

impl Write for Snapshot<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        if self.buffer.len() >= CHUNK {
            self.write_out()?;
        }
        Ok(bytes.len())
    }

    /// What is written counts with the commit, which writes out what is left.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            // A recovery removes it too.
            let _: io::Result<()> = self.fs.remove_file(&self.path);
        }
    }
}

impl fmt::Debug for Snapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("lsn", &self.lsn)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// A snapshot that was found whole, from its first byte to its last.
pub struct SnapshotReader {
    file: Box<dyn File>,
    lsn: Lsn,
    at: u64,
    end: u64,
}

impl SnapshotReader {
    /// The last record that it covers.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.end - HEADER
    }
}

impl Read for SnapshotReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..len], self.at)?;
        if read == 0 && len > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader")
            .field("lsn", &self.lsn)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

/// The LSNs of the snapshots in a directory, the newest first.
pub(super) fn list(fs: &dyn Fs, dir: &Path) -> Result<Vec<u64>, WalError> {
    let names = fs.read_dir(dir).map_err(WalError::io("list", dir))?;
    let lsns = names.iter().filter_map(|name| parse(name.to_str()?));
    let mut lsns: Vec<u64> = lsns.collect();
    lsns.sort_unstable_by(|a, b| b.cmp(a));
    Ok(lsns)
}

pub(super) fn paths_of(dir: &Path, lsns: &[u64]) -> Vec<PathBuf> {
    lsns.iter().map(|lsn| path_of(dir, *lsn)).collect()
}

/// The newest whole snapshot, and the LSNs of newer ones that are damaged.
pub(super) fn newest(
    fs: &dyn Fs,
    dir: &Path,
) -> Result<(Option<SnapshotReader>, Vec<u64>), WalError> {
    let mut damaged = Vec::new();
    for lsn in list(fs, dir)? {
        let path = path_of(dir, lsn);
        let file = fs.open(&path, OpenMode::Read);
        let file = file.map_err(WalError::io("open", &path))?;
        let size = check(&*file, lsn).map_err(WalError::io("read", &path))?;
        if let Some(size) = size {
            let (lsn, at, end) = (Lsn::new(lsn), HEADER, HEADER + size);
            return Ok((Some(SnapshotReader { file, lsn, at, end }), damaged));
        }
        damaged.push(lsn);
    }
    Ok((None, damaged))
}

/// The length of what the snapshot holds, if it is whole.
fn check(file: &dyn File, lsn: u64) -> io::Result<Option<u64>> {
    let len = file.len()?;
    let Some(size) = len.checked_sub(HEADER + TRAILER) else {
        return Ok(None);
    };
    let mut buffer = vec![0; CHUNK];
    let (mut at, mut crc) = (0, 0);
    let end = len - 4;
    let mut head = Vec::new();
    while at < end {
        let want = CHUNK.min(usize::try_from(end - at).unwrap_or(CHUNK));
        let read = read_full(file, &mut buffer[..want], at)?;
        if read < want {
            return Ok(None);
        }
        if at == 0 {
            head.extend_from_slice(&buffer[..HEADER as usize]);
        }
        crc = crc32c_append(crc, &buffer[..read]);
        at += read as u64;
    }
    let mut trailer = [0; TRAILER as usize];
    read_full(file, &mut trailer, len - TRAILER)?;
    let is_right = head[..8] == *MAGIC
        && head[8..] == lsn.to_le_bytes()
        && trailer[..8] == size.to_le_bytes()
        && trailer[8..] == crc.to_le_bytes();
    Ok((is_right || mutant::enabled("wal-believes-any-snapshot")).then_some(size))
}

/// Removes snapshots that were never committed. Nothing depends on it.
pub(super) fn sweep(fs: &dyn Fs, dir: &Path) {
    for name in fs.read_dir(dir).unwrap_or_default() {
        let is_unfinished = |name: &str| parse(name.strip_suffix(UNFINISHED)?);
        if name.to_str().and_then(is_unfinished).is_some() {
            let _: io::Result<()> = fs.remove_file(&dir.join(&name));
        }
    }
}

/// Removes all but the newest snapshot and the one before that is not damaged, and returns the LSN
/// of the latter.
pub(super) fn remove_old(
    fs: &dyn Fs,
    dir: &Path,
    newest: Lsn,
    damaged: &[u64],
) -> Result<Option<u64>, WalError> {
    let mut older = list(fs, dir)?;
    older.retain(|lsn| *lsn < newest.get());
    let is_whole = |lsn: &u64| !damaged.contains(lsn);
    let kept = older.iter().copied().find(is_whole);
    for lsn in older.into_iter().filter(|lsn| Some(*lsn) != kept) {
        let path = path_of(dir, lsn);
        let removed = fs.remove_file(&path);
        removed.map_err(WalError::io("remove", &path))?;
    }
    Ok(kept)
}
