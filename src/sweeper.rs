//! One dedicated thread that runs periodic and deadline-driven jobs.
//!
//! Jobs wait in a queue ordered by deadline (`schedule`, a plain state machine behind one lock).
//! The thread runs what is due, outside the lock, then sleeps on a futex until the earliest
//! deadline, or without one when nothing is armed: an idle sweeper makes no system calls.
//!
//! Why no deadline is missed: the thread reads the bell's number, runs what is due, and only then
//! looks for the earliest deadline in the queue and notes, under the lock, that it sleeps until
//! then. Two put a deadline into the queue: who arms a job, and who has run one that is due again
//! or was armed meanwhile, on whichever thread. If the thread sleeps and not to an earlier time,
//! they change the bell's number under that lock, and wake it; a wake that comes before the sleep
//! finds a changed number and so prevents it.

mod schedule;
mod stats;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::time::Duration;

pub use stats::{Leftovers, SweeperStats};

use crate::sync::atomic::Ordering;
use crate::sync::futex::Futex;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::time::{self, Instant};
use crate::sync::{Arc, mutant, unmodelled};
use schedule::{Cancelled, JobId, Schedule, Work};
use stats::Counters;

crate::sync::local! {
    /// The job that this thread is running: its sweeper and its number.
    static RUNNING: Cell<Option<(usize, JobId)>> = Cell::new(None)
}

/// Runs jobs at their deadlines, on one thread of its own.
///
/// Components take a sweeper for their housekeeping: expired keys, latches whose holder is gone. A
/// sweeper is a value, and its clones are handles on one thread: make one, give it to every
/// builder. The thread (`lw-sweep`) starts when the first job is armed, sleeps while nothing is
/// due, and is joined when the last handle goes; a [`Job`] is such a handle.
///
/// ```
/// use std::sync::mpsc;
/// use std::time::Duration;
/// use latchwork::sweeper::{Next, Sweeper};
///
/// let sweeper = Sweeper::new();
/// let (sender, swept) = mpsc::channel();
/// let mut rounds = 0;
/// let job = sweeper.job("count to three", move || {
///     rounds += 1;
///     sender.send(rounds).unwrap();
///     if rounds < 3 { Next::After(Duration::from_millis(1)) } else { Next::Idle }
/// });
/// job.arm_after(Duration::ZERO);
/// assert_eq!(swept.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
/// ```
///
/// A process that forks leaves the thread behind: in the child nothing is run, and dropping the
/// handles neither waits nor frees.
#[derive(Clone)]
pub struct Sweeper {
    owner: Arc<Owner>,
}

/// When a job runs next; what it returns.
///
/// ```
/// use latchwork::sweeper::Next;
///
/// let next = Next::After(std::time::Duration::from_secs(5));
/// assert_ne!(next, Next::Idle);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// When it is armed again.
    Idle,
    /// This long after now.
    After(Duration),
    /// At this time.
    At(Instant),
}

/// A job of a [`Sweeper`]. Dropping it cancels the job.
///
/// ```
/// use std::time::Duration;
/// use latchwork::sweeper::{Next, Sweeper};
///
/// let sweeper = Sweeper::new();
/// let job = sweeper.job("housekeeping", || Next::Idle);
/// assert!(!job.is_armed());
/// job.arm_after(Duration::from_secs(3600));
/// assert!(job.is_armed());
/// drop(job); // cancelled
/// ```
///
/// # Blocking
/// The drop waits for a run that has begun, so that nothing which the job uses is in use
/// afterwards; unless the job itself drops it: then the closure is dropped when it returns. Two
/// jobs that run at the same time and drop each other would wait for ever.
#[must_use = "dropping it cancels the job"]
pub struct Job {
    sweeper: Sweeper,
    id: JobId,
}

/// Its drop, with the last handle, stops the thread.
struct Owner {
    core: Arc<Core>,
}

/// What the handles and the thread share.
struct Core {
    state: Mutex<State>,
    /// Its number changes when the thread has to look again.
    bell: Futex,
    /// Its number changes when a cancelled job is gone, and when the thread has run its last.
    gone: Futex,
    /// The process that started the thread; 0 before.
    process: unmodelled::AtomicU64,
    counters: Counters,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    thread: Option<JoinHandle<()>>,
    /// Whether the thread has been started, and has not run its last job.
    running: bool,
    asleep: bool,
    /// What the thread sleeps until; `None` is without end.
    until: Option<Instant>,
    stopped: bool,
}

impl Sweeper {
    /// A sweeper without jobs, and without a thread so far.
    ///
    /// ```
    /// # use latchwork::sweeper::Sweeper;
    /// assert!(!Sweeper::new().stats().running);
    /// ```
    pub fn new() -> Self {
        let core = Arc::new(Core {
            state: Mutex::new(State::default()),
            bell: Futex::new(0),
            gone: Futex::new(0),
            process: unmodelled::AtomicU64::new(0),
            counters: Counters::default(),
        });
        Self {
            owner: Arc::new(Owner { core }),
        }
    }

    /// Adds a job, not armed. It runs on the sweeper's thread, one job at a time, so it should be
    /// short. The closure must not own this sweeper, nor its own `Job`: neither would ever go.
    ///
    /// A panic in it is caught and counted ([`stats`](Self::stats)). The job stays; it runs again
    /// when it is armed again.
    ///
    /// ```
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let sweeper = Sweeper::new();
    /// let job = sweeper.job("nothing to do", || Next::Idle);
    /// assert_eq!(sweeper.stats().jobs, 1);
    /// # drop(job);
    /// ```
    pub fn job(&self, name: &str, work: impl FnMut() -> Next + Send + 'static) -> Job {
        let mut state = self.owner.core.state.lock();
        let id = state.schedule.add(name, Box::new(work));
        self.owner.core.gauge(&state);
        drop(state);
        Job {
            sweeper: self.clone(),
            id,
        }
    }

    /// Starts the thread now and not with the first armed job, to learn whether it can.
    ///
    /// ```
    /// # use latchwork::sweeper::Sweeper;
    /// let sweeper = Sweeper::new();
    /// sweeper.start()?;
    /// assert!(sweeper.stats().running);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the system refuses a thread. (A start with the first armed job that fails is counted
    /// in [`stats`](Self::stats), and tried again with the next.)
    pub fn start(&self) -> io::Result<()> {
        let core = &self.owner.core;
        Core::start(core, &mut core.state.lock())
    }

    /// Runs, on the calling thread, the jobs that are due at `now`, each at most once, and says
    /// how many they were. The thread does the same; this is for programs that would rather sweep
    /// at moments of their own, and for models, where no thread is started. Inside a job it does
    /// nothing.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let sweeper = Sweeper::new();
    /// let job = sweeper.job("hourly", || Next::Idle);
    /// let now = Instant::now();
    /// job.arm_at(now + Duration::from_secs(3600));
    /// assert_eq!(sweeper.run_due(now), 0);
    /// assert_eq!(sweeper.run_due(now + Duration::from_secs(3600)), 1);
    /// ```
    pub fn run_due(&self, now: Instant) -> usize {
        self.owner.core.run_due(now)
    }

    /// Stops the thread, waiting for the job that it is running, and disarms every job for good. A
    /// second call waits too, but has nothing left to report. On the thread itself, as in a job
    /// that it runs, it does not wait.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let sweeper = Sweeper::new();
    /// let job = sweeper.job("hourly", || Next::Idle);
    /// job.arm_after(Duration::from_secs(3600));
    /// assert_eq!(sweeper.shutdown().unfinished, ["hourly"]);
    /// assert!(!job.arm_after(Duration::ZERO));
    /// ```
    pub fn shutdown(&self) -> Leftovers {
        self.owner.core.stop()
    }

    /// Counters and gauges.
    ///
    /// ```
    /// # use latchwork::sweeper::Sweeper;
    /// assert_eq!(Sweeper::new().stats().runs, 0);
    /// ```
    pub fn stats(&self) -> SweeperStats {
        self.owner.core.counters.read()
    }
}

impl Job {
    /// Has the job run at `at`, unless it is armed for an earlier time: that one stays. `false` if
    /// the sweeper has been shut down. Cheap, from any thread, the job's own included.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let job = Sweeper::new().job("hourly", || Next::Idle);
    /// assert!(job.arm_at(Instant::now() + Duration::from_secs(3600)));
    /// ```
    pub fn arm_at(&self, at: Instant) -> bool {
        Core::arm(self.core(), self.id, at)
    }

    /// Has the job run after a time; one that is too long to be said is never. See
    /// [`arm_at`](Self::arm_at).
    ///
    /// ```
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let job = Sweeper::new().job("hourly", || Next::Idle);
    /// assert!(job.arm_after(std::time::Duration::from_secs(3600)));
    /// ```
    pub fn arm_after(&self, after: Duration) -> bool {
        match time::now().checked_add(after) {
            Some(at) => self.arm_at(at),
            None => !self.core().state.lock().stopped,
        }
    }

    /// Takes the deadline back. A run that has begun goes on.
    ///
    /// ```
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let job = Sweeper::new().job("hourly", || Next::Idle);
    /// job.arm_after(std::time::Duration::from_secs(3600));
    /// job.disarm();
    /// assert!(!job.is_armed());
    /// ```
    pub fn disarm(&self) {
        let core = self.core();
        let mut state = core.state.lock();
        state.schedule.disarm(self.id);
        core.gauge(&state);
    }

    /// Whether the job has a deadline.
    ///
    /// ```
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// assert!(!Sweeper::new().job("hourly", || Next::Idle).is_armed());
    /// ```
    pub fn is_armed(&self) -> bool {
        self.core().state.lock().schedule.is_armed(self.id)
    }

    /// Whether a thread attends to the job; in a model, whoever steps it. `false` after a start that
    /// failed, and so the next arming tries again.
    pub(crate) fn is_attended(&self) -> bool {
        !thread::STARTS_ITS_OWN || self.core().state.lock().thread.is_some()
    }

    fn core(&self) -> &Arc<Core> {
        &self.sweeper.owner.core
    }
}

impl Core {
    fn arm(core: &Arc<Self>, id: JobId, at: Instant) -> bool {
        let mut state = core.state.lock();
        if state.stopped && !mutant::enabled("sweeper-arms-after-stop") {
            return false;
        }
        state.schedule.arm(id, at);
        core.gauge(&state);
        if state.thread.is_none() && Self::start(core, &mut state).is_err() {
            let failed = &core.counters.failed_starts;
            failed.fetch_add(1, Ordering::Relaxed);
        }
        let ring = core.end_late_sleep(&mut state);
        drop(state);
        if ring {
            core.bell.wake_one();
        }
        true
    }

    /// Ends the thread's sleep if it goes on beyond the earliest deadline.
    fn end_late_sleep(&self, state: &mut State) -> bool {
        let due = state.schedule.earliest();
        let late = due.is_some_and(|due| state.until.is_none_or(|until| due < until));
        late && self.end_sleep(state)
    }

    /// Ends the thread's sleep: the caller wakes it once the lock is free. `false` if it is awake,
    /// and so will look again by itself.
    fn end_sleep(&self, state: &mut State) -> bool {
        let asleep = std::mem::take(&mut state.asleep);
        if asleep {
            // Only changed under the lock. Release pairs with the thread's Acquire.
            let number = self.bell.load(Ordering::Relaxed);
            self.bell.store(number.wrapping_add(1), Ordering::Release);
        }
        asleep
    }

    fn start(core: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if !thread::STARTS_ITS_OWN || state.thread.is_some() || state.stopped {
            return Ok(());
        }
        let body = Arc::clone(core);
        state.thread = Some(thread::spawn_named("lw-sweep", move || body.run())?);
        state.running = true;
        core.gauge(state);
        let process = u64::from(std::process::id());
        core.process.store(process, Ordering::Relaxed);
        Ok(())
    }

    /// The thread.
    fn run(&self) {
        loop {
            let number = self.bell.load(Ordering::Acquire);
            self.run_due(time::now());
            let mut state = self.state.lock();
            if state.stopped {
                state.running = false;
                self.gauge(&state);
                return self.announce_gone(state);
            }
            let until = state.schedule.earliest();
            (state.asleep, state.until) = (true, until);
            drop(state);
            self.bell.wait(number, until);
            self.state.lock().asleep = false;
        }
    }

    fn run_due(&self, now: Instant) -> usize {
        if RUNNING.with(Cell::get).is_some() {
            return 0;
        }
        let due = self.state.lock().schedule.due(now);
        due.into_iter().filter(|&id| self.run_job(id, now)).count()
    }

    fn run_job(&self, id: JobId, now: Instant) -> bool {
        let mut state = self.state.lock();
        let Some(mut work) = state.schedule.take(id, now) else {
            return false;
        };
        self.gauge(&state);
        drop(state);
        RUNNING.with(|running| running.set(Some((self.address(), id))));
        let outcome = catch_unwind(AssertUnwindSafe(&mut work));
        RUNNING.with(|running| running.set(None));
        self.counters.runs.fetch_add(1, Ordering::Relaxed);
        let again = match outcome {
            Ok(Next::Idle) => None,
            Ok(Next::After(after)) => time::now().checked_add(after),
            Ok(Next::At(at)) => Some(at),
            Err(panic) => {
                self.report(id, panic);
                None
            }
        };
        let mut state = self.state.lock();
        let again = again.filter(|_| !state.stopped);
        let cancelled = state.schedule.finish(id, work, again);
        self.gauge(&state);
        let ring = self.end_late_sleep(&mut state);
        drop(state);
        if ring {
            self.bell.wake_one();
        }
        if let Some(work) = cancelled.filter(|_| !mutant::enabled("sweeper-buries-nobody")) {
            self.remove(id, work);
        }
        true
    }

    /// Drops a cancelled job's closure, then tells who waits for that.
    fn remove(&self, id: JobId, work: Work) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(work))) {
            self.report(id, panic);
        }
        let mut state = self.state.lock();
        state.schedule.remove(id);
        self.gauge(&state);
        self.announce_gone(state);
    }

    /// Tells who waits that a job is gone, or the thread.
    fn announce_gone(&self, state: MutexGuard<'_, State>) {
        // As the bell: changed under the lock, so that who saw it there sleeps only on the number
        // from before.
        let number = self.gone.load(Ordering::Relaxed);
        self.gone.store(number.wrapping_add(1), Ordering::Release);
        drop(state);
        self.gone.wake_all();
    }

    fn report(&self, id: JobId, panic: Box<dyn std::any::Any + Send>) {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(not a string)");
        let report = format!("{}: {text}", self.state.lock().schedule.name(id));
        *self.counters.last_panic.lock() = Some(report);
        self.counters.panics.fetch_add(1, Ordering::Relaxed);
        // A payload's drop may panic, and the payload of that panic too: it is leaked.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            std::mem::forget(again);
        }
    }

    fn cancel(&self, id: JobId) {
        let mut state = self.state.lock();
        let cancelled = state.schedule.cancel(id);
        self.gauge(&state);
        drop(state);
        match cancelled {
            Cancelled::Now(work) => drop(work),
            Cancelled::Running if RUNNING.with(Cell::get) == Some((self.address(), id)) => {}
            Cancelled::Running if mutant::enabled("sweeper-drop-does-not-wait") => {}
            Cancelled::Running => drop(self.await_gone(|state| !state.schedule.contains(id))),
        }
    }

    /// Waits until something is gone.
    fn await_gone(&self, is_gone: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        loop {
            let number = self.gone.load(Ordering::Acquire);
            let state = self.state.lock();
            if is_gone(&state) {
                return state;
            }
            drop(state);
            self.gone.wait(number, None);
        }
    }

    fn stop(&self) -> Leftovers {
        if self.is_forked() {
            return Leftovers::default();
        }
        let mut state = self.state.lock();
        state.stopped = true;
        let unfinished = state.schedule.disarm_all();
        self.gauge(&state);
        let is_own = state.thread.as_ref().is_some_and(thread::is_current);
        let ring = self.end_sleep(&mut state);
        drop(state);
        if ring {
            self.bell.wake_one();
        }
        if !is_own {
            let thread = self.await_gone(|state| !state.running).thread.take();
            // Its body catches every panic of a job.
            let _ = thread.map(JoinHandle::join);
        }
        Leftovers {
            unfinished,
            panics: self.counters.panics.load(Ordering::Relaxed),
            last_panic: self.counters.last_panic.lock().take(),
        }
    }

    /// Whether this process is a fork of the one that started the thread. There is no thread then,
    /// and it may have left the lock taken.
    fn is_forked(&self) -> bool {
        let process = self.process.load(Ordering::Relaxed);
        process != 0 && process != u64::from(std::process::id())
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn gauge(&self, state: &State) {
        let store = |gauge: &unmodelled::AtomicU64, value: usize| {
            gauge.store(value as u64, Ordering::Relaxed);
        };
        store(&self.counters.jobs, state.schedule.len());
        store(&self.counters.armed, state.schedule.armed());
        store(&self.counters.running, usize::from(state.running));
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.core.is_forked() {
            // The thread's handle must not be touched either.
            std::mem::forget(Arc::clone(&self.core));
        } else {
            self.core.stop();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.core().is_forked() {
            self.core().cancel(self.id);
        }
    }
}

// No panic leaves half a change behind: jobs run, and are dropped, outside the lock.
impl UnwindSafe for Sweeper {}
impl RefUnwindSafe for Sweeper {}
impl UnwindSafe for Job {}
impl RefUnwindSafe for Job {}

impl Default for Sweeper {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sweeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sweeper").field(&self.stats()).finish()
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
