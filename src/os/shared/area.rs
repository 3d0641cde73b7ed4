//! What an attachment sees of its area.

#![allow(unsafe_code)]

use super::process::ProcessSlot;
use super::word::Owner;

/// How many processes can be attached at once.
pub(crate) const SLOTS: usize = 960;

/// The most cells; it bounds what a broken header can ask for.
pub(crate) const MOST_CELLS: u32 = 1 << 20;

/// The shared words: a component's control words and cells, and who is attached.
pub(crate) struct Area<'a, T, C> {
    pub(crate) control: &'a T,
    pub(crate) slots: &'a [ProcessSlot],
    pub(crate) cells: &'a [C],
}

/// What a step that is not to cost much takes from an attachment: in a fork's child nothing, an
/// owner that names nobody and no cells.
pub(crate) struct Own<'a, C> {
    pub(crate) owner: Owner,
    pub(crate) cells: &'a [C],
}

/// What may be read and written where other processes write at the same time.
///
/// # Safety
///
/// The type is `repr(C)` or `repr(transparent)`, made of atomics only, and good with any bits.
pub(crate) unsafe trait Plain: Send + Sync + 'static {}

/// What a file is made for: what two openers have to agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Which component.
    pub(crate) purpose: u32,
    pub(crate) cells: u32,
    /// The component's own.
    pub(crate) parameters: [u32; 2],
}
