//! Commands that wait for a list to get an element. In a transaction they do not wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use latchwork::Pending;
use latchwork::rmw::ListEnd;

use super::lists::{Popping, end, popping, reply_element};
use super::table::Dispatch;
use super::{Context, Outcome, Refusal};
use crate::blocked::{Blocked, Ending, popped};
use crate::inbox::Post;
use crate::request::Args;

pub(super) fn blpop<S: Dispatch>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    pop_one(context, args, ListEnd::Front)
}

pub(super) fn brpop<S: Dispatch>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    pop_one(context, args, ListEnd::Back)
}

/// `BLPOP key [key …] timeout`.
fn pop_one<S: Dispatch>(context: &mut Context<'_, S>, args: Args<'_>, end: ListEnd) -> Outcome {
    let last = args.len() - 1;
    let deadline = deadline(&args[last])?;
    let keys = args.from(1).iter().take(last - 1).collect();
    let count = 1;
    pop(context, &Popping { keys, end, count }, false, deadline)
}

/// `BLMPOP timeout numkeys key [key …] LEFT|RIGHT [COUNT count]`.
pub(super) fn blmpop<S: Dispatch>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let wish = popping(args.from(2))?;
    let deadline = deadline(&args[1])?;
    pop(context, &wish, true, deadline)
}

fn pop<S: Dispatch>(
    context: &mut Context<'_, S>,
    wish: &Popping<'_>,
    many: bool,
    deadline: Option<Instant>,
) -> Outcome {
    let Popping { keys, end, count } = wish;
    if let Some((index, elements)) = context.store.lmpop(keys, *end, *count)? {
        popped(context.reply, keys[index], &elements, many);
        return Ok(());
    }
    if !S::MAY_WAIT {
        context.reply.nil_array();
        return Ok(());
    }
    let client = Arc::clone(context.client);
    let post = move |got| client.post(Post::Ending(Ending::Popped(got)));
    let store = &context.server.store;
    let register = || store.blmpop_with(keys, *end, *count, post);
    wait(context, Blocked::popping(keys, many, deadline), register);
    Ok(())
}

/// `BLMOVE source destination LEFT|RIGHT LEFT|RIGHT timeout`.
pub(super) fn blmove<S: Dispatch>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let (from, to) = (end(&args[3])?, end(&args[4])?);
    move_one(context, args, from, to, deadline(&args[5])?)
}

/// `BRPOPLPUSH source destination timeout`.
pub(super) fn brpoplpush<S: Dispatch>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let deadline = deadline(&args[3])?;
    move_one(context, args, ListEnd::Back, ListEnd::Front, deadline)
}

fn move_one<S: Dispatch>(
    context: &mut Context<'_, S>,
    args: Args<'_>,
    from: ListEnd,
    to: ListEnd,
    deadline: Option<Instant>,
) -> Outcome {
    let (source, destination) = (&args[1], &args[2]);
    let moved = context.store.lmove(source, destination, from, to)?;
    if moved.is_some() || !S::MAY_WAIT {
        reply_element(context, moved.as_ref());
        return Ok(());
    }
    let client = Arc::clone(context.client);
    let post = move |got| client.post(Post::Ending(Ending::Moved(got)));
    let store = &context.server.store;
    let register = || store.blmove_with(source, destination, from, to, post);
    wait(context, Blocked::moving(deadline), register);
    Ok(())
}

/// From here on the connection runs nothing until it is told the outcome, which may be on its way
/// already.
fn wait<S: Dispatch>(
    context: &mut Context<'_, S>,
    blocked: Blocked,
    register: impl FnOnce() -> Pending,
) {
    context.client.wait(register);
    context.session.blocked = Some(Box::new(blocked));
}

/// Reads a time-out in seconds, fractions allowed; zero is for ever.
fn deadline(timeout: &[u8]) -> Result<Option<Instant>, Refusal> {
    let text = "ERR timeout is not a float or out of range";
    let seconds: f64 = std::str::from_utf8(timeout)
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|seconds: &f64| !seconds.is_nan())
        .ok_or(Refusal::fixed(text))?;
    let millis = (seconds * 1000.0).ceil();
    // Redis's own word for one that its clock cannot hold.
    if millis < 0.0 || millis >= i64::MAX as f64 {
        return Err(Refusal::fixed("ERR timeout is negative"));
    }
    if millis == 0.0 {
        return Ok(None);
    }
    Ok(Instant::now().checked_add(Duration::from_millis(millis as u64)))
}
