//! The checks of the fuzz target `wal_recover` hold for its kept corpus and for random input.

#[path = "../fuzz/fuzz_targets/wal_recover/check.rs"]
mod check;
#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/random.rs"]
mod random;

use check::check;
use random::Random;

#[test]
fn the_kept_corpus_passes_the_fuzz_target_s_checks() {
    corpus::each_seed("wal_recover", check);
}

#[test]
fn random_input_passes_the_fuzz_target_s_checks() {
    let mut random = Random::new("random_input_passes_the_fuzz_target_s_checks");
    for _ in 0..3_000 {
        check(&corpus::any_bytes(&mut random, 120));
    }
}

/// A recovery that counts on from the last place of all overflows.
#[test]
fn places_that_no_log_comes_to_are_refused_or_passed_over() {
    let appends = [1, 0, 3, 0, 3, 1, 0, 50, 8, 0, 0, 0];
    let snapshot_of_the_last = [11, 0, 0, 0, 255, 0, 5, 5];
    let segment_from_the_last = [6, 0, 0, 0, 255, 0];
    let skip_to_the_last = [9, 0, 0, 0, 210, 4, 3, 255, 0, 0];
    let segment_with_the_last_number = [5, 0, 0, 0, 2, 255, 0, 7];
    check(&[&appends[..], &snapshot_of_the_last].concat());
    check(&[&appends[..], &segment_from_the_last].concat());
    check(&[&appends[..], &skip_to_the_last].concat());
    check(&[&appends[..], &segment_with_the_last_number].concat());
}
