//! Random requests to kvnode and to a real redis-server, a million with `LATCHWORK_STORM=full`: the
//! replies compared one by one, the whole state after every batch. Skipped without redis-server.
//!
//! A run is made of rounds, each on an empty keyspace and with a seed of its own: a failure names
//! the seed with which its round comes first, and the last requests.
//!
//! What must differ, and is therefore not asked, or not compared:
//!
//! | deviation | here |
//! |---|---|
//! | `RANDOMKEY`, and how far one `SCAN` comes, are each server's own affair | `RANDOMKEY` is not asked; a scan is compared as the set that all its steps return |
//! | `KEYS` and `SCAN` return keys in another order | compared as sets |
//! | an expired key counts in `DBSIZE` until somebody comes across it: with Redis anybody, with kvnode a writer | each key is written to before `DBSIZE` |
//! | a watched key that was missing, came and went has not changed for kvnode, has for Redis | at most one change between `WATCH` and `EXEC` |
//! | `APPEND` of nothing to a watched key has not changed it for kvnode, has for Redis | no such change between `WATCH` and `EXEC` |
//! | a command about all keys splits a transaction | nobody else writes meanwhile |
//! | `LPOS … RANK -9223372036854775808` is refused, as in 7.2 | not asked |
//! | time-outs in hexadecimal are refused | not asked |
//! | two clocks | remaining times agree within ten seconds |

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::random::Random;
use crate::redis::agree;
use crate::requests::{KEYS, Request, random_request, random_transaction, request, state};
use crate::support::{Client, Redis, Server, encode, size};

/// How many requests a round has, more or less.
const ROUND: u64 = 2_000;

/// A request as text.
pub(crate) fn show(request: &Request) -> String {
    let words = request.iter().map(|word| word.escape_ascii().to_string());
    words.collect::<Vec<_>>().join(" ")
}

/// One client of each server.
struct Pair {
    ours: Client<TcpStream>,
    theirs: Client<UnixStream>,
    /// What is queued since `MULTI`.
    queued: Vec<Request>,
}

struct Campaign {
    server: Server,
    redis: Redis,
    clients: Vec<Pair>,
    random: Random,
    seed: u64,
    /// All of the round.
    log: Vec<(usize, Request)>,
    compared: u64,
}

impl Campaign {
    fn connect(&mut self) {
        self.clients.push(Pair {
            ours: self.server.connect(),
            theirs: self.redis.connect(),
            queued: Vec::new(),
        });
    }

    /// Asks both servers the same in one go.
    fn ask(&mut self, client: usize, requests: &[Request]) {
        let bytes: Vec<u8> = requests
            .iter()
            .flat_map(|request| encode(request))
            .collect();
        let start = self.log.len();
        self.log
            .extend(requests.iter().map(|request| (client, request.clone())));
        let pair = &mut self.clients[client];
        pair.theirs.send(&bytes);
        pair.ours.send(&bytes);
        for (number, request) in requests.iter().enumerate() {
            let pair = &mut self.clients[client];
            let (ours, theirs) = (pair.ours.reply(), pair.theirs.reply());
            self.compared += 1;
            if !pair.agree(request, &ours, &theirs) {
                self.log.truncate(start + number + 1);
                self.fail(&format!(
                    "Redis says {}\nkvnode says {}",
                    theirs.escape_ascii(),
                    ours.escape_ascii()
                ));
            }
        }
    }

    fn fail(&self, why: &str) -> ! {
        let recent: Vec<_> = self.log[self.log.len().saturating_sub(60)..]
            .iter()
            .map(|(client, request)| format!("{client}> {}", show(request)))
            .collect();
        panic!(
            "after\n{}\n{why}\nLATCHWORK_SEED={} repeats it",
            recent.join("\n"),
            self.seed
        );
    }

    fn check_state(&mut self) {
        self.ask(0, &state());
    }

    fn round(&mut self) {
        let end = self.compared + ROUND;
        let dialect = request(["HELLO 2", "HELLO 3"][self.random.below(2)]);
        self.ask(0, &[request("FLUSHALL"), dialect]);
        while self.compared < end {
            let mut requests = Vec::new();
            for _ in 0..self.random.below(300) + 1 {
                match self.random.below(60) {
                    0 => requests.extend(random_transaction(&mut self.random)),
                    _ => requests.push(random_request(&mut self.random)),
                }
            }
            self.ask(0, &requests);
            self.check_state();
            match self.random.below(8) {
                0 => self.expire(),
                1..4 => (0..4).for_each(|_| self.watch()),
                4 => self.scan(),
                _ => {}
            }
        }
        self.log.clear();
    }

    /// A transaction on watched keys, with or without a change by somebody in between.
    fn watch(&mut self) {
        let watch = ["WATCH a", "WATCH a b", "WATCH key c a"][self.random.below(3)];
        self.ask(0, &[request(watch)]);
        let change = loop {
            let change = random_request(&mut self.random);
            if !is_a_change_to_one_server_only(&change) {
                break change;
            }
        };
        match self.random.below(4) {
            0 => {}
            1 => self.ask(0, &[change]),
            _ => self.ask(1, &[change]),
        }
        let transaction = random_transaction(&mut self.random);
        self.ask(0, &transaction);
        self.check_state();
    }

    /// Keys with near deadlines, and all kinds of requests when these have passed.
    fn expire(&mut self) {
        // Watched keys may pass away as well, but not before both servers watch them: one that has
        // passed away by then does not change any more.
        let watches = self.random.below(3) == 0;
        let soonest = Duration::from_millis(if watches { 300 } else { 1 });
        let mut requests = Vec::new();
        for key in KEYS {
            let key = key.to_vec();
            let millis = soonest.as_millis() + self.random.below(15) as u128;
            let millis = millis.to_string().into_bytes();
            let how: &[&[u8]] = match self.random.below(6) {
                0 => &[b"SET", b"", b"5", b"PX"],
                1 => &[b"GETEX", b"", b"PX"],
                2..5 => &[b"PEXPIRE", b""],
                _ => continue,
            };
            let mut request: Request = how.iter().map(|word| word.to_vec()).collect();
            request[1] = key;
            request.push(millis);
            requests.push(request);
        }
        if watches {
            requests.push(request("WATCH a b key"));
        }
        let start = Instant::now();
        self.ask(0, &requests);
        let is_in_time = start.elapsed() < soonest;
        // Not to win a race, but for the time to pass that this is about.
        std::thread::sleep(soonest + Duration::from_millis(25));
        if watches && !is_in_time {
            self.ask(0, &[request("UNWATCH")]);
        } else if watches {
            let transaction = random_transaction(&mut self.random);
            self.ask(0, &transaction);
        }
        let requests: Vec<_> = (0..60).map(|_| random_request(&mut self.random)).collect();
        self.ask(0, &requests);
        self.check_state();
    }

    /// Many keys, looked through from the first to the last.
    fn scan(&mut self) {
        let mut requests = Vec::new();
        let count = self.random.below(400);
        for number in 0..count {
            requests.push(request(&match self.random.below(3) {
                0 => format!("SET x:{number} {number}"),
                1 => format!("SET y:{number} {number} EX 1000"),
                _ => format!("RPUSH x:{number} {number}"),
            }));
        }
        self.ask(0, &requests);
        self.check_state();
        let mut how = String::new();
        if self.random.below(2) == 0 {
            how += &format!(" COUNT {}", self.random.below(100) + 1);
        }
        if self.random.below(2) == 0 {
            how += [" MATCH x*", " match *1*", " MATCH [^x]:?", " MATCH ?"][self.random.below(4)];
        }
        if self.random.below(2) == 0 {
            how += [" TYPE list", " type STRING", " TYPE zset"][self.random.below(3)];
        }
        self.log.push((0, request(&format!("SCAN{how}"))));
        let pair = &mut self.clients[0];
        let (ours, our_steps) = scan_all(&mut pair.ours, &how);
        let (theirs, their_steps) = scan_all(&mut pair.theirs, &how);
        self.compared += our_steps.min(their_steps);
        if ours != theirs {
            self.fail(&format!("Redis's scan {theirs:?}\nkvnode's {ours:?}"));
        }
        let requests: Vec<_> = (0..count)
            .map(|number| request(&format!("UNLINK x:{number} y:{number}")))
            .collect();
        self.ask(0, &requests);
    }
}

/// A key that comes and goes at once, or an `APPEND` of nothing.
fn is_a_change_to_one_server_only(request: &Request) -> bool {
    let has = |option: &[u8]| request.iter().any(|word| word.eq_ignore_ascii_case(option));
    has(b"EXAT") || has(b"PXAT") || request[0].eq_ignore_ascii_case(b"APPEND") && has(b"")
}

impl Pair {
    fn agree(&mut self, request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
        let name = request[0].to_ascii_lowercase();
        if theirs == b"+QUEUED\r\n" {
            self.queued.push(request.clone());
        } else if name == b"multi" && theirs.starts_with(b"+") || name == b"discard" {
            self.queued.clear();
        } else if name == b"exec" {
            // Each reply according to what was asked.
            let queued = std::mem::take(&mut self.queued);
            let (ours, theirs) = (elements(ours), elements(theirs));
            if !queued.is_empty() && ours.len() == queued.len() && theirs.len() == queued.len() {
                let mut replies = ours.into_iter().zip(theirs);
                return queued.iter().all(|request| {
                    replies
                        .next()
                        .is_some_and(|(ours, theirs)| agree(request, ours, theirs))
                });
            }
            return ours == theirs;
        }
        agree(request, ours, theirs)
    }
}

/// What an array consists of; anything else is its own and only element.
fn elements(reply: &[u8]) -> Vec<&[u8]> {
    let (line, rest) = line(reply);
    let Some(count) = line
        .strip_prefix(b"*")
        .and_then(number)
        .filter(|&count| count > 0)
    else {
        return vec![reply];
    };
    let mut rest = rest;
    (0..count)
        .map(|_| {
            let len = element_len(rest);
            let (element, after) = rest.split_at(len);
            rest = after;
            element
        })
        .collect()
}

/// How long the reply is that comes first.
fn element_len(reply: &[u8]) -> usize {
    let (line, rest) = line(reply);
    let head = line.len() + 2;
    let count = number(&line[1..]).unwrap_or(-1);
    match line[0] {
        b'$' | b'=' if count >= 0 => head + count as usize + 2,
        b'*' | b'~' | b'>' | b'%' => {
            let count = if line[0] == b'%' { 2 * count } else { count };
            let mut len = 0;
            for _ in 0..count {
                len += element_len(&rest[len..]);
            }
            head + len
        }
        _ => head,
    }
}

fn line(reply: &[u8]) -> (&[u8], &[u8]) {
    let end = reply
        .windows(2)
        .position(|pair| pair == b"\r\n")
        .expect("a line");
    (&reply[..end], &reply[end + 2..])
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The keys that a whole scan returns, and how many steps it took.
fn scan_all<S: Read + Write>(client: &mut Client<S>, how: &str) -> (Vec<String>, u64) {
    let (mut keys, mut steps) = (Vec::new(), 0);
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.call(&request(&format!("SCAN {cursor}{how}")));
        let parts = elements(&reply);
        let [next, found] = parts[..] else {
            panic!("a scan's reply is {}", reply.escape_ascii());
        };
        if !found.starts_with(b"*0") {
            keys.extend(
                elements(found)
                    .iter()
                    .map(|key| key.escape_ascii().to_string()),
            );
        }
        steps += 1;
        cursor = String::from_utf8_lossy(line(line(next).1).0).into_owned();
        if cursor == "0" {
            keys.sort_unstable();
            keys.dedup();
            return (keys, steps);
        }
    }
}

#[test]
fn a_million_random_requests_agree_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let random = Random::new("a_million_random_requests_agree_with_redis");
    let mut campaign = Campaign {
        server: Server::start(&[]),
        redis,
        clients: Vec::new(),
        seed: random.seed(),
        random,
        log: Vec::new(),
        compared: 0,
    };
    campaign.connect();
    campaign.connect();
    let wanted = size(50_000, 1_000_000) as u64;
    let start = Instant::now();
    while campaign.compared < wanted {
        campaign.random = Random::seeded(campaign.seed);
        campaign.round();
        campaign.seed = campaign.seed.wrapping_add(1);
    }
    println!(
        "{} requests compared in {:?}",
        campaign.compared,
        start.elapsed()
    );
}

/// Deadlines that pass while both servers are asked: each may see it at another moment, but what is
/// missing once stays so, no time remains that has passed, and in the end all is gone.
#[test]
fn a_key_that_expires_while_it_is_asked_for_goes_once() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&[]);
    let mut random = Random::new("a_key_that_expires_while_it_is_asked_for_goes_once");
    for _ in 0..size(10, 200) {
        let deadline = random.below(4) + 1;
        let asked: Vec<usize> = (0..1_000).map(|_| random.below(6)).collect();
        goes_once(server.connect(), deadline, &asked);
        goes_once(redis.connect(), deadline, &asked);
    }
}

fn goes_once<S: Read + Write>(mut client: Client<S>, deadline: usize, asked: &[usize]) {
    let lines = [
        "GET s",
        "PTTL s",
        "EXISTS s",
        "LLEN l",
        "TYPE l",
        "LRANGE l 0 -1",
    ];
    for line in ["FLUSHALL", "SET s v", "RPUSH l a b"] {
        client.ask(line);
    }
    let expiring = format!("PEXPIRE l {deadline}");
    client.send(&encode(&request(&format!("PEXPIRE s {deadline}"))));
    client.send(&encode(&request(&expiring)));
    for &line in asked {
        client.send(&encode(&request(lines[line])));
    }
    assert_eq!(
        (client.reply(), client.reply()),
        (b":1\r\n".to_vec(), b":1\r\n".to_vec())
    );
    let (mut gone, mut left) = ([false; 2], deadline as i64);
    for &line in asked {
        let reply = client.reply();
        let missing: &[&[u8]] = &[b"$-1\r\n", b":-2\r\n", b":0\r\n", b"+none\r\n", b"*0\r\n"];
        let gone = &mut gone[usize::from(line > 2)];
        let is_missing = missing.contains(&&reply[..]) && !(line == 1 && reply == b":0\r\n");
        assert!(is_missing || !*gone, "{} came back", lines[line]);
        *gone = is_missing;
        if line == 1 && !is_missing {
            let now = number(&reply[1..reply.len() - 2]).expect("a number");
            assert!((0..=left).contains(&now), "{now} ms after {left}");
            left = now;
        }
    }
    // Not to win a race, but for the time to pass that this is about.
    std::thread::sleep(Duration::from_millis(deadline as u64 + 1));
    assert_eq!(client.ask("EXISTS s l"), ":0\r\n");
}
