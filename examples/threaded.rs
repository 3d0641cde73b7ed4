//! Read this one first: a thread-per-connection server that cannot leak what it hands out.
//!
//! A [`Semaphore`] limits how many connections are served at a time. A [`LatchTable`] says who may
//! work on an account: a transfer holds both latches while it reads, computes and writes, so no
//! money is lost or made. Both give guards, which a vanished client, an early return and a panic
//! give back. `cargo run --example threaded` serves itself some clients and checks the books; with
//! `-- 7000` it serves you: `nc 127.0.0.1 7000`, then `0 2 30` moves 30 from account 0 to 2.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::thread;

use latchwork::{LatchTable, Semaphore};

#[derive(Default)]
struct Bank {
    /// Each balance is read and written one by one; the latches make a transfer whole.
    balances: [AtomicI64; 3],
    accounts: LatchTable<usize>,
}

impl Bank {
    fn transfer(&self, line: &str) -> Result<i64, Box<dyn Error>> {
        let words: Vec<usize> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [from @ 0..3, to @ 0..3, amount @ 0..1000] = words[..] else {
            return Err("say: <from> <to> <amount>".into());
        };
        // Both at once: two opposite transfers take them in one order and cannot deadlock. They are
        // released at the end of this function, on every way out.
        let _both = self.accounts.latch_many(&[from, to])?;
        let left = self.balances[from].load(Relaxed) - amount as i64;
        self.balances[from].store(left, Relaxed);
        thread::yield_now(); // Without the latches, others would now see money missing.
        let there = self.balances[to].load(Relaxed) + amount as i64;
        self.balances[to].store(there, Relaxed);
        Ok(left)
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        for line in BufReader::new(stream).lines() {
            match self.transfer(&line?) {
                Ok(left) => writeln!(&*stream, "{left} left")?,
                Err(error) => writeln!(&*stream, "error: {error}")?,
            }
        }
        Ok(())
    }
}

fn accept(bank: &Arc<Bank>, listener: &TcpListener) -> Result<(), Box<dyn Error>> {
    let connections = Semaphore::new(4)?;
    loop {
        // First the permit: who comes beyond the limit waits in the kernel's queue. Detached from
        // this thread it may travel, and attached to the next one it is released when that ends.
        let permit = connections.acquire()?.detach();
        let (stream, _) = listener.accept()?;
        let bank = Arc::clone(bank);
        thread::spawn(move || {
            let _permit = permit.attach();
            bank.serve(&stream)
        });
    }
}

fn client(address: SocketAddr, seed: usize) -> io::Result<()> {
    let stream = TcpStream::connect(address)?;
    let mut replies = BufReader::new(&stream).lines();
    for step in seed..seed + 200 {
        let (from, to) = (step % 3, (step + 1 + seed % 2) % 3);
        writeln!(&stream, "{from} {to} {}", step % 50)?;
        replies.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let (bank, address) = (Arc::<Bank>::default(), listener.local_addr()?);
    println!("listening on {address}");
    let server = Arc::clone(&bank);
    let serving = thread::spawn(move || accept(&server, &listener).map_err(|e| e.to_string()));
    if port != 0 {
        return Ok(serving.join().map_err(|_| "the server panicked")??);
    }
    // Twice as many clients as there are permits: the others wait for their turn.
    let clients = [0, 1, 2, 3, 4, 5, 6, 7].map(|n| thread::spawn(move || client(address, n)));
    for client in clients {
        client.join().map_err(|_| "a client panicked")??;
    }
    println!("after 1600 transfers: {:?}", bank.balances);
    let [a, b, c] = bank.balances.each_ref().map(|b| b.load(Relaxed));
    assert_eq!(a + b + c, 0, "money was lost or made");
    Ok(())
}
