//! A shared semaphore under many threads: what is exclusive stays so, and nothing is lost.
//!
//! The permits protect a plain cell like a readers-writer lock: all of them are needed to write
//! it, any to read. The threads use one attachment: two would reach the same words at two
//! addresses, and ThreadSanitizer would not see what orders them.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{AcquireTimeoutError, TryAcquireError};
use support::plain::Plain;
use support::{Storm, await_state, expect_planned_panic, panic_quietly, size};

const PERMITS: u32 = 3;
const CEILING: u32 = 8;
const HOUR: Duration = Duration::from_secs(3600);

/// A semaphore whose file has no name any more.
fn semaphore(name: &str) -> SharedSemaphore {
    let file = format!("latchwork-{name}-{}", std::process::id());
    let path = std::env::temp_dir().join(file);
    let builder = SharedSemaphore::builder(&path).permits(PERMITS);
    let semaphore = builder.max_permits(CEILING).open().unwrap();
    SharedSemaphore::remove(&path).unwrap();
    semaphore
}

#[track_caller]
fn assert_quiet(semaphore: &SharedSemaphore) {
    let stats = semaphore.stats();
    assert_eq!((stats.current, stats.waiters), (0, 0), "{stats:?}");
    assert_eq!((stats.reaped, stats.expired, stats.lost), (0, 0, 0));
    let all = semaphore.try_acquire_many(stats.max).unwrap();
    assert_eq!(all.count(), stats.max);
}

#[test]
fn permits_exclude_and_none_is_lost() {
    let storm = Storm::new("permits_exclude_and_none_is_lost");
    let semaphore = semaphore("permits-exclude");
    let cell = Plain::new(0);
    let in_use = AtomicU32::new(0);
    // Relaxed: the permits have to order these by themselves.
    let enter = |weight| {
        let now = in_use.fetch_add(weight, Ordering::Relaxed) + weight;
        assert!(now <= PERMITS, "{now}");
    };
    let leave = |weight| in_use.fetch_sub(weight, Ordering::Relaxed);
    let written: i64 = storm
        .run(6, |_, rng| {
            let mut written = 0;
            for _ in 0..size(8_000, 200_000) {
                match rng.u32(..8) {
                    0 | 1 => {
                        let all = semaphore.acquire_many(PERMITS).unwrap();
                        enter(PERMITS);
                        cell.add(1, rng);
                        leave(PERMITS);
                        written += 1;
                        drop(all);
                    }
                    2 => match semaphore.try_acquire() {
                        Ok(_permit) => {
                            enter(1);
                            cell.get();
                            leave(1);
                        }
                        Err(refused) => assert_eq!(refused, TryAcquireError::WouldBlock),
                    },
                    3 => {
                        let timeout = Duration::from_micros(rng.u64(..100));
                        match semaphore.acquire_many_timeout(2, timeout) {
                            Ok(_permits) => {
                                enter(2);
                                cell.get();
                                leave(2);
                            }
                            Err(refused) => assert_eq!(refused, AcquireTimeoutError::TimedOut),
                        }
                    }
                    4 => {
                        let _lease = semaphore.acquire_leased(HOUR).unwrap();
                        enter(1);
                        cell.get();
                        leave(1);
                    }
                    5 => {
                        let (send, told) = mpsc::channel();
                        let pending = semaphore.acquire_with(move |permit| {
                            let _ = send.send(permit.unwrap());
                        });
                        if rng.bool() && pending.cancel() {
                            continue;
                        }
                        // Cancelled too late, or not at all.
                        let _permit = told.recv().unwrap();
                        enter(1);
                        cell.get();
                        leave(1);
                    }
                    6 => expect_planned_panic(|| {
                        let _permit = semaphore.acquire().unwrap();
                        panic_quietly();
                    }),
                    _ => {
                        let _permit = semaphore.acquire().unwrap();
                        enter(1);
                        cell.get();
                        leave(1);
                    }
                }
            }
            written
        })
        .into_iter()
        .sum();
    assert_eq!(cell.get(), written);
    // A permit for a callback that was cancelled just before its call is still on its way back.
    await_state((0, 0), || {
        let stats = semaphore.stats();
        (stats.current, stats.waiters)
    });
    assert_quiet(&semaphore);
}

#[test]
fn changes_of_the_number_leave_nothing_behind() {
    let storm = Storm::new("changes_of_the_number_leave_nothing_behind");
    let semaphore = semaphore("changes-of-the-number");
    let in_use = AtomicU32::new(0);
    storm.run(6, |index, rng| {
        for _ in 0..size(5_000, 100_000) {
            if index == 0 {
                semaphore.set_max(rng.u32(1..=CEILING)).unwrap();
            } else {
                let weight = rng.u32(1..=2);
                // What cannot be had for a while is not waited for.
                let timeout = Duration::from_micros(rng.u64(..200));
                if let Ok(permits) = semaphore.acquire_many_timeout(weight, timeout) {
                    assert_eq!(permits.count(), weight);
                    let now = in_use.fetch_add(weight, Ordering::Relaxed) + weight;
                    assert!(now <= CEILING, "{now}");
                    in_use.fetch_sub(weight, Ordering::Relaxed);
                }
            }
        }
    });
    semaphore.set_max(PERMITS).unwrap();
    assert_quiet(&semaphore);
}
