//! Those who wait, without a thread of their own, for what other processes do.

use std::time::Duration;

use crate::sync::futex::SharedFutex;

/// How long a wait on words that other processes change may last: who should have woken the waiter,
/// or the waiter that was woken, may have been killed.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_millis(50);

/// Somebody whom the keeper's thread looks after.
pub(crate) trait Watcher: Send + Sync {
    /// Looks whether it is there. Otherwise, calls `watch` with the words whose change calls for
    /// another look, what they are now, and whether they are lives. `false`: there is nothing to
    /// wait for any more.
    fn look(&self, watch: &mut dyn FnMut(&SharedFutex, u32, bool)) -> bool;
}
