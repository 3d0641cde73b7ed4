//! The shards of a latch table: who holds a latch, and who gets it next.
//!
//! A key is its [`Id`]. While nobody meets at it, one of its shard's [`Word`]s says who holds it.
//! From the first request that meets another, the shard's entries do, under one lock that is held
//! for a lookup and a few writes; no user code runs under it.
//!
//! | `holder` | line | the latch is | next |
//! |---|---|---|---|
//! | no entry | | free, or as the word says | held |
//! | a number | empty | held | no entry |
//! | a number | waiting | held, wanted | handed over if the oldest is due, else on offer |
//! | 0 | waiting | on offer: the oldest was told to try again, a newcomer may be faster | held |
//!
//! Every hold has a number of its own, given out by the shard or the word: a release, a take-over
//! and a leaked guard's reclaim compare it, so none of them can take the latch from a fresh owner.
//!
//! A latch on offer goes to whoever comes first until the oldest waiter has waited [`PATIENCE`];
//! after that each release hands it over. Strict hand-off would cost a context switch an operation.

use std::ptr::NonNull;
use std::time::Duration;

use crate::holder::bound::{self, Claimed};
use crate::holder::claim::{self, Held};
use crate::holder::{OnLeak, anchor};
use crate::sync::lock::Mutex;
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::{self, Arc};
use crate::sync::{hint, mutant};
use crate::waiter::{Counter, Gauge, Key, Line, PATIENCE, Recorder, Signal, Slab, Waiter, Wakes};

use super::entries::{Entries, Hashed};
use super::error::LatchError;
use super::hold::Hold;
use super::hottest::Hottest;
use super::submission::{Batch, Taken};
use super::wait::{Request, Who};
use super::word::{Id, Try, Word};

/// What a registered request is told.
pub(super) type Outcome = Result<Hold, LatchError>;

/// Words a shard: together one cache line.
const WORDS: usize = 8;

pub(super) struct Entry {
    pub(super) id: Id,
    /// The number of the hold; 0 while the latch is on offer.
    pub(super) holder: u64,
    pub(super) line: Line,
}

impl Hashed for Entry {
    #[inline]
    fn hash(&self) -> u64 {
        self.id.spread()
    }
}

/// What is under a shard's lock.
pub(super) struct Contents {
    pub(super) entries: Entries<Entry>,
    pub(super) waiting: Slab<Request>,
    numbered: u64,
    /// How many entries each word has: it is crowded from the first to the last.
    crowds: [u32; WORDS],
}

/// Two cache lines apart, because the prefetcher fetches pairs.
#[repr(align(128))]
pub(super) struct Shard {
    words: [Word; WORDS],
    pub(super) contents: Mutex<Contents>,
    pub(super) hottest: unmodelled::Mutex<Hottest>,
    /// How many threads have handed over an operation that does not stand in line.
    pub(super) posted: Counter,
    /// How many latches the entries say are held.
    held: Gauge,
    pub(super) waiters: Gauge,
}

/// Counters that nothing synchronises through.
pub(super) struct Counters {
    pub(super) waits: Recorder,
    pub(super) services: Recorder,
    pub(super) hand_offs: Counter,
    pub(super) barges: Counter,
    pub(super) combined: Counter,
    pub(super) timeouts: Counter,
    pub(super) busy: Counter,
    pub(super) leaked: Counter,
}

pub(super) struct Core {
    pub(super) shards: Box<[Shard]>,
    pub(super) max_waiters: usize,
    /// How long a thread waits before it looks whether the holder's thread has ended.
    pub(super) sweep_every: Duration,
    pub(super) name: Arc<str>,
    pub(super) on_leak: Option<OnLeak>,
    pub(super) counters: Counters,
}

impl anchor::Core for Core {
    const KIND: &'static anchor::Kind = bound::kind::<Self>();

    fn is_idle(&self, _at: NonNull<()>) -> bool {
        self.shards.iter().all(|shard| {
            !shard.words.iter().any(Word::is_held) && shard.contents.lock().entries.is_empty()
        })
    }
}

// SAFETY: a hold has a word or an entry until it is released, and a table with one is not idle.
#[allow(unsafe_code)]
unsafe impl Claimed for Core {
    type Told = Outcome;

    fn take_back(&self, held: Held, _tag: u64) -> Option<Wakes<Outcome>> {
        let wakes = self.release_quietly(held.into())?;
        self.counters.leaked.add(1);
        Some(wakes)
    }

    fn amount(_held: Held) -> u64 {
        1
    }

    fn reports_to(&self) -> (&Arc<str>, Option<&OnLeak>) {
        (&self.name, self.on_leak.as_ref())
    }
}

impl Contents {
    /// The entry that `hold` has, unless it has it no more.
    #[inline]
    pub(super) fn entry_of(&mut self, hold: Hold) -> Option<&mut Entry> {
        self.entries.get_mut(hold.id.spread()).filter(|entry| {
            entry.holder == hold.number || mutant::enabled("latch-release-without-compare")
        })
    }

    /// The number of the next hold.
    pub(super) fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }
}

impl Shard {
    fn new() -> Self {
        Self {
            words: std::array::from_fn(|_| Word::new()),
            contents: Mutex::new(Contents {
                entries: Entries::new(),
                waiting: Slab::new(),
                numbered: 0,
                crowds: [0; WORDS],
            }),
            hottest: unmodelled::Mutex::new(Hottest::new()),
            posted: Counter::new(),
            held: Gauge::new(),
            waiters: Gauge::new(),
        }
    }

    #[inline]
    fn word_index(id: Id) -> usize {
        (id.bits() >> 24) as usize % WORDS
    }

    #[inline]
    pub(super) fn word(&self, id: Id) -> &Word {
        &self.words[Self::word_index(id)]
    }

    fn insert(&self, contents: &mut Contents, id: Id, holder: u64) {
        contents.crowds[Self::word_index(id)] += 1;
        contents.entries.insert(Entry {
            id,
            holder,
            line: Line::new(),
        });
        if holder != 0 {
            self.held.add(1);
        }
    }

    /// Forgets a key that nobody holds or wants.
    fn remove(&self, contents: &mut Contents, id: Id) {
        contents.entries.remove(id.spread());
        let crowd = &mut contents.crowds[Self::word_index(id)];
        *crowd -= 1;
        if *crowd == 0 {
            self.word(id).open();
        }
    }
}

impl Core {
    pub(super) fn new(
        shards: usize,
        max_waiters: usize,
        sweep_every: Duration,
        name: Arc<str>,
        on_leak: Option<OnLeak>,
    ) -> Self {
        Self {
            shards: std::iter::repeat_with(Shard::new)
                .take(shards.next_power_of_two())
                .collect(),
            max_waiters,
            sweep_every,
            name,
            on_leak,
            counters: Counters {
                waits: Recorder::new(),
                services: Recorder::new(),
                hand_offs: Counter::new(),
                barges: Counter::new(),
                combined: Counter::new(),
                timeouts: Counter::new(),
                busy: Counter::new(),
                leaked: Counter::new(),
            },
        }
    }

    #[inline]
    pub(super) fn shard(&self, id: Id) -> &Shard {
        &self.shards[(id.bits() >> 32) as usize & (self.shards.len() - 1)]
    }

    /// Takes a latch if that is fair without waiting.
    #[inline]
    pub(super) fn try_take(&self, id: Id) -> Option<Hold> {
        let shard = self.shard(id);
        match shard.word(id).take(id) {
            Try::Taken(number) => Some(Hold { id, number }),
            Try::Held(holder) if holder.id() == id => None,
            _ => {
                let number = self.try_take_crowded(shard, id)?;
                Some(Hold { id, number })
            }
        }
    }

    /// Returns the number of the hold. A whole hold, in an option, would come back through memory,
    /// and then the other branch would have to put it there as well.
    #[cold]
    fn try_take_crowded(&self, shard: &Shard, id: Id) -> Option<u64> {
        let mut wakes = Wakes::new();
        let hold = self.take(shard, &mut shard.contents.lock(), id, &mut wakes);
        wakes.deliver();
        hold.map(|hold| hold.number)
    }

    /// Takes a latch, or leaves an entry that says who has it.
    pub(super) fn take(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        id: Id,
        wakes: &mut Wakes<Outcome>,
    ) -> Option<Hold> {
        loop {
            match shard.word(id).take(id) {
                Try::Taken(number) => return Some(Hold { id, number }),
                Try::Held(_) => self.crowd(shard, contents, id, wakes),
                Try::Crowded => break,
            }
        }
        let number = contents.number();
        match contents.entries.get_mut(id.spread()) {
            None => shard.insert(contents, id, number),
            Some(entry) => {
                if entry.holder != 0 {
                    return None;
                }
                let (_, oldest) = entry.line.front(&mut contents.waiting)?;
                if oldest.is_due(now()) && !mutant::enabled("latch-passes-for-ever") {
                    return None;
                }
                entry.holder = number;
                shard.held.add(1);
                self.counters.barges.add(1);
            }
        }
        Some(Hold { id, number })
    }

    /// Leaves it to the entries who holds the keys of a word, and puts what was handed over in
    /// line.
    pub(super) fn crowd(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        id: Id,
        wakes: &mut Wakes<Outcome>,
    ) {
        if let Some(holder) = shard.word(id).crowd() {
            shard.insert(contents, holder.id(), holder.number());
        }
        if !mutant::enabled("latch-crowd-forgets-stack") {
            let batch = shard.word(id).stack.take();
            self.line_up_batch(shard, contents, batch, wakes);
        }
        if contents.crowds[Shard::word_index(id)] == 0 {
            shard.word(id).open();
        }
    }

    /// The same, behind a batch that was collected before and is left over.
    pub(super) fn crowd_with(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        first: Taken,
        rest: Batch,
        wakes: &mut Wakes<Outcome>,
    ) {
        let id = first.id();
        if let Some(holder) = shard.word(id).crowd() {
            shard.insert(contents, holder.id(), holder.number());
        }
        self.line_up(shard, contents, first, wakes);
        self.line_up_batch(shard, contents, rest, wakes);
        self.crowd(shard, contents, id, wakes);
    }

    fn line_up_batch(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        mut batch: Batch,
        wakes: &mut Wakes<Outcome>,
    ) {
        while let Some(submission) = batch.pop() {
            self.line_up(shard, contents, submission, wakes);
        }
    }

    /// Puts an operation that was handed over in line. Its word is crowded.
    fn line_up(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        submission: Taken,
        wakes: &mut Wakes<Outcome>,
    ) {
        let id = submission.id();
        if contents.entries.get_mut(id.spread()).is_none() {
            shard.insert(contents, id, 0);
        }
        let number = contents.number();
        if let Some(entry) = contents.entries.get_mut(id.spread())
            && let Some(operation) = submission.operation()
        {
            let request = Request {
                who: Who::Operation(submission.parker().clone(), operation),
                number,
                since: submission.since(),
                deadline: None,
                retries: false,
            };
            let key = entry.line.push(&mut contents.waiting, request);
            shard.posted.sub(1);
            shard.waiters.add(1);
            submission.lined(key, number);
        }
        self.offer(shard, contents, id, None, wakes);
    }

    /// Gives a latch back, if `hold` still is the one that has it. Otherwise, nothing.
    #[inline]
    pub(super) fn release(&self, hold: Hold) {
        if !self.release_by_word(hold) {
            self.release_crowded(hold);
        }
    }

    /// Gives a latch back that nobody else wants. `false`: the entries know more.
    #[inline]
    pub(super) fn release_by_word(&self, hold: Hold) -> bool {
        let word = self.shard(hold.id).word(hold.id);
        word.release(hold.id, hold.number)
    }

    #[cold]
    fn release_crowded(&self, hold: Hold) {
        if let Some(wakes) = self.release_in_entries(hold) {
            wakes.deliver();
        }
    }

    /// The same, and leaves the waking to the caller. `None`: the latch was somebody else's, or
    /// nobody's.
    fn release_quietly(&self, hold: Hold) -> Option<Wakes<Outcome>> {
        if self.release_by_word(hold) {
            return Some(Wakes::new());
        }
        self.release_in_entries(hold)
    }

    fn release_in_entries(&self, hold: Hold) -> Option<Wakes<Outcome>> {
        let shard = self.shard(hold.id);
        let contents = &mut *shard.contents.lock();
        let mut wakes = Wakes::new();
        if shard.word(hold.id).has(hold.id, hold.number)
            && !mutant::enabled("latch-drop-forgets-mail")
        {
            self.crowd(shard, contents, hold.id, &mut wakes);
        }
        contents.entry_of(hold)?;
        self.let_go(shard, contents, hold.id, &mut wakes);
        Some(wakes)
    }

    /// Nobody holds the latch of this entry any more.
    pub(super) fn let_go(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        id: Id,
        wakes: &mut Wakes<Outcome>,
    ) {
        let Some(entry) = contents.entries.get_mut(id.spread()) else {
            return;
        };
        entry.holder = 0;
        let is_wanted = !entry.line.is_empty();
        shard.held.sub(1);
        if !is_wanted || !mutant::enabled("latch-release-wakes-nobody") {
            self.offer(shard, contents, id, None, wakes);
        }
    }

    /// Finds a taker for a latch that nobody holds, or forgets it if nobody wants it. `present` is
    /// a request whose thread is here, and can take the latch without being called.
    pub(super) fn offer(
        &self,
        shard: &Shard,
        contents: &mut Contents,
        id: Id,
        present: Option<Key>,
        wakes: &mut Wakes<Outcome>,
    ) {
        let Contents {
            entries, waiting, ..
        } = contents;
        let Some(entry) = entries
            .get_mut(id.spread())
            .filter(|entry| entry.holder == 0)
        else {
            return;
        };
        let Some((key, oldest)) = entry.line.front(waiting) else {
            shard.remove(contents, id);
            return;
        };
        match &oldest.who {
            Who::Latch(Waiter::Thread(parker)) | Who::Operation(parker, _)
                if present != Some(key) && !oldest.is_due(now()) =>
            {
                if !oldest.retries {
                    let parker = parker.clone();
                    oldest.retries = true;
                    wakes.signal(&parker, Signal::Retry);
                }
            }
            // Due, here, or a callback, which cannot come back to try again.
            _ => {
                if let Some(request) = entry.line.remove(waiting, key) {
                    entry.holder = request.number;
                    shard.held.add(1);
                    shard.waiters.sub(1);
                    self.counters.hand_offs.add(1);
                    let number = request.number;
                    self.tell(request, Hold { id, number }, wakes);
                }
            }
        }
    }

    fn tell(&self, request: Request, hold: Hold, wakes: &mut Wakes<Outcome>) {
        match request.who {
            Who::Latch(Waiter::Thread(parker)) | Who::Operation(parker, _) => {
                wakes.signal(&parker, Signal::Granted);
            }
            Who::Latch(Waiter::Callback(callback)) | Who::Submitted(callback, _) => {
                self.counters
                    .waits
                    .record(now().saturating_duration_since(request.since));
                wakes.call(callback, Ok(hold));
            }
        }
    }

    /// Takes the latch from a holder whose thread has ended. `at` is this core, as claims know it.
    /// `false`: it has none such.
    pub(super) fn take_over(
        &self,
        at: NonNull<()>,
        shard: &Shard,
        contents: &mut Contents,
        id: Id,
    ) -> bool {
        let entry = contents.entries.get_mut(id.spread());
        let Some(number) = entry
            .map(|entry| entry.holder)
            .filter(|&number| number != 0)
        else {
            return false;
        };
        let owner = || claim::owner(at, Hold { id, number }.into());
        let Some(thread) = owner() else { return false };
        let mut has_ended = thread.has_ended();
        if !has_ended && hint::others_went_on() {
            has_ended = thread.has_ended();
        }
        if !has_ended {
            return false;
        }
        // It may have detached the latch since it was seen to have it, and ended then: who sees the
        // end sees the claim gone.
        if owner() != Some(thread) && !mutant::enabled("latch-takes-over-what-was-detached") {
            return false;
        }
        if let Some(entry) = contents.entries.get_mut(id.spread()) {
            entry.holder = 0;
        }
        shard.held.sub(1);
        self.counters.leaked.add(1);
        true
    }

    /// Takes over the latches that somebody waits for and whose owner's thread has ended. Returns
    /// how many.
    pub(super) fn sweep(&self, at: NonNull<()>) -> usize {
        let mut taken_over = 0;
        for shard in &self.shards {
            let mut wakes = Wakes::new();
            {
                let contents = &mut *shard.contents.lock();
                for word in shard.words.iter().filter(|word| word.has_mail()) {
                    if let Some(id) = word.held_key() {
                        self.crowd(shard, contents, id, &mut wakes);
                    }
                }
                let wanted: Vec<Id> = contents
                    .entries
                    .iter()
                    .filter(|entry| !entry.line.is_empty())
                    .map(|entry| entry.id)
                    .collect();
                for id in wanted {
                    if self.take_over(at, shard, contents, id) {
                        taken_over += 1;
                        self.offer(shard, contents, id, None, &mut wakes);
                    }
                }
            }
            wakes.deliver();
        }
        taken_over
    }

    pub(super) fn held(&self) -> u64 {
        let held = |shard: &Shard| {
            let by_word = shard.words.iter().filter(|word| word.is_held()).count();
            by_word as u64 + shard.held.get()
        };
        self.shards.iter().map(held).sum()
    }

    pub(super) fn waiters(&self) -> u64 {
        let waiters = |shard: &Shard| shard.waiters.get() + shard.posted.get();
        self.shards.iter().map(waiters).sum()
    }
}

impl Request {
    pub(super) fn is_due(&self, time: Instant) -> bool {
        time.saturating_duration_since(self.since) >= PATIENCE
            && !mutant::enabled("latch-never-hands-over")
    }
}
