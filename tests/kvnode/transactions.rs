//! `MULTI`, `EXEC`, `WATCH`: against a real redis-server where it is installed, and what they promise
//! when many clients run them at once.

use std::time::Duration;

use crate::random::Random;
use crate::redis::compare;
use crate::requests::{KEYS, Request, random_request, request};
use crate::support::{Redis, Server, encode};

#[test]
fn the_corners_of_transactions_agree_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&[]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let lines = "\
MULTI|MULTI|WATCH a|EXEC|EXEC|DISCARD|EXEC a|MULTI|GET|SET a 1|EXEC|MULTI|NOSUCH|EXEC|MULTI|SHUTDOWN|EXEC|MULTI|EXEC a|EXEC|\
MULTI|UNWATCH|HELLO 3|GET nokey|HELLO 2|GET nokey|CLIENT FOO|EXEC|MULTI|UNWATCH|GET nokey|RPUSH l a|LRANGE l 0 -1|EXEC|\
WATCH|WATCH a|UNWATCH|UNWATCH a|MULTI a|MULTI|MULTI a|EXEC|MULTI|WATCH|EXEC|MULTI|DISCARD x|EXEC|MULTI|DISCARD|EXEC|\
MULTI|RESET|EXEC|MULTI|SET a 1|INCR a|INCR l|LPUSH a x|GET a|EXEC|GET a|MULTI|SET a x|INCR a|DEL a|EXEC|EXISTS a|\
MULTI|SET a 1|FLUSHALL|SET b 2|DBSIZE|GET a|EXEC|MGET a b|MULTI|FLUSHALL|EXEC|MULTI|DBSIZE|EXEC|\
WATCH a|SET a 1|MULTI|GET a|EXEC|WATCH a b|MULTI|SET a 2|SET b 3|EXEC|WATCH a|MULTI|EXEC|WATCH a|SET a 2|MULTI|EXEC|\
WATCH a|EXPIRE a 1000|MULTI|EXEC|WATCH a|PERSIST a|MULTI|EXEC|WATCH a|PERSIST a|MULTI|EXEC|WATCH nokey|DEL nokey|MULTI|EXEC|\
WATCH a|DEL a|MULTI|EXEC|WATCH a|FLUSHALL|MULTI|EXEC|SET a 1|WATCH a|FLUSHALL|MULTI|EXEC|WATCH a|SET a 1|DISCARD|MULTI|EXEC|\
WATCH a|SET a 1|MULTI|DISCARD|MULTI|EXEC|WATCH a|SET a 1|UNWATCH|MULTI|EXEC|WATCH a|SET a 1|EXEC a|MULTI|EXEC|\
WATCH a a|MULTI|INCR a|INCR a|EXEC|WATCH a|INCR a|WATCH a|MULTI|EXEC|SET a 1 PXAT 1|WATCH a|MULTI|EXEC|\
SET a 1|WATCH a|MULTI|NOSUCH|EXEC|MULTI|EXEC|WATCH a|SET a 2|MULTI|DBSIZE|INCR b|EXEC|EXISTS b|WATCH a|MULTI|DBSIZE|INCR b|EXEC|\
MULTI|MGET a b c|MSET a 1 b 2|DEL a b c|EXISTS a b|LMPOP 2 a l LEFT|LMPOP x a LEFT|RPUSH l a b c|LMPOP 2 a l LEFT COUNT 2|EXEC|\
MULTI|ECHO hi|PING|SELECT 0|SELECT 1|CLIENT GETNAME|CLIENT SETNAME me|CONFIG GET save|COMMAND COUNT x|EXEC|\
MULTI|ECHO hi|PING|SELECT 0|SELECT 1|CLIENT GETNAME|CLIENT SETNAME me|CONFIG GET save|EXEC|CLIENT GETNAME|HELLO 3|\
WATCH a|SET a 2|MULTI|EXEC|MULTI|GET nokey|LPOP nokey 2|EXEC|HELLO 2|MULTI|QUIT";
    for line in lines.split('|') {
        compare(&mut ours, &mut theirs, &[request(line)]);
    }
}

#[test]
fn a_watched_key_that_expires_before_exec_has_changed_as_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&[]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    // In one go, so that it is there when it is watched.
    let watched = ["SET a 1 PX 500", "WATCH a", "PTTL a"].map(request);
    compare(&mut ours, &mut theirs, &watched);
    std::thread::sleep(Duration::from_millis(510));
    for line in ["MULTI", "EXEC", "MULTI", "EXEC"] {
        compare(&mut ours, &mut theirs, &[request(line)]);
    }
}

#[test]
fn random_transactions_agree_with_redis() {
    let Some(redis) = Redis::start() else {
        return;
    };
    let server = Server::start(&[]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let (mut our_rival, mut their_rival) = (server.connect(), redis.connect());
    let mut random = Random::new("random_transactions_agree_with_redis");
    for round in 0..1500 {
        let dialect = request(["HELLO 2", "HELLO 3"][round % 2]);
        let mut requests = vec![dialect];
        requests.extend((0..random.below(3)).map(|_| without_times(&mut random)));
        if random.below(2) == 0 {
            requests.push(request(
                ["WATCH a", "WATCH a b", "WATCH key c a"][random.below(3)],
            ));
        }
        compare(&mut ours, &mut theirs, &requests);
        // One change at the most: a missing key that comes and goes has changed for Redis, and is
        // as it was for kvnode.
        compare(&mut our_rival, &mut their_rival, &[rival(&mut random)]);
        let mut requests = vec![request("MULTI")];
        requests.extend((0..random.below(8)).map(|_| without_times(&mut random)));
        match random.below(20) {
            0 => requests.push(request("FLUSHALL")),
            1 => {
                // Expired keys count until a write comes across them.
                for key in KEYS {
                    requests.push([b"SETRANGE", key, b"0", b""].map(<[u8]>::to_vec).into());
                }
                requests.push(request("DBSIZE"));
            }
            2 => requests.push(request("DISCARD")),
            _ => {}
        }
        requests.extend((0..random.below(2)).map(|_| without_times(&mut random)));
        requests.push(request("EXEC"));
        compare(&mut ours, &mut theirs, &requests);
    }
}

/// Any request but those whose replies depend on when they are made, or have no order.
fn without_times(random: &mut Random) -> Request {
    loop {
        let request = random_request(random);
        let name = request[0].to_ascii_lowercase();
        let is_timed = name.ends_with(b"ttl") || name.ends_with(b"expiretime");
        let has_no_order = name == b"keys" || name == b"scan";
        if !is_timed && !has_no_order {
            return request;
        }
    }
}

/// What another client does to the keys.
fn rival(random: &mut Random) -> Request {
    let lines = [
        "SET a 5",
        "SET b x",
        "DEL a",
        "DEL a b c key",
        "INCR c",
        "RPUSH a 1",
        "LPOP a",
        "GET a",
        "APPEND b x",
        "EXPIRE a 1000",
        "PERSIST a",
        "PING",
    ];
    request(lines[random.below(lines.len())])
}

#[test]
fn clients_that_watch_and_retry_lose_no_update() {
    let server = Server::start(&["--io-threads", "2"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.connect();
                let mut done = 0;
                while done < 200 {
                    assert_eq!(client.ask("WATCH n m"), "+OK\r\n");
                    let reply = client.ask("GET n");
                    let number = match reply.split("\r\n").nth(1) {
                        Some(digits) if !digits.is_empty() => {
                            digits.parse::<u64>().expect("a number")
                        }
                        _ => 0,
                    };
                    client.send(&encode(&["MULTI"]));
                    client.send(&encode(&["SET", "n", &(number + 1).to_string()]));
                    client.send(&encode(&["INCR", "m"]));
                    client.send(&encode(&["EXEC"]));
                    for expected in ["+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n"] {
                        assert_eq!(client.reply(), expected.as_bytes());
                    }
                    done += usize::from(client.reply().starts_with(b"*2"));
                }
            });
        }
    });
    assert_eq!(
        server.connect().ask("MGET n m"),
        "*2\r\n$3\r\n800\r\n$3\r\n800\r\n"
    );
}

#[test]
fn nobody_sees_half_a_transaction() {
    let server = Server::start(&["--io-threads", "2"]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = server.connect();
                let burst = ["MULTI", "INCR a", "INCR b", "DECR c", "EXEC"];
                let burst: Vec<u8> = burst
                    .iter()
                    .flat_map(|line| encode(&request(line)))
                    .collect();
                for _ in 0..300 {
                    client.send(&burst);
                    for _ in 0..4 {
                        client.reply();
                    }
                    assert!(client.reply().starts_with(b"*3\r\n:"));
                }
            });
        }
        scope.spawn(|| {
            let mut client = server.connect();
            for _ in 0..1000 {
                let reply = client.ask("MGET a b c");
                let numbers: Vec<&str> = reply.split("\r\n").collect();
                if numbers.len() == 8 {
                    assert_eq!(numbers[2], numbers[4], "{reply}");
                    assert_eq!(format!("-{}", numbers[2]), numbers[6], "{reply}");
                }
            }
        });
    });
    assert!(server.connect().ask("MGET a b c").contains("\r\n-600\r\n"));
}

#[test]
fn half_a_transaction_is_forgotten_with_its_connection() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.ask("WATCH k"), "+OK\r\n");
    assert_eq!(client.ask("MULTI"), "+OK\r\n");
    assert_eq!(client.ask("SET k v"), "+QUEUED\r\n");
    client.end();
    assert!(client.rest().is_empty());
    let mut other = server.connect();
    assert_eq!(other.ask("GET k"), "$-1\r\n");
    assert_eq!(other.ask("SET k w"), "+OK\r\n");
}

#[test]
fn an_open_transaction_shows_in_client_list() {
    let server = Server::start(&[]);
    let (mut one, mut two) = (server.connect(), server.connect());
    assert_eq!(one.ask("MULTI"), "+OK\r\n");
    assert_eq!(one.ask("SET k v"), "+QUEUED\r\n");
    let list = two.ask("CLIENT LIST ID 1");
    assert!(
        list.contains(" multi=1 ") && list.contains(" flags=x "),
        "{list}"
    );
    assert!(two.ask("CLIENT LIST ID 2").contains(" multi=-1 "));
}
