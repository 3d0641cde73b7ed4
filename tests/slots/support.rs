//! Places for semaphores, and running `slots` in them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use latchwork::SharedSemaphore;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::dir::Dir;
use crate::example;

/// Says that it is there, and ends when its standard input does.
pub(crate) const UNTIL_TOLD: [&str; 3] = ["sh", "-c", "echo $$; exec cat >/dev/null"];

/// The example's program.
pub(crate) fn binary() -> PathBuf {
    example::binary("slots")
}

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
    pub(crate) fn name(&self) -> PathBuf {
        self.directory().join("slots")
    }

    pub(crate) fn open(&self) -> SharedSemaphore {
        let builder = SharedSemaphore::builder(self.name());
        builder.existing_only(true).open().expect("it was made")
    }

    /// Gives `slots` to start with arguments.
    pub(crate) fn slots<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(binary());
        command.arg("--name").arg(self.name()).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end. `arguments` are words.
    pub(crate) fn run(&self, arguments: &str) -> process::Output {
        let mut command = self.slots(arguments.split_whitespace());
        command.output().expect("run slots")
    }

    pub(crate) fn run_well(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{arguments}: {stderr}");
        stdout
    }

    /// Starts a command that ends when it is told to.
    pub(crate) fn start(&self, options: &str) -> Running {
        let arguments = options.split_whitespace().chain(["--"]).chain(UNTIL_TOLD);
        Running::start(&mut self.slots(arguments))
    }
}

/// What a program and what it runs read and write.
#[derive(Debug)]
pub(crate) struct Output {
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Output {
    /// What they say next; empty at their end.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Reads up to a line that begins so, and returns the rest of it. `None`: there is none.
    pub(crate) fn until(&mut self, beginning: &str) -> Option<String> {
        let mut lines = self
            .stdout
            .by_ref()
            .lines()
            .map(|line| line.expect("a line"));
        lines.find_map(|line| Some(line.strip_prefix(beginning)?.to_owned()))
    }

    /// Reads until all who write have ended.
    pub(crate) fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("output");
        rest
    }

    pub(crate) fn write(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("open");
        stdin.write_all(text.as_bytes()).expect("write");
    }

    pub(crate) fn end_input(&mut self) {
        self.stdin = None;
    }
}

/// A program that has been started. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Slots(Child);

impl Slots {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("signal slots");
    }

    /// Kills it, dead or alive, and nobody else.
    pub(crate) fn kill(&mut self) {
        self.0.kill().expect("kill slots");
        self.wait();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("wait for slots")
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that has been started, and its input and output. What it runs should end with its
/// input, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) slots: Slots,
    pub(crate) output: Output,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start slots");
        let output = Output {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().expect("piped")),
        };
        Self {
            slots: Slots(child),
            output,
        }
    }

    /// The process that said its number.
    pub(crate) fn command(&mut self) -> Process {
        let line = self.output.line();
        let pid = line.parse().ok().and_then(Pid::from_raw);
        Process::open(pid.unwrap_or_else(|| panic!("a number, not {line:?}")))
    }

    /// Tells its command to end.
    pub(crate) fn end(mut self) -> ExitStatus {
        self.output.end_input();
        self.slots.wait()
    }
}

/// A process that is somebody else's child, by a handle that is no other's later on.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    handle: OwnedFd,
}

impl Process {
    /// Of a process that is sure to be there.
    pub(crate) fn open(pid: Pid) -> Self {
        let handle = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
        Self { pid, handle }
    }

    pub(crate) fn kill(&self) {
        pidfd_send_signal(&self.handle, Signal::KILL).expect("kill the command");
    }
}

pub(crate) fn texts(output: &process::Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The fields of a process's `stat`, from the state on; `None` when it is not there.
pub(crate) fn stat(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_ascii_whitespace().map(str::to_owned).collect())
}
