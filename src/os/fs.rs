//! A file system that can be recorded, made to fail, and cut off.
//!
//! What survives a crash is decided by which calls are made in which order, so whatever promises
//! durability takes its file system as a value: the real one in service, and in tests one that
//! writes down each call, fails the one it is told to, or comes back with any part of what was
//! never synced.
//!
//! | type | does |
//! |---|---|
//! | [`RealFs`] | what the kernel does |
//! | [`MemoryFs`] | the same in memory |
//! | [`RecordingFs`] | passes each call on and writes it down |
//! | [`FailingFs`] | passes each call on, but for those that it was told to fail |
//! | [`crash`] | what a crash may leave of what was written down |

mod by_path;
pub mod crash;
mod failing;
mod memory;
mod real;
mod recording;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

pub use failing::{Call, FailingFs, Failure, Fault};
pub use memory::MemoryFs;
pub use real::RealFs;
pub use recording::{Op, RecordingFs};

/// How a file is opened.
///
/// ```
/// use latchwork::fs::OpenMode;
///
/// assert_ne!(OpenMode::Read, OpenMode::CreateNew);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OpenMode {
    /// For reading; it must be there.
    Read,
    /// For reading and writing; it must be there.
    ReadWrite,
    /// For reading and writing; it must not be there.
    CreateNew,
    /// For reading and writing; it is made if it is not there.
    Create,
}

/// The calls that durability is made of.
///
/// Paths are taken as they come. A call that returns an error may have happened in part, as with
/// the kernel's; after an error from a sync nothing is known of what was written to that file
/// before.
///
/// ```
/// use latchwork::fs::{Fs, OpenMode, RealFs};
///
/// let dir = std::env::temp_dir().join(format!("latchwork-fs-{}", std::process::id()));
/// let fs = RealFs::new();
/// fs.create_dir_all(&dir)?;
/// let file = fs.open(&dir.join("greeting"), OpenMode::Create)?;
/// assert_eq!(file.write_at(b"hello", 0)?, 5);
/// file.sync_data()?;
/// fs.sync_dir(&dir)?;
/// assert_eq!(file.len()?, 5);
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Fs: Send + Sync + fmt::Debug + 'static {
    /// Opens a file.
    ///
    /// # Errors
    /// As the system call's.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>>;

    /// Gives a file another name, in place of what had that.
    ///
    /// # Errors
    /// As the system call's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name.
    ///
    /// # Errors
    /// As the system call's.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory, and those above it that are not there.
    ///
    /// # Errors
    /// As the system call's.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in no order.
    ///
    /// # Errors
    /// As the system call's.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>>;

    /// Makes the names in a directory durable: files created, renamed and removed there.
    ///
    /// # Errors
    /// As the system call's.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// An open file. Reads and writes say where.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads up to `buffer.len()` bytes; 0 at the end of the file.
    ///
    /// # Errors
    /// As the system call's.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes up to `bytes.len()` bytes, and says how many.
    ///
    /// # Errors
    /// As the system call's.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes room for `len` bytes in all, so that writes there need none; what is not written reads
    /// as zero. The length becomes at least `len`.
    ///
    /// # Errors
    /// As the system call's. Where a file system cannot, nothing happens and that is no error.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes the file as long as this.
    ///
    /// # Errors
    /// As the system call's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes what was written, and the length, durable.
    ///
    /// # Errors
    /// As the system call's. Then nothing that was written since the last sync may be relied on.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// As the system call's.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Locks the file against other openers, until it is closed. `false`: another has it.
    ///
    /// # Errors
    /// As the system call's.
    fn try_lock(&self) -> io::Result<bool>;
}

/// Fills `buffer` from `offset` on, as far as the file goes, and says how far.
///
/// # Errors
/// As [`File::read_at`]; an interrupted call is made again.
pub fn read_full(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes all of `bytes` from `offset` on.
///
/// # Errors
/// As [`File::write_at`]; an interrupted call is made again, and one that writes nothing is
/// [`WriteZero`](io::ErrorKind::WriteZero). What was written until then stays.
pub fn write_all(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
