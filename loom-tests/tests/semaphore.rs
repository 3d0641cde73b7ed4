//! Models of the semaphore.
#![cfg(latchwork_loom)]

use latchwork::Semaphore;
use latchwork::model::{model, thread};

/// Catches a release whose wake-up is lost.
#[test]
fn acquire_and_release() {
    model(|| {
        let semaphore = Semaphore::new(1).unwrap();
        let other = thread::spawn({
            let semaphore = semaphore.clone();
            move || drop(semaphore.acquire().unwrap())
        });
        drop(semaphore.acquire().unwrap());
        other.join().unwrap();
        assert_eq!(semaphore.available(), 1);
    });
}
