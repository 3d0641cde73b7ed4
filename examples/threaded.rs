//! Read this one first: a thread-per-connection server that cannot leak what it hands out.
//!
//! A [`Semaphore`] says how many connections are served at a time. A [`LatchTable`] says who may work on an account: a
//! transfer holds both accounts' latches while it reads, computes and writes, so no money is lost or made, whatever the
//! threads do. Both are guards; a client that vanishes, an error return or a panic gives them back.
//!
//! ```text
//! cargo run --example threaded            # serves itself a few clients and checks the books
//! cargo run --example threaded -- 7000    # serves you: nc 127.0.0.1 7000, then e.g. "transfer ada bob 30" or "sum"
//! ```

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use latchwork::{LatchTable, Semaphore};

const ACCOUNTS: [&str; 4] = ["ada", "bob", "cat", "dan"];
const EACH: i64 = 1000;

struct Bank {
    /// The mutex covers one look-up or store at a time. What makes a transfer whole is its latches: other accounts go on.
    balances: Mutex<HashMap<String, i64>>,
    accounts: LatchTable<str>,
    connections: Semaphore,
}

impl Bank {
    fn balance(&self, account: &str) -> Option<i64> {
        self.balances.lock().unwrap().get(account).copied()
    }

    fn set(&self, account: &str, balance: i64) {
        self.balances.lock().unwrap().insert(account.to_owned(), balance);
    }

    /// One request line in, one reply line out.
    fn answer(&self, line: &str) -> Result<String, Box<dyn std::error::Error>> {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["transfer", from, to, amount] if from != to => {
                let amount: i64 = amount.parse()?;
                // Both at once and in the table's own order, so that two opposite transfers cannot wait for each other.
                let _both = self.accounts.latch_many([from, to])?;
                let (Some(a), Some(b)) = (self.balance(from), self.balance(to)) else { return Err("no such account".into()) };
                if !(0..=a).contains(&amount) {
                    return Err("not enough money".into());
                }
                self.set(from, a - amount);
                std::thread::yield_now(); // Whoever looked now without the latch would see money missing.
                self.set(to, b + amount);
                Ok(format!("ok {}", a - amount))
            }
            ["sum"] => {
                let _all = self.accounts.latch_many(ACCOUNTS)?;
                Ok(ACCOUNTS.iter().filter_map(|account| self.balance(account)).sum::<i64>().to_string())
            }
            _ => Err("say: transfer <from> <to> <amount>, or: sum".into()),
        }
        // The latches are released here, on every way out.
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        let mut replies = stream.try_clone()?;
        for line in BufReader::new(stream).lines() {
            let reply = self.answer(&line?).unwrap_or_else(|error| format!("error: {error}"));
            replies.write_all(format!("{reply}\n").as_bytes())?;
        }
        Ok(())
    }
}

fn accept(bank: &Arc<Bank>, listener: &TcpListener) -> Result<(), Box<dyn std::error::Error>> {
    loop {
        // First the permit, then the connection: whoever comes beyond the limit waits in the kernel's queue. The permit
        // is detached from this thread and travels with the connection.
        let permit = bank.connections.acquire()?.detach();
        let (stream, _) = listener.accept()?;
        let bank = Arc::clone(bank);
        std::thread::spawn(move || {
            let _permit = permit.attach(); // This thread's now, and back with the semaphore when it ends.
            bank.serve(stream)
        });
    }
}

/// Moves money around at random, over the network.
fn client(address: std::net::SocketAddr, seed: usize) -> io::Result<()> {
    let stream = TcpStream::connect(address)?;
    let mut replies = BufReader::new(stream.try_clone()?).lines();
    for step in 0..200 {
        let (from, to) = (ACCOUNTS[(seed + step) % 4], ACCOUNTS[(seed * 3 + step * 7 + 1) % 4]);
        writeln!(&stream, "transfer {from} {to} {}", step % 50)?;
        replies.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port = std::env::args().nth(1).map_or(Ok(0), |port| port.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let address = listener.local_addr()?;
    let bank = Arc::new(Bank {
        balances: Mutex::new(ACCOUNTS.map(|account| (account.to_owned(), EACH)).into()),
        accounts: LatchTable::new(),
        connections: Semaphore::new(4)?,
    });
    println!("serving {} accounts on {address}, {} connections at a time", ACCOUNTS.len(), bank.connections.max());
    if port != 0 {
        return accept(&bank, &listener);
    }
    let server = Arc::clone(&bank);
    std::thread::spawn(move || accept(&server, &listener).map_err(|error| error.to_string()));
    // More clients than connections: the last ones wait for their turn.
    let clients: Vec<_> = (0..8).map(|seed| std::thread::spawn(move || client(address, seed))).collect();
    for client in clients {
        client.join().expect("a client panicked")?;
    }
    let sum = bank.answer("sum")?;
    println!("1600 transfers later the sum is {sum}, and it was {}", EACH * 4);
    assert_eq!(sum, (EACH * 4).to_string());
    Ok(())
}
