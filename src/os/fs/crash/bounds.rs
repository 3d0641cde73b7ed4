//! How much is enumerated.

/// How many of the possible states [`states`](super::states) hands out.
///
/// ```
/// use latchwork::fs::crash::Bounds;
///
/// let bounds = Bounds::new().samples(1000).seed(7);
/// assert_ne!(bounds, Bounds::short());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Bounds {
    pub(super) exhaustive: usize,
    pub(super) subset_size: usize,
    pub(super) samples: usize,
    pub(super) seed: u64,
    pub(super) lengths: bool,
    pub(super) remembered: usize,
}

impl Bounds {
    /// All subsets of up to 12 undecided changes; of more, those of up to 2, their complements, and
    /// 10,000 random ones.
    pub const fn new() -> Self {
        Self {
            exhaustive: 12,
            subset_size: 2,
            samples: 10_000,
            seed: 0,
            lengths: true,
            remembered: 1 << 20,
        }
    }

    /// A short form: all subsets of up to 8 undecided changes; of more, those of one, their
    /// complements, and 64 random ones.
    pub const fn short() -> Self {
        Self {
            exhaustive: 8,
            subset_size: 1,
            samples: 64,
            ..Self::new()
        }
    }

    /// Up to so many undecided changes, at most 30, all their subsets are enumerated.
    pub const fn exhaustive(mut self, changes: usize) -> Self {
        self.exhaustive = if changes < 30 { changes } else { 30 };
        self
    }

    /// Beyond that, all that keep at most so many changes and all that lose at most so many; and
    /// each beginning of the changes in their order, as of a disk that reorders nothing.
    pub const fn subset_size(mut self, changes: usize) -> Self {
        self.subset_size = changes;
        self
    }

    /// And so many random ones, at each moment.
    pub const fn samples(mut self, samples: usize) -> Self {
        self.samples = samples;
        self
    }

    /// What the random ones are drawn from. The same seed draws the same.
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Whether a write beyond the end may leave the length without the bytes, as some file systems
    /// do. It may by default.
    pub const fn lengths(mut self, apart: bool) -> Self {
        self.lengths = apart;
        self
    }

    /// How many states are remembered, so that none comes twice: 8 bytes each. Beyond that, all are
    /// forgotten, and some may come again.
    pub const fn remembered(mut self, states: usize) -> Self {
        self.remembered = if states > 0 { states } else { 1 };
        self
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self::new()
    }
}
