//! Leak-proof coordination for servers made of threads: permits, per-key latches,
//! read-modify-write, ordered flushes, a log.
//!
//! There is no async runtime. A guard releases what it holds, and the end of a thread releases what
//! the thread's guards leaked. A call that times out has not happened and will not. Waiting is a
//! futex, a callback or a file descriptor.
//!
//! | module | holds | use it when |
//! |---|---|---|
//! | [`semaphore`] | [`Semaphore`] | only so much of something may go on at once |
//! | [`semaphore::shared`] | [`SharedSemaphore`] | the same among processes, which may be killed |
//! | [`latch`] | [`LatchTable`] | only one thread at a time may work on a key |
//! | [`rmw`] | [`Rmw`] | values are counted, appended to or replaced by key |
//! | [`flush`] | [`FlushPipeline`] | state is written out in parallel and must become visible in order |
//! | [`wal`] | [`Wal`] | what was acknowledged must survive a crash |
//! | [`fs`] | file systems | you test that survival: they record calls, fail, and crash |
//! | [`worker`] | [`Worker`] | one thread has to do something, one message at a time |
//! | [`holder`] | [`holder::scope`] | a thread of a pool must not keep what a job leaked |
//! | [`sweeper`] | [`Sweeper`] | several components should share one thread for periodic work |
//!
//! Under `--cfg latchwork_loom` with the feature `loom` there is also `model`, for models of your
//! own code over these types.
//!
//! # Names
//!
//! A call that may wait comes in several forms. The name says which:
//!
//! | form | means |
//! |---|---|
//! | `acquire`, `latch`, `append`, ... | waits for as long as it takes |
//! | `try_` | does not wait |
//! | `_timeout` | waits up to a [`Duration`](std::time::Duration); zero tries once |
//! | `_deadline` | waits until an [`Instant`](std::time::Instant) |
//! | `_with` | does not wait: a callback gets the result, for event loops |
//! | `_many` | takes several at once |
//!
//! Most components are handles: a clone refers to the same state. [`Wal`], [`Worker`] and
//! [`RmwCoordinator`](rmw::RmwCoordinator) are not; share them in an [`Arc`](std::sync::Arc). The
//! method `stats` reads counters and gauges.
//!
//! # Threads
//!
//! The library's threads start when they are first needed; those of a [`FlushPipeline`] start with
//! it.
//!
//! | thread | does |
//! |---|---|
//! | `lw-dispatch` | calls `on_leak` and `on_expire` handlers, and callbacks that no other thread can call; one a process |
//! | `lw-sweep` | runs the jobs of a [`Sweeper`] |
//! | `lw-latch` | runs operations that were submitted to a [`LatchTable`] |
//! | `lw-rmw-0`, ... | execute commands of an [`RmwCoordinator`](rmw::RmwCoordinator) |
//! | `lw-stream-0`, ..., `lw-finalize` | run the streams and the finalizer of a [`FlushPipeline`] |
//! | `lw-wal` | writes records of a [`Wal`] that no thread waits for |
//! | `lw-lifeline` | lets other processes learn of this one's end, and serves callbacks, for [`SharedSemaphore`]s |
//!
//! None of them survives a `fork`: fork before you build components, or `exec` afterwards.

#![cfg_attr(
    not(all(
        feature = "rmw",
        feature = "shared",
        feature = "wal",
        feature = "flush"
    )),
    allow(
        unused,
        unreachable_pub,
        reason = "what the modules share is not all used by each of them"
    )
)]

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
