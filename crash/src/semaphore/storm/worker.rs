//! One process of a storm: takes and returns permits until it is told to stop, or killed.

use std::hint;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::arena::{Arena, Tickets};
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{AcquireTimeoutError, SharedPermit, TryAcquireError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Every way to take permits, resizes, and a while of holding.
    Mixed,
    /// Takes one and returns it, as fast as it can.
    Plain,
}

pub(super) struct Member<'a> {
    pub(super) arena: &'a Arena,
    pub(super) path: &'a Path,
    pub(super) permits: u32,
    pub(super) fewest: u32,
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) seed: u64,
    pub(super) work: Work,
}

impl Member<'_> {
    /// The exit code.
    pub(super) fn run(&self) -> i32 {
        match self.work_on() {
            Ok(()) => 0,
            Err(error) => {
                println!("  worker {}: {error:#}", self.generation);
                1
            }
        }
    }

    fn work_on(&self) -> Result<()> {
        let semaphore = SharedSemaphore::open(self.path, self.permits).context("open")?;
        let mut tickets = Tickets::new(self.arena, self.slot, self.generation);
        let mut random = fastrand::Rng::with_seed(self.seed);
        while self.arena.stop().load(SeqCst) == 0 {
            let permit = match self.work {
                Work::Plain => Some(semaphore.acquire()?),
                Work::Mixed => self.take_somehow(&semaphore, &mut random)?,
            };
            let Some(permit) = permit else { continue };
            if tickets.take(permit.count()).is_err() {
                return Err(anyhow!("was granted a permit too many"));
            }
            if self.work == Work::Mixed {
                hold(&mut random);
            }
            tickets.give_back();
            drop(permit);
        }
        Ok(())
    }

    fn take_somehow<'s>(
        &self,
        semaphore: &'s SharedSemaphore,
        random: &mut fastrand::Rng,
    ) -> Result<Option<SharedPermit<'s>>> {
        let wait = Duration::from_micros(random.u64(..2_000));
        // More than the fewest may be impossible for good once everybody stops.
        let some = random.u32(1..=self.fewest);
        let any = random.u32(1..=self.permits);
        let permit = match random.u8(..100) {
            0..35 => semaphore.acquire()?,
            35..50 => semaphore.acquire_many(some)?,
            50..70 => match semaphore.acquire_timeout(wait) {
                Err(AcquireTimeoutError::TimedOut) => return Ok(None),
                other => other?,
            },
            70..85 => match semaphore.acquire_many_timeout(any, wait) {
                Err(AcquireTimeoutError::TimedOut) => return Ok(None),
                other => other?,
            },
            _ => match semaphore.try_acquire() {
                Err(TryAcquireError::WouldBlock) => return Ok(None),
                other => other?,
            },
        };
        if self.slot == 0 && random.u8(..100) < 5 {
            let max = if random.bool() {
                self.permits
            } else {
                self.fewest
            };
            semaphore.set_max(max).context("set_max")?;
        }
        Ok(Some(permit))
    }
}

/// Mostly a moment, at times long enough that others fall asleep.
fn hold(random: &mut fastrand::Rng) {
    match random.u8(..100) {
        0..60 => {}
        60..90 => (0..random.u32(..20_000)).for_each(|_| hint::spin_loop()),
        _ => std::thread::sleep(Duration::from_micros(random.u64(..1_000))),
    }
}
