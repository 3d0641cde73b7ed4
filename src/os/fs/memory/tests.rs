use std::fs as real_fs;

use super::*;
use crate::os::fs::{RealFs, write_all};

fn open(fs: &MemoryFs, path: &str, mode: OpenMode) -> Box<dyn File> {
    fs.open(Path::new(path), mode).unwrap()
}

#[test]
fn a_file_lives_as_long_as_it_is_open() {
    let fs = MemoryFs::new();
    let file = open(&fs, "gone", OpenMode::Create);
    write_all(&*file, b"still here", 0).unwrap();
    fs.remove_file(Path::new("gone")).unwrap();
    assert_eq!(read_all(&*file).unwrap(), b"still here");
    assert_eq!(fs.used(), 10);
    drop(file);
    assert_eq!(fs.used(), 0);
}

#[test]
fn a_file_that_is_replaced_gives_its_room_back() {
    let fs = MemoryFs::new();
    write_all(&*open(&fs, "old", OpenMode::Create), &[1; 100], 0).unwrap();
    write_all(&*open(&fs, "new", OpenMode::Create), &[2; 10], 0).unwrap();
    fs.rename(Path::new("new"), Path::new("old")).unwrap();
    assert_eq!(fs.contents("old").unwrap(), [2; 10]);
    assert_eq!(fs.used(), 10);
}

#[test]
fn a_full_disk_takes_what_fits_and_lets_it_be_overwritten() {
    let fs = MemoryFs::new();
    fs.set_capacity(8);
    let file = open(&fs, "file", OpenMode::Create);
    assert_eq!(file.write_at(&[1; 12], 2).unwrap(), 6, "two are the hole");
    let full = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    };
    full(file.write_at(b"x", 8).map(drop));
    full(file.allocate(9));
    full(file.set_len(9));
    assert_eq!(file.write_at(&[3; 8], 0).unwrap(), 8);
    fs.set_capacity(4);
    assert_eq!(file.write_at(&[4; 8], 0).unwrap(), 8, "it is there already");
    file.set_len(3).unwrap();
    assert_eq!(file.write_at(b"yz", 3).unwrap(), 1);
    assert_eq!(fs.used(), 4);
}

#[test]
fn a_lock_is_the_handles_until_it_is_closed() {
    let fs = MemoryFs::new();
    let (one, two) = (
        open(&fs, "lock", OpenMode::Create),
        open(&fs, "lock", OpenMode::Create),
    );
    assert!(one.try_lock().unwrap());
    assert!(one.try_lock().unwrap());
    assert!(!two.try_lock().unwrap());
    assert!(open(&fs.copy(), "lock", OpenMode::Read).try_lock().unwrap());
    drop(one);
    assert!(two.try_lock().unwrap());
}

/// What the two file systems are asked, and how each answered.
struct Pair {
    real: RealFs,
    memory: MemoryFs,
    dir: PathBuf,
    files: Vec<(Box<dyn File>, Box<dyn File>)>,
}

/// An answer in a form that can be compared: errors by their number.
fn answer<T>(result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| match error.raw_os_error() {
        Some(code) => format!("{}", io::Error::from_raw_os_error(code)),
        None => format!("{:?}", error.kind()),
    })
}

impl Pair {
    fn both<T: PartialEq + fmt::Debug>(
        &self,
        what: &str,
        call: impl Fn(&dyn Fs) -> io::Result<T>,
    ) -> bool {
        let (real, memory) = (answer(call(&self.real)), answer(call(&self.memory)));
        assert_eq!(real, memory, "{what}: the kernel's first");
        real.is_ok()
    }

    fn path(&self, random: &mut fastrand::Rng) -> PathBuf {
        const NAMES: [&str; 14] = [
            "a", "b", "d", "e", "d/a", "d/b", "d/d", "d/d/a", "d/d/d", "e/a", "d/../a", "./e",
            "d/..", "none/a",
        ];
        self.dir.join(NAMES[random.usize(..NAMES.len())])
    }

    fn step(&mut self, random: &mut fastrand::Rng) {
        let (one, two) = (self.path(random), self.path(random));
        match random.u8(..20) {
            0..=3 => self.open(&one, random),
            4..=5 => drop(self.both(&format!("rename {one:?} {two:?}"), |fs| {
                fs.rename(&one, &two)
            })),
            6 => drop(self.both(&format!("remove {one:?}"), |fs| fs.remove_file(&one))),
            7..=8 => drop(self.both(&format!("mkdir {one:?}"), |fs| fs.create_dir_all(&one))),
            9 => drop(self.both(&format!("list {one:?}"), |fs| {
                let mut names = fs.read_dir(&one)?;
                names.sort();
                Ok(names)
            })),
            // The kernel syncs a file that is given as a directory.
            10 if one.is_file() => {}
            10 => drop(self.both(&format!("sync {one:?}"), |fs| fs.sync_dir(&one))),
            _ if self.files.is_empty() => {}
            11 => drop(self.files.swap_remove(random.usize(..self.files.len()))),
            _ => self.use_file(random),
        }
    }

    fn open(&mut self, path: &Path, random: &mut fastrand::Rng) {
        let modes = [
            OpenMode::Read,
            OpenMode::ReadWrite,
            OpenMode::CreateNew,
            OpenMode::Create,
        ];
        let mode = modes[random.usize(..4)];
        // The kernel opens a directory for reading.
        if mode == OpenMode::Read && path.is_dir() {
            return;
        }
        match (self.real.open(path, mode), self.memory.open(path, mode)) {
            (Ok(real), Ok(memory)) => self.files.push((real, memory)),
            (real, memory) => assert_eq!(
                answer(real.map(drop)),
                answer(memory.map(drop)),
                "open {path:?} {mode:?}"
            ),
        }
        if self.files.len() > 6 {
            self.files.swap_remove(random.usize(..6));
        }
    }

    fn use_file(&self, random: &mut fastrand::Rng) {
        let (real, memory) = &self.files[random.usize(..self.files.len())];
        let both = |what: &str, call: &dyn Fn(&dyn File) -> io::Result<u64>| {
            assert_eq!(answer(call(&**real)), answer(call(&**memory)), "{what}");
        };
        let edges = [0, 1, 511, 512, 4095, 4096, 4097, 10_000];
        let mut place = || edges[random.usize(..edges.len())] + random.u64(..3);
        let (offset, len) = (place(), place());
        match random.u8(..8) {
            0..=2 => {
                let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
                both("write", &|file| Ok(file.write_at(&bytes, offset)? as u64));
            }
            3 => {
                let mut buffers = (vec![1; len as usize], vec![1; len as usize]);
                let counts = (
                    answer(real.read_at(&mut buffers.0, offset)),
                    answer(memory.read_at(&mut buffers.1, offset)),
                );
                assert_eq!(counts.0, counts.1, "read {len} at {offset}");
                assert_eq!(buffers.0, buffers.1, "read {len} at {offset}");
            }
            4 => both("set_len", &|file| file.set_len(len).map(|()| 0)),
            5 => both("allocate", &|file| file.allocate(len).map(|()| 0)),
            6 => both("try_lock", &|file| file.try_lock().map(u64::from)),
            _ => both("sync", &|file| file.sync_data().map(|()| 0)),
        }
        both("len", &|file| file.len());
    }

    /// All names and bytes.
    fn compare(&self) {
        let loaded = MemoryFs::load(&self.real, &self.dir).unwrap();
        let mut left = vec![self.dir.clone()];
        while let Some(path) = left.pop() {
            let is_file = loaded.contents(&path).is_ok();
            if is_file {
                assert!(loaded.contents(&path).unwrap() == self.memory.contents(&path).unwrap());
            } else {
                assert!(self.both(&format!("{path:?}"), |fs| {
                    let mut names = fs.read_dir(&path)?;
                    names.sort();
                    Ok(names)
                }));
                let names = loaded.read_dir(&path).unwrap();
                left.extend(names.into_iter().map(|name| path.join(name)));
            }
        }
    }
}

#[test]
fn it_answers_as_the_kernel_does() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..20 {
        let name = format!("latchwork-memory-{}-{seed:x}-{round}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let mut pair = Pair {
            real: RealFs::new(),
            memory: MemoryFs::new(),
            dir,
            files: Vec::new(),
        };
        let dir = pair.dir.clone();
        assert!(pair.both("mkdir", |fs| fs.create_dir_all(&dir)));
        for _ in 0..400 {
            pair.step(&mut random);
        }
        pair.compare();
        real_fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn the_names_and_offsets_that_the_kernel_refuses_are_refused() {
    let (real, memory) = (RealFs::new(), MemoryFs::new());
    let dir = std::env::temp_dir();
    memory.create_dir_all(&dir).unwrap();
    let long = dir.join("x".repeat(256));
    for path in [Path::new(""), Path::new("nul\0"), &long] {
        for mode in [OpenMode::Read, OpenMode::Create, OpenMode::CreateNew] {
            let (real, memory) = (real.open(path, mode), memory.open(path, mode));
            assert_eq!(
                real.unwrap_err().kind(),
                memory.unwrap_err().kind(),
                "{path:?} {mode:?}"
            );
        }
    }
    let file = open(&memory, "file", OpenMode::Create);
    for result in [
        file.read_at(&mut [0], u64::MAX).map(drop),
        file.write_at(&[0], u64::MAX).map(drop),
        file.write_at(&[0; 2], OFFSET_MAX - 1).map(drop),
        file.set_len(u64::MAX),
        file.allocate(u64::MAX),
        file.allocate(0),
    ] {
        result.unwrap_err();
    }
    file.allocate(OFFSET_MAX).unwrap();
    assert_eq!(memory.used(), OFFSET_MAX);
}
