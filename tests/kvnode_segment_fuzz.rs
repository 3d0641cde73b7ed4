//! The checks of the fuzz target `kvnode_segment` hold for its kept corpus and for random input.

#[path = "../fuzz/fuzz_targets/kvnode_segment/check.rs"]
mod check;
#[path = "support/random.rs"]
mod random;
#[allow(dead_code, unused_imports, reason = "the server uses all of it")]
#[path = "../examples/kvnode/storage.rs"]
mod storage;

use check::check;
use random::Random;

#[test]
fn the_kept_corpus_passes_the_fuzz_target_s_checks() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/kvnode_segment");
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is part of the repository") {
        check(&std::fs::read(entry.expect("entry").path()).expect("seed"));
        seeds += 1;
    }
    assert!(seeds > 0);
}

#[test]
fn random_input_passes_the_fuzz_target_s_checks() {
    let mut random = Random::new("random_input_passes_the_fuzz_target_s_checks");
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..random.below(24))
            .map(|_| random.below(256) as u8)
            .collect();
        check(&bytes);
    }
}
