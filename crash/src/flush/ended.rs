//! A process that flushes is killed, or the power is cut, time and again.
//!
//! The next one must find a manifest that names whole segments, in order, without a gap, and all
//! that a ticket had promised.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use latchwork::fs::{Fs, RealFs};

use super::load::{Board, Load};
use crate::child::{self, Child};
use crate::cuts;
use crate::disk::{Disk, Kind};
use crate::forgetful::{Forgetful, Sync};
use crate::scene::Scene;

pub(super) fn kill(scene: &mut Scene) -> Result<()> {
    let board = Board::new(scene.page("kill", Board::CELLS)?);
    let mut storm = Storm {
        disk: None,
        board,
        fs: Arc::new(RealFs::new()),
        ends: 0,
        under_way: 0,
        started: Instant::now(),
    };
    let kills = scene.choose(200, 2_000);
    let result = storm.run(scene, kills);
    scene.report("kill", storm.figures("kills"), result);
    Ok(())
}

pub(super) fn power_cut(scene: &mut Scene) -> Result<()> {
    cuts::on_each(scene, "power-cut", |scene, kind| {
        let mut storm = Storm::on(kind, scene, "all", Arc::new(RealFs::new()))?;
        let cuts = scene.choose(40, 500);
        let result = storm.run(scene, cuts);
        Ok((storm.figures("cuts"), result))
    })
}

/// Without the manifest's syncs, promised segments must be found lost.
pub(super) fn controls(scene: &mut Scene) -> Result<()> {
    let left_out = "the manifest is not synced";
    cuts::must_fail_on_each(scene, "power-cut-controls", left_out, |scene, kind| {
        let fs = Forgetful::new(Arc::new(RealFs::new()), |sync| match sync {
            Sync::File { path, .. } => path.ends_with("manifest"),
            Sync::Directory { .. } => false,
        });
        let mut storm = Storm::on(kind, scene, "forgetful", Arc::new(fs))?;
        let result = storm.run(scene, 40);
        Ok((storm.figures("cuts"), result))
    })
}

struct Storm {
    /// Whose power is cut; without one, processes are killed.
    disk: Option<Disk>,
    board: Board,
    fs: Arc<dyn Fs>,
    ends: u64,
    /// How many processes were ended after a promise of their own.
    under_way: u64,
    started: Instant,
}

impl Storm {
    fn on(kind: Kind, scene: &Scene, name: &str, fs: Arc<dyn Fs>) -> Result<Storm> {
        let name = format!("{kind}-{name}");
        Ok(Storm {
            started: Instant::now(),
            disk: Some(Disk::make(kind, scene.path(&name))?),
            board: Board::new(scene.page(&name, Board::CELLS)?),
            fs,
            ends: 0,
            under_way: 0,
        })
    }

    fn figures(&self, ends: &str) -> String {
        format!(
            "{ends}={} promised={} openings={} seconds={:.1}",
            self.ends,
            self.board.promised().load(SeqCst),
            self.board.opened().load(SeqCst),
            self.started.elapsed().as_secs_f64()
        )
    }

    fn load(&self, scene: &Scene, seed: u64) -> Load<'_> {
        let dir = match &self.disk {
            Some(disk) => disk.path().join("flush"),
            None => scene.path("flush"),
        };
        Load {
            dir,
            fs: self.fs.clone(),
            board: &self.board,
            seed,
        }
    }

    fn run(&mut self, scene: &mut Scene, ends: u64) -> Result<()> {
        for _ in 0..ends {
            self.end(scene)
                .with_context(|| format!("after {}", self.ends))?;
            self.ends += 1;
            scene.beat();
        }
        let load = self.load(scene, 0);
        child::ask(|| load.open().map(|_| String::new()))?;
        // Of each of these we have waited for one. How many more there are is a matter of how fast
        // the disk syncs.
        let told = self.board.told().load(SeqCst);
        ensure!(
            told > 0 && told >= self.under_way,
            "hardly anything was flushed"
        );
        Ok(())
    }

    /// One process, up to its end.
    fn end(&mut self, scene: &mut Scene) -> Result<()> {
        let random = &mut scene.random;
        let (seed, in_recovery) = (random.u64(..u64::MAX / 2), random.u8(..4) == 0);
        let life = Duration::from_micros(random.u64(..30_000));
        let load = self.load(scene, seed);
        self.board.is_cut().store(0, SeqCst);
        let told = self.board.told().load(SeqCst);
        let mut process = Child::fork(|| load.run())?;
        // Until it has made a promise of its own: a file system that has just been mounted may take
        // longer for its first file than a short life lasts.
        let is_under_way = || self.board.told().load(SeqCst) > told;
        while !in_recovery && !is_under_way() {
            if let Some(end) = process.ended()? {
                bail!("it: {}", child::End(end));
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.under_way += u64::from(!in_recovery);
        thread::sleep(life);
        let Some(disk) = &mut self.disk else {
            return process.destroy();
        };
        // What is promised while the cut is being made does not count: after a real one nobody
        // would be there to hear it.
        let promised = self.board.promised().load(SeqCst);
        self.board.is_cut().store(1, SeqCst);
        disk.cut()?;
        process.destroy()?;
        self.board.promised().store(promised, SeqCst);
        disk.restart()
    }
}
