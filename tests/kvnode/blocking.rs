//! Clients that wait for a list to get an element: what they get and when, and what they may not
//! hold up.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::random::Random;
use crate::redis::compare;
use crate::requests::request;
use crate::support::{Client, Redis, Server, encode};

/// Waits until so many clients are blocked.
fn until_blocked<S: Read + Write>(witness: &mut Client<S>, wanted: usize) {
    let wanted = format!("blocked_clients:{wanted}\r\n");
    while !witness.ask("INFO clients").contains(&wanted) {
        std::thread::yield_now();
    }
}

fn send<S: Read + Write>(client: &mut Client<S>, line: &str) {
    client.send(&encode(&request(line)));
}

#[test]
fn the_corners_of_blocking_commands_agree_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&[]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let lines = "\
BLPOP|BLPOP q|BLPOP q x|BLPOP q -1|BLPOP q -0.1|BLPOP q inf|BLPOP q 1e400|BLPOP q nan|BLPOP q |BLPOP q 9223372036854775807|\
BLPOP q 0.01|BRPOP q r 0.001|BLPOP q 1e-3|BLPOP q .01|BLPOP q +0.01|BLPOP q  0.01|SET s v|BLPOP s 0|BLPOP q s 0|BLPOP s q 0|\
RPUSH q a b c d|BLPOP q 0|BRPOP q 0|BLPOP none q 0|BLPOP q s 0|EXISTS q|BLPOP q x y|BLMOVE q r LEFT LEFT|BLMOVE q r x LEFT 0|\
BLMOVE q r LEFT x 0|BLMOVE q r LEFT LEFT x|BLMOVE q r x LEFT x|BLMOVE q r LEFT LEFT -1|BLMOVE q r LEFT LEFT 0.01|\
BRPOPLPUSH q r 0.01|BRPOPLPUSH q r x|BRPOPLPUSH q r|BRPOPLPUSH s r 0|RPUSH q a b c|BLMOVE q r LEFT RIGHT 0|BRPOPLPUSH q r 0|\
BRPOPLPUSH q s 0|BLMOVE q q LEFT RIGHT 0|LRANGE r 0 -1|BLMPOP|BLMPOP 0 1 q|BLMPOP x 1 q LEFT|BLMPOP -1 1 q LEFT|BLMPOP 0 0 q LEFT|\
BLMPOP 0 x q LEFT|BLMPOP x x q LEFT|BLMPOP x 1 q FOO|BLMPOP 0 2 q LEFT|BLMPOP 0 1 q LEFT COUNT 0|BLMPOP 0.01 1 none LEFT|\
BLMPOP 0 2 none r LEFT COUNT 9|BLMPOP 0 1 q RIGHT|BLMPOP 0 1 s LEFT|BLMPOP 0.01 1 none LEFT COUNT 2|\
MULTI|BLPOP none 0|BRPOP none 1|BLMOVE none r LEFT LEFT 0|BRPOPLPUSH none r 0|BLMPOP 0 1 none LEFT|RPUSH q x y|BLPOP q 0|\
BLMPOP 0 1 q LEFT|BLPOP s 0|BLPOP q x|EXEC|MULTI|BLPOP q|EXEC|\
CLIENT UNBLOCK|CLIENT UNBLOCK x|CLIENT UNBLOCK 999|CLIENT UNBLOCK 999 FOO|CLIENT UNBLOCK 999 error|CLIENT UNBLOCK 999 TIMEOUT|\
CLIENT UNBLOCK -1|CLIENT UNBLOCK x FOO|CLIENT UNBLOCK 999 error x|COMMAND GETKEYS blpop a b 0|COMMAND GETKEYS blmpop 0 2 a b LEFT|\
COMMAND GETKEYS blmove a b LEFT LEFT 0|FLUSHALL";
    for dialect in ["HELLO 2", "HELLO 3"] {
        compare(&mut ours, &mut theirs, &[request(dialect)]);
        for line in lines.split('|') {
            compare(&mut ours, &mut theirs, &[request(line)]);
        }
    }
}

/// Runs the same scenario on both servers, and compares all replies: `steps` are a client's number
/// and its request, `?` to read a reply, `!` to wait until so many are blocked.
fn scenarios<S: Read + Write>(mut connect: impl FnMut() -> Client<S>, steps: &str) -> Vec<String> {
    let mut witness = connect();
    witness.ask("FLUSHALL");
    let mut clients: Vec<_> = (0..4).map(|_| connect()).collect();
    let mut replies = Vec::new();
    for step in steps.split('|') {
        let (who, what) = step.split_once(' ').expect("who and what");
        match (who, what) {
            ("!", count) => until_blocked(&mut witness, count.parse().expect("a number")),
            (who, "?") => {
                let reply = clients[who.parse::<usize>().expect("a number")].reply();
                // A greeting names the connection.
                if !reply.starts_with(b"%") {
                    replies.push(format!("{who}: {}", reply.escape_ascii()));
                }
            }
            (who, line) => send(&mut clients[who.parse::<usize>().expect("a number")], line),
        }
    }
    replies
}

#[test]
fn waiters_are_served_as_by_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&["--io-threads", "2"]);
    for steps in [
        // First come, first served, and one element each.
        "0 BLPOP q 0|! 1|1 BLPOP q 0|! 2|2 BRPOP q 0|! 3|3 RPUSH q a b c d|3 ?|0 ?|1 ?|2 ?|3 LRANGE q 0 -1|3 ?",
        "0 BLPOP q 0|! 1|3 LPUSH q a b c|3 ?|0 ?|3 LRANGE q 0 -1|3 ?",
        // One waiter on several keys, in the order of the keys.
        "0 BLPOP q r s 0|! 1|3 RPUSH s x|3 ?|0 ?|3 EXISTS q r s|3 ?",
        "0 BLPOP q r 0|! 1|3 MULTI|3 ?|3 RPUSH r x|3 ?|3 RPUSH q y|3 ?|3 EXEC|3 ?|0 ?|3 EXISTS q|3 ?|3 EXISTS r|3 ?",
        "0 BLPOP q r 0|! 1|3 MULTI|3 ?|3 DEL q|3 ?|3 RPUSH r x|3 ?|3 RPUSH q y|3 ?|3 EXEC|3 ?|0 ?|3 EXISTS q|3 ?|3 EXISTS r|3 ?",
        // A list that comes and goes within a transaction serves nobody.
        "0 BLPOP q 0|! 1|3 MULTI|3 ?|3 RPUSH q x|3 ?|3 DEL q|3 ?|3 EXEC|3 ?|3 RPUSH q y|3 ?|0 ?",
        // Nor does a value of another type.
        "0 BLPOP q 0|! 1|3 SET q v|3 ?|3 DEL q|3 ?|3 RPUSH q y|3 ?|0 ?",
        // Moves, and what they set off in turn.
        "0 BLMOVE q r LEFT RIGHT 0|! 1|3 RPUSH q a b|3 ?|0 ?|3 LRANGE r 0 -1|3 ?|3 LRANGE q 0 -1|3 ?",
        "0 BLMOVE q r LEFT RIGHT 0|! 1|1 BLPOP r 0|! 2|3 RPUSH q a|3 ?|0 ?|1 ?|3 EXISTS q r|3 ?",
        "0 BRPOPLPUSH q q 0|! 1|3 RPUSH q a b c|3 ?|0 ?|3 LRANGE q 0 -1|3 ?",
        "0 BRPOPLPUSH q r 0|! 1|1 BRPOPLPUSH r q 0|! 2|2 BLPOP q 0|! 3|3 RPUSH q a|3 ?|0 ?|1 ?|2 ?|3 EXISTS q r|3 ?",
        // The destination is of another type.
        "3 SET d v|3 ?|0 BLMOVE q d LEFT LEFT 0|! 1|3 RPUSH q a|3 ?|0 ?|3 LRANGE q 0 -1|3 ?",
        // Several elements at a time.
        "0 BLMPOP 0 2 q r RIGHT COUNT 2|! 1|3 RPUSH r a b c|3 ?|0 ?|3 LRANGE r 0 -1|3 ?",
        // A list also comes by other commands.
        "0 BLPOP q 0|! 1|3 RPUSH r a|3 ?|3 LMOVE r q LEFT LEFT|3 ?|0 ?",
        "0 BLPOP q 0|! 1|3 RPUSH r a|3 ?|3 RPOPLPUSH r q|3 ?|0 ?",
        "0 BLPOP q 0|! 1|3 RPUSH r a b|3 ?|3 RENAME r q|3 ?|0 ?|3 LRANGE q 0 -1|3 ?",
        "0 BLPOP q 0|! 1|3 RPUSH r a b|3 ?|3 RENAMENX r q|3 ?|0 ?|3 LRANGE q 0 -1|3 ?",
        "0 BLPOP q 0|! 1|3 RPUSH r a b|3 ?|3 MULTI|3 ?|3 RENAME r q|3 ?|3 LPUSH q x|3 ?|3 EXEC|3 ?|0 ?|3 LRANGE q 0 -1|3 ?",
        // Requests behind the one that waits, in order.
        "0 BLPOP q 0|0 PING|0 INCR n|0 BLPOP q 0|0 PING|! 1|3 INCR n|3 ?|3 RPUSH q a|3 ?|0 ?|0 ?|0 ?|3 RPUSH q b|3 ?|0 ?|0 ?",
        "0 HELLO 3|0 ?|0 BLPOP q 0.01|0 ?|0 BLPOP q 0|! 1|3 RPUSH q a|3 ?|0 ?",
        "0 CLIENT REPLY SKIP|0 BLPOP q 0|0 PING|! 1|3 RPUSH q a|3 ?|0 ?",
        "0 BLPOP q 0.02|0 BLPOP r 0.01|0 PING|0 ?|0 ?|0 ?",
    ] {
        let ours = scenarios(|| server.connect(), steps);
        let theirs = scenarios(|| redis.connect(), steps);
        assert_eq!(ours, theirs, "after {steps}");
    }
}

/// One server, some clients of it, and one more that sees to it that all effects have come.
struct Crew<S: Read> {
    witness: Client<S>,
    clients: Vec<Client<S>>,
    ids: Vec<String>,
}

impl<S: Read + Write + AsFd> Crew<S> {
    fn new(count: usize, mut connect: impl FnMut() -> Client<S>) -> Self {
        let mut clients: Vec<_> = (0..count).map(|_| connect()).collect();
        let id = |client: &mut Client<S>| {
            let reply = client.ask("CLIENT ID");
            reply.trim_start_matches(':').trim_end().to_owned()
        };
        let ids = clients.iter_mut().map(id).collect();
        let witness = connect();
        Self {
            witness,
            clients,
            ids,
        }
    }

    /// Sends a client's request, or the witness's, and collects what everybody gets.
    fn step(&mut self, who: Option<usize>, line: &str) -> Vec<(usize, String)> {
        let mut got = Vec::new();
        let mut words: Vec<&str> = line.split(' ').collect();
        if let ["CLIENT", "UNBLOCK", number, ..] = words[..] {
            words[2] = &self.ids[number.parse::<usize>().expect("a client")];
        }
        match who {
            Some(who) => self.clients[who].send(&encode(&words)),
            None => {
                let reply = self.witness.call(&words);
                got.push((usize::MAX, reply.escape_ascii().to_string()));
            }
        }
        // A round for the request, and one for what it has set off.
        for _ in 0..2 {
            assert_eq!(self.witness.ask("PING"), "+PONG\r\n");
        }
        for (number, client) in self.clients.iter_mut().enumerate() {
            let arrived = client.arrived();
            got.extend(
                arrived
                    .iter()
                    .map(|reply| (number, reply.escape_ascii().to_string())),
            );
        }
        got
    }
}

#[test]
fn random_waits_agree_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&["--io-threads", "1"]);
    let mut random = Random::new("random_waits_agree_with_redis");
    let count = 5;
    let mut ours = Crew::new(count, || server.connect());
    let mut theirs = Crew::new(count, || redis.connect());
    let mut pending = vec![0; count];
    let mut history = Vec::new();
    for _ in 0..4_000 {
        let idle: Vec<usize> = (0..count).filter(|&who| pending[who] == 0).collect();
        let (who, line) = if idle.is_empty() || random.below(3) == 0 {
            (None, change(&mut random))
        } else {
            let line = match random.below(3) {
                0 => change(&mut random),
                _ => wait(&mut random),
            };
            (Some(idle[random.below(idle.len())]), line)
        };
        if let Some(who) = who {
            pending[who] += 1;
        }
        history.push(format!("{who:?} {line}"));
        let (ours, theirs) = (ours.step(who, &line), theirs.step(who, &line));
        assert_eq!(
            ours,
            theirs,
            "{:#?}",
            &history[history.len().saturating_sub(40)..]
        );
        for (who, _) in ours {
            if let Some(pending) = pending.get_mut(who) {
                *pending -= 1;
            }
        }
    }
}

fn wait(random: &mut Random) -> String {
    let mut key = || ["q", "r", "s"][random.below(3)];
    let (one, two, three) = (key(), key(), key());
    let mut end = || ["LEFT", "RIGHT"][random.below(2)];
    let (from, to) = (end(), end());
    match random.below(6) {
        0 => format!("BLPOP {one} 0"),
        1 => format!("BRPOP {one} {two} {three} 0"),
        2 | 3 => format!("BLMOVE {one} {two} {from} {to} 0"),
        4 => format!("BRPOPLPUSH {one} {two} 0"),
        _ => format!(
            "BLMPOP 0 2 {one} {two} {from} COUNT {}",
            1 + random.below(3)
        ),
    }
}

fn change(random: &mut Random) -> String {
    let mut key = || ["q", "r", "s"][random.below(3)];
    let (one, two) = (key(), key());
    let element = random.below(100);
    match random.below(20) {
        0..=3 => format!("RPUSH {one} {element}"),
        4..=6 => format!("LPUSH {one} {element} x y"),
        7 => format!("LMOVE {one} {two} LEFT RIGHT"),
        8 => format!("RPOPLPUSH {one} {two}"),
        9 => format!("RENAME {one} {two}"),
        10 => format!("SET {one} v"),
        11 | 12 => format!("DEL {one}"),
        13 => format!("LPOP {one}"),
        14 => format!("RPUSHX {one} z"),
        15 => format!("LINSERT {one} BEFORE x w"),
        16 | 17 => format!("CLIENT UNBLOCK {} ERROR", random.below(5)),
        18 => format!("LTRIM {one} 1 0"),
        _ => "FLUSHALL".to_owned(),
    }
}

#[test]
fn client_unblock_ends_a_wait() {
    let server = Server::start(&["--io-threads", "2"]);
    let mut witness = server.connect();
    let mut waiters: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        let id = waiter.ask("CLIENT ID");
        let id = id.trim_start_matches(':').trim_end();
        let unblock = format!("CLIENT UNBLOCK {id}");
        assert_eq!(witness.ask(&unblock), ":0\r\n");
        send(waiter, "BLPOP q 0");
        send(waiter, "PING");
        until_blocked(&mut witness, 1);
        assert!(
            witness
                .ask(&format!("CLIENT LIST ID {id}"))
                .contains(" flags=b ")
        );
        let (reason, reply) = [
            ("", "*-1\r\n"),
            (" TIMEOUT", "*-1\r\n"),
            (
                " ERROR",
                "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n",
            ),
        ][number % 3];
        assert_eq!(witness.ask(&format!("{unblock}{reason}")), ":1\r\n");
        assert_eq!(waiter.reply(), reply.as_bytes());
        assert_eq!(waiter.reply(), b"+PONG\r\n");
    }
    assert_eq!(witness.ask("RPUSH q a"), ":1\r\n");
    assert_eq!(witness.ask("LLEN q"), ":1\r\n");
}

#[test]
fn a_waiter_that_leaves_takes_no_element_with_it() {
    let server = Server::start(&["--io-threads", "2"]);
    let mut witness = server.connect();
    for round in 0..20 {
        let mut waiters: Vec<_> = (0..5).map(|_| server.connect()).collect();
        for waiter in &mut waiters {
            send(waiter, "BLPOP q r 0");
        }
        until_blocked(&mut witness, 5);
        if round % 2 == 0 {
            for waiter in &waiters {
                waiter.end();
            }
        }
        drop(waiters);
        until_blocked(&mut witness, 0);
        assert_eq!(witness.ask("RPUSH q a"), ":1\r\n");
        assert_eq!(witness.ask("LPOP q"), "$1\r\na\r\n");
    }
    // A wait ends before its connection does.
    witness.ask_until("INFO clients", "connected_clients:1\r\n");
}

#[test]
fn a_waiter_is_killed_and_the_server_stops_under_waiters() {
    let server = Server::start(&["--io-threads", "2"]);
    let mut witness = server.connect();
    let mut waiters: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for waiter in &mut waiters {
        send(waiter, "BLPOP q 0");
    }
    until_blocked(&mut witness, 3);
    assert_eq!(witness.ask("CLIENT KILL ID 2"), ":1\r\n");
    assert!(waiters.remove(0).rest().is_empty());
    until_blocked(&mut witness, 2);
    server.signal(Signal::TERM);
    for waiter in &mut waiters {
        assert!(waiter.rest().is_empty());
    }
    assert_eq!(server.wait().0.code(), Some(0));
}

#[test]
fn a_blocked_client_that_floods_is_not_read_from() {
    // Long enough for what is half sent to be completed in time.
    let server = Server::start(&["--io-threads", "1", "--stall-timeout", "5"]);
    let mut witness = server.connect();
    let mut flooding = server.connect();
    send(&mut flooding, "BLPOP q 0");
    until_blocked(&mut witness, 1);
    let mut flood = encode(&["PING"]).repeat(1_000);
    flood.extend_from_slice(b"*1\r\n$4\r\nPI");
    flooding.send(&flood);
    assert_eq!(witness.ask("PING"), "+PONG\r\n");
    let list = witness.ask("CLIENT LIST ID 2");
    let held = list
        .split(' ')
        .find_map(|field| field.strip_prefix("tot-mem="));
    let held: usize = held.and_then(|held| held.parse().ok()).expect("tot-mem");
    assert!(held < 2_000, "{list}");
    // A wait is no stall, however long: this other client's stall is timed after it began.
    let mut stalled = server.connect();
    stalled.send(b"*1\r\n$4\r\nPI");
    assert!(!stalled.rest().is_empty());
    assert_eq!(witness.ask("RPUSH q a"), ":1\r\n");
    assert_eq!(flooding.reply(), b"*2\r\n$1\r\nq\r\n$1\r\na\r\n");
    // What is half sent is so from now on.
    flooding.send(b"NG\r\n");
    for _ in 0..1_001 {
        assert_eq!(flooding.reply(), b"+PONG\r\n");
    }
}

#[test]
fn producers_and_consumers_lose_and_repeat_nothing() {
    let server = &Server::start(&["--io-threads", "3"]);
    let jobs = 3_000;
    let is_over = &AtomicBool::new(false);
    let got = std::thread::scope(|scope| {
        let producers = [0, 1, 2].map(|producer| {
            scope.spawn(move || {
                let mut random = Random::new("producers_and_consumers_lose_and_repeat_nothing");
                let mut client = server.connect();
                for job in (producer..jobs).step_by(3) {
                    let push = ["LPUSH", "RPUSH"][random.below(2)];
                    let list = ["high", "low", "from"][random.below(3)];
                    client.ask(&format!("{push} {list} {job}"));
                }
            })
        });
        // These pass on what they get, the end included.
        let movers = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut client = server.connect();
                while client.ask("BLMOVE from low LEFT RIGHT 0") != "$3\r\nend\r\n" {}
            })
        });
        // Some wait so briefly that an element and the time-out may meet.
        let consumers = ["0.001", "0.003", "1", "0"].map(|timeout| {
            scope.spawn(move || {
                let mut client = server.connect();
                let mut got = Vec::new();
                loop {
                    let reply = client.ask(&format!("BLPOP high low {timeout}"));
                    match reply.split("\r\n").nth(4) {
                        Some("stop") => return got,
                        Some("end") | None => {}
                        Some(job) => got.push(job.parse::<u64>().expect("a job")),
                    }
                }
            })
        });
        // And now and then somebody is sent away empty-handed.
        scope.spawn(move || {
            let mut random = Random::new("producers_and_consumers_lose_and_repeat_nothing");
            let mut client = server.connect();
            while !is_over.load(Ordering::Relaxed) {
                client.ask(&format!("CLIENT UNBLOCK {} ERROR", 1 + random.below(12)));
            }
        });
        let mut client = server.connect();
        for producer in producers {
            producer.join().expect("a producer");
        }
        client.ask("RPUSH from end end");
        for mover in movers {
            mover.join().expect("a mover");
        }
        client.ask("RPUSH low stop stop stop stop");
        let got = consumers.map(|consumer| consumer.join().expect("a consumer"));
        is_over.store(true, Ordering::Relaxed);
        got
    });
    let mut got = got.concat();
    got.sort_unstable();
    assert_eq!(got, (0..jobs).collect::<Vec<_>>());
}

#[test]
fn time_outs_come_in_order_and_leave_nothing_behind() {
    let server = Server::start(&[]);
    let mut witness = server.connect();
    let mut waiters: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        send(waiter, &format!("BLPOP q 0.{:03}", 50 - number));
    }
    for waiter in &mut waiters {
        assert_eq!(waiter.reply(), b"*-1\r\n");
    }
    until_blocked(&mut witness, 0);
    assert_eq!(witness.ask("RPUSH q a"), ":1\r\n");
    assert_eq!(witness.ask("LLEN q"), ":1\r\n");
}

#[test]
fn blocked_clients_by_the_thousand_wake_nobody_and_are_all_served() {
    let wanted = 10_000;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("as many files as allowed");
    // The other tests of this process need some as well, and so does the server.
    let allowed = limit
        .maximum
        .map_or(wanted, |most| most.saturating_sub(1_000));
    let count = wanted.min(allowed) as usize;
    let server = Server::start(&["--io-threads", "2", "--max-clients", "11000"]);
    let mut witness = server.connect();
    let mut waiters: Vec<_> = (0..count).map(|_| server.connect()).collect();
    for (number, waiter) in waiters.iter_mut().enumerate() {
        send(waiter, &format!("BLPOP queue{} all 0", number % 100));
    }
    until_blocked(&mut witness, count);
    // The time is what is looked at.
    server.until_asleep_for(Duration::from_secs(2));
    let list = witness.ask("CLIENT LIST ID 2");
    let held = list
        .split(' ')
        .find_map(|field| field.strip_prefix("tot-mem="));
    let held: usize = held.and_then(|held| held.parse().ok()).expect("tot-mem");
    assert!(held < 1_000, "{list}");
    let mut push = vec![b"RPUSH".to_vec(), b"all".to_vec()];
    push.extend((0..count).map(|number| number.to_string().into_bytes()));
    assert_eq!(witness.call(&push), format!(":{count}\r\n").as_bytes());
    for waiter in &mut waiters {
        assert!(waiter.reply().starts_with(b"*2\r\n$3\r\nall\r\n"));
    }
    assert_eq!(witness.ask("EXISTS all"), ":0\r\n");
}
