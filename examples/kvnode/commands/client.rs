//! `CLIENT`: about this connection and the others.

use latchwork::rmw::Store;

use super::{Context, Outcome, Refusal, integer, word};
use crate::blocked::Ending;
use crate::inbox::Post;
use crate::request::Args;
use crate::session::Replies;

pub(super) fn id<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.reply.count(context.client.id);
    Ok(())
}

pub(super) fn info<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    let mut line = Vec::new();
    context.client.describe(&mut line);
    line.push(b'\n');
    context.reply.verbatim(&line);
    Ok(())
}

/// `CLIENT LIST [TYPE type] [ID id …]`: every client here is of type `normal`.
pub(super) fn list<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
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
    context.reply.verbatim(&lines);
    Ok(())
}

pub(super) fn getname<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    match context.client.name() {
        name if name.is_empty() => context.reply.nil(),
        name => context.reply.bulk(&name),
    }
    Ok(())
}

pub(super) fn setname<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    name(context, &args[2])?;
    context.reply.ok();
    Ok(())
}

/// Names the connection; a name must not break the lines and fields of `CLIENT LIST`.
pub(super) fn name<S: Store>(context: &Context<'_, S>, name: &[u8]) -> Outcome {
    if !name.iter().all(u8::is_ascii_graphic) {
        return Err(Refusal::fixed(
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ));
    }
    context.client.set_name(name);
    Ok(())
}

/// Nothing is ever evicted here; the client's wish is only shown in `CLIENT LIST`.
pub(super) fn no_evict<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let on = match &*word(&args[2]) {
        b"on" => true,
        b"off" => false,
        _ => return Err(Refusal::SYNTAX),
    };
    context.client.set_no_evict(on);
    context.reply.ok();
    Ok(())
}

/// `CLIENT REPLY ON|OFF|SKIP`. Whether this reply itself is wanted goes by the new setting.
pub(super) fn reply<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    context.session.replies = match &*word(&args[2]) {
        b"on" => Replies::On,
        b"off" => Replies::Off,
        b"skip" if context.session.replies == Replies::Off => Replies::Off,
        b"skip" => Replies::SkipNext,
        _ => return Err(Refusal::SYNTAX),
    };
    context.reply.ok();
    Ok(())
}

/// `CLIENT KILL address`, or by properties: `[ID id] [TYPE type] [USER user] [ADDR address] [LADDR
/// address] [SKIPME yes|no]`, all of which must hold.
pub(super) fn kill<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    if args.len() == 3 {
        let wanted = Wanted {
            address: Some(&args[2]),
            skip_me: false,
            ..Wanted::default()
        };
        if kill_all(context, &wanted) == 0 {
            return Err(Refusal::fixed("ERR No such client"));
        }
        context.reply.ok();
        return Ok(());
    }
    let mut wanted = Wanted {
        skip_me: true,
        ..Wanted::default()
    };
    let mut options = args.from(2).iter();
    while let Some(option) = options.next() {
        let value = options.next().ok_or(Refusal::SYNTAX)?;
        match (&*word(option), &*word(value)) {
            (b"id", _) => {
                let id = integer(value).ok().and_then(|id| u64::try_from(id).ok());
                let text = "ERR client-id should be greater than 0";
                wanted.id = Some(id.filter(|&id| id > 0).ok_or(Refusal::fixed(text))?);
            }
            (b"type", b"normal") => {}
            (b"type", b"master" | b"replica" | b"slave" | b"pubsub") => wanted.nobody = true,
            (b"type", _) => {
                return Err(Refusal::quoting("ERR Unknown client type '", value, "'"));
            }
            (b"user", _) if value == b"default" => {}
            (b"user", _) => return Err(Refusal::quoting("ERR No such user '", value, "'")),
            (b"addr", _) => wanted.address = Some(value),
            (b"laddr", _) => wanted.local = Some(value),
            (b"skipme", b"yes") => wanted.skip_me = true,
            (b"skipme", b"no") => wanted.skip_me = false,
            _ => return Err(Refusal::SYNTAX),
        }
    }
    let killed = kill_all(context, &wanted);
    context.reply.count(killed);
    Ok(())
}

/// `CLIENT UNBLOCK id [TIMEOUT|ERROR]`: whether the client was waiting, and is not any more.
pub(super) fn unblock<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    if args.len() > 4 {
        let text = "ERR unknown subcommand or wrong number of arguments for '";
        return Err(Refusal::quoting(text, &args[1], "'. Try CLIENT HELP."));
    }
    let ending = match args.get(3).map(word).as_deref() {
        None | Some(b"timeout") => Ending::TimedOut,
        Some(b"error") => Ending::Unblocked,
        Some(_) => {
            let text = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
            return Err(Refusal::fixed(text));
        }
    };
    let id = u64::try_from(integer(&args[2])?).ok();
    let client = id.and_then(|id| context.server.clients.get(id));
    let client = client.filter(|client| client.cancel_wait());
    context.reply.flag(client.is_some());
    if let Some(client) = client {
        client.post(Post::Ending(ending));
    }
    Ok(())
}

/// Whom to kill.
#[derive(Debug, Default)]
struct Wanted<'a> {
    id: Option<u64>,
    address: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    skip_me: bool,
    nobody: bool,
}

/// The caller's own connection ends after its reply; another one is forgotten at once and closed by
/// its I/O thread.
fn kill_all<S: Store>(context: &mut Context<'_, S>, wanted: &Wanted<'_>) -> u64 {
    let mut killed = 0;
    for client in context.server.clients.all() {
        let is_me = client.id == context.client.id;
        let is_wanted = wanted.id.is_none_or(|id| client.id == id)
            && client.has_addresses(wanted.address, wanted.local)
            && !(wanted.nobody || is_me && wanted.skip_me);
        if !is_wanted {
            continue;
        }
        if is_me {
            context.session.ends = true;
            killed += 1;
        } else if context.server.clients.remove(client.id) {
            client.post(Post::Close);
            killed += 1;
        }
    }
    killed
}
