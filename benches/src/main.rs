//! Paired benchmarks of latchwork against its peers.
//!
//! `cargo run --release -p latchwork-benches --features peers -- NAME... [--quick] [--seed N]`
//!
//! Each NAME is a family of rows; `rows` lists them with their bounds. `harness` says how a
//! figure comes about, `table` what is printed. The exit code is 1 if a row missed its bound.

mod crowd;
mod flush;
mod harness;
mod kvnode;
#[cfg(feature = "peers")]
mod latch;
mod peers;
#[cfg(feature = "peers")]
mod rmw;
mod rows;
mod semaphore;
mod shared;
mod stats;
mod table;
mod wal;
mod work;

use std::error::Error;
use std::io::{self, Stdout};
use std::process::ExitCode;
use std::thread;

use crate::harness::Effort;
use crate::table::{Report, Row};

/// What a family of rows works with.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) effort: Effort,
    pub(crate) report: Report<Stdout>,
}

type Run = fn(&mut Bench) -> Result<(), Box<dyn Error>>;

/// Rows that are measured together. What `run` leaves without an outcome is skipped if the
/// peers are not built in, and missed otherwise.
struct Family {
    name: &'static str,
    rows: &'static [Row],
    run: Run,
}

const FAMILIES: &[Family] = &[
    Family {
        name: "semaphore",
        rows: rows::SEMAPHORE,
        run: semaphore::run,
    },
    Family {
        name: "latch",
        rows: rows::LATCH,
        run: LATCH,
    },
    Family {
        name: "rmw",
        rows: rows::RMW,
        run: RMW,
    },
    Family {
        name: "kvnode",
        rows: rows::KVNODE,
        run: kvnode::run,
    },
    Family {
        name: "flush",
        rows: rows::FLUSH,
        run: flush::run,
    },
    Family {
        name: "wal",
        rows: rows::WAL,
        run: wal::run,
    },
];

#[cfg(feature = "peers")]
const LATCH: Run = latch::run;
#[cfg(not(feature = "peers"))]
const LATCH: Run = nothing;

#[cfg(feature = "peers")]
const RMW: Run = rmw::run;
#[cfg(not(feature = "peers"))]
const RMW: Run = nothing;

/// A family of which no row can be measured without the peers.
#[cfg(not(feature = "peers"))]
fn nothing(_: &mut Bench) -> Result<(), Box<dyn Error>> {
    Ok(())
}

const NEEDS_PEERS: &str = "its peer is not built in; add `--features peers` to the command";

struct Options {
    families: Vec<&'static Family>,
    quick: bool,
    seed: u64,
}

fn usage() -> String {
    let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
    format!(
        "usage: cargo run --release -p latchwork-benches --features peers -- NAME... [--quick] [--seed N]\n\
         NAME is one of: {}\n\
         --quick   fewer and shorter runs, for a first look\n\
         --seed N  the order of sides that the run which printed N had",
        names.join(", ")
    )
}

fn options() -> Result<Option<Options>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options {
        families: Vec::new(),
        quick: false,
        seed: fastrand::u64(..),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("quick") => options.quick = true,
            Long("seed") => options.seed = parser.value()?.parse()?,
            Long("help") | Short('h') => return Ok(None),
            Value(name) => {
                let name = name.string()?;
                let family = FAMILIES.iter().find(|family| family.name == name);
                options
                    .families
                    .push(family.ok_or_else(|| format!("no bench is named {name}"))?);
            }
            _ => return Err(argument.unexpected()),
        }
    }
    if options.families.is_empty() {
        return Err("which bench?".into());
    }
    Ok(Some(options))
}

fn main() -> ExitCode {
    if let Some(code) = shared::role() {
        return code;
    }
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{}", usage());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("latchwork-benches: {error}\n{}", usage());
            return ExitCode::from(2);
        }
    };
    if cfg!(debug_assertions) {
        eprintln!("latchwork-benches: figures of a debug build mean nothing; add --release");
        return ExitCode::from(2);
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("latchwork-benches: cannot write the report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<bool> {
    let effort = if options.quick { "quick" } else { "full" };
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!("{effort}, {cores} cores, --seed {}\n", options.seed);
    let mut bench = Bench {
        effort: Effort::new(options.quick, options.seed),
        report: Report::new(io::stdout())?,
    };
    for family in &options.families {
        let outcome = (family.run)(&mut bench);
        for row in family
            .rows
            .iter()
            .filter(|row| !bench.report.has(**row))
            .copied()
            .collect::<Vec<_>>()
        {
            match &outcome {
                Err(error) => bench.report.fail(row, error.to_string())?,
                Ok(()) if cfg!(feature = "peers") => {
                    bench.report.fail(row, "it was not measured")?
                }
                Ok(()) => bench.report.skip(row, NEEDS_PEERS)?,
            }
        }
    }
    bench.report.finish()
}
