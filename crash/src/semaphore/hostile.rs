//! Somebody writes garbage into the file while others work with it.
//!
//! Others may be granted too much, be told of an error, or wait in vain. What they may not do is
//! crash (but for SIGBUS, where the file was cut short), panic, hang, or take memory without bound.
//! When the file is removed, the next to open it gets a good one.

mod victim;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;

use self::victim::{CELLS, Cells, Victim};
use super::audit;
use super::matrix::puppet::{Puppet, Theatre};
use crate::child::{self, Child, End};
use crate::page::Page;
use crate::scene::Scene;
use latchwork::SharedSemaphore;

const PERMITS: u32 = 4;
const VICTIMS: usize = 4;

/// Who makes no turn for so long is stuck, in a spin or asleep.
const STUCK: Duration = Duration::from_secs(15);

/// What a victim may have in memory at most.
const KILOBYTES: u64 = 256 << 10;

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    let result = header(scene);
    report(scene, "header", result);
    let result = lives(scene);
    report(scene, "lives", result);
    for (name, kind) in [
        ("pages", Attack::Pages),
        ("words", Attack::Words),
        ("fill", Attack::Fill),
        ("truncation", Attack::Truncation),
    ] {
        let result = besiege(scene, name, kind);
        report(scene, name, result);
    }
    Ok(())
}

fn report(scene: &Scene, name: &str, result: Result<String>) {
    let (figures, result) = match result {
        Ok(figures) => (figures, Ok(())),
        Err(error) => ("seconds=-".to_owned(), Err(error)),
    };
    scene.report(&format!("hostile {name}"), figures, result);
}

fn writable(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// Whatever has become of the file, removing it makes way for a good one.
fn begin_anew(path: &Path) -> Result<()> {
    let removed = SharedSemaphore::remove(path).context("remove")?;
    ensure!(removed, "there was nothing to remove");
    audit::capacity(path, PERMITS, PERMITS).context("after a removal")
}

/// Each byte of the header and of the control words, under somebody who has it open and somebody
/// who opens it afterwards.
fn header(scene: &mut Scene) -> Result<String> {
    let started = Instant::now();
    let path = scene.semaphore("header");
    let bytes = scene.choose(512, 4096);
    let (mut told, mut refused) = (0, 0);
    let page = scene.page("header", CELLS)?;
    for offset in 0..bytes {
        audit::capacity(&path, PERMITS, PERMITS)?;
        let file = writable(&path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset)?;
        let flipped = [byte[0] ^ scene.random.u8(1..)];
        let answer = child::ask(|| {
            let victim = Victim::open(&path, PERMITS)?;
            file.write_all_at(&flipped, offset)?;
            Ok(victim.turns(&Cells::of(&page, 0), 2, 1).to_string())
        })
        .with_context(|| format!("byte {offset}, {:#x} -> {:#x}, open", byte[0], flipped[0]))?;
        told += u64::from(answer != "0");
        let answer = child::ask(|| match Victim::open(&path, PERMITS) {
            Err(_) => Ok("refused".to_owned()),
            Ok(victim) => Ok(victim.turns(&Cells::of(&page, 0), 2, 1).to_string()),
        })
        .with_context(|| format!("byte {offset}, {:#x} -> {:#x}, opened", byte[0], flipped[0]))?;
        refused += u64::from(answer == "refused");
        fs::remove_file(&path)?;
        scene.beat();
    }
    Ok(format!(
        "bytes={bytes} open-and-told={told} refused-at-open={refused} seconds={:.1}",
        started.elapsed().as_secs_f64()
    ))
}

/// A life word that is not what the kernel would mark: the second evidence finds the death.
fn lives(scene: &mut Scene) -> Result<String> {
    let started = Instant::now();
    let theatre = Theatre::open(scene, "lives", PERMITS)?;
    let rounds = scene.choose(12, 200);
    let mut observer = theatre.puppet()?;
    observer.ok("open")?;
    for round in 0..rounds {
        let mut holder = theatre.puppet()?;
        holder.ok("open")?;
        holder.ok("take 2")?;
        let keeper = keeper_of(&holder)?;
        let garbage = match round % 6 {
            0 => 0,
            1 => u32::MAX,
            2 => keeper + 1,
            3 => 0x4000_0000,
            4 => keeper | 0x8000_0000,
            _ => scene.random.u32(..),
        };
        overwrite(&theatre.path, keeper, garbage).context("the life word")?;
        if round % 2 == 1 {
            // What the living is told does not matter, but that it is told something.
            holder.ask("try 1")?;
            holder.ask("wait 2 5")?;
            holder.ask("drop")?;
            holder.ask("try 1")?;
        }
        let busy = round % 3 == 0;
        if busy {
            observer.tell("wait 4 20000")?;
        }
        holder.kill()?;
        let answer = if busy {
            observer.reply()?
        } else {
            observer.ask("wait 4 20000")?
        };
        ensure!(
            answer == "ok",
            "life {garbage:#x} in place of {keeper:#x}, then killed: {answer}"
        );
        observer.ok("drop")?;
        observer.expect("current", "0")?;
        scene.beat();
    }
    for round in 0..rounds {
        // Not the permits of the dead alone: it waited for several, or was the first in line.
        let (held, wanted) = if round % 2 == 0 { (4, 1) } else { (2, 3) };
        observer.ok(&format!("take {held}"))?;
        let mut waiter = theatre.puppet()?;
        waiter.ok("open")?;
        waiter.tell(&format!("wait {wanted} 20000"))?;
        thread::sleep(Duration::from_millis(5));
        let keeper = keeper_of(&waiter)?;
        overwrite(&theatre.path, keeper, keeper + 1).context("the life word")?;
        waiter.kill()?;
        observer.ok("drop")?;
        let answer = observer.ask("wait 4 5000")?;
        ensure!(
            answer == "ok",
            "behind a dead waiter whose life is garbage: {answer}"
        );
        observer.ok("drop")?;
        scene.beat();
    }
    drop(observer);
    begin_anew(&theatre.path)?;
    Ok(format!(
        "rounds={rounds} seconds={:.1}",
        started.elapsed().as_secs_f64()
    ))
}

/// The thread whose number stands in the life word.
fn keeper_of(puppet: &Puppet) -> Result<u32> {
    for thread in fs::read_dir(format!("/proc/{}/task", puppet.pid))? {
        let thread = thread?.path();
        if fs::read_to_string(thread.join("comm"))?.trim() == "lw-lifeline" {
            let number = thread.file_name().and_then(|name| name.to_str());
            return number.context("a number")?.parse().context("a number");
        }
    }
    Err(anyhow!("{} has no keeper", puppet.pid))
}

/// Puts `garbage` wherever a 32-bit word is `word`.
fn overwrite(path: &Path, word: u32, garbage: u32) -> Result<()> {
    let file = writable(path)?;
    let contents = fs::read(path)?;
    let mut found = 0;
    for (index, bytes) in contents.chunks_exact(4).enumerate() {
        // With the flag that somebody waits, or without it.
        if u32::from_ne_bytes(bytes.try_into()?) & 0x3fff_ffff == word {
            file.write_all_at(&garbage.to_ne_bytes(), index as u64 * 4)?;
            found += 1;
        }
    }
    ensure!(found > 0, "no word {word:#x} in {}", path.display());
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    /// Random bytes over a random page.
    Pages,
    /// A few random bytes at a random place, again and again.
    Words,
    /// Zeros or ones over everything.
    Fill,
    /// A shorter file.
    Truncation,
}

/// Processes work while the file is attacked; each round has a file of its own.
fn besiege(scene: &mut Scene, name: &str, attack: Attack) -> Result<String> {
    let started = Instant::now();
    let path = scene.semaphore(name);
    let rounds = scene.choose(8, 200);
    let page = scene.page(name, CELLS * VICTIMS)?;
    let (mut turns, mut told, mut deaths) = (0, 0, 0);
    for round in 0..rounds {
        audit::capacity(&path, PERMITS, PERMITS)?;
        let mut siege = Siege::lay(&page, &path)?;
        siege.everybody_turns(scene, 3)?;
        let file = writable(&path)?;
        let size = file.metadata()?.len();
        let random = &mut scene.random;
        match attack {
            Attack::Pages => {
                let mut bytes = vec![0; 4096];
                random.fill(&mut bytes);
                let pages = size.div_ceil(4096);
                // The first ones decide most.
                let chosen = if round % 2 == 0 {
                    round % pages
                } else {
                    random.u64(..pages)
                };
                let length = bytes.len().min((size - chosen * 4096) as usize);
                file.write_all_at(&bytes[..length], chosen * 4096)?;
            }
            Attack::Words => {
                for _ in 0..scene.choose(1_000, 2_000) {
                    let random = &mut scene.random;
                    let garbage = random.u64(..).to_ne_bytes();
                    let length = random.usize(1..=8);
                    // The unused rest of the file would take most of it.
                    let bound = if random.bool() { 5 << 10 } else { size };
                    file.write_all_at(&garbage[..length], random.u64(..bound - 8))?;
                    thread::sleep(Duration::from_micros(random.u64(..100)));
                }
            }
            Attack::Fill => {
                let byte = if round % 2 == 0 { 0 } else { 0xff };
                file.write_all_at(&vec![byte; size as usize], 0)?;
            }
            Attack::Truncation => {
                file.set_len(random.u64(..size))?;
                if round % 2 == 1 {
                    file.set_len(size)?;
                }
            }
        }
        siege.everybody_turns(scene, 10)?;
        let outcome = siege.lift(scene, attack)?;
        turns += outcome.turns;
        told += outcome.told;
        deaths += outcome.deaths;
        begin_anew(&path)?;
        scene.beat();
    }
    SharedSemaphore::remove(&path)?;
    let died = match attack {
        Attack::Truncation => format!(" died-of-SIGBUS={deaths}"),
        _ => String::new(),
    };
    Ok(format!(
        "rounds={rounds} turns={turns} told={told}{died} seconds={:.1}",
        started.elapsed().as_secs_f64()
    ))
}

struct Siege<'p> {
    page: &'p Page,
    victims: Vec<Option<Child>>,
    path: PathBuf,
    deaths: u64,
}

struct Outcome {
    turns: u64,
    told: u64,
    deaths: u64,
}

impl<'p> Siege<'p> {
    fn lay(page: &'p Page, path: &Path) -> Result<Siege<'p>> {
        let mut victims = Vec::new();
        for index in 0..VICTIMS {
            let cells = Cells::of(page, index);
            cells.reset();
            victims.push(Some(Child::fork(|| {
                let victim = Victim::open(path, PERMITS).expect("open");
                let told = victim.turns(&cells, u64::MAX, index as u64);
                cells.told.store(told, SeqCst);
                0
            })?));
        }
        Ok(Siege {
            page,
            victims,
            path: path.to_owned(),
            deaths: 0,
        })
    }

    /// Waits until all who live have made some more turns.
    fn everybody_turns(&mut self, scene: &Scene, more: u64) -> Result<()> {
        for index in 0..VICTIMS {
            let cells = Cells::of(self.page, index);
            let goal = cells.turns.load(Relaxed) + more;
            let mut seen = (u64::MAX, Instant::now());
            while cells.turns.load(Relaxed) < goal {
                let Some(victim) = &mut self.victims[index] else {
                    break;
                };
                if let Some(end) = victim.ended()? {
                    self.take_death(index, end)?;
                    break;
                }
                let turns = cells.turns.load(Relaxed);
                if turns != seen.0 {
                    seen = (turns, Instant::now());
                    scene.beat();
                }
                if seen.1.elapsed() > STUCK {
                    let kept = self.path.with_extension("stuck");
                    let _ = fs::copy(&self.path, &kept);
                    return Err(anyhow!(
                        "a process has been in `{}` for {} s, {}",
                        victim::name_of(cells.doing.load(Relaxed)),
                        STUCK.as_secs(),
                        activity(victim)
                    ));
                }
                thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(())
    }

    fn take_death(&mut self, index: usize, end: WaitStatus) -> Result<()> {
        self.victims[index] = None;
        self.deaths += 1;
        match end {
            WaitStatus::Signaled(_, Signal::SIGBUS, _) => Ok(()),
            end => Err(anyhow!(
                "{} while it did `{}`",
                End(end),
                victim::name_of(Cells::of(self.page, index).doing.load(Relaxed))
            )),
        }
    }

    fn lift(mut self, scene: &Scene, attack: Attack) -> Result<Outcome> {
        let all = (0..VICTIMS).map(|index| Cells::of(self.page, index));
        let cells: Vec<_> = all.collect();
        let memory: Vec<_> = self.victims.iter().flatten().map(peak_memory).collect();
        for cells in &cells {
            cells.stop.store(1, SeqCst);
        }
        let since = Instant::now();
        for index in 0..VICTIMS {
            while let Some(victim) = &mut self.victims[index] {
                match victim.ended()? {
                    Some(WaitStatus::Exited(_, 0)) => self.victims[index] = None,
                    Some(end) => self.take_death(index, end)?,
                    None if since.elapsed() > STUCK => {
                        return Err(anyhow!("a process does not end, {}", activity(victim)));
                    }
                    None => thread::sleep(Duration::from_micros(200)),
                }
            }
            scene.beat();
        }
        ensure!(
            self.deaths == 0 || attack == Attack::Truncation,
            "{} died of SIGBUS",
            self.deaths
        );
        let most = memory.into_iter().max().unwrap_or(0);
        ensure!(most < KILOBYTES, "a process took {most} kB of memory");
        Ok(Outcome {
            turns: cells.iter().map(|cells| cells.turns.load(Relaxed)).sum(),
            told: cells.iter().map(|cells| cells.told.load(Relaxed)).sum(),
            deaths: self.deaths,
        })
    }
}

/// What each thread of a process is doing.
fn activity(child: &Child) -> String {
    let threads = fs::read_dir(format!("/proc/{}/task", child.pid()));
    let describe = |path: PathBuf| {
        let read = |file| fs::read_to_string(path.join(file)).unwrap_or_default();
        let stat = read("stat");
        let state = stat
            .rsplit_once(')')
            .map_or("?", |(_, rest)| rest[..2].trim());
        format!("{} {state} {}", read("comm").trim(), read("syscall").trim())
    };
    let threads = threads.into_iter().flatten().flatten();
    let texts: Vec<_> = threads.map(|thread| describe(thread.path())).collect();
    texts.join("; ")
}

fn peak_memory(child: &Child) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
