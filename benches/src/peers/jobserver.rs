//! GNU make's jobserver: a pipe with a byte in it for each permit. It has a name, as make's has
//! with `--jobserver-auth=fifo:PATH`, so that processes find it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{CWD, Mode, mkfifoat};

#[derive(Debug)]
pub(crate) struct Jobserver(File);

impl Jobserver {
    /// A new pipe with `permits` bytes in it. They are gone when nobody has it open.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub(crate) fn create(path: &Path, permits: u32) -> io::Result<Jobserver> {
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR)?;
        let this = Jobserver::open(path)?;
        for _ in 0..permits {
            this.put()?;
        }
        Ok(this)
    }

    pub(crate) fn open(path: &Path) -> io::Result<Jobserver> {
        let pipe = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Jobserver(pipe))
    }

    /// Waits for a byte and takes it.
    pub(crate) fn take(&self) -> io::Result<()> {
        (&self.0).read_exact(&mut [0])
    }

    /// Puts a byte back.
    pub(crate) fn put(&self) -> io::Result<()> {
        (&self.0).write_all(b"+")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_taken_as_were_put() {
        let path =
            std::env::temp_dir().join(format!("latchwork-bench-jobs-{}", std::process::id()));
        let server = Jobserver::create(&path, 2).unwrap();
        let client = Jobserver::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        server.take().unwrap();
        client.take().unwrap();
        client.put().unwrap();
        server.take().unwrap();
    }
}
