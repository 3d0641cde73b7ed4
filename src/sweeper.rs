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
//! they ring the bell under that lock, see `Bell`.

mod job;
mod schedule;
mod stats;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::time::Duration;

pub use job::Job;
pub use stats::{Leftovers, SweeperStats};

use crate::os::home::Home;
use crate::os::serving::{is_serving, serving};
use crate::sync::atomic::Ordering;
use crate::sync::lock::Mutex;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::time::{self, Instant};
use crate::sync::{Arc, mutant, unmodelled};
use crate::waiter::Bell;
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

/// Its drop, with the last handle, stops the thread.
struct Owner {
    core: Arc<Core>,
}

/// What the handles and the thread share.
struct Core {
    state: Mutex<State>,
    /// Rings when the thread has to look again.
    bell: Bell,
    /// Rings when a cancelled job is gone, and when the thread has run its last.
    gone: Bell,
    /// Where the thread is.
    home: Home,
    counters: Counters,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    thread: Option<JoinHandle<()>>,
    /// Whether a thread serves the jobs, and has not run its last.
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
            bell: Bell::new(),
            gone: Bell::new(),
            home: Home::new(),
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
    pub fn job(&self, name: &str, mut work: impl FnMut() -> Next + Send + 'static) -> Job {
        self.timed_job(name, move |_| work())
    }

    /// Adds a job that is told the time which its run goes by: what [`run_due`](Self::run_due) was
    /// called with, and the present on the thread.
    pub(crate) fn timed_job(
        &self,
        name: &str,
        work: impl FnMut(Instant) -> Next + Send + 'static,
    ) -> Job {
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

    /// Runs jobs on the calling thread until the sweeper is shut down, in place of a thread of its
    /// own: for a thread with a priority or an affinity, and for models, where no thread is
    /// started. `false`, at once: another thread does.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use latchwork::sweeper::{Next, Sweeper};
    /// let sweeper = Sweeper::new();
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let job = sweeper.job("once", move || {
    ///     tell.send(()).unwrap();
    ///     Next::Idle
    /// });
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| sweeper.serve());
    ///     job.arm_after(Duration::ZERO);
    ///     told.recv().unwrap();
    ///     sweeper.shutdown();
    /// });
    /// ```
    ///
    /// # Blocking
    /// Until [`shutdown`](Self::shutdown).
    pub fn serve(&self) -> bool {
        let core = &self.owner.core;
        if core.is_forked() || !core.attend(&mut core.state.lock()) {
            return false;
        }
        core.run();
        true
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

impl Core {
    fn arm(core: &Arc<Self>, id: JobId, at: Instant) -> bool {
        let mut state = core.state.lock();
        if state.stopped && !mutant::enabled("sweeper-arms-after-stop") {
            return false;
        }
        state.schedule.arm(id, at);
        core.gauge(&state);
        if Self::start(core, &mut state).is_err() {
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
            self.bell.ring();
        }
        asleep
    }

    fn start(core: &Arc<Self>, state: &mut State) -> io::Result<()> {
        if !thread::STARTS_ITS_OWN || state.running || state.stopped {
            return Ok(());
        }
        let body = Arc::clone(core);
        state.thread = Some(thread::spawn_named("lw-sweep", move || body.run())?);
        core.attend(state);
        Ok(())
    }

    /// Takes the jobs for a thread to run. `false`: another one does, or they never run again.
    fn attend(&self, state: &mut State) -> bool {
        if state.running || state.stopped {
            return false;
        }
        state.running = true;
        self.gauge(state);
        self.home.settle();
        true
    }

    /// The thread.
    fn run(&self) {
        serving(self, || self.run_until_stopped());
    }

    fn run_until_stopped(&self) {
        loop {
            let number = self.bell.number();
            self.run_due(time::now());
            let mut state = self.state.lock();
            if state.stopped {
                state.running = false;
                self.gauge(&state);
                return self.gone.announce(state);
            }
            let until = state.schedule.earliest();
            (state.asleep, state.until) = (true, until);
            drop(state);
            let number = match mutant::enabled("sweeper-reads-the-bell-late") {
                true => self.bell.number(),
                false => number,
            };
            self.bell.sleep(number, until);
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
        let outcome = catch_unwind(AssertUnwindSafe(|| work(now)));
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
        self.gone.announce(state);
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
            Cancelled::Running => {
                let is_gone = |state: &State| !state.schedule.contains(id);
                drop(self.gone.lock_when(&self.state, is_gone));
            }
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
        let is_own = is_serving(self);
        let ring = self.end_sleep(&mut state);
        drop(state);
        if ring {
            self.bell.wake_one();
        }
        if !is_own {
            let is_gone = |state: &State| !state.running;
            let thread = self.gone.lock_when(&self.state, is_gone).thread.take();
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
        self.home.is_elsewhere()
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

// No panic leaves half a change behind: jobs run, and are dropped, outside the lock.
impl UnwindSafe for Sweeper {}
impl RefUnwindSafe for Sweeper {}

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
