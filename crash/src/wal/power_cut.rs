//! The power is cut while a process appends, on real file systems.
//!
//! The log goes on after each cut, and must hold what had been acknowledged before. Some cuts come
//! while the one before is being recovered from.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use latchwork::fs::{Fs, RealFs};
use latchwork::wal::Durability;

use super::load::{Acknowledged, Board, Load};
use crate::child::{self, Child};
use crate::cuts;
use crate::disk::{Disk, Kind};
use crate::forgetful::{Forgetful, Sync};
use crate::scene::Scene;

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    cuts::on_each(scene, "power-cut", |scene, kind| {
        let started = Instant::now();
        let mut storm = Storm::new(scene, kind, "all", Arc::new(RealFs::new()))?;
        let cuts = scene.choose(40, 500);
        let result = storm.run(scene, cuts);
        Ok((storm.figures(started), result))
    })
}

/// Without the syncs of the records, acknowledged ones must be found lost.
pub(super) fn controls(scene: &mut Scene) -> Result<()> {
    let left_out = "no record was synced";
    cuts::must_fail_on_each(scene, "power-cut-controls", left_out, |scene, kind| {
        let started = Instant::now();
        let fs = Forgetful::new(Arc::new(RealFs::new()), |sync| match sync {
            Sync::File { path, times, .. } => is_segment(path) && times > 0,
            Sync::Directory { .. } => false,
        });
        let mut storm = Storm::new(scene, kind, "forgetful", Arc::new(fs))?;
        storm.is_control = true;
        let result = storm.run(scene, 40);
        Ok((storm.figures(started), result))
    })
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "wal")
}

struct Storm {
    disk: Disk,
    board: Board,
    fs: Arc<dyn Fs>,
    cuts: u64,
    is_control: bool,
}

impl Storm {
    fn new(scene: &Scene, kind: Kind, name: &str, fs: Arc<dyn Fs>) -> Result<Storm> {
        let name = format!("{kind}-{name}");
        Ok(Storm {
            disk: Disk::make(kind, scene.path(&name))?,
            board: Board::new(scene.page(&name, Board::CELLS)?),
            fs,
            cuts: 0,
            is_control: false,
        })
    }

    fn figures(&self, started: Instant) -> String {
        format!(
            "cuts={} acknowledged={} openings={} snapshots={} seconds={:.1}",
            self.cuts,
            self.board.all_acknowledged().iter().sum::<u64>(),
            self.board.opened().load(SeqCst),
            self.board.snapshots().load(SeqCst),
            started.elapsed().as_secs_f64()
        )
    }

    fn load(&self, durability: Durability, segment_bytes: u64, seed: u64) -> Load<'_> {
        Load {
            dir: self.disk.path().join("log"),
            fs: self.fs.clone(),
            durability,
            segment_bytes,
            acknowledged: Acknowledged::Synced,
            board: &self.board,
            seed,
        }
    }

    fn run(&mut self, scene: &mut Scene, cuts: u64) -> Result<()> {
        for _ in 0..cuts {
            self.cut(&mut scene.random)
                .with_context(|| format!("cut {}", self.cuts))?;
            self.cuts += 1;
            scene.beat();
        }
        child::ask(|| {
            let (wal, _) = self.load(Durability::Sync, 1 << 20, 0).open()?;
            wal.close()?;
            Ok(String::new())
        })?;
        Ok(())
    }

    fn cut(&mut self, random: &mut fastrand::Rng) -> Result<()> {
        let durability = match self.is_control {
            true => Durability::Sync,
            false => Load::random_durability(Acknowledged::Synced, random),
        };
        let bytes = 4096 << (2 * random.u32(..5));
        let load = self.load(durability, bytes, random.u64(..u64::MAX / 2));
        let in_recovery = random.u8(..4) == 0;
        let life = Duration::from_micros(random.u64(..30_000));
        self.board.is_cut().store(0, SeqCst);
        let opened = self.board.opened().load(SeqCst);
        let mut writer = Child::fork(|| load.run())?;
        while !in_recovery && self.board.opened().load(SeqCst) == opened {
            if let Some(end) = writer.ended()? {
                return Err(anyhow!("the writer: {}", child::End(end)));
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(life);
        // An acknowledgement while the cut is being made is none: after a real one nobody would be
        // there to hear it, and a sync that has been overtaken by this one may well report success.
        let acknowledged = self.board.all_acknowledged();
        self.board.is_cut().store(1, SeqCst);
        self.disk.cut()?;
        // It had an error of its own, or gets one now.
        writer.destroy().context("a writer")?;
        self.board.set_acknowledged(acknowledged);
        self.disk.restart()
    }
}
