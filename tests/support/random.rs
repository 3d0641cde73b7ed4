//! Random numbers for tests that can be repeated: SplitMix64, the seed printed and settable.

#![allow(dead_code)] // Each test program uses a part.

mod seed;

/// A generator of random numbers.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Seeded with `LATCHWORK_SEED` if that is set, otherwise with the time. Prints the seed, which
    /// a failing test shows.
    pub(crate) fn new(test: &str) -> Self {
        let seed = seed::seed();
        println!("{test}: LATCHWORK_SEED={seed}");
        Self(seed)
    }

    /// The generator that `LATCHWORK_SEED=seed` makes.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// What to seed another one with for the same numbers from here on.
    pub(crate) fn seed(&self) -> u64 {
        self.0
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `limit`, `limit` excluded.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
