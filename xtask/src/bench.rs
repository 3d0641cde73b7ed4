//! `cargo xtask bench`: hands over to the benches, which know their names, bounds and peers.

use std::process::ExitCode;

use anyhow::Result;

use crate::process::Program;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    if !workspace.root.join("benches/src/main.rs").exists() {
        anyhow::bail!("there are no benches yet: benches/src/main.rs does not exist");
    }
    // The benches' own help lists their names.
    let listing = ["--help".to_owned()];
    let args = if args.is_empty() { &listing } else { args };
    Program::cargo()
        .words("run --release -p latchwork-benches --features peers --")
        .args(args)
        .hand_over()
}
