//! kvnode rows: requests a second and their latency, over redis-server's, as redis-benchmark
//! counts them; memory a client (`clients`); and both with a disk (`durable`).
//!
//! Both servers run at once as children of this process, on loopback, in memory only, each
//! filled with the keys that will be asked for; one is idle while the other is measured. A
//! *pair* is a round of the harness: two runs of redis-benchmark against either server, all
//! with the same number of requests. A side's figure is its requests over its time, a
//! command's the median of its pairs, and the row's that of the worst of `set`, `get` and
//! `incr`.
//!
//! *Hot*: 64 clients ask for INCR of one key, one request at a time each. A run's figure is the
//! 99th percentile of its latencies, a side's in a pair the mean of its two runs.
//!
//! The machine's own redis-server and redis-benchmark are used; without them the rows are
//! skipped.

mod clients;
mod durable;
mod redis_benchmark;
mod server;

use std::error::Error;
use std::time::Duration;

use crate::Bench;
use crate::harness::{Ratio, Round, interleave, mean};
use crate::rows;
use crate::table::{Row, Shown};

use redis_benchmark::{Load, Speed};
use server::Server;

/// The keys are spread over this many (`-r`).
const KEYS: u32 = 100_000;
const CLIENTS: u32 = 50;
const HOT_CLIENTS: u32 = 64;
const COMMANDS: [&str; 3] = ["set", "get", "incr"];

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let missing = server::missing_programs()?;
    if !missing.is_empty() {
        let programs = missing.join(" and ");
        let why =
            format!("{programs} not found; `apt-get install redis-server redis-tools` has both");
        for row in rows::KVNODE {
            bench.report.skip(*row, &why)?;
        }
        return Ok(());
    }
    let kvnode = server::build_kvnode()?;
    let servers = Servers {
        ours: Server::kvnode(&kvnode, &[])?,
        peer: Server::redis(&[])?,
    };
    server::fill(&servers.ours, KEYS)?;
    server::fill(&servers.peer, KEYS)?;
    throughput(bench, &servers, rows::KVNODE_P16, 16)?;
    throughput(bench, &servers, rows::KVNODE_P1, 1)?;
    hot(bench, &servers)?;
    drop(servers);
    clients::run(bench, &kvnode)?;
    durable::run(bench, &kvnode)
}

struct Servers {
    ours: Server,
    peer: Server,
}

fn throughput(
    bench: &mut Bench,
    servers: &Servers,
    row: Row,
    pipeline: u32,
) -> Result<(), Box<dyn Error>> {
    let mut ratios = Vec::new();
    for command in COMMANDS {
        let load = Load {
            command,
            clients: CLIENTS,
            pipeline,
            keys: Some(KEYS),
            requests: 5_000 * pipeline,
        };
        ratios.push(rate(&side_by_side(bench, servers, load)?));
    }
    let worst = ratios
        .iter()
        .min_by(|a, b| a.ratio.median.total_cmp(&b.ratio.median));
    bench
        .report
        .row(row, &rates(worst.ok_or("no command was measured")?))?;
    for (command, ratio) in COMMANDS.iter().zip(&ratios) {
        bench.report.detail(command, &rates(ratio))?;
    }
    Ok(())
}

/// Pairs of runs of the load, each with as many requests as the peer answers in the time that a run
/// should take.
fn side_by_side(
    bench: &mut Bench,
    servers: &Servers,
    load: Load,
) -> Result<Vec<Round<Speed>>, Box<dyn Error>> {
    let time = bench
        .effort
        .pick(Duration::from_millis(400), Duration::from_secs(1));
    let speed = load.run(servers.peer.port())?;
    let load = Load {
        requests: (speed.requests_per_second * time.as_secs_f64()) as u32,
        ..load
    };
    let pairs = bench.effort.pick(3, 9);
    interleave(
        &mut bench.effort,
        pairs,
        || load.run(servers.ours.port()),
        || load.run(servers.peer.port()),
    )
}

/// Requests a second.
fn rate(rounds: &[Round<Speed>]) -> Ratio {
    Ratio::of(rounds, |runs| {
        harmonic_mean(runs.map(|run| run.requests_per_second))
    })
}

fn hot(bench: &mut Bench, servers: &Servers) -> Result<(), Box<dyn Error>> {
    let load = Load {
        command: "incr",
        clients: HOT_CLIENTS,
        pipeline: 1,
        keys: None,
        requests: 5_000,
    };
    let rounds = side_by_side(bench, servers, load)?;
    let ratio = Ratio::of(&rounds, |runs| mean(&runs.map(|run| run.p99)));
    bench.report.row(rows::KVNODE_HOT_P99, &ratio.into())?;
    bench
        .report
        .detail("requests a second", &rates(&rate(&rounds)))?;
    Ok(())
}

/// Of the rates of two runs of equal length: all their requests over all their time.
fn harmonic_mean(rates: [f64; 2]) -> f64 {
    2.0 / (1.0 / rates[0] + 1.0 / rates[1])
}

fn rates(ratio: &Ratio) -> Shown {
    Shown::by(ratio, |rate| format!("{rate:.0} req/s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_counts_requests_over_time_and_not_the_mean_of_rates() {
        // A thousand requests at 100 a second and a thousand at 300 take 13.3 seconds.
        assert!((harmonic_mean([100.0, 300.0]) - 150.0).abs() < 1e-9);
    }
}
