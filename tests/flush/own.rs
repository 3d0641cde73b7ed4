//! The pipeline called from its own threads and from those that have flushes in hand: nobody waits
//! for himself.

use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use latchwork::flush::{
    Batch, DrainError, Failed, Finalize, FlushPipeline, FlushTicket, OnFailure, ReserveError,
    Shutdown, WaitError,
};

use crate::support::{Gate, HOUR, Journal, Pipe, copy, pipeline, rotate, scripted, submit};

/// What the blocking calls say to a thread that would wait for itself. Flushes are pending, and
/// there is no room.
fn verdicts(flush: &Pipe, ticket: FlushTicket<Journal>) -> FlushTicket<Journal> {
    let reserved = flush.reserve(0).map(drop);
    assert_eq!(reserved, Err(ReserveError::WouldDeadlock));
    let reserved = flush.reserve_timeout(0, HOUR).map(drop);
    assert_eq!(reserved, Err(ReserveError::WouldDeadlock));
    assert_eq!(flush.drain(), Err(DrainError::WouldDeadlock));
    assert_eq!(flush.drain_timeout(HOUR), Err(DrainError::WouldDeadlock));
    let next = flush.next_sequence();
    assert_eq!(flush.drain_to(next), Err(DrainError::WouldDeadlock));
    let Err(WaitError::WouldDeadlock(ticket)) = ticket.wait() else {
        panic!("it would wait for itself");
    };
    let Err(WaitError::WouldDeadlock(ticket)) = ticket.wait_timeout(HOUR) else {
        panic!("it would wait for itself");
    };
    ticket
}

/// A pipeline that is full with three flushes held up, and the ticket of the last.
fn full(gate: &Gate) -> (Pipe, FlushTicket<Journal>) {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(4));
    for job in 0..2 {
        drop(submit(&flush, job, gate.stream()));
    }
    let last = submit(&flush, 2, gate.stream());
    (flush, last)
}

#[test]
fn a_stream_would_wait_for_itself() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(2));
    let gate = Gate::new();
    let last = rotate(&flush, 11).hand_over();
    let (give, take) = mpsc::channel::<FlushTicket<Journal>>();
    let its = flush.clone();
    let held_up = gate.stream();
    // The pipeline stays full until the verdicts are in, whatever they are.
    let mut gate = Some(gate);
    let ticket = submit(&flush, 10, move |job| {
        let _opens_at_the_end = gate.take();
        let ticket = take.recv().unwrap();
        verdicts(&its, ticket)
            .wait_timeout(Duration::ZERO)
            .unwrap_err();
        copy(job)
    });
    give.send(last.submit(held_up).unwrap()).unwrap();
    ticket.wait().unwrap();
}

#[test]
fn a_stream_without_streamers_would_wait_for_itself_and_its_thread_after_it_not() {
    let (flush, _) = pipeline(|builder| builder.streamers(0).max_in_flight(1));
    let its = flush.clone();
    let ticket = submit(&flush, 10, move |job| {
        assert_eq!(its.drain(), Err(DrainError::WouldDeadlock));
        assert_eq!(its.reserve(0).map(drop), Err(ReserveError::WouldDeadlock));
        copy(job)
    });
    ticket.wait().unwrap();
    flush.drain().unwrap();
    drop(flush.reserve(0).unwrap());
}

#[test]
fn the_finalizer_would_wait_for_itself() {
    let its: Arc<OnceLock<Pipe>> = Arc::default();
    let handle = Arc::clone(&its);
    let (flush, _) = scripted(
        |builder| builder.max_in_flight(1),
        move |_, _| {
            let flush = handle.get().unwrap();
            assert_eq!(flush.drain(), Err(DrainError::WouldDeadlock));
            assert_eq!(flush.reserve(0).map(drop), Err(ReserveError::WouldDeadlock));
            Ok(())
        },
    );
    assert!(its.set(flush.clone()).is_ok());
    submit(&flush, 10, copy).wait().unwrap();
    // The finalizer has a handle on its own pipeline: only a shutdown ends that.
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
}

#[test]
fn what_is_told_of_a_failure_would_wait_for_itself() {
    struct Asks(Arc<OnceLock<FlushPipeline<Asks>>>);
    impl Finalize for Asks {
        type Job = u64;
        type Item = u64;
        type Output = ();
        type Error = Result<(), DrainError>;
        fn finalize(&mut self, _: &mut Batch<'_, Self>) {}
        fn finalize_one(&mut self, _: u64, _: &mut u64) -> Result<(), Self::Error> {
            unreachable!("`finalize` marks nothing")
        }
        fn finalize_failure(&mut self, _: Failed<'_, Self>) -> Self::Error {
            self.0.get().unwrap().drain()
        }
    }
    let its: Arc<OnceLock<FlushPipeline<Asks>>> = Arc::default();
    let flush = FlushPipeline::builder("asks").on_failure(OnFailure::Skip);
    let flush = flush.finalizer(Asks(Arc::clone(&its))).build().unwrap();
    assert!(its.set(flush.clone()).is_ok());
    let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| 1);
    let result = slot.complete(Ok(1)).unwrap().wait();
    assert!(matches!(
        result,
        Err(WaitError::Failed(Err(DrainError::WouldDeadlock)))
    ));
    let _ = flush.shutdown(Shutdown::DrainAll);
}

#[test]
fn a_callback_on_the_finalizer_s_thread_would_wait_for_itself() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(2));
    let (first, gate) = (Gate::new(), Gate::new());
    let opens = submit(&flush, 10, first.stream());
    let last = submit(&flush, 11, gate.stream());
    let (give, take) = mpsc::channel();
    let (send, told) = mpsc::channel();
    let its = flush.clone();
    let pending = opens.wait_with(move |result| {
        result.unwrap();
        let filled = its.try_reserve(0).unwrap(); // no room is left
        let ticket: FlushTicket<Journal> = take.recv().unwrap();
        drop(verdicts(&its, ticket));
        drop(filled);
        send.send(thread::current().name().map(str::to_owned))
            .unwrap();
    });
    give.send(last).unwrap();
    first.open();
    assert_eq!(told.recv().unwrap().as_deref(), Some("lw-finalize"));
    drop(pending);
}

#[test]
fn what_is_finalized_is_drained_for_a_callback_on_the_finalizer_s_thread() {
    let (flush, _) = pipeline(|builder| builder);
    let gate = Gate::new();
    let ticket = submit(&flush, 10, gate.stream());
    let (send, told) = mpsc::channel();
    let its = flush.clone();
    let pending = ticket.wait_with(move |_| send.send(its.drain()).unwrap());
    gate.open();
    assert_eq!(told.recv().unwrap(), Ok(()));
    drop(pending);
}

#[test]
fn who_has_a_flush_in_hand_can_drain_what_was_rotated_before() {
    let (flush, _) = pipeline(|builder| builder);
    let gate = Gate::new();
    let first = submit(&flush, 10, gate.stream());
    let second = rotate(&flush, 11);
    assert_eq!(flush.drain_to(1), Err(DrainError::WouldDeadlock));
    gate.open();
    while flush.watermark() == 0 {
        thread::yield_now();
    }
    flush.drain_to(1).unwrap();
    assert!(first.is_done());
    drop(second);
}

#[test]
fn a_reservation_s_callback_on_the_finalizer_s_thread_would_wait_for_itself() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let gate = Gate::new();
    drop(submit(&flush, 10, gate.stream()));
    let (send, told) = mpsc::channel();
    let its = flush.clone();
    let pending = flush.reserve_with(0, move |slot| {
        let slot = slot.unwrap();
        send.send(its.reserve(0).map(drop)).unwrap();
        drop(slot);
    });
    gate.open();
    assert_eq!(told.recv().unwrap(), Err(ReserveError::WouldDeadlock));
    drop(pending);
}

#[test]
fn who_holds_a_reservation_would_wait_for_himself_where_there_is_no_room() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let slot = flush.reserve(0).unwrap();
    let second = flush.reserve(0).map(drop);
    assert_eq!(second, Err(ReserveError::WouldDeadlock));
    flush.drain().unwrap(); // which does not wait for reservations
    drop(slot);
    drop(flush.reserve(0).unwrap());
}

#[test]
fn who_has_a_flush_in_hand_would_wait_for_himself() {
    let gate = Gate::new();
    let (flush, last) = full(&gate);
    let slot = rotate(&flush, 10);
    let last = verdicts(&flush, last);
    // Another thread has nothing in hand, and can wait.
    thread::scope(|scope| {
        let drains = scope.spawn(|| flush.drain_timeout(Duration::ZERO));
        assert_eq!(drains.join().unwrap(), Err(DrainError::TimedOut));
    });
    let ticket = slot.submit(copy).unwrap();
    gate.open();
    last.wait().unwrap();
    ticket.wait().unwrap();
    flush.drain().unwrap();
}

#[test]
fn who_has_handed_his_flush_over_can_wait_for_it() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let slot = rotate(&flush, 10).hand_over();
    let (give, take) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let slot: latchwork::flush::Rotated<Journal> = take.recv().unwrap();
            drop(slot.submit(copy).unwrap());
        });
        give.send(slot).unwrap();
        flush.drain().unwrap();
        drop(flush.reserve(0).unwrap());
    });
    assert_eq!(flush.watermark(), 1);
}

#[test]
fn who_drops_his_flush_has_it_in_hand_no_more() {
    let (flush, _) = pipeline(|builder| builder.on_failure(OnFailure::Skip));
    drop(rotate(&flush, 10));
    flush.drain().unwrap();
    drop(rotate(&flush, 11).hand_over());
    flush.drain().unwrap();
    assert_eq!(flush.watermark(), 2);
}

#[test]
fn non_blocking_calls_work_on_the_pipeline_s_own_threads() {
    let (flush, lines) = pipeline(|builder| builder.max_in_flight(4));
    let its = flush.clone();
    let ticket = submit(&flush, 10, move |job| {
        let slot = its.reserve(0).unwrap(); // there is room
        let slot = slot.rotate(&mut (), |(), _| 11);
        drop(slot.submit(copy).unwrap());
        copy(job)
    });
    ticket.wait().unwrap();
    flush.drain().unwrap();
    assert_eq!(lines.read(), ["0 done: 10", "1 done: 11"]);
}

#[test]
fn a_shutdown_in_a_stream_waits_for_nobody() {
    let (flush, _) = pipeline(|builder| builder);
    let its = flush.clone();
    let (send, left) = mpsc::channel();
    let ticket = submit(&flush, 10, move |job| {
        let left = its.shutdown(Shutdown::DrainAll);
        send.send(format!("{:?}", left.flushes[0].state)).unwrap();
        copy(job)
    });
    let state = left.recv().unwrap();
    assert!(state.starts_with("Running(\"lw-stream-"), "{state}");
    assert!(matches!(ticket.wait(), Err(WaitError::ShutDown)));
}

#[test]
fn a_shutdown_in_a_callback_waits_for_nobody() {
    let (flush, _) = pipeline(|builder| builder);
    let gate = Gate::new();
    let ticket = submit(&flush, 10, gate.stream());
    let its = flush.clone();
    let (send, left) = mpsc::channel();
    let pending = ticket.wait_with(move |result| {
        result.unwrap();
        send.send(its.shutdown(Shutdown::DrainAll).is_empty())
            .unwrap();
    });
    gate.open();
    assert!(left.recv().unwrap());
    drop(pending);
}

/// Callbacks run outside the pipeline's locks, those that a close or a halt calls too.
#[test]
fn a_callback_of_a_close_or_a_halt_may_call_the_pipeline() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let gate = Gate::new();
    let ask = |flush: &Pipe| {
        let its = flush.clone();
        let (send, told) = mpsc::channel();
        let pending = flush.reserve_with(0, move |result| {
            let pending = its.drain_to_with(99, |_| ());
            its.close();
            drop(pending);
            send.send(result.map(drop)).unwrap();
        });
        (pending, told)
    };
    let bar = gate.bar();
    drop(submit(&flush, 10, move |_| {
        bar.pass();
        Err("no".into())
    }));
    let (halts, told) = ask(&flush);
    gate.open();
    let error = told.recv().unwrap().unwrap_err();
    assert!(matches!(error, ReserveError::Halted(0)), "{error}");
    drop(halts);

    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let held = flush.reserve(0).unwrap();
    let (closes, told) = ask(&flush);
    flush.close();
    assert_eq!(told.recv().unwrap(), Err(ReserveError::Closed));
    drop((closes, held));
}

/// Signals its drop.
struct Tell(mpsc::Sender<()>);

impl Drop for Tell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// A pipeline that tells when its finalizer has gone.
fn telling() -> (Pipe, mpsc::Receiver<()>) {
    let (send, gone) = mpsc::channel();
    let tell = Tell(send);
    let (flush, _) = scripted(
        |builder| builder,
        move |_, _| {
            let _ = &tell;
            Ok(())
        },
    );
    (flush, gone)
}

#[test]
fn the_last_handle_may_go_with_a_stream() {
    let (flush, gone) = telling();
    let gate = Gate::new();
    let (its, bar) = (flush.clone(), gate.bar());
    let ticket = submit(&flush, 10, move |job| {
        let _ = &its;
        bar.pass();
        copy(job)
    });
    drop(flush);
    gate.open();
    // Its flush goes back and is not finalized, or has been: the pipeline has ended, in any case.
    let _ = ticket.wait();
    gone.recv().unwrap();
}

#[test]
fn the_last_handle_may_go_with_a_callback() {
    let (flush, gone) = telling();
    let gate = Gate::new();
    let ticket = submit(&flush, 10, gate.stream());
    let its = flush.clone();
    let called = ticket.wait_with(move |result| {
        result.unwrap();
        drop(its);
    });
    drop(flush);
    gate.open();
    gone.recv().unwrap();
    drop(called);
}

#[test]
fn the_last_handle_may_go_with_an_item() {
    struct Keeps;
    impl Finalize for Keeps {
        type Job = ();
        type Item = FlushPipeline<Keeps>;
        type Output = ();
        type Error = ();
        fn finalize_one(&mut self, _: u64, _: &mut Self::Item) -> Result<(), ()> {
            Ok(())
        }
        fn finalize_failure(&mut self, _: Failed<'_, Self>) {}
    }
    let flush = FlushPipeline::builder("keeps")
        .finalizer(Keeps)
        .build()
        .unwrap();
    let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
    let item = flush.clone();
    drop(flush);
    slot.complete(Ok(item)).unwrap().wait().unwrap();
}

#[test]
fn a_stream_in_which_another_pipeline_s_stream_runs_would_wait_for_itself() {
    let (outer, _) = pipeline(|builder| builder.max_in_flight(1));
    let (inner, _) = pipeline(|builder| builder.streamers(0));
    let its = outer.clone();
    let ticket = submit(&outer, 10, move |job| {
        let outer = its.clone();
        let within = submit(&inner, 11, move |job| {
            let reserved = outer.reserve(0).map(drop);
            assert_eq!(reserved, Err(ReserveError::WouldDeadlock));
            assert_eq!(outer.drain(), Err(DrainError::WouldDeadlock));
            copy(job)
        });
        within.wait().unwrap();
        assert_eq!(its.drain(), Err(DrainError::WouldDeadlock));
        copy(job)
    });
    ticket.wait().unwrap();
}

#[test]
fn a_deadline_that_has_passed_takes_what_is_there_and_names_a_halt() {
    let (flush, _) = scripted(
        |builder| builder,
        |_, item| match *item {
            10 => Err("no".to_owned()),
            _ => Ok(()),
        },
    );
    let gate = Gate::new();
    let past = std::time::Instant::now();
    let held = submit(&flush, 10, gate.stream());
    let Err(WaitError::TimedOut(held)) = held.wait_deadline(past) else {
        panic!("its stream is held up");
    };
    gate.open();
    let Err(WaitError::Halted(0, held)) = held.wait() else {
        panic!("it is halted");
    };
    let Err(WaitError::Halted(0, _)) = held.wait_deadline(past) else {
        panic!("it is halted");
    };
    let (flush, _) = pipeline(|builder| builder);
    let done = submit(&flush, 11, copy);
    flush.drain().unwrap();
    assert_eq!(done.wait_deadline(past).unwrap(), 11);
}
