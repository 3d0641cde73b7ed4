//! What the storms share: how long they go on, where their chance comes from, and cells that only
//! exclusion protects.
//!
//! `LATCHWORK_STORM` (`short`, or `full` for the numbers of the designs' tables) says how long.
//! Every storm prints its seed; `LATCHWORK_SEED` sets it. The seed fixes what each thread does, not
//! how the threads meet.

#![allow(dead_code)] // Each test program uses a part.

pub(crate) mod latched;
pub(crate) mod plain;
pub(crate) mod seed;

use std::fmt::Debug;
use std::io::Write as _;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// One number for a short storm, another for a full one.
pub(crate) fn size(short: u64, full: u64) -> u64 {
    match std::env::var("LATCHWORK_STORM").as_deref() {
        Ok("full") => full,
        Ok("short") | Err(_) => short,
        Ok(other) => panic!("LATCHWORK_STORM is `short` or `full`, not `{other}`"),
    }
}

/// A random test with its seed.
pub(crate) struct Storm {
    seed: u64,
}

impl Storm {
    /// Announces the storm and its seed, past the harness's capture: a run that hangs is killed,
    /// and shows nothing that was captured.
    pub(crate) fn new(name: &str) -> Self {
        let seed = seed::seed();
        let _ = writeln!(std::io::stderr(), "{name}: LATCHWORK_SEED={seed}");
        Self { seed }
    }

    /// A part of a storm, with a seed that the storm has drawn.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seed }
    }

    /// A source of chance of its own for each `stream`.
    pub(crate) fn rng(&self, stream: u64) -> Rng {
        Rng::with_seed(self.seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Runs `body` in `threads` threads at once, with its number and chance, and joins each.
    pub(crate) fn run<T: Send>(
        &self,
        threads: u64,
        body: impl Fn(u64, &mut Rng) -> T + Sync,
    ) -> Vec<T> {
        thread::scope(|scope| {
            let body = &body;
            let running: Vec<_> = (0..threads)
                .map(|index| scope.spawn(move || body(index, &mut self.rng(index + 1))))
                .collect();
            running
                .into_iter()
                .map(|thread| join(thread.join()))
                .collect()
        })
    }
}

/// The thread's result, or its panic.
pub(crate) fn join<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Waits until `state` is `end`. A callback may run on the library's own thread, which nobody joins:
/// when a storm's threads have ended, it may still be at it.
#[track_caller]
pub(crate) fn await_state<T: PartialEq + Debug>(end: T, state: impl Fn() -> T) {
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        // Before the last look.
        let is_late = Instant::now() >= limit;
        let now = state();
        if now == end {
            return;
        }
        assert!(!is_late, "it is {now:?} and does not become {end:?}");
        thread::yield_now();
    }
}

/// What the storms' planned panics carry.
struct Planned;

/// Unwinds as a panic does, without the message on standard error.
pub(crate) fn panic_quietly() -> ! {
    resume_unwind(Box::new(Planned))
}

/// Runs `job`, which is to end in a planned panic.
pub(crate) fn expect_planned_panic(job: impl FnOnce()) {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)) {
        Ok(()) => panic!("the planned panic did not come"),
        Err(panic) if panic.is::<Planned>() => {}
        Err(panic) => resume_unwind(panic),
    }
}

/// Keeps the processor busy for up to `most` turns.
pub(crate) fn dawdle(rng: &mut Rng, most: u32) {
    for _ in 0..rng.u32(0..=most) {
        std::hint::spin_loop();
    }
}
