//! What a process does that works until it is ended, and cannot go on.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

/// Its exit code. Once the power is cut errors are to be expected, and it does not return.
pub(crate) fn failed(is_cut: &AtomicU64, error: anyhow::Error) -> i32 {
    if is_cut.load(SeqCst) == 0 {
        println!("  {error:#}");
        return 1;
    }
    loop {
        thread::park();
    }
}
