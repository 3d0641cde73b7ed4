//! What becomes of failures: halts and their end, skips, retries.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::flush::{
    Backoff, DrainError, Failed, Failure, Finalize, FlushPipeline, FlushTicket, Job, OnFailure,
    ReserveError, WaitError, each,
};
use latchwork::sweeper::Sweeper;

use crate::support::{
    Gate, HOUR, Journal, boom, copy, fail_once, pipeline, rotate, scripted, submit,
};

#[track_caller]
fn halted(result: Result<u64, WaitError<Journal>>) -> (u64, FlushTicket<Journal>) {
    match result {
        Err(WaitError::Halted(sequence, ticket)) => (sequence, ticket),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn failed(result: Result<u64, WaitError<Journal>>) -> String {
    match result {
        Err(WaitError::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_that_failed_is_run_again_after_the_halt_and_younger_flushes_are_kept() {
    let (flush, lines) = pipeline(|builder| builder);
    let disk_is_full = Arc::new(AtomicBool::new(true));
    let runs = Arc::new(AtomicU32::new(0));
    let (full, counted) = (Arc::clone(&disk_is_full), Arc::clone(&runs));
    let first = submit(&flush, 10, move |job| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert_eq!(job.attempt(), 1, "the tries are counted anew");
        **job += 1; // what a try has done to the job stays
        match full.load(Ordering::SeqCst) {
            true => Err("no space".into()),
            false => Ok(**job),
        }
    });
    let (at, first) = halted(first.wait());
    assert_eq!((at, flush.halted()), (0, Some(0)));
    assert!(
        !flush.resume() || flush.drain() == Err(DrainError::Halted(0)),
        "it failed again"
    );
    let younger = rotate_halted(&flush);
    assert!(younger.is_none(), "nothing is reserved during a halt");
    disk_is_full.store(false, Ordering::SeqCst);
    assert!(flush.resume());
    assert_eq!(first.wait().unwrap(), 13);
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert_eq!((flush.watermark(), flush.durable_watermark()), (1, 1));
    assert_eq!(
        lines.read(),
        ["0 failed: no space", "0 failed: no space", "0 done: 13"]
    );
    assert!(!flush.resume(), "it is not halted");
    submit(&flush, 11, copy).wait().unwrap();
}

fn rotate_halted(flush: &crate::support::Pipe) -> Option<latchwork::flush::Rotated<Journal>> {
    match flush.reserve(0) {
        Ok(slot) => Some(slot.rotate(&mut (), |(), _| 99)),
        Err(ReserveError::Halted(0)) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn younger_flushes_are_kept_through_a_halt() {
    let (flush, lines) = pipeline(|builder| builder);
    let slots = [10, 11, 12].map(|job| rotate(&flush, job).hand_over());
    let [first, second, third] = slots;
    let second = second.submit(copy).unwrap();
    let first = first.submit(fail_once()).unwrap();
    let (_, first) = halted(first.wait());
    // Submitted during the halt.
    let third = third.submit(copy).unwrap();
    let (at, second) = halted(second.wait());
    assert_eq!(at, 0, "it is told of the one that holds it up");
    assert!(flush.resume());
    assert_eq!(first.wait().unwrap(), 10);
    assert_eq!(second.wait().unwrap(), 11);
    assert_eq!(third.wait().unwrap(), 12);
    assert_eq!(
        lines.read(),
        ["0 failed: once", "0 done: 10", "1 done: 11", "2 done: 12"]
    );
    assert_eq!(flush.durable_watermark(), 3);
}

#[test]
fn whoever_waits_is_told_of_a_halt() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(2));
    let gate = Gate::new();
    let bar = gate.bar();
    let first = submit(&flush, 10, move |_| {
        bar.pass();
        Err("no".into())
    });
    let second = submit(&flush, 11, copy);
    gate.await_entered(1);
    let (send, told) = mpsc::channel();
    let tell = send.clone();
    let drained = flush.drain_with(move |result| tell.send(format!("{result:?}")).unwrap());
    let reserved = flush.reserve_with(0, move |result| {
        send.send(format!("{:?}", result.map(drop))).unwrap();
    });
    thread::scope(|scope| {
        let waits = [
            scope.spawn(|| halted(second.wait()).0),
            scope.spawn(|| match flush.drain() {
                Err(DrainError::Halted(at)) => at,
                other => panic!("{other:?}"),
            }),
            scope.spawn(|| match flush.reserve_timeout(0, HOUR) {
                Err(ReserveError::Halted(at)) => at,
                other => panic!("{other:?}"),
            }),
        ];
        gate.open();
        for wait in waits {
            assert_eq!(wait.join().unwrap(), 0);
        }
    });
    let mut told = [(); 2].map(|()| told.recv().unwrap());
    told.sort();
    assert_eq!(told, ["Err(Halted(0))", "Err(Halted(0))"]);
    assert_eq!(flush.try_reserve(0).unwrap_err(), ReserveError::Halted(0));
    assert_eq!(flush.drain_to(9), Err(DrainError::Halted(0)));
    assert_eq!(halted(first.try_wait()).0, 0);
    drop((drained, reserved));
}

#[test]
fn what_the_finalizer_failed_for_is_finalized_anew_after_the_halt() {
    let mut fails = 2;
    let (flush, lines) = scripted(
        |builder| builder,
        move |_, item| {
            *item += 1; // the item stays as it is
            match fails {
                0 => Ok(()),
                2 => {
                    fails -= 1;
                    Err("no space".into())
                }
                _ => {
                    fails -= 1;
                    boom()
                }
            }
        },
    );
    let streams = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&streams);
    let ticket = submit(&flush, 10, move |job| {
        counted.fetch_add(1, Ordering::SeqCst);
        copy(job)
    });
    let (_, ticket) = halted(ticket.wait());
    assert!(flush.resume());
    assert_eq!(flush.drain(), Err(DrainError::Halted(0)));
    assert!(flush.resume());
    assert_eq!(ticket.wait().unwrap(), 13);
    assert_eq!(streams.load(Ordering::SeqCst), 1, "the stream was done");
    assert_eq!(
        lines.read(),
        [
            "0 failed: no space",
            "0 failed: the finalizer panicked: boom",
            "0 done: 13"
        ]
    );
    assert_eq!(flush.stats().halts, 2);
}

#[test]
fn what_cannot_be_tried_again_halts_and_is_skipped_by_the_resume() {
    let (flush, lines) = pipeline(|builder| builder);
    let [abandoned, completed, whole] = [10, 11, 12].map(|job| rotate(&flush, job).hand_over());
    drop(abandoned);
    let completed = completed.complete(Err("its own".into())).unwrap();
    let whole = whole.submit(copy).unwrap();
    assert_eq!(flush.drain(), Err(DrainError::Halted(0)));
    assert!(flush.resume());
    assert_eq!(flush.drain_to(1), Ok(()));
    let (at, completed) = halted(completed.wait());
    assert_eq!(at, 1);
    assert!(flush.resume());
    assert_eq!(failed(completed.wait()), "its own");
    assert_eq!(whole.wait().unwrap(), 12);
    assert_eq!((flush.watermark(), flush.durable_watermark()), (3, 0));
    assert_eq!(
        lines.read(),
        [
            "0 failed: the flush was dropped before it was complete",
            "1 failed: its own",
            "2 done: 12"
        ]
    );
    assert_eq!((flush.stats().skipped, flush.stats().halts), (2, 2));
}

#[test]
fn a_stream_that_panicked_keeps_its_job_and_is_run_again_after_the_halt() {
    let (flush, lines) = pipeline(|builder| builder);
    let mut first = true;
    let ticket = submit(&flush, 10, move |job| {
        if std::mem::take(&mut first) {
            boom();
        }
        copy(job)
    });
    let (_, ticket) = halted(ticket.wait());
    assert!(flush.resume());
    assert_eq!(ticket.wait().unwrap(), 10);
    assert_eq!(
        lines.read(),
        ["0 failed: the stream panicked: boom", "0 done: 10"]
    );
}

#[test]
fn a_close_during_a_halt_lets_nobody_in_after_it() {
    let (flush, _) = pipeline(|builder| builder);
    let ticket = submit(&flush, 10, fail_once());
    let (_, ticket) = halted(ticket.wait());
    flush.close();
    assert_eq!(flush.reserve(0).unwrap_err(), ReserveError::Closed);
    assert!(flush.resume());
    assert_eq!(ticket.wait().unwrap(), 10);
    assert_eq!(flush.reserve(0).unwrap_err(), ReserveError::Closed);
}

#[test]
fn a_callback_of_a_ticket_sleeps_through_a_halt() {
    let (flush, _) = pipeline(|builder| builder);
    let ticket = submit(&flush, 10, fail_once());
    let (_, ticket) = halted(ticket.wait());
    let (send, told) = mpsc::channel();
    let pending = ticket.wait_with(move |result| send.send(result.unwrap()).unwrap());
    assert!(!pending.is_delivered());
    assert!(flush.resume());
    assert_eq!(told.recv().unwrap(), 10);
    drop(pending);
}

/// A wait without a deadline has no time-out, however halts come and go.
#[test]
fn who_waits_without_a_deadline_is_never_told_that_the_time_is_up() {
    let (flush, _) = pipeline(|builder| builder);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                flush.resume();
                thread::yield_now();
            }
        });
        for job in 0..300 {
            let mut tries = 0;
            let mut ticket = submit_through_halts(&flush, job, move |job| {
                tries += 1;
                if tries < 4 {
                    Err("no".into())
                } else {
                    copy(job)
                }
            });
            loop {
                match ticket.wait() {
                    Ok(item) => break assert_eq!(item, job),
                    Err(WaitError::Halted(_, again)) => ticket = again,
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        is_over.store(true, Ordering::SeqCst);
    });
}

fn submit_through_halts(
    flush: &crate::support::Pipe,
    job: u64,
    stream: impl FnMut(&mut latchwork::flush::Job<u64>) -> Result<u64, String> + Send + 'static,
) -> FlushTicket<Journal> {
    loop {
        match flush.reserve(0) {
            Ok(slot) => return slot.rotate(&mut (), |(), _| job).submit(stream).unwrap(),
            Err(ReserveError::Halted(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn skipping_goes_on_and_the_durable_watermark_stays_at_the_first_gap() {
    let (flush, lines) = pipeline(|builder| builder.on_failure(OnFailure::Skip));
    submit(&flush, 10, copy).wait().unwrap();
    assert_eq!((flush.watermark(), flush.durable_watermark()), (1, 1));
    assert_eq!(
        failed(submit(&flush, 11, |_| Err("no".into())).wait()),
        "no"
    );
    submit(&flush, 12, copy).wait().unwrap();
    assert_eq!((flush.watermark(), flush.durable_watermark()), (3, 1));
    assert_eq!(lines.read(), ["0 done: 10", "1 failed: no", "2 done: 12"]);
    assert_eq!((flush.stats().skipped, flush.stats().halts), (1, 0));
    assert_eq!(flush.halted(), None);
}

#[test]
fn a_failure_is_told_once_in_its_turn_with_what_is_left_of_the_flush() {
    struct Looks(mpsc::Sender<String>);
    impl Finalize for Looks {
        type Job = u64;
        type Item = u64;
        type Output = ();
        type Error = String;
        fn finalize_one(&mut self, _: u64, item: &mut u64) -> Result<(), String> {
            match *item {
                0 => Err("full".into()),
                _ => Ok(()),
            }
        }
        fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> String {
            let job = failed.job.map(|job| *job);
            let item = failed.item.map(|item| *item);
            let line = format!("{}: {:?} {job:?} {item:?}", failed.sequence, failed.failure);
            self.0.send(line.clone()).unwrap();
            if failed.sequence == 3 {
                boom();
            }
            line
        }
    }
    let (send, lines) = mpsc::channel();
    let flush = FlushPipeline::builder("looks").on_failure(OnFailure::Skip);
    let flush = flush
        .max_in_flight(8)
        .finalizer(Looks(send))
        .build()
        .unwrap();
    let slots: Vec<_> = (0..6)
        .map(|job| {
            flush
                .reserve(0)
                .unwrap()
                .rotate(&mut (), |(), _| job * 10)
                .hand_over()
        })
        .collect();
    let mut slots = slots.into_iter().rev();
    let mut next = || slots.next().unwrap();
    let sixth = next().complete(Ok(7)).unwrap();
    let fifth = next().complete(Err("own".into())).unwrap();
    let fourth = next().submit(|_| Err("late".into())).unwrap();
    let third = next().submit(|_| Ok(0)).unwrap();
    drop(next());
    let first = next().submit(|_| boom()).unwrap();
    sixth.wait().unwrap();
    assert!(first.is_done() && third.is_done());
    assert!(
        matches!(fourth.wait(), Err(WaitError::FailurePanicked(panic)) if panic.message() == "boom")
    );
    assert!(matches!(fifth.wait(), Err(WaitError::Failed(line)) if line.starts_with("4: ")));
    let lines: Vec<_> = lines.try_iter().collect();
    assert_eq!(lines.len(), 5);
    assert!(lines[0].starts_with("0: StreamPanicked("));
    for (line, end) in lines.iter().zip([
        "Some(0) None",
        "None None",
        "None Some(0)",
        "Some(30) None",
        "None None",
    ]) {
        assert!(line.ends_with(end), "{line}: {end}");
    }
}

#[test]
fn a_closure_as_finalizer_hands_the_failure_to_the_ticket() {
    let flush = FlushPipeline::builder("each")
        .on_failure(OnFailure::Skip)
        .finalizer(each(|_, item: &mut u64| match *item {
            0 => Err("zero"),
            _ => Ok(*item),
        }));
    let flush = flush.build().unwrap();
    let slot = || flush.reserve(0).unwrap().rotate(&mut (), |(), _| 5_u64);
    assert_eq!(slot().submit(|job| Ok(**job)).unwrap().wait().unwrap(), 5);
    let error = slot().submit(|_| Ok(0)).unwrap().wait().unwrap_err();
    assert!(matches!(
        error,
        WaitError::Failed(Failure::Finalize("zero"))
    ));
    let error = slot().submit(|_| Err("full")?).unwrap().wait().unwrap_err();
    assert!(matches!(error, WaitError::Failed(Failure::Stream("full"))));
    let error = slot().submit(|_| boom()).unwrap().wait().unwrap_err();
    assert!(matches!(
        error,
        WaitError::Failed(Failure::StreamPanicked(_))
    ));
}

/// A pipeline that tries three times, an hour after a failure and two after the next, on a sweeper
/// whose clock the test moves.
fn retrying(last: OnFailure) -> (crate::support::Pipe, crate::support::Lines, Sweeper) {
    retrying_with(2, last)
}

fn retrying_with(
    streamers: usize,
    last: OnFailure,
) -> (crate::support::Pipe, crate::support::Lines, Sweeper) {
    let sweeper = Sweeper::new();
    let (flush, lines) = pipeline(|builder| {
        let retry = OnFailure::Retry {
            attempts: 3,
            backoff: Backoff::exponential(HOUR, 10 * HOUR),
        };
        let builder = builder.streamers(streamers).on_failure(retry.then(last));
        builder.sweeper(sweeper.clone())
    });
    (flush, lines, sweeper)
}

/// Runs the sweeper at `at` until it has had something to do.
fn sweep(sweeper: &Sweeper, at: Instant) {
    while sweeper.run_due(at) == 0 {
        thread::yield_now();
    }
}

/// A stream that always fails, and the tries that it was told of.
fn failing() -> (
    impl FnMut(&mut Job<u64>) -> Result<u64, String> + Send + 'static,
    mpsc::Receiver<u32>,
) {
    let (send, tries) = mpsc::channel();
    let stream = move |job: &mut Job<u64>| {
        send.send(job.attempt()).unwrap();
        Err("no".into())
    };
    (stream, tries)
}

/// Receives a try, and two more as their back-offs pass. The sweeper may run for a deadline that is
/// over, and do nothing: what counts is that a try comes.
fn three_tries(sweeper: &Sweeper, tries: &mpsc::Receiver<u32>) -> Vec<u32> {
    let mut seen = vec![tries.recv().unwrap()];
    let start = Instant::now();
    for hours in [2, 5] {
        seen.push(loop {
            sweeper.run_due(start + hours * HOUR);
            if let Ok(attempt) = tries.recv_timeout(Duration::from_millis(1)) {
                break attempt;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{seen:?}");
        });
    }
    seen
}

#[test]
fn a_retry_comes_after_its_back_off_and_not_before_and_holds_up_no_streamer() {
    let (flush, lines, sweeper) = retrying(OnFailure::Halt);
    let (send, tries) = mpsc::channel();
    let ticket = submit(&flush, 10, move |job| {
        send.send(job.attempt()).unwrap();
        match job.attempt() {
            3 => copy(job),
            _ => Err("busy".into()),
        }
    });
    assert_eq!(tries.recv().unwrap(), 1);
    // Both streamers are free meanwhile.
    let gate = Gate::new();
    let others = [11, 12].map(|job| submit(&flush, job, gate.stream()));
    gate.await_entered(2);
    gate.open();
    let start = Instant::now();
    assert_eq!(sweeper.run_due(start), 0, "it is not due");
    assert!(tries.try_recv().is_err());
    sweep(&sweeper, start + HOUR);
    assert_eq!(tries.recv().unwrap(), 2);
    assert_eq!(sweeper.run_due(start + HOUR), 0);
    sweep(&sweeper, start + 4 * HOUR);
    assert_eq!(tries.recv().unwrap(), 3);
    assert_eq!(ticket.wait().unwrap(), 10);
    for (other, job) in others.into_iter().zip(11..) {
        assert_eq!(other.wait().unwrap(), job);
    }
    assert_eq!(lines.read(), ["0 done: 10", "1 done: 11", "2 done: 12"]);
    assert_eq!(flush.stats().retried, 2);
}

#[test]
fn used_up_tries_skip_or_halt_as_the_policy_says_and_a_resume_gives_new_ones() {
    let (skips, lines, sweeper) = retrying(OnFailure::Skip);
    let (stream, tries) = failing();
    let ticket = submit(&skips, 10, stream);
    assert_eq!(three_tries(&sweeper, &tries), [1, 2, 3]);
    assert_eq!(failed(ticket.wait()), "no");
    assert_eq!(lines.read(), ["0 failed: no"], "once, after the last try");

    let (halts, _, sweeper) = retrying(OnFailure::Halt);
    let (stream, again) = failing();
    let ticket = submit(&halts, 10, stream);
    assert_eq!(three_tries(&sweeper, &again), [1, 2, 3]);
    let (_, ticket) = halted(ticket.wait());
    assert!(halts.resume());
    assert_eq!(three_tries(&sweeper, &again), [1, 2, 3]);
    assert_eq!(halts.drain(), Err(DrainError::Halted(0)));
    assert!(!ticket.is_done());
    for tries in [tries, again] {
        assert_eq!(tries.try_iter().count(), 0, "there is no fourth");
    }
}

#[test]
fn a_panicking_stream_is_tried_again_too() {
    let (flush, lines, sweeper) = retrying(OnFailure::Halt);
    let ticket = submit(&flush, 10, |job| match job.attempt() {
        1 => boom(),
        _ => copy(job),
    });
    sweep(&sweeper, Instant::now() + 2 * HOUR);
    assert_eq!(ticket.wait().unwrap(), 10);
    assert_eq!(lines.read(), ["0 done: 10"]);
}

#[test]
fn a_retry_happens_without_streamers_too() {
    let (flush, _, sweeper) = retrying_with(0, OnFailure::Halt);
    let ticket = submit(&flush, 10, |job| match job.attempt() {
        1 => Err("busy".into()),
        _ => copy(job),
    });
    sweep(&sweeper, Instant::now() + 2 * HOUR);
    assert_eq!(ticket.wait().unwrap(), 10);
}

#[test]
fn a_resume_runs_its_stream_without_streamers_too() {
    let (flush, _) = pipeline(|builder| builder.streamers(0));
    let ticket = submit(&flush, 10, fail_once());
    let (_, ticket) = halted(ticket.wait());
    assert!(flush.resume());
    assert_eq!(ticket.wait().unwrap(), 10);
}

#[test]
fn a_policy_without_tries_is_that_of_its_end() {
    let policy = OnFailure::Halt.then(OnFailure::Skip);
    let (flush, _) = pipeline(|builder| builder.on_failure(policy));
    assert_eq!(
        failed(submit(&flush, 10, |_| Err("no".into())).wait()),
        "no"
    );
    let none = OnFailure::Retry {
        attempts: 0,
        backoff: Backoff::constant(Duration::ZERO),
    };
    let (flush, _) = pipeline(|builder| builder.on_failure(none));
    assert_eq!(submit(&flush, 10, copy).wait().unwrap(), 10);
}

#[test]
#[should_panic(expected = "to halt or to skip")]
fn a_policy_that_ends_in_another_try_is_refused() {
    let retry = || OnFailure::Retry {
        attempts: 2,
        backoff: Backoff::constant(Duration::ZERO),
    };
    let _ = retry().then(retry());
}
