//! Which job runs when: a plain state machine. No time passes in here, and no job runs.
//!
//! | state of a job | `work` | `due` | what comes next |
//! |---|---|---|---|
//! | idle | here | none | `arm` |
//! | armed | here | its deadline | `take`, once that has passed |
//! | running | with the runner | what was armed meanwhile | `finish` |
//! | cancelled while running | with the runner | ignored | `finish` leaves it to the runner to drop, then `remove` |
//!
//! `queue` holds the deadline of every armed job that is not running.

use std::collections::{BTreeMap, BTreeSet};

use crate::sync::mutant;
use crate::sync::time::Instant;

/// A job's closure, which is told the time that its run goes by.
pub(super) type Work = Box<dyn FnMut(Instant) -> super::Next + Send>;

/// Names a job; ascending in the order in which jobs were made.
pub(super) type JobId = u64;

struct Slot {
    name: String,
    work: Option<Work>,
    due: Option<Instant>,
    cancelled: bool,
}

/// What `cancel` found.
pub(super) enum Cancelled {
    /// The job was not running; here is its closure.
    Now(Option<Work>),
    /// It is running; its runner drops the closure.
    Running,
}

#[derive(Default)]
pub(super) struct Schedule {
    jobs: BTreeMap<JobId, Slot>,
    queue: BTreeSet<(Instant, JobId)>,
    next: JobId,
}

impl Schedule {
    pub(super) fn add(&mut self, name: &str, work: Work) -> JobId {
        let id = self.next;
        self.next += 1;
        self.jobs.insert(
            id,
            Slot {
                name: name.to_owned(),
                work: Some(work),
                due: None,
                cancelled: false,
            },
        );
        id
    }

    /// Makes the job due at `at`, unless it is due earlier.
    pub(super) fn arm(&mut self, id: JobId, at: Instant) {
        let Some(slot) = self.jobs.get_mut(&id) else {
            return;
        };
        if slot.due.is_some_and(|due| due <= at) {
            return;
        }
        let before = slot.due.replace(at);
        if slot.work.is_none() {
            return; // running: `finish` queues it
        }
        if let Some(due) = before {
            self.queue.remove(&(due, id));
        }
        self.queue.insert((at, id));
    }

    pub(super) fn disarm(&mut self, id: JobId) {
        if let Some(slot) = self.jobs.get_mut(&id)
            && let Some(due) = slot.due.take()
        {
            self.queue.remove(&(due, id));
        }
    }

    pub(super) fn is_armed(&self, id: JobId) -> bool {
        self.jobs.get(&id).is_some_and(|slot| slot.due.is_some())
    }

    pub(super) fn earliest(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    /// The jobs due at `now`, the earliest deadline first, equal ones by age.
    pub(super) fn due(&self, now: Instant) -> Vec<JobId> {
        let due = self.queue.iter().take_while(|&&(at, _)| at <= now);
        due.map(|&(_, id)| id).collect()
    }

    /// Takes a job's closure to run it, if it is still due at `now`. The job is unarmed from here.
    pub(super) fn take(&mut self, id: JobId, now: Instant) -> Option<Work> {
        let slot = self.jobs.get_mut(&id)?;
        let due = slot.due.filter(|&due| due <= now)?;
        let work = slot.work.take()?;
        slot.due = None;
        self.queue.remove(&(due, id));
        Some(work)
    }

    /// Takes back the closure of a job that ran, due again at `again` or when it was armed
    /// meanwhile, whichever is earlier. A cancelled job's closure goes back to the runner.
    pub(super) fn finish(&mut self, id: JobId, work: Work, again: Option<Instant>) -> Option<Work> {
        let Some(slot) = self.jobs.get_mut(&id) else {
            return Some(work);
        };
        if slot.cancelled {
            return Some(work);
        }
        slot.work = Some(work);
        if mutant::enabled("sweeper-forgets-arming-meanwhile") {
            slot.due = None;
        }
        slot.due = match (slot.due, again) {
            (Some(armed), Some(again)) => Some(armed.min(again)),
            (armed, again) => armed.or(again),
        };
        if let Some(due) = slot.due {
            self.queue.insert((due, id));
        }
        None
    }

    pub(super) fn cancel(&mut self, id: JobId) -> Cancelled {
        self.disarm(id);
        match self.jobs.get_mut(&id) {
            Some(slot) if slot.work.is_none() => {
                slot.cancelled = true;
                Cancelled::Running
            }
            Some(_) => Cancelled::Now(self.remove(id)),
            None => Cancelled::Now(None),
        }
    }

    /// Forgets a job.
    pub(super) fn remove(&mut self, id: JobId) -> Option<Work> {
        self.disarm(id);
        self.jobs.remove(&id)?.work
    }

    pub(super) fn contains(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    pub(super) fn name(&self, id: JobId) -> String {
        let slot = self.jobs.get(&id);
        slot.map_or(String::new(), |slot| slot.name.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn armed(&self) -> usize {
        self.jobs.values().filter(|slot| slot.due.is_some()).count()
    }

    /// Disarms every job; the names of those that were armed.
    pub(super) fn disarm_all(&mut self) -> Vec<String> {
        self.queue.clear();
        let armed = self.jobs.values_mut();
        armed
            .filter_map(|slot| slot.due.take().map(|_| slot.name.clone()))
            .collect()
    }
}
