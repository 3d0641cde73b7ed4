//! A process that does everything a semaphore offers, whatever it is answered.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::page::Page;
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{AcquireTimeoutError, TryAcquireError};

pub(super) const CELLS: usize = 4;

/// What others see of a victim.
pub(super) struct Cells<'p> {
    pub(super) stop: &'p AtomicU64,
    pub(super) turns: &'p AtomicU64,
    /// The place in [`DOINGS`] of what it is at.
    pub(super) doing: &'p AtomicU64,
    /// How often it was told of an error.
    pub(super) told: &'p AtomicU64,
}

impl<'p> Cells<'p> {
    pub(super) fn of(page: &'p Page, victim: usize) -> Cells<'p> {
        let cell = |index| page.cell(victim * CELLS + index);
        Cells {
            stop: cell(0),
            turns: cell(1),
            doing: cell(2),
            told: cell(3),
        }
    }

    pub(super) fn reset(&self) {
        for cell in [self.stop, self.turns, self.doing, self.told] {
            cell.store(0, SeqCst);
        }
    }
}

pub(super) struct Victim {
    semaphore: SharedSemaphore,
    path: PathBuf,
    permits: u32,
}

/// Something to do; whether an error was told.
type Doing = fn(&Victim) -> bool;

const A_MOMENT: Duration = Duration::from_millis(2);

const DOINGS: &[(&str, Doing)] = &[
    ("try_acquire", |victim| {
        let outcome = victim.semaphore.try_acquire();
        outcome.is_err_and(|error| error != TryAcquireError::WouldBlock)
    }),
    ("acquire_timeout", |victim| {
        let outcome = victim.semaphore.acquire_timeout(A_MOMENT);
        outcome.is_err_and(|error| error != AcquireTimeoutError::TimedOut)
    }),
    ("acquire_many_timeout", |victim| {
        let outcome = victim.semaphore.acquire_many_timeout(3, A_MOMENT);
        outcome.is_err_and(|error| error != AcquireTimeoutError::TimedOut)
    }),
    ("try_acquire_many", |victim| {
        let outcome = victim.semaphore.try_acquire_many(victim.permits);
        outcome.is_err_and(|error| error != TryAcquireError::WouldBlock)
    }),
    ("set_max", |victim| {
        let lower = victim.semaphore.set_max(2);
        let upper = victim.semaphore.set_max(victim.permits);
        lower.is_err() || upper.is_err()
    }),
    ("figures", |victim| {
        let semaphore = &victim.semaphore;
        let sum = u64::from(semaphore.current())
            + u64::from(semaphore.available())
            + u64::from(semaphore.max())
            + u64::from(semaphore.waiters());
        sum == u64::MAX
    }),
    ("holders", |victim| {
        let _permit = victim.semaphore.try_acquire();
        let _ = victim.semaphore.holders();
        let _ = victim.semaphore.waiting();
        let _ = victim.semaphore.stats();
        false
    }),
    ("open", |victim| {
        SharedSemaphore::open(&victim.path, victim.permits).is_err()
    }),
];

pub(super) fn name_of(doing: u64) -> &'static str {
    DOINGS
        .get(doing as usize)
        .map_or("nothing", |(name, _)| *name)
}

impl Victim {
    pub(super) fn open(path: &Path, permits: u32) -> Result<Victim> {
        Ok(Victim {
            semaphore: SharedSemaphore::open(path, permits).context("open")?,
            path: path.to_owned(),
            permits,
        })
    }

    /// Does everything in turn, until it is told to stop; how often it was told of an error.
    pub(super) fn turns(&self, cells: &Cells<'_>, most: u64, first: u64) -> u64 {
        let mut told = 0;
        for turn in 0..most {
            for step in 0..DOINGS.len() {
                let index = (first as usize * 3 + step) % DOINGS.len();
                cells.doing.store(index as u64, Relaxed);
                told += u64::from(DOINGS[index].1(self));
            }
            cells.turns.store(turn + 1, Relaxed);
            if cells.stop.load(SeqCst) != 0 {
                break;
            }
        }
        told
    }
}
