//! Which calls fail, and how.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::super::by_path::plain;

/// A call of [`Fs`](super::Fs) or [`File`](super::File).
///
/// ```
/// use latchwork::fs::{Call, Fs, FailingFs, MemoryFs};
/// use std::{path::Path, sync::Arc};
///
/// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
/// fs.sync_dir(Path::new("/"))?;
/// assert_eq!(fs.calls_of(Call::SyncDir), 1);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// [`Fs::open`](super::Fs::open)
    Open,
    /// [`Fs::rename`](super::Fs::rename)
    Rename,
    /// [`Fs::remove_file`](super::Fs::remove_file)
    RemoveFile,
    /// [`Fs::create_dir_all`](super::Fs::create_dir_all)
    CreateDirAll,
    /// [`Fs::read_dir`](super::Fs::read_dir)
    ReadDir,
    /// [`Fs::sync_dir`](super::Fs::sync_dir)
    SyncDir,
    /// [`File::read_at`](super::File::read_at)
    ReadAt,
    /// [`File::write_at`](super::File::write_at)
    WriteAt,
    /// [`File::allocate`](super::File::allocate)
    Allocate,
    /// [`File::set_len`](super::File::set_len)
    SetLen,
    /// [`File::sync_data`](super::File::sync_data)
    SyncData,
    /// [`File::len`](super::File::len)
    Len,
    /// [`File::try_lock`](super::File::try_lock)
    TryLock,
}

/// How a call fails.
///
/// ```
/// use latchwork::fs::{FailingFs, Failure, Fault, File, Fs, MemoryFs, OpenMode};
/// use std::{path::Path, sync::Arc};
///
/// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
/// fs.inject(Fault::new(Failure::Short(2)));
/// let file = fs.open(Path::new("log"), OpenMode::Create)?;
/// assert_eq!(file.write_at(b"record", 0)?, 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The disk is full: `ENOSPC`.
    NoSpace,
    /// The disk is broken: `EIO`.
    Io,
    /// A signal came: `EINTR`. It hits no two calls in a row of those that it may hit.
    Interrupted,
    /// Another error, by its number.
    Os(i32),
    /// A read or write moves at most so many bytes; a read one at least. It hits no other calls.
    Short(usize),
    /// The call panics.
    Panic,
}

/// One call, or all from one on, that fail.
///
/// By default it is the next call, whatever that is, and that call does nothing.
///
/// ```
/// use latchwork::fs::{Call, FailingFs, Failure, Fault, Fs, MemoryFs, OpenMode};
/// use std::{path::Path, sync::Arc};
///
/// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
/// fs.inject(Fault::new(Failure::Io).on(Call::Open).under("data").nth(2).forever());
/// fs.create_dir_all(Path::new("data"))?;
/// fs.open(Path::new("data/first"), OpenMode::Create)?;
/// fs.open(Path::new("data/second"), OpenMode::Create).unwrap_err();
/// fs.open(Path::new("data/first"), OpenMode::Read).unwrap_err();
/// assert_eq!(fs.failures(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Fault {
    pub(super) failure: Failure,
    call: Option<Call>,
    under: Option<PathBuf>,
    nth: u64,
    forever: bool,
    done: bool,
    /// The failing sync drops what was written.
    pub(super) drops: bool,
}

impl Fault {
    /// The next call fails so.
    pub const fn new(failure: Failure) -> Self {
        Self {
            failure,
            call: None,
            under: None,
            nth: 1,
            forever: false,
            done: false,
            drops: false,
        }
    }

    /// Not the next call but the `nth`, from 1, of those that it may hit.
    pub const fn nth(mut self, nth: u64) -> Self {
        self.nth = nth;
        self
    }

    /// Every call from that one on.
    pub const fn forever(mut self) -> Self {
        self.forever = true;
        self
    }

    /// Only calls of this kind.
    pub const fn on(mut self, call: Call) -> Self {
        self.call = Some(call);
        self
    }

    /// Only calls on this path, or on what is below it; of an open file, by the path that it was
    /// opened as.
    pub fn under(mut self, path: impl AsRef<Path>) -> Self {
        self.under = Some(plain(path.as_ref()));
        self
    }

    /// The call does what it should and fails all the same.
    ///
    /// ```
    /// use latchwork::fs::{FailingFs, Failure, Fault, Fs, MemoryFs};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let fs = FailingFs::new(Arc::new(MemoryFs::new()));
    /// fs.inject(Fault::new(Failure::Io).although_done());
    /// fs.create_dir_all(Path::new("data")).unwrap_err();
    /// assert_eq!(fs.read_dir(Path::new("/"))?, ["data"]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn although_done(mut self) -> Self {
        self.done = true;
        self
    }

    /// Only calls of [`File::sync_data`](super::File::sync_data); and what was written to the file
    /// since the last sync, and since this fault was injected, is dropped: it reads as before, and
    /// no later sync makes it durable.
    ///
    /// ```
    /// use latchwork::fs::{FailingFs, Failure, Fault, File, Fs, MemoryFs, OpenMode};
    /// use std::{path::Path, sync::Arc};
    ///
    /// let memory = MemoryFs::new();
    /// let fs = FailingFs::new(Arc::new(memory.clone()));
    /// fs.inject(Fault::new(Failure::Io).dropping_unsynced());
    /// let file = fs.open(Path::new("log"), OpenMode::Create)?;
    /// file.write_at(b"abc", 0)?;
    /// file.sync_data().unwrap_err();
    /// assert_eq!(memory.contents("log")?, [0, 0, 0]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub const fn dropping_unsynced(mut self) -> Self {
        self.call = Some(Call::SyncData);
        self.drops = true;
        self
    }

    fn may_hit(&self, call: Call, paths: &[&Path]) -> bool {
        let transfers = matches!(call, Call::ReadAt | Call::WriteAt);
        (transfers || !matches!(self.failure, Failure::Short(_)))
            && self.call.is_none_or(|it| it == call)
            && self.under.as_ref().is_none_or(|under| {
                let mut paths = paths.iter();
                paths.any(|path| plain(path).starts_with(under))
            })
    }

    /// Whether it hits the `nth` call of those that it may.
    fn hits(&self, nth: u64) -> bool {
        let every = match self.failure {
            Failure::Interrupted => 2,
            _ => 1,
        };
        nth == self.nth || self.forever && nth > self.nth && (nth - self.nth).is_multiple_of(every)
    }

    /// What the call comes to that met the fault, if it met one.
    ///
    /// # Panics
    /// If that is how it fails.
    pub(super) fn meets<T>(
        fault: Option<Self>,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let error = match &fault {
            None => return make(),
            Some(fault) => match fault.failure {
                Failure::Short(_) => return make(),
                Failure::Panic => None,
                Failure::NoSpace => Some(Errno::NOSPC.into()),
                Failure::Io => Some(Errno::IO.into()),
                Failure::Interrupted => Some(Errno::INTR.into()),
                Failure::Os(code) => Some(io::Error::from_raw_os_error(code)),
            },
        };
        if fault.is_some_and(|fault| fault.done) {
            make()?;
        }
        match error {
            Some(error) => Err(error),
            None => panic!("this call was told to panic"),
        }
    }
}

/// The faults that wait, and what has been counted.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// With how many calls each may have hit so far.
    waiting: Vec<(Fault, u64)>,
    calls: HashMap<Call, u64>,
    hits: u64,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.waiting.push((fault, 0));
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.values().sum()
    }

    pub(super) fn calls_of(&self, call: Call) -> u64 {
        self.calls.get(&call).copied().unwrap_or(0)
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits
    }

    /// Whether a sync may drop what is written now.
    pub(super) fn may_drop(&self) -> bool {
        self.waiting.iter().any(|(fault, _)| fault.drops)
    }

    /// Counts a call, and says which fault it meets. Faults of one time are gone then.
    pub(super) fn meet(&mut self, call: Call, paths: &[&Path]) -> Option<Fault> {
        *self.calls.entry(call).or_default() += 1;
        let mut hit = None;
        self.waiting.retain_mut(|(fault, seen)| {
            if !fault.may_hit(call, paths) {
                return true;
            }
            *seen += 1;
            if hit.is_none() && fault.hits(*seen) {
                hit = Some(fault.clone());
            }
            fault.forever || *seen < fault.nth
        });
        self.hits += u64::from(hit.is_some());
        hit
    }
}
