//! What somebody sees who sets the cfg and forgets the feature.

use std::path::Path;
use std::process::Command;

#[test]
fn the_cfg_without_the_feature_names_the_fix() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let build = Command::new(env!("CARGO"))
        .args(["check", "--package", "latchwork"])
        .args(["--no-default-features", "--features", "semaphore,latch"])
        .env("RUSTFLAGS", "--cfg latchwork_loom")
        .current_dir(library)
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&build.stderr);
    assert!(!build.status.success(), "it builds:\n{errors}");
    let first = errors.lines().find(|line| line.starts_with("error"));
    let first = first.expect("an error is told");
    assert!(
        first.contains("add `features = [\"loom\"]`"),
        "first comes: {first}"
    );
}
