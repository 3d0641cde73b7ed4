//! What a crash may leave.
//!
//! From a [recorded](super::RecordingFs) log of operations come all the file systems that a power
//! cut may leave: for every moment, everything that was made durable until then, and any part of
//! what was not. A test runs its recovery on each.
//!
//! | operation | changes | durable after | if not durable |
//! |---|---|---|---|
//! | write | the file's bytes, one change for each 512 bytes of the file that it touches | a later sync of the file | each change is there or not; below one that is, lost ones read as they were, or as zeros |
//! | write beyond the end | also the length | a later sync of the file | the length may be there without the bytes, which then read as zeros |
//! | set the length, allocate | the length, and the bytes cut off | a later sync of the file | there or not |
//! | create | one name | a later sync of its directory | the file has no such name, synced or not |
//! | remove | one name | a later sync of its directory | the name is back, and leads to what it led to |
//! | rename in a directory | two names, as one change | a later sync of the directory | both or none; what was replaced is back |
//! | rename of a file to another directory | the new name, then the old one | new: a later sync of either directory; old: of its own | none, or the new name only (the file has both), or both |
//! | rename of a directory to another one | two names, as one change | a later sync of either directory | both or none, and none of the later such renames |
//! | make a directory | one name | a later sync of its parent | it is gone, with everything in it, synced or not |
//!
//! * Bytes belong to the file and not to its name. A durable name leads to whatever bytes are
//!   durable, so that renaming before syncing may leave an empty file. A sync of a file makes no
//!   name durable, and a sync of a directory no bytes. A sync covers all that stands before it in
//!   the log.
//! * What is not durable persists in any order: any subset of the changes, applied in the order of
//!   the log, is a state, but for the two rows above that say otherwise. Disks write whole sectors,
//!   so that of two writes to one sector the second brings the first along; states in which it does
//!   not are enumerated too.
//! * Taken for granted: a disk writes 512 bytes whole or not at all, what was never written reads
//!   as zeros, and what was synced stays.
//! * A name that is durable makes the earlier changes to that name durable, since none of them can
//!   come back. So whatever is not durable stands in the log behind all durable changes of the same
//!   bytes and names, and it is correct to apply the durable ones once and only the others for each
//!   state.

mod bounds;
mod change;
mod subsets;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::memory::MemoryFs;
use super::memory::tree::Tree;
use super::recording::Op;
use crate::sync::unmodelled::Arc;
pub use bounds::Bounds;
use change::History;
use subsets::Subsets;

/// All states that a crash may leave: of each beginning of `ops`, what is durable and the parts of
/// what is not that `bounds` asks for. What `start` holds is durable.
///
/// States come one at a time. One with the same names and bytes as an earlier one is left out,
/// unless a note was written between the two.
///
/// To crash a recovery too, record it over a [`copy`](MemoryFs::copy) of a state and take that
/// state as the start.
///
/// ```
/// use latchwork::fs::{File, Fs, MemoryFs, OpenMode, RecordingFs, crash};
/// use std::path::Path;
/// use std::sync::Arc;
///
/// let start = MemoryFs::new();
/// let fs = RecordingFs::new(Arc::new(start.copy()));
/// let file = fs.open(Path::new("new"), OpenMode::CreateNew)?;
/// file.write_at(b"value", 0)?;
/// file.sync_data()?;
/// fs.rename(Path::new("new"), Path::new("value"))?;
/// fs.sync_dir(Path::new("/"))?;
/// fs.note(1); // it is acknowledged
///
/// for state in crash::states(&fs.ops(), &start, crash::Bounds::new()) {
///     match state.fs.contents("value") {
///         Ok(bytes) => assert_eq!(bytes, b"value", "{state}"),
///         Err(_) => assert_eq!(state.notes[..], [], "{state}"),
///     }
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
/// If `ops` cannot have been done to `start`: a directory is not there, or a file has not been
/// created or opened.
pub fn states<'a>(ops: &'a [Op], start: &MemoryFs, bounds: Bounds) -> States<'a> {
    let start = start.copy().tree();
    States {
        history: History::new(ops, start.clone(), &bounds),
        labels: ops.iter().map(|op| op.to_string().into()).collect(),
        bounds,
        base: start,
        after: 0,
        notes: Arc::default(),
        pending: Arc::default(),
        subsets: Subsets::all(0),
        seen: HashSet::new(),
    }
}

/// What one crash leaves.
///
/// It prints as the moment of the crash, and which of the changes that were not durable it kept and
/// which it lost; `#3` is a change that the third operation made.
///
/// ```
/// use latchwork::fs::{MemoryFs, Op, crash};
///
/// let ops = [Op::CreateDir { path: "data".into() }];
/// let state = crash::states(&ops, &MemoryFs::new(), crash::Bounds::new()).last().unwrap();
/// assert_eq!(
///     state.to_string(),
///     r#"crash after #1 make directory "data"; kept: #1 make directory "data""#
/// );
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct CrashState {
    /// What is there when the machine is up again.
    pub fs: MemoryFs,
    /// What was [noted](super::RecordingFs::note) before the crash, in order.
    pub notes: Arc<[u64]>,
    /// How many operations there were before the crash.
    pub after: usize,
    /// The last of them.
    last: Option<Arc<str>>,
    /// Of the changes that were not durable, which one it is and whether it is there.
    undecided: Vec<(Arc<str>, bool)>,
}

impl CrashState {
    /// The state as it prints.
    pub fn description(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.last {
            None => write!(f, "crash before any operation")?,
            Some(last) => write!(f, "crash after #{} {last}", self.after)?,
        }
        for (title, kept) in [("kept", true), ("lost", false)] {
            let changes = self.undecided.iter().filter(|(_, it)| *it == kept);
            for (place, (change, _)) in changes.enumerate() {
                match place {
                    0 => write!(f, "; {title}: {change}")?,
                    _ => write!(f, ", {change}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CrashState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CrashState")
            .field("fs", &self.fs)
            .field("notes", &self.notes)
            .field("description", &format_args!("{self}"))
            .finish()
    }
}

/// The iterator of [`states`].
///
/// It holds the log's changes, one file system, and the hashes of the states that it has handed
/// out, which are [bounded](Bounds::remembered).
///
/// ```
/// use latchwork::fs::{MemoryFs, Op, crash};
///
/// let ops = [Op::CreateDir { path: "data".into() }];
/// let states = crash::states(&ops, &MemoryFs::new(), crash::Bounds::new());
/// assert_eq!(states.count(), 2, "it is there or not");
/// ```
pub struct States<'a> {
    history: History<'a>,
    /// What the operations print as.
    labels: Vec<Arc<str>>,
    bounds: Bounds,
    /// All that is durable after `after` operations; inodes without a name too.
    base: Tree,
    after: usize,
    notes: Arc<[u64]>,
    /// The changes that are not durable after `after` operations.
    pending: Arc<[usize]>,
    subsets: Subsets,
    seen: HashSet<u64>,
}

impl fmt::Debug for States<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("States")
            .field("operations", &self.labels.len())
            .field("after", &self.after)
            .field("undecided", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl States<'_> {
    /// Goes one operation further. `false`: there is none.
    fn advance(&mut self) -> bool {
        let Some(op) = self.history.ops.get(self.after) else {
            return false;
        };
        self.history.add_nodes(self.after, &mut self.base);
        self.after += 1;
        if let Op::Note(value) = op {
            self.notes = self.notes.iter().copied().chain([*value]).collect();
            // Whoever checks may ask more of the same files now.
            self.seen.clear();
        }
        let mut pending = self.pending.to_vec();
        pending.extend(self.history.made_by(self.after - 1));
        let (durable, pending): (Vec<_>, Vec<_>) = pending
            .into_iter()
            .partition(|&change| self.history.is_durable(change, self.after));
        for change in durable {
            self.history.apply(change, &mut self.base);
        }
        let seed = self.bounds.seed ^ self.after as u64;
        self.subsets = Subsets::new(pending.len(), &self.bounds, seed);
        self.pending = pending.into();
        true
    }

    /// The state in which these of the pending changes are there, if there can be such a one and it
    /// has not been handed out.
    fn state(&mut self, kept: &[bool]) -> Option<CrashState> {
        let pending = self.pending.clone();
        let is_kept = |change: usize| match pending.binary_search(&change) {
            Ok(place) => kept[place],
            Err(_) => true,
        };
        let mut tree = self.base.clone();
        for (&change, _) in pending.iter().zip(kept).filter(|(_, kept)| **kept) {
            if !self.history.needs(change).is_none_or(is_kept) {
                return None;
            }
            self.history.apply(change, &mut tree);
        }
        let mut hasher = DefaultHasher::new();
        tree.hash(&mut hasher);
        if self.seen.len() >= self.bounds.remembered {
            self.seen.clear();
        }
        if !self.seen.insert(hasher.finish()) {
            return None;
        }
        let last = self.after.checked_sub(1);
        Some(CrashState {
            fs: MemoryFs::of(tree),
            notes: self.notes.clone(),
            after: self.after,
            last: last.map(|last| self.labels[last].clone()),
            undecided: pending
                .iter()
                .zip(kept)
                .map(|(&change, &kept)| (self.history.label(change), kept))
                .collect(),
        })
    }
}

impl Iterator for States<'_> {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        loop {
            while let Some(kept) = self.subsets.next() {
                if let Some(state) = self.state(&kept) {
                    return Some(state);
                }
            }
            if !self.advance() {
                return None;
            }
        }
    }
}
