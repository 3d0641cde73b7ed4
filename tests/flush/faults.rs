//! The faults of the original, one test each.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::flush::{
    Backoff, BuildError, DrainError, FlushPipeline, LeftoverState, OnFailure, ReserveError,
    Shutdown, WaitError, each,
};
use latchwork::sweeper::Sweeper;

use crate::support::{
    Counted, Gate, HOUR, Journal, boom, copy, pipeline, rotate, scripted, submit,
};

#[test]
fn a_stream_that_panics_hangs_or_is_dropped_leaves_no_gap() {
    let sweeper = Sweeper::new();
    let (flush, lines) = pipeline(|builder| {
        let builder = builder.on_failure(OnFailure::Skip).sweeper(sweeper.clone());
        builder.stream_timeout(HOUR)
    });
    let gate = Gate::new();
    let hangs = submit(&flush, 10, gate.stream());
    gate.await_entered(1);
    sweeper.run_due(Instant::now() + 2 * HOUR);
    let panics = submit(&flush, 11, |_| boom());
    drop(rotate(&flush, 12));
    let whole = submit(&flush, 13, copy);
    assert_eq!(whole.wait().unwrap(), 13);
    assert!(matches!(hangs.wait(), Err(WaitError::Failed(_))));
    assert!(matches!(panics.wait(), Err(WaitError::Failed(_))));
    assert_eq!(
        lines.read(),
        [
            "0 failed: the stream was not done in time",
            "1 failed: the stream panicked: boom",
            "2 failed: the flush was dropped before it was complete",
            "3 done: 13",
        ]
    );
}

#[test]
fn a_finalizer_that_panics_fails_its_flush_and_goes_on() {
    let (flush, lines) = scripted(
        |builder| builder.on_failure(OnFailure::Skip),
        |sequence, _| if sequence == 0 { boom() } else { Ok(()) },
    );
    assert!(matches!(
        submit(&flush, 10, copy).wait(),
        Err(WaitError::Failed(error)) if error == "the finalizer panicked: boom"
    ));
    assert_eq!(submit(&flush, 11, copy).wait().unwrap(), 11);
    assert_eq!(
        lines.read(),
        ["0 failed: the finalizer panicked: boom", "1 done: 11"]
    );
}

#[test]
fn a_finalizer_s_error_does_what_the_policy_says() {
    let full = |sequence, _: &mut u64| match sequence {
        0 => Err("no space".to_owned()),
        _ => Ok(()),
    };
    let (skips, _) = scripted(|builder| builder.on_failure(OnFailure::Skip), full);
    let ticket = submit(&skips, 10, copy);
    assert!(matches!(ticket.wait(), Err(WaitError::Failed(error)) if error == "no space"));
    assert_eq!(submit(&skips, 11, copy).wait().unwrap(), 11);
    assert_eq!((skips.watermark(), skips.durable_watermark()), (2, 0));

    let (halts, _) = scripted(|builder| builder.on_failure(OnFailure::Halt), full);
    let ticket = submit(&halts, 10, copy);
    assert!(matches!(ticket.wait(), Err(WaitError::Halted(0, _))));
    assert_eq!(halts.reserve(0).unwrap_err(), ReserveError::Halted(0));
    assert_eq!((halts.watermark(), halts.halted()), (0, Some(0)));
}

#[test]
fn a_drain_misses_no_wake_up() {
    let (flush, _) = pipeline(|builder| builder);
    let rounds = 2000;
    let (send, tickets) = mpsc::sync_channel(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for ticket in tickets {
                // A wake-up that is missed is an hour's sleep.
                flush.drain_timeout(HOUR).unwrap();
                let ticket: latchwork::flush::FlushTicket<Journal> = ticket;
                assert!(ticket.is_done());
            }
        });
        for job in 0..rounds {
            send.send(submit(&flush, job, copy)).unwrap();
        }
        drop(send);
    });
    assert_eq!(flush.watermark(), rounds);
}

#[test]
fn a_drain_waits_for_what_was_rotated_before_it_and_not_for_what_comes_later() {
    let (flush, _) = pipeline(|builder| builder);
    let (before, after) = (Gate::new(), Gate::new());
    let first = submit(&flush, 10, before.stream());
    let (send, drained) = mpsc::channel();
    let pending = flush.drain_with(move |result| send.send(result).unwrap());
    let second = submit(&flush, 11, after.stream());
    after.await_entered(1);
    assert!(!pending.is_delivered());
    before.open();
    drained.recv().unwrap().unwrap();
    assert!(first.is_done());
    assert!(!second.is_done());
    assert_eq!((flush.pending(), flush.watermark()), (1, 1));
}

#[test]
fn a_drain_waits_for_the_tickets_of_what_is_finalized() {
    let (flush, _) = pipeline(|builder| builder);
    let (stream, callback) = (Gate::new(), Gate::new());
    let bar = callback.bar();
    let ticket = submit(&flush, 10, stream.stream());
    let told = ticket.wait_with(move |_| bar.pass());
    stream.open();
    callback.await_entered(1);
    assert_eq!((flush.watermark(), flush.pending()), (1, 0));
    assert_eq!(
        flush.drain_timeout(Duration::ZERO),
        Err(DrainError::TimedOut)
    );
    let (send, drained) = mpsc::channel();
    let pending = flush.drain_with(move |result| send.send(result).unwrap());
    assert!(!pending.is_delivered());
    callback.open();
    drained.recv().unwrap().unwrap();
    assert!(told.is_delivered());
}

#[test]
fn a_flush_is_pending_from_its_number_on() {
    let (flush, _) = pipeline(|builder| builder);
    let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| {
        assert_eq!(flush.pending(), 1);
        thread::scope(|scope| {
            let drain = scope.spawn(|| flush.drain_timeout(Duration::ZERO));
            assert_eq!(drain.join().unwrap(), Err(DrainError::TimedOut));
        });
        10
    });
    assert_eq!(flush.pending(), 1);
    slot.submit(copy).unwrap().wait().unwrap();
    assert_eq!(flush.pending(), 0);
}

#[test]
fn the_pending_count_falls_once_for_each_number_whatever_became_of_it() {
    let (flush, _) = pipeline(|builder| builder.on_failure(OnFailure::Skip));
    drop(flush.reserve(0).unwrap());
    assert_eq!(flush.pending(), 0);
    drop(rotate(&flush, 10));
    let _ = rotate(&flush, 11).complete(Ok(11)).unwrap().wait();
    let _ = rotate(&flush, 12)
        .complete(Err("no".into()))
        .unwrap()
        .wait();
    let _ = submit(&flush, 13, |_| boom()).wait();
    let _ = submit(&flush, 14, |_| Err("no".into())).wait();
    flush.drain().unwrap();
    assert_eq!((flush.pending(), flush.watermark()), (0, 5));
    let stats = flush.stats();
    assert_eq!((stats.pending, stats.in_flight), (0, 0));
    assert_eq!((stats.finalized, stats.skipped), (1, 4));
}

#[test]
fn a_submission_after_the_shutdown_comes_back() {
    let (flush, lines) = pipeline(|builder| builder);
    let (submitted, completed) = (rotate(&flush, 10), rotate(&flush, 11));
    let left = flush.shutdown(Shutdown::Now);
    assert_eq!(left.flushes.len(), 2);
    let error = submitted.submit(copy).unwrap_err();
    assert_eq!((error.0.sequence(), *error.0.job()), (0, 10));
    let error = completed.complete(Ok(11)).unwrap_err();
    assert_eq!((error.0.sequence(), *error.0.job()), (1, 11));
    assert_eq!(flush.stats().submitted, 0);
    assert!(lines.read().is_empty());
}

#[test]
fn what_is_complete_before_its_turn_comes_back_at_the_end() {
    let (flush, lines) = pipeline(|builder| builder);
    let first = rotate(&flush, 10);
    for job in 11..14 {
        drop(rotate(&flush, job).complete(Ok(job * 2)).unwrap());
    }
    let left = flush.shutdown(Shutdown::Now);
    let states: Vec<_> = left
        .flushes
        .into_iter()
        .map(|flush| (flush.sequence, flush.state, flush.item))
        .collect();
    assert_eq!(
        states,
        [
            (0, LeftoverState::Unsubmitted, None),
            (1, LeftoverState::Streamed, Some(22)),
            (2, LeftoverState::Streamed, Some(24)),
            (3, LeftoverState::Streamed, Some(26)),
        ]
    );
    assert!(lines.read().is_empty());
    drop(first);
}

#[test]
fn no_reservation_is_made_after_the_shutdown() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let held = flush.reserve(0).unwrap();
    let (send, waited) = mpsc::channel();
    let waits = flush.reserve_with(0, move |result| send.send(result.map(drop)).unwrap());
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
    assert_eq!(waited.recv().unwrap(), Err(ReserveError::Closed));
    drop(waits);
    drop(held);
    assert_eq!(flush.reserve(0).unwrap_err(), ReserveError::Closed);
    assert_eq!(flush.try_reserve(0).unwrap_err(), ReserveError::Closed);
    assert_eq!(flush.stats().in_flight, 0);
}

/// The original's callers paired three calls, and one number twice or none wedged it.
#[test]
fn numbers_follow_the_order_of_the_swaps_without_gap_or_duplicate() {
    let (flush, lines) = pipeline(|builder| builder);
    let live = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    drop(flush.reserve(0).unwrap()); // takes no number
                    let slot = flush.reserve(0).unwrap();
                    let slot = slot.rotate(&mut *live.lock().unwrap(), |live, sequence| {
                        assert_eq!(*live, sequence);
                        *live += 1;
                        sequence
                    });
                    drop(slot.submit(copy).unwrap());
                }
            });
        }
    });
    flush.drain().unwrap();
    let expected: Vec<_> = (0..400).map(|n| format!("{n} done: {n}")).collect();
    assert_eq!(lines.read(), expected);
}

#[test]
fn max_in_flight_is_what_is_used() {
    let none = FlushPipeline::builder("none").max_in_flight(0);
    let none = none.finalizer(Journal::new(|_, _| Ok(()))).build();
    assert!(matches!(none, Err(BuildError::InFlight(0))));
    for bound in [1, 3] {
        let (flush, _) = pipeline(|builder| builder.max_in_flight(bound));
        assert_eq!(flush.max_in_flight(), bound);
        let held: Vec<_> = (0..bound).map(|_| flush.try_reserve(0).unwrap()).collect();
        assert_eq!(flush.try_reserve(0).unwrap_err(), ReserveError::WouldBlock);
        assert_eq!(flush.stats().in_flight, held.len() as u64);
    }
}

#[test]
fn a_failed_stream_is_tried_again_and_is_not_drained_when_it_fails_for_good() {
    let (flush, lines) = pipeline(|builder| {
        let backoff = Backoff::constant(Duration::ZERO);
        builder.on_failure(OnFailure::Retry {
            attempts: 3,
            backoff,
        })
    });
    let second_time = submit(&flush, 10, |job| match job.attempt() {
        1 => Err("busy".into()),
        attempt => Ok(u64::from(attempt)),
    });
    assert_eq!(second_time.wait().unwrap(), 2);
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let never = submit(&flush, 11, move |job| {
        assert_eq!(counted.fetch_add(1, Ordering::SeqCst) + 1, job.attempt());
        Err("gone".into())
    });
    assert_eq!(flush.drain(), Err(DrainError::Halted(1)));
    assert!(!never.is_done());
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert_eq!((flush.watermark(), flush.pending()), (1, 1));
    assert_eq!(flush.stats().retried, 3);
    assert_eq!(lines.read(), ["0 done: 2", "1 failed: gone"]);
}

#[test]
fn who_is_told_of_a_flush_sees_that_it_is_not_pending_and_has_its_room() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1).max_in_flight_bytes(10));
    for job in 0..500 {
        let slot = flush.reserve(10).unwrap().rotate(&mut (), |(), _| job);
        let ticket = slot.submit(copy).unwrap();
        if job % 2 == 0 {
            ticket.wait().unwrap();
            assert_eq!((flush.pending(), flush.watermark()), (0, job + 1));
            drop(flush.try_reserve(10).unwrap());
        } else {
            let (send, seen) = mpsc::channel();
            let its = flush.clone();
            let called = ticket.wait_with(move |result| {
                let room = its.try_reserve(10).map(drop);
                send.send((result.unwrap(), its.pending(), room)).unwrap();
            });
            assert_eq!(seen.recv().unwrap(), (job, 0, Ok(())));
            drop(called);
        }
    }
}

#[test]
fn every_shutdown_returns_only_when_the_finalizer_is_gone() {
    let gate = Gate::new();
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Slow(crate::support::Bar, #[allow(dead_code)] Counted);
    impl Drop for Slow {
        fn drop(&mut self) {
            self.0.pass();
        }
    }
    let slow = Slow(gate.bar(), Counted(Arc::clone(&dropped)));
    let flush = FlushPipeline::builder("slow")
        .finalizer(each::<u64, u64, (), (), _>(move |_, _| {
            let _ = &slow;
            Ok(())
        }))
        .build()
        .unwrap();
    thread::scope(|scope| {
        let shut = || {
            assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
            assert_eq!(dropped.load(Ordering::SeqCst), 1, "it returned early");
        };
        let first = scope.spawn(shut);
        gate.await_entered(1);
        let (send, calls) = mpsc::channel();
        let second = scope.spawn(move || {
            send.send(()).unwrap();
            shut();
        });
        calls.recv().unwrap();
        // Time for a second one that does not wait.
        (0..1000).for_each(|_| thread::yield_now());
        gate.open();
        first.join().unwrap();
        second.join().unwrap();
    });
}
