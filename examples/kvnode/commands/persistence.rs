//! What durability (`--data`) has to do with commands: which of them may run while the log cannot
//! write, and `SAVE`, `BGSAVE`, `LASTSAVE`, `SHUTDOWN`.
//!
//! | the log | writes | reads |
//! |---|---|---|
//! | is well | run | run |
//! | has to catch up with what was written | wait, with all that the client has sent behind them | run |
//! | has no space, or has failed | are refused | run; under `--fsync always` not those of keys whose last write is not durable: it may never be |
//!
//! A transaction is refused as a whole, when a write is queued or at `EXEC`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use latchwork::rmw::Store;

use super::table::Keys;
use super::{Command, Context, Outcome, Refusal, transactions, word};
use crate::blocked::{Blocked, Ending};
use crate::clients::Client;
use crate::held::Observed;
use crate::inbox::Post;
use crate::options::Fsync;
use crate::queue::Queue;
use crate::reply::Reply;
use crate::request::Args;
use crate::session::Session;
use crate::storage::{Halt, Storage, StorageError};

const NOWHERE: Refusal =
    Refusal::fixed("ERR there is nowhere to save to: kvnode was started without --data");
const IN_DOUBT: Refusal = Refusal::fixed(
    "INDOUBT the last write of a key could not be logged so far, and may never be; it is not shown",
);

/// What is to be done with a command.
#[derive(Debug)]
pub(super) enum Admission {
    Run,
    /// The log has no room: not yet.
    Wait,
    Refuse(Refusal),
}

/// Decides whether a command may run now, and notes what its reply will tell of.
pub(super) fn admit(
    storage: &Storage,
    command: &'static Command,
    args: Args<'_>,
    session: &Session,
    reply: &mut Reply,
) -> Admission {
    if let Some(halt) = storage.refusal() {
        return match admit_halted(storage, halt, command, args, session, reply) {
            Ok(()) => Admission::Run,
            Err(refusal) => Admission::Refuse(refusal),
        };
    }
    let is_queued = session.transaction.is_some() && !transactions::runs_at_once(command);
    let is_exec = command.name == "exec";
    if is_queued || !(is_exec || command.keys != Keys::NONE) {
        return Admission::Run;
    }
    if storage.is_crowded() && (is_exec || command.writes()) {
        return Admission::Wait;
    }
    reply.observe(Observed::Anything);
    Admission::Run
}

#[cold]
fn admit_halted(
    storage: &Storage,
    halt: Halt,
    command: &'static Command,
    args: Args<'_>,
    session: &Session,
    reply: &mut Reply,
) -> Result<(), Refusal> {
    // Read before anything else: what is found durable below stays so while this is the last.
    let last = storage.last();
    let queue = session.transaction.as_deref();
    let is_queued = queue.is_some() && !transactions::runs_at_once(command);
    let executed: &Queue = match queue {
        Some(queue) if command.name == "exec" && !queue.has_failed() => queue,
        _ => &Queue::default(),
    };
    let executed = (0..executed.len()).map(|index| (executed.command(index), executed.args(index)));
    let commands = || std::iter::once((command, args)).chain(executed.clone());
    if commands().any(|(command, _)| command.writes()) {
        return Err(halt.into());
    }
    if is_queued || storage.fsync() != Fsync::Always {
        return Ok(());
    }
    let is_in_doubt = |(command, args): (&Command, Args<'_>)| match command.keys {
        Keys::Every => storage.any_in_doubt(),
        keys => keys.of(args).any(|key| storage.in_doubt(key)),
    };
    let watched = session.watched.iter().map(|(key, _)| key);
    if commands().any(is_in_doubt)
        || (command.name == "exec" && watched.into_iter().any(|key| storage.in_doubt(key)))
    {
        return Err(IN_DOUBT);
    }
    reply.observe(Observed::Settled(last));
    Ok(())
}

impl From<Halt> for Refusal {
    fn from(halt: Halt) -> Self {
        Self::new(halt.to_string())
    }
}

/// The saves that are going on.
#[derive(Debug, Default)]
pub(crate) struct Saves {
    running: AtomicU64,
    has_failed: AtomicBool,
}

impl Saves {
    pub(crate) fn running(&self) -> u64 {
        self.running.load(Ordering::Relaxed)
    }

    /// Whether the last one that ended has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }
}

/// Tells what became of a save; should nobody ever know, it tells that.
struct Saving {
    saves: Arc<Saves>,
    /// Who waits for it.
    client: Option<Arc<Client>>,
    has_ended: bool,
}

impl Saving {
    fn end(&mut self, outcome: Result<(), String>) {
        self.has_ended = true;
        let has_failed = outcome.is_err();
        self.saves.has_failed.store(has_failed, Ordering::Relaxed);
        // Before the client knows: what it asks next finds the save over.
        self.saves.running.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = self.client.take() {
            client.post(Post::Ending(Ending::Saved(outcome)));
        }
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(Err("the storage has been closed".to_owned()));
        }
    }
}

/// Begins to save; the client, if one is given, is told the end of it.
fn begin<S: Store>(context: &Context<'_, S>, client: Option<Arc<Client>>) -> Outcome {
    let storage = context.server.storage.as_ref().ok_or(NOWHERE)?;
    let saves = Arc::clone(&context.server.saves);
    saves.running.fetch_add(1, Ordering::Relaxed);
    let mut saving = Saving {
        saves,
        client,
        has_ended: false,
    };
    let tell = move |outcome: Result<(), StorageError>| {
        saving.end(outcome.map_err(|error| error.to_string()));
    };
    storage
        .save(tell)
        .map_err(|error| Refusal::new(format!("ERR {error}")))
}

/// The client waits until all is on disk; nobody else does.
pub(super) fn save<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    begin(context, Some(Arc::clone(context.client)))?;
    context.session.blocked = Some(Box::new(Blocked::saving(false)));
    Ok(())
}

/// `BGSAVE [SCHEDULE]`: with the word it is no error that another save is going on. In a transaction
/// it waits for the end of that, whose effects are applied then.
pub(super) fn bgsave<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let is_scheduled = match args.get(1).map(word).as_deref() {
        None => false,
        Some(b"schedule") if args.len() == 2 => true,
        Some(_) => return Err(Refusal::SYNTAX),
    };
    let is_busy = context.server.saves.running() > 0;
    if is_busy && !is_scheduled {
        return Err(Refusal::fixed("ERR Background save already in progress"));
    }
    let in_exec = context.session.in_exec;
    if !in_exec {
        begin(context, None)?;
    } else if context.server.storage.is_some() {
        context.session.saves_after = true;
    } else {
        return Err(NOWHERE);
    }
    context.reply.status(if is_busy || in_exec {
        "Background saving scheduled"
    } else {
        "Background saving started"
    });
    Ok(())
}

/// Begins the save that a transaction has asked for.
pub(super) fn begin_scheduled<S: Store>(context: &Context<'_, S>) {
    // It fails only after the storage has been closed, and then there is nothing to save.
    let _ = begin(context, None);
}

/// When everything was last on disk, or, before that was ever so, when the server was started.
pub(super) fn lastsave<S: Store>(context: &mut Context<'_, S>, _: Args<'_>) -> Outcome {
    context.reply.count(context.server.last_save());
    Ok(())
}

/// `SHUTDOWN [NOSAVE|SAVE] [NOW] [FORCE]`: everybody gets the replies owed, then the server ends.
/// All that was written is in the log by then, so that only `SAVE` asks for more. Where there is
/// nowhere to save to, that is refused rather than ignored.
pub(super) fn shutdown<S: Store>(context: &mut Context<'_, S>, args: Args<'_>) -> Outcome {
    let (mut save, mut nosave, mut abort, mut other) = (false, false, false, false);
    for option in args.from(1).iter() {
        match &*word(option) {
            b"save" => save = true,
            b"nosave" => nosave = true,
            b"abort" => abort = true,
            b"now" | b"force" => other = true,
            _ => return Err(Refusal::SYNTAX),
        }
    }
    if (save && nosave) || (abort && (save || nosave || other)) {
        return Err(Refusal::SYNTAX);
    }
    if abort {
        return Err(Refusal::fixed("ERR No shutdown in progress."));
    }
    if save {
        let text = "ERR Errors trying to SHUTDOWN. Check logs.";
        begin(context, Some(Arc::clone(context.client))).map_err(|_| Refusal::fixed(text))?;
        context.session.blocked = Some(Box::new(Blocked::saving(true)));
        return Ok(());
    }
    context.server.request_stop();
    context.session.ends = true;
    Ok(())
}
