//! Locks on single bytes of a file, one byte a permit, owned by an open file description.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process;

/// One open file description, so one owner of locks: for one thread of a process.
#[derive(Debug)]
pub(crate) struct Ofd {
    file: File,
    permits: u32,
}

impl Ofd {
    /// Opens the file, and makes it if there is none.
    ///
    /// # Errors
    ///
    /// What the system reports.
    pub(crate) fn open(path: &Path, permits: u32) -> io::Result<Ofd> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        Ok(Ofd { file, permits })
    }

    /// Takes the lock on a free byte, or waits for the one that falls to this process. The kernel
    /// knows no wait for any of several.
    pub(crate) fn lock(&self) -> io::Result<u32> {
        for byte in 0..self.permits {
            match self.control(libc::F_OFD_SETLK, libc::F_WRLCK, byte) {
                Ok(()) => return Ok(byte),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let byte = process::id() % self.permits;
        loop {
            match self.control(libc::F_OFD_SETLKW, libc::F_WRLCK, byte) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                outcome => return outcome.map(|()| byte),
            }
        }
    }

    pub(crate) fn unlock(&self, byte: u32) -> io::Result<()> {
        self.control(libc::F_OFD_SETLK, libc::F_UNLCK, byte)
    }

    fn control(&self, command: libc::c_int, kind: libc::c_int, byte: u32) -> io::Result<()> {
        let request = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: byte.into(),
            l_len: 1,
            l_pid: 0,
        };
        // SAFETY: the descriptor is the file's, and the request lives as long as the call.
        let status = unsafe { libc::fcntl(self.file.as_raw_fd(), command, &request) };
        match status {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_owners_have_a_byte_each() {
        let path = std::env::temp_dir().join(format!("latchwork-bench-ofd-{}", process::id()));
        let owners = [Ofd::open(&path, 2).unwrap(), Ofd::open(&path, 2).unwrap()];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(owners[0].lock().unwrap(), 0);
        assert_eq!(owners[1].lock().unwrap(), 1);
        owners[0].unlock(0).unwrap();
        owners[1].unlock(1).unwrap();
        assert_eq!(owners[1].lock().unwrap(), 0);
    }
}
