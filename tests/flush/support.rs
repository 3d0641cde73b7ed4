//! What the tests share: a finalizer that writes down what it is given, and gates that say when.

use std::fmt::Display;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use latchwork::flush::{
    Builder, Failed, Failure, Finalize, FlushPipeline, FlushTicket, Job, Rotated,
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// What the finalizer was called with, line by line.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    pub(crate) fn push(&self, line: impl Display) {
        self.0.lock().unwrap().push(line.to_string());
    }

    pub(crate) fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

type Script = Box<dyn FnMut(u64, &mut u64) -> Result<(), String> + Send>;

/// Writes down what it is given. Its script may fail, panic or wait before that.
pub(crate) struct Journal {
    pub(crate) lines: Lines,
    pub(crate) script: Script,
}

impl Journal {
    pub(crate) fn new(
        script: impl FnMut(u64, &mut u64) -> Result<(), String> + Send + 'static,
    ) -> Self {
        Self {
            lines: Lines::default(),
            script: Box::new(script),
        }
    }
}

impl Finalize for Journal {
    type Job = u64;
    type Item = u64;
    type Output = u64;
    type Error = String;

    fn finalize_one(&mut self, sequence: u64, item: &mut u64) -> Result<u64, String> {
        (self.script)(sequence, item)?;
        self.lines.push(format_args!("{sequence} done: {item}"));
        Ok(*item)
    }

    fn finalize_failure(&mut self, failed: Failed<'_, Self>) -> String {
        let what = match &failed.failure {
            Failure::Stream(error) | Failure::Finalize(error) => error.clone(),
            other => other.to_string(),
        };
        self.lines
            .push(format_args!("{} failed: {what}", failed.sequence));
        what
    }
}

pub(crate) type Pipe = FlushPipeline<Journal>;

/// A pipeline whose finalizer accepts everything.
pub(crate) fn pipeline(describe: impl FnOnce(Builder<()>) -> Builder<()>) -> (Pipe, Lines) {
    scripted(describe, |_, _| Ok(()))
}

pub(crate) fn scripted(
    describe: impl FnOnce(Builder<()>) -> Builder<()>,
    script: impl FnMut(u64, &mut u64) -> Result<(), String> + Send + 'static,
) -> (Pipe, Lines) {
    let journal = Journal::new(script);
    let lines = journal.lines.clone();
    let builder = describe(
        FlushPipeline::builder("tested")
            .max_in_flight(8)
            .streamers(2),
    );
    (builder.finalizer(journal).build().unwrap(), lines)
}

/// A flush of `job`, rotated.
pub(crate) fn rotate(flush: &Pipe, job: u64) -> Rotated<Journal> {
    flush.reserve(0).unwrap().rotate(&mut (), |(), _| job)
}

/// A flush of `job`, submitted.
pub(crate) fn submit(
    flush: &Pipe,
    job: u64,
    stream: impl FnMut(&mut Job<u64>) -> Result<u64, String> + Send + 'static,
) -> FlushTicket<Journal> {
    rotate(flush, job).submit(stream).unwrap()
}

/// A stream that is done at once.
pub(crate) fn copy(job: &mut Job<u64>) -> Result<u64, String> {
    Ok(**job)
}

/// A stream that fails, and is done when it is tried again.
pub(crate) fn fail_once() -> impl FnMut(&mut Job<u64>) -> Result<u64, String> + Send + 'static {
    let mut fails = true;
    move |job| match std::mem::take(&mut fails) {
        true => Err("once".into()),
        false => copy(job),
    }
}

/// Unwinds as a panic does, without the message on standard error.
pub(crate) fn boom() -> ! {
    std::panic::resume_unwind(Box::new("boom"))
}

#[derive(Default)]
struct GateState {
    entered: usize,
    is_open: bool,
}

/// Holds up whoever comes to it, until it is opened. The test's end of it opens it when dropped, so
/// that a test that fails does not hang: it is to be dropped before the pipeline.
pub(crate) struct Gate(Bar);

/// The end for those who are held up.
#[derive(Clone, Default)]
pub(crate) struct Bar(Arc<(Mutex<GateState>, Condvar)>);

impl Bar {
    pub(crate) fn pass(&self) {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.entered += 1;
        changed.notify_all();
        drop(changed.wait_while(state, |state| !state.is_open).unwrap());
    }

    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0;
        state
            .lock()
            .unwrap_or_else(|gate| gate.into_inner())
            .is_open = true;
        changed.notify_all();
    }

    /// A stream that is held up, and then done.
    pub(crate) fn stream(
        &self,
    ) -> impl FnMut(&mut Job<u64>) -> Result<u64, String> + Send + 'static {
        let bar = self.clone();
        move |job| {
            bar.pass();
            Ok(**job)
        }
    }
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Bar::default())
    }

    pub(crate) fn bar(&self) -> Bar {
        self.0.clone()
    }

    /// As [`Bar::stream`].
    pub(crate) fn stream(
        &self,
    ) -> impl FnMut(&mut Job<u64>) -> Result<u64, String> + Send + 'static {
        self.0.stream()
    }

    /// Waits until so many have come to it.
    pub(crate) fn await_entered(&self, entered: usize) {
        let (state, changed) = &*self.0.0;
        let state = state.lock().unwrap();
        drop(
            changed
                .wait_while(state, |state| state.entered < entered)
                .unwrap(),
        );
    }

    pub(crate) fn open(&self) {
        let (state, changed) = &*self.0.0;
        state
            .lock()
            .unwrap_or_else(|gate| gate.into_inner())
            .is_open = true;
        changed.notify_all();
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// Counts itself out when it is dropped.
pub(crate) struct Counted(pub(crate) Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}
