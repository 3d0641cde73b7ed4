//! Edits that outlive the command that made them.

use super::super::value::Bytes;
use super::{ListEdit, ListEnd};

/// A [`ListEdit`] with its values.
#[derive(Clone, Debug)]
pub(in super::super) enum OwnedEdit {
    /// One that has no values.
    Plain(ListEdit<'static>),
    Push {
        end: ListEnd,
        values: Vec<Bytes>,
    },
    Set {
        index: usize,
        value: Bytes,
    },
    Insert {
        index: usize,
        value: Bytes,
    },
    Remove {
        end: ListEnd,
        limit: usize,
        value: Bytes,
    },
}

impl OwnedEdit {
    pub(in super::super) fn as_edit(&self) -> ListEdit<'_> {
        match *self {
            OwnedEdit::Plain(edit) => edit,
            OwnedEdit::Push { end, ref values } => ListEdit::Push { end, values },
            OwnedEdit::Set { index, ref value } => ListEdit::Set { index, value },
            OwnedEdit::Insert { index, ref value } => ListEdit::Insert { index, value },
            OwnedEdit::Remove {
                end,
                limit,
                ref value,
            } => ListEdit::Remove { end, limit, value },
        }
    }

    /// Whether it touches more of a list than its ends.
    pub(in super::super) fn is_deep(&self) -> bool {
        !matches!(
            self.as_edit(),
            ListEdit::Push { .. } | ListEdit::Pop { .. } | ListEdit::Rotate { .. }
        )
    }
}

impl From<ListEdit<'_>> for OwnedEdit {
    fn from(edit: ListEdit<'_>) -> Self {
        match edit {
            ListEdit::Push { end, values } => OwnedEdit::Push {
                end,
                values: values.to_vec(),
            },
            ListEdit::Set { index, value } => OwnedEdit::Set {
                index,
                value: value.clone(),
            },
            ListEdit::Insert { index, value } => OwnedEdit::Insert {
                index,
                value: value.clone(),
            },
            ListEdit::Remove { end, limit, value } => OwnedEdit::Remove {
                end,
                limit,
                value: Bytes::from(value),
            },
            ListEdit::Pop { end, count } => OwnedEdit::Plain(ListEdit::Pop { end, count }),
            ListEdit::Rotate { from, to } => OwnedEdit::Plain(ListEdit::Rotate { from, to }),
            ListEdit::Trim { start, end } => OwnedEdit::Plain(ListEdit::Trim { start, end }),
        }
    }
}
