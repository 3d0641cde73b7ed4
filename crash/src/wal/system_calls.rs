//! A process is killed at the entry to and the exit from every system call of an operation.
//!
//! The log changes its files by system calls only, so what a kill between two instructions leaves
//! is what a kill at the next boundary leaves.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use latchwork::wal::{Durability, Replay, Wal};

use crate::child;
use crate::page::Page;
use crate::scene::Scene;
use crate::trace::{self, Marks, Reached, Step, Subject};

/// The records that are there before.
const BEFORE: u64 = 12;

struct Operation {
    name: &'static str,
    /// How many records it appends.
    appends: u64,
    run: fn(&Path, &Marks<'_>),
}

fn body(lsn: u64) -> Vec<u8> {
    vec![lsn as u8; 300 * (lsn as usize % 4)]
}

fn open(dir: &Path, durability: Durability) -> Result<(Wal, u64)> {
    let mut last = 0;
    let builder = Wal::builder(dir).segment_bytes(4096).durability(durability);
    let (wal, recovery) = builder.replay(|step| {
        match step {
            Replay::Snapshot(snapshot) => last = snapshot.lsn().get(),
            Replay::Record(lsn, found) => {
                last += 1;
                ensure!(lsn.get() == last, "LSN {lsn} in place of {last}");
                ensure!(found == body(last), "torn: record {last}");
            }
            _ => ensure!(false, "something else was replayed"),
        }
        Ok(())
    })?;
    let damaged = recovery.damaged_snapshots();
    ensure!(damaged.is_empty(), "damaged: {damaged:?}");
    Ok((wal, last))
}

fn append(wal: &Wal, count: u64) {
    for _ in 0..count {
        let next = wal.last_lsn().get() + 1;
        wal.append(&body(next)).expect("append");
    }
}

fn snapshot(wal: &Wal) {
    let mut snapshot = wal.snapshot().expect("snapshot");
    snapshot.write_all(b"the state").expect("write");
    snapshot.commit().expect("commit");
}

const OPERATIONS: &[Operation] = &[
    Operation {
        name: "append",
        appends: 1,
        run: |dir, marks| {
            let (wal, _) = open(dir, Durability::Sync).expect("open");
            marks.begin();
            append(&wal, 1);
            marks.end();
        },
    },
    Operation {
        name: "append-to-the-next-segment",
        appends: 8,
        run: |dir, marks| {
            let (wal, _) = open(dir, Durability::Sync).expect("open");
            marks.begin();
            append(&wal, 8);
            marks.end();
        },
    },
    Operation {
        name: "recovery",
        appends: 0,
        run: |dir, marks| {
            marks.begin();
            let opened = open(dir, Durability::Sync).expect("open");
            marks.end();
            std::mem::forget(opened);
        },
    },
    Operation {
        name: "snapshot",
        appends: 0,
        run: |dir, marks| {
            let (wal, _) = open(dir, Durability::Sync).expect("open");
            snapshot(&wal);
            append(&wal, 1);
            marks.begin();
            snapshot(&wal);
            marks.end();
        },
    },
    Operation {
        name: "close",
        appends: 1,
        run: |dir, marks| {
            let (wal, _) = open(dir, Durability::None).expect("open");
            append(&wal, 1);
            marks.begin();
            wal.close().expect("close");
            marks.end();
        },
    },
];

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    if let Some(why) = trace::impossible() {
        scene.skip("system-calls", &why);
        return Ok(());
    }
    for operation in OPERATIONS {
        let started = Instant::now();
        let name = format!("system-calls {}", operation.name);
        let page = scene.page(&format!("system-calls-{}", operation.name), Marks::CELLS)?;
        let mut points = 0;
        let result = walk(scene, operation, &page, &mut points);
        let figures = format!(
            "points={points} unit=system-call-boundary seconds={:.1}",
            started.elapsed().as_secs_f64()
        );
        scene.report(&name, figures, result);
    }
    Ok(())
}

fn walk(scene: &Scene, operation: &Operation, page: &Page, points: &mut u64) -> Result<()> {
    let dir = scene.path("system-calls-log");
    loop {
        child::ask(|| {
            let (wal, _) = open(&dir, Durability::None)?;
            append(&wal, BEFORE);
            // As a killed process leaves it: the tail is copied by the next.
            std::mem::forget(wal);
            Ok(String::new())
        })?;
        let subject = Subject::start(page, |marks| (operation.run)(&dir, marks))?;
        let reached = subject.lead(Step::SystemCall, *points, |_| {});
        subject.kill()?;
        let reached = reached?;
        let most = BEFORE + operation.appends + 1;
        child::ask(|| {
            for _ in 0..2 {
                let (_, last) = open(&dir, Durability::Sync)?;
                ensure!((BEFORE..=most).contains(&last), "{last} records are there");
            }
            Ok(String::new())
        })
        .with_context(|| format!("killed at {points}"))?;
        fs::remove_dir_all(&dir)?;
        scene.beat();
        match reached {
            Reached::Point => *points += 1,
            Reached::End(_) => return Ok(()),
        }
    }
}
