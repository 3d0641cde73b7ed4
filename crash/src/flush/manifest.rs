//! Segments in files, and the manifest that names them: what a user's finalizer does.
//!
//! A stream writes and syncs a segment; the finalizer syncs the directory, writes a line for each
//! segment of the batch behind those that are there, and syncs the manifest. Line `n` is segment
//! `n`'s.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use latchwork::flush::{Batch, Failed, Finalize};
use latchwork::fs::{File, Fs, OpenMode, read_full, write_all};

const LINE: usize = 24;
/// Older segments are removed.
const KEPT: u64 = 64;

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.segment"))
}

/// What segment `number` holds.
fn content(number: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number);
    let most = if random.u8(..8) == 0 { 20_000 } else { 1_000 };
    let mut bytes = vec![0; random.usize(1..most)];
    random.fill(&mut bytes);
    bytes
}

fn line(number: u64, len: u64) -> [u8; LINE] {
    let mut hasher = DefaultHasher::new();
    (number, len).hash(&mut hasher);
    let mut line = [0; LINE];
    line[..8].copy_from_slice(&number.to_le_bytes());
    line[8..16].copy_from_slice(&len.to_le_bytes());
    line[16..].copy_from_slice(&hasher.finish().to_le_bytes());
    line
}

/// Writes a segment; returns its length.
pub(super) fn write_segment(fs: &dyn Fs, dir: &Path, number: u64) -> io::Result<u64> {
    let bytes = content(number);
    let file = fs.open(&path_of(dir, number), OpenMode::Create)?;
    file.set_len(0)?;
    write_all(&*file, &bytes, 0)?;
    file.sync_data()?;
    Ok(bytes.len() as u64)
}

pub(super) struct Manifest {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    file: Box<dyn File>,
    /// Lines that are there and synced.
    count: u64,
    /// The number of the pipeline's first flush.
    base: u64,
    /// Fails by chance.
    random: Option<fastrand::Rng>,
}

impl Manifest {
    /// Reads a manifest, checks the segments that it names, cuts off what is torn, and makes all
    /// that is left durable.
    pub(super) fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        random: Option<fastrand::Rng>,
    ) -> Result<Manifest> {
        fs.create_dir_all(dir)?;
        fs.sync_dir(dir.parent().unwrap_or(dir))?;
        let file = fs.open(&dir.join("manifest"), OpenMode::Create)?;
        let mut bytes = vec![0; usize::try_from(file.len()?)?];
        read_full(&*file, &mut bytes, 0)?;
        let lines = bytes.as_chunks::<LINE>().0.iter().zip(0..);
        let is_whole = |(found, number): &(&[u8; LINE], u64)| {
            let (_, len) = found.split_at(8);
            let len = len.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
            **found == line(*number, len)
        };
        let count = lines.take_while(is_whole).count() as u64;
        file.set_len(count * LINE as u64)?;
        file.sync_data()?;
        fs.sync_dir(dir)?;
        for number in count.saturating_sub(KEPT)..count {
            let path = path_of(dir, number);
            let missing = || format!("segment {number} of {count} is not there");
            let segment = fs.open(&path, OpenMode::Read).with_context(missing)?;
            let mut found = vec![0; usize::try_from(segment.len()?)?];
            read_full(&*segment, &mut found, 0)?;
            ensure!(
                found == content(number),
                "segment {number} of {count} is torn"
            );
        }
        Ok(Manifest {
            fs,
            dir: dir.to_owned(),
            file,
            count,
            base: count,
            random,
        })
    }

    /// How many segments it names.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn is_unlucky(&mut self) -> bool {
        let random = self.random.as_mut();
        random.is_some_and(|random| random.u8(..) < 4)
    }

    fn write(&self, lines: &[u8], count: u64) -> io::Result<()> {
        self.fs.sync_dir(&self.dir)?;
        write_all(&*self.file, lines, self.count * LINE as u64)?;
        self.file.sync_data()?;
        // Nobody reads those any more.
        let newest = self.count + count;
        for number in self.count.saturating_sub(KEPT)..newest.saturating_sub(KEPT) {
            let _: io::Result<()> = self.fs.remove_file(&path_of(&self.dir, number));
        }
        Ok(())
    }
}

impl Finalize for Manifest {
    type Job = u64;
    type Item = u64;
    /// How many segments the manifest names at least.
    type Output = u64;
    type Error = io::Error;

    fn finalize(&mut self, batch: &mut Batch<'_, Self>) {
        let base = self.base;
        let mut expected = self.count;
        let mut lines = Vec::new();
        for (sequence, len) in batch.iter() {
            assert_eq!(base + sequence, expected, "out of sequence");
            lines.extend(line(base + sequence, *len));
            expected += 1;
        }
        if self.is_unlucky() {
            return batch.fail(io::Error::other("no luck"));
        }
        match self.write(&lines, expected - self.count) {
            Ok(()) if self.is_unlucky() => {} // and the same lines are written again
            Ok(()) => {
                self.count = expected;
                batch.done_all(|sequence, _| base + sequence + 1);
            }
            Err(error) => batch.fail(error),
        }
    }

    fn finalize_one(&mut self, _: u64, _: &mut u64) -> io::Result<u64> {
        unreachable!("batches are finalized whole")
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> io::Error {
        io::Error::other(failed.failure.to_string())
    }
}
