//! What the command line says.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use crate::request::REQUEST_MAX;
pub(crate) use crate::storage::Fsync;

pub(crate) const HELP: &str = "\
kvnode: a Redis-compatible server on latchwork

Usage: kvnode [OPTIONS]

Options:
  --port N             port to listen on; 0 picks a free one [default: 6380]
  --bind ADDRESS       IP address to listen on; 0.0.0.0 or :: for all, and then
                       anybody who can reach this machine can read and write,
                       since there is no password [default: 127.0.0.1]
  --io-threads N       threads that serve connections [default: 1, or one for
                       every four cores]
  --max-clients N      most clients at a time [default: 10000]
  --max-queued MIB     most memory for what one client has queued since MULTI, and
                       most for the keys it watches [default: 1024]
  --data DIR           keep everything in this directory as well, and load it at
                       the start; it is made if it is missing
  --fsync WHEN         with --data, when writes are made safe from a power cut:
                       always (before their replies), everysec (within about a
                       second), no (when the system likes) [default: everysec]
  --stall-timeout SECS how long a client may leave a request half sent, or its
                       replies unread; idle clients have no limit [default: 60]
  -h, --help           print this
  -V, --version        print the version
";

/// A transaction may be as large as a request, in MiB.
const QUEUED_MAX: usize = REQUEST_MAX >> 20;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) bind: IpAddr,
    pub(crate) io_threads: usize,
    pub(crate) max_clients: u64,
    /// In bytes.
    pub(crate) max_queued: usize,
    pub(crate) stall_timeout: Duration,
    /// Where everything is kept; in memory only without it.
    pub(crate) data: Option<PathBuf>,
    pub(crate) fsync: Fsync,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            port: 6380,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            io_threads: default_io_threads(),
            max_clients: 10_000,
            max_queued: QUEUED_MAX << 20,
            stall_timeout: Duration::from_secs(60),
            data: None,
            fsync: Fsync::EverySecond,
        }
    }
}

const FSYNC: [(&str, Fsync); 3] = [
    ("always", Fsync::Always),
    ("everysec", Fsync::EverySecond),
    ("no", Fsync::No),
];

/// As the command line and Redis call it.
pub(crate) fn fsync_name(wanted: Fsync) -> &'static str {
    FSYNC
        .iter()
        .find(|(_, fsync)| *fsync == wanted)
        .map_or("", |(name, _)| name)
}

/// One thread keeps up with a client process that uses a whole core, and a second one only takes
/// that core away from it: commands are short, and most of the time goes into the kernel's network
/// code on either side.
fn default_io_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 4).clamp(1, 8))
}

/// What the arguments ask for.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    Serve(Options),
    Help,
    Version,
}

/// Reads the arguments, the program's name left out.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Action, String> {
    use lexopt::prelude::*;

    let mut options = Options::default();
    let mut fsync = None;
    let mut parser = lexopt::Parser::from_args(args);
    let fail = |error: lexopt::Error| format!("{error}");
    while let Some(argument) = parser.next().map_err(fail)? {
        match argument {
            Long("port") => {
                options.port = number(&mut parser, "--port", 0, u64::from(u16::MAX))? as u16;
            }
            Long("bind") => {
                let text = parser
                    .value()
                    .and_then(|value| value.string())
                    .map_err(fail)?;
                options.bind = text.parse().map_err(|_| {
                    format!("--bind takes an IP address such as 127.0.0.1 or ::1, not '{text}'")
                })?;
            }
            Long("io-threads") => {
                options.io_threads = number(&mut parser, "--io-threads", 1, 256)? as usize
            }
            Long("max-clients") => {
                options.max_clients = number(&mut parser, "--max-clients", 1, 1_000_000)?
            }
            Long("max-queued") => {
                let most = QUEUED_MAX as u64;
                options.max_queued = (number(&mut parser, "--max-queued", 1, most)? as usize) << 20;
            }
            Long("stall-timeout") => {
                options.stall_timeout =
                    Duration::from_secs(number(&mut parser, "--stall-timeout", 1, 86_400)?);
            }
            Long("data") => {
                let value = parser.value().map_err(fail)?;
                if value.is_empty() {
                    return Err("--data takes a directory".to_owned());
                }
                let dir = std::path::absolute(&value);
                options.data = Some(dir.map_err(|error| format!("--data: {error}"))?);
            }
            Long("fsync") => {
                let value = parser.value().map_err(fail)?;
                let found = FSYNC.iter().find(|(name, _)| value == *name);
                let &(_, found) = found.ok_or_else(|| {
                    format!(
                        "--fsync takes always, everysec or no, not '{}'",
                        value.to_string_lossy()
                    )
                })?;
                fsync = Some(found);
            }
            Short('h') | Long("help") => return Ok(Action::Help),
            Short('V') | Long("version") => return Ok(Action::Version),
            other => return Err(other.unexpected().to_string()),
        }
    }
    if fsync.is_some() && options.data.is_none() {
        return Err("--fsync needs --data: without it nothing is written".to_owned());
    }
    options.fsync = fsync.unwrap_or(options.fsync);
    Ok(Action::Serve(options))
}

fn number(parser: &mut lexopt::Parser, name: &str, least: u64, most: u64) -> Result<u64, String> {
    let value = parser.value().map_err(|error| error.to_string())?;
    value
        .to_str()
        .and_then(|text| text.parse().ok())
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| {
            format!(
                "{name} takes a number from {least} to {most}, not '{}'",
                value.to_string_lossy()
            )
        })
}
