//! Leak-proof coordination for thread-based servers.

#[cfg(all(latchwork_loom, not(feature = "loom")))]
compile_error!(
    "`--cfg latchwork_loom` needs latchwork's feature `loom`: add `features = [\"loom\"]` to the dependency"
);

#[cfg(not(target_os = "linux"))]
compile_error!("latchwork supports Linux (x86-64 and aarch64, glibc) only");

pub mod error;
#[cfg(any(feature = "semaphore", feature = "latch"))]
pub mod holder;
#[cfg(feature = "latch")]
pub mod latch;
#[cfg(all(latchwork_loom, feature = "loom"))]
pub mod model;
mod os;
#[cfg(feature = "rmw")]
pub mod rmw;
#[cfg(feature = "semaphore")]
pub mod semaphore;
#[cfg(feature = "latch")]
pub mod sweeper;
mod sync;
#[cfg(any(feature = "semaphore", feature = "latch"))]
mod waiter;

#[cfg(feature = "latch")]
pub use latch::LatchTable;
#[cfg(feature = "rmw")]
pub use rmw::Rmw;
#[cfg(feature = "semaphore")]
pub use semaphore::Semaphore;
#[cfg(feature = "latch")]
pub use sweeper::Sweeper;
#[cfg(any(feature = "semaphore", feature = "latch"))]
pub use waiter::{Pending, WaitHistogram};
