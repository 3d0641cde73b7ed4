//! Runs scenarios, each in a process group of its own, and tells when one hangs.
//!
//! A scenario counts what it does on a page. When the count has stood still for long, the
//! supervisor says what each process of the group is doing, who holds and who waits, and kills
//! them all. Whatever a scenario leaves behind goes with its group as well.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, mkdtemp};

use crate::page::Page;
use crate::scene::PROGRESS;

/// How long a scenario may be silent.
const SILENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// What to run, and how.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) suite: &'static str,
    pub(crate) scenarios: Vec<&'static str>,
    pub(crate) seed: u64,
    pub(crate) full: bool,
}

pub(crate) fn run(order: &Order) -> Result<ExitCode> {
    println!(
        "{}: seed {}{}",
        order.suite,
        order.seed,
        if order.full { ", full" } else { "" }
    );
    let started = Instant::now();
    let mut failed = Vec::new();
    for scenario in &order.scenarios {
        if !supervise(order, scenario)? {
            failed.push(*scenario);
        }
    }
    println!("{:.1} s", started.elapsed().as_secs_f64());
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for scenario in failed {
        println!(
            "FAILED {scenario}; again: cargo xtask crash {} --only {scenario} --seed {}{}",
            order.suite,
            order.seed,
            if order.full { " --full" } else { "" }
        );
    }
    Ok(ExitCode::FAILURE)
}

/// Whether the scenario passed.
fn supervise(order: &Order, scenario: &str) -> Result<bool> {
    let directory = Directory::create()?;
    let progress = Page::create(&directory.path.join(PROGRESS), 1)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["scenario", order.suite, scenario, "--seed"])
        .arg(order.seed.to_string())
        .arg("--directory")
        .arg(&directory.path)
        .process_group(0);
    if order.full {
        command.arg("--full");
    }
    let group = Group(command.spawn().context("cannot start myself")?);
    let mut seen = (0, Instant::now());
    loop {
        if let Some(status) = group.ended()? {
            return match status {
                WaitStatus::Exited(_, 0) => Ok(true),
                WaitStatus::Exited(_, 1) => Ok(false),
                status => {
                    println!("  {scenario} itself ended badly: {status:?}");
                    Ok(false)
                }
            };
        }
        let beats = progress.cell(0).load(Relaxed);
        if beats != seen.0 {
            seen = (beats, Instant::now());
        } else if seen.1.elapsed() > SILENCE {
            println!("  {scenario}: nothing for {} s", SILENCE.as_secs());
            group.describe();
            describe_semaphores(&directory.path);
            println!("CRASH {scenario} hang FAIL");
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
}

/// A process that leads a group; dropped, all of the group are killed.
struct Group(Child);

impl Group {
    fn leader(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Its end, without taking it: while the leader is not taken, its number names this group.
    fn ended(&self) -> Result<Option<WaitStatus>> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.leader()), flags).context("waitid")? {
            WaitStatus::StillAlive => Ok(None),
            status => Ok(Some(status)),
        }
    }

    /// Prints what each thread of the group is doing.
    fn describe(&self) {
        for process in numbers(Path::new("/proc")) {
            let own = PathBuf::from(format!("/proc/{process}"));
            let stat = fs::read_to_string(own.join("stat")).unwrap_or_default();
            // pid (comm) state ppid pgrp …, and comm may contain anything.
            let group = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(2));
            if group != Some(self.leader().to_string().as_str()) {
                continue;
            }
            for thread in numbers(&own.join("task")) {
                let read = |file: &str| {
                    let text = fs::read_to_string(own.join(format!("task/{thread}/{file}")));
                    text.unwrap_or_default().trim().to_owned()
                };
                let stat = read("stat");
                let state = stat.rsplit_once(')').map_or("?", |(_, rest)| &rest[..2]);
                println!(
                    "    {process}/{thread} {}{state} in {}: {}",
                    read("comm"),
                    read("wchan"),
                    read("syscall")
                );
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = killpg(self.leader(), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn numbers(directory: &Path) -> Vec<u32> {
    let mut numbers: Vec<u32> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Prints who holds and who waits, as seen by another process, in case the looking hangs as well.
fn describe_semaphores(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "sem") {
            continue;
        }
        let look = Command::new("/proc/self/exe")
            .arg("inspect")
            .arg(&path)
            .process_group(0)
            .spawn();
        let Ok(look) = look else { continue };
        let look = Group(look);
        let started = Instant::now();
        while matches!(look.ended(), Ok(None)) {
            if started.elapsed() > Duration::from_secs(5) {
                println!("    {}: looking at it hangs as well", path.display());
                break;
            }
            thread::sleep(LOOK);
        }
    }
}

/// A directory in memory, removed with what is in it; by the next supervisor if this one is killed.
struct Directory {
    path: PathBuf,
    /// Locked as long as we live.
    _lock: File,
}

const PLACE: &str = "/dev/shm";
const PREFIX: &str = "latchwork-crash-";
/// One that was made just now may not be locked yet.
const MADE: Duration = Duration::from_secs(60);

impl Directory {
    fn create() -> Result<Directory> {
        sweep();
        let made = mkdtemp(&PathBuf::from(format!("{PLACE}/{PREFIX}XXXXXX")));
        let path = made.context("mkdtemp in /dev/shm")?;
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Directory { path, _lock: lock })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} is left: {error}", self.path.display());
        }
    }
}

/// Removes the directories whose supervisors were killed.
fn sweep() {
    for entry in fs::read_dir(PLACE).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let modified = entry.metadata().and_then(|data| data.modified());
        let age = modified.ok().and_then(|then| then.elapsed().ok());
        let is_free = |lock: File| lock.try_lock().is_ok();
        if age > Some(MADE) && File::open(entry.path()).is_ok_and(is_free) {
            // Another supervisor may be at it, too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
