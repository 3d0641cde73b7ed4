//! A load as a build makes: many jobs, few slots, and kills all over.
//!
//! The commands themselves check how many of them run. Each leaves a file with its number in a
//! directory, under a lock, and counts the others there that run still. The file of a command that
//! was killed stays; the command runs no more once the kernel has begun its exit, which comes
//! before its descriptors are closed, and so before its slot can be another's.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::Pid;

use crate::random::Random;
use crate::support::{Output, Place, Process, Running, stat};

const PLACE: &str = "LATCHWORK_SLOTS_PLACE";
const LIMIT: &str = "LATCHWORK_SLOTS_LIMIT";

/// Precedes the command's number and its start.
const COMMAND: &str = "command ";

/// What the command says when the others can see it.
const IS_SEEN: &str = "is seen";

/// Where the kernel's flags and the time of the start are, counted from the state.
const FLAGS_FIELD: usize = 6;
const START_FIELD: usize = 19;
const EXITING: u32 = 4;

/// A process, and when it was started: a number may come back, the two together do not.
fn identity(pid: u32) -> Option<String> {
    Some(format!("{pid} {}", stat(pid)?.get(START_FIELD)?))
}

/// Whether a process runs, or may run again.
fn runs(identity: &str) -> bool {
    let pid = identity.split(' ').next().and_then(|pid| pid.parse().ok());
    let Some(fields) = pid.and_then(stat) else {
        return false;
    };
    let pid = pid.unwrap_or_default();
    let is_exiting = fields[FLAGS_FIELD]
        .parse()
        .is_ok_and(|flags: u32| flags & EXITING != 0);
    !is_exiting
        && !["Z", "X"].contains(&fields[0].as_str())
        && identity == format!("{pid} {}", fields[START_FIELD])
}

/// What the jobs of the load run: this program, with only this test. It ends with its input.
#[test]
#[ignore = "it is the command of the load, not a test"]
fn the_command_of_the_load() {
    let (Ok(place), Ok(limit)) = (std::env::var(PLACE), std::env::var(LIMIT)) else {
        return;
    };
    let limit: usize = limit.parse().expect("a number");
    let own = identity(std::process::id()).expect("it is there");
    println!("\n{COMMAND}{own}");
    let place = Path::new(&place);
    let running = place.join("running");
    let lock = File::create(place.join("lock")).expect("a lock");
    lock.lock().expect("a lock");
    let entries = fs::read_dir(&running).expect("the directory");
    let others = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let others = others.filter(|other| runs(other)).count();
    let entry = running.join(&own);
    File::create(&entry).expect("an entry");
    if others >= limit {
        let name = format!("{own} saw {others} others");
        File::create(place.join("too-many").join(name)).expect("a complaint");
    }
    lock.unlock().expect("a lock");
    println!("{IS_SEEN}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("its input");
    fs::remove_file(entry).expect("its own entry");
}

/// Where the commands of a load meet.
struct Load {
    place: Place,
    /// How many may run.
    limit: usize,
    /// How many slots there are.
    permits: usize,
}

impl Load {
    fn new(limit: usize, permits: usize) -> Self {
        let place = Place::new();
        for directory in ["running", "too-many"] {
            fs::create_dir(place.directory().join(directory)).expect("a directory");
        }
        Self {
            place,
            limit,
            permits,
        }
    }

    fn slots(&self) -> Command {
        let test = std::env::current_exe().expect("the test's own path");
        let permits = self.permits.to_string();
        let arguments = ["--permits", &permits, "--timeout", "100", "--"];
        let mut slots = self.place.slots(arguments);
        slots
            .arg(test)
            .args(["--ignored", "--nocapture", "--exact"])
            .arg("load::the_command_of_the_load")
            .env(PLACE, self.place.directory())
            .env(LIMIT, self.limit.to_string());
        slots
    }

    /// Of which commands saw too many others.
    fn complaints(&self) -> Vec<String> {
        let directory = self.place.directory().join("too-many");
        let complaints = fs::read_dir(directory).expect("the directory");
        complaints
            .map(|entry| entry.expect("an entry").file_name())
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }
}

/// What a job's processes are in for, each time after some time.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// From when nothing else is to come.
    command_ends: Duration,
    /// From its start, or from when the command is there.
    slots_is_killed: Option<Duration>,
    slots_runs_first: bool,
    /// From when the command is there, or from the kill of `slots`.
    command_is_killed: Option<Duration>,
    slots_first: bool,
}

impl Plan {
    fn new(random: &mut Random) -> Self {
        let third =
            |random: &mut Random, millis| (random.below(3) == 0).then(|| up_to(random, millis));
        let slots_runs_first = random.below(2) == 0;
        Self {
            command_ends: up_to(random, 20),
            slots_is_killed: third(random, if slots_runs_first { 20 } else { 200 }),
            slots_runs_first,
            command_is_killed: third(random, 20),
            slots_first: random.below(2) == 0,
        }
    }

    fn command_goes_first(&self) -> bool {
        self.command_is_killed.is_some() && !self.slots_first
    }
}

fn up_to(random: &mut Random, millis: usize) -> Duration {
    Duration::from_micros(random.below(millis * 1000) as u64)
}

/// How often what happened.
#[derive(Debug, Default)]
struct Tally {
    well: AtomicUsize,
    commands: AtomicUsize,
    commands_killed: AtomicUsize,
    slots_killed: AtomicUsize,
    /// Of these, those with a command.
    slots_killed_running: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Reads a job's output to the end of all who have it, and sees to the end of its command. Drops
/// `waits` when that is there, or nobody is any more. `slots_is_dead` ends when the kill of `slots`
/// that was planned is done. Says whether there was a command.
fn follow(
    mut output: Output,
    plan: Plan,
    waits: Sender<()>,
    slots_is_dead: &Receiver<()>,
    tally: &Tally,
) -> bool {
    let Some(identity) = output.until(COMMAND) else {
        return false;
    };
    count(&tally.commands);
    drop(waits);
    if plan.slots_is_killed.is_some() && !plan.command_goes_first() {
        let _ = slots_is_dead.recv();
    }
    match plan.command_is_killed {
        Some(after) => {
            thread::sleep(after);
            kill(&identity);
            count(&tally.commands_killed);
        }
        None => thread::sleep(plan.command_ends),
    }
    output.end_input();
    output.rest();
    true
}

/// Kills a process, which is there.
fn kill(identity: &str) {
    let pid = identity.split(' ').next().and_then(|pid| pid.parse().ok());
    let process = Process::open(pid.and_then(Pid::from_raw).expect("a number"));
    // The handle is of the process that has this number now. If that is the one, it stays so.
    assert!(runs(identity), "nobody else ends it");
    process.kill();
}

fn job(load: &Load, plan: Plan, tally: &Tally) {
    let Running { mut slots, output } = Running::start(&mut load.slots());
    let (is_done, slots_is_dead) = channel();
    let (waits, command_is_there) = channel();
    thread::scope(|scope| {
        let output = scope.spawn(move || follow(output, plan, waits, &slots_is_dead, tally));
        if let Some(after) = plan.slots_is_killed {
            if plan.slots_runs_first {
                let _: Result<(), _> = command_is_there.recv();
            }
            thread::sleep(after);
            slots.kill();
        }
        let status = slots.wait();
        drop::<Sender<()>>(is_done);
        let had_command = output.join().expect("the reader");
        let is_killed = status.signal() == Some(9);
        match (plan.slots_is_killed, plan.command_is_killed) {
            (None, None) => {
                assert_eq!(status.code(), Some(0), "{plan:?}: {status}");
                count(&tally.well);
            }
            _ => assert!(is_killed, "{plan:?}: {status}"),
        }
        if plan.slots_is_killed.is_some() && !plan.command_goes_first() {
            count(&tally.slots_killed);
            if had_command {
                count(&tally.slots_killed_running);
            }
        }
    });
}

/// One number for an ordinary run, another for `LATCHWORK_STORM=full`.
fn size(short: usize, full: usize) -> usize {
    match std::env::var("LATCHWORK_STORM").as_deref() {
        Ok("full") => full,
        Ok("short") | Err(_) => short,
        Ok(other) => panic!("LATCHWORK_STORM is `short` or `full`, not `{other}`"),
    }
}

#[test]
fn no_more_commands_than_slots_run_whoever_is_killed() {
    let permits = 4;
    let mut random = Random::new("no_more_commands_than_slots_run_whoever_is_killed");
    let plans: Vec<_> = (0..size(200, 4000))
        .map(|_| Plan::new(&mut random))
        .collect();
    let (load, tally) = (Load::new(permits, permits), Tally::default());
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 * permits {
            scope.spawn(|| {
                while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                    job(&load, *plan, &tally);
                }
            });
        }
    });
    println!("{} jobs: {tally:?}", plans.len());
    assert_eq!(load.complaints(), [""; 0]);
    // All are back, the last of those who were killed perhaps just now; and no more than all.
    let semaphore = load.place.open();
    let all = semaphore.acquire_many_timeout(permits as u32, Duration::from_secs(100));
    let all = all.expect("all slots are back");
    assert!(semaphore.try_acquire().is_err());
    assert_eq!(
        (semaphore.current(), semaphore.waiters()),
        (permits as u32, 0)
    );
    drop(all);
}

#[test]
fn the_commands_of_the_load_notice_one_too_many() {
    let load = Load::new(1, 2);
    let jobs = [(); 2].map(|()| {
        let mut job = Running::start(&mut load.slots());
        assert!(job.output.until(IS_SEEN).is_some());
        job
    });
    for mut job in jobs {
        job.output.end_input();
        job.output.rest();
        assert!(job.slots.wait().success());
    }
    let complaints = load.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].ends_with("saw 1 others"), "{complaints:?}");
}
