//! A write and a sync a batch, over a write and a sync a flush.
//!
//! 64 threads submit and wait for their tickets, over and over, with as many flushes in flight. A
//! stream makes a record of 64 bytes; the finalizer appends it to a file beside the program, and
//! has the file's data synced. Both sides are ours: one finalizer takes the flushes that are ready
//! as a batch, the other one by one, as `each` does. The figure is the elapsed time a flush of the
//! latter over the former's.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use latchwork::flush::{Batch, Failed, Failure, Finalize, FlushPipeline, each};

use crate::Bench;
use crate::crowd::crowd;
use crate::harness::{Ratio, interleave, mean, nanos};
use crate::rows;
use crate::table::Shown;

const SUBMITTERS: usize = 64;
const RECORD: usize = 64;

type Record = [u8; RECORD];

pub(super) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let time = bench
        .effort
        .pick(Duration::from_millis(100), Duration::from_millis(250));
    let rounds = bench.effort.pick(11, 41);
    let rounds = interleave(&mut bench.effort, rounds, || single(time), || batched(time))?;
    let ratio = Ratio::of(&rounds, mean);
    bench.report.row(rows::FLUSH_BATCH, &Shown::gain(ratio))?;
    Ok(())
}

/// A file on the disk that the program is on; the temporary directory may be in memory.
struct Journal {
    file: File,
    path: PathBuf,
}

impl Journal {
    fn create() -> io::Result<Journal> {
        let name = format!("bench-flush-{}.journal", process::id());
        let path = std::env::current_exe()?.with_file_name(name);
        let file = File::create(&path)?;
        Ok(Journal { file, path })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

fn single(time: Duration) -> Result<f64, Box<dyn Error>> {
    let mut journal = Journal::create()?;
    cost(
        time,
        each(move |_, record: &mut Record| journal.append(record)),
    )
}

fn batched(time: Duration) -> Result<f64, Box<dyn Error>> {
    let journal = Journal::create()?;
    let bytes = Vec::with_capacity(SUBMITTERS * RECORD);
    cost(time, Batched { journal, bytes })
}

struct Batched {
    journal: Journal,
    bytes: Vec<u8>,
}

impl Finalize for Batched {
    type Job = u64;
    type Item = Record;
    type Output = ();
    type Error = Failure<io::Error>;

    fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
        self.bytes.clear();
        for (_, record) in batch.iter() {
            self.bytes.extend_from_slice(record);
        }
        match self.journal.append(&self.bytes) {
            Ok(()) => batch.done_all(|_, _| ()),
            Err(error) => batch.fail(Failure::Finalize(error)),
        }
    }

    fn finalize_one(&mut self, _: u64, record: &mut Record) -> Result<(), Self::Error> {
        let appended = self.journal.append(record);
        appended.map_err(Failure::Finalize)
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> Self::Error {
        match failed.failure {
            Failure::Finalize(error) => error,
            other => Failure::Finalize(io::Error::other(other.to_string())),
        }
    }
}

/// Elapsed nanoseconds a flush.
fn cost<F>(time: Duration, finalizer: F) -> Result<f64, Box<dyn Error>>
where
    F: Finalize<Job = u64, Item = Record, Output = ()>,
{
    let flush = FlushPipeline::builder("batch")
        .max_in_flight(SUBMITTERS)
        .streamers(2)
        .finalizer(finalizer)
        .build()?;
    let turnout = crowd(
        SUBMITTERS,
        time,
        |_| Ok(0),
        |outcome, running| {
            while let Ok(count) = outcome
                && running.yes()
            {
                match once(&flush) {
                    Ok(()) => *count += 1,
                    Err(error) => *outcome = Err(error),
                }
            }
        },
    );
    let mut flushes: u64 = 0;
    for outcome in turnout.states {
        flushes += outcome?;
    }
    Ok(nanos(turnout.elapsed) / flushes as f64)
}

fn once<F>(flush: &FlushPipeline<F>) -> Result<(), String>
where
    F: Finalize<Job = u64, Item = Record, Output = ()>,
{
    let slot = flush.reserve(RECORD as u64).map_err(|e| e.to_string())?;
    let slot = slot.rotate(&mut (), |(), sequence| sequence);
    let ticket = slot.submit(|job| Ok([**job as u8; RECORD]));
    let ticket = ticket.map_err(|error| error.to_string())?;
    ticket.wait().map_err(|error| error.to_string())
}
