//! `cargo xtask crash`: processes killed at planned and at random moments, and power cuts, in
//! release.
//!
//! Hands over to the crash member, which knows its suites and scenarios, prints a line for each,
//! and notices hangs by itself.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::Program;
use crate::report::Outcome;
use crate::workspace::{LIBRARY, Workspace};

const PACKAGE: &str = "latchwork-crash";
const SUITES: &[&str] = &["semaphore", "flush", "kvnode", "wal"];

/// Several times what the short form takes.
const SHORT_LIMIT: Duration = Duration::from_secs(900);

/// What goes to the suite as it stands on the command line.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) full: bool,
    pub(crate) seed: Option<u64>,
    pub(crate) only: Option<String>,
}

pub(crate) fn run(
    workspace: &Workspace,
    name: Option<&str>,
    options: &Options,
) -> Result<ExitCode> {
    let suite = match name {
        Some(name) if SUITES.contains(&name) => name,
        Some(name) => bail!("no crash suite `{name}`; there are: {}", SUITES.join(", ")),
        None => bail!("which suite? There are: {}", SUITES.join(", ")),
    };
    let mut program = build(workspace, suite)?.arg(suite);
    if options.full {
        program = program.arg("--full");
    }
    if let Some(seed) = options.seed {
        program = program.args(["--seed", &seed.to_string()]);
    }
    if let Some(only) = &options.only {
        program = program.args(["--only", only]);
    }
    program.hand_over()
}

/// Every suite's short form.
pub(crate) fn short(workspace: &Workspace) -> Result<Outcome> {
    for suite in SUITES {
        let end = build(workspace, suite)?
            .arg(suite)
            .run_bounded(SHORT_LIMIT)?;
        print!("{}", end.stdout);
    }
    Ok(Outcome::Passed)
}

fn build(workspace: &Workspace, suite: &str) -> Result<Program> {
    if suite == "kvnode" {
        Program::cargo()
            .words("build --release --all-features --example kvnode -p")
            .arg(LIBRARY)
            .run()?;
    }
    Program::cargo()
        .words("build --release -p")
        .arg(PACKAGE)
        .run()?;
    Ok(Program::new(workspace.target.join("release").join(PACKAGE)))
}
