//! One hold of one latch, as claims and guards carry it.

use crate::holder::claim::Held;

/// One hold of one latch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) hash: u64,
    pub(super) number: u64,
}

impl From<Held> for Hold {
    fn from(held: Held) -> Self {
        Self {
            hash: held.first,
            number: held.second,
        }
    }
}

impl From<Hold> for Held {
    fn from(hold: Hold) -> Self {
        Self {
            first: hold.hash,
            second: hold.number,
        }
    }
}
