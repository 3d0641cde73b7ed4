//! One process takes and returns the only permit as fast as it can; another asks politely.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::audit;
use crate::child::Child;
use crate::scene::Scene;
use latchwork::SharedSemaphore;

const STOP: usize = 0;
const HOG: usize = 1;
const POLITE: usize = 2;

/// Whoever has nothing by then is starved. A busy machine may not run a process for seconds.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    let path = scene.semaphore("starve");
    let page = scene.page("starve", 3)?;
    let seconds = scene.choose(2, 10);
    let contender = |cell: usize, pause: Duration| {
        let semaphore = SharedSemaphore::open(&path, 1).expect("open");
        while page.cell(STOP).load(SeqCst) == 0 {
            let permit = semaphore.acquire().expect("acquire");
            page.cell(cell).fetch_add(1, Relaxed);
            // Some work with it.
            (0..500).for_each(|_| std::hint::spin_loop());
            drop(permit);
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        0
    };
    let count = |cell: usize| page.cell(cell).load(Relaxed);
    let has_had_it = |cell: usize| {
        let started = Instant::now();
        while count(cell) == 0 && started.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
            scene.beat();
        }
        count(cell) > 0
    };
    // The hog is at it before the other one asks, and for as long as that one has got nothing: what
    // it gets once the hog has stopped says nothing.
    let hog = Child::fork(|| contender(HOG, Duration::ZERO))?;
    let hog_had_it = has_had_it(HOG);
    let polite = Child::fork(|| contender(POLITE, Duration::from_micros(10)))?;
    for _ in 0..seconds * 10 {
        thread::sleep(Duration::from_millis(100));
        scene.beat();
    }
    let polite_had_it = has_had_it(POLITE);
    page.cell(STOP).store(1, SeqCst);
    let ended = hog.finish().and_then(|()| polite.finish());
    let result = ended.and_then(|()| {
        ensure!(hog_had_it, "the hog got nothing");
        ensure!(polite_had_it, "the polite one got nothing");
        audit::capacity(&path, 1, 1)
    });
    let figures = format!(
        "hog={} polite={} seconds={seconds}",
        count(HOG),
        count(POLITE)
    );
    scene.report("starve", figures, result);
    Ok(())
}
