//! `cargo xtask crash`: would kill processes at planned points; no suite exists yet.

/// Says that there is no such suite.
pub(crate) fn run(name: Option<&str>) -> anyhow::Error {
    let asked = name.map_or_else(
        || "which suite?".to_owned(),
        |name| format!("no crash suite `{name}`."),
    );
    anyhow::anyhow!(
        "{asked} The suites: none yet; they come with shared semaphores and the write-ahead log"
    )
}
