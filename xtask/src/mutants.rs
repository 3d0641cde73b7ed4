//! `loom-tests/mutants.txt` and `pipelines.txt`: which model must find which seeded bug.
//!
//! A line is `<mutant> <test-binary> <test> [hang] # the bug`; empty lines and lines that begin
//! with `#` are comments. Several lines may name one mutant: one of their models must fail.
//! `hang` says that the bug is a hang, so that a killed run counts as caught.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;

use crate::report::failed;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seeded {
    pub(crate) mutant: String,
    pub(crate) model: Model,
    pub(crate) may_hang: bool,
    pub(crate) bug: String,
}

/// One `#[test]` of one test binary.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Model {
    pub(crate) binary: String,
    pub(crate) test: String,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.binary, self.test)
    }
}

/// Reads the whole file; the error names every bad line.
pub(crate) fn parse(text: &str) -> Result<Vec<Seeded>> {
    let mut lines = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        match parse_line(line) {
            Ok(None) => {}
            Ok(Some(seeded)) => {
                let same =
                    |other: &Seeded| other.mutant == seeded.mutant && other.model == seeded.model;
                if lines.iter().any(same) {
                    errors.push(format!(
                        "line {}: `{} {}` stands twice",
                        index + 1,
                        seeded.mutant,
                        seeded.model
                    ));
                }
                lines.push(seeded);
            }
            Err(what) => errors.push(format!("line {}: {what}", index + 1)),
        }
    }
    if errors.is_empty() {
        Ok(lines)
    } else {
        Err(failed(format!(
            "loom-tests/mutants.txt: {}",
            errors.join("; ")
        )))
    }
}

fn parse_line(line: &str) -> Result<Option<Seeded>, String> {
    let (words, bug) = match line.split_once('#') {
        Some((words, bug)) => (words, bug.trim()),
        None => (line, ""),
    };
    let words: Vec<&str> = words.split_whitespace().collect();
    let (mutant, binary, test, may_hang) = match words.as_slice() {
        [] => return Ok(None),
        [mutant, binary, test] => (mutant, binary, test, false),
        [mutant, binary, test, "hang"] => (mutant, binary, test, true),
        _ => return Err("want `<mutant> <test-binary> <test> [hang] # the bug`".to_owned()),
    };
    if bug.is_empty() {
        return Err("the bug is not told: `… # the bug`".to_owned());
    }
    Ok(Some(Seeded {
        mutant: (*mutant).to_owned(),
        model: Model {
            binary: (*binary).to_owned(),
            test: (*test).to_owned(),
        },
        may_hang,
        bug: bug.to_owned(),
    }))
}

/// What does not fit together between the file, the models that exist, and the mutants that the
/// library's source asks for; `elsewhere` are mutants that another command checks.
pub(crate) fn mismatches(
    seeded: &[Seeded],
    models: &[Model],
    in_source: &[String],
    elsewhere: &[&str],
) -> Vec<String> {
    let mut found = BTreeSet::new();
    for line in seeded {
        if !models.contains(&line.model) {
            found.insert(format!(
                "mutants.txt names the model {}, which does not exist",
                line.model
            ));
        }
        if !in_source.contains(&line.mutant) {
            found.insert(format!(
                "mutants.txt names the mutant {}, which no `mutant::enabled(…)` in src/ asks for",
                line.mutant
            ));
        }
    }
    for model in models {
        if !seeded.iter().any(|line| line.model == *model) {
            found.insert(format!(
                "the model {model} has no mutant: a model that cannot fail proves nothing"
            ));
        }
    }
    for mutant in in_source {
        if !seeded.iter().any(|line| line.mutant == *mutant)
            && !elsewhere.contains(&mutant.as_str())
        {
            found.insert(format!(
                "the mutant {mutant} in src/ has no line in mutants.txt"
            ));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(binary: &str, test: &str) -> Model {
        Model {
            binary: binary.to_owned(),
            test: test.to_owned(),
        }
    }

    #[test]
    fn lines_comments_and_the_hang_mark_are_read() {
        let text = "# all of them\n\n  lost-wake semaphore hand_off # the wake is dropped\n\
                    lost-wake latch a::b hang # and # nobody comes\n";
        let lines = parse(text).expect("well formed");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].mutant, "lost-wake");
        assert_eq!(lines[0].model, model("semaphore", "hand_off"));
        assert_eq!(
            (lines[0].may_hang, lines[0].bug.as_str()),
            (false, "the wake is dropped")
        );
        assert_eq!(lines[1].model, model("latch", "a::b"));
        assert_eq!(
            (lines[1].may_hang, lines[1].bug.as_str()),
            (true, "and # nobody comes")
        );
    }

    #[test]
    fn every_bad_line_is_named() {
        let text = "a b # too short\na b c\na b c d # what is d\na b c # fine\na b c # again\n";
        let error = parse(text).expect_err("four bad lines").to_string();
        for line in [
            "line 1:",
            "line 2: the bug",
            "line 3:",
            "line 5: `a b::c` stands twice",
        ] {
            assert!(error.contains(line), "{line} in {error}");
        }
        assert!(!error.contains("line 4"), "{error}");
    }

    #[test]
    fn what_does_not_fit_together_is_found() {
        let seeded = parse("m1 bin one # x\nm2 bin gone # x\n").expect("well formed");
        let models = [model("bin", "one"), model("bin", "lonely")];
        let source = ["m1".to_owned(), "m3".to_owned(), "tsan-only".to_owned()];
        let found = mismatches(&seeded, &models, &source, &["tsan-only"]);
        assert_eq!(found.len(), 4, "{found:?}");
        for part in [
            "bin::gone, which",
            "mutant m2, which",
            "bin::lonely has no",
            "mutant m3 in src/",
        ] {
            assert!(
                found.iter().any(|line| line.contains(part)),
                "{part} in {found:?}"
            );
        }
    }

    #[test]
    fn a_file_that_fits_has_nothing_to_complain_about() {
        let seeded = parse("m bin one # x\nm bin two # x\n").expect("well formed");
        let models = [model("bin", "one"), model("bin", "two")];
        assert_eq!(
            mismatches(&seeded, &models, &["m".to_owned()], &[]),
            [""; 0]
        );
    }
}
