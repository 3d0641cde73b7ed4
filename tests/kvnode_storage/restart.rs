//! An orderly end, and a start.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use latchwork::fs::{Fs, MemoryFs, OpenMode};
use latchwork::rmw::{Clock, ExpireWhen, Rmw, SetOptions};

use crate::random::Random;
use crate::storage::Fsync;
use crate::support::{Hooked, START, Step, assert_same, config, dump, open};

fn names(fs: &MemoryFs) -> Vec<String> {
    let names = fs.read_dir("/data".as_ref()).unwrap();
    let mut names: Vec<_> = names
        .into_iter()
        .map(|name| name.into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn segments(fs: &MemoryFs) -> usize {
    let names = names(fs);
    names.iter().filter(|it| it.ends_with(".segment")).count()
}

/// Every kind of effect, with flushes, merges, clears and restarts at any time.
#[test]
fn what_was_done_is_there_again() {
    let mut random = Random::new("what_was_done_is_there_again");
    for round in 0..12 {
        let fs = MemoryFs::new();
        let clock = Clock::manual(START);
        let model = Rmw::builder().clock(clock.clone()).build();
        let with = || {
            let mut config = config(&fs, [Fsync::Always, Fsync::No][round % 2]);
            config.clock = clock.clone();
            config.memtable_bytes = [3000, 30_000, 1 << 40][round % 3];
            config.log_segment_bytes = [4096, 1 << 16][round % 2];
            config
        };
        let mut node = open(with()).unwrap();
        for at in 0..400 {
            let step = Step::random(&mut random, 12);
            step.run(&model).unwrap();
            step.run(&node.rmw).unwrap();
            match random.below(40) {
                0 => node.save().unwrap(),
                1 => clock.advance(Duration::from_millis(500)),
                2 => {
                    node.rmw.sweep();
                }
                3 => {
                    assert_same(&dump(&model), &node.dump(), &(round, at, "before"));
                    node.close();
                    node = open(with()).unwrap();
                    assert_same(&dump(&model), &node.dump(), &(round, at, "after"));
                }
                _ => {}
            }
        }
        node.save().unwrap();
        node.close();
        node = open(with()).unwrap();
        assert_same(&dump(&model), &node.dump(), &(round, "at the end"));
    }
}

/// Writers go on while their keys are flushed and merged: what is flushed is not older than the
/// rotation, and may be newer.
#[test]
fn a_flush_under_writers_loses_nothing_and_doubles_nothing() {
    let fs = MemoryFs::new();
    let with = || {
        let mut config = config(&fs, Fsync::No);
        config.memtable_bytes = 20_000;
        config.log_segment_bytes = 1 << 16;
        config
    };
    for round in 0..4 {
        let node = open(with()).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for writer in 0..3 {
                let (node, is_over) = (&node, &is_over);
                scope.spawn(move || {
                    let mut random = Random::seeded(round * 10 + writer);
                    let mut count = 0;
                    while !is_over.load(Ordering::Relaxed) && count < 20_000 {
                        Step::random(&mut random, 500).run(&node.rmw).unwrap();
                        count += 1;
                    }
                });
            }
            for _ in 0..10 {
                node.save().unwrap();
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let before = node.dump();
        node.close();
        let node = open(with()).unwrap();
        assert_same(&before, &node.dump(), &round);
        node.close();
    }
}

/// A long value is changed outside the store's locks, after the change has been logged: a flush
/// that finds the old value must not say that it holds the new record.
#[test]
fn a_flush_waits_for_a_change_that_is_logged_and_not_applied() {
    let fs = MemoryFs::new();
    let with = || {
        let mut config = config(&fs, Fsync::Always);
        config.log_segment_bytes = 1 << 20;
        config
    };
    let node = open(with()).unwrap();
    for round in 0..5 {
        node.rmw.set("long", vec![b'.'; 4 << 20]).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0..10 {
                    // Whoever holds the value makes the next change a copy.
                    let _held = node.rmw.get("long").unwrap();
                    node.rmw.append("long", number.to_string()).unwrap();
                }
            });
            while !writer.is_finished() {
                node.save().unwrap();
            }
        });
        node.sync();
        let copy = fs.copy();
        let again = open(config(&copy, Fsync::Always));
        let tail = |node: &crate::support::Node| node.rmw.getrange("long", -10, -1).unwrap();
        assert_eq!(tail(&again.unwrap()), tail(&node), "round {round}");
    }
}

#[test]
fn a_key_that_expired_without_a_record_is_missing_to_what_came_after() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    let passing = SetOptions::new().expire_in(Duration::from_millis(10));
    for key in ["swept", "found"] {
        node.rmw.set_with(key, "old", &passing).unwrap();
        node.rmw.rpush(format!("list of {key}"), ["old"]).unwrap();
        let soon = Duration::from_millis(10);
        let list = format!("list of {key}");
        node.rmw.expire_in(list, soon, ExpireWhen::Always).unwrap();
    }
    node.clock.advance(Duration::from_millis(20));
    node.rmw.append("found", "new").unwrap();
    node.rmw.rpush("list of found", ["new"]).unwrap();
    node.rmw.sweep();
    node.rmw.append("swept", "new").unwrap();
    node.rmw.rpush("list of swept", ["new"]).unwrap();
    let before = node.dump();
    assert_eq!(before.len(), 4);
    node.close();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    assert_same(&before, &node.dump(), &());
}

/// The deadline in the segments has passed, but the log has a record that took it away in time.
#[test]
fn a_key_that_was_made_to_stay_survives_the_merge_of_its_old_deadline() {
    let memory = MemoryFs::new();
    let fs = Hooked::new(memory.clone());
    let node = Arc::new(open(config(&fs, Fsync::Always)).unwrap());
    let passing = SetOptions::new().expire_in(Duration::from_secs(1));
    node.rmw.set_with("kept", "value", &passing).unwrap();
    node.rmw.set_with("gone", "value", &passing).unwrap();
    node.save().unwrap();
    let merging = Arc::downgrade(&node);
    // Nine segments are merged into the tenth, and then removed: nothing is flushed in between.
    fs.hook("0000000000000010.segment", move || {
        let node = merging.upgrade().unwrap();
        node.rmw.persist("kept").unwrap();
        node.clock.advance(Duration::from_secs(3600));
    });
    let (send, receive) = mpsc::channel();
    fs.hook("0000000000000001.segment", move || {
        send.send(memory.copy()).unwrap();
    });
    for number in 2..=9 {
        node.rmw.set(format!("key:{number}"), number).unwrap();
        node.save().unwrap();
    }
    let merged = receive.recv().unwrap();
    let before = node.dump();
    assert_eq!(before.len(), 9);
    let mut config = config(&merged, Fsync::Always);
    config.clock = Clock::manual(START + 3_600_000);
    let node = open(config).unwrap();
    assert_same(&before, &node.dump(), &());
    // The other one is gone from the segments, too.
    assert_eq!(node.storage.stats().segment_entries, 9);
}

#[test]
fn loaded_deadlines_are_swept() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::No)).unwrap();
    let passing = SetOptions::new().expire_in(Duration::from_secs(1));
    node.rmw.set_with("a", "value", &passing).unwrap();
    node.rmw.set("b", "value").unwrap();
    node.save().unwrap();
    node.close();
    let mut late = config(&fs, Fsync::No);
    late.clock = Clock::manual(START + 1_001);
    let node = open(late).unwrap();
    assert_eq!(node.rmw.len(), 1);
}

#[test]
fn a_clear_empties_the_segments_too() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    for round in 0..3 {
        for key in 0..100 {
            node.rmw.set(format!("{round}:{key}"), round).unwrap();
        }
        node.save().unwrap();
    }
    assert!(segments(&fs) >= 3);
    node.rmw.clear().unwrap();
    node.rmw.set("after", 1).unwrap();
    let before = node.dump();
    assert_eq!(before.len(), 1);
    node.save().unwrap();
    assert_eq!(segments(&fs), 1);
    node.close();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    assert_same(&before, &node.dump(), &());
    node.rmw.clear().unwrap();
    node.save().unwrap();
    assert_eq!(segments(&fs), 0);
    node.close();
    assert!(open(config(&fs, Fsync::Always)).unwrap().dump().is_empty());
}

/// Whether the flush has read its keys by then or not.
#[test]
fn a_clear_during_a_flush_is_the_last_word() {
    for moment in ["0000000000000002.segment", "MANIFEST.new"] {
        let memory = MemoryFs::new();
        let fs = Hooked::new(memory.clone());
        let node = open(config(&fs, Fsync::Always)).unwrap();
        for key in 0..100 {
            node.rmw.set(format!("before:{key}"), 1).unwrap();
        }
        node.save().unwrap();
        for key in 50..150 {
            node.rmw.set(format!("before:{key}"), 2).unwrap();
        }
        let rmw = node.rmw.clone();
        let (cleared, is_cleared) = mpsc::channel();
        fs.hook(moment, move || {
            rmw.clear().unwrap();
            rmw.set("before:1", "after").unwrap();
            cleared.send(()).unwrap();
        });
        node.save().unwrap();
        is_cleared.try_recv().unwrap();
        node.sync();
        let last = node.dump();
        assert_eq!(last.len(), 1, "{moment}");
        let crashed = open(config(&memory.copy(), Fsync::Always)).unwrap();
        assert_same(&last, &crashed.dump(), &moment);
        node.save().unwrap();
        assert_eq!(segments(&memory), 1, "{moment}: {:?}", names(&memory));
        node.close();
        let again = open(config(&memory, Fsync::Always)).unwrap();
        assert_same(&last, &again.dump(), &moment);
    }
}

#[test]
fn segments_are_merged_and_what_was_deleted_is_gone() {
    let fs = MemoryFs::new();
    let mut with = config(&fs, Fsync::No);
    with.log_segment_bytes = 1 << 16;
    let node = open(with).unwrap();
    for round in 0..40 {
        for key in 0..50 {
            let key = format!("key:{}", key + round % 5);
            node.rmw.set(key, format!("round {round}")).unwrap();
        }
        node.rmw.del(&[format!("key:{}", round % 7)]).unwrap();
        node.save().unwrap();
    }
    let before = node.dump();
    let stats = node.storage.stats();
    assert!(stats.merges > 0, "{stats:?}");
    node.close();
    assert!(segments(&fs) <= 10, "{:?}", names(&fs));
    let node = open(config(&fs, Fsync::No)).unwrap();
    assert_same(&before, &node.dump(), &());
}

#[test]
fn the_log_is_released_up_to_what_was_flushed() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    for key in 0..2000 {
        node.rmw.set(format!("key:{}", key % 10), key).unwrap();
        if key % 50 == 0 {
            // One group would be one file.
            node.sync();
        }
    }
    let before = node.storage.stats();
    assert!(before.log.segments > 3);
    node.save().unwrap();
    let after = node.storage.stats();
    assert!(after.log.segments <= 2, "{after:?}");
    assert_eq!((after.dirty_keys, after.segment_entries), (0, 10));
    assert_eq!(after.position, node.storage.last());
}

#[test]
fn a_save_of_nothing_new_is_done_at_once() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    node.save().unwrap();
    assert_eq!(node.storage.last_save(), 0);
    node.rmw.set("key", 1).unwrap();
    node.save().unwrap();
    assert!(node.storage.last_save() > 0);
    node.save().unwrap();
    assert_eq!(segments(&fs), 1);
}

#[test]
fn a_directory_has_one_server() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    let error = open(config(&fs, Fsync::Always)).err().unwrap();
    assert!(error.is_locked(), "{error}");
    assert!(error.to_string().contains("another server"), "{error}");
    node.close();
    open(config(&fs, Fsync::Always)).unwrap();
}

#[test]
fn what_a_crash_left_behind_is_removed_and_what_is_unknown_stays() {
    let fs = MemoryFs::new();
    let node = open(config(&fs, Fsync::Always)).unwrap();
    node.rmw.set("key", 1).unwrap();
    node.save().unwrap();
    node.close();
    for name in ["MANIFEST.new", "0000000000000777.segment", "notes.txt"] {
        let path = format!("/data/{name}");
        fs.open(path.as_ref(), OpenMode::CreateNew).unwrap();
    }
    let node = open(config(&fs, Fsync::Always)).unwrap();
    let names = names(&fs);
    assert!(!names.contains(&"MANIFEST.new".to_owned()), "{names:?}");
    assert!(names.contains(&"notes.txt".to_owned()), "{names:?}");
    assert_eq!(segments(&fs), 1);
    // A number that was ever used is not used again.
    node.rmw.set("key", 2).unwrap();
    node.save().unwrap();
    assert!(self::names(&fs).contains(&"0000000000000778.segment".to_owned()));
}

#[test]
fn a_large_memtable_is_streamed_in_parts_and_read_in_ranges() {
    let fs = MemoryFs::new();
    let mut with = config(&fs, Fsync::No);
    with.log_segment_bytes = 1 << 20;
    let node = open(with).unwrap();
    for key in 0..20_000 {
        node.rmw.set(format!("key:{key:05}"), key).unwrap();
    }
    node.rmw.set("long", vec![7; 1 << 20]).unwrap();
    node.save().unwrap();
    assert_eq!(segments(&fs), 2);
    for key in 0..10_000 {
        node.rmw.append(format!("key:{:05}", key * 2), "!").unwrap();
    }
    node.save().unwrap();
    let before = node.dump();
    node.close();
    let node = open(config(&fs, Fsync::No)).unwrap();
    assert_same(&before, &node.dump(), &());
}

#[test]
fn the_start_reports_how_far_it_is() {
    use crate::storage::{self, Phase};
    let fs = MemoryFs::new();
    let mut with = config(&fs, Fsync::No);
    with.log_segment_bytes = 1 << 22;
    let node = open(with).unwrap();
    for key in 0..40_000 {
        node.rmw.set(format!("key:{key}"), key).unwrap();
    }
    node.save().unwrap();
    for key in 0..40_000 {
        node.rmw.set(format!("key:{key}"), key + 1).unwrap();
    }
    node.close();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let all = Arc::clone(&seen);
    let latches = latchwork::LatchTable::new();
    let progress = move |loading| all.lock().unwrap().push(loading);
    let (_storage, _store) = storage::open(config(&fs, Fsync::No), &latches, progress).unwrap();
    let seen = seen.lock().unwrap();
    for phase in [Phase::Segments, Phase::Log] {
        let of_phase: Vec<_> = seen.iter().filter(|it| it.phase == phase).collect();
        assert!(!of_phase.is_empty(), "{phase:?}");
        assert!(of_phase.iter().all(|it| it.done_bytes <= it.total_bytes));
    }
}

#[test]
fn a_store_without_a_directory_keeps_nothing() {
    let clock = Clock::manual(START);
    let store = crate::storage::DurableStore::in_memory();
    let rmw = Rmw::builder().store(store).clock(clock.clone()).build();
    let model = Rmw::builder().clock(clock.clone()).build();
    let mut random = Random::new("a_store_without_a_directory_keeps_nothing");
    for _ in 0..2000 {
        let step = Step::random(&mut random, 10);
        step.run(&rmw).unwrap();
        step.run(&model).unwrap();
        if random.below(40) == 0 {
            clock.advance(Duration::from_millis(500));
        }
    }
    assert_same(&dump(&model), &dump(&rmw), &());
}
