//! Timed futex waits on private memory.

use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex::{Flags, wait};
use rustix::time::Timespec;

use crate::sync::atomic::AtomicU32;

/// Sleeps while `word` is `expected`, for at most `time`. `false`: the time is up.
///
/// `true` includes a word that had changed already and spurious wake-ups: the caller looks again.
pub(crate) fn wait_for(word: &AtomicU32, expected: u32, time: Duration) -> bool {
    // A time that the kernel's type cannot say is not one that anybody sees the end of.
    let limit = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    wait(word, Flags::PRIVATE, expected, Some(&limit)) != Err(Errno::TIMEDOUT)
}
