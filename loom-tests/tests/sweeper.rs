//! Models of the sweeper, stepped by `run_due`.
#![cfg(latchwork_loom)]

use std::sync::Arc;

use latchwork::Sweeper;
use latchwork::model::loom::sync::atomic::{AtomicBool, Ordering};
use latchwork::model::{Clock, model, thread};
use latchwork::sweeper::Next;
use latchwork::worker::ticket;
use latchwork_loom_tests::Section;

/// Catches a job that still runs when its handle has been dropped, and a drop that is not told of
/// the run's end.
#[test]
fn a_dropped_job_neither_runs_nor_will() {
    model(|| {
        let sweeper = Sweeper::new();
        let section = Section::new();
        let job = sweeper.job("job", {
            let section = section.clone();
            move || {
                section.enter();
                Next::Idle
            }
        });
        job.arm_at(Clock::now());
        let runner = thread::spawn(move || sweeper.run_due(Clock::now()));
        drop(job);
        section.enter();
        let runs = runner.join().unwrap();
        assert_eq!(section.entered(), 1 + runs as u64);
    });
}

/// Catches an arming that is lost because the job is running at that moment.
#[test]
fn a_job_that_is_armed_while_it_runs_runs_again() {
    model(|| {
        let sweeper = Sweeper::new();
        let asked = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicBool::new(false));
        let job = sweeper.job("job", {
            let (asked, answered) = (asked.clone(), answered.clone());
            move || {
                answered.store(asked.load(Ordering::Relaxed), Ordering::Relaxed);
                Next::Idle
            }
        });
        job.arm_at(Clock::now());
        let runner = thread::spawn({
            let sweeper = sweeper.clone();
            move || sweeper.run_due(Clock::now())
        });
        asked.store(true, Ordering::Relaxed);
        job.arm_at(Clock::now());
        runner.join().unwrap();
        sweeper.run_due(Clock::now());
        assert!(answered.load(Ordering::Relaxed), "an arming was lost");
        assert!(!job.is_armed());
    });
}

/// Catches an arming that says yes to a sweeper which is shutting down, and is not among what that
/// leaves undone.
#[test]
fn who_arms_during_a_shutdown_is_refused_or_reported() {
    model(|| {
        let sweeper = Sweeper::new();
        let job = sweeper.job("job", || Next::Idle);
        let other = thread::spawn(move || {
            let armed = job.arm_at(Clock::now());
            (job, armed)
        });
        let leftovers = sweeper.shutdown();
        let (job, armed) = other.join().unwrap();
        assert_eq!(armed, leftovers.unfinished == ["job"]);
        assert!(!job.is_armed());
    });
}

/// Catches a job that is armed while the thread goes to sleep, and is not seen.
#[test]
fn an_armed_job_wakes_the_thread_that_serves() {
    model(|| {
        let sweeper = Sweeper::new();
        let (completer, ticket) = ticket();
        let mut completer = Some(completer);
        let job = sweeper.job("job", move || {
            let completer = completer.take();
            completer
                .into_iter()
                .for_each(|completer| completer.complete(Ok(())));
            Next::Idle
        });
        let server = thread::spawn({
            let sweeper = sweeper.clone();
            move || sweeper.serve()
        });
        job.arm_at(Clock::now());
        // Whether the thread came before or comes after: it runs what is due.
        ticket.wait().unwrap();
        sweeper.shutdown();
        server.join().unwrap();
    });
}

/// Catches a shutdown that does not learn of the thread's end.
#[test]
fn a_shutdown_waits_for_the_thread_that_serves_and_ends() {
    model(|| {
        let sweeper = Sweeper::new();
        let server = thread::spawn({
            let sweeper = sweeper.clone();
            move || sweeper.serve()
        });
        sweeper.shutdown();
        assert!(!sweeper.stats().running);
        server.join().unwrap();
    });
}
