//! The command table: every command's name, arity, flags, keys and handler, in one place. Dispatch,
//! `COMMAND` and the `HELP` subcommands all read it.

use latchwork::rmw::{Staged, Store};

use super::{
    Handler, blocking, client, connection, info, keys, keyspace, lists, persistence, server,
    strings, transactions,
};
use crate::request::{Args, parse_integer};
use crate::storage::DurableStore;

/// Which arguments are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// The first key, the last (negative: from the end) and the step between keys; all zero for
    /// none.
    Range(i32, i32, i32),
    /// So many keys as this argument says; they follow it.
    Counted(usize),
    /// The command is about all keys there are.
    Every,
}

impl Keys {
    pub(crate) const NONE: Self = Self::Range(0, 0, 0);

    /// As `COMMAND INFO` says it; zeros for what a range cannot say.
    pub(crate) fn range(self) -> (i32, i32, i32) {
        match self {
            Keys::Range(first, last, step) => (first, last, step),
            Keys::Counted(_) | Keys::Every => (0, 0, 0),
        }
    }

    /// The keys among the arguments of a command whose arity was found right. Where they make no
    /// sense there are none: the command will be refused.
    pub(crate) fn of(self, args: Args<'_>) -> impl Iterator<Item = &[u8]> {
        let (first, count, step) = match self {
            Keys::Range(first, last, step) => {
                let end = match usize::try_from(last) {
                    Ok(last) => last + 1,
                    Err(_) => (args.len() + 1).saturating_sub(last.unsigned_abs() as usize),
                };
                let (first, step) = (first as usize, step.max(1) as usize);
                // No command's own name is a key.
                let end = if first == 0 { 0 } else { end };
                (first, end.saturating_sub(first), step)
            }
            Keys::Counted(at) => {
                let count = args.get(at).and_then(parse_integer);
                let count = count.and_then(|count| usize::try_from(count).ok());
                let count = count.filter(|&count| count <= args.len().saturating_sub(at + 1));
                (at + 1, count.unwrap_or(0), 1)
            }
            Keys::Every => (0, 0, 1),
        };
        args.from(first).iter().take(count).step_by(step)
    }
}

/// One command or subcommand.
#[derive(Debug)]
pub(crate) struct Command {
    /// In lower case; a subcommand's has its parent's in front, as in `client|id`.
    pub(crate) name: &'static str,
    /// How many arguments, the name (and the parent's name) included; negative for at least that
    /// many.
    pub(crate) arity: i32,
    /// In Redis's words.
    pub(crate) flags: &'static [&'static str],
    pub(crate) keys: Keys,
    /// The handler, for the store and for a transaction.
    handler: (Handler<DurableStore>, Handler<Staged>),
    pub(crate) subcommands: &'static [Command],
}

impl Command {
    pub(crate) fn takes(&self, arguments: usize) -> bool {
        let least = self.arity.unsigned_abs() as usize;
        if self.arity < 0 {
            arguments >= least
        } else {
            arguments == least
        }
    }

    /// Whether it may change a key.
    pub(crate) fn writes(&self) -> bool {
        self.flags.contains(&"write")
    }

    /// The name without the parent's.
    pub(crate) fn short_name(&self) -> &'static str {
        self.name
            .split_once('|')
            .map_or(self.name, |(_, short)| short)
    }

    pub(crate) fn subcommand(&self, name: &[u8]) -> Option<&'static Command> {
        self.subcommands.iter().find(|subcommand| {
            subcommand
                .short_name()
                .as_bytes()
                .eq_ignore_ascii_case(name)
        })
    }
}

const READ: &[&str] = &["readonly", "fast"];
const READ_SLOW: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write", "fast"];
const WRITE_SLOW: &[&str] = &["write"];
const GROW: &[&str] = &["write", "denyoom", "fast"];
const MOVABLE: &[&str] = &["write", "movablekeys"];
const BLOCKING: &[&str] = &["write", "noscript", "blocking"];
const BLOCKING_GROW: &[&str] = &["write", "denyoom", "noscript", "blocking"];
const BLOCKING_MOVABLE: &[&str] = &["write", "blocking", "movablekeys"];
const GROW_SLOW: &[&str] = &["write", "denyoom"];
const ANY_TIME: &[&str] = &["loading", "stale"];
const ANY_TIME_FAST: &[&str] = &["loading", "stale", "fast"];
const CLIENT: &[&str] = &["noscript", "loading", "stale"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const CONTAINER: &[&str] = &[];
const PING: &[&str] = &["fast"];
const SESSION: &[&str] = &[
    "noscript",
    "loading",
    "stale",
    "fast",
    "no_auth",
    "allow_busy",
];
const TRANSACTION: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];
const EXEC: &[&str] = &["noscript", "loading", "stale", "skip_slowlog"];
const SHUTDOWN: &[&str] = &[
    "admin",
    "noscript",
    "loading",
    "stale",
    "no_multi",
    "allow_busy",
];
const SAVE: &[&str] = &["admin", "noscript", "no_async_loading", "no_multi"];
const BGSAVE: &[&str] = &["admin", "noscript", "no_async_loading"];

/// A store that commands run on.
pub(crate) trait Dispatch: Store + Sized {
    /// Whether a command may wait for an element here.
    const MAY_WAIT: bool;

    fn handler(command: &Command) -> Handler<Self>;
}

impl Dispatch for DurableStore {
    const MAY_WAIT: bool = true;

    fn handler(command: &Command) -> Handler<Self> {
        command.handler.0
    }
}

impl Dispatch for Staged {
    const MAY_WAIT: bool = false;

    fn handler(command: &Command) -> Handler<Self> {
        command.handler.1
    }
}

/// Writes out the rows of the table: name, arity, flags, keys, handler, subcommands. A handler is
/// named once and made for the store and for a transaction on it.
macro_rules! table {
    ($($name:literal $arity:literal $flags:ident $keys:ident $handler:path $({ $($sub:tt)* })?;)*) => {
        &[$(Command {
            name: $name,
            arity: $arity,
            flags: $flags,
            keys: $keys,
            handler: ($handler, $handler),
            subcommands: table!($($($sub)*)?),
        }),*]
    };
}

const NO_KEYS: Keys = Keys::NONE;
const ONE_KEY: Keys = Keys::Range(1, 1, 1);
const SECOND_KEY: Keys = Keys::Range(2, 2, 1);
const ALL_KEYS: Keys = Keys::Range(1, -1, 1);
const PAIRS: Keys = Keys::Range(1, -1, 2);
const TWO_KEYS: Keys = Keys::Range(1, 2, 1);
const BUT_LAST_KEYS: Keys = Keys::Range(1, -2, 1);
const COUNTED_KEYS: Keys = Keys::Counted(1);
const COUNTED_KEYS_2: Keys = Keys::Counted(2);
const EVERY_KEY: Keys = Keys::Every;

/// Every command, sorted by name.
pub(crate) static TABLE: &[Command] = table! {
    "append" 3 GROW ONE_KEY strings::append;
    "auth" -2 SESSION NO_KEYS connection::auth;
    "bgsave" -1 BGSAVE NO_KEYS persistence::bgsave;
    "blmove" 6 BLOCKING_GROW TWO_KEYS blocking::blmove;
    "blmpop" -5 BLOCKING_MOVABLE COUNTED_KEYS_2 blocking::blmpop;
    "blpop" -3 BLOCKING BUT_LAST_KEYS blocking::blpop;
    "brpop" -3 BLOCKING BUT_LAST_KEYS blocking::brpop;
    "brpoplpush" 4 BLOCKING_GROW TWO_KEYS blocking::brpoplpush;
    "client" -2 CONTAINER NO_KEYS server::help {
        "client|getname" 2 CLIENT NO_KEYS client::getname;
        "client|help" 2 ANY_TIME NO_KEYS server::help;
        "client|id" 2 CLIENT NO_KEYS client::id;
        "client|info" 2 CLIENT NO_KEYS client::info;
        "client|kill" -3 ADMIN NO_KEYS client::kill;
        "client|list" -2 ADMIN NO_KEYS client::list;
        "client|no-evict" 3 ADMIN NO_KEYS client::no_evict;
        "client|reply" 3 CLIENT NO_KEYS client::reply;
        "client|setname" 3 CLIENT NO_KEYS client::setname;
        "client|unblock" -3 ADMIN NO_KEYS client::unblock;
    };
    "command" -1 ANY_TIME NO_KEYS server::command {
        "command|count" 2 ANY_TIME NO_KEYS server::command_count;
        "command|docs" -2 ANY_TIME NO_KEYS server::command_docs;
        "command|getkeys" -4 ANY_TIME NO_KEYS server::command_getkeys;
        "command|help" 2 ANY_TIME NO_KEYS server::help;
        "command|info" -2 ANY_TIME NO_KEYS server::command_info;
        "command|list" -2 ANY_TIME NO_KEYS server::command_list;
    };
    "config" -2 CONTAINER NO_KEYS server::help {
        "config|get" -3 ADMIN NO_KEYS server::config_get;
        "config|help" 2 ANY_TIME NO_KEYS server::help;
    };
    "dbsize" 1 READ EVERY_KEY keys::dbsize;
    "debug" -2 ADMIN NO_KEYS connection::debug;
    "decr" 2 GROW ONE_KEY strings::decr;
    "decrby" 3 GROW ONE_KEY strings::decrby;
    "del" -2 WRITE_SLOW ALL_KEYS keys::del;
    "discard" 1 TRANSACTION NO_KEYS transactions::discard;
    "echo" 2 ANY_TIME_FAST NO_KEYS connection::echo;
    "exec" 1 EXEC NO_KEYS transactions::exec;
    "exists" -2 READ ALL_KEYS keys::exists;
    "expire" -3 WRITE ONE_KEY keys::expire;
    "expireat" -3 WRITE ONE_KEY keys::expireat;
    "expiretime" 2 READ ONE_KEY keys::expiretime;
    "flushall" -1 WRITE_SLOW EVERY_KEY keys::flush;
    "flushdb" -1 WRITE_SLOW EVERY_KEY keys::flush;
    "get" 2 READ ONE_KEY strings::get;
    "getdel" 2 WRITE ONE_KEY strings::getdel;
    "getex" -2 WRITE ONE_KEY strings::getex;
    "getrange" 4 READ_SLOW ONE_KEY strings::getrange;
    "getset" 3 GROW ONE_KEY strings::getset;
    "hello" -1 SESSION NO_KEYS connection::hello;
    "incr" 2 GROW ONE_KEY strings::incr;
    "incrby" 3 GROW ONE_KEY strings::incrby;
    "incrbyfloat" 3 GROW ONE_KEY strings::incrbyfloat;
    "info" -1 ANY_TIME NO_KEYS info::info;
    "keys" 2 READ_SLOW EVERY_KEY keyspace::keys;
    "lastsave" 1 ANY_TIME_FAST NO_KEYS persistence::lastsave;
    "lindex" 3 READ_SLOW ONE_KEY lists::lindex;
    "linsert" 5 GROW_SLOW ONE_KEY lists::linsert;
    "llen" 2 READ ONE_KEY lists::llen;
    "lmove" 5 GROW_SLOW TWO_KEYS lists::lmove;
    "lmpop" -4 MOVABLE COUNTED_KEYS lists::lmpop;
    "lpop" -2 WRITE ONE_KEY lists::lpop;
    "lpos" -3 READ_SLOW ONE_KEY lists::lpos;
    "lpush" -3 GROW ONE_KEY lists::lpush;
    "lpushx" -3 GROW ONE_KEY lists::lpushx;
    "lrange" 4 READ_SLOW ONE_KEY lists::lrange;
    "lrem" 4 WRITE_SLOW ONE_KEY lists::lrem;
    "lset" 4 GROW_SLOW ONE_KEY lists::lset;
    "ltrim" 4 WRITE_SLOW ONE_KEY lists::ltrim;
    "memory" -2 CONTAINER NO_KEYS server::help {
        "memory|help" 2 ANY_TIME NO_KEYS server::help;
        "memory|usage" -3 READ_SLOW SECOND_KEY keys::memory_usage;
    };
    "mget" -2 READ ALL_KEYS strings::mget;
    "mset" -3 GROW_SLOW PAIRS strings::mset;
    "msetnx" -3 GROW_SLOW PAIRS strings::msetnx;
    "multi" 1 TRANSACTION NO_KEYS transactions::multi;
    "persist" 2 WRITE ONE_KEY keys::persist;
    "pexpire" -3 WRITE ONE_KEY keys::pexpire;
    "pexpireat" -3 WRITE ONE_KEY keys::pexpireat;
    "pexpiretime" 2 READ ONE_KEY keys::pexpiretime;
    "ping" -1 PING NO_KEYS connection::ping;
    "psetex" 4 GROW_SLOW ONE_KEY strings::psetex;
    "pttl" 2 READ ONE_KEY keys::pttl;
    "quit" -1 SESSION NO_KEYS connection::quit;
    "randomkey" 1 READ_SLOW EVERY_KEY keyspace::randomkey;
    "rename" 3 WRITE_SLOW TWO_KEYS keyspace::rename;
    "renamenx" 3 WRITE TWO_KEYS keyspace::renamenx;
    "reset" 1 SESSION NO_KEYS connection::reset;
    "rpop" -2 WRITE ONE_KEY lists::rpop;
    "rpoplpush" 3 GROW_SLOW TWO_KEYS lists::rpoplpush;
    "rpush" -3 GROW ONE_KEY lists::rpush;
    "rpushx" -3 GROW ONE_KEY lists::rpushx;
    "save" 1 SAVE NO_KEYS persistence::save;
    "scan" -2 READ_SLOW EVERY_KEY keyspace::scan;
    "select" 2 ANY_TIME_FAST NO_KEYS connection::select;
    "set" -3 GROW_SLOW ONE_KEY strings::set;
    "setex" 4 GROW_SLOW ONE_KEY strings::setex;
    "setnx" 3 GROW ONE_KEY strings::setnx;
    "setrange" 4 GROW_SLOW ONE_KEY strings::setrange;
    "shutdown" -1 SHUTDOWN NO_KEYS persistence::shutdown;
    "strlen" 2 READ ONE_KEY strings::strlen;
    "substr" 4 READ_SLOW ONE_KEY strings::getrange;
    "touch" -2 READ ALL_KEYS keys::exists;
    "ttl" 2 READ ONE_KEY keys::ttl;
    "type" 2 READ ONE_KEY keys::key_type;
    "unlink" -2 WRITE ALL_KEYS keys::del;
    "unwatch" 1 TRANSACTION NO_KEYS transactions::unwatch;
    "watch" -2 TRANSACTION ALL_KEYS transactions::watch;
};

const SLOTS: usize = 256;

/// Where in [`TABLE`] to look for a name, by its [`slot`]: an open-addressed hash table made by the
/// compiler.
static INDEX: [u8; SLOTS] = {
    assert!(TABLE.len() < SLOTS / 2);
    let mut index = [u8::MAX; SLOTS];
    let mut entry = 0;
    while entry < TABLE.len() {
        let mut place = slot(TABLE[entry].name.as_bytes());
        while index[place] != u8::MAX {
            place = (place + 1) % SLOTS;
        }
        index[place] = entry as u8;
        entry += 1;
    }
    index
};

/// A hash of a name that ignores the letters' case.
const fn slot(name: &[u8]) -> usize {
    let mut hash: u32 = name.len() as u32;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ (name[at] | 0x20) as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    (hash >> 16) as usize % SLOTS
}

/// Looks up a command by name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    // No name is longer; hashing an argument of megabytes would be a waste.
    if name.len() > 16 {
        return None;
    }
    let mut place = slot(name);
    loop {
        let command = TABLE.get(INDEX[place] as usize)?;
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        place = (place + 1) % SLOTS;
    }
}

/// Every command and subcommand.
pub(crate) fn all() -> impl Iterator<Item = &'static Command> {
    TABLE
        .iter()
        .flat_map(|command| std::iter::once(command).chain(command.subcommands))
}
