use latchwork::rmw::Rmw;
use std::time::{Duration, Instant};
fn main() {
    let rmw = Rmw::new();
    let mut over = Vec::new();
    for i in 0..300u64 {
        let t = Duration::from_micros(1000 + i * 37 % 9000);
        let b = Instant::now();
        assert!(rmw.blpop_timeout(&["k", "l"], t).unwrap().is_none());
        over.push(b.elapsed() - t);
    }
    over.sort();
    println!(
        "time-out over: p50 {:?} p99 {:?} max {:?}",
        over[150], over[297], over[299]
    );
    let n = 1_000_000;
    let b = Instant::now();
    for _ in 0..n {
        rmw.rpush("q", ["value"]).unwrap();
    }
    println!("rpush {:?}", b.elapsed() / n);
    let b = Instant::now();
    for _ in 0..n {
        rmw.lpop("q").unwrap();
    }
    println!("lpop {:?}", b.elapsed() / n);
    for _ in 0..1000 {
        rmw.rpush("q", ["value"]).unwrap();
    }
    let b = Instant::now();
    for _ in 0..n {
        rmw.rpoplpush("q", "r").unwrap();
        rmw.rpoplpush("r", "q").unwrap();
    }
    println!("rpoplpush {:?}", b.elapsed() / n / 2);
    let b = Instant::now();
    for _ in 0..n {
        rmw.incr_by("n", 1).unwrap();
    }
    println!("incr, nobody blocked {:?}", b.elapsed() / n);
    let p = rmw.blpop_with(&["w"], |v| drop(v));
    let b = Instant::now();
    for _ in 0..n {
        rmw.incr_by("n", 1).unwrap();
    }
    println!(
        "incr, somebody blocked on another key {:?}",
        b.elapsed() / n
    );
    drop(p);
    let m = 200_000;
    let b = Instant::now();
    for _ in 0..m {
        let p = rmw.blpop_with(&["w"], |v| drop(v));
        rmw.rpush("w", ["x"]).unwrap();
        assert!(p.is_delivered());
    }
    println!("blpop_with + rpush {:?}", b.elapsed() / m);
    let m = 50_000u32;
    let b = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| {
            for _ in 0..m {
                rmw.blpop(&["ping"]).unwrap();
                rmw.rpush("pong", ["x"]).unwrap();
            }
        });
        for _ in 0..m {
            rmw.rpush("ping", ["x"]).unwrap();
            rmw.blpop(&["pong"]).unwrap();
        }
    });
    println!("ping-pong of two threads, round {:?}", b.elapsed() / m);
}
