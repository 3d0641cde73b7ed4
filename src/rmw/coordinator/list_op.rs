//! The list commands on one key, as values.

use super::Answer;
use super::command::Reply;
use crate::rmw::store::Store;
use crate::rmw::value::{Bytes, Value};
use crate::rmw::{ListEnd, Rmw};

/// As many elements are nothing to wait for.
const SHORT: usize = 16;

/// What [`Command::ListOp`](super::Command::ListOp) does to a list.
///
/// ```
/// use latchwork::rmw::{Command, CoordinatorOptions, ListEnd, ListOp, Reply, Rmw, RmwCoordinator};
///
/// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
/// let push = ListOp::push(ListEnd::Back, ["a", "b"]);
/// assert_eq!(coordinator.execute(0, Command::list_op("jobs", push))?, Reply::Length(2));
/// let pop = ListOp::Pop { end: ListEnd::Front };
/// let popped = coordinator.execute(0, Command::list_op("jobs", pop))?;
/// assert_eq!(popped, Reply::Value(Some("a".into())));
/// # Ok::<(), latchwork::rmw::CoordinatorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListOp {
    /// [`Rmw::lpush`] and its kin; [`Reply::Length`].
    Push {
        /// Where.
        end: ListEnd,
        /// What, one after the other.
        values: Vec<Bytes>,
        /// Whether a missing key stays missing.
        if_present: bool,
    },
    /// [`Rmw::lpop`], [`Rmw::rpop`]; [`Reply::Value`].
    Pop {
        /// Where.
        end: ListEnd,
    },
    /// [`Rmw::lpop_many`], [`Rmw::rpop_many`]; [`Reply::Values`].
    PopMany {
        /// Where.
        end: ListEnd,
        /// How many at most.
        count: u64,
    },
    /// [`Rmw::lset`]; [`Reply::Done`].
    Set {
        /// Which element, negative from the back.
        index: i64,
        /// Its new value.
        value: Bytes,
    },
    /// [`Rmw::linsert_before`], [`Rmw::linsert_after`]; [`Reply::Inserted`].
    Insert {
        /// The element to find.
        pivot: Bytes,
        /// What to insert.
        value: Bytes,
        /// Whether after the pivot, or before it.
        after: bool,
    },
    /// [`Rmw::lrem`]; [`Reply::Length`], how many were removed.
    Remove {
        /// How many at most, negative from the back, 0 for all.
        count: i64,
        /// The elements to remove.
        value: Bytes,
    },
    /// [`Rmw::ltrim`]; [`Reply::Done`].
    Trim {
        /// The first to keep, negative from the back.
        start: i64,
        /// The last to keep, negative from the back.
        stop: i64,
    },
}

impl ListOp {
    /// Pushes values, a missing key being an empty list.
    ///
    /// ```
    /// # use latchwork::rmw::{ListEnd, ListOp};
    /// let push = ListOp::push(ListEnd::Front, ["a"]);
    /// assert!(matches!(push, ListOp::Push { if_present: false, .. }));
    /// ```
    pub fn push<V: Into<Bytes>>(end: ListEnd, values: impl IntoIterator<Item = V>) -> Self {
        Self::Push {
            end,
            values: values.into_iter().map(Into::into).collect(),
            if_present: false,
        }
    }

    /// Whether it looks at the ends of its list only.
    pub(super) fn is_short(&self) -> bool {
        match self {
            Self::Push { values, .. } => values.len() <= SHORT,
            Self::Pop { .. } => true,
            Self::PopMany { count, .. } => *count <= SHORT as u64,
            Self::Set { .. } | Self::Insert { .. } | Self::Remove { .. } | Self::Trim { .. } => {
                false
            }
        }
    }

    pub(super) fn run<S: Store>(self, key: Bytes, rmw: &Rmw<S>) -> Answer {
        let length = |result: Result<u64, _>| result.map(Reply::Length);
        let value = |result: Result<Option<Bytes>, _>| Ok(Reply::Value(result?.map(Value::from)));
        match self {
            Self::Push {
                end,
                values,
                if_present,
            } => length(match (end, if_present) {
                (ListEnd::Front, false) => rmw.lpush(key, values),
                (ListEnd::Back, false) => rmw.rpush(key, values),
                (ListEnd::Front, true) => rmw.lpush_if_present(key, values),
                (ListEnd::Back, true) => rmw.rpush_if_present(key, values),
            }),
            Self::Pop {
                end: ListEnd::Front,
            } => value(rmw.lpop(key)),
            Self::Pop { end: ListEnd::Back } => value(rmw.rpop(key)),
            Self::PopMany { end, count } => Ok(Reply::Values(match end {
                ListEnd::Front => rmw.lpop_many(key, count)?,
                ListEnd::Back => rmw.rpop_many(key, count)?,
            })),
            Self::Set { index, value } => rmw.lset(key, index, value).map(|()| Reply::Done),
            Self::Insert {
                pivot,
                value,
                after: true,
            } => rmw.linsert_after(key, pivot, value).map(Reply::Inserted),
            Self::Insert { pivot, value, .. } => {
                rmw.linsert_before(key, pivot, value).map(Reply::Inserted)
            }
            Self::Remove { count, value } => length(rmw.lrem(key, count, value)),
            Self::Trim { start, stop } => rmw.ltrim(key, start, stop).map(|()| Reply::Done),
        }
    }
}
