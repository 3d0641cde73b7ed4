//! What can go wrong with a shared file, and at which one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::area::SLOTS;

/// A shared file could not be opened, made or removed.
///
/// ```
/// use latchwork::SharedSemaphore;
///
/// let error = SharedSemaphore::open("/no/such/directory/slots", 4).unwrap_err();
/// assert!(error.is_not_found());
/// assert!(error.to_string().contains("/no/such/directory"));
/// ```
#[derive(Debug)]
pub struct OpenError {
    path: PathBuf,
    /// What was being done, as it stands after "could not".
    action: &'static str,
    cause: Cause,
}

#[derive(Debug)]
pub(crate) enum Cause {
    Io(io::Error),
    /// The file is something else, or broken.
    Invalid(&'static str),
    /// Its layout is of another version.
    Version,
    /// It is another one's, or others may write it.
    Unsafe(&'static str),
    /// It was made with other parameters.
    Differs(String),
    /// As many processes as there can be are attached.
    Full,
}

impl OpenError {
    pub(crate) fn new(path: &Path, action: &'static str, cause: impl Into<Cause>) -> Self {
        Self {
            path: path.to_owned(),
            action,
            cause: cause.into(),
        }
    }

    /// The file or directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The system's error, where that is the cause.
    pub fn io_error(&self) -> Option<&io::Error> {
        match &self.cause {
            Cause::Io(error) => Some(error),
            _ => None,
        }
    }

    /// There is no such file, and it was not to be made, or no directory for it.
    pub fn is_not_found(&self) -> bool {
        matches!(&self.cause, Cause::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// The file was made with other parameters than those asked for.
    pub fn is_mismatch(&self) -> bool {
        matches!(self.cause, Cause::Differs(_))
    }

    /// The file is something else, was written over, or is of another version of this library:
    /// removing it and opening again makes a new one.
    pub fn is_invalid(&self) -> bool {
        matches!(self.cause, Cause::Invalid(_) | Cause::Version)
    }

    /// The file belongs to somebody else, others may write it, or it is where processes of several
    /// machines may meet.
    pub fn is_refused(&self) -> bool {
        match &self.cause {
            Cause::Unsafe(_) => true,
            Cause::Io(error) => error.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    /// As many processes are attached as there can be.
    pub fn is_full(&self) -> bool {
        matches!(self.cause, Cause::Full)
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rustix::io::Errno> for Cause {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} {}: ", self.action, self.path.display())?;
        match &self.cause {
            Cause::Io(error) => write!(f, "{error}"),
            Cause::Invalid(what) => write!(f, "{what}; remove it to begin anew"),
            Cause::Version => f.write_str(
                "it was made by another version of latchwork; remove it when nobody uses it any more",
            ),
            Cause::Unsafe(why) => f.write_str(why),
            Cause::Differs(how) => f.write_str(how),
            Cause::Full => write!(
                f,
                "{SLOTS} processes have it open, or left a descriptor to one that lives: no more can"
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            // Its text stands in the error's own.
            Cause::Io(error) => error.source(),
            _ => None,
        }
    }
}
