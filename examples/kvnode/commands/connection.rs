//! Commands about the connection itself.

use super::{Command, Context, Refusal, integer, word};
use crate::request::Args;

pub(super) fn ping(
    context: &mut Context<'_>,
    command: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    match args.len() {
        1 => context.reply.status("PONG"),
        2 => context.reply.bulk(&args[1]),
        _ => return Err(Refusal::arity(command)),
    }
    Ok(())
}

pub(super) fn echo(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    context.reply.bulk(&args[1]);
    Ok(())
}

/// There is one database, number 0.
pub(super) fn select(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    match i32::try_from(integer(&args[1])?) {
        Ok(0) => context.reply.ok(),
        Ok(_) => return Err(Refusal::fixed("ERR DB index is out of range")),
        Err(_) => {
            let text = "ERR value is out of range, value must between -2147483648 and 2147483647";
            return Err(Refusal::fixed(text));
        }
    }
    Ok(())
}

pub(super) fn quit(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    context.reply.ok();
    context.ends = true;
    Ok(())
}

pub(super) fn reset(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    context.client.reset();
    context.reply.status("RESET");
    Ok(())
}

pub(super) fn client_id(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    context.reply.count(context.client.id);
    Ok(())
}

pub(super) fn client_info(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    let mut line = Vec::new();
    context.client.describe(&mut line);
    line.push(b'\n');
    context.reply.bulk(&line);
    Ok(())
}

/// `CLIENT LIST [TYPE type] [ID id …]`: every client here is of type `normal`.
pub(super) fn client_list(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    let clients = match args.get(2).map(word).as_deref() {
        None => context.server.clients.all(),
        Some(b"type") if args.len() == 4 => match &*word(&args[3]) {
            b"normal" => context.server.clients.all(),
            b"master" | b"replica" | b"slave" | b"pubsub" => Vec::new(),
            _ => {
                return Err(Refusal::quoting("ERR Unknown client type '", &args[3], "'"));
            }
        },
        Some(b"id") if args.len() > 3 => {
            let mut wanted = Vec::new();
            for id in args.from(3).iter() {
                let id = integer(id).map_err(|_| Refusal::fixed("ERR Invalid client ID"))?;
                wanted.extend(
                    u64::try_from(id)
                        .ok()
                        .and_then(|id| context.server.clients.get(id)),
                );
            }
            wanted
        }
        Some(_) => return Err(Refusal::SYNTAX),
    };
    let mut lines = Vec::new();
    for client in clients {
        client.describe(&mut lines);
        lines.push(b'\n');
    }
    context.reply.bulk(&lines);
    Ok(())
}

pub(super) fn client_getname(
    context: &mut Context<'_>,
    _: &'static Command,
    _: Args<'_>,
) -> Result<(), Refusal> {
    match context.client.name() {
        name if name.is_empty() => context.reply.nil(),
        name => context.reply.bulk(&name),
    }
    Ok(())
}

pub(super) fn client_setname(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    if !is_plain(&args[2]) {
        return Err(Refusal::fixed(
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ));
    }
    context.client.set_name(&args[2]);
    context.reply.ok();
    Ok(())
}

/// As in Redis 7.2, whose clients send it on connecting.
pub(super) fn client_setinfo(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    let attribute = word(&args[2]);
    let plain = is_plain(&args[3]);
    match &*attribute {
        b"lib-name" if plain => context.client.set_library(&args[3]),
        b"lib-ver" if plain => context.client.set_library_version(&args[3]),
        b"lib-name" | b"lib-ver" => {
            let text = " cannot contain spaces, newlines or special characters.";
            return Err(Refusal::quoting("ERR ", &attribute, text));
        }
        _ => return Err(Refusal::quoting("ERR Unrecognized option '", &args[2], "'")),
    }
    context.reply.ok();
    Ok(())
}

/// Nothing is ever evicted here; the client's wish is only shown in `CLIENT LIST`.
pub(super) fn client_no_evict(
    context: &mut Context<'_>,
    _: &'static Command,
    args: Args<'_>,
) -> Result<(), Refusal> {
    let on = match &*word(&args[2]) {
        b"on" => true,
        b"off" => false,
        _ => return Err(Refusal::SYNTAX),
    };
    context.client.set_no_evict(on);
    context.reply.ok();
    Ok(())
}

/// A name must not break the lines and fields of `CLIENT LIST`.
fn is_plain(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}
