//! `cargo xtask storm`: the random, many-threaded integration tests, optimised.
//!
//! They are `tests/*_storm.rs`; the environment variable `LATCHWORK_STORM` (`short` or `full`)
//! tells them how long to go on. `--full` adds the random comparisons with plain models and with
//! redis-server, and the load of slots, which run by themselves, short, with the ordinary tests.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::process::Program;
use crate::report::{Outcome, count, seconds, skipped};
use crate::workspace::{LIBRARY, TestBinary, Workspace};

const SHORT_LIMIT: Duration = Duration::from_secs(300);
const FULL_LIMIT: Duration = Duration::from_secs(2 * 3600);

/// Random comparisons and loads that are long with `--full`: the program, and its modules if not
/// all.
const COMPARISONS: [(&str, &[&str]); 5] = [
    ("kvnode", &["differential::", "schedule::"]),
    ("rmw_blocking_model", &[]),
    ("rmw_list_model", &[]),
    ("rmw_model", &[]),
    ("slots", &["load::"]),
];

/// The names of the storm tests.
pub(crate) fn names(workspace: &Workspace) -> Result<Vec<String>> {
    let mut names = workspace.targets("test")?;
    names.retain(|name| name.ends_with("_storm"));
    Ok(names)
}

pub(crate) fn run(workspace: &Workspace, name: Option<&str>, full: bool) -> Result<Outcome> {
    let mut all = names(workspace)?;
    if full {
        all.extend(COMPARISONS.map(|(name, _)| name.to_owned()));
    }
    if all.is_empty() {
        return skipped("there is no tests/*_storm.rs yet");
    }
    let chosen: Vec<String> = all
        .iter()
        .filter(|test| name.is_none_or(|name| test.contains(name)))
        .cloned()
        .collect();
    if chosen.is_empty() {
        bail!("no storm test matches; there are: {}", all.join(", "));
    }
    for example in ["kvnode", "slots"] {
        if chosen.iter().any(|test| test == example) {
            // The tests of an example drive the built program.
            Program::cargo()
                .words("build --release --all-features --example")
                .args([example, "-p", LIBRARY])
                .run()?;
        }
    }
    let build = Program::cargo()
        .words("test --release --all-features")
        .args(["-p", LIBRARY]);
    let binaries = workspace.build_tests(
        chosen
            .iter()
            .fold(build, |build, test| build.args(["--test", test])),
    )?;
    let (length, limit) = if full {
        ("full", FULL_LIMIT)
    } else {
        ("short", SHORT_LIMIT)
    };
    run_all(&binaries, limit, |binary| {
        let part = COMPARISONS.iter().find(|(name, _)| *name == binary.name);
        let modules = part.map_or(&[][..], |(_, modules)| modules);
        let program = binary.program().args(modules);
        program.env("LATCHWORK_STORM", length)
    })
}

/// Runs test binaries one after the other, each bounded by `limit`; all run even if one fails.
pub(crate) fn run_all(
    binaries: &[TestBinary],
    limit: Duration,
    set_up: impl Fn(&TestBinary) -> Program,
) -> Result<Outcome> {
    let mut failures = Vec::new();
    for binary in binaries {
        match set_up(binary).run_bounded(limit) {
            Ok(end) => {
                let result = end
                    .stdout
                    .lines()
                    .rev()
                    .find(|line| line.starts_with("test result"))
                    .unwrap_or("ok");
                println!("{}: {result} ({})", binary.name, seconds(end.elapsed));
            }
            Err(error) => {
                println!("{}: FAILED", binary.name);
                failures.push(error);
            }
        }
    }
    match failures.len() {
        0 => Ok(Outcome::Passed),
        1 => Err(failures.remove(0)),
        more => Err(failures
            .remove(0)
            .context(format!("{} failed, first", count(more, "test program")))),
    }
}
