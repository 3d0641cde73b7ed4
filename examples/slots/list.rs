//! The table of who holds and who waits.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use latchwork::SharedSemaphore;

const TITLES: [&str; 5] = ["STATE", "PID", "COUNT", "SINCE", "COMMAND"];

/// A line on the semaphore, and one for each process.
pub(crate) fn table(slots: &SharedSemaphore) -> String {
    let (max, current, waiters) = (slots.max(), slots.current(), slots.waiters());
    let mut text = format!(
        "{}: {current} of {max} taken, {waiters} waiting, ceiling {}{}{}\n",
        slots.path().display(),
        slots.ceiling(),
        if slots.is_strict() { ", strict" } else { "" },
        if slots.is_closed() { ", closed" } else { "" },
    );
    let mut rows = vec![TITLES.map(str::to_owned)];
    for holder in slots.holders() {
        let found = live_command(holder.pid, &holder.command);
        let state = if found.is_some() { "holds" } else { "gone" };
        let since = holder.since.and_then(age);
        rows.push([
            state.to_owned(),
            holder.pid.to_string(),
            holder.permits.to_string(),
            since.map_or_else(|| "-".to_owned(), in_words),
            what_runs(&found.unwrap_or(holder.command)).to_owned(),
        ]);
    }
    for waiter in slots.waiting() {
        let command = live_command(waiter.pid, &waiter.command).unwrap_or(waiter.command);
        rows.push([
            "waits".to_owned(),
            waiter.pid.to_string(),
            waiter.requests.to_string(),
            "-".to_owned(),
            what_runs(&command).to_owned(),
        ]);
    }
    if rows.len() > 1 {
        align(&rows, &mut text);
    }
    if rows.iter().any(|row| row[0] == "gone") {
        let path = slots.path().display();
        let _ = writeln!(
            text,
            "gone: was killed, and what it ran has the slot still; 'fuser {path}' finds that"
        );
    }
    text
}

fn align(rows: &[[String; 5]], text: &mut String) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [state, pid, count, since, command] in rows {
        let [a, b, c, d] = widths;
        let _ = writeln!(
            text,
            "{state:<a$}  {pid:>b$}  {count:>c$}  {since:>d$}  {command}"
        );
    }
}

/// The whole command line of a process that is there and is the one that was written down; the
/// semaphore has room for its beginning only.
fn live_command(pid: u32, beginning: &str) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // One that has ended and was not waited for has none.
    if line.is_empty() {
        return None;
    }
    let mut words: Vec<_> = line.split(|byte| *byte == 0).collect();
    // The semaphore leaves out where the program is.
    if let Some(program) = words.first_mut() {
        *program = program
            .rsplit(|byte| *byte == b'/')
            .next()
            .unwrap_or(program);
    }
    let text = String::from_utf8_lossy(&words.join(&b' ')).into_owned();
    let text = text.replace(char::is_control, "?");
    // The beginning may end within a character.
    let is_the_same = text.starts_with(beginning.trim_end_matches(char::REPLACEMENT_CHARACTER));
    is_the_same.then(|| text.trim_end().to_owned())
}

/// Of a `slots`, the command that it runs.
fn what_runs(command: &str) -> &str {
    let program = command.split(' ').next().unwrap_or_default();
    match command.split_once(" -- ") {
        Some((_, runs)) if !runs.is_empty() && program.ends_with("slots") => runs,
        _ => command,
    }
}

fn age(since: SystemTime) -> Option<Duration> {
    SystemTime::now().duration_since(since).ok()
}

fn in_words(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{:02}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}
