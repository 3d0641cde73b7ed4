//! An idle process makes no system calls and no wake-ups: components that were used, and are now at rest, cost nothing.
//!
//! The test starts itself again as a child that uses every component and then rests. What the child does at rest is
//! read from outside: context switches of all its threads from `/proc`, and system calls by `strace`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use latchwork::latch::LatchTable;
use latchwork::rmw::{Rmw, SetOptions};
use latchwork::semaphore::Semaphore;
use latchwork::sweeper::{Next, Sweeper};
use rustix::process::{Pid, Signal, kill_process};

const AT_REST: &str = "at rest";
/// Set for the child.
const ROLE: &str = "LATCHWORK_IDLE_CHILD";
/// How long the child is watched. Longer than any of the periods it was told.
const WATCHED: Duration = Duration::from_secs(2);
const PERIOD: Duration = Duration::from_millis(20);

/// Uses everything, with the shortest periods, and leaves it standing.
fn use_everything() -> impl Sized {
    // A semaphore with a leak behind it, and waiters of both kinds in line.
    let (send, reports) = mpsc::channel();
    let semaphore = Semaphore::builder("idle")
        .track_holders(true)
        .on_leak(move |report| send.send(report).unwrap())
        .build()
        .unwrap();
    let leaky = semaphore.clone();
    thread::spawn(move || std::mem::forget(leaky.acquire().unwrap()))
        .join()
        .unwrap();
    assert_eq!(reports.recv().unwrap().amount, 1);
    let held = semaphore.acquire().unwrap().into_owned();
    semaphore.acquire_timeout(PERIOD).unwrap_err();
    let pending = semaphore.acquire_with(|_| ());
    pending.as_fd().unwrap();
    for _ in 0..2 {
        let semaphore = semaphore.clone();
        thread::spawn(move || semaphore.acquire().map(drop));
    }
    // The only way to see from outside that a thread waits.
    while semaphore.waiters() < 3 {
        thread::yield_now();
    }

    // A latch table that was waited on, by all means, and is free again.
    let (send, reports) = mpsc::channel();
    let table = LatchTable::<str>::builder()
        .on_leak(move |report| send.send(report).unwrap())
        .build()
        .unwrap();
    let leaky = table.clone();
    thread::spawn(move || std::mem::forget(leaky.latch("key").unwrap()))
        .join()
        .unwrap();
    assert_eq!(reports.recv().unwrap().amount, 1);
    let latch = table.latch("key").unwrap();
    let (send, told) = mpsc::channel();
    let delivered = table.latch_with("key", move |latch| send.send(latch).unwrap());
    let waiting = table.clone();
    let waiter = thread::spawn(move || waiting.latch("key").map(drop).unwrap());
    while table.waiters() < 2 {
        thread::yield_now();
    }
    drop(latch);
    drop(told.recv().unwrap());
    waiter.join().unwrap();

    // A store with a key that has expired and been swept, and one that stays.
    let sweeper = Sweeper::new();
    let rmw = Rmw::builder()
        .sweeper(sweeper.clone())
        .sweep_interval(PERIOD)
        .build();
    rmw.set("stays", "here").unwrap();
    rmw.set_with("expires", "soon", &SetOptions::new().expire_in(PERIOD))
        .unwrap();
    while rmw.len() > 1 {
        thread::yield_now();
    }

    // A job that has run a few times, and one that was armed and disarmed.
    let (send, runs) = mpsc::channel();
    let mut left = 3;
    let job = sweeper.job("ends", move || {
        left -= 1;
        send.send(left).unwrap();
        if left > 0 {
            Next::After(PERIOD)
        } else {
            Next::Idle
        }
    });
    job.arm_after(Duration::ZERO);
    assert_eq!(runs.iter().take(3).count(), 3);
    let disarmed = sweeper.job("disarmed", || Next::After(PERIOD));
    disarmed.arm_after(PERIOD);
    disarmed.disarm();

    (
        (semaphore, held, pending),
        (table, delivered),
        (rmw, sweeper, job, disarmed),
    )
}

/// What the child does: its parent ends it by closing its input.
fn rest() {
    let everything = use_everything();
    println!("\n{AT_REST}");
    io::stdout().flush().unwrap();
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    // What waits in line is let go.
    drop(everything);
}

/// A child at rest.
struct Resting {
    child: Child,
    input: Option<ChildStdin>,
}

impl Resting {
    /// Starts the child, which runs the test `name` in its other role.
    fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads", "1"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        assert!(
            output.lines().any(|line| line.unwrap() == AT_REST),
            "the child never came to rest"
        );
        let resting = Self { child, input };
        resting.settle();
        resting
    }

    /// Waits until every thread sleeps and none has been switched since it was last looked at: what was
    /// begun before the child said that it rests is then over.
    fn settle(&self) {
        let mut before = None;
        loop {
            let now = self.threads();
            let all_sleep = now.values().all(|thread| thread.sleeps);
            if all_sleep && before.as_ref() == Some(&now) {
                return;
            }
            before = Some(now);
            thread::yield_now();
        }
    }

    /// The child's threads, by their numbers.
    fn threads(&self) -> BTreeMap<u32, Thread> {
        let tasks = format!("/proc/{}/task", self.child.id());
        fs::read_dir(tasks)
            .unwrap()
            .filter_map(|task| {
                let task = task.unwrap();
                let id = task.file_name().to_str()?.parse().ok()?;
                // A thread that has ended since the listing is none.
                let status = fs::read_to_string(task.path().join("status")).ok()?;
                Some((id, Thread::parse(&status)))
            })
            .collect()
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        drop(self.input.take());
        let status = self.child.wait();
        if !thread::panicking() {
            assert!(status.unwrap().success());
        }
    }
}

/// A thread as `/proc` shows it.
#[derive(Debug, PartialEq, Eq)]
struct Thread {
    name: String,
    sleeps: bool,
    voluntary: u64,
    involuntary: u64,
}

impl Thread {
    fn parse(status: &str) -> Self {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_else(|| panic!("no {name} in {status}"))
                .trim()
        };
        Self {
            name: field("Name").to_owned(),
            sleeps: field("State").starts_with('S'),
            voluntary: field("voluntary_ctxt_switches").parse().unwrap(),
            involuntary: field("nonvoluntary_ctxt_switches").parse().unwrap(),
        }
    }
}

#[test]
fn an_idle_process_is_never_scheduled() {
    if std::env::var_os(ROLE).is_some() {
        return rest();
    }
    let resting = Resting::start("an_idle_process_is_never_scheduled");
    let before = resting.threads();
    // The library's own are among them, so that it is known that they rest.
    for name in ["lw-courier", "lw-sweep"] {
        assert!(before.values().any(|thread| thread.name == name), "{name}");
    }
    thread::sleep(WATCHED);
    assert_eq!(resting.threads(), before, "somebody was scheduled");
    println!("{} threads, 0 context switches", before.len());
}

#[test]
fn an_idle_process_makes_no_system_calls() {
    if std::env::var_os(ROLE).is_some() {
        return rest();
    }
    let resting = Resting::start("an_idle_process_makes_no_system_calls");
    let threads = resting.threads().len();
    let strace = Command::new("strace")
        .args(["-f", "-p", &resting.child.id().to_string()])
        .stderr(Stdio::piped())
        .spawn();
    let mut strace = match strace {
        Ok(strace) => strace,
        Err(error) => {
            println!("SKIP: strace does not start: {error}");
            return;
        }
    };
    // Said when all threads have been attached to.
    let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
    let mut calls = Vec::new();
    loop {
        let Some(line) = lines.next() else {
            println!("SKIP: strace may not attach here: {}", calls.join("; "));
            strace.wait().unwrap();
            return;
        };
        let line = line.unwrap();
        if line.contains(" attached") {
            break;
        }
        calls.push(line);
    }
    thread::sleep(WATCHED);
    kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
    calls.extend(lines.map(Result::unwrap));
    strace.wait().unwrap();
    // What a thread slept in when it was attached to is printed once, as unfinished.
    println!("{}", calls.join("\n"));
}
