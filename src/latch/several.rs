//! The guards of several latches at once, and their request by a callback.
//!
//! A callback waits for no two latches at a time: it asks for the next one in order when it has the
//! one before.

use std::borrow::Borrow;
use std::hash::Hash;
use std::marker::PhantomData;

use crate::sync::lock::Mutex;
use crate::sync::{Arc, mutant};
use crate::waiter::{Callback, Delivery, Pending};

use super::error::LatchError;
use super::guard::{Latch, OwnedLatch, SendLatch};
use super::word::Id;
use super::{LatchTable, in_order};

/// The latches of several keys, taken together and released together.
///
/// ```
/// use latchwork::LatchTable;
///
/// let table = LatchTable::<str>::new();
/// let both = table.latch_many(["from", "to", "from"])?;
/// assert_eq!(both.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "latches are released when they are dropped"]
pub struct Latches<'a> {
    latches: Vec<Latch<'a>>,
}

impl<'a> Latches<'a> {
    pub(super) fn with_capacity(keys: usize) -> Self {
        Self {
            latches: Vec::with_capacity(keys),
        }
    }

    pub(super) fn push(&mut self, latch: Latch<'a>) {
        self.latches.push(latch);
    }

    /// How many latches are held: one for each different key.
    pub fn len(&self) -> usize {
        self.latches.len()
    }

    /// Whether there were no keys.
    pub fn is_empty(&self) -> bool {
        self.latches.is_empty()
    }

    /// Unbinds them from this thread, as [`Latch::detach`].
    pub fn detach(self) -> SendLatches {
        let latches = self.latches.into_iter().map(Latch::detach).collect();
        SendLatches { latches }
    }

    /// Gives them handles of their own, as [`Latch::into_owned`].
    #[track_caller]
    pub fn into_owned(self) -> OwnedLatches {
        let latches = self.latches.into_iter();
        OwnedLatches {
            latches: latches.map(Latch::into_owned).collect(),
        }
    }
}

/// Several latches that are bound to their thread and carry their own handles on the table.
///
/// What [`SendLatches::attach`] and [`Latches::into_owned`] make.
#[derive(Debug)]
#[must_use = "latches are released when they are dropped"]
pub struct OwnedLatches {
    latches: Vec<OwnedLatch>,
}

impl OwnedLatches {
    /// As [`Latches::len`].
    pub fn len(&self) -> usize {
        self.latches.len()
    }

    /// As [`Latches::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.latches.is_empty()
    }

    /// Unbinds them from this thread, as [`Latch::detach`].
    pub fn detach(self) -> SendLatches {
        let latches = self.latches.into_iter().map(OwnedLatch::detach).collect();
        SendLatches { latches }
    }
}

/// Several latches that are bound to no thread: `Send`, and not reclaimed when a thread ends.
///
/// What [`latch_many_with`](LatchTable::latch_many_with) delivers. [`attach`](Self::attach) binds
/// them to the thread that received them.
///
/// ```
/// use latchwork::LatchTable;
///
/// let table = LatchTable::<str>::new();
/// let both = table.latch_many(["a", "b"])?.detach();
/// std::thread::spawn(move || std::mem::forget(both.attach()))
///     .join()
///     .unwrap();
/// assert_eq!(table.held(), 0); // came back with their thread's end
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
#[must_use = "latches are released when they are dropped"]
pub struct SendLatches {
    latches: Vec<SendLatch>,
}

impl SendLatches {
    /// As [`Latches::len`].
    pub fn len(&self) -> usize {
        self.latches.len()
    }

    /// As [`Latches::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.latches.is_empty()
    }

    /// Binds the latches to the calling thread.
    #[track_caller]
    pub fn attach(self) -> OwnedLatches {
        let latches = self.latches.into_iter();
        OwnedLatches {
            latches: latches.map(SendLatch::attach).collect(),
        }
    }
}

impl<K: ?Sized> LatchTable<K> {
    /// Asks for the latches of all `keys` without waiting for them: `f` is called with them once
    /// they are all there, as by [`latch_with`](Self::latch_with). Those that are there already are
    /// held meanwhile. Dropping the [`Pending`] cancels, and releases them.
    ///
    /// ```
    /// use latchwork::LatchTable;
    /// use std::sync::mpsc;
    ///
    /// let table = LatchTable::<str>::new();
    /// let held = table.latch("to")?;
    /// let (send, receive) = mpsc::channel();
    /// let pending = table.latch_many_with(["from", "to"], move |both| send.send(both).unwrap());
    /// drop(held); // delivers
    /// assert_eq!(receive.recv()??.len(), 2);
    /// # drop(pending);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// `f` gets [`LatchError::Busy`] if as many as the table allows wait for one of the keys, and
    /// then none is held.
    ///
    /// # Panics
    ///
    /// As [`latch_with`](Self::latch_with).
    pub fn latch_many_with<'k, Q>(
        &self,
        keys: impl IntoIterator<Item = &'k Q>,
        f: impl FnOnce(Result<SendLatches, LatchError>) + Send + 'static,
    ) -> Pending
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized + 'k,
    {
        let delivery = Delivery::new();
        let callback = Callback {
            run: Box::new(move |latches, is_wanted| {
                if is_wanted {
                    f(latches);
                }
            }),
            delivery: Arc::clone(&delivery),
        };
        let ids = in_order(self.hashes_of(keys));
        let request = Arc::new(Request {
            table: self.by_hash(),
            state: Mutex::new(State {
                held: Vec::with_capacity(ids.len()),
                asked: None,
                callback: Some(callback),
            }),
            ids,
        });
        Request::go_on(&request, None);
        Pending::new(delivery, move || request.cancel())
    }

    /// A handle for who knows the keys by their hashes.
    fn by_hash(&self) -> LatchTable<()> {
        LatchTable {
            core: self.core.clone(),
            hasher: self.hasher.clone(),
            watch: self.watch.clone(),
            worker: self.worker.clone(),
            keys: PhantomData,
        }
    }
}

/// A request for several latches, which asks for one after the other.
struct Request {
    table: LatchTable<()>,
    /// Of the latches, in the order in which everybody takes them.
    ids: Vec<Id>,
    state: Mutex<State>,
}

struct State {
    /// The first of them.
    held: Vec<SendLatch>,
    /// The request for the next one.
    asked: Option<Pending>,
    /// `None`: the request is over.
    callback: Option<Callback<Result<SendLatches, LatchError>>>,
}

/// What is left of a request that is over, for outside the lock: latches are released there, and a
/// place in a line is left.
type Remains = (
    Vec<SendLatch>,
    Option<Pending>,
    Option<Callback<Result<SendLatches, LatchError>>>,
);

impl State {
    fn end(&mut self) -> Remains {
        let Self {
            held,
            asked,
            callback,
        } = self;
        (std::mem::take(held), asked.take(), callback.take())
    }
}

impl Request {
    /// With the answer to what was asked for: asks for the next latch, or delivers.
    fn go_on(request: &Arc<Self>, answer: Option<Result<SendLatch, LatchError>>) {
        let mut state = request.state.lock();
        if state.callback.is_none() {
            // Cancelled. Nobody wants the latch.
            drop(state);
            return drop(answer);
        }
        let refused = match answer {
            Some(Ok(latch)) => {
                state.held.push(latch);
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let held = state.held.len();
        if let Some(id) = request.ids.get(held).filter(|_| refused.is_none()) {
            drop(state);
            return Self::ask(request, held, *id);
        }
        let (latches, asked, callback) = state.end();
        drop(state);
        drop(asked);
        let outcome = match refused {
            None => Ok(SendLatches { latches }),
            Some(error) => {
                drop(latches);
                Err(error)
            }
        };
        if let Some(callback) = callback {
            callback.deliver(outcome);
        }
    }

    /// Asks for the latch that comes after so many.
    fn ask(request: &Arc<Self>, held: usize, id: Id) {
        let again = Arc::clone(request);
        let pending = request.table.latch_with_hashed(id.bits(), move |latch| {
            Self::go_on(&again, Some(latch));
        });
        let mut pending = Some(pending);
        let mut state = request.state.lock();
        // It may be over, or another thread may have the answer and have asked for the next one: then
        // what was asked for here leaves the latch's line, or has left it.
        let is_current = state.callback.is_some() && state.held.len() == held;
        if is_current || mutant::enabled("latch-request-stays-in-line") {
            std::mem::swap(&mut state.asked, &mut pending);
        }
        drop(state);
        drop(pending);
    }

    fn cancel(&self) {
        let remains = self.state.lock().end();
        drop(remains);
    }
}
