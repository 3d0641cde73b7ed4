//! Paired measurement: two sides in one process, their runs interleaved, a ratio a round.
//!
//! A machine drifts: its clock speed, its neighbours, the state of its caches. So no
//! figure compares a run with a run of some other minute. A *round* runs both sides
//! twice, in the order ours-peer-peer-ours or the reverse (chosen by a seeded coin),
//! which cancels any drift that is linear over the round, and yields one ratio. The
//! figure of a row is the median of its rounds' ratios, printed with their quartiles.
//! A round that was disturbed moves the quartiles and not the figure.

use std::convert::Infallible;
use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::stats::{Spread, median, merged};

/// How much to measure, and in which order.
#[derive(Debug)]
pub(crate) struct Effort {
    pub(crate) quick: bool,
    rng: fastrand::Rng,
}

impl Effort {
    pub(crate) fn new(quick: bool, seed: u64) -> Effort {
        Effort {
            quick,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// `quick` under `--quick`, else `full`.
    pub(crate) fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// A time of the seeded sequence.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + (most - least).mul_f64(self.rng.f64())
    }

    /// A fair coin of the seeded sequence.
    pub(crate) fn coin(&mut self) -> bool {
        self.rng.bool()
    }
}

/// Two runs of either side.
#[derive(Debug)]
pub(crate) struct Round<T> {
    pub(crate) ours: [T; 2],
    pub(crate) peer: [T; 2],
}

/// Runs both sides once to warm up, then `rounds` rounds of them.
///
/// # Errors
///
/// The first error of a side; nothing runs after it.
pub(crate) fn interleave<T, E>(
    effort: &mut Effort,
    rounds: usize,
    mut ours: impl FnMut() -> Result<T, E>,
    mut peer: impl FnMut() -> Result<T, E>,
) -> Result<Vec<Round<T>>, E> {
    ours()?;
    peer()?;
    (0..rounds)
        .map(|_| {
            Ok(if effort.coin() {
                let first = ours()?;
                let peer = [peer()?, peer()?];
                Round {
                    ours: [first, ours()?],
                    peer,
                }
            } else {
                let first = peer()?;
                let ours = [ours()?, ours()?];
                Round {
                    ours,
                    peer: [first, peer()?],
                }
            })
        })
        .collect()
}

/// A side of several: its figure, whenever it is run.
pub(crate) type Run<'a, E> = Box<dyn FnMut() -> Result<f64, E> + 'a>;

/// Runs all sides once to warm up, then `rounds` rounds of them: in a seeded order, and then in the
/// reverse one. Each side's means, a round.
///
/// # Errors
///
/// The first error of a side; nothing runs after it.
pub(crate) fn interleave_all<E>(
    effort: &mut Effort,
    rounds: usize,
    sides: &mut [Run<'_, E>],
) -> Result<Vec<Vec<f64>>, E> {
    for side in &mut *sides {
        side()?;
    }
    let mut means = vec![Vec::with_capacity(rounds); sides.len()];
    let mut order: Vec<usize> = (0..sides.len()).collect();
    for _ in 0..rounds {
        effort.rng.shuffle(&mut order);
        let mut sums = vec![0.0; sides.len()];
        for &side in order.iter().chain(order.iter().rev()) {
            sums[side] += sides[side]()?;
        }
        for (means, sum) in means.iter_mut().zip(sums) {
            means.push(sum / 2.0);
        }
    }
    Ok(means)
}

/// Both sides' figures, and what one is over the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    /// Median over the rounds.
    pub(crate) ours: f64,
    /// Median over the rounds.
    pub(crate) peer: f64,
    /// Ours over the peer's, a round.
    pub(crate) ratio: Spread,
}

impl Ratio {
    /// Judges `rounds` by what `figure` makes of the two runs of a side.
    pub(crate) fn of<T>(rounds: &[Round<T>], figure: impl Fn(&[T; 2]) -> f64) -> Ratio {
        let pairs: Vec<(f64, f64)> = rounds
            .iter()
            .map(|round| (figure(&round.ours), figure(&round.peer)))
            .collect();
        Ratio::of_pairs(&pairs)
    }

    /// Judges pairs of figures, ours first.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub(crate) fn of_pairs(pairs: &[(f64, f64)]) -> Ratio {
        let ours: Vec<f64> = pairs.iter().map(|pair| pair.0).collect();
        let peer: Vec<f64> = pairs.iter().map(|pair| pair.1).collect();
        let ratios: Vec<f64> = pairs.iter().map(|(ours, peer)| ours / peer).collect();
        Ratio {
            ours: median(&ours),
            peer: median(&peer),
            ratio: Spread::of(&ratios),
        }
    }
}

/// The mean of a side's two runs.
pub(crate) fn mean(runs: &[f64; 2]) -> f64 {
    (runs[0] + runs[1]) / 2.0
}

/// A side's percentile in a round is that of all times of its two runs.
pub(crate) fn percentile(rounds: &[Round<Histogram<u64>>], percent: f64) -> Ratio {
    Ratio::of(rounds, |runs| {
        merged(runs).value_at_percentile(percent) as f64
    })
}

/// Nanoseconds an operation of two loops on the calling thread: each side is told how
/// many operations to do, and does them.
pub(crate) fn per_op(effort: &mut Effort, ours: impl FnMut(u64), peer: impl FnMut(u64)) -> Ratio {
    let rounds = effort.pick(61, 201);
    per_op_of(rounds, effort, ours, peer)
}

/// The same with a number of rounds of its own.
pub(crate) fn per_op_of(
    rounds: usize,
    effort: &mut Effort,
    mut ours: impl FnMut(u64),
    mut peer: impl FnMut(u64),
) -> Ratio {
    let run = effort.pick(Duration::from_millis(4), Duration::from_millis(10));
    let ours_ops = calibrate(run, &mut ours);
    let peer_ops = calibrate(run, &mut peer);
    let Ok(rounds) = interleave::<_, Infallible>(
        effort,
        rounds,
        || Ok(nanos(time(&mut ours, ours_ops)) / ours_ops as f64),
        || Ok(nanos(time(&mut peer, peer_ops)) / peer_ops as f64),
    );
    Ratio::of(&rounds, mean)
}

/// Nanoseconds an operation of one loop on the calling thread: the median of `runs` runs.
pub(crate) fn cost(effort: &Effort, runs: usize, mut side: impl FnMut(u64)) -> f64 {
    let run = effort.pick(Duration::from_millis(4), Duration::from_millis(10));
    let ops = calibrate(run, &mut side);
    let runs: Vec<f64> = (0..runs)
        .map(|_| nanos(time(&mut side, ops)) / ops as f64)
        .collect();
    median(&runs)
}

/// How many operations take about `run`.
pub(crate) fn calibrate(run: Duration, side: &mut impl FnMut(u64)) -> u64 {
    let mut ops = 1u64;
    loop {
        // The least of three: an interrupted run would end the search too early.
        let took = (0..3).map(|_| time(side, ops)).min().unwrap_or_default();
        if took >= run / 8 {
            return ((ops as f64 * nanos(run) / nanos(took)) as u64).max(1);
        }
        ops *= 2;
    }
}

/// Kept out of line, so that either side's loop is compiled for itself.
#[inline(never)]
fn time(side: &mut impl FnMut(u64), ops: u64) -> Duration {
    let start = Instant::now();
    side(ops);
    start.elapsed()
}

pub(crate) fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

/// Nanoseconds as a reader likes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nanos(pub(crate) f64);

impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.0.abs();
        let (value, unit) = if size < 1e3 {
            (self.0, "ns")
        } else if size < 1e6 {
            (self.0 / 1e3, "µs")
        } else if size < 1e9 {
            (self.0 / 1e6, "ms")
        } else {
            (self.0 / 1e9, "s")
        };
        f.pad(&format!("{value:.2} {unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        let ratio = Ratio::of_pairs(&[(1.0, 1.0), (10.0, 2.0), (9.0, 30.0)]);
        assert_eq!(ratio.ratio.median, 1.0);
        assert_eq!((ratio.ours, ratio.peer), (9.0, 2.0));
    }

    #[test]
    fn a_round_cancels_linear_drift() {
        let clock = std::cell::Cell::new(0.0);
        let tick = || {
            clock.set(clock.get() + 1.0);
            Ok::<f64, Infallible>(clock.get())
        };
        let Ok(rounds) = interleave(&mut Effort::new(true, 1), 100, tick, tick);
        let ratio = Ratio::of(&rounds, mean);
        assert_eq!(
            ratio.ratio,
            Spread {
                low: 1.0,
                median: 1.0,
                high: 1.0
            }
        );
    }

    #[test]
    fn both_orders_occur_and_the_seed_decides_them() {
        let order = |seed| {
            let log = std::cell::RefCell::new(String::new());
            let run = |side| {
                log.borrow_mut().push(side);
                Ok(())
            };
            let Ok(rounds) = interleave::<(), Infallible>(
                &mut Effort::new(true, seed),
                20,
                || run('o'),
                || run('p'),
            );
            assert_eq!(rounds.len(), 20);
            log.into_inner()
        };
        let first = order(7);
        assert_eq!(first, order(7));
        let rounds: Vec<&str> = (2..first.len())
            .step_by(4)
            .map(|at| &first[at..at + 4])
            .collect();
        assert!(
            rounds.iter().all(|round| ["oppo", "poop"].contains(round)),
            "{rounds:?}"
        );
        assert!(
            rounds.contains(&"oppo") && rounds.contains(&"poop"),
            "{rounds:?}"
        );
    }

    #[test]
    fn a_round_of_several_sides_cancels_linear_drift() {
        let clock = std::cell::Cell::new(0.0);
        let tick = || {
            clock.set(clock.get() + 1.0);
            Ok::<f64, Infallible>(clock.get())
        };
        let mut sides: [Run<'_, _>; 3] = [Box::new(tick), Box::new(tick), Box::new(tick)];
        let Ok(means) = interleave_all(&mut Effort::new(true, 1), 50, &mut sides);
        assert_eq!(means[0].len(), 50);
        assert_eq!(means[0], means[1]);
        assert_eq!(means[0], means[2]);
    }

    #[test]
    fn nothing_runs_after_an_error() {
        let mut runs = 0;
        let mut ours = || {
            runs += 1;
            if runs < 3 { Ok(()) } else { Err("broken") }
        };
        let outcome = interleave(&mut Effort::new(true, 1), 100, &mut ours, || Ok(()));
        assert_eq!(outcome.unwrap_err(), "broken");
        assert_eq!(runs, 3);
    }

    #[test]
    fn calibration_asks_for_at_least_one_operation() {
        let mut slow = |_| std::thread::sleep(Duration::from_millis(2));
        assert_eq!(calibrate(Duration::from_millis(1), &mut slow), 1);
    }

    #[test]
    fn nanos_choose_their_unit() {
        assert_eq!(Nanos(12.345).to_string(), "12.35 ns");
        assert_eq!(Nanos(-1_500.0).to_string(), "-1.50 µs");
        assert_eq!(Nanos(2.5e6).to_string(), "2.50 ms");
        assert_eq!(Nanos(2.5e9).to_string(), "2.50 s");
        assert_eq!(format!("{:>10}", Nanos(1.0)), "   1.00 ns");
    }
}
