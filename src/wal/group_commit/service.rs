//! The log's own thread, `lw-wal`, and its end.
//!
//! It leads for records that nobody waits for, and syncs when a period is over. It starts with the
//! first record that was enqueued, and sleeps while there is nothing to do.

use crate::os::serving::is_serving;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, mutant};

use super::super::WalError;
use super::super::builder::Durability;
use super::Core;
use super::state::{Guard, Patience, Role, State};

/// So many bytes are written at once.
const LINGERING: usize = 256 << 10;

impl Core {
    /// Starts the thread, if there is none. A refusal is counted; then whoever enqueues leads.
    pub(super) fn start(core: &Arc<Self>, state: &mut State) {
        if !thread::STARTS_ITS_OWN || state.attended || state.closed {
            return;
        }
        let body = Arc::clone(core);
        match thread::spawn_named("lw-wal", move || body.run()) {
            Ok(handle) => {
                state.thread = Some(handle);
                state.attended = true;
            }
            Err(_) => core.counters.failed_starts.add(1),
        }
    }

    /// Starts the thread of a log that syncs from time to time.
    pub(in super::super) fn open(core: &Arc<Self>) {
        if matches!(core.durability, Durability::Periodic(_)) {
            Self::start(core, &mut core.state.lock());
        }
    }

    /// Leads for those who do not wait, until the log is closed. `false`: another thread does.
    pub(in super::super) fn serve(&self) -> bool {
        let mut state = self.state.lock();
        if self.is_forked() || state.attended || state.end.is_some() {
            return false;
        }
        state.attended = true;
        drop(state);
        self.run();
        true
    }

    /// The thread.
    fn run(&self) {
        loop {
            let number = self.bell.number();
            let mut state = self.state.lock();
            state.asleep = false;
            if matches!(state.role, Role::Gone) {
                state.attended = false;
                return self.ended.announce(state);
            }
            let mut until = None;
            if let (Some(since), Durability::Periodic(period)) =
                (state.unsynced_since, self.durability)
            {
                if self.is_due(since) {
                    state.pending.sync = true;
                } else {
                    until = since.checked_add(period);
                }
            }
            let lingers_until = self.lingers_until(&mut state);
            if lingers_until.is_some() {
                until = until.into_iter().chain(lingers_until).min();
            } else if matches!(state.role, Role::Free(_)) && state.wants_service() {
                // What fails is told to whom it concerns, and a panic of the file system ends here.
                self.contain(|| drop(self.lead(state)));
                continue;
            }
            state.asleep = true;
            drop(state);
            let number = match mutant::enabled("wal-reads-the-bell-late") {
                true => self.bell.number(),
                false => number,
            };
            self.bell.sleep(number, until);
        }
    }

    /// Whether pending records wait for more of them, and the thread knows.
    pub(super) fn lingers(&self, state: &mut State) -> bool {
        let is_first = state.lingers_since.is_none() && !mutant::enabled("wal-lingers-untold");
        self.may_linger(state) && {
            state.lingers_since.get_or_insert_with(now);
            !is_first
        }
    }

    fn may_linger(&self, state: &State) -> bool {
        let pending = state.pending.bytes.len();
        let is_wanted = state.pending.is_wanted() && !mutant::enabled("wal-lingers-over-callbacks");
        !self.linger.is_zero() && pending < LINGERING && !is_wanted
    }

    /// How long the thread leaves what is pending alone.
    fn lingers_until(&self, state: &mut State) -> Option<Instant> {
        if state.pending.records == 0 || state.closed || !self.may_linger(state) {
            return None;
        }
        let since = *state.lingers_since.get_or_insert_with(now);
        let until = since.checked_add(self.linger)?;
        (now() < until).then_some(until)
    }

    /// Ends the thread's sleep: the caller wakes it once the lock is free. `false` if it is awake,
    /// and so will look again by itself.
    pub(super) fn end_sleep(&self, state: &mut State) -> bool {
        let asleep = std::mem::take(&mut state.asleep);
        if asleep {
            self.bell.ring();
        }
        asleep
    }

    pub(super) fn call_thread(&self, mut state: Guard<'_>) {
        let asleep = self.end_sleep(&mut state);
        drop(state);
        if asleep && !mutant::enabled("wal-enqueues-silently") {
            self.bell.wake_one();
        }
    }

    fn write_last(&self) -> Result<(), WalError> {
        let mut state = self.state.lock();
        if let Some(error) = state.poisoned.clone() {
            return Err(error);
        }
        if !state.pending.is_wanted() && mutant::enabled("wal-close-forgets-the-deferred") {
            return Ok(());
        }
        state.pending.sync = true;
        let number = state.pending.number;
        self.outcome(state, number, None, Patience::Endless)
            .map_err(|error| error.into_wal_error(&self.dir))
    }

    /// Writes and syncs what is pending, and lets go of the files.
    pub(in super::super) fn close(&self) -> Result<(), WalError> {
        if self.is_forked() {
            return Ok(());
        }
        // In a callback.
        let is_inside = is_serving(self);
        let mut state = self.state.lock();
        if state.closed {
            if is_inside {
                // Who closes it waits for this callback.
                return Ok(());
            }
            drop(state);
            let is_over = |state: &State| state.end.is_some();
            let state = self.ended.lock_when(&self.state, is_over);
            return state.end.clone().unwrap_or(Ok(()));
        }
        state.closed = true;
        state.is_crowded = false;
        self.room.announce(state);
        let mut end = Err(WalError::panicked(&self.dir));
        self.contain(|| end = self.write_last());
        let mut state = self.state.lock();
        let role = std::mem::replace(&mut state.role, Role::Gone);
        let lock_file = state.lock_file.take();
        let thread = state.thread.take();
        let asleep = self.end_sleep(&mut state);
        drop(state);
        if asleep && !mutant::enabled("wal-close-lets-the-thread-sleep") {
            self.bell.wake_one();
        }
        if let (Role::Free(writer), true) = (&role, end.is_ok()) {
            self.contain(|| writer.trim());
        }
        // Before the lock is free for another to take.
        self.contain(|| drop(role));
        self.contain(|| drop(lock_file));
        let is_own = thread.as_ref().is_some_and(thread::is_current);
        if !is_own && !is_inside {
            let is_gone = |state: &State| !state.attended;
            drop(self.ended.lock_when(&self.state, is_gone));
            let _ = thread.map(JoinHandle::join);
        }
        let mut state = self.state.lock();
        state.end = Some(end.clone());
        self.ended.announce(state);
        end
    }
}
