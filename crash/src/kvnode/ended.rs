//! The server is killed, or the power is cut, under load, time and again.
//!
//! After each start, what each client finds must be what some beginning of its commands leads to;
//! with `--fsync always` one that holds all that was answered, otherwise all that had been answered
//! before a SAVE that was. Transfers between accounts, each a
//! transaction, must leave the sum as it was. Some ends come while the server loads; in some rounds
//! redis-benchmark adds to the load.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::client::{Client, command};
use super::load::{self, Board, CLIENTS};
use super::model::{Model, check_accounts};
use super::server::{self, Fsync, Server};
use crate::child::Child;
use crate::cuts;
use crate::disk::Disk;
use crate::scene::Scene;

/// Large enough for the log and the segments of all rounds.
const DISK: u64 = 2 << 30;

pub(super) fn kill(scene: &mut Scene) -> Result<()> {
    let mut storm = Storm::new(scene, None, "kill")?;
    let result = storm.run(scene, scene.choose(20, 500));
    scene.report("kill", storm.figures("kills"), result);
    Ok(())
}

pub(super) fn power_cut(scene: &mut Scene) -> Result<()> {
    cuts::on_each(scene, "power-cut", |scene, kind| {
        let disk = Disk::make_of(kind, scene.path(&format!("{kind}")), DISK)?;
        let mut storm = Storm::new(scene, Some(disk), &format!("{kind}-cut"))?;
        let result = storm.run(scene, scene.choose(20, 500));
        Ok((storm.figures("cuts"), result))
    })
}

/// Where nothing is synced in time, answered commands must be found lost.
pub(super) fn controls(scene: &mut Scene) -> Result<()> {
    let left_out = "nothing was synced in time";
    cuts::must_fail_on_each(scene, "power-cut-controls", left_out, |scene, kind| {
        let disk = Disk::make_of(kind, scene.path(&format!("{kind}-control")), DISK)?;
        let mut storm = Storm::new(scene, Some(disk), &format!("{kind}-control-cut"))?;
        storm.is_control = true;
        let result = storm.run(scene, 40);
        Ok((storm.figures("cuts"), result))
    })
}

struct Storm {
    binary: PathBuf,
    data: PathBuf,
    errors: PathBuf,
    /// Whose power is cut; without one, the server is killed.
    disk: Option<Disk>,
    board: Board,
    models: Vec<Model>,
    ends: u64,
    checks: u64,
    /// Syncs nothing, and is held to what it answered.
    is_control: bool,
    /// Ends before it served.
    early: u64,
    answered: u64,
    started: Instant,
}

impl Storm {
    fn new(scene: &Scene, disk: Option<Disk>, name: &str) -> Result<Storm> {
        let data = match &disk {
            Some(disk) => disk.path().join("data"),
            None => scene.path("data"),
        };
        Ok(Storm {
            binary: server::binary()?,
            data,
            errors: scene.path(&format!("{name}-errors")),
            disk,
            board: Board::new(scene.page(name, Board::CELLS)?),
            models: (0..CLIENTS as u64).map(Model::new).collect(),
            ends: 0,
            checks: 0,
            is_control: false,
            early: 0,
            answered: 0,
            started: Instant::now(),
        })
    }

    fn figures(&self, ends: &str) -> String {
        format!(
            "{ends}={} while-loading={} answered={} saves={} checks={} seconds={:.1}",
            self.ends,
            self.early,
            self.answered,
            self.board.saves().load(SeqCst),
            self.checks,
            self.started.elapsed().as_secs_f64()
        )
    }

    fn run(&mut self, scene: &mut Scene, ends: u64) -> Result<()> {
        // What was promised before the last end: of commands that were answered under `everysec` a
        // crash may lose some.
        let mut held = Fsync::Always;
        for _ in 0..ends {
            let fsync = match scene.random.u8(..5) {
                _ if self.is_control => Fsync::No,
                0 => Fsync::EverySecond,
                1 => Fsync::No,
                _ => Fsync::Always,
            };
            let ended = self.end(scene, fsync, held);
            if ended.with_context(|| format!("round {}", self.ends))? {
                held = match self.is_control {
                    true => Fsync::Always,
                    false => fsync,
                };
            }
            self.ends += 1;
            scene.beat();
        }
        let mut server = self.start(Fsync::Always)?;
        let mut client = Client::connect(server.address()?)?;
        self.check(&mut client, held)?;
        server.kill()?;
        ensure!(self.answered > ends, "hardly anything was answered");
        Ok(())
    }

    fn start(&self, fsync: Fsync) -> Result<Server> {
        Server::start(&self.binary, &self.data, fsync, &self.errors)
    }

    /// Starts the server, checks what it has, and ends it under load. Whether it came to serve.
    fn end(&mut self, scene: &mut Scene, fsync: Fsync, held: Fsync) -> Result<bool> {
        let random = &mut scene.random;
        let mut server = self.start(fsync)?;
        if random.u8(..6) == 0 {
            thread::sleep(Duration::from_micros(random.u64(..20_000)));
            self.early += 1;
            self.stop(server, |_| {})?;
            return Ok(false);
        }
        let address = server.address()?;
        let mut client = Client::connect(address)?;
        self.check(&mut client, held)?;
        if random.u8(..12) == 0 {
            client.ask(&[command!["FLUSHALL"]])?;
            self.models.iter_mut().for_each(Model::clear);
            // Under `everysec` it may be undone; the next round is not to guess.
            if fsync != Fsync::Always {
                client.ask(&[command!["SAVE"]])?;
            }
        }
        drop(client);
        let (seed, life) = (random.u64(..u64::MAX / 2), random.u64(5_000..120_000));
        let benchmark = (random.u8(..4) == 0).then(|| Benchmark::start(address.port()));
        self.board.is_over().store(0, SeqCst);
        let board = &self.board;
        let load = Child::fork(|| load::run(board, address, &self.models, seed))?;
        thread::sleep(Duration::from_micros(life));
        let before = self.board.owed();
        self.stop(server, |board| {
            // What is answered while the power is being cut does not count: after a real cut nobody
            // would be there to hear it.
            board.is_over().store(1, SeqCst);
        })?;
        drop(benchmark);
        load.finish().context("the clients")?;
        if self.disk.is_some() {
            self.board.set_owed(before);
        }
        Ok(true)
    }

    /// Kills the server, or cuts its power.
    fn stop(&mut self, server: Server, first: impl FnOnce(&Board)) -> Result<()> {
        first(&self.board);
        let Some(disk) = &mut self.disk else {
            return server.kill();
        };
        disk.cut()?;
        // It may have ended by itself: it cannot write any more.
        server.end();
        disk.restart()
    }

    /// What each client must find is there, and now its model says what that is.
    fn check(&mut self, client: &mut Client, held: Fsync) -> Result<()> {
        check_accounts(client)?;
        let all_owed = self.board.owed();
        for ((number, model), owed) in self.models.iter_mut().enumerate().zip(all_owed) {
            let requested = self.board.requested(number).load(SeqCst);
            self.answered += owed.answered.saturating_sub(model.done);
            let found = model.fetch(client)?;
            let least = match held {
                Fsync::Always => owed.answered,
                Fsync::EverySecond | Fsync::No => owed.saved,
            };
            while model.done < least {
                model.advance();
            }
            model.catch_up(&found, requested)?;
            self.board.answered(number).store(model.done, SeqCst);
            self.board.saved(number).store(model.done, SeqCst);
            self.board.requested(number).store(model.done, SeqCst);
        }
        self.checks += 1;
        Ok(())
    }
}

/// redis-benchmark, if there is one; dropped, it is killed.
struct Benchmark(Option<std::process::Child>);

impl Benchmark {
    fn start(port: u16) -> Benchmark {
        let started = Command::new("redis-benchmark")
            .args(["-p", &port.to_string(), "-t", "set,incr,lpush,lpop,mset"])
            .args(["-n", "1000000", "-r", "2000", "-P", "4", "-c", "8", "-q"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Benchmark(started.ok())
    }
}

impl Drop for Benchmark {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
