//! What writers append, and what must be found of it.
//!
//! A writer numbers its records from 1 on. A record says who wrote it, its number, and up to which
//! one the writer knew its records to be in the log; those between are in doubt. The rest of it
//! follows from that, so that no torn one passes.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use latchwork::wal::{Builder, Replay, Wal};

pub(super) const WRITERS: usize = 4;

const HEADER: usize = 17;

/// The body of a record.
pub(super) fn body(writer: usize, number: u64, known: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number << 8 | writer as u64);
    let len = match random.u8(..) {
        0..200 => random.usize(..200),
        200..250 => random.usize(..3_000),
        _ => random.usize(..40_000),
    };
    let mut body = vec![writer as u8];
    body.extend(number.to_le_bytes());
    body.extend(known.to_le_bytes());
    body.resize(HEADER + len, 0);
    random.fill(&mut body[HEADER..]);
    body
}

/// The last record of each writer that is in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) last: [u64; WRITERS],
    lsn: u64,
}

impl Tally {
    /// Opens a log and takes in all of it.
    pub(super) fn open(builder: Builder) -> Result<(Wal, Tally)> {
        let mut tally = Tally::default();
        let (wal, recovery) = builder
            .replay(|step| match step {
                Replay::Snapshot(mut snapshot) => {
                    let mut bytes = Vec::new();
                    snapshot.read_to_end(&mut bytes)?;
                    tally.restore(snapshot.lsn().get(), &bytes)
                }
                Replay::Record(lsn, body) => tally.take(lsn.get(), body),
                _ => bail!("something else was replayed"),
            })
            .context("refused")?;
        let damaged = recovery.damaged_snapshots();
        ensure!(damaged.is_empty(), "damaged snapshots: {damaged:?}");
        Ok((wal, tally))
    }

    /// As a snapshot's bytes.
    pub(super) fn save(&self) -> Vec<u8> {
        self.last
            .iter()
            .flat_map(|last| last.to_le_bytes())
            .collect()
    }

    fn restore(&mut self, lsn: u64, bytes: &[u8]) -> Result<()> {
        let (numbers, rest) = bytes.as_chunks();
        ensure!(
            numbers.len() == WRITERS && rest.is_empty(),
            "a snapshot of {} bytes",
            bytes.len()
        );
        for (last, number) in self.last.iter_mut().zip(numbers) {
            *last = u64::from_le_bytes(*number);
        }
        self.lsn = lsn;
        Ok(())
    }

    fn take(&mut self, lsn: u64, found: &[u8]) -> Result<()> {
        ensure!(lsn > self.lsn, "LSN {lsn} after {}", self.lsn);
        self.lsn = lsn;
        ensure!(found.len() >= HEADER, "a record of {} bytes", found.len());
        let number = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&found[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let (writer, number, known) = (usize::from(found[0]), number(1), number(9));
        ensure!(writer < WRITERS, "a record of writer {writer}");
        ensure!(
            found == body(writer, number, known),
            "torn: record {number} of writer {writer}, LSN {lsn}"
        );
        let last = &mut self.last[writer];
        ensure!(
            (known..number).contains(last),
            "writer {writer}: record {number}, sure of {known}, came after {last}"
        );
        *last = number;
        Ok(())
    }

    /// An error when something is missing that was acknowledged.
    pub(super) fn holds(&self, acknowledged: [u64; WRITERS]) -> Result<()> {
        for (writer, (last, acknowledged)) in self.last.iter().zip(acknowledged).enumerate() {
            ensure!(
                *last >= acknowledged,
                "lost: writer {writer} had {acknowledged} records acknowledged, {last} are there"
            );
        }
        Ok(())
    }
}
