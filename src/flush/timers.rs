//! What comes later: streams that are tried again, and the end of those that take too long.

use crate::sweeper::{Job, Next, Sweeper};
use crate::sync::Arc;
use crate::sync::lock::Mutex;
use crate::sync::time::Instant;
use crate::sync::unmodelled;

use super::core::Core;
use super::finalizer::Finalize;
use super::stream::{self, Task};

/// The pipeline's job on the sweeper, and what it works on.
pub(super) struct Timers<F: Finalize> {
    retries: Mutex<Retries<F>>,
    job: unmodelled::Mutex<Option<Job>>,
}

struct Retries<F: Finalize> {
    /// Streams that are to be tried again, and when; `None` is never.
    tasks: Vec<(Option<Instant>, Task<F>)>,
    is_closed: bool,
}

/// How the job finds its pipeline: it must not keep it.
type Link<F> = unmodelled::Arc<unmodelled::Mutex<Option<Arc<Core<F>>>>>;

/// Keeps the job's link to its pipeline, until the pipeline is stopped.
pub(super) struct Linked<F: Finalize>(Link<F>);

impl<F: Finalize> Timers<F> {
    pub(super) fn new() -> Self {
        Self {
            retries: Mutex::new(Retries {
                tasks: Vec::new(),
                is_closed: false,
            }),
            job: unmodelled::Mutex::new(None),
        }
    }

    /// Adds the job for `core`, whose timers these are.
    pub(super) fn link(core: &Arc<Core<F>>, sweeper: &Sweeper) -> Linked<F> {
        let link: Link<F> = unmodelled::Arc::new(unmodelled::Mutex::new(Some(Arc::clone(core))));
        let its_link = unmodelled::Arc::clone(&link);
        let job = sweeper.timed_job("flush", move |now| {
            let core = its_link.lock().clone();
            let next = core.and_then(|core| core.timers.run(&core, now));
            next.map_or(Next::Idle, Next::At)
        });
        *core.timers.job.lock() = Some(job);
        Linked(link)
    }

    pub(super) fn arm(&self, at: Instant) {
        if let Some(job) = &*self.job.lock() {
            job.arm_at(at);
        }
    }

    /// Has `task` run again at a time.
    pub(super) fn retry(&self, core: &Core<F>, at: Option<Instant>, task: Task<F>) {
        let mut retries = self.retries.lock();
        if retries.is_closed {
            drop(retries);
            return task.give_up(core);
        }
        retries.tasks.push((at, task));
        drop(retries);
        if let Some(at) = at {
            self.arm(at);
        }
    }

    /// Does what is due; says when there is something next.
    fn run(&self, core: &Arc<Core<F>>, now: Instant) -> Option<Instant> {
        let due: Vec<Task<F>> = {
            let mut retries = self.retries.lock();
            let is_due = |(at, _): &mut (Option<Instant>, _)| at.is_some_and(|at| at <= now);
            let due = retries.tasks.extract_if(.., is_due);
            due.map(|(_, task)| task).collect()
        };
        for task in due {
            core.rerun(task);
        }
        let late = stream::fail_late(core, now);
        let retries = self.retries.lock();
        let retries = retries.tasks.iter().filter_map(|(at, _)| *at);
        retries.chain(late).min()
    }

    /// Ends the retries. Those that were to come come back.
    pub(super) fn close(&self) -> Vec<Task<F>> {
        let mut retries = self.retries.lock();
        retries.is_closed = true;
        let tasks = std::mem::take(&mut retries.tasks);
        drop(retries);
        let job = self.job.lock().take();
        drop(job);
        tasks.into_iter().map(|(_, task)| task).collect()
    }
}

impl<F: Finalize> Linked<F> {
    /// The job finds the pipeline no more.
    pub(super) fn cut(&self) {
        let core = self.0.lock().take();
        drop(core);
    }
}
