//! Commands on keys of any type: existence, deletion, expiry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use latchwork::rmw::{ExpireWhen, Store, Ttl};

use super::{Context, Outcome, Refusal, integer, word};
use crate::request::Args;

pub(super) fn dbsize<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.reply.count(context.server.store.len());
    Ok(())
}

/// `FLUSHALL` and `FLUSHDB`, which are the same with one database.
pub(super) fn flush<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let plain = match args.get(1) {
        None => true,
        Some(how) => {
            args.len() == 2
                && (how.eq_ignore_ascii_case(b"async") || how.eq_ignore_ascii_case(b"sync"))
        }
    };
    if !plain {
        return Err(Refusal::SYNTAX);
    }
    context.server.store.clear()?;
    context.reply.ok();
    Ok(())
}

pub(super) fn del<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let keys: Vec<&[u8]> = args.from(1).iter().collect();
    let deleted = context.store.del(&keys)?;
    context.reply.count(deleted);
    Ok(())
}

/// `EXISTS` and `TOUCH`: how many of the keys exist, one named twice counting twice.
pub(super) fn exists<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let keys: Vec<&[u8]> = args.from(1).iter().collect();
    let existing = context.store.exists(&keys);
    context.reply.count(existing);
    Ok(())
}

pub(super) fn key_type<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let name = context
        .store
        .value_type(&args[1])
        .map_or("none", |found| found.name());
    context.reply.status(name);
    Ok(())
}

/// `MEMORY USAGE key [SAMPLES count]`: all of a value is counted, whatever the samples.
pub(super) fn memory_usage<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let mut options = args.from(3).iter();
    while let Some(option) = options.next() {
        match (&*word(option), options.next()) {
            (b"samples", Some(samples)) if integer(samples)? >= 0 => {}
            _ => return Err(Refusal::SYNTAX),
        }
    }
    match context.store.memory_of(&args[2]) {
        0 => context.reply.nil(),
        bytes => context.reply.count(bytes),
    }
    Ok(())
}

pub(super) fn expire<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    set_expiry(context, args, 1000, From::Now)
}

pub(super) fn pexpire<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    set_expiry(context, args, 1, From::Now)
}

pub(super) fn expireat<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    set_expiry(context, args, 1000, From::Epoch)
}

pub(super) fn pexpireat<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    set_expiry(context, args, 1, From::Epoch)
}

/// The amount counts `unit` milliseconds, from now or from 1970. A time that has passed deletes the
/// key.
fn set_expiry<S: Store>(
    context: &mut Context<'_, S>,
    args: Args<'_>,
    unit: i64,
    from: From,
) -> Outcome {
    let when = condition(args.from(3))?;
    let invalid = || Refusal::expiry(context.command);
    let amount = integer(&args[2])?.checked_mul(unit).ok_or_else(invalid)?;
    let applied = match (from, u64::try_from(amount)) {
        (From::Now, Ok(amount)) => {
            if now().saturating_add(amount) > i64::MAX as u64 {
                return Err(invalid());
            }
            // The store's own clock: in a transaction it stands still.
            let after = Duration::from_millis(amount);
            context.store.expire_in(&args[1], after, when)?
        }
        (From::Epoch, Ok(at)) => context.store.expire_at(&args[1], at.max(1), when)?,
        // Before now, or before 1970, is as past as 1970.
        (_, Err(_)) => context.store.expire_at(&args[1], 1, when)?,
    };
    context.reply.flag(applied);
    Ok(())
}

/// What an expiry counts from.
#[derive(Debug, Clone, Copy)]
enum From {
    Now,
    Epoch,
}

fn condition(options: Args<'_>) -> Result<ExpireWhen, Refusal> {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in options.iter() {
        match &*word(option) {
            b"nx" => nx = true,
            b"xx" => xx = true,
            b"gt" => gt = true,
            b"lt" => lt = true,
            _ => return Err(Refusal::quoting("ERR Unsupported option ", option, "")),
        }
    }
    if nx && (xx || gt || lt) {
        return Err(Refusal::fixed(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if gt && lt {
        return Err(Refusal::fixed(
            "ERR GT and LT options at the same time are not compatible",
        ));
    }
    Ok(match (nx, xx, gt, lt) {
        (true, ..) => ExpireWhen::Persistent,
        (_, _, true, _) => ExpireWhen::Later,
        (_, true, _, true) => ExpireWhen::ExpiringAndEarlier,
        (_, _, _, true) => ExpireWhen::Earlier,
        (_, true, ..) => ExpireWhen::Expiring,
        _ => ExpireWhen::Always,
    })
}

pub(super) fn persist<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let applied = context.store.persist(&args[1])?;
    context.reply.flag(applied);
    Ok(())
}

pub(super) fn ttl<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    remaining(context, args, |left| left.saturating_add(500) / 1000)
}

pub(super) fn pttl<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    remaining(context, args, |left| left)
}

fn remaining<S: Store>(
    context: &mut Context<'_, S>,
    args: Args<'_>,
    convert: fn(i64) -> i64,
) -> Outcome {
    context.reply.integer(match context.store.ttl(&args[1]) {
        Ttl::Missing => -2,
        Ttl::Persistent => -1,
        Ttl::Remaining(left) => convert(i64::try_from(left.as_millis()).unwrap_or(i64::MAX)),
    });
    Ok(())
}

pub(super) fn expiretime<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    moment(context, args, |at| at.saturating_add(500) / 1000)
}

pub(super) fn pexpiretime<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    moment(context, args, |at| at)
}

fn moment<S: Store>(
    context: &mut Context<'_, S>,
    args: Args<'_>,
    convert: fn(i64) -> i64,
) -> Outcome {
    context
        .reply
        .integer(match context.store.expires_at(&args[1]) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) => convert(i64::try_from(at).unwrap_or(i64::MAX)),
        });
    Ok(())
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
