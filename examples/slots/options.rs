//! What the command line says.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The most slots that there can be.
const MOST: u32 = 1 << 20;

/// How far `--set` can go, unless told otherwise.
pub(crate) const CEILING: u32 = 1024;

pub(crate) const HELP: &str = "\
slots: runs a command while it holds one of K slots

Usage: slots --name NAME [--permits K] [OPTIONS] [--] COMMAND [ARGUMENT]...
       slots --name NAME --list | --set K | --close | --rm

To run a command:
  --name NAME     which slots: a name without slashes, for a file in
                  $XDG_RUNTIME_DIR/latchwork, or in /dev/shm/latchwork-UID where
                  that is not set; or an absolute path
  --permits K     how many commands run at once. NAME is made with that; one
                  that is there is used as it is, and a note says so if it has
                  another number
  --timeout SECS  how long to wait for a slot at most; 0 tries once, fractions
                  are allowed [default: as long as it takes]
  --ceiling M     how far --set can go, when NAME is made [default: 1024, or K]
  -q, --quiet     say nothing when NAME is otherwise than asked for

To look at NAME, and to change it:
  --list          who holds a slot, and since when, and who waits for one; with
                  how many permits, or requests. 'gone' is a slots that was
                  killed while what it ran lives on
  --set K         have K slots from now on. Commands that run are left alone:
                  after a cut, new ones wait until enough have ended
  --close         let nobody in any more: those who wait fail, those who run go
                  on. For good; --rm begins anew
  --rm            remove NAME. Who runs or waits goes on with what was removed,
                  who comes next makes it anew

  -h, --help      print this
  -V, --version   print the version

The exit status is the command's. If a signal ended the command, the same signal
ends slots, and a shell sees 128 + its number. Otherwise:
  64   the command line is wrong
  69   NAME is not there, cannot be opened, or has been closed
  71   the system refused something else
  75   no slot came free in time
  126  the command cannot be run
  127  there is no such command

HUP, INT, QUIT, TERM, ALRM, USR1, USR2, WINCH, TSTP and CONT that are sent to
slots are handed to the command; those of the terminal reach both anyway. What
was ignored when slots was started stays ignored. When the command stops for job
control, slots stops too.

The slot comes back when the command ends, also if others that it has started go
on. If slots is killed (KILL) while the command lives on, the slot stays taken
until the command has ended, and all who inherited its descriptors: unless they
close descriptors that they do not know, as some daemons do.
";

/// A command to run.
#[derive(Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) name: PathBuf,
    pub(crate) permits: Option<u32>,
    pub(crate) ceiling: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) is_quiet: bool,
    /// At least one word.
    pub(crate) command: Vec<OsString>,
}

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Run(Job),
    List(PathBuf),
    Set(PathBuf, u32),
    Close(PathBuf),
    Remove(PathBuf),
    Help,
    Version,
}

/// Reads the arguments, the program's name left out.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    use lexopt::prelude::*;

    let (mut name, mut set, mut permits, mut ceiling, mut timeout) = (None, None, None, None, None);
    let mut command = Vec::new();
    // Of the job's alone.
    let mut for_job = None;
    let (mut is_quiet, mut others) = (false, Vec::new());
    let mut parser = lexopt::Parser::from_args(args);
    let fail = |error: lexopt::Error| format!("{error}");
    while let Some(argument) = parser.next().map_err(fail)? {
        match argument {
            Long("name") => name = Some(PathBuf::from(parser.value().map_err(fail)?)),
            Long("permits") => {
                permits = Some(number(&mut parser, "--permits")?);
                for_job = Some("--permits");
            }
            Long("ceiling") => {
                ceiling = Some(number(&mut parser, "--ceiling")?);
                for_job = Some("--ceiling");
            }
            Long("timeout") => {
                timeout = Some(seconds(&mut parser)?);
                for_job = Some("--timeout");
            }
            Short('q') | Long("quiet") => is_quiet = true,
            Long("list") => others.push("--list"),
            Long("set") => {
                set = Some(number(&mut parser, "--set")?);
                others.push("--set");
            }
            Long("close") => others.push("--close"),
            Long("rm") => others.push("--rm"),
            Short('h') | Long("help") => return Ok(Action::Help),
            Short('V') | Long("version") => return Ok(Action::Version),
            Value(program) => {
                // All that follows is the command's.
                command.push(program);
                command.extend(parser.raw_args().map_err(fail)?);
            }
            other => return Err(other.unexpected().to_string()),
        }
    }
    let name = name
        .filter(|name| !name.as_os_str().is_empty())
        .ok_or("--name says which slots, such as --name build")?;
    if let [first, second, ..] = others[..] {
        return Err(format!("{first} and {second} do not go together"));
    }
    if let (Some(option), Some(other)) = (for_job, others.first()) {
        return Err(format!(
            "{option} is for running a command, not for {other}"
        ));
    }
    if let (Some(other), false) = (others.first(), command.is_empty()) {
        return Err(format!("{other} runs no command"));
    }
    match (others.first().copied(), set) {
        (Some("--list"), _) => return Ok(Action::List(name)),
        (Some("--close"), _) => return Ok(Action::Close(name)),
        (Some("--rm"), _) => return Ok(Action::Remove(name)),
        (_, Some(permits)) => return Ok(Action::Set(name, permits)),
        _ => {}
    }
    if command.is_empty() {
        return Err("there is no command to run; or say --list, --set, --close, --rm".into());
    }
    if let (Some(permits), Some(ceiling)) = (permits, ceiling)
        && permits > ceiling
    {
        return Err(format!(
            "--permits {permits} is above --ceiling {ceiling}: raise that, or leave it out"
        ));
    }
    Ok(Action::Run(Job {
        name,
        permits,
        ceiling,
        timeout,
        is_quiet,
        command,
    }))
}

fn number(parser: &mut lexopt::Parser, name: &str) -> Result<u32, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|number| (1..=MOST).contains(number))
        .ok_or_else(|| {
            format!(
                "{name} takes a number from 1 to {MOST}, not '{}'",
                value.to_string_lossy()
            )
        })
}

fn seconds(parser: &mut lexopt::Parser) -> Result<Duration, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| {
            format!(
                "--timeout takes seconds such as 10 or 0.5, not '{}'",
                value.to_string_lossy()
            )
        })
}
