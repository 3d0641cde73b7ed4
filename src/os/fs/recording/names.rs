//! Which file goes by which name, as far as the recorder has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::super::Fs;
use crate::sync::unmodelled::{Arc, Mutex};

/// A file that the recorder has seen.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) inode: u64,
    /// Held by each call that changes or syncs the file, until it is in the log.
    pub(super) order: Mutex<()>,
}

/// The names of files and directories that the recorder has seen.
#[derive(Debug, Default)]
pub(super) struct Names {
    files: BTreeMap<PathBuf, Arc<Known>>,
    directories: BTreeSet<PathBuf>,
    last: u64,
}

/// One spelling for all paths that differ in `.`, `..` and slashes only.
pub(in super::super) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

impl Names {
    pub(super) fn file(&self, path: &Path) -> Option<Arc<Known>> {
        self.files.get(&plain(path)).cloned()
    }

    /// Gives a file its number.
    pub(super) fn add_file(&mut self, path: &Path) -> Arc<Known> {
        self.last += 1;
        let known = Arc::new(Known {
            inode: self.last,
            order: Mutex::new(()),
        });
        self.files.insert(plain(path), known.clone());
        known
    }

    pub(super) fn add_directory(&mut self, path: &Path) {
        self.directories.insert(plain(path));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.files.remove(&plain(path));
    }

    /// Everything by the one name, or below it, goes by the other.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        let (from, to) = (plain(from), plain(to));
        if from == to {
            return;
        }
        let moved = |path: &Path| {
            let rest = path.strip_prefix(&from).ok()?;
            // Joining nothing would add a slash.
            Some(if rest.as_os_str().is_empty() {
                to.clone()
            } else {
                to.join(rest)
            })
        };
        let files = std::mem::take(&mut self.files);
        let (renamed, mut kept): (BTreeMap<_, _>, BTreeMap<_, _>) = files
            .into_iter()
            .partition(|(path, _)| path.starts_with(&from));
        kept.remove(&to);
        let renamed = renamed.into_iter();
        kept.extend(renamed.filter_map(|(path, known)| Some((moved(&path)?, known))));
        self.files = kept;
        self.directories = std::mem::take(&mut self.directories)
            .into_iter()
            .map(|path| moved(&path).unwrap_or(path))
            .collect();
    }

    /// Which directories making `path` would have to make, from the top.
    pub(super) fn missing_directories(&mut self, path: &Path, fs: &dyn Fs) -> Vec<PathBuf> {
        let mut missing = Vec::new();
        let mut above = PathBuf::new();
        for part in plain(path).components() {
            above.push(part);
            if self.directories.contains(&above) {
                continue;
            }
            if missing.is_empty() && fs.read_dir(&above).is_ok() {
                self.directories.insert(above.clone());
            } else {
                missing.push(above.clone());
            }
        }
        missing
    }
}
