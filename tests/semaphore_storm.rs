//! Semaphores under many threads: what is exclusive stays so, and nothing is lost or granted twice.
//!
//! The permits protect a plain cell like a readers-writer lock: all of them are needed to write
//! it, any to read. A gauge counts the permits in use; it never passes what there is.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use latchwork::semaphore::{
    AcquireError, AcquireTimeoutError, Fairness, Semaphore, SendPermit, TryAcquireError,
};
use support::plain::Plain;
use support::{Storm, await_state, dawdle, expect_planned_panic, join, panic_quietly, size};

const BOTH: [Fairness; 2] = [Fairness::Eventual, Fairness::Fifo];

/// Everything is back.
#[track_caller]
fn assert_quiet(semaphore: &Semaphore) {
    assert_eq!(semaphore.current(), 0, "{semaphore:?}");
    assert_eq!(semaphore.available(), semaphore.max(), "{semaphore:?}");
    assert_eq!(semaphore.waiters(), 0, "{semaphore:?}");
}

/// What the permits protect.
struct Ground {
    permits: u64,
    in_use: AtomicU64,
    written: AtomicU64,
    cell: Plain,
}

impl Ground {
    fn new(permits: u64) -> Self {
        Self {
            permits,
            in_use: AtomicU64::new(0),
            written: AtomicU64::new(0),
            cell: Plain::new(0),
        }
    }

    /// What `weight` permits allow.
    fn use_permits(&self, weight: u64, rng: &mut Rng) {
        // Relaxed, here and below: the permits have to order these by themselves.
        let in_use = self.in_use.fetch_add(weight, Ordering::Relaxed) + weight;
        assert!(in_use <= self.permits, "{in_use} of {}", self.permits);
        if weight == self.permits {
            self.cell.add(1, rng);
            self.written.fetch_add(1, Ordering::Relaxed);
        } else {
            self.cell.get();
            dawdle(rng, 20);
            self.cell.get();
        }
        self.in_use.fetch_sub(weight, Ordering::Relaxed);
    }
}

/// Calls its function when dropped, wherever that is.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Requests by callback, and what became of them.
#[derive(Default)]
struct Callbacks {
    registered: AtomicU64,
    run: AtomicU64,
    /// Closures that are gone, whether they were run or not.
    gone: AtomicU64,
}

struct Mixed {
    semaphore: Semaphore,
    ground: Arc<Ground>,
    callbacks: Arc<Callbacks>,
    /// To the thread that takes over detached permits.
    porter: mpsc::Sender<SendPermit>,
}

impl Mixed {
    fn register(
        &self,
        weight: u64,
        mut rng: Rng,
        tell: Option<mpsc::Sender<SendPermit>>,
    ) -> latchwork::Pending {
        let (ground, callbacks) = (self.ground.clone(), self.callbacks.clone());
        callbacks.registered.fetch_add(1, Ordering::Relaxed);
        let gone = {
            let callbacks = callbacks.clone();
            OnDrop(move || {
                // Release: for who waits for the end. It orders nothing among the callbacks.
                callbacks.gone.fetch_add(1, Ordering::Release);
            })
        };
        self.semaphore.acquire_many_with(weight, move |permit| {
            let _gone = gone;
            callbacks.run.fetch_add(1, Ordering::Relaxed);
            let permit = permit.expect("not closed");
            assert_eq!(permit.count(), weight);
            match tell {
                Some(tell) => tell.send(permit).expect("somebody waits for it"),
                None => {
                    ground.use_permits(weight, &mut rng);
                    if rng.u8(..) < 64 {
                        // With the permit in hand.
                        panic_quietly();
                    }
                }
            }
        })
    }

    fn step(&self, rng: &mut Rng) {
        let Self {
            semaphore, ground, ..
        } = self;
        let permits = ground.permits;
        let weight = match rng.u8(0..4) {
            0 => permits,
            1 => 1,
            _ => rng.u64(1..=permits),
        };
        let timeout = Duration::from_micros(rng.u64(0..1200));
        match rng.u8(0..16) {
            0 => {
                let _permit = semaphore.acquire().unwrap();
                ground.use_permits(1, rng);
            }
            1 => {
                if let Ok(_permit) = semaphore.try_acquire() {
                    ground.use_permits(1, rng);
                }
            }
            2 => match semaphore.acquire_timeout(timeout) {
                Ok(_permit) => ground.use_permits(1, rng),
                Err(error) => assert_eq!(error, AcquireTimeoutError::TimedOut),
            },
            3 => match semaphore.acquire_deadline(Instant::now() + timeout) {
                Ok(_permit) => ground.use_permits(1, rng),
                Err(error) => assert_eq!(error, AcquireTimeoutError::TimedOut),
            },
            4..6 => {
                let _permit = semaphore.acquire_many(weight).unwrap();
                ground.use_permits(weight, rng);
            }
            6 => match semaphore.try_acquire_many(weight) {
                Ok(_permit) => ground.use_permits(weight, rng),
                Err(error) => assert_eq!(error, TryAcquireError::WouldBlock),
            },
            7..9 => {
                if let Ok(_permit) = semaphore.acquire_many_timeout(weight, timeout) {
                    ground.use_permits(weight, rng);
                }
            }
            9 => {
                // Delivered to this thread, which waits for it.
                let (tell, told) = mpsc::channel();
                let pending = self.register(weight, rng.fork(), Some(tell));
                let permit = told.recv().expect("delivered");
                ground.use_permits(weight, rng);
                if rng.bool() {
                    drop(permit.attach());
                }
                drop(pending);
            }
            10 => {
                // Used where it is delivered, or cancelled.
                let pending = self.register(weight, rng.fork(), None);
                dawdle(rng, 2000);
                if rng.bool() {
                    pending.as_fd().expect("a descriptor");
                }
                drop(pending);
            }
            11 => {
                let permit = semaphore.acquire_many(weight).unwrap();
                self.porter
                    .send(permit.detach())
                    .expect("the porter is there");
            }
            12 => {
                let mut permit = semaphore.acquire_many(weight).unwrap();
                ground.use_permits(weight, rng);
                let part = permit.split(rng.u64(0..=weight)).expect("enough");
                if rng.bool() {
                    permit.merge(part);
                    assert_eq!(permit.count(), weight);
                    ground.use_permits(weight, rng);
                } else {
                    // The halves go back one after the other.
                    drop(permit);
                    let weight = part.count();
                    let owned = part.into_owned();
                    if weight > 0 {
                        ground.use_permits(weight, rng);
                    }
                    drop(owned);
                }
            }
            13 => expect_planned_panic(|| {
                let _permit = semaphore.acquire_many(weight).unwrap();
                ground.use_permits(weight, rng);
                panic_quietly();
            }),
            14 => semaphore
                .with_permit(|permit| ground.use_permits(permit.count(), rng))
                .unwrap(),
            _ => {
                assert!(semaphore.current() <= permits);
                assert!(semaphore.available() <= permits);
                for holder in semaphore.holders() {
                    assert!((1..=permits).contains(&holder.permits), "{holder:?}");
                    assert!(holder.acquired_at.file().ends_with("semaphore_storm.rs"));
                }
                let shown = format!("{semaphore:?} {:?}", semaphore.stats());
                assert!(shown.contains("available"));
            }
        }
    }
}

fn every_way_at_once(name: &str, fairness: Fairness, permits: u64, steps: u64) {
    let storm = Storm::new(name);
    let semaphore = Semaphore::builder(name)
        .permits(permits)
        .fairness(fairness)
        .track_holders(permits % 2 == 1)
        .build()
        .unwrap();
    let ground = Arc::new(Ground::new(permits));
    let callbacks = Arc::new(Callbacks::default());
    let (porter, carried) = mpsc::channel::<SendPermit>();
    let porters_thread = thread::spawn({
        let (ground, mut rng) = (ground.clone(), storm.rng(0));
        move || {
            for permit in carried {
                let weight = permit.count();
                ground.use_permits(weight, &mut rng);
                if rng.bool() {
                    drop(permit.attach());
                }
            }
        }
    });
    storm.run(8, |_, rng| {
        let mixed = Mixed {
            semaphore: semaphore.clone(),
            ground: ground.clone(),
            callbacks: callbacks.clone(),
            porter: porter.clone(),
        };
        for _ in 0..steps {
            mixed.step(rng);
        }
    });
    drop(porter);
    join(porters_thread.join());

    // Every closure was run or dropped, and what it was given is back.
    let registered = callbacks.registered.load(Ordering::Relaxed);
    await_state((registered, 0, permits), || {
        // Acquire: what the closures did is seen.
        let gone = callbacks.gone.load(Ordering::Acquire);
        (gone, semaphore.current(), semaphore.available())
    });
    assert_quiet(&semaphore);
    assert_eq!(ground.in_use.load(Ordering::Relaxed), 0);
    assert_eq!(
        ground.cell.get() as u64,
        ground.written.load(Ordering::Relaxed)
    );
    assert!(callbacks.run.load(Ordering::Relaxed) <= registered);
    assert_eq!(semaphore.stats().leaked, 0);
    assert!(semaphore.holders().is_empty());

    semaphore.close();
    assert_eq!(semaphore.acquire().unwrap_err(), AcquireError::Closed);
    assert_eq!(
        semaphore.try_acquire().unwrap_err(),
        TryAcquireError::Closed
    );
    assert_quiet(&semaphore);
}

#[test]
fn one_permit_excludes_with_every_way_of_asking() {
    for fairness in BOTH {
        every_way_at_once("one permit", fairness, 1, size(4_000, 200_000));
    }
}

#[test]
fn weights_in_use_never_pass_the_permits() {
    for fairness in BOTH {
        for permits in [2, 7] {
            every_way_at_once("weights", fairness, permits, size(2_000, 100_000));
        }
    }
}

/// Without line, callback or clock: a release publishes by itself what was done under the permit.
#[test]
fn a_release_publishes_what_was_done_under_the_permit() {
    let storm = Storm::new("release publishes");
    let semaphore = Semaphore::new(1).unwrap();
    let ground = Ground::new(1);
    let tries = size(50_000, 2_000_000);
    storm.run(4, |_, rng| {
        for _ in 0..tries {
            if let Ok(_permit) = semaphore.try_acquire() {
                ground.use_permits(1, rng);
            }
        }
    });
    assert_quiet(&semaphore);
    assert_eq!(
        ground.cell.get() as u64,
        ground.written.load(Ordering::Relaxed)
    );
}

/// Time-outs and cancelled callbacks race with the hand-off: who was refused took nothing, who was
/// granted had it.
fn cancel_means_never(fairness: Fairness, permits: u64, longest: Duration, hold: u32, tries: u64) {
    const THREADS: u64 = 8;
    let storm = Storm::new("cancel means never");
    let semaphore = Semaphore::builder("cancel")
        .permits(permits)
        .fairness(fairness)
        .build()
        .unwrap();
    let ground = Arc::new(Ground::new(permits));
    let granted = Arc::new(AtomicU64::new(0));
    let released = Arc::new(AtomicU64::new(0));
    let timed_out = AtomicU64::new(0);
    let closures = Arc::new(AtomicU64::new(0));
    storm.run(THREADS, |_, rng| {
        for _ in 0..tries / THREADS {
            let weight = rng.u64(1..=permits);
            let timeout = longest.mul_f32(rng.f32());
            if rng.u8(0..8) == 0 {
                let alive = closures.clone();
                alive.fetch_add(1, Ordering::Relaxed);
                let gone = OnDrop(move || {
                    // Release: for who waits for the end. It orders nothing among the callbacks.
                    alive.fetch_sub(1, Ordering::Release);
                });
                let pending = semaphore.acquire_many_with(weight, {
                    let (ground, mut rng) = (ground.clone(), rng.fork());
                    let (granted, released) = (granted.clone(), released.clone());
                    move |permit| {
                        let _gone = gone;
                        let permit = permit.expect("not closed");
                        granted.fetch_add(permit.count(), Ordering::Relaxed);
                        ground.use_permits(weight, &mut rng);
                        drop(permit);
                        released.fetch_add(weight, Ordering::Relaxed);
                    }
                });
                dawdle(rng, 3000);
                drop(pending);
                continue;
            }
            match semaphore.acquire_many_timeout(weight, timeout) {
                Ok(permit) => {
                    granted.fetch_add(permit.count(), Ordering::Relaxed);
                    ground.use_permits(weight, rng);
                    // Long enough for others to run out of time, or nearly.
                    dawdle(rng, hold);
                    drop(permit);
                    released.fetch_add(weight, Ordering::Relaxed);
                }
                Err(error) => {
                    assert_eq!(error, AcquireTimeoutError::TimedOut);
                    timed_out.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    await_state((0, 0, permits), || {
        // Acquire: what the closures did is seen.
        let closures = closures.load(Ordering::Acquire);
        (closures, semaphore.current(), semaphore.available())
    });
    assert_quiet(&semaphore);
    assert_eq!(
        granted.load(Ordering::Relaxed),
        released.load(Ordering::Relaxed)
    );
    assert_eq!(
        ground.cell.get() as u64,
        ground.written.load(Ordering::Relaxed)
    );
    assert_eq!(
        semaphore.stats().timeouts,
        timed_out.load(Ordering::Relaxed)
    );
    println!(
        "{fairness:?}, {permits}: {} of {tries} timed out, {} were handed over",
        timed_out.load(Ordering::Relaxed),
        semaphore.stats().hand_offs
    );
}

#[test]
fn a_time_out_that_races_the_hand_off_takes_nothing() {
    let tries = size(20_000, 1_000_000);
    for permits in [1, 3] {
        let longest = Duration::from_micros(200);
        cancel_means_never(Fairness::Fifo, permits, longest, 400, tries);
    }
}

#[test]
fn a_time_out_that_races_the_late_hand_off_takes_nothing() {
    // Past the half millisecond for which newcomers may pass.
    let tries = size(10_000, 1_000_000);
    for permits in [1, 3] {
        let longest = Duration::from_micros(900);
        cancel_means_never(Fairness::Eventual, permits, longest, 4_000, tries);
    }
}

#[test]
fn resizing_never_lets_more_run_than_there_are() {
    const MOST: u64 = 6;
    for fairness in BOTH {
        let storm = Storm::new("resize");
        let semaphore = Semaphore::builder("resize")
            .permits(MOST)
            .max_permits(MOST)
            .fairness(fairness)
            .build()
            .unwrap();
        let ground = Ground::new(MOST);
        // Odd while the size changes.
        let epoch = AtomicU64::new(0);
        let max = AtomicU64::new(MOST);
        // In one order with the epoch.
        let running = AtomicU64::new(0);
        let done = AtomicU64::new(0);
        let steps = size(20_000, 500_000);
        const WORKERS: u64 = 6;
        storm.run(WORKERS + 1, |index, rng| {
            if index == WORKERS {
                while done.load(Ordering::Acquire) < WORKERS {
                    let to = rng.u64(1..=MOST);
                    epoch.fetch_add(1, Ordering::SeqCst);
                    semaphore.set_max(to).unwrap();
                    max.store(to, Ordering::SeqCst);
                    epoch.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(semaphore.max(), to);
                    // Until the cut has been paid, that is more than there are.
                    assert!(semaphore.current() <= MOST);
                    assert!(semaphore.available() <= to);
                    thread::yield_now();
                }
                return;
            }
            // Who waits for more than there are at the end is served by the last resize; the
            // resizer goes on until everybody is done.
            for _ in 0..steps {
                let weight = rng.u64(1..=MOST);
                let before = epoch.load(Ordering::SeqCst);
                let allowed = max.load(Ordering::SeqCst);
                let permit = match rng.u8(0..4) {
                    0 => semaphore.try_acquire_many(weight).ok(),
                    1 => {
                        let timeout = Duration::from_micros(rng.u64(0..1200));
                        semaphore.acquire_many_timeout(weight, timeout).ok()
                    }
                    _ => Some(semaphore.acquire_many(weight).unwrap()),
                };
                if let Some(_permit) = permit {
                    let in_use = running.fetch_add(weight, Ordering::SeqCst) + weight;
                    // The size stayed what it was while this permit was acquired.
                    if before.is_multiple_of(2) && epoch.load(Ordering::SeqCst) == before {
                        assert!(in_use <= allowed, "{in_use} in use, {allowed} allowed");
                    }
                    ground.use_permits(weight, rng);
                    running.fetch_sub(weight, Ordering::SeqCst);
                }
            }
            done.fetch_add(1, Ordering::Release);
        });
        semaphore.set_max(MOST).unwrap();
        assert_quiet(&semaphore);
        assert_eq!(
            ground.cell.get() as u64,
            ground.written.load(Ordering::Relaxed)
        );
    }
}

#[test]
fn forgotten_permits_lower_the_capacity_by_exactly_that() {
    const MOST: u64 = 1 << 40;
    let storm = Storm::new("forget");
    let semaphore = Semaphore::new(MOST).unwrap();
    let forgotten = AtomicU64::new(0);
    let steps = size(100_000, 1_000_000);
    storm.run(6, |_, rng| {
        for _ in 0..steps {
            let weight = rng.u64(1..=1 << 16);
            // Often all that there are: some wait, and not all of them are lucky.
            let share = MOST / rng.u64(1..=4) / 2;
            match rng.u8(0..4) {
                0 => {
                    let permit = semaphore.acquire_many(weight).unwrap();
                    permit.forget();
                    forgotten.fetch_add(weight, Ordering::Relaxed);
                }
                1 => drop(semaphore.acquire_many_timeout(share, Duration::from_micros(100))),
                2 => {
                    let _permit = semaphore.acquire_many(share).unwrap();
                    dawdle(rng, 100);
                }
                _ => drop(semaphore.try_acquire_many(weight)),
            }
        }
    });
    assert_quiet(&semaphore);
    assert_eq!(semaphore.max(), MOST - forgotten.load(Ordering::Relaxed));
}

#[test]
fn forgetting_while_resizing_stays_exact() {
    const MOST: u64 = 12;
    let storm = Storm::new("forget and resize");
    let semaphore = Semaphore::builder("forget")
        .permits(MOST)
        .max_permits(MOST)
        .build()
        .unwrap();
    let ground = Ground::new(MOST);
    let steps = size(5_000, 200_000);
    let done = AtomicU64::new(0);
    const WORKERS: u64 = 5;
    storm.run(WORKERS + 1, |index, rng| {
        if index == WORKERS {
            // Nobody is refused for ever for what others forgot.
            while done.load(Ordering::Acquire) < WORKERS {
                semaphore.set_max(rng.u64(1..=MOST)).unwrap();
                thread::yield_now();
            }
            return;
        }
        for _ in 0..steps {
            let weight = rng.u64(1..=MOST);
            if let Ok(permit) =
                semaphore.acquire_many_timeout(weight, Duration::from_micros(rng.u64(0..300)))
            {
                ground.use_permits(weight, rng);
                if rng.u8(0..4) == 0 {
                    permit.forget();
                }
            }
        }
        done.fetch_add(1, Ordering::Release);
    });
    assert_eq!(semaphore.current(), 0);
    assert_eq!(semaphore.available(), semaphore.max());
    semaphore.set_max(MOST).unwrap();
    assert_quiet(&semaphore);
    assert_eq!(semaphore.available(), MOST);
}

#[test]
fn closing_refuses_everybody_and_loses_no_permit() {
    let storm = Storm::new("close");
    let mut chance = storm.rng(1000);
    for round in 0..size(300, 20_000) {
        let permits = chance.u64(1..=3);
        let semaphore = Semaphore::builder("close")
            .permits(permits)
            .fairness(BOTH[round as usize % 2])
            .build()
            .unwrap();
        let ground = Ground::new(permits);
        let pause = chance.u32(0..20_000);
        storm.run(5, |index, rng| {
            if index == 0 {
                dawdle(rng, pause);
                semaphore.close();
                assert!(semaphore.is_closed());
                return;
            }
            // The last one always asks for more than there are.
            let weight = if index == 4 {
                permits + 1
            } else {
                rng.u64(1..=permits)
            };
            loop {
                let permit = match rng.u8(0..3) {
                    0 => semaphore.acquire_many(weight).map(|permit| permit.detach()),
                    1 => {
                        let hour = Duration::from_secs(3600);
                        match semaphore.acquire_many_timeout(weight, hour) {
                            Ok(permit) => Ok(permit.detach()),
                            Err(AcquireTimeoutError::Closed) => Err(AcquireError::Closed),
                            Err(error) => panic!("{error}"),
                        }
                    }
                    _ => {
                        let (tell, told) = mpsc::channel();
                        let _pending = semaphore.acquire_many_with(weight, move |permit| {
                            tell.send(permit).expect("somebody waits for it");
                        });
                        told.recv().expect("told once")
                    }
                };
                match permit {
                    Ok(permit) => ground.use_permits(permit.count(), rng),
                    Err(error) => {
                        assert_eq!(error, AcquireError::Closed);
                        assert!(semaphore.is_closed());
                        break;
                    }
                }
            }
        });
        assert_quiet(&semaphore);
        assert_eq!(semaphore.available(), permits);
    }
}

/// Handles come and go while permits are taken: the core is freed once, with the last of either.
#[test]
fn handles_come_and_go_among_permits() {
    let storm = Storm::new("handles");
    for _ in 0..size(500, 20_000) {
        let semaphore = Semaphore::new(2).unwrap();
        storm.run(3, |_, rng| {
            let own = semaphore.clone();
            for _ in 0..rng.u8(1..8) {
                let permit = own.acquire().unwrap();
                let handle = own.clone();
                if rng.bool() {
                    drop(permit);
                    drop(handle);
                } else {
                    let permit = permit.into_owned();
                    drop(handle);
                    dawdle(rng, 50);
                    drop(permit);
                }
            }
        });
        assert_quiet(&semaphore);
    }
}
