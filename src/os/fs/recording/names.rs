//! Which file goes by which name, as far as the recorder has seen.

use std::path::{Path, PathBuf};

use super::super::Fs;
use super::super::by_path::{ByPath, plain};
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
    files: ByPath<Arc<Known>>,
    directories: ByPath<()>,
    last: u64,
}

impl Names {
    pub(super) fn file(&self, path: &Path) -> Option<Arc<Known>> {
        self.files.get(path).cloned()
    }

    /// Gives a file its number.
    pub(super) fn add_file(&mut self, path: &Path) -> Arc<Known> {
        self.last += 1;
        let known = Arc::new(Known {
            inode: self.last,
            order: Mutex::new(()),
        });
        self.files.insert(path, known.clone());
        known
    }

    pub(super) fn add_directory(&mut self, path: &Path) {
        self.directories.insert(path, ());
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.files.remove(path);
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) {
        self.files.rename(from, to);
        self.directories.rename(from, to);
    }

    /// Which directories making `path` would have to make, from the top.
    pub(super) fn missing_directories(&mut self, path: &Path, fs: &dyn Fs) -> Vec<PathBuf> {
        let mut missing = Vec::new();
        let mut above = PathBuf::new();
        for part in plain(path).components() {
            above.push(part);
            if self.directories.get(&above).is_some() {
                continue;
            }
            if missing.is_empty() && fs.read_dir(&above).is_ok() {
                self.add_directory(&above);
            } else {
                missing.push(above.clone());
            }
        }
        missing
    }
}
