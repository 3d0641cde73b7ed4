//! A hook that runs when a thread ends, after all of its Rust thread-locals.
//!
//! Rust's thread-locals are destroyed last-in first-out by glibc's `__call_tls_dtors`; only then
//! does glibc run the destructors of pthread keys. A hook from a pthread key therefore sees a
//! thread whose thread-locals have dropped whatever they were going to drop. glibc repeats the
//! round, up to `PTHREAD_DESTRUCTOR_ITERATIONS` times, while destructors set keys again:
//! [`on_exit`] called late, by another key's destructor, still has its hook run.

#![allow(unsafe_code)]

use std::ffi::c_void;

use crate::sync::unmodelled::OnceLock;

/// Has `hook` run when the calling thread ends. A second call before that changes nothing.
///
/// # Panics
///
/// When the process has used up its pthread keys (1,024 with glibc).
pub(crate) fn on_exit(hook: fn()) {
    static KEY: OnceLock<libc::pthread_key_t> = OnceLock::new();
    let key = *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: `key` is valid for a write; `run` has the signature of a destructor and stays
        // loaded as long as the process does.
        let error = unsafe { libc::pthread_key_create(&mut key, Some(run)) };
        assert_eq!(error, 0, "no pthread key left for returning leaked claims");
        key
    });
    // SAFETY: the key exists; its values are only ever function pointers, never dereferenced.
    let error = unsafe { libc::pthread_setspecific(key, hook as *const c_void) };
    assert_eq!(error, 0, "no memory left for returning leaked claims");
}

/// glibc has cleared the key's value before the call.
extern "C" fn run(hook: *mut c_void) {
    // SAFETY: every value of the key is a `fn()` stored by `on_exit`.
    let hook = unsafe { std::mem::transmute::<*mut c_void, fn()>(hook) };
    hook();
}
