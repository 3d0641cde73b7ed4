//! Commands on the names of keys: finding them, and giving a value another one.

use latchwork::rmw::{Bytes, ScanOptions, Store, ValueType};

use super::{Context, Outcome, Refusal, integer, word};
use crate::request::Args;

pub(super) fn keys<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let keys = context.server.store.keys(&args[1]);
    reply_keys(context, &keys);
    Ok(())
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`.
pub(super) fn scan<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let cursor = cursor(&args[1]).ok_or(Refusal::fixed("ERR invalid cursor"))?;
    let mut how = ScanOptions::new();
    let mut no_such_type = false;
    let mut options = args.from(2).iter();
    while let Some(option) = options.next() {
        let value = options.next().ok_or(Refusal::SYNTAX)?;
        match &*word(option) {
            b"match" => how = how.matching(value),
            b"count" => match integer(value)? {
                ..1 => return Err(Refusal::SYNTAX),
                count => how = how.count(usize::try_from(count).unwrap_or(usize::MAX)),
            },
            b"type" => {
                let types = [ValueType::String, ValueType::List];
                let found = types
                    .into_iter()
                    .find(|found| value.eq_ignore_ascii_case(found.name().as_bytes()));
                no_such_type = found.is_none();
                how = found.map_or(how.clone(), |found| how.of_type(found));
            }
            _ => return Err(Refusal::SYNTAX),
        }
    }
    let mut page = context.server.store.scan(cursor, &how);
    if no_such_type {
        page.keys.clear();
    }
    context.reply.array(2);
    context
        .reply
        .bulk(itoa::Buffer::new().format(page.cursor).as_bytes());
    reply_keys(context, &page.keys);
    Ok(())
}

/// Reads an unsigned number as `strtoul` does: with a sign, if there is one; nothing is zero.
fn cursor(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return Some(0);
    }
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.first().is_some_and(|first| !first.is_ascii_digit()) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(if is_negative {
        number.wrapping_neg()
    } else {
        number
    })
}

pub(super) fn randomkey<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    match context.server.store.random_key() {
        Some(key) => context.reply.bulk(&key),
        None => context.reply.nil(),
    }
    Ok(())
}

pub(super) fn rename<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    context.store.rename(&args[1], &args[2])?;
    context.reply.ok();
    Ok(())
}

pub(super) fn renamenx<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let applied = context.store.rename_if_missing(&args[1], &args[2])?;
    context.reply.flag(applied);
    Ok(())
}

fn reply_keys<S: Store>(context: &mut Context<'_, S>, keys: &[Bytes]) {
    context.reply.array(keys.len());
    for key in keys {
        context.reply.bulk(key);
    }
}
