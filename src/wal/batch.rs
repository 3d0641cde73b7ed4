//! The records that are written together.

use crate::sync::mutant;

use super::record;
use super::{AppendError, Lsn};

/// What an append without a waiting thread calls at its end.
pub(super) type Callback = Box<dyn FnOnce(Result<Lsn, AppendError>) + Send>;

/// Records on their way to the file, in order.
///
/// There are two, and their buffers are used again and again: one is filled while the other is
/// written.
pub(super) struct Batch {
    /// Counts the batches of a log.
    pub(super) number: u64,
    /// Unfinished records.
    pub(super) bytes: Vec<u8>,
    /// The LSN of the first of them.
    pub(super) first: u64,
    pub(super) records: u64,
    /// How many bytes of a failed batch stand before this one's own.
    left_over: usize,
    /// Where records begin whose fate somebody is told; the others were enqueued, and stay in line
    /// when a write fails.
    told: Vec<usize>,
    pub(super) callbacks: Vec<(Lsn, Callback)>,
    /// Threads that sleep until it is written.
    pub(super) waiters: usize,
    /// Whether it is to be synced, whatever the log's durability.
    pub(super) sync: bool,
    /// Whether the record after it is to go to another segment.
    pub(super) rotate: bool,
}

impl Batch {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            bytes: Vec::new(),
            first: 0,
            records: 0,
            left_over: 0,
            told: Vec::new(),
            callbacks: Vec::new(),
            waiters: 0,
            sync: false,
            rotate: false,
        }
    }

    /// Empty again, with its buffers but not more than `keep` bytes of memory.
    pub(super) fn reuse(mut self, number: u64, keep: usize) -> Self {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
        self.told.clear();
        self.callbacks.clear();
        Self {
            bytes: self.bytes,
            told: self.told,
            callbacks: self.callbacks,
            ..Self::new(number)
        }
    }

    /// Adds a record, and says where, for [`make_void`](Self::make_void).
    pub(super) fn push(&mut self, lsn: u64, body: &[u8], crc: u32, is_told: bool) -> usize {
        let place = self.bytes.len();
        if place == 0 {
            self.first = lsn;
        }
        if is_told {
            self.told.push(place);
        }
        record::push(&mut self.bytes, lsn, body, crc);
        self.records += 1;
        place - self.left_over
    }

    /// Has a record not be delivered, whose append has timed out.
    pub(super) fn make_void(&mut self, place: usize) {
        if !mutant::enabled("wal-timeout-keeps-record") {
            record::make_void(&mut self.bytes[self.left_over + place..]);
        }
    }

    /// Whether somebody wants more than that records are kept.
    pub(super) fn is_wanted(&self) -> bool {
        self.sync || self.rotate || !self.callbacks.is_empty()
    }

    /// Takes over what stays in line of a batch that could not be written, and says how many bytes
    /// that is.
    pub(super) fn put_before(&mut self, failed: &Self) -> usize {
        let left = record::without(&failed.bytes, &failed.told);
        let len = left.len();
        if len > 0 {
            self.first = failed.first;
            self.left_over = len;
            for place in &mut self.told {
                *place += len;
            }
            self.bytes.splice(..0, left);
        }
        len
    }
}
