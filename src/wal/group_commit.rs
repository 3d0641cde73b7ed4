//! Group commit: who appends together writes together.
//!
//! Appends put their records into the pending batch, under one short lock that decides the order.
//! One thread at a time leads: it owns the [`Writer`], seals the pending batch, writes and syncs it
//! outside the lock while others fill the next one, and then tells the batch's waiters and hands
//! the writer to one waiter of the next batch.
//!
//! | role | means | next |
//! |---|---|---|
//! | `Free` | nobody leads, and nobody waits | `Taken` by who comes |
//! | `Taken` | a batch is being written | `Offered` if somebody waits for the next batch, else `Free` |
//! | `Offered` | one waiter of the pending batch has been called | `Taken` by a waiter; when the last of them leaves, `Free` |
//! | `Gone` | the log is closed | |
//!
//! | a batch | its waiter leaves with |
//! |---|---|
//! | is pending, and the time is up | `TimedOut`; its record is void |
//! | is being written, and the time is up | `InDoubt` |
//! | was written, and synced if the log promises that | its place |
//! | could not be written, and the file holds nothing of it | `NoSpace` or `Failed`; its record is skipped, enqueued ones stay in line |
//! | may have been written in part, or its sync failed | `InDoubt`, and the log is poisoned |
//! | was pending when the log was poisoned | `Poisoned` |
//!
//! A leader that panics ends like one whose file system fails: its [`Duty`] sees to that when it is
//! dropped.
//!
//! Why nobody sleeps for ever: who waits for batch n sleeps on bell n mod 2, whose number it reads
//! under the lock before it lets go of that. The bell rings under the lock when the batch is
//! completed and when its waiters are offered the lead, see `Bell`. The offer wakes one, who
//! takes it, or passes it on when it leaves. Batches two apart are never both waited for by
//! sleepers that have not been woken, because batches complete in order.
//!
//! Records that nobody waits for are led by the log's thread, which is rung for when one is
//! enqueued while nobody leads, and by a leader who finds such records after its batch.

mod finish;
mod request;
mod service;
mod state;

use std::time::Duration;

use crc32c::crc32c;

use crate::os::fs::File;
use crate::os::home::Home;
use crate::sync::lock::Mutex;
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, mutant, thread, unmodelled};
use crate::waiter::Bell;

use super::batch::{Batch, Callback};
use super::builder::Durability;
use super::record;
use super::segment::Name;
use super::stats::Counters;
use super::writer::Writer;
use super::{AppendError, Lsn, WalError};
use finish::Duty;
use state::{Guard, Next, Role, State, Writing, clean};
pub(super) use state::{Patience, Tell};

/// A buffer beyond this goes once it was written.
const MOST_KEPT: usize = 64 << 20;

type Told = unmodelled::Arc<dyn Fn(Lsn) + Send + Sync>;
type ToldFailure = unmodelled::Arc<dyn Fn(&WalError) + Send + Sync>;

pub(super) struct Core {
    pub(super) dir: std::path::PathBuf,
    pub(super) durability: Durability,
    pub(super) longest: usize,
    pub(super) most_pending: usize,
    /// How long records that nobody waits for wait for more of them.
    linger: Duration,
    pub(super) counters: Counters,
    /// The segments on disk in order, each with its first LSN.
    pub(super) segments: unmodelled::Mutex<Vec<(Name, u64)>>,
    pub(super) on_durable: unmodelled::Mutex<Vec<Told>>,
    pub(super) on_written: unmodelled::Mutex<Vec<Told>>,
    pub(super) on_failure: unmodelled::Mutex<Vec<ToldFailure>>,
    state: Mutex<State>,
    /// Rings for the waiters of even, and of odd batches.
    batches: [Bell; 2],
    /// Rings when there is room in the pending batch.
    room: Bell,
    /// Rings when the log's thread has to look again.
    bell: Bell,
    /// Rings when the log has been closed.
    ended: Bell,
    home: Home,
}
impl Core {
    pub(super) fn new(
        writer: Writer,
        durability: Durability,
        longest: usize,
        most_pending: usize,
        linger: Duration,
        segments: Vec<(Name, u64)>,
        lock_file: Box<dyn File>,
    ) -> Self {
        let written = writer.written;
        let counters = Counters::new();
        counters.last_lsn.add(written);
        counters.durable_lsn.add(written);
        counters.segments.add(segments.len() as u64);
        let home = Home::new();
        home.settle();
        Self {
            dir: writer.dir.clone(),
            durability,
            longest,
            most_pending,
            linger: match durability {
                Durability::Sync => Duration::ZERO,
                _ => linger,
            },
            counters,
            segments: unmodelled::Mutex::new(segments),
            on_durable: unmodelled::Mutex::new(Vec::new()),
            on_written: unmodelled::Mutex::new(Vec::new()),
            on_failure: unmodelled::Mutex::new(Vec::new()),
            state: Mutex::new(State {
                role: Role::Free(Box::new(writer)),
                pending: Batch::new(1),
                spare: Some(Batch::new(0)),
                writing: None,
                next: written + 1,
                durable: written,
                rotated: 0,
                completed: 0,
                failed: Vec::new(),
                halted: None,
                poisoned: None,
                closed: false,
                end: None,
                is_crowded: false,
                unsynced_since: None,
                lingers_since: None,
                thread: None,
                attended: false,
                asleep: false,
                lock_file: Some(lock_file),
            }),
            batches: [Bell::new(), Bell::new()],
            room: Bell::new(),
            bell: Bell::new(),
            ended: Bell::new(),
            home,
        }
    }

    pub(super) fn is_forked(&self) -> bool {
        self.home.is_elsewhere()
    }

    /// Gives a record its place. The lock is still held on return, with where the record is.
    fn place(
        &self,
        body: &[u8],
        tell: Tell,
        patience: Patience,
    ) -> Result<(Guard<'_>, Lsn, usize), (AppendError, Option<Callback>)> {
        let is_told = !matches!(tell, Tell::Nobody);
        let callback = match tell {
            Tell::Callback(callback) => Some(callback),
            _ => None,
        };
        let len = body.len();
        if len > self.longest {
            let limit = self.longest;
            return Err((AppendError::TooLarge { len, limit }, callback));
        }
        if self.is_forked() {
            return Err((AppendError::Closed, callback));
        }
        let crc = crc32c(body);
        let size = record::size(len);
        let mut has_led = false;
        let mut state = loop {
            let number = self.room.number();
            let mut state = self.state.lock();
            if let Some(refusal) = state.refusal() {
                return Err((refusal, callback));
            }
            if (!is_told || has_led)
                && let Some(halt) = state.halted.clone()
            {
                return Err((clean(halt), callback));
            }
            let pending = state.pending.bytes.len();
            if pending == 0 || pending + size <= self.most_pending {
                break state;
            }
            if matches!(patience, Patience::None) {
                return Err((AppendError::Full, callback));
            }
            if matches!(state.role, Role::Free(_)) {
                // What fails is told to whom it concerns.
                let _ = self.lead(state);
                has_led = true;
            } else {
                state.is_crowded = true;
                drop(state);
                self.room.sleep(number, patience.deadline());
            }
            if patience.is_over() {
                return Err((AppendError::TimedOut, callback));
            }
        };
        let lsn = state.next;
        state.next += 1;
        let place = state.pending.push(lsn, body, crc, is_told);
        let lsn = Lsn::new(lsn);
        state.pending.callbacks.extend(callback.map(|f| (lsn, f)));
        self.counters.last_lsn.add(1);
        self.counters.pending_bytes.add(size as u64);
        Ok((state, lsn, place))
    }

    /// Appends a record and waits until it is as durable as the log promises.
    pub(super) fn append(&self, body: &[u8], patience: Patience) -> Result<Lsn, AppendError> {
        let placed = self.place(body, Tell::Thread, patience);
        let (state, lsn, place) = placed.map_err(|(error, _)| error)?;
        let number = state.pending.number;
        self.outcome(state, number, Some(place), patience)?;
        Ok(lsn)
    }

    /// Appends a record for which nobody waits.
    pub(super) fn enqueue(
        core: &Arc<Self>,
        body: &[u8],
        tell: Tell,
        patience: Patience,
    ) -> Result<Lsn, (AppendError, Option<Callback>)> {
        let (mut state, lsn, _) = core.place(body, tell, patience)?;
        Self::start(core, &mut state);
        if matches!(state.role, Role::Free(_)) {
            if !state.attended && thread::STARTS_ITS_OWN {
                // Without a thread of the log's, this one is as good.
                let _ = core.lead(state);
            } else if !core.lingers(&mut state) {
                core.call_thread(state);
            }
        }
        Ok(lsn)
    }

    /// Appends a record for which nobody waits, and calls nobody for it.
    pub(super) fn defer(
        core: &Arc<Self>,
        body: &[u8],
    ) -> Result<Lsn, (AppendError, Option<Callback>)> {
        let (mut state, lsn, _) = core.place(body, Tell::Nobody, Patience::None)?;
        Self::start(core, &mut state);
        Ok(lsn)
    }

    /// Calls for the records that were deferred, if they are still pending.
    pub(super) fn nudge(&self) {
        let mut state = self.state.lock();
        // Who leads looks for them after its batch.
        if !matches!(state.role, Role::Free(_)) || !state.wants_service() {
            return;
        }
        if !state.attended && thread::STARTS_ITS_OWN {
            let _ = self.lead(state);
        } else if !self.lingers(&mut state) && !mutant::enabled("wal-nudges-nobody") {
            self.call_thread(state);
        }
    }

    /// Sees a pending batch to its end, or waits for the end of one that is being written.
    ///
    /// `place` says where in it the caller's record is. Without one the caller may leave at any time.
    fn outcome<'a>(
        &'a self,
        mut state: Guard<'a>,
        number: u64,
        place: Option<usize>,
        patience: Patience,
    ) -> Result<(), AppendError> {
        if state.pending.number == number {
            if matches!(state.role, Role::Free(_)) {
                return self.lead(state);
            }
            state.pending.waiters += 1;
        } else if let Some(writing) = &mut state.writing {
            writing.waiters += 1;
        }
        let bell = self.batch_bell(number);
        loop {
            let rung = bell.number();
            drop(state);
            bell.sleep(rung, patience.deadline());
            state = self.state.lock();
            if state.completed >= number {
                return state.result(number);
            }
            let is_pending = state.pending.number == number;
            if patience.is_over() {
                return Err(match place {
                    Some(_) if !is_pending && !mutant::enabled("wal-timeout-is-certain") => {
                        self.leave_writing(state);
                        AppendError::InDoubt(None)
                    }
                    _ => {
                        if is_pending {
                            self.leave_pending(state, place);
                        } else {
                            self.leave_writing(state);
                        }
                        AppendError::TimedOut
                    }
                });
            }
            if is_pending && matches!(state.role, Role::Offered(_) | Role::Free(_)) {
                state.pending.waiters -= 1;
                return self.lead(state);
            }
        }
    }

    fn leave_writing(&self, mut state: Guard<'_>) {
        if let Some(writing) = &mut state.writing {
            writing.waiters -= 1;
        }
    }

    /// Leaves the pending batch, and passes the lead on if it was offered.
    fn leave_pending(&self, mut state: Guard<'_>, place: Option<usize>) {
        state.pending.waiters -= 1;
        if let Some(place) = place {
            state.pending.make_void(place);
            self.counters.timed_out.add(1);
        }
        if let Role::Offered(writer) = std::mem::replace(&mut state.role, Role::Taken) {
            if mutant::enabled("wal-timeout-swallows-the-lead") {
                state.role = Role::Offered(writer);
                return;
            }
            let next = self.pass_on(&mut state, writer);
            drop(state);
            self.wake(next);
        }
    }

    fn batch_bell(&self, number: u64) -> &Bell {
        &self.batches[(number & 1) as usize]
    }

    /// Gives the writer to the next leader, or keeps it for whoever comes. To be followed by
    /// [`wake`](Self::wake), without the lock.
    fn pass_on(&self, state: &mut State, writer: Box<Writer>) -> Next {
        if state.poisoned.is_none() && state.pending.waiters > 0 {
            state.role = Role::Offered(writer);
            self.batch_bell(state.pending.number).ring();
            return Next::Waiter(state.pending.number);
        }
        state.role = Role::Free(writer);
        if !state.wants_service() {
            return Next::Nobody;
        }
        if state.attended {
            if mutant::enabled("wal-leader-calls-nobody") {
                return Next::Nobody;
            }
            return match self.end_sleep(state) {
                true => Next::Thread,
                false => Next::Nobody,
            };
        }
        // A model steps the thread itself.
        match thread::STARTS_ITS_OWN {
            true => Next::Oneself,
            false => Next::Nobody,
        }
    }

    fn wake(&self, next: Next) {
        match next {
            Next::Waiter(_) if mutant::enabled("wal-offers-silently") => {}
            Next::Waiter(number) => self.batch_bell(number).wake_one(),
            Next::Thread => self.bell.wake_one(),
            Next::Oneself | Next::Nobody => {}
        }
    }

    /// Leads the pending batch, and says what became of it.
    fn lead<'a>(&'a self, mut state: Guard<'a>) -> Result<(), AppendError> {
        let mut outcome = None;
        loop {
            let (result, again) = self.lead_one(state);
            let result = outcome.get_or_insert(result);
            if !again {
                return result.clone();
            }
            state = self.state.lock();
            if !matches!(state.role, Role::Free(_)) {
                return result.clone();
            }
        }
    }

    fn lead_one(&self, mut state: Guard<'_>) -> (Result<(), AppendError>, bool) {
        if let Some(refusal) = state.poisoned.clone() {
            return (Err(AppendError::Poisoned(refusal)), false);
        }
        let writer = match std::mem::replace(&mut state.role, Role::Taken) {
            Role::Free(writer) | Role::Offered(writer) => writer,
            role => {
                state.role = role;
                return (Err(AppendError::Closed), false);
            }
        };
        let number = state.pending.number + 1;
        let spare = state.spare.take().unwrap_or_else(|| Batch::new(0));
        let spare = spare.reuse(number, self.most_pending.min(MOST_KEPT));
        let batch = std::mem::replace(&mut state.pending, spare);
        if !mutant::enabled("wal-lingers-on-what-was-written") {
            state.lingers_since = None;
        }
        let last = state.last();
        state.writing = Some(Writing {
            waiters: batch.waiters,
            last,
        });
        self.counters.pending_bytes.sub(batch.bytes.len() as u64);
        let is_due = state.unsynced_since.is_some_and(|since| self.is_due(since));
        if std::mem::take(&mut state.is_crowded) {
            self.room.announce(state);
        } else {
            drop(state);
        }
        let sync = batch.sync || is_due || self.durability == Durability::Sync;
        let mut duty = Duty {
            core: self,
            work: Some((writer, batch)),
            last,
        };
        let result = duty.commit(sync);
        duty.finish(result)
    }

    fn is_due(&self, since: Instant) -> bool {
        match self.durability {
            Durability::Periodic(period) => now().saturating_duration_since(since) >= period,
            _ => false,
        }
    }
}
