//! Inodes and the names they go by.
//!
//! A name is an entry of a directory and leads to an inode; a file's bytes belong to its inode,
//! whatever its names are. A directory has one name, a file any number. Inodes are shared between
//! copies of the tree until one of them is written to.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::io::Errno;

use super::content::Content;
use crate::sync::unmodelled::Arc;

/// An inode's number.
pub(crate) type Inode = u64;

/// The directory that paths start from, relative ones too.
pub(crate) const ROOT: Inode = 0;

/// The longest name, in bytes.
const NAME_MAX: usize = 255;

/// The last part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// A name in the directory that the rest of the path leads to.
    Name(OsString),
    /// That directory itself, or the one above it: the path ends in `/`, `.` or `..`.
    Dots,
}

#[derive(Clone, Debug)]
struct Directory {
    names: BTreeMap<OsString, Inode>,
    /// Where it has its name. The root has none, nor has a directory without a name.
    at: Option<(Inode, OsString)>,
}

#[derive(Clone, Debug)]
enum Node {
    File { content: Arc<Content>, names: u32 },
    Directory(Arc<Directory>),
}

/// All inodes, and the root among them.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            next: ROOT,
        };
        tree.add_directory();
        tree
    }

    fn add(&mut self, node: Node) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, node);
        inode
    }

    /// A new empty file, without a name so far.
    pub(crate) fn add_file(&mut self) -> Inode {
        self.add(Node::File {
            content: Arc::default(),
            names: 0,
        })
    }

    /// A new empty directory, without a name so far.
    pub(crate) fn add_directory(&mut self) -> Inode {
        self.add(Node::Directory(Arc::new(Directory {
            names: BTreeMap::new(),
            at: None,
        })))
    }

    /// Forgets an inode that has no name.
    pub(crate) fn free(&mut self, inode: Inode) {
        self.nodes.remove(&inode);
    }

    pub(crate) fn content(&self, inode: Inode) -> Option<&Arc<Content>> {
        match self.nodes.get(&inode)? {
            Node::File { content, .. } => Some(content),
            Node::Directory(_) => None,
        }
    }

    pub(crate) fn content_mut(&mut self, inode: Inode) -> Option<&mut Content> {
        match self.nodes.get_mut(&inode)? {
            Node::File { content, .. } => Some(Arc::make_mut(content)),
            Node::Directory(_) => None,
        }
    }

    /// How many names a file has.
    pub(crate) fn names_of(&self, inode: Inode) -> u32 {
        match self.nodes.get(&inode) {
            Some(Node::File { names, .. }) => *names,
            _ => 0,
        }
    }

    pub(crate) fn is_directory(&self, inode: Inode) -> bool {
        self.directory(inode).is_some()
    }

    fn directory(&self, inode: Inode) -> Option<&Directory> {
        match self.nodes.get(&inode)? {
            Node::Directory(directory) => Some(directory),
            Node::File { .. } => None,
        }
    }

    fn directory_mut(&mut self, inode: Inode) -> Option<&mut Directory> {
        match self.nodes.get_mut(&inode)? {
            Node::Directory(directory) => Some(Arc::make_mut(directory)),
            Node::File { .. } => None,
        }
    }

    /// The names in a directory, in order.
    pub(crate) fn names(&self, directory: Inode) -> impl Iterator<Item = (&OsStr, Inode)> {
        self.directory(directory)
            .into_iter()
            .flat_map(|directory| &directory.names)
            .map(|(name, &inode)| (name.as_os_str(), inode))
    }

    /// What a name in a directory leads to.
    pub(crate) fn entry(&self, directory: Inode, name: &OsStr) -> Option<Inode> {
        self.directory(directory)?.names.get(name).copied()
    }

    /// Makes a name lead to an inode, or to none. A directory loses the name it had before. The
    /// inode that the name led to stays, with a name less.
    pub(crate) fn set_entry(&mut self, directory: Inode, name: &OsStr, inode: Option<Inode>) {
        let Some(holder) = self.directory_mut(directory) else {
            return;
        };
        let before = match inode {
            Some(inode) => holder.names.insert(name.to_owned(), inode),
            None => holder.names.remove(name),
        };
        if before == inode {
            return;
        }
        if let Some(before) = before {
            match self.nodes.get_mut(&before) {
                Some(Node::File { names, .. }) => *names -= 1,
                Some(Node::Directory(directory)) => Arc::make_mut(directory).at = None,
                None => {}
            }
        }
        let Some(inode) = inode else { return };
        let other = match self.nodes.get_mut(&inode) {
            Some(Node::File { names, .. }) => {
                *names += 1;
                None
            }
            Some(Node::Directory(moved)) => Arc::make_mut(moved)
                .at
                .replace((directory, name.to_owned())),
            None => None,
        };
        if let Some((above, name)) = other
            && let Some(above) = self.directory_mut(above)
        {
            above.names.remove(&name);
        }
    }

    /// Whether a directory is `above` or somewhere below it.
    pub(crate) fn is_within(&self, mut directory: Inode, above: Inode) -> bool {
        loop {
            if directory == above {
                return true;
            }
            match self.directory(directory).and_then(|it| it.at.as_ref()) {
                Some(&(parent, _)) => directory = parent,
                None => return false,
            }
        }
    }

    /// The inode that a path leads to.
    pub(crate) fn resolve(&self, path: &Path) -> io::Result<Inode> {
        check(path)?;
        self.walk(path)
    }

    /// The directory that a path's last part is in, which is there, and that last part, which need
    /// not be.
    pub(crate) fn resolve_parent(&self, path: &Path) -> io::Result<(Inode, Last)> {
        check(path)?;
        match path.components().next_back() {
            Some(Component::Normal(name)) => {
                let parent = self.walk(path.parent().unwrap_or(Path::new("")))?;
                if !self.is_directory(parent) {
                    return Err(Errno::NOTDIR.into());
                }
                if name.len() > NAME_MAX {
                    return Err(Errno::NAMETOOLONG.into());
                }
                Ok((parent, Last::Name(name.to_owned())))
            }
            _ => Ok((self.walk(path)?, Last::Dots)),
        }
    }

    fn walk(&self, path: &Path) -> io::Result<Inode> {
        let mut inode = ROOT;
        for part in path.components() {
            let Some(directory) = self.directory(inode) else {
                return Err(Errno::NOTDIR.into());
            };
            inode = match part {
                Component::RootDir | Component::Prefix(_) => ROOT,
                Component::CurDir => inode,
                Component::ParentDir => directory.at.as_ref().map_or(ROOT, |&(above, _)| above),
                Component::Normal(name) if name.len() > NAME_MAX => {
                    return Err(Errno::NAMETOOLONG.into());
                }
                Component::Normal(name) => *directory.names.get(name).ok_or(Errno::NOENT)?,
            };
        }
        Ok(inode)
    }

    /// Forgets what no path leads to.
    pub(crate) fn retain_reachable(&mut self) {
        let mut reached = BTreeMap::new();
        let mut left = vec![ROOT];
        while let Some(inode) = left.pop() {
            left.extend(self.names(inode).map(|(_, inode)| inode));
            if let Some(Node::File { names, .. }) = reached.get_mut(&inode) {
                *names += 1;
            } else if let Some(mut node) = self.nodes.remove(&inode) {
                if let Node::File { names, .. } = &mut node {
                    *names = 1;
                }
                reached.insert(inode, node);
            }
        }
        self.nodes = reached;
    }

    /// The length of all files together.
    pub(crate) fn total_len(&self) -> u64 {
        let lengths = self.nodes.values().map(|node| match node {
            Node::File { content, .. } => content.len(),
            Node::Directory(_) => 0,
        });
        lengths.fold(0, u64::saturating_add)
    }
}

/// Hashes what paths lead to. Inode numbers do not count.
impl Hash for Tree {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let mut left = vec![ROOT];
        while let Some(directory) = left.pop() {
            for (name, inode) in self.names(directory) {
                name.hash(hasher);
                match self.content(inode) {
                    Some(content) => {
                        1u8.hash(hasher);
                        content.hash(hasher);
                    }
                    None => {
                        2u8.hash(hasher);
                        left.push(inode);
                    }
                }
            }
            0u8.hash(hasher);
        }
    }
}

/// What no path may be.
fn check(path: &Path) -> io::Result<()> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(Errno::NOENT.into());
    }
    if bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(())
}
