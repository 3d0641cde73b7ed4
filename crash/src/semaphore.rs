//! Scenarios of permits across processes.

mod audit;
mod hostile;
mod leases;
mod matrix;
mod single_step;
mod starve;
mod storm;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::Scenario;
use latchwork::SharedSemaphore;

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "storm",
        run: storm::storm,
    },
    Scenario {
        name: "ops-storm",
        run: storm::operations,
    },
    Scenario {
        name: "single-step",
        run: single_step::instructions,
    },
    Scenario {
        name: "system-calls",
        run: single_step::system_calls,
    },
    Scenario {
        name: "leases",
        run: leases::run,
    },
    Scenario {
        name: "matrix",
        run: matrix::run,
    },
    Scenario {
        name: "hostile",
        run: hostile::run,
    },
    Scenario {
        name: "starve",
        run: starve::run,
    },
];

/// Prints who holds and who waits.
pub(crate) fn inspect(path: &Path) -> Result<()> {
    let semaphore = SharedSemaphore::builder(path).existing_only(true).open()?;
    if (semaphore.current(), semaphore.waiters()) == (0, 0) {
        return Ok(());
    }
    println!("    {}:", path.display());
    println!(
        "    {} of {} taken, {} waiting",
        semaphore.current(),
        semaphore.max(),
        semaphore.waiters()
    );
    for holder in semaphore.holders() {
        println!("    {} holds {}", holder.pid, holder.permits);
    }
    for waiter in semaphore.waiting() {
        println!("    {} waits with {}", waiter.pid, waiter.requests);
    }
    Ok(())
}

/// The new image of a process that execs: lives until it is killed.
pub(crate) fn linger() -> Result<ExitCode> {
    loop {
        std::thread::park();
    }
}
