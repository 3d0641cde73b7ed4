//! Models of the worker's mailbox and of tickets.
#![cfg(latchwork_loom)]

use std::sync::Arc;
use std::time::Duration;

use latchwork::model::{Clock, model, thread};
use latchwork::worker::{SubmitError, TicketError, Worker, ticket};
use latchwork_loom_tests::Section;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Catches a completion that does not wake the waiter, and a waiter that goes to sleep past it.
#[test]
fn who_waits_for_a_result_gets_it() {
    model(|| {
        let (mut completer, ticket) = ticket();
        let other = thread::spawn(move || {
            assert!(completer.begin());
            completer.complete(Ok(7));
        });
        assert_eq!(ticket.wait().unwrap(), 7);
        other.join().unwrap();
    });
}

/// Catches work that is done although it was cancelled.
#[test]
fn cancelled_work_is_never_done_and_other_work_is_done_once() {
    model(|| {
        let section = Section::new();
        let (mut completer, ticket) = ticket();
        let worker = thread::spawn({
            let section = section.clone();
            move || {
                if completer.begin() {
                    section.enter();
                    completer.complete(Ok(()));
                }
            }
        });
        let is_cancelled = ticket.cancel();
        worker.join().unwrap();
        assert_eq!(section.entered(), u64::from(!is_cancelled));
    });
}

/// Catches a time-out that is reported for work which is being done.
#[test]
fn a_deadline_cancels_work_that_has_not_begun_or_waits_for_it() {
    model(|| {
        let section = Section::new();
        let (mut completer, ticket) = ticket();
        let worker = thread::spawn({
            let section = section.clone();
            move || {
                Clock::advance(Duration::from_secs(1));
                if completer.begin() {
                    section.enter();
                    completer.complete(Ok(7));
                }
            }
        });
        let outcome = ticket.wait_or_cancel(Clock::now() + Duration::from_secs(1));
        let entered = outcome.map(Result::unwrap);
        worker.join().unwrap();
        assert_eq!(section.entered(), u64::from(entered.is_some()));
        assert!(matches!(entered, None | Some(7)));
    });
}

/// Catches a waiter that is told nothing when the work is lost.
#[test]
fn who_waits_for_work_that_is_lost_is_told() {
    model(|| {
        let (completer, ticket) = ticket::<()>();
        let other = thread::spawn(move || drop(completer));
        assert!(matches!(ticket.wait(), Err(TicketError::Lost)));
        other.join().unwrap();
    });
}

/// Catches a callback that is not called because the result came beside its registration; one that
/// is called before it is whole; and a result that goes to nobody.
#[test]
fn a_callback_gets_the_result_that_comes_beside_it() {
    model(|| {
        let section = Section::new();
        let (completer, ticket) = ticket();
        let other = thread::spawn(move || completer.complete(Ok(7)));
        let pending = ticket.wait_with({
            let section = section.clone();
            move |result| {
                assert_eq!(result.unwrap(), 7);
                section.enter();
            }
        });
        other.join().unwrap();
        assert_eq!(section.entered(), 1);
        drop(pending);
    });
}

/// Catches a callback that is taken back while the result goes to it, and one that is never dropped.
#[test]
fn a_callback_that_is_taken_back_beside_the_result_is_called_or_not_and_dropped() {
    model(|| {
        let section = Section::new();
        let owned = Arc::new(());
        let (completer, ticket) = ticket();
        let other = thread::spawn(move || completer.complete(Ok(7)));
        let pending = ticket.wait_with({
            let (section, owned) = (section.clone(), Arc::clone(&owned));
            move |_| {
                let _owned = owned;
                section.enter();
            }
        });
        drop(pending);
        other.join().unwrap();
        assert!(section.entered() <= 1);
        assert_eq!(Arc::strong_count(&owned), 1);
    });
}

/// Catches a descriptor that nobody makes readable because the result came while it was made.
#[test]
fn a_descriptor_made_beside_the_result_becomes_readable() {
    model(|| {
        let (completer, ticket) = ticket();
        let other = thread::spawn(move || completer.complete(Ok(7)));
        let fd = ticket.as_fd().unwrap();
        other.join().unwrap();
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(&Timespec::default())).unwrap(), 1);
    });
}

/// Catches a message that comes while the thread goes to sleep, and is not seen.
#[test]
fn a_message_wakes_the_thread_that_serves() {
    model(|| {
        let worker = Arc::new(Worker::new("worker", |n: u64| n + 1));
        let sender = thread::spawn({
            let worker = worker.clone();
            move || {
                assert_eq!(worker.submit(1).unwrap().wait().unwrap(), 2);
                worker.drain();
            }
        });
        worker.serve();
        sender.join().unwrap();
    });
}

/// Catches a message that is accepted and neither handled nor returned when the worker is drained
/// meanwhile.
#[test]
fn a_message_sent_during_a_drain_is_refused_or_handled() {
    model(|| {
        let section = Section::new();
        let worker = Arc::new(Worker::new("worker", {
            let section = section.clone();
            move |()| section.enter()
        }));
        let sender = thread::spawn({
            let worker = worker.clone();
            move || match worker.submit(()) {
                Ok(ticket) => {
                    ticket.wait().unwrap();
                    1
                }
                Err(SubmitError::Closed(())) => 0,
                Err(error) => panic!("{error}"),
            }
        });
        worker.drain();
        assert_eq!(sender.join().unwrap(), section.entered());
    });
}

/// Catches a shutdown beside the thread that loses a message, or returns one that is handled.
#[test]
fn a_shutdown_returns_a_message_or_it_is_handled() {
    model(|| {
        let worker = Arc::new(Worker::new("worker", |()| ()));
        let ticket = worker.submit(()).unwrap();
        let server = thread::spawn({
            let worker = worker.clone();
            move || worker.serve()
        });
        let left = worker.shutdown();
        let is_lost = matches!(ticket.wait(), Err(TicketError::Lost));
        assert_eq!(left.len(), usize::from(is_lost));
        server.join().unwrap();
    });
}
