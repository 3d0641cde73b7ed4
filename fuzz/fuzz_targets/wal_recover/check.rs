//! What must hold of a log's recovery whatever its files hold: it does not panic, holds memory in proportion to the
//! files, delivers records only whose checksum holds, in ascending order, and the same ones when it is opened again.
//!
//! An input is a program of bytes. Its first part appends to a log, takes snapshots, removes segments; the second spoils
//! the files: bytes are changed, cut off and cleared, files are removed, copied and made up, and checksums forged, so
//! that what lies behind them is reached as well.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};
use latchwork::fs::{Fs, MemoryFs, OpenMode, write_all};
use latchwork::wal::{Builder, Durability, Lsn, Replay, Wal, WalError};

const DIR: &str = "/log";
const SEGMENT: u64 = 4096;
const LONGEST: usize = 8 << 10;
/// No file is made longer.
const FILE_MAX: u64 = 64 << 10;

/// A record's header, as `wal/record.rs` says it.
const HEADER: usize = 24;
const SEGMENT_HEADER: usize = 48;

/// Hands out the input byte by byte; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    fn number(&mut self) -> u64 {
        u64::from(self.byte()) | u64::from(self.byte()) << 8
    }

    /// Mostly small, and all up to the greatest.
    fn word(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX - u64::from(self.byte()),
            254 => u64::from(self.byte()) << 56 | self.number(),
            253 => self.number() << 16,
            small => u64::from(small),
        }
    }
}

/// Checks one input.
pub(crate) fn check(bytes: &[u8]) {
    let mut input = Input(bytes);
    let fs = MemoryFs::new();
    write_log(&fs, &mut input);
    while !input.is_empty() {
        spoil(&fs, &mut input);
    }
    check_files(&fs);
}

fn builder(fs: &MemoryFs) -> Builder {
    Wal::builder(DIR)
        .fs(Arc::new(fs.clone()))
        .segment_bytes(SEGMENT)
        .max_record_bytes(LONGEST)
}

/// What was delivered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Delivered {
    snapshot: Option<(u64, Vec<u8>)>,
    records: Vec<(u64, Vec<u8>)>,
}

fn open(builder: Builder) -> Result<(Wal, Delivered), WalError> {
    let mut delivered = Delivered::default();
    let (wal, recovery) = builder.replay(|step| {
        match step {
            Replay::Snapshot(mut snapshot) => {
                let mut bytes = Vec::new();
                snapshot.read_to_end(&mut bytes)?;
                assert_eq!(bytes.len() as u64, snapshot.size());
                delivered.snapshot = Some((snapshot.lsn().get(), bytes));
            }
            Replay::Record(lsn, body) => delivered.records.push((lsn.get(), body.to_vec())),
            _ => unreachable!("snapshots and records"),
        }
        Ok::<(), io::Error>(())
    })?;
    assert_eq!(recovery.records(), delivered.records.len() as u64);
    let covered = delivered.snapshot.as_ref().map(|snapshot| snapshot.0);
    assert_eq!(recovery.snapshot_lsn().map(Lsn::get), covered);
    assert_eq!(recovery.last_lsn(), wal.last_lsn());
    Ok((wal, delivered))
}

/// The first part of the input: what was appended, and what became of it.
fn write_log(fs: &MemoryFs, input: &mut Input<'_>) {
    for _ in 0..input.byte() % 4 {
        let durability = match input.byte() % 2 {
            0 => Durability::Sync,
            _ => Durability::None,
        };
        let (wal, _) = open(builder(fs).durability(durability)).expect("a sound log opens");
        for _ in 0..input.byte() % 16 {
            match input.byte() {
                0..200 => {
                    let len = input.byte() as usize * usize::from(input.byte() % 9);
                    wal.append(&vec![len as u8; len]).expect("append");
                }
                200..220 => wal.sync().expect("sync"),
                220..240 => {
                    let mut snapshot = wal.snapshot().expect("snapshot");
                    snapshot.write_all(b"the state").expect("write");
                    snapshot.commit().expect("commit");
                }
                _ => {
                    let first = wal.rotate().expect("rotate");
                    wal.release(first).expect("release");
                }
            }
        }
        wal.close().expect("close");
    }
}

/// The files of the log but its lock, in order.
fn files(fs: &MemoryFs) -> Vec<PathBuf> {
    let names = fs.read_dir(Path::new(DIR)).unwrap_or_default();
    let mut paths: Vec<_> = names.iter().map(|name| Path::new(DIR).join(name)).collect();
    paths.retain(|path| !path.ends_with("LOCK"));
    paths.sort();
    paths
}

/// Number and epoch of a segment.
fn segment(path: &Path) -> Option<(u64, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".wal")?;
    let (number, epoch) = name.split_once('-')?;
    let hex = |digits| u64::from_str_radix(digits, 16).ok();
    Some((hex(number)?, hex(epoch)?))
}

fn segment_path(number: u64, epoch: u64) -> PathBuf {
    Path::new(DIR).join(format!("{number:016x}-{epoch:016x}.wal"))
}

fn write(fs: &MemoryFs, path: &Path, offset: u64, bytes: &[u8]) {
    let file = fs.open(path, OpenMode::Create).expect("open");
    write_all(&*file, bytes, offset.min(FILE_MAX)).expect("write");
}

/// Does the next thing to the files that the input says.
fn spoil(fs: &MemoryFs, input: &mut Input<'_>) {
    fs.create_dir_all(Path::new(DIR)).expect("create_dir_all");
    let what = input.byte() % 12;
    let paths = files(fs);
    let which = usize::from(input.byte());
    let Some(path) = paths.get(which % paths.len().max(1)) else {
        let path = segment_path(1 + input.word() % 4, input.word());
        return write(fs, &path, 0, &head(&path, input.word()));
    };
    let contents = fs.contents(path).expect("contents");
    let mut at = input.number() as usize % (contents.len() + 1);
    match what {
        // A byte changes.
        0 => {
            if let Some(byte) = contents.get(at) {
                write(fs, path, at as u64, &[byte ^ input.byte()]);
            }
        }
        // A sector was never written.
        1 => {
            at -= at % 512;
            let end = contents.len().min(at + 512);
            write(fs, path, at as u64, &vec![0; end - at]);
        }
        2 => {
            let file = fs.open(path, OpenMode::ReadWrite).expect("open");
            file.set_len(at as u64).expect("set_len");
        }
        3 => fs.remove_file(path).expect("remove_file"),
        // Another segment with the same bytes.
        4 => {
            let (number, epoch) = segment(path).unwrap_or((1, 1));
            let number = number.wrapping_add(input.word());
            let epoch = match input.byte() % 2 {
                0 => epoch,
                _ => input.word(),
            };
            write(fs, &segment_path(number, epoch), 0, &contents);
        }
        // Another name.
        5 => {
            let to = match input.byte() % 4 {
                0 => format!("snapshot-{:016x}", input.word()),
                1 => format!("snapshot-{:016x}.tmp", input.word()),
                2 => format!("{:016x}-{:016x}.wal", input.word(), input.word()),
                _ => "something.else".to_owned(),
            };
            let to = Path::new(DIR).join(to);
            fs.rename(path, &to).expect("rename");
        }
        // A header that is right but for what it says.
        6 => write(fs, path, 0, &head(path, input.word())),
        7 | 8 => {
            at -= at % 8;
            let epoch = segment(path).map_or(0, |(_, epoch)| epoch);
            write(fs, path, at as u64, &forged(epoch, input));
        }
        9 => {
            // At the end of the last record, if it is one after the other up to there.
            let at = end_of_records(&contents);
            let epoch = segment(path).map_or(0, |(_, epoch)| epoch);
            write(fs, path, at as u64, &forged(epoch, input));
        }
        // Bytes of the input.
        10 => {
            let raw: Vec<u8> = (0..input.byte()).map(|_| input.byte()).collect();
            write(fs, path, at as u64, &raw);
        }
        _ => {
            let lsn = input.word();
            let body = vec![input.byte(); usize::from(input.byte())];
            let path = Path::new(DIR).join(format!("snapshot-{lsn:016x}"));
            let mut bytes = b"lw-snp\x01\0".to_vec();
            bytes.extend(lsn.to_le_bytes());
            bytes.extend(&body);
            bytes.extend((body.len() as u64).to_le_bytes());
            bytes.extend(crc32c(&bytes).to_le_bytes());
            write(fs, &path, 0, &bytes);
        }
    }
}

/// The header of a segment with this name.
fn head(path: &Path, first: u64) -> Vec<u8> {
    let (number, epoch) = segment(path).unwrap_or((1, 1));
    let mut bytes = b"lw-wal\x01\0".to_vec();
    for word in [number, epoch, first] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.resize(SEGMENT_HEADER - 4, 0);
    bytes.extend(crc32c(&bytes).to_le_bytes());
    bytes
}

/// A record that is right but for what it says.
fn forged(epoch: u64, input: &mut Input<'_>) -> Vec<u8> {
    let kind = match input.byte() {
        0..160 => 0,
        160..200 => 1 << 31,
        200..240 => 1 << 30,
        _ => 3 << 30,
    };
    let (lsn, synced_below) = (input.word(), input.word());
    let body = match kind {
        0 => vec![input.byte(); usize::from(input.byte()) * 8],
        _ => input.word().to_le_bytes().to_vec(),
    };
    // What it says of its length need not be so.
    let len = match input.byte() {
        0..240 => body.len() as u32,
        240..248 => 1 << 29,
        _ => input.number() as u32,
    };
    let word = kind | len;
    let mut bytes = word.to_le_bytes().to_vec();
    bytes.extend(sum(word, lsn, synced_below, epoch, &body).to_le_bytes());
    bytes.extend(lsn.to_le_bytes());
    bytes.extend(synced_below.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn sum(word: u32, lsn: u64, synced_below: u64, epoch: u64, body: &[u8]) -> u32 {
    let mut rest = word.to_le_bytes().to_vec();
    for word in [lsn, synced_below, epoch] {
        rest.extend(word.to_le_bytes());
    }
    crc32c_append(crc32c(body), &rest)
}

fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The length of the record at `at`, and what its header says.
fn header(bytes: &[u8], at: usize) -> Option<(u32, u32, u64, u64)> {
    let (first, lsn) = (word_at(bytes, at)?, word_at(bytes, at + 8)?);
    Some((
        first as u32,
        (first >> 32) as u32,
        lsn,
        word_at(bytes, at + 16)?,
    ))
}

fn end_of_records(bytes: &[u8]) -> usize {
    let mut at = SEGMENT_HEADER;
    while let Some((word, _, lsn, _)) = header(bytes, at) {
        let len = (word & ((1 << 30) - 1)) as usize;
        let next = (at + HEADER + len).next_multiple_of(8);
        if lsn == 0 || next > bytes.len() {
            break;
        }
        at = next;
    }
    at
}

/// All records in the files whose checksum holds, by LSN and checksum of the body.
fn sound_records(files: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<(u64, u32), ()> {
    let mut sound = BTreeMap::new();
    for (path, bytes) in files {
        let Some((_, epoch)) = segment(path) else {
            continue;
        };
        for at in (SEGMENT_HEADER..bytes.len()).step_by(8) {
            let Some((word, crc, lsn, synced_below)) = header(bytes, at) else {
                break;
            };
            let len = (word & ((1 << 30) - 1)) as usize;
            let Some(body) = bytes.get(at + HEADER..at + HEADER + len) else {
                continue;
            };
            if lsn != 0 && sum(word, lsn, synced_below, epoch, body) == crc {
                sound.insert((lsn, crc32c(body)), ());
            }
        }
    }
    sound
}

fn read_all(fs: &MemoryFs) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = files(fs).into_iter();
    let contents = paths.map(|path| (path.clone(), fs.contents(&path).expect("contents")));
    contents.collect()
}

fn check_files(fs: &MemoryFs) {
    let before = read_all(fs);
    let used = fs.used();
    let (wal, delivered) = match open(builder(fs)) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if error.is_corrupt() {
                let is_kept = |path: &PathBuf| path.extension().is_none_or(|end| end != "tmp");
                for path in before.keys().filter(|path| is_kept(path)) {
                    let after = fs.contents(path).expect("a corrupt log is left as it is");
                    assert_eq!(after, before[path], "{} has changed", path.display());
                }
            }
            return;
        }
    };
    // A copy of the tail, one more segment.
    assert!(
        fs.used() <= 2 * used + 2 * SEGMENT + LONGEST as u64,
        "{used} bytes have become {}",
        fs.used()
    );
    let sound = sound_records(&before);
    let mut last = delivered.snapshot.as_ref().map_or(0, |snapshot| snapshot.0);
    for (lsn, body) in &delivered.records {
        assert!(*lsn > last, "record {lsn} comes after {last}");
        assert!(body.len() <= LONGEST);
        assert!(
            sound.contains_key(&(*lsn, crc32c(body))),
            "record {lsn} has no sound checksum"
        );
        last = *lsn;
    }
    let next = wal.append(b"one more");
    wal.close().expect("close");
    drop(wal);

    let (wal, mut again) = open(builder(fs)).expect("what was recovered opens");
    if let Ok(lsn) = next {
        let one_more = again.records.pop();
        assert_eq!(one_more, Some((lsn.get(), b"one more".to_vec())));
    }
    assert_eq!(again, delivered, "the same is found again");
    wal.close().expect("close");
}
