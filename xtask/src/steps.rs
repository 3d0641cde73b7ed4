//! `cargo xtask test`: every check that CI makes, one after the other, and what came of them.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::{Failed, Program};
use crate::report::{Outcome, count, failed, seconds, skipped, table};
use crate::workspace::{LIBRARY, Workspace, has_cargo_command};
use crate::{crash, downstream, fuzz, layering, loom, sanitize, storm};

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Workspace) -> Result<Outcome>,
}

const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        what: "rustfmt has nothing to change",
        run: fmt,
    },
    Step {
        name: "layering",
        what: "who may name and import whom in src/",
        run: layering::run,
    },
    Step {
        name: "clippy",
        what: "no warnings, in both worlds",
        run: clippy,
    },
    // Before the tests, which drive the built kvnode.
    Step {
        name: "examples",
        what: "they build; threaded and event_loop run",
        run: examples,
    },
    Step {
        name: "tests",
        what: "unit and integration tests",
        run: tests,
    },
    Step {
        name: "doctests",
        what: "the examples in the documentation",
        run: doctests,
    },
    Step {
        name: "features",
        what: "each feature alone, none, and all",
        run: features,
    },
    Step {
        name: "docs",
        what: "no broken links",
        run: docs,
    },
    Step {
        name: "loom",
        what: "the models pass, and find their mutants",
        run: models,
    },
    Step {
        name: "downstream",
        what: "a user's model passes, and finds its bug",
        run: downstream::run,
    },
    Step {
        name: "tree",
        what: "no async runtime in the library's tree",
        run: tree,
    },
    Step {
        name: "deny",
        what: "licences and banned crates",
        run: deny,
    },
    Step {
        name: "storm",
        what: "the storm tests in release, short",
        run: short_storm,
    },
    Step {
        name: "crash",
        what: "processes killed at random and at chosen instructions, power cuts, short",
        run: crash::short,
    },
    Step {
        name: "fuzz",
        what: "the kept corpora, replayed",
        run: fuzz::replay,
    },
    Step {
        name: "kvnode",
        what: "the server, driven by redis-cli, in release",
        run: kvnode,
    },
    Step {
        name: "tsan",
        what: "the storm tests under ThreadSanitizer",
        run: tsan,
    },
    Step {
        name: "asan",
        what: "the storm tests under AddressSanitizer",
        run: asan,
    },
];

enum End {
    Passed,
    Skipped(String),
    Failed(anyhow::Error),
}

pub(crate) fn run(
    workspace: &Workspace,
    names: &[String],
    list: bool,
    fail_fast: bool,
) -> Result<ExitCode> {
    if let Some(unknown) = names
        .iter()
        .find(|name| !STEPS.iter().any(|step| step.name == **name))
    {
        bail!("no step `{unknown}`; `cargo xtask test --list` names them");
    }
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| names.is_empty() || names.iter().any(|name| name == step.name))
        .collect();
    if list {
        let rows: Vec<_> = chosen
            .iter()
            .map(|step| vec![step.name.to_owned(), step.what.to_owned()])
            .collect();
        table(&["step", "what"], &rows);
        return Ok(ExitCode::SUCCESS);
    }

    let started = Instant::now();
    let mut ends: Vec<(&Step, End, Duration)> = Vec::new();
    for (index, step) in chosen.iter().enumerate() {
        println!(
            "\n==> [{}/{}] {}: {}",
            index + 1,
            chosen.len(),
            step.name,
            step.what
        );
        let step_started = Instant::now();
        let end = match (step.run)(workspace) {
            Ok(Outcome::Passed) => End::Passed,
            Ok(Outcome::Skipped(why)) => End::Skipped(why),
            Err(error) => End::Failed(error),
        };
        let elapsed = step_started.elapsed();
        match &end {
            End::Passed => println!("<== {} passed in {}", step.name, seconds(elapsed)),
            End::Skipped(why) => println!("<== {} SKIP: {why}", step.name),
            End::Failed(error) => {
                println!(
                    "<== {} FAILED in {}: {error:#}",
                    step.name,
                    seconds(elapsed)
                )
            }
        }
        let stop = fail_fast && matches!(end, End::Failed(_));
        ends.push((step, end, elapsed));
        if stop {
            break;
        }
    }
    Ok(summary(&ends, started.elapsed()))
}

fn summary(ends: &[(&Step, End, Duration)], elapsed: Duration) -> ExitCode {
    let row = |(step, end, elapsed): &(&Step, End, Duration)| {
        let result = match end {
            End::Passed => "passed".to_owned(),
            End::Skipped(why) => format!("SKIP: {why}"),
            End::Failed(_) => "FAILED".to_owned(),
        };
        vec![step.name.to_owned(), seconds(*elapsed), result]
    };
    println!();
    table(
        &["step", "time", "result"],
        &ends.iter().map(row).collect::<Vec<_>>(),
    );

    // Told once more: what failed may stand far above, in a log that is cut short.
    for (step, end, _) in ends {
        let End::Failed(error) = end else { continue };
        println!("\n{} failed: {error:#}", step.name);
        println!("rerun: cargo xtask test {}", step.name);
        if let Some(failed) = error.downcast_ref::<Failed>() {
            println!("   or: {}", failed.command);
            if !failed.last_lines.is_empty() {
                println!("the last that it printed:");
            }
            for line in failed.last_lines.lines() {
                println!("  | {line}");
            }
        }
    }
    let number = |is: fn(&End) -> bool| ends.iter().filter(|(_, end, _)| is(end)).count();
    let failures = number(|end| matches!(end, End::Failed(_)));
    println!("\n{} in {}", count(ends.len(), "step"), seconds(elapsed));
    println!(
        "{} passed, {failures} failed, {} skipped",
        number(|end| matches!(end, End::Passed)),
        number(|end| matches!(end, End::Skipped(_))),
    );
    if failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The packages that stand outside the workspace.
const ALONE: &[&str] = &["fuzz/Cargo.toml", "loom-tests/downstream/Cargo.toml"];

fn fmt(workspace: &Workspace) -> Result<Outcome> {
    Program::cargo().words("fmt --all --check").run()?;
    for manifest in ALONE
        .iter()
        .filter(|manifest| workspace.root.join(manifest).exists())
    {
        Program::cargo()
            .args(["fmt", "--check", "--manifest-path", manifest])
            .run()?;
    }
    Ok(Outcome::Passed)
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    Program::cargo()
        .words("clippy --workspace --all-targets --all-features -- -D warnings")
        .run()?;
    if loom::exist(&workspace.root) {
        loom::clippy(workspace)?;
    }
    Ok(Outcome::Passed)
}

/// For libtest: what passes is counted, and what fails is named.
const COUNTED: [&str; 2] = ["--", "--quiet"];

fn tests(workspace: &Workspace) -> Result<Outcome> {
    // All features of the library, but not the peers of the benches.
    let features = workspace.library_features()?;
    let runner = if has_cargo_command("nextest") {
        // The storms have steps of their own: in release, and under two sanitizers.
        Program::cargo()
            .words("nextest run --config-file xtask/nextest.toml --filterset")
            .arg("not binary(/_storm$/)")
    } else {
        println!("cargo-nextest is not installed: cargo test instead");
        Program::cargo().words("test --lib --bins --tests --examples")
    };
    runner
        .words("--workspace --features")
        .arg(features)
        .env("LATCHWORK_STORM", "short")
        .run()?;
    Ok(Outcome::Passed)
}

fn doctests(_: &Workspace) -> Result<Outcome> {
    Program::cargo()
        .args(["test", "--doc", "--all-features", "-p", LIBRARY])
        .args(COUNTED)
        .run()?;
    Ok(Outcome::Passed)
}

fn examples(workspace: &Workspace) -> Result<Outcome> {
    let examples = workspace.targets("example")?;
    if examples.is_empty() {
        return skipped("there are no examples yet");
    }
    Program::cargo()
        .args(["build", "--examples", "--all-features", "-p", LIBRARY])
        .run()?;
    // The ones that play their own clients and end by themselves.
    for name in ["threaded", "event_loop"] {
        if examples.iter().any(|example| example == name) {
            let built = workspace.target.join("debug/examples").join(name);
            let end = Program::new(built).run_bounded(Duration::from_secs(60))?;
            print!("{}", end.stdout);
        }
    }
    Ok(Outcome::Passed)
}

fn features(workspace: &Workspace) -> Result<Outcome> {
    // Clippy is check and can deny the library's warnings without rebuilding what it depends on.
    let check = |selection: &[&str]| {
        Program::cargo()
            .args(["clippy", "--quiet", "-p", LIBRARY])
            .args(selection)
            .words("-- -D warnings")
            .run()
    };
    check(&["--no-default-features"])?;
    for feature in workspace.features(LIBRARY)? {
        check(&["--no-default-features", "--features", &feature])?;
    }
    check(&["--all-features"])?;
    Ok(Outcome::Passed)
}

fn docs(_: &Workspace) -> Result<Outcome> {
    Program::cargo()
        .env("RUSTDOCFLAGS", "-D warnings")
        .args(["doc", "--no-deps", "--all-features", "-p", LIBRARY])
        .run()?;
    Ok(Outcome::Passed)
}

fn models(workspace: &Workspace) -> Result<Outcome> {
    let all = loom::Request {
        mutants: true,
        brief: true,
        ..loom::Request::default()
    };
    loom::run(workspace, &loom::LOOM, all)?;
    loom::run(workspace, &loom::SHUTTLE, all)
}

/// Async runtimes and what only they need: a name, or with `*` the beginning of names.
const FOREIGN: &[&str] = &[
    "tokio*",
    "futures*",
    "async-*",
    "smol",
    "smol-*",
    "mio",
    "mio-*",
    "actix*",
    "glommio",
    "monoio*",
    "compio*",
    "embassy-*",
    "hyper",
    "tower",
    "pollster",
    "event-listener*",
];

fn tree(_: &Workspace) -> Result<Outcome> {
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        let cargo = || {
            Program::cargo()
                .words("tree -e normal --all-features --prefix none --format {p}")
                .args(["-p", LIBRARY, "--target", target])
        };
        println!("$ {}", cargo());
        let tree = cargo().output()?;
        let mut packages: Vec<&str> = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        packages.sort_unstable();
        packages.dedup();
        let foreign: Vec<&str> = packages
            .iter()
            .filter(|package| is_foreign(package))
            .copied()
            .collect();
        if !foreign.is_empty() {
            return Err(failed(format!(
                "the library's tree contains {}; see who brings it: cargo tree -e normal --all-features -p {LIBRARY} -i {}",
                foreign.join(", "),
                foreign[0]
            )));
        }
        println!(
            "{}, no async runtime among them",
            count(packages.len(), "package")
        );
    }
    Ok(Outcome::Passed)
}

fn is_foreign(package: &str) -> bool {
    FOREIGN.iter().any(|name| match name.strip_suffix('*') {
        Some(beginning) => package.starts_with(beginning),
        None => package == *name,
    })
}

fn deny(workspace: &Workspace) -> Result<Outcome> {
    if !workspace.root.join("deny.toml").exists() {
        return Err(failed("deny.toml is missing"));
    }
    if !has_cargo_command("deny") {
        return skipped("cargo-deny is not installed; `cargo install cargo-deny --locked`");
    }
    // The peers that the benches compare with bring async runtimes; nothing of theirs is published.
    Program::cargo()
        .words("deny --workspace --all-features --exclude latchwork-benches check licenses bans")
        .run()?;
    Ok(Outcome::Passed)
}

fn short_storm(workspace: &Workspace) -> Result<Outcome> {
    storm::run(workspace, None, false)
}

fn kvnode(workspace: &Workspace) -> Result<Outcome> {
    let mut tests = workspace.targets("test")?;
    tests.retain(|name| name.starts_with("kvnode"));
    if tests.is_empty() {
        return skipped("there is no tests/kvnode*.rs yet");
    }
    if !Program::new("redis-cli").arg("--version").succeeds() {
        return skipped("redis-cli is not installed; `apt-get install redis-tools`");
    }
    Program::cargo()
        .args([
            "build",
            "--release",
            "--examples",
            "--all-features",
            "-p",
            LIBRARY,
        ])
        .run()?;
    let test = Program::cargo().args(["test", "--release", "--all-features", "-p", LIBRARY]);
    tests
        .iter()
        .fold(test, |test, name| test.args(["--test", name]))
        .args(COUNTED)
        .run()?;
    Ok(Outcome::Passed)
}

fn tsan(workspace: &Workspace) -> Result<Outcome> {
    sanitize::run(workspace, &sanitize::THREAD, None)
}

fn asan(workspace: &Workspace) -> Result<Outcome> {
    sanitize::run(workspace, &sanitize::ADDRESS, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_foreign_and_their_namesakes_are_not() {
        for package in [
            "tokio",
            "tokio-util",
            "futures-core",
            "async-std",
            "smol",
            "mio",
        ] {
            assert!(is_foreign(package), "{package}");
        }
        for package in [
            "latchwork",
            "parking_lot",
            "smallvec",
            "atomic-wait",
            "smol_str",
            "miow",
        ] {
            assert!(!is_foreign(package), "{package}");
        }
    }
}
