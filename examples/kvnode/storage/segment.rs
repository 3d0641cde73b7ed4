//! A segment: what some keys held when they were flushed, sorted by key.
//!
//! | part | holds |
//! |---|---|
//! | header | magic, version, the segment's number |
//! | blocks | length, checksum, entries one after the other |
//! | index | a block of its own: where each block begins, and its first key |
//! | footer | where the index is, how many entries there are, magic |
//!
//! Every checksum covers the segment's number and the place in the file too, so that a block which
//! lies elsewhere than it was written is no block. A file that ends early has no footer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crc32c::{crc32c, crc32c_append};
use latchwork::fs::{File, Fs, OpenMode, read_full, write_all};
use latchwork::rmw::{Bytes, Record, Value};
use latchwork::wal::Lsn;
use serde::{Deserialize, Serialize};

use super::content::{Content, Element, Raw, encode};
use super::error::StorageError;
use super::manifest::{Segment, remove, segment_path};

const MAGIC: [u8; 8] = *b"kvnode S";
const END: [u8; 8] = *b"kvnode E";
const VERSION: u32 = 1;
/// Magic, version, checksum, number.
const HEADER: u64 = 24;
/// Length and checksum.
const FRAME: usize = 12;
/// The index's place and length, how many entries, checksum, magic.
const FOOTER: usize = 32;
/// A block ends when it has so many bytes.
const BLOCK: usize = 128 << 10;

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    key: Raw<'a>,
    lsn: u64,
    state: State<'a>,
}

#[derive(Serialize, Deserialize)]
enum State<'a> {
    Gone,
    There {
        #[serde(borrow)]
        content: Content<'a>,
        deadline: Option<u64>,
    },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Block {
    offset: u64,
    /// With its frame.
    len: u64,
    first: Element,
}

/// The checksum of bytes at a place of a segment.
fn sum(number: u64, offset: u64, bytes: &[u8]) -> u32 {
    let place = crc32c_append(crc32c(&number.to_le_bytes()), &offset.to_le_bytes());
    crc32c_append(place, bytes)
}

fn header(number: u64) -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(&number.to_le_bytes());
    let sum = sum(number, 0, &header[..12]);
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    header
}

fn footer(number: u64, index: (u64, u32), entries: u64) -> [u8; FOOTER] {
    let mut footer = [0; FOOTER];
    footer[..8].copy_from_slice(&index.0.to_le_bytes());
    footer[8..12].copy_from_slice(&index.1.to_le_bytes());
    footer[12..20].copy_from_slice(&entries.to_le_bytes());
    let place = index.0 + u64::from(index.1);
    let sum = sum(number, place, &footer[..20]);
    footer[20..24].copy_from_slice(&sum.to_le_bytes());
    footer[24..].copy_from_slice(&END);
    footer
}

/// Writes a segment. Dropped before it is finished, it removes the file.
pub(super) struct Writer {
    fs: Arc<dyn Fs>,
    file: Box<dyn File>,
    path: PathBuf,
    number: u64,
    /// The block that is being filled, with room for its frame.
    block: Vec<u8>,
    first: Option<Bytes>,
    index: Vec<Block>,
    end: u64,
    entries: u64,
    is_finished: bool,
}

impl Writer {
    pub(super) fn create(fs: &Arc<dyn Fs>, dir: &Path, number: u64) -> Result<Self, StorageError> {
        let path = segment_path(dir, number);
        let file = fs
            .open(&path, OpenMode::CreateNew)
            .map_err(StorageError::io("make", &path))?;
        let writer = Self {
            fs: Arc::clone(fs),
            file,
            path,
            number,
            block: vec![0; FRAME],
            first: None,
            index: Vec::new(),
            end: HEADER,
            entries: 0,
            is_finished: false,
        };
        writer.write(&header(number), 0)?;
        Ok(writer)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        write_all(&*self.file, bytes, offset).map_err(StorageError::io("write to", &self.path))
    }

    /// Adds a key, which comes after all before it, and what it held after a record; `None`: it was
    /// gone.
    pub(super) fn add(
        &mut self,
        key: &Bytes,
        lsn: Lsn,
        record: Option<&Record>,
    ) -> Result<(), StorageError> {
        let unknown = || StorageError::stuck("a value of an unknown kind");
        let state = match record {
            None => State::Gone,
            Some(record) => State::There {
                content: Content::of(&record.value).ok_or_else(unknown)?,
                deadline: record.expires_at(),
            },
        };
        let entry = Entry {
            key: Raw(key),
            lsn: lsn.get(),
            state,
        };
        encode(&entry, &mut self.block).map_err(|_| unknown())?;
        self.first.get_or_insert_with(|| key.clone());
        self.entries += 1;
        if self.block.len() >= BLOCK {
            self.end_block()?;
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), StorageError> {
        let Some(first) = self.first.take() else {
            return Ok(());
        };
        let (offset, len) = (self.end, self.write_block()?);
        self.index.push(Block {
            offset,
            len,
            first: Element(first),
        });
        Ok(())
    }

    /// Writes the block that was filled, and says how long it is.
    fn write_block(&mut self) -> Result<u64, StorageError> {
        let len = self.block.len();
        let payload = (len - FRAME) as u64;
        let sum = sum(self.number, self.end, &self.block[FRAME..]);
        self.block[..8].copy_from_slice(&payload.to_le_bytes());
        self.block[8..FRAME].copy_from_slice(&sum.to_le_bytes());
        self.write(&self.block, self.end)?;
        self.end += len as u64;
        self.block.truncate(FRAME);
        self.block.shrink_to(2 * BLOCK);
        Ok(len as u64)
    }

    /// Writes what is left, and syncs. Without entries there is no segment. The name is not durable
    /// yet.
    pub(super) fn finish(mut self) -> Result<Option<Segment>, StorageError> {
        if self.entries == 0 {
            return Ok(None);
        }
        self.end_block()?;
        let place = self.end;
        encode(&self.index, &mut self.block)
            .map_err(|error| StorageError::stuck(format!("cannot encode an index: {error}")))?;
        let len = self.write_block()?;
        let len = u32::try_from(len)
            .map_err(|_| StorageError::stuck("a segment's index is too large"))?;
        let footer = footer(self.number, (place, len), self.entries);
        self.write(&footer, self.end)?;
        self.file
            .sync_data()
            .map_err(StorageError::io("sync", &self.path))?;
        self.is_finished = true;
        Ok(Some(Segment {
            number: self.number,
            bytes: self.end + FOOTER as u64,
            entries: self.entries,
        }))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_finished {
            // What stays is removed at the next start.
            let _ = remove(&*self.fs, &self.path);
        }
    }
}

/// A key of a segment.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) key: Bytes,
    /// The record after which it was so.
    pub(super) lsn: Lsn,
    /// `None`: it was gone.
    pub(super) record: Option<Record>,
}

/// Reads a segment.
#[derive(Debug)]
pub(super) struct Reader {
    file: Box<dyn File>,
    path: PathBuf,
    number: u64,
    index: Vec<Block>,
}

impl Reader {
    pub(super) fn open(fs: &dyn Fs, dir: &Path, segment: &Segment) -> Result<Self, StorageError> {
        let path = segment.path(dir);
        let corrupt = |offset, what: &str| StorageError::corrupt(&path, offset, what);
        let file = match fs.open(&path, OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(0, "the manifest lists it, and it is not there"));
            }
            file => file.map_err(StorageError::io("open", &path))?,
        };
        let len = file.len().map_err(StorageError::io("read", &path))?;
        if len != segment.bytes || len < HEADER + FOOTER as u64 {
            return Err(corrupt(len, "it ends elsewhere than the manifest says"));
        }
        let number = segment.number;
        let head = read(&*file, &path, 0, HEADER as usize)?;
        let version = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if head[..8] == MAGIC && version != VERSION {
            return Err(StorageError::version(&path, version));
        }
        if head != header(number) {
            return Err(corrupt(0, "its header is wrong"));
        }
        let place = len - FOOTER as u64;
        let foot = read(&*file, &path, place, FOOTER)?;
        let (foot_index, rest) = foot.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let (foot_len, rest) = rest.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        let foot_entries = rest.first_chunk::<8>().unwrap_or(&[0; 8]);
        let offset = u64::from_le_bytes(*foot_index);
        let index_len = u32::from_le_bytes(*foot_len);
        let entries = u64::from_le_bytes(*foot_entries);
        let ends = offset.checked_add(u64::from(index_len));
        if ends != Some(place)
            || foot != footer(number, (offset, index_len), entries)
            || entries != segment.entries
        {
            return Err(corrupt(place, "its footer is wrong"));
        }
        let mut reader = Self {
            file,
            path,
            number,
            index: Vec::new(),
        };
        let mut bytes = Vec::new();
        reader.read_block(offset, index_len.into(), &mut bytes)?;
        let index: Result<(Vec<Block>, &[u8]), _> = postcard::take_from_bytes(&bytes);
        let Ok((index, [])) = index else {
            return Err(reader.corrupt(offset, "its index cannot be read"));
        };
        reader.index = index;
        reader.check_index(offset)?;
        Ok(reader)
    }

    /// The blocks lie one after the other, and so do their keys.
    fn check_index(&self, end: u64) -> Result<(), StorageError> {
        let mut at = HEADER;
        for block in &self.index {
            if block.offset != at || block.len < FRAME as u64 || block.len > end - at {
                return Err(self.corrupt(end, "its index names no block"));
            }
            at += block.len;
        }
        let is_sorted = self.index.is_sorted_by_key(|block| &*block.first.0);
        if at != end || !is_sorted {
            return Err(self.corrupt(end, "its index is wrong"));
        }
        Ok(())
    }

    fn corrupt(&self, offset: u64, what: &str) -> StorageError {
        StorageError::corrupt(&self.path, offset, what)
    }

    fn read_block(&self, offset: u64, len: u64, to: &mut Vec<u8>) -> Result<(), StorageError> {
        // The length was checked against the file's.
        to.resize(len as usize, 0);
        let read = read_full(&*self.file, to, offset);
        let read = read.map_err(StorageError::io("read", &self.path))?;
        let Some((frame, payload)) = to[..read].split_first_chunk::<FRAME>() else {
            return Err(self.corrupt(offset, "a block is cut off"));
        };
        let (says, is) = (payload.len() as u64, sum(self.number, offset, payload));
        if frame[..8] != says.to_le_bytes() || frame[8..] != is.to_le_bytes() {
            return Err(self.corrupt(offset, "a block's checksum is wrong"));
        }
        to.drain(..FRAME);
        Ok(())
    }

    /// Where the blocks begin: keys, with the bytes of each block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (&Bytes, u64)> {
        let blocks = self.index.iter();
        blocks.map(|block| (&block.first.0, block.len))
    }

    /// The keys from `from` on that are below `to`, in order. Adds the bytes that are read to
    /// `read`.
    pub(super) fn range<'a>(
        &'a self,
        from: Option<&'a [u8]>,
        to: Option<&'a [u8]>,
        read: &'a AtomicU64,
    ) -> Items<'a> {
        let first = from.map_or(0, |from| {
            let after = self.index.partition_point(|block| *block.first.0 <= *from);
            after.saturating_sub(1)
        });
        Items {
            reader: self,
            next: first,
            from,
            to,
            bytes: Vec::new(),
            at: 0,
            read,
        }
    }
}

fn read(file: &dyn File, path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, StorageError> {
    let mut bytes = vec![0; len];
    let read = read_full(file, &mut bytes, offset).map_err(StorageError::io("read", path))?;
    if read < len {
        return Err(StorageError::corrupt(path, offset, "it is cut off"));
    }
    Ok(bytes)
}

/// The keys of a part of a segment.
pub(super) struct Items<'a> {
    reader: &'a Reader,
    /// The next block.
    next: usize,
    from: Option<&'a [u8]>,
    to: Option<&'a [u8]>,
    bytes: Vec<u8>,
    at: usize,
    read: &'a AtomicU64,
}

impl Items<'_> {
    fn end(&mut self) {
        self.next = usize::MAX;
        self.bytes.clear();
        self.at = 0;
    }

    fn step(&mut self) -> Result<Option<Item>, StorageError> {
        loop {
            while self.at == self.bytes.len() {
                let Some(block) = self.reader.index.get(self.next) else {
                    return Ok(None);
                };
                if self.to.is_some_and(|to| *block.first.0 >= *to) {
                    return Ok(None);
                }
                let reader = self.reader;
                reader.read_block(block.offset, block.len, &mut self.bytes)?;
                self.read.fetch_add(block.len, Ordering::Relaxed);
                self.next += 1;
                self.at = 0;
            }
            let rest = &self.bytes[self.at..];
            let Ok((entry, after)) = postcard::take_from_bytes::<Entry<'_>>(rest) else {
                let offset = self.reader.index[self.next - 1].offset;
                return Err(self.reader.corrupt(offset, "an entry cannot be read"));
            };
            self.at = self.bytes.len() - after.len();
            if self.from.is_some_and(|from| entry.key.0 < from) {
                continue;
            }
            if self.to.is_some_and(|to| entry.key.0 >= to) {
                return Ok(None);
            }
            let record = match entry.state {
                State::Gone => None,
                State::There { content, deadline } => Some(content.into_record(deadline)),
            };
            // An empty list is a missing key, whoever wrote it.
            let record =
                record.filter(|it| !matches!(&it.value, Value::List(list) if list.is_empty()));
            return Ok(Some(Item {
                key: Bytes::from(entry.key.0),
                lsn: Lsn::new(entry.lsn),
                record,
            }));
        }
    }
}

impl Iterator for Items<'_> {
    type Item = Result<Item, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if !matches!(step, Some(Ok(_))) {
            self.end();
        }
        step
    }
}
