//! Work in parallel, finalize in order.
//!
//! A [`FlushPipeline`] takes each flush through four phases:
//!
//! 1. A **reservation** bounds how many flushes are in flight, and so gives back-pressure.
//! 2. **Rotate** takes what is to be flushed out of the live state, under the caller's lock, and
//!    gives it a number.
//! 3. A **stream** writes it out. Many streams run at a time.
//! 4. The **finalizer** makes it visible. It runs on one thread, strictly in the order of the
//!    numbers.
//!
//! Use it for memtables and their manifest, for uploads and their index, or for any log that is
//! compacted in the background.
//!
//! | part | holds |
//! |---|---|
//! | `ring` | what is complete and not finalized, by number |
//! | `reserve`, `slot` | room for a flush, and its guards: [`Reservation`], [`Rotated`] |
//! | `queue` | the streams that wait, and which thread runs which |
//! | `stream` | how a stream is run, and the threads that do nothing else |
//! | `timers` | streams that are tried again, or take too long |
//! | `serve` | the finalizer's turn: batches, failures, halts |
//! | `shutdown` | the end, and what was left |
//!
//! No number is lost: a guard carries number, permit and pending count from rotate to completion.
//! Dropping it, also in a panic, completes the flush as abandoned.

mod builder;
mod core;
mod drain;
mod error;
mod finalizer;
mod job;
mod queue;
mod reserve;
mod ring;
mod serve;
mod shutdown;
mod slot;
mod stats;
mod stream;
mod ticket;
mod timers;

use std::fmt;

pub use builder::{Backoff, BuildError, Builder, FailurePolicy, MOST_IN_FLIGHT, OnFailure};
pub use error::{DrainError, Failure, ReserveError, SubmitError, WaitError};
pub use finalizer::{Batch, Each, Failed, Finalize, each};
pub use job::Job;
pub use shutdown::{Leftover, LeftoverState, Leftovers, Shutdown};
pub use slot::{Reservation, Rotated, SendReservation};
pub use stats::FlushStats;
pub use ticket::FlushTicket;

pub use crate::waiter::Panic;

use self::builder::Options;
use self::core::{Control, Core, Finalizing};
use self::queue::Queue;
use self::ring::Ring;
use self::serve::Turn;
use self::stats::Counters;
use self::timers::{Linked, Timers};
use crate::os::home::Home;
use crate::semaphore::Semaphore;
use crate::sweeper::Sweeper;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock::Mutex;
use crate::sync::thread;
use crate::sync::time::now;
use crate::sync::{Arc, Padded};
use crate::waiter::Bell;

/// Flushes that stream in parallel and are finalized in order.
///
/// A handle: clones refer to the same pipeline. Reserve before you take any lock, rotate under the
/// lock that guards what is flushed, and submit outside it.
///
/// ```
/// use std::sync::Mutex;
/// use latchwork::flush::{FlushPipeline, Shutdown, each};
///
/// let memtable = Mutex::new(Vec::new());
/// let mut manifest = Vec::new();
/// let flush = FlushPipeline::builder("memtable")
///     .max_in_flight(4)
///     .streamers(2)
///     .finalizer(each(move |sequence, segment: &mut String| {
///         manifest.push(format!("{sequence}: {segment}"));
///         Ok::<_, std::io::Error>(manifest.len())
///     }))
///     .build()?;
///
/// memtable.lock().unwrap().push("a row");
/// let slot = flush.reserve(5)?; // waits while four are in flight
/// let slot = slot.rotate(&mut *memtable.lock().unwrap(), |rows, _| std::mem::take(rows));
/// let ticket = slot.submit(|rows| Ok(format!("segment of {} rows", rows.len())))?;
///
/// assert_eq!(ticket.wait()?, 1); // it is in the manifest
/// assert_eq!(flush.durable_watermark(), 1);
/// assert!(flush.shutdown(Shutdown::DrainAll).is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Dropping the last handle closes the pipeline and waits until what was rotated is finalized, as
/// [`Shutdown::DrainAll`] does. On one of the pipeline's own threads it does not wait. A process
/// that forks leaves the threads behind: in the child nothing is finalized.
pub struct FlushPipeline<F: Finalize> {
    owner: Arc<Owner<F>>,
}

impl<F: Finalize> Clone for FlushPipeline<F> {
    fn clone(&self) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
        }
    }
}

/// Its drop, with the last handle, ends the pipeline.
struct Owner<F: Finalize> {
    core: Arc<Core<F>>,
    linked: Linked<F>,
}

/// Stands for the finalizer in [`FlushPipeline::builder`], which does not know its type yet.
#[derive(Debug)]
pub enum NoFinalizer {}

impl Finalize for NoFinalizer {
    type Job = ();
    type Item = ();
    type Output = ();
    type Error = ();

    fn finalize_one(&mut self, _: u64, (): &mut ()) -> Result<(), ()> {
        match *self {}
    }

    fn finalize_failure(&mut self, _: Failed<'_, Self>) {
        match *self {}
    }
}

impl FlushPipeline<NoFinalizer> {
    /// Starts a [`Builder`] of a pipeline with this name.
    pub fn builder(name: impl Into<String>) -> Builder<()> {
        Builder::new(name)
    }
}

impl<F: Finalize> FlushPipeline<F> {
    fn start(options: Options, sweeper: Sweeper, finalizer: F) -> Result<Self, BuildError> {
        let in_flight = options.max_in_flight;
        let named = |what: &str, permits: u64| {
            Semaphore::builder(format!("{} {what}", options.name))
                .permits(permits)
                .build()
                .expect("the bounds were checked")
        };
        let core = Arc::new(Core {
            permits: named("flushes", in_flight as u64),
            bytes: options.max_bytes.map(|bytes| named("bytes", bytes)),
            ring: Ring::new(in_flight),
            is_closed: AtomicU64::new(0),
            next: Padded(AtomicU64::new(0)),
            watermark: Padded(AtomicU64::new(0)),
            durable: Padded(AtomicU64::new(0)),
            halted: AtomicU64::new(0),
            orders: AtomicU64::new(0),
            bell: Bell::new(),
            gone: Bell::new(),
            control: Mutex::new(Control {
                is_stopped: false,
                is_left: false,
                is_over: false,
                resolved: 0,
                drains: Vec::new(),
                drain_numbers: 0,
                sleepers: Vec::new(),
                finalizing: Some(Finalizing {
                    finalizer,
                    backlog: Vec::new(),
                    outputs: Vec::new(),
                    sleepers: Vec::new(),
                }),
                finalizer_runs: None,
                is_attended: false,
                threads: Vec::new(),
            }),
            queue: Queue::new(in_flight, options.streamers),
            timers: Timers::new(),
            counters: Counters::new(),
            home: Home::new(),
            options,
        });
        let linked = Timers::link(&core, &sweeper);
        let this = Self {
            owner: Arc::new(Owner { core, linked }),
        };
        // On an error the drop ends those that have started.
        this.start_threads().map_err(BuildError::Thread)?;
        Ok(this)
    }

    fn start_threads(&self) -> std::io::Result<()> {
        let core = self.core();
        core.home.settle();
        if !thread::STARTS_ITS_OWN {
            return Ok(());
        }
        let body = Arc::clone(core);
        let mut control = core.control.lock();
        let finalizer = thread::spawn_named("lw-finalize", move || {
            serve::serve(&body);
            let mut control = body.control.lock();
            control.is_attended = false;
            body.gone.announce(control);
        })?;
        control.is_attended = true;
        control.threads.push(finalizer);
        for _ in 0..core.options.streamers {
            let Some(index) = core.queue.attend(core.options.streamers) else {
                break;
            };
            let body = Arc::clone(core);
            let streamer = thread::spawn_named(&queue::streamer_name(index), move || {
                stream::serve(&body, index);
                body.gone.announce(body.control.lock());
            });
            match streamer {
                Ok(streamer) => control.threads.push(streamer),
                Err(error) => {
                    core.queue.leave(index);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn core(&self) -> &Arc<Core<F>> {
        &self.owner.core
    }

    /// The pipeline's name.
    pub fn name(&self) -> &str {
        &self.core().options.name
    }

    /// How many flushes may be reserved and not finalized.
    pub fn max_in_flight(&self) -> usize {
        self.core().options.max_in_flight
    }

    /// How many flushes have been rotated and are not finalized or skipped yet.
    pub fn pending(&self) -> u64 {
        let core = self.core();
        // In this order: a flush that is finalized in between is counted rather than missed.
        let mark = core.watermark();
        core.next().saturating_sub(mark)
    }

    /// The number that the next flush gets. All that were rotated have lower ones.
    pub fn next_sequence(&self) -> u64 {
        self.core().next()
    }

    /// All flushes below this number have been finalized or skipped.
    pub fn watermark(&self) -> u64 {
        self.core().watermark()
    }

    /// All flushes below this number have been finalized, and none of them was skipped: a log need
    /// not keep what they held.
    pub fn durable_watermark(&self) -> u64 {
        self.core().durable.load(Ordering::Acquire)
    }

    /// The flush at which the pipeline has halted; `None` if it has not.
    pub fn halted(&self) -> Option<u64> {
        self.core().halted()
    }

    /// Ends a halt. The flush that caused it is tried again: its stream if that failed, else the
    /// finalizer. A flush that was abandoned, or whose stream took too long, cannot be tried again
    /// and is skipped. Calls that wait from now on return on a new halt only. `false`: the pipeline
    /// was not halted.
    pub fn resume(&self) -> bool {
        self.core().resume()
    }

    /// Refuses reservations from now on, also those that wait, with [`ReserveError::Closed`]. What
    /// was reserved before can still be rotated, and is finalized.
    pub fn close(&self) {
        self.core().close();
    }

    /// Whether [`close`](Self::close) or [`shutdown`](Self::shutdown) has been called.
    pub fn is_closed(&self) -> bool {
        self.core().is_closed()
    }

    /// Closes the pipeline, waits as `how` says, and ends it: no stream begins any more, on
    /// whichever thread. What was not finalized comes back: once this has returned, every job,
    /// every stream and the finalizer have been dropped, but for those that a thread named in the
    /// leftovers is running, which it drops when they return.
    ///
    /// A second call finds nothing left, nor does a fork's child. From one of the pipeline's own
    /// threads it waits for nobody.
    ///
    /// # Blocking
    /// As `how` says; threads that run nothing of the user's are waited for in any case.
    pub fn shutdown(&self, how: Shutdown) -> Leftovers<F> {
        self.owner.shutdown(how)
    }

    /// Runs the finalizer on the calling thread until nothing is complete, and returns how often it
    /// had something to do. For models, where no threads are started.
    pub fn run_finalizer(&self) -> usize {
        let core = self.core();
        core.serving(|| {
            let thread = serve::thread_name();
            std::iter::repeat_with(|| serve::turn(core, &thread))
                .take_while(|turn| *turn == Turn::Worked)
                .count()
        })
    }

    /// Runs the finalizer on the calling thread until the shutdown. Returns `false` at once if
    /// another thread does. For models, where no threads are started.
    ///
    /// # Blocking
    /// Until the [`shutdown`](Self::shutdown).
    pub fn serve_finalizer(&self) -> bool {
        let core = Arc::clone(self.core());
        {
            let mut control = core.control.lock();
            if control.is_attended || control.is_stopped {
                return false;
            }
            control.is_attended = true;
        }
        serve::serve(&core);
        let mut control = core.control.lock();
        control.is_attended = false;
        core.gone.announce(control);
        true
    }

    /// Runs streams on the calling thread until the shutdown, in place of a streamer. Returns
    /// `false` at once if there are as many [`streamers`](Builder::streamers) as the builder was
    /// told. For models, where no threads are started.
    ///
    /// # Blocking
    /// Until the [`shutdown`](Self::shutdown).
    pub fn serve_streams(&self) -> bool {
        let core = Arc::clone(self.core());
        let Some(index) = core.queue.attend(core.options.streamers) else {
            return false;
        };
        stream::serve(&core, index);
        core.gone.announce(core.control.lock());
        true
    }

    /// Runs the oldest stream that waits for a streamer, on the calling thread. Returns `false` if
    /// none does.
    pub fn run_stream(&self) -> bool {
        stream::run_one(self.core())
    }

    /// Counters, gauges and histograms.
    pub fn stats(&self) -> FlushStats {
        let core = self.core();
        let counters = &core.counters;
        FlushStats {
            pending: self.pending(),
            in_flight: core.permits.current(),
            bytes_in_flight: core.bytes.as_ref().map_or(0, Semaphore::current),
            submitted: core.queue.submitted() + counters.completed.get(),
            finalized: counters.finalized.get(),
            skipped: counters.skipped.get(),
            batches: counters.batches.get(),
            retried: counters.retried.get(),
            timed_out: counters.timed_out.get(),
            halts: counters.halts.get(),
            stream: counters.stream.read(),
            reorder: counters.reorder.read(),
            finalize: counters.finalize.read(),
            reserve: core.permits.stats().waits,
        }
    }
}

impl<F: Finalize> Owner<F> {
    fn shutdown(&self, how: Shutdown) -> Leftovers<F> {
        let core = &self.core;
        if core.home.is_elsewhere() {
            // What is left is the parent's.
            return Leftovers::none();
        }
        core.close();
        let deadline = match how {
            Shutdown::Now => Some(now()),
            Shutdown::Drain(deadline) => Some(deadline),
            Shutdown::DrainAll => None,
        };
        if how != Shutdown::Now && !core.would_wait_for_itself() {
            // Whatever keeps it from being drained is in what comes back.
            let ticket = Core::drained(core, core.next());
            match deadline {
                Some(deadline) => drop(ticket.wait_or_cancel(deadline)),
                None => drop(ticket.wait()),
            }
        }
        let left = core.stop(deadline);
        self.linked.cut();
        left
    }
}

impl<F: Finalize> Drop for Owner<F> {
    fn drop(&mut self) {
        if self.core.home.is_elsewhere() {
            // Nor may the threads' handles be touched.
            std::mem::forget(Arc::clone(&self.core));
        } else {
            drop(self.shutdown(Shutdown::DrainAll));
        }
    }
}

impl<F: Finalize> fmt::Debug for FlushPipeline<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlushPipeline")
            .field("name", &self.name())
            .field("next", &self.next_sequence())
            .field("watermark", &self.watermark())
            .field("durable_watermark", &self.durable_watermark())
            .field("halted", &self.halted())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
