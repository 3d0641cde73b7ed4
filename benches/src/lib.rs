//! Paired benchmarks of latchwork against its peers, run by `cargo xtask bench`.
