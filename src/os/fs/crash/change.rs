//! What the operations of a log change, and from when on each change is durable.
//!
//! Names are looked up as they were when the operation was done, so that a change says which entry
//! of which directory leads to which inode afterwards, whatever becomes of the changes before it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use super::super::memory::tree::{Inode, Last, Tree};
use super::super::recording::Op;
use super::Bounds;
use crate::sync::unmodelled::Arc;

/// Writes are cut where disks may tear them: at this many bytes of the file.
const SECTOR: u64 = 512;

/// An entry of a directory.
type Entry = (Inode, OsString);

#[derive(Debug)]
enum Kind {
    /// Some bytes of the operation's are in the file.
    Bytes {
        inode: Inode,
        offset: u64,
        part: Range<usize>,
    },
    /// The file is at least this long.
    Extend { inode: Inode, len: u64 },
    /// The file is this long.
    SetLen { inode: Inode, len: u64 },
    /// These entries lead there.
    Names(Vec<(Entry, Option<Inode>)>),
}

#[derive(Debug)]
struct Change {
    /// The operation that made it.
    op: usize,
    kind: Kind,
    /// After how many operations it is durable.
    durable: Option<usize>,
    /// The change that is there whenever this one is.
    needs: Option<usize>,
    /// The directory that was moved to another one.
    moved: Option<Inode>,
    label: Arc<str>,
}

impl Change {
    fn inode(&self) -> Option<Inode> {
        match self.kind {
            Kind::Bytes { inode, .. } | Kind::Extend { inode, .. } | Kind::SetLen { inode, .. } => {
                Some(inode)
            }
            Kind::Names(_) => None,
        }
    }

    fn names(&self) -> &[(Entry, Option<Inode>)] {
        match &self.kind {
            Kind::Names(names) => names,
            _ => &[],
        }
    }

    /// Whether the order of the two matters: they are about one entry, or one directory's place.
    fn meets(&self, other: &Self) -> bool {
        let same_entry = self
            .names()
            .iter()
            .any(|(entry, _)| other.names().iter().any(|(it, _)| it == entry));
        same_entry || self.moves(other) || other.moves(self)
    }

    /// Whether it moves a directory that the other one gives a name to.
    fn moves(&self, other: &Self) -> bool {
        self.moved.is_some() && other.names().iter().any(|&(_, inode)| inode == self.moved)
    }
}

/// Which node an operation makes.
#[derive(Clone, Copy, Debug)]
enum Made {
    Nothing,
    File,
    Directory,
}

/// The changes of a log.
#[derive(Debug)]
pub(super) struct History<'a> {
    pub(super) ops: &'a [Op],
    changes: Vec<Change>,
    made: Vec<Made>,
    /// Where in `changes` each operation's begin; and the end of the last one's.
    first: Vec<usize>,
}

impl<'a> History<'a> {
    /// # Panics
    /// If the operations cannot have been done to `start`.
    pub(super) fn new(ops: &'a [Op], start: Tree, bounds: &Bounds) -> Self {
        let mut reader = Reader {
            live: start,
            lengths_apart: bounds.lengths,
            inodes: HashMap::new(),
            lengths: HashMap::new(),
            changes: Vec::new(),
            undecided: Vec::new(),
            last_move: None,
            op: 0,
        };
        let (mut made, mut first) = (Vec::new(), Vec::new());
        for (index, op) in ops.iter().enumerate() {
            reader.op = index;
            first.push(reader.changes.len());
            made.push(reader.read(op).unwrap_or_else(|reason| {
                panic!("operation {index} cannot have been done: {op}: {reason}")
            }));
        }
        first.push(reader.changes.len());
        Self {
            ops,
            changes: reader.changes,
            made,
            first,
        }
    }

    /// Puts the node that an operation makes into a tree, which holds all that were made before.
    pub(super) fn add_nodes(&self, op: usize, tree: &mut Tree) {
        match self.made[op] {
            Made::Nothing => {}
            Made::File => drop(tree.add_file()),
            Made::Directory => drop(tree.add_directory()),
        }
    }

    /// The changes that an operation made.
    pub(super) fn made_by(&self, op: usize) -> Range<usize> {
        self.first[op]..self.first[op + 1]
    }

    /// Whether a change is durable after so many operations.
    pub(super) fn is_durable(&self, change: usize, after: usize) -> bool {
        self.changes[change].durable.is_some_and(|at| at <= after)
    }

    /// The change that this one is never without.
    pub(super) fn needs(&self, change: usize) -> Option<usize> {
        self.changes[change].needs
    }

    pub(super) fn label(&self, change: usize) -> Arc<str> {
        self.changes[change].label.clone()
    }

    /// Makes a change to a tree that has its nodes.
    pub(super) fn apply(&self, change: usize, tree: &mut Tree) {
        let Change { op, kind, .. } = &self.changes[change];
        match kind {
            Kind::Bytes {
                inode,
                offset,
                part,
            } => {
                if let Op::Write { bytes, .. } = &self.ops[*op]
                    && let Some(content) = tree.content_mut(*inode)
                {
                    content.write_at(&bytes[part.clone()], *offset);
                }
            }
            Kind::Extend { inode, len } => {
                if let Some(content) = tree.content_mut(*inode) {
                    content.extend(*len);
                }
            }
            Kind::SetLen { inode, len } => {
                if let Some(content) = tree.content_mut(*inode) {
                    content.set_len(*len);
                }
            }
            Kind::Names(names) => {
                for ((directory, name), inode) in names {
                    tree.set_entry(*directory, name, *inode);
                }
            }
        }
    }
}

/// Goes through a log and keeps what a reader of the live file system would see.
struct Reader {
    /// Names as they are; bytes are not kept.
    live: Tree,
    lengths_apart: bool,
    /// The tree's inodes of the log's files.
    inodes: HashMap<u64, Inode>,
    /// How long the files are whose length has changed.
    lengths: HashMap<Inode, u64>,
    changes: Vec<Change>,
    /// The changes that are not durable so far, in order.
    undecided: Vec<usize>,
    /// The change that moved a directory to another one last.
    last_move: Option<usize>,
    op: usize,
}

impl Reader {
    fn read(&mut self, op: &Op) -> Result<Made, String> {
        match op {
            Op::Create { path, inode } => return self.create(path, *inode).map(|()| Made::File),
            Op::Open { path, inode } => {
                // What is not there must have been made by a call whose success was not seen.
                return match self.live.resolve(path) {
                    Ok(found) => {
                        self.inodes.insert(*inode, found);
                        Ok(Made::Nothing)
                    }
                    Err(_) => self.create(path, *inode).map(|()| Made::File),
                };
            }
            Op::Write {
                inode,
                offset,
                bytes,
            } => self.write(self.file(*inode)?, *offset, bytes)?,
            Op::SetLen { inode, len } => {
                let inode = self.file(*inode)?;
                self.lengths.insert(inode, *len);
                self.push(Kind::SetLen { inode, len: *len }, op);
            }
            Op::Allocate { inode, len } => {
                let inode = self.file(*inode)?;
                let grown = self.length(inode).max(*len);
                self.lengths.insert(inode, grown);
                self.push(Kind::Extend { inode, len: *len }, op);
            }
            Op::SyncData { inode } => {
                let inode = self.file(*inode)?;
                self.settle_where(|change| change.inode() == Some(inode));
            }
            Op::Rename { from, to } => self.rename(from, to, op)?,
            Op::Remove { path } => {
                let entry = self.entry(path)?;
                self.live.set_entry(entry.0, &entry.1, None);
                self.push(Kind::Names(vec![(entry, None)]), op);
            }
            Op::SyncDir { path } => {
                let directory = self.live.resolve(path).map_err(|error| error.to_string())?;
                self.settle_where(|change| {
                    let mut names = change.names().iter();
                    names.any(|((holder, _), _)| *holder == directory)
                });
            }
            Op::CreateDir { path } => {
                let entry = self.entry(path)?;
                let inode = self.live.add_directory();
                self.live.set_entry(entry.0, &entry.1, Some(inode));
                self.push(Kind::Names(vec![(entry, Some(inode))]), op);
                return Ok(Made::Directory);
            }
            Op::Note(_) => {}
        }
        Ok(Made::Nothing)
    }

    fn create(&mut self, path: &Path, inode: u64) -> Result<(), String> {
        let entry = self.entry(path)?;
        let made = self.live.add_file();
        self.inodes.insert(inode, made);
        self.live.set_entry(entry.0, &entry.1, Some(made));
        let label = format_args!("create {path:?}");
        self.push(Kind::Names(vec![(entry, Some(made))]), label);
        Ok(())
    }

    fn write(&mut self, inode: Inode, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let end = offset
            .checked_add(bytes.len() as u64)
            .ok_or("beyond all files")?;
        if !bytes.is_empty() && end > self.length(inode) {
            self.lengths.insert(inode, end);
            if self.lengths_apart {
                let label = format_args!("length {end} of a write");
                self.push(Kind::Extend { inode, len: end }, label);
            }
        }
        let mut from = offset;
        while from < end {
            let to = end.min((from / SECTOR + 1) * SECTOR);
            let part = (from - offset) as usize..(to - offset) as usize;
            let kind = Kind::Bytes {
                inode,
                offset: from,
                part,
            };
            self.push(kind, format_args!("write [{from}..{to})"));
            from = to;
        }
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path, op: &Op) -> Result<(), String> {
        let (from, to) = (self.entry(from)?, self.entry(to)?);
        let inode = self
            .live
            .entry(from.0, &from.1)
            .ok_or("there is no such name")?;
        if self.live.entry(to.0, &to.1) == Some(inode) {
            return Ok(());
        }
        self.live.set_entry(to.0, &to.1, Some(inode));
        self.live.set_entry(from.0, &from.1, None);
        let moved = from.0 != to.0 && self.live.is_directory(inode);
        if from.0 == to.0 || moved {
            let change = self.changes.len();
            self.push(Kind::Names(vec![(to, Some(inode)), (from, None)]), op);
            if moved {
                self.changes[change].moved = Some(inode);
                // In any other order, two directories might end up in one another.
                self.changes[change].needs = self.last_move.replace(change);
            }
        } else {
            let new_name = self.changes.len();
            let label = format_args!("the new name of {op}");
            self.push(Kind::Names(vec![(to, Some(inode))]), label);
            let label = format_args!("the old name's end of {op}");
            self.push(Kind::Names(vec![(from, None)]), label);
            self.changes[new_name + 1].needs = Some(new_name);
        }
        Ok(())
    }

    fn push(&mut self, kind: Kind, label: impl fmt::Display) {
        self.undecided.push(self.changes.len());
        self.changes.push(Change {
            op: self.op,
            kind,
            durable: None,
            needs: None,
            moved: None,
            label: format!("#{} {label}", self.op + 1).into(),
        });
    }

    /// The undecided changes of this kind are durable from this operation on.
    fn settle_where(&mut self, covers: impl Fn(&Change) -> bool) {
        let covered: Vec<usize> = self
            .undecided
            .iter()
            .copied()
            .filter(|&change| covers(&self.changes[change]))
            .collect();
        for change in covered {
            self.settle(change);
        }
        let changes = &self.changes;
        self.undecided.retain(|&it| changes[it].durable.is_none());
    }

    /// A change is durable, and with it those that it needs, and the earlier ones that it would
    /// otherwise have to be undone for.
    fn settle(&mut self, change: usize) {
        let mut left = vec![change];
        while let Some(change) = left.pop() {
            if self.changes[change].durable.is_some() {
                continue;
            }
            self.changes[change].durable = Some(self.op + 1);
            left.extend(self.changes[change].needs);
            let earlier = self.undecided.iter().take_while(|&&it| it < change);
            left.extend(earlier.filter(|&&it| self.changes[it].meets(&self.changes[change])));
        }
    }

    fn file(&self, inode: u64) -> Result<Inode, String> {
        let known = self.inodes.get(&inode).copied();
        known.ok_or_else(|| "this file was not created or opened before".to_owned())
    }

    fn length(&self, inode: Inode) -> u64 {
        let unchanged = || self.live.content(inode).map_or(0, |content| content.len());
        self.lengths.get(&inode).copied().unwrap_or_else(unchanged)
    }

    fn entry(&self, path: &Path) -> Result<Entry, String> {
        match self.live.resolve_parent(path) {
            Ok((directory, Last::Name(name))) => Ok((directory, name)),
            Ok(_) => Err("this is no name".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
