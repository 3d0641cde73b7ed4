//! What must be shown: every row, with its bound. The benches refer to these, and a row of a
//! bench that ends without an outcome is a MISS, so none can be lost by oversight.

use crate::table::Row;

/// `acquire` + drop on one thread, over a process-shared `sem_t`.
pub(crate) const SEM_T: Row = Row::at_most("sem.uncontended.sem_t", 1.1);
/// The same while holders are tracked.
pub(crate) const SEM_TRACKED: Row = Row::at_most("sem.uncontended.tracked", 2.0);
/// `acquire` + drop on one thread, over tokio's `try_acquire` + drop.
pub(crate) const SEM_TOKIO_TRY: Row = Row::at_most("sem.uncontended.tokio_try", 0.5);
/// `acquire` + drop on one thread, over tokio's `acquire` under pollster.
pub(crate) const SEM_TOKIO_ACQUIRE: Row = Row::at_most("sem.uncontended.tokio_acquire", 0.2);
/// Four threads, one permit, elapsed time an operation, over Mutex + Condvar.
pub(crate) const SEM_CONDVAR: Row = Row::at_most("sem.contended.condvar", 1.0);
/// The same, the 99.9th percentile of the wait.
pub(crate) const SEM_TAIL: Row = Row::at_most("sem.contended.tail", 1.0);
/// The least thread's count over the greatest's, five seconds, `Fairness::Eventual`.
pub(crate) const SEM_FAIRNESS: Row = Row::at_least("sem.contended.fairness", 0.8);

/// A shared semaphore's `acquire` + drop on one thread, over a process-shared `sem_t`.
pub(crate) const SHM_SEM_T: Row = Row::at_most("shm.uncontended.sem_t", 1.3);
/// The same over System V's `semop` with `SEM_UNDO`.
pub(crate) const SHM_SEM_UNDO: Row = Row::at_most("shm.uncontended.sem_undo", 0.03);
/// From the SIGKILL of a holder of 1 MB until the next waiter has its permit, over `SEM_UNDO`.
pub(crate) const SHM_RECOVERY_SMALL: Row = Row::at_most("shm.recovery.small", 1.0);
/// The same with 2 GB.
pub(crate) const SHM_RECOVERY_LARGE: Row = Row::at_most("shm.recovery.large", 0.05);
/// `acquire` + drop on one thread after a hundred sleeping waiters were killed, over before.
pub(crate) const SHM_AFTER_KILL: Row = Row::at_most("shm.after_kill", 1.2);

/// Latch + drop on one thread, over lockable's.
pub(crate) const LATCH_FREE: Row = Row::at_most("latch.free.lockable", 0.3);
/// Ten-microsecond sections of one key on four threads, without the sections, over lockable's.
pub(crate) const LATCH_LONG: Row = Row::at_most("latch.long.lockable", 0.1);

/// `update` += 1 of one key on one thread, over DashMap's `entry(key.clone())`.
pub(crate) const RMW_ONE_KEY: Row = Row::at_most("rmw.one_key.dashmap", 1.5);
/// One key, four threads, half a microsecond of work inside `update`, elapsed time an operation,
/// over the same work inside a parking_lot Mutex.
pub(crate) const RMW_HOT_COST: Row = Row::at_most("rmw.hot.cost", 1.0);
/// The same with sixteen threads.
pub(crate) const RMW_HOT16_COST: Row = Row::at_most("rmw.hot16.cost", 1.0);
/// Four threads again, the 99th percentile of an operation's latency.
pub(crate) const RMW_HOT_P99: Row = Row::at_most("rmw.hot.p99", 0.1);
/// The same with sixteen threads.
pub(crate) const RMW_HOT16_P99: Row = Row::at_most("rmw.hot16.p99", 0.1);
/// The least thread's count over the greatest's, four threads.
pub(crate) const RMW_HOT_FAIRNESS: Row = Row::at_least("rmw.hot.fairness", 0.8);
/// `update` += 1 of random keys of ten thousand on four threads, over scc's `update_sync`.
pub(crate) const RMW_MANY: Row = Row::at_most("rmw.many.scc", 1.5);
/// `get` of 64 bytes out of a million keys beside a writer, over papaya's.
pub(crate) const RMW_GET: Row = Row::at_most("rmw.get.papaya", 1.3);

/// Requests a second at `-P 16`, over redis-server's.
pub(crate) const KVNODE_P16: Row = Row::at_least("kvnode.p16.redis", 1.0);
/// Requests a second at `-P 1`, over redis-server's.
pub(crate) const KVNODE_P1: Row = Row::at_least("kvnode.p1.redis", 0.95);

/// The 99th percentile of 64 clients' INCR of one key, over redis-server's.
pub(crate) const KVNODE_HOT_P99: Row = Row::at_most("kvnode.hot.p99.redis", 1.0);
/// Memory a connected client, of five thousand idle ones, over redis-server's.
pub(crate) const KVNODE_CLIENTS: Row = Row::at_most("kvnode.clients.redis", 1.0);
/// SET requests a second, each durable before its reply, over redis-server's.
pub(crate) const KVNODE_ALWAYS: Row = Row::at_least("kvnode.fsync_always.redis", 1.0);
/// The same, durable within a second.
pub(crate) const KVNODE_EVERYSEC: Row = Row::at_least("kvnode.everysec.redis", 1.0);
/// From the start with five million keys on disk to the first answer, over redis-server's.
pub(crate) const KVNODE_RESTART: Row = Row::at_most("kvnode.restart.redis", 1.0);

/// Items without work through two workers, finalized in order, over the best of pariter, rayon and
/// channels.
pub(crate) const FLUSH_BEST: Row = Row::at_most("flush.overhead.best", 0.7);
/// The same with each ticket awaited, over a semaphore, tasks and a heap on tokio.
pub(crate) const FLUSH_TOKIO: Row = Row::at_most("flush.overhead.tokio", 0.5);
/// Five microseconds of work on two streamers, over two bare threads that share it.
pub(crate) const FLUSH_WORK_5US: Row = Row::at_most("flush.work_5us.ideal", 1.1);
/// The same with a hundred microseconds.
pub(crate) const FLUSH_WORK_100US: Row = Row::at_most("flush.work_100us.ideal", 1.1);
/// 64 submitters, each flush written and synced by itself, over a write and a sync a batch.
pub(crate) const FLUSH_BATCH: Row = Row::at_least("flush.batch.single", 5.0);

/// A synced append of one thread, over a bare write and `fdatasync` of as many bytes.
pub(crate) const WAL_SINGLE: Row = Row::at_most("wal.single.raw", 1.15);
/// Records a second of 64 threads, over one thread's.
pub(crate) const WAL_GROUP: Row = Row::at_least("wal.group.single", 8.0);

pub(crate) const SEMAPHORE: &[Row] = &[
    SEM_T,
    SEM_TRACKED,
    SEM_TOKIO_TRY,
    SEM_TOKIO_ACQUIRE,
    SEM_CONDVAR,
    SEM_TAIL,
    SEM_FAIRNESS,
    SHM_SEM_T,
    SHM_SEM_UNDO,
    SHM_AFTER_KILL,
    SHM_RECOVERY_SMALL,
    SHM_RECOVERY_LARGE,
];
pub(crate) const LATCH: &[Row] = &[LATCH_FREE, LATCH_LONG];
pub(crate) const RMW: &[Row] = &[
    RMW_ONE_KEY,
    RMW_HOT_COST,
    RMW_HOT16_COST,
    RMW_HOT_P99,
    RMW_HOT16_P99,
    RMW_HOT_FAIRNESS,
    RMW_MANY,
    RMW_GET,
];
pub(crate) const KVNODE: &[Row] = &[
    KVNODE_P16,
    KVNODE_P1,
    KVNODE_HOT_P99,
    KVNODE_CLIENTS,
    KVNODE_ALWAYS,
    KVNODE_EVERYSEC,
    KVNODE_RESTART,
];
pub(crate) const FLUSH: &[Row] = &[
    FLUSH_BEST,
    FLUSH_TOKIO,
    FLUSH_WORK_5US,
    FLUSH_WORK_100US,
    FLUSH_BATCH,
];
pub(crate) const WAL: &[Row] = &[WAL_SINGLE, WAL_GROUP];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_rows_share_an_id() {
        let mut ids: Vec<&str> = [SEMAPHORE, LATCH, RMW, KVNODE, FLUSH, WAL]
            .concat()
            .iter()
            .map(|row| row.id)
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
