//! Commands about the server.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Command, Context, Refusal, table, word};
use crate::reply::Reply;
use crate::request::{ARGUMENT_MAX, Args, REQUEST_MAX};
use crate::server::Server;

/// The version whose behaviour this server follows; clients look at it to know what they may use.
const REDIS_VERSION: &str = "7.0.15";

pub(super) fn command(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    context.reply.array(table::TABLE.len());
    for command in table::TABLE {
        describe(context.reply, command);
    }
    Ok(())
}

pub(super) fn command_count(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    context.reply.integer(table::TABLE.len() as i64);
    Ok(())
}

/// No documentation is kept here; clients take an empty map for "none".
pub(super) fn command_docs(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    context.reply.array(0);
    Ok(())
}

pub(super) fn command_info(
    context: &mut Context<'_>,
    own: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    if args.len() == 2 {
        return command(context, own, args);
    }
    context.reply.array(args.len() - 2);
    for name in args.from(2).iter() {
        match table::all().find(|command| command.name.as_bytes().eq_ignore_ascii_case(name)) {
            Some(command) => describe(context.reply, command),
            None => context.reply.nil(),
        }
    }
    Ok(())
}

pub(super) fn command_list(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    if args.len() > 2 {
        return Err(Refusal::SYNTAX);
    }
    context.reply.array(table::TABLE.len());
    for command in table::TABLE {
        context.reply.bulk(command.name.as_bytes());
    }
    Ok(())
}

/// The ten fields of Redis 7; the categories, tips and key specifications stay empty.
fn describe(reply: &mut Reply, command: &'static Command) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    reply.array(command.flags.len());
    for flag in command.flags {
        reply.status(flag);
    }
    let (first, last, step) = command.keys;
    for number in [first, last, step] {
        reply.integer(number.into());
    }
    for _ in 0..3 {
        reply.array(0);
    }
    reply.array(command.subcommands.len());
    for subcommand in command.subcommands {
        describe(reply, subcommand);
    }
}

/// `… HELP` of any command with subcommands. Reached with the command itself only if the arity
/// check let it through without a subcommand, which it does not.
pub(super) fn help(
    context: &mut Context<'_>,
    own: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    let parent = own
        .name
        .split_once('|')
        .map_or(own.name, |(parent, _)| parent);
    let subcommands = table::find(parent.as_bytes()).map_or(&[][..], |parent| parent.subcommands);
    context.reply.array(subcommands.len() + 1);
    let parent = parent.to_uppercase();
    context.reply.status(&format!(
        "{parent} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ));
    for subcommand in subcommands {
        context
            .reply
            .status(&subcommand.short_name().to_uppercase());
    }
    Ok(())
}

/// `CONFIG GET pattern …`: what there is to tell; nothing can be set.
pub(super) fn config_get(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    let options = &context.server.options;
    let settings = [
        ("appendonly", "no".to_owned()),
        ("bind", options.bind.to_string()),
        ("client-query-buffer-limit", REQUEST_MAX.to_string()),
        ("databases", "1".to_owned()),
        ("io-threads", options.io_threads.to_string()),
        ("maxclients", options.max_clients.to_string()),
        ("maxmemory", "0".to_owned()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("port", context.server.address.port().to_string()),
        ("proto-max-bulk-len", ARGUMENT_MAX.to_string()),
        ("save", String::new()),
        ("timeout", "0".to_owned()),
    ];
    let wanted: Vec<_> = settings
        .iter()
        .filter(|(name, _)| {
            args.from(2)
                .iter()
                .any(|pattern| matches(pattern, name.as_bytes()))
        })
        .collect();
    context.reply.array(wanted.len() * 2);
    for (name, value) in wanted {
        context.reply.bulk(name.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    Ok(())
}

/// Whether a name matches a pattern of `*`, `?` and plain characters, in any case. Remembers the
/// last star only, so the time is at most the product of the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut in_name) = (0, 0);
    let mut star = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte.eq_ignore_ascii_case(&name[in_name]) => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((star_at, star_name)) = star else {
                    return false;
                };
                star = Some((star_at, star_name + 1));
                at = star_at + 1;
                in_name = star_name + 1;
            }
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// `SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE]`: everybody gets the replies owed, then the server ends.
/// There is nowhere to save to, so `SAVE` is refused rather than ignored.
pub(super) fn shutdown(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    let (mut save, mut nosave, mut abort, mut other) = (false, false, false, false);
    for option in args.from(1).iter() {
        match &*word(option) {
            b"save" => save = true,
            b"nosave" => nosave = true,
            b"abort" => abort = true,
            b"now" | b"force" => other = true,
            _ => return Err(Refusal::SYNTAX),
        }
    }
    if (save && nosave) || (abort && (save || nosave || other)) {
        return Err(Refusal::SYNTAX);
    }
    if abort {
        return Err(Refusal::fixed("ERR No shutdown in progress."));
    }
    if save {
        return Err(Refusal::fixed("ERR Errors trying to SHUTDOWN. Check logs."));
    }
    context.server.request_stop();
    context.ends = true;
    Ok(())
}

/// Writes one section of `INFO`.
type Section = fn(&Server, &mut String);

/// `INFO [section …]`, in Redis's format.
pub(super) fn info(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    let wanted: Vec<Vec<u8>> = args
        .from(1)
        .iter()
        .map(<[u8]>::to_ascii_lowercase)
        .collect();
    let all = wanted.is_empty()
        || wanted
            .iter()
            .any(|name| matches!(&name[..], b"all" | b"default" | b"everything"));
    let sections: [(&str, Section); 5] = [
        ("Server", info_server),
        ("Clients", info_clients),
        ("Memory", info_memory),
        ("Stats", info_stats),
        ("Keyspace", info_keyspace),
    ];
    let mut text = String::new();
    for (name, write) in sections {
        if all
            || wanted
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(name.as_bytes()))
        {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            line(&mut text, format_args!("# {name}"));
            write(context.server, &mut text);
        }
    }
    context.reply.bulk(text.as_bytes());
    Ok(())
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(content);
    text.push_str("\r\n");
}

fn info_server(server: &Server, text: &mut String) {
    let uptime = server.started.elapsed().as_secs();
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    line(text, format_args!("redis_version:{REDIS_VERSION}"));
    line(text, format_args!("redis_mode:standalone"));
    line(text, format_args!("server_name:kvnode"));
    line(
        text,
        format_args!("kvnode_version:{}", env!("CARGO_PKG_VERSION")),
    );
    line(
        text,
        format_args!("os:{} {}", std::env::consts::OS, std::env::consts::ARCH),
    );
    line(text, format_args!("arch_bits:{}", usize::BITS));
    line(text, format_args!("multiplexing_api:epoll"));
    line(text, format_args!("process_id:{}", std::process::id()));
    line(text, format_args!("tcp_port:{}", server.address.port()));
    line(text, format_args!("server_time_usec:{unix}"));
    line(text, format_args!("uptime_in_seconds:{uptime}"));
    line(text, format_args!("uptime_in_days:{}", uptime / 86_400));
    line(
        text,
        format_args!("io_threads_active:{}", server.options.io_threads),
    );
}

fn info_clients(server: &Server, text: &mut String) {
    line(
        text,
        format_args!("connected_clients:{}", server.places.current()),
    );
    line(
        text,
        format_args!("maxclients:{}", server.options.max_clients),
    );
    line(text, format_args!("blocked_clients:0"));
}

/// What the kernel knows of this process; the store does not count its bytes.
fn info_memory(_: &Server, text: &mut String) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
        Some(kilobytes * 1024)
    };
    if let (Some(now), Some(peak)) = (bytes("VmRSS:"), bytes("VmHWM:")) {
        line(text, format_args!("used_memory:{now}"));
        line(text, format_args!("used_memory_rss:{now}"));
        line(text, format_args!("used_memory_peak:{peak}"));
    }
    line(text, format_args!("maxmemory:0"));
    line(text, format_args!("maxmemory_policy:noeviction"));
}

fn info_stats(server: &Server, text: &mut String) {
    line(
        text,
        format_args!("total_connections_received:{}", server.clients.ever()),
    );
    line(
        text,
        format_args!(
            "total_commands_processed:{}",
            server.total(|counters| &counters.commands)
        ),
    );
    line(
        text,
        format_args!(
            "total_net_input_bytes:{}",
            server.total(|counters| &counters.received)
        ),
    );
    line(
        text,
        format_args!(
            "total_net_output_bytes:{}",
            server.total(|counters| &counters.sent)
        ),
    );
    line(
        text,
        format_args!(
            "rejected_connections:{}",
            server.turned_away.load(Ordering::Relaxed)
        ),
    );
    line(
        text,
        format_args!("keyspace_hits:{}", server.total(|counters| &counters.hits)),
    );
    line(
        text,
        format_args!(
            "keyspace_misses:{}",
            server.total(|counters| &counters.misses)
        ),
    );
    line(
        text,
        format_args!(
            "total_error_replies:{}",
            server.total(|counters| &counters.errors)
        ),
    );
    line(
        text,
        format_args!(
            "stalled_client_disconnections:{}",
            server.total(|counters| &counters.stalled)
        ),
    );
    let overflowed = server.total(|counters| &counters.overflowed);
    line(
        text,
        format_args!("client_output_buffer_limit_disconnections:{overflowed}"),
    );
}

/// Zero is Redis's own word for an unknown average.
fn info_keyspace(server: &Server, text: &mut String) {
    let stats = server.store.stats();
    if stats.keys > 0 {
        let (keys, expires) = (stats.keys, stats.expiring);
        line(
            text,
            format_args!("db0:keys={keys},expires={expires},avg_ttl=0"),
        );
    }
}
