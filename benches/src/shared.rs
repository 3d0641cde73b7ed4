//! Rows of the shared semaphore: what it costs when nobody else wants a permit, and how soon one
//! comes back from a process that was killed.
//!
//! *Uncontended*: one thread acquires one of one permit and releases it, over and over, on a file in
//! /dev/shm.
//!
//! *Recovery*: a process holds the only permit, with so much memory resident; another one sleeps
//! waiting for it, for a while drawn at random; the first is killed. The figure is the time from just
//! before `kill` until the waiter's first look at the clock with the permit. Kills of the two sides
//! come in pairs.
//!
//! *After a kill*: the uncontended cost on a file before a hundred processes slept waiting on it and
//! were killed all at once, and after.
//!
//! *Side by side*: one table, which is not judged, with more peers. The processes of its contended
//! column take a permit, do half a microsecond of arithmetic, give it back, and at once ask again;
//! the figure is the time that passes an operation, whoever does it. A recovery is the median of some
//! kills; that there is none is checked by one kill, for a second.

mod child;
mod janitor;
mod limit;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, thread};

use latchwork::SharedSemaphore;

use self::child::{Child, clock};
use self::janitor::Janitor;
use self::limit::{Address, Kind, Loops, Site};
use crate::Bench;
use crate::harness::{Effort, Nanos, Ratio, cost, pairs, per_op};
use crate::rows;
use crate::stats::median;
use crate::work::Work;

const MB: usize = 1 << 20;
const SMALL: usize = MB;
const MEDIUM: usize = 256 * MB;
const LARGE: usize = 2048 * MB;

/// How many are killed while they wait.
const KILLED: usize = 100;

/// What the table's contended column is about.
const PROCESSES: usize = 8;
const PERMITS: u32 = 2;
const WORK: Duration = Duration::from_nanos(500);

/// How long a permit must not come back for "never".
const NEVER: Duration = Duration::from_secs(1);

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Plays the part that this process was started for, if it is not a bench of its own.
pub(crate) fn role() -> Option<ExitCode> {
    let arguments: Option<Vec<String>> = env::args_os()
        .skip(1)
        .map(|argument| argument.into_string().ok())
        .collect();
    let arguments = arguments?;
    let (role, rest) = arguments.split_first()?;
    match role.as_str() {
        child::ROLE => Some(match child::run(rest) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("latchwork-benches: a child: {error}");
                ExitCode::FAILURE
            }
        }),
        janitor::ROLE => Some(janitor::run(Path::new(rest.first()?))),
        _ => None,
    }
}

pub(crate) fn run(bench: &mut Bench) -> Outcome {
    let mut janitor = Janitor::start()?;
    uncontended(bench, &mut janitor)?;
    after_kill(bench, &mut janitor)?;
    let recovered = recovery(bench, &mut janitor)?;
    side_by_side(bench, &mut janitor, &recovered)
}

fn uncontended(bench: &mut Bench, janitor: &mut Janitor) -> Outcome {
    let ours = Site::create(Kind::Shared, 1, janitor)?.own;
    for (row, kind) in [
        (rows::SHM_SEM_T, Kind::SemT),
        (rows::SHM_SEM_UNDO, Kind::SemUndo),
    ] {
        let peer = Site::create(kind, 1, janitor)?.own;
        let ratio = per_op(
            &mut bench.effort,
            |ops| ours.cycle(ops),
            |ops| peer.cycle(ops),
        );
        bench.report.row(row, &ratio.into())?;
    }
    Ok(())
}

/// Each round has a file of its own, so that none begins with what the one before has left.
fn after_kill(bench: &mut Bench, janitor: &mut Janitor) -> Outcome {
    let mut rounds = Vec::new();
    for _ in 0..bench.effort.pick(5, 21) {
        let address = Address {
            kind: Kind::Shared,
            permits: 1,
            place: janitor.new_path().display().to_string(),
        };
        let semaphore = SharedSemaphore::open(&address.place, 1)?;
        let before = cost(&bench.effort, |ops| semaphore.cycle(ops));
        let permit = semaphore.acquire()?;
        kill_waiters(&semaphore, &address)?;
        drop(permit);
        let after = cost(&bench.effort, |ops| semaphore.cycle(ops));
        rounds.push((after, before));
        SharedSemaphore::remove(&address.place)?;
    }
    let ratio = Ratio::of_pairs(&rounds);
    bench.report.row(rows::SHM_AFTER_KILL, &ratio.into())?;
    Ok(())
}

fn kill_waiters(semaphore: &SharedSemaphore, address: &Address) -> Outcome {
    let mut children = Vec::with_capacity(KILLED);
    for _ in 0..KILLED {
        children.push(Child::start(address)?);
    }
    for child in &mut children {
        child.expect("ready")?;
        child.ask()?;
    }
    while semaphore.waiters() != KILLED as u32 {
        thread::sleep(Duration::from_millis(1));
    }
    for child in &children {
        child.wait_until_asleep()?;
    }
    for child in &mut children {
        child.kill();
    }
    Ok(())
}

/// A limit of one permit, and a process that waits for it again and again.
struct Scene {
    site: Site,
    waiter: Child,
}

impl Scene {
    fn new(kind: Kind, janitor: &mut Janitor) -> Outcome<Scene> {
        let site = Site::create(kind, 1, janitor)?;
        let waiter = Child::spawn(&site.address)?;
        Ok(Scene { site, waiter })
    }

    /// Kills a holder with `bytes` resident after the waiter has slept for `slept`, and says when.
    /// The holder is returned so that the caller decides when to wait for its end.
    fn kill(&mut self, bytes: usize, slept: Duration) -> Outcome<(Child, u64)> {
        let mut holder = Child::spawn(&self.site.address)?;
        holder.tell(format_args!("touch {bytes}"))?;
        holder.expect("touched")?;
        holder.ask()?;
        holder.expect("held")?;
        self.waiter.ask()?;
        thread::sleep(slept);
        self.waiter.wait_until_asleep()?;
        let at = clock();
        holder.kill();
        Ok((holder, at))
    }

    /// Nanoseconds from the kill until the waiter has the permit.
    fn recover(&mut self, bytes: usize, slept: Duration) -> Outcome<f64> {
        let (holder, killed) = self.kill(bytes, slept)?;
        let held = match self.waiter.expect("held")?[..] {
            [held] => held,
            _ => return Err("a waiter does not say since when it has its permit".into()),
        };
        self.waiter.tell("release")?;
        self.waiter.expect("released")?;
        drop(holder);
        let took = held.checked_sub(killed);
        Ok(took.ok_or("the waiter had the permit before its holder was killed")? as f64)
    }

    /// Whether the permit stays lost.
    fn is_lost_for_good(mut self) -> Outcome<bool> {
        let (_holder, _) = self.kill(SMALL, Duration::from_millis(10))?;
        Ok(self.waiter.expect_within("held", NEVER)?.is_none())
    }
}

/// Over all of a waiter's habits: it looks around every 50 ms.
fn nap(effort: &mut Effort) -> Duration {
    effort.between(Duration::from_millis(5), Duration::from_millis(55))
}

/// What the judged rows found, for the table.
struct Recovered {
    small: Ratio,
    large: Ratio,
}

fn recovery(bench: &mut Bench, janitor: &mut Janitor) -> Outcome<Recovered> {
    let mut ours = Scene::new(Kind::Shared, janitor)?;
    let mut peer = Scene::new(Kind::SemUndo, janitor)?;
    let kills = bench.effort.pick(41, 201);
    let small = kill_pairs(bench, kills, SMALL, &mut ours, &mut peer)?;
    bench.report.row(rows::SHM_RECOVERY_SMALL, &small.into())?;
    let kills = bench.effort.pick(7, 200);
    let large = kill_pairs(bench, kills, LARGE, &mut ours, &mut peer)?;
    bench.report.row(rows::SHM_RECOVERY_LARGE, &large.into())?;
    Ok(Recovered { small, large })
}

fn kill_pairs(
    bench: &mut Bench,
    kills: usize,
    bytes: usize,
    ours: &mut Scene,
    peer: &mut Scene,
) -> Outcome<Ratio> {
    let naps: Vec<Duration> = (0..kills).map(|_| nap(&mut bench.effort)).collect();
    let (mut our_naps, mut peer_naps) = (naps.iter(), naps.iter());
    pairs(
        &mut bench.effort,
        kills,
        || ours.recover(bytes, *our_naps.next().ok_or("no nap is left")?),
        || peer.recover(bytes, *peer_naps.next().ok_or("no nap is left")?),
    )
}

/// What is known of one kind.
#[derive(Clone, Debug, Default)]
struct Figures {
    uncontended: Vec<f64>,
    contended: Vec<f64>,
    /// Small, medium, large. Empty: it never recovers.
    recoveries: [Vec<f64>; 3],
}

fn side_by_side(bench: &mut Bench, janitor: &mut Janitor, recovered: &Recovered) -> Outcome {
    let mut figures = vec![Figures::default(); Kind::ALL.len()];
    contend(bench, janitor, &mut figures)?;
    for (kind, figures) in Kind::ALL.into_iter().zip(&mut figures) {
        if !kind.recovers() {
            if !Scene::new(kind, janitor)?.is_lost_for_good()? {
                return Err(format!("{} gives back a killed process's permit", kind.name()).into());
            }
            continue;
        }
        let mut scene = Scene::new(kind, janitor)?;
        let known = |ratio: &Ratio| match kind {
            Kind::Shared => Some(ratio.ours),
            Kind::SemUndo => Some(ratio.peer),
            _ => None,
        };
        for (column, bytes, kills, known) in [
            (
                0,
                SMALL,
                bench.effort.pick(21, 201),
                known(&recovered.small),
            ),
            (1, MEDIUM, bench.effort.pick(5, 21), None),
            (2, LARGE, bench.effort.pick(3, 21), known(&recovered.large)),
        ] {
            let samples = &mut figures.recoveries[column];
            match known {
                Some(known) => samples.push(known),
                None => {
                    for _ in 0..kills {
                        samples.push(scene.recover(bytes, nap(&mut bench.effort))?);
                    }
                }
            }
        }
    }
    let mut lines = vec![
        [
            "side by side",
            "uncontended",
            "8 processes",
            "killed, 1 MB",
            "256 MB",
            "2 GB",
        ]
        .map(String::from)
        .to_vec(),
    ];
    for (kind, figures) in Kind::ALL.into_iter().zip(&figures) {
        let time = |samples: &Vec<f64>| match samples.is_empty() {
            true => String::from("never"),
            false => Nanos(median(samples)).to_string(),
        };
        let mut line = vec![
            kind.name().to_owned(),
            time(&figures.uncontended),
            time(&figures.contended),
        ];
        line.extend(figures.recoveries.iter().map(time));
        lines.push(line);
    }
    bench.report.table(&lines)?;
    Ok(())
}

/// The two columns of costs. The kinds take turns, so that the machine's drift meets all alike.
fn contend(bench: &mut Bench, janitor: &mut Janitor, figures: &mut [Figures]) -> Outcome {
    let mut sides = Vec::new();
    for kind in Kind::ALL {
        let alone = Site::create(kind, 1, janitor)?;
        let together = Site::create(kind, PERMITS, janitor)?;
        let mut children = Vec::with_capacity(PROCESSES);
        for _ in 0..PROCESSES {
            children.push(Child::spawn(&together.address)?);
        }
        sides.push((alone, together, children));
    }
    let work = Work::of(WORK);
    let time = bench
        .effort
        .pick(Duration::from_millis(100), Duration::from_millis(500));
    for _ in 0..bench.effort.pick(7, 21) {
        for ((alone, _, children), figures) in sides.iter_mut().zip(figures.iter_mut()) {
            figures
                .uncontended
                .push(cost(&bench.effort, |ops| alone.own.cycle(ops)));
            figures.contended.push(crowd(children, time, work)?);
        }
    }
    Ok(())
}

/// Nanoseconds that pass an operation.
fn crowd(children: &mut [Child], time: Duration, work: Work) -> Outcome<f64> {
    // All have been told, and sleep, before it starts.
    let start = clock() + 10_000_000;
    let end = start + time.as_nanos() as u64;
    for child in children.iter_mut() {
        child.tell(format_args!("contend {start} {end} {}", work.steps()))?;
    }
    let (mut count, mut first, mut last) = (0, u64::MAX, 0);
    for child in children {
        let [did, from, until] = child.expect("did")?[..] else {
            return Err("a child does not say what it has done".into());
        };
        count += did;
        first = first.min(from);
        last = last.max(until);
    }
    Ok(last.saturating_sub(first) as f64 / count as f64)
}
