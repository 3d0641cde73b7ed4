//! The streams: what the user runs in parallel, and the threads that run it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::{AtomicU64, Ordering};
use crate::sync::{Arc, hint, mutant, thread};
use crate::waiter::{Bell, Completer, Gauge, Panic, contain};

use super::builder::Options;
use super::core::{Completion, Core, Due, Entry, Fate, Outcome};
use super::error::Failure;
use super::finalizer::Finalize;
use super::job::Job;
use super::stats::record;

pub(super) type Stream<F> = Box<
    dyn FnMut(
            &mut Job<<F as Finalize>::Job>,
        ) -> Result<<F as Finalize>::Item, <F as Finalize>::Error>
        + Send,
>;

/// A stream that is to be run.
pub(super) struct Task<F: Finalize> {
    pub(super) due: Due<F>,
    pub(super) content: F::Job,
    /// How many tries there have been.
    pub(super) attempts: u32,
    pub(super) stream: Stream<F>,
}

impl<F: Finalize> Task<F> {
    /// The stream of a flush that has failed, for another try: its tries are counted anew.
    pub(super) fn again(entry: Entry<F>, job: Job<F::Job>, stream: Stream<F>) -> Self {
        let due = Due {
            sequence: entry.sequence,
            bytes: entry.bytes,
            completer: entry.completer,
        };
        Self {
            due,
            content: job.content,
            attempts: 0,
            stream,
        }
    }

    /// A shutdown keeps it from being run: its flush has failed, and is left over with its job.
    pub(super) fn give_up(self, core: &Core<F>) {
        let job = Job {
            content: self.content,
            sequence: self.due.sequence,
            attempt: self.attempts,
            deadline: None,
        };
        let fate = Fate::failed_with(Failure::Abandoned, Some((job, self.stream)), None);
        core.complete_due(self.due, fate);
    }
}

/// Streams that wait for a streamer, first come first served, and those that are run.
///
/// A streamer that finds nothing searches a moment longer before it sleeps; what is put in line
/// while one searches, or has been called and is on its way, calls nobody. Who takes a task and
/// leaves others calls the next streamer. So while there are tasks and streamers asleep, one is
/// coming; and short streams keep as few streamers awake as it takes.
pub(super) struct Queue<F: Finalize> {
    state: Mutex<State<F>>,
    /// How many tasks there are: a hint for those that look without the lock.
    waiting: AtomicU64,
    /// How many flushes have come with a stream; those that are tried again count once.
    submitted: Gauge,
    bell: Bell,
}

struct State<F: Finalize> {
    tasks: VecDeque<Task<F>>,
    /// How many streamers sleep, and have not been called.
    asleep: usize,
    /// How many have been called, and have not come yet.
    called: usize,
    /// How many look for tasks, awake.
    searching: usize,
    is_closed: bool,
    /// First the streamers, then threads that run a stream of their own.
    hands: Vec<Hand<F>>,
}

/// A task that the calling thread, which is no streamer, is to run.
#[must_use = "a shutdown waits for its end"]
pub(super) struct Begun<F: Finalize> {
    task: Task<F>,
    deadline: Option<Instant>,
    hand: usize,
}

/// What a thread does for the pipeline.
enum Hand<F: Finalize> {
    /// There is no such thread.
    Absent,
    Idle,
    Running(Running<F>),
}

/// A stream that is being run.
struct Running<F: Finalize> {
    sequence: u64,
    /// Where there is a deadline.
    timed: Option<Box<Timed<F>>>,
    /// Of a thread that is not a streamer.
    thread: Option<Box<str>>,
}

/// A stream that is being run, and must be done in time.
struct Timed<F: Finalize> {
    /// `None`: it has returned, or is late.
    deadline: Option<Instant>,
    /// The timer has failed its flush.
    is_late: bool,
    /// The timer takes it when the time is up.
    completer: Completer<Outcome<F>>,
}

/// What a shutdown says of a stream that is being run.
pub(super) struct Run {
    pub(super) sequence: u64,
    pub(super) thread: String,
    pub(super) is_late: bool,
}

/// Whom a shutdown would wait for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Busy {
    /// Threads on their way to their end.
    pub(super) leaving: bool,
    /// Threads that run the user's code.
    pub(super) running: bool,
}

impl<F: Finalize> Queue<F> {
    pub(super) fn new(capacity: usize, streamers: usize) -> Self {
        Self {
            state: Mutex::new(State {
                tasks: VecDeque::with_capacity(capacity),
                asleep: 0,
                called: 0,
                searching: 0,
                is_closed: false,
                hands: std::iter::repeat_with(|| Hand::Absent)
                    .take(streamers)
                    .collect(),
            }),
            waiting: AtomicU64::new(0),
            submitted: Gauge::new(),
            bell: Bell::new(),
        }
    }

    /// Puts a task in line. It comes back when the queue has been closed.
    pub(super) fn push(&self, task: Task<F>) -> Result<(), Task<F>> {
        self.push_counted(task, 0)
    }

    /// Puts a task in line that is new.
    pub(super) fn submit(&self, task: Task<F>) -> Result<(), Task<F>> {
        self.push_counted(task, 1)
    }

    fn push_counted(&self, task: Task<F>, submitted: u64) -> Result<(), Task<F>> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(task);
        }
        state.tasks.push_back(task);
        self.submitted.add(submitted);
        self.hint(&state);
        self.unlock_and_call(state);
        Ok(())
    }

    pub(super) fn submitted(&self) -> u64 {
        self.submitted.get()
    }

    /// Under the lock: the hint is right whenever that is free.
    fn hint(&self, state: &State<F>) {
        self.waiting
            .store(state.tasks.len() as u64, Ordering::Relaxed);
    }

    fn take_first(&self, state: &mut State<F>) -> Option<Task<F>> {
        let task = state.tasks.pop_front()?;
        self.hint(state);
        Some(task)
    }

    /// Calls a streamer if there are tasks and none is on its way to them.
    fn unlock_and_call(&self, mut state: MutexGuard<'_, State<F>>) {
        let is_coming = state.searching + state.called > 0;
        if state.tasks.is_empty()
            || is_coming
            || state.asleep == 0
            || mutant::enabled("flush-queue-wakes-nobody")
        {
            return;
        }
        state.asleep -= 1;
        state.called += 1;
        self.bell.ring();
        drop(state);
        self.bell.wake_one();
    }

    /// Waits for the next task. `None`: there will be none.
    fn pop(&self, timeout: Option<Duration>, streamer: usize) -> Option<Begun<F>> {
        let mut state = self.state.lock();
        let done = std::mem::replace(&mut state.hands[streamer], Hand::Idle);
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(mut task) = self.take_first(&mut state) {
                let (running, deadline) = Running::begin(&mut task, timeout);
                state.hands[streamer] = Hand::Running(running);
                match mutant::enabled("flush-taker-calls-nobody") {
                    true => drop(state),
                    false => self.unlock_and_call(state),
                }
                drop(done);
                return Some(Begun {
                    task,
                    deadline,
                    hand: streamer,
                });
            }
            state = self.search(state);
        }
    }

    /// Looks for a task a moment longer, and sleeps if none comes.
    fn search<'a>(&'a self, mut state: MutexGuard<'a, State<F>>) -> MutexGuard<'a, State<F>> {
        state.searching += 1;
        drop(state);
        let _ = hint::lulls().any(|()| self.has_task());
        let mut state = self.state.lock();
        state.searching -= 1;
        match state.tasks.is_empty() && !state.is_closed {
            true => self.sleep(state),
            false => state,
        }
    }

    /// Sleeps until it is called.
    fn sleep<'a>(&'a self, mut state: MutexGuard<'a, State<F>>) -> MutexGuard<'a, State<F>> {
        state.asleep += 1;
        loop {
            let number = self.bell.number();
            drop(state);
            self.bell.sleep(number, None);
            state = self.state.lock();
            if state.is_closed {
                return state;
            }
            // Who wakes by another's call, or by none, sleeps on.
            if state.called > 0 {
                state.called -= 1;
                return state;
            }
        }
    }

    /// Whether a task is there: what a thread that is no streamer looks at before it takes one.
    pub(super) fn has_task(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes the oldest task for the calling thread, which is no streamer, to run. In one step, so
    /// that a shutdown finds it either in line or being run.
    pub(super) fn begin_first(&self, options: &Options) -> Option<Begun<F>> {
        let name = thread::name().unwrap_or_default();
        let mut state = self.state.lock();
        let task = self.take_first(&mut state)?;
        if mutant::enabled("flush-takes-and-begins-in-two-steps") {
            drop(state);
            state = self.state.lock();
        }
        Some(state.begin_here(task, name.into(), options))
    }

    /// Has the calling thread, which is no streamer, run `task`, which is new. It comes back when
    /// the queue has been closed.
    fn begin_here(&self, task: Task<F>, options: &Options) -> Result<Begun<F>, Task<F>> {
        let name = thread::name().unwrap_or_default();
        let mut state = self.state.lock();
        if state.is_closed && !mutant::enabled("flush-begins-after-a-shutdown") {
            return Err(task);
        }
        self.submitted.add(1);
        Ok(state.begin_here(task, name.into(), options))
    }

    /// The stream that had a deadline has returned: its ticket. `Err`: the timer has failed it.
    fn end_run(&self, index: usize) -> Result<Completer<Outcome<F>>, ()> {
        match &mut self.state.lock().hands[index] {
            Hand::Running(Running {
                timed: Some(timed), ..
            }) if !timed.is_late => {
                timed.deadline = None;
                Ok(timed.completer.take())
            }
            _ => Err(()),
        }
    }

    /// Whether the thread serves the queue.
    fn set_hand(&self, index: usize, hand: Hand<F>) {
        let before = std::mem::replace(&mut self.state.lock().hands[index], hand);
        drop(before);
    }

    /// Takes the place of a streamer. `None`: they all are there.
    pub(super) fn attend(&self, streamers: usize) -> Option<usize> {
        let mut state = self.state.lock();
        let hands = &mut state.hands[..streamers];
        let index = hands.iter().position(|hand| matches!(hand, Hand::Absent))?;
        hands[index] = Hand::Idle;
        Some(index)
    }

    pub(super) fn leave(&self, index: usize) {
        self.set_hand(index, Hand::Absent);
    }

    pub(super) fn busy(&self) -> Busy {
        let state = self.state.lock();
        Busy {
            leaving: state.hands.iter().any(|hand| matches!(hand, Hand::Idle)),
            running: state
                .hands
                .iter()
                .any(|hand| matches!(hand, Hand::Running(_))),
        }
    }

    /// The streams that are being run, and by which threads.
    pub(super) fn running(&self) -> Vec<Run> {
        let state = self.state.lock();
        let hands = state.hands.iter().enumerate();
        hands
            .filter_map(|(index, hand)| match hand {
                Hand::Running(running) => {
                    let thread = running.thread.as_deref().map(str::to_owned);
                    let timed = running.timed.as_ref();
                    Some(Run {
                        sequence: running.sequence,
                        thread: thread.unwrap_or_else(|| streamer_name(index)),
                        is_late: timed.is_some_and(|timed| timed.is_late),
                    })
                }
                Hand::Absent | Hand::Idle => None,
            })
            .collect()
    }

    /// Ends the line. What stood in it comes back.
    pub(super) fn close(&self) -> Vec<Task<F>> {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.asleep = 0;
        let tasks = state.tasks.drain(..).collect();
        self.bell.announce(state);
        tasks
    }
}

impl<F: Finalize> State<F> {
    /// `task` is run by a thread of this name, which is no streamer.
    fn begin_here(&mut self, mut task: Task<F>, name: Box<str>, options: &Options) -> Begun<F> {
        let (mut running, deadline) = Running::begin(&mut task, options.stream_timeout);
        running.thread = Some(name);
        let others = &self.hands[options.streamers..];
        let free = others.iter().position(|hand| matches!(hand, Hand::Absent));
        let hand = options.streamers + free.unwrap_or(others.len());
        if hand == self.hands.len() {
            self.hands.push(Hand::Absent);
        }
        self.hands[hand] = Hand::Running(running);
        Begun {
            task,
            deadline,
            hand,
        }
    }
}

impl<F: Finalize> Running<F> {
    /// With the time by which it must be done.
    fn begin(task: &mut Task<F>, timeout: Option<Duration>) -> (Self, Option<Instant>) {
        let deadline = timeout.and_then(|time| now().checked_add(time));
        let timed = deadline.map(|_| {
            Box::new(Timed {
                deadline,
                is_late: false,
                completer: task.due.completer.take(),
            })
        });
        let running = Self {
            sequence: task.due.sequence,
            timed,
            thread: None,
        };
        (running, deadline)
    }
}

pub(super) fn streamer_name(index: usize) -> String {
    format!("lw-stream-{index}")
}

/// The body of a streamer.
pub(super) fn serve<F: Finalize>(core: &Arc<Core<F>>, streamer: usize) {
    core.serving(|| {
        while let Some(begun) = core.queue.pop(core.options.stream_timeout, streamer) {
            run(core, begun);
        }
    });
    core.queue.leave(streamer);
}

/// Runs the oldest stream that waits, on the calling thread. `false`: none does.
pub(super) fn run_one<F: Finalize>(core: &Arc<Core<F>>) -> bool {
    let begun = core.queue.begin_first(&core.options);
    begun.map(|begun| run_begun(core, begun)).is_some()
}

/// Runs a stream on the calling thread, which is not a streamer. The task comes back when the
/// pipeline has been stopped.
pub(super) fn run_here<F: Finalize>(core: &Core<F>, task: Task<F>) -> Result<(), Task<F>> {
    let begun = core.queue.begin_here(task, &core.options)?;
    run_begun(core, begun);
    Ok(())
}

pub(super) fn run_begun<F: Finalize>(core: &Core<F>, begun: Begun<F>) {
    let hand = begun.hand;
    core.serving(|| run(core, begun));
    core.queue.leave(hand);
    if core.is_stopped() {
        core.gone.announce(core.control.lock());
    }
}

fn run<F: Finalize>(core: &Core<F>, begun: Begun<F>) {
    let Begun {
        task,
        deadline,
        hand,
    } = begun;
    let Task {
        due,
        content,
        attempts,
        mut stream,
    } = task;
    let mut job = Job {
        content,
        sequence: due.sequence,
        attempt: attempts + 1,
        deadline,
    };
    let started = core.counters.sample(due.sequence);
    let mut completion = Completion {
        core,
        due: Some(due),
    };
    if let Some(deadline) = deadline {
        core.timers.arm(deadline);
    }
    let result = Panic::catch(|| stream(&mut job));
    record(&core.counters.stream, started);
    let is_late = deadline.is_some_and(|deadline| now() >= deadline);
    if deadline.is_some() {
        match (core.queue.end_run(hand), &mut completion.due) {
            (Ok(completer), Some(due)) => due.completer = completer,
            // The timer has completed it: what it still holds comes back.
            (_, due) => {
                contain(|| drop(result));
                contain(|| drop(stream));
                contain(|| drop(job));
                let bytes = due.take().map_or(0, |due| due.bytes);
                return core.give_back(1, bytes);
            }
        }
    }
    let failure = match result {
        _ if is_late => {
            contain(|| drop(result));
            core.counters.timed_out.add(1);
            Failure::StreamTimedOut
        }
        Ok(Ok(item)) => {
            // What the flush held goes before anybody learns that it is complete.
            contain(|| drop(stream));
            contain(|| drop(job));
            return completion.complete(Fate::Item(item));
        }
        Ok(Err(error)) => Failure::Stream(error),
        Err(panic) => Failure::StreamPanicked(panic),
    };
    if !is_late
        && job.attempt < core.options.policy.attempts()
        && let Some(due) = completion.due.take()
    {
        core.counters.retried.add(1);
        let at = now().checked_add(core.options.policy.backoff(job.attempt));
        contain(|| drop(failure));
        let task = Task {
            due,
            content: job.content,
            attempts: job.attempt,
            stream,
        };
        return core.timers.retry(core, at, task);
    }
    let task = if is_late {
        contain(|| drop((stream, job)));
        None
    } else {
        Some((job, stream))
    };
    completion.complete(Fate::failed_with(failure, task, None));
}

/// Fails the streams whose time is up at `now`; says when the next one's is.
pub(super) fn fail_late<F: Finalize>(core: &Core<F>, now: Instant) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    let mut late = Vec::new();
    for hand in &mut core.queue.state.lock().hands {
        let Hand::Running(running) = hand else {
            continue;
        };
        let Some(timed) = &mut running.timed else {
            continue;
        };
        match timed.deadline {
            Some(deadline) if deadline <= now => {
                timed.deadline = None;
                timed.is_late = true;
                late.push((running.sequence, timed.completer.take()));
            }
            Some(deadline) => next = Some(next.map_or(deadline, |next| next.min(deadline))),
            None => {}
        }
    }
    for (sequence, completer) in late {
        core.counters.timed_out.add(1);
        core.complete_late(sequence, completer);
    }
    next
}
