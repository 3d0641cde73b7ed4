//! How a check ended, and tables of such ends.

use std::fmt;
use std::time::Duration;

use anyhow::Result;

/// How a check that did not fail ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Passed,
    /// What it would have checked, or the tool for it, is not there.
    Skipped(String),
}

pub(crate) fn skipped(why: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Skipped(why.into()))
}

/// A check of our own (no program's exit status) found something.
#[derive(Debug)]
pub(crate) struct CheckFailed(String);

impl fmt::Display for CheckFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CheckFailed {}

pub(crate) fn failed(what: impl Into<String>) -> anyhow::Error {
    CheckFailed(what.into()).into()
}

/// `1 model`, `2 models`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

pub(crate) fn seconds(elapsed: Duration) -> String {
    format!("{:.1} s", elapsed.as_secs_f64())
}

/// Prints rows in aligned columns; the last column is not padded.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: &[&str]| {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                line.push_str("  ");
            }
            line.push_str(cell);
            if index + 1 < cells.len() {
                line.extend(std::iter::repeat_n(
                    ' ',
                    widths[index].saturating_sub(cell.chars().count()),
                ));
            }
        }
        println!("  {}", line.trim_end());
    };
    print(header);
    for row in rows {
        print(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
