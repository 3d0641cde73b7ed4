//! The world under loom: the same surface, every step a choice that the model explores.

#[cfg(latchwork_shuttle)]
pub use super::shuttled as loom;
#[cfg(not(latchwork_shuttle))]
pub use loom;

pub(crate) use self::loom::model as explore;

pub(crate) use self::loom::sync::Arc;

pub(crate) mod atomic {
    pub(crate) use super::loom::sync::atomic::{
        AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };

    /// Between a `SeqCst` step that writes one word and a `SeqCst` load of another: loom takes
    /// these for `AcqRel`, and needs the fence to see the order that they promise.
    #[cfg(feature = "shared")]
    pub(crate) fn model_fence() {
        fence(Ordering::SeqCst);
    }
}

pub(crate) mod cell {
    pub(crate) use super::loom::cell::UnsafeCell;
}

pub(crate) mod lock {
    //! loom's locks without poisoning: a panic that unwinds through one ends the execution anyway.

    use super::loom;

    pub(crate) type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;
    pub(crate) type RwLockReadGuard<'a, T> = loom::sync::RwLockReadGuard<'a, T>;
    pub(crate) type RwLockWriteGuard<'a, T> = loom::sync::RwLockWriteGuard<'a, T>;

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }

    #[derive(Debug)]
    pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(loom::sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}

pub(crate) mod hint {
    pub(crate) use super::loom::hint::spin_loop;

    /// A model does not spin, see [`spins`].
    pub(crate) fn backoff() -> impl Iterator<Item = u32> {
        std::iter::empty()
    }

    /// Never: what a model does must not depend on how often something was done before it.
    pub(crate) fn samples(_turn: u64, _every: u64) -> bool {
        false
    }

    /// As [`samples`].
    pub(crate) fn remembers() -> bool {
        false
    }

    /// Makes the other threads go on: between two looks at what a model does not follow, it would
    /// try no schedule in which that changes.
    pub(crate) fn others_went_on() -> bool {
        super::loom::thread::yield_now();
        true
    }

    /// A model does not spin: another look at a word is another schedule, not less waiting.
    pub(crate) fn spins(_long: bool) -> impl Iterator<Item = ()> {
        std::iter::empty()
    }

    /// As [`spins`].
    pub(crate) fn lulls() -> impl Iterator<Item = ()> {
        std::iter::empty()
    }
}

pub(crate) mod track {
    pub(crate) use super::loom::alloc::Track;
}

pub(crate) mod time {
    //! Time is an actor: nothing passes until a thread of the model moves the clock.

    use super::atomic::{AtomicU64, Ordering};
    use super::loom;
    use std::time::Duration;

    loom::lazy_static! {
        static ref NOW: AtomicU64 = AtomicU64::new(0);
    }

    /// A point on the model's clock, which starts at zero.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Instant(Duration);

    impl Instant {
        /// The model's present.
        pub fn now() -> Self {
            now()
        }

        /// `self + by`, where that can be said.
        pub fn checked_add(self, by: Duration) -> Option<Self> {
            self.0.checked_add(by).map(Self)
        }

        /// How long after `earlier` this is; zero if it is not.
        pub fn saturating_duration_since(self, earlier: Self) -> Duration {
            self.0.saturating_sub(earlier.0)
        }

        /// How long after `earlier` this is; zero if it is not.
        pub fn duration_since(self, earlier: Self) -> Duration {
            self.saturating_duration_since(earlier)
        }

        /// How long ago this was; zero if it was not.
        pub fn elapsed(self) -> Duration {
            now().saturating_duration_since(self)
        }
    }

    impl std::ops::Add<Duration> for Instant {
        type Output = Self;

        fn add(self, by: Duration) -> Self {
            Self(self.0 + by)
        }
    }

    /// The present.
    pub(crate) fn now() -> Instant {
        Instant(Duration::from_nanos(NOW.load(Ordering::SeqCst)))
    }

    /// Milliseconds on a clock that everybody shares.
    #[cfg(feature = "shared")]
    pub(crate) fn monotonic_millis() -> u64 {
        NOW.load(Ordering::SeqCst) / 1_000_000
    }

    /// Milliseconds since the start of the model.
    pub(crate) fn unix_millis() -> u64 {
        NOW.load(Ordering::SeqCst) / 1_000_000
    }

    /// Moves the clock, and wakes every sleeper so that it looks at its deadline.
    pub(crate) fn advance(by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).expect("a model runs for less than 584 years");
        NOW.fetch_add(nanos, Ordering::SeqCst);
        super::futex::wake_everyone();
    }
}

pub(crate) mod futex {
    //! A futex as a Condvar a word. A deleted wake then shows as a deadlock, which a model of
    //! spinning and yielding does not show.
    //!
    //! The Condvar's lock adds happens-before edges that a futex does not have: a weak ordering on
    //! the slept path can hide here, and is ThreadSanitizer's to find.

    use super::atomic::{AtomicU32, Ordering};
    use super::loom;
    use super::time::{Instant, now};
    use std::sync::{Arc, Mutex, PoisonError};

    /// How a wait ended. `Woken` includes spurious wake-ups and a word that had changed already.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Wait {
        Woken,
        TimedOut,
    }

    #[derive(Debug)]
    struct Gate {
        lock: Arc<loom::sync::Mutex<()>>,
        condvar: loom::sync::Condvar,
    }

    loom::lazy_static! {
        /// Who sleeps, for the clock and for `chaos`. A plain lock: no step of the model is taken
        /// inside it.
        static ref SLEEPERS: Mutex<Vec<Arc<Gate>>> = Mutex::new(Vec::new());
    }

    /// Wakes whoever sleeps on any word, as a spurious wake-up would.
    pub(crate) fn wake_everyone() {
        let sleepers = SLEEPERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for gate in sleepers {
            let _held = gate.lock.lock().unwrap_or_else(PoisonError::into_inner);
            gate.condvar.notify_all();
        }
    }

    /// A 32-bit word that threads can sleep on.
    #[derive(Debug)]
    pub(crate) struct Futex {
        word: AtomicU32,
        gate: Arc<Gate>,
    }

    impl Futex {
        pub(crate) fn new(value: u32) -> Self {
            Self {
                word: AtomicU32::new(value),
                gate: Arc::new(Gate {
                    lock: Arc::new(loom::sync::Mutex::new(())),
                    condvar: loom::sync::Condvar::new(),
                }),
            }
        }

        pub(crate) fn load(&self, order: Ordering) -> u32 {
            self.word.load(order)
        }

        pub(crate) fn store(&self, value: u32, order: Ordering) {
            self.word.store(value, order);
        }

        pub(crate) fn swap(&self, value: u32, order: Ordering) -> u32 {
            self.word.swap(value, order)
        }

        pub(crate) fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
            self.word.fetch_add(value, order)
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u32,
            new: u32,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u32, u32> {
            self.word.compare_exchange(current, new, success, failure)
        }

        /// Sleeps while the word is `expected`, until a wake or `deadline`.
        pub(crate) fn wait(&self, expected: u32, deadline: Option<Instant>) -> Wait {
            let late = || deadline.is_some_and(|deadline| now() >= deadline);
            let held = self
                .gate
                .lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if self.word.load(Ordering::Relaxed) != expected {
                return Wait::Woken;
            }
            // Known as a sleeper before the look at the clock: an `advance` that this look misses
            // then finds the gate, and waits for its lock until this thread sleeps.
            SLEEPERS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.gate.clone());
            if !late() {
                drop(self.gate.condvar.wait(held));
            }
            let mut sleepers = SLEEPERS.lock().unwrap_or_else(PoisonError::into_inner);
            let place = sleepers
                .iter()
                .position(|gate| Arc::ptr_eq(gate, &self.gate));
            sleepers.swap_remove(place.expect("registered above"));
            drop(sleepers);
            if late() { Wait::TimedOut } else { Wait::Woken }
        }

        /// Wakes one sleeper.
        pub(crate) fn wake_one(&self) {
            let _held = self
                .gate
                .lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.gate.condvar.notify_one();
        }

        /// Wakes every sleeper.
        pub(crate) fn wake_all(&self) {
            let _held = self
                .gate
                .lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.gate.condvar.notify_all();
        }
    }

    #[cfg(feature = "shared")]
    pub(crate) use super::shared_futex::{SharedFutex, wait_any};

    /// For the words that processes share: who sleeps on several words is found by each of them,
    /// under one lock for all, as a look at the words and going to sleep are one step of the
    /// kernel's.
    #[cfg(feature = "shared")]
    pub(super) mod shared_sleep {
        use super::{Arc, Gate, Instant, Mutex, PoisonError, SLEEPERS, Wait, loom, now};

        loom::lazy_static! {
            static ref LOCK: Arc<loom::sync::Mutex<()>> = Arc::new(loom::sync::Mutex::new(()));
            static ref WATCHERS: Mutex<Vec<(Vec<usize>, Arc<Gate>)>> = Mutex::new(Vec::new());
        }

        /// Sleeps if `is_unchanged`, until a wake on one of `words` or `deadline`.
        pub(in super::super) fn sleep(
            words: Vec<usize>,
            is_unchanged: impl FnOnce() -> bool,
            deadline: Option<Instant>,
        ) -> Wait {
            let late = || deadline.is_some_and(|deadline| now() >= deadline);
            let held = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
            if !is_unchanged() {
                return Wait::Woken;
            }
            let gate = Arc::new(Gate {
                lock: LOCK.clone(),
                condvar: loom::sync::Condvar::new(),
            });
            // As in `Futex::wait`: known as a sleeper before the look at the clock.
            let sleepers = || SLEEPERS.lock().unwrap_or_else(PoisonError::into_inner);
            let watchers = || WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
            sleepers().push(gate.clone());
            watchers().push((words, gate.clone()));
            if !late() {
                drop(gate.condvar.wait(held));
            }
            sleepers().retain(|other| !Arc::ptr_eq(other, &gate));
            watchers().retain(|(_, other)| !Arc::ptr_eq(other, &gate));
            if late() { Wait::TimedOut } else { Wait::Woken }
        }

        /// Wakes up to `count` who sleep on `word`, the longest asleep first.
        pub(in super::super) fn wake(word: usize, count: u32) {
            let _held = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
            let mut watchers = WATCHERS.lock().unwrap_or_else(PoisonError::into_inner);
            let mut woken = Vec::new();
            watchers.retain(|(words, gate)| {
                let is_woken = words.contains(&word) && woken.len() < count as usize;
                if is_woken {
                    woken.push(gate.clone());
                }
                !is_woken
            });
            drop(watchers);
            for gate in woken {
                gate.condvar.notify_all();
            }
        }
    }
}

#[cfg(feature = "shared")]
mod shared_futex {
    use super::atomic::{AtomicU32, Ordering};
    use super::futex::{Wait, shared_sleep};
    use super::time::Instant;

    /// A 32-bit word that threads of several processes can sleep on.
    #[derive(Debug)]
    pub(crate) struct SharedFutex(AtomicU32);

    impl SharedFutex {
        pub(crate) fn new(value: u32) -> Self {
            Self(AtomicU32::new(value))
        }

        pub(crate) fn load(&self) -> u32 {
            self.0.load(Ordering::SeqCst)
        }

        pub(crate) fn fetch_or(&self, bits: u32) -> u32 {
            self.0.fetch_or(bits, Ordering::SeqCst)
        }

        pub(crate) fn fetch_add(&self, value: u32) -> u32 {
            self.0.fetch_add(value, Ordering::SeqCst)
        }

        pub(crate) fn compare_exchange(&self, current: u32, new: u32) -> Result<u32, u32> {
            self.0
                .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
        }

        pub(crate) fn wake(&self, count: u32) {
            shared_sleep::wake(self.address(), count);
        }

        fn address(&self) -> usize {
            std::ptr::from_ref(self).addr()
        }
    }

    /// Sleeps while every word is what is expected of it, until a wake on one or `deadline`.
    pub(crate) fn wait_any(words: &[(&SharedFutex, u32)], deadline: Option<Instant>) -> Wait {
        shared_sleep::sleep(
            words.iter().map(|(word, _)| word.address()).collect(),
            || {
                words
                    .iter()
                    .all(|(word, expected)| word.load() == *expected)
            },
            deadline,
        )
    }
}

pub(crate) mod thread {
    use super::loom;
    use std::cell::Cell;
    use std::io;

    pub use super::loom::thread::yield_now;

    /// A model steps a component's thread itself, or spawns it: threads are few here.
    pub(crate) const STARTS_ITS_OWN: bool = false;

    loom::thread_local! {
        static EXIT_HOOK: Cell<Option<fn()>> = Cell::new(None);
    }

    /// Has `hook` run when the calling thread ends, before its join is notified: loom runs
    /// thread-local destructors only after that.
    pub(crate) fn on_exit(hook: fn()) {
        EXIT_HOOK.with(|slot| slot.set(Some(hook)));
    }

    /// Runs `body` as the body of a thread: what it leaves behind is returned at its end.
    pub(crate) fn body<T>(body: impl FnOnce() -> T) -> T {
        let value = body();
        while let Some(hook) = EXIT_HOOK.with(Cell::take) {
            hook();
        }
        value
    }

    /// A handle that joins a thread of the model.
    #[derive(Debug)]
    pub struct JoinHandle<T>(loom::thread::JoinHandle<T>);

    impl<T: 'static> JoinHandle<T> {
        /// Waits for the thread's end.
        ///
        /// # Errors
        ///
        /// Never: a panic in a thread of the model ends the model.
        pub fn join(self) -> std::thread::Result<T> {
            self.0.join()
        }
    }

    /// Starts a thread of the model, which returns its claims before its join is notified.
    pub fn spawn<T: 'static>(f: impl FnOnce() -> T + 'static) -> JoinHandle<T> {
        JoinHandle(loom::thread::spawn(move || body(f)))
    }

    /// Starts a thread; the model has no use for the name.
    pub(crate) fn spawn_named<T: Send + 'static>(
        _name: &str,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        Ok(spawn(f))
    }

    /// How many threads can run at once.
    pub(crate) fn parallelism() -> usize {
        1
    }

    /// Whether the calling thread is the one that `handle` joins.
    pub(crate) fn is_current<T: 'static>(handle: &JoinHandle<T>) -> bool {
        handle.0.thread().id() == loom::thread::current().id()
    }

    /// The calling thread's name: threads of a model have none.
    pub(crate) fn name() -> Option<String> {
        None
    }
}

/// Declares a thread-local, one a thread of the model.
macro_rules! local {
    ($(#[$attr:meta])* static $name:ident: $type:ty = $init:expr) => {
        $crate::sync::world::loom::thread_local! {
            $(#[$attr])* static $name: $type = $init;
        }
    };
}
pub(crate) use {local, local as lazy_local};

/// Declares a value that lives for one execution of the model.
macro_rules! global {
    ($(#[$attr:meta])* static $name:ident: $type:ty = $init:expr) => {
        $crate::sync::world::loom::lazy_static! {
            $(#[$attr])* static ref $name: $type = $init;
        }
    };
}
pub(crate) use global;
