//! What a connected client costs a server that is not asked anything.
//!
//! Either server is started afresh and warmed by the same steps: a thousand keys, one client that
//! asks for the number of clients. Then this process connects five thousand clients that send
//! nothing, and waits until the server counts them all. The figure is by how much the server's
//! resident memory has grown, over their number.
//!
//! The clients are silent because that is when redis-server needs least: one that has asked makes
//! it keep buffers for some seconds more, and the kernel counts what it has touched. The unjudged
//! line is of clients that have each asked once, just before.

use std::error::Error;
use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Instant;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::Bench;
use crate::harness::Ratio;
use crate::rows;
use crate::table::Shown;

use super::server::{self, Control, PATIENCE, Server};

const CLIENTS: usize = 5_000;
/// Files of this process besides: what it was given, a child's pipes, the control connection.
const OTHER_FILES: usize = 100;
const WARM_KEYS: u32 = 1_000;
/// Connected before the server is asked whether it has accepted them: fewer than any queue of
/// connections holds, so that none is refused and tried again a second later.
const BATCH: usize = 100;

/// Bytes a client.
#[derive(Clone, Copy, Debug)]
struct Cost {
    silent: f64,
    asked: f64,
}

pub(super) fn run(bench: &mut Bench, kvnode: &Path) -> Result<(), Box<dyn Error>> {
    allow_files(CLIENTS + OTHER_FILES)?;
    let pairs = bench.effort.pick(3, 9);
    let mut costs = Vec::with_capacity(pairs);
    for _ in 0..pairs {
        // Memory does not drift as speed does: one run of either side makes a pair.
        costs.push(if bench.effort.coin() {
            let ours = cost(&Server::kvnode(kvnode, &[])?)?;
            (ours, cost(&Server::redis(&[])?)?)
        } else {
            let peer = cost(&Server::redis(&[])?)?;
            (cost(&Server::kvnode(kvnode, &[])?)?, peer)
        });
    }
    let shown = |figure: fn(Cost) -> f64| {
        let pairs: Vec<(f64, f64)> = costs
            .iter()
            .map(|(ours, peer)| (figure(*ours), figure(*peer)))
            .collect();
        bytes(&Ratio::of_pairs(&pairs))
    };
    bench
        .report
        .row(rows::KVNODE_CLIENTS, &shown(|cost| cost.silent))?;
    bench
        .report
        .detail("right after a PING each", &shown(|cost| cost.asked))?;
    Ok(())
}

fn cost(server: &Server) -> Result<Cost, Box<dyn Error>> {
    server::fill(server, WARM_KEYS)?;
    let mut control = Control::connect(server)?;
    let already = control.clients()?;
    let before = resident(server)?;
    let mut clients = Vec::with_capacity(CLIENTS);
    while clients.len() < CLIENTS {
        for _ in 0..BATCH {
            clients.push(TcpStream::connect((Ipv4Addr::LOCALHOST, server.port()))?);
        }
        let deadline = Instant::now() + PATIENCE;
        while control.clients()? < already + clients.len() {
            if Instant::now() > deadline {
                return Err("a server does not accept its clients".into());
            }
        }
    }
    let a_client = |now: u64| now.saturating_sub(before) as f64 / CLIENTS as f64;
    let silent = a_client(resident(server)?);
    for client in &mut clients {
        server::ask(client, "*1\r\n$4\r\nPING\r\n", "+PONG\r\n")?;
    }
    let asked = a_client(resident(server)?);
    Ok(Cost { silent, asked })
}

/// Bytes of the server that are in memory, to the page (the quicker `VmRSS` is an estimate).
fn resident(server: &Server) -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid()))?;
    resident_of(&text).ok_or_else(|| format!("no Rss in {text:?}").into())
}

fn resident_of(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Raises this process's descriptor limit, and so its children's, as far as it may.
fn allow_files(needed: usize) -> Result<(), Box<dyn Error>> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some() && limit.current != limit.maximum {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit)?;
    }
    match limit.current {
        Some(most) if most < needed as u64 => {
            Err(format!("it takes {needed} descriptors, and this machine allows {most}").into())
        }
        _ => Ok(()),
    }
}

fn bytes(ratio: &Ratio) -> Shown {
    Shown::by(ratio, |bytes| format!("{bytes:.0} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let text = "55d0-7ffc ---p 00000000 00:00 0    [rollup]\n\
                    Rss:                1952 kB\nPss:                 365 kB\n";
        assert_eq!(resident_of(text), Some(1952 * 1024));
        assert_eq!(resident_of("Pss: 1 kB\n"), None);
        assert_eq!(resident_of("Rss: many kB\n"), None);
    }
}
