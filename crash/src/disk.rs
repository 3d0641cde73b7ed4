//! A disk in memory with a file system on it, whose power can be cut.
//!
//! A file that has no name any more stands for the disk: a loop device lays it under a file system,
//! which is mounted in a mount namespace of this process. So nothing is left behind, however the
//! process ends: with it go namespace and mount, and with those the device lets go of the file.
//!
//! A power cut has the file system lose at once what it has not written to the disk, its journal's
//! end too. All calls fail from then on, until it is mounted again.

#![allow(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

use crate::child;

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ext4,
    Xfs,
}

impl Kind {
    pub(crate) const ALL: [Kind; 2] = [Kind::Ext4, Kind::Xfs];

    fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
        }
    }

    /// For what the suites of the library write; only what is written takes memory.
    const BYTES: u64 = 512 << 20;

    fn make(self) -> Command {
        let mut command = Command::new(format!("mkfs.{}", self.name()));
        match self {
            Kind::Ext4 => command.args([
                "-q",
                "-F",
                "-b",
                "4096",
                "-E",
                "nodiscard,lazy_itable_init=0",
            ]),
            Kind::Xfs => command.args(["-q", "-f", "-K"]),
        };
        command
    }

    fn package(self) -> &'static str {
        match self {
            Kind::Ext4 => "e2fsprogs",
            Kind::Xfs => "xfsprogs",
        }
    }

    /// Why there can be none here, if there cannot.
    pub(crate) fn impossible(self) -> Option<String> {
        if let Some(why) = child::no_namespaces(CloneFlags::CLONE_NEWNS) {
            return Some(why);
        }
        if !Path::new("/dev/loop-control").exists() {
            return Some("no loop devices".to_owned());
        }
        let make = self.make().arg("-V").output();
        make.is_err().then(|| {
            let package = self.package();
            format!("no mkfs.{self}; apt-get install {package}")
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A mounted file system; dropped, it is unmounted.
#[derive(Debug)]
pub(crate) struct Disk {
    kind: Kind,
    at: PathBuf,
    device: PathBuf,
    /// Open as long as the file shall stay under the device.
    _device: File,
    is_mounted: bool,
}

impl Disk {
    /// Makes a file system and mounts it at `at`, a directory that does not exist, for this process
    /// and those that it starts.
    pub(crate) fn make(kind: Kind, at: PathBuf) -> Result<Disk> {
        Disk::make_of(kind, at, Kind::BYTES)
    }

    /// The same, with a disk of so many bytes.
    pub(crate) fn make_of(kind: Kind, at: PathBuf, bytes: u64) -> Result<Disk> {
        enter_namespace()?;
        std::fs::create_dir(&at).with_context(|| format!("cannot make {}", at.display()))?;
        let image = at.with_extension("image");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&image)?;
        std::fs::remove_file(&image)?;
        file.set_len(bytes)?;
        let (path, device) = attach(&file).context("a loop device")?;
        let made = kind.make().arg(&path).output()?;
        ensure!(
            made.status.success(),
            "mkfs.{kind}: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut disk = Disk {
            kind,
            at,
            device: path,
            _device: device,
            is_mounted: false,
        };
        disk.mount()?;
        Ok(disk)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    fn mount(&mut self) -> Result<()> {
        let none: Option<&str> = None;
        mount(
            Some(&self.device),
            &self.at,
            Some(self.kind.name()),
            MsFlags::empty(),
            none,
        )
        .with_context(|| format!("cannot mount {}", self.kind))?;
        self.is_mounted = true;
        Ok(())
    }

    /// Cuts the power. Whoever has files open there gets errors from now on.
    pub(crate) fn cut(&self) -> Result<()> {
        /// `FS_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`: both file systems have it.
        const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
        /// Not even the journal is written.
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(&self.at).context("the root")?;
        // SAFETY: this call reads a 32-bit number, which lives as long as the call.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &NO_LOG_FLUSH) };
        Errno::result(done).context("the power cut")?;
        Ok(())
    }

    /// After a cut, when no process has a file open there any more: mounts it again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.unmount()?;
        self.mount()
    }

    fn unmount(&mut self) -> Result<()> {
        // The kernel may still be closing what a process had open that has ended; on a busy machine
        // it takes its time.
        let started = Instant::now();
        loop {
            match umount(&self.at) {
                Ok(()) => {
                    self.is_mounted = false;
                    return Ok(());
                }
                Err(Errno::EBUSY) if started.elapsed() < Duration::from_secs(30) => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(error) => bail!("cannot unmount {}: {error}", self.at.display()),
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // It goes with the namespace at the latest.
            let _ = self.unmount();
        }
    }
}

/// What is mounted from now on is seen by this process and those that it starts only.
fn enter_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let none: Option<&str> = None;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).context("private mounts")
}

/// Lays a file under a free loop device, until nobody has that open or mounted any more.
fn attach(file: &File) -> Result<(PathBuf, File)> {
    /// `struct loop_config`, of which we need the first field and the flags.
    #[repr(C)]
    struct Config {
        fd: u32,
        block_size: u32,
        unused: [u64; 5],
        number_and_encryption: [u32; 3],
        flags: u32,
        names_and_keys: [u8; 160],
        init: [u64; 2],
        reserved: [u64; 8],
    }
    const _: () = assert!(size_of::<Config>() == 304);
    const GET_FREE: libc::Ioctl = 0x4c82;
    const CONFIGURE: libc::Ioctl = 0x4c0a;
    const AUTOCLEAR: u32 = 4;

    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/loop-control")?;
    let config = Config {
        fd: file.as_raw_fd().try_into()?,
        block_size: 0,
        unused: [0; 5],
        number_and_encryption: [0; 3],
        flags: AUTOCLEAR,
        names_and_keys: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // Another process may be faster at the one that is free.
    for _ in 0..100 {
        // SAFETY: takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
        let number = Errno::result(number).context("no free one")?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        // SAFETY: reads a `loop_config`, which lives as long as the call.
        let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
        match Errno::result(done) {
            Ok(_) => return Ok((path, device)),
            Err(Errno::EBUSY) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    bail!("all are taken")
}
