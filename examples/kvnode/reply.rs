//! Replies in RESP2, appended to one buffer: those to one connection's burst of requests lie
//! together, and those to several connections may lie one behind the other until all of them are
//! written.

use std::ops::Range;

/// The most bytes that may wait for one client. Above the longest value, so that only a reply made
/// of many values can reach it; the client is then disconnected, as Redis does at its output buffer
/// limit.
pub(crate) const REPLY_MAX: usize = 1024 * 1024 * 1024;

/// The output buffer. Once the current connection's replies have overflowed it takes nothing more
/// for that one.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    /// Where the current connection's replies begin.
    start: usize,
    overflowed: bool,
    errors: u64,
}

impl Reply {
    pub(crate) fn status(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    pub(crate) fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// `text` starts with the error's code, as in `ERR syntax error`.
    pub(crate) fn error(&mut self, text: &[u8]) {
        self.errors += 1;
        self.raw(b"-");
        // A line break inside would end the reply early and desynchronise the client.
        let start = self.bytes.len();
        self.raw(text);
        for byte in &mut self.bytes[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.raw(b"\r\n");
    }

    pub(crate) fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    pub(crate) fn count(&mut self, number: u64) {
        self.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }

    pub(crate) fn flag(&mut self, flag: bool) {
        self.raw(if flag { b":1\r\n" } else { b":0\r\n" });
    }

    pub(crate) fn nil(&mut self) {
        self.raw(b"$-1\r\n");
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        if self.len() + bytes.len() > REPLY_MAX {
            self.overflowed = true;
            return;
        }
        self.number(b'$', bytes.len() as i64);
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    /// The header of an array; `len` replies follow.
    pub(crate) fn array(&mut self, len: usize) {
        self.number(b'*', len as i64);
    }

    /// Turns to the next connection.
    pub(crate) fn begin(&mut self) {
        self.start = self.bytes.len();
        self.overflowed = false;
    }

    /// How many bytes the current connection's replies are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Where the current connection's replies lie.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.bytes.len()
    }

    pub(crate) fn get(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Forgets the current connection's replies.
    pub(crate) fn discard(&mut self) {
        self.bytes.truncate(self.start);
    }

    pub(crate) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// How many error replies there have been since this was last asked.
    pub(crate) fn take_errors(&mut self) -> u64 {
        std::mem::take(&mut self.errors)
    }

    /// Empties the buffer, and keeps its memory if that is a reasonable amount.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1024 * 1024);
        self.begin();
    }

    fn line(&mut self, mark: u8, text: &[u8]) {
        self.raw(&[mark]);
        self.raw(text);
        self.raw(b"\r\n");
    }

    fn number(&mut self, mark: u8, number: i64) {
        self.line(mark, itoa::Buffer::new().format(number).as_bytes());
    }

    fn raw(&mut self, bytes: &[u8]) {
        if self.len() + bytes.len() > REPLY_MAX {
            self.overflowed = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }
}
