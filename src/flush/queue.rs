//! Streams that wait for a streamer, first come first served, and those that are run.
//!
//! Who submits puts a task at the end of the line; streamers take from what is ready. Each has a
//! lock of its own, and who finds nothing ready makes the whole line ready at once: so the two
//! sides meet once for each batch of tasks that has come together, and not for each task.
//!
//! A streamer that finds nothing searches a moment longer before it sleeps; what is put in line
//! while one searches, or has been called and is on its way, calls nobody. Who takes a task and
//! leaves others calls the next streamer. So while there are tasks and streamers asleep, one is
//! coming; and short streams keep as few streamers awake as it takes.
//!
//! None is left behind: who goes to sleep has found both locks' tasks gone, under both. Who takes a
//! task after that sees, under its lock, that somebody sleeps; who put one in line after that sees
//! it under the other.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::time::{Instant, now};
use crate::sync::{Padded, hint, mutant, thread};
use crate::waiter::{Bell, Completer, Gauge};

use super::builder::Options;
use super::core::Outcome;
use super::finalizer::Finalize;
use super::stream::Task;

pub(super) struct Queue<F: Finalize> {
    streamers: Padded<Streamers<F>>,
    submitters: Padded<Submitters<F>>,
    /// How many streamers sleep, and have not been called. Written under the line's lock; it grows
    /// under both. Away from what either side writes for each task, since both look at it then.
    asleep: Padded<AtomicU64>,
    bell: Bell,
}

/// What streamers take from.
struct Streamers<F: Finalize> {
    /// Locked before the line.
    ready: Mutex<Ready<F>>,
    /// How many tasks have been taken, ever. Written under the lock.
    taken: AtomicU64,
}

struct Ready<F: Finalize> {
    tasks: VecDeque<Task<F>>,
    is_closed: bool,
    /// First the streamers, then threads that run a stream of their own.
    hands: Vec<Hand<F>>,
}

/// Where tasks are put.
struct Submitters<F: Finalize> {
    line: Mutex<Line<F>>,
    /// How many tasks have been put here, ever. Written under the lock.
    put: AtomicU64,
    /// How many flushes have come with a stream; those that are tried again count once. Written
    /// under the lock or, where there are no streamers, under the other.
    submitted: Gauge,
}

struct Line<F: Finalize> {
    tasks: VecDeque<Task<F>>,
    /// How many streamers have been called, and have not come yet.
    called: usize,
    /// How many look for tasks, awake.
    searching: usize,
    is_closed: bool,
}

/// A task that the calling thread is to run.
#[must_use = "a shutdown waits for its end"]
pub(super) struct Begun<F: Finalize> {
    pub(super) task: Task<F>,
    pub(super) deadline: Option<Instant>,
    pub(super) hand: usize,
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

/// The flushes whose streams' time is up, and when the next one's is.
pub(super) struct Late<F: Finalize> {
    pub(super) flushes: Vec<(u64, Completer<Outcome<F>>)>,
    pub(super) next: Option<Instant>,
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
        let ready = Ready {
            tasks: VecDeque::with_capacity(capacity),
            is_closed: false,
            hands: std::iter::repeat_with(|| Hand::Absent)
                .take(streamers)
                .collect(),
        };
        let line = Line {
            tasks: VecDeque::with_capacity(capacity),
            called: 0,
            searching: 0,
            is_closed: false,
        };
        Self {
            streamers: Padded(Streamers {
                ready: Mutex::new(ready),
                taken: AtomicU64::new(0),
            }),
            submitters: Padded(Submitters {
                line: Mutex::new(line),
                put: AtomicU64::new(0),
                submitted: Gauge::new(),
            }),
            asleep: Padded(AtomicU64::new(0)),
            bell: Bell::new(),
        }
    }

    /// Puts the task of a new flush in line. It comes back when the queue has been closed.
    pub(super) fn submit(&self, task: Task<F>) -> Result<(), Task<F>> {
        self.put(task, true)
    }

    /// Puts a task in line that is tried again. It comes back when the queue has been closed.
    pub(super) fn resubmit(&self, task: Task<F>) -> Result<(), Task<F>> {
        self.put(task, false)
    }

    fn put(&self, task: Task<F>, is_new: bool) -> Result<(), Task<F>> {
        let submitters = &*self.submitters;
        let mut line = submitters.line.lock();
        if line.is_closed {
            return Err(task);
        }
        line.tasks.push_back(task);
        let put = submitters.put.load(Ordering::Relaxed);
        submitters.put.store(put + 1, Ordering::Relaxed);
        if is_new {
            submitters.submitted.add(1);
        }
        self.unlock_and_call(line);
        Ok(())
    }

    /// How many flushes have come with a stream.
    pub(super) fn submitted(&self) -> u64 {
        self.submitters.submitted.get()
    }

    /// Whether a task is there: exact where the caller has seen to it that none comes or goes, a
    /// hint elsewhere.
    pub(super) fn has_task(&self) -> bool {
        let taken = self.streamers.taken.load(Ordering::Relaxed);
        self.submitters.put.load(Ordering::Relaxed) != taken
    }

    /// Calls a streamer if none is on its way to the tasks that there are.
    fn unlock_and_call(&self, mut line: MutexGuard<'_, Line<F>>) {
        let asleep = self.asleep.load(Ordering::Relaxed);
        let is_coming = line.searching + line.called > 0;
        if is_coming || asleep == 0 || mutant::enabled("flush-queue-wakes-nobody") {
            return;
        }
        self.asleep.store(asleep - 1, Ordering::Relaxed);
        line.called += 1;
        self.bell.ring();
        drop(line);
        self.bell.wake_one();
    }

    /// After a task has been taken: calls a streamer to those that are left.
    fn call_to_others(&self) {
        let sleeps = self.asleep.load(Ordering::Relaxed) > 0;
        if sleeps && self.has_task() && !mutant::enabled("flush-taker-calls-nobody") {
            self.unlock_and_call(self.submitters.line.lock());
        }
    }

    /// Makes what stands in line ready, if nothing is.
    fn refill(ready: &mut Ready<F>, line: &mut Line<F>) {
        if ready.tasks.is_empty() {
            std::mem::swap(&mut ready.tasks, &mut line.tasks);
        }
    }

    fn take_first(&self, ready: &mut Ready<F>) -> Option<Task<F>> {
        if ready.tasks.is_empty() {
            Self::refill(ready, &mut self.submitters.line.lock());
        }
        let task = ready.tasks.pop_front()?;
        let taken = self.streamers.taken.load(Ordering::Relaxed);
        self.streamers.taken.store(taken + 1, Ordering::Relaxed);
        Some(task)
    }

    /// Waits for the next task. `None`: there will be none.
    pub(super) fn pop(&self, timeout: Option<Duration>, streamer: usize) -> Option<Begun<F>> {
        let mut ready = self.streamers.ready.lock();
        let done = std::mem::replace(&mut ready.hands[streamer], Hand::Idle);
        loop {
            if ready.is_closed {
                return None;
            }
            if let Some(mut task) = self.take_first(&mut ready) {
                let (running, deadline) = Running::begin(&mut task, timeout);
                ready.hands[streamer] = Hand::Running(running);
                drop(ready);
                self.call_to_others();
                drop(done);
                return Some(Begun {
                    task,
                    deadline,
                    hand: streamer,
                });
            }
            ready = self.search(ready);
        }
    }

    /// Looks for a task a moment longer, and sleeps if none comes.
    fn search<'a>(&'a self, ready: MutexGuard<'a, Ready<F>>) -> MutexGuard<'a, Ready<F>> {
        self.submitters.line.lock().searching += 1;
        drop(ready);
        let _ = hint::lulls().any(|()| self.has_task());
        let mut ready = self.streamers.ready.lock();
        let mut line = self.submitters.line.lock();
        line.searching -= 1;
        if !mutant::enabled("flush-sleeper-forgets-the-line") {
            Self::refill(&mut ready, &mut line);
        }
        if !ready.tasks.is_empty() || ready.is_closed {
            return ready;
        }
        let asleep = self.asleep.load(Ordering::Relaxed);
        self.asleep.store(asleep + 1, Ordering::Relaxed);
        drop(ready);
        self.sleep(line);
        self.streamers.ready.lock()
    }

    /// Sleeps until it is called.
    fn sleep<'a>(&'a self, mut line: MutexGuard<'a, Line<F>>) {
        loop {
            let number = self.bell.number();
            drop(line);
            self.bell.sleep(number, None);
            line = self.submitters.line.lock();
            if line.is_closed {
                return;
            }
            // Who wakes by another's call, or by none, sleeps on.
            if line.called > 0 {
                line.called -= 1;
                return;
            }
        }
    }

    /// Takes the oldest task for the calling thread, which is no streamer, to run. In one step, so
    /// that a shutdown finds it either in line or being run.
    pub(super) fn begin_first(&self, options: &Options) -> Option<Begun<F>> {
        let name = thread::name().unwrap_or_default();
        let mut ready = self.streamers.ready.lock();
        let task = self.take_first(&mut ready)?;
        if mutant::enabled("flush-takes-and-begins-in-two-steps") {
            drop(ready);
            ready = self.streamers.ready.lock();
        }
        Some(ready.begin_here(task, name, options))
    }

    /// Has the calling thread, which is no streamer, run `task`, which is new. It comes back when
    /// the queue has been closed.
    pub(super) fn begin_here(&self, task: Task<F>, options: &Options) -> Result<Begun<F>, Task<F>> {
        let name = thread::name().unwrap_or_default();
        let mut ready = self.streamers.ready.lock();
        if ready.is_closed && !mutant::enabled("flush-begins-after-a-shutdown") {
            return Err(task);
        }
        self.submitters.submitted.add(1);
        Ok(ready.begin_here(task, name, options))
    }

    /// The stream that had a deadline has returned: its ticket. `Err`: the timer has failed it.
    pub(super) fn end_run(&self, hand: usize) -> Result<Completer<Outcome<F>>, ()> {
        match &mut self.streamers.ready.lock().hands[hand] {
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
        let before = std::mem::replace(&mut self.streamers.ready.lock().hands[index], hand);
        drop(before);
    }

    /// Takes the place of a streamer. `None`: they all are there.
    pub(super) fn attend(&self, streamers: usize) -> Option<usize> {
        let mut ready = self.streamers.ready.lock();
        let hands = &mut ready.hands[..streamers];
        let index = hands.iter().position(|hand| matches!(hand, Hand::Absent))?;
        hands[index] = Hand::Idle;
        Some(index)
    }

    pub(super) fn leave(&self, index: usize) {
        self.set_hand(index, Hand::Absent);
    }

    pub(super) fn busy(&self) -> Busy {
        let ready = self.streamers.ready.lock();
        Busy {
            leaving: ready.hands.iter().any(|hand| matches!(hand, Hand::Idle)),
            running: ready
                .hands
                .iter()
                .any(|hand| matches!(hand, Hand::Running(_))),
        }
    }

    /// The streams that are being run, and by which threads.
    pub(super) fn running(&self) -> Vec<Run> {
        let ready = self.streamers.ready.lock();
        let hands = ready.hands.iter().enumerate();
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

    /// The streams whose time is up at `now`: the timer fails their flushes.
    pub(super) fn take_late(&self, now: Instant) -> Late<F> {
        let mut late = Late {
            flushes: Vec::new(),
            next: None,
        };
        for hand in &mut self.streamers.ready.lock().hands {
            let Hand::Running(Running {
                sequence,
                timed: Some(timed),
                ..
            }) = hand
            else {
                continue;
            };
            match timed.deadline {
                Some(deadline) if deadline <= now => {
                    timed.deadline = None;
                    timed.is_late = true;
                    late.flushes.push((*sequence, timed.completer.take()));
                }
                Some(deadline) => {
                    late.next = Some(late.next.map_or(deadline, |next| next.min(deadline)));
                }
                None => {}
            }
        }
        late
    }

    /// Ends the line. What stood in it, and what was ready, comes back.
    pub(super) fn close(&self) -> Vec<Task<F>> {
        let mut ready = self.streamers.ready.lock();
        let mut line = self.submitters.line.lock();
        ready.is_closed = true;
        line.is_closed = true;
        self.asleep.store(0, Ordering::Relaxed);
        let mut tasks: Vec<_> = ready.tasks.drain(..).collect();
        drop(ready);
        tasks.extend(line.tasks.drain(..));
        self.bell.announce(line);
        tasks
    }
}

impl<F: Finalize> Ready<F> {
    /// `task` is run by a thread of this name, which is no streamer.
    fn begin_here(&mut self, mut task: Task<F>, name: String, options: &Options) -> Begun<F> {
        let (mut running, deadline) = Running::begin(&mut task, options.stream_timeout);
        running.thread = Some(name.into());
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
