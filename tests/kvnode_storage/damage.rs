//! Files that hold what was never written there.

use std::path::Path;

use latchwork::fs::{Fs, MemoryFs, OpenMode};

use crate::storage::Fsync;
use crate::support::{Dump, config, open};

fn names(fs: &MemoryFs, ending: &str) -> Vec<String> {
    let names = fs.read_dir(Path::new("/data")).unwrap();
    let names = names.into_iter().map(|name| name.into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

/// Two segments, a manifest and a log.
fn written() -> (MemoryFs, Dump) {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    node.rmw.set("number", 7).unwrap();
    node.rmw.rpush("list", ["a", "b"]).unwrap();
    node.save().unwrap();
    node.rmw.set("string", vec![b'x'; 100]).unwrap();
    node.rmw.del(&["number"]).unwrap();
    node.save().unwrap();
    node.rmw.append("string", "y").unwrap();
    let dump = node.dump();
    node.close();
    (fs, dump)
}

fn flip(fs: &MemoryFs, path: &Path, at: u64, bits: u8) {
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, at).unwrap();
    file.write_at(&[byte[0] ^ bits], at).unwrap();
}

#[test]
fn every_flipped_bit_of_a_segment_or_the_manifest_is_an_error_that_names_the_file() {
    let (fs, _) = written();
    let mut files = names(&fs, ".segment");
    assert_eq!(files.len(), 2);
    files.push("MANIFEST".to_owned());
    for name in files {
        let path = Path::new("/data").join(&name);
        let len = fs.contents(&path).unwrap().len() as u64;
        for at in 0..len {
            let fs = fs.copy();
            flip(&fs, &path, at, 1 << (at % 8));
            let before = fs.read_dir(Path::new("/data")).unwrap();
            let error = open(config(&fs, Fsync::Always)).err().unwrap();
            assert!(error.is_corrupt(), "byte {at}: {error}");
            let text = error.to_string();
            assert!(text.contains(&name), "byte {at}: {error}");
            let is_helpful = text.contains("from a copy") || text.contains("a newer one");
            assert!(is_helpful, "byte {at}: {error}");
            let after = fs.read_dir(Path::new("/data")).unwrap();
            assert_eq!(before.len(), after.len(), "byte {at}");
        }
    }
}

#[test]
fn every_cut_of_a_segment_or_the_manifest_is_an_error() {
    let (fs, _) = written();
    for name in names(&fs, "") {
        if name != "MANIFEST" && !name.ends_with(".segment") {
            continue;
        }
        let path = Path::new("/data").join(&name);
        let len = fs.contents(&path).unwrap().len() as u64;
        for new in (0..len).chain([len + 1]) {
            let fs = fs.copy();
            let file = fs.open(&path, OpenMode::ReadWrite).unwrap();
            file.set_len(new).unwrap();
            let error = open(config(&fs, Fsync::Always)).err().unwrap();
            assert!(error.is_corrupt(), "{name}, {new} bytes: {error}");
        }
    }
}

#[test]
fn a_segment_that_is_gone_or_stands_for_another_is_an_error() {
    let (fs, _) = written();
    let names = names(&fs, ".segment");
    let [first, second] = &names[..] else {
        panic!("{names:?}");
    };
    let (first, second) = (
        Path::new("/data").join(first),
        Path::new("/data").join(second),
    );
    let gone = fs.copy();
    gone.remove_file(&first).unwrap();
    let error = open(config(&gone, Fsync::Always)).err().unwrap();
    assert!(error.to_string().contains("is not there"), "{error}");
    let swapped = fs.copy();
    swapped.rename(&first, &second).unwrap();
    assert!(
        open(config(&swapped, Fsync::Always))
            .err()
            .unwrap()
            .is_corrupt()
    );
}

#[test]
fn a_log_that_begins_too_late_or_ends_too_early_is_an_error() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    for number in 0..200 {
        node.rmw.set("key", vec![number; 200]).unwrap();
        // One group would be one file.
        node.sync();
    }
    node.save().unwrap();
    node.rmw.set("key", "last").unwrap();
    node.close();
    assert!(names(&fs, ".wal").len() <= 2, "most of it was released");
    let lost = fs.copy();
    lost.remove_file(Path::new("/data/MANIFEST")).unwrap();
    let error = open(config(&lost, Fsync::Always)).err().unwrap();
    assert!(error.to_string().contains("begins with record"), "{error}");
    assert_eq!(names(&lost, ".segment").len(), 1, "nothing was removed");
    let cut = fs.copy();
    for name in names(&cut, ".wal") {
        cut.remove_file(&Path::new("/data").join(name)).unwrap();
    }
    let error = open(config(&cut, Fsync::Always)).err().unwrap();
    assert!(error.to_string().contains("ends with record 0"), "{error}");
}

/// The log keeps its own records whole; what is in them may still be another program's.
#[test]
fn a_record_of_another_program_is_an_error() {
    for body in [
        &b""[..],
        b"\x02\x01",
        b"\x01\x07",
        b"\x01\x01\xff\xff\xff\xff\xff",
        // A write far beyond the longest string.
        b"\x01\x01\x01k\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x01x",
    ] {
        let fs = MemoryFs::new();
        let log = latchwork::Wal::builder("/data").fs(std::sync::Arc::new(fs.clone()));
        let (wal, _) = log.open(|_, _| Ok::<(), std::io::Error>(())).unwrap();
        wal.append(body).unwrap();
        wal.close().unwrap();
        drop(wal);
        let error = open(config(&fs, Fsync::Always)).err();
        let error = error.unwrap_or_else(|| panic!("{body:?} was taken"));
        assert!(error.is_corrupt(), "{body:?}: {error}");
    }
}

#[test]
fn a_change_that_does_not_fit_its_key_is_an_error() {
    // A push onto a string.
    let put = b"\x01\x01\x01k\x00\x00\x00\x01v\x00";
    let push = b"\x01\x01\x01k\x00\x04\x00\x01\x01e";
    let fs = MemoryFs::new();
    let log = latchwork::Wal::builder("/data").fs(std::sync::Arc::new(fs.clone()));
    let (wal, _) = log.open(|_, _| Ok::<(), std::io::Error>(())).unwrap();
    wal.append(put).unwrap();
    wal.append(push).unwrap();
    drop(wal);
    let error = open(config(&fs, Fsync::Always)).err().unwrap();
    assert!(error.to_string().contains("does not fit"), "{error}");
}

#[test]
fn what_is_not_damaged_is_read() {
    let (fs, dump) = written();
    assert_eq!(open(config(&fs, Fsync::Always)).unwrap().dump(), dump);
}
