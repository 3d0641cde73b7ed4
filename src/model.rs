//! Model checking of code that uses latchwork: loom, with this library's own threads and time.
//!
//! There only under `--cfg latchwork_loom` with the feature `loom`. Every type of the library then
//! runs on loom's atomics, so a model of your code explores each order in which its threads can
//! take their steps, those inside the library among them.
//!
//! ```ignore
//! // tests/transfer.rs, run with RUSTFLAGS="--cfg latchwork_loom" cargo test --release
//! use latchwork::model::{model, thread};
//!
//! #[test]
//! fn transfers_conserve_the_sum() {
//!     model(|| {
//!         let bank = Bank::new();
//!         let other = thread::spawn({ let bank = bank.clone(); move || bank.transfer(0, 1) });
//!         bank.transfer(1, 0);
//!         other.join().unwrap();
//!         assert_eq!(bank.sum(), 100);
//!     });
//! }
//! ```
//!
//! * Use [`thread::spawn`], not loom's: claims of a thread return before its join is notified, as
//!   they do natively; loom runs thread-local destructors only after that.
//! * Time stands still until a thread of the model moves the [`Clock`]; a timeout is then one more
//!   interleaving.
//! * [`chaos`] wakes whoever sleeps, as a futex may do without a reason.
//! * No component starts threads here: [`run_deferred`] does what the library's thread would (leak
//!   reports, callbacks woken by a reclaim).
//! * Files are absent; a [`SharedMemory`](shared::SharedMemory) stands for one, and a process that
//!   attaches to it dies when the model says so.
//! * Keep models small: two or three threads, one or two operations each, and
//!   `LOOM_MAX_PREEMPTIONS=2`.

pub use crate::sync::time::Instant;
pub use crate::sync::world::loom;

use std::time::Duration;

use crate::sync::{futex, time};
use crate::waiter::dispatcher;

/// Explores every execution of `f`, each with threads, locks and time of its own.
///
/// Bounds come from loom's environment variables, `LOOM_MAX_PREEMPTIONS` above all.
///
/// # Panics
///
/// When an execution panics, deadlocks, races or leaks; the message says which.
pub fn model(f: impl Fn() + Send + Sync + 'static) {
    crate::sync::explore(move || crate::sync::thread::body(&f));
}

/// Threads of a model.
pub mod thread {
    pub use crate::sync::thread::{JoinHandle, spawn, yield_now};
}

/// The model's clock. It stands still until somebody moves it.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl Clock {
    /// Moves the clock by `time`, and has every sleeper look at its deadline.
    pub fn advance(time: Duration) {
        time::advance(time);
    }

    /// The model's present.
    pub fn now() -> Instant {
        time::now()
    }
}

/// Wakes everybody who sleeps, without a reason: what a thread of a model calls to stand for
/// spurious wake-ups.
pub fn chaos() {
    futex::wake_everyone();
}

/// Runs what the library's own thread would: leak reports, and callbacks that were woken by the end
/// of a thread. Returns how many there were.
pub fn run_deferred() -> usize {
    dispatcher::run_pending()
}

#[cfg(feature = "shared")]
pub mod shared;
