//! Clients that write as fast as they are answered, until the server is gone.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

use super::client::{Client, Reply, command};
use super::model::Model;
use crate::page::Page;

pub(super) const CLIENTS: usize = 6;

/// What the processes of a scenario tell each other.
#[derive(Debug)]
pub(super) struct Board(Page);

impl Board {
    pub(super) const CELLS: usize = 3 * CLIENTS + 2;

    pub(super) fn new(page: Page) -> Board {
        Board(page)
    }

    /// How many of a client's commands have been answered.
    pub(super) fn answered(&self, client: usize) -> &AtomicU64 {
        self.0.cell(client)
    }

    /// How many of them may have reached the server.
    pub(super) fn requested(&self, client: usize) -> &AtomicU64 {
        self.0.cell(CLIENTS + client)
    }

    /// How many of them had been answered when a SAVE was sent that has been answered since.
    pub(super) fn saved(&self, client: usize) -> &AtomicU64 {
        self.0.cell(2 * CLIENTS + 2 + client)
    }

    fn all_answered(&self) -> [u64; CLIENTS] {
        std::array::from_fn(|client| self.answered(client).load(SeqCst))
    }

    /// What the server owes each client.
    pub(super) fn owed(&self) -> [Owed; CLIENTS] {
        std::array::from_fn(|client| Owed {
            answered: self.answered(client).load(SeqCst),
            saved: self.saved(client).load(SeqCst),
        })
    }

    pub(super) fn set_owed(&self, owed: [Owed; CLIENTS]) {
        for (client, owed) in owed.into_iter().enumerate() {
            self.answered(client).store(owed.answered, SeqCst);
            self.saved(client).store(owed.saved, SeqCst);
        }
    }

    /// Whether the server may be gone, or say that it cannot write.
    pub(super) fn is_over(&self) -> &AtomicU64 {
        self.0.cell(2 * CLIENTS)
    }

    /// How often a SAVE or BGSAVE was answered.
    pub(super) fn saves(&self) -> &AtomicU64 {
        self.0.cell(2 * CLIENTS + 1)
    }
}

/// How many of a client's commands must be there, with `--fsync always` and without.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) answered: u64,
    pub(super) saved: u64,
}

/// The exit code of a process that plays all clients, which go on from `models`.
pub(super) fn run(board: &Board, address: SocketAddr, models: &[Model], seed: u64) -> i32 {
    let end = |result: Result<Infallible>| {
        let Err(error) = result;
        if board.is_over().load(SeqCst) == 0 {
            println!("  a client: {error:#}");
            std::process::exit(1);
        }
    };
    thread::scope(|scope| {
        for (client, model) in models.iter().enumerate() {
            let model = model.clone();
            scope.spawn(move || end(write(board, address, client, model, seed)));
        }
        scope.spawn(|| end(save(board, address, seed)));
    });
    0
}

fn write(
    board: &Board,
    address: SocketAddr,
    client: usize,
    mut model: Model,
    seed: u64,
) -> Result<Infallible> {
    let mut random = fastrand::Rng::with_seed(seed + client as u64);
    let mut connection = Client::connect(address)?;
    let window = random.usize(1..12);
    let mut waiting = VecDeque::new();
    loop {
        while waiting.len() < window {
            let commands = model.advance();
            board.requested(client).store(model.done, SeqCst);
            connection.send(&commands)?;
            waiting.push_back(commands.len());
        }
        let replies = waiting.pop_front().unwrap_or_default();
        for _ in 0..replies {
            match connection.reply()? {
                Reply::Error(error) => bail!("{error}"),
                Reply::Array(None) => bail!("a transaction was not executed"),
                _ => {}
            }
        }
        board.answered(client).fetch_add(1, SeqCst);
    }
}

/// Has what is new written to segments, now and then.
fn save(board: &Board, address: SocketAddr, seed: u64) -> Result<Infallible> {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let mut connection = Client::connect(address)?;
    loop {
        thread::sleep(Duration::from_micros(random.u64(..60_000)));
        let word = if random.bool() { "SAVE" } else { "BGSAVE" };
        let before = board.all_answered();
        connection.send(&[command![word]])?;
        match connection.reply()? {
            // Another one is going on.
            Reply::Error(error) if error.contains("in progress") => {}
            Reply::Error(error) => bail!("{word}: {error}"),
            _ => {
                board.saves().fetch_add(1, SeqCst);
                if word == "SAVE" {
                    for (client, before) in before.into_iter().enumerate() {
                        board.saved(client).store(before, SeqCst);
                    }
                }
            }
        }
    }
}
