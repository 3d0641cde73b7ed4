//! Rows and their verdicts: a table for people, then a line a row for machines.
//!
//! The machine's lines are `RATIO <id> <value> <= or >= <bound> ok|MISS`, and
//! `RATIO <id> - <= or >= <bound> SKIP` for a row that this machine or this build
//! cannot measure. A row whose measurement failed is a MISS with `-` for its value.

use std::fmt;
use std::io::{self, Write};

use crate::harness::{Nanos, Ratio};
use crate::stats::{Spread, median};

/// What a figure must not exceed, or not fall below.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    /// No number keeps no bound.
    fn kept_by(self, value: f64) -> bool {
        match self {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Bound::AtMost(bound) => format!("<= {bound}"),
            Bound::AtLeast(bound) => format!(">= {bound}"),
        };
        f.pad(&text)
    }
}

/// A claim that a bench must show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) bound: Bound,
}

impl Row {
    pub(crate) const fn at_most(id: &'static str, bound: f64) -> Row {
        Row {
            id,
            bound: Bound::AtMost(bound),
        }
    }

    pub(crate) const fn at_least(id: &'static str, bound: f64) -> Row {
        Row {
            id,
            bound: Bound::AtLeast(bound),
        }
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Value(f64),
    Skipped,
    Failed,
}

/// What was measured, as shown to people.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) ours: String,
    pub(crate) peer: String,
    pub(crate) ratio: Spread,
}

impl Shown {
    /// How even the threads' counts were in each run. The figure is ours alone: a bound is on the
    /// evenness, not on a ratio to the peer's.
    pub(crate) fn evenness(ours: &[f64], peer: &[f64]) -> Shown {
        let ratio = Spread::of(ours);
        Shown {
            ours: format!("{:.3}", ratio.median),
            peer: format!("{:.3}", median(peer)),
            ratio,
        }
    }
}

impl Shown {
    /// Both figures as `show` shows them.
    pub(crate) fn by(ratio: &Ratio, show: impl Fn(f64) -> String) -> Shown {
        Shown {
            ours: show(ratio.ours),
            peer: show(ratio.peer),
            ratio: ratio.ratio,
        }
    }

    /// How many times the cost of ours, the second side of `ratio`, the first one's cost is.
    pub(crate) fn gain(ratio: Ratio) -> Shown {
        Shown {
            ours: Nanos(ratio.peer).to_string(),
            peer: Nanos(ratio.ours).to_string(),
            ratio: ratio.ratio,
        }
    }
}

/// A ratio of two costs in nanoseconds.
impl From<Ratio> for Shown {
    fn from(ratio: Ratio) -> Shown {
        Shown::by(&ratio, |cost| Nanos(cost).to_string())
    }
}

/// The machine's line of a row.
fn line(row: Row, outcome: Outcome) -> String {
    let Row { id, bound } = row;
    match outcome {
        Outcome::Value(value) => {
            let verdict = if bound.kept_by(value) { "ok" } else { "MISS" };
            format!("RATIO {id} {value:.4} {bound} {verdict}")
        }
        Outcome::Skipped => format!("RATIO {id} - {bound} SKIP"),
        Outcome::Failed => format!("RATIO {id} - {bound} MISS"),
    }
}

/// The table of one run. What is known is printed at once; `finish` prints the machine's lines.
#[derive(Debug)]
pub(crate) struct Report<W = io::Stdout> {
    out: W,
    done: Vec<(Row, Outcome)>,
}

impl<W: Write> Report<W> {
    pub(crate) fn new(mut out: W) -> io::Result<Report<W>> {
        writeln!(
            out,
            "{:<32} {:>14} {:>14} {:>9}  {:<19} {:>8}",
            "row", "latchwork", "peer", "ratio", "quartiles", "bound"
        )?;
        Ok(Report {
            out,
            done: Vec::new(),
        })
    }

    /// A judged row.
    pub(crate) fn row(&mut self, row: Row, shown: &Shown) -> io::Result<()> {
        let value = shown.ratio.median;
        let verdict = if row.bound.kept_by(value) {
            "ok"
        } else {
            "MISS"
        };
        self.show(row.id, shown, &format!("{:>8}  {verdict}", row.bound))?;
        self.done.push((row, Outcome::Value(value)));
        Ok(())
    }

    /// A line that informs and is not judged.
    pub(crate) fn detail(&mut self, name: &str, shown: &Shown) -> io::Result<()> {
        self.show(&format!("  {name}"), shown, "")
    }

    /// A table that informs and is not judged; its first line is its head. Columns are as wide as
    /// they need be, the first one flush left.
    pub(crate) fn table(&mut self, lines: &[Vec<String>]) -> io::Result<()> {
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        writeln!(self.out)?;
        for line in lines {
            for (column, cell) in line.iter().enumerate() {
                let width = width(column);
                match column {
                    0 => write!(self.out, "  {cell:<width$}")?,
                    _ => write!(self.out, "  {cell:>width$}")?,
                }
            }
            writeln!(self.out)?;
        }
        self.out.flush()
    }

    /// A row that cannot be measured here; `why` says how to enable it.
    pub(crate) fn skip(&mut self, row: Row, why: impl fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{:<32} SKIP: {why}", row.id)?;
        self.done.push((row, Outcome::Skipped));
        Ok(())
    }

    /// A row whose measurement went wrong.
    pub(crate) fn fail(&mut self, row: Row, why: impl fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{:<32} MISS: {why}", row.id)?;
        self.done.push((row, Outcome::Failed));
        Ok(())
    }

    /// Whether `row` has an outcome.
    pub(crate) fn has(&self, row: Row) -> bool {
        self.done.iter().any(|(done, _)| done.id == row.id)
    }

    /// Prints the machine's lines. True if no row missed its bound.
    pub(crate) fn finish(mut self) -> io::Result<bool> {
        writeln!(self.out)?;
        let mut kept = true;
        for (row, outcome) in &self.done {
            let line = line(*row, *outcome);
            kept &= !line.ends_with("MISS");
            writeln!(self.out, "{line}")?;
        }
        self.out.flush()?;
        Ok(kept)
    }

    fn show(&mut self, name: &str, shown: &Shown, rest: &str) -> io::Result<()> {
        let Shown { ours, peer, ratio } = shown;
        let quartiles = format!("[{:.3} .. {:.3}]", ratio.low, ratio.high);
        let text = format!(
            "{name:<32} {ours:>14} {peer:>14} {:>9.3}  {quartiles:<19} {rest}",
            ratio.median
        );
        writeln!(self.out, "{}", text.trim_end())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Row = Row::at_most("a.most", 1.1);
    const LEAST: Row = Row::at_least("a.least", 0.95);

    #[test]
    fn a_machine_line_has_id_value_bound_and_verdict() {
        assert_eq!(
            line(MOST, Outcome::Value(0.5)),
            "RATIO a.most 0.5000 <= 1.1 ok"
        );
        assert_eq!(
            line(MOST, Outcome::Value(1.25)),
            "RATIO a.most 1.2500 <= 1.1 MISS"
        );
        assert_eq!(
            line(LEAST, Outcome::Value(0.96)),
            "RATIO a.least 0.9600 >= 0.95 ok"
        );
        assert_eq!(
            line(LEAST, Outcome::Value(0.9)),
            "RATIO a.least 0.9000 >= 0.95 MISS"
        );
        assert_eq!(
            line(LEAST, Outcome::Skipped),
            "RATIO a.least - >= 0.95 SKIP"
        );
        assert_eq!(line(MOST, Outcome::Failed), "RATIO a.most - <= 1.1 MISS");
    }

    #[test]
    fn the_bound_itself_is_kept_and_no_number_is_not() {
        assert!(line(MOST, Outcome::Value(1.1)).ends_with(" ok"));
        assert!(line(LEAST, Outcome::Value(0.95)).ends_with(" ok"));
        assert!(line(MOST, Outcome::Value(f64::NAN)).ends_with(" MISS"));
        assert!(line(LEAST, Outcome::Value(f64::NAN)).ends_with(" MISS"));
    }

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let mut report = Report::new(Vec::new()).unwrap();
        let line = |cells: [&str; 2]| cells.map(String::from).to_vec();
        report
            .table(&[line(["", "µs"]), line(["ours", "11"])])
            .unwrap();
        let text = String::from_utf8(report.out).unwrap();
        assert!(text.ends_with("\n\n        µs\n  ours  11\n"), "{text:?}");
    }

    #[test]
    fn a_miss_fails_the_run_and_a_skip_does_not() {
        let shown = |median| Shown {
            ours: "1".into(),
            peer: "1".into(),
            ratio: Spread {
                low: 1.0,
                median,
                high: 1.0,
            },
        };
        let mut report = Report::new(Vec::new()).unwrap();
        report.row(MOST, &shown(1.0)).unwrap();
        report.skip(LEAST, "not built").unwrap();
        assert!(report.has(LEAST));
        assert!(report.finish().unwrap());

        let mut report = Report::new(Vec::new()).unwrap();
        report.row(LEAST, &shown(0.5)).unwrap();
        assert!(!report.has(MOST));
        report.row(MOST, &shown(1.0)).unwrap();
        assert!(!report.finish().unwrap());

        let mut report = Report::new(Vec::new()).unwrap();
        report.fail(MOST, "crash").unwrap();
        assert!(!report.finish().unwrap());
    }
}
