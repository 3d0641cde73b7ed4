//! The workspace as cargo sees it: packages, features, test binaries; and the tools at hand.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::Program;

/// The library's package.
pub(crate) const LIBRARY: &str = "latchwork";

pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Where cargo builds; the loom and sanitizer builds have directories of their own in it.
    pub(crate) target: PathBuf,
    packages: Vec<Value>,
}

/// A test binary that cargo built.
#[derive(Clone, Debug)]
pub(crate) struct TestBinary {
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    /// The package's directory, in which cargo would run it.
    directory: PathBuf,
}

impl Workspace {
    pub(crate) fn load() -> Result<Workspace> {
        // `cargo run` tells where the package is now; the path compiled in is for a bare binary.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .with_context(|| format!("{} has no parent", manifest.display()))?
            .to_owned();
        std::env::set_current_dir(&root)
            .with_context(|| format!("cannot enter the workspace's root {}", root.display()))?;
        let text = Program::cargo()
            .words("metadata --no-deps --format-version 1")
            .output()?;
        let metadata: Value =
            serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target directory")?;
        Ok(Workspace {
            root,
            target: PathBuf::from(target),
            packages: metadata["packages"].as_array().cloned().unwrap_or_default(),
        })
    }

    fn package(&self, name: &str) -> Result<&Value> {
        self.packages
            .iter()
            .find(|package| package["name"] == name)
            .with_context(|| format!("the workspace has no package `{name}`"))
    }

    /// The features of a package, `default` excepted.
    pub(crate) fn features(&self, package: &str) -> Result<Vec<String>> {
        let features = self.package(package)?["features"]
            .as_object()
            .context("cargo metadata names no features")?;
        Ok(features
            .keys()
            .filter(|name| *name != "default")
            .cloned()
            .collect())
    }

    /// `latchwork/a,latchwork/b,…`: all features of the library, for a command over the workspace
    /// that must not turn on the peers of the benches.
    pub(crate) fn library_features(&self) -> Result<String> {
        Ok(self
            .features(LIBRARY)?
            .iter()
            .map(|feature| format!("{LIBRARY}/{feature}"))
            .collect::<Vec<_>>()
            .join(","))
    }

    /// The names of the library's targets of a kind: `test`, `example`, ….
    pub(crate) fn targets(&self, kind: &str) -> Result<Vec<String>> {
        let targets = self.package(LIBRARY)?["targets"]
            .as_array()
            .context("cargo metadata names no targets")?;
        let is_kind = |target: &&Value| {
            target["kind"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|k| k == kind))
        };
        let mut names: Vec<String> = targets
            .iter()
            .filter(is_kind)
            .filter_map(|target| target["name"].as_str().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Runs a `cargo test --no-run` and returns the integration test binaries it built.
    pub(crate) fn build_tests(&self, build: Program) -> Result<Vec<TestBinary>> {
        let build = build.words("--no-run --message-format json-render-diagnostics");
        println!("$ {build}");
        let mut binaries = Vec::new();
        for line in build.output()?.lines() {
            let message: Value = serde_json::from_str(line)
                .with_context(|| format!("cargo printed no JSON: {line}"))?;
            let target = &message["target"];
            if message["reason"] != "compiler-artifact"
                || target["kind"] != serde_json::json!(["test"])
            {
                continue;
            }
            let text = |value: &Value| value.as_str().map(str::to_owned);
            let (Some(name), Some(executable), Some(manifest)) = (
                text(&target["name"]),
                text(&message["executable"]),
                text(&message["manifest_path"]),
            ) else {
                bail!(
                    "cargo described a test binary without its name, executable or manifest: {line}"
                );
            };
            binaries.push(TestBinary {
                name,
                executable: PathBuf::from(executable),
                directory: Path::new(&manifest)
                    .parent()
                    .unwrap_or(&self.root)
                    .to_owned(),
            });
        }
        binaries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(binaries)
    }
}

impl TestBinary {
    /// Runs it as cargo would, in its package's directory.
    pub(crate) fn program(&self) -> Program {
        Program::new(&self.executable)
            .dir(&self.directory, "")
            .env_quiet("CARGO_MANIFEST_DIR", &self.directory)
    }

    /// The names of its tests.
    pub(crate) fn tests(&self) -> Result<Vec<String>> {
        let listed = self.program().words("--list --format terse").output()?;
        Ok(listed
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect())
    }
}

/// The names of the `.rs` files directly in a directory, without the ending; none if it is absent.
pub(crate) fn rust_files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".rs")
                .map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

pub(crate) fn has_cargo_command(name: &str) -> bool {
    Program::cargo().arg(name).arg("--version").succeeds()
}

/// Why the nightly toolchain cannot be used, if it cannot.
pub(crate) fn no_nightly() -> Option<String> {
    // Asked by list: `cargo +nightly` might download one.
    let listed = Program::new("rustup")
        .words("toolchain list")
        .output()
        .unwrap_or_default();
    let found = listed.lines().any(|line| line.starts_with("nightly"));
    (!found).then(|| {
        "no nightly toolchain; `rustup toolchain install nightly --profile minimal`".to_owned()
    })
}
