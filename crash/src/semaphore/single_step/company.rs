//! Who else is there while a subject is led through an operation.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::super::audit::PATIENCE;
use super::operations::Stage;
use crate::child::Child;
use crate::page::Page;
use crate::trace::Marks;
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::SharedPermits;

/// What company an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nobody,
    /// A process that holds every permit until the subject is dead.
    HolderOfAll,
    /// One that returns them all as soon as somebody waits, or the subject is dead.
    HolderWhoReturns,
    /// One that wants a permit that the subject holds; it must get it.
    WaiterForOne,
    /// One that was killed as the holder of two.
    Corpse,
}

pub(super) struct Company {
    need: Need,
    stage: Stage,
    companion: Option<Companion>,
}

/// A process that does what it is told, one letter at a time, and answers each with one.
struct Companion {
    child: Child,
    orders: File,
    answers: File,
}

const TAKE_ALL: u8 = b'a';
const RETURN: u8 = b'r';
const RETURN_TO_WAITER: u8 = b'w';
const TAKE_ONE: u8 = b'o';
const DONE: u8 = b'd';
const REFUSED: u8 = b'x';

/// A cell of the page.
const SUBJECT_IS_DEAD: usize = Marks::CELLS;
pub(super) const CELLS: usize = Marks::CELLS + 1;

impl Company {
    pub(super) fn start(need: Need, stage: &Stage, page: &Page) -> Result<Company> {
        let companion = match need {
            Need::Nobody | Need::Corpse => None,
            _ => Some(Companion::start(stage, page)?),
        };
        Ok(Company {
            need,
            stage: stage.clone(),
            companion,
        })
    }

    /// Before the subject is there.
    pub(super) fn gather(&mut self, page: &Page) -> Result<()> {
        page.cell(SUBJECT_IS_DEAD).store(0, SeqCst);
        match (self.need, &mut self.companion) {
            (Need::HolderOfAll | Need::HolderWhoReturns, Some(companion)) => {
                companion.order(TAKE_ALL)?;
                companion.done()
            }
            (Need::Corpse, _) => {
                let mut victim = Companion::start(&self.stage, page)?;
                victim.order(TAKE_ONE)?;
                victim.done()?;
                victim.child.destroy()
            }
            _ => Ok(()),
        }
    }

    /// When the subject is at the beginning of the operation.
    pub(super) fn begin(&mut self) -> Result<()> {
        match (self.need, &mut self.companion) {
            (Need::HolderWhoReturns, Some(companion)) => companion.order(RETURN_TO_WAITER),
            (Need::WaiterForOne, Some(companion)) => {
                companion.order(TAKE_ONE)?;
                // It should be asleep when the subject goes on; nothing depends on it.
                thread::sleep(Duration::from_millis(1));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// When the subject is dead: nobody holds anything afterwards.
    pub(super) fn disperse(&mut self, page: &Page) -> Result<()> {
        page.cell(SUBJECT_IS_DEAD).store(1, SeqCst);
        let Some(companion) = &mut self.companion else {
            return Ok(());
        };
        if matches!(self.need, Need::HolderWhoReturns | Need::WaiterForOne) {
            // The order that came with the beginning.
            companion.done()?;
        }
        companion.order(RETURN)?;
        companion.done()
    }
}

impl Companion {
    fn start(stage: &Stage, page: &Page) -> Result<Companion> {
        let (orders_end, orders) = pipe2(OFlag::O_CLOEXEC)?;
        let (answers, answers_end) = pipe2(OFlag::O_CLOEXEC)?;
        let child = Child::fork(|| {
            let semaphore = SharedSemaphore::open(&stage.path, stage.permits).expect("open");
            serve(&semaphore, page, orders_end.into(), answers_end.into());
            0
        })?;
        Ok(Companion {
            child,
            orders: orders.into(),
            answers: answers.into(),
        })
    }

    fn order(&mut self, order: u8) -> Result<()> {
        self.orders.write_all(&[order]).context("an order")
    }

    fn done(&mut self) -> Result<()> {
        let mut answer = [0];
        let read = self.answers.read(&mut answer).context("an answer")?;
        ensure!(read == 1, "the companion is gone");
        match answer[0] {
            DONE => Ok(()),
            _ => bail!("the companion cannot have its permits"),
        }
    }
}

/// Does what it is told until nobody tells it anything any more.
fn serve(semaphore: &SharedSemaphore, page: &Page, mut orders: File, mut answers: File) {
    let mut held: Option<SharedPermits<'_>> = None;
    let mut order = [0];
    while orders.read(&mut order).is_ok_and(|read| read == 1) {
        match order[0] {
            take @ (TAKE_ALL | TAKE_ONE) => {
                let count = if take == TAKE_ALL { semaphore.max() } else { 1 };
                held = semaphore.acquire_many_timeout(count, PATIENCE).ok();
                if held.is_none() {
                    println!("  the companion saw {:?}", semaphore.holders());
                    let _ = answers.write_all(&[REFUSED]);
                    return;
                }
            }
            wait_first => {
                while wait_first == RETURN_TO_WAITER
                    && semaphore.waiters() == 0
                    && page.cell(SUBJECT_IS_DEAD).load(SeqCst) == 0
                {
                    thread::sleep(Duration::from_micros(50));
                }
                drop(held.take());
            }
        }
        if answers.write_all(&[DONE]).is_err() {
            return;
        }
    }
}
