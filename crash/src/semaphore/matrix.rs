//! What else may happen to a process that holds permits: no false death, and no leak.

pub(super) mod puppet;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use self::puppet::{Puppet, Theatre};
use super::audit;
use crate::child;
use crate::scene::Scene;
use latchwork::SharedSemaphore;

const PERMITS: u32 = 4;

/// Longer than several of the looks that a waiter takes at the living.
const SEVERAL_LOOKS: &str = "400";
/// As good as for ever: the answer is expected at once.
const PATIENCE: &str = "20000";
/// The same where a slow disk must take a large core dump first.
const DUMP: Duration = Duration::from_secs(120);

/// The figures of a passed scene.
type Act = fn(&mut Scene, &Theatre) -> Result<String>;

const ACTS: &[(&str, Act)] = &[
    ("fork", fork),
    ("exit", exit),
    ("callback", callback),
    ("crowd", crowd),
    ("past-leases", past_leases),
    ("failed-exec", failed_exec),
    ("exec", exec),
    ("pid-namespaces", pid_namespaces),
    ("other-boot", other_boot),
    ("stopped", stopped),
    ("core-dump", core_dump),
    ("memory-reaped", memory_reaped),
    ("strict", strict),
];

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    for (name, act) in ACTS {
        let label = format!("matrix {name}");
        if let Some(why) = impossible(name) {
            scene.skip(&label, &why);
            continue;
        }
        let theatre = Theatre::open(scene, name, PERMITS)?;
        let started = Instant::now();
        let (figures, result) = match act(scene, &theatre) {
            Ok(figures) => (figures, audit::capacity(&theatre.path, PERMITS, PERMITS)),
            Err(error) => (String::new(), Err(error)),
        };
        let seconds = started.elapsed().as_secs_f64();
        let figures = format!(
            "{figures}{}seconds={seconds:.1}",
            if figures.is_empty() { "" } else { " " }
        );
        scene.report(&label, figures, result);
    }
    Ok(())
}

/// Why an act cannot be played here.
fn impossible(name: &str) -> Option<String> {
    let needed = match name {
        "pid-namespaces" => CloneFlags::CLONE_NEWPID,
        "other-boot" => CloneFlags::CLONE_NEWNS,
        _ => return None,
    };
    child::no_namespaces(needed)
}

/// Somebody who holds two permits, and somebody who looks on.
fn cast(theatre: &Theatre) -> Result<(Puppet, Puppet)> {
    let (mut holder, mut observer) = (theatre.puppet()?, theatre.puppet()?);
    holder.ok("open")?;
    observer.ok("open")?;
    holder.ok("take 2")?;
    Ok((holder, observer))
}

/// Two permits are held, by somebody who is not taken for dead.
fn two_are_held(observer: &mut Puppet) -> Result<()> {
    observer.expect(&format!("wait 4 {SEVERAL_LOOKS}"), "TimedOut")?;
    observer.expect("current", "2")
}

fn all_come_back(observer: &mut Puppet) -> Result<()> {
    observer.tell(&format!("wait 4 {PATIENCE}"))?;
    all_have_come_back(observer)
}

/// Takes the answer of one who waits for all.
fn all_have_come_back(observer: &mut Puppet) -> Result<()> {
    let answer = observer.reply()?;
    ensure!(answer == "ok", "the permits of the dead: {answer}");
    observer.ok("drop")?;
    observer.expect("current", "0")
}

/// What a child inherits is inert; it can open for itself; and it does not keep its parent's.
fn fork(_: &mut Scene, theatre: &Theatre) -> Result<String> {
    let (mut holder, mut observer) = cast(theatre)?;
    let mut child = holder.fork(theatre)?;
    child.ok("drop")?;
    observer.expect("current", "2")?;
    child.expect("try 1", "Detached")?;
    for end in ["exit", "forget"] {
        let mut other = holder.fork(theatre)?;
        if end == "forget" {
            other.ok("forget")?;
        }
        other.tell("exit")?;
        other.hang_up()?;
        observer.expect("current", "2")?;
    }
    two_are_held(&mut observer)?;
    child.ok("open")?;
    child.ok("take 1")?;
    observer.expect("current", "3")?;
    observer.expect("try 2", "WouldBlock")?;
    holder.kill()?;
    observer.ok(&format!("wait 3 {PATIENCE}"))?;
    observer.expect("try 1", "WouldBlock")?;
    observer.ok("drop")?;
    child.ok("drop")?;
    child.ok("take 2")?;
    two_are_held(&mut observer)?;
    child.kill()?;
    all_come_back(&mut observer)?;
    Ok("forks=3".to_owned())
}

/// An exit that drops nothing, with several attachments.
fn exit(_: &mut Scene, theatre: &Theatre) -> Result<String> {
    let (mut holder, mut observer) = cast(theatre)?;
    holder.ok("open")?;
    holder.ok("take 1")?;
    observer.expect("current", "3")?;
    holder.tell("exit")?;
    holder.hang_up()?;
    all_come_back(&mut observer)?;
    Ok(String::new())
}

/// Who waits without a thread is called when a holder dies; one who dies waiting is in nobody's
/// way.
fn callback(scene: &mut Scene, theatre: &Theatre) -> Result<String> {
    let rounds = scene.choose(10, 100);
    let mut observer = theatre.puppet()?;
    observer.ok("open")?;
    for _ in 0..rounds {
        let mut holder = theatre.puppet()?;
        holder.ok("open")?;
        holder.ok("take 4")?;
        let mut gone = theatre.puppet()?;
        gone.ok("open")?;
        gone.tell("callback 3")?;
        observer.tell("callback 4")?;
        thread::sleep(Duration::from_micros(scene.random.u64(..5_000)));
        gone.kill()?;
        holder.kill()?;
        let answer = observer.reply()?;
        ensure!(
            answer == "ok",
            "a callback for the permits of the dead: {answer}"
        );
        observer.ok("drop")?;
        observer.expect("current", "0")?;
        scene.beat();
    }
    Ok(format!("rounds={rounds}"))
}

/// As many attachments as there can be, by a process that is killed.
fn crowd(scene: &mut Scene, theatre: &Theatre) -> Result<String> {
    let rounds = scene.choose(2, 10);
    let mut attached = 0;
    for _ in 0..rounds {
        let (mut holder, mut observer) = cast(theatre)?;
        attached = holder.ask("open all")?.parse().context("a number")?;
        holder.ok("take 2")?;
        observer.expect("current", "4")?;
        holder.kill()?;
        all_come_back(&mut observer)?;
        scene.beat();
    }
    ensure!(attached > 0, "not one more could attach");
    Ok(format!("rounds={rounds} attachments={attached}"))
}

/// What a lease leaves behind says nothing of the next holder, whose process counts like the
/// first's.
fn past_leases(scene: &mut Scene, theatre: &Theatre) -> Result<String> {
    let rounds = scene.choose(4, 40);
    let mut observer = theatre.puppet()?;
    observer.ok("open")?;
    for round in 0..rounds {
        let mut lessee = theatre.puppet()?;
        lessee.ok("open")?;
        for _ in 0..PERMITS {
            lessee.ok("lease 5")?;
        }
        if round % 2 == 0 {
            lessee.ok("drop")?;
        }
        lessee.kill()?;
        let mut holder = theatre.puppet()?;
        holder.ok("open")?;
        for _ in 0..PERMITS {
            holder.ok("take 1")?;
        }
        thread::sleep(Duration::from_millis(10));
        observer.expect("try 1", "WouldBlock")?;
        observer.expect("wait 1 5", "TimedOut")?;
        holder.kill()?;
        all_come_back(&mut observer)?;
        scene.beat();
    }
    Ok(format!("rounds={rounds}"))
}

fn failed_exec(_: &mut Scene, theatre: &Theatre) -> Result<String> {
    let (mut holder, mut observer) = cast(theatre)?;
    let answer = holder.ask("exec /nothing/is/here")?;
    ensure!(answer.contains("ENOENT"), "the exec ended in {answer}");
    two_are_held(&mut observer)?;
    holder.ok("drop")?;
    observer.expect("current", "0")?;
    holder.ok("take 2")?;
    two_are_held(&mut observer)?;
    holder.kill()?;
    all_come_back(&mut observer)?;
    Ok(String::new())
}

fn exec(_: &mut Scene, theatre: &Theatre) -> Result<String> {
    let (mut holder, mut observer) = cast(theatre)?;
    two_are_held(&mut observer)?;
    holder.tell("exec /proc/self/exe")?;
    all_come_back(&mut observer)?;
    // The permits are back before the new image is there; the process goes on.
    while !fs::read_to_string(format!("/proc/{}/cmdline", holder.pid))?.contains("linger") {
        thread::sleep(Duration::from_millis(1));
    }
    holder.kill()?;
    Ok(String::new())
}

/// Two processes, each number 1 of its namespace and with a keeper of the same number.
fn pid_namespaces(scene: &mut Scene, theatre: &Theatre) -> Result<String> {
    let (established, attaching) = scene.choose((3, 30), (20, 500));
    let mut observer = theatre.puppet()?;
    observer.ok("open")?;
    for _ in 0..established {
        let mut one = theatre.puppet_in_pid_namespace()?;
        let mut other = theatre.puppet_in_pid_namespace()?;
        for puppet in [&mut one, &mut other] {
            puppet.expect("pid", "1")?;
            puppet.ok("open")?;
        }
        one.ok("take 2")?;
        other.ok("take 2")?;
        one.kill()?;
        observer.ok(&format!("wait 2 {PATIENCE}"))?;
        observer.ok("drop")?;
        two_are_held(&mut observer)?;
        other.ok("drop")?;
        other.ok("take 2")?;
        other.kill()?;
        all_come_back(&mut observer)?;
        scene.beat();
    }
    for _ in 0..attaching {
        let mut one = theatre.puppet_in_pid_namespace()?;
        let mut other = theatre.puppet_in_pid_namespace()?;
        one.tell("open")?;
        other.tell("open")?;
        thread::sleep(Duration::from_micros(scene.random.u64(..1_000)));
        one.kill()?;
        let opened = other.reply()?;
        ensure!(opened == "ok", "open beside one who is killed: {opened}");
        other.ok("take 2")?;
        observer.ok(&format!("wait 2 {PATIENCE}"))?;
        observer.expect("wait 1 120", "TimedOut")?;
        observer.ok("drop")?;
        other.ok("drop")?;
        other.kill()?;
        all_come_back(&mut observer)?;
        scene.beat();
    }
    Ok(format!("rounds={established} attaching={attaching}"))
}

/// A file of another boot is refused, or replaced as if it were not there.
fn other_boot(_: &mut Scene, theatre: &Theatre) -> Result<String> {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let (mut holder, mut observer) = cast(theatre)?;
    let other = theatre.directory.join("boot_id");
    fs::write(&other, "01234567-89ab-4cde-8f01-23456789abcd\n")?;
    let mut stranger = theatre.puppet_after(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let nothing = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(nothing, "/", nothing, private, nothing)?;
        mount(Some(&other), BOOT_ID, nothing, MsFlags::MS_BIND, nothing)?;
        Ok(())
    })?;
    let answer = stranger.ask("open")?;
    let answer = if answer == "ok" {
        stranger.ok("try 4").context("a file made anew")?;
        stranger.ok("drop")?;
        "replaced".to_owned()
    } else {
        format!("refused:{}", answer.replace(' ', "-"))
    };
    // Those of this boot go on with what they have.
    two_are_held(&mut observer)?;
    holder.ok("drop")?;
    observer.ok("try 4")?;
    observer.ok("drop")?;
    drop((holder, observer, stranger));
    SharedSemaphore::remove(&theatre.path)?;
    Ok(format!("answer={answer}"))
}

fn stopped(_: &mut Scene, theatre: &Theatre) -> Result<String> {
    let (mut holder, mut observer) = cast(theatre)?;
    holder.signal(Signal::SIGSTOP)?;
    two_are_held(&mut observer)?;
    two_are_held(&mut observer)?;
    holder.signal(Signal::SIGCONT)?;
    holder.ok("drop")?;
    observer.expect("current", "0")?;
    holder.ok("take 2")?;
    holder.signal(Signal::SIGSTOP)?;
    two_are_held(&mut observer)?;
    // Killed while it is stopped.
    holder.kill()?;
    all_come_back(&mut observer)?;
    Ok(String::new())
}

fn core_dump(scene: &mut Scene, theatre: &Theatre) -> Result<String> {
    let megabytes = scene.choose(128, 1024);
    let (mut holder, mut observer) = cast(theatre)?;
    holder.ok(&format!("fill {megabytes}"))?;
    let started = Instant::now();
    holder.tell("dump")?;
    observer.tell(&format!("wait 4 {}", DUMP.as_millis()))?;
    while !observer.replies_within(Duration::from_secs(1))? && started.elapsed() < DUMP {
        scene.beat();
    }
    all_have_come_back(&mut observer)?;
    let back = started.elapsed();
    let status = holder.child()?.wait()?;
    let dumped = matches!(status, WaitStatus::Signaled(_, Signal::SIGABRT, true));
    Ok(format!(
        "megabytes={megabytes} dumped={dumped} back-after={back:.0?}"
    ))
}

/// As the OOM reaper does it: the memory goes before the process's threads have.
fn memory_reaped(scene: &mut Scene, theatre: &Theatre) -> Result<String> {
    let rounds = scene.choose(20, 200);
    let mut observer = theatre.puppet()?;
    observer.ok("open")?;
    let mut reaped = 0;
    for _ in 0..rounds {
        let mut holder = theatre.puppet()?;
        holder.ok("open")?;
        holder.ok("fill 32")?;
        holder.ok("take 2")?;
        observer.expect("current", "2")?;
        observer.tell(&format!("wait 4 {PATIENCE}"))?;
        reaped += u32::from(holder.child()?.kill_and_take_memory()?);
        let answer = observer.reply()?;
        ensure!(answer == "ok", "the permits of the reaped: {answer}");
        observer.ok("drop")?;
        holder.child()?.wait()?;
        scene.beat();
    }
    Ok(format!("kills={rounds} memory-taken-first={reaped}"))
}

/// A command that inherited the descriptor keeps a strict semaphore's permits, and no other's.
fn strict(_: &mut Scene, theatre: &Theatre) -> Result<String> {
    let (mut holder, mut observer) = cast(theatre)?;
    let command = Pid::from_raw(holder.ask("command")?.parse().context("a number")?);
    holder.kill()?;
    all_come_back(&mut observer)?;
    kill(command, Signal::SIGKILL)?;
    drop(observer);
    SharedSemaphore::remove(&theatre.path)?;

    let (mut holder, mut observer) = (theatre.puppet()?, theatre.puppet()?);
    holder.ok("open strict")?;
    observer.ok("open strict")?;
    holder.ok("take 2")?;
    let command = Pid::from_raw(holder.ask("command")?.parse().context("a number")?);
    holder.kill()?;
    two_are_held(&mut observer)?;
    kill(command, Signal::SIGKILL)?;
    all_come_back(&mut observer)?;

    // A child that was not handed it on purpose does not.
    let mut parent = theatre.puppet()?;
    parent.ok("open strict")?;
    parent.ok("take 2")?;
    let mut child = parent.fork(theatre)?;
    parent.kill()?;
    all_come_back(&mut observer)?;
    child.ok("hello")?;
    child.kill()?;

    let mut alone = theatre.puppet()?;
    alone.ok("open strict")?;
    alone.ok("take 2")?;
    alone.kill()?;
    all_come_back(&mut observer)?;
    drop(observer);
    // The audit opens one that is not strict.
    SharedSemaphore::remove(&theatre.path)?;
    Ok(String::new())
}
