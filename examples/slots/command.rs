//! The command: starting it, handing signals to it, and ending as it did.
//!
//! It stays in the process group of `slots`, so it has the terminal. What the terminal sends goes
//! to both; only what other processes send to `slots` is handed on, so that no Ctrl-C comes twice.
//! The command is waited for by the loop that hands signals on: until then its number is its own.

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitCode};

use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitIdStatus, getrlimit, kill_process,
    setrlimit, waitid,
};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU,
    SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithRawSiginfo;
use signal_hook::low_level::{emulate_default_handler, signal_name};

use crate::{Failure, code};

/// What is handed on.
const HANDED_ON: [i32; 10] = [
    SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGALRM, SIGUSR1, SIGUSR2, SIGWINCH, SIGTSTP, SIGCONT,
];

/// The command finds its descriptor from here on: scripts redirect the low ones by number.
const OUT_OF_THE_WAY: i32 = 100;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum End {
    Exited(u8),
    Killed(i32),
}

impl End {
    /// Ends in the same way.
    pub(crate) fn follow(self) -> ExitCode {
        match self {
            Self::Exited(status) => ExitCode::from(status),
            Self::Killed(signal) => {
                // The command has dumped its core; this one is of no use.
                let maximum = getrlimit(Resource::Core).maximum;
                let none = Rlimit {
                    current: Some(0),
                    maximum,
                };
                let _ = setrlimit(Resource::Core, none);
                // It returns for a signal that it does not know: a real-time one, above all.
                let _ = emulate_default_handler(signal);
                ExitCode::from(128_u8.saturating_add(signal as u8))
            }
        }
    }
}

/// A command that has been started.
#[derive(Debug)]
pub(crate) struct Spawned {
    child: Child,
    signals: SignalsInfo<WithRawSiginfo>,
}

impl Spawned {
    /// Starts it, with `lifeline` to inherit.
    pub(crate) fn start(command: &[OsString], lifeline: BorrowedFd<'_>) -> Result<Self, Failure> {
        let (program, arguments) = command
            .split_first()
            .ok_or_else(|| Failure::new(code::USAGE, "there is no command to run"))?;
        // From here on they are kept, and handed on when it is there.
        let signals = listen().map_err(|error| refused("listen for signals", &error))?;
        let inherited =
            heritage(lifeline).map_err(|error| refused("make a descriptor to inherit", &error))?;
        let child = Command::new(program).args(arguments).spawn();
        drop(inherited);
        let child = child.map_err(|error| {
            let name = program.display();
            match error.kind() {
                io::ErrorKind::NotFound => Failure::new(
                    code::NOT_FOUND,
                    format!("there is no command '{name}': {error}; is it in $PATH?"),
                ),
                _ => Failure::new(
                    code::CANNOT_RUN,
                    format!("could not run '{name}': {error}; is it a program, and executable?"),
                ),
            }
        })?;
        Ok(Self { child, signals })
    }

    /// Waits for its end, and hands signals on until then.
    pub(crate) fn wait(mut self) -> Result<End, Failure> {
        let pid = Pid::from_child(&self.child);
        for received in self.signals.forever() {
            let signal = received.si_signo;
            if signal == SIGCHLD {
                if let Some(end) = look_at(pid)? {
                    return Ok(end);
                }
            } else if received.si_code <= 0 {
                // A process has sent it, and not the kernel.
                hand_on(pid, signal);
            }
        }
        Err(Failure::new(code::OS, "signals do not come any more"))
    }
}

fn refused(what: &str, error: &io::Error) -> Failure {
    Failure::new(code::OS, format!("could not {what}: {error}"))
}

/// A duplicate that is not closed when a program is executed. It shares the lock of the original.
fn heritage(lifeline: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let duplicate = match fcntl_dupfd_cloexec(lifeline, OUT_OF_THE_WAY) {
        // There may not be so many.
        Err(Errno::INVAL) => fcntl_dupfd_cloexec(lifeline, 3)?,
        duplicate => duplicate?,
    };
    fcntl_setfd(&duplicate, FdFlags::empty())?;
    Ok(duplicate)
}

/// What is ignored is left so: the command inherits that, and not a handler.
fn listen() -> io::Result<SignalsInfo<WithRawSiginfo>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let is_ignored = |signal: &i32| ignored >> (signal - 1) & 1 != 0;
    let mut heard: Vec<i32> = HANDED_ON.to_vec();
    heard.retain(|signal| !is_ignored(signal));
    heard.push(SIGCHLD);
    SignalsInfo::new(heard)
}

/// What has become of the command; its end, if that is it.
fn look_at(pid: Pid) -> Result<Option<End>, Failure> {
    let wanted = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    loop {
        let status = match waitid(WaitId::Pid(pid), wanted) {
            Ok(Some(status)) => status,
            Ok(None) => return Ok(None),
            Err(error) => return Err(refused("wait for the command", &error.into())),
        };
        if let Some(end) = ended(&status) {
            return Ok(Some(end));
        }
        // Stopped by the terminal's Ctrl-Z, say: the shell waits for `slots` to stop. Not so if
        // somebody stops the command alone, and will have it alone go on.
        if matches!(status.stopping_signal(), Some(SIGTSTP | SIGTTIN | SIGTTOU)) {
            let _ = emulate_default_handler(SIGTSTP);
            // It was continued. The signal that did it may never be heard: the next one that stops
            // drops it if it comes at once.
            hand_on(pid, SIGCONT);
        }
    }
}

fn ended(status: &WaitIdStatus) -> Option<End> {
    if let Some(code) = status.exit_status() {
        return Some(End::Exited(code as u8));
    }
    status.terminating_signal().map(End::Killed)
}

fn hand_on(pid: Pid, signal: i32) {
    let Some(named) = Signal::from_named_raw(signal) else {
        return;
    };
    if let Err(error) = kill_process(pid, named) {
        let name = signal_name(signal).unwrap_or("a signal");
        eprintln!("slots: could not hand {name} to the command: {error}");
    }
}
