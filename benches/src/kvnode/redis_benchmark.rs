//! redis-benchmark: one run of one command, and its CSV.

use std::error::Error;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::server::Child;

/// A run that takes longer has hung. The slowest one here asks for ten seconds' worth.
const LIMIT: Duration = Duration::from_secs(60);

/// What to ask of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) command: &'static str,
    pub(super) clients: u32,
    pub(super) pipeline: u32,
    /// Over how many keys the requests are spread; `None`: all ask for one.
    pub(super) keys: Option<u32>,
    pub(super) requests: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Speed {
    pub(super) requests_per_second: f64,
    /// The 99th percentile of the time from a request to its reply, in nanoseconds.
    pub(super) p99: f64,
}

impl Load {
    /// Runs against the server at `port`.
    ///
    /// # Errors
    ///
    /// If redis-benchmark cannot be run, fails, hangs, or prints what it never did.
    pub(super) fn run(&self, port: u16) -> Result<Speed, Box<dyn Error>> {
        let mut command = Command::new("redis-benchmark");
        command.args(["-h", "127.0.0.1", "--csv", "-t", self.command]);
        for (option, value) in [
            ("-p", u32::from(port)),
            ("-c", self.clients),
            ("-P", self.pipeline),
            ("-n", self.requests),
        ] {
            command.arg(option).arg(value.to_string());
        }
        if let Some(keys) = self.keys {
            command.arg("-r").arg(keys.to_string());
        }
        let mut child = Child::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut stdout = child.take_stdout()?;
        let (sender, receiver) = mpsc::channel();
        // The reader ends with the pipe, which ends with the child: killed, if it is late.
        let reader = thread::spawn(move || {
            let mut text = String::new();
            let outcome = stdout.read_to_string(&mut text).map(|_| text);
            // Nobody listens any more if the run took too long.
            let _ = sender.send(outcome);
        });
        let text = receiver.recv_timeout(LIMIT);
        if text.is_err() {
            child.kill();
        }
        let status = child.wait()?;
        reader
            .join()
            .map_err(|_| "the reader of redis-benchmark's output panicked")?;
        let text = text.map_err(|_| format!("redis-benchmark hung: {self:?}"))??;
        if !status.success() {
            return Err(format!("redis-benchmark failed ({status}): {self:?}").into());
        }
        parse(&text, self.command)
    }
}

/// The line of `command`, whichever case it is in.
fn parse(text: &str, command: &str) -> Result<Speed, Box<dyn Error>> {
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let headers = reader.headers()?.clone();
    let column = |name: &str| {
        let place = headers.iter().position(|header| header == name);
        place.ok_or_else(|| format!("redis-benchmark printed no column {name}: {text}"))
    };
    let (rate, p99) = (column("rps")?, column("p99_latency_ms")?);
    for record in reader.records() {
        let record = record?;
        if record
            .get(0)
            .is_some_and(|name| name.eq_ignore_ascii_case(command))
        {
            let number = |column| record.get(column).unwrap_or_default().parse::<f64>();
            return Ok(Speed {
                requests_per_second: number(rate)?,
                p99: number(p99)? * 1e6,
            });
        }
    }
    Err(format!("redis-benchmark printed no line for {command}: {text}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
        \"test\",\"rps\",\"avg_latency_ms\",\"p99_latency_ms\"\n\
        \"SET\",\"366300.38\",\"1.844\",\"5.743\"\n\
        \"GET\",\"531914.94\",\"1.269\",\"3.735\"\n";

    #[test]
    fn the_command_s_line_is_found_by_its_name() {
        assert_eq!(parse(TEXT, "set").unwrap().requests_per_second, 366_300.38);
        assert_eq!(parse(TEXT, "GET").unwrap().requests_per_second, 531_914.94);
        assert_eq!(parse(TEXT, "GET").unwrap().p99, 3_735_000.0);
    }

    #[test]
    fn what_is_not_a_table_of_rates_is_an_error() {
        assert!(
            parse(TEXT, "incr")
                .unwrap_err()
                .to_string()
                .contains("no line for incr")
        );
        assert!(parse("", "set").is_err());
        assert!(parse("Could not connect\n", "set").is_err());
        assert!(parse("\"test\",\"rps\"\n\"SET\",\"fast\"\n", "set").is_err());
    }
}
