//! The log's recovery against arbitrary files. Run it with `cargo xtask fuzz wal_recover`; the kept corpus is replayed by
//! `cargo test --test wal_fuzz` too.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "wal_recover/check.rs"]
mod check;

fuzz_target!(|bytes: &[u8]| check::check(bytes));
