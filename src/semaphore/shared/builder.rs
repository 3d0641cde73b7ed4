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

/// Opens a [`SharedSemaphore`] with more to say than [`open`](SharedSemaphore::open).
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

    /// How many permits the file is made with. All who open it have to say the same number, whatever
    /// [`set_max`](SharedSemaphore::set_max) has made of it.
    pub fn permits(mut self, permits: u32) -> Self {
        self.permits = permits;
        self
    }

    /// The most that [`set_max`](SharedSemaphore::set_max) and an `acquire_many` can ask for; the
    /// file has 32 bytes for each. By default, as many as there are
    /// [`permits`](Self::permits). Up to 1,048,576.
    pub fn max_permits(mut self, max_permits: u32) -> Self {
        self.max_permits = Some(max_permits);
        self
    }

    /// Whether a dead process's permits are used again only when the process has gone altogether,
    /// with all to whom it handed its [descriptor](SharedSemaphore::lifeline_fd).
    ///
    /// Without, they come back as soon as the process is known to be dead, which is before the
    /// kernel has taken down its memory, its sockets and its locks: right for bounding load, and not
    /// where a permit stands for a port, a file or a child. With large processes, strict takes as
    /// long as the kernel does.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Opens what is there, as it is, and makes nothing: for tools that look at somebody else's
    /// semaphore.
    pub fn existing_only(mut self, existing_only: bool) -> Self {
        self.existing_only = existing_only;
        self
    }

    /// Has this process's permits say since when they are held
    /// ([`holders`](SharedSemaphore::holders)): a look at the clock for each.
    pub fn track_holders(mut self, track: bool) -> Self {
        self.tracks_holders = track;
        self
    }

    /// Calls `handler` for each permit that comes back from a guard that was leaked in this process,
    /// on a thread of the library's.
    pub fn on_leak(mut self, handler: impl Fn(LeakReport) + Send + Sync + 'static) -> Self {
        self.on_leak = Some(Arc::new(handler));
        self
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`OpenError`], which says what was being done to which path. Numbers of permits that cannot be
    /// are a [mismatch](OpenError::is_mismatch).
    ///
    /// # Blocking
    ///
    /// While another process opens the same file. One that is stopped just then holds up the others.
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
