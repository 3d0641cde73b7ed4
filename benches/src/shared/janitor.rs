//! A process that removes what the benches make outside of processes, once they have ended,
//! however they did.
//!
//! Its standard input is a pipe from the bench: a line an id of a System V semaphore, and the end
//! when the bench has ended. It has a process group of its own, so that a terminal's interrupt
//! leaves it.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitCode, Stdio};

use crate::peers::sem_undo::SemUndo;

/// The first argument of such a process; the second is the directory that it removes.
pub(super) const ROLE: &str = "janitor-of-a-bench";

/// In memory: what is measured is not to wait for a disk.
const PARENT: &str = "/dev/shm";

#[derive(Debug)]
pub(super) struct Janitor {
    directory: PathBuf,
    paths: u32,
    process: Child,
}

impl Janitor {
    /// Starts one, and makes the directory.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub(super) fn start() -> io::Result<Janitor> {
        let directory = Path::new(PARENT).join(format!("latchwork-bench-{}", process::id()));
        let process = Command::new(env::current_exe()?)
            .arg(ROLE)
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let this = Janitor {
            directory,
            paths: 0,
            process,
        };
        DirBuilder::new().mode(0o700).create(&this.directory)?;
        Ok(this)
    }

    /// A path that nothing has yet.
    pub(super) fn new_path(&mut self) -> PathBuf {
        self.paths += 1;
        self.directory.join(self.paths.to_string())
    }

    pub(super) fn adopt(&mut self, semaphore: SemUndo) -> io::Result<()> {
        let told = match &mut self.process.stdin {
            Some(pipe) => writeln!(pipe, "{}", semaphore.id()),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if told.is_err() {
            semaphore.remove();
        }
        told
    }
}

impl Drop for Janitor {
    /// Has it do its work, and waits for that.
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // There is nobody to tell of an error.
        let _ = self.process.wait();
    }
}

/// The process itself.
pub(super) fn run(directory: &Path) -> ExitCode {
    let lines = io::stdin().lock().lines().map_while(Result::ok);
    let semaphores: Vec<i32> = lines.filter_map(|line| line.parse().ok()).collect();
    for id in semaphores {
        SemUndo::from_id(id).remove();
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("latchwork-benches: cannot remove {directory:?}: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
