//! `cargo xtask fuzz`: the targets in `fuzz/`, each with its kept corpus in `fuzz/corpus/TARGET`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::process::Program;
use crate::report::{Outcome, skipped};
use crate::workspace::{Workspace, has_cargo_command, no_nightly, rust_files};

fn targets(workspace: &Workspace) -> Vec<String> {
    rust_files(&workspace.root.join("fuzz/fuzz_targets"))
}

fn corpus(workspace: &Workspace, target: &str) -> PathBuf {
    workspace.root.join("fuzz/corpus").join(target)
}

/// What must be installed first, if anything.
fn missing_tool() -> Option<String> {
    no_nightly().or_else(|| {
        let missing = !has_cargo_command("fuzz");
        missing
            .then(|| "cargo-fuzz is not installed; `cargo install cargo-fuzz --locked`".to_owned())
    })
}

/// A target that allocates more at once trusts a length that it has read.
const MOST_AT_ONCE: &str = "-malloc_limit_mb=64";

fn cargo_fuzz(workspace: &Workspace, target: &str) -> Program {
    Program::cargo()
        .dir(&workspace.root, "fuzz")
        .words("+nightly fuzz run --fuzz-dir .")
        .arg(target)
}

pub(crate) fn run(workspace: &Workspace, target: Option<&str>, seconds: u64) -> Result<ExitCode> {
    let targets = targets(workspace);
    if targets.is_empty() {
        bail!("there are no fuzz targets yet: fuzz/fuzz_targets holds none");
    }
    let Some(target) = target else {
        println!("fuzz targets (cargo xtask fuzz TARGET --seconds N):");
        for target in &targets {
            println!("  {target}");
        }
        return Ok(ExitCode::SUCCESS);
    };
    if !targets.iter().any(|known| known == target) {
        bail!(
            "no fuzz target `{target}`; there are: {}",
            targets.join(", ")
        );
    }
    if let Some(missing) = missing_tool() {
        bail!("{missing}");
    }
    std::fs::create_dir_all(corpus(workspace, target))?;
    // The first directory takes what is found; the kept corpus only seeds it, and stays small.
    let found = workspace.target.join("fuzz-corpus").join(target);
    std::fs::create_dir_all(&found)?;
    cargo_fuzz(workspace, target)
        .arg(found.to_string_lossy())
        .arg(format!("corpus/{target}"))
        .arg("--")
        .arg(MOST_AT_ONCE)
        .arg(format!("-max_total_time={seconds}"))
        .run()?;
    Ok(ExitCode::SUCCESS)
}

/// Runs every input that is kept in a corpus once.
pub(crate) fn replay(workspace: &Workspace) -> Result<Outcome> {
    let mut targets = targets(workspace);
    targets.retain(|target| corpus(workspace, target).is_dir());
    if targets.is_empty() {
        return skipped("fuzz/ has no target with a kept corpus yet");
    }
    if let Some(missing) = missing_tool() {
        return skipped(missing);
    }
    for target in targets {
        cargo_fuzz(workspace, &target)
            .arg(format!("corpus/{target}"))
            .words("-- -runs=0")
            .arg(MOST_AT_ONCE)
            .run()?;
    }
    Ok(Outcome::Passed)
}
