//! A file system in memory.
//!
//! It answers as the kernel's does, errors included, and everything in it is as durable as the
//! value is: a sync does nothing. What a crash leaves of it is [`crash`](super::crash)'s business.
//!
//! One lock guards all of it, and no call does anything else while it holds that.

mod content;
#[cfg(test)]
mod tests;
pub(crate) mod tree;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{File, Fs, OpenMode, read_full};
use crate::sync::unmodelled::{Arc, Mutex};
use content::Content;
use tree::{Inode, Last, ROOT, Tree};

/// The largest offset that the kernel's calls take.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// A file system in memory, for tests.
///
/// A clone is a handle on the same files; [`copy`](Self::copy) makes files of its own. Relative
/// paths start from the root, and what ends in `/` or `/.` is taken without that. There are no
/// links, no permissions and no times, and a directory cannot be opened as a file.
///
/// ```
/// use latchwork::fs::{File, Fs, MemoryFs, OpenMode, write_all};
/// use std::path::Path;
///
/// let fs = MemoryFs::new();
/// fs.create_dir_all(Path::new("/data"))?;
/// let file = fs.open(Path::new("/data/log"), OpenMode::CreateNew)?;
/// write_all(&*file, b"first", 0)?;
/// assert_eq!(fs.contents("/data/log")?, b"first");
///
/// let before = fs.copy();
/// fs.remove_file(Path::new("/data/log"))?;
/// assert_eq!(before.contents("/data/log")?, b"first");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct MemoryFs {
    state: Arc<Mutex<State>>,
}

struct State {
    tree: Tree,
    capacity: u64,
    /// The length of all files together, those without a name that are still open included.
    used: u64,
    /// How many handles are open on each inode that has any.
    open: HashMap<Inode, u32>,
    /// The handle that has each locked inode's lock.
    locks: HashMap<Inode, u64>,
    next_handle: u64,
}

impl MemoryFs {
    /// An empty root directory, and room for as much as there is memory.
    ///
    /// ```
    /// use latchwork::fs::{Fs, MemoryFs};
    ///
    /// assert!(MemoryFs::new().read_dir(std::path::Path::new("/"))?.is_empty());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new() -> Self {
        Self::of(Tree::new())
    }

    /// The files of a tree, as nobody has them open.
    pub(crate) fn of(mut tree: Tree) -> Self {
        tree.retain_reachable();
        let state = State {
            used: tree.total_len(),
            tree,
            capacity: OFFSET_MAX,
            open: HashMap::new(),
            locks: HashMap::new(),
            next_handle: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What is in directory `path` of another file system, at the same path, in memory.
    ///
    /// The start for [`crash::states`](super::crash::states) of what was recorded there.
    ///
    /// ```
    /// use latchwork::fs::{MemoryFs, RealFs};
    ///
    /// let dir = std::env::temp_dir().join(format!("latchwork-load-{}", std::process::id()));
    /// std::fs::create_dir_all(dir.join("sub"))?;
    /// std::fs::write(dir.join("sub/file"), b"text")?;
    /// let fs = MemoryFs::load(&RealFs::new(), &dir)?;
    /// assert_eq!(fs.contents(dir.join("sub/file"))?, b"text");
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the other file system's.
    pub fn load(from: &dyn Fs, path: impl AsRef<Path>) -> io::Result<Self> {
        let fs = Self::new();
        let mut left = vec![path.as_ref().to_owned()];
        while let Some(path) = left.pop() {
            match from.read_dir(&path) {
                Ok(names) => {
                    fs.create_dir_all(&path)?;
                    left.extend(names.into_iter().map(|name| path.join(name)));
                }
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    let bytes = read_all(&*from.open(&path, OpenMode::Read)?)?;
                    let file = fs.open(&path, OpenMode::Create)?;
                    super::write_all(&*file, &bytes, 0)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(fs)
    }

    /// The same names and bytes, as files of their own. Nobody has them open or locked.
    ///
    /// Bytes are shared until one side is written to, so that this is cheap.
    ///
    /// ```
    /// use latchwork::fs::{Fs, MemoryFs, OpenMode};
    /// use std::path::Path;
    ///
    /// let fs = MemoryFs::new();
    /// let copy = fs.copy();
    /// fs.open(Path::new("log"), OpenMode::Create)?;
    /// assert!(copy.contents("log").is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn copy(&self) -> Self {
        Self::of(self.tree())
    }

    /// The tree as it is now.
    pub(crate) fn tree(&self) -> Tree {
        self.state.lock().tree.clone()
    }

    /// The length of all files together, in bytes, holes included.
    ///
    /// ```
    /// use latchwork::fs::{File, Fs, MemoryFs, OpenMode};
    /// use std::path::Path;
    ///
    /// let fs = MemoryFs::new();
    /// fs.open(Path::new("log"), OpenMode::Create)?.allocate(4096)?;
    /// assert_eq!(fs.used(), 4096);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Has room for so many bytes in all from now on. Beyond it, calls fail as on a full disk; a
    /// write writes what fits, and fails if that is nothing. What is there already stays, and can
    /// be overwritten.
    ///
    /// ```
    /// use latchwork::fs::{File, Fs, MemoryFs, OpenMode};
    /// use std::io::ErrorKind;
    /// use std::path::Path;
    ///
    /// let fs = MemoryFs::new();
    /// fs.set_capacity(3);
    /// let file = fs.open(Path::new("log"), OpenMode::Create)?;
    /// assert_eq!(file.write_at(b"first", 0)?, 3);
    /// assert_eq!(file.write_at(b"st", 3).unwrap_err().kind(), ErrorKind::StorageFull);
    /// assert_eq!(fs.used(), 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes.min(OFFSET_MAX);
    }

    /// All bytes of a file.
    ///
    /// ```
    /// use latchwork::fs::{File, Fs, MemoryFs, OpenMode};
    /// use std::path::Path;
    ///
    /// let fs = MemoryFs::new();
    /// fs.open(Path::new("log"), OpenMode::Create)?.write_at(b"record", 0)?;
    /// assert_eq!(fs.contents("log")?, b"record");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Fs::open`].
    pub fn contents(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        read_all(&*self.open(path.as_ref(), OpenMode::Read)?)
    }
}

fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(|_| Errno::FBIG)?;
    let mut bytes = vec![0; len];
    let count = read_full(file, &mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}

impl Default for MemoryFs {
    fn default() -> Self {
        Self::new()
    }
}

/// Each file with its length.
impl fmt::Debug for MemoryFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.tree();
        let mut map = f.debug_map();
        let mut left = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, directory)) = left.pop() {
            for (name, inode) in tree.names(directory) {
                let path = path.join(name);
                match tree.content(inode) {
                    Some(content) => map.entry(&path, &content.len()),
                    None => map.entry(&path, &"directory"),
                };
                if tree.is_directory(inode) {
                    left.push((path, inode));
                }
            }
        }
        map.finish()
    }
}

impl State {
    /// Gives back the room of an inode that has lost a name, if that was the last thing that kept
    /// it.
    fn let_go(&mut self, inode: Inode) {
        if self.open.contains_key(&inode) || self.tree.names_of(inode) > 0 {
            return;
        }
        if let Some(content) = self.tree.content(inode) {
            self.used -= content.len();
        }
        if inode != ROOT {
            self.tree.free(inode);
        }
    }

    fn set_entry(&mut self, directory: Inode, name: &OsString, inode: Option<Inode>) {
        let before = self.tree.entry(directory, name);
        self.tree.set_entry(directory, name, inode);
        if let Some(before) = before
            && Some(before) != inode
        {
            self.let_go(before);
        }
    }

    /// How many bytes are free.
    fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.used)
    }

    fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<(Inode, u64)> {
        let (directory, last) = self.tree.resolve_parent(path)?;
        let found = match &last {
            Last::Name(name) => self.tree.entry(directory, name),
            Last::Dots => Some(directory),
        };
        let inode = match (found, mode, &last) {
            (Some(_), OpenMode::CreateNew, _) => return Err(Errno::EXIST.into()),
            (Some(inode), ..) if self.tree.is_directory(inode) => return Err(Errno::ISDIR.into()),
            (Some(inode), ..) => inode,
            (None, OpenMode::CreateNew | OpenMode::Create, Last::Name(name)) => {
                let inode = self.tree.add_file();
                self.tree.set_entry(directory, name, Some(inode));
                inode
            }
            (None, ..) => return Err(Errno::NOENT.into()),
        };
        *self.open.entry(inode).or_default() += 1;
        self.next_handle += 1;
        Ok((inode, self.next_handle))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_directory, from) = self.tree.resolve_parent(from)?;
        let (to_directory, to) = self.tree.resolve_parent(to)?;
        let (Last::Name(from), Last::Name(to)) = (from, to) else {
            return Err(Errno::BUSY.into());
        };
        let tree = &self.tree;
        let moved = tree.entry(from_directory, &from).ok_or(Errno::NOENT)?;
        let replaced = tree.entry(to_directory, &to);
        if tree.is_directory(moved) && tree.is_within(to_directory, moved) {
            return Err(Errno::INVAL.into());
        }
        if let Some(replaced) = replaced {
            if tree.is_directory(replaced) && tree.is_within(from_directory, replaced) {
                return Err(Errno::NOTEMPTY.into());
            }
            if replaced == moved {
                return Ok(());
            }
            match (tree.is_directory(moved), tree.is_directory(replaced)) {
                (true, false) => return Err(Errno::NOTDIR.into()),
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, true) if tree.names(replaced).next().is_some() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                _ => {}
            }
        }
        self.set_entry(to_directory, &to, Some(moved));
        self.tree.set_entry(from_directory, &from, None);
        Ok(())
    }

    fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let (directory, Last::Name(name)) = self.tree.resolve_parent(path)? else {
            return Err(Errno::ISDIR.into());
        };
        let inode = self.tree.entry(directory, &name).ok_or(Errno::NOENT)?;
        if self.tree.is_directory(inode) {
            return Err(Errno::ISDIR.into());
        }
        self.set_entry(directory, &name, None);
        Ok(())
    }

    fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut above = path;
        loop {
            if above.as_os_str().is_empty() {
                break;
            }
            match self.tree.resolve(above) {
                Ok(inode) if self.tree.is_directory(inode) => break,
                Ok(_) => return Err(Errno::EXIST.into()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(above),
                Err(error) => return Err(error),
            }
            above = above.parent().unwrap_or(Path::new(""));
        }
        while let Some(path) = missing.pop() {
            let (directory, Last::Name(name)) = self.tree.resolve_parent(path)? else {
                continue;
            };
            // With `a` made, `a/../b` may turn out to be there.
            match self.tree.entry(directory, &name) {
                Some(inode) if self.tree.is_directory(inode) => {}
                Some(_) => return Err(Errno::EXIST.into()),
                None => {
                    let inode = self.tree.add_directory();
                    self.tree.set_entry(directory, &name, Some(inode));
                }
            }
        }
        Ok(())
    }
}

impl Fs for MemoryFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let (inode, handle) = self.state.lock().open(path, mode)?;
        Ok(Box::new(MemoryFile {
            fs: self.clone(),
            inode,
            handle,
            writable: mode != OpenMode::Read,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.lock().rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state.lock().remove_file(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.state.lock().create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let state = self.state.lock();
        let inode = state.tree.resolve(path)?;
        if !state.tree.is_directory(inode) {
            return Err(Errno::NOTDIR.into());
        }
        let names = state.tree.names(inode);
        Ok(names.map(|(name, _)| name.to_owned()).collect())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let state = self.state.lock();
        if state.tree.is_directory(state.tree.resolve(path)?) {
            Ok(())
        } else {
            Err(Errno::NOTDIR.into())
        }
    }
}

/// An open file. Its inode lives as long as a handle does, whatever becomes of its names.
#[derive(Debug)]
struct MemoryFile {
    fs: MemoryFs,
    inode: Inode,
    handle: u64,
    writable: bool,
}

impl State {
    /// The content of an open file, which is there while a handle is.
    fn content(&self, inode: Inode) -> io::Result<&Content> {
        Ok(self.tree.content(inode).ok_or(Errno::BADF)?)
    }

    /// The content of an open file that becomes `len` long, if there is room for that.
    fn content_of_len(&mut self, inode: Inode, len: u64) -> io::Result<&mut Content> {
        let before = self.content(inode)?.len();
        if len.saturating_sub(before) > self.room() {
            return Err(Errno::NOSPC.into());
        }
        self.used = self.used - before + len;
        Ok(self.tree.content_mut(inode).ok_or(Errno::BADF)?)
    }
}

impl File for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset > OFFSET_MAX {
            return Err(Errno::INVAL.into());
        }
        let state = self.fs.state.lock();
        Ok(state.content(self.inode)?.read_at(buffer, offset))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if offset > OFFSET_MAX {
            return Err(Errno::INVAL.into());
        }
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        if bytes.len() as u64 > OFFSET_MAX - offset {
            return Err(Errno::FBIG.into());
        }
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut state = self.fs.state.lock();
        let before = state.content(self.inode)?.len();
        let end = before.max(offset + bytes.len() as u64);
        let end = end.min(before + state.room().min(OFFSET_MAX - before));
        // At most as long as the bytes are.
        let fits = bytes.len().min(end.saturating_sub(offset) as usize);
        if fits == 0 {
            return Err(Errno::NOSPC.into());
        }
        let content = state.content_of_len(self.inode, end)?;
        content.write_at(&bytes[..fits], offset);
        Ok(fits)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if len == 0 || len > OFFSET_MAX {
            return Err(Errno::INVAL.into());
        }
        if !self.writable {
            return Err(Errno::BADF.into());
        }
        let mut state = self.fs.state.lock();
        let len = len.max(state.content(self.inode)?.len());
        state.content_of_len(self.inode, len)?.extend(len);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > OFFSET_MAX || !self.writable {
            return Err(Errno::INVAL.into());
        }
        let mut state = self.fs.state.lock();
        state.content_of_len(self.inode, len)?.set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.fs.state.lock().content(self.inode)?.len())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let mut state = self.fs.state.lock();
        let holder = *state.locks.entry(self.inode).or_insert(self.handle);
        Ok(holder == self.handle)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut state = self.fs.state.lock();
        if state.locks.get(&self.inode) == Some(&self.handle) {
            state.locks.remove(&self.inode);
        }
        if let Some(open) = state.open.get_mut(&self.inode) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(&self.inode);
                state.let_go(self.inode);
            }
        }
    }
}
