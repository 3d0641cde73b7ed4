//! An open transaction: the commands between `MULTI` and `EXEC`, and the keys that `WATCH` named.
//!
//! All arguments lie one behind the other in one piece of memory, found by offsets: an argument
//! costs its bytes and 8 more, a command 16. What a client can make the server hold this way is
//! bounded by `--max-queued`.

use crate::commands::Command;
use crate::request::{Args, Span};

/// There is no room for more.
#[derive(Debug)]
pub(crate) struct Full;

/// Queued commands.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// Each command, and how many spans there are up to its end.
    commands: Vec<(&'static Command, u32)>,
    failed: bool,
}

impl Queue {
    /// Takes a command, unless all of it would be more than `limit` bytes, which is at most as much
    /// as a request may have.
    pub(crate) fn push(
        &mut self,
        command: &'static Command,
        args: Args<'_>,
        limit: usize,
    ) -> Result<(), Full> {
        let bytes: usize = args.iter().map(<[u8]>::len).sum();
        let slots = args.len() * size_of::<Span>() + size_of_val(&(command, 0u32));
        if self.used() + bytes + slots > limit {
            return Err(Full);
        }
        for argument in args.iter() {
            // Both fit: they are below the limit.
            self.spans.push(Span {
                start: self.bytes.len() as u32,
                len: argument.len() as u32,
            });
            self.bytes.extend_from_slice(argument);
        }
        self.commands.push((command, self.spans.len() as u32));
        Ok(())
    }

    /// A command was refused: the transaction will be as well, and what is queued is of no more
    /// use.
    pub(crate) fn fail(&mut self) {
        *self = Self {
            failed: true,
            ..Self::default()
        };
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    pub(crate) fn command(&self, index: usize) -> &'static Command {
        self.commands[index].0
    }

    pub(crate) fn args(&self, index: usize) -> Args<'_> {
        let start = match index.checked_sub(1) {
            None => 0,
            Some(before) => self.commands[before].1 as usize,
        };
        Args {
            bytes: &self.bytes,
            spans: &self.spans[start..self.commands[index].1 as usize],
        }
    }

    /// How many bytes it makes the server hold.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity()
            + self.spans.capacity() * size_of::<Span>()
            + self.commands.capacity() * size_of::<(&Command, u32)>()
    }

    fn used(&self) -> usize {
        self.bytes.len()
            + self.spans.len() * size_of::<Span>()
            + self.commands.len() * size_of::<(&Command, u32)>()
    }
}

/// Watched keys, each with the version that it had. A key that was named twice is here twice: if it
/// changed in between, one of the two is out of date anyway.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    keys: Vec<(Box<[u8]>, u64)>,
    bytes: usize,
}

impl Watched {
    pub(crate) fn push(&mut self, key: &[u8], version: u64, limit: usize) -> Result<(), Full> {
        let bytes = self.bytes + key.len() + size_of::<(Box<[u8]>, u64)>();
        if bytes > limit {
            return Err(Full);
        }
        self.bytes = bytes;
        self.keys.push((key.into(), version));
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.keys.iter().map(|(key, version)| (&**key, *version))
    }

    pub(crate) fn memory(&self) -> usize {
        self.bytes
    }
}
