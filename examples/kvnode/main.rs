//! kvnode: a server for `redis-cli` and other Redis clients, on latchwork's public API.
//!
//! ```text
//! cargo run --release --example kvnode            # then: redis-cli -p 6380
//! cargo run --release --example kvnode -- --help
//! ```
//!
//! | thread | does | module |
//! |---|---|---|
//! | main | accepts, hands connections out, waits for the signal to stop | `listener` |
//! | `kvnode-io-<i>` | an epoll loop over many connections; commands run inline | `io_thread`, `connection` |
//! | `lw-sweep` | removes expired keys; sleeps while there are none | latchwork |
//! | `lw-wal`, `lw-stream-<i>`, `lw-finalize`, `kvnode-storage` | write the log and the files of `--data` | `storage` |
//! | `lw-dispatch` | tells blocked clients what no other thread could tell them | latchwork |
//!
//! From bytes to bytes: `request` (parser) → `commands` (one table, one function a command) →
//! [`latchwork::rmw::Rmw`] (the store: atomic commands, per-key latches) → `reply`. Between `MULTI`
//! and `EXEC` commands go into a `queue`; a client that waits for a list is `blocked`, and what it
//! gets comes through its I/O thread's `inbox`. Connections are limited by a
//! [`latchwork::Semaphore`]: each holds a permit, which comes back however the connection ends.
//! With `--data` the store is durable (`storage`), and with `--fsync always` replies are `held`
//! until what they tell of is.

mod blocked;
mod clients;
mod commands;
mod connection;
mod held;
mod inbox;
mod io_thread;
mod listener;
mod loading;
mod options;
mod queue;
mod reply;
mod request;
mod server;
mod session;
mod storage;

use std::error::Error;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latchwork::LatchTable;
use latchwork::rmw::Rmw;
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};

use inbox::Inbox;
use io_thread::IoThread;
use listener::Listener;
use loading::Report;
use options::{Action, Options, fsync_name};
use server::Server;
use storage::{Config, DurableStore, Storage, StorageError};

/// How many connections may wait to be accepted; the system's own limit may be lower.
const BACKLOG: i32 = 4096;

/// Descriptors beside the clients': listener, epoll sets, eventfds, the standard streams, one to
/// refuse with.
const OTHER_DESCRIPTORS: u64 = 64;

fn main() -> ExitCode {
    let outcome = match options::parse(std::env::args_os().skip(1)) {
        Ok(Action::Help) => write!(std::io::stdout(), "{}", options::HELP).map_err(Into::into),
        Ok(Action::Version) => {
            writeln!(std::io::stdout(), "kvnode {}", env!("CARGO_PKG_VERSION")).map_err(Into::into)
        }
        Ok(Action::Serve(options)) => serve(options),
        Err(error) => {
            eprintln!("kvnode: {error}\nTry 'kvnode --help'.");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("kvnode: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprint!(": {error}");
                cause = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn serve(mut options: Options) -> Result<(), Box<dyn Error>> {
    let (signals, notify) = UnixStream::pair()?;
    let second_signal = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Before anything else can fail half-way: the first signal asks, the second one insists.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&second_signal))?;
        signal_hook::flag::register(signal, Arc::clone(&second_signal))?;
        signal_hook::low_level::pipe::register(signal, notify.try_clone()?)?;
    }

    options.max_clients = allow_descriptors(options.max_clients)?;
    // A port that is taken is found out before the data are loaded, which may take long; who comes
    // meanwhile is refused and does not wait.
    let cannot = |error: Errno| {
        let (bind, port) = (options.bind, options.port);
        format!("cannot listen on {bind} port {port}: {error}; --port 0 picks a free port")
    };
    let socket = bind(&options).map_err(cannot)?;
    let report = Arc::new(Mutex::new(Report::new()));
    let opened = open(&options, &report);
    let took = report.lock().end();
    let (store, storage) = opened?;
    let loaded = (store.len(), took);
    // Thousands may come at once, and a connection that finds no room is retried after a second.
    rustix::net::listen(&socket, BACKLOG).map_err(cannot)?;
    let socket = TcpListener::from(socket);
    let address = socket.local_addr()?;
    let server = Arc::new(Server::new(options, address, store, storage.clone())?);

    let mut inboxes = Vec::new();
    let mut threads = Vec::new();
    let healthy = Arc::new(AtomicBool::new(true));
    for thread in 0..server.options.io_threads {
        let inbox = Arc::new(Inbox::new()?);
        let io_thread = IoThread::new(Arc::clone(&server), thread, Arc::clone(&inbox))?;
        let guard = Guard {
            server: Arc::clone(&server),
            healthy: Arc::clone(&healthy),
            well: false,
        };
        inboxes.push(inbox);
        threads.push(
            std::thread::Builder::new()
                .name(format!("kvnode-io-{thread}"))
                .spawn(move || {
                    let mut guard = guard;
                    match io_thread.run() {
                        Ok(()) => guard.well = true,
                        Err(error) => eprintln!("kvnode: I/O thread {thread}: {error}"),
                    }
                })?,
        );
    }
    if let Some(log) = server.log_to_wait_for() {
        let told = inboxes.clone();
        log.on_durable(move |lsn| told.iter().for_each(|inbox| inbox.durable(lsn)));
    }
    if let Some(storage) = &storage {
        let told = inboxes.clone();
        storage.on_room(move || told.iter().for_each(|inbox| inbox.room()));
        let told = inboxes.clone();
        storage.on_halt(move || told.iter().for_each(|inbox| inbox.halt()));
    }
    let listener = Listener::new(socket, Arc::clone(&server), inboxes)?;
    greet(&server, loaded);
    listener.run(&signals)?;
    for thread in threads {
        // A panic has been printed already, and the guard has recorded it.
        let _ = thread.join();
    }
    if let Some(storage) = storage {
        storage.close()?;
    }
    if healthy.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err("an I/O thread failed".into())
    }
}

fn bind(options: &Options) -> Result<OwnedFd, Errno> {
    let address = SocketAddr::new(options.bind, options.port);
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // What an earlier server's connections have left behind is no obstacle.
    set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

type Opened = (Rmw<DurableStore>, Option<Arc<Storage>>);

/// Loads what there is, if anything is to be kept.
fn open(options: &Options, report: &Arc<Mutex<Report>>) -> Result<Opened, StorageError> {
    let Some(dir) = &options.data else {
        let store = Rmw::builder().store(DurableStore::in_memory()).build();
        return Ok((store, None));
    };
    let config = Config::new(dir, options.fsync);
    let latches = LatchTable::new();
    let shown = Arc::clone(report);
    let show = move |loading| shown.lock().show(loading);
    let (storage, store) = storage::open(config, &latches, show)?;
    let store = Rmw::builder().latches(latches).store(store).build();
    Ok((store, Some(storage)))
}

/// Stops the server when an I/O thread ends otherwise than it should: its clients would wait for
/// ever.
#[derive(Debug)]
struct Guard {
    server: Arc<Server>,
    healthy: Arc<AtomicBool>,
    /// The thread has ended as it should.
    well: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.well {
            self.healthy.store(false, Ordering::Relaxed);
            self.server.request_stop();
        }
    }
}

/// Raises the limit of open files to what `clients` need, and returns how many clients there may
/// be.
fn allow_descriptors(clients: u64) -> Result<u64, Box<dyn Error>> {
    let wanted = clients + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(clients);
    }
    // Only a privileged process may raise the maximum as well; failing that, as far as it goes.
    let both = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum.map(|maximum| maximum.max(wanted)),
    };
    if setrlimit(Resource::Nofile, both).is_ok() {
        return Ok(clients);
    }
    let reachable = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(reachable),
            maximum: limit.maximum,
        },
    )?;
    match reachable.checked_sub(OTHER_DESCRIPTORS) {
        Some(possible @ 1..) => {
            if possible < clients {
                eprintln!(
                    "kvnode: the limit of open files (ulimit -Hn) allows {possible} clients, not {clients}"
                );
            }
            Ok(possible)
        }
        _ => Err(format!(
            "the limit of open files (ulimit -Hn) is {reachable}, too low to serve anybody"
        )
        .into()),
    }
}

/// Says where the server is, what it has loaded and how long that took, and what to type next.
fn greet(server: &Server, (keys, took): (u64, Duration)) {
    let (address, port) = (server.address, server.address.port());
    let host = if address.ip().is_unspecified() || address.ip() == std::net::Ipv4Addr::LOCALHOST {
        String::new()
    } else {
        format!(" -h {}", address.ip())
    };
    let threads = server.options.io_threads;
    let fsync = fsync_name(server.options.fsync);
    let data = server
        .options
        .data
        .as_ref()
        .map_or_else(String::new, |dir| {
            let (dir, seconds) = (dir.display(), took.as_secs_f64());
            format!("data: {dir}, fsync {fsync}; {keys} keys loaded in {seconds:.1} s\n")
        });
    // Nobody may be reading; that is no reason not to serve.
    let _ = write!(
        std::io::stdout(),
        "kvnode is listening on {address}\n\
         {data}\
         I/O threads: {threads} (kvnode-io-0{}); clients: {} at most\n\
         \n\
         try:     redis-cli{host} -p {port} set greeting hello\n\
         \x20        redis-cli{host} -p {port}\n\
         measure: redis-benchmark{host} -p {port} -t set,get,incr -P 16 -q\n\
         stop:    Ctrl-C, or redis-cli{host} -p {port} shutdown\n",
        if threads > 1 {
            format!(" to {}", threads - 1)
        } else {
            String::new()
        },
        server.options.max_clients,
    );
}
