//! Files that were written over: an error, or what the file says, and never a panic or an endless
//! loop.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::mpsc;
use std::time::Duration;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{AcquireError, AcquireTimeoutError, OpenError, TryAcquireError};

use crate::random::Random;
use crate::support::{HOUR, Place};

const PERMITS: u32 = 4;
/// Where the words begin that change while the file is used.
const WORDS: usize = 256;
/// Where the processes begin that have it open, and where the permits.
const SLOTS: usize = 4096;
const CELLS: usize = 65536;

fn write(place: &Place, contents: &[u8]) {
    // In place, as whoever writes over it does; not another file.
    let file = File::options().write(true).open(place.path()).unwrap();
    file.write_all_at(contents, 0).unwrap();
}

/// Uses whatever is there in every way. Nothing of it waits for long.
fn use_all(semaphore: &SharedSemaphore) {
    let soon = Duration::from_millis(1);
    for _ in 0..2 {
        assert!(semaphore.max() <= semaphore.ceiling());
        assert!(semaphore.available() <= semaphore.max());
        let _ = semaphore.current();
        let _ = semaphore.waiters();
        let _ = semaphore.holders();
        let _ = semaphore.waiting();
        let _ = semaphore.stats();
        let _ = format!("{semaphore:?}");
        let permit = semaphore.try_acquire();
        let several = semaphore.try_acquire_many(2);
        let _ = semaphore.acquire_timeout(soon);
        let _ = semaphore.acquire_many_timeout(2, soon);
        if let Ok(lease) = semaphore.acquire_leased_timeout(soon, soon) {
            let _ = lease.renew(soon);
        }
        drop(semaphore.acquire_with(drop));
        drop(semaphore.acquire_many_with(2, drop));
        drop((permit, several));
        semaphore.set_max(1).unwrap();
        semaphore.set_max(semaphore.ceiling()).unwrap();
    }
    semaphore.close();
    assert!(semaphore.acquire().is_err());
}

fn is_told(error: &OpenError) -> bool {
    error.is_invalid() || error.is_mismatch()
}

/// Calls `look` with a semaphore of which a bit, or all bits, of one byte of the header are
/// flipped.
fn with_each_byte_flipped(look: impl Fn(&Place, usize, u8)) {
    let place = Place::new();
    drop(place.open(PERMITS));
    let whole = fs::read(place.path()).unwrap();
    for byte in 0..80 {
        for flip in [0x01, 0x80, 0xff] {
            SharedSemaphore::remove(place.path()).unwrap();
            drop(place.open(PERMITS));
            let mut changed = whole.clone();
            changed[byte] ^= flip;
            write(&place, &changed);
            look(&place, byte, flip);
        }
    }
}

#[test]
fn every_byte_of_the_header_that_means_something_is_checked() {
    with_each_byte_flipped(|place, byte, flip| {
        let number = fs::metadata(place.path()).unwrap().ino();
        let opened = SharedSemaphore::open(place.path(), PERMITS);
        let said = format!("byte {byte} ^ {flip}: {opened:?}");
        let is_same = fs::metadata(place.path()).unwrap().ino() == number;
        match byte {
            // What it is, of which version, how it is laid out, how long, and for whom.
            0..24 | 56..60 => assert!(opened.unwrap_err().is_invalid(), "{said}"),
            // Of another boot of the machine: all who had it are gone, and it is made anew.
            24..40 => {
                let opened = opened.expect(&said);
                assert!(!is_same, "{said}");
                assert_eq!(opened.available(), PERMITS);
                use_all(&opened);
            }
            60..72 => assert!(is_told(&opened.unwrap_err()), "{said}"),
            // Its own number, and nothing.
            _ => {
                assert!(is_same, "{said}");
                use_all(&opened.expect(&said));
            }
        }
    });
}

#[test]
fn tools_get_an_error_or_something_to_look_at() {
    with_each_byte_flipped(|place, byte, flip| {
        let tool = SharedSemaphore::builder(place.path()).existing_only(true);
        match tool.open() {
            Ok(semaphore) => use_all(&semaphore),
            // Another boot's: who makes nothing finds nothing.
            Err(error) if (24..40).contains(&byte) => assert!(error.is_not_found()),
            Err(error) => assert!(is_told(&error), "byte {byte} ^ {flip}: {error}"),
        }
    });
}

/// Numbers that are read as sizes, one by one and with others that fit them.
#[test]
fn a_header_that_asks_for_much_gets_nothing() {
    let place = Place::new();
    drop(place.open(PERMITS));
    let whole = fs::read(place.path()).unwrap();
    for cells in [0, 5, 1 << 20, (1 << 20) + 1, 1 << 27, u32::MAX] {
        for size in [
            0,
            whole.len() as u64,
            CELLS as u64 + 32 * u64::from(cells),
            u64::MAX,
        ] {
            let mut changed = whole.clone();
            changed[16..24].copy_from_slice(&size.to_ne_bytes());
            changed[60..64].copy_from_slice(&cells.to_ne_bytes());
            write(&place, &changed);
            let error = SharedSemaphore::open(place.path(), PERMITS).unwrap_err();
            assert!(is_told(&error), "{cells} {size}: {error}");
        }
    }
}

#[test]
fn garbage_behind_the_header_is_no_panic_and_no_endless_loop() {
    let mut random = Random::new("garbage_behind_the_header_is_no_panic_and_no_endless_loop");
    let place = Place::new();
    for round in 0..60 {
        SharedSemaphore::remove(place.path()).unwrap();
        drop(place.open(PERMITS));
        let mut contents = fs::read(place.path()).unwrap();
        let sparse = round % 3;
        for word in contents[WORDS..].chunks_exact_mut(8) {
            if sparse == 0 || random.next() % 4 < sparse {
                word.copy_from_slice(&random.next().to_ne_bytes());
            }
        }
        write(&place, &contents);
        match SharedSemaphore::open(place.path(), PERMITS) {
            Ok(semaphore) => use_all(&semaphore),
            Err(error) => assert!(error.is_invalid() || error.is_full(), "{error}"),
        }
    }
}

#[test]
fn garbage_that_comes_while_it_is_used_is_no_panic_and_no_endless_loop() {
    let mut random = Random::new("garbage_that_comes_while_it_is_used");
    let place = Place::new();
    for round in 0..60 {
        SharedSemaphore::remove(place.path()).unwrap();
        let semaphore = place.open(PERMITS);
        let permit = semaphore.acquire().unwrap();
        let lease = semaphore.acquire_leased(Duration::from_secs(60)).unwrap();
        let mut contents = fs::read(place.path()).unwrap();
        let from = [WORDS, SLOTS, CELLS][round % 3];
        for word in contents[from..].chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_ne_bytes());
        }
        write(&place, &contents);
        use_all(&semaphore);
        drop(permit);
        let _ = lease.renew(Duration::from_secs(60));
        let _ = lease.release();
    }
}

#[test]
fn who_was_written_over_is_told_that_it_has_no_place() {
    let place = Place::new();
    let semaphore = place.open(PERMITS);
    let permits = semaphore.acquire_many(PERMITS).unwrap();
    let mut contents = fs::read(place.path()).unwrap();
    contents[SLOTS..CELLS].fill(0);
    write(&place, &contents);
    assert_eq!(semaphore.acquire().unwrap_err(), AcquireError::Detached);
    let refused = semaphore.try_acquire().unwrap_err();
    assert_eq!(refused, TryAcquireError::Detached);
    assert!(refused.to_string().contains("open it again"), "{refused}");
    let refused = semaphore.acquire_many_timeout(2, HOUR).unwrap_err();
    assert_eq!(refused, AcquireTimeoutError::Detached);
    let (send, told) = mpsc::channel();
    let _pending = semaphore.acquire_with(move |permit| send.send(permit).unwrap());
    let refused = told.recv().unwrap().unwrap_err();
    assert_eq!(refused, AcquireError::Detached);
    // The others take it for dead.
    let anew = place.open(PERMITS);
    assert_eq!(anew.try_acquire_many(PERMITS).unwrap().count(), PERMITS);
    drop(permits);
    assert_eq!(semaphore.stats().lost, u64::from(PERMITS));
}
