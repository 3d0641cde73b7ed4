//! A process that opens, takes and returns what it is told over a socket, one line at a time.
//!
//! A puppet can fork, and its child connects to the driver by itself and is a puppet too, with
//! everything that a fork inherits.

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind::{Interrupted, WouldBlock};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chdir, execv, getpid};

use crate::child::{Child, Lifetime};
use crate::scene::Scene;
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::{SharedLease, SharedOwnedPermit, SharedSendPermit};

/// Where puppets connect.
pub(in crate::semaphore) struct Theatre {
    listener: UnixListener,
    pub(in crate::semaphore) directory: PathBuf,
    pub(in crate::semaphore) path: PathBuf,
    pub(in crate::semaphore) permits: u32,
}

/// The driver's end of a puppet.
pub(in crate::semaphore) struct Puppet {
    /// None for a puppet's own child.
    child: Option<Child>,
    pub(in crate::semaphore) pid: Pid,
    stream: BufReader<UnixStream>,
}

impl Theatre {
    pub(in crate::semaphore) fn open(scene: &Scene, name: &str, permits: u32) -> Result<Theatre> {
        let directory = scene.path(name);
        fs::create_dir(&directory)?;
        Ok(Theatre {
            listener: UnixListener::bind(directory.join("socket"))?,
            path: scene.semaphore(name),
            directory,
            permits,
        })
    }

    pub(in crate::semaphore) fn puppet(&self) -> Result<Puppet> {
        self.puppet_after(|| Ok(()))
    }

    /// A puppet that changes its surroundings first.
    pub(in crate::semaphore) fn puppet_after(
        &self,
        change: impl FnOnce() -> Result<()>,
    ) -> Result<Puppet> {
        let child = Child::fork(|| self.perform(change))?;
        self.accept(Some(child))
    }

    /// The first process of a PID namespace: its number there is 1.
    pub(in crate::semaphore) fn puppet_in_pid_namespace(&self) -> Result<Puppet> {
        let child = Child::fork_in_namespace(|| self.perform(|| Ok(())))?;
        self.accept(Some(child))
    }

    fn perform(&self, change: impl FnOnce() -> Result<()>) -> i32 {
        let served = change().and_then(|()| {
            let mut stage = Backstage {
                directory: &self.directory,
                path: &self.path,
                permits: self.permits,
                semaphore: None,
                held: Vec::new(),
                leases: Vec::new(),
                weight: Vec::new(),
            };
            stage.serve()
        });
        match served {
            Ok(()) => 0,
            Err(error) => {
                println!("  puppet {}: {error:#}", getpid());
                1
            }
        }
    }

    pub(in crate::semaphore) fn accept(&self, child: Option<Child>) -> Result<Puppet> {
        let (stream, _) = self.listener.accept().context("accept")?;
        let mut puppet = Puppet {
            child,
            pid: Pid::from_raw(0),
            stream: BufReader::new(stream),
        };
        puppet.pid = Pid::from_raw(puppet.reply()?.parse().context("a number")?);
        Ok(puppet)
    }
}

impl Puppet {
    /// Says a line and returns the answer.
    pub(in crate::semaphore) fn ask(&mut self, line: &str) -> Result<String> {
        self.tell(line)?;
        self.reply().with_context(|| format!("`{line}`"))
    }

    pub(in crate::semaphore) fn tell(&mut self, line: &str) -> Result<()> {
        writeln!(self.stream.get_mut(), "{line}").with_context(|| format!("`{line}`"))
    }

    pub(in crate::semaphore) fn reply(&mut self) -> Result<String> {
        let mut line = String::new();
        let read = self.stream.read_line(&mut line).context("a reply")?;
        ensure!(read > 0, "puppet {} is gone", self.pid);
        Ok(line.trim_end().to_owned())
    }

    /// Whether a reply, or the puppet's end, comes so soon.
    pub(in crate::semaphore) fn replies_within(&mut self, patience: Duration) -> Result<bool> {
        self.stream.get_ref().set_read_timeout(Some(patience))?;
        let found = self.stream.fill_buf().map(|_| ());
        self.stream.get_ref().set_read_timeout(None)?;
        match found {
            Err(error) if matches!(error.kind(), WouldBlock | Interrupted) => Ok(false),
            other => other.map(|()| true).context("a reply"),
        }
    }

    /// As `ask`, where only one answer is right.
    pub(in crate::semaphore) fn expect(&mut self, line: &str, answer: &str) -> Result<()> {
        let given = self.ask(line)?;
        ensure!(
            given == answer,
            "`{line}` of {}: {given}, not {answer}",
            self.pid
        );
        Ok(())
    }

    pub(in crate::semaphore) fn ok(&mut self, line: &str) -> Result<()> {
        self.expect(line, "ok")
    }

    /// Waits until the puppet has ended and its end of the line is closed.
    pub(in crate::semaphore) fn hang_up(&mut self) -> Result<()> {
        match self.reply() {
            Ok(reply) => bail!("puppet {} is still there: {reply}", self.pid),
            Err(_) => Ok(()),
        }
    }

    pub(in crate::semaphore) fn fork(&mut self, theatre: &Theatre) -> Result<Puppet> {
        self.tell("fork")?;
        let child = theatre.accept(None)?;
        self.ok("hello")?;
        Ok(child)
    }

    pub(in crate::semaphore) fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid, signal).with_context(|| format!("{signal} to {}", self.pid))
    }

    pub(in crate::semaphore) fn kill(mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        if let Some(child) = &mut self.child {
            child.wait()?;
        }
        Ok(())
    }

    pub(in crate::semaphore) fn child(&mut self) -> Result<&mut Child> {
        self.child.as_mut().context("not my child")
    }
}

/// A puppet's side.
struct Backstage<'a> {
    directory: &'a Path,
    path: &'a Path,
    permits: u32,
    semaphore: Option<&'static SharedSemaphore>,
    held: Vec<SharedOwnedPermit>,
    leases: Vec<SharedLease>,
    weight: Vec<u8>,
}

impl Backstage<'_> {
    /// Does what it is told until nobody is there any more.
    fn serve(&mut self) -> Result<()> {
        let stream = UnixStream::connect(self.directory.join("socket")).context("connect")?;
        // Our number outside, whatever it is in here: /proc is the driver's.
        let outside = fs::read_link("/proc/self")?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        writeln!(stream, "{}", outside.display())?;
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match self.obey(&words) {
                Ok(Some(answer)) => answer,
                Ok(None) => continue,
                Err(error) => format!("{error:#}").replace('\n', " "),
            };
            writeln!(stream, "{answer}")?;
        }
    }

    fn semaphore(&self) -> Result<&'static SharedSemaphore> {
        self.semaphore.context("nothing is open")
    }

    /// The answer, or none where nothing is to be said.
    fn obey(&mut self, words: &[&str]) -> Result<Option<String>> {
        let ok = Ok(Some("ok".to_owned()));
        match *words {
            ["hello"] => ok,
            ["open"] => self.open(false),
            ["open", "strict"] => self.open(true),
            ["open", "all"] => {
                let mut opened = 0;
                while let Ok(semaphore) = SharedSemaphore::open(self.path, self.permits) {
                    self.semaphore = Some(Box::leak(Box::new(semaphore)));
                    opened += 1;
                }
                Ok(Some(opened.to_string()))
            }
            ["callback", count] => {
                let (sender, permits) = mpsc::channel();
                let answer = move |permit| drop(sender.send(permit));
                let pending = self.semaphore()?.acquire_many_with(count.parse()?, answer);
                let permit = permits.recv().context("nobody called")?;
                drop(pending);
                self.keep(permit.map(SharedSendPermit::attach))
            }
            ["take", count] => {
                let permit = self.semaphore()?.acquire_many(count.parse()?)?;
                self.held.push(permit.into_owned());
                ok
            }
            ["lease", milliseconds] => {
                let ttl = Duration::from_millis(milliseconds.parse()?);
                self.leases.push(self.semaphore()?.acquire_leased(ttl)?);
                ok
            }
            ["try", count] => {
                let permit = self.semaphore()?.try_acquire_many(count.parse()?);
                self.keep(permit.map(|permit| permit.into_owned()))
            }
            ["wait", count, milliseconds] => {
                let wait = Duration::from_millis(milliseconds.parse()?);
                let permit = self.semaphore()?.acquire_many_timeout(count.parse()?, wait);
                self.keep(permit.map(|permit| permit.into_owned()))
            }
            ["drop"] => {
                self.held.clear();
                self.leases.clear();
                ok
            }
            ["forget"] => {
                self.held.drain(..).for_each(std::mem::forget);
                ok
            }
            ["current"] => Ok(Some(self.semaphore()?.current().to_string())),
            ["pid"] => Ok(Some(getpid().to_string())),
            ["fork"] => {
                let child = Child::fork_as(Lifetime::Free, || i32::from(self.serve().is_err()))?;
                // It ends when nobody talks to it any more.
                std::mem::forget(child);
                Ok(None)
            }
            ["exit"] => exit(0),
            ["exec", program] => {
                let program = CString::new(program)?;
                let args = [c"latchwork-crash".to_owned(), c"linger".to_owned()];
                match execv(&program, &args) {
                    Ok(never) => match never {},
                    Err(error) => Ok(Some(error.to_string())),
                }
            }
            ["command"] => self.command(),
            ["fill", megabytes] => {
                self.weight = vec![1; megabytes.parse::<usize>()? << 20];
                ok
            }
            ["dump"] => {
                chdir(self.directory)?;
                setrlimit(Resource::RLIMIT_CORE, u64::MAX, u64::MAX)?;
                std::process::abort()
            }
            _ => bail!("no such line: {words:?}"),
        }
    }

    fn open(&mut self, strict: bool) -> Result<Option<String>> {
        let opened = SharedSemaphore::builder(self.path)
            .permits(self.permits)
            .strict(strict)
            .open();
        Ok(Some(match opened {
            Ok(semaphore) => {
                // Guards may be inherited by a fork; nothing here goes before the process.
                self.semaphore = Some(Box::leak(Box::new(semaphore)));
                "ok".to_owned()
            }
            Err(error) => format!("{error:?}"),
        }))
    }

    fn keep<E: std::fmt::Debug>(
        &mut self,
        permit: Result<SharedOwnedPermit, E>,
    ) -> Result<Option<String>> {
        Ok(Some(match permit {
            Ok(permit) => {
                self.held.push(permit);
                "ok".to_owned()
            }
            Err(error) => format!("{error:?}"),
        }))
    }

    /// Starts a command that inherits the descriptor of this attachment; answers with its number.
    fn command(&mut self) -> Result<Option<String>> {
        // A duplicate that an exec does not close; it is the same open file, so the same lock.
        let inherited = self
            .semaphore()?
            .lifeline_fd()
            .context("a fork's child has no descriptor")?
            .try_clone_to_owned()?;
        fcntl(&inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
        let command = Command::new("/proc/self/exe").arg("linger").spawn()?;
        Ok(Some(command.id().to_string()))
    }
}
