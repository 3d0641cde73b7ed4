//! `cargo xtask loom`: the models, and with `--mutants` the bugs that they must find. `cargo xtask
//! shuttle` does the same with those of whole pipelines, whose schedules are drawn.
//!
//! Everything is built once, with the mutants in it: a mutant is chosen by the environment
//! variable `LATCHWORK_MUTANT` at run time, and none is without it. Each model runs in a process
//! of its own, two at a time.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::layering;
use crate::mutants::{self, Model, Seeded};
use crate::process::{Captured, Exit, Program};
use crate::report::{Outcome, count, failed, seconds, skipped, table};
use crate::sanitize;
use crate::workspace::{TestBinary, Workspace, rust_files};

/// A checker, and what belongs to it.
pub(crate) struct World {
    command: &'static str,
    rustflags: &'static str,
    /// What cargo is told to build.
    tests: &'static str,
    mutants_file: &'static str,
    /// Whether the file has a line for every mutant of the source.
    is_whole: bool,
}

pub(crate) const LOOM: World = World {
    command: "loom",
    rustflags: "--cfg latchwork_loom --cfg latchwork_mutants",
    tests: "test --release -p latchwork-loom-tests",
    mutants_file: "loom-tests/mutants.txt",
    is_whole: true,
};

pub(crate) const SHUTTLE: World = World {
    command: "shuttle",
    rustflags: "--cfg latchwork_loom --cfg latchwork_shuttle --cfg latchwork_mutants",
    tests: "test --release -p latchwork-loom-tests --test pipelines",
    mutants_file: "loom-tests/pipelines.txt",
    is_whole: false,
};

/// Schedules of each kind that shuttle draws: in CI, and with `--deep`.
const RUNS: [u32; 2] = [1000, 50_000];
/// As many for a bug that must be found. The first schedule that finds it is the last.
const MUTANT_RUNS: u32 = 50_000;
const PARALLEL: usize = 2;
/// A model at bound 2 that takes longer has too many threads or operations for CI.
const MODEL_LIMIT: Duration = Duration::from_secs(600);
const MUTANT_LIMIT: Duration = Duration::from_secs(120);

impl World {
    /// A cargo command in it.
    fn cargo(&self, workspace: &Workspace) -> Program {
        Program::cargo().env("RUSTFLAGS", self.rustflags).env(
            "CARGO_TARGET_DIR",
            workspace.target.join(self.command).to_string_lossy(),
        )
    }
}

/// Clippy over what is only compiled in the models' worlds.
pub(crate) fn clippy(workspace: &Workspace) -> Result<()> {
    for world in [LOOM, SHUTTLE] {
        world
            .cargo(workspace)
            .words("clippy -p latchwork-loom-tests --all-targets -- -D warnings")
            .run()?;
    }
    Ok(())
}

/// What is run, and how much of it is told.
#[derive(Clone, Copy, Default)]
pub(crate) struct Request<'a> {
    /// Models and mutants whose name contains this.
    pub(crate) name: Option<&'a str>,
    pub(crate) deep: bool,
    pub(crate) mutants: bool,
    /// A line for all that is as it must be, instead of one for each.
    pub(crate) brief: bool,
}

pub(crate) fn run(workspace: &Workspace, world: &World, request: Request<'_>) -> Result<Outcome> {
    let Request { name, deep, .. } = request;
    if rust_files(&workspace.root.join("loom-tests/tests")).is_empty() {
        return skipped("loom-tests/tests holds no models yet");
    }
    if let Some(name) = name {
        may_exist(workspace, world, name)?;
    }
    let bound = if deep { 3 } else { 2 };
    let binaries = workspace.build_tests(
        // Release, or the search takes minutes; what a debug build would assert is not in the way.
        world
            .cargo(workspace)
            .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "false")
            .words(world.tests),
    )?;
    let mut models = Vec::new();
    for binary in &binaries {
        for test in binary.tests()? {
            models.push(Model {
                binary: binary.name.clone(),
                test,
            });
        }
    }

    let mut seeded = Vec::new();
    if request.mutants {
        let name = world.mutants_file;
        let file = workspace.root.join(name);
        if file.exists() {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
            seeded = mutants::parse(&text)?;
            let mut in_source = layering::mutants_in_source(workspace)?;
            if !world.is_whole {
                in_source.retain(|mutant| seeded.iter().any(|line| line.mutant == *mutant));
            }
            let wrong = mutants::mismatches(&seeded, &models, &in_source, &sanitize::mutants());
            if !wrong.is_empty() {
                return Err(failed(format!("{name}:\n  {}", wrong.join("\n  "))));
            }
        } else {
            println!("SKIP the mutants: there is no {name} yet");
        }
    }

    let runner = Runner {
        world,
        binaries: &binaries,
        bound,
        request,
    };
    let selected = |text: &str| name.is_none_or(|name| text.contains(name));
    let chosen: Vec<Model> = models
        .iter()
        .filter(|model| {
            let mutants = seeded.iter().filter(|line| line.model == **model);
            selected(&model.to_string()) || mutants.into_iter().any(|line| selected(&line.mutant))
        })
        .cloned()
        .collect();
    if chosen.is_empty() {
        bail!("no model matches; there are: {}", list(&models));
    }
    println!(
        "{} at {}",
        count(chosen.len(), "model"),
        match world.is_whole {
            true => format!("preemption bound {bound}"),
            false => format!("{} schedules of each kind", RUNS[usize::from(deep)]),
        }
    );
    let mut problems = runner.models(&chosen)?;
    if request.mutants {
        let lines: Vec<Seeded> = seeded
            .iter()
            .filter(|line| chosen.contains(&line.model))
            .cloned()
            .collect();
        if !lines.is_empty() {
            println!("{} of bugs that must be found", count(lines.len(), "line"));
            problems.extend(runner.mutants(&lines, &seeded)?);
        }
    }
    if problems.is_empty() {
        Ok(Outcome::Passed)
    } else {
        Err(failed(problems.join("\n  ")))
    }
}

/// Whether a model or a seeded bug could have this in its name, as far as that shows before
/// anything is built.
fn may_exist(workspace: &Workspace, world: &World, name: &str) -> Result<()> {
    let mutants = std::fs::read_to_string(workspace.root.join(world.mutants_file));
    if mutants.is_ok_and(|text| text.contains(name)) {
        return Ok(());
    }
    let function_name = name.rsplit("::").next().unwrap_or(name);
    let directory = workspace.root.join("loom-tests/tests");
    let mut programs = rust_files(&directory);
    if !world.is_whole {
        programs.retain(|program| world.tests.ends_with(program));
    }
    for program in &programs {
        let path = directory.join(program).with_extension("rs");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut functions = text
            .split("fn ")
            .skip(1)
            .filter_map(|rest| rest.split('(').next());
        if functions.any(|function| format!("{program}::{function}").contains(function_name)) {
            return Ok(());
        }
    }
    bail!(
        "no model has `{name}` in its name; there are those of {}",
        programs.join(", ")
    )
}

struct Runner<'a> {
    world: &'a World,
    binaries: &'a [TestBinary],
    bound: u32,
    request: Request<'a>,
}

impl Runner<'_> {
    fn model(
        &self,
        model: &Model,
        mutant: Option<&str>,
        limit: Option<Duration>,
    ) -> Result<Captured> {
        let binary = self
            .binaries
            .iter()
            .find(|binary| binary.name == model.binary)
            .with_context(|| format!("no test binary `{}` was built", model.binary))?;
        let mut program = binary
            .program()
            .args(["--exact", &model.test, "--nocapture", "--test-threads", "1"])
            .env("LOOM_MAX_PREEMPTIONS", self.bound.to_string())
            .env(
                "LATCHWORK_SHUTTLE_RUNS",
                match mutant {
                    None => RUNS[usize::from(self.request.deep)].to_string(),
                    Some(_) => MUTANT_RUNS.to_string(),
                },
            )
            // A search cut short by these ends in success.
            .env_remove("LOOM_MAX_DURATION")
            .env_remove("LOOM_MAX_PERMUTATIONS")
            .env_remove("LOOM_CHECKPOINT_FILE")
            .env_remove("LATCHWORK_MUTANT");
        if let Some(mutant) = mutant {
            program = program.env("LATCHWORK_MUTANT", mutant);
        }
        program.capture(limit)
    }

    /// Runs the models as they are, and says which did not pass.
    fn models(&self, models: &[Model]) -> Result<Vec<String>> {
        let limit = (!self.request.deep).then_some(MODEL_LIMIT);
        let ends = side_by_side(models, |model| self.model(model, None, limit))?;
        let mut rows = Vec::new();
        let mut problems = Vec::new();
        for (model, end) in models.iter().zip(&ends) {
            let verdict = match (end.exit, tally(end)) {
                (Exit::Success, Some((1, 0))) => None,
                (Exit::Success, _) => Some("did not run: is it #[ignore]d?".to_owned()),
                (Exit::Failure(status), _) => Some(format!("failed ({status}): {}", reason(end))),
                (Exit::TimedOut, _) => Some(format!(
                    "had not ended after {} s: fewer threads or operations",
                    MODEL_LIMIT.as_secs()
                )),
            };
            if !self.request.brief || verdict.is_some() {
                rows.push(vec![
                    model.to_string(),
                    seconds(end.elapsed),
                    verdict.clone().unwrap_or_else(|| "ok".to_owned()),
                ]);
            }
            if let Some(what) = verdict {
                print!("---- {model}\n{}{}", end.stdout, end.stderr);
                problems.push(format!(
                    "the model {model} {what}\n    rerun: cargo xtask {} {}{}",
                    self.world.command,
                    model.test,
                    if self.request.deep { " --deep" } else { "" }
                ));
            }
        }
        if !rows.is_empty() {
            table(&["model", "time", "result"], &rows);
        }
        let longest = models.iter().zip(&ends).max_by_key(|(_, end)| end.elapsed);
        if let Some((model, end)) = longest {
            let passed = models.len() - problems.len();
            let elapsed = seconds(end.elapsed);
            println!(
                "{passed} of {} passed; {model} took longest, {elapsed}",
                models.len()
            );
        }
        Ok(problems)
    }

    /// Runs the chosen lines, and says which mutants no model found. `all` are the lines of the
    /// whole file: a mutant some of whose lines were not chosen is not judged.
    fn mutants(&self, chosen: &[Seeded], all: &[Seeded]) -> Result<Vec<String>> {
        let ends = side_by_side(chosen, |line| {
            self.model(&line.model, Some(&line.mutant), Some(MUTANT_LIMIT))
        })?;
        let mut rows = Vec::new();
        let mut problems = Vec::new();
        let mut caught: Vec<&Seeded> = Vec::new();
        for (line, end) in chosen.iter().zip(&ends) {
            let verdict = match end.exit {
                Exit::Success => "passes: not found by this model".to_owned(),
                Exit::TimedOut if line.may_hang => {
                    format!("hang: killed after {} s", MUTANT_LIMIT.as_secs())
                }
                Exit::TimedOut => {
                    problems.push(format!(
                        "the mutant {} hangs {}: say `hang` in {} if that is the bug",
                        line.mutant, line.model, self.world.mutants_file
                    ));
                    format!("HANGS: killed after {} s", MUTANT_LIMIT.as_secs())
                }
                Exit::Failure(_) => reason(end),
            };
            let is_caught = matches!(end.exit, Exit::Failure(_))
                || (end.exit == Exit::TimedOut && line.may_hang);
            if is_caught {
                caught.push(line);
            }
            if !self.request.brief || !is_caught {
                rows.push(vec![
                    line.model.to_string(),
                    line.mutant.clone(),
                    seconds(end.elapsed),
                    verdict,
                ]);
            }
        }
        if !rows.is_empty() {
            table(&["model", "mutant", "time", "caught by"], &rows);
        }
        println!("{} of {} found", caught.len(), chosen.len());

        for line in chosen {
            if caught.iter().any(|other| other.mutant == line.mutant) {
                continue;
            }
            let complete = all
                .iter()
                .filter(|other| other.mutant == line.mutant)
                .all(|other| chosen.contains(other));
            let problem = format!(
                "the mutant {} is caught by no model: {}\n    rerun: cargo xtask {} --mutants {}",
                line.mutant, line.bug, self.world.command, line.mutant
            );
            if complete && !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        for line in chosen {
            if !caught.iter().any(|other| other.model == line.model) {
                println!(
                    "warning: the model {} found none of its mutants here",
                    line.model
                );
            }
        }
        Ok(problems)
    }
}

/// Does `work` on each item, a few at a time, and returns the results in the items' order.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<R>)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..PARALLEL.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    results
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .push((index, result));
                }
            });
        }
    });
    let mut results = results
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// How many tests passed and failed, by libtest's last line.
fn tally(end: &Captured) -> Option<(usize, usize)> {
    let line = end
        .stdout
        .lines()
        .rev()
        .find(|line| line.starts_with("test result: "))?;
    let number = |what: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words
            .iter()
            .position(|word| word.trim_end_matches(';') == what)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Some((number("passed")?, number("failed")?))
}

/// The first line of the panic's message, or how else it ended.
fn reason(end: &Captured) -> String {
    let mut lines = end.stderr.lines().chain(end.stdout.lines());
    let message = lines
        .by_ref()
        .find(|line| line.contains("panicked at"))
        .and_then(|_| lines.next());
    match (message, end.exit) {
        (Some(message), _) => message.trim().to_owned(),
        (None, Exit::Failure(status)) => {
            let last = end
                .stderr
                .lines()
                .rev()
                .find(|line| !line.trim().is_empty())
                .unwrap_or_default();
            format!("{status} {last}")
        }
        (None, _) => "no message".to_owned(),
    }
}

fn list(models: &[Model]) -> String {
    models
        .iter()
        .map(Model::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Whether the models exist at all.
pub(crate) fn exist(root: &Path) -> bool {
    !rust_files(&root.join("loom-tests/tests")).is_empty()
}
