//! One dedicated thread that serves a mailbox, one message at a time.
//!
//! Messages wait in a bounded line behind one lock, first come first served. The thread takes the
//! oldest out and handles it outside the lock. Without one it sleeps on a futex, for as long as it
//! takes.
//!
//! | a message | ends as | told to its ticket |
//! |---|---|---|
//! | is handled | the handler's result, or its panic | that |
//! | is cancelled before | taken out of the line | nothing, the ticket is gone |
//! | stands in line at a shutdown | returned by it | it is lost |
//!
//! Why no message is forgotten: the thread reads the bell's number, and then looks at the line
//! under the lock and notes there that it sleeps. Who adds a message while it does, or shuts down,
//! rings the bell under that lock, see `Bell`. Under the same lock a message is added only while
//! the mailbox is open, and the thread ends only when it is closed and the line is empty.

mod builder;
mod error;
mod stats;

use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};

pub use crate::waiter::{Completer, Panic, Ticket, TicketError, ticket};
pub use builder::WorkerBuilder;
pub use error::SubmitError;
pub use stats::WorkerStats;

use crate::holder;
use crate::os::home::Home;
use crate::os::serving::{is_serving, serving};
use crate::sync::lock::{Mutex, MutexGuard};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Arc, hint, mutant};
use crate::waiter::{Bell, Key, Line, Slab, contain};
use stats::Counters;

/// A named thread of its own for what must be serial: a mailbox, a handler, and a panic boundary
/// between the two.
///
/// The thread starts with the first message, and sleeps while there is none. A panic of the handler
/// fails the one message that it was handling; its [`Ticket`] gets the panic, and the messages
/// behind are served. What the handler leaks (a guard of a latch or a permit) comes back after each
/// message, as with [`holder::scope`].
///
/// ```
/// use latchwork::worker::Worker;
///
/// let ledger = std::sync::Mutex::new(Vec::new());
/// let worker = Worker::new("ledger", move |amount: i64| {
///     let mut ledger = ledger.lock().unwrap();
///     ledger.push(amount);
///     ledger.iter().sum::<i64>()
/// });
/// let first = worker.submit(5)?;
/// let second = worker.submit(-2)?;
/// assert_eq!(first.wait().unwrap(), 5);
/// assert_eq!(second.wait().unwrap(), 3);
/// # Ok::<(), latchwork::worker::SubmitError<i64>>(())
/// ```
///
/// Dropping it is a [`shutdown`](Self::shutdown). A process that forks leaves the thread behind: in
/// the child every message is refused, and the drop neither waits nor frees.
///
/// # Blocking
/// The drop waits for the handler, if it is running; unless the handler itself drops it.
pub struct Worker<M: Send + 'static, R: Send + 'static = ()> {
    core: Arc<Core<M, R>>,
}

type Handler<M, R> = Box<dyn Fn(M) -> R + Send + Sync>;

struct Core<M, R> {
    name: String,
    capacity: usize,
    handler: Handler<M, R>,
    state: Mutex<State<M, R>>,
    /// Rings when the thread has to look again.
    bell: Bell,
    /// Rings when the thread has handled its last message.
    gone: Bell,
    /// Where the thread is.
    home: Home,
    counters: Counters,
}

struct State<M, R> {
    line: Line,
    messages: Slab<Message<M, R>>,
    thread: Option<JoinHandle<()>>,
    /// Whether a thread serves the mailbox.
    attended: bool,
    asleep: bool,
    closed: bool,
}

struct Message<M, R> {
    content: M,
    completer: Completer<R>,
}

impl<M: Send + 'static, R: Send + 'static> Worker<M, R> {
    /// A worker with the defaults of [`builder`](Self::builder).
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("lengths", |text: String| text.len());
    /// assert_eq!(worker.submit("abc".to_owned()).unwrap().wait().unwrap(), 3);
    /// ```
    pub fn new(name: &str, handler: impl Fn(M) -> R + Send + Sync + 'static) -> Self {
        Self::builder(name).build(handler)
    }

    /// Starts the description of a worker. `name` is its thread's.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::builder("lengths").capacity(8).build(|text: String| text.len());
    /// assert_eq!(worker.name(), "lengths");
    /// ```
    pub fn builder(name: &str) -> WorkerBuilder<M, R> {
        WorkerBuilder::new(name)
    }

    pub(crate) fn with(name: String, capacity: usize, handler: Handler<M, R>) -> Self {
        let state = State {
            line: Line::new(),
            messages: Slab::new(),
            thread: None,
            attended: false,
            asleep: false,
            closed: false,
        };
        Self {
            core: Arc::new(Core {
                name,
                capacity,
                handler,
                state: Mutex::new(state),
                bell: Bell::new(),
                gone: Bell::new(),
                home: Home::new(),
                counters: Counters::new(),
            }),
        }
    }

    /// The thread's name.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// assert_eq!(Worker::new("nothing", |()| ()).name(), "nothing");
    /// ```
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// Puts a message in line, and returns the ticket for what the handler will return.
    ///
    /// Dropping the ticket lets the message be handled; cancelling it takes the message out of the
    /// line.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("squares", |n: u64| n * n);
    /// assert_eq!(worker.submit(5)?.wait().unwrap(), 25);
    /// # Ok::<(), latchwork::worker::SubmitError<u64>>(())
    /// ```
    ///
    /// # Errors
    /// [`Busy`](SubmitError::Busy) at once if the line is full, [`Closed`](SubmitError::Closed)
    /// after a shutdown, [`NoThread`](SubmitError::NoThread); each with the message.
    pub fn submit(&self, content: M) -> Result<Ticket<R>, SubmitError<M>> {
        let (completer, ticket) = ticket();
        let key = self.submit_with(content, completer)?;
        let core = Arc::clone(&self.core);
        Ok(ticket.on_cancel(move || core.withdraw(key)))
    }

    /// The same for a ticket that was there before.
    pub(crate) fn submit_with(
        &self,
        content: M,
        completer: Completer<R>,
    ) -> Result<Key, SubmitError<M>> {
        let core = &self.core;
        if core.is_forked() {
            return Err(SubmitError::Closed(content));
        }
        let mut state = core.state.lock();
        if state.closed && !mutant::enabled("worker-accepts-when-closed") {
            return Err(SubmitError::Closed(content));
        }
        if state.line.len() >= core.capacity {
            drop(state);
            core.counters.busy.add(1);
            return Err(SubmitError::Busy(content));
        }
        if let Err(error) = Core::start(core, &mut state) {
            drop(state);
            core.counters.failed_starts.add(1);
            return Err(SubmitError::NoThread(content, error));
        }
        let State { line, messages, .. } = &mut *state;
        let key = line.push(messages, Message { content, completer });
        core.counters.queued.add(1);
        let ring = core.end_sleep(&mut state);
        drop(state);
        if ring && !mutant::enabled("worker-rings-nobody") {
            core.bell.wake_one();
        }
        Ok(key)
    }

    /// Starts the thread now and not with the first message, to learn whether it can.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("nothing", |()| ());
    /// worker.start()?;
    /// assert!(worker.stats().running);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(&self) -> io::Result<()> {
        if self.core.is_forked() {
            return Ok(());
        }
        let mut state = self.core.state.lock();
        if state.closed {
            return Ok(());
        }
        Core::start(&self.core, &mut state)
    }

    /// Serves the mailbox on the calling thread until it is shut down, in place of a thread of the
    /// worker's own: for a thread with a priority or an affinity, and for models, where no thread
    /// is started. `false`, at once: another thread serves it.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("squares", |n: u64| n * n);
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| worker.serve());
    ///     assert_eq!(worker.submit(2).unwrap().wait().unwrap(), 4);
    ///     worker.drain();
    /// });
    /// ```
    ///
    /// # Blocking
    /// Until [`drain`](Self::drain) or [`shutdown`](Self::shutdown).
    pub fn serve(&self) -> bool {
        let core = &self.core;
        if core.is_forked() || !core.attend(&mut core.state.lock()) {
            return false;
        }
        core.run();
        true
    }

    /// Closes the mailbox, has every message in it handled, and ends the thread. Without one, the
    /// calling thread handles them.
    ///
    /// In the handler it does not wait: the thread ends after the messages behind.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("squares", |n: u64| n * n);
    /// let ticket = worker.submit(5).unwrap();
    /// worker.drain();
    /// assert_eq!(ticket.try_take().unwrap().unwrap(), 25);
    /// assert!(worker.submit(6).is_err());
    /// ```
    ///
    /// # Blocking
    /// Until the last message has been handled.
    pub fn drain(&self) {
        let core = &self.core;
        if core.is_forked() {
            return;
        }
        let mut state = core.state.lock();
        state.closed = true;
        if core.attend(&mut state) {
            drop(state);
            core.run();
        } else {
            core.end(state, || ());
        }
    }

    /// Closes the mailbox, waits for the message that is being handled, ends the thread, and
    /// returns the messages that have not been handled and will not be, the oldest first. Their
    /// tickets are told that they are [`Lost`](TicketError::Lost).
    ///
    /// In the handler it does not wait: the thread ends when that returns.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// let worker = Worker::new("squares", |n: u64| n * n);
    /// assert_eq!(worker.shutdown(), []);
    /// assert!(worker.submit(6).is_err());
    /// ```
    ///
    /// # Blocking
    /// While the handler runs.
    pub fn shutdown(&self) -> Vec<M> {
        let core = &self.core;
        if core.is_forked() {
            return Vec::new();
        }
        let mut state = core.state.lock();
        state.closed = true;
        let left: Vec<_> = std::iter::from_fn(|| core.pop(&mut state)).collect();
        // Who waits for one of them need not wait for the handler too.
        let left = left.into_iter().map(|message| message.content);
        let left = left.filter(|_| !mutant::enabled("worker-shutdown-loses-messages"));
        core.end(state, || left.collect())
    }

    /// Whether this process is a fork of the one that the thread is in.
    #[cfg(feature = "rmw")]
    pub(crate) fn is_forked(&self) -> bool {
        self.core.is_forked()
    }

    /// Counters and gauges, read without a lock.
    ///
    /// ```
    /// # use latchwork::worker::Worker;
    /// assert_eq!(Worker::new("nothing", |()| ()).stats().handled, 0);
    /// ```
    pub fn stats(&self) -> WorkerStats {
        self.core.counters.read()
    }
}

impl<M: Send + 'static, R: Send + 'static> Core<M, R> {
    /// Takes the mailbox for the calling thread to serve. `false`: another one does.
    fn attend(&self, state: &mut State<M, R>) -> bool {
        if state.attended {
            return false;
        }
        state.attended = true;
        self.counters.set_running(true);
        self.home.settle();
        true
    }

    fn start(core: &Arc<Self>, state: &mut State<M, R>) -> io::Result<()> {
        if !thread::STARTS_ITS_OWN || state.attended {
            return Ok(());
        }
        let body = Arc::clone(core);
        state.thread = Some(thread::spawn_named(&core.name, move || body.run())?);
        core.attend(state);
        Ok(())
    }

    /// The thread.
    fn run(&self) {
        loop {
            let number = self.bell.number();
            let mut state = self.state.lock();
            state.asleep = false;
            let is_over = state.closed && mutant::enabled("worker-closes-over-messages");
            if !is_over && let Some(message) = self.pop(&mut state) {
                drop(state);
                self.handle(message);
                continue;
            }
            if state.closed {
                state.attended = false;
                self.counters.set_running(false);
                return self.gone.announce(state);
            }
            drop(state);
            if self.comes_soon() {
                continue;
            }
            let mut state = self.state.lock();
            state.asleep = state.line.is_empty() && !state.closed;
            if !state.asleep {
                continue;
            }
            drop(state);
            let number = if mutant::enabled("worker-reads-the-bell-late") {
                self.bell.number()
            } else {
                number
            };
            self.bell.sleep(number, None);
        }
    }

    /// Looks for a message a moment before the sleep, which would cost its sender a system call.
    fn comes_soon(&self) -> bool {
        hint::spins(false).any(|()| {
            hint::spin_loop();
            self.counters.queued.get() > 0
        })
    }

    fn pop(&self, state: &mut State<M, R>) -> Option<Message<M, R>> {
        let State { line, messages, .. } = state;
        let (key, _) = line.front(messages)?;
        self.counters.queued.sub(1);
        line.remove(messages, key)
    }

    fn handle(&self, message: Message<M, R>) {
        let Message {
            content,
            mut completer,
        } = message;
        if !completer.begin() {
            // Cancelled between its turn and now. What is the user's may panic in its drop.
            return contain(|| drop(content));
        }
        serving(self, || {
            let result = Panic::catch(|| holder::scope(|| (self.handler)(content)));
            self.counters.handled.add(1);
            if let Err(panic) = &result {
                self.counters.panicked(panic.message());
            }
            contain(|| completer.complete(result));
        });
    }

    /// Takes a cancelled message out of the line, if it still stands there.
    fn withdraw(&self, key: Key) {
        let mut state = self.state.lock();
        let State { line, messages, .. } = &mut *state;
        let message = line.remove(messages, key);
        if message.is_some() {
            self.counters.queued.sub(1);
        }
        drop(state);
        // The user's content is dropped outside the lock.
        drop(message);
    }

    /// Ends the thread's sleep: the caller wakes it once the lock is free. `false` if it is awake,
    /// and so will look again by itself.
    fn end_sleep(&self, state: &mut State<M, R>) -> bool {
        let asleep = std::mem::take(&mut state.asleep);
        if asleep {
            self.bell.ring();
        }
        asleep
    }

    /// After closing: wakes the thread and waits for its end, unless this is it. `meanwhile` runs
    /// before the wait, outside the lock.
    fn end<T>(&self, mut state: MutexGuard<'_, State<M, R>>, meanwhile: impl FnOnce() -> T) -> T {
        let is_own = is_serving(self) || state.thread.as_ref().is_some_and(thread::is_current);
        let ring = self.end_sleep(&mut state);
        drop(state);
        if ring {
            self.bell.wake_one();
        }
        let result = meanwhile();
        if !is_own {
            let is_gone = |state: &State<M, R>| !state.attended;
            let thread = self.gone.lock_when(&self.state, is_gone).thread.take();
            // Its body catches every panic of the handler.
            let _ = thread.map(JoinHandle::join);
        }
        result
    }

    /// Whether this process is a fork of the one that the thread is in. There is no thread then,
    /// and it may have left the lock taken.
    fn is_forked(&self) -> bool {
        self.home.is_elsewhere()
    }
}

impl<M: Send + 'static, R: Send + 'static> Drop for Worker<M, R> {
    fn drop(&mut self) {
        if self.core.is_forked() {
            // The thread's handle must not be touched either.
            std::mem::forget(Arc::clone(&self.core));
        } else {
            self.shutdown();
        }
    }
}

// No panic leaves half a change behind: messages are handled, and dropped, outside the lock.
impl<M: Send + 'static, R: Send + 'static> UnwindSafe for Worker<M, R> {}
impl<M: Send + 'static, R: Send + 'static> RefUnwindSafe for Worker<M, R> {}

impl<M: Send + 'static, R: Send + 'static> fmt::Debug for Worker<M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.name())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
