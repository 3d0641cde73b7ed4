//! A client's requests, out of the bytes it sent: RESP2 arrays of bulk strings, and inline lines
//! for people with telnet.
//!
//! A pure state machine over a byte slice; it owns no socket and copies no argument. It is
//! resumable: when a request is incomplete the parser keeps what it has learnt as offsets from the
//! request's first byte, so a request that arrives in a thousand pieces is read once, not a
//! thousand times, and where the pieces were cut makes no difference to the outcome. What a header
//! announces is never allocated: memory follows the bytes that have arrived (8 bytes an argument,
//! whose shortest form is 6 bytes on the wire, or 2 in an inline request, which is short itself).
//!
//! Limits and error texts are those of Redis 7.0. It is stricter in two places: every header and
//! argument must really end in CR LF, because a miscounted argument would silently turn data into
//! commands, and a request holds at most [`ARGUMENTS_MAX`] arguments.

use std::borrow::Cow;

/// The longest line: an inline request, or the header of an array or of an argument.
pub(crate) const LINE_MAX: usize = 64 * 1024;
/// The longest argument.
pub(crate) const ARGUMENT_MAX: usize = 512 * 1024 * 1024;
/// The most arguments in one request.
pub(crate) const ARGUMENTS_MAX: usize = 1024 * 1024;
/// The longest request, headers included.
pub(crate) const REQUEST_MAX: usize = 1024 * 1024 * 1024;

/// The input cannot be understood; the connection is to be told so and closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProtocolError(Cow<'static, str>);

impl ProtocolError {
    const fn new(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// What to tell the client, without the leading `-ERR Protocol error: `.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

/// Where one argument lies; `u32` is enough for [`REQUEST_MAX`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) len: u32,
}

/// The arguments of one request, the command's name first. Empty for a blank line or an empty
/// array, which get no reply.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Args<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) spans: &'a [Span],
}

impl<'a> Args<'a> {
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(crate) fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|&span| self.slice(span))
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let args = *self;
        args.spans.iter().map(move |&span| args.slice(span))
    }

    /// The arguments from `first` on; none if there are fewer.
    pub(crate) fn from(&self, first: usize) -> Args<'a> {
        Args {
            bytes: self.bytes,
            spans: self.spans.get(first..).unwrap_or_default(),
        }
    }

    fn slice(&self, span: Span) -> &'a [u8] {
        let start = span.start as usize;
        &self.bytes[start..start + span.len as usize]
    }
}

impl std::ops::Index<usize> for Args<'_> {
    type Output = [u8];

    fn index(&self, index: usize) -> &[u8] {
        self.slice(self.spans[index])
    }
}

/// A complete request and its length on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) args: Args<'a>,
    pub(crate) len: usize,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// Nothing of the request is known; `at` is how much of its first line has been searched for
    /// the line's end.
    #[default]
    First,
    /// Before the header of an argument; `remaining` arguments are to come, this one included.
    Header { remaining: u32 },
    /// Inside an argument of `len` bytes.
    Argument { remaining: u32, len: u32 },
}

/// Reads one connection's requests, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    state: State,
    /// How much of the request has been dealt with; in [`State::First`], searched.
    at: usize,
    spans: Vec<Span>,
    /// The words of an inline request, quotes and escapes removed.
    words: Vec<u8>,
}

impl Parser {
    /// Reads on. `bytes` starts with the first byte of the current request, always the same until
    /// the request has been returned, and holds everything that has arrived since. `None` means
    /// that more is needed.
    ///
    /// After a request was returned the next call starts a new one. After an error the parser is of
    /// no further use.
    pub(crate) fn parse<'a>(
        &'a mut self,
        bytes: &'a [u8],
    ) -> Result<Option<Request<'a>>, ProtocolError> {
        if let State::First = self.state {
            if self.at == 0 {
                self.spans.clear();
                self.words.clear();
            }
            match bytes.first() {
                None => return Ok(None),
                Some(b'*') => {
                    let Some((count, next)) = self.header(bytes, 0, &ARRAY)? else {
                        return Ok(None);
                    };
                    if count <= 0 {
                        return Ok(Some(self.complete(bytes, next)));
                    }
                    self.state = State::Header {
                        remaining: count as u32,
                    };
                    self.at = next;
                }
                Some(_) => return self.inline(bytes),
            }
        }
        self.array(bytes)
    }

    /// How many more bytes the request needs at the very least, `have` having arrived: a hint for
    /// the next read.
    pub(crate) fn wants(&self, have: usize) -> usize {
        match self.state {
            State::Argument { len, .. } => (self.at + len as usize + 2).saturating_sub(have),
            _ => 1,
        }
    }

    /// How many bytes this parser holds.
    pub(crate) fn memory(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.words.capacity()
    }

    /// Between requests, gives back memory that only a big one needed.
    pub(crate) fn shrink(&mut self) {
        if !matches!(self.state, State::First) {
            return;
        }
        if self.spans.capacity() > 1024 {
            self.spans = Vec::new();
        }
        if self.words.capacity() > LINE_MAX / 4 {
            self.words = Vec::new();
        }
    }

    fn complete<'a>(&'a mut self, bytes: &'a [u8], len: usize) -> Request<'a> {
        self.state = State::First;
        self.at = 0;
        Request {
            args: Args {
                bytes,
                spans: &self.spans,
            },
            len,
        }
    }

    fn array<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<Request<'a>>, ProtocolError> {
        loop {
            match self.state {
                State::First => return Ok(None),
                State::Header { remaining } => {
                    let Some((len, next)) = self.header(bytes, self.at, &BULK)? else {
                        return Ok(None);
                    };
                    if next + len as usize + 2 > REQUEST_MAX {
                        return Err(ProtocolError::new("too big request"));
                    }
                    self.state = State::Argument {
                        remaining,
                        len: len as u32,
                    };
                    self.at = next;
                }
                State::Argument { remaining, len } => {
                    let end = self.at + len as usize;
                    if bytes.len() < end + 2 {
                        return Ok(None);
                    }
                    if bytes[end..end + 2] != *b"\r\n" {
                        return Err(ProtocolError::new("expected CRLF after bulk string"));
                    }
                    self.spans.push(Span {
                        start: self.at as u32,
                        len,
                    });
                    self.at = end + 2;
                    if remaining == 1 {
                        return Ok(Some(self.complete(bytes, end + 2)));
                    }
                    self.state = State::Header {
                        remaining: remaining - 1,
                    };
                }
            }
        }
    }

    /// Reads `*<count>` or `$<len>` and its CR LF at `start`: the number, and where the header
    /// ends.
    fn header(
        &self,
        bytes: &[u8],
        start: usize,
        kind: &Header,
    ) -> Result<Option<(i64, usize)>, ProtocolError> {
        let line = &bytes[start..];
        let Some(end) = line.iter().take(LINE_MAX).position(|&byte| byte == b'\r') else {
            return if line.len() >= LINE_MAX {
                Err(ProtocolError::new(kind.too_big))
            } else {
                Ok(None)
            };
        };
        let Some(&last) = line.get(end + 1) else {
            return Ok(None);
        };
        if line[0] != kind.mark {
            let got = match line[0] {
                b'\r' | b'\n' => ' ',
                byte if byte.is_ascii_graphic() || byte == b' ' => char::from(byte),
                _ => '?',
            };
            return Err(ProtocolError(Cow::Owned(format!(
                "expected '$', got '{got}'"
            ))));
        }
        match parse_integer(&line[1..end]) {
            Some(number) if kind.range.contains(&number) && last == b'\n' => {
                Ok(Some((number, start + end + 2)))
            }
            _ => Err(ProtocolError::new(kind.invalid)),
        }
    }

    fn inline<'a>(&'a mut self, bytes: &'a [u8]) -> Result<Option<Request<'a>>, ProtocolError> {
        let searched = self.at;
        let limit = bytes.len().min(LINE_MAX + 1);
        let Some(found) = bytes[searched..limit]
            .iter()
            .position(|&byte| byte == b'\n')
        else {
            if bytes.len() > LINE_MAX {
                return Err(ProtocolError::new("too big inline request"));
            }
            self.at = bytes.len();
            return Ok(None);
        };
        let end = searched + found;
        let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
        if !self.split(line) {
            return Err(ProtocolError::new("unbalanced quotes in request"));
        }
        self.state = State::First;
        self.at = 0;
        Ok(Some(Request {
            args: Args {
                bytes: &self.words,
                spans: &self.spans,
            },
            len: end + 1,
        }))
    }

    /// Splits a line into words as a shell would: blanks separate, `'…'` quotes, `"…"` quotes with
    /// escapes. False if a quote is left open or something follows a closing quote directly.
    fn split(&mut self, line: &[u8]) -> bool {
        self.spans.clear();
        self.words.clear();
        let is_blank = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b;
        let mut rest = line;
        loop {
            while let [first, tail @ ..] = rest
                && is_blank(*first)
            {
                rest = tail;
            }
            if rest.is_empty() {
                return true;
            }
            let start = self.words.len();
            let mut quote = None;
            loop {
                let Some((&byte, tail)) = rest.split_first() else {
                    if quote.is_some() {
                        return false;
                    }
                    break;
                };
                rest = tail;
                match (quote, byte) {
                    (None, b' ' | b'\n' | b'\r' | b'\t') => break,
                    (None, b'"' | b'\'') => quote = Some(byte),
                    (Some(b'"'), b'\\') => match tail {
                        [b'x', high, low, after @ ..]
                            if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                        {
                            self.words.push(hex(*high) << 4 | hex(*low));
                            rest = after;
                        }
                        [escaped, after @ ..] => {
                            self.words.push(match escaped {
                                b'n' => b'\n',
                                b'r' => b'\r',
                                b't' => b'\t',
                                b'b' => 0x08,
                                b'a' => 0x07,
                                other => *other,
                            });
                            rest = after;
                        }
                        [] => self.words.push(b'\\'),
                    },
                    (Some(b'\''), b'\\') if tail.first() == Some(&b'\'') => {
                        self.words.push(b'\'');
                        rest = &tail[1..];
                    }
                    (Some(open), byte) if open == byte => {
                        if rest.first().is_some_and(|&next| !is_blank(next)) {
                            return false;
                        }
                        break;
                    }
                    (_, byte) => self.words.push(byte),
                }
            }
            self.spans.push(Span {
                start: start as u32,
                len: (self.words.len() - start) as u32,
            });
        }
    }
}

/// What differs between the two kinds of header.
struct Header {
    mark: u8,
    range: std::ops::RangeInclusive<i64>,
    invalid: &'static str,
    too_big: &'static str,
}

const ARRAY: Header = Header {
    mark: b'*',
    range: i64::MIN..=ARGUMENTS_MAX as i64,
    invalid: "invalid multibulk length",
    too_big: "too big mbulk count string",
};

const BULK: Header = Header {
    mark: b'$',
    range: 0..=ARGUMENT_MAX as i64,
    invalid: "invalid bulk length",
    too_big: "too big bulk count string",
};

fn hex(digit: u8) -> u8 {
    char::from(digit)
        .to_digit(16)
        .map_or(0, |value| value as u8)
}

/// Reads a number as Redis does: an optional minus, no plus, no leading zeros, no blanks, all of an
/// `i64`.
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut magnitude: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // 19 digits cannot overflow a u64.
        magnitude = magnitude * 10 + u64::from(digit - b'0');
    }
    if negative {
        0i64.checked_sub_unsigned(magnitude)
    } else {
        i64::try_from(magnitude).ok()
    }
}
