//! The page of a storm: a ticket for each permit, and who of the workers is to die.
//!
//! A worker takes a ticket after each permit and returns it before. So whoever holds a permit
//! without a ticket knows that fewer than all tickets are with processes that hold one, and looks
//! until it finds one to take: a free one, or one whose owner was killed. It reads all tickets
//! twice. Each holds its owner and a serial number, so when nothing has changed there was a moment
//! at which all of them were taken at once. If no owner had been told to die after that moment, all
//! owners then held permits: the semaphore granted one too many. There is no false alarm, however
//! the reads interleave.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use anyhow::{Result, ensure};

use crate::page::Page;

const FREE: u64 = 0;
const STOP: usize = 0;
const OVER_GRANTED: usize = 1;
const ACQUISITIONS: usize = 2;
const INHERITED: usize = 3;
const TICKETS: usize = 4;
const SLOTS: usize = 2;

/// A ticket: worker's slot 8 | its generation 32 | thread 1 | serial 23, never zero since
/// generations begin at 1.
pub(super) struct Arena {
    page: Page,
    permits: usize,
}

/// More tickets than there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverGranted;

/// The side of a worker's thread.
pub(super) struct Tickets<'a> {
    arena: &'a Arena,
    slot: usize,
    generation: u64,
    thread: u64,
    serial: u64,
    mine: Vec<(usize, u64)>,
}

impl Arena {
    pub(super) fn cells(permits: u32, workers: usize) -> usize {
        TICKETS + permits as usize + SLOTS * workers
    }

    pub(super) fn new(page: Page, permits: u32, workers: usize) -> Arena {
        assert!(workers <= 256 && page.len() == Arena::cells(permits, workers));
        Arena {
            page,
            permits: permits as usize,
        }
    }

    /// Not zero: the workers are to end.
    pub(super) fn stop(&self) -> &AtomicU64 {
        self.page.cell(STOP)
    }

    pub(super) fn acquisitions(&self) -> &AtomicU64 {
        self.page.cell(ACQUISITIONS)
    }

    /// How many tickets were taken from the dead.
    pub(super) fn inherited(&self) -> &AtomicU64 {
        self.page.cell(INHERITED)
    }

    /// The generation of the worker in a slot.
    pub(super) fn generation(&self, slot: usize) -> &AtomicU64 {
        self.page.cell(TICKETS + self.permits + SLOTS * slot)
    }

    /// The youngest generation of the slot that was told to die.
    fn doomed(&self, slot: usize) -> &AtomicU64 {
        self.page.cell(TICKETS + self.permits + SLOTS * slot + 1)
    }

    /// Goes before the signal that kills.
    pub(super) fn doom(&self, slot: usize, generation: u64) {
        self.doomed(slot).store(generation, SeqCst);
    }

    fn is_doomed(&self, ticket: u64) -> bool {
        let generation = ticket >> 24 & 0xffff_ffff;
        generation <= self.doomed((ticket >> 56) as usize).load(SeqCst)
    }

    fn ticket(&self, index: usize) -> &AtomicU64 {
        self.page.cell(TICKETS + index)
    }

    fn look(&self) -> Vec<u64> {
        let tickets = (0..self.permits).map(|index| self.ticket(index).load(SeqCst));
        tickets.collect()
    }

    pub(super) fn verdict(&self) -> Result<()> {
        let found = self.page.cell(OVER_GRANTED).load(SeqCst);
        ensure!(found == 0, "over-granted {found} times");
        Ok(())
    }

    /// At a quiesce, only the killed have left tickets behind; takes those back.
    pub(super) fn all_returned(&self) -> Result<()> {
        for (index, ticket) in self.look().into_iter().enumerate() {
            ensure!(
                ticket == FREE || self.is_doomed(ticket),
                "ticket {index} was not returned: {ticket:#x}"
            );
            self.ticket(index).store(FREE, SeqCst);
        }
        Ok(())
    }
}

impl<'a> Tickets<'a> {
    pub(super) fn new(arena: &'a Arena, slot: usize, generation: u64, thread: u64) -> Tickets<'a> {
        Tickets {
            arena,
            slot,
            generation,
            thread,
            serial: 0,
            mine: Vec::new(),
        }
    }

    /// Takes tickets for permits that this process holds now.
    pub(super) fn take(&mut self, count: u32) -> Result<(), OverGranted> {
        for _ in 0..count {
            let ticket = self.take_one()?;
            self.mine.push(ticket);
        }
        self.arena.acquisitions().fetch_add(1, Relaxed);
        Ok(())
    }

    fn take_one(&mut self) -> Result<(usize, u64), OverGranted> {
        self.serial += 1;
        let serial = self.thread << 23 | self.serial & 0x7f_ffff;
        let mine = (self.slot as u64) << 56 | self.generation << 24 | serial;
        let arena = self.arena;
        let swap = |index: usize, from: u64| {
            let swapped = arena
                .ticket(index)
                .compare_exchange(from, mine, SeqCst, SeqCst);
            swapped.is_ok().then_some((index, mine))
        };
        loop {
            let first = arena.look();
            let free = first.iter().position(|ticket| *ticket == FREE);
            if let Some(taken) = free.and_then(|index| swap(index, FREE)) {
                return Ok(taken);
            }
            if free.is_some() || arena.look() != first {
                continue;
            }
            let doomed = first.iter().position(|ticket| arena.is_doomed(*ticket));
            let Some(index) = doomed else {
                arena.page.cell(OVER_GRANTED).fetch_add(1, SeqCst);
                return Err(OverGranted);
            };
            if let Some(taken) = swap(index, first[index]) {
                arena.inherited().fetch_add(1, Relaxed);
                return Ok(taken);
            }
        }
    }

    /// Returns all of them, before the permits.
    pub(super) fn give_back(&mut self) {
        for (index, ticket) in self.mine.drain(..) {
            // Fails when this process was told to die: somebody may have taken it already.
            let _ = self
                .arena
                .ticket(index)
                .compare_exchange(ticket, FREE, SeqCst, SeqCst);
        }
    }
}
