//! Leases while their holders are stopped and killed: none is granted beside as many others as
//! there are permits, while those last, and each has a larger token than all before.
//!
//! A worker publishes until when its lease lasts, and takes that back before it gives the lease up.
//! Whoever has been granted one reads what all have published, twice. When nothing has changed,
//! nobody was being killed meanwhile, and as many others as there are permits last still, then they
//! all did at one moment, and this one is too many.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::SharedLease;
use nix::sys::signal::Signal;

use super::audit;
use crate::child::Child;
use crate::page::Page;
use crate::scene::{Scene, now};

const PERMITS: u32 = 2;
const WORKERS: usize = 6;

const STOP: usize = 0;
/// Odd while somebody is being killed.
const KILLS: usize = 1;
const NEWEST: usize = 2;
const GRANTED: usize = 3;
const WRONG: usize = 4;
const LOST: usize = 5;
/// For each worker: the microsecond at which its lease is over 48 | serial 16; 0 without one.
const LEASES: usize = 6;

pub(super) fn run(scene: &mut Scene) -> Result<()> {
    let started = Instant::now();
    let path = scene.semaphore("leases");
    let page = scene.page("leases", LEASES + WORKERS)?;
    let (kills, stops) = scene.choose((200, 200), (5_000, 5_000));
    let result = disturb(scene, &path, &page, kills, stops);
    let count = |cell: usize| page.cell(cell).load(Relaxed);
    let figures = format!(
        "kills={kills} stops={stops} granted={} lost={} seconds={:.1}",
        count(GRANTED),
        count(LOST),
        started.elapsed().as_secs_f64()
    );
    scene.report("leases", figures, result);
    Ok(())
}

fn disturb(scene: &mut Scene, path: &Path, page: &Page, kills: u32, stops: u32) -> Result<()> {
    let start = |scene: &mut Scene, slot: usize| {
        let seed = scene.random.u64(..);
        Child::fork(|| match work(path, page, slot, seed) {
            Ok(()) => 0,
            Err(error) => {
                println!("  worker {slot}: {error:#}");
                1
            }
        })
    };
    let mut workers = Vec::new();
    for slot in 0..WORKERS {
        workers.push(start(scene, slot)?);
    }
    for turn in 0..kills + stops {
        thread::sleep(Duration::from_micros(scene.random.u64(..3_000)));
        let slot = scene.random.usize(..WORKERS);
        if turn % 2 == 0 {
            page.cell(KILLS).fetch_add(1, SeqCst);
            workers.swap_remove(slot).destroy().context("a worker")?;
            page.cell(LEASES + slot).store(0, SeqCst);
            page.cell(KILLS).fetch_add(1, SeqCst);
            workers.push(start(scene, slot)?);
            workers.swap(slot, WORKERS - 1);
        } else {
            workers[slot].signal(Signal::SIGSTOP)?;
            thread::sleep(Duration::from_micros(scene.random.u64(..12_000)));
            workers[slot].signal(Signal::SIGCONT)?;
        }
        ensure!(page.cell(WRONG).load(SeqCst) == 0, "a lease too many");
        scene.beat();
    }
    page.cell(STOP).store(1, SeqCst);
    for worker in workers {
        worker.finish().context("a worker")?;
    }
    audit::capacity(path, PERMITS, PERMITS)
}

fn work(path: &Path, page: &Page, slot: usize, seed: u64) -> Result<()> {
    let semaphore = SharedSemaphore::open(path, PERMITS).context("open")?;
    let mut random = fastrand::Rng::with_seed(seed);
    let newest = page.cell(NEWEST);
    let mut publisher = Publisher {
        cell: page.cell(LEASES + slot),
        serial: 0,
    };
    while page.cell(STOP).load(SeqCst) == 0 {
        let before = newest.load(SeqCst);
        let lease = semaphore.acquire_leased(Duration::from_millis(random.u64(1..8)))?;
        let token = lease.token();
        let seen = newest.fetch_max(token, SeqCst);
        ensure!(token > before, "token {token} after {before}");
        ensure!(token != seen, "token {token} twice");
        page.cell(GRANTED).fetch_add(1, Relaxed);
        let lasts = publisher.publish(&lease);
        if is_one_too_many(page, slot, lasts) {
            page.cell(WRONG).fetch_add(1, SeqCst);
        }
        for _ in 0..random.u8(..3) {
            thread::sleep(Duration::from_micros(random.u64(..3_000)));
            let ttl = Duration::from_millis(random.u64(1..8));
            if ttl < lease.remaining() {
                // What is published would outlast it, if this is stopped before the next one.
                publisher.take_back();
            }
            if lease.renew(ttl).is_ok() {
                publisher.publish(&lease);
            } else {
                page.cell(LOST).fetch_add(1, Relaxed);
            }
        }
        publisher.take_back();
        drop(lease);
    }
    Ok(())
}

struct Publisher<'p> {
    cell: &'p AtomicU64,
    serial: u64,
}

impl Publisher<'_> {
    /// Publishes a moment that is not after the lease's end, and returns it.
    fn publish(&mut self, lease: &SharedLease) -> u64 {
        let base = now();
        let left = lease.expires_at().saturating_duration_since(Instant::now());
        let until = (base + left).as_micros() as u64;
        self.serial = (self.serial + 1) & 0xffff;
        self.cell.store(until << 16 | self.serial, SeqCst);
        until
    }

    fn take_back(&self) {
        self.cell.store(0, SeqCst);
    }
}

fn is_one_too_many(page: &Page, slot: usize, lasts: u64) -> bool {
    let look = || -> Vec<u64> {
        let others = (0..WORKERS).filter(|other| *other != slot);
        let leases = others.map(|other| page.cell(LEASES + other).load(SeqCst));
        leases.collect()
    };
    let kills = page.cell(KILLS).load(SeqCst);
    let first = look();
    let is_same = look() == first;
    let time = now().as_micros() as u64;
    let is_quiet = kills.is_multiple_of(2) && page.cell(KILLS).load(SeqCst) == kills;
    let others = first.iter().filter(|lease| **lease >> 16 > time).count();
    is_same && is_quiet && lasts > time && others >= PERMITS as usize
}
