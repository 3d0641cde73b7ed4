//! What a side of a comparison is, our side, and the ideal.

#[cfg(feature = "peers")]
use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use latchwork::flush::{BuildError, Each, FlushPipeline, FlushTicket, each};

use crate::harness::{Run, nanos};

pub(super) const WORKERS: usize = 2;

/// How many items a run has, and the bound of those in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) items: u64,
    pub(super) in_flight: usize,
}

impl Load {
    /// Nanoseconds an item since `start`.
    pub(super) fn cost_since(self, start: Instant) -> f64 {
        nanos(start.elapsed()) / self.items as f64
    }
}

/// Elapsed nanoseconds an item, each time it is run.
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) run: Run<'static, Box<dyn Error>>,
}

impl Side {
    pub(super) fn new(
        name: &'static str,
        run: impl FnMut() -> Result<f64, Box<dyn Error>> + 'static,
    ) -> Side {
        Side {
            name,
            run: Box::new(run),
        }
    }
}

/// What a worker does to an item: it returns what it was given.
pub(super) trait Step: Fn(u64) -> u64 + Copy + Send + Sync + 'static {}

impl<S: Fn(u64) -> u64 + Copy + Send + Sync + 'static> Step for S {}

/// What finalizes: it sees every item, in order.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    due: u64,
}

impl Ledger {
    /// How many there have been.
    pub(super) fn enter(&mut self, item: u64) -> Result<u64, Disorder> {
        if item != self.due {
            return Err(Disorder {
                item,
                due: self.due,
            });
        }
        self.due += 1;
        Ok(self.due)
    }

    #[cfg(feature = "peers")]
    pub(super) fn check(&self, load: Load) -> Result<(), Disorder> {
        check(self.due, load)
    }
}

fn check(entered: u64, load: Load) -> Result<(), Disorder> {
    let due = load.items;
    match entered == due {
        true => Ok(()),
        false => Err(Disorder { item: entered, due }),
    }
}

/// An item was finalized out of its order, or not at all.
#[derive(Debug)]
pub(super) struct Disorder {
    item: u64,
    due: u64,
}

impl fmt::Display for Disorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disorder { item, due } = self;
        write!(f, "item {item} was finalized where {due} was due")
    }
}

impl Error for Disorder {}

/// The caller reserves, rotates and submits; two streamers run the step; the finalizer enters the
/// item into its ledger.
pub(super) fn ours(load: Load, step: impl Step) -> Side {
    Side::new("latchwork", move || {
        let flush = pipeline(load)?;
        let mut last = None;
        let start = Instant::now();
        for _ in 0..load.items {
            last = Some(submit(&flush, step)?);
        }
        let entered = last.ok_or("there are no items")?.wait()?;
        let cost = load.cost_since(start);
        check(entered, load)?;
        Ok(cost)
    })
}

/// The same, and each ticket is awaited, the oldest one when there are as many as flushes
/// may be in flight.
#[cfg(feature = "peers")]
pub(super) fn ours_awaited(load: Load, step: impl Step) -> Side {
    Side::new("latchwork", move || {
        let flush = pipeline(load)?;
        let mut tickets = VecDeque::with_capacity(load.in_flight);
        let mut entered = 0;
        let start = Instant::now();
        for _ in 0..load.items {
            tickets.push_back(submit(&flush, step)?);
            if tickets.len() == load.in_flight
                && let Some(oldest) = tickets.pop_front()
            {
                entered = oldest.wait()?;
            }
        }
        for ticket in tickets {
            entered = ticket.wait()?;
        }
        let cost = load.cost_since(start);
        check(entered, load)?;
        Ok(cost)
    })
}

/// The closure that enters an item into the ledger.
trait Enter: FnMut(u64, &mut u64) -> Result<u64, Disorder> + Send + 'static {}

impl<C: FnMut(u64, &mut u64) -> Result<u64, Disorder> + Send + 'static> Enter for C {}

type Pipeline<C> = FlushPipeline<Each<u64, u64, u64, Disorder, C>>;
type Ticket<C> = FlushTicket<Each<u64, u64, u64, Disorder, C>>;

fn pipeline(load: Load) -> Result<Pipeline<impl Enter>, BuildError> {
    let mut ledger = Ledger::default();
    FlushPipeline::builder("bench")
        .max_in_flight(load.in_flight)
        .streamers(WORKERS)
        .finalizer(each(move |_, item: &mut u64| ledger.enter(*item)))
        .build()
}

fn submit<C: Enter>(flush: &Pipeline<C>, step: impl Step) -> Result<Ticket<C>, Box<dyn Error>> {
    let slot = flush.reserve(0)?.rotate(&mut (), |(), sequence| sequence);
    Ok(slot.submit(move |job| Ok(step(**job)))?)
}

/// Two threads take the next item off a counter and run the step.
pub(super) fn ideal(load: Load, step: impl Step) -> Side {
    Side::new("ideal", move || {
        let next = AtomicU64::new(0);
        let barrier = Barrier::new(WORKERS);
        let work = || {
            barrier.wait();
            let start = Instant::now();
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= load.items {
                    return (start, Instant::now());
                }
                step(item);
            }
        };
        let spans = thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let spans = workers.into_iter().map(|worker| worker.join());
            spans.collect::<Result<Vec<_>, _>>()
        });
        let spans = spans.map_err(|_| "a worker panicked")?;
        let start = spans.iter().map(|span| span.0).min();
        let end = spans.iter().map(|span| span.1).max();
        let (start, end) = start.zip(end).ok_or("there are no workers")?;
        Ok(nanos(end - start) / load.items as f64)
    })
}
