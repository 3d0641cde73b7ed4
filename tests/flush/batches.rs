//! Batches: marked in order, failed in part, bounded.

use std::sync::mpsc;

use latchwork::flush::{
    Batch, DrainError, Failed, Failure, Finalize, FlushPipeline, FlushTicket, OnFailure, WaitError,
};

use crate::support::{Bar, Gate, HOUR, boom};

type Script = Box<dyn FnMut(usize, &mut Batch<'_, Batches>) + Send>;

/// Hands each batch to a script, with its number, and reports batches and failures.
struct Batches {
    calls: usize,
    script: Script,
    report: mpsc::Sender<String>,
}

impl Finalize for Batches {
    type Job = u64;
    type Item = u64;
    type Output = u64;
    type Error = String;

    fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
        let numbers: Vec<u64> = batch.iter().map(|(sequence, _)| sequence).collect();
        assert_eq!(numbers.len(), batch.len());
        self.report.send(format!("{numbers:?}")).unwrap();
        self.calls += 1;
        (self.script)(self.calls, batch);
    }

    fn finalize_one(&mut self, _: u64, _: &mut u64) -> Result<u64, String> {
        unreachable!("batches are finalized whole")
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> String {
        let what = match failed.failure {
            Failure::Stream(error) | Failure::Finalize(error) => error,
            other => other.to_string(),
        };
        self.report
            .send(format!("{} failed: {what}", failed.sequence))
            .unwrap();
        what
    }
}

struct Bench {
    flush: FlushPipeline<Batches>,
    reports: mpsc::Receiver<String>,
}

impl Bench {
    fn new(
        policy: OnFailure,
        max_batch: usize,
        script: impl FnMut(usize, &mut Batch<'_, Batches>) + Send + 'static,
    ) -> Self {
        let (report, reports) = mpsc::channel();
        let flush = FlushPipeline::builder("batches")
            .max_in_flight(8)
            .max_batch(max_batch)
            .on_failure(policy)
            .finalizer(Batches {
                calls: 0,
                script: Box::new(script),
                report,
            })
            .build()
            .unwrap();
        Self { flush, reports }
    }

    /// Completes so many flushes, the first last, so that they are ready all at once.
    fn complete(&self, flushes: u64) -> Vec<FlushTicket<Batches>> {
        let slots: Vec<_> = (0..flushes)
            .map(|_| self.flush.reserve(0).unwrap())
            .map(|slot| slot.rotate(&mut (), |(), sequence| sequence).hand_over())
            .collect();
        let complete = |slot: latchwork::flush::Rotated<Batches>| {
            let item = *slot.job() * 10;
            slot.complete(Ok(item)).unwrap()
        };
        let mut tickets: Vec<_> = slots.into_iter().rev().map(complete).collect();
        tickets.reverse();
        tickets
    }

    /// The reports so far, once the pipeline is at rest.
    fn reports(&self) -> Vec<String> {
        self.reports.try_iter().collect()
    }
}

fn done(batch: &mut Batch<'_, Batches>) {
    let item = batch.next_mut().map(|(_, item)| *item).unwrap();
    batch.done(item);
}

#[track_caller]
fn error(ticket: FlushTicket<Batches>) -> String {
    match ticket.wait() {
        Err(WaitError::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_is_the_whole_ready_prefix_and_is_marked_in_order() {
    let bench = Bench::new(OnFailure::Halt, 1024, |_, batch| {
        assert_eq!(batch.len(), 5);
        done(batch);
        done(batch);
        assert_eq!((batch.len(), batch.is_empty()), (3, false));
        let left: Vec<_> = batch
            .iter()
            .map(|(sequence, item)| (sequence, *item))
            .collect();
        assert_eq!(left, [(2, 20), (3, 30), (4, 40)]);
        batch.done_all(|sequence, item| sequence + *item);
        assert!(batch.is_empty());
        assert!(batch.next_mut().is_none());
    });
    let outputs: Vec<_> = bench
        .complete(5)
        .into_iter()
        .map(|ticket| ticket.wait().unwrap())
        .collect();
    assert_eq!(outputs, [0, 10, 22, 33, 44]);
    assert_eq!(bench.reports(), ["[0, 1, 2, 3, 4]"]);
    assert_eq!(bench.flush.stats().batches, 1);
}

#[test]
fn what_comes_while_a_batch_is_finalized_is_one_batch_after_it() {
    let gate = Gate::new();
    let bar: Bar = gate.bar();
    let bench = Bench::new(OnFailure::Halt, 1024, move |call, batch| {
        if call == 1 {
            bar.pass();
        }
        batch.done_all(|_, item| *item);
    });
    let first = bench.complete(1);
    gate.await_entered(1);
    let rest = bench.complete(4);
    gate.open();
    for ticket in first.into_iter().chain(rest) {
        ticket.wait().unwrap();
    }
    assert_eq!(bench.reports(), ["[0]", "[1, 2, 3, 4]"]);
}

#[test]
fn a_batch_is_bounded() {
    let bench = Bench::new(OnFailure::Halt, 2, |_, batch| {
        batch.done_all(|_, item| *item)
    });
    for ticket in bench.complete(5) {
        ticket.wait().unwrap();
    }
    assert_eq!(bench.reports(), ["[0, 1]", "[2, 3]", "[4]"]);
}

#[test]
fn a_batch_that_fails_at_one_fails_that_one_and_the_rest_comes_again() {
    let bench = Bench::new(OnFailure::Skip, 1024, |call, batch| {
        if call == 1 {
            done(batch);
            batch.fail("second".into());
            assert!(batch.is_empty() && batch.next_mut().is_none());
            assert_eq!(batch.iter().count(), 0);
        } else {
            batch.done_all(|_, item| *item);
        }
    });
    let mut tickets = bench.complete(4).into_iter();
    assert_eq!(tickets.next().unwrap().wait().unwrap(), 0);
    assert_eq!(error(tickets.next().unwrap()), "second");
    assert_eq!(tickets.next().unwrap().wait().unwrap(), 20);
    assert_eq!(tickets.next().unwrap().wait().unwrap(), 30);
    assert_eq!(
        bench.reports(),
        ["[0, 1, 2, 3]", "1 failed: second", "[2, 3]"]
    );
    let flush = &bench.flush;
    assert_eq!((flush.watermark(), flush.durable_watermark()), (4, 1));
}

#[test]
fn a_panic_half_way_fails_only_what_is_not_marked() {
    let bench = Bench::new(OnFailure::Skip, 1024, |call, batch| {
        if call == 1 {
            done(batch);
            done(batch);
            boom();
        }
        batch.done_all(|_, item| *item);
    });
    let mut tickets = bench.complete(4).into_iter();
    let mut next = || tickets.next().unwrap();
    assert_eq!(next().wait().unwrap(), 0);
    assert_eq!(next().wait().unwrap(), 10);
    assert_eq!(error(next()), "the finalizer panicked: boom");
    assert_eq!(error(next()), "the finalizer panicked: boom");
    assert_eq!(
        bench.reports(),
        [
            "[0, 1, 2, 3]",
            "2 failed: the finalizer panicked: boom",
            "3 failed: the finalizer panicked: boom",
        ]
    );
    for ticket in bench.complete(1) {
        ticket.wait().unwrap();
    }
}

#[test]
fn after_a_panic_and_a_halt_what_was_not_marked_comes_again() {
    let bench = Bench::new(OnFailure::Halt, 1024, |call, batch| {
        if call == 1 {
            done(batch);
            boom();
        }
        batch.done_all(|_, item| *item);
    });
    let tickets = bench.complete(4);
    assert_eq!(bench.flush.drain_timeout(HOUR), Err(DrainError::Halted(1)));
    assert_eq!(bench.flush.watermark(), 1);
    assert!(bench.flush.resume());
    for (ticket, n) in tickets.into_iter().zip(0..) {
        assert_eq!(ticket.wait().unwrap(), n * 10);
    }
    assert_eq!(
        bench.reports(),
        [
            "[0, 1, 2, 3]",
            "1 failed: the finalizer panicked: boom",
            "[1, 2, 3]"
        ]
    );
}

#[test]
fn a_failed_batch_after_a_halt_begins_with_the_one_that_failed() {
    let bench = Bench::new(OnFailure::Halt, 2, |call, batch| match call {
        1 => batch.fail("no space".into()),
        _ => batch.done_all(|_, item| *item),
    });
    let tickets = bench.complete(5);
    assert_eq!(bench.flush.drain(), Err(DrainError::Halted(0)));
    assert!(bench.flush.resume());
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    assert_eq!(
        bench.reports(),
        ["[0, 1]", "0 failed: no space", "[0, 1]", "[2, 3]", "[4]"]
    );
}

#[test]
fn what_is_left_unmarked_has_failed() {
    let bench = Bench::new(OnFailure::Skip, 1024, |call, batch| {
        if call == 1 {
            done(batch);
        } else {
            batch.done_all(|_, item| *item);
        }
    });
    let mut tickets = bench.complete(3).into_iter();
    let mut next = || tickets.next().unwrap();
    next().wait().unwrap();
    let silence = "the finalizer returned without a word of the flush";
    assert_eq!(error(next()), silence);
    assert_eq!(error(next()), silence);
}

#[test]
fn marking_more_than_there_is_panics_and_changes_nothing() {
    let bench = Bench::new(OnFailure::Skip, 1024, |_, batch| {
        batch.done_all(|_, item| *item);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batch.done(99)));
        assert!(result.is_err());
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batch.fail(String::new())));
        assert!(result.is_err());
        std::panic::set_hook(hook);
    });
    for (ticket, n) in bench.complete(2).into_iter().zip(0..) {
        assert_eq!(ticket.wait().unwrap(), n * 10);
    }
}

#[test]
fn a_failure_in_the_middle_divides_the_batches() {
    let bench = Bench::new(OnFailure::Skip, 1024, |_, batch| {
        batch.done_all(|_, item| *item)
    });
    let slots: Vec<_> = (0..4)
        .map(|_| bench.flush.reserve(0).unwrap())
        .map(|slot| slot.rotate(&mut (), |(), sequence| sequence).hand_over())
        .collect();
    for slot in slots.into_iter().rev() {
        drop(match slot.sequence() {
            2 => slot.complete(Err("third".into())).unwrap(),
            n => slot.complete(Ok(n)).unwrap(),
        });
    }
    bench.flush.drain().unwrap();
    assert_eq!(bench.reports(), ["[0, 1]", "2 failed: third", "[3]"]);
}
