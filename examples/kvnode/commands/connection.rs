//! Commands about the connection itself.

use latchwork::rmw::Store;

use super::{Context, Outcome, REDIS_VERSION, Refusal, client, integer, word};
use crate::reply::{Protocol, Reply};
use crate::request::Args;
use crate::session::Session;

pub(super) fn ping<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    match args.len() {
        1 => context.reply.status("PONG"),
        2 => context.reply.bulk(&args[1]),
        _ => return Err(Refusal::arity(context.command)),
    }
    Ok(())
}

pub(super) fn echo<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    context.reply.bulk(&args[1]);
    Ok(())
}

/// There is one database, number 0.
pub(super) fn select<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
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

pub(super) fn quit<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.reply.ok();
    context.session.ends = true;
    Ok(())
}

/// Back to how a connection begins.
pub(super) fn reset<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    *context.session = Session::default();
    context.client.reset();
    context.reply.speak(Protocol::Resp2);
    context.reply.status("RESET");
    Ok(())
}

/// `HELLO [2|3 [AUTH user password] [SETNAME name]]`.
pub(super) fn hello<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let protocol = match args.get(1).map(integer).transpose() {
        Ok(None) => context.reply.protocol(),
        Ok(Some(2)) => Protocol::Resp2,
        Ok(Some(3)) => Protocol::Resp3,
        Ok(Some(_)) => return Err(Refusal::fixed("NOPROTO unsupported protocol version")),
        Err(_) => {
            let text = "ERR Protocol version is not an integer or out of range";
            return Err(Refusal::fixed(text));
        }
    };
    let mut options = args.from(2).iter();
    while let Some(option) = options.next() {
        match &*word(option) {
            b"auth" if options.len() >= 2 => {
                let user = options.next().unwrap_or_default();
                options.next();
                log_in(user)?;
            }
            b"setname" if options.len() >= 1 => {
                client::name(context, options.next().unwrap_or_default())?;
            }
            _ => {
                let text = "ERR Syntax error in HELLO option '";
                return Err(Refusal::quoting(text, option, "'"));
            }
        }
    }
    context.client.set_protocol(protocol);
    let reply = &mut *context.reply;
    reply.speak(protocol);
    reply.map(7);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(protocol.number().into());
    reply.bulk(b"id");
    reply.count(context.client.id);
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

/// There are no passwords, and one user, whom every password lets in.
pub(super) fn auth<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    match args.len() {
        2 => Err(Refusal::fixed(
            "ERR AUTH <password> called without any password configured for the default user. \
             Are you sure your configuration is correct?",
        )),
        3 => {
            log_in(&args[1])?;
            context.reply.ok();
            Ok(())
        }
        _ => Err(Refusal::SYNTAX),
    }
}

fn log_in(user: &[u8]) -> Outcome {
    if user == b"default" {
        return Ok(());
    }
    let text = "WRONGPASS invalid username-password pair or user is disabled.";
    Err(Refusal::fixed(text))
}

/// `DEBUG PROTOCOL type`: a reply of each type, for the tests of client libraries.
pub(super) fn debug<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    if args.len() != 3 || !args[1].eq_ignore_ascii_case(b"protocol") {
        let text = "ERR unknown subcommand or wrong number of arguments for '";
        return Err(Refusal::quoting(text, &args[1], "'. Try DEBUG HELP."));
    }
    let reply = &mut *context.reply;
    let numbers = |reply: &mut Reply| (0..3).for_each(|number| reply.integer(number));
    match &*word(&args[2]) {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.integer(12345),
        b"double" => reply.double("3.141"),
        b"bignum" => reply.big_number("1234567999999999999999999999999999999"),
        b"null" => reply.nil(),
        b"array" => {
            reply.array(3);
            numbers(reply);
        }
        b"set" => {
            reply.set(3);
            numbers(reply);
        }
        b"map" => {
            reply.map(3);
            for number in 0..3 {
                reply.integer(number);
                reply.boolean(number == 1);
            }
        }
        b"attrib" => {
            if reply.protocol() == Protocol::Resp3 {
                reply.attributes(1);
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.integer(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        b"push" => {
            if reply.protocol() == Protocol::Resp2 {
                let text = "ERR RESP2 is not supported by this command";
                return Err(Refusal::fixed(text));
            }
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
            reply.bulk(b"Some real reply following the push reply");
        }
        b"verbatim" => reply.verbatim(b"This is a verbatim\nstring"),
        b"true" => reply.boolean(true),
        b"false" => reply.boolean(false),
        _ => {
            return Err(Refusal::fixed(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}
