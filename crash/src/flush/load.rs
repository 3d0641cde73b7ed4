//! A process that opens a manifest, checks what it names, and flushes to it until it is ended.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use latchwork::flush::{Backoff, FlushPipeline, FlushTicket, OnFailure, ReserveError, WaitError};
use latchwork::fs::Fs;

use super::manifest::{Manifest, write_segment};
use crate::failed::failed;
use crate::page::Page;

const SUBMITTERS: u64 = 3;

/// What the processes of a scenario tell each other.
#[derive(Debug)]
pub(super) struct Board(Page);

impl Board {
    pub(super) const CELLS: usize = 4;

    pub(super) fn new(page: Page) -> Board {
        Board(page)
    }

    /// How many segments the tickets, or an opening, have said are in the manifest.
    pub(super) fn promised(&self) -> &AtomicU64 {
        self.0.cell(0)
    }

    /// How many openings found them.
    pub(super) fn opened(&self) -> &AtomicU64 {
        self.0.cell(1)
    }

    /// Whether calls may fail from now on.
    pub(super) fn is_cut(&self) -> &AtomicU64 {
        self.0.cell(2)
    }

    /// How many tickets have told that their segment is in the manifest.
    pub(super) fn told(&self) -> &AtomicU64 {
        self.0.cell(3)
    }
}

pub(super) struct Load<'a> {
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) board: &'a Board,
    pub(super) seed: u64,
}

impl Load<'_> {
    /// The exit code. While all goes well it does not return, nor when errors are to be expected.
    pub(super) fn run(&self) -> i32 {
        let Err(error) = self.work();
        failed(self.board.is_cut(), error)
    }

    /// Opens the manifest, which must name what was promised.
    pub(super) fn open(&self) -> Result<Manifest> {
        let promised = self.board.promised().load(SeqCst);
        let random = fastrand::Rng::with_seed(self.seed);
        let manifest = Manifest::open(self.fs.clone(), &self.dir, Some(random))?;
        let count = manifest.count();
        ensure!(
            count >= promised,
            "lost: {promised} segments were promised, {count} are there"
        );
        self.board.promised().store(count, SeqCst);
        self.board.opened().fetch_add(1, SeqCst);
        Ok(manifest)
    }

    fn work(&self) -> Result<Infallible> {
        let manifest = self.open()?;
        let base = manifest.count();
        let mut random = fastrand::Rng::with_seed(self.seed ^ 0x5eed);
        let retry = OnFailure::Retry {
            attempts: 3,
            backoff: Backoff::constant(Duration::ZERO),
        };
        let flush = FlushPipeline::builder("crash")
            .max_in_flight(random.usize(1..24))
            .max_batch(random.usize(1..12))
            .streamers(random.usize(..3))
            .on_failure(retry.then(OnFailure::Halt))
            .finalizer(manifest)
            .build()?;
        let state = Mutex::new(());
        thread::scope(|scope| {
            let (flush, state) = (&flush, &state);
            for submitter in 1..SUBMITTERS {
                scope.spawn(move || {
                    let Err(error) = self.submit(flush, state, base, submitter);
                    exit(failed(self.board.is_cut(), error));
                });
            }
            self.submit(flush, state, base, 0)
        })
    }

    fn submit(
        &self,
        flush: &FlushPipeline<Manifest>,
        state: &Mutex<()>,
        base: u64,
        submitter: u64,
    ) -> Result<Infallible> {
        let mut random = fastrand::Rng::with_seed(self.seed + submitter);
        let mut tickets = VecDeque::new();
        loop {
            let slot = match flush.reserve(0) {
                Ok(slot) => slot,
                Err(ReserveError::Halted(_)) => {
                    flush.resume();
                    continue;
                }
                Err(other) => bail!("reserve: {other}"),
            };
            let slot = {
                let mut state = state.lock().expect("no panic");
                slot.rotate(&mut *state, |(), sequence| base + sequence)
            };
            let (fs, dir) = (self.fs.clone(), self.dir.clone());
            let mut chance = random.fork();
            let ticket = slot.submit(move |job| {
                match chance.u8(..) {
                    0..4 => return Err(io::Error::other("no luck")),
                    4 => resume_unwind(Box::new("planned")),
                    5..40 => thread::sleep(Duration::from_micros(chance.u64(..500))),
                    _ => {}
                }
                write_segment(&*fs, &dir, **job)
            });
            match ticket {
                Ok(ticket) => tickets.push_back(ticket),
                Err(_) => bail!("a submission was refused"),
            }
            while tickets.len() > random.usize(..8) {
                let ticket = tickets.pop_front().expect("there is one");
                self.settle(flush, ticket)?;
            }
        }
    }

    fn settle(
        &self,
        flush: &FlushPipeline<Manifest>,
        mut ticket: FlushTicket<Manifest>,
    ) -> Result<()> {
        loop {
            match ticket.wait() {
                Ok(count) => {
                    self.board.promised().fetch_max(count, SeqCst);
                    self.board.told().fetch_add(1, SeqCst);
                    return Ok(());
                }
                Err(WaitError::Halted(_, again)) => {
                    // Everything fails once the power is cut.
                    if self.board.is_cut().load(Relaxed) != 0 {
                        bail!("the power is cut");
                    }
                    flush.resume();
                    ticket = again;
                }
                Err(other) => bail!("a ticket: {other:?}"),
            }
        }
    }
}
