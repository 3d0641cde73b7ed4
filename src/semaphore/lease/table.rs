//! The leases of a semaphore, by token and by deadline, and the job that ends them.
//!
//! One lock decides: whoever takes a lease's record out of the table owns its permits and gives
//! them back, outside the lock. The holder (drop, release), the sweeper's job and a renewal that
//! comes too late all go through it, so the permits come back once, and a renewal either finds the
//! record and moves its deadline, or the record is gone.
//!
//! One job of the sweeper is armed for the earliest deadline and, when it has run, for the next.
//! Arming for a new lease and disarming after the last happen under the table's lock: a lease that
//! is granted while the last one ends is not disarmed with that. (Who ends the last one between a
//! sweep's look for the next deadline and its return has the job come by once more, for nothing.)
//!
//! | who | holds |
//! |---|---|
//! | the core | the job, and a count of the table; both are made with the first lease |
//! | a record | a handle on the core: leases outlive every `Semaphore` |
//! | the job's closure, a [`Lease`](super::Lease) | a count of the table |
//!
//! The circle from core to table to record to core is there as long as there are leases, and ends
//! with each of them at its deadline. A lease that is forgotten keeps nothing but the empty table.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::Location;
use std::time::Duration;

use crate::holder::anchor::Anchor;
use crate::sweeper::{Job, Next, Sweeper};
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::mutant;
use crate::sync::time::{Instant, now};
use crate::sync::unmodelled::{self, Arc, OnceLock};
use crate::waiter::{Counter, Gauge, dispatcher};

use super::super::core::Core;
use super::super::{AcquireError, Holder};
use super::{ExpiredLease, Lease, LeaseLost, OnExpire};

/// The longest time to live: what is longer is this long, so that each deadline can be said.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What a semaphore has for its leases.
pub(in crate::semaphore) struct Leases {
    sweeper: Option<Sweeper>,
    on_expire: Option<OnExpire>,
    live: Gauge,
    expired: Counter,
    kept: OnceLock<Kept>,
}

/// What there is from the first lease on.
struct Kept {
    table: Arc<Table>,
    job: Job,
}

pub(super) struct Table {
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    records: BTreeMap<u64, Record>,
    order: BTreeSet<(Instant, u64)>,
    /// The latest token.
    last: u64,
}

/// A lease, as the table knows it. Not dropped under the table's lock: it may hold the last handle
/// on the core, and with that goes the job, which is waited for.
#[derive(Clone)]
struct Record {
    core: Anchor<Core>,
    permits: u64,
    granted_at: Instant,
    expires_at: Instant,
    acquired_at: &'static Location<'static>,
}

impl Leases {
    pub(in crate::semaphore) fn new(sweeper: Option<Sweeper>, on_expire: Option<OnExpire>) -> Self {
        Self {
            sweeper,
            on_expire,
            live: Gauge::new(),
            expired: Counter::new(),
            kept: OnceLock::new(),
        }
    }

    pub(in crate::semaphore) fn live(&self) -> u64 {
        self.live.get()
    }

    pub(in crate::semaphore) fn expired(&self) -> u64 {
        self.expired.get()
    }

    pub(in crate::semaphore) fn holders(&self) -> Vec<Holder> {
        let Some(kept) = self.kept.get() else {
            return Vec::new();
        };
        let now = now();
        let ledger = kept.table.ledger.lock();
        let holders = ledger.records.iter().map(|(&token, record)| Holder {
            thread: None,
            permits: record.permits,
            acquired_at: record.acquired_at,
            held_for: now.saturating_duration_since(record.granted_at),
            lease: Some(token),
        });
        holders.collect()
    }

    /// Makes sure that leases will be taken back, before any is granted.
    pub(super) fn prepare(&self) -> Result<(), AcquireError> {
        if self.kept().job.attend() {
            Ok(())
        } else {
            Err(AcquireError::NoSweeper)
        }
    }

    /// Turns permits that the caller has taken into a lease, or gives them back.
    pub(super) fn grant(
        core: &Anchor<Core>,
        permits: u64,
        ttl: Duration,
        acquired_at: &'static Location<'static>,
    ) -> Result<Lease, AcquireError> {
        let leases = &core.leases;
        let kept = leases.kept();
        let granted_at = now();
        let expires_at = deadline(granted_at, ttl);
        let record = Record {
            core: core.clone(),
            permits,
            granted_at,
            expires_at,
            acquired_at,
        };
        let mut ledger = kept.table.ledger.lock();
        if !kept.job.arm_at(expires_at) {
            drop(ledger);
            core.give(permits, 0);
            return Err(AcquireError::NoSweeper);
        }
        if mutant::enabled("lease-counts-in-two-steps") {
            let last = ledger.last;
            drop(ledger);
            ledger = kept.table.ledger.lock();
            ledger.last = last;
        }
        let token = ledger.insert(record);
        leases.live.add(1);
        drop(ledger);
        Ok(Lease {
            table: Arc::clone(&kept.table),
            token,
            permits,
            expires_at: unmodelled::Mutex::new(expires_at),
        })
    }

    fn kept(&self) -> &Kept {
        if let Some(kept) = self.kept.get() {
            return kept;
        }
        let table = Arc::new(Table {
            ledger: Mutex::new(Ledger::default()),
        });
        let swept = Arc::clone(&table);
        let sweeper = self.sweeper.clone().unwrap_or_default();
        let job = sweeper.timed_job("semaphore: expired leases", move |now| swept.sweep(now));
        let kept = Kept { table, job };
        // Made before: if another thread comes first, this one is dropped, never armed.
        self.kept.get_or_init(move || kept)
    }

    /// Under the table's lock.
    fn arm(&self, at: Instant) {
        if let Some(kept) = self.kept.get() {
            kept.job.arm_at(at);
        }
    }

    /// Under the table's lock.
    fn disarm(&self) {
        if let Some(kept) = self.kept.get() {
            kept.job.disarm();
        }
    }
}

impl Table {
    /// How long the lease lives on; zero if it is lost.
    pub(super) fn remaining(&self, token: u64) -> Duration {
        let now = now();
        let ledger = self.ledger.lock();
        let record = ledger.records.get(&token);
        record.map_or(Duration::ZERO, |record| {
            record.expires_at.saturating_duration_since(now)
        })
    }

    /// Moves a live lease's deadline, also as `shown` to its holder. From its deadline on a lease
    /// is lost, whether the sweeper has come by or not: then this ends it in the sweeper's place.
    pub(super) fn renew(
        &self,
        token: u64,
        ttl: Duration,
        shown: &unmodelled::Mutex<Instant>,
    ) -> Result<(), LeaseLost> {
        let now = now();
        let mut ledger = self.ledger.lock();
        let record = ledger.records.get(&token).ok_or(LeaseLost)?;
        if now >= record.expires_at {
            return Self::take_out(ledger, token, now);
        }
        if mutant::enabled("lease-renews-in-two-steps") {
            drop(ledger);
            ledger = self.ledger.lock();
        }
        let expires_at = deadline(now, ttl);
        ledger.reschedule(token, expires_at);
        *shown.lock() = expires_at;
        Ok(())
    }

    /// Ends a lease on behalf of its holder, who is told if that was too late.
    pub(super) fn end(&self, token: u64) -> Result<(), LeaseLost> {
        let now = now();
        Self::take_out(self.ledger.lock(), token, now)
    }

    fn take_out(
        mut ledger: MutexGuard<'_, Ledger>,
        token: u64,
        now: Instant,
    ) -> Result<(), LeaseLost> {
        let record = ledger.take(token).ok_or(LeaseLost)?;
        let is_last = ledger.records.is_empty();
        let disarms_late = mutant::enabled("lease-disarms-late");
        if is_last && !disarms_late {
            record.core.leases.disarm();
        }
        let held = Some(ledger).filter(|_| mutant::enabled("lease-frees-under-the-lock"));
        if is_last && disarms_late {
            record.core.leases.disarm();
        }
        let is_in_time = now < record.expires_at;
        if is_in_time {
            record.core.give(record.permits, 0);
            drop(record);
        } else {
            record.expire(token);
        }
        drop(held);
        if is_in_time { Ok(()) } else { Err(LeaseLost) }
    }

    /// The sweeper's job.
    fn sweep(&self, now: Instant) -> Next {
        let mut ledger = self.ledger.lock();
        let due = ledger.take_due(now);
        let next = ledger.earliest();
        drop(ledger);
        for (token, record) in due {
            record.expire(token);
        }
        let next = next.filter(|_| !mutant::enabled("lease-sweep-forgets-the-next"));
        next.map_or(Next::Idle, Next::At)
    }
}

impl Ledger {
    fn insert(&mut self, record: Record) -> u64 {
        self.last += 1;
        self.order.insert((record.expires_at, self.last));
        self.records.insert(self.last, record);
        self.last
    }

    fn take(&mut self, token: u64) -> Option<Record> {
        let record = self.records.remove(&token)?;
        self.order.remove(&(record.expires_at, token));
        record.core.leases.live.sub(1);
        if mutant::enabled("lease-stays-when-taken") {
            self.records.insert(token, record.clone());
        }
        Some(record)
    }

    fn reschedule(&mut self, token: u64, expires_at: Instant) {
        let Some(record) = self.records.get_mut(&token) else {
            return;
        };
        let before = std::mem::replace(&mut record.expires_at, expires_at);
        self.order.remove(&(before, token));
        self.order.insert((expires_at, token));
        // A later deadline needs nothing: the job comes by at the old one, and looks again.
        if expires_at < before {
            record.core.leases.arm(expires_at);
        }
    }

    fn earliest(&self) -> Option<Instant> {
        self.order.first().map(|&(at, _)| at)
    }

    fn take_due(&mut self, now: Instant) -> Vec<(u64, Record)> {
        let mut due = Vec::new();
        while let Some(&(at, token)) = self.order.first()
            && at <= now
        {
            due.extend(self.take(token).map(|record| (token, record)));
        }
        due
    }
}

impl Record {
    /// Gives back what the holder has not given back in time. Nothing of the user's runs on this
    /// thread, which may be the sweeper's.
    fn expire(self, token: u64) {
        let leases = &self.core.leases;
        leases.expired.add(1);
        self.core.put_back(self.permits).deliver_by_dispatcher();
        if let Some(on_expire) = &leases.on_expire {
            let on_expire = Arc::clone(on_expire);
            let expired = ExpiredLease {
                component: Arc::clone(&self.core.name),
                token,
                permits: self.permits,
                acquired_at: self.acquired_at,
            };
            dispatcher::post(move || on_expire(expired));
        }
    }
}

fn deadline(from: Instant, ttl: Duration) -> Instant {
    from + ttl.min(LONGEST)
}
