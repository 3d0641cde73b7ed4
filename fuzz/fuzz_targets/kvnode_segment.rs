//! kvnode's files against arbitrary bytes. Run it with `cargo xtask fuzz kvnode_segment`; the kept corpus is replayed by
//! `cargo test --test kvnode_segment_fuzz` too.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "kvnode_segment/check.rs"]
mod check;
#[allow(dead_code, unused_imports, reason = "the server uses all of it")]
#[path = "../../examples/kvnode/storage.rs"]
mod storage;

fuzz_target!(|bytes: &[u8]| check::check(bytes));
