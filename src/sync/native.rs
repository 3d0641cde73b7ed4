//! The native world: std, parking_lot, atomic-wait, rustix.

pub(crate) use std::sync::Arc;

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };

    /// Between a `SeqCst` step that writes one word and a `SeqCst` load of another: natively those
    /// two are ordered already.
    #[cfg(feature = "shared")]
    #[inline(always)]
    pub(crate) fn model_fence() {}
}

pub(crate) mod lock {
    pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
}

pub(crate) mod cell {
    //! A cell whose accesses the model checks; here, just the cell.

    /// As [`std::cell::UnsafeCell`], reached through a closure.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// Calls `access` with a pointer that is good to write through where nobody else has
        /// access meanwhile.
        #[inline(always)]
        pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }
}

pub(crate) mod hint {
    pub(crate) use std::hint::spin_loop;

    /// Between tries that may soon succeed, how many pauses to make. Two microseconds or so in all:
    /// less than the price of the sleep that it may save. The first are several, because each try
    /// takes the word's cache line from who holds, and is about to write it.
    pub(crate) fn backoff() -> impl Iterator<Item = u32> {
        (2..6).map(|round| 1 << round)
    }

    /// Whether the `turn`-th time is the one in `every` for which something is done.
    #[inline(always)]
    pub(crate) fn samples(turn: u64, every: u64) -> bool {
        turn.is_multiple_of(every)
    }

    /// Whether what was done before may be a short cut for what is done now.
    #[inline(always)]
    pub(crate) fn remembers() -> bool {
        true
    }

    /// Whether the other threads have been made to go on, as in a model.
    #[inline(always)]
    pub(crate) fn others_went_on() -> bool {
        false
    }

    /// How often a waiter looks at its word before it sleeps. About a microsecond, less than the
    /// price of the sleep that it may save; or about 20, for the one waiter that is called again
    /// and again while somebody else runs hot, where each call would cost that one a system call.
    pub(crate) fn spins(long: bool) -> impl Iterator<Item = ()> {
        std::iter::repeat_n((), if long { 800 } else { 40 })
    }

    /// The spins of a thread that others feed, and then some times the processor for those: if
    /// they run on this one, there is more to do when it comes back, and no one has had to call it.
    /// Few spins: they are lost where the others run here, and a yield to nobody is short.
    pub(crate) fn lulls() -> impl Iterator<Item = ()> {
        (0..26).map(|turn| {
            if turn < 10 {
                spin_loop()
            } else {
                std::thread::yield_now()
            }
        })
    }
}

pub(crate) mod track {
    /// A value whose leak the model would report; here, just the value.
    #[derive(Debug)]
    pub(crate) struct Track<T>(#[allow(dead_code)] T);

    impl<T> Track<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(value)
        }
    }
}

pub(crate) mod time {
    #[allow(unreachable_pub, reason = "the type of public deadlines")]
    pub use std::time::Instant;

    /// The present.
    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    /// Milliseconds on a clock that all processes of the machine share.
    #[cfg(feature = "shared")]
    pub(crate) fn monotonic_millis() -> u64 {
        crate::os::shared::futex::monotonic_nanos() / 1_000_000
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn unix_millis() -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }
}

pub(crate) mod futex {
    use super::atomic::{AtomicU32, Ordering};
    use super::time::Instant;

    /// How a wait ended. `Woken` includes spurious wake-ups and a word that had changed already.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Wait {
        Woken,
        TimedOut,
    }

    /// A 32-bit word that threads can sleep on.
    #[derive(Debug)]
    pub(crate) struct Futex(AtomicU32);

    impl Futex {
        pub(crate) const fn new(value: u32) -> Self {
            Self(AtomicU32::new(value))
        }

        #[inline]
        pub(crate) fn load(&self, order: Ordering) -> u32 {
            self.0.load(order)
        }

        #[inline]
        pub(crate) fn store(&self, value: u32, order: Ordering) {
            self.0.store(value, order);
        }

        #[inline]
        pub(crate) fn swap(&self, value: u32, order: Ordering) -> u32 {
            self.0.swap(value, order)
        }

        #[inline]
        pub(crate) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
            self.0.fetch_add(value, order)
        }

        #[inline]
        pub(crate) fn compare_exchange(
            &self,
            current: u32,
            new: u32,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u32, u32> {
            self.0.compare_exchange(current, new, success, failure)
        }

        /// Sleeps while the word is `expected`, until a wake or `deadline`.
        pub(crate) fn wait(&self, expected: u32, deadline: Option<Instant>) -> Wait {
            match deadline {
                None => {
                    atomic_wait::wait(&self.0, expected);
                    Wait::Woken
                }
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !crate::os::futex::wait_for(&self.0, expected, left) {
                        Wait::TimedOut
                    } else {
                        Wait::Woken
                    }
                }
            }
        }

        /// Wakes one sleeper.
        pub(crate) fn wake_one(&self) {
            atomic_wait::wake_one(&self.0);
        }

        /// Wakes every sleeper.
        pub(crate) fn wake_all(&self) {
            atomic_wait::wake_all(&self.0);
        }
    }

    #[cfg(feature = "shared")]
    pub(crate) use crate::os::shared::futex::{SharedFutex, wait_any};
}

pub(crate) mod thread {
    use std::io;

    pub(crate) use crate::os::thread_exit::on_exit;

    /// Components start their own threads.
    pub(crate) const STARTS_ITS_OWN: bool = true;

    /// A handle that joins a named thread.
    pub(crate) type JoinHandle<T> = std::thread::JoinHandle<T>;

    /// Starts a thread with a name.
    pub(crate) fn spawn_named<T: Send + 'static>(
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
    }

    /// How many threads can run at once.
    pub(crate) fn parallelism() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Whether the calling thread is the one that `handle` joins.
    pub(crate) fn is_current<T>(handle: &JoinHandle<T>) -> bool {
        handle.thread().id() == std::thread::current().id()
    }

    /// The calling thread's name, where it has one.
    pub(crate) fn name() -> Option<String> {
        std::thread::current().name().map(str::to_owned)
    }
}

/// Declares a thread-local. A type without a destructor stays usable for as long as its thread
/// runs, in other thread-locals' destructors too.
macro_rules! local {
    ($(#[$attr:meta])* static $name:ident: $type:ty = $init:expr) => {
        std::thread_local! {
            $(#[$attr])* static $name: $type = const { $init };
        }
    };
}
pub(crate) use local;

/// Declares a thread-local whose initial value is computed at first use.
macro_rules! lazy_local {
    ($(#[$attr:meta])* static $name:ident: $type:ty = $init:expr) => {
        std::thread_local! {
            $(#[$attr])* static $name: $type = $init;
        }
    };
}
pub(crate) use lazy_local;

/// Declares a process-wide value; under the model, one an execution.
macro_rules! global {
    ($(#[$attr:meta])* static $name:ident: $type:ty = $init:expr) => {
        $(#[$attr])* static $name: std::sync::LazyLock<$type> = std::sync::LazyLock::new(|| $init);
    };
}
pub(crate) use global;
