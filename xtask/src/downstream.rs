//! `cargo xtask downstream`: the part of a user who models code of their own over our types.
//!
//! `loom-tests/downstream` is a package of its own, as a user's would be. Its models pass, and
//! with the feature `seeded_bug` they must fail.

use std::time::Duration;

use anyhow::Result;

use crate::process::{Exit, Program};
use crate::report::{Outcome, failed, skipped};
use crate::workspace::Workspace;

const PACKAGE: &str = "loom-tests/downstream";
/// A seeded bug that hangs is not found.
const LIMIT: Duration = Duration::from_secs(300);

pub(crate) fn run(workspace: &Workspace) -> Result<Outcome> {
    if !workspace.root.join(PACKAGE).join("Cargo.toml").exists() {
        return skipped(format!("{PACKAGE} does not exist yet"));
    }
    let cargo = || {
        Program::cargo()
            .dir(&workspace.root, PACKAGE)
            .env("RUSTFLAGS", "--cfg latchwork_loom")
            .env(
                "CARGO_TARGET_DIR",
                workspace.target.join("downstream").to_string_lossy(),
            )
            .env("LOOM_MAX_PREEMPTIONS", "2")
            .env_remove("LOOM_MAX_DURATION")
            .env_remove("LOOM_MAX_PERMUTATIONS")
            .words("test --release")
    };
    cargo().run()?;

    let buggy = || cargo().words("--features seeded_bug");
    // Built apart, so that a build that fails is not taken for a bug that was found.
    buggy().arg("--no-run").run()?;
    println!("$ {}", buggy());
    let end = buggy().capture(Some(LIMIT))?;
    match end.exit {
        Exit::Failure(status) if end.stdout.contains("test result: FAILED") => {
            let message = end
                .stderr
                .lines()
                .chain(end.stdout.lines())
                .skip_while(|line| !line.contains("panicked at"));
            println!(
                "the seeded bug is found ({status}): {}",
                message.take(2).collect::<Vec<_>>().join(" ")
            );
            Ok(Outcome::Passed)
        }
        Exit::Success => Err(failed(format!(
            "the bug seeded in {PACKAGE} was not found; rerun: {}",
            buggy()
        ))),
        Exit::TimedOut => Err(failed(format!(
            "the bug seeded in {PACKAGE} hangs its model instead of failing it; rerun: {}",
            buggy()
        ))),
        Exit::Failure(status) => {
            print!("{}{}", end.stdout, end.stderr);
            Err(failed(format!(
                "{PACKAGE} with its bug failed ({status}), but no test did; rerun: {}",
                buggy()
            )))
        }
    }
}
