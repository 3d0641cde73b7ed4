//! Commands: looked up in one table, checked, run.
//!
//! A handler gets its arguments (the name first, as on the wire) and appends exactly one reply, or
//! returns an error before having appended any; a blocking one may leave the reply for later. The
//! texts of errors are Redis 7.0's. Handlers are generic over the store, so that those in a
//! transaction are the same ones; the table has both forms of each.
//!
//! # Where it differs from Redis 7.0
//!
//! All other replies and effects are the same, byte for byte: `tests/kvnode/differential.rs` and
//! `schedule.rs` compare them with a redis-server's.
//!
//! * A command about all keys (`FLUSHALL`, `DBSIZE`, `KEYS`, `SCAN`, `RANDOMKEY`) inside `MULTI`
//!   splits the transaction: what is queued before it and after it are atomic each, not together,
//!   and serve blocked clients each.
//! * `WATCH` compares versions. A missing key that came and went meanwhile is as it was, and
//!   so is a key to which nothing was appended; Redis takes both for changes.
//! * A transaction, or a set of watched keys, beyond `--max-queued` is refused.
//! * `DBSIZE` counts an expired key until a write or the sweeper comes across it.
//! * `COMMAND INFO` tells no categories, tips or key specifications, `COMMAND DOCS` nothing.
//! * A time-out of a blocking command is a decimal number; Redis takes hexadecimal ones as well. It
//!   is kept to the millisecond; Redis looks ten times a second.
//! * Clients that one command serves, and that have sent more requests, run these at the same time;
//!   Redis runs the ones of the first client first.
//! * The order of keys in `KEYS`, `SCAN` and `RANDOMKEY`, and how far one `SCAN` comes, are the
//!   store's own; `INFO`, `CLIENT LIST`, `CONFIG GET`, `COMMAND`, `MEMORY USAGE` tell about this
//!   server.
//! * `SAVE` and `BGSAVE SCHEDULE` while a save is going on are done after it; Redis refuses them.
//! * `LPOS … RANK -9223372036854775808` is an error, as in 7.2.
//! * `CLIENT REPLY OFF` or `SKIP` inside `MULTI` silences all of `EXEC`'s reply.
//! * Framing is stricter, see [`request`](crate::request).

mod blocking;
mod client;
mod connection;
mod info;
mod keys;
mod keyspace;
mod lists;
mod persistence;
mod server;
mod strings;
mod table;
mod transactions;

use std::borrow::Cow;
use std::sync::Arc;

use latchwork::rmw::{Rmw, RmwError, Store};

use crate::clients::Client;
use crate::reply::Reply;
use crate::request::{Args, parse_integer};
use crate::server::{Counters, Server};
use crate::session::Session;
use crate::storage::DurableStore;

use persistence::Admission;
pub(crate) use persistence::Saves;
pub(crate) use table::Command;
use table::Dispatch as _;

/// The version whose behaviour this server follows; clients look at it to know what they may use.
const REDIS_VERSION: &str = "7.0.15";

/// What a handler works with. The store is generic: the same handlers run on the store itself and
/// inside a transaction on it.
#[derive(Debug)]
pub(crate) struct Context<'a, S: Store = DurableStore> {
    pub(crate) store: &'a Rmw<S>,
    /// The command that runs.
    pub(crate) command: &'static Command,
    pub(crate) server: &'a Server,
    pub(crate) counters: &'a Counters,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) session: &'a mut Session,
    pub(crate) reply: &'a mut Reply,
}

pub(crate) type Outcome = Result<(), Refusal>;

pub(crate) type Handler<S> = fn(&mut Context<'_, S>, Args<'_>) -> Outcome;

/// Why a command was refused: the error reply's text. It may repeat what the client sent, which
/// need not be UTF-8.
#[derive(Debug)]
pub(crate) struct Refusal(Cow<'static, [u8]>);

impl Refusal {
    /// The error reply, its code first.
    pub(crate) fn text(&self) -> &[u8] {
        &self.0
    }

    const SYNTAX: Self = Self::fixed("ERR syntax error");
    const NOT_AN_INTEGER: Self = Self::fixed("ERR value is not an integer or out of range");
    const NO_SUCH_KEY: Self = Self::fixed("ERR no such key");
    const WRONG_TYPE: Self =
        Self::fixed("WRONGTYPE Operation against a key holding the wrong kind of value");
    const OFFSET: Self = Self::fixed("ERR offset is out of range");

    const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text.as_bytes()))
    }

    fn new(text: String) -> Self {
        Self(Cow::Owned(text.into_bytes()))
    }

    /// A text around something that the client sent.
    fn quoting(before: &str, sent: &[u8], after: &str) -> Self {
        Self(Cow::Owned(
            [
                before.as_bytes(),
                c_string(sent, usize::MAX),
                after.as_bytes(),
            ]
            .concat(),
        ))
    }

    fn arity(command: &Command) -> Self {
        Self::new(format!(
            "ERR wrong number of arguments for '{}' command",
            command.name
        ))
    }

    fn expiry(command: &Command) -> Self {
        Self::new(format!(
            "ERR invalid expire time in '{}' command",
            command.name
        ))
    }
}

impl From<RmwError> for Refusal {
    fn from(error: RmwError) -> Self {
        match error {
            RmwError::NotAnInteger => Self::NOT_AN_INTEGER,
            RmwError::NotAFloat => Self::fixed("ERR value is not a valid float"),
            RmwError::NotFinite => Self::fixed("ERR increment would produce NaN or Infinity"),
            RmwError::Overflow => Self::fixed("ERR increment or decrement would overflow"),
            RmwError::WrongType => Self::WRONG_TYPE,
            RmwError::NoSuchKey => Self::NO_SUCH_KEY,
            RmwError::IndexOutOfRange => Self::fixed("ERR index out of range"),
            RmwError::TooLong { .. } => {
                Self::fixed("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
            }
            // The storage's refusals print as error replies.
            RmwError::Store(error) => Self::new(error.to_string()),
            RmwError::Busy => Self::fixed("BUSY too many commands wait for this key"),
            other => Self::new(format!("ERR {other}")),
        }
    }
}

/// What a request finds when it comes to run.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) server: &'a Server,
    pub(crate) counters: &'a Counters,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) session: &'a mut Session,
    pub(crate) reply: &'a mut Reply,
}

/// Runs one request. False if it is not its time: nothing has happened then, and it is to be run
/// again when the log has room.
pub(crate) fn run(place: Place<'_>, args: Args<'_>) -> bool {
    let Place {
        server,
        counters,
        client,
        session,
        reply,
    } = place;
    session.begin();
    let before = reply.len();
    let mut found = find(args).and_then(|command| {
        if command.takes(args.len()) {
            Ok(command)
        } else {
            Err(Refusal::arity(command))
        }
    });
    if let (Some(storage), Ok(command)) = (&server.storage, &found) {
        match persistence::admit(storage, command, args, session, reply) {
            Admission::Run => {}
            Admission::Wait => return false,
            Admission::Refuse(refusal) => found = Err(refusal),
        }
    }
    Counters::add(&counters.commands, 1);
    let outcome = match (found, session.transaction.as_deref_mut()) {
        (Ok(command), Some(queue)) if !transactions::runs_at_once(command) => {
            let limit = server.options.max_queued;
            transactions::queue(queue, command, args, limit).map(|()| reply.status("QUEUED"))
        }
        (Ok(command), _) => {
            client.runs(code(command));
            let mut context = Context {
                store: &server.store,
                command,
                server,
                counters,
                client,
                session,
                reply,
            };
            DurableStore::handler(command)(&mut context, args)
        }
        (Err(refusal), _) => Err(transactions::refuse(session, args, refusal)),
    };
    if let Err(Refusal(text)) = outcome {
        reply.error(&text);
    }
    if !session.end() {
        reply.truncate(before);
        if let Some(blocked) = &mut session.blocked {
            blocked.silent = true;
        }
    }
    true
}

/// Finds the command, or the subcommand if it has some.
fn find(args: Args<'_>) -> Result<&'static Command, Refusal> {
    let Some(command) = table::find(&args[0]) else {
        return Err(unknown(args));
    };
    match args.get(1) {
        Some(name) if !command.subcommands.is_empty() => {
            command.subcommand(name).ok_or_else(|| {
                let parent = command.name.to_uppercase();
                let name = c_string(name, 128);
                Refusal::quoting(
                    "ERR unknown subcommand '",
                    name,
                    &format!("'. Try {parent} HELP."),
                )
            })
        }
        _ => Ok(command),
    }
}

#[cold]
fn unknown(args: Args<'_>) -> Refusal {
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(c_string(&args[0], 128));
    text.extend_from_slice(b"', with args beginning with: ");
    let mut shown: usize = 0;
    for argument in args.from(1).iter() {
        if shown >= 128 {
            break;
        }
        let part = c_string(argument, 128 - shown);
        text.push(b'\'');
        text.extend_from_slice(part);
        text.extend_from_slice(b"' ");
        shown += part.len() + 3;
    }
    Refusal(Cow::Owned(text))
}

/// The first bytes, `most` at the most and none from the first NUL on: what C's `%.*s` prints.
fn c_string(bytes: &[u8], most: usize) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(most)];
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    &bytes[..end]
}

/// What identifies a command in an atomic: its address in the table.
fn code(command: &'static Command) -> usize {
    std::ptr::from_ref(command).addr()
}

/// The name that goes with a [`code`]; `NULL` for none, as Redis says.
pub(crate) fn name_of(wanted: usize) -> &'static str {
    table::all()
        .find(|command| code(command) == wanted)
        .map_or("NULL", |command| command.name)
}

/// A keyword in lower case, without an allocation; empty if longer than any keyword.
#[derive(Debug)]
struct Word {
    bytes: [u8; 16],
    len: usize,
}

fn word(argument: &[u8]) -> Word {
    let mut word = Word {
        bytes: [0; 16],
        len: 0,
    };
    if let Some(room) = word.bytes.get_mut(..argument.len()) {
        room.copy_from_slice(argument);
        room.make_ascii_lowercase();
        word.len = argument.len();
    }
    word
}

impl std::ops::Deref for Word {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn integer(text: &[u8]) -> Result<i64, Refusal> {
    parse_integer(text).ok_or(Refusal::NOT_AN_INTEGER)
}
