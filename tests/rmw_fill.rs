//! What ten million keys take, and what a table that grows does to the operation that meets it.
//!
//! `cargo test --release --test rmw_fill -- --ignored --nocapture`; `LATCHWORK_SHARDS` sets the
//! number of shards.
#![cfg(not(latchwork_loom))]

use std::time::{Duration, Instant};

use latchwork::rmw::{MemStore, Rmw, ScanOptions};
use rustix::time::{ClockId, clock_gettime};

const KEYS: u64 = 10_000_000;

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages = statm.split_whitespace().nth(1).unwrap();
    pages.parse::<u64>().unwrap() * 4096
}

/// This thread's time on a processor: what others do on the machine does not count.
fn on_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn longest(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort_unstable_by(|a, b| b.cmp(a));
    times.truncate(8);
    times
}

#[test]
#[ignore = "takes a gigabyte and means something in a release build only"]
fn ten_million_keys_fit_in_the_memory_that_is_accounted() {
    let store = match std::env::var("LATCHWORK_SHARDS") {
        Ok(shards) => MemStore::with_shards(shards.parse().expect("a number")),
        Err(_) => MemStore::new(),
    };
    let rmw = Rmw::builder().store(store).build();
    let before = resident();
    let mut slow = Vec::new();
    let began = Instant::now();
    let mut last = on_cpu();
    for i in 0..KEYS {
        rmw.set(format!("key:{i:012}"), i as i64).unwrap();
        let now = on_cpu();
        if now - last > Duration::from_micros(20) {
            slow.push(now - last);
        }
        last = now;
    }
    let (taken, accounted) = (resident() - before, rmw.stats().memory);
    println!("{KEYS} keys set in {:?}", began.elapsed());
    println!(
        "{} MB resident, {} MB accounted, {} bytes a key",
        taken >> 20,
        accounted >> 20,
        accounted / KEYS
    );
    println!(
        "{} over 20 µs, the longest sets: {:?}",
        slow.len(),
        longest(slow)
    );

    let (mut cursor, mut found, mut calls) = (0, 0, Vec::new());
    let options = ScanOptions::new().count(100);
    loop {
        let began = on_cpu();
        let page = rmw.scan(cursor, &options);
        calls.push(on_cpu() - began);
        found += page.keys.len() as u64;
        cursor = page.cursor;
        if cursor == 0 {
            break;
        }
    }
    println!(
        "{} calls of scan, the longest: {:?}",
        calls.len(),
        longest(calls)
    );
    assert_eq!(found, KEYS);
    let began = Instant::now();
    rmw.clear().unwrap();
    println!("cleared in {:?}", began.elapsed());
    let ratio = taken as f64 / accounted as f64;
    assert!((0.9..1.1).contains(&ratio), "{taken} and {accounted}");
}
