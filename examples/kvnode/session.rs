//! What a connection has agreed on with its client, beside the dialect that its [`Client`] shows to
//! others. Owned by the connection; only its I/O thread looks at it.
//!
//! [`Client`]: crate::clients::Client

use crate::blocked::Blocked;
use crate::queue::{Queue, Watched};

/// Which replies the client wants (`CLIENT REPLY`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Replies {
    #[default]
    On,
    Off,
    /// None to the command that said so and to the next one.
    SkipNext,
    /// None to the command that is running.
    Skip,
}

/// One connection's state between commands.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// The commands since `MULTI`.
    pub(crate) transaction: Option<Box<Queue>>,
    pub(crate) watched: Watched,
    /// `EXEC` runs the queued commands.
    pub(crate) in_exec: bool,
    /// One of them asks for a save, which begins when `EXEC` is over.
    pub(crate) saves_after: bool,
    pub(crate) replies: Replies,
    /// What the client waits for; no request runs meanwhile.
    pub(crate) blocked: Option<Box<Blocked>>,
    /// The connection is to be closed once its replies are out.
    pub(crate) ends: bool,
}

impl Session {
    /// How many bytes it makes the server hold beside itself.
    pub(crate) fn memory(&self) -> usize {
        let queue = self.transaction.as_ref();
        let queue = queue.map_or(0, |queue| size_of::<Queue>() + queue.memory());
        let blocked = self.blocked.as_ref().map_or(0, |blocked| blocked.memory());
        queue + blocked + self.watched.memory()
    }

    /// Before a command.
    pub(crate) fn begin(&mut self) {
        if self.replies == Replies::SkipNext {
            self.replies = Replies::Skip;
        }
    }

    /// After a command: whether the client wants the reply.
    pub(crate) fn end(&mut self) -> bool {
        match self.replies {
            Replies::On => true,
            Replies::Off | Replies::SkipNext => false,
            Replies::Skip => {
                self.replies = Replies::On;
                false
            }
        }
    }
}
