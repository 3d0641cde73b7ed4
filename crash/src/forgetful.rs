//! A file system that leaves out one kind of sync: what the suites are tested with.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use latchwork::fs::{File, Fs, OpenMode};

/// What a sync would make durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync<'a> {
    /// The bytes of a file.
    File {
        path: &'a Path,
        /// Whether anything stands at its beginning yet.
        is_begun: bool,
        /// How often it was synced since then.
        times: u32,
    },
    /// The names in a directory.
    Directory { path: &'a Path, change: Change },
}

/// The last change to a directory's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    Created,
    Renamed,
    Removed,
}

/// Whether a sync is left out.
type Rule = Arc<dyn Fn(Sync<'_>) -> bool + Send + std::marker::Sync>;

/// Passes everything on to another file system but the syncs that a rule names, which it reports as
/// done.
#[derive(Clone)]
pub(crate) struct Forgetful {
    inner: Arc<dyn Fs>,
    rule: Rule,
    changes: Arc<Mutex<HashMap<PathBuf, Change>>>,
}

impl Forgetful {
    pub(crate) fn new(
        inner: Arc<dyn Fs>,
        rule: impl Fn(Sync<'_>) -> bool + Send + std::marker::Sync + 'static,
    ) -> Forgetful {
        Forgetful {
            inner,
            rule: Arc::new(rule),
            changes: Arc::default(),
        }
    }

    fn note(&self, path: &Path, change: Change) {
        let parent = path.parent().unwrap_or(path).to_owned();
        let mut changes = self.changes.lock().expect("no panic inside");
        changes.insert(parent, change);
    }
}

impl Fs for Forgetful {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let inner = self.inner.open(path, mode)?;
        if mode == OpenMode::CreateNew || mode == OpenMode::Create {
            self.note(path, Change::Created);
        }
        Ok(Box::new(ForgetfulFile {
            inner,
            rule: self.rule.clone(),
            path: path.to_owned(),
            seen: Mutex::default(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)?;
        self.note(to, Change::Renamed);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)?;
        self.note(path, Change::Removed);
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)?;
        self.note(path, Change::Created);
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.read_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let change = {
            let changes = self.changes.lock().expect("no panic inside");
            changes.get(path).copied().unwrap_or(Change::None)
        };
        match (self.rule)(Sync::Directory { path, change }) {
            true => Ok(()),
            false => self.inner.sync_dir(path),
        }
    }
}

impl fmt::Debug for Forgetful {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forgetful")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Seen {
    is_begun: bool,
    times: u32,
}

struct ForgetfulFile {
    inner: Box<dyn File>,
    rule: Rule,
    path: PathBuf,
    seen: Mutex<Seen>,
}

impl fmt::Debug for ForgetfulFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl File for ForgetfulFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let count = self.inner.write_at(bytes, offset)?;
        if offset == 0 {
            self.seen.lock().expect("no panic inside").is_begun = true;
        }
        Ok(count)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = {
            let mut seen = self.seen.lock().expect("no panic inside");
            let sync = Sync::File {
                path: &self.path,
                is_begun: seen.is_begun,
                times: seen.times,
            };
            seen.times += u32::from(seen.is_begun);
            sync
        };
        match (self.rule)(sync) {
            true => Ok(()),
            false => self.inner.sync_data(),
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.inner.try_lock()
    }
}
