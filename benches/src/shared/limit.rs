//! Five ways to bound what processes do at once, behind one call.

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use latchwork::SharedSemaphore;

use super::janitor::Janitor;
use crate::peers::jobserver::Jobserver;
use crate::peers::ofd::Ofd;
use crate::peers::sem_t::SemT;
use crate::peers::sem_undo::SemUndo;
use crate::work::Work;

/// Something of which a process may hold one permit at a time.
pub(super) trait Limit {
    /// Waits for a permit, and runs `inside` with it.
    fn hold<R>(&self, inside: impl FnOnce() -> R) -> R;
}

impl Limit for SharedSemaphore {
    #[inline]
    fn hold<R>(&self, inside: impl FnOnce() -> R) -> R {
        let permit = self.acquire().expect("it is open");
        let result = inside();
        drop(permit);
        result
    }
}

impl Limit for SemUndo {
    #[inline]
    fn hold<R>(&self, inside: impl FnOnce() -> R) -> R {
        self.wait().expect("the set is there");
        let result = inside();
        self.post().expect("the set is there");
        result
    }
}

impl Limit for SemT {
    #[inline]
    fn hold<R>(&self, inside: impl FnOnce() -> R) -> R {
        self.wait();
        let result = inside();
        self.post();
        result
    }
}

impl Limit for Ofd {
    #[inline]
    fn hold<R>(&self, inside: impl FnOnce() -> R) -> R {
        let byte = self.lock().expect("the file can be locked");
        let result = inside();
        self.unlock(byte).expect("the file can be unlocked");
        result
    }
}

impl Limit for Jobserver {
    #[inline]
    fn hold<R>(&self, inside: impl FnOnce() -> R) -> R {
        self.take().expect("the pipe can be read");
        let result = inside();
        self.put().expect("the pipe can be written to");
        result
    }
}

/// Loops over a limit, each compiled for its kind.
pub(super) trait Loops {
    /// Takes a permit and gives it back, `ops` times. The limit is opaque to the compiler each
    /// time.
    fn cycle(&self, ops: u64);
    /// Does `work` with a permit for as long as `running`, and says how often.
    fn contend(&self, running: &AtomicBool, work: Work) -> u64;
    fn hold_while(&self, inside: &mut dyn FnMut());
}

impl<L: Limit> Loops for L {
    fn cycle(&self, ops: u64) {
        for _ in 0..ops {
            black_box(self).hold(|| ());
        }
    }

    fn contend(&self, running: &AtomicBool, work: Work) -> u64 {
        let mut count = 0;
        while running.load(Ordering::Relaxed) {
            self.hold(|| work.run());
            count += 1;
        }
        count
    }

    fn hold_while(&self, inside: &mut dyn FnMut()) {
        self.hold(inside);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Shared,
    SemUndo,
    SemT,
    Ofd,
    Jobserver,
}

impl Kind {
    pub(super) const ALL: [Kind; 5] = [
        Kind::Shared,
        Kind::SemUndo,
        Kind::SemT,
        Kind::Ofd,
        Kind::Jobserver,
    ];

    /// For people, and for the command line of a child.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Shared => "SharedSemaphore",
            Kind::SemUndo => "SEM_UNDO",
            Kind::SemT => "sem_t",
            Kind::Ofd => "OFD locks",
            Kind::Jobserver => "pipe jobserver",
        }
    }

    fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a process must know of a limit to open it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Address {
    pub(super) kind: Kind,
    pub(super) permits: u32,
    /// A path, or a number.
    pub(super) place: String,
}

impl Address {
    /// For the command line of a child.
    pub(super) fn arguments(&self) -> [String; 3] {
        let kind = self.kind.name().to_owned();
        [kind, self.permits.to_string(), self.place.clone()]
    }

    pub(super) fn from_arguments(arguments: &[String]) -> Result<Address, Box<dyn Error>> {
        let [kind, permits, place] = arguments else {
            return Err("an address has three parts".into());
        };
        Ok(Address {
            kind: Kind::named(kind).ok_or("no limit has that name")?,
            permits: permits.parse()?,
            place: place.clone(),
        })
    }

    pub(super) fn open(&self) -> Result<Box<dyn Loops>, Box<dyn Error>> {
        let path = Path::new(&self.place);
        Ok(match self.kind {
            Kind::Shared => Box::new(SharedSemaphore::open(path, self.permits)?),
            Kind::SemUndo => Box::new(SemUndo::from_id(self.place.parse()?)),
            Kind::SemT => Box::new(SemT::open(path)?),
            Kind::Ofd => Box::new(Ofd::open(path, self.permits)?),
            Kind::Jobserver => Box::new(Jobserver::open(path)?),
        })
    }
}

/// A new limit, open in this process. The janitor removes it.
pub(super) struct Site {
    pub(super) address: Address,
    pub(super) own: Box<dyn Loops>,
}

impl Site {
    pub(super) fn create(
        kind: Kind,
        permits: u32,
        janitor: &mut Janitor,
    ) -> Result<Site, Box<dyn Error>> {
        let path = janitor.new_path();
        let mut place = path.to_str().ok_or("the path is no UTF-8")?.to_owned();
        let own: Box<dyn Loops> = match kind {
            Kind::Shared => Box::new(SharedSemaphore::open(&path, permits)?),
            Kind::SemUndo => {
                let semaphore = SemUndo::create(permits)?;
                janitor.adopt(semaphore)?;
                place = semaphore.id().to_string();
                Box::new(semaphore)
            }
            Kind::SemT => Box::new(SemT::create(&path, permits)?),
            Kind::Ofd => Box::new(Ofd::open(&path, permits)?),
            Kind::Jobserver => Box::new(Jobserver::create(&path, permits)?),
        };
        let address = Address {
            kind,
            permits,
            place,
        };
        Ok(Site { address, own })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_out_of_its_arguments() {
        for kind in Kind::ALL {
            let address = Address {
                kind,
                permits: 2,
                place: "/a place".into(),
            };
            let again = Address::from_arguments(&address.arguments()).unwrap();
            assert_eq!(again, address);
        }
        assert!(Address::from_arguments(&["flock".into(), "1".into(), "x".into()]).is_err());
        assert!(Address::from_arguments(&[]).is_err());
    }
}
