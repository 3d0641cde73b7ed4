//! A client that waits for a list to get an element (`BLPOP` and its kin), or for a `SAVE`.
//!
//! The store has the waiter, with a callback that sends the outcome to the connection's I/O thread;
//! the connection has a [`Blocked`], which knows the form of the reply, and runs no further request
//! until there is one. The handle that cancels the waiter is where every thread finds it, in the
//! [`Client`]: whoever takes it from there and cancels in time says how the wait ends, and nobody
//! else does.
//!
//! | the wait ends by | it takes the handle | and then |
//! |---|---|---|
//! | an element | nobody: cancelling comes too late | the callback posts what was got |
//! | its time-out | its I/O thread | replies |
//! | `CLIENT UNBLOCK` | that command's thread | posts the reply to give |
//! | the end of a save | nobody: there is no handle | the callback posts what became of it |
//! | the peer's leaving, `CLIENT KILL`, the server's end | its I/O thread | closes |
//!
//! [`Client`]: crate::clients::Client

use std::time::Instant;

use latchwork::rmw::{Bytes, RmwError};

use crate::commands::Refusal;
use crate::reply::Reply;

/// How a wait ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// Which of the keys, and the elements.
    Popped(Result<(usize, Vec<Bytes>), RmwError>),
    Moved(Result<Bytes, RmwError>),
    TimedOut,
    /// By `CLIENT UNBLOCK … ERROR`.
    Unblocked,
    /// Everything is on disk, or why not.
    Saved(Result<(), String>),
}

/// What the connection keeps of a wait.
#[derive(Debug)]
pub(crate) struct Blocked {
    /// The keys that it waits for; none if the reply does not name the one that got an element.
    keys: Box<[Box<[u8]>]>,
    /// The elements are an array, though there be only one.
    many: bool,
    /// It waits for a save, not for an element.
    saves: bool,
    /// The server is to stop once all is saved.
    stops: bool,
    pub(crate) deadline: Option<Instant>,
    /// The client does not want the reply.
    pub(crate) silent: bool,
}

impl Blocked {
    /// For a reply of the key and an element, or of the key and an array of elements.
    pub(crate) fn popping(keys: &[&[u8]], many: bool, deadline: Option<Instant>) -> Self {
        Self {
            keys: keys.iter().map(|&key| key.into()).collect(),
            many,
            saves: false,
            stops: false,
            deadline,
            silent: false,
        }
    }

    /// For a reply of the element.
    pub(crate) fn moving(deadline: Option<Instant>) -> Self {
        Self::popping(&[], false, deadline)
    }

    /// For the end of a save, and of the server with it if `stops`.
    pub(crate) fn saving(stops: bool) -> Self {
        Self {
            saves: true,
            stops,
            ..Self::popping(&[], false, None)
        }
    }

    /// Whether it waits for such an end.
    pub(crate) fn awaits(&self, ending: &Ending) -> bool {
        self.saves == matches!(ending, Ending::Saved(_))
    }

    /// Whether the server is to stop instead of a reply.
    pub(crate) fn is_stopped_by(&self, ending: &Ending) -> bool {
        self.stops && matches!(ending, Ending::Saved(Ok(())))
    }

    pub(crate) fn reply(&self, ending: Ending, reply: &mut Reply) {
        match ending {
            _ if self.silent => {}
            Ending::Popped(Ok((index, elements))) => {
                let key = self.keys.get(index).map_or(&b""[..], |key| key);
                popped(reply, key, &elements, self.many);
            }
            Ending::Moved(Ok(element)) => reply.bulk(&element),
            Ending::Popped(Err(error)) | Ending::Moved(Err(error)) => {
                reply.error(Refusal::from(error).text());
            }
            Ending::Saved(Ok(())) => reply.ok(),
            Ending::Saved(Err(_)) if self.stops => {
                reply.error(b"ERR Errors trying to SHUTDOWN. Check logs.");
            }
            Ending::Saved(Err(error)) => reply.error(format!("ERR {error}").as_bytes()),
            Ending::TimedOut => reply.nil_array(),
            Ending::Unblocked => reply.error(b"UNBLOCKED client unblocked via CLIENT UNBLOCK"),
        }
    }

    /// How many bytes it makes the server hold, the waiter's copy of the keys included.
    pub(crate) fn memory(&self) -> usize {
        let keys: usize = self
            .keys
            .iter()
            .map(|key| key.len() + size_of_val(key))
            .sum();
        size_of::<Self>() + 2 * keys
    }
}

/// Replies with a key and what was taken from it.
pub(crate) fn popped(reply: &mut Reply, key: &[u8], elements: &[Bytes], many: bool) {
    reply.array(2);
    reply.bulk(key);
    if many {
        reply.array(elements.len());
    }
    for element in elements {
        reply.bulk(element);
    }
}
