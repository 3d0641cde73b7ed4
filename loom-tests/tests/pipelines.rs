//! Whole pipelines under shuttle: too many threads and steps to explore, so schedules are drawn.
#![cfg(all(latchwork_loom, latchwork_shuttle))]

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use latchwork::flush::{
    Failed, Failure, Finalize, FlushPipeline, FlushTicket, Leftover, LeftoverState, OnFailure,
    Shutdown, WaitError, each,
};
use latchwork::fs::MemoryFs;
use latchwork::model::loom::rand::draw;
use latchwork::model::{model, thread};
use latchwork::wal::{Lsn, Wal};

/// What becomes of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Streams,
    IsCompleted,
    FailsToStream,
    FailsToFinalize,
    IsDropped,
}

impl Plan {
    fn draw() -> Self {
        match draw(8) {
            0 => Self::FailsToStream,
            1 => Self::FailsToFinalize,
            2 => Self::IsDropped,
            3 => Self::IsCompleted,
            _ => Self::Streams,
        }
    }
}

/// Finalizes in order, each number once.
struct Order {
    next: u64,
    finalized: u64,
    skipped: u64,
    told: Arc<Mutex<(u64, u64)>>,
}

impl Order {
    fn tell(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = (self.finalized, self.skipped);
    }
}

impl Finalize for Order {
    type Job = Plan;
    type Item = Plan;
    type Output = u64;
    type Error = u64;

    fn finalize_one(&mut self, sequence: u64, item: &mut Plan) -> Result<u64, u64> {
        assert_eq!(sequence, self.next, "out of order");
        if *item == Plan::FailsToFinalize {
            return Err(sequence);
        }
        self.next += 1;
        self.finalized += 1;
        self.tell();
        Ok(sequence)
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> u64 {
        assert_eq!(failed.sequence, self.next, "out of order");
        assert!(!matches!(failed.failure, Failure::Unmarked));
        self.next += 1;
        self.skipped += 1;
        self.tell();
        failed.sequence
    }
}

type Ticket = FlushTicket<Order>;

/// A pipeline that skips failures, and what its finalizer tells: how many were finalized, and
/// skipped.
fn pipeline(in_flight: usize, streamers: usize) -> (FlushPipeline<Order>, Arc<Mutex<(u64, u64)>>) {
    let told = Arc::default();
    let flush = FlushPipeline::builder("model")
        .max_in_flight(in_flight)
        .max_in_flight_bytes(4)
        .streamers(streamers)
        .on_failure(OnFailure::Skip)
        .finalizer(Order {
            next: 0,
            finalized: 0,
            skipped: 0,
            told: Arc::clone(&told),
        })
        .build()
        .unwrap();
    (flush, told)
}

/// The pipeline's threads.
fn serve<F: Finalize>(flush: &FlushPipeline<F>, streamers: usize) -> Vec<thread::JoinHandle<()>> {
    let spawn = |serve: fn(&FlushPipeline<F>) -> bool| {
        let flush = flush.clone();
        thread::spawn(move || {
            serve(&flush);
        })
    };
    let mut threads: Vec<_> = (0..streamers)
        .map(|_| spawn(FlushPipeline::serve_streams))
        .collect();
    threads.push(spawn(FlushPipeline::serve_finalizer));
    threads
}

/// Reserves, rotates and goes on as planned.
fn flush_one(flush: &FlushPipeline<Order>, plan: Plan) -> Option<Ticket> {
    let slot = flush.reserve(1).unwrap().rotate(&mut (), |(), _| plan);
    match plan {
        Plan::IsDropped => {
            drop(slot);
            None
        }
        Plan::IsCompleted => Some(slot.complete(Ok(plan)).unwrap()),
        Plan::FailsToStream => Some(slot.submit(|job| Err(job.sequence())).unwrap()),
        Plan::Streams | Plan::FailsToFinalize => Some(slot.submit(|job| Ok(**job)).unwrap()),
    }
}

/// Catches a flush that is finalized out of order, twice or never; a wake-up lost between any two
/// of submitters, streamers, finalizer, drains and a shutdown; a ticket without an end; a barrier
/// that lets something pass.
#[test]
fn what_is_submitted_is_finalized_skipped_or_returned() {
    model(|| {
        let (flush, told) = pipeline(3, 2);
        let threads = serve(&flush, 2);
        let submitters: Vec<_> = (0..3)
            .map(|_| {
                let flush = flush.clone();
                thread::spawn(move || {
                    let mut tickets = Vec::new();
                    for _ in 0..4 {
                        let plan = Plan::draw();
                        if let Some(ticket) = flush_one(&flush, plan) {
                            tickets.push((plan, ticket));
                        }
                        if draw(3) == 0 {
                            let next = flush.next_sequence();
                            flush.drain().unwrap();
                            assert!(flush.watermark() >= next, "a drain is a barrier");
                        }
                    }
                    for (plan, ticket) in tickets {
                        let sequence = ticket.sequence();
                        match (plan, ticket.wait()) {
                            (Plan::Streams | Plan::IsCompleted, Ok(done)) => {
                                assert_eq!(done, sequence);
                            }
                            (_, Err(WaitError::Failed(failed))) => assert_eq!(failed, sequence),
                            (plan, end) => panic!("{plan:?} ended in {:?}", end.err()),
                        }
                    }
                })
            })
            .collect();
        for submitter in submitters {
            submitter.join().unwrap();
        }
        let left = flush.shutdown(Shutdown::DrainAll);
        assert!(left.flushes.is_empty(), "{left:?}");
        for thread in threads {
            thread.join().unwrap();
        }
        let (finalized, skipped) = *told.lock().unwrap();
        assert_eq!(finalized + skipped, 12);
        assert_eq!(flush.watermark(), 12);
    });
}

/// Catches what a shutdown at any moment loses, or returns twice.
#[test]
fn a_shutdown_now_leaves_nothing_out() {
    model(|| {
        let (flush, told) = pipeline(4, 1);
        let threads = serve(&flush, 1);
        let submitter = thread::spawn({
            let flush = flush.clone();
            move || {
                let mut submitted = 0;
                while let Ok(slot) = flush.reserve(0) {
                    let slot = slot.rotate(&mut (), |(), _| Plan::Streams);
                    match slot.submit(|job| Ok(**job)) {
                        Ok(ticket) => drop(ticket),
                        Err(refused) => drop(refused),
                    }
                    submitted += 1;
                    if submitted == 6 {
                        break;
                    }
                }
            }
        });
        for _ in 0..draw(12) {
            thread::yield_now();
        }
        let left = flush.shutdown(Shutdown::Now);
        let numbers: Vec<u64> = left.flushes.iter().map(|flush| flush.sequence).collect();
        let mut once = numbers.clone();
        once.dedup();
        assert_eq!(numbers, once, "returned twice");
        let in_hand = |flush: &&Leftover<Order>| matches!(flush.state, LeftoverState::Unsubmitted);
        let in_hand = left.flushes.iter().filter(in_hand).count();
        assert!(in_hand <= 1, "one thread submits: {left:?}");
        let mark = flush.watermark();
        // What the finalizer has in hand may come to its end yet.
        let is_behind = |flush: &&Leftover<Order>| {
            flush.sequence < mark && !matches!(flush.state, LeftoverState::Finalizing(_))
        };
        assert!(
            !left.flushes.iter().any(|flush| is_behind(&flush)),
            "{left:?} at {mark}"
        );
        submitter.join().unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        let (finalized, skipped) = *told.lock().unwrap();
        assert_eq!(finalized + skipped, flush.watermark());
    });
}

/// Catches a record that is acknowledged and not in the log, records out of the order of their
/// numbers, and an appender that nobody tells of its group's end.
#[test]
fn what_is_acknowledged_is_recovered_in_order() {
    model(|| {
        let fs = MemoryFs::new();
        let wal = Arc::new(open(&fs, |_, _| {}));
        let server = thread::spawn({
            let wal = Arc::clone(&wal);
            move || {
                wal.serve();
            }
        });
        let writers: Vec<_> = (0..3u8)
            .map(|writer| {
                let wal = Arc::clone(&wal);
                thread::spawn(move || {
                    let mut acknowledged = Vec::new();
                    for record in 0..4u8 {
                        let body = [writer, record];
                        let lsn = match draw(3) {
                            0 => {
                                let lsn = wal.enqueue(&body).unwrap();
                                if draw(2) == 0 {
                                    wal.wait_durable(lsn).unwrap();
                                }
                                lsn
                            }
                            _ => wal.append(&body).unwrap(),
                        };
                        acknowledged.push((lsn, body));
                    }
                    acknowledged
                })
            })
            .collect();
        let mut acknowledged = BTreeMap::new();
        for writer in writers {
            acknowledged.extend(writer.join().unwrap());
        }
        wal.close().unwrap();
        server.join().unwrap();
        let mut found = BTreeMap::new();
        drop(open(&fs.copy(), |lsn, body| {
            let is_new = found.insert(lsn, [body[0], body[1]]).is_none();
            assert!(is_new, "{lsn:?} twice");
        }));
        assert_eq!(found, acknowledged);
    });
}

fn open(fs: &MemoryFs, mut seen: impl FnMut(Lsn, &[u8])) -> Wal {
    let opened = Wal::builder("/log")
        .fs(Arc::new(fs.clone()))
        .segment_bytes(4096)
        .open(|lsn, body| {
            seen(lsn, body);
            Ok::<(), io::Error>(())
        });
    opened.unwrap().0
}

/// A store as one is built of the two: writers log and change the memtable, which rotates through
/// the pipeline; what has been finalized is released from the log.
///
/// Catches a record that is in neither the segments nor the log.
#[test]
fn a_store_on_both_has_every_record_in_one_of_them() {
    type Table = Vec<(Lsn, u8)>;
    model(|| {
        let fs = MemoryFs::new();
        let wal = Arc::new(open(&fs, |_, _| {}));
        let segments: Arc<Mutex<Table>> = Arc::default();
        let flush = FlushPipeline::builder("store")
            .max_in_flight(2)
            .streamers(1)
            .finalizer(each({
                let (segments, wal) = (Arc::clone(&segments), Arc::clone(&wal));
                move |_, table: &mut Table| {
                    let mut segments = segments.lock().unwrap();
                    let last = segments.last().map(|(lsn, _)| *lsn);
                    assert!(table.first().map(|(lsn, _)| *lsn) > last, "out of order");
                    segments.append(table);
                    let end = segments.last().map_or(0, |(lsn, _)| lsn.get());
                    wal.release(Lsn::new(end + 1)).map_err(io::Error::other)
                }
            }))
            .build()
            .unwrap();
        let mut servers = serve(&flush, 1);
        servers.push(thread::spawn({
            let wal = Arc::clone(&wal);
            move || {
                wal.serve();
            }
        }));
        let memtable = latchwork::model::loom::sync::Mutex::new(Table::new());
        let memtable = Arc::new(memtable);
        let writers: Vec<_> = (0..2u8)
            .map(|writer| {
                let (wal, flush) = (Arc::clone(&wal), flush.clone());
                let memtable = Arc::clone(&memtable);
                thread::spawn(move || {
                    for record in 0..4 {
                        let slot = (draw(3) == 0).then(|| flush.reserve(0).unwrap());
                        let mut table = memtable.lock().unwrap();
                        let lsn = wal.enqueue(&[writer * 16 + record]).unwrap();
                        table.push((lsn, writer * 16 + record));
                        if let Some(slot) = slot {
                            let swap = |table: &mut Table, _| std::mem::take(table);
                            let slot = slot.rotate(&mut *table, swap);
                            drop(table);
                            drop(slot.submit(|job| Ok(std::mem::take(&mut **job))).unwrap());
                        }
                        wal.wait_durable(lsn).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        let left = flush.shutdown(Shutdown::DrainAll);
        assert!(left.flushes.is_empty());
        wal.close().unwrap();
        for server in servers {
            server.join().unwrap();
        }
        let mut all: BTreeMap<Lsn, u8> = segments.lock().unwrap().drain(..).collect();
        drop(open(&fs.copy(), |lsn, body| {
            all.insert(lsn, body[0]);
        }));
        assert_eq!(all.len(), 8, "{all:?}");
    });
}
