//! Where the chance of a random test comes from.

/// `LATCHWORK_SEED`, if that is set; else a number of this run's own.
pub(crate) fn seed() -> u64 {
    match std::env::var("LATCHWORK_SEED") {
        Ok(seed) => seed.parse().expect("LATCHWORK_SEED is a number"),
        Err(_) => std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos() as u64),
    }
}

/// The same, printed: a failing test shows it.
#[allow(dead_code, reason = "who has a name to print with it prints it")]
pub(crate) fn announced() -> u64 {
    let seed = seed();
    println!("seed {seed}: set LATCHWORK_SEED to repeat");
    seed
}
