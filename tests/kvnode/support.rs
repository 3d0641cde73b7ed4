//! Servers and clients for the tests of `examples/kvnode`: real processes, real sockets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal, kill_process};

use crate::dir::Dir;
use crate::example;

/// A test that would hang fails after this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a server that has nothing to do may take to fall asleep.
const DROWSINESS: Duration = Duration::from_secs(30);

/// The example's binary.
pub(crate) fn binary() -> PathBuf {
    example::binary("kvnode")
}

/// Whether a program is installed; prints `SKIP` if not.
pub(crate) fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!(
            "SKIP: {program} is not installed (Debian: apt-get install redis-server redis-tools)"
        );
    }
    found
}

/// One number for an ordinary run, another for `LATCHWORK_STORM=full`.
pub(crate) fn size(short: usize, full: usize) -> usize {
    match std::env::var("LATCHWORK_STORM").as_deref() {
        Ok("full") => full,
        Ok("short") | Err(_) => short,
        Ok(other) => panic!("LATCHWORK_STORM is `short` or `full`, not `{other}`"),
    }
}

/// A running kvnode. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts one on a free port and waits until it listens.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_by(&mut Command::new(binary()), options)
    }

    /// Starts one by a command that becomes it once it has the server's options.
    pub(crate) fn start_by(command: &mut Command, options: &[&str]) -> Self {
        let mut child = command
            .args(["--port", "0"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start kvnode");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("kvnode's first line");
        let address = line
            .strip_prefix("kvnode is listening on ")
            .and_then(|address| address.trim_end().parse().ok())
            .unwrap_or_else(|| panic!("unexpected first line {line:?}"));
        Self {
            child,
            stdout,
            address,
        }
    }

    pub(crate) fn connect(&self) -> Client<TcpStream> {
        Client::over_tcp(self.address)
    }

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until all its threads sleep, and then for that to last so long without a break.
    pub(crate) fn until_asleep_for(&self, window: Duration) {
        let start = Instant::now();
        let mut before = threads(self.pid());
        let mut since = Instant::now();
        loop {
            std::thread::sleep(Duration::from_millis(10));
            let looked = Instant::now();
            let now = threads(self.pid());
            if now != before || !now.iter().all(Thread::is_asleep) {
                assert!(
                    start.elapsed() < DROWSINESS,
                    "not asleep for {window:?} on end: {before:#?}, and then {now:#?}"
                );
                before = now;
                since = Instant::now();
            } else if looked.saturating_duration_since(since) >= window {
                return;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal kvnode");
    }

    /// Waits for it to end, and returns how it did and what else it printed.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.stdout
            .read_to_string(&mut rest)
            .expect("kvnode's output");
        (self.child.wait().expect("wait for kvnode"), rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `/proc` says about a thread.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Thread {
    name: String,
    state: String,
    /// How often it has gone to sleep.
    switches: String,
}

impl Thread {
    fn is_asleep(&self) -> bool {
        self.state == "S (sleeping)"
    }
}

fn threads(pid: u32) -> Vec<Thread> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc");
    let mut threads: Vec<_> = tasks
        .filter_map(|task| {
            // A thread that has ended meanwhile has no status any more.
            let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
            let field = |name| {
                let value = status.lines().find_map(|line| line.strip_prefix(name));
                value.unwrap_or_default().trim().to_owned()
            };
            Some(Thread {
                name: field("Name:"),
                state: field("State:"),
                switches: field("voluntary_ctxt_switches:"),
            })
        })
        .collect();
    threads.sort();
    assert!(!threads.is_empty(), "the server has ended");
    threads
}

/// A real redis-server on a Unix socket, so that no port can collide. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Redis {
    child: Child,
    pub(crate) socket: PathBuf,
    /// Where that is, and what is saved.
    _dir: Dir,
}

impl Redis {
    /// Starts one, or says why not.
    pub(crate) fn start() -> Option<Self> {
        if !is_installed("redis-server") {
            return None;
        }
        let dir = Dir::new();
        let socket = dir.path().join("socket");
        let mut child = Command::new("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--databases",
                "1",
                "--enable-debug-command",
                "yes",
                "--unixsocket",
            ])
            .arg(&socket)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start redis-server");
        let mut log = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while log.read_line(&mut line).expect("redis-server's log") > 0
            && !line.contains("eady to accept connections")
        {
            line.clear();
        }
        // The log must be read on, or the server would block on a full pipe.
        std::thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        Some(Self {
            child,
            socket,
            _dir: dir,
        })
    }

    pub(crate) fn connect(&self) -> Client<UnixStream> {
        Client::over_unix(&self.socket)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request on the wire.
pub(crate) fn encode<A: AsRef<[u8]>>(args: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for argument in args {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Client<S: Read> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Client<S> {
    fn new(stream: S) -> Self {
        Self {
            stream: BufReader::with_capacity(1 << 16, stream),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("send");
    }

    /// Like [`send`](Self::send), for when the server may have closed already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one reply, as it is on the wire.
    pub(crate) fn reply(&mut self) -> Vec<u8> {
        self.try_reply().expect("receive")
    }

    /// Like [`reply`](Self::reply), for when the server may have closed already.
    pub(crate) fn try_reply(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut pending = 1;
        while pending > 0 {
            pending -= 1;
            let start = bytes.len();
            self.stream.read_until(b'\n', &mut bytes)?;
            let line = &bytes[start..];
            if !line.ends_with(b"\r\n") {
                let text = format!(
                    "the connection ended in {:?}",
                    line.escape_ascii().to_string()
                );
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
            let number = std::str::from_utf8(&line[1..])
                .ok()
                .and_then(|rest| rest.trim_end().parse::<i64>().ok());
            match (line[0], number) {
                (b'$' | b'=', Some(len @ 0..)) => {
                    let body = bytes.len();
                    bytes.resize(body + len as usize + 2, 0);
                    self.stream.read_exact(&mut bytes[body..])?;
                }
                (b'*' | b'~' | b'>', Some(len)) => pending += len.max(0),
                (b'%', Some(len)) => pending += 2 * len,
                // Attributes come before the reply that they are about.
                (b'|', Some(len)) => pending += 2 * len + 1,
                _ => {}
            }
        }
        Ok(bytes)
    }

    /// Sends one request and reads its reply.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Vec<u8> {
        self.send(&encode(args));
        self.reply()
    }

    /// The same in text.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        let args: Vec<&str> = request.split(' ').collect();
        String::from_utf8_lossy(&self.call(&args)).into_owned()
    }

    /// Asks the same until `wanted` is in the reply.
    pub(crate) fn ask_until(&mut self, request: &str, wanted: &str) {
        let start = Instant::now();
        loop {
            let reply = self.ask(request);
            if reply.contains(wanted) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "no {wanted:?} in {reply}");
            std::thread::yield_now();
        }
    }

    /// Everything until the server closes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            // A server that has had enough need not read on before it closes.
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                panic!("receive: {error}")
            }
            _ => rest,
        }
    }
}

impl<S: Read + AsFd> Client<S> {
    /// Whether a reply has begun to arrive, or does within `patience`.
    pub(crate) fn has_reply(&self, patience: Duration) -> bool {
        let patience = Timespec {
            tv_sec: patience.as_secs() as i64,
            tv_nsec: patience.subsec_nanos().into(),
        };
        let mut watched = [PollFd::new(self.stream.get_ref(), PollFlags::IN)];
        !self.stream.buffer().is_empty() || poll(&mut watched, Some(&patience)).expect("poll") > 0
    }
}

impl<S: Read + Write + AsFd> Client<S> {
    /// The replies that have arrived.
    pub(crate) fn arrived(&mut self) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        while self.has_reply(Duration::ZERO) {
            replies.push(self.reply());
        }
        replies
    }
}

impl Client<UnixStream> {
    pub(crate) fn over_unix(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("connect to redis-server");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("SO_RCVTIMEO");
        Client::new(stream)
    }
}

impl Client<TcpStream> {
    pub(crate) fn over_tcp(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("SO_RCVTIMEO");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("SO_SNDTIMEO");
        Client::new(stream)
    }

    /// The same connection, to send while replies are read.
    pub(crate) fn another_half(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("a descriptor")
    }

    /// Leaves so that the server knows that nobody reads any more.
    pub(crate) fn reset(self) {
        let stream = self.stream.into_inner();
        set_socket_linger(&stream, Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// Tells the server that nothing more will come.
    pub(crate) fn end(&self) {
        self.stream
            .get_ref()
            .shutdown(Shutdown::Write)
            .expect("shutdown");
    }
}
