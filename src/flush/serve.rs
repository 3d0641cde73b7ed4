//! The finalizer's thread: what it does in a turn, and how it waits for the next.

use std::time::Duration;

use crate::sync::atomic::Ordering;
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, hint, mutant, thread};
use crate::waiter::{Panic, Sleeper, contain};

use super::core::{Core, Drain, Entry, Fate, Finalizing, Name, Outcome, RESUME, Refused, STOP};
use super::error::{DrainError, Failure};
use super::finalizer::{Batch, Failed, Finalize};
use super::stats::record;
use super::stream::{self, Task};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There may be more.
    Worked,
    /// Nothing is to be done before the bell rings.
    Nothing,
    /// The pipeline has been stopped.
    Ended,
}

/// So long the finalizer's thread may find its next flush by looking, before it naps.
const WATCH: Duration = Duration::from_micros(100);

/// Who looked for so long had yielded the processor to somebody who worked.
const AWAY: Duration = Duration::from_micros(30);

/// So many flushes must be pending for a nap, which ends when most of them are complete.
const MANY: u64 = 8;

/// A nap ends after this in any case.
const NAP: Duration = Duration::from_micros(200);

/// The body of the finalizer's thread.
pub(super) fn serve<F: Finalize>(core: &Arc<Core<F>>) {
    let thread = thread_name();
    let mut watch = Watch { since: now() };
    core.serving(|| {
        loop {
            let number = core.bell.number();
            match turn(core, &thread) {
                Turn::Worked => {}
                Turn::Nothing if core.halted().is_some() => core.bell.sleep(number, None),
                Turn::Nothing => watch.wait(core, number),
                Turn::Ended => return,
            }
        }
    });
}

/// How the finalizer's thread waits for the next flush: it looks for a moment, since a sleep costs
/// who completes a system call.
///
/// A thread that looks, and yields in between, is a busy one to the kernel. While streams share a
/// processor, and the finalizer passes another one back and forth with those who submit, the kernel
/// sees two that are busy, and leaves it at that. So who has looked for long without anybody else
/// at work on its processor naps: then that one is idle, and a stream is moved there.
struct Watch {
    /// When the thread last slept, or had its processor used.
    since: Instant,
}

impl Watch {
    fn wait<F: Finalize>(&mut self, core: &Core<F>, number: u32) {
        let mark = core.watermark();
        let begun = now();
        let pending = core.next().saturating_sub(mark);
        if pending >= MANY && begun.saturating_duration_since(self.since) >= WATCH {
            if core.ring.await_turn(mark + pending * 3 / 4) {
                core.bell.sleep(number, begun.checked_add(NAP));
            }
            self.since = now();
            return;
        }
        let comes = hint::lulls().any(|()| core.ring.seems_complete(mark));
        if comes && now().saturating_duration_since(begun) < AWAY {
            return;
        }
        if !comes && core.await_next() {
            core.bell.sleep(number, None);
        }
        self.since = now();
    }
}

/// The calling thread's name, for a shutdown that finds it running the user's code.
pub(super) fn thread_name() -> Name {
    thread::name().unwrap_or_default().into()
}

/// What the finalizer does next, on whichever thread: its own, or a model's.
pub(super) fn turn<F: Finalize>(core: &Arc<Core<F>>, thread: &Name) -> Turn {
    // Before the orders: who sees that a halt is over sees the order to go on from it.
    let is_halted = core.halted().is_some();
    let orders = core.orders.load(Ordering::Acquire);
    if orders & STOP != 0 {
        return Turn::Ended;
    }
    if orders & RESUME != 0 {
        return go_on(core, thread);
    }
    if core.options.streamers == 0 && run_stream(core, thread) {
        return Turn::Worked;
    }
    if is_halted {
        return Turn::Nothing;
    }
    let Some(mut hand) = core.take_up(thread) else {
        return Turn::Nothing;
    };
    let turn = hand.turn(core);
    core.lay_down(hand);
    turn
}

/// Runs a stream that is tried again, where there are no streamers.
fn run_stream<F: Finalize>(core: &Arc<Core<F>>, thread: &Name) -> bool {
    if !core.queue.has_task() {
        return false;
    }
    let begun = {
        let mut control = core.control.lock();
        let begun = core.queue.begin_first(&core.options);
        if begun.is_some() {
            // A shutdown must not take this thread for one that is on its way to its end.
            control.finalizer_runs = Some(Name::clone(thread));
        }
        begun
    };
    let Some(begun) = begun else {
        return false;
    };
    stream::run_begun(core, begun);
    core.control.lock().finalizer_runs = None;
    true
}

/// Goes on from a halt: what can be tried again is, what cannot is left behind.
fn go_on<F: Finalize>(core: &Arc<Core<F>>, thread: &Name) -> Turn {
    let Some(mut hand) = core.take_up(thread) else {
        return Turn::Nothing;
    };
    core.orders.fetch_and(!RESUME, Ordering::AcqRel);
    // A panic of the finalizer fails all that it was given.
    for entry in &mut hand.backlog {
        if let Fate::Failed(failed) = &mut entry.fate
            && let Some(item) = failed.item.take()
        {
            entry.fate = Fate::Item(item);
        }
    }
    let again = match hand.backlog.first_mut() {
        Some(Entry {
            fate: Fate::Failed(failed),
            ..
        }) => {
            failed.is_given_up = failed.task.is_none();
            failed.task.take()
        }
        _ => None,
    };
    let Some((job, stream)) = again else {
        core.lay_down(hand);
        return Turn::Worked;
    };
    let entry = hand.backlog.remove(0);
    let is_left = {
        let control = core.control.lock();
        if !control.is_left {
            // Before a shutdown closes it.
            core.ring.again(entry.sequence);
        }
        control.is_left
    };
    core.lay_down(hand);
    if is_left {
        contain(|| drop((entry, job, stream)));
        return Turn::Worked;
    }
    core.rerun(Task::again(entry, job, stream));
    Turn::Worked
}

impl<F: Finalize> Finalizing<F> {
    fn turn(&mut self, core: &Arc<Core<F>>) -> Turn {
        let mark = core.watermark();
        // A flush that is tried again is missing at the front.
        let is_next = |entry: &Entry<F>| entry.sequence == mark;
        if !self.backlog.first().is_some_and(is_next) {
            match core.ring.take(mark) {
                Some(entry) => self.backlog.insert(0, entry),
                None => return Turn::Nothing,
            }
        }
        while self.backlog.len() < core.options.max_batch {
            let next = self.backlog.last().map_or(mark, |last| last.sequence + 1);
            match core.ring.take(next) {
                Some(entry) => self.backlog.push(entry),
                None => break,
            }
        }
        let items = self
            .backlog
            .iter()
            .take_while(|entry| entry.item().is_some());
        match items.count() {
            0 => self.fail_first(core),
            ready => self.finalize(core, ready),
        }
        Turn::Worked
    }

    /// Has the user finalize the first `ready` flushes.
    fn finalize(&mut self, core: &Arc<Core<F>>, ready: usize) {
        let Self {
            finalizer,
            backlog,
            outputs,
            sleepers,
        } = self;
        for entry in &backlog[..ready] {
            record(&core.counters.reorder, entry.completed_at);
        }
        let began = core.counters.sample(core.counters.batches.get());
        let mut error = None;
        let mut batch = Batch::new(&mut backlog[..ready], outputs, &mut error);
        let result = Panic::catch(|| finalizer.finalize(&mut batch));
        core.counters.batches.add(1);
        record(&core.counters.finalize, began);
        let done = outputs.len();
        match (result, error) {
            (Err(panic), _) => {
                let message = panic.message().to_owned();
                let mut panic = Some(panic);
                for entry in &mut backlog[done..ready] {
                    let panic = panic.take();
                    let panic = panic.unwrap_or_else(|| Panic::new(Box::new(message.clone())));
                    entry.fail(Failure::FinalizePanicked(panic));
                }
            }
            (Ok(()), Some(error)) => backlog[done].fail(Failure::Finalize(error)),
            (Ok(()), None) => {
                for entry in &mut backlog[done..ready] {
                    entry.fail(Failure::Unmarked);
                }
            }
        }
        if done > 0 {
            core.counters.finalized.add(done as u64);
            core.pass(&backlog[..done], true);
            // Woken when all are resolved: who waits for one often waits for the next as well.
            for (entry, output) in backlog.drain(..done).zip(outputs.drain(..)) {
                sleepers.extend(entry.resolve(Ok(output)));
            }
            sleepers.drain(..).for_each(Sleeper::wake);
            core.tell_drains();
        }
    }

    /// The first flush has failed: has the user told, and skips it or halts.
    fn fail_first(&mut self, core: &Arc<Core<F>>) {
        let Self {
            finalizer, backlog, ..
        } = self;
        let Some(entry) = backlog.first_mut() else {
            return;
        };
        let sequence = entry.sequence;
        let Fate::Failed(failed) = &mut entry.fate else {
            return;
        };
        if failed.refused.is_none()
            && let Some(failure) = failed.failure.take()
        {
            let told = Failed {
                sequence,
                failure,
                job: failed.task.as_mut().map(|(job, _)| &mut job.content),
                item: failed.item.as_mut(),
            };
            let result = Panic::catch(|| finalizer.finalize_failure(told));
            failed.refused = Some(match result {
                Ok(error) => Refused::Failed(error),
                Err(panic) => Refused::Panicked(panic),
            });
        }
        if !core.options.policy.skips() && !failed.is_given_up {
            return core.halt(sequence);
        }
        let refused = failed.refused.take();
        let refused = refused.unwrap_or_else(|| unreachable!("it was made above"));
        core.counters.skipped.add(1);
        core.pass(&backlog[..1], false);
        let sleeper = backlog.remove(0).resolve(Err(refused));
        sleeper.into_iter().for_each(Sleeper::wake);
        core.tell_drains();
    }
}

impl<F: Finalize> Entry<F> {
    /// The watermark is past it. Who sleeps until then is to be woken.
    fn resolve(self, outcome: Outcome<F>) -> Option<Sleeper<Outcome<F>>> {
        let Self {
            fate, completer, ..
        } = self;
        contain(|| drop(fate));
        let mut sleeper = None;
        contain(|| sleeper = completer.complete_quietly(Ok(outcome)));
        sleeper
    }

    /// The finalizer has failed for it: the item stays, for another try.
    fn fail(&mut self, failure: Failure<F::Error>) {
        let failed = Fate::failed(failure);
        if let Fate::Item(made) = std::mem::replace(&mut self.fate, failed)
            && let Fate::Failed(failed) = &mut self.fate
        {
            failed.item = Some(made);
        }
    }
}

impl<F: Finalize> Core<F> {
    /// The finalizer's side, for who runs it now. `None`: somebody does, or it is gone.
    fn take_up(&self, thread: &Name) -> Option<Finalizing<F>> {
        let mut control = self.control.lock();
        if control.is_stopped {
            return None;
        }
        let hand = control.finalizing.take()?;
        control.finalizer_runs = Some(Name::clone(thread));
        Some(hand)
    }

    fn lay_down(&self, hand: Finalizing<F>) {
        let mut control = self.control.lock();
        control.finalizer_runs = None;
        if !control.is_left {
            control.finalizing = Some(hand);
            return;
        }
        // The shutdown did not wait for this.
        drop(control);
        contain(|| drop(hand));
    }

    /// Before the finalizer sleeps. `false`: there is something to do.
    fn await_next(&self) -> bool {
        self.ring.await_turn(self.watermark()) || mutant::enabled("flush-sleeps-over-its-turn")
    }

    /// The watermark moves past flushes, the next in order; then, and not before, who waits for
    /// them learns.
    fn pass(&self, entries: &[Entry<F>], is_durable: bool) {
        let before = self.watermark();
        let mark = before + entries.len() as u64;
        if is_durable && self.durable.load(Ordering::Relaxed) == before {
            self.durable.store(mark, Ordering::Release);
        }
        // Release, pairs with `watermark`.
        self.watermark.store(mark, Ordering::Release);
        let permits = entries.iter().map(|entry| entry.permits).sum();
        let bytes = entries.iter().map(|entry| entry.bytes).sum();
        self.give_back(permits, bytes);
    }

    /// After the tickets of all flushes below the watermark have been resolved.
    fn tell_drains(&self) {
        let mark = self.watermark();
        let due: Vec<_> = {
            let mut control = self.control.lock();
            control.resolved = mark;
            let is_due = |drain: &mut Drain| drain.target <= mark;
            control.drains.extract_if(.., is_due).collect()
        };
        for drain in due {
            drain.completer.complete(Ok(Ok(())));
        }
    }

    /// Ends a halt, for who waits now, and has the finalizer go on.
    pub(super) fn resume(&self) -> bool {
        {
            let _control = self.control.lock();
            if self.halted().is_none() {
                return false;
            }
            // In this order, see `turn`.
            self.orders.fetch_or(RESUME, Ordering::AcqRel);
            self.halted.store(0, Ordering::Release);
            self.let_in();
        }
        self.bell.ring();
        self.bell.wake_one();
        true
    }

    /// Stops at a flush, and tells whoever waits for what it keeps from happening.
    fn halt(&self, sequence: u64) {
        self.counters.halts.add(1);
        let (tell, drains) = {
            let mut control = self.control.lock();
            self.halted.store(sequence + 1, Ordering::Release);
            for sleeper in &control.sleepers {
                sleeper.nudge();
            }
            (self.turn_away(), std::mem::take(&mut control.drains))
        };
        tell();
        for drain in drains {
            drain
                .completer
                .complete(Ok(Err(DrainError::Halted(sequence))));
        }
    }

    /// Has a stream that failed run once more, by a streamer or, without those, by the finalizer's
    /// thread.
    pub(super) fn rerun(&self, task: Task<F>) {
        if let Err(task) = self.queue.resubmit(task) {
            return task.give_up(self);
        }
        if self.options.streamers == 0 {
            self.bell.ring();
            self.bell.wake_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flush::{FlushPipeline, each};

    #[test]
    fn a_nap_ends_by_itself_while_nothing_is_completed() {
        let flush = FlushPipeline::builder("test")
            .max_in_flight(MANY as usize)
            .finalizer(each(|_, item: &mut u64| Ok::<_, std::io::Error>(*item)))
            .build()
            .unwrap();
        let slots: Vec<_> = (0..MANY)
            .map(|_| flush.reserve(0).unwrap().rotate(&mut (), |(), _| ()))
            .collect();
        let core = flush.core();
        let since = now().checked_sub(WATCH).unwrap();
        let mut watch = Watch { since };
        // Nobody rings meanwhile: a sleep would have no end.
        watch.wait(core, core.bell.number());
        assert!(watch.since > since);
        for slot in slots {
            drop(slot.complete(Ok(1)).unwrap());
        }
    }
}
