//! What is asked of the log besides appending: syncs, rotations, another try.

use super::super::builder::Durability;
use super::super::{AppendError, Lsn};
use super::Core;
use super::state::Patience;

impl Core {
    /// Waits until everything up to `lsn` is synced; asks for that, if the log would not do it
    /// soon.
    pub(in super::super) fn wait_durable(
        &self,
        lsn: Option<Lsn>,
        patience: Patience,
    ) -> Result<(), AppendError> {
        if self.is_forked() {
            return Err(AppendError::Closed);
        }
        let mut state = self.state.lock();
        let lsn = lsn.map_or(state.last(), Lsn::get);
        if lsn > state.last() {
            return Err(AppendError::Unassigned);
        }
        loop {
            if lsn <= state.durable {
                return Ok(());
            }
            if let Some(error) = state.refusal() {
                return Err(error);
            }
            let is_written = state
                .writing
                .as_ref()
                .is_some_and(|writing| lsn <= writing.last);
            let number = if self.durability == Durability::Sync && is_written {
                state.pending.number - 1
            } else {
                state.pending.sync = true;
                state.pending.number
            };
            self.outcome(state, number, None, patience)?;
            state = self.state.lock();
        }
    }

    /// Syncs what was enqueued so far, and has what comes later than that go to another segment.
    /// Returns the first LSN there, and the last that was enqueued before.
    pub(in super::super) fn rotate(&self) -> Result<(Lsn, Lsn), AppendError> {
        if self.is_forked() {
            return Err(AppendError::Closed);
        }
        let mut state = self.state.lock();
        if let Some(error) = state.refusal() {
            return Err(error);
        }
        let last = Lsn::new(state.last());
        state.pending.rotate = true;
        let number = state.pending.number;
        self.outcome(state, number, None, Patience::Endless)?;
        Ok((Lsn::new(self.state.lock().rotated), last))
    }

    /// Tries again to write what could not be written.
    pub(in super::super) fn resume(&self) -> Result<(), AppendError> {
        if self.is_forked() {
            return Err(AppendError::Closed);
        }
        let mut state = self.state.lock();
        if let Some(error) = state.refusal() {
            return Err(error);
        }
        if state.halted.is_none() {
            return Ok(());
        }
        state.pending.sync = true;
        let number = state.pending.number;
        self.outcome(state, number, None, Patience::Endless)
    }
}
