//! When jobs run, and what becomes of them when they panic, are dropped, or are shut down.
#![cfg(not(latchwork_loom))]

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::sweeper::{Job, Next, Sweeper};

const HOUR: Duration = Duration::from_secs(3600);

/// A job that says when it ran.
fn reporting(sweeper: &Sweeper, next: Next) -> (Job, Receiver<()>) {
    let (sender, ran) = channel();
    let job = sweeper.job("reporting", move || {
        sender.send(()).unwrap();
        next
    });
    (job, ran)
}

#[test]
fn no_thread_is_started_before_a_job_is_armed() {
    let sweeper = Sweeper::new();
    let (job, _ran) = reporting(&sweeper, Next::Idle);
    assert!(!sweeper.stats().running);
    job.arm_after(HOUR);
    assert!(sweeper.stats().running);
}

#[test]
fn jobs_run_in_the_order_of_their_deadlines() {
    let sweeper = Sweeper::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let now = Instant::now() + HOUR;
    let jobs: Vec<Job> = [3, 1, 2, 1]
        .into_iter()
        .enumerate()
        .map(|(i, delay)| {
            let order = Arc::clone(&order);
            let job = sweeper.job("ordered", move || {
                order.lock().unwrap().push(i);
                Next::Idle
            });
            job.arm_at(now + Duration::from_secs(delay));
            job
        })
        .collect();
    assert_eq!(sweeper.run_due(now), 0);
    assert_eq!(sweeper.run_due(now + Duration::from_secs(2)), 3);
    assert_eq!(sweeper.run_due(now + Duration::from_secs(9)), 1);
    assert_eq!(*order.lock().unwrap(), [1, 3, 2, 0]);
    drop(jobs);
}

#[test]
fn the_earlier_deadline_stays() {
    let sweeper = Sweeper::new();
    let (job, ran) = reporting(&sweeper, Next::Idle);
    let now = Instant::now() + HOUR;
    job.arm_at(now + HOUR);
    job.arm_at(now);
    job.arm_at(now + HOUR);
    assert_eq!(sweeper.run_due(now), 1);
    assert_eq!(sweeper.run_due(now + HOUR), 0, "and was the only one");
    assert_eq!(ran.try_iter().count(), 1);
}

#[test]
fn an_earlier_deadline_wakes_the_sleeping_thread() {
    let sweeper = Sweeper::new();
    let (late, _) = reporting(&sweeper, Next::Idle);
    let (early, ran) = reporting(&sweeper, Next::Idle);
    late.arm_after(HOUR);
    for _ in 0..100 {
        early.arm_after(Duration::ZERO);
        ran.recv().unwrap();
    }
}

#[test]
fn a_job_goes_on_as_its_answer_says() {
    let sweeper = Sweeper::new();
    let now = Instant::now() + HOUR;
    let (at, _ran) = reporting(&sweeper, Next::At(now + HOUR));
    at.arm_at(now);
    assert_eq!(sweeper.run_due(now), 1);
    assert!(at.is_armed());
    assert_eq!(sweeper.run_due(now), 0);
    let (idle, _ran) = reporting(&sweeper, Next::Idle);
    idle.arm_at(now);
    assert_eq!(sweeper.run_due(now), 1);
    assert!(!idle.is_armed());
    // Due again at once, but once a call.
    let (again, _ran) = reporting(&sweeper, Next::At(now));
    again.arm_at(now);
    assert_eq!(sweeper.run_due(now), 1);
    // A time that cannot be said is never.
    let (never, _ran) = reporting(&sweeper, Next::After(Duration::MAX));
    assert!(never.arm_after(Duration::MAX));
    assert!(!never.is_armed());
}

#[test]
fn what_is_armed_during_a_run_is_not_lost() {
    let sweeper = Sweeper::new();
    let (entered, inside) = channel();
    let (go, gate) = channel::<()>();
    let job = sweeper.job("slow", move || {
        entered.send(()).unwrap();
        gate.recv().unwrap();
        Next::After(HOUR)
    });
    job.arm_after(Duration::ZERO);
    inside.recv().unwrap();
    job.arm_after(Duration::ZERO);
    go.send(()).unwrap();
    inside.recv().unwrap();
    go.send(()).unwrap();
}

#[test]
fn a_disarmed_job_does_not_run() {
    let sweeper = Sweeper::new();
    let (job, ran) = reporting(&sweeper, Next::Idle);
    let now = Instant::now() + HOUR;
    job.arm_at(now);
    job.disarm();
    assert_eq!(sweeper.run_due(now), 0);
    assert_eq!(ran.try_iter().count(), 0);
}

#[test]
fn a_panic_in_a_job_is_counted_and_the_thread_goes_on() {
    let sweeper = Sweeper::new();
    let (sender, ran) = channel();
    let mut runs = 0;
    let bad = sweeper.job("bad", move || {
        runs += 1;
        sender.send(runs).unwrap();
        assert_ne!(runs, 1, "the first run fails");
        Next::Idle
    });
    bad.arm_after(Duration::ZERO);
    assert_eq!(ran.recv().unwrap(), 1);
    let (good, good_ran) = reporting(&sweeper, Next::Idle);
    good.arm_after(Duration::ZERO);
    good_ran.recv().unwrap();
    let stats = sweeper.stats();
    assert_eq!(stats.panics, 1);
    let report = stats.last_panic.unwrap();
    assert!(
        report.starts_with("bad: ") && report.contains("the first run fails"),
        "{report}"
    );
    assert!(!bad.is_armed());
    bad.arm_after(Duration::ZERO);
    assert_eq!(ran.recv().unwrap(), 2);
}

#[test]
fn dropping_a_job_cancels_it_and_frees_its_closure() {
    let sweeper = Sweeper::new();
    let held = Arc::new(());
    let in_job = Arc::clone(&held);
    let job = sweeper.job("holds", move || {
        let _ = &in_job;
        Next::Idle
    });
    let now = Instant::now() + HOUR;
    job.arm_at(now);
    drop(job);
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(sweeper.run_due(now), 0);
    assert_eq!(sweeper.stats().jobs, 0);
}

#[test]
fn dropping_a_job_waits_for_the_run_that_has_begun() {
    let sweeper = Sweeper::new();
    let (entered, inside) = channel();
    let (go, gate) = channel::<()>();
    let done = Arc::new(AtomicBool::new(false));
    let in_job = Arc::clone(&done);
    let job = sweeper.job("slow", move || {
        entered.send(()).unwrap();
        assert!(gate.recv().is_err(), "the gate opens for good");
        in_job.store(true, Ordering::SeqCst);
        Next::After(Duration::ZERO)
    });
    job.arm_after(Duration::ZERO);
    inside.recv().unwrap();
    let dropper = thread::spawn(move || drop(job));
    drop(go);
    dropper.join().unwrap();
    assert!(done.load(Ordering::SeqCst));
    assert_eq!(Arc::strong_count(&done), 1, "the closure is gone");
}

#[test]
fn a_job_may_drop_itself_and_the_last_handle() {
    // Neither waits for the thread on which it happens.
    let sweeper = Sweeper::new();
    let own: Arc<Mutex<Option<Job>>> = Arc::default();
    let (sender, dropped) = channel();
    let in_job = Arc::clone(&own);
    let job = sweeper.job("drops itself", move || {
        let job = in_job.lock().unwrap().take();
        drop(job);
        sender.send(()).unwrap();
        Next::After(Duration::ZERO)
    });
    *own.lock().unwrap() = Some(job);
    drop(sweeper);
    let guard = own.lock().unwrap();
    guard.as_ref().unwrap().arm_after(Duration::ZERO);
    drop(guard);
    dropped.recv().unwrap();
    // The closure, and with it the sender, goes once the run is over; it ran once.
    assert!(dropped.recv().is_err());
}

#[test]
fn shutdown_waits_for_the_running_job_and_reports_the_rest() {
    let sweeper = Sweeper::new();
    let (entered, inside) = channel();
    let finished = Arc::new(AtomicUsize::new(0));
    let in_job = Arc::clone(&finished);
    let running = sweeper.job("running", move || {
        entered.send(()).unwrap();
        thread::yield_now();
        in_job.fetch_add(1, Ordering::SeqCst);
        Next::After(Duration::ZERO)
    });
    let (waiting, _ran) = reporting(&sweeper, Next::Idle);
    waiting.arm_after(HOUR);
    running.arm_after(Duration::ZERO);
    inside.recv().unwrap();
    let leftovers = sweeper.shutdown();
    assert!(leftovers.unfinished.contains(&"reporting".to_owned()));
    assert_eq!(leftovers.panics, 0);
    let runs = finished.load(Ordering::SeqCst);
    assert!(runs >= 1);
    assert!(!sweeper.stats().running);
    assert!(!running.arm_after(Duration::ZERO), "it is over");
    assert_eq!(sweeper.run_due(Instant::now() + HOUR), 0);
    assert!(sweeper.start().is_ok());
    assert!(!sweeper.stats().running);
    assert_eq!(sweeper.shutdown().unfinished, Vec::<String>::new());
    assert_eq!(finished.load(Ordering::SeqCst), runs);
}

#[test]
fn dropping_the_last_handle_joins_the_thread() {
    let held = Arc::new(());
    let in_job = Arc::clone(&held);
    let sweeper = Sweeper::new();
    let job = sweeper.job("holds", move || {
        let _ = &in_job;
        Next::After(Duration::ZERO)
    });
    job.arm_after(Duration::ZERO);
    drop(sweeper);
    drop(job);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn a_job_that_sweeps_its_own_sweeper_runs_nothing() {
    let sweeper = Arc::new(Mutex::new(None::<Sweeper>));
    let in_job = Arc::clone(&sweeper);
    let (sender, counts) = channel();
    let real = Sweeper::new();
    let job = real.job("nested", move || {
        let inner = in_job.lock().unwrap();
        let count = inner.as_ref().unwrap().run_due(Instant::now() + HOUR);
        sender.send(count).unwrap();
        Next::Idle
    });
    *sweeper.lock().unwrap() = Some(real.clone());
    job.arm_after(Duration::ZERO);
    assert_eq!(counts.recv().unwrap(), 0);
    sweeper.lock().unwrap().take();
}

/// A thread's current system call: its number and six arguments. Empty once the thread is gone.
fn system_call(thread: &Path) -> Vec<String> {
    let path = Path::new("/proc").join(thread).join("syscall");
    let call = std::fs::read_to_string(path).unwrap_or_default();
    call.split_whitespace().map(str::to_owned).collect()
}

fn is_futex(call: &[String]) -> bool {
    let futex = if cfg!(target_arch = "x86_64") {
        "202"
    } else {
        "98"
    };
    call.first().is_some_and(|number| number == futex)
}

/// Whether a futex call has a time-out.
fn is_timed(call: &[String]) -> bool {
    call[4] != "0x0"
}

/// The sweeper's thread, under `/proc`.
fn thread_of(sweeper: &Sweeper) -> PathBuf {
    let (sender, threads) = channel();
    let job = sweeper.job("says its thread", move || {
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        sender.send(thread).unwrap();
        Next::Idle
    });
    job.arm_after(Duration::ZERO);
    threads.recv().unwrap()
}

/// Returns once the sweeper's thread sleeps until a deadline.
fn await_timed_sleep(sweeper: &Sweeper) {
    let thread = thread_of(sweeper);
    loop {
        let call = system_call(&thread);
        if is_futex(&call) && is_timed(&call) {
            return;
        }
        thread::yield_now();
    }
}

#[test]
fn a_run_on_another_thread_that_is_due_again_wakes_the_sleeping_thread() {
    let sweeper = Sweeper::new();
    let (sender, ran) = channel();
    let mut nexts = [Next::After(Duration::from_millis(5)), Next::Idle].into_iter();
    let job = sweeper.job("twice", move || {
        sender.send(thread::current().id()).unwrap();
        nexts.next().unwrap()
    });
    job.arm_after(HOUR);
    await_timed_sleep(&sweeper);
    assert_eq!(sweeper.run_due(Instant::now() + 2 * HOUR), 1);
    let here = thread::current().id();
    assert_eq!(ran.recv().unwrap(), here);
    assert_ne!(ran.recv().unwrap(), here, "the second run is the thread's");
}

#[test]
fn arming_during_a_run_on_another_thread_wakes_the_sleeping_thread() {
    let sweeper = Sweeper::new();
    let (entered, inside) = channel();
    let (go, gate) = channel::<()>();
    let job = sweeper.job("slow", move || {
        entered.send(()).unwrap();
        gate.recv().unwrap();
        Next::Idle
    });
    job.arm_after(HOUR);
    await_timed_sleep(&sweeper);
    let runner = thread::spawn({
        let sweeper = sweeper.clone();
        move || sweeper.run_due(Instant::now() + 2 * HOUR)
    });
    inside.recv().unwrap();
    job.arm_after(Duration::ZERO);
    go.send(()).unwrap();
    assert_eq!(runner.join().unwrap(), 1);
    inside.recv().unwrap();
    go.send(()).unwrap();
}

#[test]
fn a_second_shutdown_waits_for_the_thread_as_the_first_does() {
    let sweeper = Sweeper::new();
    let (entered, inside) = channel();
    let (go, gate) = channel::<()>();
    let finished = Arc::new(AtomicBool::new(false));
    let in_job = Arc::clone(&finished);
    let running = sweeper.job("running", move || {
        entered.send(()).unwrap();
        gate.recv().unwrap();
        in_job.store(true, Ordering::SeqCst);
        Next::Idle
    });
    running.arm_after(Duration::ZERO);
    inside.recv().unwrap();
    let shut_down = || {
        let (sweeper, finished) = (sweeper.clone(), Arc::clone(&finished));
        let (sender, threads) = channel();
        let thread = thread::spawn(move || {
            sender
                .send(std::fs::read_link("/proc/thread-self").unwrap())
                .unwrap();
            sweeper.shutdown();
            (finished.load(Ordering::SeqCst), sweeper.stats().running)
        });
        (thread, threads.recv().unwrap())
    };
    let (first, _) = shut_down();
    while running.arm_after(HOUR) {
        thread::yield_now();
    }
    let (second, path) = shut_down();
    while !second.is_finished() && !is_futex(&system_call(&path)) {
        thread::yield_now();
    }
    let has_thread = sweeper.stats().running;
    go.send(()).unwrap();
    assert!(has_thread, "while the job runs");
    for shutdown in [second, first] {
        assert_eq!(shutdown.join().unwrap(), (true, false));
    }
}

#[test]
fn a_shutdown_waits_for_the_thread_after_one_from_a_job() {
    let slot = Arc::new(Mutex::new(None::<Sweeper>));
    let in_job = Arc::clone(&slot);
    let (entered, inside) = channel();
    let (go, gate) = channel::<()>();
    let finished = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&finished);
    let sweeper = Sweeper::new();
    let job = sweeper.job("shuts down", move || {
        in_job.lock().unwrap().take().unwrap().shutdown();
        entered.send(()).unwrap();
        gate.recv().unwrap();
        done.store(true, Ordering::SeqCst);
        Next::Idle
    });
    *slot.lock().unwrap() = Some(sweeper.clone());
    job.arm_after(Duration::ZERO);
    inside.recv().unwrap();
    let has_thread = sweeper.stats().running;
    go.send(()).unwrap();
    sweeper.shutdown();
    assert!(has_thread, "while the job runs");
    assert!(finished.load(Ordering::SeqCst));
    assert!(!sweeper.stats().running);
}

#[test]
fn an_idle_sweeper_sleeps_in_one_system_call_without_a_deadline() {
    let sweeper = Sweeper::new();
    let thread = thread_of(&sweeper);
    let call = loop {
        let call = system_call(&thread);
        if is_futex(&call) && sweeper.stats().armed == 0 {
            break call;
        }
        thread::yield_now();
    };
    assert!(!is_timed(&call), "{call:?}");
    assert_eq!(sweeper.stats().runs, 1);
}

#[test]
fn the_handles_may_cross_a_caught_panic() {
    fn check<T: UnwindSafe + RefUnwindSafe>() {}
    check::<Sweeper>();
    check::<Job>();
}
