//! What a permit or a latch protects in the models: a plain number, of which loom watches each
//! access.
//!
//! Two accesses with no happens-before edge between them fail the model. So a model sees a permit
//! that two hold at once, and also one that went from hand to hand without the ordering that should
//! come along.

#![allow(unsafe_code)]

use std::sync::Arc;

use latchwork::model::loom::cell::UnsafeCell;

/// A section that one thread at a time may be in. A clone is the same section.
#[derive(Clone, Debug)]
pub struct Section(Arc<Cell>);

#[derive(Debug)]
struct Cell(UnsafeCell<u64>);

// SAFETY: loom checks each access against all others, and ends the model before two can overlap;
// its threads are coroutines of one thread of the system.
unsafe impl Send for Cell {}
// SAFETY: as above.
unsafe impl Sync for Cell {}

impl Section {
    /// A section that nobody has been in.
    #[expect(clippy::new_without_default, reason = "a model says what it makes")]
    pub fn new() -> Self {
        Self(Arc::new(Cell(UnsafeCell::new(0))))
    }

    /// Goes through the section, and fails the model if that is not ordered with who else does.
    #[track_caller]
    pub fn enter(&self) {
        self.0.0.with_mut(|times| {
            // SAFETY: loom has checked that nobody else has access.
            unsafe { *times += 1 };
        });
    }

    /// How often somebody went through, and fails the model if that is not ordered with who did.
    #[track_caller]
    pub fn entered(&self) -> u64 {
        // SAFETY: loom has checked that nobody else has access to write.
        self.0.0.with(|times| unsafe { *times })
    }
}
