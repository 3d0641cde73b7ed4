//! Running programs: echoed, with an error that is a line to paste, and bounded where they may
//! hang.

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A program to run, which can be shown as a shell line.
pub(crate) struct Program {
    command: Command,
    /// The environment that matters to somebody who reruns it.
    environment: Vec<(String, String)>,
    directory: Option<String>,
}

/// The program ended badly.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) command: String,
    pub(crate) why: String,
    /// The last lines that it printed, where they are kept.
    pub(crate) last_lines: String,
}

/// So much of what a program printed is kept for the end of a long log.
const LAST_BYTES: usize = 4096;

/// A program that has ended may have left others behind that hold its output open: so long is
/// waited for the end of that.
const LEFT_BEHIND: Duration = Duration::from_secs(5);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.command, self.why)
    }
}

impl std::error::Error for Failed {}

/// How a captured program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Failure(ExitStatus),
    /// Killed at its limit.
    TimedOut,
}

pub(crate) struct Captured {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

impl Program {
    pub(crate) fn new(program: impl AsRef<Path>) -> Program {
        let mut command = Command::new(program.as_ref());
        command.stdin(Stdio::null());
        Program {
            command,
            environment: Vec::new(),
            directory: None,
        }
    }

    /// `cargo`, free of what `cargo run` tells this process about the xtask package: build scripts
    /// that watch those variables would otherwise rerun.
    pub(crate) fn cargo() -> Program {
        let mut program = Program::new("cargo");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                program.command.env_remove(&name);
            }
        }
        program
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<str>) -> Program {
        self.command.arg(arg.as_ref());
        self
    }

    pub(crate) fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Program {
        for arg in args {
            self.command.arg(arg.as_ref());
        }
        self
    }

    /// Space-separated arguments, as one would type them.
    pub(crate) fn words(self, line: &str) -> Program {
        self.args(line.split_whitespace())
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<str>) -> Program {
        self.command.env(name, value.as_ref());
        self.environment
            .push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// A variable that a rerun by hand does not need.
    pub(crate) fn env_quiet(mut self, name: &str, value: &Path) -> Program {
        self.command.env(name, value);
        self
    }

    pub(crate) fn env_remove(mut self, name: &str) -> Program {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn dir(mut self, root: &Path, relative: &str) -> Program {
        self.command.current_dir(root.join(relative));
        self.directory = (!relative.is_empty()).then(|| relative.to_owned());
        self
    }

    /// Runs it with its output shown.
    fn shown(&mut self) -> Result<ExitStatus> {
        println!("$ {self}");
        let status = self.command.status();
        status.with_context(|| format!("cannot start `{self}`"))
    }

    /// Runs it with its output shown, and keeps the last lines of that.
    fn shown_and_kept(&mut self) -> Result<(ExitStatus, String)> {
        println!("$ {self}");
        let (reader, writer) = io::pipe().context("cannot make a pipe")?;
        self.command.stdout(writer.try_clone()?).stderr(writer);
        let child = self.command.spawn();
        // The command holds the pipe's other end, which must go for the reader to come to its own.
        self.command
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        let mut child = child.with_context(|| format!("cannot start `{self}`"))?;
        let (sender, kept) = mpsc::channel();
        thread::spawn(move || sender.send(pass_on(reader)));
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{self}`"))?;
        Ok((status, kept.recv_timeout(LEFT_BEHIND).unwrap_or_default()))
    }

    /// Runs it with its output shown; anything but success is an error.
    pub(crate) fn run(mut self) -> Result<()> {
        // On a terminal it may show colours and progress, and somebody looks on.
        let (status, last_lines) = match io::stdout().is_terminal() {
            true => (self.shown()?, String::new()),
            false => self.shown_and_kept()?,
        };
        if status.success() {
            Ok(())
        } else {
            Err(self.failed(&status.to_string(), last_lines))
        }
    }

    /// Runs a program of the project's own, whose exit statuses are ours: where it says that the
    /// command line is wrong, it has said why.
    pub(crate) fn hand_over(mut self) -> Result<ExitCode> {
        let status = self.shown()?;
        match status.code() {
            Some(0) => Ok(ExitCode::SUCCESS),
            Some(2) => Ok(ExitCode::from(2)),
            _ => Err(self.failed(&status.to_string(), String::new())),
        }
    }

    /// Runs it unseen, and tells whether it exists and succeeded.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Runs it and returns its standard output; its standard error is shown.
    pub(crate) fn output(mut self) -> Result<String> {
        self.command.stderr(Stdio::inherit());
        let output = self
            .command
            .output()
            .with_context(|| format!("cannot start `{self}`"))?;
        if !output.status.success() {
            return Err(self.failed(&output.status.to_string(), String::new()));
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` printed bytes that are not UTF-8"))
    }

    /// Runs it with its output kept, and kills it when it has not ended within `limit`.
    ///
    /// The end of both output streams is the sign that it has ended, so it should be a program
    /// that leaves no children behind.
    pub(crate) fn capture(mut self, limit: Option<Duration>) -> Result<Captured> {
        let started = Instant::now();
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{self}`"))?;
        let (sender, ended) = mpsc::channel::<()>();
        let stdout = read_all(child.stdout.take(), sender.clone());
        let stderr = read_all(child.stderr.take(), sender);
        // The readers send nothing: the channel hangs up when both have reached the end.
        let timed_out = match limit {
            Some(limit) => ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout),
            None => {
                let _ = ended.recv();
                false
            }
        };
        if timed_out {
            child
                .kill()
                .with_context(|| format!("cannot kill `{self}`"))?;
        }
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{self}`"))?;
        Ok(Captured {
            exit: match status.success() {
                _ if timed_out => Exit::TimedOut,
                true => Exit::Success,
                false => Exit::Failure(status),
            },
            stdout: stdout.join().unwrap_or_default(),
            stderr: stderr.join().unwrap_or_default(),
            elapsed: started.elapsed(),
        })
    }

    /// Runs it with its output shown afterwards if it failed, bounded by `limit`.
    pub(crate) fn run_bounded(self, limit: Duration) -> Result<Captured> {
        let line = self.to_string();
        println!("$ {line}");
        let captured = self.capture(Some(limit))?;
        let why = match captured.exit {
            Exit::Success => return Ok(captured),
            Exit::Failure(status) => format!("failed: {status}"),
            Exit::TimedOut => format!("had not ended after {} s and was killed", limit.as_secs()),
        };
        let printed = captured.stdout + &captured.stderr;
        print!("{printed}");
        Err(Failed {
            command: line,
            why,
            last_lines: last_lines(printed.as_bytes()),
        }
        .into())
    }

    fn failed(&self, status: &str, last_lines: String) -> anyhow::Error {
        Failed {
            command: self.to_string(),
            why: format!("failed: {status}"),
            last_lines,
        }
        .into()
    }
}

/// Shows what comes until its end, and returns the last lines.
fn pass_on(mut reader: impl Read) -> String {
    let mut kept = Vec::new();
    let mut bytes = [0; LAST_BYTES];
    loop {
        match reader.read(&mut bytes) {
            Ok(0) => break,
            Ok(read) => {
                // Where nobody listens, the program is to come to its end all the same.
                let _ = io::stdout().write_all(&bytes[..read]);
                kept.extend_from_slice(&bytes[..read]);
                kept.drain(..kept.len().saturating_sub(LAST_BYTES));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = io::stdout().flush();
    last_lines(&kept)
}

/// The lines that are whole in the last [`LAST_BYTES`].
fn last_lines(printed: &[u8]) -> String {
    let first = printed.len().saturating_sub(LAST_BYTES);
    let text = String::from_utf8_lossy(&printed[first..]);
    match text.split_once('\n') {
        Some((_, whole)) if printed.len() >= LAST_BYTES => whole.to_owned(),
        _ => text.into_owned(),
    }
}

fn read_all(
    stream: Option<impl Read + Send + 'static>,
    end: mpsc::Sender<()>,
) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        drop(end);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The shell line, relative to the workspace's root.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(directory) = &self.directory {
            write!(f, "cd {} && ", quote(directory))?;
        }
        for (name, value) in &self.environment {
            write!(f, "{name}={} ", quote(value))?;
        }
        write!(
            f,
            "{}",
            quote(&self.command.get_program().to_string_lossy())
        )?;
        for arg in self.command.get_args() {
            write!(f, " {}", quote(&arg.to_string_lossy()))?;
        }
        Ok(())
    }
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_be_pasted_into_a_shell() {
        let program = Program::new("cargo")
            .words("test --doc")
            .arg("a b")
            .env("RUSTFLAGS", "--cfg x");
        assert_eq!(
            program.to_string(),
            "RUSTFLAGS='--cfg x' cargo test --doc 'a b'"
        );
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_its_limit() {
        let captured = Program::new("cat")
            .arg("/dev/zero")
            .capture(Some(Duration::ZERO));
        assert_eq!(captured.map(|c| c.exit).ok(), Some(Exit::TimedOut));
    }

    #[test]
    fn of_what_was_printed_the_last_whole_lines_are_kept() {
        let lines = "a line\n".repeat(LAST_BYTES);
        let kept = last_lines(lines.as_bytes());
        assert!(kept.len() < LAST_BYTES && kept.len() > LAST_BYTES - 8);
        assert!(kept.starts_with("a line\n") && kept.ends_with("a line\n"));
        assert_eq!(last_lines(b"one\ntwo"), "one\ntwo");
        assert_eq!(pass_on(&b"one\ntwo\n"[..]), "one\ntwo\n");
    }

    #[test]
    fn both_streams_of_a_failing_program_are_kept() {
        let captured = Program::new("sh")
            .args(["-c", "echo out; echo err >&2; exit 3"])
            .capture(None);
        let captured = captured.expect("sh starts");
        assert!(matches!(captured.exit, Exit::Failure(status) if status.code() == Some(3)));
        assert_eq!(
            (captured.stdout.as_str(), captured.stderr.as_str()),
            ("out\n", "err\n")
        );
    }
}
