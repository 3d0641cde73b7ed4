//! A process of ours: forked, killed, waited for, asked.
//!
//! A scenario's own process has one thread and never opens a semaphore, so a fork of it is as good
//! as a fresh process, at a tenth of the price of an exec. What a fork does to a process that has
//! opened one is a subject of the matrix, not of this file.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getppid, pipe2};

/// The exit code of a child whose role panicked, as of any Rust program.
pub(crate) const PANICKED: i32 = 101;

/// A child process; dropped, it is killed and waited for.
pub(crate) struct Child {
    pid: Pid,
    waited: bool,
}

/// How long a child may live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// No longer than who forked it.
    Bound,
    /// Until it ends by itself: it must notice when nobody needs it any more.
    Free,
}

impl Child {
    /// Forks; the child calls `role` and exits with what that returns.
    pub(crate) fn fork(role: impl FnOnce() -> i32) -> Result<Child> {
        Child::fork_as(Lifetime::Bound, role)
    }

    pub(crate) fn fork_as(lifetime: Lifetime, role: impl FnOnce() -> i32) -> Result<Child> {
        let parent = nix::unistd::getpid();
        // SAFETY: the scenarios' processes have one thread. A puppet that is told to fork has the
        // library's keeper as well, which takes no lock that this one uses: see `os/shared`.
        match unsafe { nix::unistd::fork() }.context("fork")? {
            ForkResult::Parent { child } => Ok(Child {
                pid: child,
                waited: false,
            }),
            ForkResult::Child => {
                if lifetime == Lifetime::Bound {
                    let bound = prctl::set_pdeathsig(Signal::SIGKILL).is_ok();
                    // Zero: the parent is outside our PID namespace.
                    let alive = getppid() == parent || getppid() == Pid::from_raw(0);
                    if !bound || !alive {
                        exit(PANICKED);
                    }
                }
                exit(catch_unwind(AssertUnwindSafe(role)).unwrap_or(PANICKED))
            }
        }
    }

    /// As `fork`, as the first process of a PID namespace of its own: its number there is 1.
    pub(crate) fn fork_in_namespace(role: impl FnOnce() -> i32) -> Result<Child> {
        let own = File::open("/proc/self/ns/pid").context("our namespace")?;
        unshare(CloneFlags::CLONE_NEWPID).context("unshare")?;
        let child = Child::fork(role);
        // The next one is to be another's.
        setns(own, CloneFlags::CLONE_NEWPID).context("setns")?;
        child
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("{signal} to {}", self.pid))
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<WaitStatus> {
        loop {
            match waitpid(self.pid, None) {
                Err(Errno::EINTR) => {}
                Err(error) => bail!("waitpid of {}: {error}", self.pid),
                Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => {
                    self.waited = true;
                    return Ok(status);
                }
                // The stops of a traced one.
                Ok(_) => {}
            }
        }
    }

    /// Kills it and takes its memory at once, as the OOM reaper does; whether that was possible
    /// before the process had let go of it by itself.
    pub(crate) fn kill_and_take_memory(&self) -> Result<bool> {
        // SAFETY: takes two numbers and returns a new descriptor or -1.
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid.as_raw(), 0) };
        let pidfd = Errno::result(pidfd).context("pidfd_open")?;
        // SAFETY: the descriptor is new and nobody else's.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd.try_into()?) };
        self.signal(Signal::SIGKILL)?;
        // SAFETY: takes two numbers; it is the other process's memory that goes.
        let taken = unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) };
        Ok(taken == 0)
    }

    /// Its end, if that has come.
    pub(crate) fn ended(&mut self) -> Result<Option<WaitStatus>> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).context("waitpid")? {
            status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                self.waited = true;
                Ok(Some(status))
            }
            _ => Ok(None),
        }
    }

    /// Kills it and waits; an error if it had ended by itself.
    pub(crate) fn destroy(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        match self.wait()? {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => Ok(()),
            status => Err(anyhow!("ended before it was killed: {}", End(status))),
        }
    }

    /// Waits for its end, which must be a successful exit.
    pub(crate) fn finish(mut self) -> Result<()> {
        match self.wait()? {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => Err(anyhow!("ended badly: {}", End(status))),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.waited && kill(self.pid, Signal::SIGKILL).is_ok() {
            let _ = self.wait();
        }
    }
}

/// How a process ended, in words.
pub(crate) struct End(pub(crate) WaitStatus);

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WaitStatus::Exited(pid, PANICKED) => write!(f, "{pid} panicked"),
            WaitStatus::Exited(pid, code) => write!(f, "{pid} exited with {code}"),
            WaitStatus::Signaled(pid, signal, _) => write!(f, "{pid} was ended by {signal}"),
            status => write!(f, "{status:?}"),
        }
    }
}

/// Why there can be no namespaces of the kind here, if there cannot.
pub(crate) fn no_namespaces(kind: CloneFlags) -> Option<String> {
    let tried = ask(|| {
        unshare(kind)?;
        Ok(String::new())
    });
    tried.err().map(|error| format!("needs root: {error}"))
}

/// Runs `question` in a process of its own and returns its answer.
pub(crate) fn ask(question: impl FnOnce() -> Result<String>) -> Result<String> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
    let (mut reader, mut writer) = (File::from(reader), File::from(writer));
    let child = Child::fork(|| {
        let (text, code) = match question() {
            Ok(answer) => (answer, 0),
            Err(error) => (format!("{error:#}"), 1),
        };
        if writer.write_all(text.as_bytes()).is_err() {
            return 2;
        }
        code
    })?;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).context("an answer")?;
    let mut child = child;
    match child.wait()? {
        WaitStatus::Exited(_, 0) => Ok(text),
        WaitStatus::Exited(_, 1) => Err(anyhow!(text)),
        status => Err(anyhow!("whoever was asked ended badly: {}", End(status))),
    }
}
