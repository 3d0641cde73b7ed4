//! One hold of one latch, as claims and guards carry it.

use crate::holder::claim::Held;

use super::word::Id;

/// One hold of one latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) id: Id,
    pub(super) number: u64,
}

impl From<Held> for Hold {
    fn from(held: Held) -> Self {
        Self {
            id: Id::of(held.first),
            number: held.second,
        }
    }
}

impl From<Hold> for Held {
    fn from(hold: Hold) -> Self {
        Self {
            first: hold.id.bits(),
            second: hold.number,
        }
    }
}
