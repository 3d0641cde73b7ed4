//! Places for semaphores, and children that use them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use latchwork::SharedSemaphore;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::child::{ANSWER, ROLE, TEST};
use crate::dir::Dir;

/// Longer than any test runs.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A directory for one semaphore. Removed when dropped.
#[derive(Debug)]
pub(crate) struct Place(Dir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(Dir::new())
    }

    pub(crate) fn directory(&self) -> &Path {
        self.0.path()
    }

    /// The semaphore's file.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory().join("semaphore")
    }

    /// One more attachment.
    pub(crate) fn open(&self, permits: u32) -> SharedSemaphore {
        SharedSemaphore::open(self.path(), permits).unwrap()
    }

    /// A child that has attached to what is there.
    pub(crate) fn child(&self) -> Peer {
        let mut child = Peer::start(|_| ());
        child.ask(&format!("open {}", self.path().display()));
        child
    }
}

/// A child that does what it is told, see [`child`](crate::child). Killed when dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", TEST, "--nocapture", "--test-threads", "1"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    pub(crate) fn tell(&mut self, order: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{order}").unwrap();
    }

    /// What it answers next.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let count = self.output.read_line(&mut line).unwrap();
            assert_ne!(count, 0, "the child has ended");
            // The harness writes there too, and not whole lines.
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.trim_end().to_owned();
            }
        }
    }

    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it, and waits until it stands still.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let options = WaitIdOptions::STOPPED;
        waitid(WaitId::Pid(Pid::from_child(&self.child)), options).unwrap();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.wait();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        // `Child::wait` closes an input that it has; this one is the test's to close.
        self.child.wait().unwrap()
    }

    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until so many requests wait. There is no other way to see from outside that a thread does.
pub(crate) fn until_waiting(semaphore: &SharedSemaphore, requests: u32) {
    until(|| semaphore.waiters() == requests);
}

/// Waits for what nobody tells.
pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}
