//! A server without its sockets: the commands over a durable store.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use latchwork::LatchTable;
use latchwork::fs::{File, Fs, MemoryFs, OpenMode};
use latchwork::rmw::{Clock, ExpireWhen, ListEnd, Rmw, RmwError, SetOptions, Store, Value};

use crate::random::Random;
use crate::storage::{self, Config, DurableStore, Fsync, Storage, StorageError};

/// The time at which tests begin.
pub(crate) const START: u64 = 1_700_000_000_000;

pub(crate) type Dump = BTreeMap<Vec<u8>, (Value, Option<u64>)>;

pub(crate) struct Node {
    pub(crate) rmw: Rmw<DurableStore>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) clock: Clock,
}

/// A configuration with small files.
pub(crate) fn config(fs: &(impl Fs + Clone), fsync: Fsync) -> Config {
    Config {
        dir: PathBuf::from("/data"),
        fsync,
        memtable_bytes: 1 << 40,
        log_segment_bytes: 4096,
        fs: Arc::new(fs.clone()),
        clock: Clock::manual(START),
    }
}

pub(crate) fn open(config: Config) -> Result<Node, StorageError> {
    let latches = LatchTable::new();
    let clock = config.clock.clone();
    let (storage, store) = storage::open(config, &latches, |_| {})?;
    let rmw = Rmw::builder().latches(latches).store(store);
    Ok(Node {
        rmw: rmw.clock(clock.clone()).build(),
        storage,
        clock,
    })
}

impl Node {
    pub(crate) fn dump(&self) -> Dump {
        dump(&self.rmw)
    }

    /// Saves, and waits for the end of that.
    pub(crate) fn save(&self) -> Result<(), StorageError> {
        let (send, receive) = mpsc::channel();
        self.storage.save(move |saved| send.send(saved).unwrap())?;
        receive.recv().unwrap()
    }

    /// Waits until all that was logged is synced.
    pub(crate) fn sync(&self) {
        let (send, receive) = mpsc::channel();
        self.storage.on_durable(move |lsn| {
            let _ = send.send(lsn);
        });
        let last = self.storage.last();
        while self.storage.durable() < last {
            receive.recv().unwrap();
        }
    }

    pub(crate) fn close(self) {
        self.storage.close().unwrap();
    }
}

/// All keys that are there.
pub(crate) fn dump<S: Store>(rmw: &Rmw<S>) -> Dump {
    let keys = rmw.keys("*").into_iter();
    keys.filter_map(|key| {
        let value = rmw.get_with(&key, |value| value.cloned())?;
        let deadline = rmw.expires_at(&key)?;
        Some((key.to_vec(), (value, deadline)))
    })
    .collect()
}

#[track_caller]
pub(crate) fn assert_same(left: &Dump, right: &Dump, context: &dyn Debug) {
    for (key, value) in left {
        let name = key.escape_ascii();
        assert_eq!(Some(value), right.get(key), "{name}: {context:?}");
    }
    for key in right.keys() {
        let name = key.escape_ascii();
        assert!(left.contains_key(key), "{name} is too many: {context:?}");
    }
}

/// A command on a few keys, of all kinds that the store can tell apart.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    kind: usize,
    key: String,
    other: String,
    number: usize,
}

impl Step {
    pub(crate) fn random(random: &mut Random, keys: usize) -> Self {
        Self {
            kind: random.below(28),
            key: format!("key:{}", random.below(keys)),
            other: format!("key:{}", random.below(keys)),
            number: random.below(1000),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let len = [3, 30, 0, 500, 5000][self.number % 5];
        (0..len).map(|at| (at * 7 + self.number) as u8).collect()
    }

    /// Does it; a refusal by the command is as good as any other outcome.
    pub(crate) fn run<S: Store>(&self, rmw: &Rmw<S>) -> Result<(), RmwError> {
        let (key, other, number) = (&self.key, &self.other, self.number);
        let end = [ListEnd::Front, ListEnd::Back][number % 2];
        let element = || number.to_string();
        let soon = Duration::from_millis(number as u64 * 10 + 1);
        let done = match self.kind {
            0 | 1 => rmw.set(key, self.bytes()).map(drop),
            2 => rmw.set(key, number as i64).map(drop),
            3 => rmw
                .set_with(key, "passing", &SetOptions::new().expire_in(soon))
                .map(drop),
            4 => rmw.append(key, self.bytes()).map(drop),
            5 => rmw
                .setrange(key, number as u64 % 50, self.bytes())
                .map(drop),
            6 | 7 => rmw.incr_by(key, 3).map(drop),
            8 => rmw.expire_in(key, soon, ExpireWhen::Always).map(drop),
            9 => rmw.persist(key).map(drop),
            10 => rmw.del(&[key]).map(drop),
            11 => rmw.del(&[key, other]).map(drop),
            12 => rmw.mset([(key, self.bytes()), (other, element().into_bytes())]),
            13 => rmw.rename(key, other),
            14 | 15 => rmw.rpush(key, [element(), element()]).map(drop),
            16 => rmw.lpush(key, (0..number).map(|i| i.to_string())).map(drop),
            17 => rmw.lpop(key).map(drop),
            18 => rmw.rpop_many(key, number as u64 % 7).map(drop),
            19 => rmw.lset(key, number as i64 % 4, element()).map(drop),
            20 => rmw.ltrim(key, 1, 40),
            21 => rmw.lrem(key, number as i64 % 3, element()).map(drop),
            22 => rmw.linsert_before(key, "1", element()).map(drop),
            23 => rmw.lmove(key, other, end, ListEnd::Front).map(drop),
            24 => rmw.lmove(key, key, end, ListEnd::Back).map(drop),
            25 => rmw
                .update_many(&[key, other], |tx| {
                    tx.append(key, "tx")?;
                    tx.append(key, "again")?;
                    tx.set(other, number as i64)?;
                    tx.incr_by(other, 1)?;
                    Ok::<_, RmwError>(())
                })
                .and_then(|inner| inner),
            26 => rmw.update(key, |entry| entry.set(number as i64)),
            _ if number < 100 => rmw.clear(),
            _ => rmw.incr_float(key, "1.5").map(drop),
        };
        match done {
            Err(RmwError::Store(error)) => Err(RmwError::Store(error)),
            _ => Ok(()),
        }
    }
}

/// A file system that does something of the test's before it makes or removes a certain file.
#[derive(Clone)]
pub(crate) struct Hooked {
    inner: MemoryFs,
    hooks: Arc<Mutex<Vec<(&'static str, Hook)>>>,
}

type Hook = Box<dyn FnOnce() + Send>;

impl Hooked {
    pub(crate) fn new(inner: MemoryFs) -> Self {
        Self {
            inner,
            hooks: Arc::default(),
        }
    }

    pub(crate) fn hook(&self, name: &'static str, hook: impl FnOnce() + Send + 'static) {
        self.hooks.lock().unwrap().push((name, Box::new(hook)));
    }

    fn run(&self, path: &Path) {
        let mut hooks = self.hooks.lock().unwrap();
        let of_this: Vec<_> = hooks
            .extract_if(.., |(name, _)| path.ends_with(name))
            .collect();
        drop(hooks);
        of_this.into_iter().for_each(|(_, hook)| hook());
    }
}

impl std::fmt::Debug for Hooked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooked").finish_non_exhaustive()
    }
}

impl Fs for Hooked {
    pass_on!(inner: rename create_dir_all read_dir sync_dir);

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.run(path);
        }
        self.inner.open(path, mode)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.run(path);
        self.inner.remove_file(path)
    }
}
