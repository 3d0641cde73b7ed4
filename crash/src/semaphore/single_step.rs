//! A process is killed at every point of every operation.
//!
//! For each point, a subject is forked, led to it and killed, and a fresh process must then find
//! every permit. [`operations`] lists what is led through, [`company`] who else is there.

mod company;
mod operations;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use self::company::Company;
use self::operations::{OPERATIONS, Operation, Stage};
use super::audit;
use crate::page::Page;
use crate::scene::Scene;
use crate::trace::{self, KNOWS_PLACES, Led, Reached, Step, Subject};

/// The permits that there are at first, and those that a lower maximum leaves.
const PERMITS: u32 = 4;
const FEWEST: u32 = 2;

/// Failures after which an operation is given up.
const ENOUGH: usize = 3;

/// Instructions that one subject may be led through, one by one, in the full form.
const MOST_STEPS: u64 = 3_000_000;
/// And between two signs of life: on a slow machine all of them may take longer than the supervisor
/// waits for one.
const STEPS: u64 = 10_000;

pub(super) fn instructions(scene: &mut Scene) -> Result<()> {
    if let Some(why) = trace::impossible() {
        scene.skip("single-step", &why);
        return Ok(());
    }
    share_one_processor()?;
    for operation in OPERATIONS {
        if operation.by_instruction || scene.full {
            run(scene, "single-step", operation, Step::Instruction, Led::Own)?;
        }
    }
    Ok(())
}

/// What takes long by instructions is killed at each system call's entry and exit instead, in its
/// own thread and in the one that it starts.
pub(super) fn system_calls(scene: &mut Scene) -> Result<()> {
    if let Some(why) = trace::impossible() {
        scene.skip("system-calls", &why);
        return Ok(());
    }
    for operation in OPERATIONS {
        if !operation.by_instruction {
            run(scene, "system-calls", operation, Step::SystemCall, Led::Own)?;
        }
        if operation.starts_keeper {
            run(
                scene,
                "keeper-calls",
                operation,
                Step::SystemCall,
                Led::Started,
            )?;
        }
    }
    Ok(())
}

/// A step is a switch to the subject and back, which costs several times as much between two
/// processors.
fn share_one_processor() -> Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
    let is_allowed = |cpu: &usize| allowed.is_set(*cpu).unwrap_or(false);
    let last = (0..CpuSet::count()).rev().find(is_allowed);
    let mut one = CpuSet::new();
    one.set(last.context("no processor")?)?;
    sched_setaffinity(Pid::from_raw(0), &one).context("sched_setaffinity")
}

fn run(
    scene: &mut Scene,
    scenario: &str,
    operation: &'static Operation,
    step: Step,
    led: Led,
) -> Result<()> {
    let started = Instant::now();
    let name = format!("{scenario} {}", operation.name);
    let file = format!("{scenario}-{}", operation.name);
    let mut walk = Walk {
        stage: Stage {
            path: scene.semaphore(&file),
            permits: PERMITS,
            fewest: FEWEST,
        },
        page: scene.page(&file, company::CELLS)?,
        company: None,
        operation,
        step,
        led,
    };
    walk.audit()?;
    let goals = walk.survey(scene)?;
    let total = goals.len() as u64;
    let (mut covered, mut failures) = (0, Vec::new());
    // Steps to points that are not reached otherwise.
    let mut budget: u64 = scene.choose(40_000, MOST_STEPS);
    for goal in chosen(scene, step, goals) {
        let (mut reached, mut place) = walk.visit(scene, goal)?;
        if let (Reached::End(_), Goal::Place { point, .. }) = (reached, goal)
            && point <= budget
        {
            // It came another way, or not so often. Step by step, then.
            budget -= point;
            walk.clear()?;
            walk.audit()?;
            (reached, place) = walk.visit(scene, Goal::Step(point))?;
        }
        covered += u64::from(reached == Reached::Point);
        let result = walk.clear().and_then(|()| walk.audit());
        if let Err(error) = result {
            failures.push((goal, place, error));
            if failures.len() == ENOUGH {
                break;
            }
            walk.begin_anew()?;
        }
        scene.beat();
    }
    let unit = match step {
        Step::Instruction => "instruction",
        Step::SystemCall => "system-call-boundary",
    };
    let figures = format!(
        "points={covered}/{total} unit={unit} seconds={:.1}",
        started.elapsed().as_secs_f64()
    );
    scene.report(&name, figures, verdict(&failures));
    Ok(())
}

fn verdict(failures: &[(Goal, Option<u64>, anyhow::Error)]) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for (goal, place, error) in failures {
        let (Goal::Step(point) | Goal::Place { point, .. }) = goal;
        let place = place.and_then(source_line).unwrap_or_default();
        write!(text, "\n    killed at {point} {place}: {error:#}")?;
    }
    Err(anyhow!("{} points failed{text}", failures.len()))
}

/// A point to kill at.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// After so many steps.
    Step(u64),
    /// The same, known as the place at which it is for the `arrivals`th time.
    Place {
        point: u64,
        place: u64,
        arrivals: u64,
    },
}

/// All goals, or in the short form evenly spread ones with a random beginning, and the last.
fn chosen(scene: &mut Scene, step: Step, goals: Vec<Goal>) -> Vec<Goal> {
    let most = match step {
        Step::Instruction => scene.choose(64, usize::MAX),
        Step::SystemCall => usize::MAX,
    };
    let Some(last) = goals.last().copied() else {
        return goals;
    };
    if goals.len() <= most {
        return goals;
    }
    let stride = goals.len() / most + 1;
    let first = scene.random.usize(..stride);
    let mut chosen: Vec<_> = goals.into_iter().skip(first).step_by(stride).collect();
    chosen.push(last);
    chosen
}

struct Walk {
    stage: Stage,
    page: Page,
    company: Option<Company>,
    operation: &'static Operation,
    step: Step,
    led: Led,
}

impl Walk {
    /// Leads a subject through the whole operation, and returns every point on its way.
    fn survey(&mut self, scene: &Scene) -> Result<Vec<Goal>> {
        let goals = if self.step == Step::Instruction && KNOWS_PLACES {
            let beat = |taken| Walk::beat(scene, Step::Instruction, taken);
            let subject = self.subject()?;
            let places = subject.record(beat).context("the survey")?;
            subject.kill()?;
            let mut arrivals: HashMap<u64, u64> = HashMap::new();
            let goal = |(point, place): (usize, u64)| {
                let arrivals = arrivals.entry(place).or_default();
                *arrivals += 1;
                Goal::Place {
                    point: point as u64,
                    place,
                    arrivals: *arrivals,
                }
            };
            // The repetitions of a string instruction are one arrival.
            let mut points: Vec<_> = places.into_iter().enumerate().collect();
            points.dedup_by_key(|(_, place)| *place);
            points.into_iter().map(goal).collect()
        } else {
            match self.visit(scene, Goal::Step(u64::MAX))?.0 {
                Reached::End(steps) => (0..=steps).map(Goal::Step).collect(),
                Reached::Point => unreachable!("an operation has an end"),
            }
        };
        scene.beat();
        self.clear()?;
        self.audit()?;
        Ok(goals)
    }

    /// Leads a subject to a point and kills it there: how far it came, and where that was.
    fn visit(&mut self, scene: &Scene, goal: Goal) -> Result<(Reached, Option<u64>)> {
        let (step, led) = (self.step, self.led);
        let beat = |taken| Walk::beat(scene, step, taken);
        let mut subject = self.subject()?;
        let result = match (led, goal) {
            (Led::Started, _) if !subject.lead_started()? => Ok(Reached::End(0)),
            (_, Goal::Step(point)) => subject.lead(step, point, beat),
            (
                _,
                Goal::Place {
                    place, arrivals, ..
                },
            ) => subject.lead_to(place, arrivals, beat),
        };
        let place = subject.place();
        subject.kill()?;
        Ok((
            result.with_context(|| format!("on the way to {goal:x?}"))?,
            place,
        ))
    }

    /// A sign of life after some steps of a subject. Not after more than any operation takes: one
    /// that goes round in circles is to be noticed. System calls are few.
    fn beat(scene: &Scene, step: Step, taken: u64) {
        if step == Step::Instruction && taken < MOST_STEPS && taken.is_multiple_of(STEPS) {
            scene.beat();
        }
    }

    /// A subject at the beginning of the operation, in its company.
    fn subject(&mut self) -> Result<Subject<'_>> {
        if self.operation.creates && self.stage.path.exists() {
            fs::remove_file(&self.stage.path)?;
        }
        let company = match self.company.take() {
            Some(company) => company,
            None => Company::start(self.operation.company, &self.stage, &self.page)?,
        };
        let company = self.company.insert(company);
        company.gather(&self.page).context("the company")?;
        let (stage, run) = (&self.stage, self.operation.run);
        let subject = Subject::start(&self.page, |marks| run(stage, marks))?;
        company.begin()?;
        Ok(subject)
    }

    /// Lets the company return what it has.
    fn clear(&mut self) -> Result<()> {
        match &mut self.company {
            Some(company) => company.disperse(&self.page),
            None => Ok(()),
        }
    }

    fn audit(&self) -> Result<()> {
        audit::capacity_between(&self.stage.path, PERMITS, [PERMITS, FEWEST])
    }

    /// After a failure: another file, and others around it.
    fn begin_anew(&mut self) -> Result<()> {
        self.company = None;
        if self.stage.path.exists() {
            fs::remove_file(&self.stage.path)?;
        }
        self.audit()
    }
}

/// The source line of an address in this program, if the tool for it is there.
fn source_line(address: u64) -> Option<String> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let own = fs::read_link("/proc/self/exe").ok()?;
    let (offset, file) = mapped(&maps, address)?;
    if file != own {
        return Some(format!("in {} at {offset:#x}", file.display()));
    }
    let output = Command::new("addr2line")
        .args(["-f", "-C", "-s", "-i", "-e"])
        .arg(own)
        .arg(format!("{offset:#x}"))
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let lines: Vec<_> = text.lines().take(6).collect();
    Some(format!("at {offset:#x} ({})", lines.join(" ")))
}

/// The file that is mapped at an address, and how far from the file's beginning in memory that is.
fn mapped(maps: &str, address: u64) -> Option<(u64, PathBuf)> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let from = u64::from_str_radix(from, 16).ok()?;
        let to = u64::from_str_radix(to, 16).ok()?;
        Some((from..to, words.nth(4)?.to_owned()))
    };
    let all: Vec<_> = maps.lines().filter_map(parse).collect();
    let (_, file) = all.iter().find(|(range, _)| range.contains(&address))?;
    let (first, _) = all.iter().find(|(_, other)| other == file)?;
    Some((address - first.start, PathBuf::from(file)))
}
