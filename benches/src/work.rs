//! Work of a set length: arithmetic that no clock read interrupts.
//!
//! The length is calibrated on one thread. A bench that subtracts it measures it again beside
//! every run, because a thread's speed is not a constant of the machine.

use std::hint::black_box;
use std::time::Duration;

use crate::harness::calibrate;

/// A number of dependent multiplications.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    steps: u64,
}

impl Work {
    /// Work that takes about `time` on the calling thread.
    pub(crate) fn of(time: Duration) -> Work {
        // Calibrated over many times its length, so that the clock's own cost does not show.
        let scale = 1_000;
        Work {
            steps: calibrate(time * scale, &mut steps) / u64::from(scale),
        }
    }

    /// Work that was calibrated in another process.
    pub(crate) fn of_steps(steps: u64) -> Work {
        Work { steps }
    }

    pub(crate) fn steps(self) -> u64 {
        self.steps
    }

    #[inline(never)]
    pub(crate) fn run(self) {
        steps(self.steps);
    }
}

fn steps(count: u64) {
    let mut value = black_box(1u64);
    for _ in 0..count {
        // Each step waits for the one before; a constant start would be folded away.
        value = value.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(5);
    }
    black_box(value);
}
