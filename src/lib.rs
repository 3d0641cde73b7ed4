//! Leak-proof coordination for servers made of threads: permits, per-key latches, read-modify-write,
//! ordered flushes, a log.
//!
//! No async runtime. Guards release what they hold, a thread's end releases what its guards leaked,
//! a time-out means that it did not happen, and waiting is a futex, a callback or a descriptor.
//!
//! | module | holds | reach for it when |
//! |---|---|---|
//! | [`semaphore`] | [`Semaphore`] | so much of something may go on at once |
//! | [`semaphore::shared`] | [`SharedSemaphore`] | the same among processes, and one of them may be killed |
//! | [`latch`] | [`LatchTable`] | one at a time for each key |
//! | [`rmw`] | [`Rmw`] | values are counted, appended to, replaced by key |
//! | [`flush`] | [`FlushPipeline`] | state is written out in parallel and must become visible in order |
//! | [`wal`] | [`Wal`] | what is acknowledged must survive a crash |
//! | [`fs`] | file systems | that survival is to be tested: recorded, failed, cut off |
//! | [`holder`] | [`holder::scope`] | threads of a pool must not keep what a job leaked |
//! | [`sweeper`] | [`Sweeper`] | several components should share one thread for periodic work |
//! | [`wal`] | [`Wal`] | what happened must be there after a crash |
//! | [`worker`] | [`Worker`] | something must be done by one thread, one message at a time |
//!
//! Under `--cfg latchwork_loom` with the feature `loom` there is also `model`, for models of your
//! own code over these types.
//!
//! The threads of the library (`lw-dispatch`, `lw-sweep`, `lw-rmw-0`) start when they are first needed and do
//! not survive a `fork`: fork before, or `exec` after.

#[cfg(all(latchwork_loom, not(feature = "loom")))]
compile_error!(
    "`--cfg latchwork_loom` needs latchwork's feature `loom`: add `features = [\"loom\"]` to the dependency"
);

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!("latchwork supports Linux with glibc on x86-64 and aarch64 only");

#[cfg(feature = "flush")]
pub mod flush;
#[cfg(any(feature = "semaphore", feature = "latch"))]
pub mod holder;
#[cfg(feature = "latch")]
pub mod latch;
#[cfg(all(latchwork_loom, feature = "loom"))]
pub mod model;
mod os;
#[cfg(feature = "rmw")]
pub mod rmw;
#[cfg(feature = "semaphore")]
pub mod semaphore;
#[cfg(any(feature = "semaphore", feature = "latch"))]
pub mod sweeper;
mod sync;
#[cfg(any(feature = "semaphore", feature = "latch", feature = "wal"))]
#[cfg_attr(
    not(any(feature = "semaphore", feature = "latch")),
    allow(dead_code, unused_imports, reason = "a log needs little of it")
)]
mod waiter;
#[cfg(feature = "wal")]
pub mod wal;
#[cfg(feature = "latch")]
pub mod worker;

#[cfg(feature = "flush")]
pub use flush::FlushPipeline;
#[cfg(feature = "wal")]
pub use os::fs;

#[cfg(feature = "latch")]
pub use latch::LatchTable;
#[cfg(feature = "rmw")]
pub use rmw::Rmw;
#[cfg(feature = "semaphore")]
pub use semaphore::Semaphore;
#[cfg(feature = "shared")]
pub use semaphore::shared::SharedSemaphore;
#[cfg(any(feature = "semaphore", feature = "latch"))]
pub use sweeper::Sweeper;
#[cfg(any(feature = "semaphore", feature = "latch"))]
pub use waiter::Pending;
#[cfg(any(feature = "semaphore", feature = "latch", feature = "wal"))]
pub use waiter::WaitHistogram;
#[cfg(feature = "wal")]
pub use wal::Wal;
#[cfg(feature = "latch")]
pub use worker::Worker;

/// The README's example, as a test.
#[cfg(all(doctest, feature = "semaphore", feature = "latch"))]
#[doc = include_str!("../README.md")]
struct Readme;
