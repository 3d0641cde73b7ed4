//! The library's own thread that runs user code on behalf of an ending thread.
//!
//! When a leaked claim comes back, there is a handler to tell and perhaps a registered callback to
//! serve. The thread that ends cannot run them: its thread-locals are gone, and a panic would cross
//! C frames. One thread of the process (`lw-courier`) does. It belongs to no component because a
//! leaked guard may outlive its component. It starts when the first handler or callback is
//! registered, never ends, and sleeps without a deadline.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::sync::atomic::Ordering;
use crate::sync::futex::Futex;
use crate::sync::lock::Mutex;
use crate::sync::mutant;
use crate::sync::thread;

type Errand = Box<dyn FnOnce() + Send>;

struct Courier {
    errands: Mutex<VecDeque<Errand>>,
    started: Mutex<bool>,
    /// 1: there are errands that the thread may not have seen.
    rung: Futex,
}

crate::sync::global! {
    static COURIER: Courier = Courier {
        errands: Mutex::new(VecDeque::new()),
        started: Mutex::new(false),
        rung: Futex::new(0),
    }
}

/// Makes sure that errands will be run.
///
/// # Errors
///
/// When the system refuses another thread.
pub(crate) fn start() -> io::Result<()> {
    let mut started = COURIER.started.lock();
    if !*started && thread::STARTS_ITS_OWN {
        thread::spawn_named("lw-courier", || {
            loop {
                COURIER.rung.store(0, Ordering::Release);
                run_pending();
                COURIER.rung.wait(0, None);
            }
        })?;
    }
    *started = true;
    Ok(())
}

/// Has `errand` run on the library's thread.
pub(crate) fn post(errand: impl FnOnce() + Send + 'static) {
    if mutant::enabled("courier-loses-errands") {
        return;
    }
    COURIER.errands.lock().push_back(Box::new(errand));
    // After the push, and the thread clears it before it looks: an errand is seen or rung for.
    COURIER.rung.store(1, Ordering::Release);
    COURIER.rung.wake_one();
}

/// Runs what has been posted; a panic ends its errand only. A model calls this in the thread's
/// stead.
pub(crate) fn run_pending() -> usize {
    let mut count = 0;
    loop {
        // The lock is not held while an errand runs.
        let errand = COURIER.errands.lock().pop_front();
        let Some(errand) = errand else { return count };
        let _ = catch_unwind(AssertUnwindSafe(errand));
        count += 1;
    }
}
