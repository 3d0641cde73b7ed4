//! What must hold of kvnode's files whatever they hold: loading them does not panic, and what is loaded is there again
//! after the next start. Where no checksum was forged, nothing else is loaded than what was written.
//!
//! An input is a program of bytes that spoils the files of a small server: two segments, a manifest, a log. It changes
//! and cuts them, puts bytes of its own into the log as records, and puts checksums right again, so that what lies behind
//! those is reached as well.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};

use crc32c::{crc32c, crc32c_append};
use latchwork::fs::{Fs, MemoryFs, OpenMode, write_all};
use latchwork::rmw::{Clock, Rmw, Value};
use latchwork::{LatchTable, Wal};

use crate::storage::{self, Config, DurableStore, Fsync, Storage, StorageError};

const DIR: &str = "/data";
/// What the clock says; nothing expires while it is looked at.
const NOW: u64 = 1_700_000_000_000;

type Dump = BTreeMap<Vec<u8>, (Value, Option<u64>)>;

fn open(fs: &MemoryFs) -> Result<(Rmw<DurableStore>, Arc<Storage>), StorageError> {
    let config = Config {
        log_segment_bytes: 4096,
        fs: Arc::new(fs.clone()),
        clock: Clock::manual(NOW),
        ..Config::new(DIR, Fsync::Always)
    };
    let latches = LatchTable::new();
    let clock = config.clock.clone();
    let (storage, store) = storage::open(config, &latches, |_| {})?;
    let rmw = Rmw::builder().latches(latches).store(store).clock(clock);
    Ok((rmw.build(), storage))
}

fn dump(rmw: &Rmw<DurableStore>) -> Dump {
    let keys = rmw.keys("*").into_iter();
    let entries = keys.filter_map(|key| {
        let value = rmw.get_with(&key, |value| value.cloned())?;
        let deadline = rmw.expires_at(&key)?;
        Some((key.to_vec(), (value, deadline)))
    });
    entries.collect()
}

/// The files, and what they hold.
fn written() -> &'static (MemoryFs, Dump) {
    static WRITTEN: OnceLock<(MemoryFs, Dump)> = OnceLock::new();
    WRITTEN.get_or_init(|| {
        let fs = MemoryFs::new();
        let (rmw, storage) = open(&fs).expect("open");
        let save = || {
            let (send, saved) = mpsc::channel();
            let saving = storage.save(move |result| drop(send.send(result)));
            saving.expect("save");
            saved.recv().expect("an end").expect("save");
        };
        rmw.set("number", 7).expect("set");
        rmw.set("string", "text").expect("set");
        rmw.rpush("list", ["a", "b", "c"]).expect("rpush");
        save();
        rmw.set("late", vec![b'x'; 100]).expect("set");
        rmw.del(&["number"]).expect("del");
        save();
        let dump = dump(&rmw);
        drop(rmw);
        storage.close().expect("close");
        drop(storage);
        (fs, dump)
    })
}

/// Hands out the input byte by byte; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn number(&mut self) -> usize {
        usize::from(self.byte()) | usize::from(self.byte()) << 8
    }

    fn bytes(&mut self) -> Vec<u8> {
        (0..self.byte()).map(|_| self.byte()).collect()
    }
}

/// What was done to the files.
#[derive(Default)]
struct Spoilt {
    is_forged: bool,
    /// The log may lose its end without a complaint.
    is_log: bool,
}

/// Checks one input.
pub(crate) fn check(bytes: &[u8]) {
    let (fs, before) = written();
    let fs = fs.copy();
    let mut input = Input(bytes);
    let mut spoilt = Spoilt::default();
    while !input.0.is_empty() {
        spoil(&fs, &mut input, &mut spoilt);
    }
    let (rmw, storage) = match open(&fs) {
        Ok(opened) => opened,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let loaded = dump(&rmw);
    if !spoilt.is_forged && !spoilt.is_log {
        assert_eq!(loaded, *before, "something else was loaded");
    }
    drop(rmw);
    storage.close().expect("close");
    drop(storage);
    let (rmw, storage) = open(&fs).expect("what was loaded is loaded again");
    assert_eq!(dump(&rmw), loaded, "the same is loaded again");
    drop(rmw);
    storage.close().expect("close");
}

fn files(fs: &MemoryFs) -> Vec<PathBuf> {
    let names = fs.read_dir(Path::new(DIR)).expect("read_dir");
    let mut paths: Vec<_> = names.iter().map(|name| Path::new(DIR).join(name)).collect();
    paths.retain(|path| !path.ends_with("LOCK"));
    paths.sort();
    paths
}

fn replace(fs: &MemoryFs, path: &Path, bytes: &[u8]) {
    let file = fs.open(path, OpenMode::Create).expect("open");
    file.set_len(0).expect("set_len");
    write_all(&*file, bytes, 0).expect("write");
}

/// Does the next thing that the input says.
fn spoil(fs: &MemoryFs, input: &mut Input<'_>, spoilt: &mut Spoilt) {
    let what = input.byte() % 8;
    let paths = files(fs);
    let which = usize::from(input.byte());
    let Some(path) = paths.get(which % paths.len().max(1)) else {
        return;
    };
    let is_log = path.extension().is_some_and(|extension| extension == "wal");
    let mut bytes = fs.contents(path).expect("contents");
    match what {
        0 | 1 => {
            let at = input.number();
            let change = input.byte();
            let len = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at % len) {
                *byte ^= change;
            }
        }
        2 => bytes.truncate(input.number() % (bytes.len() + 1)),
        3 => {
            let at = input.number() % (bytes.len() + 1);
            let new = input.bytes();
            let end = bytes.len().min(at + usize::from(input.byte()));
            bytes.splice(at..end, new);
        }
        4 => {
            spoilt.is_log |= is_log;
            // A manifest that is gone makes an empty server, as segments that nobody lists do.
            spoilt.is_forged |= path.ends_with("MANIFEST");
            return fs.remove_file(path).expect("remove_file");
        }
        5 => {
            spoilt.is_forged = true;
            return append(fs, &input.bytes());
        }
        _ => {
            spoilt.is_forged = true;
            let number = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse().ok());
            match number {
                Some(number) => fix_segment(&mut bytes, number),
                None if path.ends_with("MANIFEST") => fix_manifest(&mut bytes),
                None => {}
            }
        }
    }
    spoilt.is_log |= is_log;
    replace(fs, path, &bytes);
}

/// Appends a record to the log, if that opens.
fn append(fs: &MemoryFs, body: &[u8]) {
    let log = Wal::builder(DIR)
        .fs(Arc::new(fs.clone()))
        .segment_bytes(4096);
    if let Ok((wal, _)) = log.open(|_, _| Ok::<(), io::Error>(())) {
        wal.append(body).expect("append");
        wal.close().expect("close");
    }
}

fn put(bytes: &mut [u8], at: usize, word: &[u8]) {
    if let Some(to) = bytes.get_mut(at..at + word.len()) {
        to.copy_from_slice(word);
    }
}

fn fix_manifest(bytes: &mut [u8]) {
    if let Some(body) = bytes.get(16..) {
        let sum = crc32c(body);
        put(bytes, 12, &sum.to_le_bytes());
    }
}

/// Makes all checksums of a segment right, and the lengths of its blocks as far as they lie in it.
fn fix_segment(bytes: &mut [u8], number: u64) {
    let sum = |offset: usize, bytes: &[u8]| {
        let place = crc32c_append(
            crc32c(&number.to_le_bytes()),
            &(offset as u64).to_le_bytes(),
        );
        crc32c_append(place, bytes)
    };
    let Some(end) = bytes.len().checked_sub(32).filter(|end| *end >= 24) else {
        return;
    };
    put(bytes, 16, &number.to_le_bytes());
    let head = sum(0, &bytes[..12]);
    put(bytes, 12, &head.to_le_bytes());
    let mut at = 24;
    let mut last = at;
    while at + 8 <= end {
        let len = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let len = (len as usize).min(end - at - 8);
        put(bytes, at, &(len as u32).to_le_bytes());
        let block = sum(at, &bytes[at + 8..at + 8 + len]);
        put(bytes, at + 4, &block.to_le_bytes());
        last = at;
        at += 8 + len;
    }
    put(bytes, end, &(last as u64).to_le_bytes());
    put(bytes, end + 8, &((end - last) as u32).to_le_bytes());
    let foot = sum(end, &bytes[end..end + 20]);
    put(bytes, end + 20, &foot.to_le_bytes());
}
