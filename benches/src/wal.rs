//! Log rows: what a record costs beside the bare calls that make it durable, and what a group
//! saves.
//!
//! A record's body has 128 bytes. Files lie beside the program, since the temporary directory may
//! be in memory.
//!
//! *Single*: one thread appends with `Durability::Sync`. The peer writes as many bytes as a record
//! takes in the log, one `pwrite` and one `fdatasync` a record, to a file that was allocated before
//! as the log's segments are. Both sides' times are of many records in a row.
//!
//! *Group*: 64 threads append, each again as soon as its record is durable, over one thread that
//! does: records a second.

use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use latchwork::Wal;
use latchwork::wal::Durability;
use rustix::fs::{FallocateFlags, fallocate};

use crate::Bench;
use crate::crowd::crowd;
use crate::harness::{Ratio, interleave, mean, nanos};
use crate::rows;
use crate::table::Shown;

const BODY: [u8; 128] = [0x5a; 128];
/// What the log puts before a body.
const HEADER: usize = 24;
const WRITERS: usize = 64;
const SEGMENT: u64 = 64 << 20;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let directory = Directory::create()?;
    single(bench, &directory.0)?;
    group(bench, &directory.0)
}

fn single(bench: &mut Bench, directory: &Path) -> Result<(), Box<dyn Error>> {
    let ours = open(&directory.join("single"))?;
    let peer = Raw::create(&directory.join("raw"))?;
    let time = bench
        .effort
        .pick(Duration::from_millis(50), Duration::from_millis(100));
    let rounds = bench.effort.pick(61, 201);
    let rounds = interleave(
        &mut bench.effort,
        rounds,
        || cost(1, time, || append(&ours)),
        || cost(1, time, || peer.append()),
    )?;
    let ratio = Ratio::of(&rounds, mean);
    bench.report.row(rows::WAL_SINGLE, &ratio.into())?;
    Ok(())
}

fn group(bench: &mut Bench, directory: &Path) -> Result<(), Box<dyn Error>> {
    let wal = open(&directory.join("group"))?;
    let time = bench
        .effort
        .pick(Duration::from_millis(100), Duration::from_millis(250));
    let rounds = bench.effort.pick(21, 61);
    let rounds = interleave(
        &mut bench.effort,
        rounds,
        || cost(1, time, || append(&wal)),
        || cost(WRITERS, time, || append(&wal)),
    )?;
    let ratio = Ratio::of(&rounds, mean);
    bench.report.row(rows::WAL_GROUP, &Shown::gain(ratio))?;
    Ok(())
}

fn open(directory: &Path) -> Result<Wal, Box<dyn Error>> {
    let wal = Wal::builder(directory)
        .durability(Durability::Sync)
        .segment_bytes(SEGMENT);
    let (wal, _) = wal.open(|_, _| Ok::<(), io::Error>(()))?;
    Ok(wal)
}

fn append(wal: &Wal) -> Result<(), Box<dyn Error + Send + Sync>> {
    wal.append(black_box(&BODY))?;
    Ok(())
}

/// Elapsed nanoseconds an append of `writers` threads.
fn cost(
    writers: usize,
    time: Duration,
    append: impl Fn() -> Result<(), Box<dyn Error + Send + Sync>> + Sync,
) -> Result<f64, Box<dyn Error>> {
    let turnout = crowd(
        writers,
        time,
        |_| Ok(0u64),
        |outcome, running| {
            while let Ok(count) = outcome
                && running.yes()
            {
                match append() {
                    Ok(()) => *count += 1,
                    Err(error) => *outcome = Err(error),
                }
            }
        },
    );
    let mut records = 0;
    for outcome in turnout.states {
        records += outcome.map_err(|error| error as Box<dyn Error>)?;
    }
    Ok(nanos(turnout.elapsed) / records as f64)
}

/// A file with room, and the calls that no log can do without.
struct Raw {
    file: File,
    end: AtomicU64,
}

impl Raw {
    fn create(path: &Path) -> io::Result<Raw> {
        let file = File::create_new(path)?;
        fallocate(&file, FallocateFlags::empty(), 0, SEGMENT)?;
        file.sync_all()?;
        Ok(Raw {
            file,
            end: AtomicU64::new(0),
        })
    }

    fn append(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let bytes = black_box([0x5a; HEADER + BODY.len()]);
        let at = self.end.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_all_at(&bytes, at)?;
        self.file.sync_data()?;
        Ok(())
    }
}

/// Removed at the end, with what is in it.
struct Directory(PathBuf);

impl Directory {
    fn create() -> io::Result<Directory> {
        let name = format!("bench-wal-{}", process::id());
        let path = std::env::current_exe()?.with_file_name(name);
        fs::create_dir(&path)?;
        Ok(Directory(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
