//! The child: this program once more, which reads orders and answers each with a line.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{SharedLease, SharedSendPermit};

/// Set for the child.
pub(crate) const ROLE: &str = "LATCHWORK_SHARED_SEMAPHORE_CHILD";
/// The test that is the child.
pub(crate) const TEST: &str = "child::child";
/// Precedes each answer.
pub(crate) const ANSWER: &str = "answer: ";

#[derive(Default)]
struct State {
    semaphore: Option<SharedSemaphore>,
    permits: Vec<SharedSendPermit>,
    leases: Vec<SharedLease>,
    commands: Vec<Child>,
}

fn answer(text: impl std::fmt::Display) {
    println!("\n{ANSWER}{text}");
    io::stdout().flush().unwrap();
}

impl State {
    fn semaphore(&self) -> &SharedSemaphore {
        self.semaphore.as_ref().unwrap()
    }

    fn obey(&mut self, order: &str) {
        let (order, argument) = order.split_once(' ').unwrap_or((order, ""));
        let number = argument.parse::<u32>();
        match order {
            "open" => {
                let builder = SharedSemaphore::builder(argument).existing_only(true);
                self.semaphore = Some(builder.open().unwrap());
                answer("open");
            }
            // A name, and where it is.
            "make" => match SharedSemaphore::open(argument, 1) {
                Ok(made) => {
                    answer(made.path().display());
                    self.semaphore = Some(made);
                }
                Err(error) => answer(error),
            },
            "take" => {
                let permits = self.semaphore().acquire_many(number.unwrap()).unwrap();
                self.permits.push(permits.detach());
                answer("taken");
            }
            "try" => {
                let tried = self.semaphore().try_acquire_many(number.unwrap());
                match tried.map(|permits| permits.detach()) {
                    Ok(permits) => {
                        self.permits.push(permits);
                        answer("taken");
                    }
                    Err(error) => answer(error),
                }
            }
            // Waits in a thread, and keeps what it gets.
            "wait" => {
                let semaphore = self.semaphore().clone();
                let wanted = number.unwrap();
                thread::spawn(move || {
                    let permits = semaphore.acquire_many(wanted).unwrap();
                    answer("taken");
                    std::mem::forget(permits.detach());
                });
            }
            // Takes one, and leaks its guard in a thread that stays.
            "leak" => {
                let permit = self.semaphore().acquire().unwrap().into_owned();
                std::mem::forget(permit);
                answer("leaked");
            }
            "lease" => {
                let ttl = Duration::from_millis(number.unwrap().into());
                let lease = self.semaphore().acquire_leased(ttl).unwrap();
                answer(lease.token());
                self.leases.push(lease);
            }
            "live" => answer(self.leases.last().unwrap().is_live()),
            "release" => {
                self.permits.clear();
                self.leases.clear();
                answer("released");
            }
            // Asks for one that is not there, gives it, and says so once the callback has run.
            "callback" => {
                let held = self.semaphore().acquire().unwrap();
                let (send, told) = mpsc::channel();
                let pending = self.semaphore().acquire_with(move |permit| {
                    send.send(permit.map(drop)).unwrap();
                });
                if argument == "cancelled" {
                    answer(pending.cancel());
                } else {
                    drop(held);
                    told.recv().unwrap().unwrap();
                    answer("called");
                }
            }
            "current" => answer(self.semaphore().current()),
            "drop" => {
                self.semaphore = None;
                answer("dropped");
            }
            // A command that has the semaphore's descriptor and ends with its input: this one's,
            // from which nothing may be ordered then, or one that ends with this process.
            "hand" => {
                let fd = self
                    .semaphore()
                    .lifeline_fd()
                    .expect("no fork")
                    .try_clone_to_owned();
                let input = match argument {
                    "input" => Stdio::inherit(),
                    _ => Stdio::piped(),
                };
                let mut shell = Command::new("sh");
                shell.args(["-c", "read line"]).stdin(input);
                shell.stdout(Stdio::null()).stderr(fd.unwrap());
                self.commands.push(shell.spawn().unwrap());
                answer("handed");
            }
            "abort" => std::process::abort(),
            "exit" => std::process::exit(0),
            "exec" => {
                let error = Command::new("sh")
                    .args(["-c", &format!("echo '{ANSWER}'$$; read line")])
                    .exec();
                panic!("{error}");
            }
            _ => panic!("no such order: {order}"),
        }
    }
}

/// Not a test: what the others start.
#[test]
fn child() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut state = State::default();
    for order in io::stdin().lock().lines() {
        state.obey(&order.unwrap());
    }
}
