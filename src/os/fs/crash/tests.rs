mod oracle;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::super::{Fs, OpenMode, RecordingFs};
use super::*;

/// A store that publishes one value under the name `k`: made as `k.tmp`, written in two parts.
struct Publish {
    start: MemoryFs,
    fs: RecordingFs,
    file: Box<dyn super::super::File>,
}

const VALUE: [u8; 32] = *b"a value that is 32 bytes long...";

impl Publish {
    fn over(start: MemoryFs) -> Self {
        let fs = RecordingFs::new(Arc::new(start.copy()));
        let file = fs.open(Path::new("k.tmp"), OpenMode::CreateNew).unwrap();
        file.write_at(&VALUE[..16], 0).unwrap();
        file.write_at(&VALUE[16..], 16).unwrap();
        Self { start, fs, file }
    }

    fn new() -> Self {
        Self::over(MemoryFs::new())
    }

    fn sync(self) -> Self {
        self.file.sync_data().unwrap();
        self
    }

    fn rename(self) -> Self {
        self.fs.rename(Path::new("k.tmp"), Path::new("k")).unwrap();
        self
    }

    fn sync_dir(self) -> Self {
        self.fs.sync_dir(Path::new("/")).unwrap();
        self
    }

    fn acknowledge(self) -> Self {
        self.fs.note(1);
        self
    }

    /// In how many states the value is torn, or acknowledged and not there.
    fn violations(self, bounds: Bounds) -> usize {
        let ops = self.fs.ops();
        let states = states(&ops, &self.start, bounds);
        states
            .filter(|state| match state.fs.contents("k") {
                Ok(value) => value != VALUE,
                Err(_) => !state.notes.is_empty(),
            })
            .count()
    }
}

#[test]
fn publishing_is_safe_in_one_order_only() {
    for bounds in [Bounds::new(), Bounds::new().lengths(false), Bounds::short()] {
        let found = |publish: Publish| publish.violations(bounds.clone());
        let new = Publish::new;
        assert_ne!(found(new().rename().acknowledge()), 0, "no sync");
        assert_ne!(found(new().sync().rename().acknowledge()), 0, "file only");
        assert_ne!(
            found(new().rename().sync_dir().acknowledge()),
            0,
            "dir only"
        );
        assert_ne!(
            found(new().sync().sync_dir().rename().acknowledge()),
            0,
            "dir early"
        );
        let late = new().rename().sync().sync_dir().acknowledge();
        assert_ne!(found(late), 0, "file synced after the rename");
        let early = new().sync().rename().acknowledge().sync_dir();
        assert_ne!(found(early), 0, "acknowledged early");
        assert_eq!(found(new().sync().rename().sync_dir().acknowledge()), 0);
    }
}

#[test]
fn what_a_rename_replaces_is_there_until_the_new_is() {
    let start = MemoryFs::new();
    let old = start.open(Path::new("k"), OpenMode::Create).unwrap();
    old.write_at(b"old", 0).unwrap();
    let contents = |publish: Publish| -> BTreeSet<Vec<u8>> {
        let ops = publish.fs.ops();
        states(&ops, &publish.start, Bounds::new())
            .map(|state| state.fs.contents("k").unwrap())
            .collect()
    };
    let synced = Publish::over(start.copy()).sync().rename().sync_dir();
    assert_eq!(contents(synced), [b"old".to_vec(), VALUE.to_vec()].into());
    let unsynced = contents(Publish::over(start).rename().sync_dir());
    assert!(unsynced.contains(&[][..]), "the empty file: {unsynced:?}");
    assert!(unsynced.contains(&[0; 32][..]), "zeros: {unsynced:?}");
}

/// Everything that is there: each path with its bytes, or `None` for a directory.
type Listing = Vec<(String, Option<Vec<u8>>)>;

fn listing(fs: &MemoryFs) -> Listing {
    let mut found = Listing::new();
    let mut left = vec![PathBuf::from("/")];
    while let Some(directory) = left.pop() {
        for name in fs.read_dir(&directory).unwrap() {
            let path = directory.join(name);
            let contents = fs.contents(&path).ok();
            if contents.is_none() {
                left.push(path.clone());
            }
            found.push((path.to_str().unwrap().to_owned(), contents));
        }
    }
    found.sort();
    found
}

fn all(ops: &[Op], start: &MemoryFs, bounds: Bounds) -> BTreeSet<Listing> {
    states(ops, start, bounds)
        .map(|state| listing(&state.fs))
        .collect()
}

/// What is there after the last operation, in each state.
fn at_the_end(ops: &[Op], start: &MemoryFs) -> BTreeSet<Vec<String>> {
    let names = |listing: Listing| listing.into_iter().map(|(path, _)| path).collect();
    let noted: Vec<Op> = ops.iter().cloned().chain([Op::Note(0)]).collect();
    states(&noted, start, Bounds::new())
        .filter(|state| !state.notes.is_empty())
        .map(|state| names(listing(&state.fs)))
        .collect()
}

fn names<const STATES: usize>(states: [&[&str]; STATES]) -> BTreeSet<Vec<String>> {
    let owned = |state: &[&str]| state.iter().map(|&name| name.to_owned()).collect();
    states.into_iter().map(owned).collect()
}

fn create(path: &str, inode: u64) -> Op {
    Op::Create {
        path: path.into(),
        inode,
    }
}

fn write(inode: u64, offset: u64, bytes: &[u8]) -> Op {
    Op::Write {
        inode,
        offset,
        bytes: bytes.to_vec(),
    }
}

fn rename(from: &str, to: &str) -> Op {
    Op::Rename {
        from: from.into(),
        to: to.into(),
    }
}

fn sync_dir(path: &str) -> Op {
    Op::SyncDir { path: path.into() }
}

fn make_dir(path: &str) -> Op {
    Op::CreateDir { path: path.into() }
}

fn remove(path: &str) -> Op {
    Op::Remove { path: path.into() }
}

const DIRECTORY: Option<Vec<u8>> = None;

#[test]
fn a_synced_file_without_a_synced_name_may_be_gone() {
    let ops = [create("a", 1), write(1, 0, b"x"), Op::SyncData { inode: 1 }];
    assert_eq!(at_the_end(&ops, &MemoryFs::new()), names([&[], &["/a"]]));
}

#[test]
fn a_synced_name_may_lead_to_any_part_of_what_was_written() {
    let ops = [
        create("a", 1),
        sync_dir("/"),
        write(1, 510, b"abcd"),
        write(1, 1024, b"e"),
    ];
    let found = all(&ops, &MemoryFs::new(), Bounds::new().lengths(false));
    let mut expected = BTreeSet::from([Listing::new()]);
    for kept in 0..8 {
        let mut bytes: Vec<u8> = Vec::new();
        for (bit, offset, part) in [(0, 510, &b"ab"[..]), (1, 512, b"cd"), (2, 1024, b"e")] {
            if kept >> bit & 1 == 1 {
                bytes.resize(bytes.len().max(offset + part.len()), 0);
                bytes[offset..offset + part.len()].copy_from_slice(part);
            }
        }
        expected.insert(vec![("/a".to_owned(), Some(bytes))]);
    }
    assert_eq!(found, expected);
}

#[test]
fn a_length_may_be_there_without_the_bytes() {
    let ops = [create("a", 1), sync_dir("/"), write(1, 0, b"abc")];
    let with = all(&ops, &MemoryFs::new(), Bounds::new());
    let without = all(&ops, &MemoryFs::new(), Bounds::new().lengths(false));
    let zeros: Listing = vec![("/a".to_owned(), Some(vec![0; 3]))];
    assert!(with.contains(&zeros));
    assert!(!without.contains(&zeros));
    assert!(with.is_superset(&without));
}

#[test]
fn a_file_that_is_cut_may_come_back_whole() {
    let start = MemoryFs::new();
    let file = start.open(Path::new("a"), OpenMode::Create).unwrap();
    file.write_at(b"whole", 0).unwrap();
    let open = Op::Open {
        path: "a".into(),
        inode: 9,
    };
    let cut = Op::SetLen { inode: 9, len: 2 };
    let allocate = Op::Allocate { inode: 9, len: 4 };
    let found = all(
        &[open.clone(), cut.clone(), allocate],
        &start,
        Bounds::new(),
    );
    let file = |bytes: &[u8]| vec![("/a".to_owned(), Some(bytes.to_vec()))];
    let expected = [file(b"whole"), file(b"wh"), file(b"wh\0\0")];
    assert_eq!(found, expected.into());
    let synced = [open, cut, Op::SyncData { inode: 9 }, Op::Note(1)];
    let last = states(&synced, &start, Bounds::new()).last().unwrap();
    assert_eq!(listing(&last.fs), file(b"wh"));
}

#[test]
fn a_rename_in_a_directory_changes_both_names_or_none() {
    let ops = [
        create("a", 1),
        create("b", 2),
        sync_dir("/"),
        rename("a", "c"),
        remove("b"),
    ];
    let expected = names([&["/a", "/b"], &["/b", "/c"], &["/a"], &["/c"]]);
    assert_eq!(at_the_end(&ops, &MemoryFs::new()), expected);
}

#[test]
fn a_rename_persists_though_the_name_before_it_did_not() {
    let ops = [create("a", 1), rename("a", "b")];
    let expected = names([&[], &["/a"], &["/b"]]);
    assert_eq!(at_the_end(&ops, &MemoryFs::new()), expected);
}

#[test]
fn a_new_directory_needs_the_sync_of_its_parent() {
    let ops = [make_dir("d"), create("d/a", 1), sync_dir("d")];
    assert_eq!(
        at_the_end(&ops, &MemoryFs::new()),
        names([&[], &["/d", "/d/a"]])
    );
    let ops = [make_dir("d"), sync_dir("/"), create("d/a", 1)];
    assert_eq!(
        at_the_end(&ops, &MemoryFs::new()),
        names([&["/d"], &["/d", "/d/a"]])
    );
}

/// Directories `d` and `e`, and a file `d/a`.
fn two_directories() -> MemoryFs {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("d")).unwrap();
    fs.create_dir_all(Path::new("e")).unwrap();
    fs.open(Path::new("d/a"), OpenMode::Create).unwrap();
    fs
}

#[test]
fn a_file_that_moves_to_another_directory_is_in_one_of_them_at_least() {
    let start = two_directories();
    let ops = [rename("d/a", "e/b")];
    let before: &[&str] = &["/d", "/d/a", "/e"];
    let between: &[&str] = &["/d", "/d/a", "/e", "/e/b"];
    let moved: &[&str] = &["/d", "/e", "/e/b"];
    assert_eq!(at_the_end(&ops, &start), names([before, between, moved]));
    let ops = [rename("d/a", "e/b"), sync_dir("e")];
    assert_eq!(at_the_end(&ops, &start), names([between, moved]));
    let ops = [rename("d/a", "e/b"), sync_dir("d")];
    assert_eq!(at_the_end(&ops, &start), names([moved]));
}

#[test]
fn a_name_that_is_durable_hides_the_earlier_ones_of_its_directory_only() {
    let start = two_directories();
    // The new name in `e` comes with the sync of `d`, and with it the earlier change of that name.
    let ops = [
        create("e/b", 1),
        create("e/c", 2),
        rename("d/a", "e/b"),
        sync_dir("d"),
    ];
    let found = at_the_end(&ops, &start);
    assert_eq!(
        found,
        names([&["/d", "/e", "/e/b"], &["/d", "/e", "/e/b", "/e/c"]])
    );
    for state in states(&ops, &start, Bounds::new()) {
        if state.after == 4 {
            assert_eq!(state.fs.contents("e/b").unwrap(), b"", "{state}");
        }
    }
}

#[test]
fn a_directory_that_moves_is_in_one_place() {
    let start = two_directories();
    let ops = [rename("d", "e/d"), create("e/d/b", 1), rename("e/d", "d")];
    for state in states(&ops, &start, Bounds::new()) {
        let found = listing(&state.fs);
        let places = found.iter().filter(|(path, _)| path.ends_with("/a"));
        assert!(places.count() <= 1, "{state}: {found:?}");
        assert!(found.contains(&("/e".to_owned(), DIRECTORY)));
    }
    let ops = [rename("d", "e/d"), sync_dir("e")];
    assert_eq!(at_the_end(&ops, &start), names([&["/e", "/e/d", "/e/d/a"]]));
}

#[test]
fn two_directories_that_move_into_one_another_make_no_circle() {
    let start = MemoryFs::new();
    start.create_dir_all(Path::new("a/b")).unwrap();
    let ops = [rename("a/b", "b"), rename("a", "b/a")];
    assert_eq!(
        at_the_end(&ops, &start),
        names([&["/a", "/a/b"], &["/a", "/b"], &["/b", "/b/a"]])
    );
}

#[test]
fn a_state_comes_again_only_if_more_was_noted() {
    let ops = [
        create("a", 1),
        sync_dir("/"),
        sync_dir("/"),
        Op::Note(1),
        Op::SyncData { inode: 1 },
    ];
    let notes: Vec<usize> = states(&ops, &MemoryFs::new(), Bounds::new())
        .map(|state| state.notes.len())
        .collect();
    assert_eq!(notes, [0, 0, 1], "without, with, noted");
}

#[test]
fn a_state_says_what_it_kept_and_lost() {
    let ops = [create("a", 1), write(1, 0, b"x")];
    let found: Vec<String> = states(&ops, &MemoryFs::new(), Bounds::new())
        .map(|state| state.description())
        .collect();
    assert_eq!(found[0], "crash before any operation");
    assert_eq!(
        found[2],
        "crash after #2 write file 1 [0..1); kept: #1 create \"a\", \
         #2 length 1 of a write; lost: #2 write [0..1)"
    );
}

#[test]
#[should_panic(expected = "not created or opened")]
fn operations_on_a_file_that_never_was_are_refused() {
    states(&[write(1, 0, b"x")], &MemoryFs::new(), Bounds::new());
}

#[test]
fn many_undecided_changes_are_sampled() {
    let bytes: Vec<u8> = (0..24 * 512).map(|place| (place / 512 + 1) as u8).collect();
    let ops = [create("a", 1), sync_dir("/"), write(1, 0, &bytes)];
    let found = |samples| {
        let bounds = Bounds::new().lengths(false).samples(samples);
        let states = states(&ops, &MemoryFs::new(), bounds);
        let last = states.filter(|state| state.after == ops.len());
        let last: HashSet<Vec<u8>> = last.map(|state| state.fs.contents("a").unwrap()).collect();
        last.len()
    };
    // Of 24: one or two, all but those, all, and the other beginnings. None was there before.
    let chosen = 2 * (24 + 24 * 23 / 2) + 1 + (25 - 6);
    assert_eq!(found(0), chosen);
    assert!(found(100) > chosen + 50);
}
