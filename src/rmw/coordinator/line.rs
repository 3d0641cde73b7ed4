//! The commands of one shard that wait for their latches, and the thread that executes them.
//!
//! A waiting command is owned by its place in the line, under the line's lock; the callback in a
//! latch's line knows its key only. So whoever takes it out of here has it alone: the callback that
//! brings its last latch, a cancel, or a shutdown. A latch that arrives for a command which is gone
//! is given back at once.

use super::command::{Command, Reply};
use super::error::CoordinatorError;
use super::stats::Counters;
use super::{Answer, pair};
use crate::latch::{LatchError, LatchTable, SendLatch};
use crate::rmw::Rmw;
use crate::rmw::store::Store;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::lock::Mutex;
use crate::sync::{Arc, mutant};
use crate::waiter::{self, Key, Pending, Slab};
use crate::worker::{Completer, SubmitError, Ticket, TicketError, Worker, ticket};

pub(super) struct Line {
    latches: LatchTable<Vec<u8>>,
    worker: Worker<Job, Answer>,
    capacity: usize,
    state: Mutex<State>,
    /// As the state's, for a look without the lock.
    closed: AtomicU32,
    pub(super) counters: Counters,
}

struct State {
    line: waiter::Line,
    waiting: Slab<Waiting>,
    /// Commands that wait for a latch, or for the thread.
    places: usize,
    closed: bool,
}

/// A command that waits for its latches.
struct Waiting {
    job: Job,
    completer: Completer<Answer>,
    /// The latches that it has not asked for.
    next: [Option<u64>; 2],
    /// Its requests. Dropping those that have been answered does nothing.
    pending: Vec<Pending>,
}

/// A command and its latches, for the thread.
struct Job {
    command: Command,
    latches: [Option<SendLatch>; 2],
    _place: Place,
}

/// One of the places that a shard has for waiting commands.
struct Place(Arc<Line>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.places -= 1;
        self.0.note(&state);
    }
}

/// What a waiting command needs next.
enum Next {
    Latch(u64),
    /// Nothing: its thread has it, or refused it after a shutdown. Here are its requests.
    Thread(Vec<Pending>, Option<SubmitError<Job>>),
    /// Its request was refused.
    Refused(Waiting),
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
            // There is a place for each.
            .capacity(capacity)
            .build(move |job: Job| {
                let Job {
                    command, latches, ..
                } = job;
                let latches = latches.into_iter().flatten();
                let latches =
                    latches.filter(|_| !mutant::enabled("coordinator-worker-unprotected"));
                let held: [Option<SendLatch>; 2] = pair(latches);
                command.run_under(held, &rmw)
            });
        Arc::new(Self {
            latches: latches.clone(),
            worker,
            capacity,
            state: Mutex::new(State {
                line: waiter::Line::new(),
                waiting: Slab::new(),
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
    pub(super) fn enqueue(
        line: &Arc<Self>,
        command: Command,
        hashes: [Option<u64>; 2],
    ) -> Result<Ticket<Answer>, CoordinatorError> {
        if line.worker.is_forked() {
            return Err(CoordinatorError::ShutDown);
        }
        line.worker
            .start()
            .map_err(|error| CoordinatorError::NoThread(error.kind()))?;
        let (completer, ticket) = ticket();
        let key = {
            let mut state = line.state.lock();
            if state.closed {
                return Err(CoordinatorError::ShutDown);
            }
            if state.places >= line.capacity {
                line.counters.busy.add(1);
                return Err(CoordinatorError::Busy);
            }
            state.places += 1;
            line.note(&state);
            let job = Job {
                command,
                latches: [None, None],
                _place: Place(Arc::clone(line)),
            };
            let waiting = Waiting {
                job,
                completer,
                next: hashes,
                pending: Vec::new(),
            };
            let State {
                line: queue,
                waiting: slab,
                ..
            } = &mut *state;
            queue.push(slab, waiting)
        };
        line.counters.queued.add(1);
        Self::go_on(line, key, None);
        let line = Arc::clone(line);
        Ok(ticket.on_cancel(move || line.withdraw(key)))
    }

    /// Gives a waiting command a latch, and sees to what it needs next.
    fn go_on(line: &Arc<Self>, key: Key, arrived: Option<Result<SendLatch, LatchError>>) {
        let next = {
            let mut state = line.state.lock();
            let State {
                line: queue,
                waiting: slab,
                ..
            } = &mut *state;
            let Some(waiting) = slab.get_mut(key) else {
                drop(state);
                // Outside the lock: the next in the latch's line may be served here.
                drop(arrived);
                return;
            };
            let refused = matches!(arrived, Some(Err(_)));
            if let Some(Ok(latch)) = arrived {
                let free = waiting.job.latches.iter_mut().find(|slot| slot.is_none());
                *free.expect("a place for each latch") = Some(latch);
            }
            let hash = waiting.next.iter_mut().find_map(Option::take);
            match hash.filter(|_| !refused) {
                Some(hash) => Next::Latch(hash),
                None => {
                    let waiting = queue.remove(slab, key).expect("found above");
                    if refused {
                        Next::Refused(waiting)
                    } else {
                        let Waiting {
                            job,
                            completer,
                            pending,
                            ..
                        } = waiting;
                        // Under the lock, so that a shutdown finds it in one of the two lines.
                        let refused = line.worker.submit_with(job, completer).err();
                        Next::Thread(pending, refused)
                    }
                }
            }
        };
        match next {
            Next::Latch(hash) => {
                let again = Arc::clone(line);
                let pending = line.latches.latch_with_hashed(hash, move |latch| {
                    Self::go_on(&again, key, Some(latch));
                });
                let mut state = line.state.lock();
                let mut pending = Some(pending);
                if let Some(waiting) = state.waiting.get_mut(key) {
                    waiting.pending.extend(pending.take());
                }
                drop(state);
                // If the command is gone meanwhile, its request leaves the latch's line here.
                drop(pending);
            }
            Next::Thread(pending, refused) => drop((pending, refused)),
            Next::Refused(waiting) => {
                line.counters.busy.add(1);
                waiting
                    .completer
                    .complete(Ok(Err(crate::rmw::RmwError::Busy)));
            }
        }
    }

    /// Takes a cancelled command out of line, if it still waits for a latch; else its thread finds
    /// it cancelled.
    fn withdraw(&self, key: Key) {
        let mut state = self.state.lock();
        let State { line, waiting, .. } = &mut *state;
        let gone = line.remove(waiting, key);
        drop(state);
        // Outside the lock: its requests leave their lines, and its latches go to others.
        drop(gone);
    }

    /// Counts what came of a command, in the caller's terms.
    pub(super) fn result(
        &self,
        answer: Result<Answer, TicketError>,
    ) -> Result<Reply, CoordinatorError> {
        match answer {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(crate::rmw::RmwError::Busy)) => Err(CoordinatorError::Busy),
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
            let mut state = self.state.lock();
            state.closed = true;
            self.closed.store(1, Ordering::Relaxed);
            let State { line, waiting, .. } = &mut *state;
            let forgets = mutant::enabled("coordinator-shutdown-forgets-the-line");
            while let Some((key, _)) = line.front(waiting).filter(|_| !forgets) {
                left.extend(line.remove(waiting, key));
            }
        }
        let mut commands: Vec<_> = left
            .into_iter()
            .map(|waiting| waiting.job.command)
            .collect();
        let queued = self.worker.shutdown();
        commands.extend(queued.into_iter().map(|job| job.command));
        commands
    }

    fn note(&self, state: &State) {
        let waiting = state.places as u64;
        self.counters.waiting.store(waiting, Ordering::Relaxed);
    }
}
