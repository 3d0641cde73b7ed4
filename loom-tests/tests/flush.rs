//! Models of the flush pipeline.
//!
//! No thread starts by itself here: a model serves the finalizer and the streams.
#![cfg(latchwork_loom)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use latchwork::Semaphore;
use latchwork::flush::{
    DrainError, Failed, Failure, Finalize, FlushPipeline, LeftoverState, OnFailure, ReserveError,
    Shutdown, WaitError,
};
use latchwork::model::{model, thread};

/// Notes the numbers that it finalizes, and refuses items that say so.
struct Order(u64);

impl Finalize for Order {
    type Job = ();
    type Item = Result<(), ()>;
    type Output = u64;
    type Error = ();

    fn finalize_one(&mut self, sequence: u64, item: &mut Self::Item) -> Result<u64, ()> {
        if item.is_err() {
            // The next time it works.
            *item = Ok(());
            return Err(());
        }
        assert!(sequence >= self.0, "{sequence} after {}", self.0);
        self.0 = sequence + 1;
        Ok(sequence)
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) {
        assert!(!matches!(failed.failure, Failure::Unmarked));
    }
}

fn pipeline(in_flight: usize, streamers: usize, policy: OnFailure) -> FlushPipeline<Order> {
    FlushPipeline::builder("model")
        .max_in_flight(in_flight)
        .streamers(streamers)
        .on_failure(policy)
        .finalizer(Order(0))
        .build()
        .unwrap()
}

fn finalizer(flush: &FlushPipeline<Order>) -> thread::JoinHandle<()> {
    let flush = flush.clone();
    thread::spawn(move || {
        flush.serve_finalizer();
    })
}

/// Catches a completion that finds the finalizer about to sleep and wakes nobody, and a finalizer
/// that goes to sleep over what is complete.
#[test]
fn a_completion_wakes_the_finalizer() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Skip);
        let server = finalizer(&flush);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let ticket = slot.complete(Ok(Ok(()))).unwrap();
        assert_eq!(ticket.wait().unwrap(), 0);
        assert_eq!((flush.pending(), flush.durable_watermark()), (0, 1));
        let _ = flush.shutdown(Shutdown::Now);
        server.join().unwrap();
    });
}

/// Catches a close that leaves a reservation waiting for room which nobody will make.
#[test]
fn a_close_turns_away_who_reserves() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Skip);
        let held = flush.reserve(0).unwrap();
        let other = thread::spawn({
            let flush = flush.clone();
            move || flush.reserve(0).map(drop)
        });
        flush.close();
        assert_eq!(other.join().unwrap(), Err(ReserveError::Closed));
        drop(held);
    });
}

/// Catches a guard whose drop leaves a gap, at which the pipeline stands still.
#[test]
fn a_dropped_flush_does_not_keep_a_drain_waiting() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Skip);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let other = thread::spawn(move || drop(slot.hand_over()));
        let server = finalizer(&flush);
        // Its hand may be empty by now, or not.
        match flush.drain() {
            Ok(()) | Err(DrainError::WouldDeadlock) => {}
            other => panic!("{other:?}"),
        }
        other.join().unwrap();
        flush.drain().unwrap();
        assert_eq!((flush.watermark(), flush.durable_watermark()), (1, 0));
        let _ = flush.shutdown(Shutdown::Now);
        server.join().unwrap();
    });
}

/// Catches an abandoned flush at the head that is passed without its turn, or keeps the next from
/// its own.
#[test]
fn an_abandoned_flush_at_the_head_is_skipped_in_its_turn() {
    model(|| {
        let flush = pipeline(2, 0, OnFailure::Skip);
        let mut table = ();
        let first = flush.reserve(0).unwrap().rotate(&mut table, |(), _| ());
        let second = flush.reserve(0).unwrap().rotate(&mut table, |(), _| ());
        let other = thread::spawn(move || drop(first.hand_over()));
        let ticket = second.complete(Ok(Ok(()))).unwrap();
        flush.run_finalizer();
        other.join().unwrap();
        flush.run_finalizer();
        assert_eq!(ticket.wait().unwrap(), 1);
        assert_eq!((flush.watermark(), flush.durable_watermark()), (2, 0));
    });
}

/// Catches a halt that leaves a reservation waiting for the flush that it has halted at, and one
/// that turns reservations away for good.
#[test]
fn a_halt_tells_who_reserves() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Halt);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        drop(slot.complete(Ok(Err(()))).unwrap());
        let server = thread::spawn({
            let flush = flush.clone();
            move || flush.run_finalizer()
        });
        assert_eq!(flush.reserve(0).map(drop), Err(ReserveError::Halted(0)));
        server.join().unwrap();
        assert!(flush.resume());
        flush.run_finalizer();
        assert_eq!(flush.durable_watermark(), 1);
        assert!(flush.reserve(0).is_ok());
    });
}

/// Catches a ticket whose waiter sleeps through a halt.
#[test]
fn a_halt_tells_who_waits_for_a_ticket() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Halt);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let ticket = slot.complete(Ok(Err(()))).unwrap();
        let server = thread::spawn({
            let flush = flush.clone();
            move || flush.run_finalizer()
        });
        let Err(WaitError::Halted(0, ticket)) = ticket.wait() else {
            panic!("it is halted")
        };
        server.join().unwrap();
        flush.resume();
        flush.run_finalizer();
        assert_eq!(ticket.wait().unwrap(), 0);
    });
}

/// Catches a drain that is put on the list after the finalizer has looked there, and waits for
/// ever; and one that ends while a ticket is not resolved yet.
#[test]
fn a_drain_is_told_when_the_tickets_are_resolved() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Skip);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let ticket = slot.complete(Ok(Ok(()))).unwrap();
        let server = thread::spawn({
            let flush = flush.clone();
            move || flush.run_finalizer()
        });
        flush.drain().unwrap();
        assert!(ticket.is_done());
        server.join().unwrap();
    });
}

/// Catches a submission that finds a streamer about to sleep and wakes nobody.
#[test]
fn a_submission_wakes_a_streamer() {
    model(|| {
        let flush = pipeline(1, 1, OnFailure::Skip);
        let streamer = thread::spawn({
            let flush = flush.clone();
            move || flush.serve_streams()
        });
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let its_own = flush.clone();
        let ticket = slot.submit(move |_| {
            // What this thread does itself waits for nobody.
            let left = its_own.shutdown(Shutdown::Now);
            assert_eq!(left.flushes.len(), 1);
            Ok(Ok(()))
        });
        // Until then.
        flush.serve_finalizer();
        streamer.join().unwrap();
        assert!(matches!(ticket.unwrap().wait(), Err(WaitError::ShutDown)));
    });
}

/// Catches a streamer that takes one of two tasks, of which the first called only it, and calls
/// nobody for the other.
#[test]
fn who_takes_one_of_two_tasks_calls_another_streamer() {
    model(|| {
        let flush = pipeline(2, 2, OnFailure::Skip);
        let streamers: Vec<_> = (0..2)
            .map(|_| {
                let flush = flush.clone();
                thread::spawn(move || flush.serve_streams())
            })
            .collect();
        let both = Semaphore::new(1).unwrap();
        let mut second_runs = Some(both.acquire().unwrap().detach());
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let its_own = flush.clone();
        let first = slot.submit(move |_| {
            drop(both.acquire().unwrap());
            let _ = its_own.shutdown(Shutdown::Now);
            Ok(Ok(()))
        });
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let second = slot.submit(move |_| {
            drop(second_runs.take());
            Ok(Ok(()))
        });
        drop((first, second));
        for streamer in streamers {
            streamer.join().unwrap();
        }
    });
}

/// Catches a shutdown that loses a flush which is completed meanwhile.
#[test]
fn a_shutdown_returns_what_is_completed_beside_it() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Skip);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let slot = slot.hand_over();
        let other = thread::spawn(move || slot.complete(Ok(Ok(()))).ok());
        let left = flush.shutdown(Shutdown::Now);
        assert_eq!((left.flushes.len(), flush.watermark()), (1, 0));
        if let Some(ticket) = other.join().unwrap() {
            assert!(matches!(ticket.wait(), Err(WaitError::ShutDown)));
        }
    });
}

/// What a shutdown says of the one flush that is left.
fn left_by_shutdown(flush: &FlushPipeline<Order>) -> LeftoverState {
    let mut left = flush.shutdown(Shutdown::Now).flushes;
    assert_eq!(left.len(), 1);
    left.remove(0).state
}

/// Catches a stream that begins where it is submitted although a shutdown has said that it is not.
#[test]
fn a_stream_that_is_submitted_beside_a_shutdown_is_refused_or_known_to_it() {
    model(|| {
        let flush = pipeline(1, 0, OnFailure::Skip);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        let slot = slot.hand_over();
        let has_run = Arc::new(AtomicBool::new(false));
        let runs = has_run.clone();
        let other = thread::spawn(move || {
            slot.submit(move |_| {
                runs.store(true, Ordering::Relaxed);
                Ok(Ok(()))
            })
        });
        let is_known = left_by_shutdown(&flush) != LeftoverState::Unsubmitted;
        // What is refused is abandoned when it is dropped: after the shutdown.
        assert_eq!(other.join().unwrap().is_ok(), is_known);
        assert_eq!(has_run.load(Ordering::Relaxed), is_known);
    });
}

/// Catches a stream that a thread has taken and not begun when a shutdown looks, and that begins
/// after it.
#[test]
fn a_stream_that_is_taken_beside_a_shutdown_is_left_in_line_or_known_to_it() {
    model(|| {
        let flush = pipeline(1, 1, OnFailure::Skip);
        let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
        drop(slot.submit(|_| Ok(Ok(()))).unwrap());
        let other = thread::spawn({
            let flush = flush.clone();
            move || flush.run_stream()
        });
        let state = left_by_shutdown(&flush);
        assert_ne!(state, LeftoverState::Unsubmitted);
        assert_eq!(other.join().unwrap(), state != LeftoverState::Queued);
    });
}
