//! Processes that use limits, and do what they are told.
//!
//! A child is this program once more, with `ROLE` as its first argument. It reads commands from its
//! standard input, a line each, and answers on its standard output:
//!
//! | command | what it does | answers |
//! |---|---|---|
//! | | starts, and opens its limits | `ready` |
//! | `grow BYTES` | makes so much memory resident | `grown` |
//! | `hold` | takes a permit of each of its limits, and keeps them until the next command | `asking`, `held AT`, `released` |
//! | `contend START END STEPS` | works with a permit of its first limit, again and again | `did COUNT START END` |
//!
//! Times are nanoseconds of the monotonic clock, which is the same in all processes. A child ends
//! with its input, and is killed when the bench ends.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{self, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

use super::limit::{Address, Loops};
use super::resident;
use crate::work::Work;

/// Then come the number of the bench's process, and the addresses, three arguments each.
pub(super) const ROLE: &str = "child-of-a-bench";

/// What an answer may take: longer than the kernel needs for two gigabytes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

pub(super) fn clock() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The bench's end of a child. It does not outlive this value.
#[derive(Debug)]
pub(super) struct Child {
    process: process::Child,
    commands: ChildStdin,
    answers: Receiver<String>,
}

impl Child {
    /// Starts one, without waiting until it is ready.
    pub(super) fn start(addresses: &[&Address]) -> Outcome<Child> {
        let mut process = Command::new(env::current_exe()?)
            .args([ROLE, &process::id().to_string()])
            .args(addresses.iter().flat_map(|address| address.arguments()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (Some(commands), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("the child has no pipes".into());
        };
        let (sender, answers) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Child {
            process,
            commands,
            answers,
        })
    }

    /// Starts one, and waits until it is ready.
    pub(super) fn spawn(address: &Address) -> Outcome<Child> {
        let mut child = Child::start(&[address])?;
        child.expect("ready")?;
        Ok(child)
    }

    pub(super) fn tell(&mut self, command: impl Display) -> Outcome {
        Ok(writeln!(self.commands, "{command}")?)
    }

    /// The next answer, which must begin with `word`; what it says then.
    pub(super) fn expect(&mut self, word: &str) -> Outcome<Vec<u64>> {
        self.expect_within(word, PATIENCE)?
            .ok_or_else(|| format!("a child has not answered {word} within {PATIENCE:?}").into())
    }

    /// `None`: there was no answer in time.
    pub(super) fn expect_within(
        &mut self,
        word: &str,
        time: Duration,
    ) -> Outcome<Option<Vec<u64>>> {
        let line = match self.answers.recv_timeout(time) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("a child ended without answering {word}").into());
            }
        };
        let mut words = line.split(' ');
        if words.next() != Some(word) {
            return Err(format!("a child answered {line:?} and not {word}").into());
        }
        let numbers: Result<Vec<u64>, _> = words.map(str::parse).collect();
        Ok(Some(numbers?))
    }

    /// Has it ask for a permit, and waits until it sleeps in that.
    pub(super) fn ask(&mut self) -> Outcome {
        self.tell("hold")?;
        self.expect("asking")?;
        Ok(())
    }

    /// Waits until its main thread sleeps.
    pub(super) fn wait_until_asleep(&self) -> Outcome {
        let pid = self.process.id();
        for _ in 0..10_000 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The state comes behind the name, which may contain anything.
            let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
            if state.is_some_and(|state| state.starts_with('S')) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err("a child that asks for a permit does not sleep".into())
    }

    /// Kills it, without waiting for its end.
    pub(super) fn kill(&mut self) {
        // It fails only if the child has ended, which is what is wanted.
        let _ = self.process.kill();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        // Without it the child stays a zombie; there is nobody to tell of an error.
        let _ = self.process.wait();
    }
}

/// The child's end, from the arguments that follow `ROLE`.
pub(super) fn run(arguments: &[String]) -> Outcome {
    let Some((parent, addresses)) = arguments.split_first() else {
        return Err("a child of a bench is started by that bench".into());
    };
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that call.
    if getppid().map(Pid::as_raw_pid) != Some(parent.parse()?) {
        return Ok(());
    }
    let limits: Outcome<Vec<Box<dyn Loops>>> = addresses
        .chunks(3)
        .map(|address| Address::from_arguments(address)?.open())
        .collect();
    let limits = limits?;
    answer("ready")?;
    let mut lines = io::stdin().lock().lines();
    while let Some(line) = lines.next().transpose()? {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["grow", bytes] => {
                resident::grow(bytes.parse()?)?;
                answer("grown")?;
            }
            ["hold"] => {
                answer("asking")?;
                let mut outcome = Ok(());
                hold_all(&limits, &mut || {
                    let at = clock();
                    outcome = answer(format_args!("held {at}"));
                    // Whatever comes, or the end.
                    drop(lines.next());
                });
                outcome?;
                answer("released")?;
            }
            ["contend", start, end, steps] => {
                let limit = limits.first().ok_or("there is no limit")?;
                let running = AtomicBool::new(true);
                let (start, end) = (start.parse()?, end.parse()?);
                let work = Work::of_steps(steps.parse()?);
                let (start, count, end) = thread::scope(|scope| {
                    scope.spawn(|| {
                        sleep_until(end);
                        running.store(false, Ordering::Relaxed);
                    });
                    sleep_until(start);
                    (clock(), limit.contend(&running, work), clock())
                });
                answer(format_args!("did {count} {start} {end}"))?;
            }
            _ => return Err(format!("there is no command {line:?}").into()),
        }
    }
    Ok(())
}

fn answer(text: impl Display) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{text}")?;
    output.flush()
}

fn sleep_until(time: u64) {
    thread::sleep(Duration::from_nanos(time.saturating_sub(clock())));
}

fn hold_all(limits: &[Box<dyn Loops>], inside: &mut dyn FnMut()) {
    match limits.split_first() {
        Some((first, rest)) => first.hold_while(&mut || hold_all(rest, inside)),
        None => inside(),
    }
}
