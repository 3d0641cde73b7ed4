//! Which parts of a number of changes to keep.
//!
//! All of them where that is few enough. Otherwise each beginning, the small subsets with their
//! complements, and random ones of every density: a fair coin for each change would hardly ever
//! keep nearly all or nearly none.

use super::bounds::Bounds;

/// An iterator over subsets, each as what is kept.
#[derive(Debug)]
pub(super) struct Subsets {
    changes: usize,
    next: Step,
    subset_size: usize,
    samples: usize,
    random: u64,
}

#[derive(Debug)]
enum Step {
    /// Of all subsets, the next as the bits of a number.
    Exhaustive(u64),
    /// So many from the beginning.
    Beginning(usize),
    /// These are kept, or lost.
    Small {
        chosen: Vec<usize>,
        kept: bool,
    },
    Random(usize),
}

impl Subsets {
    /// All subsets of a few changes.
    pub(super) fn all(changes: usize) -> Self {
        Self {
            changes,
            next: Step::Exhaustive(0),
            subset_size: 0,
            samples: 0,
            random: 0,
        }
    }

    pub(super) fn new(changes: usize, bounds: &Bounds, seed: u64) -> Self {
        if changes <= bounds.exhaustive {
            return Self::all(changes);
        }
        Self {
            changes,
            next: Step::Beginning(0),
            subset_size: bounds.subset_size.min(changes),
            samples: bounds.samples,
            random: seed,
        }
    }

    /// The splitmix64 generator.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.random;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    /// A subset that keeps each change with the same chance, itself drawn first.
    fn draw(&mut self) -> Vec<bool> {
        const CHANCES: [u64; 5] = [16, 64, 128, 192, 240];
        let chance = CHANCES[(self.random() % CHANCES.len() as u64) as usize];
        (0..self.changes)
            .map(|_| self.random() % 256 < chance)
            .collect()
    }

    /// The subset of as many, or of one more, that comes next in order; none after the last.
    fn after(&self, mut chosen: Vec<usize>) -> Option<Vec<usize>> {
        let size = chosen.len();
        for place in (0..size).rev() {
            if chosen[place] + (size - place) < self.changes {
                let first = chosen[place] + 1;
                for (later, chosen) in chosen[place..].iter_mut().enumerate() {
                    *chosen = first + later;
                }
                return Some(chosen);
            }
        }
        (size < self.subset_size).then(|| (0..=size).collect())
    }
}

impl Iterator for Subsets {
    type Item = Vec<bool>;

    fn next(&mut self) -> Option<Vec<bool>> {
        loop {
            match &mut self.next {
                Step::Exhaustive(bits) => {
                    let bits = std::mem::replace(bits, *bits + 1);
                    if bits >> self.changes != 0 {
                        return None;
                    }
                    return Some((0..self.changes).map(|bit| bits >> bit & 1 == 1).collect());
                }
                Step::Beginning(count) if *count <= self.changes => {
                    *count += 1;
                    let count = *count - 1;
                    return Some((0..self.changes).map(|place| place < count).collect());
                }
                // None and all were beginnings.
                Step::Beginning(_) => {
                    self.next = match self.after(Vec::new()) {
                        Some(chosen) => Step::Small { chosen, kept: true },
                        None => Step::Random(0),
                    };
                }
                Step::Small { chosen, kept } => {
                    let (chosen, kept) = (std::mem::take(chosen), *kept);
                    let mut subset = vec![!kept; self.changes];
                    for &place in &chosen {
                        subset[place] = kept;
                    }
                    self.next = if kept {
                        Step::Small {
                            chosen,
                            kept: false,
                        }
                    } else {
                        match self.after(chosen) {
                            Some(chosen) => Step::Small { chosen, kept: true },
                            None => Step::Random(0),
                        }
                    };
                    return Some(subset);
                }
                Step::Random(drawn) => {
                    if *drawn == self.samples {
                        return None;
                    }
                    *drawn += 1;
                    return Some(self.draw());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn of_few_changes_each_subset_comes_once() {
        for changes in 0..6 {
            let all: Vec<_> = Subsets::new(changes, &Bounds::new(), 0).collect();
            assert_eq!(all.len(), 1 << changes);
            let distinct: BTreeSet<_> = all.into_iter().collect();
            assert_eq!(distinct.len(), 1 << changes);
        }
    }

    #[test]
    fn of_many_changes_all_small_subsets_come_with_their_complements() {
        let bounds = Bounds::new().exhaustive(0).samples(0);
        let changes = 9;
        let found: BTreeSet<Vec<bool>> = Subsets::new(changes, &bounds, 0).collect();
        for bits in 0_u32..1 << changes {
            let subset: Vec<bool> = (0..changes).map(|bit| bits >> bit & 1 == 1).collect();
            let kept = bits.count_ones() as usize;
            let begins = bits & (bits + 1) == 0;
            let expected = kept <= 2 || kept + 2 >= changes || begins;
            assert_eq!(found.contains(&subset), expected, "{subset:?}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let draw = |seed| -> Vec<_> {
            let bounds = Bounds::new().subset_size(0).samples(50);
            Subsets::new(40, &bounds, seed).collect()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1).len(), 41 + 50);
    }
}
