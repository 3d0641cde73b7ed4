//! The arithmetic of samples: quartiles, the spread that a figure is printed with, and
//! histograms of times.
//!
//! Quartiles interpolate linearly between the two nearest samples, so that the
//! median of an even number of samples is the mean of the middle two.

use std::time::Duration;

use hdrhistogram::Histogram;

/// The quartiles of some samples; the middle one is the figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) low: f64,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// The quartiles of `samples`, in any order.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub(crate) fn of(samples: &[f64]) -> Spread {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Spread {
            low: quantile(&sorted, 0.25),
            median: quantile(&sorted, 0.5),
            high: quantile(&sorted, 0.75),
        }
    }
}

/// The median of `samples`, in any order.
pub(crate) fn median(samples: &[f64]) -> f64 {
    Spread::of(samples).median
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    assert!(!sorted.is_empty(), "a quantile needs a sample");
    let place = q * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    // Equal neighbours are returned as they are: infinity minus infinity is no number.
    if below == above {
        below
    } else {
        below + (above - below) * place.fract()
    }
}

/// An empty histogram of nanoseconds: one to a minute, to a thousandth of the value.
pub(crate) fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

pub(crate) fn record(times: &mut Histogram<u64>, time: Duration) {
    times.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}

/// What all of some histograms made by `times` hold.
pub(crate) fn merged<'a>(parts: impl IntoIterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut all = times();
    for part in parts {
        all.add(part).expect("the histograms have the same bounds");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_histogram_holds_what_its_parts_held() {
        let mut parts = [times(), times()];
        for nanos in 1..=100 {
            record(&mut parts[nanos as usize % 2], Duration::from_nanos(nanos));
        }
        record(&mut parts[0], Duration::MAX);
        let all = merged(&parts);
        assert_eq!(all.len(), 101);
        assert_eq!(all.value_at_percentile(50.0), 51);
        assert!(all.max() >= 60_000_000_000);
    }

    #[test]
    fn odd_counts_have_the_middle_sample_as_median() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn even_counts_have_the_mean_of_the_middle_two_as_median() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }

    #[test]
    fn quartiles_interpolate_between_neighbours() {
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(
            spread,
            Spread {
                low: 1.75,
                median: 2.5,
                high: 3.25
            }
        );
        let spread = Spread::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(
            spread,
            Spread {
                low: 2.0,
                median: 3.0,
                high: 4.0
            }
        );
    }

    #[test]
    fn one_wild_sample_does_not_move_the_median() {
        assert_eq!(median(&[1.0, 1.0, 1.0, 1.0, f64::INFINITY]), 1.0);
    }

    #[test]
    fn infinite_samples_stay_infinite() {
        assert_eq!(median(&[f64::INFINITY, f64::INFINITY]), f64::INFINITY);
    }
}
