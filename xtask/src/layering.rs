//! The layering check: who may name and import whom in `src/`.
//!
//! Works on the tokens of each file ([`scan`]), so comments and strings do not count. The rules
//! are the tables below; a new room of the house needs a line in [`FLOORS`].

mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::report::{Outcome, count, failed};
use crate::workspace::Workspace;
use scan::{Mention, Source};

/// What each floor of the house holds, from the ground up. `lib.rs` is the table of contents and
/// stands on none.
const FLOORS: &[&[&str]] = &[
    &["sync", "os"],
    &["error", "waiter", "holder", "sweeper", "worker", "wal"],
    COMPONENTS,
    // What users model their own code with: it may re-export anything, and nothing imports it.
    &["model"],
];

const COMPONENTS: &[&str] = &[
    "semaphore",
    "latch",
    "rmw",
    "flush",
    "save",
    "balance",
    "map",
];

/// The only imports of one component by another.
const BETWEEN_COMPONENTS: &[(&str, &str)] = &[
    ("rmw", "latch"),
    ("flush", "semaphore"),
    ("save", "semaphore"),
];

/// The files that may allow `unsafe_code`: a file, or a directory with everything in it. The cores
/// promise, in one `unsafe impl` each, that a core with claims on it is not idle.
const UNSAFE_LEAVES: &[&str] = &[
    "os/",
    "sync/",
    "holder/",
    "semaphore/core.rs",
    "semaphore/shared/control.rs",
    "semaphore/shared/core.rs",
    "latch/core.rs",
    "latch/operation.rs",
    "latch/submission.rs",
    "waiter/ticket/slot.rs",
];

/// The files that may tell the model's world from the native one.
const KNOW_THE_MODEL: &[&str] = &[
    "lib.rs",
    "sync.rs",
    "sync/",
    "model.rs",
    "model/",
    "os.rs",
    "os/shared.rs",
];

const LINES_ALLOWED: usize = 700;
const LINES_WANTED: usize = 600;

/// Names that only some rooms may use, as beginnings of paths.
struct Reserved {
    rooms: &'static [&'static str],
    paths: &'static [&'static [&'static str]],
    rule: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        rooms: &["sync"],
        paths: &[
            &["std", "sync"],
            &["std", "thread"],
            &["std", "thread_local"],
            &["core", "sync"],
            &["alloc", "sync"],
            &["parking_lot"],
            &["parking_lot_core"],
            &["crossbeam"],
            &["crossbeam_channel"],
            &["crossbeam_epoch"],
            &["crossbeam_queue"],
            &["crossbeam_utils"],
            &["atomic_wait"],
            &["loom"],
        ],
        rule: "only sync.rs and sync/ name std::sync, std::thread, parking_lot, crossbeam, atomic_wait and loom: \
               take it from crate::sync",
    },
    Reserved {
        rooms: &["os"],
        paths: &[&["rustix"], &["memmap2"], &["libc"]],
        rule: "only os.rs and os/ name rustix, memmap2 and libc: take it from crate::os",
    },
];

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    file: PathBuf,
    line: usize,
    what: String,
    /// Printed, but no failure.
    warning: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.warning { "warning" } else { "error" };
        write!(
            f,
            "{level}: src/{}:{}: {}",
            self.file.display(),
            self.line,
            self.what
        )
    }
}

pub(crate) fn run(workspace: &Workspace) -> Result<Outcome> {
    let sources = read_sources(&workspace.root.join("src"))?;
    let violations = check(&sources);
    for violation in &violations {
        println!("{violation}");
    }
    match violations
        .iter()
        .filter(|violation| !violation.warning)
        .count()
    {
        0 => {
            println!("{} keep the floors", count(sources.len(), "file"));
            Ok(Outcome::Passed)
        }
        errors => Err(failed(format!(
            "{} of the layering (rules: xtask/src/layering.rs)",
            count(errors, "violation")
        ))),
    }
}

/// The names of the mutants that the library's sources ask for: `mutant::enabled("name")`.
pub(crate) fn mutants_in_source(workspace: &Workspace) -> Result<Vec<String>> {
    let mut names: Vec<String> = read_sources(&workspace.root.join("src"))?
        .iter()
        .flat_map(Source::mutants)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

fn read_sources(directory: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in next
            .read_dir()
            .with_context(|| format!("cannot list {}", next.display()))?
        {
            let path = entry
                .with_context(|| format!("cannot list {}", next.display()))?
                .path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let relative = path.strip_prefix(directory).unwrap_or(&path);
                sources.push(
                    Source::parse(relative, &text).with_context(|| path.display().to_string())?,
                );
            }
        }
    }
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(sources)
}

fn check(sources: &[Source]) -> Vec<Violation> {
    let contents = sources
        .iter()
        .find(|source| source.file == Path::new("lib.rs"));
    let exports = contents.map(Source::exports).unwrap_or_default();
    let mut violations: Vec<Violation> = sources
        .iter()
        .flat_map(|source| check_file(source, &exports))
        .collect();
    violations.sort();
    violations.dedup();
    violations
}

/// `exports` says in which room the name lives that `lib.rs` re-exports.
fn check_file(source: &Source, exports: &[(String, String)]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut report = |line: usize, what: String, warning: bool| {
        found.push(Violation {
            file: source.file.clone(),
            line,
            what,
            warning,
        });
    };

    if source.lines > LINES_ALLOWED {
        report(
            source.lines,
            format!("a file has at most {LINES_ALLOWED} lines: split it by nouns"),
            false,
        );
    } else if source.lines > LINES_WANTED {
        report(
            source.lines,
            format!("a file should stay below {LINES_WANTED} lines"),
            true,
        );
    }
    if !is_one_of(&source.file, KNOW_THE_MODEL) {
        for &line in &source.model_cfgs {
            report(
                line,
                "latchwork_loom is known only to lib.rs, sync, model, os.rs and os/shared.rs"
                    .to_owned(),
                false,
            );
        }
    }
    if !is_one_of(&source.file, UNSAFE_LEAVES) {
        for &line in &source.unsafe_allowed {
            report(
                line,
                "unsafe_code is allowed only in the leaves that xtask/src/layering.rs lists in UNSAFE_LEAVES".to_owned(),
                false,
            );
        }
    }

    let room = source.room();
    let floor = room.and_then(floor_of);
    if let (Some(room), None) = (room, floor) {
        report(
            1,
            format!(
                "the room `{room}` stands on no floor: add it to FLOORS in xtask/src/layering.rs"
            ),
            false,
        );
    }
    for mention in &source.mentions {
        for reserved in RESERVED {
            if reserved.rooms.contains(&room.unwrap_or("lib")) {
                continue;
            }
            if reserved.paths.iter().any(|path| mention.names(path)) {
                report(mention.line, format!("{mention}: {}", reserved.rule), false);
            }
        }
        if mention.hides_std() {
            report(
                mention.line,
                format!("{mention}: import what is used, so that this check can see it"),
                false,
            );
        }
        let (Some(room), Some(floor)) = (room, floor) else {
            continue;
        };
        for target in targets(mention, exports) {
            if let Err(rule) = may_import(room, floor, &target) {
                report(mention.line, format!("{mention}: {rule}"), false);
            }
        }
    }
    found
}

/// The rooms that a path into the crate reaches.
fn targets(mention: &Mention, exports: &[(String, String)]) -> Vec<String> {
    let Some(first) = mention.in_crate() else {
        return Vec::new();
    };
    if floor_of(first).is_some() {
        return vec![first.to_owned()];
    }
    let exported = exports
        .iter()
        .filter(|(name, _)| name == first || first == "*" || first == "self");
    exported.map(|(_, room)| room.clone()).collect()
}

fn may_import(room: &str, floor: usize, target: &str) -> Result<(), String> {
    let Some(below) = floor_of(target) else {
        return Ok(());
    };
    if room == target {
        Ok(())
    } else if below > floor {
        Err(format!(
            "`{room}` stands below `{target}`: no import runs upwards"
        ))
    } else if COMPONENTS.contains(&room)
        && COMPONENTS.contains(&target)
        && !BETWEEN_COMPONENTS.contains(&(room, target))
    {
        Err(format!(
            "the component `{room}` may not import the component `{target}`"
        ))
    } else {
        Ok(())
    }
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

fn is_one_of(file: &Path, listed: &[&str]) -> bool {
    let file = file.to_string_lossy();
    listed.iter().any(|entry| {
        if entry.ends_with('/') {
            file.starts_with(entry)
        } else {
            file == *entry
        }
    })
}
