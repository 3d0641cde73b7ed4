//! Commands on strings.

use std::time::Duration;

use latchwork::rmw::{GetExpiry, SetOptions, Store, Value};

use super::{Command, Context, Outcome, Refusal, integer, word};
use crate::request::Args;
use crate::server::Counters;

pub(super) fn get<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let reply = &mut *context.reply;
    let found = context.store.get_with(&args[1], |value| {
        match value {
            Some(Value::List(_)) => return Err(Refusal::WRONG_TYPE),
            Some(value) => reply.bulk(&value.text()),
            None => reply.nil(),
        }
        Ok(value.is_some())
    })?;
    count(context, found);
    Ok(())
}

pub(super) fn mget<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let keys: Vec<&[u8]> = args.from(1).iter().collect();
    let values = context.store.mget(&keys);
    context.reply.array(values.len());
    for value in values {
        count(context, value.is_some());
        reply_value(context, value.as_ref());
    }
    Ok(())
}

pub(super) fn set<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    if args.len() == 3 {
        context.store.set(&args[1], &args[2])?;
        context.reply.ok();
        return Ok(());
    }
    let mut wish = SetWish::default();
    let mut options = args.from(3).iter();
    while let Some(option) = options.next() {
        match &*word(option) {
            b"nx" if !wish.if_present => wish.if_missing = true,
            b"xx" if !wish.if_missing => wish.if_present = true,
            b"get" => wish.get = true,
            b"keepttl" if wish.expiry.is_none() => wish.keep = true,
            other if !wish.keep => {
                wish.expiry = Some(TimeOption::read(wish.expiry, other, options.next())?)
            }
            _ => return Err(Refusal::SYNTAX),
        }
    }
    let mut how = SetOptions::new();
    if wish.if_missing {
        how = how.if_missing();
    }
    if wish.if_present {
        how = how.if_present();
    }
    if wish.get {
        how = how.get();
    }
    if wish.keep {
        how = how.keep_expiry();
    }
    how = match wish
        .expiry
        .map(|option| option.expiry(context.command))
        .transpose()?
    {
        Some(Moment::In(after)) => how.expire_in(after),
        Some(Moment::At(unix_millis)) => how.expire_at(unix_millis),
        None => how,
    };
    let outcome = context.store.set_with(&args[1], &args[2], &how)?;
    if wish.get {
        count(context, outcome.previous.is_some());
        reply_value(context, outcome.previous.as_ref());
    } else if outcome.applied {
        context.reply.ok();
    } else {
        context.reply.nil();
    }
    Ok(())
}

/// What the options of a `SET` add up to.
#[derive(Debug, Default)]
struct SetWish<'a> {
    if_missing: bool,
    if_present: bool,
    get: bool,
    keep: bool,
    expiry: Option<TimeOption<'a>>,
}

pub(super) fn setex<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    set_expiring(context, args, TimeUnit::Ex)
}

pub(super) fn psetex<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    set_expiring(context, args, TimeUnit::Px)
}

fn set_expiring<S: Store>(context: &mut Context<'_, S>, args: Args<'_>, unit: TimeUnit) -> Outcome {
    let how = match (TimeOption {
        unit,
        amount: &args[2],
    })
    .expiry(context.command)?
    {
        Moment::In(after) => SetOptions::new().expire_in(after),
        Moment::At(unix_millis) => SetOptions::new().expire_at(unix_millis),
    };
    context.store.set_with(&args[1], &args[3], &how)?;
    context.reply.ok();
    Ok(())
}

pub(super) fn setnx<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let applied = context.store.set_if_missing(&args[1], &args[2])?;
    context.reply.flag(applied);
    Ok(())
}

pub(super) fn mset<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    context.store.mset(pairs(context.command, args)?)?;
    context.reply.ok();
    Ok(())
}

pub(super) fn msetnx<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let applied = context
        .store
        .mset_if_missing(pairs(context.command, args)?)?;
    context.reply.flag(applied);
    Ok(())
}

fn pairs<'a>(
    command: &'static Command,
    args: Args<'a>,
) -> Result<impl Iterator<Item = (&'a [u8], &'a [u8])>, Refusal> {
    if args.len().is_multiple_of(2) {
        return Err(Refusal::arity(command));
    }
    let keys = args.from(1).iter().step_by(2);
    let values = args.from(2).iter().step_by(2);
    Ok(keys.zip(values))
}

pub(super) fn getset<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let previous = context.store.getset(&args[1], &args[2])?;
    count(context, previous.is_some());
    reply_value(context, previous.as_ref());
    Ok(())
}

pub(super) fn getdel<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let previous = context.store.getdel(&args[1])?;
    count(context, previous.is_some());
    reply_value(context, previous.as_ref());
    Ok(())
}

pub(super) fn getex<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let mut expiry: Option<TimeOption<'_>> = None;
    let mut persist = false;
    let mut options = args.from(2).iter();
    while let Some(option) = options.next() {
        match &*word(option) {
            b"persist" if expiry.is_none() => persist = true,
            other if !persist => expiry = Some(TimeOption::read(expiry, other, options.next())?),
            _ => return Err(Refusal::SYNTAX),
        }
    }
    let wish = match expiry
        .map(|option| option.expiry(context.command))
        .transpose()
    {
        Ok(Some(Moment::In(after))) => GetExpiry::In(after),
        Ok(Some(Moment::At(unix_millis))) => GetExpiry::At(unix_millis),
        Ok(None) if persist => GetExpiry::Clear,
        Ok(None) => GetExpiry::Keep,
        // Redis looks the key up first: a missing key is nil, whatever the time says.
        Err(refusal) if context.store.contains(&args[1]) => {
            context.store.strlen(&args[1])?;
            return Err(refusal);
        }
        Err(_) => GetExpiry::Keep,
    };
    let value = context.store.getex(&args[1], wish)?;
    count(context, value.is_some());
    reply_value(context, value.as_ref());
    Ok(())
}

pub(super) fn append<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let len = context.store.append(&args[1], &args[2])?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn strlen<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let len = context.store.strlen(&args[1])?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn setrange<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let offset = u64::try_from(integer(&args[2])?).map_err(|_| Refusal::OFFSET)?;
    let len = context.store.setrange(&args[1], offset, &args[3])?;
    context.reply.count(len);
    Ok(())
}

pub(super) fn getrange<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let (start, end) = (integer(&args[2])?, integer(&args[3])?);
    let part = context.store.getrange(&args[1], start, end)?;
    context.reply.bulk(&part.text());
    Ok(())
}

pub(super) fn incr<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    add(context, &args[1], 1)
}

pub(super) fn decr<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    add(context, &args[1], -1)
}

pub(super) fn incrby<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let amount = integer(&args[2])?;
    add(context, &args[1], amount)
}

pub(super) fn decrby<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let amount = integer(&args[2])?
        .checked_neg()
        .ok_or(Refusal::fixed("ERR decrement would overflow"))?;
    add(context, &args[1], amount)
}

pub(super) fn incrbyfloat<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let sum = context.store.incr_float(&args[1], &args[2])?;
    context.reply.bulk(&sum.text());
    Ok(())
}

fn add<S: Store>(context: &mut Context<'_, S>, key: &[u8], amount: i64) -> Outcome {
    let sum = context.store.incr_by(key, amount)?;
    context.reply.integer(sum);
    Ok(())
}

fn reply_value<S: Store>(context: &mut Context<'_, S>, value: Option<&Value>) {
    match value {
        Some(value) => context.reply.bulk(&value.text()),
        None => context.reply.nil(),
    }
}

fn count<S: Store>(context: &Context<'_, S>, found: bool) {
    Counters::add(
        if found {
            &context.counters.hits
        } else {
            &context.counters.misses
        },
        1,
    );
}

/// The unit of an expiry, and what it counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TimeUnit {
    Ex,
    Px,
    ExAt,
    PxAt,
}

/// An expiry as the client wrote it.
#[derive(Debug, Clone, Copy)]
struct TimeOption<'a> {
    unit: TimeUnit,
    amount: &'a [u8],
}

/// An expiry that makes sense.
#[derive(Debug, Clone, Copy)]
enum Moment {
    In(Duration),
    At(u64),
}

impl<'a> TimeOption<'a> {
    /// Reads `EX`, `PX`, `EXAT` or `PXAT`. One may be repeated, and the last one counts; two
    /// different ones may not.
    fn read(
        before: Option<Self>,
        option: &[u8],
        amount: Option<&'a [u8]>,
    ) -> Result<Self, Refusal> {
        let unit = match option {
            b"ex" => TimeUnit::Ex,
            b"px" => TimeUnit::Px,
            b"exat" => TimeUnit::ExAt,
            b"pxat" => TimeUnit::PxAt,
            _ => return Err(Refusal::SYNTAX),
        };
        match amount {
            Some(amount) if before.is_none_or(|before| before.unit == unit) => {
                Ok(Self { unit, amount })
            }
            _ => Err(Refusal::SYNTAX),
        }
    }

    /// Must be positive, and its end must fit a signed 64-bit count of milliseconds since 1970.
    fn expiry(self, command: &Command) -> Result<Moment, Refusal> {
        let amount = integer(self.amount)?;
        let invalid = || Refusal::expiry(command);
        let millis = match self.unit {
            TimeUnit::Ex | TimeUnit::ExAt => amount.checked_mul(1000).ok_or_else(invalid)?,
            TimeUnit::Px | TimeUnit::PxAt => amount,
        };
        let millis = u64::try_from(millis)
            .ok()
            .filter(|&millis| millis > 0)
            .ok_or_else(invalid)?;
        match self.unit {
            TimeUnit::ExAt | TimeUnit::PxAt => Ok(Moment::At(millis)),
            TimeUnit::Ex | TimeUnit::Px => {
                if super::keys::now().saturating_add(millis) > i64::MAX as u64 {
                    return Err(invalid());
                }
                Ok(Moment::In(Duration::from_millis(millis)))
            }
        }
    }
}
