//! The example server as a process.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use nix::unistd::{dup2_stderr, dup2_stdout, execv, pipe2};

use crate::child::{self, Child};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fsync {
    Always,
    EverySecond,
    No,
}

impl Fsync {
    fn name(self) -> &'static str {
        match self {
            Fsync::Always => "always",
            Fsync::EverySecond => "everysec",
            Fsync::No => "no",
        }
    }
}

/// The built example, which `cargo xtask crash` builds: beside this program, or where
/// `LATCHWORK_KVNODE` says.
pub(super) fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("LATCHWORK_KVNODE") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?
            .with_file_name("examples")
            .join("kvnode"),
    };
    match path.exists() {
        true => Ok(path),
        false => bail!("{} is not built", path.display()),
    }
}

pub(super) struct Server {
    process: Child,
    output: BufReader<File>,
    errors: PathBuf,
}

impl Server {
    /// Starts it; what it prints as errors goes to the file `errors`.
    pub(super) fn start(binary: &Path, data: &Path, fsync: Fsync, errors: &Path) -> Result<Server> {
        let data = data.to_str().context("a path that is no text")?;
        let words = [
            "kvnode",
            "--port",
            "0",
            "--data",
            data,
            "--fsync",
            fsync.name(),
        ];
        let words = words.map(|word| CString::new(word).expect("no zeros"));
        let program = CString::new(binary.as_os_str().as_bytes())?;
        let (output, input) = pipe2(OFlag::O_CLOEXEC).context("pipe")?;
        let error_file = File::create(errors)?;
        let process = Child::fork(|| {
            let outputs = dup2_stdout(&input).and_then(|()| dup2_stderr(&error_file));
            let Err(error) = outputs.and_then(|()| execv(&program, &words));
            eprintln!("cannot start kvnode: {error}");
            1
        })?;
        Ok(Server {
            process,
            output: BufReader::new(File::from(output)),
            errors: errors.to_owned(),
        })
    }

    /// Waits until it serves, and says where.
    pub(super) fn address(&mut self) -> Result<SocketAddr> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line)? == 0 {
                let end = self.process.wait()?;
                let said = fs::read_to_string(&self.errors).unwrap_or_default();
                bail!(
                    "kvnode refused to serve: {}: {}",
                    child::End(end),
                    said.trim()
                );
            }
            if let Some(address) = line.trim().strip_prefix("kvnode is listening on ") {
                return address.parse().context("an address");
            }
        }
    }

    /// Kills it if it has not ended by itself.
    pub(super) fn end(self) {
        drop(self.process);
    }

    /// Kills it; an error when it had ended by itself.
    pub(super) fn kill(self) -> Result<()> {
        let said = || fs::read_to_string(&self.errors).unwrap_or_default();
        let killed = self.process.destroy();
        killed.with_context(|| format!("kvnode: {}", said().trim()))
    }
}
