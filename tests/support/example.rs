//! The built examples.
//!
//! They are found through the test's own path: tests lie in `target/<profile>/deps`, examples in
//! `target/<profile>/examples`. `cargo test` builds both; `cargo test --test NAME` builds only the
//! test: after a change of an example run `cargo build --example` with its name first.

use std::path::{Path, PathBuf};

/// An example's program.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/<profile>/deps/<test>");
    let binary = profile.join("examples").join(name);
    assert!(
        binary.exists(),
        "{} is missing: run `cargo build --example {name}`",
        binary.display()
    );
    binary
}
