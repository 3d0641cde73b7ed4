//! The slow way to permits: looking closely, and waiting.
//!
//! A request looks at every cell and puts it in order, takes what it may, and sleeps on the words
//! whose change calls for another look. One look:
//!
//! | step | why |
//! |---|---|
//! | set `WAITERS` | before the cells: a release that the look misses sees the flag, and calls |
//! | `collector`, for several permits | one request at a time holds some and waits for more |
//! | `starving` | after 2 ms of waiting it says so, and others leave free permits to it |
//! | the cells | dead owners' permits come back here, each by one step that anybody may take |
//! | sleep | on `change`, `turn`, and the lives of up to eight holders, for 50 ms at most |
//!
//! The kernel wakes one of those who sleep on a life when its process dies. Who was to be woken and
//! who was to wake may have been killed too, hence the 50 ms; then the second evidence is looked
//! at.

use std::time::Duration;

use crate::holder::claim;
use crate::os::shared::watcher::LONGEST_SLEEP;
use crate::os::shared::word::{Owner, Value};
use crate::sync::atomic::{AtomicU64, Ordering, model_fence};
use crate::sync::futex::{SharedFutex, Wait, wait_any};
use crate::sync::time::{Instant, monotonic_millis, now};
use crate::sync::{hint, mutant};

use super::control::{CLOSED, Entry, GATED, WAITERS};
use super::core::{Claim, Core, Found};

/// How long a request waits before newcomers queue behind it.
const PATIENCE: Duration = Duration::from_millis(2);

/// On how many lives a waiter sleeps at once.
const LIVES: usize = 8;

/// Why there are no permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotNow,
    Closed,
    Detached,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All of the permits have been taken.
    Done,
    Wait,
    Refused(Refusal),
}

/// A request for permits, and what it has of them.
///
/// It must end by being done or by [`abandon`](Self::abandon).
#[derive(Debug)]
pub(super) struct Attempt {
    wanted: usize,
    taken: Vec<Claim>,
    since: Instant,
    /// Its entry in `starving`, if that is still there.
    entry: Option<Entry>,
    /// Its claim to collect, if it has that.
    collects: Option<Value>,
    /// What `change` and `turn` were before the last look.
    seen: (u32, u32),
    holders: Vec<usize>,
    rotation: usize,
    /// Whether what comes free is not for it to take: it waits for `turn` only.
    is_aside: bool,
    /// When the first lease of a permit that it may want is over.
    next_expiry: Option<Instant>,
    /// When it looked at the second evidence last.
    deep_at: Instant,
}

impl Attempt {
    pub(super) fn new(wanted: usize) -> Self {
        let since = now();
        Self {
            wanted,
            taken: Vec::new(),
            since,
            entry: None,
            collects: None,
            seen: (0, 0),
            holders: Vec::new(),
            rotation: 0,
            is_aside: false,
            next_expiry: None,
            deep_at: since,
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// What has been taken, once all has.
    pub(super) fn into_claims(self) -> Vec<Claim> {
        self.taken
    }

    /// Looks for permits. A request that will not wait sets no flag.
    pub(super) fn look(&mut self, core: &Core, waits: bool) -> Look {
        let control = core.control();
        if core.attached.is_inherited() || core.attached.is_lost() {
            return Look::Refused(Refusal::Detached);
        }
        let turn = control.turn.load();
        let change = match waits && !mutant::enabled("shared-waits-unflagged") {
            true => control.change.fetch_or(WAITERS) | WAITERS,
            false => control.change.load(),
        };
        model_fence();
        self.seen = (change, turn);
        if change & CLOSED != 0 {
            return Look::Refused(Refusal::Closed);
        }
        let dead = self.find_dead(core, waits);
        let had = self.taken.len();
        let may_take = self.may_take(core, waits, &dead);
        let target = core.target();
        let (free, freed) = self.scan(core, may_take, target, &dead);
        if self.taken.len() > had {
            // As `Core::keep`: who changes the number of permits, or shut the gate meanwhile, may
            // not have counted these.
            model_fence();
            let is_passed = change & GATED == 0 && core.is_gated();
            if is_passed || core.target() != target {
                self.put_back(core);
                return Look::Wait;
            }
        }
        if self.taken.len() == self.wanted {
            self.leave(core);
            // Whoever takes a permit and sees another one calls one more: the call for that one may
            // have gone to a process that was killed.
            if free > 0 {
                core.announce(freed.max(1));
            }
            return Look::Done;
        }
        if free > 0 && freed > 0 {
            core.announce(freed);
        }
        Look::Wait
    }

    /// The owners that only the second evidence knows to be dead, from time to time.
    fn find_dead(&mut self, core: &Core, waits: bool) -> Vec<Owner> {
        let time = now();
        let is_due = match waits {
            true => time.saturating_duration_since(self.deep_at) >= LONGEST_SLEEP,
            // One that does not wait has no time of its own.
            false => core.is_deep_look_due(),
        };
        if !is_due {
            return Vec::new();
        }
        self.deep_at = time;
        core.find_dead()
    }

    /// Whether this request may take what is free: it can be served, nobody stands before it, and
    /// if it wants several, it is the one that collects. What it has and may not complete, others
    /// get.
    fn may_take(&mut self, core: &Core, waits: bool, dead: &[Owner]) -> bool {
        let is_possible = self.wanted <= core.target();
        let is_first = is_possible && self.is_first(core, waits);
        let may_take = is_first && (self.wanted == 1 || self.collect(core, dead));
        // It blocks nobody until `set_max` makes it possible, or the other one has collected; those
        // are told to everybody, and it takes no call from who can use it.
        self.is_aside = !is_possible || is_first && !may_take;
        if !may_take && (!self.taken.is_empty() || self.collects.is_some()) {
            self.put_back(core);
        }
        may_take
    }

    /// Goes through the cells. Says how many were free and not taken, and how many it has freed.
    fn scan(&mut self, core: &Core, may_take: bool, target: usize, dead: &[Owner]) -> (u32, u32) {
        let time = now();
        self.holders.clear();
        self.next_expiry = None;
        let (mut free, mut freed) = (0, 0);
        // How many it may take. After a cut, more may run than there are permits: then those who
        // take do so one after the other, having counted.
        let mut most = match may_take {
            true => self.wanted - self.taken.len(),
            false => 0,
        };
        if self.seen.0 & GATED != 0 {
            let mut survey = core.survey(dead);
            freed += survey.freed;
            if !survey.is_cut {
                core.open_gate(self.seen.0, target);
            } else if !mutant::enabled("shared-cut-takes-uncounted") {
                if most > 0 && self.collect(core, dead) {
                    survey = core.survey(dead);
                    freed += survey.freed;
                    most = most.min(target.saturating_sub(survey.held));
                } else {
                    most = 0;
                }
            }
        }
        for (index, cell) in core.area().cells.iter().enumerate() {
            let (mut found, count) = core.inspect(index, dead);
            freed += count;
            if found == Found::Free && most > 0 {
                let value = core.new_claim();
                if core.take(cell, value) {
                    self.taken.push(Claim { cell: index, value });
                    most -= 1;
                    continue;
                }
                // Somebody was faster.
                found = Found::Held(cell.word.read());
            }
            match found {
                Found::Free => free += 1,
                Found::Retired => {}
                Found::Held(value) => self.note_holder(core, cell, value, time),
            }
        }
        if self.wanted == 1 && self.taken.is_empty() && self.collects.is_some() {
            // It counted, and waits with the others.
            self.stop_collecting(core);
        }
        (free, freed)
    }

    fn note_holder(
        &mut self,
        core: &Core,
        cell: &super::control::Cell,
        value: Value,
        time: Instant,
    ) {
        let slot = value.owner().and_then(|owner| owner.slot());
        if let Some(slot) = slot.filter(|slot| !self.holders.contains(slot)) {
            self.holders.push(slot);
        }
        if let Some(left) = core.lease_left(cell, value) {
            let over = time.checked_add(Duration::from_millis(left));
            self.next_expiry = self.next_expiry.into_iter().chain(over).min();
        }
    }

    /// Whether this request is the one that collects, from now on if need be.
    fn collect(&mut self, core: &Core, dead: &[Owner]) -> bool {
        let word = &core.control().collector;
        if let Some(mine) = self.collects
            && word.load(Ordering::SeqCst) == mine.bits()
        {
            return true;
        }
        let mine = core.new_claim();
        let mut seen = word.load(Ordering::SeqCst);
        loop {
            let is_taken = Value::from_bits(seen)
                .owner()
                .is_some_and(|owner| core.is_alive(owner) && !dead.contains(&owner));
            if is_taken && !mutant::enabled("shared-two-collectors") {
                return false;
            }
            match word.compare_exchange(seen, mine.bits(), Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.collects = Some(mine);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
    }

    /// Whether nobody stands before this request. Once it has waited for long, it stands before the
    /// others itself; one that does not wait never does, however long its thread was not run: it
    /// would find the gate shut, by itself.
    fn is_first(&mut self, core: &Core, waits: bool) -> bool {
        let word = &core.control().starving;
        let mut seen = word.load(Ordering::SeqCst);
        loop {
            if self.entry == Some(Entry(seen)) {
                // Renewed while it waits.
                let entry = Entry(seen);
                if core.is_entitled(entry) {
                    return true;
                }
            } else if core.is_entitled(Entry(seen)) {
                self.entry = None;
                return mutant::enabled("shared-starving-is-passed");
            }
            let waits = waits || mutant::enabled("shared-try-starves");
            let starves = waits && self.is_out_of_patience(now());
            let next = match starves {
                true => Entry::new(core.new_claim(), monotonic_millis()),
                false => Entry(0),
            };
            if seen == next.0 {
                return true;
            }
            if starves {
                core.gate(0);
            }
            match word.compare_exchange(seen, next.0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.entry = starves.then_some(next);
                    if starves {
                        // Somebody may have opened it before there was an entry.
                        core.gate(0);
                    }
                    return true;
                }
                Err(now) => seen = now,
            }
        }
    }

    fn is_out_of_patience(&self, time: Instant) -> bool {
        time.saturating_duration_since(self.since) >= PATIENCE
    }

    /// Calls `watch` with the words to sleep on, what they are, and whether they are lives.
    /// `false`: one of them has changed already.
    pub(super) fn watch<'a>(
        &mut self,
        core: &'a Core,
        watch: &mut dyn FnMut(&'a SharedFutex, u32, bool),
    ) -> bool {
        let area = core.area();
        if self.entry.is_some() || self.is_aside {
            watch(&area.control.turn, self.seen.1, false);
        }
        if self.is_aside {
            return true;
        }
        watch(&area.control.change, self.seen.0, false);
        // Not all of them: a wait on many words costs much. The others' turn comes.
        let first = self.rotation;
        self.rotation = self.rotation.wrapping_add(LIVES);
        for i in 0..self.holders.len().min(LIVES) {
            let slot = self.holders[first.wrapping_add(i) % self.holders.len()];
            let Some(slot) = area.slots.get(slot) else {
                continue;
            };
            match slot.watch_life() {
                Some((life, seen)) => watch(life, seen, true),
                // A strict semaphore waits for the second evidence, which wakes nobody.
                None if core.is_strict => {}
                None => return mutant::enabled("shared-sleeps-beside-the-dead"),
            }
        }
        true
    }

    /// When to look again at the latest.
    pub(super) fn look_by(&self, time: Instant) -> Option<Instant> {
        let patience = match self.entry.is_none() && !self.is_out_of_patience(time) {
            true => self.since.checked_add(PATIENCE),
            false => None,
        };
        let longest = time.checked_add(LONGEST_SLEEP);
        patience
            .into_iter()
            .chain(longest)
            .chain(self.next_expiry)
            .min()
    }

    /// Gives up: what was taken is given back, and nothing will be.
    pub(super) fn abandon(mut self, core: &Core) {
        if mutant::enabled("shared-timeout-keeps-share") || core.attached.is_inherited() {
            return;
        }
        self.put_back(core);
    }

    fn put_back(&mut self, core: &Core) {
        for claim in std::mem::take(&mut self.taken) {
            core.give_back(claim);
        }
        self.leave(core);
    }

    /// Leaves `collector` and `starving`, and has those look again who waited for that.
    fn leave(&mut self, core: &Core) {
        let control = core.control();
        if let Some(entry) = self.entry.take() {
            clear(&control.starving, entry.0);
            if !mutant::enabled("shared-starving-keeps-the-call") {
                // The last call may have been for this one alone, and have taken the flag away that
                // another set before it went to sleep.
                control.change.fetch_or(WAITERS);
                core.announce(1);
            }
        }
        self.stop_collecting(core);
    }

    fn stop_collecting(&mut self, core: &Core) {
        if let Some(collects) = self.collects.take()
            && clear(&core.control().collector, collects.bits())
        {
            core.call_aside();
        }
    }
}

fn clear(word: &AtomicU64, mine: u64) -> bool {
    word.compare_exchange(mine, 0, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

/// A thread that waits, as others can see.
struct Waiting<'a>(&'a Core);

impl<'a> Waiting<'a> {
    fn begin(core: &'a Core) -> Self {
        core.attached.own_slot().start_waiting();
        Self(core)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.attached.own_slot().stop_waiting();
    }
}

impl Core {
    /// Takes `wanted` permits if they are there, having looked closely.
    #[cold]
    pub(super) fn try_take_closely(&self, wanted: usize) -> Result<Vec<Claim>, Refusal> {
        // It may panic, and a guard follows: before anything has been taken.
        claim::register();
        let mut attempt = Attempt::new(wanted);
        match attempt.look(self, false) {
            Look::Done => Ok(attempt.into_claims()),
            Look::Wait => {
                attempt.abandon(self);
                Err(Refusal::NotNow)
            }
            Look::Refused(refusal) => {
                attempt.abandon(self);
                Err(refusal)
            }
        }
    }

    /// Waits for `wanted` permits until `deadline`. When it refuses, none has been taken.
    #[cold]
    pub(super) fn wait(
        &self,
        wanted: usize,
        deadline: Option<Instant>,
    ) -> Result<Vec<Claim>, Refusal> {
        claim::register();
        if wanted == 1 {
            for () in hint::spins(false) {
                if let Some(claim) = self.try_take() {
                    return Ok(vec![claim]);
                }
                hint::spin_loop();
            }
        }
        let mut attempt = Attempt::new(wanted);
        if let Look::Done = attempt.look(self, false) {
            return Ok(attempt.into_claims());
        }
        if self.attached.is_inherited() {
            // The slot is the parent's: nobody waits there.
            return Err(Refusal::Detached);
        }
        let since = attempt.since();
        let _waiting = Waiting::begin(self);
        let outcome = loop {
            match attempt.look(self, true) {
                Look::Done => break Ok(attempt.into_claims()),
                Look::Wait => {}
                Look::Refused(refusal) => {
                    attempt.abandon(self);
                    break Err(refusal);
                }
            }
            let time = now();
            if deadline.is_some_and(|deadline| time >= deadline) {
                attempt.abandon(self);
                self.counters.timeouts.add(1);
                break Err(Refusal::NotNow);
            }
            let until = attempt.look_by(time).into_iter().chain(deadline).min();
            let mut words = Vec::with_capacity(LIVES + 2);
            if attempt.watch(self, &mut |word, seen, _| words.push((word, seen))) {
                let _: Wait = wait_any(&words, until);
            }
        };
        let waited = now().saturating_duration_since(since);
        self.counters.waits.record(waited);
        outcome
    }
}
