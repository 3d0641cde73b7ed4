//! Reading segments, and judging what stands behind the last good record.

use std::path::Path;

use crc32c::crc32c_append;

use crate::os::fs::File;
use crate::sync::mutant;

use super::super::builder::Progress;
use super::super::record::{self, Header};
use super::super::segment::{self, Name};
use super::super::window::Window;
use super::super::{Lsn, WalError};
use super::sums::Sums;
use super::{Cut, Deliver, Plan, Segment, open};

/// Bytes between two reports of progress.
const STRIDE: u64 = 4 << 20;
/// Bytes that are looked at at a time.
const CHUNK: usize = 256 << 10;

/// How far the reading has come.
pub(super) struct Reading<'a> {
    plan: &'a mut Plan,
    /// The LSN of the next record.
    pub(super) expected: u64,
    /// All below are known to have been synced.
    pub(super) synced_below: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    total: u64,
    reported: u64,
}

impl<'a> Reading<'a> {
    pub(super) fn new(plan: &'a mut Plan, expected: u64, total: u64) -> Self {
        Self {
            plan,
            expected,
            synced_below: expected,
            records: 0,
            bytes: 0,
            total,
            reported: 0,
        }
    }

    /// Delivers a segment's records below `end`, and says where the last one that is good ends.
    pub(super) fn read(
        &mut self,
        file: &dyn File,
        segment: &Segment,
        end: u64,
        deliver: &mut Deliver<'_>,
    ) -> Result<u64, WalError> {
        let path = &segment.path;
        let mut window = Window::new(file).map_err(WalError::io("read", path))?;
        self.synced_below = self.synced_below.max(segment.first);
        let mut at = segment::HEADER;
        while self.expected < end {
            let Some(header) = self.check(&mut window, segment, at)? else {
                break;
            };
            let from = at + record::HEADER as u64;
            let body = window.get(from, header.len());
            let body = body.map_err(WalError::io("read", path))?;
            if header.is_delivered() && header.lsn > self.plan.covered {
                deliver(Lsn::new(header.lsn), body)?;
                self.records += 1;
            }
            self.expected = header.last(body).unwrap_or(header.lsn) + 1;
            self.synced_below = self.synced_below.max(header.synced_below);
            at += header.size() as u64;
            self.advance(header.size() as u64, false);
        }
        if self.expected < end && end != u64::MAX {
            let what = "a record is bad, and the next segment shows that it had been synced";
            return Err(WalError::corrupt(path, at, self.expected, what));
        }
        self.advance(0, true);
        Ok(at)
    }

    /// The header of the record that should begin at `at`, if it is a good one.
    fn check(
        &self,
        window: &mut Window<'_>,
        segment: &Segment,
        at: u64,
    ) -> Result<Option<Header>, WalError> {
        let path = &segment.path;
        let failed = || WalError::io("read", path);
        let bytes = window.get(at, record::HEADER).map_err(failed())?;
        let Some(header) = Header::at(bytes) else {
            return Ok(None);
        };
        let from = at + record::HEADER as u64;
        let is_inside = from + header.len() as u64 <= window.end();
        if header.lsn != self.expected || !is_inside {
            return Ok(None);
        }
        if header.len() > self.plan.longest {
            let sum = body_crc(window, from, header.len()).map_err(failed())?;
            if header.fits_sum(sum, segment.name.epoch) {
                let (len, limit) = (header.len(), self.plan.longest);
                let what = format!("its {len} bytes are above the limit of {limit}");
                return Err(WalError::corrupt(path, at, header.lsn, what));
            }
            return Ok(None);
        }
        let body = window.get(from, header.len()).map_err(failed())?;
        Ok(header.fits(body, segment.name.epoch).then_some(header))
    }

    fn advance(&mut self, bytes: u64, always: bool) {
        self.bytes += bytes;
        if !always && self.bytes < self.reported + STRIDE {
            return;
        }
        self.reported = self.bytes;
        if let Some(on_progress) = &mut self.plan.on_progress {
            on_progress(Progress {
                records: self.records,
                bytes: self.bytes,
                total: self.total,
                lsn: Lsn::new(self.expected - 1),
            });
        }
    }

    /// Whether the log may end at `stop`, and whether it had gone on there.
    pub(super) fn judge(
        &self,
        file: &dyn File,
        segment: &Segment,
        stop: u64,
    ) -> Result<Option<Cut>, WalError> {
        let is_torn = self.search(file, segment.name, &segment.path, stop)?;
        Ok(is_torn.then(|| Cut {
            path: segment.path.clone(),
            offset: stop,
            lsn: Lsn::new(self.expected),
        }))
    }

    /// The same for a file that has no valid header, and so should hold nothing that counts.
    pub(super) fn judge_unborn(&self, name: Name, path: &Path) -> Result<(), WalError> {
        let file = open(&*self.plan.fs, path)?;
        self.search(&*file, name, path, segment::HEADER)?;
        Ok(())
    }

    /// Looks behind `from` for a record that shows that the expected one had been synced. Without
    /// one, says whether there is anything at all.
    fn search(
        &self,
        file: &dyn File,
        name: Name,
        path: &Path,
        from: u64,
    ) -> Result<bool, WalError> {
        let failed = || WalError::io("read", path);
        let mut chunks = Window::new(file).map_err(failed())?;
        let mut sums = None;
        let mut is_anything = false;
        let mut at = from;
        while at < chunks.end() {
            let end = chunks.end();
            let chunk = chunks.get(at, CHUNK).map_err(failed())?;
            if chunk.iter().fold(0, |any, byte| any | byte) != 0 {
                is_anything = true;
                for begin in (0..chunk.len()).step_by(record::ALIGN) {
                    let Some(header) = Header::at(&chunk[begin..]) else {
                        break;
                    };
                    let body = at + (begin + record::HEADER) as u64;
                    let is_inside = body + header.len() as u64 <= end;
                    if is_inside && self.is_proof(&header) {
                        let sums = match &mut sums {
                            Some(sums) => sums,
                            none => none.insert(Sums::new(file, from).map_err(failed())?),
                        };
                        let sum = sums.of(body, header.len()).map_err(failed())?;
                        if header.fits_sum(sum, name.epoch) {
                            let what =
                                "a record is bad, and a later one shows that it had been synced";
                            return Err(WalError::corrupt(path, from, self.expected, what));
                        }
                    }
                }
            }
            // A header may lie across the end of the chunk.
            let step = chunk.len().saturating_sub(record::HEADER - record::ALIGN);
            at += step.max(record::ALIGN) as u64;
        }
        Ok(is_anything)
    }

    /// Whether the record that the header belongs to, if it is one, shows that the expected one had
    /// been synced.
    fn is_proof(&self, header: &Header) -> bool {
        if mutant::enabled("wal-never-refuses") {
            return false;
        }
        let is_later = header.synced_below > self.expected && header.synced_below <= header.lsn;
        is_later || mutant::enabled("wal-refuses-at-any-record") && header.lsn > self.expected
    }
}

/// The CRC of a body that need not fit into memory.
fn body_crc(window: &mut Window<'_>, mut at: u64, mut len: usize) -> std::io::Result<u32> {
    let mut sum = 0;
    while len > 0 {
        let part = window.get(at, len.min(CHUNK))?;
        if part.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        sum = crc32c_append(sum, part);
        at += part.len() as u64;
        len -= part.len();
    }
    Ok(sum)
}
