//! kvnode rows: requests a second, over redis-server's, as redis-benchmark counts them.
//!
//! Both servers run at once as children of this process, on loopback, in memory only, each
//! filled with the keys that will be asked for; one is idle while the other is measured. A
//! *pair* is a round of the harness: two runs of redis-benchmark against either server, all
//! with the same number of requests. A side's figure is its requests over its time, a
//! command's the median of its pairs, and the row's that of the worst of `set`, `get` and
//! `incr`.
//!
//! The machine's own redis-server and redis-benchmark are used; without them the rows are
//! skipped.

mod redis_benchmark;
mod server;

use std::error::Error;
use std::time::Duration;

use crate::Bench;
use crate::harness::{Ratio, interleave};
use crate::rows;
use crate::table::{Row, Shown};

use redis_benchmark::Load;
use server::Server;

/// The keys are spread over this many (`-r`).
const KEYS: u32 = 100_000;
const CLIENTS: u32 = 50;
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
        ours: Server::kvnode(&kvnode)?,
        peer: Server::redis()?,
    };
    server::fill(&servers.ours, KEYS)?;
    server::fill(&servers.peer, KEYS)?;
    throughput(bench, &servers, rows::KVNODE_P16, 16)?;
    throughput(bench, &servers, rows::KVNODE_P1, 1)
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
    let pairs = bench.effort.pick(3, 9);
    let time = bench
        .effort
        .pick(Duration::from_millis(400), Duration::from_secs(1));
    let mut ratios = Vec::new();
    for command in COMMANDS {
        let load = Load {
            command,
            clients: CLIENTS,
            pipeline,
            keys: KEYS,
            requests: 5_000 * pipeline,
        };
        // The peer's speed sets the number of requests.
        let speed = load.run(servers.peer.port())?;
        let load = Load {
            requests: (speed.requests_per_second * time.as_secs_f64()) as u32,
            ..load
        };
        let rounds = interleave(
            &mut bench.effort,
            pairs,
            || load.run(servers.ours.port()),
            || load.run(servers.peer.port()),
        )?;
        ratios.push(Ratio::of(&rounds, |runs| {
            harmonic_mean(runs.map(|run| run.requests_per_second))
        }));
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

/// Of the rates of two runs of equal length: all their requests over all their time.
fn harmonic_mean(rates: [f64; 2]) -> f64 {
    2.0 / (1.0 / rates[0] + 1.0 / rates[1])
}

fn rates(ratio: &Ratio) -> Shown {
    let rate = |rate: f64| format!("{rate:.0} req/s");
    Shown {
        ours: rate(ratio.ours),
        peer: rate(ratio.peer),
        ratio: ratio.ratio,
    }
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
