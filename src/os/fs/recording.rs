//! A file system that writes down what is done to it.
//!
//! The log has one order, and a call stands in it where it returned. That order may be trusted:
//! calls that change names exclude one another, and so do those that change or sync one file, so
//! that a sync in the log stands behind exactly the writes that it covers. Calls on different files
//! go on side by side; reading and [`note`](RecordingFs::note) wait for nobody.
//!
//! A call that fails is not in the log, nor is what it may have done in part; a short write is, as
//! long as it was. So a [`FailingFs`](super::FailingFs) belongs around the recording one.

mod names;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::{File, Fs, OpenMode};
use crate::sync::unmodelled::{Arc, Mutex};
use names::{Known, Names};

/// Something that was done to a file system.
///
/// A file is known by a number that the recorder gave it, and stays so whatever it is called.
///
/// ```
/// use latchwork::fs::Op;
///
/// let op = Op::Write { inode: 1, offset: 512, bytes: b"text".to_vec() };
/// assert_eq!(op.to_string(), "write file 1 [512..516)");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// A file was made, with this name.
    Create {
        /// Its name.
        path: PathBuf,
        /// Its number.
        inode: u64,
    },
    /// A file that was there before the recording was opened for the first time.
    Open {
        /// Its name at that time.
        path: PathBuf,
        /// Its number.
        inode: u64,
    },
    /// Bytes were written.
    Write {
        /// The file's number.
        inode: u64,
        /// Where in the file.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A file was made longer or shorter.
    SetLen {
        /// The file's number.
        inode: u64,
        /// Its length since then.
        len: u64,
    },
    /// Room was made in a file.
    Allocate {
        /// The file's number.
        inode: u64,
        /// It has been at least this long since then.
        len: u64,
    },
    /// A file's bytes and length were made durable.
    SyncData {
        /// The file's number.
        inode: u64,
    },
    /// A file or directory got another name.
    Rename {
        /// The name that it had.
        from: PathBuf,
        /// The name that it has.
        to: PathBuf,
    },
    /// A file lost its name.
    Remove {
        /// That name.
        path: PathBuf,
    },
    /// The names in a directory were made durable.
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// A directory was made. Its parent was there.
    CreateDir {
        /// Its name.
        path: PathBuf,
    },
    /// What [`RecordingFs::note`] was told.
    Note(u64),
}

/// In short: the bytes are not shown.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { path, inode } => write!(f, "create {path:?} as file {inode}"),
            Self::Open { path, inode } => write!(f, "open {path:?} as file {inode}"),
            Self::Write {
                inode,
                offset,
                bytes,
            } => {
                let end = offset.saturating_add(bytes.len() as u64);
                write!(f, "write file {inode} [{offset}..{end})")
            }
            Self::SetLen { inode, len } => write!(f, "set the length of file {inode} to {len}"),
            Self::Allocate { inode, len } => write!(f, "allocate {len} bytes for file {inode}"),
            Self::SyncData { inode } => write!(f, "sync file {inode}"),
            Self::Rename { from, to } => write!(f, "rename {from:?} to {to:?}"),
            Self::Remove { path } => write!(f, "remove {path:?}"),
            Self::SyncDir { path } => write!(f, "sync directory {path:?}"),
            Self::CreateDir { path } => write!(f, "make directory {path:?}"),
            Self::Note(value) => write!(f, "note {value}"),
        }
    }
}

/// A file system that passes everything on to another one and writes down what was done.
///
/// What it wrote down is what [`crash::states`](super::crash::states) takes. A file must be called
/// by the same path each time, but for `.`, `..` and doubled slashes, and nobody may change names
/// behind the recorder's back. To know whether [`OpenMode::Create`] made a file whose name is new
/// to it, the recorder may pass that on as two calls; to know which directories `create_dir_all`
/// made, it lists those that are new to it.
///
/// A clone is a handle on the same log.
///
/// ```
/// use latchwork::fs::{File, Fs, MemoryFs, Op, OpenMode, RecordingFs};
/// use std::path::Path;
/// use std::sync::Arc;
///
/// let fs = RecordingFs::new(Arc::new(MemoryFs::new()));
/// let file = fs.open(Path::new("log"), OpenMode::Create)?;
/// file.write_at(b"a record", 0)?;
/// file.sync_data()?;
/// fs.note(1); // the test's own: "record 1 is acknowledged"
///
/// assert_eq!(
///     fs.ops(),
///     [
///         Op::Create { path: "log".into(), inode: 1 },
///         Op::Write { inode: 1, offset: 0, bytes: b"a record".to_vec() },
///         Op::SyncData { inode: 1 },
///         Op::Note(1),
///     ]
/// );
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RecordingFs {
    inner: Arc<dyn Fs>,
    /// Taken before the log's lock, never inside it.
    names: Arc<Mutex<Names>>,
    log: Arc<Log>,
}

/// The operations, in order.
#[derive(Default)]
struct Log(Mutex<Vec<Op>>);

impl Log {
    fn push(&self, op: Op) {
        self.0.lock().push(op);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.0.lock().len())
    }
}

impl RecordingFs {
    /// Records what is done to `inner` from now on.
    ///
    /// ```
    /// use latchwork::fs::{MemoryFs, RecordingFs};
    /// use std::sync::Arc;
    ///
    /// assert!(RecordingFs::new(Arc::new(MemoryFs::new())).ops().is_empty());
    /// ```
    pub fn new(inner: Arc<dyn Fs>) -> Self {
        Self {
            inner,
            names: Arc::default(),
            log: Arc::default(),
        }
    }

    /// Writes a number of the test's own into the log, such as what has been acknowledged so far.
    ///
    /// ```
    /// use latchwork::fs::{MemoryFs, Op, RecordingFs};
    /// use std::sync::Arc;
    ///
    /// let fs = RecordingFs::new(Arc::new(MemoryFs::new()));
    /// fs.note(3);
    /// assert_eq!(fs.ops(), [Op::Note(3)]);
    /// ```
    pub fn note(&self, value: u64) {
        self.log.push(Op::Note(value));
    }

    /// What has been done so far.
    ///
    /// ```
    /// use latchwork::fs::{Fs, MemoryFs, Op, RecordingFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = RecordingFs::new(Arc::new(MemoryFs::new()));
    /// fs.create_dir_all(Path::new("a/b"))?;
    /// assert_eq!(
    ///     fs.ops(),
    ///     [Op::CreateDir { path: "a".into() }, Op::CreateDir { path: "a/b".into() }]
    /// );
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ops(&self) -> Vec<Op> {
        self.log.0.lock().clone()
    }

    fn open_file(&self, path: &Path, mode: OpenMode) -> io::Result<(Box<dyn File>, Arc<Known>)> {
        let mut names = self.names.lock();
        let known = names.file(path);
        if mode != OpenMode::CreateNew
            && let Some(known) = known
        {
            return Ok((self.inner.open(path, mode)?, known));
        }
        let (file, created) = self.open_unknown(path, mode)?;
        let known = names.add_file(path);
        let (path, inode) = (path.to_owned(), known.inode);
        self.log.push(if created {
            Op::Create { path, inode }
        } else {
            Op::Open { path, inode }
        });
        Ok((file, known))
    }

    /// Opens a file and says whether that made it.
    fn open_unknown(&self, path: &Path, mode: OpenMode) -> io::Result<(Box<dyn File>, bool)> {
        if mode != OpenMode::Create {
            return Ok((self.inner.open(path, mode)?, mode == OpenMode::CreateNew));
        }
        loop {
            match self.inner.open(path, OpenMode::CreateNew) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return Ok((result?, true)),
            }
            match self.inner.open(path, OpenMode::ReadWrite) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return Ok((result?, false)),
            }
        }
    }
}

impl Fs for RecordingFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let (inner, known) = self.open_file(path, mode)?;
        Ok(Box::new(RecordingFile {
            inner,
            known,
            log: self.log.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        self.inner.rename(from, to)?;
        names.rename(from, to);
        let (from, to) = (from.to_owned(), to.to_owned());
        self.log.push(Op::Rename { from, to });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        self.inner.remove_file(path)?;
        names.remove(path);
        let path = path.to_owned();
        self.log.push(Op::Remove { path });
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        let missing = names.missing_directories(path, &*self.inner);
        let result = self.inner.create_dir_all(path);
        for path in missing {
            // Of a call that failed, some may be there.
            if result.is_err() && self.inner.read_dir(&path).is_err() {
                break;
            }
            names.add_directory(&path);
            self.log.push(Op::CreateDir { path });
        }
        result
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.read_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let _names = self.names.lock();
        self.inner.sync_dir(path)?;
        let path = path.to_owned();
        self.log.push(Op::SyncDir { path });
        Ok(())
    }
}

#[derive(Debug)]
struct RecordingFile {
    inner: Box<dyn File>,
    known: Arc<Known>,
    log: Arc<Log>,
}

impl RecordingFile {
    /// Makes a call that changes or syncs the file, and writes down what it did.
    fn record<T>(
        &self,
        call: impl FnOnce(&dyn File) -> io::Result<T>,
        op: impl FnOnce(u64, &T) -> Op,
    ) -> io::Result<T> {
        let _order = self.known.order.lock();
        let result = call(&*self.inner)?;
        self.log.push(op(self.known.inode, &result));
        Ok(result)
    }
}

impl File for RecordingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.record(
            |file| file.write_at(bytes, offset),
            |inode, &count| Op::Write {
                inode,
                offset,
                bytes: bytes[..count].to_vec(),
            },
        )
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.record(
            |file| file.allocate(len),
            |inode, ()| Op::Allocate { inode, len },
        )
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.record(
            |file| file.set_len(len),
            |inode, ()| Op::SetLen { inode, len },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(|file| file.sync_data(), |inode, ()| Op::SyncData { inode })
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.inner.try_lock()
    }
}
