//! Models of latchwork's public API, run by `cargo xtask loom`.
//!
//! One file a type in `tests/`; `mutants.txt` says which deliberately broken variant of the library
//! each must find. What a permit or a latch protects in them is a [`Section`].

#[cfg(latchwork_loom)]
mod section;
#[cfg(latchwork_loom)]
pub use section::Section;
