//! Shutdowns: each mode, what comes back, and that nothing is kept.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Instant;

use latchwork::flush::{
    Backoff, DrainError, Failed, Finalize, FlushPipeline, LeftoverState, OnFailure, ReserveError,
    Shutdown, WaitError,
};
use latchwork::sweeper::Sweeper;

use crate::support::{Counted, Gate, HOUR, copy, pipeline, rotate, scripted, submit};

fn states(left: latchwork::flush::Leftovers<crate::support::Journal>) -> Vec<(u64, LeftoverState)> {
    let flushes = left.flushes.into_iter();
    flushes.map(|flush| (flush.sequence, flush.state)).collect()
}

fn is_streamer(state: &LeftoverState) -> bool {
    matches!(state, LeftoverState::Running(thread) if thread.starts_with("lw-stream-"))
}

#[test]
fn a_full_drain_finalizes_all_and_returns_nothing() {
    let (flush, lines) = pipeline(|builder| builder);
    let tickets: Vec<_> = (0..5).map(|job| submit(&flush, job, copy)).collect();
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
    assert_eq!(lines.read().len(), 5);
    for (ticket, job) in tickets.into_iter().zip(0..) {
        assert_eq!(ticket.wait().unwrap(), job);
    }
    for how in [
        Shutdown::DrainAll,
        Shutdown::Drain(Instant::now() + HOUR),
        Shutdown::Now,
    ] {
        assert!(flush.shutdown(how).is_empty(), "a second one finds nothing");
    }
    assert!(flush.is_closed());
    assert_eq!(flush.drain(), Ok(()));
    assert_eq!(flush.reserve(0).unwrap_err(), ReserveError::Closed);
}

#[test]
fn dropping_the_last_handle_drains() {
    let (flush, lines) = pipeline(|builder| builder);
    let other = flush.clone();
    let ticket = submit(&flush, 10, copy);
    drop(flush);
    drop(submit(&other, 11, copy));
    drop(other);
    assert_eq!(lines.read(), ["0 done: 10", "1 done: 11"]);
    assert_eq!(ticket.wait().unwrap(), 10);
}

#[test]
fn a_shutdown_at_once_returns_everything_in_the_state_that_it_is_in() {
    let gate = Gate::new();
    let (finalizing, running) = (gate.bar(), gate.bar());
    let (flush, _) = scripted(
        |builder| builder.streamers(1),
        move |_, _| {
            finalizing.pass();
            Ok(())
        },
    );
    let slots: Vec<_> = (0..6).map(|job| rotate(&flush, job).hand_over()).collect();
    let mut slots = slots.into_iter();
    let mut next = || slots.next().unwrap();
    let first = next().complete(Ok(0)).unwrap();
    gate.await_entered(1);
    let failed = next().complete(Err("no".into())).unwrap();
    let runs = next().submit(running.stream()).unwrap();
    gate.await_entered(2);
    let queued = next().submit(copy).unwrap();
    let streamed = next().complete(Ok(44)).unwrap();
    let unsubmitted = next();
    let left = flush.shutdown(Shutdown::Now).flushes;
    let seen: Vec<_> = left.iter().map(|flush| &flush.state).collect();
    let numbers: Vec<_> = left.iter().map(|flush| flush.sequence).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    assert_eq!(*seen[0], LeftoverState::Finalizing("lw-finalize".into()));
    assert_eq!(*seen[1], LeftoverState::Failed);
    assert_eq!(*seen[2], LeftoverState::Running("lw-stream-0".into()));
    assert_eq!(*seen[3], LeftoverState::Queued);
    assert_eq!(*seen[4], LeftoverState::Streamed);
    assert_eq!(*seen[5], LeftoverState::Unsubmitted);
    let jobs: Vec<_> = left.iter().map(|flush| (flush.job, flush.item)).collect();
    let none = (None, None);
    assert_eq!(
        jobs,
        [none, none, none, (Some(3), None), (None, Some(44)), none]
    );
    for ticket in [failed, runs, queued, streamed] {
        gate.open();
        assert!(matches!(ticket.wait(), Err(WaitError::ShutDown)));
    }
    assert_eq!(*unsubmitted.submit(copy).unwrap_err().0.job(), 5);
    // The one that was being finalized is what the finalizer makes of it.
    assert_eq!(first.wait().unwrap(), 0);
}

#[test]
fn a_stream_that_waits_for_its_next_try_comes_back_with_its_job() {
    let sweeper = Sweeper::new();
    let (flush, lines) = pipeline(|builder| {
        let retry = OnFailure::Retry {
            attempts: 2,
            backoff: Backoff::constant(HOUR),
        };
        builder.on_failure(retry).sweeper(sweeper.clone())
    });
    let (send, tried) = mpsc::channel();
    let ticket = submit(&flush, 10, move |job| {
        **job += 1;
        send.send(()).unwrap();
        Err("busy".into())
    });
    tried.recv().unwrap();
    // Its streamer is done with it when it has taken another.
    let gate = Gate::new();
    let others = [1, 2].map(|job| submit(&flush, job, gate.stream()));
    gate.await_entered(2);
    gate.open();
    let left = flush.shutdown(Shutdown::Drain(Instant::now()));
    assert_eq!(left.flushes[0].state, LeftoverState::Queued);
    assert_eq!(left.flushes[0].job, Some(11));
    assert!(matches!(ticket.wait(), Err(WaitError::ShutDown)));
    assert!(lines.read().is_empty());
    sweeper.run_due(Instant::now() + 2 * HOUR);
    assert!(tried.try_recv().is_err(), "it is not tried again");
    drop(others);
}

#[test]
fn a_try_that_fails_during_the_shutdown_comes_back_with_its_job() {
    let (flush, _) = pipeline(|builder| {
        let backoff = Backoff::constant(HOUR);
        builder.on_failure(OnFailure::Retry {
            attempts: 2,
            backoff,
        })
    });
    let gate = Gate::new();
    let bar = gate.bar();
    let ticket = submit(&flush, 10, move |job| {
        bar.pass();
        **job += 1;
        Err("busy".into())
    });
    let in_hand = rotate(&flush, 11);
    gate.await_entered(1);
    let opener = gate.bar();
    let left = thread::scope(|scope| {
        // It waits for the stream, and not for the flush that its own thread has in hand.
        let shuts = flush.clone();
        scope.spawn(move || {
            while !shuts.is_closed() {
                thread::yield_now();
            }
            opener.open();
        });
        flush.shutdown(Shutdown::DrainAll).flushes
    });
    // Whether the try failed before the stop or after.
    assert!(matches!(
        left[0].state,
        LeftoverState::Queued | LeftoverState::Failed
    ));
    assert_eq!(left[0].job, Some(11));
    assert_eq!(left[1].state, LeftoverState::Unsubmitted);
    assert!(matches!(ticket.wait(), Err(WaitError::ShutDown)));
    drop(in_hand);
}

#[test]
fn a_shutdown_with_a_deadline_drains_what_it_can() {
    let (flush, lines) = pipeline(|builder| builder);
    let gate = Gate::new();
    submit(&flush, 10, copy).wait().unwrap();
    let hangs = submit(&flush, 11, gate.stream());
    gate.await_entered(1);
    let kept = submit(&flush, 12, copy);
    let left = flush.shutdown(Shutdown::Drain(Instant::now()));
    assert_eq!(lines.read(), ["0 done: 10"]);
    let left = states(left);
    assert_eq!((left[0].0, left[1].0, left.len()), (1, 2, 2));
    assert!(is_streamer(&left[0].1), "{left:?}");
    gate.open();
    assert!(matches!(hangs.wait(), Err(WaitError::ShutDown)));
    assert!(matches!(kept.wait(), Err(WaitError::ShutDown)));
    assert_eq!(
        flush.watermark(),
        1,
        "the hanging stream's result is dropped"
    );
}

#[test]
fn a_shutdown_with_a_deadline_that_is_far_returns_when_all_is_finalized() {
    let (flush, lines) = pipeline(|builder| builder);
    drop(submit(&flush, 10, copy));
    assert!(
        flush
            .shutdown(Shutdown::Drain(Instant::now() + HOUR))
            .is_empty()
    );
    assert_eq!(lines.read(), ["0 done: 10"]);
}

#[test]
fn a_halted_pipeline_gives_back_what_it_has() {
    let (flush, _) = pipeline(|builder| builder);
    let slots = [10, 11, 12].map(|job| rotate(&flush, job).hand_over());
    let [fails, younger, unsubmitted] = slots;
    let fails = fails.submit(|_| Err("no space".into())).unwrap();
    let younger = younger.complete(Ok(22)).unwrap();
    assert_eq!(flush.drain(), Err(DrainError::Halted(0)));
    let left = flush.shutdown(Shutdown::DrainAll).flushes;
    let seen: Vec<_> = left
        .into_iter()
        .map(|flush| (flush.state, flush.job, flush.item))
        .collect();
    assert_eq!(
        seen,
        [
            (LeftoverState::Failed, Some(10), None),
            (LeftoverState::Streamed, None, Some(22)),
            (LeftoverState::Unsubmitted, None, None),
        ]
    );
    assert!(matches!(
        fails.wait(),
        Err(WaitError::ShutDown | WaitError::Halted(0, _))
    ));
    assert!(matches!(
        younger.wait(),
        Err(WaitError::ShutDown | WaitError::Halted(0, _))
    ));
    drop(unsubmitted);
}

#[test]
fn what_the_finalizer_failed_for_comes_back_with_its_item() {
    let (flush, _) = scripted(|builder| builder, |_, _| Err("no space".into()));
    drop(submit(&flush, 10, copy));
    assert_eq!(flush.drain(), Err(DrainError::Halted(0)));
    let left = flush.shutdown(Shutdown::DrainAll).flushes;
    assert_eq!(left[0].state, LeftoverState::Failed);
    assert_eq!((left[0].job, left[0].item), (None, Some(10)));
    assert!(left[0].error.is_some(), "and with what it failed for");
}

#[test]
fn a_drain_that_waits_is_ended_by_a_shutdown_at_once() {
    let (flush, _) = pipeline(|builder| builder);
    let slot = rotate(&flush, 10).hand_over();
    let (send, told) = mpsc::channel();
    let pending = flush.drain_with(move |result| send.send(result).unwrap());
    assert_eq!(flush.shutdown(Shutdown::Now).flushes.len(), 1);
    assert_eq!(told.recv().unwrap(), Err(DrainError::ShutDown));
    drop((slot, pending));
}

#[test]
fn a_reservation_from_before_the_shutdown_rotates_for_nothing_after_it() {
    let (flush, _) = pipeline(|builder| builder.max_in_flight_bytes(10));
    let slot = flush.reserve(5).unwrap();
    let (send, sent) = mpsc::channel();
    let by_callback = flush.reserve_with(5, move |slot| send.send(slot.unwrap()).unwrap());
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
    let slot = slot.rotate(&mut (), |(), _| 10);
    let error = slot.submit(copy).unwrap_err();
    assert!(error.to_string().contains("shutdown"));
    assert_eq!(*error.0.job(), 10);
    let slot = sent.recv().unwrap().rotate(&mut (), |(), _| 11);
    assert_eq!(*slot.complete(Ok(1)).unwrap_err().0.job(), 11);
    let stats = flush.stats();
    assert_eq!((stats.in_flight, stats.bytes_in_flight), (0, 0));
    assert_eq!(flush.drain_to(0), Ok(()));
    drop(by_callback);
}

/// Its jobs, items, outputs and errors count themselves out.
struct Counting(#[allow(dead_code)] Counted);

impl Finalize for Counting {
    type Job = Counted;
    type Item = (u64, Counted);
    type Output = Counted;
    type Error = Counted;

    fn finalize_one(&mut self, _: u64, item: &mut (u64, Counted)) -> Result<Counted, Counted> {
        let output = Counted(Arc::clone(&item.1.0));
        if item.0 == 0 { Err(output) } else { Ok(output) }
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> Counted {
        match failed.failure {
            latchwork::flush::Failure::Finalize(error)
            | latchwork::flush::Failure::Stream(error) => error,
            _ => Counted(Arc::clone(&self.0.0)),
        }
    }
}

#[test]
fn everything_is_dropped_when_the_shutdown_has_returned() {
    for (policy, how) in [
        (OnFailure::Halt, Shutdown::DrainAll),
        (OnFailure::Skip, Shutdown::DrainAll),
        (OnFailure::Halt, Shutdown::Now),
    ] {
        let dropped = Arc::new(AtomicUsize::new(0));
        let made = Arc::new(AtomicUsize::new(0));
        let counted = {
            let (dropped, made) = (Arc::clone(&dropped), Arc::clone(&made));
            move || {
                made.fetch_add(1, Ordering::SeqCst);
                Counted(Arc::clone(&dropped))
            }
        };
        let flush = FlushPipeline::builder("counting")
            .max_in_flight(8)
            .streamers(2);
        let flush = flush
            .on_failure(policy)
            .finalizer(Counting(counted()))
            .build()
            .unwrap();
        let slots: Vec<_> = (0..7)
            .map(|_| flush.reserve(0).unwrap())
            .map(|slot| slot.rotate(&mut (), |(), _| counted()).hand_over())
            .collect();
        let mut tickets = Vec::new();
        for slot in slots {
            let (make, captured) = (counted.clone(), counted());
            let sequence = slot.sequence();
            tickets.push(match sequence {
                2 => {
                    drop((slot, captured));
                    continue;
                }
                3 => slot.complete(Ok((3, captured))).unwrap(),
                4 => slot.complete(Err(captured)).unwrap(),
                _ => slot
                    .submit(move |_| {
                        let _ = &captured;
                        match sequence {
                            5 => Err(make()),
                            6 => crate::support::boom(),
                            // The second fails in the finalizer.
                            n => Ok((1 - n, make())),
                        }
                    })
                    .unwrap(),
            });
        }
        let left = flush.shutdown(how);
        if how == Shutdown::DrainAll {
            assert_eq!(left.is_empty(), policy == OnFailure::Skip);
        }
        let is_named = |state: &LeftoverState| {
            matches!(
                state,
                LeftoverState::Running(_) | LeftoverState::Finalizing(_)
            )
        };
        let named = left.flushes.iter().any(|flush| is_named(&flush.state));
        drop((left, tickets));
        if named {
            continue;
        }
        // What the finalizer makes by itself counts as well.
        assert!(dropped.load(Ordering::SeqCst) >= made.load(Ordering::SeqCst));
        assert_eq!(
            Arc::strong_count(&dropped),
            2,
            "`counted` has one, and the test"
        );
    }
}

/// Notes that its thread has ended: a join returns after a thread's values are dropped, though the
/// system may list the thread a little longer.
struct Noted(Arc<AtomicUsize>);

impl Noted {
    fn here(ended: &Arc<AtomicUsize>) {
        thread_local! {
            static HERE: RefCell<Option<Noted>> = const { RefCell::new(None) };
        }
        HERE.set(Some(Self(Arc::clone(ended))));
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn the_threads_are_gone_when_the_shutdown_has_returned() {
    let ended = Arc::new(AtomicUsize::new(0));
    let of_finalizer = Arc::clone(&ended);
    let (flush, _) = scripted(
        |builder| builder,
        move |sequence, _| {
            if sequence == 0 {
                Noted::here(&of_finalizer);
            }
            Ok(())
        },
    );
    let gate = Gate::new();
    let tickets = [1, 2].map(|job| {
        let (bar, ended) = (gate.bar(), Arc::clone(&ended));
        submit(&flush, job, move |job| {
            Noted::here(&ended);
            bar.pass();
            copy(job)
        })
    });
    gate.await_entered(2);
    gate.open();
    tickets
        .into_iter()
        .for_each(|ticket| assert!(ticket.wait().is_ok()));
    assert_eq!(ended.load(Ordering::Relaxed), 0);
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
    assert_eq!(ended.load(Ordering::Relaxed), 3);
}

#[test]
fn a_pipeline_that_is_dropped_unused_ends() {
    let (flush, _) = pipeline(|builder| builder);
    drop(flush);
    let (flush, _) = pipeline(|builder| builder.streamers(0));
    assert!(flush.shutdown(Shutdown::Now).is_empty());
}

#[test]
fn a_shutdown_waits_for_no_stream_of_the_finalizer_s_thread_after_its_deadline() {
    let (flush, _) = pipeline(|builder| builder.streamers(0));
    let gate = Gate::new();
    let (bar, mut runs) = (gate.bar(), 0);
    drop(submit(&flush, 10, move |job| {
        runs += 1;
        if runs == 1 {
            return Err("once".into());
        }
        bar.pass();
        copy(job)
    }));
    assert_eq!(flush.drain(), Err(DrainError::Halted(0)));
    assert!(flush.resume());
    gate.await_entered(1);
    let left = states(flush.shutdown(Shutdown::Drain(Instant::now())));
    assert_eq!(left, [(0, LeftoverState::Running("lw-finalize".into()))]);
}

#[test]
fn a_finalizer_that_shuts_its_own_pipeline_down_when_dropped_waits_for_nobody() {
    let (send, its) = mpsc::channel::<FlushPipeline<Late>>();
    /// Is given the handle with its first flush.
    struct Late(
        mpsc::Receiver<FlushPipeline<Late>>,
        Option<FlushPipeline<Late>>,
    );
    impl Finalize for Late {
        type Job = ();
        type Item = ();
        type Output = ();
        type Error = ();
        fn finalize_one(&mut self, _: u64, (): &mut ()) -> Result<(), ()> {
            self.1 = self.0.try_recv().ok();
            Ok(())
        }
        fn finalize_failure(&mut self, _: Failed<'_, Self>) {}
    }
    impl Drop for Late {
        fn drop(&mut self) {
            let flush = self.1.take().unwrap();
            assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
        }
    }
    let flush = FlushPipeline::builder("late")
        .finalizer(Late(its, None))
        .build()
        .unwrap();
    send.send(flush.clone()).unwrap();
    let slot = flush.reserve(0).unwrap().rotate(&mut (), |(), _| ());
    slot.complete(Ok(())).unwrap().wait().unwrap();
    assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
}
