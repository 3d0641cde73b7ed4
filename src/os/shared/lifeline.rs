//! How the death of a process becomes known at once: a robust list, kept by a thread of its own.
//!
//! When a thread ends, however it ends, the kernel walks the list that the thread registered, and
//! marks each futex on it that holds the thread's id with `FUTEX_OWNER_DIED`, and wakes one who
//! sleeps there. The thread `lw-lifeline` does nothing but have such a list: it ends with the
//! process. There is one a process for all areas, and it ends with the last one.
//!
//! The list is changed by other threads, under a lock, by one store each: whenever the kernel
//! comes, it is whole. Head and nodes are in shared anonymous memory, see
//! [`mapping`](super::mapping). The thread blocks all signals and takes no robust mutex, whose list
//! it would have replaced.
//!
//! It also looks after those who wait without a thread, see [`Watcher`].

#![allow(unsafe_code)]

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::sync::futex::{SharedFutex, wait_any};
use crate::sync::lock::Mutex;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::time::now;
use crate::sync::unmodelled::{Arc, AtomicBool, AtomicPtr, AtomicU64, Ordering};

use super::mapping::NODES;
use super::watcher::{LONGEST_SLEEP, Watcher};

/// As the kernel knows it: `struct robust_list`.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Node {
    next: AtomicPtr<Node>,
}

/// `struct robust_list_head`.
#[repr(C)]
struct Head {
    list: Node,
    futex_offset: libc::c_long,
    /// Always null: no thread is ever between a lock and the list.
    pending: *const Node,
}

/// A head in a page of its own.
struct Page(NonNull<Head>);

// SAFETY: the head is changed under the keeper's lock only.
unsafe impl Send for Page {}

impl Page {
    fn new() -> io::Result<Self> {
        // SAFETY: no address is asked for.
        let page = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                size_of::<Head>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )?
        };
        let this = Self(NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?);
        // SAFETY: the page was mapped above; a child does not use it.
        unsafe { madvise(page, size_of::<Head>(), Advice::LinuxDontFork)? };
        let head = this.0.as_ptr();
        // SAFETY: the page is large enough, aligned, and nobody else's.
        unsafe {
            head.write(Head {
                list: Node {
                    next: AtomicPtr::new(head.cast()),
                },
                futex_offset: NODES as libc::c_long,
                pending: ptr::null(),
            });
        }
        Ok(this)
    }

    fn list(&self) -> &Node {
        // SAFETY: the page is mapped for as long as `self`, and this field of it is atomic.
        unsafe { &self.0.as_ref().list }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: its thread has another list, or none, and the page is this value's.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<Head>()) };
    }
}

/// Lets threads that the calling thread wakes go before it: it asks the scheduler for a slice that
/// is a little longer than theirs. Where a kernel does not know that, nothing changes.
///
/// The keeper is often the last thread of a process to end. Then it takes the address space apart,
/// for longer than all the rest takes, with the waiter that it has just woken behind it on its
/// processor.
fn yield_to_woken() {
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let size = size_of_val(&attributes);
    // SAFETY: the kernel writes no more than `size` bytes.
    let status = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    let is_fair = attributes.sched_policy == libc::SCHED_OTHER as u32;
    if status != 0 || !is_fair || attributes.sched_runtime == 0 {
        return;
    }
    // Longer is all that matters, and no more than that: among threads that compute, who has a
    // longer slice is served later.
    attributes.sched_runtime += attributes.sched_runtime / 8;
    // SAFETY: the kernel reads `attributes.size` bytes, which it wrote itself.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

fn set_robust_list(head: *mut Head) -> io::Result<()> {
    // SAFETY: the kernel stores the pointer, and follows it with care when the thread ends.
    let status = unsafe { libc::syscall(libc::SYS_set_robust_list, head, size_of::<Head>()) };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The thread, and what it keeps.
struct Keeper {
    thread: JoinHandle<()>,
    stops: Arc<AtomicBool>,
    thread_id: u32,
    page: Page,
    nodes: usize,
}

pub(crate) struct Lifeline {
    keeper: Mutex<Option<Keeper>>,
    watchers: Arc<Watchers>,
}

struct Watchers {
    list: Mutex<Vec<(u64, Arc<dyn Watcher>)>>,
    numbered: AtomicU64,
    /// Changes when the thread has to look again.
    bell: SharedFutex,
}

impl Lifeline {
    pub(super) fn new() -> Self {
        Self {
            keeper: Mutex::new(None),
            watchers: Arc::new(Watchers {
                list: Mutex::new(Vec::new()),
                numbered: AtomicU64::new(0),
                bell: SharedFutex::new(0),
            }),
        }
    }

    /// Puts a node on the list, and says which thread's id its word has to hold.
    pub(super) fn link(&self, node: NonNull<Node>) -> io::Result<u32> {
        let mut keeper = self.keeper.lock();
        if keeper.is_none() {
            *keeper = Some(Keeper::start(&self.watchers)?);
        }
        let Some(keeper) = &mut *keeper else {
            return Err(io::ErrorKind::Other.into());
        };
        let list = keeper.page.list();
        // SAFETY: the node is in a mapping that stays until it has been unlinked, and the kernel
        // does not know it yet.
        let new = unsafe { node.as_ref() };
        new.next
            .store(list.next.load(Ordering::Relaxed), Ordering::Relaxed);
        // Release: whoever finds the node, the kernel too, finds what comes after it.
        list.next.store(node.as_ptr(), Ordering::Release);
        keeper.nodes += 1;
        Ok(keeper.thread_id)
    }

    /// Takes a node off the list. With the last one, the thread ends.
    pub(super) fn unlink(&self, node: NonNull<Node>) {
        let mut kept = self.keeper.lock();
        let Some(keeper) = &mut *kept else {
            return;
        };
        let end: *const Node = keeper.page.list();
        let mut before = keeper.page.list();
        loop {
            let next = before.next.load(Ordering::Relaxed);
            if next == node.as_ptr() {
                // SAFETY: nodes on the list are in mappings that stay until they are unlinked.
                let after = unsafe { node.as_ref() }.next.load(Ordering::Relaxed);
                before.next.store(after, Ordering::Release);
                break;
            }
            if ptr::eq(next, end) {
                return;
            }
            // SAFETY: as above.
            before = unsafe { &*next };
        }
        keeper.nodes -= 1;
        if keeper.nodes == 0
            && let Some(keeper) = kept.take()
        {
            drop(kept);
            keeper.stop(&self.watchers);
        }
    }

    /// Has the thread look again after whom it looks after.
    pub(crate) fn ring(&self) {
        self.watchers.ring();
    }

    /// Has the thread look after somebody, from now until there is nothing to wait for.
    pub(crate) fn watch(&self, watcher: Arc<dyn Watcher>) {
        let watchers = &self.watchers;
        let number = watchers.numbered.fetch_add(1, Ordering::Relaxed);
        watchers.list.lock().push((number, watcher));
        watchers.ring();
    }
}

impl Keeper {
    fn start(watchers: &Arc<Watchers>) -> io::Result<Self> {
        let page = Page::new()?;
        let stops = Arc::new(AtomicBool::new(false));
        let told = Arc::new((Mutex::new(None), SharedFutex::new(0)));
        let head = page.0.as_ptr() as usize;
        let thread = without_signals(|| {
            let (stops, told) = (Arc::clone(&stops), Arc::clone(&told));
            let watchers = Arc::clone(watchers);
            thread::spawn_named("lw-lifeline", move || {
                yield_to_woken();
                let registered = set_robust_list(head as *mut Head);
                *told.0.lock() = Some(registered.map(|()| rustix::thread::gettid()));
                told.1.fetch_add(1);
                told.1.wake(1);
                watchers.serve(&stops);
                // The page goes when this thread has ended.
            })
        })?;
        while told.1.load() == 0 {
            wait_any(&[(&told.1, 0)], None);
        }
        let answer = told.0.lock().take();
        let mut keeper = Self {
            thread,
            stops,
            thread_id: 0,
            page,
            nodes: 0,
        };
        match answer.unwrap_or(Err(io::ErrorKind::Other.into())) {
            Ok(id) => {
                keeper.thread_id = id.as_raw_nonzero().get() as u32;
                Ok(keeper)
            }
            Err(error) => {
                keeper.stop(watchers);
                Err(error)
            }
        }
    }

    /// Ends the thread, and waits for that; on itself it does not wait.
    fn stop(self, watchers: &Watchers) {
        self.stops.store(true, Ordering::Release);
        watchers.ring();
        // Not by std's handles: this may be a thread whose thread-locals are gone.
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        if own == self.thread_id {
            // The kernel is not to look for the list when the page is gone.
            let _ = set_robust_list(ptr::null_mut());
        } else {
            let _ = self.thread.join();
        }
    }
}

impl Watchers {
    fn ring(&self) {
        self.bell.fetch_add(1);
        self.bell.wake(u32::MAX);
    }

    /// The thread: sleeps without end while there is nobody to look after.
    fn serve(&self, stops: &AtomicBool) {
        loop {
            let rung = self.bell.load();
            if stops.load(Ordering::Acquire) {
                return;
            }
            let mut served = self.list.lock().clone();
            let mut words = vec![(NonNull::from(&self.bell), rung)];
            let mut lives = Vec::new();
            let mut done = Vec::new();
            for (number, watcher) in &served {
                // A panic here would end the thread, and the process would pass for dead.
                let waits = catch_unwind(AssertUnwindSafe(|| {
                    watcher.look(&mut |word, seen, is_life| {
                        let words = if is_life { &mut lives } else { &mut words };
                        let word = NonNull::from(word);
                        // The first look's value: if it has changed since, there is to be another.
                        if !words.iter().any(|(other, _)| *other == word) {
                            words.push((word, seen));
                        }
                    })
                }));
                if !waits.unwrap_or(false) {
                    done.push(*number);
                }
            }
            if !done.is_empty() {
                self.list
                    .lock()
                    .retain(|(number, _)| !done.contains(number));
                // Outside the lock: it may be the last that somebody has of a semaphore, and this
                // thread the one that is to end with it.
                let forget = || served.retain(|(number, _)| !done.contains(number));
                let _ = catch_unwind(AssertUnwindSafe(forget));
                continue;
            }
            // What all wait for comes first: only so many words can be waited for.
            words.append(&mut lives);
            let words: Vec<_> = words
                .iter()
                // SAFETY: the bell is this value's; the others are in areas that `served` keeps.
                .map(|(word, seen)| (unsafe { word.as_ref() }, *seen))
                .collect();
            let limit = (words.len() > 1).then(|| now() + LONGEST_SLEEP);
            wait_any(&words, limit);
        }
    }
}

/// Has `start` start a thread that no signal interrupts, nor is handled by.
fn without_signals<R>(start: impl FnOnce() -> R) -> R {
    // SAFETY: a plain set, for which zero is good.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut before = all;
    // SAFETY: valid for a write.
    unsafe { libc::sigfillset(&mut all) };
    // SAFETY: both sets are valid; the thread's own mask is put back below.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) };
    let result = start();
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    result
}
