//! Several threads doing one thing for a while.
//!
//! All start together at a barrier and run until a flag says stop, so that every one of
//! them contends to the end (a fixed count of operations would leave the last thread
//! alone). The elapsed time is from the first thread's start to the last one's end.

use std::error::Error;
use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::harness::nanos;
use crate::stats::{merged, record, times};

/// Whether to go on. On a cache line of its own: it is read once an operation.
#[repr(align(128))]
#[derive(Debug)]
pub(crate) struct Running(AtomicBool);

impl Running {
    #[inline]
    pub(crate) fn yes(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the threads left.
#[derive(Debug)]
pub(crate) struct Turnout<S> {
    pub(crate) elapsed: Duration,
    pub(crate) states: Vec<S>,
}

/// Runs `body` on `threads` threads for about `time`; `body` loops while the flag says so.
/// Each thread's state is made before the clock starts.
pub(crate) fn crowd<S: Send>(
    threads: usize,
    time: Duration,
    make: impl Fn(usize) -> S,
    body: impl Fn(&mut S, &Running) + Sync,
) -> Turnout<S> {
    let running = Running(AtomicBool::new(true));
    let barrier = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let (running, barrier, body) = (&running, &barrier, &body);
        let crowd: Vec<_> = (0..threads)
            .map(|index| {
                let mut state = make(index);
                scope.spawn(move || {
                    barrier.wait();
                    let start = Instant::now();
                    body(&mut state, running);
                    (start, Instant::now(), state)
                })
            })
            .collect();
        barrier.wait();
        thread::sleep(time);
        running.0.store(false, Ordering::Relaxed);
        let mut states = Vec::with_capacity(threads);
        let mut span: Option<(Instant, Instant)> = None;
        for member in crowd {
            let (start, end, state) = member.join().expect("a thread of the bench panicked");
            let (first, last) = span.unwrap_or((start, end));
            span = Some((first.min(start), last.max(end)));
            states.push(state);
        }
        let elapsed = span.map_or(Duration::ZERO, |(first, last)| last - first);
        Turnout { elapsed, states }
    })
}

/// Something that one thread at a time may hold.
pub(crate) trait Exclusive: Sync {
    type Guard<'a>
    where
        Self: 'a;

    fn acquire(&self) -> Self::Guard<'_>;
}

/// Operations of each thread on one thing.
#[derive(Debug)]
pub(crate) struct Contest {
    pub(crate) elapsed: Duration,
    pub(crate) counts: Vec<u64>,
}

impl Contest {
    /// Elapsed nanoseconds an operation, all threads' operations together.
    pub(crate) fn cost(&self) -> f64 {
        nanos(self.elapsed) / self.counts.iter().sum::<u64>() as f64
    }

    /// The least thread's count over the greatest's.
    pub(crate) fn evenness(&self) -> f64 {
        let least = self.counts.iter().min().copied().unwrap_or(0);
        let greatest = self.counts.iter().max().copied().unwrap_or(0);
        least as f64 / greatest as f64
    }
}

/// `threads` threads acquire, do `section`, release, and at once acquire again.
///
/// The guarded counter makes the section at least one increment long, and shows at the end
/// that no two threads were ever inside together.
///
/// # Errors
///
/// If it shows that they were.
pub(crate) fn contest(
    threads: usize,
    time: Duration,
    exclusive: &impl Exclusive,
    section: impl Fn() + Sync,
) -> Result<Contest, Overlap> {
    let guarded = AtomicU64::new(0);
    let turnout = crowd(
        threads,
        time,
        |_| 0u64,
        |count, running| {
            while running.yes() {
                let guard = exclusive.acquire();
                increment(&guarded);
                section();
                drop(guard);
                *count += 1;
            }
        },
    );
    check(&guarded, turnout.states.iter().sum())?;
    Ok(Contest {
        elapsed: turnout.elapsed,
        counts: turnout.states,
    })
}

/// The same, every wait between two clock reads. The histogram is in nanoseconds.
///
/// # Errors
///
/// As `contest`.
pub(crate) fn contest_waits(
    threads: usize,
    time: Duration,
    exclusive: &impl Exclusive,
    section: impl Fn() + Sync,
) -> Result<Histogram<u64>, Overlap> {
    let guarded = AtomicU64::new(0);
    let turnout = crowd(
        threads,
        time,
        |_| times(),
        |waits, running| {
            while running.yes() {
                let asked = Instant::now();
                let guard = exclusive.acquire();
                let waited = asked.elapsed();
                increment(&guarded);
                section();
                drop(guard);
                record(waits, waited);
            }
        },
    );
    let all = merged(&turnout.states);
    check(&guarded, all.len())?;
    Ok(all)
}

/// Not a `fetch_add`: two threads inside together would lose an increment.
fn increment(guarded: &AtomicU64) {
    guarded.store(guarded.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

fn check(guarded: &AtomicU64, count: u64) -> Result<(), Overlap> {
    let guarded = guarded.load(Ordering::Relaxed);
    if guarded == count {
        Ok(())
    } else {
        Err(Overlap { guarded, count })
    }
}

/// Two threads were in the guarded section at once.
#[derive(Debug)]
pub(crate) struct Overlap {
    guarded: u64,
    count: u64,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Overlap { guarded, count } = self;
        write!(
            f,
            "{count} guarded increments made {guarded}: two threads were inside at once"
        )
    }
}

impl Error for Overlap {}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lock(parking_lot::Mutex<()>);

    impl Exclusive for Lock {
        type Guard<'a> = parking_lot::MutexGuard<'a, ()>;

        fn acquire(&self) -> Self::Guard<'_> {
            self.0.lock()
        }
    }

    struct Open;

    impl Exclusive for Open {
        type Guard<'a> = ();

        fn acquire(&self) {}
    }

    #[test]
    fn every_thread_takes_part_and_the_counts_add_up() {
        let time = Duration::from_millis(20);
        let turnout = crowd(
            3,
            time,
            |index| (index, 0),
            |state, running| {
                while running.yes() {
                    state.1 += 1;
                }
            },
        );
        assert_eq!(
            turnout
                .states
                .iter()
                .map(|state| state.0)
                .collect::<Vec<_>>(),
            [0, 1, 2]
        );
        let contest = contest(3, time, &Lock(parking_lot::Mutex::new(())), || ()).unwrap();
        let total: u64 = contest.counts.iter().sum();
        assert_eq!(contest.cost(), nanos(contest.elapsed) / total as f64);
    }

    #[test]
    #[should_panic = "a thread of the bench panicked"]
    fn a_panicking_thread_fails_the_run_instead_of_hanging_it() {
        crowd(
            2,
            Duration::from_millis(1),
            |index| index,
            |index, _| assert_eq!(*index, 0),
        );
    }

    #[test]
    fn a_lock_that_excludes_nobody_is_caught() {
        // Without a lock two threads lose increments sooner or later.
        while contest(4, Duration::from_millis(50), &Open, || ()).is_ok() {}
        while contest_waits(4, Duration::from_millis(50), &Open, || ()).is_ok() {}
    }
}
