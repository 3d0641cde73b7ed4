//! Processes that take and return permits while random ones are killed and replaced.
//!
//! What each holds it enters in the [`Arena`], which finds out at once when two processes hold the
//! same permit. Every so many kills all are told to stop, and a fresh process must find every
//! permit.

mod arena;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::arena::Arena;
use self::worker::{Member, Work};
use super::audit;
use crate::child::{self, Child};
use crate::scene::{Scene, now, percentiles};
use latchwork::SharedSemaphore;
use nix::sched::CloneFlags;

struct Plan {
    name: &'static str,
    workers: usize,
    /// The permits that the semaphore is made with, and the fewest that `set_max` leaves.
    permits: u32,
    fewest: u32,
    quiesces: usize,
    kills_each: usize,
    /// How many acquisitions each round waits for, whatever its kills.
    acquisitions_each: u64,
    strict: bool,
    /// Each worker is number 1 of a PID namespace, and its keeper has the number of all keepers.
    namespaces: bool,
    work: Work,
}

pub(super) fn storm(scene: &mut Scene) -> Result<()> {
    let plan = Plan {
        name: "storm",
        workers: 8,
        permits: 4,
        fewest: 2,
        quiesces: scene.choose(20, 200),
        kills_each: 100,
        acquisitions_each: 0,
        strict: false,
        namespaces: false,
        work: Work::Mixed,
    };
    run(scene, &plan);
    run(
        scene,
        &Plan {
            name: "storm-strict",
            quiesces: scene.choose(4, 40),
            strict: true,
            ..plan
        },
    );
    let plan = Plan {
        name: "storm-namespaces",
        quiesces: scene.choose(4, 40),
        namespaces: true,
        ..plan
    };
    match child::no_namespaces(CloneFlags::CLONE_NEWPID) {
        None => run(scene, &plan),
        Some(why) => scene.skip(plan.name, &why),
    }
    recovery(scene)
}

pub(super) fn operations(scene: &mut Scene) -> Result<()> {
    let plan = Plan {
        name: "ops-storm",
        workers: 16,
        permits: 4,
        fewest: 4,
        quiesces: scene.choose(25, 1_000),
        kills_each: 20,
        acquisitions_each: scene.choose(2_000, 1_000),
        strict: false,
        namespaces: false,
        work: Work::Plain,
    };
    run(scene, &plan);
    Ok(())
}

fn run(scene: &mut Scene, plan: &Plan) {
    let started = Instant::now();
    let mut figures = Figures::default();
    let result = storm_through(scene, plan, &mut figures);
    let elapsed = started.elapsed().as_secs_f64();
    let line = format!(
        "workers={} kills={} kills/s={:.0} acquisitions={} quiesces={} handed-on={} seconds={elapsed:.1}",
        plan.workers,
        figures.kills,
        figures.kills as f64 / elapsed,
        figures.acquisitions,
        figures.quiesces,
        figures.handed_on,
    );
    scene.report(plan.name, line, result);
}

#[derive(Default)]
struct Figures {
    kills: usize,
    acquisitions: u64,
    quiesces: usize,
    /// Permits of the killed that somebody held before the killed were replaced.
    handed_on: u64,
}

fn storm_through(scene: &mut Scene, plan: &Plan, figures: &mut Figures) -> Result<()> {
    let path = scene.semaphore(plan.name);
    let cells = Arena::cells(plan.permits, plan.workers);
    let mut crowd = Crowd {
        arena: Arena::new(scene.page(plan.name, cells)?, plan.permits, plan.workers),
        path,
        plan,
        members: Vec::new(),
        generation: 0,
    };
    for quiesce in 0..plan.quiesces {
        let result = crowd.round(scene);
        figures.acquisitions = crowd.arena.acquisitions().load(Relaxed);
        figures.handed_on = crowd.arena.inherited().load(Relaxed);
        figures.kills += result.with_context(|| format!("round {quiesce}"))?;
        figures.quiesces += 1;
    }
    Ok(())
}

/// The workers of a storm.
struct Crowd<'p> {
    arena: Arena,
    path: PathBuf,
    plan: &'p Plan,
    members: Vec<Child>,
    /// Counts workers; no two have the same.
    generation: u64,
}

impl Crowd<'_> {
    /// One round up to its quiesce; how many were killed.
    fn round(&mut self, scene: &mut Scene) -> Result<usize> {
        let target = self.arena.acquisitions().load(Relaxed) + self.plan.acquisitions_each;
        self.arena.stop().store(0, SeqCst);
        for slot in 0..self.plan.workers {
            let child = self.start(scene, slot)?;
            self.members.push(child);
        }
        let mut youngest = self.plan.workers - 1;
        for _ in 0..self.plan.kills_each {
            let random = &mut scene.random;
            // Some die on their way in; the others whenever it happens.
            let (slot, life) = if random.u8(..) < 64 {
                (youngest, random.u64(..800))
            } else {
                (random.usize(..self.plan.workers), random.u64(..3_000))
            };
            thread::sleep(Duration::from_micros(life));
            self.arena.doom(slot, self.generation_of(slot));
            let victim = self.members.swap_remove(slot);
            victim.destroy().context("a worker")?;
            let child = self.start(scene, slot)?;
            self.members.push(child);
            let last = self.members.len() - 1;
            self.members.swap(slot, last);
            youngest = slot;
            self.arena.verdict()?;
            scene.beat();
        }
        while self.arena.acquisitions().load(Relaxed) < target {
            thread::sleep(Duration::from_millis(1));
        }
        self.arena.stop().store(1, SeqCst);
        for worker in self.members.drain(..) {
            worker.finish().context("a worker")?;
            scene.beat();
        }
        self.arena.verdict()?;
        self.arena.all_returned()?;
        let (permits, fewest) = (self.plan.permits, self.plan.fewest);
        let audit = match self.plan.strict {
            true => audit::capacity_strict,
            false => audit::capacity_between,
        };
        audit(&self.path, permits, [permits, fewest]).context("quiesce")?;
        scene.beat();
        Ok(self.plan.kills_each)
    }

    fn generation_of(&self, slot: usize) -> u64 {
        self.arena.generation(slot).load(Relaxed)
    }

    fn start(&mut self, scene: &mut Scene, slot: usize) -> Result<Child> {
        self.generation += 1;
        self.arena.generation(slot).store(self.generation, Relaxed);
        let member = Member {
            arena: &self.arena,
            path: &self.path,
            permits: self.plan.permits,
            fewest: self.plan.fewest,
            strict: self.plan.strict,
            slot,
            generation: self.generation,
            seed: scene.random.u64(..),
            work: self.plan.work,
        };
        match self.plan.namespaces {
            true => Child::fork_in_namespace(|| member.run()),
            false => Child::fork(|| member.run()),
        }
    }
}

/// How long it takes from SIGKILL to the next owner, who was waiting.
fn recovery(scene: &mut Scene) -> Result<()> {
    let path = scene.semaphore("recovery");
    let page = scene.page("recovery", 2)?;
    let (held, got) = (page.cell(0), page.cell(1));
    let kills = scene.choose(200, 1_000);
    let mut samples = Vec::new();
    for _ in 0..kills {
        held.store(0, SeqCst);
        got.store(0, SeqCst);
        let holder = Child::fork(|| {
            let semaphore = SharedSemaphore::open(&path, 1).expect("open");
            let _permit = semaphore.acquire().expect("acquire");
            held.store(1, SeqCst);
            loop {
                thread::park();
            }
        })?;
        while held.load(SeqCst) == 0 {
            thread::sleep(Duration::from_micros(20));
        }
        let waiter = Child::fork(|| {
            let semaphore = SharedSemaphore::open(&path, 1).expect("open");
            held.store(2, SeqCst);
            let _permit = semaphore.acquire().expect("acquire");
            got.store(now().as_nanos() as u64, SeqCst);
            0
        })?;
        while held.load(SeqCst) != 2 {
            thread::sleep(Duration::from_micros(20));
        }
        // Most probably asleep by then.
        thread::sleep(Duration::from_millis(2));
        let killed = now();
        holder.destroy()?;
        waiter.finish()?;
        samples.push(Duration::from_nanos(got.load(SeqCst)).saturating_sub(killed));
        scene.beat();
    }
    let (median, tail) = percentiles(&mut samples);
    let figures = format!("kills={kills} next-owner-median={median:.0?} p99={tail:.0?}");
    scene.report("recovery", figures, audit::capacity(&path, 1, 1));
    Ok(())
}
