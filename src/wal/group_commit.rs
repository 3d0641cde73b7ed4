//! Group commit: who appends together writes together.
//!
//! Appends put their records into the pending batch, under one short lock that decides the order.
//! One thread at a time leads: it owns the [`Writer`], seals the pending batch, writes and syncs it
//! outside the lock while others fill the next one, and then tells the batch's waiters and hands the
//! writer to one waiter of the next batch.
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

use std::cell::Cell;
use std::time::Duration;

use crc32c::crc32c;

use crate::os::fs::File;
use crate::os::home::Home;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, mutant, unmodelled};
use crate::waiter::{Bell, contain};

use super::batch::{Batch, Callback};
use super::builder::Durability;
use super::record;
use super::segment::Name;
use super::stats::Counters;
use super::writer::{Failure, Group, Writer};
use super::{AppendError, Lsn, WalError};

crate::sync::local! {
    /// The log whose callbacks this thread is running.
    static CALLING: Cell<usize> = Cell::new(0)
}

type Told = unmodelled::Arc<dyn Fn(Lsn) + Send + Sync>;

pub(super) struct Core {
    pub(super) dir: std::path::PathBuf,
    pub(super) durability: Durability,
    pub(super) longest: usize,
    pub(super) most_pending: usize,
    pub(super) counters: Counters,
    /// The segments on disk in order, each with its first LSN.
    pub(super) segments: unmodelled::Mutex<Vec<(Name, u64)>>,
    pub(super) on_durable: unmodelled::Mutex<Vec<Told>>,
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

struct State {
    role: Role,
    pending: Batch,
    /// The other batch, while it is not being written.
    spare: Option<Batch>,
    writing: Option<Writing>,
    /// The LSN of the next record.
    next: u64,
    durable: u64,
    /// The LSN of the first record after the last rotation.
    rotated: u64,
    /// The last batch that has ended, well or not.
    completed: u64,
    /// The batches that did not end well and that somebody has yet to hear of.
    failed: Vec<Failed>,
    /// Why the last batch could not be written; enqueued records of it are pending.
    halted: Option<WalError>,
    poisoned: Option<WalError>,
    closed: bool,
    /// How it was closed.
    end: Option<Result<(), WalError>>,
    /// Whether somebody waits for room.
    is_crowded: bool,
    /// Since when there are records that were written and not synced.
    unsynced_since: Option<Instant>,
    thread: Option<JoinHandle<()>>,
    /// Whether a thread serves who does not wait.
    attended: bool,
    asleep: bool,
    /// Kept open: it holds the lock.
    lock_file: Option<Box<dyn File>>,
}

enum Role {
    Free(Box<Writer>),
    Offered(Box<Writer>),
    Taken,
    Gone,
}

struct Writing {
    waiters: usize,
    last: u64,
}

struct Failed {
    number: u64,
    error: AppendError,
    waiters: usize,
}

/// Who is told what became of a record.
pub(super) enum Tell {
    Nobody,
    Thread,
    Callback(Callback),
}

/// How long to wait.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    None,
    Until(Instant),
    Endless,
}

impl Patience {
    pub(super) fn timeout(timeout: Duration) -> Self {
        // A time-out beyond the end of time is none.
        now()
            .checked_add(timeout)
            .map_or(Self::Endless, Self::Until)
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Until(deadline) => Some(deadline),
            _ => None,
        }
    }

    fn is_over(self) -> bool {
        match self {
            Self::None => true,
            Self::Until(deadline) => now() >= deadline,
            Self::Endless => false,
        }
    }
}

type Guard<'a> = MutexGuard<'a, State>;

impl State {
    fn last(&self) -> u64 {
        self.next - 1
    }

    fn refusal(&self) -> Option<AppendError> {
        if self.closed && !mutant::enabled("wal-appends-when-closed") {
            return Some(AppendError::Closed);
        }
        self.poisoned.clone().map(AppendError::Poisoned)
    }

    /// Whether there is something to write for nobody who waits.
    fn wants_service(&self) -> bool {
        let is_due = self.pending.is_wanted() || self.pending.records > 0 && self.halted.is_none();
        is_due && self.poisoned.is_none()
    }

    /// What became of a completed batch, for one who slept.
    fn result(&mut self, number: u64) -> Result<(), AppendError> {
        let Some(at) = self
            .failed
            .iter()
            .position(|failed| failed.number == number)
        else {
            return Ok(());
        };
        let failed = &mut self.failed[at];
        failed.waiters -= 1;
        let error = failed.error.clone();
        if failed.waiters == 0 {
            self.failed.swap_remove(at);
        }
        Err(error)
    }

    fn fail(&mut self, number: u64, waiters: usize, error: &AppendError) {
        let error = error.clone();
        if waiters > 0 {
            self.failed.push(Failed {
                number,
                error,
                waiters,
            });
        }
    }
}

fn clean(error: WalError) -> AppendError {
    if error.is_no_space() {
        AppendError::NoSpace(error)
    } else {
        AppendError::Failed(error)
    }
}

impl Core {
    pub(super) fn new(
        writer: Writer,
        durability: Durability,
        longest: usize,
        most_pending: usize,
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
            counters,
            segments: unmodelled::Mutex::new(segments),
            on_durable: unmodelled::Mutex::new(Vec::new()),
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
            } else {
                core.call_thread(state);
            }
        }
        Ok(lsn)
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
        let spare = spare.reuse(number, self.most_pending);
        let batch = std::mem::replace(&mut state.pending, spare);
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

    /// After a batch has been written, or not: tells all whom it concerns.
    fn finish(
        &self,
        mut writer: Box<Writer>,
        mut batch: Batch,
        last: u64,
        result: Result<(), Failure>,
    ) -> (Result<(), AppendError>, bool) {
        let counters = &self.counters;
        if let Some(made) = writer.made.take() {
            self.segments.lock().push(made);
            counters.segments.add(1);
        }
        let mut callbacks = std::mem::take(&mut batch.callbacks);
        let mut abandoned = Vec::new();
        let mut state = self.state.lock();
        let before = state.durable;
        let outcome = match result {
            Ok(()) => {
                state.halted = None;
                state.durable = writer.synced;
                if batch.rotate {
                    state.rotated = last + 1;
                }
                counters.durable_lsn.add(writer.synced - before);
                counters.records.add(batch.records);
                counters.bytes.add(batch.bytes.len() as u64);
                counters.groups.add(1);
                *counters.trouble.lock() = None;
                Ok(())
            }
            Err(failure) => {
                counters.failed_groups.add(1);
                let error = self.fail(&mut state, &batch, &failure, &mut abandoned);
                *counters.trouble.lock() = Some(failure.error);
                Err(error)
            }
        };
        let is_periodic = matches!(self.durability, Durability::Periodic(_));
        let mut next = Next::Nobody;
        if is_periodic && writer.synced < writer.written && state.poisoned.is_none() {
            // After a failure the next try is a period away, too.
            if state.unsynced_since.is_none() || outcome.is_err() {
                state.unsynced_since = Some(now());
                if self.end_sleep(&mut state) {
                    next = Next::Thread;
                }
            }
        } else {
            state.unsynced_since = None;
        }
        let sleepers = state.writing.take().map_or(0, |writing| writing.waiters);
        if let Err(error) = &outcome {
            state.fail(batch.number, sleepers, error);
        }
        state.completed = state.completed.max(batch.number);
        let is_offered = !mutant::enabled("wal-keeps-the-lead");
        let leader = if is_offered {
            self.pass_on(&mut state, writer)
        } else {
            state.role = Role::Free(writer);
            Next::Nobody
        };
        let durable = state.durable;
        let number = batch.number;
        // The callbacks' buffer comes back later, if there is one.
        state.spare = Some(batch);
        if sleepers > 0 {
            self.batch_bell(number).ring();
        }
        drop(state);
        let again = matches!(leader, Next::Oneself);
        self.wake(leader);
        self.wake(next);
        if sleepers > 0 && !mutant::enabled("wal-completes-silently") {
            self.batch_bell(number).wake_all();
        }
        self.call(|| {
            for (lsn, callback) in callbacks.drain(..) {
                self.contain(|| callback(outcome.clone().map(|()| lsn)));
            }
            for (_, callback, error) in abandoned {
                self.contain(|| callback(Err(error)));
            }
            if durable > before {
                let told = self.on_durable.lock().clone();
                for told in told {
                    self.contain(|| told(Lsn::new(durable)));
                }
            }
        });
        (outcome, again)
    }

    /// Under the lock: what a failure means for the batch, and for what comes after it.
    fn fail(
        &self,
        state: &mut State,
        batch: &Batch,
        failure: &Failure,
        abandoned: &mut Vec<(Lsn, Callback, AppendError)>,
    ) -> AppendError {
        if !failure.poison || mutant::enabled("wal-goes-on-after-doubt") {
            state.halted = Some(failure.error.clone());
            let left = state.pending.put_before(batch);
            self.counters.pending_bytes.add(left as u64);
            return clean(failure.error.clone());
        }
        let poison = WalError::poisoned(&self.dir, failure.error.clone());
        state.poisoned = Some(poison.clone());
        let error = AppendError::Poisoned(poison);
        // Nothing of the pending batch was written, nor will be.
        let number = state.pending.number;
        let fresh = Batch::new(number + 1);
        let lost = std::mem::replace(&mut state.pending, fresh);
        self.counters.pending_bytes.sub(lost.bytes.len() as u64);
        state.fail(number, lost.waiters, &error);
        state.completed = number;
        let lost = lost.callbacks.into_iter();
        abandoned.extend(lost.map(|(lsn, callback)| (lsn, callback, error.clone())));
        let bell = self.batch_bell(number);
        bell.ring();
        bell.wake_all();
        if failure.doubt {
            AppendError::InDoubt(Some(failure.error.clone()))
        } else {
            error
        }
    }

    /// Runs callbacks.
    fn call(&self, f: impl FnOnce()) {
        let before = CALLING.with(|calling| calling.replace(self.address()));
        f();
        CALLING.with(|calling| calling.set(before));
    }

    fn contain(&self, f: impl FnOnce()) {
        let mut is_done = false;
        contain(|| {
            f();
            is_done = true;
        });
        if !is_done {
            self.counters.panics.add(1);
        }
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Calls back at once, where there is nothing to wait for.
    pub(super) fn refuse(&self, callback: Callback, error: AppendError) {
        self.call(|| self.contain(|| callback(Err(error))));
    }

    /// Waits until everything up to `lsn` is synced; asks for that, if the log would not do it soon.
    pub(super) fn wait_durable(
        &self,
        lsn: Option<Lsn>,
        patience: Patience,
    ) -> Result<(), AppendError> {
        if self.is_forked() {
            return Err(AppendError::Closed);
        }
        let mut state = self.state.lock();
        let lsn = lsn.map_or(state.last(), Lsn::get);
        if lsn > state.last() {
            return Err(AppendError::Unassigned);
        }
        loop {
            if lsn <= state.durable {
                return Ok(());
            }
            if let Some(error) = state.refusal() {
                return Err(error);
            }
            let is_written = state
                .writing
                .as_ref()
                .is_some_and(|writing| lsn <= writing.last);
            let number = if self.durability == Durability::Sync && is_written {
                state.pending.number - 1
            } else {
                state.pending.sync = true;
                state.pending.number
            };
            self.outcome(state, number, None, patience)?;
            state = self.state.lock();
        }
    }

    /// Syncs what was enqueued so far, and has what comes later than that go to another segment.
    /// Returns the first LSN there, and the last that was enqueued before.
    pub(super) fn rotate(&self) -> Result<(Lsn, Lsn), AppendError> {
        if self.is_forked() {
            return Err(AppendError::Closed);
        }
        let mut state = self.state.lock();
        if let Some(error) = state.refusal() {
            return Err(error);
        }
        let last = Lsn::new(state.last());
        state.pending.rotate = true;
        let number = state.pending.number;
        self.outcome(state, number, None, Patience::Endless)?;
        Ok((Lsn::new(self.state.lock().rotated), last))
    }

    /// Tries again to write what could not be written.
    pub(super) fn resume(&self) -> Result<(), AppendError> {
        if self.is_forked() {
            return Err(AppendError::Closed);
        }
        let mut state = self.state.lock();
        if let Some(error) = state.refusal() {
            return Err(error);
        }
        if state.halted.is_none() {
            return Ok(());
        }
        state.pending.sync = true;
        let number = state.pending.number;
        self.outcome(state, number, None, Patience::Endless)
    }
}

/// Whom to wake.
enum Next {
    Waiter(u64),
    Thread,
    /// There is nobody: the caller leads again.
    Oneself,
    Nobody,
}

/// A leader's batch. Dropped by a panic, it fails the batch.
struct Duty<'a> {
    core: &'a Core,
    work: Option<(Box<Writer>, Batch)>,
    last: u64,
}

impl Duty<'_> {
    fn commit(&mut self, sync: bool) -> Result<(), Failure> {
        let Some((writer, batch)) = &mut self.work else {
            return Ok(());
        };
        let begun = now();
        let result = writer.commit(&mut Group {
            first: batch.first,
            last: self.last,
            sync,
            rotate: batch.rotate,
            bytes: &mut batch.bytes,
        });
        self.core
            .counters
            .commits
            .record(now().saturating_duration_since(begun));
        result
    }

    fn finish(mut self, result: Result<(), Failure>) -> (Result<(), AppendError>, bool) {
        match self.work.take() {
            Some((writer, batch)) => self.core.finish(writer, batch, self.last, result),
            None => (Ok(()), false),
        }
    }
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        let Some((writer, batch)) = self.work.take() else {
            return;
        };
        self.core.counters.panics.add(1);
        if mutant::enabled("wal-leader-panics-away") {
            return;
        }
        let is_torn = writer.is_torn;
        let failure = Failure {
            error: WalError::panicked(&writer.path),
            doubt: is_torn,
            poison: is_torn,
        };
        // Callbacks are contained, and nobody else leads for want of a thread: the panic goes on.
        let _ = self.core.finish(writer, batch, self.last, Err(failure));
    }
}

mod service;
