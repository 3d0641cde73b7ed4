//! The project's own commands: `cargo xtask help` lists them.
//!
//! One file a command family. What they share: [`process`] runs programs and says how to rerun
//! them, [`workspace`] knows the packages, features and tools, [`report`] prints tables.

mod bench;
mod crash;
mod downstream;
mod fuzz;
mod layering;
mod loom;
mod mutants;
mod process;
mod report;
mod sanitize;
mod steps;
mod storm;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use lexopt::prelude::*;

use crate::workspace::Workspace;

const HELP: &str = "\
latchwork's own commands

USAGE: cargo xtask <COMMAND>

  test [STEP…] [--list] [--fail-fast]   every check that CI makes, or the chosen ones
  loom [NAME] [--deep] [--mutants]      the loom models; --deep: preemption bound 3 instead of 2;
                                        --mutants: also that every seeded bug is caught
  shuttle [NAME] [--deep] [--mutants]   the models of whole pipelines, whose schedules are drawn
  downstream                            a user's own model over our types, with and without its bug
  storm [NAME] [--full]                 the storm tests in release; --full: long ones, and the comparisons
  bench [NAME] [--quick] […]            a comparison with the peers; without a NAME: their names
  fuzz [TARGET] [--seconds N]           fuzz a target (60 s unless told); without a TARGET: their names
  tsan | asan [NAME]                    the storm tests under a sanitizer (nightly), and its seeded bug
  crash NAME [--full] [--seed N]        processes killed at random moments and at chosen instructions,
        [--only SCENARIO]               and power cuts: `semaphore`, `flush`, `wal`, `kvnode`
  layering                              who may name and import whom in src/
  help                                  this text

NAME selects everything whose name contains it.
Exit status: 0 all passed, 1 something failed, 2 the command line or the set-up is wrong.
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            if let Some(failed) = error.downcast_ref::<process::Failed>() {
                eprintln!("rerun: {}", failed.command);
                ExitCode::from(1)
            } else if error.is::<report::CheckFailed>() {
                ExitCode::from(1)
            } else {
                ExitCode::from(2)
            }
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let mut parser = lexopt::Parser::from_env();
    let command = match parser.next()? {
        Some(Value(word)) => word.string()?,
        Some(Long("help") | Short('h')) | None => "help".to_owned(),
        Some(other) => return Err(other.unexpected().into()),
    };
    if command == "help" {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }

    // `bench` hands everything behind its name to the benches.
    if command == "bench" {
        let args = parser
            .raw_args()?
            .map(|arg| arg.string())
            .collect::<Result<Vec<_>, _>>()?;
        return bench::run(&Workspace::load()?, &args);
    }

    let is_models = command == "loom" || command == "shuttle";
    let mut words = Vec::new();
    let mut flags = Flags::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Value(word) => words.push(word.string()?),
            Long("list") if command == "test" => flags.list = true,
            Long("fail-fast") if command == "test" => flags.fail_fast = true,
            Long("deep") if is_models => flags.deep = true,
            Long("mutants") if is_models => flags.mutants = true,
            Long("full") if command == "storm" => flags.full = true,
            Long("full") if command == "crash" => flags.crash.full = true,
            Long("seed") if command == "crash" => {
                flags.crash.seed = Some(number(&mut parser, "--seed")?);
            }
            Long("only") if command == "crash" => {
                flags.crash.only = Some(parser.value()?.string()?);
            }
            Long("seconds") if command == "fuzz" => {
                flags.seconds = number(&mut parser, "--seconds")?
            }
            Long("help") | Short('h') => {
                print!("{HELP}");
                return Ok(ExitCode::SUCCESS);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if words.len() > 1 && command != "test" {
        bail!("`cargo xtask {command}` takes one name, not {words:?}; see `cargo xtask help`");
    }
    let name = words.first().map(String::as_str);
    if let (Some(name), "downstream" | "layering") = (name, command.as_str()) {
        bail!("`cargo xtask {command}` takes no name, not `{name}`; see `cargo xtask help`");
    }
    let models = loom::Request {
        name,
        deep: flags.deep,
        mutants: flags.mutants,
        brief: false,
    };
    let workspace = Workspace::load()?;
    let outcome = match command.as_str() {
        "test" => return steps::run(&workspace, &words, flags.list, flags.fail_fast),
        "crash" => return crash::run(&workspace, name, &flags.crash),
        "loom" => loom::run(&workspace, &loom::LOOM, models)?,
        "shuttle" => loom::run(&workspace, &loom::SHUTTLE, models)?,
        "downstream" => downstream::run(&workspace)?,
        "storm" => storm::run(&workspace, name, flags.full)?,
        "fuzz" => return fuzz::run(&workspace, name, flags.seconds),
        "tsan" => sanitize::run(&workspace, &sanitize::THREAD, name)?,
        "asan" => sanitize::run(&workspace, &sanitize::ADDRESS, name)?,
        "layering" => layering::run(&workspace)?,
        unknown => bail!("no command `{unknown}`; see `cargo xtask help`"),
    };
    if let report::Outcome::Skipped(why) = outcome {
        println!("SKIP {command}: {why}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The value of an option that takes a number.
fn number(parser: &mut lexopt::Parser, option: &str) -> Result<u64> {
    let value = parser.value()?.string()?;
    value
        .parse()
        .map_err(|_| anyhow!("{option} takes a whole number, not `{value}`"))
}

struct Flags {
    list: bool,
    fail_fast: bool,
    deep: bool,
    mutants: bool,
    full: bool,
    seconds: u64,
    crash: crash::Options,
}

impl Default for Flags {
    fn default() -> Self {
        Flags {
            list: false,
            fail_fast: false,
            deep: false,
            mutants: false,
            full: false,
            seconds: 60,
            crash: crash::Options::default(),
        }
    }
}
