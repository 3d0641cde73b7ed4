//! A worker's thread: order, panics, a full line, cancelling, the two ways to end, and rest.

use std::fs;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::LatchTable;
use latchwork::worker::{Completer, SubmitError, Ticket, TicketError, Worker, ticket};
use rustix::event::{PollFd, PollFlags, poll};

const HOUR: Duration = Duration::from_secs(3600);

/// A worker whose handler says which message it has, and waits for a sign before it returns it.
struct Gated {
    worker: Worker<u32, u32>,
    entered: Receiver<u32>,
    go: Sender<()>,
}

impl Gated {
    fn new(capacity: usize) -> Self {
        let (enter, entered) = channel();
        let (go, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let worker = Worker::builder("gated").capacity(capacity).build(move |n| {
            enter.send(n).unwrap();
            gate.lock().unwrap().recv().unwrap();
            n
        });
        Self {
            worker,
            entered,
            go,
        }
    }

    /// Submits `n`, and returns once the handler has it.
    fn occupy(&self, n: u32) -> Ticket<u32> {
        let ticket = self.worker.submit(n).unwrap();
        assert_eq!(self.entered.recv().unwrap(), n);
        ticket
    }
}

#[test]
fn messages_are_handled_in_order_by_one_thread_of_that_name() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let worker = Worker::new("in-order", {
        let seen = seen.clone();
        move |n: u32| {
            seen.lock().unwrap().push(n);
            let this = thread::current();
            (this.id(), this.name().map(str::to_owned))
        }
    });
    assert!(!worker.stats().running);
    let tickets: Vec<_> = (0..100).map(|n| worker.submit(n).unwrap()).collect();
    let threads: Vec<_> = tickets.into_iter().map(|t| t.wait().unwrap()).collect();
    assert_eq!(*seen.lock().unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(threads[0].1.as_deref(), Some("in-order"));
    assert!(threads.iter().all(|thread| *thread == threads[0]));
    assert_ne!(threads[0].0, thread::current().id());
    assert_eq!(worker.stats().handled, 100);
}

#[test]
fn a_panicking_handler_fails_its_message_and_those_behind_are_served() {
    let (enter, entered) = channel();
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let worker = Worker::new("panics", move |n: u32| {
        if n == 0 {
            enter.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
        }
        assert!(!n.is_multiple_of(3), "not {n}");
        n
    });
    let tickets: Vec<_> = (0..10).map(|n| worker.submit(n).unwrap()).collect();
    entered.recv().unwrap();
    assert_eq!(worker.stats().queued, 9);
    go.send(()).unwrap();
    for (n, ticket) in (0..).zip(tickets) {
        match ticket.wait() {
            Ok(handled) => assert_eq!(handled, n),
            Err(TicketError::Panicked(panic)) => assert_eq!(panic.message(), format!("not {n}")),
            Err(error) => panic!("{n}: {error}"),
        }
    }
    let stats = worker.stats();
    assert_eq!((stats.handled, stats.panics), (10, 4));
    assert_eq!(stats.last_panic.as_deref(), Some("not 9"));
    assert!(stats.running);
}

#[test]
fn a_panic_goes_on_in_whoever_resumes_it() {
    let worker = Worker::new("panics", |()| std::panic::panic_any(7_u32));
    let Err(TicketError::Panicked(panic)) = worker.submit(()).unwrap().wait() else {
        panic!("it panicked");
    };
    let resumed = thread::spawn(move || panic.resume()).join();
    let Err(payload) = resumed;
    assert_eq!(payload.downcast_ref(), Some(&7_u32));
}

/// Panics when it is dropped.
struct Explosive;

impl Drop for Explosive {
    fn drop(&mut self) {
        if !thread::panicking() {
            panic!("dropped");
        }
    }
}

#[test]
fn a_result_that_panics_when_nobody_takes_it_leaves_the_thread_alive() {
    let worker = Worker::new(
        "explosive",
        |last: bool| {
            if last { None } else { Some(Explosive) }
        },
    );
    drop(worker.submit(false).unwrap());
    assert!(worker.submit(true).unwrap().wait().unwrap().is_none());
}

#[test]
fn a_full_line_refuses_at_once_and_hands_the_message_back() {
    let gated = Gated::new(2);
    let first = gated.occupy(1);
    let behind = [2, 3].map(|n| gated.worker.submit(n).unwrap());
    assert!(matches!(gated.worker.submit(4), Err(SubmitError::Busy(4))));
    for _ in 0..3 {
        gated.go.send(()).unwrap();
    }
    assert_eq!(first.wait().unwrap(), 1);
    assert_eq!(behind.map(|ticket| ticket.wait().unwrap()), [2, 3]);
    assert_eq!(gated.worker.stats().busy, 1);
}

#[test]
fn a_cancelled_message_is_never_handled_and_makes_room() {
    let gated = Gated::new(1);
    let first = gated.occupy(1);
    let second = gated.worker.submit(2).unwrap();
    assert!(second.cancel());
    assert_eq!(gated.worker.stats().queued, 0);
    let third = gated.worker.submit(3).unwrap();
    assert!(!first.cancel(), "it is being handled");
    for _ in 0..2 {
        gated.go.send(()).unwrap();
    }
    assert_eq!(third.wait().unwrap(), 3);
    assert_eq!(gated.entered.try_iter().collect::<Vec<_>>(), [3]);
}

#[test]
fn a_wait_that_times_out_cancels_what_has_not_begun() {
    let gated = Gated::new(8);
    let first = gated.occupy(1);
    let second = gated.worker.submit(2).unwrap();
    assert!(second.wait_or_cancel(Instant::now()).is_none());
    assert_eq!(gated.worker.stats().queued, 0);
    gated.go.send(()).unwrap();
    // It had begun: the deadline does not cut it short.
    let late = first.wait_or_cancel(Instant::now());
    assert_eq!(late.unwrap().unwrap(), 1);
}

#[test]
fn a_ticket_can_be_waited_for_again_after_a_time_out() {
    let gated = Gated::new(8);
    let first = gated.occupy(1);
    let first = first.wait_timeout(Duration::from_millis(1)).unwrap_err();
    let first = first.wait_deadline(Instant::now()).unwrap_err();
    let first = first.try_take().unwrap_err();
    gated.go.send(()).unwrap();
    let first = first.wait_timeout(HOUR).unwrap();
    assert_eq!(first.unwrap(), 1);
}

#[test]
fn a_dropped_ticket_lets_the_message_be_handled() {
    let gated = Gated::new(8);
    drop(gated.occupy(1));
    drop(gated.worker.submit(2).unwrap());
    for _ in 0..2 {
        gated.go.send(()).unwrap();
    }
    assert_eq!(gated.entered.recv().unwrap(), 2);
}

#[test]
fn a_descriptor_becomes_readable_with_the_result() {
    let gated = Gated::new(8);
    let first = gated.occupy(1);
    let readable = |ticket: &Ticket<u32>, wait: bool| {
        let mut fds = [PollFd::from_borrowed_fd(
            ticket.as_fd().unwrap(),
            PollFlags::IN,
        )];
        let zero = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, (!wait).then_some(&zero)).unwrap() == 1
    };
    assert!(!readable(&first, false));
    gated.go.send(()).unwrap();
    assert!(readable(&first, true));
    assert!(readable(&first, false), "it stays readable");
    assert!(first.is_done());
    assert_eq!(first.try_take().unwrap().unwrap(), 1);
}

#[test]
fn a_shutdown_returns_what_was_not_handled_and_its_tickets_are_lost() {
    let gated = Gated::new(8);
    let first = gated.occupy(1);
    let behind = [2, 3].map(|n| gated.worker.submit(n).unwrap());
    let left = thread::scope(|scope| {
        let shutdown = scope.spawn(|| gated.worker.shutdown());
        // They are told while the handler still runs.
        for ticket in behind {
            assert!(matches!(ticket.wait(), Err(TicketError::Lost)));
        }
        assert!(gated.worker.stats().running);
        gated.go.send(()).unwrap();
        shutdown.join().unwrap()
    });
    assert_eq!(left, [2, 3]);
    assert_eq!(first.wait().unwrap(), 1);
    assert!(!gated.worker.stats().running);
    assert!(matches!(
        gated.worker.submit(4),
        Err(SubmitError::Closed(4))
    ));
}

#[test]
fn draining_handles_everything_and_then_refuses() {
    let gated = Gated::new(8);
    let tickets = [gated.occupy(1), gated.worker.submit(2).unwrap()];
    for _ in 0..2 {
        gated.go.send(()).unwrap();
    }
    gated.worker.drain();
    assert!(tickets.iter().all(Ticket::is_done));
    assert!(matches!(
        gated.worker.submit(3),
        Err(SubmitError::Closed(3))
    ));
    assert!(gated.worker.shutdown().is_empty());
}

#[test]
fn the_handler_may_drop_its_worker() {
    let slot = Arc::new(Mutex::new(None::<Worker<()>>));
    let (tell, told) = channel();
    let worker = Worker::new("suicidal", {
        let slot = slot.clone();
        move |()| {
            drop(slot.lock().unwrap().take());
            tell.send(()).unwrap();
        }
    });
    let ticket = {
        let mut slot = slot.lock().unwrap();
        slot.insert(worker).submit(()).unwrap()
    };
    told.recv().unwrap();
    ticket.wait().unwrap();
}

#[test]
fn dropping_a_worker_waits_for_the_handler() {
    let gated = Gated::new(8);
    let done = Arc::new(AtomicBool::new(false));
    let (enter, entered) = channel();
    let worker = Worker::new("slow", {
        let done = done.clone();
        let gate = Mutex::new(gated.entered);
        move |()| {
            enter.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            done.store(true, Ordering::SeqCst);
        }
    });
    drop(worker.submit(()).unwrap());
    entered.recv().unwrap();
    // The handler goes on when the other worker's has got this.
    drop(gated.worker.submit(1).unwrap());
    drop(worker);
    assert!(done.load(Ordering::SeqCst));
    gated.go.send(()).unwrap();
}

#[test]
fn a_latch_that_the_handler_leaks_comes_back_after_the_message() {
    let table = LatchTable::<str>::new();
    let worker = Worker::new("leaks", {
        let table = table.clone();
        move |()| std::mem::forget(table.latch("key").unwrap())
    });
    for _ in 0..2 {
        worker.submit(()).unwrap().wait().unwrap();
    }
    assert_eq!(table.held(), 0);
    assert_eq!(table.stats().leaked, 2);
}

#[test]
fn a_thread_of_the_users_serves_in_place_of_the_workers() {
    let worker = Worker::new("unused", |()| thread::current().id());
    thread::scope(|scope| {
        let server = scope.spawn(|| worker.serve());
        while !worker.stats().running {
            thread::yield_now();
        }
        assert!(!worker.serve(), "one serves already");
        let handled_on = worker.submit(()).unwrap().wait().unwrap();
        assert_eq!(handled_on, server.thread().id());
        worker.drain();
        assert!(server.join().unwrap());
    });
}

#[test]
fn a_worker_without_messages_sleeps_in_one_system_call_without_a_deadline() {
    let worker = Worker::new("idle", |()| fs::read_link("/proc/thread-self").unwrap());
    let thread = worker.submit(()).unwrap().wait().unwrap();
    let path = std::path::Path::new("/proc").join(thread).join("syscall");
    let call = loop {
        let call = fs::read_to_string(&path).unwrap();
        let call: Vec<String> = call.split_whitespace().map(str::to_owned).collect();
        let futex = if cfg!(target_arch = "x86_64") {
            "202"
        } else {
            "98"
        };
        if call[0] == futex {
            break call;
        }
        thread::yield_now();
    };
    assert_eq!(call[4], "0x0", "no time-out: {call:?}");
}

#[test]
fn a_completer_that_is_dropped_says_that_the_work_is_lost() {
    let (mut begun, ticket) = ticket::<u32>();
    assert!(begun.begin());
    drop(begun);
    assert!(matches!(ticket.wait(), Err(TicketError::Lost)));
}

#[test]
fn the_handles_may_cross_a_caught_panic() {
    fn check<T: UnwindSafe + RefUnwindSafe + Send + Sync>() {}
    check::<Worker<u32, u32>>();
    check::<Ticket<u32>>();
    check::<Completer<u32>>();
    check::<TicketError>();
}
