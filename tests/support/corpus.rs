//! The kept corpus of a fuzz target, and input like it.

use crate::random::Random;

/// Calls `check` with each seed that is kept for `target`.
pub(crate) fn each_seed(target: &str, check: impl Fn(&[u8])) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus").to_owned() + "/" + target;
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is part of the repository") {
        check(&std::fs::read(entry.expect("entry").path()).expect("seed"));
        seeds += 1;
    }
    assert!(seeds > 0);
}

/// Fewer bytes than `below`.
#[allow(dead_code, reason = "not every target takes any bytes")]
pub(crate) fn any_bytes(random: &mut Random, below: usize) -> Vec<u8> {
    (0..random.below(below))
        .map(|_| random.below(256) as u8)
        .collect()
}
