//! `cargo xtask tsan` and `asan`: the storm tests under a sanitizer of the nightly toolchain.
//!
//! std comes without its source here, so it is not instrumented: TSan does not see the edges that
//! std's own locks make, which the suppressions account for. TSan does not understand
//! `fence` either: what only a fence orders looks like a race to it.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{Exit, Program};
use crate::report::{Outcome, failed, seconds, skipped};
use crate::storm;
use crate::workspace::{LIBRARY, TestBinary, Workspace, no_nightly};

pub(crate) struct Sanitizer {
    name: &'static str,
    rustflags: &'static str,
    options: &'static str,
    /// Joined to `options`, below the workspace's root.
    suppressions: Option<&'static str>,
    /// Which storm tests run under it: those whose name contains this.
    storms: &'static str,
    /// Tests that are no storms and run under it all the same.
    others: &'static [&'static str],
    /// The seeded bugs that it must report.
    must_catch: &'static [Caught],
}

struct Caught {
    mutant: &'static str,
    test: &'static str,
    /// Words of the report.
    report: &'static str,
}

pub(crate) const THREAD: Sanitizer = Sanitizer {
    name: "tsan",
    rustflags: "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer --cfg latchwork_mutants",
    options: "halt_on_error=1 second_deadlock_stack=1",
    suppressions: Some("xtask/tsan-suppressions.txt"),
    storms: "",
    others: &[],
    // A release that publishes nothing: loom's model of a sleep hides it.
    must_catch: &[Caught {
        mutant: "semaphore-relaxed-release",
        test: "semaphore_storm",
        // A race on the cell that the permit protects, and on nothing else.
        report: "tests/support/plain.rs",
    }],
};

pub(crate) const ADDRESS: Sanitizer = Sanitizer {
    name: "asan",
    rustflags: "-Zsanitizer=address --cfg latchwork_mutants",
    // These tests leak guards on purpose: what is looked for is their use after the free.
    options: "detect_leaks=0",
    suppressions: None,
    storms: "",
    others: &[],
    // A core that goes with its last handle, while a leaked guard still stands on it.
    must_catch: &[Caught {
        mutant: "anchor-free-despite-claims",
        test: "leak_storm",
        report: "ERROR: AddressSanitizer: heap-use-after-free",
    }],
};

// With an explicit target, build scripts and procedural macros are not instrumented.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn run(
    workspace: &Workspace,
    sanitizer: &Sanitizer,
    name: Option<&str>,
) -> Result<Outcome> {
    let tests: Vec<String> = workspace
        .targets("test")?
        .into_iter()
        .filter(|test| {
            test.ends_with("_storm") && test.contains(sanitizer.storms)
                || sanitizer.others.contains(&test.as_str())
        })
        .collect();
    if tests.is_empty() {
        return skipped(format!(
            "there is no tests/*{}.rs yet",
            if sanitizer.storms.is_empty() {
                "_storm"
            } else {
                sanitizer.storms
            }
        ));
    }
    let chosen: Vec<&String> = tests
        .iter()
        .filter(|test| name.is_none_or(|name| test.contains(name)))
        .collect();
    if chosen.is_empty() {
        bail!("no test matches; there are: {}", tests.join(", "));
    }
    if cfg!(not(target_arch = "x86_64")) {
        return skipped(format!("runs on {TARGET} only"));
    }
    if let Some(missing) = no_nightly() {
        return skipped(missing);
    }

    let mut features = workspace.features(LIBRARY)?;
    // Without its cfg the feature does nothing but compile loom.
    features.retain(|feature| feature != "loom");
    let build = Program::cargo()
        .env("RUSTFLAGS", sanitizer.rustflags)
        .env(
            "CARGO_TARGET_DIR",
            workspace.target.join(sanitizer.name).to_string_lossy(),
        )
        .words("+nightly test --release --no-default-features")
        .args([
            "--target",
            TARGET,
            "-p",
            LIBRARY,
            "--features",
            &features.join(","),
        ]);
    let binaries = workspace.build_tests(
        chosen
            .iter()
            .fold(build, |build, test| build.args(["--test", test])),
    )?;

    let mut options = sanitizer.options.to_owned();
    if let Some(file) = sanitizer.suppressions {
        options = format!(
            "suppressions={} {options}",
            workspace.root.join(file).display()
        );
    }
    let set_up = |program: Program| {
        program
            .env(
                &format!("{}_OPTIONS", sanitizer.name.to_uppercase()),
                &options,
            )
            .env("LATCHWORK_STORM", "short")
            .env_remove("LATCHWORK_MUTANT")
    };
    storm::run_all(&binaries, LIMIT, |binary| set_up(binary.program()))?;

    for caught in sanitizer.must_catch {
        if chosen.iter().any(|test| *test == caught.test) {
            let binary = binaries.iter().find(|binary| binary.name == caught.test);
            let binary =
                binary.with_context(|| format!("no test binary `{}` was built", caught.test))?;
            catch(binary, caught, set_up)?;
        } else {
            println!(
                "SKIP the mutant {}: tests/{}.rs is absent or was not chosen",
                caught.mutant, caught.test
            );
        }
    }
    Ok(Outcome::Passed)
}

/// The mutants that a sanitizer must catch, and loom need not.
pub(crate) fn mutants() -> Vec<&'static str> {
    [&THREAD, &ADDRESS]
        .iter()
        .flat_map(|sanitizer| sanitizer.must_catch)
        .map(|caught| caught.mutant)
        .collect()
}

/// The sanitizer must report the seeded bug.
fn catch(binary: &TestBinary, caught: &Caught, set_up: impl Fn(Program) -> Program) -> Result<()> {
    let Caught { mutant, report, .. } = *caught;
    let program = || set_up(binary.program()).env("LATCHWORK_MUTANT", mutant);
    let line = program().to_string();
    println!("$ {line}");
    let end = program().capture(Some(LIMIT))?;
    let reported = end.stderr.contains(report) || end.stdout.contains(report);
    if reported && end.exit != Exit::Success {
        println!(
            "the mutant {mutant} is caught ({}): {report}",
            seconds(end.elapsed)
        );
        return Ok(());
    }
    print!("{}", end.stdout);
    eprint!("{}", end.stderr);
    let ended = match end.exit {
        Exit::Success => "passed".to_owned(),
        Exit::TimedOut => format!("was killed after {} s", LIMIT.as_secs()),
        Exit::Failure(status) => format!("failed without that report ({status})"),
    };
    Err(failed(format!(
        "the mutant {mutant} must end in `{report}`, but {} {ended}; rerun: {line}",
        binary.name
    )))
}
