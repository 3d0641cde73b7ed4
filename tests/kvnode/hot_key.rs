//! Sixty-four clients and one key: nothing is lost, and nobody is left behind.

use std::collections::HashSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::Server;

const CLIENTS: usize = 64;
/// Replies until which all clients go on: a few hundred each, or, in full, enough to say who was
/// favoured.
fn replies() -> u64 {
    let is_full = std::env::var("LATCHWORK_STORM").is_ok_and(|size| size == "full");
    if is_full { 1_000_000 } else { 40_000 }
}

const IO_THREADS: [&str; 2] = ["1", "4"];

/// The least share over the greatest.
fn evenness(counts: &[u64]) -> f64 {
    let least = counts.iter().min().copied().unwrap_or_default();
    let greatest = counts.iter().max().copied().unwrap_or_default();
    least as f64 / greatest as f64
}

#[test]
fn increments_of_one_key_are_all_there_and_shared_evenly() {
    let replies = replies();
    for threads in IO_THREADS {
        let server = Server::start(&["--io-threads", threads]);
        let (begin, total) = (Barrier::new(CLIENTS), AtomicU64::new(0));
        let counts: Vec<u64> = thread::scope(|scope| {
            let one = || {
                let mut client = server.connect();
                begin.wait();
                let mut count = 0;
                loop {
                    assert!(client.ask("INCR hot").starts_with(':'));
                    count += 1;
                    // Its first does not count: whoever is the last to run may find all done.
                    if total.fetch_add(1, Ordering::Relaxed) >= replies {
                        return count;
                    }
                }
            };
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(one)).collect();
            clients.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let sum: u64 = counts.iter().sum();
        assert_eq!(sum, replies + CLIENTS as u64);
        let reply = server.connect().ask("GET hot");
        assert!(reply.contains(&sum.to_string()), "{reply} is not {sum}");
        let evenness = evenness(&counts);
        println!("{threads} I/O threads: min/max of {CLIENTS} clients' INCRs {evenness:.3}");
    }
}

#[test]
fn what_is_pushed_on_one_key_reaches_one_waiter_each() {
    const PUSHES: usize = 500;
    for threads in IO_THREADS {
        let server = Server::start(&["--io-threads", threads]);
        let done = AtomicBool::new(false);
        let (begin, popped) = (Barrier::new(CLIENTS), AtomicU64::new(0));
        let pairs = CLIENTS / 2;
        let (values, counts) = thread::scope(|scope| {
            let push = |id: usize| {
                let mut client = server.connect();
                begin.wait();
                for i in 0..PUSHES {
                    let reply = client.ask(&format!("LPUSH hot {id}:{i}"));
                    assert!(reply.starts_with(':'), "{reply}");
                }
            };
            let pop = || {
                let mut client = server.connect();
                begin.wait();
                let mut values = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    let reply = client.ask("BRPOP hot 0.05");
                    if let Some(value) = reply.lines().nth(4) {
                        values.push(value.to_owned());
                        let popped = popped.fetch_add(1, Ordering::Relaxed) + 1;
                        done.fetch_or(popped == (pairs * PUSHES) as u64, Ordering::Relaxed);
                    }
                }
                values
            };
            let pushers: Vec<_> = (0..pairs).map(|id| scope.spawn(move || push(id))).collect();
            let poppers: Vec<_> = (0..pairs).map(|_| scope.spawn(pop)).collect();
            pushers.into_iter().for_each(|it| it.join().unwrap());
            let values: Vec<_> = poppers.into_iter().map(|it| it.join().unwrap()).collect();
            let counts: Vec<u64> = values.iter().map(|values| values.len() as u64).collect();
            (values.concat(), counts)
        });
        assert_eq!(values.len(), pairs * PUSHES);
        let different: HashSet<_> = values.iter().collect();
        assert_eq!(different.len(), values.len(), "an element came twice");
        assert_eq!(server.connect().ask("LLEN hot").trim(), ":0");
        let evenness = evenness(&counts);
        println!("{threads} I/O threads: min/max of {pairs} clients' BRPOPs {evenness:.3}");
    }
}
