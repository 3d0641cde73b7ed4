//! `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
//!
//! `EXEC` knows the keys of the queued commands from the command table and runs them all in one
//! transaction on these keys, so that everything is published at one moment. `WATCH` notes the
//! keys' versions; `EXEC` latches them too and compares.
//!
//! A command about all keys (`FLUSHALL`, `KEYS`, `DBSIZE`, `SCAN`, …) cannot be part of a
//! transaction on some. It runs on its own, and what is queued before it and after it are two
//! transactions: others may come in between, which Redis does not allow.

use std::ops::Range;

use latchwork::rmw::{Rmw, RmwError, Store, Transaction};

use super::table::{Dispatch, Keys};
use super::{Command, Context, Outcome, Refusal, persistence};
use crate::queue::{Full, Queue, Watched};
use crate::request::Args;
use crate::server::Counters;
use crate::session::Session;

const DISCARDED: Refusal =
    Refusal::fixed("EXECABORT Transaction discarded because of previous errors.");

/// Whether a command is not queued, but runs at once.
pub(super) fn runs_at_once(command: &Command) -> bool {
    let names = ["exec", "discard", "multi", "watch", "quit", "reset"];
    names.contains(&command.name)
}

/// Puts a command into the open transaction.
pub(super) fn queue(
    queue: &mut Queue,
    command: &'static Command,
    args: Args<'_>,
    limit: usize,
) -> Outcome {
    if command.flags.contains(&"no_multi") {
        queue.fail();
        let text = "ERR Command not allowed inside a transaction";
        return Err(Refusal::fixed(text));
    }
    if queue.has_failed() {
        return Ok(());
    }
    queue.push(command, args, limit).map_err(|Full| {
        queue.fail();
        Refusal::fixed("ERR transaction too large")
    })
}

/// A request that cannot run, for its name or the number of its arguments, makes the open
/// transaction fail. `EXEC` itself ends it.
#[cold]
pub(super) fn refuse(session: &mut Session, args: Args<'_>, refusal: Refusal) -> Refusal {
    if let Some(queue) = &mut session.transaction {
        queue.fail();
    }
    if !args[0].eq_ignore_ascii_case(b"exec") {
        return refusal;
    }
    session.transaction = None;
    session.watched = Watched::default();
    let reason = refusal.0.strip_prefix(b"ERR ").unwrap_or(&refusal.0);
    let text = "EXECABORT Transaction discarded because of: ";
    Refusal::quoting(text, reason, "")
}

pub(super) fn multi<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    if context.session.transaction.is_some() {
        return Err(Refusal::fixed("ERR MULTI calls can not be nested"));
    }
    context.session.transaction = Some(Box::default());
    context.reply.ok();
    Ok(())
}

pub(super) fn discard<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    if context.session.transaction.take().is_none() {
        return Err(Refusal::fixed("ERR DISCARD without MULTI"));
    }
    context.session.watched = Watched::default();
    context.reply.ok();
    Ok(())
}

pub(super) fn watch<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    if context.session.transaction.is_some() {
        return Err(Refusal::fixed("ERR WATCH inside MULTI is not allowed"));
    }
    for key in args.from(1).iter() {
        let version = context.store.version(key);
        let watched = &mut context.session.watched;
        watched
            .push(key, version, context.server.options.max_queued)
            .map_err(|Full| Refusal::fixed("ERR too many watched keys"))?;
    }
    context.reply.ok();
    Ok(())
}

pub(super) fn unwatch<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.session.watched = Watched::default();
    context.reply.ok();
    Ok(())
}

pub(super) fn exec<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.session.in_exec = true;
    let outcome = execute(context);
    context.session.in_exec = false;
    if std::mem::take(&mut context.session.saves_after) && outcome.is_ok() {
        persistence::begin_scheduled(context);
    }
    outcome
}

fn execute<S: Store>(context: &mut Context<'_, S>) -> Outcome {
    let Some(queue) = context.session.transaction.take() else {
        return Err(Refusal::fixed("ERR EXEC without MULTI"));
    };
    let watched = std::mem::take(&mut context.session.watched);
    if queue.has_failed() {
        return Err(DISCARDED);
    }
    let start = context.reply.len();
    context.reply.array(queue.len());
    let mut parts = parts(&queue);
    // The first part is the one that the watched keys belong to.
    let first = parts.next().unwrap_or(0..0);
    match run_part(context, &queue, first, &watched) {
        Ok(()) => {}
        Err(Failure::Changed) => {
            context.reply.truncate(start);
            context.reply.nil_array();
            return Ok(());
        }
        Err(Failure::Store(error)) => {
            context.reply.truncate(start);
            return Err(error.into());
        }
    }
    for part in parts {
        let (start, commands) = (context.reply.len(), part.len());
        let outcome = run_part(context, &queue, part, &Watched::default());
        if let Err(Failure::Store(error)) = outcome {
            context.reply.truncate(start);
            let refusal = Refusal::from(error);
            for _ in 0..commands {
                context.reply.error(&refusal.0);
            }
        }
    }
    Ok(())
}

/// What makes a part of a transaction end without effect.
enum Failure {
    /// A watched key has changed.
    Changed,
    Store(RmwError),
}

impl From<RmwError> for Failure {
    fn from(error: RmwError) -> Self {
        Self::Store(error)
    }
}

/// The queue in pieces that each run at one moment: a command about all keys is one by itself.
fn parts(queue: &Queue) -> impl Iterator<Item = Range<usize>> {
    let is_whole = |index| queue.command(index).keys == Keys::Every;
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = start;
        if first == queue.len() {
            return None;
        }
        let end = (first..queue.len()).find(|&index| is_whole(index));
        start = match end {
            Some(end) if end == first => first + 1,
            Some(end) => end,
            None => queue.len(),
        };
        Some(first..start)
    })
}

/// Runs queued commands at one moment, if the watched keys are as they were.
fn run_part<S: Store>(
    context: &mut Context<'_, S>,
    queue: &Queue,
    part: Range<usize>,
    watched: &Watched,
) -> Result<(), Failure> {
    let is_whole = |&index: &usize| queue.command(index).keys == Keys::Every;
    if part.clone().next().as_ref().is_some_and(is_whole) {
        if !watched.is_empty() {
            run_part(context, queue, 0..0, watched)?;
        }
        run(context, &context.server.store, queue, part);
        return Ok(());
    }
    let declared = part
        .clone()
        .flat_map(|index| queue.command(index).keys.of(queue.args(index)));
    let keys: Vec<&[u8]> = watched.iter().map(|(key, _)| key).chain(declared).collect();
    if keys.is_empty() {
        run(context, &context.server.store, queue, part);
        return Ok(());
    }
    let server = context.server;
    server.store.update_many(&keys, |tx: &Transaction| {
        if watched
            .iter()
            .any(|(key, version)| tx.version(key) != version)
        {
            return Err(Failure::Changed);
        }
        run(context, tx, queue, part);
        Ok(())
    })?
}

/// Runs queued commands on `store`, one after the other; an error of one does not stop the next.
fn run<S: Store, T: Dispatch>(
    context: &mut Context<'_, S>,
    store: &Rmw<T>,
    queue: &Queue,
    part: Range<usize>,
) {
    Counters::add(&context.counters.commands, part.len() as u64);
    for index in part {
        let command = queue.command(index);
        let mut inner = Context {
            store,
            command,
            server: context.server,
            counters: context.counters,
            client: context.client,
            session: &mut *context.session,
            reply: &mut *context.reply,
        };
        if let Err(Refusal(text)) = T::handler(command)(&mut inner, queue.args(index)) {
            context.reply.error(&text);
        }
    }
}
