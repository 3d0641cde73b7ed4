//! Permits in an event loop: one thread serves many connections and never blocks.
//!
//! At most two requests at a time may go to a slow backend. The loop has other sockets to serve and
//! must not wait in `acquire`; it *registers* for a permit instead:
//!
//! 1. `Semaphore::acquire_with` returns a `Pending` at once. Its descriptor goes into the poller
//!    beside the sockets.
//! 2. When a permit is free, the callback puts it into the connection's mailbox and the descriptor
//!    becomes readable: the loop wakes up as it does for a socket.
//! 3. A connection that goes away drops its `Pending`, and the request is cancelled. No permit is
//!    lost.
//!
//! The example plays its own clients and ends when all are gone: `cargo run --example event_loop`.

// `Poller::add` is unsafe: what is added must be deleted before it is closed.
#![allow(unsafe_code)]

use std::error::Error;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use latchwork::semaphore::{AcquireError, SendPermit};
use latchwork::{Pending, Semaphore};
use polling::{Event, Events, Poller};

const CONNECTIONS: usize = 8;
const PERMITS: u64 = 2;
const TICK: Duration = Duration::from_millis(50);

/// A connection's two keys in the poller.
fn socket_key(connection: usize) -> usize {
    2 * connection
}

fn permit_key(connection: usize) -> usize {
    2 * connection + 1
}

struct Connection {
    socket: UnixStream,
    request: Option<Request>,
}

/// A request that waits for its permit.
struct Request {
    pending: Pending,
    mailbox: mpsc::Receiver<Result<SendPermit, AcquireError>>,
}

struct Server {
    poller: Arc<Poller>,
    backend: Semaphore,
    /// `None` once it is closed.
    connections: Vec<Option<Connection>>,
    /// Where the backend's threads tell which connection to answer.
    done: mpsc::Sender<usize>,
    answers: mpsc::Receiver<usize>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let (done, answers) = mpsc::channel();
    let mut server = Server {
        poller: Arc::new(Poller::new()?),
        backend: Semaphore::new(PERMITS)?,
        connections: Vec::new(),
        done,
        answers,
    };
    let clients = (0..CONNECTIONS)
        .map(|number| Ok(client(number, server.connect()?)))
        .collect::<io::Result<Vec<_>>>()?;
    server.run()?;
    for client in clients {
        println!("{}", client.join().expect("a client does not panic")?);
    }
    // A request that was given up while the backend worked on it ends by itself.
    drop(server.done);
    for _ in server.answers {}
    assert_eq!(server.backend.available(), PERMITS, "no permit is lost");
    Ok(())
}

impl Server {
    /// The loop: sockets, permits, the backend's answers and a timer.
    fn run(&mut self) -> Result<(), Box<dyn Error>> {
        let mut events = Events::new();
        let mut next_tick = Instant::now();
        while self.connections.iter().any(Option::is_some) {
            if Instant::now() >= next_tick {
                next_tick += TICK;
                println!("{} wait for a permit", self.backend.waiters());
            }
            events.clear();
            self.poller.wait_deadline(&mut events, next_tick)?;
            for event in events.iter() {
                let connection = event.key / 2;
                if event.key == socket_key(connection) {
                    self.on_socket(connection)?;
                } else {
                    self.on_permit(connection)?;
                }
            }
            while let Ok(connection) = self.answers.try_recv() {
                if let Some(open) = &mut self.connections[connection] {
                    // That the client has hung up meanwhile is its own affair.
                    let _ = open.socket.write_all(b"answer");
                    self.close(connection)?;
                }
            }
        }
        Ok(())
    }

    /// Takes on a connection, and returns the client's end of it.
    fn connect(&mut self) -> io::Result<UnixStream> {
        let (socket, clients_end) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let interest = Event::readable(socket_key(self.connections.len()));
        // SAFETY: `close` deletes the socket from the poller before it drops it.
        unsafe { self.poller.add(&socket, interest)? };
        let request = None;
        self.connections.push(Some(Connection { socket, request }));
        Ok(clients_end)
    }

    /// Something was sent, or the client has hung up.
    fn on_socket(&mut self, connection: usize) -> io::Result<()> {
        let Some(open) = &mut self.connections[connection] else {
            return Ok(()); // closed by an event before this one
        };
        if open.socket.read(&mut [0; 64])? == 0 {
            return self.close(connection);
        }
        // The poller tells once and forgets: ask to be told again.
        let interest = Event::readable(socket_key(connection));
        self.poller.modify(&open.socket, interest)?;
        if open.request.is_some() {
            return Ok(()); // one at a time
        }

        // The callback runs on whichever thread gives a permit back, so it only hands the permit
        // on. If nobody listens any more, the permit is dropped, and so given back.
        let (deliver, mailbox) = mpsc::channel();
        let pending = self.backend.acquire_with(move |permit| {
            let _ = deliver.send(permit);
        });
        let interest = Event::readable(permit_key(connection));
        // SAFETY: `take_request` deletes the descriptor before `pending`, and the descriptor with
        // it, is dropped.
        unsafe { self.poller.add(&pending.as_fd()?, interest)? };
        open.request = Some(Request { pending, mailbox });
        Ok(())
    }

    /// The permit is there: the backend works under it, on a thread of its own.
    fn on_permit(&mut self, connection: usize) -> Result<(), Box<dyn Error>> {
        let Some(request) = self.take_request(connection)? else {
            return Ok(());
        };
        let permit = request.mailbox.recv()??;
        let (done, poller) = (self.done.clone(), self.poller.clone());
        thread::spawn(move || {
            // Bound to this thread, the permit comes back even if the work leaks it.
            let permit = permit.attach();
            thread::sleep(Duration::from_millis(100)); // the work
            drop(permit); // runs the next one's callback
            let _ = done.send(connection);
            poller.notify()
        });
        Ok(())
    }

    /// What the connection waits for. Dropping it cancels.
    fn take_request(&mut self, connection: usize) -> io::Result<Option<Request>> {
        let open = self.connections[connection].as_mut();
        let request = open.and_then(|open| open.request.take());
        if let Some(request) = &request {
            self.poller.delete(request.pending.as_fd()?)?;
        }
        Ok(request)
    }

    fn close(&mut self, connection: usize) -> io::Result<()> {
        drop(self.take_request(connection)?);
        if let Some(open) = self.connections[connection].take() {
            self.poller.delete(&open.socket)?;
        }
        Ok(())
    }
}

/// Sends a request, and waits for the answer; every fourth client loses patience at once.
fn client(number: usize, mut socket: UnixStream) -> thread::JoinHandle<io::Result<String>> {
    thread::spawn(move || {
        socket.write_all(b"request")?;
        if number % 4 == 3 {
            return Ok(format!("client {number}: hung up"));
        }
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(format!("client {number}: {answer}"))
    })
}
