//! A record's place in the log.

use std::fmt;

/// A record's place in the order of the log: its log sequence number.
///
/// The first record of a log has 1, and each next one is greater by one. Numbers that no record is
/// delivered for belong to appends that failed or timed out.
///
/// ```
/// use latchwork::wal::Lsn;
///
/// let lsn = Lsn::new(7);
/// assert_eq!(lsn.next(), Lsn::new(8));
/// assert_eq!(lsn.get(), 7);
/// assert_eq!(lsn.to_string(), "7");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

/// No log comes so far, at a record a nanosecond in 292 years: a file that says so is damaged or
/// made up. What is below can be counted on from without an overflow.
pub(super) const UNREACHABLE: u64 = 1 << 63;

impl Lsn {
    /// Before the first record.
    pub const ZERO: Self = Self(0);

    /// The place with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The place after this one.
    ///
    /// # Panics
    /// After the last of 2^64, which no log gets to.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
