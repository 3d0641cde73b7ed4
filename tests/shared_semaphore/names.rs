//! Where a name is. Each of these processes has an environment of its own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use latchwork::SharedSemaphore;

use crate::support::{Peer, Place};

const RUNTIME: &str = "XDG_RUNTIME_DIR";

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_name_stands_in_the_runtime_directory() {
    let place = Place::new();
    let runtime = place.directory();
    for _ in 0..2 {
        let mut child = Peer::start(|command| {
            command.env(RUNTIME, runtime);
        });
        let path = runtime.join("latchwork").join("jobs");
        assert_eq!(child.ask("make jobs"), path.to_str().unwrap());
        assert_eq!(
            (mode(&runtime.join("latchwork")), mode(&path)),
            (0o700, 0o600)
        );
        child.ask("take 1");
        let semaphore = SharedSemaphore::open(&path, 1).unwrap();
        assert_eq!(semaphore.holders()[0].pid, child.pid());
    }
}

#[test]
fn a_name_stands_in_shared_memory_where_there_is_no_runtime_directory() {
    for empty in [false, true] {
        let name = format!("latchwork-test-{}-{empty}", std::process::id());
        let mut child = Peer::start(|command| {
            command.env_remove(RUNTIME);
            if empty {
                command.env(RUNTIME, "");
            }
        });
        let user = rustix::process::geteuid().as_raw();
        let directory = Path::new("/dev/shm").join(format!("latchwork-{user}"));
        let path = directory.join(&name);
        assert_eq!(child.ask(&format!("make {name}")), path.to_str().unwrap());
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
        assert!(SharedSemaphore::remove(&path).unwrap());
    }
}

#[test]
fn a_directory_that_others_may_write_in_is_refused() {
    let place = Place::new();
    let directory = place.directory().join("latchwork");
    let make = || {
        let mut child = Peer::start(|command| {
            command.env(RUNTIME, place.directory());
        });
        child.ask("make jobs")
    };
    let at = format!("could not make {}: ", directory.display());
    fs::create_dir(&directory).unwrap();
    for bits in [0o777, 0o770, 0o702] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(bits)).unwrap();
        let text = "others may write in it; take their permission away";
        assert_eq!(make(), format!("{at}{text}"));
    }
    fs::remove_dir(&directory).unwrap();
    let elsewhere = place.directory().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &directory).unwrap();
    assert_eq!(make(), format!("{at}it is no directory"));
    fs::remove_file(&directory).unwrap();
    fs::write(&directory, "").unwrap();
    assert_eq!(make(), format!("{at}it is no directory"));
}

#[test]
fn a_runtime_directory_that_is_not_there_is_not_made() {
    let place = Place::new();
    let mut child = Peer::start(|command| {
        command.env(RUNTIME, place.directory().join("none"));
    });
    let text = child.ask("make jobs");
    let directory = place.directory().join("none/latchwork");
    let at = format!("could not make {}: ", directory.display());
    assert!(text.starts_with(&at), "{text}");
}

#[test]
fn names_that_are_paths_are_refused() {
    for name in ["", ".", "..", "a/b", "../a", "./a", "a/.."] {
        let error = SharedSemaphore::open(name, 1).unwrap_err();
        assert!(error.is_refused(), "{name}: {error}");
        let text = error.to_string();
        let why = "a name has no slashes; a path starts with one";
        assert_eq!(text, format!("could not open {name}: {why}"));
        assert!(SharedSemaphore::remove(name).unwrap_err().is_refused());
    }
}
