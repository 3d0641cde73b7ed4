//! Clients that block, push, move, give up and leave, one step after the other, on kvnode and on a
//! real redis-server: what each client receives, and in which order, is compared. Skipped without
//! redis-server.
//!
//! A step is over when nothing of it is under way any more: the client that made it has its reply
//! or is counted among the blocked, and whoever it served has been told. With Redis, whose one
//! thread writes all replies of a step before it reads on, a witness's next reply says so; kvnode
//! has to deliver just the same replies, and to count as many blocked clients.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::differential::show;
use crate::random::Random;
use crate::requests::{Request, random_blocking, request};
use crate::support::{Client, Redis, Server, encode, size};

const KEYS: [&[u8]; 4] = [b"a", b"b", b"c", b"d"];
const CLIENTS: usize = 6;
/// The steps of a round, which begins and ends with nothing stored and nobody blocked.
const ROUND: usize = 60;
/// What is to happen and does not is given up after this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// One server's clients.
struct Side<S: Read> {
    clients: Vec<Client<S>>,
    ids: Vec<String>,
    witness: Client<S>,
    connect: Box<dyn Fn() -> Client<S>>,
}

impl<S: Read + Write + AsFd> Side<S> {
    fn new(connect: Box<dyn Fn() -> Client<S>>) -> Self {
        let mut side = Self {
            clients: Vec::new(),
            ids: Vec::new(),
            witness: connect(),
            connect,
        };
        for who in 0..CLIENTS {
            side.join(who);
        }
        side
    }

    /// A client comes, in the place of another one if that has left.
    fn join(&mut self, who: usize) {
        let mut client = (self.connect)();
        // A dialect for each.
        client.ask(["HELLO 2", "HELLO 3"][who % 2]);
        let id = client.ask("CLIENT ID")[1..].trim_end().to_owned();
        if who < self.clients.len() {
            self.clients[who] = client;
            self.ids[who] = id;
        } else {
            self.clients.push(client);
            self.ids.push(id);
        }
    }

    fn send(&mut self, who: usize, requests: &[Request]) {
        let bytes: Vec<u8> = requests
            .iter()
            .flat_map(|request| encode(request))
            .collect();
        self.clients[who].send(&bytes);
    }

    /// How many clients are blocked.
    fn blocked(&mut self) -> usize {
        let info = self.witness.ask("INFO clients");
        let count = info
            .lines()
            .find_map(|line| line.strip_prefix("blocked_clients:"))
            .and_then(|count| count.parse().ok());
        count.expect("blocked_clients")
    }

    fn until_blocked(&mut self, wanted: usize) -> bool {
        let start = Instant::now();
        while self.blocked() != wanted {
            if start.elapsed() > PATIENCE {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    fn unblock(&mut self, who: usize, how: &str) -> String {
        let id = &self.ids[who];
        let reply = self.witness.ask(&format!("CLIENT UNBLOCK {id}{how}"));
        reply.trim_end().to_owned()
    }
}

struct Schedule {
    ours: Side<TcpStream>,
    theirs: Side<UnixStream>,
    random: Random,
    seed: u64,
    /// How many replies each client is still owed; those that are owed some are blocked.
    owed: [usize; CLIENTS],
    log: VecDeque<String>,
    compared: usize,
}

impl Schedule {
    fn fail(&self, why: &str) -> ! {
        let log: Vec<_> = self.log.iter().map(String::as_str).collect();
        panic!(
            "after\n{}\n{why}\nLATCHWORK_SEED={} repeats it",
            log.join("\n"),
            self.seed
        );
    }

    fn note(&mut self, who: usize, requests: &[Request]) {
        let requests: Vec<_> = requests.iter().map(show).collect();
        self.log
            .push_back(format!("{who}> {}", requests.join(" | ")));
    }

    /// A client that is not blocked; the first one never is.
    fn idle(&mut self) -> usize {
        let who = self.random.below(CLIENTS);
        if self.owed[who] == 0 { who } else { 0 }
    }

    /// A client makes requests, of which only the first may block.
    fn make(&mut self, who: usize, requests: &[Request], may_block: bool) {
        self.note(who, requests);
        let before = self.owed.iter().filter(|&&owed| owed > 0).count();
        self.theirs.send(who, requests);
        self.ours.send(who, requests);
        self.owed[who] = requests.len();
        let start = Instant::now();
        while may_block && !self.theirs.clients[who].has_reply(Duration::ZERO) {
            if self.theirs.blocked() > before {
                break;
            }
            if start.elapsed() > PATIENCE {
                self.fail("Redis neither blocks the client nor answers");
            }
        }
        if !may_block || self.theirs.clients[who].has_reply(Duration::ZERO) {
            self.compare_replies(who, requests.len());
        }
        self.settle();
    }

    /// Everybody gets what the step brought.
    fn settle(&mut self) {
        let blocked = self.theirs.blocked();
        for who in 0..CLIENTS {
            while self.owed[who] > 0 && self.theirs.clients[who].has_reply(Duration::ZERO) {
                self.compare_replies(who, 1);
            }
        }
        let waiting = self.owed.iter().filter(|&&owed| owed > 0).count();
        if waiting != blocked {
            self.fail(&format!(
                "Redis has {blocked} blocked, {waiting} are owed a reply"
            ));
        }
        if !self.ours.until_blocked(blocked) {
            let ours = self.ours.blocked();
            self.fail(&format!("Redis has {blocked} blocked, kvnode {ours}"));
        }
    }

    fn compare_replies(&mut self, who: usize, count: usize) {
        for _ in 0..count {
            let theirs = self.theirs.clients[who].reply();
            let said = format!("Redis says to {who} {}", theirs.escape_ascii());
            if !self.ours.clients[who].has_reply(PATIENCE) {
                self.fail(&format!("{said}\nkvnode says nothing"));
            }
            let ours = self.ours.clients[who].reply();
            if ours != theirs {
                self.fail(&format!("{said}\nkvnode says {}", ours.escape_ascii()));
            }
            let reply: String = theirs
                .escape_ascii()
                .to_string()
                .chars()
                .take(200)
                .collect();
            self.log.push_back(format!("  {who}< {reply}"));
            self.owed[who] -= 1;
            self.compared += 1;
        }
    }

    /// What does not wait and may serve others.
    fn change(&mut self) -> Request {
        let mut line = |lines: &[&str]| -> Request {
            let mut words = Vec::new();
            for word in lines[self.random.below(lines.len())].split(' ') {
                words.push(match word {
                    "k" => KEYS[self.random.below(KEYS.len())].to_vec(),
                    "e" => self.random.below(100).to_string().into_bytes(),
                    "l" => [b"LEFT".to_vec(), b"RIGHT".to_vec()][self.random.below(2)].clone(),
                    word => word.as_bytes().to_vec(),
                });
            }
            words
        };
        line(&[
            "RPUSH k e",
            "LPUSH k e",
            "RPUSH k e e",
            "LPUSH k e e e",
            "RPUSH k e e e e e",
            "LMOVE k k l l",
            "RPOPLPUSH k k",
            "RENAME k k",
            "RENAMENX k k",
            "SET k e",
            "DEL k",
            "DEL k k",
            "UNLINK k",
            "LPOP k",
            "RPOP k 2",
            "LPUSHX k e",
            "RPUSHX k e",
            "LRANGE k 0 -1",
            "LTRIM k 1 -1",
            "LINSERT k BEFORE e e",
            "LREM k 0 e",
            "LSET k 0 e",
            "GETDEL k",
            "SETNX k e",
            "MSET k e k e",
            "MSETNX k e k e",
            "APPEND k e",
            "LMPOP 2 k k l",
            "EXPIRE k 0",
            "EXPIRE k 1000",
            "SET k e EXAT 1",
            "PERSIST k",
            "GETSET k e",
            "GETEX k EXAT 1",
            "TYPE k",
            "FLUSHALL",
        ])
    }

    fn step(&mut self) {
        let who = self.idle();
        match self.random.below(20) {
            // Somebody blocks, and has perhaps sent more already.
            0..6 if who != 0 => {
                let mut requests = vec![random_blocking(&mut self.random, &KEYS, "0")];
                for number in 0..self.random.below(6).saturating_sub(3) {
                    requests.push(request(["PING", "ECHO after"][number % 2]));
                }
                self.make(who, &requests, true);
            }
            6 => {
                let timeout = ["0.001", "0.002", "1e-3", ".003"][self.random.below(4)];
                let request = random_blocking(&mut self.random, &KEYS, timeout);
                self.make(who, &[request], false);
            }
            7..11 => {
                let mut requests = vec![request("MULTI")];
                for _ in 0..self.random.below(6) {
                    requests.push(match self.random.below(5) {
                        0 => random_blocking(&mut self.random, &KEYS, "0"),
                        _ => self.change(),
                    });
                    // It would split the transaction, and the first part serve on its own.
                    requests.retain(|made| made != &request("FLUSHALL"));
                }
                requests.push(request("EXEC"));
                self.make(who, &requests, false);
            }
            11 => {
                let victim = self.random.below(CLIENTS);
                let how = ["", " TIMEOUT", " ERROR", " error"][self.random.below(4)];
                self.unblock(victim, how);
            }
            12 => {
                let victim = self.random.below(CLIENTS - 1) + 1;
                self.leave(victim);
            }
            _ => {
                let change = self.change();
                self.make(who, &[change], false);
            }
        }
    }

    fn unblock(&mut self, victim: usize, how: &str) {
        self.log
            .push_back(format!("CLIENT UNBLOCK the id of {victim}{how}"));
        let theirs = self.theirs.unblock(victim, how);
        let ours = self.ours.unblock(victim, how);
        self.compared += 1;
        if ours != theirs {
            self.fail(&format!("Redis says {theirs}\nkvnode says {ours}"));
        }
        self.settle();
    }

    /// A client closes its connection, and another one comes.
    fn leave(&mut self, who: usize) {
        self.log.push_back(format!("{who} leaves"));
        self.owed[who] = 0;
        let blocked = self.owed.iter().filter(|&&owed| owed > 0).count();
        self.theirs.join(who);
        self.ours.join(who);
        if !self.theirs.until_blocked(blocked) {
            self.fail("Redis does not see the client leave");
        }
        self.settle();
    }

    fn check_state(&mut self) {
        let mut requests = Vec::new();
        for key in ["a", "b", "c", "d"] {
            for line in ["TYPE k", "GET k", "LRANGE k 0 -1"] {
                requests.push(request(&line.replace('k', key)));
            }
        }
        self.make(0, &requests, false);
    }

    fn round(&mut self) {
        for step in 0..ROUND {
            self.step();
            if step % 10 == 9 {
                self.check_state();
            }
        }
        for who in 0..CLIENTS {
            if self.owed[who] > 0 {
                self.unblock(who, "");
            }
        }
        self.make(0, &[request("FLUSHALL")], false);
        self.log.clear();
    }
}

#[test]
fn random_schedules_of_blocking_clients_agree_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&["--io-threads", "2"]);
    let random = Random::new("random_schedules_of_blocking_clients_agree_with_redis");
    let (address, socket) = (server.address, redis.socket.clone());
    let mut schedule = Schedule {
        ours: Side::new(Box::new(move || Client::over_tcp(address))),
        theirs: Side::new(Box::new(move || Client::over_unix(&socket))),
        seed: random.seed(),
        random,
        owed: [0; CLIENTS],
        log: VecDeque::new(),
        compared: 0,
    };
    let start = Instant::now();
    let rounds = size(25, 600);
    for _ in 0..rounds {
        schedule.random = Random::seeded(schedule.seed);
        schedule.round();
        schedule.seed = schedule.seed.wrapping_add(1);
    }
    println!(
        "{} replies in {} steps compared in {:?}",
        schedule.compared,
        rounds * ROUND,
        start.elapsed()
    );
}
