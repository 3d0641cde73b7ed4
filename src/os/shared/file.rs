//! Opening and making shared files.
//!
//! A file is made under no name, written whole, and then linked to its place, so nobody ever opens
//! half of one. Of two who make it at the same time, one link succeeds and the other opens that
//! file. A file of another boot of the machine, whose processes are all gone, is replaced.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, OFlags, fallocate, fstatfs, linkat, openat};

use super::area::{SLOTS, Shape};
use super::error::{Cause, OpenError};
use super::layout::{BootId, Header};
use super::mapping::Mapping;
use super::ofd;

/// The byte that is locked to attach, and to replace the file.
pub(super) const ATTACH: u64 = 0;

const OPEN: &str = "open";
const MAKE: &str = "make";

/// File systems on which processes of several machines may meet, or whose mappings may not be
/// shared.
const REMOTE: [(u32, &str); 10] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB 2"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x0116_1970, "GFS2"),
];

/// A file that has been opened and checked, and is not attached yet.
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) mapping: Mapping,
    pub(super) shape: Shape,
}

/// How to open a file.
#[derive(Clone, Copy)]
pub(crate) struct Open<'a> {
    pub(crate) path: &'a Path,
    /// What the file must be like, and is made like.
    pub(crate) shape: Shape,
    /// Not to make it if it is not there; and then to take it as it is.
    pub(crate) existing_only: bool,
    /// Bytes of the control words, and of a cell.
    pub(crate) sizes: (usize, usize),
}

/// Where a name is: a path that is not absolute stands in a directory of the user's own.
pub(crate) fn resolve(name: &Path) -> Result<PathBuf, OpenError> {
    if name.is_absolute() {
        return Ok(name.to_owned());
    }
    let is_plain = name.components().count() == 1 && name.file_name().is_some();
    if !is_plain {
        let cause = Cause::Unsafe("a name has no slashes; a path starts with one");
        return Err(OpenError::new(name, OPEN, cause));
    }
    let directory =
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| Path::new(path).is_absolute()) {
            Some(runtime) => Path::new(&runtime).join("latchwork"),
            None => {
                let user = rustix::process::geteuid().as_raw();
                PathBuf::from(format!("/dev/shm/latchwork-{user}"))
            }
        };
    make_directory(&directory).map_err(|cause| OpenError::new(&directory, MAKE, cause))?;
    Ok(directory.join(name))
}

/// A directory that is the user's alone.
fn make_directory(path: &Path) -> Result<(), Cause> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() {
        return Err(Cause::Unsafe("it is no directory"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Cause::Unsafe("it belongs to somebody else"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(Cause::Unsafe(
            "others may write in it; take their permission away",
        ));
    }
    Ok(())
}

/// Unlinks a file. `false`: there is none.
pub(crate) fn remove(path: &Path) -> Result<bool, OpenError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::new(path, "remove", error)),
    }
}

/// Opens a file, and makes or replaces it where there is none of this boot. `prepare` writes the
/// first contents of the control words and cells.
pub(super) fn open(open: Open<'_>, prepare: &dyn Fn(&Mapping, Shape)) -> Result<Opened, OpenError> {
    let at = |action| move |cause: Cause| OpenError::new(open.path, action, cause);
    let boot = boot_id().map_err(|cause| {
        OpenError::new(Path::new("/proc/sys/kernel/random/boot_id"), "read", cause)
    })?;
    loop {
        match existing(open).map_err(at(OPEN))? {
            Some((opened, of_boot)) if of_boot == boot => {
                agree(open, opened.shape).map_err(at(OPEN))?;
                return Ok(opened);
            }
            Some(_) if open.existing_only => {
                return Err(at(OPEN)(io::Error::from(io::ErrorKind::NotFound).into()));
            }
            Some((old, _)) if old.shape.purpose != open.shape.purpose => {
                agree(open, old.shape).map_err(at(OPEN))?;
            }
            Some((old, _)) => {
                let made = make(open, open.shape, boot, prepare).map_err(at(MAKE))?;
                replace(open.path, &old.file, &made).map_err(at("replace"))?;
            }
            None if open.existing_only => {
                return Err(at(OPEN)(io::Error::from(io::ErrorKind::NotFound).into()));
            }
            None => {
                let made = make(open, open.shape, boot, prepare).map_err(at(MAKE))?;
                link(&made, open.path).map_err(at(MAKE))?;
            }
        }
    }
}

/// The file as it is there, and the boot that it is of.
fn existing(open: Open<'_>) -> Result<Option<(Opened, BootId)>, Cause> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match openat(CWD, open.path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) if open.path.parent().is_none_or(Path::is_dir) => {
            return Ok(None);
        }
        Err(rustix::io::Errno::LOOP) => return Err(Cause::Unsafe("it is a symbolic link")),
        Err(error) => return Err(error.into()),
    };
    let size = check(&file)?;
    let mapping = Mapping::new(file.as_fd(), size)?;
    let (shape, boot) = Header::read(&mapping, size, open.sizes)?;
    let opened = Opened {
        file,
        mapping,
        shape,
    };
    Ok(Some((opened, boot)))
}

/// The same file through a description of its own.
pub(super) fn reopen(file: &OwnedFd) -> Result<OwnedFd, Cause> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(openat(
        CWD,
        own,
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// What can be told of a file without reading it. Returns its size.
fn check(file: &OwnedFd) -> Result<usize, Cause> {
    let found = File::from(file.try_clone()?).metadata()?;
    if !found.is_file() {
        return Err(Cause::Unsafe("it is no regular file"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(Cause::Unsafe("it belongs to somebody else"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(Cause::Unsafe(
            "others may write it; take their permission away",
        ));
    }
    refuse_remote(file)?;
    let size = usize::try_from(found.len()).unwrap_or(usize::MAX);
    let most = Shape {
        purpose: 0,
        cells: super::area::MOST_CELLS,
        parameters: [0; 2],
    };
    if size < super::layout::CELLS_AT || size > most.size(64) || !size.is_multiple_of(4096) {
        return Err(Cause::Invalid(
            "it has not the size of a file of latchwork's",
        ));
    }
    Ok(size)
}

fn refuse_remote(file: &OwnedFd) -> Result<(), Cause> {
    let kind = fstatfs(file)?.f_type as u32;
    match REMOTE.iter().any(|(remote, _)| *remote == kind) {
        true => Err(Cause::Unsafe(
            "it is on a network or user-space file system, where its memory may not be shared",
        )),
        false => Ok(()),
    }
}

fn agree(open: Open<'_>, found: Shape) -> Result<(), Cause> {
    if found.purpose != open.shape.purpose {
        return Err(Cause::Invalid("it is a file of another component's"));
    }
    if open.existing_only || found == open.shape {
        return Ok(());
    }
    Err(Cause::Differs(format!(
        "it was made for {} permits, at most {}, {}; this is {}, at most {}, {}",
        found.parameters[0],
        found.cells,
        strictness(found),
        open.shape.parameters[0],
        open.shape.cells,
        strictness(open.shape),
    )))
}

fn strictness(shape: Shape) -> &'static str {
    match shape.parameters[1] {
        0 => "not strict",
        _ => "strict",
    }
}

/// Makes a file without a name.
fn make(
    open: Open<'_>,
    shape: Shape,
    boot: BootId,
    prepare: &dyn Fn(&Mapping, Shape),
) -> Result<OwnedFd, Cause> {
    let directory = open.path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE;
    let file = openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR)?;
    refuse_remote(&file)?;
    let size = shape.size(open.sizes.1);
    // All of it now: a page that cannot be had later would be a SIGBUS.
    fallocate(&file, FallocateFlags::empty(), 0, size as u64)?;
    let mapping = Mapping::new(file.as_fd(), size)?;
    prepare(&mapping, shape);
    Header::write(&mapping, shape, size, open.sizes, boot, random()?);
    Ok(file)
}

/// Gives a file its name, unless another one has it.
fn link(file: &OwnedFd, path: &Path) -> Result<(), Cause> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Puts `new` in the place of `old`, unless somebody else has done so.
fn replace(path: &Path, old: &OwnedFd, new: &OwnedFd) -> Result<(), Cause> {
    // One at a time: whoever comes next finds another file at the path.
    ofd::lock(old.as_fd(), ATTACH)?;
    if ofd::is_any_locked_elsewhere(old.as_fd(), ATTACH + 1, SLOTS as u64)? {
        return Err(Cause::Unsafe(
            "it is of another boot, and yet processes live that have it open: containers with boots \
             of their own share it",
        ));
    }
    let same = |other: &fs::Metadata| -> io::Result<bool> {
        let old = File::from(old.try_clone()?).metadata()?;
        Ok((old.dev(), old.ino()) == (other.dev(), other.ino()))
    };
    match fs::symlink_metadata(path) {
        Ok(there) if same(&there)? => fs::remove_file(path)?,
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    link(new, path)
}

fn boot_id() -> Result<BootId, Cause> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16);
    let number = number.map_err(|_| Cause::Invalid("it is no number"))?;
    Ok([(number >> 64) as u64, number as u64])
}

fn random() -> Result<[u64; 2], Cause> {
    let mut bytes = [0; 16];
    let count = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    debug_assert_eq!(count, bytes.len());
    let number = u128::from_ne_bytes(bytes);
    Ok([(number >> 64) as u64, number as u64])
}
