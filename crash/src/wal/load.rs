//! A process that opens a log, checks what it finds there, and appends to it until it is ended.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use latchwork::fs::Fs;
use latchwork::wal::{AppendError, Durability, Wal};

use super::ledger::{Tally, WRITERS, body};
use crate::failed::failed;
use crate::page::Page;

/// What the processes of a scenario tell each other.
#[derive(Debug)]
pub(super) struct Board(Page);

impl Board {
    pub(super) const CELLS: usize = WRITERS + 3;

    pub(super) fn new(page: Page) -> Board {
        Board(page)
    }

    /// Up to which of its records a writer knows that they are in the log.
    fn acknowledged(&self, writer: usize) -> &AtomicU64 {
        self.0.cell(writer)
    }

    pub(super) fn all_acknowledged(&self) -> [u64; WRITERS] {
        std::array::from_fn(|writer| self.acknowledged(writer).load(SeqCst))
    }

    /// Takes back what was acknowledged since.
    pub(super) fn set_acknowledged(&self, before: [u64; WRITERS]) {
        for (writer, number) in before.into_iter().enumerate() {
            self.acknowledged(writer).store(number, SeqCst);
        }
    }

    /// How many openings found everything.
    pub(super) fn opened(&self) -> &AtomicU64 {
        self.0.cell(WRITERS)
    }

    /// How many snapshots were committed.
    pub(super) fn snapshots(&self) -> &AtomicU64 {
        self.0.cell(WRITERS + 1)
    }

    /// Whether calls may fail from now on.
    pub(super) fn is_cut(&self) -> &AtomicU64 {
        self.0.cell(WRITERS + 2)
    }
}

/// What makes a record an acknowledged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acknowledged {
    /// That the append has returned.
    Appended,
    /// That the log says it is synced.
    Synced,
}

pub(super) struct Load<'a> {
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) durability: Durability,
    pub(super) segment_bytes: u64,
    pub(super) acknowledged: Acknowledged,
    pub(super) board: &'a Board,
    pub(super) seed: u64,
}

impl Load<'_> {
    /// Anything on disk, of a kind that suits the acknowledgements.
    pub(super) fn random_durability(
        acknowledged: Acknowledged,
        random: &mut fastrand::Rng,
    ) -> Durability {
        match (acknowledged, random.u8(..8)) {
            (Acknowledged::Appended, 0..3) | (Acknowledged::Synced, 0) => Durability::None,
            (_, 3) => Durability::Periodic(Duration::from_millis(3)),
            _ => Durability::Sync,
        }
    }

    /// The exit code. While all goes well it does not return, nor when errors are to be expected.
    pub(super) fn run(&self) -> i32 {
        let Err(error) = self.work();
        failed(self.board.is_cut(), error)
    }

    /// Opens the log, which must hold what was acknowledged.
    pub(super) fn open(&self) -> Result<(Wal, Tally)> {
        let builder = Wal::builder(&self.dir)
            .fs(self.fs.clone())
            .durability(self.durability)
            .segment_bytes(self.segment_bytes);
        let acknowledged = self.board.all_acknowledged();
        let (wal, tally) = Tally::open(builder)?;
        tally.holds(acknowledged)?;
        // What was found is synced.
        self.board.set_acknowledged(tally.last);
        self.board.opened().fetch_add(1, SeqCst);
        Ok((wal, tally))
    }

    fn work(&self) -> Result<Infallible> {
        let (wal, tally) = self.open()?;
        let applied = tally.last.map(AtomicU64::new);
        // Who appends holds it shared, so that whoever has it alone knows what is in the log.
        let gate = RwLock::new(());
        thread::scope(|scope| {
            let (wal, gate) = (&wal, &gate);
            for (writer, applied) in applied.iter().enumerate() {
                scope.spawn(move || {
                    let Err(error) = self.write(wal, gate, writer, applied);
                    exit(failed(self.board.is_cut(), error));
                });
            }
            self.snapshot(wal, gate, &applied)
        })
    }

    fn write(
        &self,
        wal: &Wal,
        gate: &RwLock<()>,
        writer: usize,
        applied: &AtomicU64,
    ) -> Result<Infallible> {
        let mut random = fastrand::Rng::with_seed(self.seed + writer as u64);
        let mut known = applied.load(Relaxed);
        let mut number = known;
        loop {
            let passing = gate.read().expect("no panic");
            number += 1;
            let next = || body(writer, number, known);
            let lsn = match random.u8(..16) {
                0 => {
                    let patience = Duration::from_micros(random.u64(..500));
                    match wal.append_timeout(&next(), patience) {
                        // It is not in the log: the same number comes again.
                        Err(AppendError::TimedOut) => {
                            number -= 1;
                            continue;
                        }
                        Err(AppendError::InDoubt { .. }) => continue,
                        other => other.context("append_timeout")?,
                    }
                }
                1 => {
                    let (sender, outcome) = std::sync::mpsc::channel();
                    wal.append_with(&next(), move |outcome| drop(sender.send(outcome)));
                    match outcome.recv().context("no outcome")? {
                        Err(AppendError::Full) => {
                            number -= 1;
                            continue;
                        }
                        other => other.context("append_with")?,
                    }
                }
                2..5 => {
                    let mut lsn = wal.enqueue(&next()).context("enqueue")?;
                    for _ in 0..random.u8(..20) {
                        number += 1;
                        // Those before it are in line before it: it is there only if they are.
                        let body = body(writer, number, number - 1);
                        lsn = wal.enqueue(&body).context("enqueue")?;
                    }
                    wal.wait_durable(lsn).context("wait_durable")?;
                    lsn
                }
                _ => wal.append(&next()).context("append")?,
            };
            known = number;
            applied.store(number, Relaxed);
            drop(passing);
            if self.acknowledged == Acknowledged::Synced && self.durability != Durability::Sync {
                if random.u8(..8) != 0 {
                    continue;
                }
                wal.wait_durable(lsn).context("wait_durable")?;
            }
            self.board.acknowledged(writer).store(number, SeqCst);
        }
    }

    fn snapshot(
        &self,
        wal: &Wal,
        gate: &RwLock<()>,
        applied: &[AtomicU64; WRITERS],
    ) -> Result<Infallible> {
        let mut random = fastrand::Rng::with_seed(self.seed ^ 0x5eed);
        loop {
            thread::sleep(Duration::from_micros(random.u64(..8_000)));
            let alone = gate.write().expect("no panic");
            let mut tally = Tally::default();
            for (last, applied) in tally.last.iter_mut().zip(applied) {
                *last = applied.load(Relaxed);
            }
            let mut snapshot = wal.snapshot().context("a snapshot")?;
            drop(alone);
            std::io::Write::write_all(&mut snapshot, &tally.save())?;
            if random.u8(..8) == 0 {
                continue; // and is thrown away
            }
            snapshot.commit().context("a snapshot's commit")?;
            self.board.snapshots().fetch_add(1, SeqCst);
        }
    }
}
