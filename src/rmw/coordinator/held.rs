//! The latches that a command needs, and those that it holds.
//!
//! It needs those of its keys. If somebody is blocked on one of them in a move, the command may
//! make an element for that call, which moves it on: then it needs the latch of the destination
//! too, and so forth. Under the latches that were asked for this can only become less, because
//! who gets in line for a key holds its latch.

use crate::latch::hashes_in_order;
use crate::rmw::blocked::{Blocked, OwnedKey};
use crate::sync::mutant;

/// Latches: the first two without memory of their own.
pub(super) struct Held<L> {
    first: [Option<L>; 2],
    more: Vec<L>,
}

impl<L> Held<L> {
    pub(super) const fn new() -> Self {
        Self {
            first: [None, None],
            more: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, latch: L) {
        match self.first.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(latch),
            None => self.more.push(latch),
        }
    }
}

/// The hashes of the latches that a command on these keys needs, each once, in the order in which
/// everybody takes latches. It is to be trusted under the latches that it names.
pub(super) fn needed(blocked: Option<&Blocked>, keys: &[OwnedKey]) -> Vec<u64> {
    let mut hashes: Vec<u64> = keys.iter().map(|key| key.hash).collect();
    if let Some(blocked) = blocked
        && !mutant::enabled("coordinator-reaches-no-further")
    {
        let keys: Vec<_> = keys.iter().map(OwnedKey::as_key).collect();
        let reached = blocked.reach(&keys);
        hashes.extend(reached.iter().map(|key| key.hash));
    }
    hashes_in_order(hashes).collect()
}
