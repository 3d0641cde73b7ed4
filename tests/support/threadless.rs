//! A process in which no thread starts.

use std::process::Command;

/// The size of stacks: one that no address space holds.
const STACK: (&str, &str) = ("RUST_MIN_STACK", "2305843009213693952");

/// Whether no thread starts in this process. Where they do, runs the test of this name again in a
/// process where they do not, and returns when that has passed.
pub(crate) fn is_threadless(name: &str) -> bool {
    if std::env::var(STACK.0).as_deref() == Ok(STACK.1) {
        return true;
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args([name, "--exact", "--test-threads=1"]);
    let output = test.env(STACK.0, STACK.1).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    false
}
