//! What latchwork is compared with and no crate offers ready-made.

pub(crate) mod condvar;
pub(crate) mod jobserver;
pub(crate) mod ofd;
pub(crate) mod sem_t;
pub(crate) mod sem_undo;
