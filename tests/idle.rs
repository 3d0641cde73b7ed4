//! An idle process makes no system calls and no wake-ups: components that were used, and are now at
//! rest, cost nothing.
//!
//! The test starts itself again as a child that uses every component and then rests. What the child
//! does at rest is read from outside: context switches of all its threads from `/proc`, and system
//! calls by `strace`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use latchwork::SharedSemaphore;
use latchwork::flush::{FlushPipeline, Reservation, WaitError, each};
use latchwork::fs::MemoryFs;
use latchwork::latch::LatchTable;
use latchwork::rmw::{
    Command as RmwCommand, CoordinatorOptions, Rmw, RmwCoordinator, RmwError, SetOptions,
};
use latchwork::semaphore::Semaphore;
use latchwork::sweeper::{Next, Sweeper};
use latchwork::wal::{Durability, Wal};
use rustix::process::{Pid, Signal, kill_process};

const AT_REST: &str = "at rest";
/// Set for the child: [`RESTS`] or [`FIDGETS`].
const ROLE: &str = "LATCHWORK_IDLE_CHILD";
const RESTS: &str = "rests";
/// One thread more, which wakes up now and then: what the watchers must notice.
const FIDGETS: &str = "fidgets";
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

    let shared = use_shared();
    let flushes = use_flush();
    let logs = use_logs();

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
    let latches = LatchTable::builder()
        .sweeper(sweeper.clone())
        .sweep_every(PERIOD)
        .build()
        .unwrap();
    let rmw = Rmw::builder()
        .latches(latches)
        .sweeper(sweeper.clone())
        .sweep_every(PERIOD)
        .build();
    rmw.set("stays", "here").unwrap();
    rmw.set_with("expires", "soon", &SetOptions::new().expire_in(PERIOD))
        .unwrap();
    while rmw.len() > 1 {
        thread::yield_now();
    }

    // A coordinator whose thread has served a command that waited, and one that was given up.
    let coordinator = RmwCoordinator::start(&rmw, CoordinatorOptions::new().shards(1));
    let incr = || RmwCommand::incr("counts", 1);
    rmw.update_many(&["counts"], |_| {
        let served = coordinator.submit(0, incr()).unwrap();
        let given_up = coordinator.submit(0, incr()).unwrap();
        let given_up = given_up.wait_timeout(PERIOD).unwrap_err();
        assert!(given_up.cancel());
        Ok::<_, RmwError>(served)
    })
    .unwrap()
    .unwrap()
    .wait()
    .unwrap()
    .unwrap();

    // Pops that are blocked, in both ways, and one whose time is up.
    assert!(rmw.blpop_timeout(&["empty"], PERIOD).unwrap().is_none());
    let blocked = rmw.blpop_with(&["empty"], drop);
    for _ in 0..2 {
        let rmw = rmw.clone();
        thread::spawn(move || rmw.blpop(&["empty", "as well"]).map(drop));
    }
    while rmw.stats().blocked < 3 {
        thread::yield_now();
    }

    // A job that was armed and disarmed, and one that then ran a few times: the sweeper may wake up
    // once at the time for which the first was armed, and has by the end of the second.
    let disarmed = sweeper.job("disarmed", || Next::After(PERIOD));
    disarmed.arm_after(PERIOD);
    disarmed.disarm();
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

    (
        (semaphore, held, pending, shared),
        (flushes, logs),
        (table, delivered),
        (rmw, blocked, sweeper, coordinator, job, disarmed),
    )
}

/// A pipeline that has finalized some flushes and halted at one, with a ticket that nobody waits
/// for and a drain that somebody does, and one that is full.
fn use_flush() -> impl Sized {
    let pipeline = |refuses: bool| {
        let finalizer = each(move |_, item: &mut u64| match refuses {
            true => Err(io::Error::other("refused")),
            false => Ok(*item),
        });
        FlushPipeline::builder("idle")
            .max_in_flight(2)
            .stream_timeout(Duration::from_secs(3600))
            .finalizer(finalizer)
            .build()
            .unwrap()
    };
    let good = pipeline(false);
    let rotate = |reserved: Reservation<'_, _>| reserved.rotate(&mut (), |(), sequence| sequence);
    for _ in 0..10 {
        let slot = rotate(good.reserve(0).unwrap());
        drop(slot.submit(|job| Ok(**job)).unwrap());
    }
    good.drain().unwrap();
    let unsubmitted = [(); 2].map(|()| rotate(good.reserve(0).unwrap()).hand_over());
    assert!(good.try_reserve(0).is_err());
    let waiter = good.reserve_with(0, drop);
    let drained = good.drain_with(drop);

    let halted = pipeline(true);
    let slot = halted
        .reserve(0)
        .unwrap()
        .rotate(&mut (), |(), sequence| sequence);
    let ticket = slot.submit(|job| Ok(**job)).unwrap();
    let Err(WaitError::Halted(0, ticket)) = ticket.wait() else {
        panic!("a finalizer that fails halts the pipeline");
    };
    // The last handle goes last: it waits for what another thread has in hand.
    (unsubmitted, waiter, drained, good, (halted, ticket))
}

/// A log of each durability, with nothing left to write or to sync.
fn use_logs() -> impl Sized {
    let durabilities = [
        Durability::None,
        Durability::Periodic(PERIOD),
        Durability::Sync,
    ];
    durabilities.map(|durability| {
        let builder = Wal::builder("/log").fs(Arc::new(MemoryFs::new()));
        let opened = builder
            .durability(durability)
            .open(|_, _| Ok::<(), io::Error>(()));
        let (wal, _) = opened.unwrap();
        wal.append(b"by who waits").unwrap();
        let last = wal.enqueue(b"by the log's thread").unwrap();
        let (send, told) = mpsc::channel();
        wal.append_with(b"for a callback", move |lsn| send.send(lsn).unwrap());
        wal.sync().unwrap();
        told.recv().unwrap().unwrap();
        assert!(wal.durable_lsn() >= last);
        wal
    })
}

/// Two attachments to a shared semaphore whose permits are held and leased, and were waited for in
/// each way. Nobody waits any more.
fn use_shared() -> impl Sized {
    let path = std::env::temp_dir().join(format!("latchwork-idle-{}", std::process::id()));
    let open = || SharedSemaphore::open(&path, 3).unwrap();
    let (one, other) = (open(), open());
    SharedSemaphore::remove(&path).unwrap();
    let held = one.acquire().unwrap().into_owned();
    let lease = one.acquire_leased(PERIOD).unwrap();
    let renewed = one.acquire_leased(Duration::from_secs(3600)).unwrap();
    other.acquire_many_timeout(3, PERIOD).unwrap_err();
    let (send, told) = mpsc::channel();
    let delivered = other.acquire_with(move |permit| send.send(permit).unwrap());
    let cancelled = one.acquire_many_with(3, drop);
    assert!(cancelled.cancel());
    let waiter = thread::spawn({
        let one = one.clone();
        move || one.acquire().map(drop).unwrap()
    });
    // Once the lease is over.
    drop(told.recv().unwrap().unwrap());
    waiter.join().unwrap();
    assert_eq!((one.waiters(), one.current()), (0, 2));
    (one, other, held, (lease, renewed), delivered)
}

/// What the child does: its parent ends it by closing its input.
fn play(role: &str) {
    let everything = use_everything();
    if role == FIDGETS {
        thread::spawn(|| {
            loop {
                thread::sleep(PERIOD);
            }
        });
    }
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
    /// Kept open: the harness in the child writes its result.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Resting {
    /// Starts the child.
    fn start(role: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            output.any(|line| line.unwrap() == AT_REST),
            "the child never came to rest"
        );
        let resting = Self {
            child,
            input,
            _output: output,
        };
        resting.settle();
        resting
    }

    /// Waits until every thread sleeps and none has been switched since it was last looked at: what
    /// was begun before the child said that it rests is then over.
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

/// What the child does while it is watched.
impl Resting {
    /// The threads that were scheduled.
    fn wakeful(&self) -> Vec<Thread> {
        let before = self.threads();
        thread::sleep(WATCHED);
        self.threads()
            .into_iter()
            .filter(|(id, after)| before.get(id) != Some(after))
            .map(|(_, after)| after)
            .collect()
    }

    /// The table of system calls, empty if there were none. `Err`: why that cannot be said here.
    fn system_calls(&self) -> Result<String, String> {
        let mut strace = Command::new("strace")
            .args(["-c", "-f", "-p", &self.child.id().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("strace does not start: {error}"))?;
        // The first line comes when all threads have been attached to, or when that is not allowed.
        let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
        let first = said.next().expect("strace says something").unwrap();
        if !first.contains(" attached") {
            strace.wait().unwrap();
            return Err(format!("strace may not attach: {first}"));
        }
        thread::sleep(WATCHED);
        kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
        // The rest is the table of calls, if there were any.
        let calls: Vec<String> = said
            .map(Result::unwrap)
            .filter(|line| !line.starts_with("strace: Process "))
            .collect();
        strace.wait().unwrap();
        Ok(calls.join("\n"))
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

/// Not a test: what the others start.
#[test]
fn child() {
    if let Ok(role) = std::env::var(ROLE) {
        play(&role);
    }
}

#[test]
fn an_idle_process_is_never_scheduled() {
    let resting = Resting::start(RESTS);
    // The library's own threads are among them, so that it is known that they rest.
    let threads = resting.threads();
    for name in ["lw-dispatch", "lw-sweep", "lw-rmw-0", "lw-lifeline"] {
        assert!(threads.values().any(|thread| thread.name == name), "{name}");
    }
    assert_eq!(resting.wakeful(), []);
    println!("{} threads, 0 context switches", threads.len());
}

#[test]
fn an_idle_process_makes_no_system_calls() {
    let resting = Resting::start(RESTS);
    match resting.system_calls() {
        Ok(calls) => assert!(calls.is_empty(), "{calls}"),
        Err(why) => println!("SKIP: {why}"),
    }
}

/// What the two tests above would miss, they would prove nothing about.
#[test]
fn a_thread_that_wakes_up_is_noticed() {
    let fidgeting = Resting::start(FIDGETS);
    assert_eq!(fidgeting.wakeful().len(), 1);
    match fidgeting.system_calls() {
        Ok(calls) => assert!(calls.contains("nanosleep"), "{calls}"),
        Err(why) => println!("SKIP: {why}"),
    }
}
