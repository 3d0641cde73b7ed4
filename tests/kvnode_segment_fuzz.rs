//! The checks of the fuzz target `kvnode_segment` hold for its kept corpus and for random input.

#[path = "../fuzz/fuzz_targets/kvnode_segment/check.rs"]
mod check;
#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/random.rs"]
mod random;
#[allow(dead_code, unused_imports, reason = "the server uses all of it")]
#[path = "../examples/kvnode/storage.rs"]
mod storage;

use check::check;
use random::Random;

#[test]
fn the_kept_corpus_passes_the_fuzz_target_s_checks() {
    corpus::each_seed("kvnode_segment", check);
}

#[test]
fn random_input_passes_the_fuzz_target_s_checks() {
    let mut random = Random::new("random_input_passes_the_fuzz_target_s_checks");
    for _ in 0..300 {
        check(&corpus::any_bytes(&mut random, 24));
    }
}
