//! Words in memory that processes share, and sleeping on several of them at once.

use rustix::io::Errno;
use rustix::thread::futex::{Flags, Wait as Waiter, WaitFlags, WaitPtr, WaitvFlags, waitv, wake};
use rustix::time::{ClockId, Timespec};

use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::futex::Wait;
use crate::sync::time::Instant;

/// How many words a thread can sleep on at once; the kernel takes four times as many.
const MOST_WORDS: usize = 32;

/// A 32-bit word that threads of several processes can sleep on.
///
/// Its steps are `SeqCst`: who releases writes one word and then looks at another, and who waits
/// does the same the other way round.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct SharedFutex(AtomicU32);

impl SharedFutex {
    pub(crate) const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    #[inline]
    pub(crate) fn load(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    #[inline]
    pub(crate) fn fetch_or(&self, bits: u32) -> u32 {
        self.0.fetch_or(bits, Ordering::SeqCst)
    }

    #[inline]
    pub(crate) fn fetch_add(&self, value: u32) -> u32 {
        self.0.fetch_add(value, Ordering::SeqCst)
    }

    #[inline]
    pub(crate) fn compare_exchange(&self, current: u32, new: u32) -> Result<u32, u32> {
        self.0
            .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    /// Wakes up to `count` who sleep on the word.
    pub(crate) fn wake(&self, count: u32) {
        // It fails where the memory is gone only, and then nobody sleeps there.
        let _ = wake(&self.0, Flags::empty(), count.min(i32::MAX as u32));
    }
}

/// Sleeps while every word is what is expected of it, until a wake on one of them or `deadline`. Of
/// more than 32 words, the first 32 count.
pub(crate) fn wait_any(words: &[(&SharedFutex, u32)], deadline: Option<Instant>) -> Wait {
    let mut waiters = [Waiter::new(); MOST_WORDS];
    let count = words.len().min(MOST_WORDS);
    for (waiter, (word, expected)) in waiters.iter_mut().zip(words) {
        waiter.val = u64::from(*expected);
        waiter.uaddr = WaitPtr::new(word.0.as_ptr().cast());
        waiter.flags = WaitFlags::SIZE_U32;
    }
    let limit = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
        Some(left) if left.is_zero() => return Wait::TimedOut,
        Some(left) => absolute(left),
        None => None,
    };
    match waitv(
        &waiters[..count],
        WaitvFlags::empty(),
        limit.as_ref(),
        ClockId::Monotonic,
    ) {
        Err(Errno::TIMEDOUT) => Wait::TimedOut,
        // A wake, a word that has changed, a signal: the caller looks again.
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Wait::Woken,
        // A word is not there any more, or the call was taken away: slower, but no spinning.
        Err(_) => {
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let _ = rustix::thread::nanosleep(&pause);
            Wait::Woken
        }
    }
}

/// Whether the kernel has the call that [`wait_any`] makes.
///
/// # Errors
///
/// If it has not: without it, waiting would be spinning.
pub(super) fn is_there() -> std::io::Result<()> {
    match waitv(&[], WaitvFlags::empty(), None, ClockId::Monotonic) {
        // It is there, and has nothing to wait for.
        Err(Errno::INVAL) | Ok(_) => Ok(()),
        Err(_) => Err(std::io::Error::new(
            std::io::ErrorKind::Unsupported,
            "futex_waitv cannot be called: it takes Linux 5.16 or newer, and no filter of system \
             calls against it",
        )),
    }
}

/// The time that is `left` from now, as the kernel wants it; `None` beyond the end of its clock.
fn absolute(left: std::time::Duration) -> Option<Timespec> {
    let now = rustix::time::clock_gettime(ClockId::Monotonic);
    let nanos = now.tv_nsec + i64::from(left.subsec_nanos());
    let secs = i64::try_from(left.as_secs()).ok()?;
    Some(Timespec {
        tv_sec: now
            .tv_sec
            .checked_add(secs)?
            .checked_add(nanos / 1_000_000_000)?,
        tv_nsec: nanos % 1_000_000_000,
    })
}

/// Nanoseconds of the monotonic clock, which all processes of the machine share.
pub(crate) fn monotonic_nanos() -> u64 {
    let time = rustix::time::clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
