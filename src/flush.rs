//! Work in parallel, finalize in order.
//!
//! A [`FlushPipeline`] takes flushes through four phases: a **reservation** bounds how many are in
//! flight; **rotate** takes what is to be flushed out of the live state, under the caller's lock, and
//! numbers it; **streams** write it out, many at a time; the **finalizer** takes what is done, strictly
//! in the order of the numbers, on one thread. The order is that of a group of memtables and their
//! manifest, of uploads and their index, of any log that is compacted in the background.
//!
//! | part | holds |
//! |---|---|
//! | `ring` | what is complete and not finalized, by number |
//! | `slot` | the guards: [`Reservation`], [`Rotated`] |
//! | `stream` | the streams that wait or run, and the threads that run them |
//! | `timers` | streams that are tried again, or take too long |
//! | `serve` | the finalizer's turn: batches, failures, halts |
//! | `shutdown` | the end, and what was left |
//!
//! No gap can arise: a guard carries number, permit and pending count from rotate to completion, and
//! dropping it anywhere, a panic included, completes the flush as abandoned.

mod builder;
mod core;
mod error;
mod finalizer;
mod job;
mod ring;
mod serve;
mod shutdown;
mod slot;
mod stats;
mod stream;
mod ticket;
mod timers;

use std::fmt;
use std::time::Duration;

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
use self::ring::Ring;
use self::serve::Turn;
use self::stats::Counters;
use self::stream::Queue;
use self::timers::{Linked, Timers};
use crate::os::home::Home;
use crate::semaphore::{
    AcquireError, AcquireTimeoutError, Permit, Semaphore, SendPermit, TryAcquireError,
};
use crate::sweeper::Sweeper;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock::Mutex;
use crate::sync::thread;
use crate::sync::time::{Instant, now};
use crate::sync::{Arc, unmodelled};
use crate::waiter::{Bell, Callback, Delivery, Pending};

/// Flushes that stream in parallel and are finalized in order.
///
/// A handle: clones are of the same pipeline. Reserve before any lock, rotate under the lock that
/// guards what is flushed, submit outside it.
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
/// Dropping the last handle closes the pipeline and waits for what was rotated to be finalized, as
/// [`Shutdown::DrainAll`] does, unless it is dropped by one of its own threads, which nobody can wait
/// for. A process that forks leaves the threads behind: in the child nothing is finalized.
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

/// Stands for a finalizer where there is none yet.
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
    /// Starts the description of a pipeline. See [`Builder`].
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
            next: AtomicU64::new(0),
            watermark: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            halted: AtomicU64::new(0),
            orders: AtomicU64::new(0),
            bell: Bell::new(),
            gone: Bell::new(),
            control: Mutex::new(Control {
                is_stopped: false,
                is_left: false,
                is_over: false,
                drains: Vec::new(),
                drain_numbers: 0,
                sleepers: Vec::new(),
                finalizing: Some(Finalizing {
                    finalizer,
                    backlog: Vec::new(),
                    outputs: Vec::new(),
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
            let streamer = thread::spawn_named(&stream::streamer_name(index), move || {
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

    /// Reserves room for a flush of so many bytes: waits while as many are in flight as may be.
    ///
    /// # Errors
    /// [`Closed`](ReserveError::Closed), [`Halted`](ReserveError::Halted),
    /// [`WouldDeadlock`](ReserveError::WouldDeadlock).
    ///
    /// # Blocking
    /// Until there is room.
    ///
    /// # Fairness
    /// As the [`Semaphore`]'s.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation<'_, F>, ReserveError> {
        self.reserve_until(bytes, None)
    }

    /// As [`reserve`](Self::reserve), if there is room now.
    ///
    /// # Errors
    /// [`WouldBlock`](ReserveError::WouldBlock) where there is none;
    /// [`Closed`](ReserveError::Closed), [`Halted`](ReserveError::Halted).
    pub fn try_reserve(&self, bytes: u64) -> Result<Reservation<'_, F>, ReserveError> {
        let core = self.core();
        loop {
            match self.take_now(bytes) {
                Ok(reservation) => return Ok(reservation),
                Err(TryAcquireError::Closed) => {
                    if let Some(refusal) = core.refusal() {
                        return Err(refusal);
                    }
                    // It went on in between.
                }
                Err(_) => return Err(ReserveError::WouldBlock),
            }
        }
    }

    /// As [`reserve`](Self::reserve), but waits no longer than `timeout`.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve), and [`TimedOut`](ReserveError::TimedOut).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn reserve_timeout(
        &self,
        bytes: u64,
        timeout: Duration,
    ) -> Result<Reservation<'_, F>, ReserveError> {
        // A time-out beyond the end of time is none.
        self.reserve_until(bytes, now().checked_add(timeout))
    }

    /// As [`reserve`](Self::reserve), but does not wait past `deadline`.
    ///
    /// # Errors
    /// As [`reserve_timeout`](Self::reserve_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn reserve_deadline(
        &self,
        bytes: u64,
        deadline: Instant,
    ) -> Result<Reservation<'_, F>, ReserveError> {
        self.reserve_until(bytes, Some(deadline))
    }

    fn take_now(&self, bytes: u64) -> Result<Reservation<'_, F>, TryAcquireError> {
        let core = self.core();
        let permit = core.permits.try_acquire()?;
        let bytes = match &core.bytes {
            Some(bound) => Some(bound.try_acquire_many(core.weight(bytes))?),
            None => None,
        };
        Ok(Reservation {
            core,
            permit,
            bytes,
        })
    }

    fn reserve_until(
        &self,
        bytes: u64,
        deadline: Option<Instant>,
    ) -> Result<Reservation<'_, F>, ReserveError> {
        let core = self.core();
        loop {
            match self.try_reserve(bytes) {
                Err(ReserveError::WouldBlock) => {}
                decided => return decided,
            }
            if core.would_wait_for_itself() || core.permits.is_held_here() {
                return Err(ReserveError::WouldDeadlock);
            }
            let acquired = acquire(&core.permits, 1, deadline).and_then(|permit| {
                let bytes = match &core.bytes {
                    Some(bound) => Some(acquire(bound, core.weight(bytes), deadline)?),
                    None => None,
                };
                Ok(Reservation {
                    core,
                    permit,
                    bytes,
                })
            });
            match acquired {
                Ok(reservation) => return Ok(reservation),
                Err(AcquireTimeoutError::TimedOut) => return Err(ReserveError::TimedOut),
                Err(_) => {
                    if let Some(refusal) = core.refusal() {
                        return Err(refusal);
                    }
                    // It went on in between.
                }
            }
        }
    }

    /// Has `f` called with room for a flush of so many bytes, once there is; by whoever makes room, or
    /// at once, here. Dropping the [`Pending`] before that cancels.
    pub fn reserve_with(
        &self,
        bytes: u64,
        f: impl FnOnce(Result<SendReservation<F>, ReserveError>) + Send + 'static,
    ) -> Pending {
        let core = Arc::clone(self.core());
        let refused = {
            let core = Arc::clone(&core);
            move || core.refusal().unwrap_or(ReserveError::Closed)
        };
        let Some(bound) = core.bytes.clone() else {
            let permits = core.permits.clone();
            return permits.acquire_with(move |permit: Result<SendPermit, AcquireError>| {
                f(permit.map_err(|_| refused()).map(|permit| SendReservation {
                    core,
                    permit,
                    bytes: None,
                }));
            });
        };
        // The second wait begins in the first one's callback; a cancel ends whichever stands.
        let delivery = Delivery::new();
        let callback = Callback {
            run: Box::new(move |result, is_wanted| {
                if is_wanted {
                    f(result);
                }
            }),
            delivery: Arc::clone(&delivery),
        };
        let weight = core.weight(bytes);
        let stage: unmodelled::Arc<unmodelled::Mutex<Stage>> = unmodelled::Arc::default();
        let its_stage = unmodelled::Arc::clone(&stage);
        let permits = core.permits.clone();
        let first = permits.acquire_with(move |permit: Result<SendPermit, AcquireError>| {
            let Ok(permit) = permit else {
                return callback.deliver(Err(refused()));
            };
            let second = bound.acquire_many_with(weight, move |bytes| {
                callback.deliver(bytes.map_err(|_| refused()).map(|bytes| SendReservation {
                    core,
                    permit,
                    bytes: Some(bytes),
                }));
            });
            let mut stage = its_stage.lock();
            if let Stage::First = *stage {
                *stage = Stage::Second { _pending: second };
            } else {
                drop(stage);
                drop(second);
            }
        });
        Pending::new(delivery, move || {
            drop(first);
            let before = std::mem::replace(&mut *stage.lock(), Stage::Cancelled);
            drop(before);
        })
    }

    /// How many flushes may be reserved and not finalized.
    pub fn max_in_flight(&self) -> usize {
        self.core().options.max_in_flight
    }

    /// How many flushes have a number and are not finalized or skipped.
    pub fn pending(&self) -> u64 {
        let core = self.core();
        // In this order: a flush that is finalized in between is counted rather than missed.
        let mark = core.watermark();
        core.next().saturating_sub(mark)
    }

    /// The number that the next flush gets: all that were rotated are below.
    pub fn next_sequence(&self) -> u64 {
        self.core().next()
    }

    /// Every flush below this number has been finalized, or skipped.
    pub fn watermark(&self) -> u64 {
        self.core().watermark()
    }

    /// Every flush below this number has been finalized. It stays at the first one that was skipped:
    /// what that held is nowhere, so a log of it must be kept.
    pub fn durable_watermark(&self) -> u64 {
        self.core().durable.load(Ordering::Acquire)
    }

    /// The flush at which the pipeline has halted.
    pub fn halted(&self) -> Option<u64> {
        self.core().halted()
    }

    /// Ends a halt. The flush that it was for is tried again: streamed anew if its stream failed,
    /// finalized anew if the finalizer did. What cannot be tried again is skipped: a flush that was
    /// abandoned, or took too long. Who waits from now on learns of a new halt only. `false`: the pipeline
    /// is not halted.
    pub fn resume(&self) -> bool {
        self.core().resume()
    }

    /// Waits until all that has been rotated so far is finalized or skipped. What is rotated later does
    /// not prolong it.
    ///
    /// # Errors
    /// [`Halted`](DrainError::Halted), [`ShutDown`](DrainError::ShutDown),
    /// [`WouldDeadlock`](DrainError::WouldDeadlock).
    ///
    /// # Blocking
    /// Until then.
    pub fn drain(&self) -> Result<(), DrainError> {
        self.drain_until(self.next_sequence(), None)
    }

    /// As [`drain`](Self::drain), but not longer than `timeout`.
    ///
    /// # Errors
    /// As [`drain`](Self::drain), and [`TimedOut`](DrainError::TimedOut).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn drain_timeout(&self, timeout: Duration) -> Result<(), DrainError> {
        self.drain_until(self.next_sequence(), now().checked_add(timeout))
    }

    /// As [`drain`](Self::drain), but not past `deadline`.
    ///
    /// # Errors
    /// As [`drain_timeout`](Self::drain_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn drain_deadline(&self, deadline: Instant) -> Result<(), DrainError> {
        self.drain_until(self.next_sequence(), Some(deadline))
    }

    /// Has `f` called when all that has been rotated so far is finalized or skipped, or cannot be.
    pub fn drain_with(&self, f: impl FnOnce(Result<(), DrainError>) + Send + 'static) -> Pending {
        self.drain_to_with(self.next_sequence(), f)
    }

    /// Waits until all below `sequence` is finalized or skipped, rotated or not.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    ///
    /// # Blocking
    /// Until then.
    pub fn drain_to(&self, sequence: u64) -> Result<(), DrainError> {
        self.drain_until(sequence, None)
    }

    /// As [`drain_to`](Self::drain_to), but not longer than `timeout`.
    ///
    /// # Errors
    /// As [`drain_timeout`](Self::drain_timeout).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn drain_to_timeout(&self, sequence: u64, timeout: Duration) -> Result<(), DrainError> {
        self.drain_until(sequence, now().checked_add(timeout))
    }

    /// As [`drain_to`](Self::drain_to), but not past `deadline`.
    ///
    /// # Errors
    /// As [`drain_timeout`](Self::drain_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn drain_to_deadline(&self, sequence: u64, deadline: Instant) -> Result<(), DrainError> {
        self.drain_until(sequence, Some(deadline))
    }

    /// Has `f` called when all below `sequence` is finalized or skipped, or cannot be.
    pub fn drain_to_with(
        &self,
        sequence: u64,
        f: impl FnOnce(Result<(), DrainError>) + Send + 'static,
    ) -> Pending {
        Core::drained(self.core(), sequence).wait_with(move |result| {
            f(result.unwrap_or(Err(DrainError::ShutDown)));
        })
    }

    fn drain_until(&self, sequence: u64, deadline: Option<Instant>) -> Result<(), DrainError> {
        let core = self.core();
        if core.watermark() >= sequence {
            return Ok(());
        }
        if core.would_wait_for_itself() {
            return Err(DrainError::WouldDeadlock);
        }
        let ticket = Core::drained(core, sequence);
        let result = match deadline {
            None => ticket.wait(),
            Some(deadline) => match ticket.wait_or_cancel(deadline) {
                None => return Err(DrainError::TimedOut),
                Some(result) => result,
            },
        };
        result.unwrap_or(Err(DrainError::ShutDown))
    }

    /// Has no more flushes be reserved: who tries, or waits to, gets [`ReserveError::Closed`]. What was
    /// reserved before can be rotated and goes through.
    pub fn close(&self) {
        self.core().close();
    }

    /// Whether it has been closed.
    pub fn is_closed(&self) -> bool {
        self.core().is_closed()
    }

    /// Closes the pipeline, waits as `how` says, and ends it. What was not finalized comes back: once
    /// this has returned, every job, every stream and the finalizer have been dropped, but for those
    /// that a thread named in the leftovers is running, which it drops when they return.
    ///
    /// A second call finds nothing left, nor does a fork's child. From one of the pipeline's own threads it waits for nobody.
    ///
    /// # Blocking
    /// As `how` says; threads that run nothing of the user's are waited for in any case.
    pub fn shutdown(&self, how: Shutdown) -> Leftovers<F> {
        self.owner.shutdown(how)
    }

    /// Runs the finalizer on what is complete, on the calling thread, until nothing is: for models,
    /// where no threads are started. Returns how often it had something to do.
    pub fn run_finalizer(&self) -> usize {
        let core = self.core();
        core.serving(|| {
            std::iter::repeat_with(|| serve::turn(core))
                .take_while(|turn| *turn == Turn::Worked)
                .count()
        })
    }

    /// Serves the finalizer on the calling thread until the shutdown: for models, where no threads are
    /// started. `false`, at once: another thread does.
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

    /// Serves streams on the calling thread until the shutdown, in place of a streamer: for models, where
    /// no threads are started. `false`, at once: there are as many as there are to be.
    pub fn serve_streams(&self) -> bool {
        let core = Arc::clone(self.core());
        let Some(index) = core.queue.attend(core.options.streamers) else {
            return false;
        };
        stream::serve(&core, index);
        core.gone.announce(core.control.lock());
        true
    }

    /// Runs the oldest stream that waits for a streamer on the calling thread. `false`: none does.
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
            submitted: counters.submitted.get(),
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

/// What a reservation by callback waits for.
#[derive(Default)]
enum Stage {
    /// A permit.
    #[default]
    First,
    /// Its bytes.
    Second {
        _pending: Pending,
    },
    Cancelled,
}

fn acquire(
    semaphore: &Semaphore,
    permits: u64,
    deadline: Option<Instant>,
) -> Result<Permit<'_>, AcquireTimeoutError> {
    match deadline {
        Some(deadline) => semaphore.acquire_many_deadline(permits, deadline),
        None => Ok(semaphore.acquire_many(permits)?),
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
