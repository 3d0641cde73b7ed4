//! A panic as a value: what a dedicated thread hands to whoever asked for the work.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind, resume_unwind};

use crate::sync::unmodelled::Mutex;

/// A caught panic: its message, and its payload to resume it with.
///
/// ```
/// use latchwork::worker::{TicketError, Worker};
///
/// let worker = Worker::new("parser", |text: &str| text.parse::<u64>().expect("a number"));
/// let ticket = worker.submit("seven")?;
/// let Err(TicketError::Panicked(panic)) = ticket.wait() else { unreachable!() };
/// assert!(panic.message().starts_with("a number"));
/// # Ok::<(), latchwork::worker::SubmitError<&str>>(())
/// ```
pub struct Panic {
    message: String,
    /// Behind a lock because a payload need not be `Sync`.
    payload: Mutex<Box<dyn Any + Send>>,
}

impl Panic {
    /// What [`std::panic::catch_unwind`] returned.
    ///
    /// ```
    /// # use latchwork::worker::Panic;
    /// let caught = std::panic::catch_unwind(|| panic!("no more paper")).unwrap_err();
    /// assert_eq!(Panic::new(caught).message(), "no more paper");
    /// ```
    pub fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("(not a string)")
            .to_owned();
        Self {
            message,
            payload: Mutex::new(payload),
        }
    }

    /// Runs `work`, and returns a panic in it as a value.
    ///
    /// What `work` was changing when it panicked stays as the panic left it.
    ///
    /// ```
    /// # use latchwork::worker::Panic;
    /// assert_eq!(Panic::catch(|| 7).unwrap(), 7);
    /// assert_eq!(Panic::catch(|| panic!("out")).unwrap_err().message(), "out");
    /// ```
    ///
    /// # Errors
    /// The panic.
    pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Self> {
        catch_unwind(AssertUnwindSafe(work)).map_err(Self::new)
    }

    /// The message; `(not a string)` for a payload that is none.
    ///
    /// ```
    /// # use latchwork::worker::Panic;
    /// assert_eq!(Panic::new(Box::new(7)).message(), "(not a string)");
    /// ```
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The payload.
    ///
    /// ```
    /// # use latchwork::worker::Panic;
    /// assert!(Panic::new(Box::new(7)).into_payload().is::<i32>());
    /// ```
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.payload.into_inner()
    }

    /// Goes on with the panic on this thread, without printing it again.
    ///
    /// ```should_panic
    /// # use latchwork::worker::Panic;
    /// Panic::new(Box::new("out")).resume();
    /// ```
    ///
    /// # Panics
    /// Always.
    pub fn resume(self) -> ! {
        resume_unwind(self.into_payload())
    }
}

// The payload is only ever taken, whole.
impl UnwindSafe for Panic {}
impl RefUnwindSafe for Panic {}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&self.message).finish()
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Panic {}
