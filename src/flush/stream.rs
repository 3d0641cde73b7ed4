//! The streams: what the user runs in parallel, and the threads that run it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::lock::Mutex;
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::{AtomicU64, Ordering};
use crate::sync::{Arc, hint, mutant, thread};
use crate::waiter::{Bell, Completer, Panic, contain};

use super::builder::Options;
use super::core::{Completion, Core, Entry, Fate, Outcome};
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
    pub(super) completion: Completion<F>,
    pub(super) job: Job<F::Job>,
    pub(super) stream: Stream<F>,
}

impl<F: Finalize> Task<F> {
    /// The stream of a flush that has failed, for another try: its tries are counted anew.
    pub(super) fn again(
        core: &Arc<Core<F>>,
        entry: Entry<F>,
        mut job: Job<F::Job>,
        stream: Stream<F>,
    ) -> Self {
        job.attempt = 0;
        let completion = Completion {
            core: Arc::clone(core),
            sequence: entry.sequence,
            bytes: entry.bytes,
            completer: entry.completer,
            is_due: true,
            is_held: false,
        };
        Self {
            completion,
            job,
            stream,
        }
    }
}

impl<F: Finalize> Task<F> {
    /// Its stream has returned after the timer completed its flush: what it still holds comes back.
    fn end_late<R>(self, result: R) {
        let Self {
            mut completion,
            job,
            stream,
        } = self;
        contain(|| drop(result));
        contain(|| drop(stream));
        contain(|| drop(job));
        completion.is_due = false;
        completion.core.give_back(1, completion.bytes);
    }

    /// A shutdown keeps it from being run: its flush has failed, and is left over with its job.
    pub(super) fn give_up(self) {
        let Self {
            completion,
            job,
            stream,
        } = self;
        completion.complete(Fate::Failed {
            failure: Some(Failure::Abandoned),
            task: Some((job, stream)),
            item: None,
        });
    }
}

/// Streams that wait for a streamer, first come first served, and those that are run.
pub(super) struct Queue<F: Finalize> {
    state: Mutex<State<F>>,
    /// How many tasks there are: a hint for those that look without the lock.
    waiting: AtomicU64,
    bell: Bell,
}

struct State<F: Finalize> {
    tasks: VecDeque<Task<F>>,
    /// How many streamers sleep, and have not been called.
    asleep: usize,
    is_closed: bool,
    /// First the streamers, then threads that run a stream of their own.
    hands: Vec<Hand<F>>,
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
    deadline: Option<Instant>,
    /// The timer has failed its flush.
    is_late: bool,
    /// Where there is a deadline: the timer takes it when the time is up.
    completer: Option<Completer<Outcome<F>>>,
    /// Of a thread that is not a streamer.
    thread: Option<String>,
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
                is_closed: false,
                hands: std::iter::repeat_with(|| Hand::Absent)
                    .take(streamers)
                    .collect(),
            }),
            waiting: AtomicU64::new(0),
            bell: Bell::new(),
        }
    }

    /// Puts a task in line. It comes back when the queue has been closed.
    pub(super) fn push(&self, task: Task<F>) -> Result<(), Task<F>> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(task);
        }
        state.tasks.push_back(task);
        self.waiting
            .store(state.tasks.len() as u64, Ordering::Relaxed);
        let wakes = state.asleep > 0 && !mutant::enabled("flush-queue-wakes-nobody");
        if wakes {
            state.asleep -= 1;
            self.bell.ring();
        }
        drop(state);
        if wakes {
            self.bell.wake_one();
        }
        Ok(())
    }

    /// Under the lock: the hint is right whenever that is free.
    fn take_first(&self, state: &mut State<F>) -> Option<Task<F>> {
        let task = state.tasks.pop_front()?;
        self.waiting
            .store(state.tasks.len() as u64, Ordering::Relaxed);
        Some(task)
    }

    /// The next task for a streamer, if one is there. `Err`: there will be none.
    fn try_pop(&self, timeout: Option<Duration>, streamer: usize) -> Result<Option<Task<F>>, ()> {
        let mut state = self.state.lock();
        let done = std::mem::replace(&mut state.hands[streamer], Hand::Idle);
        if state.is_closed {
            return Err(());
        }
        let task = self.take_first(&mut state).map(|mut task| {
            state.hands[streamer] = Hand::Running(Running::begin(&mut task, timeout));
            task
        });
        drop(state);
        drop(done);
        Ok(task)
    }

    /// Waits for the next task. `None`: there will be none.
    fn pop(&self, timeout: Option<Duration>, streamer: usize) -> Option<Task<F>> {
        loop {
            if let Some(task) = self.try_pop(timeout, streamer).ok()? {
                return Some(task);
            }
            if hint::lulls().any(|()| self.waiting.load(Ordering::Relaxed) > 0) {
                continue;
            }
            let number = self.bell.number();
            let mut state = self.state.lock();
            if state.tasks.is_empty() && !state.is_closed {
                state.asleep += 1;
                drop(state);
                // Who wakes without a call stays counted: a call to nobody, later, changes the number.
                self.bell.sleep(number, None);
            }
        }
    }

    /// The oldest task, for a thread that is no streamer.
    pub(super) fn next(&self) -> Option<Task<F>> {
        self.take_first(&mut self.state.lock())
    }

    /// Has the calling thread, which is no streamer, run `task`.
    fn begin_here(&self, task: &mut Task<F>, timeout: Option<Duration>, streamers: usize) -> usize {
        let mut running = Running::begin(task, timeout);
        running.thread = Some(thread::name().unwrap_or_default());
        let mut state = self.state.lock();
        let others = &state.hands[streamers..];
        let free = others.iter().position(|hand| matches!(hand, Hand::Absent));
        let index = streamers + free.unwrap_or(others.len());
        if index == state.hands.len() {
            state.hands.push(Hand::Absent);
        }
        state.hands[index] = Hand::Running(running);
        index
    }

    /// The stream that had a deadline has returned: its ticket. `Err`: the timer has failed it.
    fn end_run(&self, index: usize) -> Result<Option<Completer<Outcome<F>>>, ()> {
        match &mut self.state.lock().hands[index] {
            Hand::Running(running) => {
                running.deadline = None;
                match running.is_late {
                    true => Err(()),
                    false => Ok(running.completer.take()),
                }
            }
            Hand::Absent | Hand::Idle => Err(()),
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
                    let thread = running.thread.clone();
                    Some(Run {
                        sequence: running.sequence,
                        thread: thread.unwrap_or_else(|| streamer_name(index)),
                        is_late: running.is_late,
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

impl<F: Finalize> Running<F> {
    fn begin(task: &mut Task<F>, timeout: Option<Duration>) -> Self {
        let deadline = timeout.and_then(|time| now().checked_add(time));
        task.job.attempt += 1;
        task.job.deadline = deadline;
        Self {
            sequence: task.completion.sequence,
            deadline,
            is_late: false,
            completer: deadline.and_then(|_| task.completion.completer.take()),
            thread: None,
        }
    }
}

pub(super) fn streamer_name(index: usize) -> String {
    format!("lw-stream-{index}")
}

/// The body of a streamer.
pub(super) fn serve<F: Finalize>(core: &Arc<Core<F>>, streamer: usize) {
    core.serving(|| {
        while let Some(task) = core.queue.pop(core.options.stream_timeout, streamer) {
            run(core, task, streamer);
        }
    });
    core.queue.leave(streamer);
}

/// Runs the oldest stream that waits, on the calling thread. `false`: none does.
pub(super) fn run_one<F: Finalize>(core: &Arc<Core<F>>) -> bool {
    core.queue.next().map(|task| run_here(core, task)).is_some()
}

/// Runs a stream on the calling thread, which is not a streamer.
pub(super) fn run_here<F: Finalize>(core: &Arc<Core<F>>, mut task: Task<F>) {
    let Options {
        streamers,
        stream_timeout,
        ..
    } = core.options;
    let index = core.queue.begin_here(&mut task, stream_timeout, streamers);
    core.serving(|| run(core, task, index));
    core.queue.leave(index);
    if core.is_stopped() {
        core.gone.announce(core.control.lock());
    }
}

fn run<F: Finalize>(core: &Arc<Core<F>>, mut task: Task<F>, index: usize) {
    let started = core.counters.sample(task.completion.sequence);
    let deadline = task.job.deadline;
    if let Some(deadline) = deadline {
        core.timers.arm(deadline);
    }
    let result = Panic::catch(|| (task.stream)(&mut task.job));
    record(&core.counters.stream, started);
    let is_late = deadline.is_some_and(|deadline| now() >= deadline);
    if deadline.is_some() {
        match core.queue.end_run(index) {
            Ok(completer) => task.completion.completer = completer,
            Err(()) => return task.end_late(result),
        }
    }
    let failure = match result {
        _ if is_late => {
            contain(|| drop(result));
            core.counters.timed_out.add(1);
            Failure::StreamTimedOut
        }
        Ok(Ok(item)) => {
            let Task {
                completion,
                job,
                stream,
            } = task;
            // What the flush held goes before anybody learns that it is complete.
            contain(|| drop(stream));
            contain(|| drop(job));
            return completion.complete(Fate::Item(item));
        }
        Ok(Err(error)) => Failure::Stream(error),
        Err(panic) => Failure::StreamPanicked(panic),
    };
    if !is_late && task.job.attempt < core.options.policy.attempts() {
        core.counters.retried.add(1);
        let at = now().checked_add(core.options.policy.backoff(task.job.attempt));
        contain(|| drop(failure));
        return core.timers.retry(at, task);
    }
    let Task {
        completion,
        job,
        stream,
    } = task;
    let task = if is_late {
        contain(|| drop((stream, job)));
        None
    } else {
        Some((job, stream))
    };
    completion.complete(Fate::Failed {
        failure: Some(failure),
        task,
        item: None,
    });
}

/// Fails the streams whose time is up at `now`; says when the next one's is.
pub(super) fn fail_late<F: Finalize>(core: &Core<F>, now: Instant) -> Option<Instant> {
    let mut next: Option<Instant> = None;
    let mut late = Vec::new();
    for hand in &mut core.queue.state.lock().hands {
        let Hand::Running(running) = hand else {
            continue;
        };
        match running.deadline {
            Some(deadline) if deadline <= now => {
                running.deadline = None;
                running.is_late = true;
                late.push((running.sequence, running.completer.take()));
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
