//! A process is killed at every point of every operation.
//!
//! For each point, a subject is forked, led to it and killed, and a fresh process must then find
//! every permit. [`operations`] lists what is led through, [`company`] who else is there.

mod company;
mod operations;

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
use crate::trace::{Led, Reached, Step, Subject};

/// The permits that there are at first, and those that a lower maximum leaves.
const PERMITS: u32 = 4;
const FEWEST: u32 = 2;

/// Failures after which an operation is given up.
const ENOUGH: usize = 5;

pub(super) fn instructions(scene: &mut Scene) -> Result<()> {
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
    let total = match walk.visit(u64::MAX)?.0 {
        Reached::End(steps) => steps,
        Reached::Point => unreachable!("an operation has an end"),
    };
    walk.clear()?;
    walk.audit()?;
    let chosen = points(scene, step, total);
    let (mut covered, mut longest, mut failures) = (0, total, Vec::new());
    for point in &chosen {
        let (reached, place) = walk.visit(*point)?;
        match reached {
            Reached::Point => covered += 1,
            Reached::End(steps) => longest = longest.max(steps),
        }
        let result = walk.clear().and_then(|()| walk.audit());
        if let Err(error) = result {
            failures.push((*point, place, error));
            if failures.len() == ENOUGH {
                break;
            }
            walk.begin_anew()?;
        }
        scene.beat();
    }
    let unit = match step {
        Step::Instruction => "instructions",
        Step::SystemCall => "boundaries",
    };
    let figures = format!(
        "points={}/{} {unit}={longest} seconds={:.1}",
        covered + 1,
        longest + 1,
        started.elapsed().as_secs_f64()
    );
    scene.report(&name, figures, verdict(&failures));
    Ok(())
}

fn verdict(failures: &[(u64, Option<u64>, anyhow::Error)]) -> Result<()> {
    if failures.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for (point, place, error) in failures {
        let place = place.and_then(source_line).unwrap_or_default();
        write!(text, "\n    killed at {point} {place}: {error:#}")?;
    }
    Err(anyhow!("{} points failed{text}", failures.len()))
}

/// Which points to kill at: all, where that takes a reasonable number of steps; else evenly
/// spread ones with a random beginning, and the first and last ones.
fn points(scene: &mut Scene, step: Step, total: u64) -> Vec<u64> {
    let steps_for_all = total * total / 2;
    let budget = match step {
        Step::SystemCall => u64::MAX,
        Step::Instruction => scene.choose(150_000, 40_000_000),
    };
    let most = scene.choose(250, u64::MAX);
    // A path may be a little longer the next time, since others run as well.
    let last = total + total / 8 + 4;
    if steps_for_all <= budget && total <= most {
        return (0..=last).collect();
    }
    let stride = (steps_for_all / budget).max(total / most).max(1) + 1;
    let first = scene.random.u64(..stride);
    let mut points: Vec<u64> = (first..=last).step_by(stride as usize).collect();
    points.extend([0, 1, total - 1, total]);
    points.sort_unstable();
    points.dedup();
    points
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
    /// Leads a subject to a point and kills it there: how far it came, and where that was.
    fn visit(&mut self, point: u64) -> Result<(Reached, Option<u64>)> {
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
        let mut subject = Subject::start(&self.page, |marks| run(stage, marks))?;
        company.begin()?;
        let result = match self.led {
            Led::Started if !subject.lead_started()? => Ok(Reached::End(0)),
            Led::Own | Led::Started => subject.lead(self.step, point),
        };
        let place = subject.place();
        subject.kill()?;
        Ok((
            result.with_context(|| format!("on the way to {point}"))?,
            place,
        ))
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
    let (offset, file) = maps.lines().find_map(|line| mapped(line, address))?;
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
    Some(format!(
        "at {offset:#x} ({})",
        text.lines().take(6).collect::<Vec<_>>().join(" ")
    ))
}

/// What a line of `maps` says of an address: what the linker called it, and the file.
fn mapped(line: &str, address: u64) -> Option<(u64, PathBuf)> {
    let mut words = line.split_whitespace();
    let (from, to) = words.next()?.split_once('-')?;
    let from = u64::from_str_radix(from, 16).ok()?;
    let to = u64::from_str_radix(to, 16).ok()?;
    let offset = u64::from_str_radix(words.nth(1)?, 16).ok()?;
    let file = PathBuf::from(words.nth(2)?);
    (from..to)
        .contains(&address)
        .then(|| (address - from + offset, file))
}
