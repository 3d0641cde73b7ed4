use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::{MemoryFs, RecordingFs, crash, read_full, write_all};
use super::*;

fn failing() -> (FailingFs, MemoryFs) {
    let memory = MemoryFs::new();
    (FailingFs::new(Arc::new(memory.clone())), memory)
}

fn open(fs: &FailingFs, path: &str) -> Box<dyn File> {
    fs.open(Path::new(path), OpenMode::Create).unwrap()
}

fn kind<T: fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn every_call_can_fail_and_then_does_nothing() {
    use Call::*;
    type Make = fn(&dyn Fs, &dyn File) -> io::Result<()>;
    let calls: [(Call, Make); 13] = [
        (Open, |fs, _| {
            fs.open(Path::new("b"), OpenMode::Create).map(drop)
        }),
        (Rename, |fs, _| fs.rename(Path::new("a"), Path::new("b"))),
        (RemoveFile, |fs, _| fs.remove_file(Path::new("a"))),
        (CreateDirAll, |fs, _| fs.create_dir_all(Path::new("d"))),
        (ReadDir, |fs, _| fs.read_dir(Path::new("/")).map(drop)),
        (SyncDir, |fs, _| fs.sync_dir(Path::new("/"))),
        (ReadAt, |_, file| file.read_at(&mut [0], 0).map(drop)),
        (WriteAt, |_, file| file.write_at(b"xyz", 0).map(drop)),
        (Allocate, |_, file| file.allocate(10)),
        (SetLen, |_, file| file.set_len(1)),
        (SyncData, |_, file| file.sync_data()),
        (Len, |_, file| file.len().map(drop)),
        (TryLock, |_, file| file.try_lock().map(drop)),
    ];
    for (call, make) in calls {
        let (fs, memory) = failing();
        let file = open(&fs, "a");
        write_all(&*file, b"abc", 0).unwrap();
        let before = fs.calls_of(call);
        fs.inject(Fault::new(Failure::Os(28)).on(call));
        assert_eq!(kind(make(&fs, &*file)), io::ErrorKind::StorageFull);
        assert_eq!(format!("{memory:?}"), r#"{"/a": 3}"#, "{call:?}");
        assert_eq!(memory.contents("a").unwrap(), b"abc", "{call:?}");
        make(&fs, &*file).unwrap();
        assert_eq!(fs.calls_of(call), before + 2);
        assert_eq!(fs.failures(), 1);
    }
}

#[test]
fn a_fault_hits_the_call_it_was_meant_for() {
    let (fs, _) = failing();
    let (a, b) = (open(&fs, "./a"), open(&fs, "b"));
    fs.inject(Fault::new(Failure::Io).on(Call::SyncData).under("a").nth(2));
    b.sync_data().unwrap();
    a.sync_data().unwrap();
    b.sync_data().unwrap();
    assert_eq!(a.sync_data().unwrap_err().raw_os_error(), Some(5));
    a.sync_data().unwrap();
    fs.inject(Fault::new(Failure::NoSpace).under("b"));
    assert_eq!(
        kind(fs.rename(Path::new("a"), Path::new("b"))),
        io::ErrorKind::StorageFull
    );
}

#[test]
fn a_fault_for_ever_lasts_until_it_is_healed() {
    let (fs, _) = failing();
    let file = open(&fs, "a");
    fs.inject(Fault::new(Failure::NoSpace).on(Call::WriteAt).forever());
    for _ in 0..3 {
        assert_eq!(kind(file.write_at(b"x", 0)), io::ErrorKind::StorageFull);
    }
    fs.heal();
    file.write_at(b"x", 0).unwrap();
}

#[test]
fn interrupting_for_ever_lets_a_loop_get_on() {
    let (fs, memory) = failing();
    let file = open(&fs, "a");
    fs.inject(Fault::new(Failure::Interrupted).forever());
    assert_eq!(kind(file.len()), io::ErrorKind::Interrupted);
    write_all(&*file, b"text", 0).unwrap();
    assert_eq!(memory.contents("a").unwrap(), b"text");
}

#[test]
fn short_calls_move_what_they_are_told_to() {
    let (fs, memory) = failing();
    let file = open(&fs, "a");
    fs.inject(Fault::new(Failure::Short(3)).forever());
    assert_eq!(file.write_at(b"abcdefgh", 0).unwrap(), 3);
    write_all(&*file, b"abcdefgh", 0).unwrap();
    assert_eq!(memory.contents("a").unwrap(), b"abcdefgh");
    let mut read = [0; 8];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), 3);
    assert_eq!(read_full(&*file, &mut read, 0).unwrap(), 8);
    fs.heal();
    fs.inject(Fault::new(Failure::Short(0)).forever());
    assert_eq!(kind(write_all(&*file, b"x", 0)), io::ErrorKind::WriteZero);
    assert_eq!(file.read_at(&mut read, 0).unwrap(), 1, "not the end");
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
}

#[test]
fn a_call_may_fail_although_it_was_done() {
    let (fs, memory) = failing();
    drop(open(&fs, "a"));
    fs.inject(Fault::new(Failure::Io).on(Call::Rename).although_done());
    fs.rename(Path::new("a"), Path::new("b")).unwrap_err();
    assert_eq!(format!("{memory:?}"), r#"{"/b": 0}"#);
}

#[test]
fn a_call_that_panics_leaves_nothing_stuck() {
    let (fs, _) = failing();
    let file = open(&fs, "a");
    fs.inject(Fault::new(Failure::Panic).on(Call::WriteAt));
    catch_unwind(AssertUnwindSafe(|| file.write_at(b"x", 0))).unwrap_err();
    assert_eq!(file.write_at(b"x", 0).unwrap(), 1);
}

#[test]
fn a_failed_sync_drops_what_was_written_since_the_last() {
    let (fs, memory) = failing();
    fs.inject(Fault::new(Failure::Io).nth(2).dropping_unsynced());
    let file = open(&fs, "a");
    write_all(&*file, b"synced", 0).unwrap();
    file.sync_data().unwrap();
    write_all(&*file, b"SYN", 0).unwrap();
    write_all(&*open(&fs, "a"), b"yn", 1).unwrap();
    write_all(&*file, b"grown", 6).unwrap();
    fs.rename(Path::new("a"), Path::new("b")).unwrap();
    assert_eq!(memory.contents("b").unwrap(), b"Syncedgrown");
    open(&fs, "b").sync_data().unwrap_err();
    assert_eq!(memory.contents("b").unwrap(), b"synced\0\0\0\0\0");
    file.sync_data().unwrap();
}

#[test]
fn what_a_failed_sync_drops_is_not_brought_back_by_the_next() {
    let start = MemoryFs::new();
    let recording = RecordingFs::new(Arc::new(start.copy()));
    let fs = FailingFs::new(Arc::new(recording.clone()));
    fs.inject(Fault::new(Failure::Io).dropping_unsynced());
    let file = open(&fs, "a");
    fs.sync_dir(Path::new("/")).unwrap();
    write_all(&*file, b"lost", 0).unwrap();
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    recording.note(1);
    for state in crash::states(&recording.ops(), &start, crash::Bounds::new()) {
        if !state.notes.is_empty() {
            assert_eq!(state.fs.contents("a").unwrap(), [0; 4], "{state}");
        }
    }
}
