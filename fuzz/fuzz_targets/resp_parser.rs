//! kvnode's request parser against arbitrary bytes. Run it with `cargo +nightly fuzz run resp_parser`; the kept corpus is
//! replayed by `cargo test --test kvnode_parser` too.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "resp_parser/check.rs"]
mod check;
#[path = "../../examples/kvnode/request.rs"]
mod request;

fuzz_target!(|bytes: &[u8]| check::check(bytes));
