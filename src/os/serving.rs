//! What the calling thread serves: a worker, a sweeper, a pipeline, a log.
//!
//! Who would wait for a thread of its own asks first whether it is that thread. A thread may serve
//! several at once: one's code runs another's inline. So its marks are linked, the innermost first;
//! each is in the frame of the call that it stands for, and costs no memory.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::ptr;

crate::sync::local! {
    /// The innermost mark of this thread.
    static INNERMOST: Cell<*const Mark> = Cell::new(ptr::null())
}

struct Mark {
    /// The address of what is served.
    served: usize,
    /// The mark around it, or null.
    outer: *const Mark,
}

impl Drop for Mark {
    fn drop(&mut self) {
        INNERMOST.with(|innermost| innermost.set(self.outer));
    }
}

/// Calls `f` with the mark that this thread serves `served`.
pub(crate) fn serving<T, R>(served: &T, f: impl FnOnce() -> R) -> R {
    let mark = Mark {
        served: ptr::from_ref(served).addr(),
        outer: INNERMOST.with(Cell::get),
    };
    INNERMOST.with(|innermost| innermost.set(&raw const mark));
    // The mark goes after this, by a panic too.
    f()
}

/// Whether this thread serves `served`.
pub(crate) fn is_serving<T>(served: &T) -> bool {
    let served = ptr::from_ref(served).addr();
    let mut at = INNERMOST.with(Cell::get);
    // SAFETY: a mark is in the list exactly while the call of `serving` that made it runs, which
    // does not move it: the last that came is the first to go, and its drop unlinks it. The list is
    // this thread's alone, and every mark in it is of a call that this one was made from.
    while let Some(mark) = unsafe { at.as_ref() } {
        if mark.served == served {
            return true;
        }
        at = mark.outer;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::thread::spawn_named;
    use std::panic::catch_unwind;

    static OUTER: u8 = 1;
    static INNER: u8 = 2;

    fn served() -> (bool, bool) {
        (is_serving(&OUTER), is_serving(&INNER))
    }

    #[test]
    fn a_thread_serves_all_whose_code_it_is_in_and_nothing_afterwards() {
        assert_eq!(served(), (false, false));
        serving(&OUTER, || {
            assert_eq!(served(), (true, false));
            serving(&INNER, || assert_eq!(served(), (true, true)));
            assert_eq!(served(), (true, false));
            let other = spawn_named("other", served).unwrap().join();
            assert_eq!(other.unwrap(), (false, false), "another thread's");
        });
        assert_eq!(served(), (false, false));
    }

    #[test]
    fn a_panic_takes_its_mark_along() {
        serving(&OUTER, || {
            let panicked = catch_unwind(|| serving(&INNER, || panic!("on purpose")));
            assert!(panicked.is_err());
            assert_eq!(served(), (true, false));
        });
        assert_eq!(served(), (false, false));
    }
}
