//! Deliberately broken variants of the primitives, for the tests that must fail.
//!
//! A model that cannot fail proves nothing: each names at least one mutant under which it does.
//! A build with `--cfg latchwork_mutants` breaks the place whose name stands in the environment
//! variable `LATCHWORK_MUTANT`; every other build compiles [`enabled`] to `false`.

/// Whether the mutant `name` is switched on.
#[cfg(latchwork_mutants)]
pub(crate) fn enabled(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN
        .get_or_init(|| std::env::var("LATCHWORK_MUTANT").ok())
        .as_deref()
        == Some(name)
}

/// Whether the mutant `name` is switched on: never, in this build.
#[cfg(not(latchwork_mutants))]
#[inline(always)]
pub(crate) const fn enabled(_name: &str) -> bool {
    false
}
