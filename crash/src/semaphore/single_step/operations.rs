//! The operations that a subject is led through.

use std::path::PathBuf;
use std::time::Duration;

use super::company::Need;
use crate::trace::Marks;
use latchwork::SharedSemaphore;
use latchwork::semaphore::shared::AcquireTimeoutError;

/// A lease that no point outlasts: it must come back with its holder.
const AN_HOUR: Duration = Duration::from_secs(3600);

/// Where an operation takes place.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub(super) path: PathBuf,
    pub(super) permits: u32,
    pub(super) fewest: u32,
}

impl Stage {
    /// The semaphore for as long as the process lives: nothing of it is dropped on the way.
    pub(super) fn open(&self) -> &'static SharedSemaphore {
        let opened = SharedSemaphore::open(&self.path, self.permits).expect("open");
        Box::leak(Box::new(opened))
    }

    /// Opened, and everything that only a process's first use does is done, with another one.
    fn warm(&self) -> &'static SharedSemaphore {
        let another = SharedSemaphore::open(self.path.with_extension("warm"), 1).expect("open");
        let another: &'static SharedSemaphore = Box::leak(Box::new(another));
        // This reads both clocks, and looks closely.
        let lease = another.acquire_leased(AN_HOUR).expect("acquire");
        assert!(another.try_acquire().is_err());
        drop(lease);
        self.open()
    }

    /// And this one has been used as well.
    fn used(&self) -> &'static SharedSemaphore {
        let semaphore = self.warm();
        drop(semaphore.try_acquire());
        semaphore
    }
}

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) company: Need,
    /// Short enough to be led by instruction in the short form.
    pub(super) by_instruction: bool,
    pub(super) starts_keeper: bool,
    /// The file must not be there before.
    pub(super) creates: bool,
    pub(super) run: fn(&Stage, &Marks<'_>),
}

const fn short(name: &'static str, company: Need, run: fn(&Stage, &Marks<'_>)) -> Operation {
    Operation {
        name,
        company,
        by_instruction: true,
        starts_keeper: false,
        creates: false,
        run,
    }
}

const fn long(name: &'static str, company: Need, run: fn(&Stage, &Marks<'_>)) -> Operation {
    Operation {
        by_instruction: false,
        ..short(name, company, run)
    }
}

pub(super) const OPERATIONS: &[Operation] = &[
    short("acquire", Need::Nobody, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        let permit = semaphore.acquire();
        marks.end();
        std::mem::forget(permit);
    }),
    short("first-acquire", Need::Nobody, |stage, marks| {
        let semaphore = stage.open();
        marks.begin();
        let permit = semaphore.acquire();
        marks.end();
        std::mem::forget(permit);
    }),
    short("release", Need::Nobody, |stage, marks| {
        let permit = stage.used().acquire().expect("acquire");
        marks.begin();
        drop(permit);
        marks.end();
    }),
    short("release-to-waiter", Need::WaiterForOne, |stage, marks| {
        let permits = stage.used().acquire_many(stage.permits).expect("acquire");
        marks.begin();
        drop(permits);
        marks.end();
    }),
    short("acquire-many", Need::Nobody, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        let permits = semaphore.acquire_many(3);
        marks.end();
        std::mem::forget(permits);
    }),
    short("release-many", Need::Nobody, |stage, marks| {
        let permits = stage.used().acquire_many(3).expect("acquire");
        marks.begin();
        drop(permits);
        marks.end();
    }),
    short("refused", Need::HolderOfAll, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        assert!(semaphore.try_acquire().is_err());
        marks.end();
    }),
    short("wait-in-vain", Need::HolderOfAll, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        let outcome = semaphore.acquire_timeout(Duration::from_millis(2));
        assert!(matches!(outcome, Err(AcquireTimeoutError::TimedOut)));
        marks.end();
    }),
    short("wait-many-in-vain", Need::HolderOfAll, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        let outcome = semaphore.acquire_many_timeout(3, Duration::from_millis(2));
        assert!(matches!(outcome, Err(AcquireTimeoutError::TimedOut)));
        marks.end();
    }),
    short("wait", Need::HolderWhoReturns, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        let permit = semaphore.acquire();
        marks.end();
        std::mem::forget(permit);
    }),
    short("wait-for-many", Need::HolderWhoReturns, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        let permits = semaphore.acquire_many(3);
        marks.end();
        std::mem::forget(permits);
    }),
    short("set-max-down", Need::Nobody, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        semaphore.set_max(stage.fewest).expect("set_max");
        marks.end();
    }),
    short("set-max-down-held", Need::HolderOfAll, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        semaphore.set_max(stage.fewest).expect("set_max");
        marks.end();
    }),
    short("set-max-up", Need::Nobody, |stage, marks| {
        let semaphore = stage.used();
        semaphore.set_max(stage.fewest).expect("set_max");
        marks.begin();
        semaphore.set_max(stage.permits).expect("set_max");
        marks.end();
    }),
    short("release-retiring", Need::Nobody, |stage, marks| {
        let semaphore = stage.used();
        let permits = semaphore.acquire_many(stage.permits).expect("acquire");
        semaphore.set_max(stage.fewest).expect("set_max");
        marks.begin();
        drop(permits);
        marks.end();
    }),
    short("reap", Need::Corpse, |stage, marks| {
        let semaphore = stage.warm();
        marks.begin();
        let permits = semaphore.acquire_many(stage.permits);
        marks.end();
        std::mem::forget(permits);
    }),
    short("lease", Need::Nobody, |stage, marks| {
        let semaphore = stage.used();
        marks.begin();
        let lease = semaphore.acquire_leased(AN_HOUR);
        marks.end();
        std::mem::forget(lease);
    }),
    short("renew", Need::Nobody, |stage, marks| {
        let lease = stage.used().acquire_leased(AN_HOUR).expect("acquire");
        marks.begin();
        lease.renew(AN_HOUR).expect("renew");
        marks.end();
        std::mem::forget(lease);
    }),
    short("release-lease", Need::Nobody, |stage, marks| {
        let lease = stage.used().acquire_leased(AN_HOUR).expect("acquire");
        marks.begin();
        drop(lease);
        marks.end();
    }),
    Operation {
        starts_keeper: true,
        ..long("attach", Need::Nobody, |stage, marks| {
            marks.begin();
            let semaphore = stage.open();
            marks.end();
            std::mem::forget(semaphore.try_acquire());
        })
    },
    Operation {
        starts_keeper: true,
        creates: true,
        ..long("create", Need::Nobody, |stage, marks| {
            marks.begin();
            let semaphore = stage.open();
            marks.end();
            std::mem::forget(semaphore.try_acquire());
        })
    },
    long("detach", Need::Nobody, |stage, marks| {
        let semaphore = SharedSemaphore::open(&stage.path, stage.permits).expect("open");
        drop(semaphore.try_acquire());
        marks.begin();
        drop(semaphore);
        marks.end();
    }),
];
