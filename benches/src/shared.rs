//! Rows of the shared semaphore: what it costs when nobody else wants a permit, and how soon one
//! comes back from a process that was killed.
//!
//! *Uncontended*: one thread acquires one of one permit and releases it, over and over, on a file
//! in /dev/shm.
//!
//! *Recovery*: a process holds the only permit, with so much memory resident; another one sleeps
//! waiting for it, for a while drawn at random; the first is killed. The figure is the time from
//! just before `kill` until the waiter's first look at the clock with the permit. Small holders are
//! killed in pairs, one of each side, in an order that a coin decides, and the end of the one is
//! awaited before the other's. To make a large one takes a second, so it holds a permit of each
//! kind, and its death serves all of them: our waiter is called long before the others.
//!
//! *After a kill*: the uncontended cost on a file before a hundred processes slept waiting on it
//! and were killed all at once, and after. Both times it is measured beside another file that
//! nothing happens to, and what has become of the cost there is taken out.
//!
//! *Side by side*: one table, which is not judged, with more peers. The processes of its contended
//! column take a permit, do half a microsecond of arithmetic, give it back, and at once ask again;
//! the figure is the time that passes an operation, whoever does it. A recovery is the median of
//! some kills; that there is none is checked by the kill of a holder of 1 MB.

mod child;
mod janitor;
mod limit;
mod resident;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, thread};

use latchwork::SharedSemaphore;

use self::child::{Child, clock};
use self::janitor::Janitor;
use self::limit::{Address, Kind, Loops, Site};
use crate::Bench;
use crate::harness::{Nanos, Ratio, cost, per_op, per_op_of};
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
    let control = Site::create(Kind::Shared, 1, janitor)?.own;
    let mut rounds = Vec::new();
    for _ in 0..bench.effort.pick(5, 21) {
        let address = Address {
            kind: Kind::Shared,
            permits: 1,
            place: janitor.new_path().display().to_string(),
        };
        let semaphore = SharedSemaphore::open(&address.place, 1)?;
        let beside = |bench: &mut Bench| {
            let rounds = bench.effort.pick(7, 15);
            per_op_of(
                rounds,
                &mut bench.effort,
                |ops| semaphore.cycle(ops),
                |ops| control.cycle(ops),
            )
        };
        let before = beside(bench);
        let permit = semaphore.acquire()?;
        kill_waiters(&semaphore, &address)?;
        drop(permit);
        let after = beside(bench);
        // What it would be, were the machine still as it was before.
        let cost = before.ours * after.ratio.median / before.ratio.median;
        rounds.push((cost, before.ours));
        SharedSemaphore::remove(&address.place)?;
    }
    let ratio = Ratio::of_pairs(&rounds);
    bench.report.row(rows::SHM_AFTER_KILL, &ratio.into())?;
    Ok(())
}

fn kill_waiters(semaphore: &SharedSemaphore, address: &Address) -> Outcome {
    let mut children = Vec::with_capacity(KILLED);
    for _ in 0..KILLED {
        children.push(Child::start(&[address])?);
    }
    for child in &mut children {
        child.expect("ready")?;
        child.ask()?;
    }
    let end = Instant::now() + child::PATIENCE;
    while semaphore.waiters() != KILLED as u32 {
        if Instant::now() > end {
            return Err("those who wait for a permit are not counted as such".into());
        }
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

    /// Nanoseconds from the kill until the waiter has the permit. `None`: not within `time`.
    fn recovery(&mut self, killed: u64, time: Duration) -> Outcome<Option<f64>> {
        let Some(held) = self.waiter.expect_within("held", time)? else {
            return Ok(None);
        };
        let took = held.first().and_then(|held| held.checked_sub(killed));
        self.waiter.tell("release")?;
        self.waiter.expect("released")?;
        let took = took.ok_or("a waiter had the permit before its holder was killed")?;
        Ok(Some(took as f64))
    }
}

/// Has a process hold the permits of all `scenes` with `bytes` resident, kills it after the waiters
/// have slept for `slept`, and waits up to `time` for each of them to recover.
fn kill(
    scenes: &mut [&mut Scene],
    bytes: usize,
    slept: Duration,
    time: Duration,
) -> Outcome<Vec<Option<f64>>> {
    let addresses: Vec<&Address> = scenes.iter().map(|scene| &scene.site.address).collect();
    let mut holder = Child::start(&addresses)?;
    holder.expect("ready")?;
    holder.tell(format_args!("grow {bytes}"))?;
    holder.expect("grown")?;
    holder.ask()?;
    holder.expect("held")?;
    for scene in scenes.iter_mut() {
        scene.waiter.ask()?;
    }
    thread::sleep(slept);
    for scene in scenes.iter() {
        scene.waiter.wait_until_asleep()?;
    }
    let killed = clock();
    holder.kill();
    let recoveries = scenes.iter_mut().map(|scene| scene.recovery(killed, time));
    let recoveries = recoveries.collect();
    // Waits for its end, so that the next one is not disturbed by that.
    drop(holder);
    recoveries
}

/// As `kill`, where everybody must recover.
fn recover(bench: &mut Bench, scenes: &mut [&mut Scene], bytes: usize) -> Outcome<Vec<f64>> {
    // Over all of a waiter's habits: ours looks around every 50 ms.
    let slept = bench
        .effort
        .between(Duration::from_millis(5), Duration::from_millis(55));
    let recoveries = kill(scenes, bytes, slept, child::PATIENCE)?;
    let all: Option<Vec<f64>> = recoveries.into_iter().collect();
    all.ok_or_else(|| "a killed process's permit has not come back".into())
}

/// Median recoveries, of small, medium and large holders.
type Recoveries = [f64; 3];

/// The judged rows; and what is known of the kinds that recover.
fn recovery(bench: &mut Bench, janitor: &mut Janitor) -> Outcome<Vec<(Kind, Recoveries)>> {
    let mut ours = Scene::new(Kind::Shared, janitor)?;
    let mut peer = Scene::new(Kind::SemUndo, janitor)?;
    let mut other = Scene::new(Kind::Ofd, janitor)?;

    let mut pairs = Vec::new();
    for _ in 0..bench.effort.pick(31, 201) {
        let one = |bench: &mut Bench, scene: &mut Scene| -> Outcome<f64> {
            Ok(recover(bench, &mut [scene], SMALL)?.iter().sum())
        };
        pairs.push(if bench.effort.coin() {
            let took = one(bench, &mut ours)?;
            (took, one(bench, &mut peer)?)
        } else {
            let took = one(bench, &mut peer)?;
            (one(bench, &mut ours)?, took)
        });
    }
    let small = Ratio::of_pairs(&pairs);
    bench.report.row(rows::SHM_RECOVERY_SMALL, &small.into())?;
    let mut others = Vec::new();
    for _ in 0..bench.effort.pick(9, 201) {
        others.extend(recover(bench, &mut [&mut other], SMALL)?);
    }

    let mut all = [&mut ours, &mut peer, &mut other];
    let mut common = |bench: &mut Bench, bytes, kills| -> Outcome<[Vec<f64>; 3]> {
        let mut samples = [const { Vec::new() }; 3];
        for _ in 0..kills {
            let recoveries = recover(bench, &mut all, bytes)?;
            for (samples, took) in samples.iter_mut().zip(recoveries) {
                samples.push(took);
            }
        }
        Ok(samples)
    };
    let kills = bench.effort.pick(5, 51);
    let medium = common(bench, MEDIUM, kills)?;
    let kills = bench.effort.pick(7, 200);
    let large = common(bench, LARGE, kills)?;
    let pairs: Vec<(f64, f64)> = large[0]
        .iter()
        .copied()
        .zip(large[1].iter().copied())
        .collect();
    let ratio = Ratio::of_pairs(&pairs);
    bench.report.row(rows::SHM_RECOVERY_LARGE, &ratio.into())?;

    let small = [small.ours, small.peer, median(&others)];
    let kinds = [Kind::Shared, Kind::SemUndo, Kind::Ofd];
    Ok((0..kinds.len())
        .map(|i| (kinds[i], [small[i], median(&medium[i]), median(&large[i])]))
        .collect())
}

/// Costs of one kind.
#[derive(Clone, Debug, Default)]
struct Costs {
    uncontended: Vec<f64>,
    contended: Vec<f64>,
}

fn side_by_side(
    bench: &mut Bench,
    janitor: &mut Janitor,
    recovered: &[(Kind, Recoveries)],
) -> Outcome {
    let head = [
        "side by side",
        "uncontended",
        "8 processes",
        "killed, 1 MB",
        "256 MB",
        "2 GB",
    ];
    let mut lines = vec![head.map(String::from).to_vec()];
    for (kind, costs) in Kind::ALL.into_iter().zip(contend(bench, janitor)?) {
        let time = |nanos: f64| Nanos(nanos).to_string();
        let recoveries = match recovered.iter().find(|(known, _)| *known == kind) {
            Some((_, recoveries)) => recoveries.map(time),
            None => {
                check_never(bench, kind, janitor)?;
                ["never"; 3].map(String::from)
            }
        };
        let mut line = vec![
            kind.name().to_owned(),
            time(median(&costs.uncontended)),
            time(median(&costs.contended)),
        ];
        line.extend(recoveries);
        lines.push(line);
    }
    bench.report.table(&lines)?;
    Ok(())
}

/// For much longer than the recoveries that there are.
fn check_never(bench: &mut Bench, kind: Kind, janitor: &mut Janitor) -> Outcome {
    let time = bench
        .effort
        .pick(Duration::from_millis(300), Duration::from_secs(2));
    let slept = Duration::from_millis(10);
    match kill(&mut [&mut Scene::new(kind, janitor)?], SMALL, slept, time)?[..] {
        [None] => Ok(()),
        _ => Err(format!("{} gives back a killed process's permit", kind.name()).into()),
    }
}

/// The two columns of costs. The kinds take turns, so that the machine's drift meets all alike.
fn contend(bench: &mut Bench, janitor: &mut Janitor) -> Outcome<Vec<Costs>> {
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
    let mut costs = vec![Costs::default(); sides.len()];
    for _ in 0..bench.effort.pick(5, 21) {
        for ((alone, _, children), costs) in sides.iter_mut().zip(&mut costs) {
            costs
                .uncontended
                .push(cost(&bench.effort, 5, |ops| alone.own.cycle(ops)));
            costs.contended.push(crowd(children, time, work)?);
        }
    }
    Ok(costs)
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
