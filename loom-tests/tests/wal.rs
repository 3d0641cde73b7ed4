//! Models of the log's group commit, over a file system in memory.
#![cfg(latchwork_loom)]

use std::ffi::OsString;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use latchwork::fs::{Call, FailingFs, Failure, Fault, File, Fs, MemoryFs, OpenMode};
use latchwork::model::{Clock, model, thread};
use latchwork::wal::{AppendError, Durability, Lsn, Wal};
use latchwork::worker::{Ticket, ticket};

fn open(fs: &(impl Fs + Clone)) -> (Wal, Vec<Vec<u8>>) {
    let mut bodies = Vec::new();
    let opened = Wal::builder("/log")
        .fs(Arc::new(fs.clone()))
        .segment_bytes(4096)
        .open(|_, body| {
            bodies.push(body.to_vec());
            Ok::<(), std::io::Error>(())
        });
    (opened.unwrap().0, bodies)
}

/// What a recovery finds.
fn recovered(fs: &MemoryFs) -> Vec<Vec<u8>> {
    open(&fs.copy()).1
}

/// Catches a leader that hands its lead to nobody, and an offer that wakes nobody.
#[test]
fn who_appends_behind_a_leader_leads_next() {
    model(|| {
        let fs = MemoryFs::new();
        let wal = Arc::new(open(&fs).0);
        let other = thread::spawn({
            let wal = wal.clone();
            move || wal.append(b"other").unwrap()
        });
        let mine = wal.append(b"mine").unwrap();
        assert_ne!(other.join().unwrap(), mine);
        assert_eq!(wal.durable_lsn().get(), 2);
        assert_eq!(recovered(&fs).len(), 2);
    });
}

/// Catches a completed batch that leaves a waiter asleep.
#[test]
fn who_shares_a_batch_with_its_leader_is_told_of_its_end() {
    model(|| {
        let wal = Arc::new(open(&MemoryFs::new()).0);
        let others: Vec<_> = (0..2)
            .map(|_| {
                let wal = wal.clone();
                thread::spawn(move || wal.append(b"other").unwrap())
            })
            .collect();
        wal.append(b"mine").unwrap();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(wal.durable_lsn().get(), 3);
    });
}

/// Catches a leader whose panic takes the lead away, or leaves its batch without an end.
#[test]
fn a_leader_that_panics_fails_its_batch_and_lets_the_next_one_lead() {
    model(|| {
        let memory = MemoryFs::new();
        let fs = FailingFs::new(Arc::new(memory.clone()));
        let wal = Arc::new(open(&fs).0);
        fs.inject(Fault::new(Failure::Panic).on(Call::WriteAt));
        let append = |wal: &Wal| match catch_unwind(AssertUnwindSafe(|| wal.append(b"x"))) {
            Ok(Err(AppendError::InDoubt(_) | AppendError::Poisoned(_))) => false,
            Ok(outcome) => panic!("{outcome:?}"),
            Err(_) => true,
        };
        let other = thread::spawn({
            let wal = wal.clone();
            move || append(&wal)
        });
        let has_led = append(&wal);
        assert!(other.join().unwrap() != has_led, "one of them has led");
    });
}

/// Catches a batch whose waiters are not told of a failed sync, or told that all is well.
#[test]
fn a_failed_sync_is_told_to_all_whom_it_concerns() {
    model(|| {
        let memory = MemoryFs::new();
        let fs = FailingFs::new(Arc::new(memory.clone()));
        let wal = Arc::new(open(&fs).0);
        fs.inject(
            Fault::new(Failure::Io)
                .on(Call::SyncData)
                .dropping_unsynced(),
        );
        let other = thread::spawn({
            let wal = wal.clone();
            move || wal.append(b"other").is_ok()
        });
        let mine = wal.append(b"mine").is_ok();
        let kept = usize::from(other.join().unwrap()) + usize::from(mine);
        assert!(recovered(&memory).len() >= kept);
        assert_eq!(kept, 0);
    });
}

/// Catches a record that is there although its append timed out.
#[test]
fn what_a_timeout_says_of_a_record_is_so() {
    model(|| {
        let fs = MemoryFs::new();
        let wal = Arc::new(open(&fs).0);
        let deadline = Clock::now() + Duration::from_secs(1);
        let other = thread::spawn({
            let wal = wal.clone();
            move || wal.append_deadline(b"other", deadline)
        });
        let third = thread::spawn({
            let wal = wal.clone();
            move || wal.append_deadline(b"third", deadline)
        });
        Clock::advance(Duration::from_secs(1));
        let outcomes = [other.join().unwrap(), third.join().unwrap()];
        wal.sync().unwrap();
        let found = recovered(&fs);
        for (outcome, body) in outcomes.iter().zip([&b"other"[..], b"third"]) {
            let is_there = found.iter().any(|it| it == body);
            match outcome {
                Ok(_) => assert!(is_there),
                Err(AppendError::TimedOut) => assert!(!is_there),
                Err(AppendError::InDoubt(None)) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    });
}

/// Catches a time-out that is certain of a record whose group is being written.
#[test]
fn a_timeout_while_the_group_is_written_is_in_doubt() {
    model(|| {
        let memory = MemoryFs::new();
        let wal = Arc::new(open(&Yielding(memory.clone())).0);
        let deadline = Clock::now();
        let hasty = thread::spawn({
            let wal = wal.clone();
            move || wal.append_deadline(b"hasty", deadline)
        });
        let patient = thread::spawn({
            let wal = wal.clone();
            move || wal.append(b"patient").unwrap()
        });
        wal.append(b"mine").unwrap();
        patient.join().unwrap();
        let outcome = hasty.join().unwrap();
        wal.sync().unwrap();
        let is_there = recovered(&memory).iter().any(|body| body == b"hasty");
        match outcome {
            Ok(_) => assert!(is_there),
            Err(AppendError::TimedOut) => assert!(!is_there),
            Err(AppendError::InDoubt(None)) => {}
            Err(error) => panic!("{error:?}"),
        }
    });
}

/// A file system that lets others go on while it syncs, as a disk does.
#[derive(Clone, Debug)]
struct Yielding(MemoryFs);

#[derive(Debug)]
struct YieldingFile(Box<dyn File>);

impl Fs for Yielding {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn File>> {
        Ok(Box::new(YieldingFile(self.0.open(path, mode)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.remove_file(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn read_dir(&self, path: &Path) -> io::Result<Vec<OsString>> {
        self.0.read_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
}

impl File for YieldingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        thread::yield_now();
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
}

/// Catches a lead that is lost with the waiter it was offered to.
#[test]
fn a_waiter_that_gives_up_passes_the_lead_on() {
    model(|| {
        let wal = Arc::new(open(&MemoryFs::new()).0);
        let deadline = Clock::now() + Duration::from_secs(1);
        let hasty = thread::spawn({
            let wal = wal.clone();
            move || drop(wal.append_deadline(b"hasty", deadline))
        });
        let patient = thread::spawn({
            let wal = wal.clone();
            move || wal.append(b"patient").unwrap()
        });
        wal.append(b"mine").unwrap();
        Clock::advance(Duration::from_secs(1));
        hasty.join().unwrap();
        patient.join().unwrap();
    });
}

/// Catches a record that is accepted beside a close and not written.
#[test]
fn a_record_enqueued_beside_a_close_is_refused_or_written() {
    model(|| is_refused_or_written_beside_a_close(Wal::enqueue));
}

/// Catches a close that comes back before the one who waits has been told.
#[test]
fn an_append_beside_a_close_is_refused_or_written() {
    model(|| is_refused_or_written_beside_a_close(Wal::append));
}

fn is_refused_or_written_beside_a_close(record: fn(&Wal, &[u8]) -> Result<Lsn, AppendError>) {
    let fs = MemoryFs::new();
    let wal = Arc::new(open(&fs).0);
    let other = thread::spawn({
        let wal = wal.clone();
        move || match record(&wal, b"other") {
            Ok(_) => 1,
            Err(AppendError::Closed) => 0,
            Err(error) => panic!("{error:?}"),
        }
    });
    wal.close().unwrap();
    assert_eq!(recovered(&fs).len(), other.join().unwrap());
}

/// Catches a record that nobody waits for, and that the log's thread sleeps on.
#[test]
fn an_enqueued_record_wakes_the_thread_that_serves() {
    model(|| {
        let wal = Arc::new(open(&MemoryFs::new()).0);
        let server = thread::spawn({
            let wal = wal.clone();
            move || wal.serve()
        });
        let (completer, told) = ticket();
        wal.append_with(b"mine", move |outcome| completer.complete(Ok(outcome)));
        let closer = thread::spawn({
            let wal = wal.clone();
            move || {
                told.wait().unwrap().unwrap();
                wal.close().unwrap();
            }
        });
        assert!(server.join().unwrap());
        closer.join().unwrap();
    });
}

const LINGER: Duration = Duration::from_secs(1);

/// A log that syncs nothing by itself, and whose records may linger.
fn open_lingering(fs: &MemoryFs) -> Wal {
    let opened = Wal::builder("/log")
        .fs(Arc::new(fs.clone()))
        .segment_bytes(4096)
        .durability(Durability::None)
        .linger(LINGER)
        .open(|_, _| Ok::<(), io::Error>(()));
    opened.unwrap().0
}

/// What the log's thread would do.
fn serve(wal: &Arc<Wal>) -> thread::JoinHandle<bool> {
    let wal = wal.clone();
    thread::spawn(move || wal.serve())
}

/// Resolves when everything up to `lsn` has been written.
fn written(wal: &Wal, lsn: u64) -> Ticket<()> {
    let (completer, ticket) = ticket();
    let completer = Mutex::new(Some(completer));
    wal.on_written(move |written| {
        if written >= Lsn::new(lsn) {
            let completer = completer.lock().unwrap().take();
            if let Some(completer) = completer {
                completer.complete(Ok(()));
            }
        }
    });
    ticket
}

/// Catches a nudge that finds the log's thread about to sleep, and is lost.
#[test]
fn a_nudge_has_what_was_deferred_written() {
    model(|| {
        let wal = Arc::new(open(&MemoryFs::new()).0);
        let both = written(&wal, 2);
        let server = serve(&wal);
        wal.defer(b"one").unwrap();
        wal.defer(b"two").unwrap();
        wal.nudge();
        both.wait().unwrap();
        wal.close().unwrap();
        server.join().unwrap();
    });
}

/// Catches a nudge that leaves deferred records to a leader who does not look for them.
#[test]
fn what_is_deferred_beside_a_leader_is_written_after_its_batch() {
    model(|| {
        let wal = Arc::new(open(&MemoryFs::new()).0);
        let both = written(&wal, 2);
        let server = serve(&wal);
        let other = thread::spawn({
            let wal = wal.clone();
            move || wal.append(b"other").unwrap()
        });
        wal.defer(b"mine").unwrap();
        wal.nudge();
        both.wait().unwrap();
        other.join().unwrap();
        wal.close().unwrap();
        server.join().unwrap();
    });
}

/// Catches a linger that begins while the log's thread sleeps, and that the thread does not know
/// of.
#[test]
fn a_linger_that_a_nudge_begins_ends_with_its_time() {
    model(|| {
        let wal = Arc::new(open_lingering(&MemoryFs::new()));
        let mine = written(&wal, 1);
        let server = serve(&wal);
        wal.defer(b"mine").unwrap();
        wal.nudge();
        Clock::advance(LINGER);
        mine.wait().unwrap();
        wal.close().unwrap();
        server.join().unwrap();
    });
}

/// Catches a record that somebody waits to be told of, and that lingers with the others.
#[test]
fn a_linger_ends_with_a_record_whose_end_is_told() {
    model(|| {
        let wal = Arc::new(open_lingering(&MemoryFs::new()));
        let server = serve(&wal);
        wal.enqueue(b"lingers").unwrap();
        let (completer, told) = ticket();
        wal.append_with(b"told", move |outcome| completer.complete(Ok(outcome)));
        assert_eq!(told.wait().unwrap().unwrap(), Lsn::new(2));
        wal.close().unwrap();
        server.join().unwrap();
    });
}

/// Catches a linger that goes on after its records were written, and that the thread has forgotten.
#[test]
fn a_linger_ends_with_one_who_waits_and_another_begins() {
    model(|| {
        let fs = MemoryFs::new();
        let wal = Arc::new(open_lingering(&fs));
        let all = written(&wal, 3);
        let server = serve(&wal);
        wal.enqueue(b"lingers").unwrap();
        wal.append(b"waits").unwrap();
        assert_eq!(recovered(&fs).len(), 2);
        Clock::advance(LINGER);
        wal.enqueue(b"lingers").unwrap();
        Clock::advance(LINGER);
        all.wait().unwrap();
        wal.close().unwrap();
        server.join().unwrap();
    });
}

/// Catches a close that loses what nobody nudged the log for, or waits for a thread that sleeps
/// until a linger is over.
#[test]
fn a_linger_ends_with_a_close() {
    model(|| {
        let fs = MemoryFs::new();
        let wal = Arc::new(open_lingering(&fs));
        let server = serve(&wal);
        wal.defer(b"mine").unwrap();
        wal.close().unwrap();
        server.join().unwrap();
        assert_eq!(recovered(&fs).len(), 1);
    });
}
