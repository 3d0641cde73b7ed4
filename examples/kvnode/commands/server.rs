//! Commands about the server.

use latchwork::rmw::Store;

use super::table::Keys;
use super::{Command, Context, Outcome, Refusal, find, table};
use crate::options::fsync_name;
use crate::reply::Reply;
use crate::request::{ARGUMENT_MAX, Args, REQUEST_MAX};

pub(super) fn command<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.reply.array(table::TABLE.len());
    for command in table::TABLE {
        describe(context.reply, command);
    }
    Ok(())
}

pub(super) fn command_count<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.reply.integer(table::TABLE.len() as i64);
    Ok(())
}

/// No documentation is kept here; clients take an empty map for "none".
pub(super) fn command_docs<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.reply.map(0);
    Ok(())
}

pub(super) fn command_info<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    if args.len() == 2 {
        return command(context, args);
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

pub(super) fn command_list<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    if args.len() > 2 {
        return Err(Refusal::SYNTAX);
    }
    context.reply.array(table::TABLE.len());
    for command in table::TABLE {
        context.reply.bulk(command.name.as_bytes());
    }
    Ok(())
}

/// `COMMAND GETKEYS command argument …`.
pub(super) fn command_getkeys<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let args = args.from(2);
    let command = find(args).map_err(|_| Refusal::fixed("ERR Invalid command specified"))?;
    let keys: Vec<&[u8]> = command.keys.of(args).collect();
    if !command.takes(args.len()) {
        let text = "ERR Invalid number of arguments specified for command";
        return Err(Refusal::fixed(text));
    }
    if keys.is_empty() && matches!(command.keys, Keys::Counted(_)) {
        let text = "ERR Invalid arguments specified for command";
        return Err(Refusal::fixed(text));
    }
    if keys.is_empty() {
        return Err(Refusal::fixed("ERR The command has no key arguments"));
    }
    context.reply.array(keys.len());
    for key in keys {
        context.reply.bulk(key);
    }
    Ok(())
}

/// The ten fields of Redis 7; the categories, tips and key specifications stay empty.
fn describe(reply: &mut Reply, command: &'static Command) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity.into());
    reply.set(command.flags.len());
    for flag in command.flags {
        reply.status(flag);
    }
    let (first, last, step) = command.keys.range();
    for number in [first, last, step] {
        reply.integer(number.into());
    }
    reply.set(0);
    reply.set(0);
    reply.set(0);
    reply.array(command.subcommands.len());
    for subcommand in command.subcommands {
        describe(reply, subcommand);
    }
}

/// `… HELP` of any command with subcommands. Reached with the command itself only if the arity
/// check let it through without a subcommand, which it does not.
pub(super) fn help<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    let parent = context
        .command
        .name
        .split_once('|')
        .map_or(context.command.name, |(parent, _)| parent);
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
pub(super) fn config_get<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let options = &context.server.options;
    let data = options.data.as_ref();
    let settings = [
        ("appendfsync", fsync_name(options.fsync).to_owned()),
        (
            "appendonly",
            if data.is_some() { "yes" } else { "no" }.to_owned(),
        ),
        ("bind", options.bind.to_string()),
        ("client-query-buffer-limit", REQUEST_MAX.to_string()),
        ("databases", "1".to_owned()),
        (
            "dir",
            data.map_or_else(String::new, |dir| dir.display().to_string()),
        ),
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
    context.reply.map(wanted.len());
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
