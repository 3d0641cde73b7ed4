//! Every form of reserving, draining and waiting.

use std::os::fd::BorrowedFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use latchwork::flush::{DrainError, FlushTicket, ReserveError, Shutdown, WaitError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::{Gate, HOUR, Journal, Pipe, boom, copy, pipeline, rotate, submit};

const NOW: Duration = Duration::ZERO;

fn is_readable(fd: BorrowedFd<'_>, patience: Option<&Timespec>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, patience).unwrap() == 1
}

/// Whether it is readable now.
fn is_readable_now(fd: BorrowedFd<'_>) -> bool {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    is_readable(fd, Some(&at_once))
}

#[track_caller]
fn timed_out(result: Result<u64, WaitError<Journal>>) -> FlushTicket<Journal> {
    match result {
        Err(WaitError::TimedOut(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

/// A pipeline with room for one flush, which another thread has in hand until it is told.
fn with_a_full(body: impl FnOnce(&Pipe, &dyn Fn())) {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1));
    let gate = Gate::new();
    let ticket = submit(&flush, 10, gate.stream());
    body(&flush, &|| gate.open());
    gate.open();
    ticket.wait().unwrap();
    flush.drain().unwrap();
    assert_eq!(flush.stats().in_flight, 0);
}

#[test]
fn reserving_without_room_waits_as_long_as_its_form_says() {
    with_a_full(|flush, open| {
        let (past, late) = (Instant::now(), Instant::now() + HOUR);
        assert_eq!(flush.try_reserve(0).unwrap_err(), ReserveError::WouldBlock);
        let timed = flush.reserve_timeout(0, NOW);
        assert_eq!(timed.unwrap_err(), ReserveError::TimedOut);
        let timed = flush.reserve_deadline(0, past);
        assert_eq!(timed.unwrap_err(), ReserveError::TimedOut);
        open();
        drop(flush.reserve(0).unwrap());
        drop(flush.reserve_timeout(0, HOUR).unwrap());
        drop(flush.reserve_timeout(0, Duration::MAX).unwrap());
        drop(flush.reserve_deadline(0, late).unwrap());
        drop(flush.try_reserve(0).unwrap());
    });
}

#[test]
fn a_reservation_by_callback_comes_when_there_is_room_and_rotates_on_any_thread() {
    with_a_full(|flush, open| {
        let (send, reserved) = mpsc::channel();
        let pending = flush.reserve_with(0, move |result| send.send(result).unwrap());
        assert!(!pending.is_delivered());
        open();
        assert!(is_readable(pending.as_fd().unwrap(), None));
        let slot = reserved.recv().unwrap().unwrap();
        let slot = slot.rotate(&mut (), |(), _| 11);
        assert_eq!(slot.submit(copy).unwrap().wait().unwrap(), 11);
    });
}

#[test]
fn a_reservation_by_callback_is_cancelled_by_dropping_its_handle() {
    with_a_full(|flush, open| {
        let pending = flush.reserve_with(0, |_| unreachable!());
        assert!(pending.cancel());
        open();
    });
}

#[test]
fn a_reservation_by_callback_is_cancelled_while_it_waits_for_its_bytes() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(2).max_in_flight_bytes(10));
    let held = flush.reserve(6).unwrap();
    let pending = flush.reserve_with(5, |_| unreachable!());
    assert_eq!(
        flush.stats().in_flight,
        2,
        "it has its permit, not its bytes"
    );
    assert!(pending.cancel());
    assert_eq!(flush.stats().in_flight, 1, "and gave it back");
    drop(held);
    let (send, reserved) = mpsc::channel();
    let at_once = flush.reserve_with(5, move |result| send.send(result.map(drop)).unwrap());
    assert!(at_once.is_delivered());
    reserved.recv().unwrap().unwrap();
    assert_eq!(flush.stats().bytes_in_flight, 0);
}

#[test]
fn a_reservation_by_callback_gets_its_bytes_when_they_come() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(2).max_in_flight_bytes(10));
    let held = flush.reserve(6).unwrap();
    let (send, reserved) = mpsc::channel();
    let pending = flush.reserve_with(5, move |result| send.send(result).unwrap());
    assert!(reserved.try_recv().is_err());
    drop(held);
    let slot = reserved.recv().unwrap().unwrap();
    assert!(pending.is_delivered());
    assert_eq!(flush.stats().bytes_in_flight, 5);
    drop(slot);
    assert_eq!(flush.stats().bytes_in_flight, 0);
}

#[test]
fn bytes_are_bounded_and_a_larger_flush_is_admitted_alone() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight_bytes(100));
    let (small, rest) = (flush.reserve(60).unwrap(), flush.reserve(40).unwrap());
    assert_eq!(flush.try_reserve(1).unwrap_err(), ReserveError::WouldBlock);
    assert_eq!(flush.stats().bytes_in_flight, 100);
    assert_eq!(
        flush.stats().in_flight,
        2,
        "the refused one has taken nothing"
    );
    drop(flush.try_reserve(0).unwrap());
    drop(rest);
    assert_eq!(
        flush.try_reserve(1000).unwrap_err(),
        ReserveError::WouldBlock
    );
    drop(small);
    let large = flush.try_reserve(u64::MAX).unwrap();
    assert_eq!(flush.try_reserve(1).unwrap_err(), ReserveError::WouldBlock);
    let gate = Gate::new();
    let ticket = large.rotate(&mut (), |(), _| 1);
    let ticket = ticket.submit(gate.stream()).unwrap();
    assert_eq!(flush.try_reserve(1).unwrap_err(), ReserveError::WouldBlock);
    gate.open();
    ticket.wait().unwrap();
    assert_eq!(
        flush
            .try_reserve(100)
            .unwrap()
            .rotate(&mut (), |(), _| 2)
            .sequence(),
        1
    );
}

#[test]
fn a_leaked_reservation_comes_back_when_its_thread_ends() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight(1).max_in_flight_bytes(10));
    let leaky = flush.clone();
    thread::spawn(move || std::mem::forget(leaky.reserve(10).unwrap()))
        .join()
        .unwrap();
    assert_eq!(
        (flush.stats().in_flight, flush.stats().bytes_in_flight),
        (0, 0)
    );
    submit(&flush, 10, copy).wait().unwrap();
}

#[test]
fn a_detached_reservation_outlives_its_thread_and_is_given_back_or_used_by_another() {
    let (flush, lines) = pipeline(|builder| builder.max_in_flight(1).max_in_flight_bytes(10));
    let in_flight = || (flush.stats().in_flight, flush.stats().bytes_in_flight);
    let reserve = || {
        let flush = flush.clone();
        thread::spawn(move || flush.reserve(10).unwrap().detach())
            .join()
            .unwrap()
    };
    let slot = reserve();
    assert_eq!(in_flight(), (1, 10));
    assert_eq!(flush.try_reserve(0).unwrap_err(), ReserveError::WouldBlock);
    drop(slot);
    assert_eq!(in_flight(), (0, 0));
    let slot = reserve().rotate(&mut (), |(), _| 10);
    slot.submit(copy).unwrap().wait().unwrap();
    assert_eq!(
        (in_flight(), &lines.read()[..]),
        ((0, 0), &["0 done: 10".to_owned()][..])
    );
}

#[test]
fn a_swap_that_panics_abandons_its_flush() {
    let (flush, lines) = pipeline(|builder| builder.on_failure(latchwork::flush::OnFailure::Skip));
    thread::scope(|scope| {
        let swaps = scope.spawn(|| drop(flush.reserve(0).unwrap().rotate(&mut (), |(), _| boom())));
        assert!(swaps.join().is_err());
    });
    submit(&flush, 11, copy).wait().unwrap();
    assert_eq!(
        lines.read(),
        [
            "0 failed: the flush was dropped before it was complete",
            "1 done: 11"
        ]
    );
}

#[test]
fn a_drain_waits_as_long_as_its_form_says() {
    let (flush, _) = pipeline(|builder| builder);
    let gate = Gate::new();
    drop(submit(&flush, 10, gate.stream()));
    let (past, late) = (Instant::now(), Instant::now() + HOUR);
    assert_eq!(flush.drain_timeout(NOW), Err(DrainError::TimedOut));
    assert_eq!(flush.drain_deadline(past), Err(DrainError::TimedOut));
    assert_eq!(flush.drain_to_timeout(1, NOW), Err(DrainError::TimedOut));
    assert_eq!(flush.drain_to_deadline(1, past), Err(DrainError::TimedOut));
    flush.drain_to(0).unwrap();
    assert!(flush.drain_with(|_| unreachable!()).cancel());
    let (send, drained) = mpsc::channel();
    let pending: Vec<_> = (0..3)
        .map(|target| {
            let send = send.clone();
            let tell = move |result| send.send((target, result)).unwrap();
            flush.drain_to_with(target, tell)
        })
        .collect();
    assert_eq!(drained.try_recv(), Ok((0, Ok(()))));
    assert!(drained.try_recv().is_err());
    gate.open();
    assert_eq!(drained.recv(), Ok((1, Ok(()))));
    flush.drain().unwrap();
    flush.drain_timeout(HOUR).unwrap();
    flush.drain_timeout(Duration::MAX).unwrap();
    flush.drain_deadline(late).unwrap();
    flush.drain_to_timeout(1, HOUR).unwrap();
    flush.drain_to_deadline(1, late).unwrap();
    assert!(!pending[2].is_delivered(), "its flush is not rotated yet");
    drop(submit(&flush, 11, copy));
    assert_eq!(drained.recv(), Ok((2, Ok(()))));
}

#[test]
fn a_drain_to_a_number_waits_for_flushes_that_are_not_rotated_yet() {
    let (flush, _) = pipeline(|builder| builder);
    thread::scope(|scope| {
        let drain = scope.spawn(|| flush.drain_to(3));
        for job in 0..3 {
            drop(submit(&flush, job, copy));
        }
        drain.join().unwrap().unwrap();
    });
    assert_eq!(flush.watermark(), 3);
}

#[test]
fn a_drain_that_the_shutdown_overtakes_says_so() {
    let (flush, _) = pipeline(|builder| builder);
    let (send, told) = mpsc::channel();
    let pending = flush.drain_to_with(7, move |result| send.send(result).unwrap());
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
    assert_eq!(told.recv().unwrap(), Err(DrainError::ShutDown));
    assert!(pending.is_delivered());
    assert_eq!(flush.drain_to(7), Err(DrainError::ShutDown));
    assert_eq!(flush.drain(), Ok(()));
}

#[test]
fn a_ticket_is_waited_for_as_long_as_its_form_says() {
    let (flush, _) = pipeline(|builder| builder);
    let gate = Gate::new();
    let tickets = [10, 11, 12, 13].map(|job| submit(&flush, job, gate.stream()));
    let [ticket, timed, deadline, tried] = tickets;
    assert_eq!((ticket.sequence(), tried.sequence()), (0, 3));
    let timed = timed_out(timed.wait_timeout(NOW));
    let deadline = timed_out(deadline.wait_deadline(Instant::now()));
    let tried = match tried.try_wait() {
        Err(WaitError::WouldBlock(ticket)) => ticket,
        other => panic!("{other:?}"),
    };
    assert!(!is_readable_now(tried.as_fd().unwrap()));
    gate.open();
    assert!(is_readable(tried.as_fd().unwrap(), None));
    assert!(is_readable_now(tried.as_fd().unwrap()), "it stays readable");
    assert!(tried.is_done());
    assert_eq!(tried.try_wait().unwrap(), 13);
    assert_eq!(ticket.wait().unwrap(), 10);
    assert_eq!(timed.wait_timeout(Duration::MAX).unwrap(), 11);
    assert_eq!(deadline.wait_deadline(Instant::now() + HOUR).unwrap(), 12);
}

#[test]
fn a_ticket_calls_back_once_at_once_if_it_is_done_and_not_at_all_when_dropped() {
    let (flush, _) = pipeline(|builder| builder);
    let gate = Gate::new();
    let (send, told) = mpsc::channel();
    let [first, dropped] = [10, 11].map(|job| submit(&flush, job, gate.stream()));
    let called = first.wait_with(move |result| send.send(result.unwrap()).unwrap());
    let dropped = dropped.wait_with(|_| unreachable!());
    assert!(!called.is_delivered());
    assert!(dropped.cancel());
    gate.open();
    assert_eq!(told.recv().unwrap(), 10);
    assert!(is_readable(called.as_fd().unwrap(), None));
    flush.drain().unwrap();
    let done = rotate(&flush, 12).complete(Ok(12)).unwrap();
    flush.drain().unwrap();
    let (send, told) = mpsc::channel();
    let at_once = done.wait_with(move |result| send.send(result.unwrap()).unwrap());
    assert!(at_once.is_delivered());
    assert_eq!(told.try_recv(), Ok(12));
    assert!(told.recv().is_err(), "once");
}

#[test]
fn a_panicking_callback_disturbs_nobody() {
    let (flush, _) = pipeline(|builder| builder);
    let gate = Gate::new();
    let [explodes, fine] = [10, 11].map(|job| submit(&flush, job, gate.stream()));
    let ticket = explodes.wait_with(|_| boom());
    let drain = flush.drain_with(|_| boom());
    gate.open();
    assert_eq!(fine.wait().unwrap(), 11);
    submit(&flush, 12, copy).wait().unwrap();
    assert!(ticket.is_delivered());
    drop(drain);
}

#[test]
fn a_dropped_ticket_changes_nothing() {
    let (flush, lines) = pipeline(|builder| builder);
    drop(submit(&flush, 10, copy));
    flush.drain().unwrap();
    assert_eq!(lines.read(), ["0 done: 10"]);
}

#[test]
fn a_thread_may_complete_its_flush_itself() {
    let (flush, lines) = pipeline(|builder| builder.streamers(0));
    let slot = rotate(&flush, 10);
    assert_eq!(*slot.job(), 10);
    let ticket = slot.complete(Ok(20)).unwrap();
    assert_eq!(ticket.wait().unwrap(), 20);
    let here = thread::current().id();
    let ticket = submit(&flush, 11, move |job| {
        assert_eq!(
            thread::current().id(),
            here,
            "without streamers it runs here"
        );
        Ok(**job)
    });
    assert_eq!(ticket.wait().unwrap(), 11);
    assert_eq!(lines.read(), ["0 done: 20", "1 done: 11"]);
    assert_eq!(flush.stats().submitted, 2);
}

#[test]
fn streams_run_at_the_same_time_and_on_their_threads() {
    let (flush, _) = pipeline(|builder| builder);
    let (send, names) = mpsc::channel();
    let gate = Gate::new();
    for job in 0..2 {
        let (send, bar) = (send.clone(), gate.bar());
        drop(submit(&flush, job, move |job| {
            send.send(thread::current().name().map(str::to_owned))
                .unwrap();
            bar.pass();
            copy(job)
        }));
    }
    gate.await_entered(2);
    let mut names = [(); 2].map(|()| names.recv().unwrap().unwrap());
    names.sort();
    assert_eq!(names, ["lw-stream-0", "lw-stream-1"]);
}

#[test]
fn a_closed_pipeline_finishes_what_was_reserved_before() {
    let (flush, _) = pipeline(|builder| builder);
    let slot = flush.reserve(0).unwrap();
    flush.close();
    assert!(flush.is_closed());
    assert_eq!(flush.reserve(0).unwrap_err(), ReserveError::Closed);
    let slot = slot.rotate(&mut (), |(), _| 10);
    assert_eq!(slot.submit(copy).unwrap().wait().unwrap(), 10);
}

#[test]
fn the_handles_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    fn check_send<T: Send>() {}
    check::<Pipe>();
    check::<FlushTicket<Journal>>();
    check_send::<latchwork::flush::Rotated<Journal>>();
    check_send::<latchwork::flush::SendReservation<Journal>>();
    check_send::<latchwork::flush::Leftovers<Journal>>();
    check_send::<WaitError<Journal>>();
}
