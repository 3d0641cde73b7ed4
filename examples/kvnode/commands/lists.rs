//! Commands on lists that do not wait.

use std::num::NonZeroI64;

use latchwork::rmw::{Bytes, Inserted, ListEnd, PosOptions, Store};

use super::{Context, Outcome, Refusal, integer, word};
use crate::blocked::popped;
use crate::request::Args;

pub(super) fn lpush<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let len = context.store.lpush(&args[1], args.from(2).iter())?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn rpush<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let len = context.store.rpush(&args[1], args.from(2).iter())?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn lpushx<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let values = args.from(2).iter();
    let len = context.store.lpush_if_present(&args[1], values)?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn rpushx<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let values = args.from(2).iter();
    let len = context.store.rpush_if_present(&args[1], values)?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn lpop<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    pop(context, args, ListEnd::Front)
}

pub(super) fn rpop<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    pop(context, args, ListEnd::Back)
}

/// `LPOP key [count]`: one element, or an array of up to `count`.
fn pop<S: Store>(context: &mut Context<'_, S>, args: Args<'_>, end: ListEnd) -> Outcome {
    match args.len() {
        2 => {
            let popped = match end {
                ListEnd::Front => context.store.lpop(&args[1]),
                ListEnd::Back => context.store.rpop(&args[1]),
            };
            reply_element(context, popped?.as_ref());
        }
        3 => {
            let count = integer(&args[2]).ok();
            let text = "ERR value is out of range, must be positive";
            let count = count.and_then(|count| u64::try_from(count).ok());
            let count = count.ok_or(Refusal::fixed(text))?;
            let popped = match end {
                ListEnd::Front => context.store.lpop_many(&args[1], count),
                ListEnd::Back => context.store.rpop_many(&args[1], count),
            };
            match popped? {
                Some(elements) => reply_elements(context, &elements),
                None => context.reply.nil_array(),
            }
        }
        _ => return Err(Refusal::arity(context.command)),
    }
    Ok(())
}

pub(super) fn llen<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let len = context.store.llen(&args[1])?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn lindex<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let element = match integer(&args[2]) {
        Ok(index) => context.store.lindex(&args[1], index)?,
        // The key is looked at first.
        Err(refusal) if context.store.llen(&args[1])? > 0 => return Err(refusal),
        Err(_) => None,
    };
    reply_element(context, element.as_ref());
    Ok(())
}

pub(super) fn lset<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    match integer(&args[2]) {
        Ok(index) => context.store.lset(&args[1], index, &args[3])?,
        // The key is looked at first.
        Err(refusal) if context.store.llen(&args[1])? > 0 => return Err(refusal),
        Err(_) => return Err(Refusal::NO_SUCH_KEY),
    }
    context.reply.ok();
    Ok(())
}

pub(super) fn linsert<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let (key, pivot, value) = (&args[1], &args[3], &args[4]);
    let inserted = match &*word(&args[2]) {
        b"before" => context.store.linsert_before(key, pivot, value)?,
        b"after" => context.store.linsert_after(key, pivot, value)?,
        _ => return Err(Refusal::SYNTAX),
    };
    match inserted {
        Inserted::Len(len) => context.reply.count(len),
        Inserted::NoPivot => context.reply.integer(-1),
        Inserted::Missing => context.reply.integer(0),
    }
    Ok(())
}

pub(super) fn lrem<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let count = integer(&args[2])?;
    let removed = context.store.lrem(&args[1], count, &args[3])?;
    context.reply.count(removed);
    Ok(())
}

pub(super) fn ltrim<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let (start, stop) = (integer(&args[2])?, integer(&args[3])?);
    context.store.ltrim(&args[1], start, stop)?;
    context.reply.ok();
    Ok(())
}

pub(super) fn lrange<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let (start, stop) = (integer(&args[2])?, integer(&args[3])?);
    let elements = context.store.lrange(&args[1], start, stop)?;
    reply_elements(context, &elements);
    Ok(())
}

/// `LPOS key element [RANK rank] [COUNT count] [MAXLEN len]`.
pub(super) fn lpos<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let mut how = PosOptions::new();
    let mut counted = false;
    let mut options = args.from(3).iter();
    while let Some(option) = options.next() {
        let amount = options.next().ok_or(Refusal::SYNTAX)?;
        let positive = |text| {
            let amount = integer(amount).ok();
            let amount = amount.and_then(|amount| u64::try_from(amount).ok());
            amount.ok_or(Refusal::fixed(text))
        };
        how = match &*word(option) {
            b"rank" => how.rank(rank(amount)?),
            b"count" => {
                counted = true;
                how.count(positive("ERR COUNT can't be negative")?)
            }
            b"maxlen" => how.max_len(positive("ERR MAXLEN can't be negative")?),
            _ => return Err(Refusal::SYNTAX),
        };
    }
    let found = context.store.lpos_with(&args[1], &args[2], &how)?;
    match found.first() {
        _ if counted => {
            context.reply.array(found.len());
            for &index in &found {
                context.reply.count(index);
            }
        }
        Some(&index) => context.reply.count(index),
        None => context.reply.nil(),
    }
    Ok(())
}

fn rank(amount: &[u8]) -> Result<NonZeroI64, Refusal> {
    match integer(amount)? {
        // As in 7.2; 7.0 takes it for a positive rank.
        i64::MIN => Err(Refusal::fixed(
            "ERR value is out of range, value must between -9223372036854775807 and \
             9223372036854775807",
        )),
        rank => NonZeroI64::new(rank).ok_or(Refusal::fixed(
            "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... \
             or use negative to start from the end of the list",
        )),
    }
}

pub(super) fn lmove<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let (from, to) = (end(&args[3])?, end(&args[4])?);
    let moved = context.store.lmove(&args[1], &args[2], from, to)?;
    reply_element(context, moved.as_ref());
    Ok(())
}

pub(super) fn rpoplpush<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let moved = context.store.rpoplpush(&args[1], &args[2])?;
    reply_element(context, moved.as_ref());
    Ok(())
}

pub(super) fn lmpop<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let Popping { keys, end, count } = popping(args.from(1))?;
    match context.store.lmpop(&keys, end, count)? {
        Some((index, elements)) => popped(context.reply, keys[index], &elements, true),
        None => context.reply.nil_array(),
    }
    Ok(())
}

/// What `LMPOP` is asked for.
#[derive(Debug)]
pub(super) struct Popping<'a> {
    pub(super) keys: Vec<&'a [u8]>,
    pub(super) end: ListEnd,
    pub(super) count: u64,
}

/// Reads `numkeys key [key …] LEFT|RIGHT [COUNT count]`.
pub(super) fn popping(args: Args<'_>) -> Result<Popping<'_>, Refusal> {
    let above_zero = |amount: &[u8], text| {
        let amount = integer(amount).ok().filter(|&amount| amount > 0);
        amount.ok_or(Refusal::fixed(text))
    };
    let keys = above_zero(&args[0], "ERR numkeys should be greater than 0")?;
    let keys = usize::try_from(keys).unwrap_or(usize::MAX);
    let where_from = args.get(keys.saturating_add(1)).ok_or(Refusal::SYNTAX)?;
    let end = end(where_from)?;
    let mut count = None;
    let mut options = args.from(keys + 2).iter();
    while let Some(option) = options.next() {
        match (&*word(option), options.next()) {
            (b"count", Some(amount)) if count.is_none() => {
                count = Some(above_zero(amount, "ERR count should be greater than 0")?);
            }
            _ => return Err(Refusal::SYNTAX),
        }
    }
    Ok(Popping {
        keys: args.from(1).iter().take(keys).collect(),
        end,
        count: count.unwrap_or(1).unsigned_abs(),
    })
}

pub(super) fn end(name: &[u8]) -> Result<ListEnd, Refusal> {
    match &*word(name) {
        b"left" => Ok(ListEnd::Front),
        b"right" => Ok(ListEnd::Back),
        _ => Err(Refusal::SYNTAX),
    }
}

pub(super) fn reply_element<S: Store>(context: &mut Context<'_, S>, element: Option<&Bytes>) {
    match element {
        Some(element) => context.reply.bulk(element),
        None => context.reply.nil(),
    }
}

fn reply_elements<S: Store>(context: &mut Context<'_, S>, elements: &[Bytes]) {
    context.reply.array(elements.len());
    for element in elements {
        context.reply.bulk(element);
    }
}
