//! The library's own thread, which runs user code on behalf of threads that cannot.
//!
//! When a leaked claim comes back, there is a handler to tell and perhaps a registered callback to
//! serve. The thread that ends cannot run them: its thread-locals are gone, and a panic would cross
//! C frames. One thread of the process (`lw-dispatch`) does. It belongs to no component because a
//! leaked guard may outlive its component. It starts when the first handler or callback is
//! registered, never ends, and sleeps without a deadline.

use std::collections::VecDeque;
use std::io;

use crate::sync::atomic::Ordering;
use crate::sync::futex::Futex;
use crate::sync::lock::Mutex;
use crate::sync::mutant;
use crate::sync::thread;

use super::contain;

type Call = Box<dyn FnOnce() + Send>;

struct Dispatcher {
    calls: Mutex<VecDeque<Call>>,
    started: Mutex<bool>,
    /// 1: there are calls that the thread may not have seen.
    rung: Futex,
}

crate::sync::global! {
    static DISPATCHER: Dispatcher = Dispatcher {
        calls: Mutex::new(VecDeque::new()),
        started: Mutex::new(false),
        rung: Futex::new(0),
    }
}

/// Makes sure that what is posted will be run.
///
/// # Errors
///
/// When the system refuses another thread.
pub(crate) fn start() -> io::Result<()> {
    let mut started = DISPATCHER.started.lock();
    if !*started && thread::STARTS_ITS_OWN {
        thread::spawn_named("lw-dispatch", || {
            loop {
                DISPATCHER.rung.store(0, Ordering::Release);
                run_pending();
                DISPATCHER.rung.wait(0, None);
            }
        })?;
    }
    *started = true;
    Ok(())
}

/// Has `call` run on the library's thread.
pub(crate) fn post(call: impl FnOnce() + Send + 'static) {
    if mutant::enabled("dispatcher-loses-calls") {
        return;
    }
    DISPATCHER.calls.lock().push_back(Box::new(call));
    // After the push, and the thread clears it before it looks: a call is seen or rung for.
    DISPATCHER.rung.store(1, Ordering::Release);
    DISPATCHER.rung.wake_one();
}

/// Runs what has been posted; a panic ends its call only. A model calls this in the thread's
/// stead.
pub(crate) fn run_pending() -> usize {
    let mut count = 0;
    loop {
        // The lock is not held while a call runs.
        let call = DISPATCHER.calls.lock().pop_front();
        let Some(call) = call else { return count };
        contain(call);
        count += 1;
    }
}
