use std::path::Path;

use super::scan::Source;
use super::{Violation, check};

fn violations(files: &[(&str, &str)]) -> Vec<Violation> {
    let sources: Vec<Source> = files
        .iter()
        .map(|(file, text)| Source::parse(Path::new(file), text).expect("the sample lexes"))
        .collect();
    check(&sources)
}

/// The lines of one file that violate something.
fn lines(file: &str, text: &str) -> Vec<usize> {
    violations(&[(file, text)])
        .iter()
        .filter(|violation| !violation.warning)
        .map(|violation| violation.line)
        .collect()
}

#[test]
fn reserved_names_are_found_wherever_they_stand() {
    assert_eq!(lines("latch.rs", "use std::sync::Arc;"), [1]);
    assert_eq!(
        lines("latch.rs", "\nuse std::{fmt, thread::{self, Thread}};"),
        [2, 2]
    );
    assert_eq!(
        lines(
            "latch.rs",
            "use core::{\n fmt,\n sync::atomic::AtomicU32 };"
        ),
        [3]
    );
    assert_eq!(
        lines("latch.rs", "fn f() {\n std::thread::yield_now() }"),
        [2]
    );
    assert_eq!(
        lines("latch.rs", "fn f(x: ::parking_lot::Mutex<u8>) {}"),
        [1]
    );
    assert_eq!(lines("latch.rs", "m!(vec![loom::model(f)]);"), [1]);
    assert_eq!(lines("latch.rs", "extern crate loom;"), [1]);
    assert_eq!(lines("latch.rs", "use libc;"), [1]);
    assert_eq!(lines("sync/native.rs", "use rustix::thread::futex;"), [1]);
    assert_eq!(
        lines("latch/table.rs", "thread_local!(static X: u8 = 1);"),
        [1]
    );
}

#[test]
fn reserved_names_are_free_in_their_rooms() {
    assert_eq!(
        lines("sync.rs", "use std::sync::Arc; use loom::thread;"),
        [0; 0]
    );
    assert_eq!(
        lines(
            "sync/native.rs",
            "use parking_lot::Mutex; thread_local!(static X: u8 = 1);"
        ),
        [0; 0]
    );
    assert_eq!(
        lines("os/futex.rs", "use rustix::thread::futex; use libc::c_int;"),
        [0; 0]
    );
    assert_eq!(
        lines(
            "latch.rs",
            "use crate::sync::thread_local; thread_local!(static X: u8 = 1);"
        ),
        [0; 0]
    );
}

#[test]
fn comments_strings_and_other_paths_do_not_count() {
    let text = r##"
        //! std::thread::spawn, loom
        /// use std::sync::Arc;
        #[doc = "libc::c_int"]
        /* rustix::io /* nested */ loom::model */
        const A: &str = r#"std::sync::Arc "quoted" "#;
        const B: u8 = b'"'; const C: &str = "latchwork_loom"; fn f<'std>(x: &'std u8) {}
        fn g(loom: u8, libc: u8) -> u8 { loom + libc + crate::sync::thread::count() + self::loom::f() }
        #[cfg(feature = "loom")] mod x {}
    "##;
    assert_eq!(lines("latch.rs", text), [0; 0]);
}

#[test]
fn std_cannot_be_hidden() {
    assert_eq!(lines("latch.rs", "use std as s;"), [1]);
    assert_eq!(lines("latch.rs", "use std::*;"), [1]);
    assert_eq!(lines("latch.rs", "use std::{self as s};"), [1]);
    assert_eq!(lines("latch.rs", "use std::{fmt, io as i};"), [0; 0]);
}

#[test]
fn no_import_runs_upwards() {
    assert_eq!(lines("sync.rs", "use crate::waiter::Queue;"), [1]);
    assert_eq!(lines("os/clock.rs", "use super::super::holder;"), [1]);
    assert_eq!(lines("waiter.rs", "fn f() { crate::semaphore::g() }"), [1]);
    assert_eq!(lines("latch.rs", "use crate::model;"), [1]);
    assert_eq!(
        lines("waiter.rs", "use crate::{holder, sync::Arc, os};"),
        [0; 0]
    );
    assert_eq!(lines("sync/native.rs", "use crate::os::futex;"), [0; 0]);
}

#[test]
fn a_component_imports_no_other_component() {
    assert_eq!(
        lines("latch/table.rs", "use crate::semaphore::Permit;"),
        [1]
    );
    assert_eq!(lines("latch.rs", "use super::rmw::Store;"), [1]);
    assert_eq!(lines("latch/table.rs", "use super::super::semaphore;"), [1]);
    assert_eq!(
        lines("latch.rs", "mod tests { use super::super::semaphore; }"),
        [1]
    );
    assert_eq!(
        lines("latch.rs", "mod tests { use super::semaphore; }"),
        [0; 0]
    );
    assert_eq!(lines("latch.rs", "use crate::{sync, map::Replica};"), [1]);
    assert_eq!(
        lines("rmw/store.rs", "use crate::latch::LatchTable;"),
        [0; 0]
    );
    assert_eq!(
        lines("rmw/store.rs", "use crate::semaphore::Semaphore;"),
        [1]
    );
    assert_eq!(
        lines("flush.rs", "use crate::semaphore::Semaphore;"),
        [0; 0]
    );
    assert_eq!(lines("map.rs", "use crate::wal::Log;"), [0; 0]);
}

#[test]
fn a_re_export_is_no_way_around_the_floors() {
    let lib = (
        "lib.rs",
        "pub use latch::{LatchTable as Table, Latch}; pub use crate::semaphore::Semaphore;",
    );
    let broken = |file, text| violations(&[lib, (file, text)]).len();
    assert_eq!(broken("flush.rs", "use crate::Table;"), 1);
    assert_eq!(broken("flush.rs", "use crate::Semaphore;"), 0);
    assert_eq!(broken("latch.rs", "use crate::{Semaphore, Latch};"), 1);
    assert_eq!(broken("waiter.rs", "fn f() -> crate::Latch { }"), 1);
    assert_ne!(broken("waiter.rs", "use crate::*;"), 0);
}

#[test]
fn a_room_without_a_floor_is_named() {
    let found = violations(&[("attic.rs", "")]);
    assert!(
        found.len() == 1 && found[0].what.contains("`attic`"),
        "{found:?}"
    );
}

#[test]
fn the_model_cfg_stays_on_the_ground_floor() {
    assert_eq!(
        lines("latch.rs", "#[cfg(\n  not(latchwork_loom))]\nfn f() {}"),
        [2]
    );
    assert_eq!(
        lines("os/clock.rs", "fn f() { if cfg!(latchwork_loom) {} }"),
        [1]
    );
    for file in [
        "lib.rs",
        "sync.rs",
        "sync/native.rs",
        "os.rs",
        "model.rs",
        "model/clock.rs",
    ] {
        assert_eq!(
            lines(file, "#[cfg(latchwork_loom)] fn f() {}"),
            [0; 0],
            "{file}"
        );
    }
}

#[test]
fn unsafe_code_is_allowed_in_leaves_only() {
    assert_eq!(lines("latch.rs", "#![allow(unsafe_code)]"), [1]);
    assert_eq!(
        lines("latch.rs", "#[expect(dead_code, unsafe_code)] fn f() {}"),
        [1]
    );
    assert_eq!(lines("os.rs", "#![allow(unsafe_code)]"), [1]);
    assert_eq!(lines("os/thread_exit.rs", "#![allow(unsafe_code)]"), [0; 0]);
    assert_eq!(lines("holder.rs", "#![allow(unsafe_code)]"), [1]);
    assert_eq!(lines("holder/claim.rs", "#![allow(unsafe_code)]"), [0; 0]);
    assert_eq!(
        lines("latch.rs", "#![deny(unsafe_code)] #![allow(dead_code)]"),
        [0; 0]
    );
}

#[test]
fn long_files_warn_and_then_fail() {
    let warned = violations(&[("latch.rs", &"\n".repeat(601))]);
    assert!(warned.len() == 1 && warned[0].warning, "{warned:?}");
    assert_eq!(lines("latch.rs", &"\n".repeat(700)), [0; 0]);
    assert_eq!(lines("latch.rs", &"\n".repeat(701)), [701]);
}

#[test]
fn mutants_are_found_in_code_and_not_in_comments() {
    let text = "// enabled(\"gone\")\nfn f() { if mutant::enabled(\"latch-lost-wake\") || enabled(\"b\") {} }";
    let source = Source::parse(Path::new("latch.rs"), text).expect("the sample lexes");
    assert_eq!(source.mutants(), ["latch-lost-wake", "b"]);
}
