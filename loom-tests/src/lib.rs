//! Models of latchwork's public API, run by `cargo xtask loom`.
