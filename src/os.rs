//! The door to the operating system: the only files that name rustix or libc.

pub(crate) mod clock;
pub(crate) mod event;
#[cfg(feature = "wal")]
pub mod fs;
#[cfg(not(latchwork_loom))]
pub(crate) mod futex;
pub(crate) mod home;
pub(crate) mod serving;
#[cfg(feature = "shared")]
#[cfg_attr(
    latchwork_loom,
    allow(dead_code, reason = "a model is without the parts that need files")
)]
pub(crate) mod shared;
#[cfg(not(latchwork_loom))]
pub(crate) mod thread_exit;
mod wiped;
