//! The command table: every command's name, arity, flags, keys and handler, in one place. Dispatch,
//! `COMMAND` and the `HELP` subcommands all read it.

use super::{Handler, connection, keys, server, strings};

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
    /// The first key, the last (negative: from the end) and the step between keys; all zero for
    /// none.
    pub(crate) keys: (i32, i32, i32),
    pub(crate) handler: Handler,
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
const GROW_SLOW: &[&str] = &["write", "denyoom"];
const ANY_TIME: &[&str] = &["loading", "stale"];
const ANY_TIME_FAST: &[&str] = &["loading", "stale", "fast"];
const CLIENT: &[&str] = &["noscript", "loading", "stale"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const SESSION: &[&str] = &[
    "noscript",
    "loading",
    "stale",
    "fast",
    "no_auth",
    "allow_busy",
];
const SHUTDOWN: &[&str] = &[
    "admin",
    "noscript",
    "loading",
    "stale",
    "no_multi",
    "allow_busy",
];

const NO_KEYS: (i32, i32, i32) = (0, 0, 0);
const ONE_KEY: (i32, i32, i32) = (1, 1, 1);
const ALL_KEYS: (i32, i32, i32) = (1, -1, 1);
const PAIRS: (i32, i32, i32) = (1, -1, 2);

const fn command(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    keys: (i32, i32, i32),
    handler: Handler,
) -> Command {
    Command {
        name,
        arity,
        flags,
        keys,
        handler,
        subcommands: &[],
    }
}

const fn container(
    name: &'static str,
    arity: i32,
    handler: Handler,
    subcommands: &'static [Command],
) -> Command {
    Command {
        name,
        arity,
        flags: ANY_TIME,
        keys: NO_KEYS,
        handler,
        subcommands,
    }
}

/// Every command, sorted by name.
pub(crate) static TABLE: &[Command] = &[
    command("append", 3, GROW, ONE_KEY, strings::append),
    container(
        "client",
        -2,
        server::help,
        &[
            command(
                "client|getname",
                2,
                CLIENT,
                NO_KEYS,
                connection::client_getname,
            ),
            command("client|help", 2, ANY_TIME, NO_KEYS, server::help),
            command("client|id", 2, CLIENT, NO_KEYS, connection::client_id),
            command("client|info", 2, CLIENT, NO_KEYS, connection::client_info),
            command("client|list", -2, ADMIN, NO_KEYS, connection::client_list),
            command(
                "client|no-evict",
                3,
                ADMIN,
                NO_KEYS,
                connection::client_no_evict,
            ),
            command(
                "client|setinfo",
                4,
                CLIENT,
                NO_KEYS,
                connection::client_setinfo,
            ),
            command(
                "client|setname",
                3,
                CLIENT,
                NO_KEYS,
                connection::client_setname,
            ),
        ],
    ),
    container(
        "command",
        -1,
        server::command,
        &[
            command("command|count", 2, ANY_TIME, NO_KEYS, server::command_count),
            command("command|docs", -2, ANY_TIME, NO_KEYS, server::command_docs),
            command("command|help", 2, ANY_TIME, NO_KEYS, server::help),
            command("command|info", -2, ANY_TIME, NO_KEYS, server::command_info),
            command("command|list", -2, ANY_TIME, NO_KEYS, server::command_list),
        ],
    ),
    container(
        "config",
        -2,
        server::help,
        &[
            command("config|get", -3, ADMIN, NO_KEYS, server::config_get),
            command("config|help", 2, ANY_TIME, NO_KEYS, server::help),
        ],
    ),
    command("dbsize", 1, READ, NO_KEYS, keys::dbsize),
    command("decr", 2, GROW, ONE_KEY, strings::decr),
    command("decrby", 3, GROW, ONE_KEY, strings::decrby),
    command("del", -2, WRITE_SLOW, ALL_KEYS, keys::del),
    command("echo", 2, ANY_TIME_FAST, NO_KEYS, connection::echo),
    command("exists", -2, READ, ALL_KEYS, keys::exists),
    command("expire", -3, WRITE, ONE_KEY, keys::expire),
    command("expireat", -3, WRITE, ONE_KEY, keys::expireat),
    command("expiretime", 2, READ, ONE_KEY, keys::expiretime),
    command("flushall", -1, WRITE_SLOW, NO_KEYS, keys::flush),
    command("flushdb", -1, WRITE_SLOW, NO_KEYS, keys::flush),
    command("get", 2, READ, ONE_KEY, strings::get),
    command("getdel", 2, WRITE, ONE_KEY, strings::getdel),
    command("getex", -2, WRITE, ONE_KEY, strings::getex),
    command("getrange", 4, READ_SLOW, ONE_KEY, strings::getrange),
    command("getset", 3, GROW, ONE_KEY, strings::getset),
    command("incr", 2, GROW, ONE_KEY, strings::incr),
    command("incrby", 3, GROW, ONE_KEY, strings::incrby),
    command("info", -1, ANY_TIME, NO_KEYS, server::info),
    command("mget", -2, READ, ALL_KEYS, strings::mget),
    command("mset", -3, GROW_SLOW, PAIRS, strings::mset),
    command("msetnx", -3, GROW_SLOW, PAIRS, strings::msetnx),
    command("persist", 2, WRITE, ONE_KEY, keys::persist),
    command("pexpire", -3, WRITE, ONE_KEY, keys::pexpire),
    command("pexpireat", -3, WRITE, ONE_KEY, keys::pexpireat),
    command("pexpiretime", 2, READ, ONE_KEY, keys::pexpiretime),
    command("ping", -1, &["fast"], NO_KEYS, connection::ping),
    command("psetex", 4, GROW_SLOW, ONE_KEY, strings::psetex),
    command("pttl", 2, READ, ONE_KEY, keys::pttl),
    command("quit", -1, SESSION, NO_KEYS, connection::quit),
    command("reset", 1, SESSION, NO_KEYS, connection::reset),
    command("select", 2, ANY_TIME_FAST, NO_KEYS, connection::select),
    command("set", -3, GROW_SLOW, ONE_KEY, strings::set),
    command("setex", 4, GROW_SLOW, ONE_KEY, strings::setex),
    command("setnx", 3, GROW, ONE_KEY, strings::setnx),
    command("setrange", 4, GROW_SLOW, ONE_KEY, strings::setrange),
    command("shutdown", -1, SHUTDOWN, NO_KEYS, server::shutdown),
    command("strlen", 2, READ, ONE_KEY, strings::strlen),
    command("substr", 4, READ_SLOW, ONE_KEY, strings::getrange),
    command("touch", -2, READ, ALL_KEYS, keys::exists),
    command("ttl", 2, READ, ONE_KEY, keys::ttl),
    command("type", 2, READ, ONE_KEY, keys::key_type),
    command("unlink", -2, WRITE, ALL_KEYS, keys::del),
];

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
