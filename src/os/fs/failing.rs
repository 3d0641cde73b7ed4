//! A file system whose calls fail when they are told to.
//!
//! Each call is counted, then shown to every fault in turn; the first that hits decides what
//! becomes of it. The faults' lock is not held while a call is made, so that a call may wait or
//! panic and no other is stuck.
//!
//! A sync that fails may take with it what had been written since the last one: Linux marks the
//! pages clean, a later sync succeeds, and the bytes never reach the disk. To do the same, writes
//! are noted with the bytes that they replace while a fault of that kind is waiting, and the
//! failing sync writes those back.

mod fault;
mod replaced;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;

use super::by_path::ByPath;
use super::{File, Fs, OpenMode};
use crate::sync::unmodelled::{Arc, Mutex};
use fault::Faults;
pub use fault::{Call, Failure, Fault};
use replaced::Replaced;

/// A file system that passes calls on to another one, but for those that a [`Fault`] hits.
///
/// To see what a program makes of every error, run it once to learn how many calls it makes, and
/// then once for each of them. A clone is a handle on the same faults and counts.
///
/// ```
/// use latchwork::fs::{Failure, FailingFs, Fault, File, Fs, MemoryFs, OpenMode};
/// use std::path::Path;
/// use std::sync::Arc;
///
/// fn save(fs: &dyn Fs) -> std::io::Result<()> {
///     let file = fs.open(Path::new("new"), OpenMode::CreateNew)?;
///     latchwork::fs::write_all(&*file, b"value", 0)?;
///     file.sync_data()?;
///     fs.rename(Path::new("new"), Path::new("value"))?;
///     fs.sync_dir(Path::new("/"))
/// }
///
/// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
/// save(&fs)?;
/// assert_eq!(fs.calls(), 5);
/// for nth in 1..=5 {
///     let memory = MemoryFs::new();
///     let fs = FailingFs::new(Arc::new(memory.clone()));
///     fs.inject(Fault::new(Failure::NoSpace).nth(nth));
///     save(&fs).unwrap_err();
///     assert_eq!(memory.contents("value").is_ok(), nth == 5);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct FailingFs {
    inner: Arc<dyn Fs>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Mutex<Faults>,
    /// What unsynced writes replaced, by file. Its lock is taken for a look-up only.
    replaced: Mutex<ByPath<Arc<Replaced>>>,
}

impl FailingFs {
    /// Passes every call on to `inner`, as long as no fault is [injected](Self::inject).
    ///
    /// ```
    /// use latchwork::fs::{FailingFs, Fs, MemoryFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    /// fs.sync_dir(Path::new("/"))?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(inner: Arc<dyn Fs>) -> Self {
        Self {
            inner,
            shared: Arc::default(),
        }
    }

    /// Adds a fault. It counts the calls that it may hit from now on.
    ///
    /// ```
    /// use latchwork::fs::{FailingFs, Failure, Fault, Fs, MemoryFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    /// fs.inject(Fault::new(Failure::Io));
    /// assert_eq!(fs.sync_dir(Path::new("/")).unwrap_err().raw_os_error(), Some(5));
    /// ```
    pub fn inject(&self, fault: Fault) {
        self.shared.faults.lock().add(fault);
    }

    /// Takes all faults away: the disk has space again.
    ///
    /// ```
    /// use latchwork::fs::{FailingFs, Failure, Fault, Fs, MemoryFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    /// fs.inject(Fault::new(Failure::NoSpace).forever());
    /// fs.create_dir_all(Path::new("data")).unwrap_err();
    /// fs.heal();
    /// fs.create_dir_all(Path::new("data"))?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn heal(&self) {
        self.shared.faults.lock().clear();
    }

    /// How many calls there have been, those that failed included.
    ///
    /// ```
    /// use latchwork::fs::{FailingFs, Fs, MemoryFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    /// fs.remove_file(Path::new("none")).unwrap_err();
    /// assert_eq!(fs.calls(), 1);
    /// ```
    pub fn calls(&self) -> u64 {
        self.shared.faults.lock().calls()
    }

    /// How many there have been of one kind.
    ///
    /// ```
    /// use latchwork::fs::{Call, FailingFs, Fs, MemoryFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    /// fs.sync_dir(Path::new("/"))?;
    /// assert_eq!(fs.calls_of(Call::SyncDir), 1);
    /// assert_eq!(fs.calls_of(Call::Open), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn calls_of(&self, call: Call) -> u64 {
        self.shared.faults.lock().calls_of(call)
    }

    /// How often a fault has hit: 0 says that the call it was meant for never came.
    ///
    /// ```
    /// use latchwork::fs::{FailingFs, Failure, Fault, Fs, MemoryFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    /// fs.inject(Fault::new(Failure::Io).nth(2));
    /// fs.sync_dir(Path::new("/"))?;
    /// assert_eq!(fs.failures(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn failures(&self) -> u64 {
        self.shared.faults.lock().hits()
    }

    fn call<T>(
        &self,
        call: Call,
        paths: &[&Path],
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let hit = self.shared.faults.lock().meet(call, paths);
        Fault::meets(hit, make)
    }
}

impl fmt::Debug for FailingFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingFs")
            .field("inner", &self.inner)
            .field("faults", &*self.shared.faults.lock())
            .finish()
    }
}

impl Fs for FailingFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let inner = self.call(Call::Open, &[path], || self.inner.open(path, mode))?;
        let mut files = self.shared.replaced.lock();
        let replaced = files.get(path).cloned().unwrap_or_default();
        files.insert(path, replaced.clone());
        drop(files);
        Ok(Box::new(FailingFile {
            inner,
            fs: self.clone(),
            path: path.into(),
            replaced,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Call::Rename, &[from, to], || {
            self.inner.rename(from, to)?;
            self.shared.replaced.lock().rename(from, to);
            Ok(())
        })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.call(Call::RemoveFile, &[path], || {
            self.inner.remove_file(path)?;
            self.shared.replaced.lock().remove(path);
            Ok(())
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call(Call::CreateDirAll, &[path], || {
            self.inner.create_dir_all(path)
        })
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.call(Call::ReadDir, &[path], || self.inner.read_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call(Call::SyncDir, &[path], || self.inner.sync_dir(path))
    }
}

#[derive(Debug)]
struct FailingFile {
    inner: Box<dyn File>,
    fs: FailingFs,
    /// What it was opened as.
    path: Box<Path>,
    replaced: Arc<Replaced>,
}

impl FailingFile {
    fn call<T>(&self, call: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.fs.call(call, &[&self.path], make)
    }

    /// The fault that hits this call, and how much of a buffer it leaves to it.
    fn meet(&self, call: Call, len: usize) -> (Option<Fault>, usize) {
        let hit = self.fs.shared.faults.lock().meet(call, &[&self.path]);
        let most = hit.as_ref().map_or(len, |fault| match fault.failure {
            Failure::Short(most) => len.min(most),
            _ => len,
        });
        (hit, most)
    }
}

impl File for FailingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (hit, len) = self.meet(Call::ReadAt, buffer.len());
        // A read of nothing would be the end of the file.
        let len = len.max(buffer.len().min(1));
        Fault::meets(hit, || self.inner.read_at(&mut buffer[..len], offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let (hit, len) = self.meet(Call::WriteAt, bytes.len());
        let noted = self.fs.shared.faults.lock().may_drop();
        let make = || {
            let bytes = &bytes[..len];
            if noted {
                self.replaced.write_at(&*self.inner, bytes, offset)
            } else {
                self.inner.write_at(bytes, offset)
            }
        };
        Fault::meets(hit, make)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.call(Call::Allocate, || self.inner.allocate(len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(Call::SetLen, || self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        let (hit, _) = self.meet(Call::SyncData, 0);
        if hit.as_ref().is_some_and(|fault| fault.drops) {
            self.replaced.put_back(&*self.inner)?;
        }
        Fault::meets(hit, || self.replaced.sync_data(&*self.inner))
    }

    fn len(&self) -> io::Result<u64> {
        self.call(Call::Len, || self.inner.len())
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.call(Call::TryLock, || self.inner.try_lock())
    }
}
