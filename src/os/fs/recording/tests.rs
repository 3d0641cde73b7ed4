use super::super::{MemoryFs, RealFs, crash, write_all};
use super::*;

fn recording() -> (RecordingFs, MemoryFs) {
    let memory = MemoryFs::new();
    (RecordingFs::new(Arc::new(memory.clone())), memory)
}

fn open(fs: &RecordingFs, path: &str, mode: OpenMode) -> Box<dyn File> {
    fs.open(Path::new(path), mode).unwrap()
}

fn printed(fs: &RecordingFs) -> Vec<String> {
    fs.ops().iter().map(Op::to_string).collect()
}

#[test]
fn a_file_keeps_its_number_when_it_is_renamed() {
    let (fs, _) = recording();
    let file = open(&fs, "./a", OpenMode::Create);
    drop(file);
    fs.create_dir_all(Path::new("d/e")).unwrap();
    fs.rename(Path::new("a"), Path::new("d/e/a")).unwrap();
    fs.rename(Path::new("d"), Path::new("f")).unwrap();
    open(&fs, "f/e/a", OpenMode::Create).set_len(1).unwrap();
    open(&fs, "a", OpenMode::Create).allocate(2).unwrap();
    fs.rename(Path::new("a"), Path::new("f/e/a")).unwrap();
    open(&fs, "f/e/a", OpenMode::ReadWrite).set_len(3).unwrap();
    fs.remove_file(Path::new("f/e/a")).unwrap();
    open(&fs, "f/e/a", OpenMode::CreateNew).sync_data().unwrap();
    fs.sync_dir(Path::new("f")).unwrap();
    assert_eq!(
        printed(&fs),
        [
            r#"create "./a" as file 1"#,
            r#"make directory "d""#,
            r#"make directory "d/e""#,
            r#"rename "a" to "d/e/a""#,
            r#"rename "d" to "f""#,
            "set the length of file 1 to 1",
            r#"create "a" as file 2"#,
            "allocate 2 bytes for file 2",
            r#"rename "a" to "f/e/a""#,
            "set the length of file 2 to 3",
            r#"remove "f/e/a""#,
            r#"create "f/e/a" as file 3"#,
            "sync file 3",
            r#"sync directory "f""#,
        ]
    );
}

#[test]
fn what_was_there_before_is_told_from_what_is_made() {
    let (_, memory) = recording();
    memory.create_dir_all(Path::new("old")).unwrap();
    memory.open(Path::new("old/a"), OpenMode::Create).unwrap();
    let fs = RecordingFs::new(Arc::new(memory));
    for _ in 0..2 {
        open(&fs, "old/a", OpenMode::Create);
        open(&fs, "old/a", OpenMode::Read);
        open(&fs, "old/b", OpenMode::Create);
        fs.create_dir_all(Path::new("old/new")).unwrap();
    }
    assert_eq!(
        printed(&fs),
        [
            r#"open "old/a" as file 1"#,
            r#"create "old/b" as file 2"#,
            r#"make directory "old/new""#,
        ]
    );
}

#[test]
fn what_fails_is_not_in_the_log_and_what_is_short_is_as_long_as_it_was() {
    let (fs, memory) = recording();
    memory.set_capacity(3);
    let file = open(&fs, "a", OpenMode::Create);
    assert_eq!(file.write_at(b"abcd", 0).unwrap(), 3);
    file.write_at(b"d", 3).unwrap_err();
    file.set_len(4).unwrap_err();
    file.allocate(4).unwrap_err();
    let reading = open(&fs, "a", OpenMode::Read);
    reading.write_at(b"x", 0).unwrap_err();
    fs.rename(Path::new("b"), Path::new("c")).unwrap_err();
    fs.remove_file(Path::new("b")).unwrap_err();
    fs.sync_dir(Path::new("b")).unwrap_err();
    fs.create_dir_all(Path::new("a/b")).unwrap_err();
    fs.open(Path::new("a"), OpenMode::CreateNew).unwrap_err();
    assert_eq!(
        printed(&fs),
        [r#"create "a" as file 1"#, "write file 1 [0..3)"]
    );
}

#[test]
fn what_is_recorded_over_the_kernel_can_be_crashed() {
    let dir = std::env::temp_dir().join(format!("latchwork-recording-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("new/file");
    let start = MemoryFs::load(&RealFs::new(), &dir).unwrap();
    let fs = RecordingFs::new(Arc::new(RealFs::new()));
    fs.create_dir_all(&dir.join("new")).unwrap();
    let file = fs.open(&path, OpenMode::Create).unwrap();
    write_all(&*file, b"text", 0).unwrap();
    file.sync_data().unwrap();
    fs.sync_dir(&dir.join("new")).unwrap();
    let ops = fs.ops();
    std::fs::remove_dir_all(&dir).unwrap();
    let states = crash::states(&ops, &start, crash::Bounds::new());
    let found: Vec<_> = states.map(|it| it.fs.contents(&path).is_ok()).collect();
    assert!(found.contains(&true));
    assert_eq!(found.last(), Some(&true));
    let synced = Op::SyncDir { path: dir };
    let ops: Vec<Op> = ops.into_iter().chain([synced, Op::Note(1)]).collect();
    for state in crash::states(&ops, &start, crash::Bounds::new()) {
        if !state.notes.is_empty() {
            assert_eq!(state.fs.contents(&path).unwrap(), b"text", "{state}");
        }
    }
}
