//! The number of permits, and the gate that newcomers pass.
//!
//! `GATED` in `change` sends newcomers the slow way while somebody starves, while the number of permits
//! is being changed, and after a cut while more run than there are. It is shut before that is
//! written. Who has found everything in order opens it, if `change` has not moved since; and who
//! takes a permit on the fast way looks at it once more afterwards. So a permit that was taken
//! beside a change of the number was counted by who made the change, or is given back.

use crate::os::shared::word::Owner;
use crate::sync::atomic::{Ordering, model_fence};
use crate::sync::mutant;

use super::control::{CLOSED, GATED, ONE};
use super::core::{Core, Found};

/// What a look at all cells found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Survey {
    /// How many are held.
    pub(super) held: usize,
    /// Whether one is held that is no permit any more: more may run than there are permits.
    pub(super) is_cut: bool,
    /// How often one was taken back.
    pub(super) freed: u32,
}

impl Core {
    /// Sets the number of permits.
    pub(super) fn set_max(&self, permits: u32) {
        let control = self.control();
        self.gate(ONE);
        if !mutant::enabled("shared-cut-changes-nothing") {
            control.target.store(permits, Ordering::SeqCst);
        }
        // Who has looked at everything before the store may have opened it; the count moves, so
        // that nobody takes this gate for the one before.
        let gated = self.gate(ONE);
        // Pairs with the one in `is_gated`.
        model_fence();
        loop {
            let target = self.target();
            let survey = self.survey(&[]);
            // Another one sets it at the same time: the later store is the one that stands.
            if self.target() == target {
                if !survey.is_cut {
                    self.open_gate(gated, target);
                }
                break;
            }
        }
        self.call_all();
    }

    /// Puts all cells in order and counts.
    pub(super) fn survey(&self, dead: &[Owner]) -> Survey {
        let mut survey = Survey::default();
        for index in 0..self.area().cells.len() {
            let (found, freed) = self.inspect(index, dead);
            survey.freed += freed;
            if let Found::Held(_) = found {
                survey.held += 1;
                survey.is_cut |= index >= self.target();
            }
        }
        survey
    }

    /// Sends newcomers the slow way, and moves the count by `wakes`. Says what `change` is now.
    pub(super) fn gate(&self, wakes: u32) -> u32 {
        let change = &self.control().change;
        let mut seen = change.load();
        loop {
            let gated = (seen | GATED).wrapping_add(wakes);
            match change.compare_exchange(seen, gated) {
                Ok(_) => return gated,
                Err(now) => seen = now,
            }
        }
    }

    /// Lets newcomers in, who has found everything in order since `change` was `seen`, with so many
    /// permits.
    pub(super) fn open_gate(&self, seen: u32, target: usize) {
        let control = self.control();
        let is_over = || control.starving.load(Ordering::SeqCst) == 0 && self.target() == target;
        if seen & GATED != 0
            && is_over()
            && control.change.compare_exchange(seen, seen & !GATED).is_ok()
        {
            model_fence();
            // Somebody may have set it just before, and found that it was.
            if !is_over() {
                self.gate(0);
            }
        }
    }

    /// Whether newcomers are sent the slow way. After a permit was taken: that step or the gate's
    /// was first, and who shut the gate has counted the permit or is seen here.
    #[inline(always)]
    pub(super) fn is_gated(&self) -> bool {
        if mutant::enabled("shared-passes-a-shut-gate") {
            return false;
        }
        model_fence();
        self.control().change.load() & (CLOSED | GATED) != 0
    }
}
