//! Kills processes at planned and at random moments, and checks what the others find.
//!
//! `latchwork-crash SUITE [--full] [--seed N] [--only SCENARIO]`; `cargo xtask crash` runs it.
//! Each scenario prints one or more lines, `CRASH <scenario> <figures> ok|FAIL`; the exit code is
//! 1 if one failed. [`supervisor`] runs each in a process group of its own and notices hangs,
//! [`child`] forks, [`page`] is memory that the processes share, [`trace`] stops a process at a
//! chosen instruction.

mod child;
mod cuts;
mod disk;
mod failed;
mod flush;
mod forgetful;
mod kvnode;
mod page;
mod scene;
mod semaphore;
mod supervisor;
mod trace;
mod wal;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use lexopt::prelude::*;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::scene::Scene;
use crate::supervisor::Order;

const USAGE: &str = "\
USAGE: latchwork-crash SUITE [--full] [--seed N] [--only SCENARIO]

  --full           as long as it takes to trust it, not as short as it pays
  --seed N         the same random numbers as the run that printed N
  --only SCENARIO  one scenario of the suite

Suites, with their scenarios:
";

fn help() -> String {
    let mut text = USAGE.to_owned();
    for suite in SUITES {
        let scenarios: Vec<_> = suite.scenarios.iter().map(|one| one.name).collect();
        let (name, what) = (suite.name, suite.what);
        text += &format!("  {name:10} {what}\n{:13}{}\n", "", scenarios.join(", "));
    }
    text
}

/// What a suite may run.
struct Scenario {
    name: &'static str,
    run: fn(&mut Scene) -> Result<()>,
}

struct Suite {
    name: &'static str,
    what: &'static str,
    scenarios: &'static [Scenario],
}

const SUITES: &[Suite] = &[
    Suite {
        name: "semaphore",
        what: "permits across processes",
        scenarios: semaphore::SCENARIOS,
    },
    Suite {
        name: "flush",
        what: "the flush pipeline, and a manifest that it writes",
        scenarios: flush::SCENARIOS,
    },
    Suite {
        name: "kvnode",
        what: "the example server with its data on disk",
        scenarios: kvnode::SCENARIOS,
    },
    Suite {
        name: "wal",
        what: "the log: kills, power cuts, and all that a power cut may leave",
        scenarios: wal::SCENARIOS,
    },
];

fn main() -> ExitCode {
    dispatch().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn dispatch() -> Result<ExitCode> {
    let mut parser = lexopt::Parser::from_env();
    let mut words = Vec::new();
    let (mut seed, mut full) = (None, false);
    let (mut only, mut directory) = (None, None);
    while let Some(arg) = parser.next()? {
        match arg {
            Value(word) => words.push(word.string()?),
            Long("seed") => seed = Some(parser.value()?.parse()?),
            Long("full") => full = true,
            Long("only") => only = Some(parser.value()?.string()?),
            Long("directory") => directory = Some(PathBuf::from(parser.value()?)),
            Long("help") | Short('h') => {
                print!("{}", help());
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // The roles in which this program starts itself.
        ["scenario", suite, name] => {
            let directory = directory.context("--directory is missing")?;
            scenario(suite, name, Scene::enter(&directory, seed, full)?)
        }
        ["inspect", path] => semaphore::inspect(path.as_ref()).map(|()| ExitCode::SUCCESS),
        ["linger"] => semaphore::linger(),
        [name] => {
            let suite = suite(name)?;
            let scenarios: Vec<_> = suite
                .scenarios
                .iter()
                .map(|scenario| scenario.name)
                .filter(|name| only.as_deref().is_none_or(|only| only == *name))
                .collect();
            if scenarios.is_empty() {
                let all: Vec<_> = suite.scenarios.iter().map(|one| one.name).collect();
                bail!("no such scenario of {name}; there are: {}", all.join(", "));
            }
            supervisor::run(&Order {
                suite: suite.name,
                scenarios,
                seed,
                full,
            })
        }
        _ => bail!("one suite, please\n{}", help()),
    }
}

fn suite(name: &str) -> Result<&'static Suite> {
    let found = SUITES.iter().find(|suite| suite.name == name);
    found.with_context(|| format!("no suite `{name}`\n{}", help()))
}

/// A scenario's own process.
fn scenario(suite_name: &str, name: &str, mut scene: Scene) -> Result<ExitCode> {
    // The supervisor's death ends everything.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let scenario = suite(suite_name)?
        .scenarios
        .iter()
        .find(|scenario| scenario.name == name)
        .with_context(|| format!("no scenario `{name}`"))?;
    if let Err(error) = (scenario.run)(&mut scene) {
        scene.report(name, "broke off", Err(error));
    }
    Ok(if scene.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
