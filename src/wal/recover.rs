//! From the files of a log to a log that can go on.
//!
//! Segments are read in the order of their numbers, each up to where the next one begins; the
//! records of the last one up to the first bad one. What a power cut leaves at the end of a log may
//! be any mixture of what was written since the last sync, so valid records beyond a bad one prove
//! nothing by themselves. But each says below which LSN all had been synced when it was written:
//!
//! | beyond the first bad record x there is | so x was | what is done |
//! |---|---|---|
//! | a segment that begins beyond x | synced | refuse: corrupt |
//! | a record of this epoch with `synced_below` > x | synced | refuse: corrupt |
//! | neither | not acknowledged, or the last group of all | cut |
//!
//! The log goes on in a new segment, which begins with a copy of what is not known to be synced:
//! its old place may be in the page cache only, after a failed sync even clean there. The copy is
//! synced before the header that makes it count. From then on the old tail is void, whatever a
//! later look at it would find.

mod read;
mod sums;

use std::io;
use std::path::{Path, PathBuf};

use crate::os::fs::{File, Fs, OpenMode, write_all};
use crate::sync::mutant;
use crate::sync::unmodelled::Arc;

use super::builder::OnProgress;
use super::lsn::UNREACHABLE;
use super::record::{self, Header};
use super::segment::{self, Head, Name};
use super::window::Window;
use super::writer::Writer;
use super::{Lsn, WalError};
use read::Reading;

const COPIED_AT_ONCE: usize = 1 << 20;

pub(super) type Deliver<'a> = dyn FnMut(Lsn, &[u8]) -> Result<(), WalError> + 'a;

/// What a recovery goes by.
pub(super) struct Plan {
    pub(super) fs: Arc<dyn Fs>,
    pub(super) dir: PathBuf,
    pub(super) epoch: u64,
    pub(super) segment_bytes: u64,
    pub(super) longest: usize,
    /// Records up to this one are in a snapshot.
    pub(super) covered: u64,
    /// Whether a newer snapshot is damaged, so that records from the next on must be there.
    pub(super) must_continue: bool,
    pub(super) on_progress: Option<OnProgress>,
}

/// A file of the log.
struct Segment {
    name: Name,
    path: PathBuf,
    first: u64,
}

/// What a recovery found.
pub(super) struct Found {
    pub(super) writer: Writer,
    pub(super) segments: Vec<(Name, u64)>,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) cut: Option<Cut>,
}

/// Where the tail of a log was torn, and cut.
///
/// ```
/// # let dir = std::env::temp_dir().join(format!("latchwork-wal-cut-{}", std::process::id()));
/// use latchwork::Wal;
///
/// let (_wal, recovery) = Wal::builder(&dir).open(|_, _| Ok::<(), std::io::Error>(()))?;
/// assert!(recovery.cut().is_none());
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cut {
    /// The segment.
    pub path: PathBuf,
    /// Where the first bad record begins there.
    pub offset: u64,
    /// The place that it would have had.
    pub lsn: Lsn,
}

/// The number that tells an opening's records from all others.
pub(super) fn new_epoch() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one("latchwork::wal")
}

/// Reads the log, delivers its records and makes the segment that it goes on in.
pub(super) fn recover(mut plan: Plan, deliver: &mut Deliver<'_>) -> Result<Found, WalError> {
    let Files {
        segments,
        unborn,
        highest,
    } = list(&plan)?;
    let first = segments.first().map_or(1, |segment| segment.first);
    if plan.must_continue && first > plan.covered + 1 {
        let what = "the newest snapshot is damaged, and the records since the one before are gone";
        return Err(WalError::corrupt(&plan.dir, 0, plan.covered + 1, what));
    }
    // Where each segment ends: at the next one's first record.
    let ends = segments.iter().skip(1).map(|segment| segment.first);
    let ends: Vec<u64> = ends.chain([u64::MAX]).collect();
    let skipped = ends.partition_point(|end| *end <= plan.covered + 1);
    let mut files = Vec::new();
    for segment in &segments[skipped..] {
        files.push(open(&*plan.fs, &segment.path)?);
    }
    let total = length(&files, &segments[skipped..])?;
    let begin = segments.get(skipped).map_or(1, |segment| segment.first);
    let mut reading = Reading::new(&mut plan, begin, total);
    let (mut cut, mut tail) = (None, Tail::none());
    for (at, file) in files.iter().enumerate() {
        let segment = &segments[skipped + at];
        let is_last = at + 1 == files.len();
        let stop = reading.read(&**file, segment, ends[skipped + at], deliver)?;
        if is_last {
            cut = reading.judge(&**file, segment, stop)?;
            tail = Tail::find(&**file, segment, reading.synced_below, stop)?;
        }
    }
    for (name, path) in &unborn {
        reading.judge_unborn(*name, path)?;
    }
    let (expected, records, bytes) = (reading.expected, reading.records, reading.bytes);
    let next = expected.max(plan.covered + 1);
    if next > expected || tail.bytes == 0 || mutant::enabled("wal-copies-nothing") {
        tail = Tail::none();
    }
    let name = Name {
        number: highest + 1,
        epoch: plan.epoch,
    };
    let path = name.path(&plan.dir);
    let first = tail.first.unwrap_or(next);
    let (room, least) = (plan.segment_bytes, segment::HEADER + tail.bytes);
    let fill = |file: &dyn File| tail.copy(file, &path, plan.epoch, first);
    let made = segment::create(&*plan.fs, &plan.dir, name, first, room, least, fill)?;
    let mut kept = tidy(&plan, &segments, &unborn, first, &tail);
    kept.push((name, first));
    let writer = Writer {
        fs: plan.fs,
        dir: plan.dir,
        segment_bytes: plan.segment_bytes,
        epoch: plan.epoch,
        number: name.number,
        file: made.file,
        path,
        end: made.end,
        room: made.room,
        is_full: false,
        written: next - 1,
        synced: next - 1,
        is_torn: false,
        made: None,
    };
    Ok(Found {
        writer,
        segments: kept,
        records,
        bytes,
        cut,
    })
}

fn open(fs: &dyn Fs, path: &Path) -> Result<Box<dyn File>, WalError> {
    fs.open(path, OpenMode::Read)
        .map_err(WalError::io("open", path))
}

fn length(files: &[Box<dyn File>], segments: &[Segment]) -> Result<u64, WalError> {
    let lengths = files
        .iter()
        .zip(segments)
        .map(|(file, segment)| file.len().map_err(WalError::io("read", &segment.path)));
    lengths.sum()
}

/// What lies in the directory.
struct Files {
    segments: Vec<Segment>,
    /// Files that were never finished.
    unborn: Vec<(Name, PathBuf)>,
    highest: u64,
}

fn list(plan: &Plan) -> Result<Files, WalError> {
    let listed = plan.fs.read_dir(&plan.dir);
    let listed = listed.map_err(WalError::io("list", &plan.dir))?;
    let names = listed.iter().filter_map(|name| Name::parse(name.to_str()?));
    let mut names: Vec<Name> = names.collect();
    names.sort();
    let mut files = Files {
        segments: Vec::new(),
        unborn: Vec::new(),
        highest: names.last().map_or(0, |name| name.number),
    };
    for name in names {
        let path = name.path(&plan.dir);
        let file = open(&*plan.fs, &path)?;
        match segment::read_head(&*file, name, &path)? {
            Head::Unborn => files.unborn.push((name, path)),
            Head::From(first) if first >= UNREACHABLE => {
                let what = "no log comes so far as it says to begin";
                return Err(WalError::corrupt(&path, 0, first, what));
            }
            Head::From(first) => {
                if files.segments.last().is_some_and(|last| last.first > first) {
                    let what = "it begins before the segment before it";
                    return Err(WalError::corrupt(&path, 0, first, what));
                }
                files.segments.push(Segment { name, path, first });
            }
        }
    }
    Ok(files)
}

/// Removes what the new segment, which begins with `first`, has made void, and says what stays.
/// Nothing depends on it.
fn tidy(
    plan: &Plan,
    segments: &[Segment],
    unborn: &[(Name, PathBuf)],
    first: u64,
    tail: &Tail<'_>,
) -> Vec<(Name, u64)> {
    let (kept, void): (Vec<_>, Vec<_>) = segments.iter().partition(|old| old.first < first);
    let unborn = unborn.iter().map(|(_, path)| path);
    for path in void.iter().map(|old| &old.path).chain(unborn) {
        let _: io::Result<()> = plan.fs.remove_file(path);
    }
    if let (Some((_, path)), Some(end)) = (tail.file, tail.begin.or(tail.stop))
        && kept.iter().any(|old| old.path == path)
    {
        let file = plan.fs.open(path, OpenMode::ReadWrite);
        let _: io::Result<()> = file.and_then(|file| file.set_len(end));
    }
    kept.iter().map(|old| (old.name, old.first)).collect()
}

/// The records of the last segment that are not known to be synced.
struct Tail<'a> {
    file: Option<(&'a dyn File, &'a Path)>,
    first: Option<u64>,
    begin: Option<u64>,
    stop: Option<u64>,
    bytes: u64,
}

impl<'a> Tail<'a> {
    fn none() -> Self {
        Self {
            file: None,
            first: None,
            begin: None,
            stop: None,
            bytes: 0,
        }
    }

    fn find(
        file: &'a dyn File,
        segment: &'a Segment,
        synced_below: u64,
        stop: u64,
    ) -> Result<Self, WalError> {
        let failed = || WalError::io("read", &segment.path);
        let mut window = Window::new(file).map_err(failed())?;
        let mut tail = Self {
            file: Some((file, &segment.path)),
            stop: Some(stop),
            ..Self::none()
        };
        let mut at = segment::HEADER;
        while at < stop {
            let bytes = window.get(at, record::HEADER).map_err(failed())?;
            let Some(header) = Header::at(bytes) else {
                break;
            };
            if header.lsn >= synced_below {
                tail.first = Some(header.lsn);
                tail.begin = Some(at);
                tail.bytes = stop - at;
                break;
            }
            at += header.size() as u64;
        }
        Ok(tail)
    }

    /// Writes a copy that belongs to `epoch`, and says where it ends.
    fn copy(&self, to: &dyn File, path: &Path, epoch: u64, first: u64) -> Result<u64, WalError> {
        let (Some((file, source)), Some(mut at), Some(stop)) = (self.file, self.begin, self.stop)
        else {
            return Ok(segment::HEADER);
        };
        let failed = || WalError::io("read", source);
        let mut window = Window::new(file).map_err(failed())?;
        let mut end = segment::HEADER;
        let mut bytes = Vec::new();
        while at < stop {
            let head = window.get(at, record::HEADER).map_err(failed())?;
            let Some(header) = Header::at(head) else {
                break;
            };
            let from = at + record::HEADER as u64;
            let body = window.get(from, header.len()).map_err(failed())?;
            record::push_copy(&mut bytes, &header, body);
            at += header.size() as u64;
            if bytes.len() >= COPIED_AT_ONCE || at >= stop {
                record::finish(&mut bytes, epoch, first);
                write_all(to, &bytes, end).map_err(WalError::io("write to", path))?;
                end += bytes.len() as u64;
                bytes.clear();
            }
        }
        Ok(end)
    }
}
