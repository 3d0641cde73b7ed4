//! Commands and replies as values.

use super::list_op::ListOp;
use super::{Answer, pair};
use crate::latch::hashes_in_order;
use crate::rmw::blocked::{OwnedKey, Served};
use crate::rmw::options::GetExpiry;
use crate::rmw::serve::infallible;
use crate::rmw::store::Store;
use crate::rmw::value::{Bytes, Value};
use crate::rmw::{Inserted, ListEnd, Rmw, Transaction};

/// A read-modify-write command as a value, for an [`RmwCoordinator`](super::RmwCoordinator).
///
/// ```
/// use latchwork::rmw::Command;
///
/// let command = Command::incr("hits", 1);
/// assert_eq!(command, Command::Incr { key: "hits".into(), by: 1 });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// [`Rmw::incr_by`]; [`Reply::Integer`].
    Incr {
        /// The key.
        key: Bytes,
        /// What to add.
        by: i64,
    },
    /// [`Rmw::incr_float`]; [`Reply::Value`] with the sum.
    IncrFloat {
        /// The key.
        key: Bytes,
        /// What to add, as decimal digits.
        by: Bytes,
    },
    /// [`Rmw::append`]; [`Reply::Length`].
    Append {
        /// The key.
        key: Bytes,
        /// What to append.
        bytes: Bytes,
    },
    /// [`Rmw::getset`]; [`Reply::Value`].
    Getset {
        /// The key.
        key: Bytes,
        /// What to set.
        value: Value,
    },
    /// [`Rmw::getdel`]; [`Reply::Value`].
    Getdel {
        /// The key.
        key: Bytes,
    },
    /// [`Rmw::getex`]; [`Reply::Value`].
    Getex {
        /// The key.
        key: Bytes,
        /// What to do to its expiry.
        expiry: GetExpiry,
    },
    /// [`Rmw::setrange`]; [`Reply::Length`].
    Setrange {
        /// The key.
        key: Bytes,
        /// Where to write.
        offset: u64,
        /// What to write.
        bytes: Bytes,
    },
    /// A list command on one key.
    ListOp {
        /// The key.
        key: Bytes,
        /// What to do to its list.
        operation: ListOp,
    },
    /// [`Rmw::lmove`], under the latches of both keys; [`Reply::Value`].
    LMove {
        /// The key to take an element from.
        source: Bytes,
        /// The key to give it to.
        destination: Bytes,
        /// The source's end.
        from: ListEnd,
        /// The destination's end.
        to: ListEnd,
    },
}

/// What a [`Command`] returns.
///
/// ```
/// use latchwork::rmw::{Command, CoordinatorOptions, Reply, Rmw, RmwCoordinator};
///
/// let coordinator = RmwCoordinator::start(&Rmw::new(), CoordinatorOptions::new());
/// let reply = coordinator.execute(0, Command::getset("name", "ada"))?;
/// assert_eq!(reply, Reply::Value(None));
/// # Ok::<(), latchwork::rmw::CoordinatorError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// A number.
    Integer(i64),
    /// A length, or how many there were.
    Length(u64),
    /// What the key held, or what was taken from it.
    Value(Option<Value>),
    /// What was taken from a list; `None` if there was none.
    Values(Option<Vec<Bytes>>),
    /// How an insertion went.
    Inserted(Inserted),
    /// Nothing but that it was done.
    Done,
}

impl Command {
    /// Adds to a key's number.
    ///
    /// ```
    /// # use latchwork::rmw::Command;
    /// assert_eq!(Command::incr("k", 2).key(), &b"k"[..]);
    /// ```
    pub fn incr(key: impl Into<Bytes>, by: i64) -> Self {
        Self::Incr {
            key: key.into(),
            by,
        }
    }

    /// Adds to a key's number, which may have a fraction.
    ///
    /// ```
    /// # use latchwork::rmw::Command;
    /// assert_eq!(Command::incr_float("k", "0.1").key(), &b"k"[..]);
    /// ```
    pub fn incr_float(key: impl Into<Bytes>, by: impl Into<Bytes>) -> Self {
        Self::IncrFloat {
            key: key.into(),
            by: by.into(),
        }
    }

    /// Appends to a key's string.
    ///
    /// ```
    /// # use latchwork::rmw::Command;
    /// assert_eq!(Command::append("k", "v").key(), &b"k"[..]);
    /// ```
    pub fn append(key: impl Into<Bytes>, bytes: impl Into<Bytes>) -> Self {
        Self::Append {
            key: key.into(),
            bytes: bytes.into(),
        }
    }

    /// Sets a key and returns what it held.
    ///
    /// ```
    /// # use latchwork::rmw::Command;
    /// assert_eq!(Command::getset("k", 7).key(), &b"k"[..]);
    /// ```
    pub fn getset(key: impl Into<Bytes>, value: impl Into<Value>) -> Self {
        Self::Getset {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Deletes a key and returns what it held.
    ///
    /// ```
    /// # use latchwork::rmw::Command;
    /// assert_eq!(Command::getdel("k").key(), &b"k"[..]);
    /// ```
    pub fn getdel(key: impl Into<Bytes>) -> Self {
        Self::Getdel { key: key.into() }
    }

    /// Returns a key's value and changes its expiry.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, GetExpiry};
    /// assert_eq!(Command::getex("k", GetExpiry::Clear).key(), &b"k"[..]);
    /// ```
    pub fn getex(key: impl Into<Bytes>, expiry: GetExpiry) -> Self {
        Self::Getex {
            key: key.into(),
            expiry,
        }
    }

    /// Overwrites a part of a key's string.
    ///
    /// ```
    /// # use latchwork::rmw::Command;
    /// assert_eq!(Command::setrange("k", 3, "v").key(), &b"k"[..]);
    /// ```
    pub fn setrange(key: impl Into<Bytes>, offset: u64, bytes: impl Into<Bytes>) -> Self {
        Self::Setrange {
            key: key.into(),
            offset,
            bytes: bytes.into(),
        }
    }

    /// Does something to a list.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, ListEnd, ListOp};
    /// let command = Command::list_op("k", ListOp::Pop { end: ListEnd::Back });
    /// assert_eq!(command.key(), &b"k"[..]);
    /// ```
    pub fn list_op(key: impl Into<Bytes>, operation: ListOp) -> Self {
        Self::ListOp {
            key: key.into(),
            operation,
        }
    }

    /// Moves an element from one list to another.
    ///
    /// ```
    /// # use latchwork::rmw::{Command, ListEnd};
    /// let command = Command::lmove("from", "to", ListEnd::Back, ListEnd::Front);
    /// assert_eq!(command.key(), &b"from"[..]);
    /// ```
    pub fn lmove(
        source: impl Into<Bytes>,
        destination: impl Into<Bytes>,
        from: ListEnd,
        to: ListEnd,
    ) -> Self {
        Self::LMove {
            source: source.into(),
            destination: destination.into(),
            from,
            to,
        }
    }

    /// The key; of several, the first.
    ///
    /// ```
    /// # use latchwork::rmw::Command;
    /// assert_eq!(Command::getdel("k").key(), &b"k"[..]);
    /// ```
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Incr { key, .. }
            | Self::IncrFloat { key, .. }
            | Self::Append { key, .. }
            | Self::Getset { key, .. }
            | Self::Getdel { key }
            | Self::Getex { key, .. }
            | Self::Setrange { key, .. }
            | Self::ListOp { key, .. }
            | Self::LMove { source: key, .. } => key,
        }
    }

    /// Its keys, as they were named.
    pub(super) fn keys<S: Store>(&self, rmw: &Rmw<S>) -> Vec<OwnedKey> {
        let second = match self {
            Self::LMove { destination, .. } => Some(&**destination),
            _ => None,
        };
        let names = [Some(self.key()), second].into_iter().flatten();
        names.map(|name| rmw.key(name).into()).collect()
    }

    /// Whether it is done in a moment: others may be kept waiting for a number of such.
    pub(super) fn is_short(&self) -> bool {
        match self {
            Self::ListOp { operation, .. } => operation.is_short(),
            Self::LMove { .. } => false,
            _ => true,
        }
    }

    /// The hashes of its keys, each once, in the order in which everybody takes latches.
    pub(super) fn hashes<S: Store>(&self, rmw: &Rmw<S>) -> [Option<u64>; 2] {
        let hash = rmw.key(self.key()).hash;
        match self {
            Self::LMove { destination, .. } => {
                pair(hashes_in_order(vec![hash, rmw.key(destination).hash]))
            }
            _ => [Some(hash), None],
        }
    }

    /// Executes it. The caller holds the latches that it [needs](super::held::needed), and `rmw`
    /// takes none. Whoever was blocked and is `served` is to be told when they are free.
    pub(super) fn run_latched<S: Store>(self, rmw: &Rmw<S>, served: &mut Served) -> Answer {
        let blocked = match &rmw.core.blocked {
            Some(blocked) if blocked.count() != 0 => blocked,
            _ => return self.run(rmw),
        };
        let keys = self.keys(rmw);
        let keys: Vec<_> = keys.iter().map(OwnedKey::as_key).collect();
        if !keys.iter().any(|key| blocked.waits_for(*key)) {
            return self.run(rmw);
        }
        let reached = blocked.reach(&keys);
        let run = |tx: &Transaction| Ok(self.run(tx));
        rmw.transact_latched(&keys, &reached, run, || (), served)?
            .unwrap_or_else(infallible)
    }

    fn run<S: Store>(self, rmw: &Rmw<S>) -> Answer {
        match self {
            Self::Incr { key, by } => rmw.incr_by(key, by).map(Reply::Integer),
            Self::IncrFloat { key, by } => {
                let sum = rmw.incr_float(key, by)?;
                Ok(Reply::Value(Some(sum)))
            }
            Self::Append { key, bytes } => rmw.append(key, bytes).map(Reply::Length),
            Self::Getset { key, value } => rmw.getset(key, value).map(Reply::Value),
            Self::Getdel { key } => rmw.getdel(key).map(Reply::Value),
            Self::Getex { key, expiry } => rmw.getex(key, expiry).map(Reply::Value),
            Self::Setrange { key, offset, bytes } => {
                rmw.setrange(key, offset, bytes).map(Reply::Length)
            }
            Self::ListOp { key, operation } => operation.run(key, rmw),
            Self::LMove {
                source,
                destination,
                from,
                to,
            } => {
                let moved = rmw.lmove(source, destination, from, to)?;
                Ok(Reply::Value(moved.map(Value::from)))
            }
        }
    }
}
