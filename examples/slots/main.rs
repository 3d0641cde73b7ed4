//! slots: runs a command while it holds one of K slots, on latchwork's public API.
//!
//! ```text
//! cargo run --release --example slots -- --name build --permits 4 -- cc -c main.c
//! cargo run --release --example slots -- --help
//! ```
//!
//! As `flock`, for K at a time: any number of `slots` with one name run at most K commands at once.
//! A slot is a permit of a strict [`latchwork::SharedSemaphore`]. It comes back when the command
//! ends, and when both have been killed: the command inherits a duplicate of
//! [`lifeline_fd`](latchwork::SharedSemaphore::lifeline_fd), so as long as it lives, the slot of a
//! `slots` that was killed stays taken.
//!
//! | module | does |
//! |---|---|
//! | `options` | reads the command line |
//! | `open` | opens the semaphore, and makes it when there is none |
//! | `command` | starts the command, hands signals to it, ends as it did |
//! | `list` | the table of who holds and who waits |

mod command;
mod list;
mod open;
mod options;

use std::io::Write as _;
use std::process::ExitCode;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::AcquireTimeoutError;

use command::{End, Spawned};
use options::{Action, Job};

/// The codes of `sysexits.h`, and those that shells and `timeout` give to commands.
mod code {
    pub(crate) const USAGE: u8 = 64;
    pub(crate) const UNAVAILABLE: u8 = 69;
    pub(crate) const OS: u8 = 71;
    pub(crate) const TIMED_OUT: u8 = 75;
    pub(crate) const CANNOT_RUN: u8 = 126;
    pub(crate) const NOT_FOUND: u8 = 127;
}

/// Why `slots` itself could not do what it was asked.
#[derive(Debug)]
struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }
}

fn main() -> ExitCode {
    let options = match options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("slots: {error}\nTry 'slots --help'.");
            return ExitCode::from(code::USAGE);
        }
    };
    let outcome = match options {
        Action::Help => print(options::HELP),
        Action::Version => print(&format!("slots {}\n", env!("CARGO_PKG_VERSION"))),
        Action::Run(job) => run(&job),
        Action::List(name) => open::existing(&name).and_then(|slots| print(&list::table(&slots))),
        Action::Set(name, permits) => open::existing(&name).and_then(|slots| set(&slots, permits)),
        Action::Close(name) => open::existing(&name).map(|slots| {
            slots.close();
            End::Exited(0)
        }),
        Action::Remove(name) => open::remove(&name).map(|()| End::Exited(0)),
    };
    match outcome {
        Ok(end) => end.follow(),
        Err(Failure { code, text }) => {
            eprintln!("slots: {text}");
            ExitCode::from(code)
        }
    }
}

/// Runs the command in a slot.
fn run(job: &Job) -> Result<End, Failure> {
    let slots = open::for_job(job)?;
    // Until the command has been started, signals do what they do to any program: a `slots` that
    // they end holds nothing, or its slot comes back.
    let permit = match job.timeout {
        Some(timeout) => slots.acquire_timeout(timeout),
        None => slots.acquire().map_err(Into::into),
    };
    let permit = permit.map_err(|error| refused(job, &slots, error))?;
    let end = Spawned::start(
        &job.command,
        slots.lifeline_fd().expect("this is no fork's child"),
    )?
    .wait()?;
    // Before it ends by a signal itself, perhaps.
    drop(permit);
    Ok(end)
}

fn refused(job: &Job, slots: &SharedSemaphore, error: AcquireTimeoutError) -> Failure {
    let name = job.name.display();
    match error {
        AcquireTimeoutError::TimedOut => Failure::new(
            code::TIMED_OUT,
            format!(
                "none of the {} slots of '{name}' came free in time; \
                 'slots --name {name} --list' shows who has them",
                slots.max(),
            ),
        ),
        AcquireTimeoutError::Closed => Failure::new(
            code::UNAVAILABLE,
            format!(
                "'{name}' has been closed, nothing starts in it any more; \
                 'slots --name {name} --rm' lets the next one begin anew"
            ),
        ),
        error => Failure::new(
            code::UNAVAILABLE,
            format!("'{name}': {error}; 'slots --name {name} --rm' lets the next one begin anew"),
        ),
    }
}

fn set(slots: &SharedSemaphore, permits: u32) -> Result<End, Failure> {
    slots.set_max(permits).map_err(|error| {
        Failure::new(
            code::UNAVAILABLE,
            format!(
                "{error}: {} was made with room for {}; remove it (--rm), and make it anew with \
                 --ceiling {permits} when nothing runs in it",
                slots.path().display(),
                slots.ceiling(),
            ),
        )
    })?;
    Ok(End::Exited(0))
}

fn print(text: &str) -> Result<End, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        // Who reads has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(code::OS, format!("could not write: {error}")))
        }
        _ => Ok(End::Exited(0)),
    }
}
