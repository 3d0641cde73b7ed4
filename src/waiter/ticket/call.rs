//! What calls the one who waits for a ticket.

use super::slot::Slot;
use crate::sync::Arc;

/// Has whoever waits for a ticket look around.
pub(crate) struct Nudger<T>(pub(super) Arc<Slot<T>>);

impl<T> Nudger<T> {
    pub(crate) fn nudge(&self) {
        self.0.nudge();
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Somebody who sleeps although the result is there.
#[must_use = "nobody else will wake it"]
pub(crate) struct Sleeper<T>(pub(super) Arc<Slot<T>>);

impl<T> Sleeper<T> {
    pub(crate) fn wake(self) {
        self.0.word.wake_one();
    }
}
