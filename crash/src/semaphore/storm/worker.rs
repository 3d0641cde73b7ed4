//! One process of a storm: takes and returns permits until it is told to stop, or killed.

use std::hint;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{
    AcquireTimeoutError, SharedLease, SharedPermit, SharedPermits, SharedSendPermit,
    TryAcquireError,
};

use super::arena::{Arena, Tickets};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Every way to take permits, resizes, a while of holding, at times on two threads.
    Mixed,
    /// Takes one and returns it, as fast as it can.
    Plain,
}

/// A lease that nobody outlasts: it goes with its holder.
const AN_HOUR: Duration = Duration::from_secs(3600);

pub(super) struct Member<'a> {
    pub(super) arena: &'a Arena,
    pub(super) path: &'a Path,
    pub(super) permits: u32,
    pub(super) fewest: u32,
    pub(super) strict: bool,
    pub(super) slot: usize,
    pub(super) generation: u64,
    pub(super) seed: u64,
    pub(super) work: Work,
}

/// What was taken, in whatever form.
enum Held<'s> {
    Permit(#[expect(dead_code, reason = "held, not read")] SharedPermit<'s>),
    Permits(SharedPermits<'s>),
    Sent(SharedSendPermit),
    Lease(#[expect(dead_code, reason = "held, not read")] SharedLease),
}

impl Held<'_> {
    fn count(&self) -> u32 {
        match self {
            Held::Permit(_) | Held::Lease(_) => 1,
            Held::Permits(permits) => permits.count(),
            Held::Sent(permit) => permit.count(),
        }
    }
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
        let semaphore = self.open()?;
        if self.work == Work::Plain || !self.generation.is_multiple_of(4) {
            return self.take_turns(&semaphore, 0);
        }
        thread::scope(|scope| {
            let other = scope.spawn(|| self.take_turns(&semaphore, 1));
            self.take_turns(&semaphore, 0)?;
            other.join().map_err(|_| anyhow!("a thread panicked"))?
        })
    }

    fn open(&self) -> Result<SharedSemaphore> {
        SharedSemaphore::builder(self.path)
            .permits(self.permits)
            .strict(self.strict)
            .open()
            .context("open")
    }

    fn take_turns(&self, semaphore: &SharedSemaphore, thread: u64) -> Result<()> {
        let mut tickets = Tickets::new(self.arena, self.slot, self.generation, thread);
        let mut random = fastrand::Rng::with_seed(self.seed + thread);
        while self.arena.stop().load(SeqCst) == 0 {
            if self.work == Work::Mixed && random.u8(..100) == 0 {
                // Another attachment of this process, for a moment.
                self.open()?;
            }
            let held = match self.work {
                Work::Plain => Some(Held::Permit(semaphore.acquire()?)),
                Work::Mixed => self.take_somehow(semaphore, &mut random)?,
            };
            let Some(held) = held else { continue };
            if tickets.take(held.count()).is_err() {
                return Err(anyhow!("was granted a permit too many"));
            }
            if self.work == Work::Mixed {
                // Two of them, so that they meet.
                if self.slot < 2 && random.u8(..100) < 5 {
                    let either = [self.permits, self.fewest];
                    let max = either[random.usize(..2)];
                    semaphore.set_max(max).context("set_max")?;
                }
                hold(&mut random);
            }
            tickets.give_back();
            drop(held);
        }
        Ok(())
    }

    fn take_somehow<'s>(
        &self,
        semaphore: &'s SharedSemaphore,
        random: &mut fastrand::Rng,
    ) -> Result<Option<Held<'s>>> {
        let wait = Duration::from_micros(random.u64(..2_000));
        // More than the fewest may be impossible for good once everybody stops.
        let some = random.u32(1..=self.fewest);
        let any = random.u32(1..=self.permits);
        Ok(Some(match random.u8(..100) {
            0..30 => Held::Permit(semaphore.acquire()?),
            30..45 => Held::Permits(semaphore.acquire_many(some)?),
            45..60 => match semaphore.acquire_timeout(wait) {
                Err(AcquireTimeoutError::TimedOut) => return Ok(None),
                other => Held::Permit(other?),
            },
            60..75 => match semaphore.acquire_many_timeout(any, wait) {
                Err(AcquireTimeoutError::TimedOut) => return Ok(None),
                other => Held::Permits(other?),
            },
            75..80 => return call_me_back(semaphore, some, wait),
            80..90 => {
                let lease = semaphore.acquire_leased(AN_HOUR)?;
                if random.bool() {
                    lease.renew(AN_HOUR).context("renew")?;
                }
                Held::Lease(lease)
            }
            _ => match semaphore.try_acquire() {
                Err(TryAcquireError::WouldBlock) => return Ok(None),
                other => Held::Permit(other?),
            },
        }))
    }
}

/// Asks for permits by a callback, and gives up after a while.
fn call_me_back<'s>(
    semaphore: &SharedSemaphore,
    count: u32,
    wait: Duration,
) -> Result<Option<Held<'s>>> {
    let (sender, permits) = mpsc::channel();
    // When nobody receives any more, the permits go back at once.
    let pending = semaphore.acquire_many_with(count, move |permit| drop(sender.send(permit)));
    let in_time = permits.recv_timeout(wait);
    drop(pending);
    match in_time.or_else(|_| permits.try_recv()) {
        Ok(permit) => Ok(Some(Held::Sent(permit?))),
        Err(_) => Ok(None),
    }
}

/// Mostly a moment, at times long enough that others fall asleep.
fn hold(random: &mut fastrand::Rng) {
    match random.u8(..100) {
        0..60 => {}
        60..90 => (0..random.u32(..20_000)).for_each(|_| hint::spin_loop()),
        _ => thread::sleep(Duration::from_micros(random.u64(..1_000))),
    }
}
