//! A record, as bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | length of the body; two bits above it say what kind of record it is |
//! | 4 | CRC32C of body, the word before, LSN, `synced_below`, epoch |
//! | 8 | LSN |
//! | 8 | `synced_below`: every record below this LSN had been synced when this one was written |
//! | n | body, then zeros up to a multiple of 8 bytes |
//!
//! All little-endian. The epoch, which a record does not contain, is a random number of the opening
//! that wrote it, so that bytes of other logs are no records here, even within a body.
//!
//! A record is made in two steps. Who appends it stores the body's CRC, computed outside all locks;
//! the leader, who alone knows epoch and `synced_below` at the moment of writing, then extends that
//! over the rest ([`finish`]). Hence the order of what the CRC covers.

use crc32c::{crc32c, crc32c_append};

use crate::sync::mutant;

use super::lsn::UNREACHABLE;

/// Bytes before the body.
pub(super) const HEADER: usize = 24;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;
/// Longest body that can be said.
pub(super) const LONGEST: usize = LEN as usize;

const LEN: u32 = (1 << 30) - 1;
/// The body does not count: its append has timed out.
const VOID: u32 = 1 << 31;
/// There is no record with this LSN, nor up to the one that the body says: their appends failed.
const SKIP: u32 = 1 << 30;

/// Bytes that a body of `len` takes as a record.
pub(super) const fn size(len: usize) -> usize {
    (HEADER + len).next_multiple_of(ALIGN)
}

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    word: u32,
    crc: u32,
    pub(super) lsn: u64,
    pub(super) synced_below: u64,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, d] = [0, 4, 8, 16].map(|at| &bytes[at..]);
        let u32_of = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Self {
            word: u32_of(a),
            crc: u32_of(b),
            lsn: u64_of(c),
            synced_below: u64_of(d),
        }
    }

    /// The header at the beginning of `bytes`, if there is room for one.
    pub(super) fn at(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(Self::parse)
    }

    fn store(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.word.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.crc.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.lsn.to_le_bytes());
        bytes[16..HEADER].copy_from_slice(&self.synced_below.to_le_bytes());
    }

    pub(super) fn len(&self) -> usize {
        (self.word & LEN) as usize
    }

    /// Bytes of the whole record.
    pub(super) fn size(&self) -> usize {
        size(self.len())
    }

    /// Whether the body is one to deliver.
    pub(super) fn is_delivered(&self) -> bool {
        self.word & (VOID | SKIP) == 0
    }

    /// The CRC, given the body's.
    fn sum(&self, body: u32, epoch: u64) -> u32 {
        let epoch = if mutant::enabled("wal-forgets-the-epoch") {
            0
        } else {
            epoch
        };
        let mut rest = [0; 28];
        rest[..4].copy_from_slice(&self.word.to_le_bytes());
        rest[4..12].copy_from_slice(&self.lsn.to_le_bytes());
        rest[12..20].copy_from_slice(&self.synced_below.to_le_bytes());
        rest[20..].copy_from_slice(&epoch.to_le_bytes());
        crc32c_append(body, &rest)
    }

    /// Whether this is a record of `epoch` with this body. LSNs start at 1, so zeros are none.
    pub(super) fn fits(&self, body: &[u8], epoch: u64) -> bool {
        self.fits_sum(crc32c(body), epoch) && self.last(body).is_some()
    }

    /// The same, given the body's CRC.
    pub(super) fn fits_sum(&self, body: u32, epoch: u64) -> bool {
        let is_right = self.crc == self.sum(body, epoch) || mutant::enabled("wal-believes-any-crc");
        self.lsn != 0 && is_right
    }

    /// The LSN of the last record that this one stands for: its own, or the end of what it skips.
    pub(super) fn last(&self, body: &[u8]) -> Option<u64> {
        if self.word & SKIP == 0 {
            return Some(self.lsn);
        }
        let last = (body.len() == 8).then(|| u64_of(body))?;
        (last >= self.lsn && last < UNREACHABLE).then_some(last)
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Adds a record to `bytes`, not [finished](finish) yet. `body_crc` is the body's.
pub(super) fn push(bytes: &mut Vec<u8>, lsn: u64, body: &[u8], body_crc: u32) {
    push_as(bytes, body.len() as u32, lsn, body, body_crc);
}

/// Adds a record that stands for those from `first` to `last`, which are not there.
pub(super) fn push_skip(bytes: &mut Vec<u8>, first: u64, last: u64) {
    let body = last.to_le_bytes();
    push_as(bytes, SKIP | 8, first, &body, crc32c(&body));
}

fn push_as(bytes: &mut Vec<u8>, word: u32, lsn: u64, body: &[u8], crc: u32) {
    let mut head = [0; HEADER];
    let synced_below = 0;
    Header {
        word,
        crc,
        lsn,
        synced_below,
    }
    .store(&mut head);
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
}

/// Makes the unfinished record at the beginning of `bytes` one that is not delivered.
pub(super) fn make_void(bytes: &mut [u8]) {
    if let Some(mut header) = Header::at(bytes) {
        header.word |= VOID;
        header.store(bytes);
    }
}

/// Finishes the records that `bytes` consists of.
pub(super) fn finish(mut bytes: &mut [u8], epoch: u64, synced_below: u64) {
    while let Some(mut header) = Header::at(bytes) {
        header.synced_below = synced_below;
        header.crc = header.sum(header.crc, epoch);
        header.store(bytes);
        bytes = &mut bytes[header.size()..];
    }
}

/// One record after the other in `bytes`, whole by construction: where it begins, its header, its
/// body.
pub(super) fn each(bytes: &[u8]) -> impl Iterator<Item = (usize, Header, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at;
        let header = Header::at(&bytes[begin..])?;
        at += header.size();
        let body = &bytes[begin + HEADER..][..header.len()];
        Some((begin, header, body))
    })
}

/// Adds a copy of a record that was read, not finished yet.
pub(super) fn push_copy(bytes: &mut Vec<u8>, header: &Header, body: &[u8]) {
    push_as(bytes, header.word, header.lsn, body, crc32c(body));
}

/// What is left of a group that was not written: the records at the places `told`, in order, and
/// those that were void or skipped already become skips, and runs of them one; the others stay, not
/// finished.
pub(super) fn without(bytes: &[u8], told: &[usize]) -> Vec<u8> {
    let mut left = Vec::new();
    let mut told = told.iter().peekable();
    let mut run: Option<(u64, u64)> = None;
    for (begin, header, body) in each(bytes) {
        let is_told = told.next_if(|place| **place == begin).is_some();
        let last = header.last(body).unwrap_or(header.lsn);
        if is_told || !header.is_delivered() {
            run = Some((run.map_or(header.lsn, |(first, _)| first), last));
            continue;
        }
        if let Some((first, last)) = run.take() {
            push_skip(&mut left, first, last);
        }
        push_copy(&mut left, &header, body);
    }
    if let Some((first, last)) = run {
        push_skip(&mut left, first, last);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lsn: u64, body: &[u8], epoch: u64, synced_below: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, lsn, body, crc32c(body));
        finish(&mut bytes, epoch, synced_below);
        bytes
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed() {
        let whole = record(5, b"seventeen bytes..", 77, 4);
        assert_eq!(whole.len(), size(17));
        for bit in 0..(HEADER + 17) * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let header = Header::at(&bytes).unwrap();
            let body = bytes.get(HEADER..HEADER + header.len());
            assert!(!body.is_some_and(|body| header.fits(body, 77)), "bit {bit}");
        }
        let header = Header::at(&whole).unwrap();
        assert!(header.fits(&whole[HEADER..HEADER + 17], 77));
        assert!(
            !header.fits(&whole[HEADER..HEADER + 17], 78),
            "another epoch"
        );
    }

    #[test]
    fn zeros_are_no_record_in_any_epoch() {
        // The epoch for which the CRC of zeros is zero exists; the LSN does not.
        let header = Header::parse(&[0; HEADER]);
        assert!((0..10_000).all(|epoch| !header.fits(b"", epoch)));
    }

    #[test]
    fn what_is_left_of_a_failed_group_are_the_enqueued_records_and_one_skip_for_each_run() {
        let mut bytes = Vec::new();
        let mut begins = Vec::new();
        for lsn in 10..17 {
            begins.push(bytes.len());
            push(&mut bytes, lsn, &[lsn as u8; 9], crc32c(&[lsn as u8; 9]));
        }
        make_void(&mut bytes[begins[3]..]);
        finish(&mut bytes, 1, 1);
        let told = [begins[0], begins[2], begins[6]];
        let again = without(&without(&bytes, &told), &[]);
        let left: Vec<_> = each(&again)
            .map(|(_, header, body)| {
                (
                    header.lsn,
                    header.last(body).unwrap(),
                    header.is_delivered(),
                )
            })
            .collect();
        let expected = [
            (10, 10, false),
            (11, 11, true),
            (12, 13, false),
            (14, 14, true),
            (15, 15, true),
            (16, 16, false),
        ];
        assert_eq!(left, expected);
        let all: Vec<usize> = begins;
        let one = without(&bytes, &all);
        assert_eq!(one.len(), size(8));
        assert_eq!(
            each(&one).next().unwrap().1.last(&16u64.to_le_bytes()),
            Some(16)
        );
    }
}
