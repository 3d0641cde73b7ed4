//! What a scenario works with: its directory, seed, random numbers, its sign of life, its report.

use std::cell::Cell;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

use crate::page::Page;

/// The file of the page on which a scenario says that it goes on.
pub(crate) const PROGRESS: &str = "progress";

#[derive(Debug)]
pub(crate) struct Scene {
    directory: PathBuf,
    pub(crate) seed: u64,
    pub(crate) full: bool,
    pub(crate) random: fastrand::Rng,
    progress: Page,
    failed: Cell<bool>,
}

impl Scene {
    pub(crate) fn enter(directory: &Path, seed: u64, full: bool) -> Result<Scene> {
        Ok(Scene {
            progress: Page::open(&directory.join(PROGRESS))?,
            directory: directory.to_owned(),
            seed,
            full,
            random: fastrand::Rng::with_seed(seed),
            failed: Cell::new(false),
        })
    }

    /// The short form's figure or the full form's.
    pub(crate) fn choose<T>(&self, short: T, full: T) -> T {
        if self.full { full } else { short }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A semaphore's file: whoever reports a hang looks into all of them.
    pub(crate) fn semaphore(&self, name: &str) -> PathBuf {
        self.path(&format!("{name}.sem"))
    }

    pub(crate) fn page(&self, name: &str, cells: usize) -> Result<Page> {
        Page::create(&self.path(&format!("{name}.page")), cells)
    }

    /// Says that something was done; the supervisor takes a long silence for a hang.
    pub(crate) fn beat(&self) {
        self.progress.cell(0).fetch_add(1, Relaxed);
    }

    /// The scenario's line.
    pub(crate) fn report(&self, name: &str, figures: impl Display, result: Result<()>) {
        let end = match result {
            Ok(()) => "ok",
            Err(error) => {
                println!("  {name}: {error:#}");
                println!("  {name}: seed {}", self.seed);
                self.failed.set(true);
                "FAIL"
            }
        };
        println!("CRASH {name} {figures} {end}");
        self.beat();
    }

    pub(crate) fn skip(&self, name: &str, why: &str) {
        println!("CRASH {name} SKIP ({why})");
        self.beat();
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.get()
    }
}

/// The monotonic clock, which all processes share.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// The median and the 99th percentile.
pub(crate) fn percentiles(samples: &mut [Duration]) -> (Duration, Duration) {
    samples.sort_unstable();
    let at = |share: f64| {
        let last = samples.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        samples.get(index).copied().unwrap_or_default()
    };
    (at(0.5), at(0.99))
}
