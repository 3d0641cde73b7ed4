//! File systems for tests, on real threads.

#[macro_use]
#[path = "support/pass_on.rs"]
mod pass_on;

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
    pass_on!(inner: rename remove_file create_dir_all read_dir sync_dir);

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        Ok(Box::new(GatedFile {
            inner: self.inner.open(path, mode)?,
            gate: self.gate.clone(),
        }))
    }
}

impl File for GatedFile {
    pass_on!(inner: read_at write_at allocate set_len len try_lock);

    fn sync_data(&self) -> io::Result<()> {
        self.gate.begun.send(()).unwrap();
        self.gate.on.lock().unwrap().recv().unwrap();
        self.inner.sync_data()
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
