//! What is told on standard error while the data directory is being loaded: on a terminal one line
//! that is written again and again, elsewhere a line every few seconds.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::storage::{Loading, Phase};

const ON_TERMINAL: Duration = Duration::from_millis(100);
const ELSEWHERE: Duration = Duration::from_secs(2);

/// How far loading has come.
#[derive(Debug)]
pub(crate) struct Report {
    started: Instant,
    last: Instant,
    is_terminal: bool,
    /// There is a line on the terminal that is not finished.
    is_open: bool,
}

impl Report {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            last: now,
            is_terminal: io::stderr().is_terminal(),
            is_open: false,
        }
    }

    pub(crate) fn show(&mut self, loading: Loading) {
        let pause = if self.is_terminal {
            ON_TERMINAL
        } else {
            ELSEWHERE
        };
        if self.last.elapsed() < pause {
            return;
        }
        self.last = Instant::now();
        let Loading {
            phase,
            done_bytes,
            total_bytes,
            keys,
        } = loading;
        let phase = match phase {
            Phase::Segments => "segments",
            Phase::Log => "the log",
        };
        let percent = (done_bytes * 100).checked_div(total_bytes).unwrap_or(100);
        let (done, total) = (done_bytes >> 20, total_bytes >> 20);
        let text =
            format!("kvnode: loading {phase}: {percent} %, {done} of {total} MiB, {keys} keys");
        let mut stderr = io::stderr();
        // Nobody may be reading.
        let _ = if self.is_terminal {
            self.is_open = true;
            write!(stderr, "\r{text}\x1b[K")
        } else {
            writeln!(stderr, "{text}")
        };
    }

    /// How long it has taken.
    pub(crate) fn end(&mut self) -> Duration {
        if std::mem::take(&mut self.is_open) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        self.started.elapsed()
    }
}
