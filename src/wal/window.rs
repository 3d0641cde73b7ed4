//! Reading a file from front to back without holding it in memory.

use std::io;

use crate::os::fs::{File, read_full};

/// What is read at a time, at least.
const CHUNK: usize = 256 << 10;

/// A part of a file, which moves forward.
pub(super) struct Window<'a> {
    file: &'a dyn File,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a dyn File) -> io::Result<Self> {
        Ok(Self {
            end: file.len()?,
            file,
            start: 0,
            bytes: Vec::new(),
        })
    }

    /// Where the file ends.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The `len` bytes from `offset` on, or as many as there are. No memory is taken beyond the
    /// file's length.
    pub(super) fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let is_here =
            offset >= self.start && offset + len as u64 <= self.start + self.bytes.len() as u64;
        if !is_here {
            self.bytes.resize(len.max(CHUNK).min(left), 0);
            self.start = offset;
            let read = read_full(self.file, &mut self.bytes, offset)?;
            self.bytes.truncate(read);
        }
        let begin = (offset - self.start) as usize;
        let end = (begin + len).min(self.bytes.len());
        Ok(&self.bytes[begin.min(end)..end])
    }
}
