//! The servers under test, as child processes.
//!
//! A server is killed when its value goes, whichever way that happens; and, through
//! `setpriv --pdeathsig` where the machine has it, when this process itself is killed.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

const REDIS_SERVER: &str = "redis-server";
const REDIS_BENCHMARK: &str = "redis-benchmark";

/// How long a server may take over one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Programs that the rows need and the machine lacks.
pub(super) fn missing_programs() -> io::Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for program in [REDIS_SERVER, REDIS_BENCHMARK] {
        if !runs(program)? {
            missing.push(program);
        }
    }
    Ok(missing)
}

fn runs(program: &str) -> io::Result<bool> {
    let quiet = || Stdio::null();
    match Command::new(program)
        .arg("--version")
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .status()
    {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Builds the example in release mode, into the directory that this program was built into.
pub(super) fn build_kvnode() -> Result<PathBuf, Box<dyn Error>> {
    let exe = std::env::current_exe()?;
    let target = exe
        .parent()
        .and_then(Path::parent)
        .ok_or("this program is in no target directory")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "latchwork",
            "--example",
            "kvnode",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(root)
        .status()?;
    if !status.success() {
        return Err(format!("the example kvnode does not build ({status})").into());
    }
    Ok(target.join("release/examples/kvnode"))
}

/// A child process that does not outlive its value.
#[derive(Debug)]
pub(super) struct Child(process::Child);

impl Child {
    pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
        command.spawn().map(Child)
    }

    pub(super) fn take_stdout(&mut self) -> io::Result<ChildStdout> {
        self.0
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("the child's output is not piped"))
    }

    pub(super) fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }

    pub(super) fn kill(&mut self) {
        // It fails only if the child has ended, which is what is wanted.
        let _ = self.0.kill();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        // Without it the child stays a zombie; there is nobody to tell of an error.
        let _ = self.0.wait();
    }
}

/// A server that listens on a port of the loopback.
#[derive(Debug)]
pub(super) struct Server {
    port: u16,
    child: Child,
}

impl Server {
    /// kvnode at `path`, on a port of its own choice. Returns when it serves.
    pub(super) fn kvnode(path: &Path, options: &[&str]) -> Result<Server, Box<dyn Error>> {
        let mut child = start(path.as_os_str(), &[&["--port", "0"], options].concat())?;
        let mut lines = BufReader::new(child.take_stdout()?);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let port = kvnode_port(&line)?;
        drain(lines);
        Ok(Server { port, child })
    }

    /// redis-server, in memory only unless `options` say otherwise. It cannot choose a port
    /// itself, so a free one is looked up, and another one if somebody took it in between. Returns
    /// when it serves.
    pub(super) fn redis(options: &[&str]) -> Result<Server, Box<dyn Error>> {
        let mut said = String::new();
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
                .local_addr()?
                .port();
            let number = port.to_string();
            let always = [
                "--port",
                &number,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ];
            // What comes later counts.
            let options = [&always[..], options].concat();
            let mut child = start(OsStr::new(REDIS_SERVER), &options)?;
            let mut lines = BufReader::new(child.take_stdout()?);
            said.clear();
            while lines.read_line(&mut said)? > 0 {
                if said.contains("Ready to accept connections") {
                    drain(lines);
                    return Ok(Server { port, child });
                }
            }
        }
        Err(format!("redis-server does not start; it said: {said}").into())
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Ends it in good order, and waits for that.
    pub(super) fn stop(mut self) -> Result<(), Box<dyn Error>> {
        let mut stream = self.connect()?;
        stream.write_all(b"*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n")?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("a server ended badly ({status})").into());
        }
        Ok(())
    }

    /// The server's own: what may have started it has become it.
    pub(super) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// A connection that asks a server about itself.
#[derive(Debug)]
pub(super) struct Control(BufReader<TcpStream>);

impl Control {
    pub(super) fn connect(server: &Server) -> io::Result<Control> {
        server.connect().map(BufReader::new).map(Control)
    }

    /// Waits for an answer.
    pub(super) fn ping(&mut self) -> Result<(), Box<dyn Error>> {
        match self.line(b"*1\r\n$4\r\nPING\r\n")?.as_str() {
            "+PONG\r\n" => Ok(()),
            other => Err(format!("a server answers {other:?}").into()),
        }
    }

    /// How many keys there are.
    pub(super) fn keys(&mut self) -> Result<usize, Box<dyn Error>> {
        let line = self.line(b"*1\r\n$6\r\nDBSIZE\r\n")?;
        let number = line
            .strip_prefix(':')
            .map(|number| number.trim_end().parse());
        Ok(number.ok_or_else(|| format!("a server answers {line:?}"))??)
    }

    /// The first line of the answer.
    fn line(&mut self, request: &[u8]) -> io::Result<String> {
        self.0.get_mut().write_all(request)?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line)
    }

    /// How many clients are connected, this one included.
    pub(super) fn clients(&mut self) -> Result<usize, Box<dyn Error>> {
        let head = self.line(b"*2\r\n$4\r\nINFO\r\n$7\r\nclients\r\n")?;
        let len = head.trim_end().strip_prefix('$').map(str::parse::<usize>);
        let len = len.ok_or_else(|| format!("a server answers {head:?}"))??;
        let mut text = vec![0; len + "\r\n".len()];
        self.0.read_exact(&mut text)?;
        connected_clients(&String::from_utf8(text)?)
    }
}

fn connected_clients(info: &str) -> Result<usize, Box<dyn Error>> {
    let mut lines = info.lines();
    let number = lines.find_map(|line| line.strip_prefix("connected_clients:"));
    let number = number.ok_or_else(|| format!("no connected_clients in {info:?}"))?;
    Ok(number.parse()?)
}

fn start(program: &OsStr, options: &[&str]) -> io::Result<Child> {
    // The child's own parent-death signal would take unsafe code between fork and exec.
    let mut command = if runs("setpriv")? {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    let command = command.args(options).current_dir(std::env::temp_dir());
    Child::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))
}

/// Reads on, so that the server never waits for room in the pipe. Ends with the server.
fn drain(mut output: BufReader<ChildStdout>) {
    thread::spawn(move || io::copy(&mut output, &mut io::sink()));
}

fn kvnode_port(line: &str) -> Result<u16, Box<dyn Error>> {
    let address = line.trim_end().strip_prefix("kvnode is listening on ");
    let port = address.and_then(|address| address.rsplit_once(':')?.1.parse().ok());
    port.ok_or_else(|| format!("kvnode does not say where it listens: {line:?}").into())
}

/// Gives the server every key that redis-benchmark's `set` and `get` will use, and checks
/// that it keeps them.
pub(super) fn fill(server: &Server, keys: u32) -> Result<(), Box<dyn Error>> {
    fill_with(server, keys, "xxx")
}

/// The same with values of another length.
pub(super) fn fill_with(server: &Server, keys: u32, value: &str) -> Result<(), Box<dyn Error>> {
    const BATCH: u32 = 1_000;
    let mut stream = server.connect()?;
    for first in (0..keys).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(keys);
        let set = |key| {
            let len = value.len();
            format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${len}\r\n{value}\r\n")
        };
        ask(
            &mut stream,
            &batch.clone().map(set).collect::<String>(),
            &"+OK\r\n".repeat(batch.len()),
        )?;
    }
    for key in [0, keys / 2, keys - 1] {
        ask(
            &mut stream,
            &format!("*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n"),
            &format!("${}\r\n{value}\r\n", value.len()),
        )?;
    }
    Ok(())
}

/// Sends `request` and checks that the answer is what was expected.
pub(super) fn ask(
    stream: &mut TcpStream,
    request: &str,
    expected: &str,
) -> Result<(), Box<dyn Error>> {
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    if answer != expected.as_bytes() {
        let answer = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        return Err(format!("a server answers {answer:?}").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvnode_says_where_it_listens() {
        assert_eq!(
            kvnode_port("kvnode is listening on 127.0.0.1:6380\n").unwrap(),
            6380
        );
        assert!(kvnode_port("").is_err());
        assert!(kvnode_port("kvnode is listening on 127.0.0.1\n").is_err());
        assert!(kvnode_port("kvnode is listening on 127.0.0.1:99999\n").is_err());
    }

    #[test]
    fn the_number_of_clients_is_found_among_what_a_server_tells() {
        let info = "# Clients\r\nconnected_clients:12\r\nmaxclients:10000\r\n";
        assert_eq!(connected_clients(info).unwrap(), 12);
        assert!(connected_clients("# Clients\r\n").is_err());
    }

    #[test]
    fn a_child_ends_with_its_value() {
        let mut child = start(OsStr::new("cat"), &["-"]).unwrap();
        let mut output = child.take_stdout().unwrap();
        drop(child);
        // The pipe ends once nobody can write to it.
        assert_eq!(output.read(&mut [0]).unwrap(), 0);
    }
}
