//! Streams that take too long.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use latchwork::flush::{
    Backoff, DrainError, LeftoverState, OnFailure, ReserveError, Shutdown, WaitError,
};
use latchwork::sweeper::Sweeper;

use crate::support::{Gate, HOUR, Lines, Pipe, copy, pipeline, submit};

/// A pipeline whose streams have an hour, by a clock that the test moves.
fn timed(policy: OnFailure) -> (Pipe, Lines, Sweeper) {
    let sweeper = Sweeper::new();
    let (flush, lines) = pipeline(|builder| {
        let builder = builder.max_in_flight(2).max_in_flight_bytes(10);
        let builder = builder.stream_timeout(HOUR).sweeper(sweeper.clone());
        builder.on_failure(policy)
    });
    (flush, lines, sweeper)
}

#[test]
fn a_late_result_is_dropped_and_its_room_comes_back_when_the_stream_returns() {
    let (flush, lines, sweeper) = timed(OnFailure::Skip);
    let gate = Gate::new();
    let slot = flush.reserve(10).unwrap().rotate(&mut (), |(), _| 10);
    let (send, returned) = mpsc::channel();
    let bar = gate.bar();
    struct Tell(mpsc::Sender<()>);
    impl Drop for Tell {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let tell = Tell(send);
    let late = slot
        .submit(move |job| {
            let _ = &tell;
            assert!(
                job.deadline()
                    .is_some_and(|deadline| deadline > Instant::now())
            );
            bar.pass();
            Ok(**job)
        })
        .unwrap();
    gate.await_entered(1);
    assert_eq!(sweeper.run_due(Instant::now()), 0);
    sweeper.run_due(Instant::now() + 2 * HOUR);
    assert!(matches!(late.wait(), Err(WaitError::Failed(_))));
    assert_eq!((flush.pending(), flush.watermark()), (0, 1));
    let stats = flush.stats();
    assert_eq!((stats.in_flight, stats.bytes_in_flight), (1, 10));
    assert_eq!(stats.timed_out, 1);
    assert_eq!(flush.try_reserve(1).unwrap_err(), ReserveError::WouldBlock);
    // Its number's place in the ring is used again meanwhile, and is not taken for its own.
    for job in 11..15 {
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| job);
        assert_eq!(slot.submit(copy).unwrap().wait().unwrap(), job);
    }
    gate.open();
    returned.recv().unwrap();
    drop(flush.reserve(10).unwrap());
    submit(&flush, 15, copy).wait().unwrap();
    assert_eq!(lines.read().len(), 6);
    assert_eq!(lines.read()[0], "0 failed: the stream was not done in time");
    assert_eq!(flush.stats().in_flight, 0);
}

#[test]
fn a_stream_that_took_too_long_is_never_tried_again() {
    let policy = OnFailure::Retry {
        attempts: 5,
        backoff: Backoff::constant(Duration::ZERO),
    };
    let (flush, lines, sweeper) = timed(policy);
    let gate = Gate::new();
    let (bar, runs) = (gate.bar(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&runs);
    let ticket = submit(&flush, 10, move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        bar.pass();
        Err("late as well".into())
    });
    gate.await_entered(1);
    sweeper.run_due(Instant::now() + 2 * HOUR);
    assert_eq!(flush.drain(), Err(DrainError::Halted(0)));
    gate.open();
    // It cannot be tried again, so the resume leaves it behind.
    assert!(flush.resume());
    assert!(matches!(ticket.wait(), Err(WaitError::Failed(_))));
    submit(&flush, 11, copy).wait().unwrap();
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    assert_eq!(
        lines.read(),
        ["0 failed: the stream was not done in time", "1 done: 11"]
    );
    assert_eq!(flush.stats().in_flight, 0);
}

#[test]
fn each_try_has_its_own_time() {
    let policy = OnFailure::Retry {
        attempts: 3,
        backoff: Backoff::constant(Duration::ZERO),
    };
    let (flush, _, _) = timed(policy);
    let (send, deadlines) = mpsc::channel();
    let ticket = submit(&flush, 10, move |job| {
        send.send(job.deadline().unwrap()).unwrap();
        match job.attempt() {
            3 => copy(job),
            _ => Err("busy".into()),
        }
    });
    assert_eq!(ticket.wait().unwrap(), 10);
    let deadlines: Vec<_> = deadlines.try_iter().collect();
    assert!(deadlines.is_sorted_by(|a, b| a < b), "{deadlines:?}");
    assert_eq!(flush.stats().timed_out, 0);
}

#[test]
fn a_result_after_the_deadline_is_late_even_if_no_timer_has_seen_it() {
    // Its clock stands still: its thread is shut down.
    let sweeper = Sweeper::new();
    sweeper.shutdown();
    let (flush, lines) = pipeline(|builder| {
        let builder = builder.stream_timeout(Duration::from_nanos(1));
        builder.sweeper(sweeper).on_failure(OnFailure::Skip)
    });
    let ticket = submit(&flush, 10, |job| {
        let deadline = job.deadline().unwrap();
        while Instant::now() < deadline {
            std::hint::spin_loop();
        }
        copy(job)
    });
    assert!(matches!(ticket.wait(), Err(WaitError::Failed(_))));
    assert_eq!(lines.read(), ["0 failed: the stream was not done in time"]);
    assert_eq!((flush.stats().timed_out, flush.stats().in_flight), (1, 0));
}

#[test]
fn without_a_time_out_there_is_no_deadline() {
    let (flush, _) = pipeline(|builder| builder);
    let ticket = submit(&flush, 10, |job| {
        assert_eq!(job.deadline(), None);
        copy(job)
    });
    assert_eq!(ticket.wait().unwrap(), 10);
}

#[test]
fn a_shutdown_names_the_thread_of_a_stream_that_took_too_long() {
    let (flush, _, sweeper) = timed(OnFailure::Skip);
    let gate = Gate::new();
    let late = submit(&flush, 10, gate.stream());
    gate.await_entered(1);
    sweeper.run_due(Instant::now() + 2 * HOUR);
    assert!(matches!(late.wait(), Err(WaitError::Failed(_))));
    submit(&flush, 11, copy).wait().unwrap();
    let left = flush.shutdown(Shutdown::Now).flushes;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].sequence, 0);
    assert!(
        matches!(&left[0].state, LeftoverState::Running(thread) if thread.starts_with("lw-stream-"))
    );
}

#[test]
fn a_shutdown_without_a_deadline_waits_for_a_stream_that_took_too_long() {
    let (flush, _, sweeper) = timed(OnFailure::Skip);
    let gate = Gate::new();
    let late = submit(&flush, 10, gate.stream());
    gate.await_entered(1);
    sweeper.run_due(Instant::now() + 2 * HOUR);
    assert!(matches!(late.wait(), Err(WaitError::Failed(_))));
    std::thread::scope(|scope| {
        let ends = scope.spawn(|| flush.shutdown(Shutdown::DrainAll).is_empty());
        gate.open();
        assert!(ends.join().unwrap());
    });
    assert_eq!(flush.stats().in_flight, 0);
}
