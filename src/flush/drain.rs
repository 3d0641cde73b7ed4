//! Drains: waiting until all flushes below a number are over.

use std::time::Duration;

use crate::sync::time::{Instant, now};
use crate::waiter::Pending;

use super::FlushPipeline;
use super::core::Core;
use super::error::DrainError;
use super::finalizer::Finalize;

impl<F: Finalize> FlushPipeline<F> {
    /// Waits until all that has been rotated so far is finalized or skipped, and its tickets are
    /// done. What is rotated later does not prolong the wait.
    ///
    /// # Errors
    /// [`Halted`](DrainError::Halted), [`ShutDown`](DrainError::ShutDown),
    /// [`WouldDeadlock`](DrainError::WouldDeadlock).
    ///
    /// # Blocking
    /// Until the last of these flushes is finalized or skipped, or the pipeline halts.
    pub fn drain(&self) -> Result<(), DrainError> {
        self.drain_until(self.next_sequence(), None)
    }

    /// As [`drain`](Self::drain), but not longer than `timeout`.
    ///
    /// # Errors
    /// As [`drain`](Self::drain), and [`TimedOut`](DrainError::TimedOut).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn drain_timeout(&self, timeout: Duration) -> Result<(), DrainError> {
        self.drain_until(self.next_sequence(), now().checked_add(timeout))
    }

    /// As [`drain`](Self::drain), but not past `deadline`.
    ///
    /// # Errors
    /// As [`drain_timeout`](Self::drain_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn drain_deadline(&self, deadline: Instant) -> Result<(), DrainError> {
        self.drain_until(self.next_sequence(), Some(deadline))
    }

    /// Calls `f` when all that has been rotated so far is finalized or skipped, or cannot be. For
    /// event loops. Once the [`Pending`] has been dropped, `f` is not called.
    ///
    /// # Errors
    /// `f` gets [`Halted`](DrainError::Halted) or [`ShutDown`](DrainError::ShutDown).
    pub fn drain_with(&self, f: impl FnOnce(Result<(), DrainError>) + Send + 'static) -> Pending {
        self.drain_to_with(self.next_sequence(), f)
    }

    /// Waits until all flushes below `sequence` are finalized or skipped, and their tickets are
    /// done; also of those that are not rotated yet.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    ///
    /// # Blocking
    /// As [`drain`](Self::drain).
    pub fn drain_to(&self, sequence: u64) -> Result<(), DrainError> {
        self.drain_until(sequence, None)
    }

    /// As [`drain_to`](Self::drain_to), but not longer than `timeout`.
    ///
    /// # Errors
    /// As [`drain_timeout`](Self::drain_timeout).
    ///
    /// # Blocking
    /// Up to `timeout`.
    pub fn drain_to_timeout(&self, sequence: u64, timeout: Duration) -> Result<(), DrainError> {
        self.drain_until(sequence, now().checked_add(timeout))
    }

    /// As [`drain_to`](Self::drain_to), but not past `deadline`.
    ///
    /// # Errors
    /// As [`drain_timeout`](Self::drain_timeout).
    ///
    /// # Blocking
    /// Until `deadline`.
    pub fn drain_to_deadline(&self, sequence: u64, deadline: Instant) -> Result<(), DrainError> {
        self.drain_until(sequence, Some(deadline))
    }

    /// Calls `f` when all flushes below `sequence` are finalized or skipped, or cannot be, as
    /// [`drain_with`](Self::drain_with).
    ///
    /// # Errors
    /// As [`drain_with`](Self::drain_with).
    pub fn drain_to_with(
        &self,
        sequence: u64,
        f: impl FnOnce(Result<(), DrainError>) + Send + 'static,
    ) -> Pending {
        Core::drained(self.core(), sequence).wait_with(move |result| {
            f(result.unwrap_or(Err(DrainError::ShutDown)));
        })
    }

    fn drain_until(&self, sequence: u64, deadline: Option<Instant>) -> Result<(), DrainError> {
        let core = self.core();
        let is_elsewhere = core.home.is_elsewhere();
        match core.watermark() >= sequence {
            // The finalizer's thread may be here on its way from ticket to ticket.
            true if is_elsewhere || core.is_served_here() => return Ok(()),
            false if is_elsewhere => return Err(DrainError::ShutDown),
            false if core.would_wait_for_itself() => return Err(DrainError::WouldDeadlock),
            _ => {}
        }
        let ticket = Core::drained(core, sequence);
        let result = match deadline {
            None => ticket.wait(),
            Some(deadline) => match ticket.wait_or_cancel(deadline) {
                None => return Err(DrainError::TimedOut),
                Some(result) => result,
            },
        };
        result.unwrap_or(Err(DrainError::ShutDown))
    }
}
