//! The commands of one shard that wait for their latches.
//!
//! Commands wait in turns. A turn asks for its latches, one after the other in the order that all
//! share, and goes to the shard's thread when it has them, see `turn`. Commands on one key alone
//! share a turn: who comes while one waits, or is being served, gets in behind the others there, so
//! that one grant of the latch serves all of them. A command on two keys has a turn of its own, and
//! closes those of its keys: who comes later is served behind it.
//!
//! All of that is owned by the line, under its lock; the callback in a latch's line knows its
//! turn's key only. So whoever takes a command out of here has it alone: the thread that serves
//! its turn, a cancel, or a shutdown. A latch that arrives for a turn which is gone is given back
//! at once.

use hashbrown::HashTable;

use super::Answer;
use super::command::{Command, Reply};
use super::error::CoordinatorError;
use super::held::{Held, needed};
use super::stats::Counters;
use super::turn::Job;
use crate::latch::{LatchError, LatchTable, SendLatch};
use crate::rmw::blocked::{Blocked, OwnedKey};
use crate::rmw::store::Store;
use crate::rmw::{Rmw, RmwError};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::lock::Mutex;
use crate::sync::{Arc, mutant};
use crate::waiter::{self, Key, Pending, Slab};
use crate::worker::{Completer, Ticket, TicketError, Worker, ticket};

pub(super) struct Line {
    latches: LatchTable<Vec<u8>>,
    blocked: Option<Arc<Blocked>>,
    worker: Worker<Job>,
    capacity: usize,
    pub(super) state: Mutex<State>,
    /// As the state's, for a look without the lock.
    closed: AtomicU32,
    pub(super) counters: Counters,
}

pub(super) struct State {
    line: waiter::Line,
    turns: Slab<Turn>,
    commands: Slab<Waiting>,
    /// The turns of one key that take further commands.
    open: HashTable<(OwnedKey, Key)>,
    /// Commands that wait, or are being served.
    places: usize,
    closed: bool,
}

/// Commands that are served under the same latches.
pub(super) struct Turn {
    keys: Vec<OwnedKey>,
    commands: waiter::Line,
    /// The latches to ask for, and how many have been asked for.
    hashes: Vec<u64>,
    asked: usize,
    held: Held<SendLatch>,
    /// Its requests. Dropping those that have been answered does nothing.
    pending: Vec<Pending>,
    /// Whether it has its latches, and is in the thread's mailbox or hands.
    is_served: bool,
}

/// A command that waits.
pub(super) struct Waiting {
    pub(super) command: Command,
    pub(super) completer: Completer<Answer>,
    turn: Key,
}

/// A turn that has left the line: to be dropped outside the lock.
pub(super) struct Gone {
    pub(super) commands: Vec<Waiting>,
    _turn: Option<Turn>,
}

/// What a turn needs next.
enum Next {
    Latch(u64),
    /// The latches of other keys, from the first on; those that it had go back.
    Others(Held<SendLatch>, Vec<Pending>),
    /// Nothing: the thread has it.
    Thread(Vec<Pending>),
    /// Nothing: it is over. Its commands are told, if its request was refused, or lost.
    Over(Gone, bool),
}

impl State {
    /// The open turn of a key.
    fn open_turn(&self, key: &OwnedKey) -> Option<Key> {
        let found = self
            .open
            .find(key.hash, |(k, _)| k.as_key() == key.as_key());
        found.map(|(_, turn)| *turn)
    }

    /// No command gets into this key's turn any more.
    fn close(&mut self, key: &OwnedKey) {
        let is_key = |(k, _): &(OwnedKey, Key)| k.as_key() == key.as_key();
        if let Ok(entry) = self.open.find_entry(key.hash, is_key) {
            entry.remove();
        }
    }

    /// Whether commands may still get into this turn.
    fn is_open(&mut self, turn: Key) -> bool {
        let key = self.turns.get_mut(turn).map(|turn| turn.keys[0].clone());
        key.is_some_and(|key| self.open_turn(&key) == Some(turn))
    }

    /// Adds a command behind the others of its keys. `true`: in a turn of its own.
    fn join(
        &mut self,
        keys: Vec<OwnedKey>,
        command: Command,
        completer: Completer<Answer>,
    ) -> (Key, Option<Key>) {
        let shares = keys.len() == 1 && command.is_short();
        let open = keys.first().and_then(|key| self.open_turn(key));
        let (turn, is_new) = match open.filter(|_| shares) {
            Some(turn) => (turn, false),
            None => {
                for key in &keys {
                    self.close(key);
                }
                let first = keys[0].clone();
                let turn = Turn {
                    hashes: needed(None, &keys),
                    keys,
                    commands: waiter::Line::new(),
                    asked: 0,
                    held: Held::new(),
                    pending: Vec::new(),
                    is_served: false,
                };
                let turn = self.line.push(&mut self.turns, turn);
                if shares {
                    self.open
                        .insert_unique(first.hash, (first, turn), |(key, _)| key.hash);
                }
                (turn, true)
            }
        };
        let waiting = Waiting {
            command,
            completer,
            turn,
        };
        let line = &mut self.turns.get_mut(turn).expect("in line").commands;
        let command = line.push(&mut self.commands, waiting);
        self.places += 1;
        (command, is_new.then_some(turn))
    }

    /// The next command of a turn.
    pub(super) fn pop(&mut self, turn: Key) -> Option<Waiting> {
        let line = &mut self.turns.get_mut(turn)?.commands;
        let (key, _) = line.front(&mut self.commands)?;
        line.remove(&mut self.commands, key)
    }

    /// Takes a turn out of line, with its commands.
    pub(super) fn remove(&mut self, turn: Key) -> Gone {
        let commands: Vec<_> = std::iter::from_fn(|| self.pop(turn)).collect();
        self.places -= commands.len();
        if self.is_open(turn) {
            let key = self.turns.get_mut(turn).map(|turn| turn.keys[0].clone());
            key.into_iter().for_each(|key| self.close(&key));
        }
        Gone {
            commands,
            _turn: self.line.remove(&mut self.turns, turn),
        }
    }

    /// Takes the latches of a turn whose time has come.
    pub(super) fn take_latches(&mut self, turn: Key) -> Option<Held<SendLatch>> {
        let turn = self.turns.get_mut(turn)?;
        Some(std::mem::replace(&mut turn.held, Held::new()))
    }

    /// Whether the rest of a turn's commands may wait for another one: nobody waits behind it in
    /// this line who came later.
    pub(super) fn may_stop(&mut self, turn: Key) -> bool {
        self.is_open(turn)
    }

    /// Sends a turn back for its latches. `false`: it is over, for it has no commands any more.
    pub(super) fn begin_again(&mut self, key: Key) -> bool {
        let Some(turn) = self.turns.get_mut(key) else {
            return false;
        };
        if turn.commands.is_empty() {
            // Its latches have been given back.
            if !mutant::enabled("coordinator-leaves-a-spent-turn-open") {
                drop(self.remove(key));
            }
            return false;
        }
        turn.hashes = needed(None, &turn.keys);
        (turn.asked, turn.is_served) = (0, false);
        true
    }

    /// Counts commands that have been served.
    pub(super) fn served(&mut self, commands: usize) {
        self.places -= commands;
    }
}

impl Line {
    pub(super) fn new<S: Store>(
        index: usize,
        capacity: usize,
        latched: &Rmw<S>,
        latches: &LatchTable<Vec<u8>>,
    ) -> Arc<Self> {
        let rmw = latched.clone();
        let worker = Worker::builder(&format!("lw-rmw-{index}"))
            // There is a place for each turn.
            .capacity(capacity)
            .build(move |job: Job| job.run(&rmw));
        Arc::new(Self {
            latches: latches.clone(),
            blocked: latched.core.blocked.clone(),
            worker,
            capacity,
            state: Mutex::new(State {
                line: waiter::Line::new(),
                turns: Slab::new(),
                commands: Slab::new(),
                open: HashTable::new(),
                places: 0,
                closed: false,
            }),
            closed: AtomicU32::new(0),
            counters: Counters::new(),
        })
    }

    pub(super) fn name(&self) -> &str {
        self.worker.name()
    }

    pub(super) fn serve(&self) -> bool {
        self.worker.serve()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed) != 0
    }

    /// Puts a command in line for its latches.
    pub(super) fn enqueue<S: Store>(
        line: &Arc<Self>,
        command: Command,
        rmw: &Rmw<S>,
    ) -> Result<Ticket<Answer>, CoordinatorError> {
        if line.worker.is_forked() {
            return Err(CoordinatorError::ShutDown);
        }
        line.worker
            .start()
            .map_err(|error| CoordinatorError::NoThread(error.kind()))?;
        let (completer, ticket) = ticket();
        let keys = command.keys(rmw);
        let (key, turn) = {
            let mut state = line.state.lock();
            if state.closed {
                return Err(CoordinatorError::ShutDown);
            }
            // A turn whose commands have all been cancelled takes a place until its thread sees it.
            if state.places.max(state.line.len()) >= line.capacity {
                line.counters.busy.add(1);
                return Err(CoordinatorError::Busy);
            }
            let joined = state.join(keys, command, completer);
            line.note(&state);
            joined
        };
        line.counters.queued.add(1);
        if let Some(turn) = turn {
            Self::go_on(line, turn, None);
        }
        let line = Arc::clone(line);
        Ok(ticket.on_cancel(move || line.withdraw(key)))
    }

    /// Gives a turn a latch, and sees to what it needs next.
    pub(super) fn go_on(
        line: &Arc<Self>,
        key: Key,
        mut arrived: Option<Result<SendLatch, LatchError>>,
    ) {
        loop {
            let next = {
                let mut state = line.state.lock();
                let Some(turn) = state.turns.get_mut(key) else {
                    drop(state);
                    // Outside the lock: the next in the latch's line may be served here.
                    drop(arrived);
                    return;
                };
                match arrived.take() {
                    Some(Err(_)) => Next::Over(state.remove(key), true),
                    latch => {
                        if let Some(Ok(latch)) = latch {
                            turn.held.push(latch);
                        }
                        Self::next(line, &mut state, key)
                    }
                }
            };
            match next {
                Next::Latch(hash) => return Self::ask(line, key, hash),
                Next::Others(held, pending) => drop((held, pending)),
                Next::Thread(pending) => return drop(pending),
                Next::Over(gone, is_refused) => return line.refuse(gone, is_refused),
            }
        }
    }

    /// What a turn needs, which is in line.
    fn next(line: &Arc<Self>, state: &mut State, key: Key) -> Next {
        let turn = state.turns.get_mut(key).expect("in line");
        if let Some(&hash) = turn.hashes.get(turn.asked) {
            turn.asked += 1;
            return Next::Latch(hash);
        }
        // It has all. Is that enough?
        let needed = needed(line.blocked.as_deref(), &turn.keys);
        if !needed.iter().all(|hash| turn.hashes.contains(hash)) {
            (turn.hashes, turn.asked) = (needed, 0);
            let held = std::mem::replace(&mut turn.held, Held::new());
            return Next::Others(held, std::mem::take(&mut turn.pending));
        }
        turn.is_served = true;
        let pending = std::mem::take(&mut turn.pending);
        // Under the lock, so that a shutdown finds it here or after it was sent.
        let (completer, _) = ticket();
        let job = Job::new(Arc::clone(line), key);
        match line.worker.submit_with(job, completer) {
            Ok(_) => Next::Thread(pending),
            Err(_) => Next::Over(state.remove(key), false),
        }
    }

    /// Has a turn wait for a latch.
    fn ask(line: &Arc<Self>, key: Key, hash: u64) {
        let again = Arc::clone(line);
        let pending = line.latches.latch_with_hashed(hash, move |latch| {
            Self::go_on(&again, key, Some(latch));
        });
        let mut pending = Some(pending);
        let mut state = line.state.lock();
        if let Some(turn) = state.turns.get_mut(key) {
            turn.pending.extend(pending.take());
        }
        drop(state);
        // If the turn is gone meanwhile, its request leaves the latch's line here.
        drop(pending);
    }

    /// Tells the commands of a turn that they will not be executed.
    fn refuse(&self, gone: Gone, is_refused: bool) {
        self.note(&self.state.lock());
        for waiting in gone.commands {
            if is_refused {
                self.counters.busy.add(1);
                waiting.completer.complete(Ok(Err(RmwError::Busy)));
            }
        }
    }

    /// Takes a cancelled command out of line, and its turn if it was the last; if its thread has
    /// it, that finds it cancelled.
    fn withdraw(&self, key: Key) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(waiting) = state.commands.get_mut(key) else {
            return;
        };
        let turn_key = waiting.turn;
        let Some(turn) = state.turns.get_mut(turn_key) else {
            return;
        };
        let command = turn.commands.remove(&mut state.commands, key);
        state.places -= usize::from(command.is_some());
        let is_over = turn.commands.is_empty() && !turn.is_served;
        let gone = is_over.then(|| state.remove(turn_key));
        self.note(state);
        drop(guard);
        // Outside the lock: its requests leave their lines, and its latches go to others.
        drop((command, gone));
    }

    /// Counts what came of a command, in the caller's terms.
    pub(super) fn result(
        &self,
        answer: Result<Answer, TicketError>,
    ) -> Result<Reply, CoordinatorError> {
        match answer {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(RmwError::Busy)) => Err(CoordinatorError::Busy),
            Ok(Err(error)) => Err(CoordinatorError::Command(error)),
            Err(TicketError::Panicked(panic)) => {
                self.counters.crashed.add(1);
                Err(CoordinatorError::Crashed(panic.message().to_owned()))
            }
            Err(TicketError::Lost) => Err(CoordinatorError::ShutDown),
        }
    }

    pub(super) fn shutdown(&self) -> Vec<Command> {
        if self.worker.is_forked() {
            // A thread that is not in this process may have left the lock taken.
            return Vec::new();
        }
        let mut left = Vec::new();
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            state.closed = true;
            self.closed.store(1, Ordering::Relaxed);
            let forgets = mutant::enabled("coordinator-shutdown-forgets-the-line");
            while let Some((key, _)) = state.line.front(&mut state.turns).filter(|_| !forgets) {
                left.push(state.remove(key));
            }
            self.note(state);
        }
        let commands = left.into_iter().flat_map(|gone| gone.commands);
        let commands = commands.map(|waiting| waiting.command).collect();
        self.worker.shutdown();
        commands
    }

    pub(super) fn note(&self, state: &State) {
        let waiting = state.places as u64;
        self.counters.waiting.store(waiting, Ordering::Relaxed);
    }
}
