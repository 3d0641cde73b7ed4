//! A process that is stopped at a chosen point of an operation, for good.
//!
//! The subject marks where the operation begins and where it is over. Between the two its tracer
//! goes instruction by instruction, or system call by system call, as many as it likes, and then
//! kills the process. Where the processor has breakpoints that we know how to set, a place that an
//! earlier subject has passed is reached at once: forks have their code at the same addresses. Only
//! one thread is traced: the subject's own, or the first one that it starts; all others run freely.

use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::child::{self, Child, End};
use crate::page::Page;

/// Why nothing can be traced here, if nothing can.
pub(crate) fn impossible() -> Option<String> {
    let tried = child::ask(|| {
        ptrace::traceme()?;
        Ok(String::new())
    });
    tried.err().map(|error| format!("no ptrace: {error}"))
}

/// Where an operation begins and ends, in the subject.
#[derive(Debug)]
pub(crate) struct Marks<'p> {
    page: &'p Page,
}

const BEGUN: usize = 0;
const OVER: usize = 1;

impl Marks<'_> {
    pub(crate) const CELLS: usize = 2;

    /// Stops until the tracer goes on from here.
    pub(crate) fn begin(&self) {
        raise(Signal::SIGSTOP).expect("raise");
        self.page.cell(BEGUN).store(1, SeqCst);
    }

    pub(crate) fn end(&self) {
        self.page.cell(OVER).store(1, SeqCst);
    }
}

/// The unit in which a subject is led on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Instruction,
    /// To the next entry into a system call or exit from one.
    SystemCall,
}

/// Which thread is led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Led {
    Own,
    /// The first thread that the operation starts.
    Started,
}

/// Whether [`Subject::record`] and [`Subject::lead_to`] work here.
pub(crate) const KNOWS_PLACES: bool = cfg!(target_arch = "x86_64");

/// How far a subject came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    Point,
    /// The operation was over after so many steps.
    End(u64),
}

/// A process at the beginning of an operation.
pub(crate) struct Subject<'p> {
    child: Child,
    page: &'p Page,
    thread: Pid,
}

/// Who takes no further step for so long although the operation is over is asleep.
const ASLEEP: Duration = Duration::from_millis(20);
const ASLEEP_ITSELF: Duration = Duration::from_millis(1);

impl<'p> Subject<'p> {
    /// Forks a process that calls `operation`, and waits for its beginning.
    pub(crate) fn start(page: &'p Page, operation: impl FnOnce(&Marks<'_>)) -> Result<Subject<'p>> {
        page.cell(BEGUN).store(0, SeqCst);
        page.cell(OVER).store(0, SeqCst);
        let child = Child::fork(|| {
            ptrace::traceme().expect("traceme");
            operation(&Marks { page });
            // Whatever happens at the exit is none of the operation.
            loop {
                thread::park();
            }
        })?;
        let subject = Subject {
            thread: child.pid(),
            child,
            page,
        };
        match subject.stop()? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            status => bail!("no stop at the beginning: {}", End(status)),
        }
        // Through the tail of `raise`.
        while subject.page.cell(BEGUN).load(SeqCst) == 0 {
            subject.step(Step::Instruction)?;
            subject.stop()?;
        }
        Ok(subject)
    }

    /// Goes on with the first thread that the operation starts; none if it starts none.
    pub(crate) fn lead_started(&mut self) -> Result<bool> {
        ptrace::setoptions(self.thread, Options::PTRACE_O_TRACECLONE).context("setoptions")?;
        ptrace::cont(self.thread, None).context("cont")?;
        loop {
            let Some(status) = self.stop_or_end()? else {
                return Ok(false);
            };
            if let WaitStatus::PtraceEvent(_, _, event) = status
                && event == Event::PTRACE_EVENT_CLONE as i32
            {
                let started = ptrace::getevent(self.thread).context("getevent")?;
                ptrace::cont(self.thread, None).context("cont")?;
                self.thread = Pid::from_raw(started.try_into()?);
                self.stop()?;
                return Ok(true);
            }
            ptrace::cont(self.thread, None).context("cont")?;
        }
    }

    /// Takes up to `count` steps, and calls `each` with how many it has taken before each.
    pub(crate) fn lead(&self, step: Step, count: u64, each: impl Fn(u64)) -> Result<Reached> {
        for taken in 0..count {
            each(taken);
            if self.thread == self.child.pid() && self.is_over() {
                return Ok(Reached::End(taken));
            }
            self.step(step)?;
            // The subject's own thread goes on to its end; another may sleep before.
            let status = match self.thread == self.child.pid() && step == Step::Instruction {
                true => self.stop()?,
                false => match self.stop_or_end()? {
                    Some(status) => status,
                    None => return Ok(Reached::End(taken)),
                },
            };
            match status {
                WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceSyscall(_) => {}
                status => bail!("step {taken} ended in {}", End(status)),
            }
        }
        Ok(Reached::Point)
    }

    /// Leads it to the end by instructions, and returns where it was before each. Calls `each` as
    /// `lead` does.
    pub(crate) fn record(&self, each: impl Fn(u64)) -> Result<Vec<u64>> {
        let mut places = Vec::new();
        while !self.is_over() {
            each(places.len() as u64);
            places.push(self.place().context("no place")?);
            self.step(Step::Instruction)?;
            self.expect_trap()?;
        }
        Ok(places)
    }

    /// Lets it run until it comes to a place for the `arrivals`th time, and calls `each` with how
    /// often it has been there.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn lead_to(&self, place: u64, arrivals: u64, each: impl Fn(u64)) -> Result<Reached> {
        const REGISTERS: usize = std::mem::offset_of!(nix::libc::user, u_debugreg);
        // Register 0 holds an address; bit 0 of register 7 has this thread stop before it executes
        // the instruction there.
        let set = |register: usize, value: u64| {
            let offset = REGISTERS + register * size_of::<u64>();
            let set = ptrace::write_user(self.thread, offset as *mut _, value.cast_signed());
            set.context("a breakpoint")
        };
        set(0, place)?;
        set(7, 1)?;
        for arrival in 0..arrivals {
            each(arrival);
            ptrace::cont(self.thread, None).context("cont")?;
            match self.stop_or_end()? {
                None => return Ok(Reached::End(arrival)),
                Some(WaitStatus::Stopped(_, Signal::SIGTRAP)) => {}
                Some(status) => bail!("on the way to {place:#x}: {}", End(status)),
            }
        }
        Ok(Reached::Point)
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn lead_to(&self, _: u64, _: u64, _: impl Fn(u64)) -> Result<Reached> {
        bail!("breakpoints are not known here")
    }

    /// Where it is, as an address in this program, which it has inherited.
    pub(crate) fn place(&self) -> Option<u64> {
        #[cfg(target_arch = "x86_64")]
        return ptrace::getregs(self.thread).ok().map(|regs| regs.rip);
        #[cfg(not(target_arch = "x86_64"))]
        None
    }

    pub(crate) fn kill(self) -> Result<()> {
        let (led, leader) = (self.thread, self.child.pid());
        if led != leader {
            self.child.signal(Signal::SIGKILL)?;
            // A traced thread's end is for its tracer to take, and before the process's own.
            while let Ok(status) = waitpid(led, Some(WaitPidFlag::__WALL)) {
                if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                    break;
                }
            }
        }
        self.child.destroy()
    }

    fn is_over(&self) -> bool {
        self.page.cell(OVER).load(SeqCst) != 0
    }

    fn step(&self, step: Step) -> Result<()> {
        let taken = match step {
            Step::Instruction => ptrace::step(self.thread, None),
            Step::SystemCall => ptrace::syscall(self.thread, None),
        };
        taken.context("a step")
    }

    fn expect_trap(&self) -> Result<()> {
        match self.stop()? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(()),
            status => bail!("a step ended in {}", End(status)),
        }
    }

    fn stop(&self) -> Result<WaitStatus> {
        let status = waitpid(self.thread, Some(WaitPidFlag::__WALL)).context("waitpid")?;
        ensure!(
            !matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)),
            "the subject has {}",
            End(status)
        );
        Ok(status)
    }

    /// As `stop`; none if the thread does not stop any more and the operation is over.
    fn stop_or_end(&self) -> Result<Option<WaitStatus>> {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        let asleep = match self.thread == self.child.pid() {
            true => ASLEEP_ITSELF,
            false => ASLEEP,
        };
        let mut since = None;
        loop {
            match waitpid(self.thread, Some(flags)).context("waitpid")? {
                WaitStatus::StillAlive => {}
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) if self.is_over() => {
                    return Ok(None);
                }
                status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {
                    bail!("the subject has {}", End(status))
                }
                status => return Ok(Some(status)),
            }
            if self.is_over() {
                let since = since.get_or_insert_with(Instant::now);
                if since.elapsed() > asleep {
                    return Ok(None);
                }
            }
            thread::sleep(Duration::from_micros(10));
        }
    }
}
