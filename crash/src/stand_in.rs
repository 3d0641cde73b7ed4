//! Stand-in.
#![allow(dead_code, unreachable_pub)]
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum AcquireError {
    Closed,
    TooMany,
    Detached,
}
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum TryAcquireError {
    WouldBlock,
    Closed,
    TooMany,
    Detached,
}
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum AcquireTimeoutError {
    TimedOut,
    Closed,
    TooMany,
    Detached,
}
macro_rules! e { ($($t:ty),*) => { $(impl std::fmt::Display for $t { fn fmt(&self, f:&mut std::fmt::Formatter<'_>)->std::fmt::Result{write!(f,"{self:?}")} } impl std::error::Error for $t{})* } }
e!(AcquireError, TryAcquireError, AcquireTimeoutError);
#[derive(Debug, Clone)]
pub struct SharedSemaphore {
    path: PathBuf,
}
pub struct SharedPermit<'a> {
    files: Vec<File>,
    _s: &'a SharedSemaphore,
}
pub struct SharedOwnedPermit {
    files: Vec<File>,
}
impl<'a> SharedPermit<'a> {
    pub fn into_owned(self) -> SharedOwnedPermit {
        SharedOwnedPermit { files: self.files }
    }
    pub fn count(&self) -> u32 {
        self.files.len() as u32
    }
}
#[derive(Debug)]
pub struct SharedHolder {
    pub pid: u32,
    pub command: String,
    pub permits: u32,
}
#[derive(Debug)]
pub struct SharedWaiter {
    pub pid: u32,
    pub command: String,
    pub threads: u32,
}
const MAX: u64 = 4096;
impl SharedSemaphore {
    pub fn open(p: impl AsRef<Path>, k: u32) -> std::io::Result<Self> {
        let s = SharedSemaphore {
            path: p.as_ref().to_owned(),
        };
        let f = s.file();
        if f.metadata()?.len() == 0 {
            use std::os::unix::fs::FileExt;
            f.write_at(&k.to_le_bytes(), MAX)?;
        }
        Ok(s)
    }
    pub fn remove(p: impl AsRef<Path>) -> std::io::Result<bool> {
        Ok(std::fs::remove_file(p).is_ok())
    }
    fn file(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)
            .unwrap()
    }
    pub fn max(&self) -> u32 {
        use std::os::unix::fs::FileExt;
        let mut b = [0; 4];
        self.file().read_at(&mut b, MAX).unwrap();
        u32::from_le_bytes(b)
    }
    pub fn set_max(&self, k: u32) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt;
        self.file().write_at(&k.to_le_bytes(), MAX).map(|_| ())
    }
    fn lock(&self, i: u32) -> Option<File> {
        let f = self.file();
        let mut l: nix::libc::flock = unsafe_zero();
        l.l_type = nix::libc::F_WRLCK as i16;
        l.l_start = i64::from(i);
        l.l_len = 1;
        nix::fcntl::fcntl(&f, nix::fcntl::FcntlArg::F_OFD_SETLK(&l))
            .ok()
            .map(|_| f)
    }
    pub fn try_acquire_many(&self, n: u32) -> Result<SharedPermit<'_>, TryAcquireError> {
        if n > 64 {
            return Err(TryAcquireError::TooMany);
        }
        let mut v = vec![];
        for i in 0..self.max() {
            if v.len() < n as usize {
                if let Some(f) = self.lock(i) {
                    v.push(f)
                }
            }
        }
        if v.len() == n as usize {
            Ok(SharedPermit { files: v, _s: self })
        } else {
            Err(TryAcquireError::WouldBlock)
        }
    }
    pub fn try_acquire(&self) -> Result<SharedPermit<'_>, TryAcquireError> {
        self.try_acquire_many(1)
    }
    pub fn acquire_many_timeout(
        &self,
        n: u32,
        d: Duration,
    ) -> Result<SharedPermit<'_>, AcquireTimeoutError> {
        let t = Instant::now();
        loop {
            if let Ok(p) = self.try_acquire_many(n) {
                return Ok(p);
            }
            if t.elapsed() >= d {
                return Err(AcquireTimeoutError::TimedOut);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    pub fn acquire_timeout(&self, d: Duration) -> Result<SharedPermit<'_>, AcquireTimeoutError> {
        self.acquire_many_timeout(1, d)
    }
    pub fn acquire_many(&self, n: u32) -> Result<SharedPermit<'_>, AcquireError> {
        Ok(self.acquire_many_timeout(n, Duration::MAX).unwrap())
    }
    pub fn acquire(&self) -> Result<SharedPermit<'_>, AcquireError> {
        self.acquire_many(1)
    }
    pub fn current(&self) -> u32 {
        let mut n = 0;
        for i in 0..64 {
            if self.lock(i).is_none() {
                n += 1
            }
        }
        n
    }
    pub fn waiters(&self) -> u32 {
        u32::from(false)
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn holders(&self) -> Vec<SharedHolder> {
        vec![]
    }
    pub fn waiting(&self) -> Vec<SharedWaiter> {
        vec![]
    }
    pub fn is_closed(&self) -> bool {
        false
    }
}
fn unsafe_zero() -> nix::libc::flock {
    #[allow(unsafe_code)]
    unsafe {
        std::mem::zeroed()
    }
}
