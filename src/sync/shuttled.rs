//! What the models' world takes from loom, made of shuttle: the same names, for models that are too
//! large to explore. `--cfg latchwork_shuttle` beside `--cfg latchwork_loom` chooses it.
//!
//! shuttle runs an execution many times, with the order of its threads drawn at random. It knows
//! sequential consistency only, and checks neither cells nor leaks: those are loom's to find, in
//! small.

#![allow(unsafe_code)]

pub use shuttle::{hint, lazy_static, thread_local};

/// Runs of each kind of schedule where nothing else is said; `LATCHWORK_SHUTTLE_RUNS` says else.
const RUNS: usize = 300;
/// How many changes of priority a schedule of the second kind has.
const DEPTH: usize = 4;

/// Runs `f` many times, each with another schedule: half of them drawn step by step, half with
/// priorities that change a few times (Burckhardt and others, "A Randomized Scheduler with
/// Probabilistic Guarantees of Finding Bugs"). A failure prints its schedule's seed.
pub fn model(f: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};

    let runs = std::env::var("LATCHWORK_SHUTTLE_RUNS");
    let runs = runs.ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    let mut config = shuttle::Config::new();
    // Lists of claims and chunks are large values on small stacks.
    config.stack_size = 1 << 20;
    let f = std::sync::Arc::new(f);
    let run = |scheduler: Box<dyn Scheduler + Send>, config| {
        let f = std::sync::Arc::clone(&f);
        shuttle::Runner::new(scheduler, config).run(move || f());
    };
    run(Box::new(RandomScheduler::new(runs)), config.clone());
    run(Box::new(PctScheduler::new(DEPTH, runs)), config);
}

/// As std's.
pub mod sync {
    pub use shuttle::sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic,
    };
}

/// As loom's.
pub mod cell {
    /// A cell whose accesses nobody checks.
    #[derive(Debug)]
    pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        /// A cell that holds `value`.
        pub fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// Calls `access` with a pointer to what it holds, to read.
        pub fn with<R>(&self, access: impl FnOnce(*const T) -> R) -> R {
            access(self.0.get())
        }

        /// Calls `access` with a pointer to what it holds.
        pub fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
            access(self.0.get())
        }
    }
}

/// As loom's.
pub mod alloc {
    /// A value, of which nobody checks that it is dropped.
    #[derive(Debug)]
    pub struct Track<T>(#[allow(dead_code)] T);

    impl<T> Track<T> {
        /// Tracks nothing.
        pub fn new(value: T) -> Self {
            Self(value)
        }
    }
}

/// As std's.
pub mod thread {
    pub use shuttle::thread::{current, yield_now};

    /// What may not leave its thread, on its way to one that is none.
    #[derive(Debug)]
    struct Sent<T>(T);

    // SAFETY: shuttle runs all threads of an execution on one of the system's, one at a time.
    unsafe impl<T> Send for Sent<T> {}

    impl<T> Sent<T> {
        fn take(self) -> T {
            self.0
        }
    }

    /// A handle that joins a thread of the model.
    #[derive(Debug)]
    pub struct JoinHandle<T>(shuttle::thread::JoinHandle<Sent<T>>);

    impl<T: 'static> JoinHandle<T> {
        /// Waits for the thread's end.
        ///
        /// # Errors
        ///
        /// Never: a panic in a thread of the model ends the model.
        pub fn join(self) -> std::thread::Result<T> {
            self.0.join().map(Sent::take)
        }

        /// The thread.
        pub fn thread(&self) -> &shuttle::thread::Thread {
            self.0.thread()
        }
    }

    /// Starts a thread of the model.
    pub fn spawn<T: 'static>(f: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
        let f = Sent(f);
        JoinHandle(shuttle::thread::spawn(move || Sent(f.take()())))
    }
}

/// What an execution leaves to chance beside its schedule.
pub mod rand {
    use shuttle::rand::{Rng, thread_rng};

    /// One of `0..below`, drawn from the schedule's seed.
    pub fn draw(below: u32) -> u32 {
        thread_rng().gen_range(0..below)
    }
}
