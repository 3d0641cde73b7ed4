//! A clock that costs less than a system call's shadow: coarse, monotonic.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since boot to the kernel's last tick: 1 to 10 ms old, and a tenth of the price.
pub(crate) fn coarse() -> Duration {
    let time = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
