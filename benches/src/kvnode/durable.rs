//! What durability costs: requests a second while everything is logged, and the time until a server
//! that was stopped serves again.
//!
//! Either server's files lie beside the program, on one disk, since the temporary directory may be
//! in memory. redis-server keeps an append-only file that is never rewritten: no more is asked of
//! it than to log, and to load what it has logged.
//!
//! *Always*, *everysec*: SET of 100,000 keys by 50 clients, one request at a time each; a pair is a
//! round of the harness, as in the rows without a disk. The unjudged line is of 16 at a time.
//!
//! *Restart*: five million keys of 16 bytes with values of 64, in this order and once each. Stopped
//! in good order, a server is started and asked as soon as it says that it is ready; the figure is
//! the time from the start to the answer. Then the number of its keys is compared, and it is
//! stopped again.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::harness::{Ratio, nanos};
use crate::rows;
use crate::table::Row;

use super::redis_benchmark::Load;
use super::server::{self, Control, Server};
use super::{CLIENTS, KEYS, Servers, rate, rates, side_by_side};

const RESTART_KEYS: u32 = 5_000_000;
/// How long a server may take to load them.
const LOADING: Duration = Duration::from_secs(120);

pub(super) fn run(bench: &mut Bench, kvnode: &Path) -> Result<(), Box<dyn Error>> {
    fsync(bench, kvnode, rows::KVNODE_ALWAYS, "always")?;
    fsync(bench, kvnode, rows::KVNODE_EVERYSEC, "everysec")?;
    restart(bench, kvnode)
}

fn fsync(bench: &mut Bench, kvnode: &Path, row: Row, mode: &str) -> Result<(), Box<dyn Error>> {
    let directory = Directory::create(mode)?;
    let servers = Servers {
        ours: ours(kvnode, &directory, mode)?,
        peer: peer(&directory, mode)?,
    };
    server::fill(&servers.ours, KEYS)?;
    server::fill(&servers.peer, KEYS)?;
    let mut pipelined = |pipeline: u32| -> Result<Ratio, Box<dyn Error>> {
        let load = Load {
            command: "set",
            clients: CLIENTS,
            pipeline,
            keys: Some(KEYS),
            requests: 2_000 * pipeline,
        };
        Ok(rate(&side_by_side(bench, &servers, load)?))
    };
    let (single, many) = (pipelined(1)?, pipelined(16)?);
    bench.report.row(row, &rates(&single))?;
    bench.report.detail("16 at a time", &rates(&many))?;
    Ok(())
}

fn restart(bench: &mut Bench, kvnode: &Path) -> Result<(), Box<dyn Error>> {
    let directory = Directory::create("restart")?;
    let ours = || ours(kvnode, &directory, "everysec");
    let peer = || peer(&directory, "everysec");
    for server in [ours()?, peer()?] {
        server::fill_with(&server, RESTART_KEYS, "v".repeat(64).as_str())?;
        server.stop()?;
    }
    let pairs = bench.effort.pick(3, 9);
    let mut times = Vec::with_capacity(pairs);
    // The first pair brings both servers' files into memory, as far as they are not there.
    for pair in 0..=pairs {
        let time = if bench.effort.coin() {
            let ours = until_served(ours)?;
            (ours, until_served(peer)?)
        } else {
            let peer = until_served(peer)?;
            (until_served(ours)?, peer)
        };
        if pair > 0 {
            times.push(time);
        }
    }
    let ratio = Ratio::of_pairs(&times);
    bench.report.row(rows::KVNODE_RESTART, &ratio.into())?;
    Ok(())
}

/// Nanoseconds from a server's start to its first answer.
fn until_served(start: impl Fn() -> Result<Server, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let begun = Instant::now();
    let server = start()?;
    let mut control = Control::connect(&server)?;
    control.ping()?;
    let time = begun.elapsed();
    let keys = control.keys()?;
    if keys != RESTART_KEYS as usize {
        return Err(format!("a server has {keys} of {RESTART_KEYS} keys after its restart").into());
    }
    server.stop()?;
    if time > LOADING {
        return Err(format!("a server took {time:?} to load its keys").into());
    }
    Ok(nanos(time))
}

fn ours(kvnode: &Path, directory: &Directory, mode: &str) -> Result<Server, Box<dyn Error>> {
    let data = directory.join("kvnode")?;
    Server::kvnode(kvnode, &["--data", &data, "--fsync", mode])
}

fn peer(directory: &Directory, mode: &str) -> Result<Server, Box<dyn Error>> {
    let data = directory.join("redis")?;
    let logged = ["--appendonly", "yes", "--appendfsync", mode];
    let plain = [
        "--aof-use-rdb-preamble",
        "no",
        "--auto-aof-rewrite-percentage",
        "0",
    ];
    Server::redis(&[&logged[..], &plain, &["--dir", &data]].concat())
}

/// Removed at the end, with what is in it.
struct Directory(PathBuf);

impl Directory {
    fn create(name: &str) -> Result<Directory, Box<dyn Error>> {
        let name = format!("bench-kvnode-{name}-{}", process::id());
        let path = std::env::current_exe()?.with_file_name(name);
        fs::create_dir(&path)?;
        Ok(Directory(path))
    }

    /// A directory in it, made if it is missing.
    fn join(&self, name: &str) -> Result<String, Box<dyn Error>> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| format!("{} is no UTF-8", path.display()).into())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
