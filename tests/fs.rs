//! File systems for tests, on real threads.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use latchwork::fs::{File, Fs, MemoryFs, Op, OpenMode, RecordingFs};

/// A file system whose syncs of files say that they have begun and wait to be let on.
#[derive(Debug)]
struct Gated {
    inner: MemoryFs,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    begun: SyncSender<()>,
    on: Mutex<Receiver<()>>,
}

#[derive(Debug)]
struct GatedFile {
    inner: Box<dyn File>,
    gate: Arc<Gate>,
}

impl Fs for Gated {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        Ok(Box::new(GatedFile {
            inner: self.inner.open(path, mode)?,
            gate: self.gate.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.inner.read_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
}

impl File for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(bytes, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.inner.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.begun.send(()).unwrap();
        self.gate.on.lock().unwrap().recv().unwrap();
        self.inner.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.inner.try_lock()
    }
}

#[test]
fn a_recorded_sync_does_not_cover_a_write_that_began_during_it() {
    let (begun, has_begun) = sync_channel(1);
    let (go_on, on) = sync_channel(1);
    let gate = Arc::new(Gate {
        begun,
        on: Mutex::new(on),
    });
    let inner = MemoryFs::new();
    let fs = RecordingFs::new(Arc::new(Gated { inner, gate }));
    let open = |path| fs.open(Path::new(path), OpenMode::Create).unwrap();
    let (file, same, other) = (open("a"), open("a"), open("b"));
    thread::scope(|scope| {
        scope.spawn(|| file.sync_data().unwrap());
        has_begun.recv().unwrap();
        let (started, has_started) = sync_channel(1);
        scope.spawn(move || {
            started.send(()).unwrap();
            same.write_at(b"late", 0).unwrap();
        });
        has_started.recv().unwrap();
        // None of these waits for the sync.
        fs.note(1);
        other.write_at(b"x", 0).unwrap();
        assert_eq!(file.read_at(&mut [0; 4], 0).unwrap(), 0);
        open("c");
        go_on.send(()).unwrap();
    });
    let place = |wanted: &dyn Fn(&Op) -> bool| fs.ops().iter().position(wanted).unwrap();
    let sync = place(&|op| matches!(op, Op::SyncData { .. }));
    let write = place(&|op| matches!(op, Op::Write { inode: 1, .. }));
    assert!(sync < write, "{:?}", fs.ops());
    assert!(place(&|op| *op == Op::Note(1)) < sync);
    assert!(place(&|op| matches!(op, Op::Write { inode: 2, .. })) < sync);
}
