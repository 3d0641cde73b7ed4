//! How a pipeline is described.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::sweeper::Sweeper;
use crate::sync::thread;

use super::FlushPipeline;
use super::finalizer::Finalize;

/// The most flushes that may be in flight.
pub const MOST_IN_FLIGHT: usize = 1 << 20;

/// What is done about a flush that fails.
///
/// ```
/// use std::time::Duration;
/// use latchwork::flush::{Backoff, OnFailure};
///
/// let backoff = Backoff::exponential(Duration::from_millis(10), Duration::from_secs(5));
/// let policy = OnFailure::Retry { attempts: 3, backoff }.then(OnFailure::Skip);
/// # let _ = policy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnFailure {
    /// Stop at it. Whoever waits gets an error, later flushes are kept, and
    /// [`resume`](FlushPipeline::resume) goes on from it. For what must not have a gap, and for
    /// failures that pass, as a full disk.
    Halt,
    /// Go on without it. The [durable watermark](FlushPipeline::durable_watermark) stays below it.
    Skip,
    /// Run its stream again, `attempts` times in all, and then halt, or do what
    /// [`then`](Self::then) says. A failure of the finalizer is not retried.
    Retry {
        /// Runs in all, the first one included.
        attempts: u32,
        /// How long to wait after each failure.
        backoff: Backoff,
    },
}

impl OnFailure {
    /// What is done when no tries are left: [`Halt`](Self::Halt) or [`Skip`](Self::Skip). After
    /// anything but [`Retry`](Self::Retry), `last` replaces it.
    ///
    /// # Panics
    /// If `last` is [`Retry`](Self::Retry): it says nothing of what is done in the end.
    pub fn then(self, last: OnFailure) -> FailurePolicy {
        let is_an_end = !matches!(last, Self::Retry { .. });
        assert!(
            is_an_end,
            "what is done when no tries are left is to halt or to skip"
        );
        let first = FailurePolicy::from(self);
        let last = FailurePolicy::from(last);
        FailurePolicy {
            attempts: first.attempts,
            backoff: first.backoff,
            skips: last.skips,
        }
    }
}

/// How long to wait before a failed stream is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// The same time before each try.
    pub const fn constant(time: Duration) -> Self {
        Self {
            first: time,
            longest: time,
        }
    }

    /// `first` before the second try, then twice as long each time, up to `longest`.
    pub const fn exponential(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    fn after(self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt.saturating_sub(1));
        let time = factor.and_then(|factor| self.first.checked_mul(factor));
        time.map_or(self.longest, |time| time.min(self.longest))
    }
}

/// What is done about a flush that fails: an [`OnFailure`], and what comes when its tries are used
/// up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePolicy {
    attempts: u32,
    backoff: Backoff,
    skips: bool,
}

impl FailurePolicy {
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        self.backoff.after(attempt)
    }

    pub(super) fn skips(&self) -> bool {
        self.skips
    }
}

impl From<OnFailure> for FailurePolicy {
    fn from(policy: OnFailure) -> Self {
        let (attempts, backoff) = match policy {
            OnFailure::Retry { attempts, backoff } => (attempts.max(1), backoff),
            OnFailure::Halt | OnFailure::Skip => (1, Backoff::constant(Duration::ZERO)),
        };
        Self {
            attempts,
            backoff,
            skips: policy == OnFailure::Skip,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) name: String,
    pub(super) max_in_flight: usize,
    pub(super) max_bytes: Option<u64>,
    pub(super) streamers: usize,
    pub(super) max_batch: usize,
    pub(super) stream_timeout: Option<Duration>,
    pub(super) policy: FailurePolicy,
}

/// Describes a [`FlushPipeline`].
///
/// ```
/// use latchwork::flush::{FlushPipeline, OnFailure, each};
///
/// let flush = FlushPipeline::builder("memtable")
///     .max_in_flight(4)
///     .max_in_flight_bytes(256 << 20)
///     .streamers(2)
///     .on_failure(OnFailure::Halt)
///     .finalizer(each::<(), _, _, _, _>(|_, segment: &mut String| Ok::<_, String>(segment.len())))
///     .build()?;
/// assert_eq!(flush.max_in_flight(), 4);
/// # Ok::<(), latchwork::flush::BuildError>(())
/// ```
#[must_use = "nothing is built before `build`"]
pub struct Builder<F> {
    options: Options,
    sweeper: Option<Sweeper>,
    finalizer: F,
}

impl Builder<()> {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self {
            options: Options {
                name: name.into(),
                max_in_flight: 4,
                max_bytes: None,
                streamers: thread::parallelism(),
                max_batch: 1024,
                stream_timeout: None,
                policy: OnFailure::Halt.into(),
            },
            sweeper: None,
            finalizer: (),
        }
    }
}

impl<F> Builder<F> {
    /// How many flushes may be reserved and not finalized. Default: 4.
    pub fn max_in_flight(mut self, flushes: usize) -> Self {
        self.options.max_in_flight = flushes;
        self
    }

    /// How many bytes the flushes in flight may have in all, as [`reserve`](FlushPipeline::reserve)
    /// was told. A larger flush is admitted alone. Default: no limit.
    pub fn max_in_flight_bytes(mut self, bytes: u64) -> Self {
        self.options.max_bytes = Some(bytes);
        self
    }

    /// How many threads run streams (`lw-stream-0`, ...). With 0, a stream runs on the thread that
    /// submits it. Default: one for each processor, but no more than may be in flight.
    pub fn streamers(mut self, threads: usize) -> Self {
        self.options.streamers = threads;
        self
    }

    /// The most flushes that the finalizer is given at once. Default: 1,024.
    pub fn max_batch(mut self, flushes: usize) -> Self {
        self.options.max_batch = flushes.max(1);
        self
    }

    /// How long a stream may run. One that takes longer has failed. It cannot be stopped, so it is
    /// not tried again, keeps its place in flight until it returns, and what it returns is dropped.
    /// Default: no limit.
    pub fn stream_timeout(mut self, time: Duration) -> Self {
        self.options.stream_timeout = Some(time);
        self
    }

    /// What is done about a flush that fails. Default: [`OnFailure::Halt`].
    pub fn on_failure(mut self, policy: impl Into<FailurePolicy>) -> Self {
        self.options.policy = policy.into();
        self
    }

    /// The sweeper that starts retries and notices streams that take too long. Default: one of its
    /// own, whose thread starts when it is needed.
    pub fn sweeper(mut self, sweeper: Sweeper) -> Self {
        self.sweeper = Some(sweeper);
        self
    }

    /// The finalizer: a type that implements [`Finalize`], or [`each`](super::each) of a closure.
    /// A pipeline cannot be built without one.
    pub fn finalizer<G: Finalize>(self, finalizer: G) -> Builder<G> {
        Builder {
            options: self.options,
            sweeper: self.sweeper,
            finalizer,
        }
    }
}

impl<F: Finalize> Builder<F> {
    /// Builds the pipeline, and starts its threads.
    ///
    /// # Errors
    /// [`BuildError::InFlight`] and [`BuildError::Bytes`] for a bound that is zero or too large;
    /// [`BuildError::Thread`].
    pub fn build(mut self) -> Result<FlushPipeline<F>, BuildError> {
        let in_flight = self.options.max_in_flight;
        if in_flight == 0 || in_flight > MOST_IN_FLIGHT {
            return Err(BuildError::InFlight(in_flight));
        }
        if self
            .options
            .max_bytes
            .is_some_and(|bytes| bytes == 0 || bytes >= 1 << 48)
        {
            return Err(BuildError::Bytes(self.options.max_bytes.unwrap_or(0)));
        }
        self.options.streamers = self.options.streamers.min(in_flight);
        FlushPipeline::start(
            self.options,
            self.sweeper.unwrap_or_default(),
            self.finalizer,
        )
    }
}

impl<F> fmt::Debug for Builder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Why a pipeline could not be built.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// [`max_in_flight`](Builder::max_in_flight) is not within 1 to [`MOST_IN_FLIGHT`].
    InFlight(usize),
    /// [`max_in_flight_bytes`](Builder::max_in_flight_bytes) is not within 1 to 2^48 - 1.
    Bytes(u64),
    /// The system refused a thread.
    Thread(io::Error),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight(flushes) => write!(
                f,
                "a pipeline cannot have {flushes} flushes in flight: choose 1 to {MOST_IN_FLIGHT}"
            ),
            Self::Bytes(bytes) => write!(
                f,
                "a pipeline cannot have {bytes} bytes in flight: choose 1 to {}",
                (1_u64 << 48) - 1
            ),
            Self::Thread(_) => f.write_str("a thread of the pipeline could not be started"),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Thread(error) => Some(error),
            Self::InFlight(_) | Self::Bytes(_) => None,
        }
    }
}
