//! What can be asked of a shared semaphore.

use std::time::{Duration, SystemTime};

use crate::os::clock;
use crate::sync::atomic::Ordering;
use crate::waiter::WaitHistogram;

use super::SharedSemaphore;
use super::control::age;

/// A process that holds permits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SharedHolder {
    /// Its process id, in its own pid namespace.
    pub pid: u32,
    /// The name of its program, up to 40 bytes.
    pub command: String,
    /// How many permits it holds.
    pub permits: u32,
    /// Since when it holds the oldest of them, if that process
    /// [tracks](super::Builder::track_holders) its permits.
    pub since: Option<SystemTime>,
    /// How long the first of its leases to end still lasts; `None` if it has no lease.
    pub lease_left: Option<Duration>,
    /// Whether it is the calling process.
    pub is_this_process: bool,
}

/// A process whose threads wait for permits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SharedWaiter {
    /// Its process id, in its own pid namespace.
    pub pid: u32,
    /// The name of its program, up to 40 bytes.
    pub command: String,
    /// How many of its requests wait.
    pub requests: u32,
}

/// What a [`SharedSemaphore`](super::SharedSemaphore) has done and how it stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SharedStats {
    /// How many permits there are.
    pub max: u32,
    /// How many are taken, by all processes.
    pub current: u32,
    /// How many could be taken.
    pub available: u32,
    /// How many requests wait, in all processes.
    pub waiters: u32,
    /// How long this process's requests waited.
    pub waits: WaitHistogram,
    /// How many of them gave up.
    pub timeouts: u64,
    /// How many permits of dead processes this one has taken back.
    pub reaped: u64,
    /// How many expired leases this process has taken back.
    pub expired: u64,
    /// How many permits came back from this process's guards that were leaked.
    pub leaked: u64,
    /// How many of this process's permits were no longer its own when it gave them back: expired
    /// leases, and permits whose words in the file were overwritten.
    pub lost: u64,
}

impl SharedSemaphore {
    /// Which processes hold permits. It reads one permit after the other, not all at one moment.
    pub fn holders(&self) -> Vec<SharedHolder> {
        let area = self.core.area();
        let (coarse, time) = (clock::coarse_nanos(), SystemTime::now());
        let mut holders: Vec<(usize, SharedHolder)> = Vec::new();
        for (index, value) in self.core.held() {
            let cell = &area.cells[index];
            let Some(slot) = value.owner().and_then(|owner| owner.slot()) else {
                continue;
            };
            let age = age(value, cell.since.load(Ordering::Relaxed), coarse);
            let since = age.and_then(|age| time.checked_sub(age));
            let left = self.core.lease_left(cell, value);
            let left = left.map(Duration::from_millis);
            match holders.iter_mut().find(|(of, _)| *of == slot) {
                Some((_, holder)) => {
                    holder.permits += 1;
                    holder.since = holder.since.into_iter().chain(since).min();
                    holder.lease_left = holder.lease_left.into_iter().chain(left).min();
                }
                None => {
                    let process = area.slots[slot].process();
                    holders.push((
                        slot,
                        SharedHolder {
                            pid: process.pid,
                            command: process.command,
                            permits: 1,
                            since,
                            lease_left: left,
                            is_this_process: slot == self.core.attached.own_index(),
                        },
                    ));
                }
            }
        }
        holders.into_iter().map(|(_, holder)| holder).collect()
    }

    /// Which processes wait for permits.
    pub fn waiting(&self) -> Vec<SharedWaiter> {
        let slots = self.core.area().slots;
        self.core
            .waiting()
            .map(|(slot, requests)| {
                let process = slots[slot].process();
                SharedWaiter {
                    pid: process.pid,
                    command: process.command,
                    requests,
                }
            })
            .collect()
    }

    /// Counters and gauges, read without locks.
    pub fn stats(&self) -> SharedStats {
        let counters = &self.core.counters;
        SharedStats {
            max: self.max(),
            current: self.current(),
            available: self.available(),
            waiters: self.waiters(),
            waits: counters.waits.read(),
            timeouts: counters.timeouts.get(),
            reaped: counters.reaped.get(),
            expired: counters.expired.get(),
            leaked: counters.leaked.get(),
            lost: counters.lost.get(),
        }
    }
}
