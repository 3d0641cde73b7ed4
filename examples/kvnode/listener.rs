//! The main thread: accepts connections, hands each to the I/O thread with the fewest, and waits
//! for the signal to stop.
//!
//! One acceptor, not one an I/O thread: only so do the threads get equal shares, and a thread busy
//! with a long command delays no newcomer. Accepting is rare beside serving.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendFlags, SocketAddrAny, SocketFlags, acceptfrom_with, recv, send, sockopt,
};

use crate::inbox::{Arrival, Inbox};
use crate::server::Server;

/// How many connections are accepted before stop requests are looked at again.
const ACCEPTS: usize = 64;
/// Idle peers that have silently vanished (a pulled plug) are found out after this long, as with
/// Redis.
const KEEPALIVE: Duration = Duration::from_secs(300);

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const SIGNAL: u64 = 2;

/// The listening socket and what it takes to let in who comes.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    server: Arc<Server>,
    inboxes: Vec<Arc<Inbox>>,
    /// Kept so that, out of descriptors, there is one to accept and refuse with.
    spare: Option<OwnedFd>,
}

impl Listener {
    pub(crate) fn new(
        socket: TcpListener,
        server: Arc<Server>,
        inboxes: Vec<Arc<Inbox>>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            server,
            inboxes,
            spare: spare(),
        })
    }

    /// Accepts until a stop is requested or a signal makes `signals` readable; then lets in whoever
    /// is already waiting at the door, stops listening and tells the I/O threads to finish.
    pub(crate) fn run(mut self, signals: &UnixStream) -> io::Result<()> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watch = |fd: std::os::fd::BorrowedFd<'_>, token| {
            epoll::add(
                &epoll,
                fd,
                epoll::EventData::new_u64(token),
                epoll::EventFlags::IN,
            )
        };
        watch(self.socket.as_fd(), LISTENER)?;
        watch(self.server.stop_fd(), STOP)?;
        watch(signals.as_fd(), SIGNAL)?;
        let mut events = Vec::with_capacity(4);
        while !self.server.is_stopping() {
            match epoll::wait(&epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept(ACCEPTS),
                    SIGNAL => self.server.request_stop(),
                    _ => {}
                }
            }
        }
        self.accept(usize::MAX);
        for inbox in &self.inboxes {
            inbox.stop();
        }
        Ok(())
    }

    /// Accepts whoever is waiting, `most` at the most.
    fn accept(&mut self, most: usize) {
        for _ in 0..most {
            match acceptfrom_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, peer)) => self.admit(socket, peer),
                Err(Errno::AGAIN) => return,
                Err(Errno::MFILE | Errno::NFILE) => {
                    // Not to accept would leave the socket readable and this loop spinning.
                    self.spare = None;
                    match acceptfrom_with(
                        &self.socket,
                        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
                    ) {
                        Ok((socket, _)) => self.turn_away(&socket),
                        Err(_) => return,
                    }
                    self.spare = spare();
                }
                // The peer has given up meanwhile, or the network told of an old mishap: on to the
                // next.
                Err(_) => {}
            }
        }
    }

    fn admit(&self, socket: OwnedFd, peer: Option<SocketAddrAny>) {
        let Ok(place) = self.server.places.try_acquire() else {
            return self.turn_away(&socket);
        };
        let Some(peer) = peer.and_then(|peer| SocketAddr::try_from(peer).ok()) else {
            return;
        };
        let local = rustix::net::getsockname(&socket)
            .ok()
            .and_then(|local| SocketAddr::try_from(local).ok());
        let Some(local) = local else { return };
        // Neither is essential.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let _ = sockopt::set_socket_keepalive(&socket, true);
        let _ = sockopt::set_tcp_keepidle(&socket, KEEPALIVE);
        let Some(inbox) = self.inboxes.iter().min_by_key(|inbox| inbox.load()) else {
            return;
        };
        let fd = socket.as_raw_fd();
        let client = self.server.clients.add(fd, peer, local, inbox);
        inbox.hand_over(Arrival {
            socket,
            client,
            place: place.detach(),
        });
    }

    fn turn_away(&self, socket: &OwnedFd) {
        self.server.turned_away.fetch_add(1, Ordering::Relaxed);
        // What the client has sent already is read first: closing with unread input would reset the
        // connection, and the reset may overtake the message.
        let _ = recv(socket, &mut [0; 4096], RecvFlags::DONTWAIT);
        let _ = send(
            socket,
            b"-ERR max number of clients reached\r\n",
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
    }
}

fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}
