//! Replies, appended to one buffer: those to one connection's burst of requests lie together, and
//! those to several connections may lie one behind the other until all of them are written.
//!
//! A connection speaks RESP2 until it asks for RESP3 with `HELLO 3`. A handler says what its reply
//! means (nothing, a map, a set, a text for people); the form that RESP2 has for it is found here.

use std::ops::Range;

use crate::held::Observed;

/// The most bytes that may wait for one client. Above the longest value, so that only a reply made
/// of many values can reach it; the client is then disconnected, as Redis does at its output buffer
/// limit.
pub(crate) const REPLY_MAX: usize = 1024 * 1024 * 1024;

/// The dialect that a connection speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

impl Protocol {
    /// As `HELLO` counts them.
    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        }
    }
}

/// The output buffer. Once the current connection's replies have overflowed it takes nothing more
/// for that one.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    bytes: Vec<u8>,
    /// Where the current connection's replies begin.
    start: usize,
    /// What the current connection speaks.
    protocol: Protocol,
    overflowed: bool,
    errors: u64,
    observed: Observed,
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
        // A line break inside would end the reply early and desynchronise the client. At the end,
        // where the text repeats what the client sent, it goes.
        let kept = text.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n'));
        let start = self.bytes.len();
        self.raw(&text[..kept.map_or(0, |last| last + 1)]);
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

    /// No value where a string would be.
    pub(crate) fn nil(&mut self) {
        self.either(b"$-1\r\n", b"_\r\n");
    }

    /// No value where an array would be.
    pub(crate) fn nil_array(&mut self) {
        self.either(b"*-1\r\n", b"_\r\n");
    }

    /// A truth value; for most commands Redis says [`flag`](Self::flag) instead.
    pub(crate) fn boolean(&mut self, truth: bool) {
        match self.protocol {
            Protocol::Resp2 => self.flag(truth),
            Protocol::Resp3 if truth => self.raw(b"#t\r\n"),
            Protocol::Resp3 => self.raw(b"#f\r\n"),
        }
    }

    /// A number given by its digits.
    pub(crate) fn double(&mut self, digits: &str) {
        self.digits(b',', digits);
    }

    /// An integer of any size, given by its digits.
    pub(crate) fn big_number(&mut self, digits: &str) {
        self.digits(b'(', digits);
    }

    /// A text for people.
    pub(crate) fn verbatim(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => self.string(b'=', b"txt:", text),
        }
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.string(b'$', b"", bytes);
    }

    /// The header of an array; `len` replies follow.
    pub(crate) fn array(&mut self, len: usize) {
        self.number(b'*', len as i64);
    }

    /// The header of a map; `len` pairs of replies follow.
    pub(crate) fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(len * 2),
            Protocol::Resp3 => self.number(b'%', len as i64),
        }
    }

    /// The header of a set; `len` replies follow.
    pub(crate) fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.array(len),
            Protocol::Resp3 => self.number(b'~', len as i64),
        }
    }

    /// The header of attributes of the next reply; `len` pairs follow. Only RESP3 has them.
    pub(crate) fn attributes(&mut self, len: usize) {
        self.number(b'|', len as i64);
    }

    /// The header of a message that is no reply; `len` replies follow. Only RESP3 has them.
    pub(crate) fn push(&mut self, len: usize) {
        self.number(b'>', len as i64);
    }

    /// Turns to the next connection.
    pub(crate) fn begin(&mut self, protocol: Protocol) {
        self.start = self.bytes.len();
        self.protocol = protocol;
        self.overflowed = false;
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The current connection has asked for another dialect, from its next reply on.
    pub(crate) fn speak(&mut self, protocol: Protocol) {
        self.protocol = protocol;
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
        self.truncate(0);
    }

    /// Forgets what the current connection's replies have beyond `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(self.start + len);
    }

    pub(crate) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// How many error replies there have been since this was last asked.
    pub(crate) fn take_errors(&mut self) -> u64 {
        std::mem::take(&mut self.errors)
    }

    /// The current connection's replies may tell of this as well.
    pub(crate) fn observe(&mut self, observed: Observed) {
        self.observed = self.observed.and(observed);
    }

    /// What they tell of, since this was last asked.
    pub(crate) fn take_observed(&mut self) -> Observed {
        std::mem::take(&mut self.observed)
    }

    /// Empties the buffer, and keeps its memory if that is a reasonable amount.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(1024 * 1024);
        self.begin(Protocol::default());
    }

    fn either(&mut self, resp2: &[u8], resp3: &[u8]) {
        self.raw(match self.protocol {
            Protocol::Resp2 => resp2,
            Protocol::Resp3 => resp3,
        });
    }

    fn digits(&mut self, mark: u8, digits: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(digits.as_bytes()),
            Protocol::Resp3 => self.line(mark, digits.as_bytes()),
        }
    }

    fn string(&mut self, mark: u8, prefix: &[u8], bytes: &[u8]) {
        if self.len() + bytes.len() > REPLY_MAX {
            self.overflowed = true;
            return;
        }
        self.number(mark, (prefix.len() + bytes.len()) as i64);
        self.raw(prefix);
        self.raw(bytes);
        self.raw(b"\r\n");
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
