//! A long line of callbacks, each of which gives back what it was given, and so serves the next.
//!
//! That is what an event loop with many clients registers. Serving them must not nest: the stack of
//! whoever releases is not as deep as the line is long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use latchwork::{LatchTable, Semaphore};

const LINE: u64 = 100_000;

#[test]
fn a_long_line_for_permits_is_served_without_nesting() {
    let semaphore = Semaphore::new(1).unwrap();
    let run = Arc::new(AtomicU64::new(0));
    let held = semaphore.acquire().unwrap();
    let pending: Vec<_> = (0..LINE)
        .map(|_| {
            let run = run.clone();
            semaphore.acquire_with(move |permit| {
                drop(permit);
                run.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    drop(held);
    assert_eq!(run.load(Ordering::Relaxed), LINE);
    drop(pending);
    assert_eq!((semaphore.available(), semaphore.waiters()), (1, 0));
}

#[test]
fn a_long_line_for_a_latch_is_served_without_nesting() {
    let table = LatchTable::<str>::builder()
        .max_waiters(LINE as usize)
        .build()
        .unwrap();
    let run = Arc::new(AtomicU64::new(0));
    let held = table.latch("key").unwrap();
    let pending: Vec<_> = (0..LINE)
        .map(|_| {
            let run = run.clone();
            table.latch_with("key", move |latch| {
                drop(latch.unwrap());
                run.fetch_add(1, Ordering::Relaxed);
            })
        })
        .collect();
    drop(held);
    assert_eq!(run.load(Ordering::Relaxed), LINE);
    drop(pending);
    assert_eq!((table.held(), table.waiters()), (0, 0));
}
