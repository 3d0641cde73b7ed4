//! A process that appends on several threads is killed at random moments, time and again.
//!
//! The log goes on in the next process, which must find what was acknowledged. Whatever the log's
//! durability, a record whose append has returned survives the process.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use latchwork::fs::RealFs;
use latchwork::wal::Durability;

use super::load::{Acknowledged, Board, Load};
use crate::child::{self, Child};
use crate::scene::Scene;

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    let started = Instant::now();
    let board = Board::new(scene.page("kill", Board::CELLS)?);
    let kills = scene.choose(400, 5_000);
    let mut done = 0;
    let result = storm(scene, &board, kills, &mut done);
    let figures = format!(
        "kills={done} acknowledged={} openings={} snapshots={} seconds={:.1}",
        board.all_acknowledged().iter().sum::<u64>(),
        board.opened().load(SeqCst),
        board.snapshots().load(SeqCst),
        started.elapsed().as_secs_f64()
    );
    scene.report("kill", figures, result);
    Ok(())
}

fn storm(scene: &mut Scene, board: &Board, kills: u64, done: &mut u64) -> Result<()> {
    let dir = scene.path("kill-log");
    let acknowledged = Acknowledged::Appended;
    for _ in 0..kills {
        let random = &mut scene.random;
        let load = Load {
            dir: dir.clone(),
            fs: Arc::new(RealFs::new()),
            durability: Load::random_durability(acknowledged, random),
            segment_bytes: 4096 << (2 * random.u32(..5)),
            acknowledged,
            board,
            seed: random.u64(..u64::MAX / 2),
        };
        // Some are killed while they recover.
        let in_recovery = random.u8(..4) == 0;
        let life = Duration::from_micros(random.u64(..20_000));
        let opened = board.opened().load(SeqCst);
        let mut writer = Child::fork(|| load.run())?;
        while !in_recovery && board.opened().load(SeqCst) == opened {
            if let Some(end) = writer.ended()? {
                bail!("a writer: {}", child::End(end));
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(life);
        writer.destroy().context("a writer")?;
        *done += 1;
        scene.beat();
    }
    child::ask(|| {
        let load = Load {
            dir,
            fs: Arc::new(RealFs::new()),
            durability: Durability::Sync,
            segment_bytes: 1 << 20,
            acknowledged,
            board,
            seed: 0,
        };
        let (wal, _) = load.open()?;
        wal.close()?;
        Ok(String::new())
    })?;
    Ok(())
}
