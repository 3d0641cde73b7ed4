//! What others do: work in parallel, finalize in order.
//!
//! None of them can fail an item, halt, retry, or say which items are durable.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel as channel;
use pariter::IteratorExt as _;
use rayon::iter::{
    IndexedParallelIterator as _, IntoParallelRefIterator as _, ParallelIterator as _,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::sides::{Disorder, Ledger, Load, Side, Step, WORKERS};

/// Those without tickets.
pub(super) fn all(load: Load, step: impl Step) -> Result<Vec<Side>, Box<dyn Error>> {
    Ok(vec![
        pariter(load, step),
        channels(load, step),
        rayon(load, step)?,
    ])
}

/// The caller feeds an ordered `parallel_map` of two threads, and finalizes what comes out.
fn pariter(load: Load, step: impl Step) -> Side {
    Side::new("pariter", move || {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        let items = (0..load.items).parallel_map_custom(
            |options| options.threads(WORKERS).buffer_size(load.in_flight),
            step,
        );
        for item in items {
            ledger.enter(item)?;
        }
        let cost = load.cost_since(start);
        ledger.check(load)?;
        Ok(cost)
    })
}

/// The caller feeds a channel; two workers take from it and feed another; a collector keeps what is
/// early in a `BTreeMap`, and finalizes.
fn channels(load: Load, step: impl Step) -> Side {
    Side::new("channels", move || {
        let (feed, fed) = channel::bounded(load.in_flight);
        let (done, out) = channel::bounded::<(u64, u64)>(load.in_flight);
        thread::scope(|scope| {
            for _ in 0..WORKERS {
                let (fed, done) = (fed.clone(), done.clone());
                scope.spawn(move || {
                    for (number, item) in fed {
                        if done.send((number, step(item))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop((fed, done));
            let collector = scope.spawn(move || {
                let mut ledger = Ledger::default();
                let mut early = BTreeMap::new();
                let mut next = 0;
                for (number, item) in out {
                    early.insert(number, item);
                    while let Some(item) = early.remove(&next) {
                        ledger.enter(item)?;
                        next += 1;
                    }
                }
                Ok::<_, Disorder>(ledger)
            });
            let start = Instant::now();
            for number in 0..load.items {
                feed.send((number, number))?;
            }
            drop(feed);
            let ledger = collector.join().map_err(|_| "the collector panicked")??;
            let cost = load.cost_since(start);
            ledger.check(load)?;
            Ok(cost)
        })
    })
}

/// The caller has two threads work on one chunk after another, and finalizes each.
fn rayon(load: Load, step: impl Step) -> Result<Side, Box<dyn Error>> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(WORKERS)
        .build()?;
    Ok(Side::new("rayon", move || {
        let mut ledger = Ledger::default();
        let mut chunk = Vec::with_capacity(load.in_flight);
        let mut items = Vec::with_capacity(load.in_flight);
        let start = Instant::now();
        let mut numbers = 0..load.items;
        loop {
            chunk.clear();
            chunk.extend(numbers.by_ref().take(load.in_flight));
            if chunk.is_empty() {
                break;
            }
            pool.install(|| {
                let made = chunk.par_iter().map(|number| step(*number));
                made.collect_into_vec(&mut items);
            });
            for item in &items {
                ledger.enter(*item)?;
            }
        }
        let cost = load.cost_since(start);
        ledger.check(load)?;
        Ok(cost)
    }))
}

/// A flush on its way to the finalizer's task.
struct Submitted {
    number: u64,
    item: u64,
    ack: oneshot::Sender<u64>,
    permit: OwnedSemaphorePermit,
}

impl PartialEq for Submitted {
    fn eq(&self, other: &Submitted) -> bool {
        self.number == other.number
    }
}

impl Eq for Submitted {}

impl PartialOrd for Submitted {
    fn partial_cmp(&self, other: &Submitted) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Submitted {
    fn cmp(&self, other: &Submitted) -> Ordering {
        self.number.cmp(&other.number)
    }
}

/// A permit of a semaphore; a task an item, which sends what it made through a channel; a task that
/// keeps what is early in a heap, finalizes, and acknowledges. Two worker threads; every
/// acknowledgement is awaited, as ours are.
pub(super) fn tokio(load: Load, step: impl Step) -> Result<Side, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .build()?;
    Ok(Side::new("tokio", move || {
        let feeder = runtime.spawn(feed(load, step));
        let (entered, cost) = runtime
            .block_on(feeder)?
            .map_err(|error| error as Box<dyn Error>)?;
        if entered != load.items {
            return Err(format!("{entered} of {} items were acknowledged", load.items).into());
        }
        Ok(cost)
    }))
}

async fn feed(load: Load, step: impl Step) -> Result<(u64, f64), Box<dyn Error + Send + Sync>> {
    let permits = Arc::new(Semaphore::new(load.in_flight));
    let (submit, submitted) = mpsc::unbounded_channel();
    let finalizer = tokio::spawn(finalize(submitted));
    let mut acks = VecDeque::with_capacity(load.in_flight);
    let mut entered = 0;
    let start = Instant::now();
    for number in 0..load.items {
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let (ack, ticket) = oneshot::channel();
        let submit = submit.clone();
        tokio::spawn(async move {
            let item = step(number);
            let submitted = Submitted {
                number,
                item,
                ack,
                permit,
            };
            drop(submit.send(submitted));
        });
        acks.push_back(ticket);
        if acks.len() == load.in_flight
            && let Some(oldest) = acks.pop_front()
        {
            entered = oldest.await?;
        }
    }
    for ack in acks {
        entered = ack.await?;
    }
    let cost = load.cost_since(start);
    drop(submit);
    finalizer.await??;
    Ok((entered, cost))
}

async fn finalize(mut submitted: mpsc::UnboundedReceiver<Submitted>) -> Result<(), Disorder> {
    let mut ledger = Ledger::default();
    let mut early = BinaryHeap::new();
    let mut next = 0;
    while let Some(flush) = submitted.recv().await {
        early.push(Reverse(flush));
        while early
            .peek()
            .is_some_and(|Reverse(first)| first.number == next)
            && let Some(Reverse(first)) = early.pop()
        {
            let entered = ledger.enter(first.item)?;
            drop(first.permit);
            // Nobody waits any more only if the run has failed.
            let _ = first.ack.send(entered);
            next += 1;
        }
    }
    Ok(())
}
