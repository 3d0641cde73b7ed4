//! Threads as the system sees them: whether they sleep.

#![allow(dead_code)] // Each test program uses a part.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

/// A thread of this process, as `/proc` shows it.
pub(crate) struct Watched(PathBuf);

impl Watched {
    pub(crate) fn current() -> Self {
        Self(Path::new("/proc").join(fs::read_link("/proc/thread-self").unwrap()))
    }

    pub(crate) fn named(name: &str) -> Self {
        let task = fs::read_dir("/proc/self/task").unwrap().find_map(|task| {
            let path = task.unwrap().path();
            let found = fs::read_to_string(path.join("comm")).ok()?;
            (found.trim() == name).then_some(path)
        });
        Self(task.unwrap_or_else(|| panic!("no thread {name}")))
    }

    /// Returns once the thread sleeps on a futex.
    pub(crate) fn await_sleep(&self) {
        let futex = if cfg!(target_arch = "x86_64") {
            "202 "
        } else {
            "98 "
        };
        while !fs::read_to_string(self.0.join("syscall"))
            .unwrap()
            .starts_with(futex)
        {
            thread::yield_now();
        }
    }

    /// How often it has gone to sleep.
    pub(crate) fn sleeps(&self) -> u64 {
        let status = fs::read_to_string(self.0.join("status")).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    }
}
