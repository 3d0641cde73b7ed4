//! Opening, making and removing files, and what is no file of the library's.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::OpenError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::Place;

fn refused(path: impl AsRef<Path>) -> OpenError {
    let path = path.as_ref();
    let error = SharedSemaphore::open(path, 1).unwrap_err();
    assert_eq!(error.path(), path);
    let at = format!("could not open {}: ", path.display());
    assert!(error.to_string().starts_with(&at), "{error}");
    let existing = SharedSemaphore::builder(path).existing_only(true).open();
    assert_eq!(existing.unwrap_err().to_string(), error.to_string());
    error
}

/// Which of its predicates say yes.
fn kinds(error: &OpenError) -> [bool; 5] {
    [
        error.is_not_found(),
        error.is_mismatch(),
        error.is_invalid(),
        error.is_refused(),
        error.is_full(),
    ]
}

const NOT_FOUND: [bool; 5] = [true, false, false, false, false];
const MISMATCH: [bool; 5] = [false, true, false, false, false];
const INVALID: [bool; 5] = [false, false, true, false, false];
const REFUSED: [bool; 5] = [false, false, false, true, false];
const FULL: [bool; 5] = [false, false, false, false, true];

#[test]
fn a_file_is_its_owner_s_alone_and_whole_at_once() {
    let place = Place::new();
    let semaphore = place.open(300);
    let found = fs::metadata(place.path()).unwrap();
    assert_eq!(found.mode() & 0o7777, 0o600);
    // Its pages are there: one that could not be had later would end the process.
    assert!(found.blocks() * 512 >= found.len());
    assert_eq!((semaphore.max(), semaphore.ceiling()), (300, 300));
    // It has no other name.
    assert_eq!(fs::read_dir(place.directory()).unwrap().count(), 1);
}

#[test]
fn of_those_who_make_it_at_once_all_have_the_same() {
    let place = Place::new();
    let semaphores: Vec<_> = thread::scope(|scope| {
        let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| place.open(8))).collect();
        makers
            .into_iter()
            .map(|maker| maker.join().unwrap())
            .collect()
    });
    let permits: Vec<_> = semaphores
        .iter()
        .map(|semaphore| semaphore.acquire().unwrap())
        .collect();
    for semaphore in &semaphores {
        assert_eq!(semaphore.current(), 8);
    }
    drop(permits);
    assert_eq!(fs::read_dir(place.directory()).unwrap().count(), 1);
}

#[test]
fn other_parameters_than_the_file_s_are_a_mismatch() {
    let place = Place::new();
    let builder = || SharedSemaphore::builder(place.path()).permits(4);
    let _semaphore = builder().max_permits(8).open().unwrap();
    for (other, text) in [
        (
            builder().permits(5).max_permits(8),
            "this is 5, at most 8, not strict",
        ),
        (builder().max_permits(9), "this is 4, at most 9, not strict"),
        (builder(), "this is 4, at most 4, not strict"),
        (
            builder().max_permits(8).strict(true),
            "this is 4, at most 8, strict",
        ),
    ] {
        let error = other.open().unwrap_err();
        assert_eq!(kinds(&error), MISMATCH);
        let file = place.path().display().to_string();
        let made = "it was made for 4 permits, at most 8, not strict";
        assert_eq!(
            error.to_string(),
            format!("could not open {file}: {made}; {text}")
        );
    }
    // What is not in the file may differ.
    let other = builder().max_permits(8).track_holders(true);
    drop(other.on_leak(drop).open().unwrap());
}

#[test]
fn the_number_it_was_made_for_stays_what_openers_say() {
    let place = Place::new();
    let builder = || SharedSemaphore::builder(place.path()).max_permits(8);
    let semaphore = builder().permits(4).open().unwrap();
    semaphore.set_max(6).unwrap();
    let error = builder().permits(6).open().unwrap_err();
    assert_eq!(kinds(&error), MISMATCH);
    assert_eq!(builder().permits(4).open().unwrap().max(), 6);
    drop(semaphore);
    // It stays with the file when nobody has it open.
    assert_eq!(builder().permits(4).open().unwrap().max(), 6);
}

#[test]
fn numbers_that_cannot_be_are_a_mismatch_and_make_nothing() {
    let place = Place::new();
    let builder = || SharedSemaphore::builder(place.path());
    for impossible in [
        builder().permits(0),
        builder().permits(5).max_permits(4),
        builder().permits((1 << 20) + 1),
        builder().max_permits(u32::MAX),
    ] {
        let error = impossible.open().unwrap_err();
        assert_eq!(kinds(&error), MISMATCH, "{error}");
        assert!(error.to_string().contains("1048576"), "{error}");
    }
    assert!(!place.path().exists());
}

#[test]
fn existing_only_makes_nothing_and_takes_what_is_there() {
    let place = Place::new();
    let existing = || SharedSemaphore::builder(place.path()).existing_only(true);
    let error = existing().open().unwrap_err();
    assert_eq!(kinds(&error), NOT_FOUND);
    let at = format!("could not open {}: ", place.path().display());
    assert!(error.to_string().starts_with(&at), "{error}");
    assert!(!place.path().exists());
    let made = SharedSemaphore::builder(place.path())
        .permits(3)
        .max_permits(9);
    let made = made.strict(true).open().unwrap();
    let tool = existing().open().unwrap();
    assert_eq!((tool.max(), tool.ceiling(), tool.is_strict()), (3, 9, true));
    drop(tool.acquire_many(3).unwrap());
    drop(made);
}

#[test]
fn a_removed_semaphore_goes_on_and_its_name_is_free() {
    let place = Place::new();
    assert!(!SharedSemaphore::remove(place.path()).unwrap());
    let old = place.open(1);
    let also_old = place.open(1);
    let _held = old.acquire().unwrap();
    assert!(SharedSemaphore::remove(place.path()).unwrap());
    assert!(!SharedSemaphore::remove(place.path()).unwrap());
    let new = place.open(2);
    assert_eq!((new.current(), new.max()), (0, 2));
    assert!(also_old.try_acquire().is_err());
    let _other = new.acquire_many(2).unwrap();
    assert_eq!((old.current(), also_old.holders().len()), (1, 1));
}

#[test]
fn what_cannot_be_removed_says_why() {
    let place = Place::new();
    let error = SharedSemaphore::remove(place.directory()).unwrap_err();
    let at = format!("could not remove {}: ", place.directory().display());
    assert!(error.to_string().starts_with(&at), "{error}");
    assert!(place.directory().exists());
}

#[test]
fn a_directory_that_is_not_there_is_not_found() {
    let place = Place::new();
    let error = refused(place.directory().join("none/semaphore"));
    assert_eq!(kinds(&error), NOT_FOUND);
    assert!(error.io_error().is_some());
    // A file where a directory has to be.
    fs::write(place.path(), "").unwrap();
    refused(place.path().join("semaphore"));
}

#[test]
fn a_symbolic_link_is_refused() {
    let place = Place::new();
    let _semaphore = place.open(1);
    let link = place.directory().join("link");
    for target in ["semaphore", "nothing", "link", "/dev/null"] {
        symlink(target, &link).unwrap();
        let error = refused(&link);
        assert_eq!(kinds(&error), REFUSED, "{error}");
        assert!(error.to_string().ends_with("it is a symbolic link"));
        // The link goes, not what it leads to.
        assert!(SharedSemaphore::remove(&link).unwrap());
    }
    assert!(place.path().exists());
    assert!(!place.directory().join("nothing").exists());
}

#[test]
fn what_is_no_file_is_refused() {
    let place = Place::new();
    refused(place.directory());
    let fifo = place.directory().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
    assert_eq!(kinds(&refused(&fifo)), REFUSED);
    assert_eq!(kinds(&refused("/dev/null")), REFUSED);
    let socket = place.directory().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    refused(&socket);
    assert!(SharedSemaphore::open(format!("{}/", place.path().display()), 1).is_err());
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let place = Place::new();
    let semaphore = place.open(1);
    for mode in [0o602, 0o620, 0o666] {
        fs::set_permissions(place.path(), Permissions::from_mode(mode)).unwrap();
        let error = refused(place.path());
        assert_eq!(kinds(&error), REFUSED, "{error}");
        let why = "others may write it; take their permission away";
        assert!(error.to_string().ends_with(why), "{error}");
    }
    fs::set_permissions(place.path(), Permissions::from_mode(0o644)).unwrap();
    let _permit = semaphore.acquire().unwrap();
    assert_eq!(place.open(1).current(), 1);
}

#[test]
fn a_foreign_file_is_invalid_and_left_as_it_is() {
    let place = Place::new();
    let sizes = [0, 1, 4095, 4096, 65536, 65537, 69632, 1 << 20, 1 << 24];
    for size in sizes {
        for byte in [0, 0xff, b'l'] {
            let contents = vec![byte; size];
            fs::write(place.path(), &contents).unwrap();
            fs::set_permissions(place.path(), Permissions::from_mode(0o600)).unwrap();
            let error = refused(place.path());
            assert_eq!(kinds(&error), INVALID, "{size}: {error}");
            let text = error.to_string();
            assert!(text.ends_with("; remove it to begin anew"), "{text}");
            assert!(fs::read(place.path()).unwrap() == contents);
        }
    }
    assert!(SharedSemaphore::remove(place.path()).unwrap());
    assert_eq!(place.open(1).available(), 1);
}

#[test]
fn a_file_of_another_size_is_invalid() {
    let place = Place::new();
    drop(place.open(1));
    let file = File::options().write(true).open(place.path()).unwrap();
    let whole = file.metadata().unwrap().len();
    for size in [
        whole - 1,
        whole + 1,
        whole - 4096,
        whole + 4096,
        4096,
        256,
        80,
        1,
        0,
        1 << 40,
    ] {
        // Only the end is lost, or zeros are added.
        file.set_len(size).unwrap();
        assert_eq!(kinds(&refused(place.path())), INVALID, "{size}");
    }
}

#[test]
fn one_more_than_there_is_room_for_is_told_so() {
    let place = Place::new();
    let limit = getrlimit(Resource::Nofile);
    let more = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, more).unwrap();
    let mut semaphores: Vec<_> = (0..960).map(|_| place.open(1)).collect();
    let full = || SharedSemaphore::open(place.path(), 1).unwrap_err();
    let error = full();
    assert_eq!(kinds(&error), FULL);
    let file = place.path().display().to_string();
    let why = "960 processes have it open, or left a descriptor to one that lives: no more can";
    assert_eq!(
        error.to_string(),
        format!("could not attach to {file}: {why}")
    );
    // A permit keeps the place of its handle.
    let _permit = semaphores.pop().unwrap().acquire().unwrap().into_owned();
    assert_eq!(kinds(&full()), FULL);
    drop(semaphores.pop());
    assert_eq!(place.open(1).current(), 1);
}
