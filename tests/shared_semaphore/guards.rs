//! Guards: leaked, detached, owned, and longer-lived than their handles.

use std::cell::RefCell;
use std::mem::forget;
use std::sync::mpsc;
use std::thread;

use latchwork::SharedSemaphore;
use latchwork::holder;
use latchwork::semaphore::shared::SharedOwnedPermit;

use crate::support::{HOUR, Place, until};

#[test]
fn a_leaked_permit_comes_back_when_its_thread_ends_and_is_reported() {
    let place = Place::new();
    let (send, reports) = mpsc::channel();
    let one = SharedSemaphore::builder(place.path())
        .permits(3)
        .on_leak(move |report| send.send(report).unwrap())
        .open()
        .unwrap();
    let other = place.open(3);
    let leaky = one.clone();
    let name = "forgetful".to_owned();
    let thread = thread::Builder::new().name(name.clone()).spawn(move || {
        forget(leaky.acquire().unwrap());
        forget(leaky.acquire_many(2).unwrap());
        leaky.current()
    });
    assert_eq!(thread.unwrap().join().unwrap(), 3);
    assert_eq!((other.current(), other.available()), (0, 3));
    for _ in 0..3 {
        let report = reports.recv().unwrap();
        assert_eq!(&*report.component, place.path().to_str().unwrap());
        assert_eq!((report.amount, report.thread.as_ref()), (1, Some(&name)));
        assert!(report.acquired_at.file().ends_with("guards.rs"));
    }
    assert_eq!((one.stats().leaked, other.stats().leaked), (3, 0));
}

#[test]
fn every_form_of_guard_comes_back_when_its_thread_ends() {
    let place = Place::new();
    let (one, other) = (place.open(4), place.open(4));
    let leaky = one.clone();
    thread::spawn(move || {
        forget(leaky.try_acquire().unwrap());
        forget(leaky.acquire_timeout(HOUR).unwrap().into_owned());
        forget(
            leaky
                .acquire_many_timeout(2, HOUR)
                .unwrap()
                .detach()
                .attach(),
        );
    })
    .join()
    .unwrap();
    assert_eq!((other.current(), one.stats().leaked), (0, 4));
}

#[test]
fn a_leaked_permit_calls_who_waits_elsewhere() {
    let place = Place::new();
    let (one, other) = (place.open(1), place.open(1));
    let (hold, held) = mpsc::channel();
    let (end, may_end) = mpsc::channel::<()>();
    let leaky = thread::spawn(move || {
        forget(one.acquire().unwrap());
        hold.send(()).unwrap();
        let _ = may_end.recv();
    });
    held.recv().unwrap();
    let (send, told) = mpsc::channel();
    let _pending = other.acquire_with(move |permit| send.send(permit).unwrap());
    drop(end);
    assert_eq!(told.recv().unwrap().unwrap().count(), 1);
    leaky.join().unwrap();
}

#[test]
fn a_scope_takes_back_what_was_leaked_in_it() {
    thread_local! {
        static KEPT: RefCell<Option<SharedOwnedPermit>> = const { RefCell::new(None) };
    }
    let place = Place::new();
    let (one, other) = (place.open(4), place.open(4));
    let outside = one.acquire().unwrap();
    holder::scope(|| {
        forget(one.acquire().unwrap());
        forget(one.acquire_leased(HOUR).unwrap());
        let kept = one.acquire().unwrap().into_owned();
        KEPT.with(|slot| *slot.borrow_mut() = Some(kept));
    });
    // A lease is bound to no thread.
    assert_eq!((other.current(), outside.count()), (2, 1));
    let kept = KEPT.take().unwrap();
    assert_eq!(kept.count(), 0);
    drop(kept);
    assert_eq!((other.current(), one.stats().leaked), (2, 2));
}

#[test]
fn a_detached_permit_moves_to_another_thread() {
    let place = Place::new();
    let (one, other) = (place.open(3), place.open(3));
    let permits = one.acquire_many(2).unwrap().detach();
    let single = one.acquire().unwrap().detach();
    assert_eq!((permits.count(), single.count()), (2, 1));
    thread::spawn(move || {
        let permits = permits.attach();
        assert_eq!(permits.count(), 2);
        // Not dropped, and not this thread's any more.
        forget(permits.detach());
        drop(single);
    })
    .join()
    .unwrap();
    assert_eq!((other.current(), one.stats().leaked), (2, 0));
}

#[test]
fn a_permit_outlives_its_handles() {
    let place = Place::new();
    let other = place.open(1);
    let permit = place.open(1).acquire().unwrap().into_owned();
    assert_eq!((permit.count(), other.current()), (1, 1));
    assert!(other.try_acquire().is_err());
    drop(permit);
    assert_eq!((other.current(), other.stats().reaped), (0, 0));
    let permit = place.open(1).acquire().unwrap().detach();
    assert_eq!(other.current(), 1);
    drop(permit);
    assert_eq!(other.current(), 0);
}

#[test]
fn a_leaked_permit_keeps_its_attachment_until_its_thread_ends() {
    let place = Place::new();
    let other = place.open(1);
    let one = place.open(1);
    thread::scope(|scope| {
        let leaky = scope.spawn(|| {
            forget(one.clone().acquire().unwrap());
            drop(one);
            other.current()
        });
        assert_eq!(leaky.join().unwrap(), 1);
    });
    assert_eq!((other.current(), other.holders().len()), (0, 0));
    assert_eq!(other.stats().reaped, 0);
}

#[test]
fn dropping_the_last_handle_detaches() {
    let place = Place::new();
    let other = place.open(1);
    let one = place.open(1);
    let clone = one.clone();
    let permit = one.acquire().unwrap();
    assert_eq!(other.holders().len(), 1);
    drop(permit);
    drop(one);
    drop(clone.acquire().unwrap());
    drop(clone);
    assert_eq!((other.holders().len(), other.waiting().len()), (0, 0));
    // There is room for 960 at once, and each has left its place.
    for _ in 0..1000 {
        drop(place.open(1).acquire().unwrap().into_owned());
    }
    assert_eq!(other.available(), 1);
}

/// The library's thread kept an attachment whose last request it had answered, until something else
/// woke it up.
#[test]
fn dropping_the_last_handle_detaches_also_after_a_callback() {
    let place = Place::new();
    let _other = place.open(1);
    for order in ["callback", "callback cancelled"] {
        let mut child = place.child();
        child.ask(order);
        child.ask("drop");
        let maps = format!("/proc/{}/maps", child.pid());
        let file = place.path();
        let file = file.to_str().unwrap();
        // It may be that thread that lets go last, and nobody hears of it.
        until(|| !std::fs::read_to_string(&maps).unwrap().contains(file));
    }
}

#[test]
fn many_guards_in_one_thread_are_many_permits() {
    const COUNT: u32 = 200;
    let place = Place::new();
    let (one, other) = (place.open(COUNT), place.open(COUNT));
    let mut guards: Vec<_> = (0..COUNT).map(|_| one.acquire().unwrap()).collect();
    assert!(one.try_acquire().is_err());
    guards.truncate(100);
    assert_eq!(other.current(), 100);
    drop(guards);
    assert_eq!(other.current(), 0);
}
