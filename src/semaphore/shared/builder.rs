//! How a shared semaphore is opened.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::holder::{LeakReport, OnLeak};
use crate::os::shared::Attachment;
use crate::os::shared::area::{MOST_CELLS, Shape};
use crate::os::shared::error::{Cause, OpenError};
use crate::os::shared::file;
use crate::sync::unmodelled::Arc;
use crate::waiter::dispatcher;

use super::SharedSemaphore;
use super::control::{self, PURPOSE};

/// Opens a [`SharedSemaphore`] with more options than [`open`](SharedSemaphore::open).
///
/// ```
/// # let path = std::env::temp_dir().join(format!("latchwork-builder-{}", std::process::id()));
/// use latchwork::SharedSemaphore;
///
/// let slots = SharedSemaphore::builder(&path)
///     .permits(4)
///     .max_permits(64)
///     .track_holders(true)
///     .open()?;
/// slots.set_max(16)?;
/// # SharedSemaphore::remove(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub struct Builder {
    name: PathBuf,
    permits: u32,
    max_permits: Option<u32>,
    strict: bool,
    existing_only: bool,
    tracks_holders: bool,
    on_leak: Option<OnLeak>,
}

impl Builder {
    pub(super) fn new(name: &Path) -> Self {
        Self {
            name: name.to_owned(),
            permits: 1,
            max_permits: None,
            strict: false,
            existing_only: false,
            tracks_holders: false,
            on_leak: None,
        }
    }

    /// How many permits the file is created with. Every process that opens it has to give the same
    /// number, also after a [`set_max`](SharedSemaphore::set_max). Default: 1.
    pub fn permits(mut self, permits: u32) -> Self {
        self.permits = permits;
        self
    }

    /// The ceiling for [`set_max`](SharedSemaphore::set_max) and `acquire_many`, at most 1,048,576.
    /// The file has 32 bytes for each. Default: the number of [`permits`](Self::permits).
    pub fn max_permits(mut self, max_permits: u32) -> Self {
        self.max_permits = Some(max_permits);
        self
    }

    /// Whether a dead process's permits come back only when the kernel has freed all that the
    /// process had, and every process that inherited its [descriptor](SharedSemaphore::lifeline_fd)
    /// has ended. Default: no.
    ///
    /// Without `strict` they come back as soon as the process is known to be dead. Its memory,
    /// sockets and locks may exist a little longer. That is right for bounding load, but not where
    /// a permit stands for a port, a file or a child process.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Opens an existing file with the options that it was created with, and creates none: for
    /// tools that look at another program's semaphore. Default: no.
    pub fn existing_only(mut self, existing_only: bool) -> Self {
        self.existing_only = existing_only;
        self
    }

    /// Whether [`holders`](SharedSemaphore::holders) can say since when this process holds permits.
    /// Costs a reading of a coarse clock an acquire. Default: no.
    pub fn track_holders(mut self, track: bool) -> Self {
        self.tracks_holders = track;
        self
    }

    /// Tells `handler` of each permit that a guard of this process leaked and that came back. It
    /// runs on the library's thread `lw-dispatch`, and a panic in it is caught.
    pub fn on_leak(mut self, handler: impl Fn(LeakReport) + Send + Sync + 'static) -> Self {
        self.on_leak = Some(Arc::new(handler));
        self
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`OpenError`], which says what was being done to which path. An invalid number of permits is
    /// a [mismatch](OpenError::is_mismatch), too.
    ///
    /// # Blocking
    ///
    /// While another process opens the same file, also if that process is stopped meanwhile.
    pub fn open(self) -> Result<SharedSemaphore, OpenError> {
        let path = file::resolve(&self.name)?;
        let ceiling = self.max_permits.unwrap_or(self.permits);
        if self.permits == 0 || self.permits > ceiling || ceiling > MOST_CELLS {
            let cause = Cause::Differs(format!(
                "it cannot have {} permits, at most {ceiling}: give it at least 1, and room for no \
                 more than {MOST_CELLS}",
                self.permits
            ));
            return Err(OpenError::new(&path, "open", cause));
        }
        if self.on_leak.is_some() {
            let started = dispatcher::start();
            started.map_err(|error| OpenError::new(&path, "start a thread for", error))?;
        }
        let shape = Shape {
            purpose: PURPOSE,
            cells: ceiling,
            parameters: [self.permits, u32::from(self.strict)],
        };
        let attached =
            Attachment::open(&path, shape, self.existing_only, |control, cells, shape| {
                control::prepare(control, cells, shape.parameters[0]);
            })?;
        let (tracks_holders, on_leak) = (self.tracks_holders, self.on_leak);
        Ok(SharedSemaphore::with_attachment(
            attached,
            &path,
            tracks_holders,
            on_leak,
        ))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("name", &self.name)
            .field("permits", &self.permits)
            .field("max_permits", &self.max_permits)
            .field("strict", &self.strict)
            .field("existing_only", &self.existing_only)
            .field("track_holders", &self.tracks_holders)
            .finish_non_exhaustive()
    }
}
