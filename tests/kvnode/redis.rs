//! `examples/kvnode` against a real redis-server: the same requests to both, and the replies
//! compared byte for byte. Skipped without redis-server; written for 7.0.

use std::io::{Read, Write};
use std::time::Duration;

use crate::random::Random;
use crate::support::{Client, Redis, Server, encode};

type Request = Vec<Vec<u8>>;

/// What both servers answer to the same requests, sent in one go.
fn compare<A: Read + Write, B: Read + Write>(
    ours: &mut Client<A>,
    theirs: &mut Client<B>,
    requests: &[Request],
) {
    let bytes: Vec<u8> = requests
        .iter()
        .flat_map(|request| encode(request))
        .collect();
    ours.send(&bytes);
    theirs.send(&bytes);
    for request in requests {
        let (ours, theirs) = (ours.reply(), theirs.reply());
        if !agree(request, &ours, &theirs) {
            let shown: Vec<_> = request
                .iter()
                .map(|argument| argument.escape_ascii().to_string())
                .collect();
            panic!(
                "to {} Redis says {} and kvnode {}",
                shown.join(" "),
                theirs.escape_ascii(),
                ours.escape_ascii(),
            );
        }
    }
}

/// Equal, or two times that the requests' way through two processes explains.
fn agree(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
    let number = |reply: &[u8]| {
        std::str::from_utf8(reply)
            .ok()?
            .strip_prefix(':')?
            .trim_end()
            .parse::<i64>()
            .ok()
    };
    let name = request[0].to_ascii_lowercase();
    let slack = match name.as_slice() {
        b"ttl" | b"expiretime" => 10,
        b"pttl" | b"pexpiretime" => 10_000,
        _ => 0,
    };
    match (number(ours), number(theirs)) {
        _ if name == b"hello" => without_id(ours) == without_id(theirs),
        (Some(ours @ 1..), Some(theirs @ 1..)) if slack > 0 => ours.abs_diff(theirs) <= slack,
        _ => ours == theirs,
    }
}

/// The reply to `HELLO`, where one field is bound to differ.
fn without_id(reply: &[u8]) -> String {
    let reply = String::from_utf8_lossy(reply);
    match reply.split_once("id\r\n:") {
        Some((before, after)) => {
            before.to_owned() + after.trim_start_matches(|digit: char| digit.is_ascii_digit())
        }
        None => reply.into_owned(),
    }
}

fn request(line: &str) -> Request {
    line.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

#[test]
fn the_corners_of_every_command_agree_with_redis() {
    let Some(redis) = Redis::start("corners") else {
        return;
    };
    let server = Server::start(&[]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let lines = "\
PING|PING a|PING a b|ECHO|ECHO a|ECHO a b|SELECT 0|SELECT 1|SELECT -1|SELECT x|SELECT 9999999999|\
QUERY|query a b|get|GET|GET a b|SET a|SET a 1|STRLEN a|INCR a|INCRBY a|INCRBY a x|INCRBY a 9223372036854775807|\
INCRBY a 9223372036854775806|DECRBY a -9223372036854775808|DECRBY a 9223372036854775807|GET a|\
SET a v NX|SET a v XX|SET a v NX XX|SET a v XX NX|SET a v NX NX|SET a v GET|SET a w NX GET|SET b w NX GET|SET b w XX GET|\
SET a v EX|SET a v EX 1 PX 1|SET a v EX 100 EX 200|SET a v KEEPTTL EX 1|SET a v EX 1 KEEPTTL|SET a v KEEPTTL KEEPTTL|\
SET a v PERSIST|SET a v EX 0|SET a v EX -1|SET a v EX 1.5|SET a v PX 0|SET a v EXAT 0|SET a v PXAT -5|\
SET a v EX 9223372036854775807|SET a v EX 9223372036854775|SET a v PX 9223372036854775807|SET a v PXAT 9223372036854775807|\
GET a|PEXPIRETIME a|SET a v EXAT 9223372036854775|PEXPIRETIME a|SET a v EXAT 9223372036854776|SET a v PXAT 1|EXISTS a|\
SET a v ex 100 nx get|TTL a|SET a v get keepttl|TTL a|SET a v foo|SET a v EX 100 foo|SET a v foo EX|\
SETNX a v|SETNX a|SETEX a 100 v|TTL a|SETEX a 0 v|SETEX a -1 v|SETEX a x v|SETEX a 9223372036854775807 v|PSETEX a 0 v|\
PSETEX a 100000 v|PTTL a|MSET|MSET a|MSET a 1|MSET a 1 b|MSET a 1 b 2|MSETNX a 1 c 3|MSETNX c 1 d 2|MSETNX e|MSET a 1 a 2|\
GET a|MGET|MGET a b nokey a|GETSET a 9|GETSET|GETDEL a|GETDEL a|GETEX|GETEX nokey|GETEX nokey EX 0|GETEX nokey foo|\
SET a v|GETEX a|GETEX a EX 100|TTL a|GETEX a PERSIST|TTL a|GETEX a PERSIST PERSIST|GETEX a PERSIST EX 1|GETEX a EX 1 PERSIST|\
GETEX a EX 0|GETEX a PX x|GETEX a EX|GETEX a KEEPTTL|GETEX a NX|GETEX a EX 100 PX 100|GETEX a PXAT 1|GETEX a|\
APPEND a|APPEND a hello|APPEND a |STRLEN a|STRLEN|STRLEN nokey|SETRANGE a|SETRANGE a 0|SETRANGE a 0 J|SETRANGE a 10 x|GET a|\
SETRANGE a -1 x|SETRANGE a x x|SETRANGE a 536870912 x|SETRANGE a 536870911 |SETRANGE nokey 5 |EXISTS nokey|\
SETRANGE a 9223372036854775807 x|GETRANGE a 0 -1|GETRANGE a -3 -1|GETRANGE a 3 1|GETRANGE a -1 -3|GETRANGE a -100 100|\
GETRANGE a -100 -200|GETRANGE a 0 9223372036854775807|GETRANGE a -9223372036854775808 9223372036854775807|GETRANGE a x 1|\
GETRANGE nokey 0 -1|SUBSTR a 0 2|GETRANGE a 0|\
DEL|DEL a b|DEL a|UNLINK|UNLINK c d|EXISTS|EXISTS a a|TOUCH a|TYPE|TYPE a|SET a 1|TYPE a|EXISTS a a b|TOUCH a a b|\
EXPIRE|EXPIRE a|EXPIRE a x|EXPIRE nokey x|EXPIRE nokey 1|EXPIRE a 100|TTL a|EXPIRE a 200 NX|EXPIRE a 200 XX|EXPIRE a 300 GT|\
EXPIRE a 200 GT|EXPIRE a 200 LT|EXPIRE a 300 LT|EXPIRE a 100 nx xx|EXPIRE a 100 NX GT|EXPIRE a 100 GT LT|EXPIRE a 100 FOO|\
EXPIRE a x FOO|EXPIRE a 100 NX FOO|EXPIRE a 100 XX GT|EXPIRE a 1000 XX GT|EXPIRE a 100 XX LT|TTL a|PERSIST a|PERSIST a|\
PERSIST nokey|PERSIST|EXPIRE a 100 XX|EXPIRE a 100 GT|EXPIRE a 100 LT|TTL a|PERSIST a|EXPIRE a 100 NX|\
EXPIRE a 9223372036854775807|EXPIRE a -9223372036854775808|EXPIRE a 9223372036854775|PEXPIRE a 9223372036854775807|\
PEXPIRE a 100000|PTTL a|EXPIREAT a 4102444800|EXPIRETIME a|PEXPIRETIME a|PEXPIREAT a 4102444800001|PEXPIRETIME a|EXPIRETIME a|\
PEXPIREAT a 9223372036854775807|PEXPIRETIME a|EXPIREAT a 9223372036854775|EXPIREAT a 9223372036854776|\
EXPIRE a -1|EXISTS a|SET a 1|EXPIRE a 0|EXISTS a|SET a 1|PEXPIREAT a -5|EXISTS a|SET a 1|EXPIREAT a 1 XX|EXISTS a|\
TTL|TTL nokey|PTTL nokey|EXPIRETIME nokey|PEXPIRETIME nokey|TTL a b|SET a  1|INCR a|SET a 1|SET b +1|INCR b|SET b 01|INCR b|\
SET b -0|INCR b|SET b 1.0|INCR b|SET b |INCR b|SET b 9223372036854775808|INCR b|SET b -9223372036854775808|DECR b|INCR b|GET b|\
DBSIZE|DBSIZE a|FLUSHDB|FLUSHDB foo|FLUSHALL SYNC|FLUSHALL ASYNC foo|FLUSHALL sync async|FLUSHALL|DBSIZE|\
CONFIG|CONFIG FOO|CONFIG GET|CONFIG GET save|CONFIG GET appendonly|CONFIG GET nosuch|CONFIG GET databases|\
CLIENT|CLIENT FOO|CLIENT foo bar|CLIENT ID x|CLIENT GETNAME|CLIENT SETNAME|CLIENT SETNAME me|CLIENT GETNAME|CLIENT SETNAME \u{e9}|\
CLIENT SETNAME |CLIENT GETNAME|CLIENT NO-EVICT|CLIENT NO-EVICT on|CLIENT NO-EVICT off|CLIENT NO-EVICT x|CLIENT LIST FOO|\
CLIENT LIST TYPE|CLIENT LIST TYPE foo|CLIENT LIST TYPE pubsub|CLIENT LIST ID|CLIENT LIST ID x|CLIENT LIST ID 999|\
COMMAND FOO|COMMAND COUNT x|COMMAND INFO nosuch|RESET|RESET x|SHUTDOWN ABORT|SHUTDOWN FOO|SHUTDOWN SAVE NOSAVE|SHUTDOWN SAVE ABORT";
    let mut requests: Vec<Request> = lines.split('|').map(request).collect();
    requests.extend([
        vec![b"nul\0name".to_vec(), b"a\0b".to_vec()],
        vec![b"line\r\nbreak".to_vec(), b"a\r\nb".to_vec()],
        vec![vec![b'x'; 200], vec![b'y'; 200], vec![b'z'; 10]],
        vec![
            b"x".to_vec(),
            vec![b'y'; 125],
            vec![b'z'; 10],
            b"w".to_vec(),
        ],
        vec![b"x".to_vec(), vec![b'y'; 124], vec![b'z'; 10]],
        vec![b"\xff\xfe".to_vec()],
        vec![b"".to_vec()],
        vec![b"SET".to_vec(), b"".to_vec(), b"".to_vec()],
        vec![b"GET".to_vec(), b"".to_vec()],
        vec![b"CLIENT".to_vec(), vec![b'x'; 200]],
        vec![b"CLIENT".to_vec(), b"SETNAME".to_vec(), b"a\nb".to_vec()],
    ]);
    for dialect in ["HELLO 2", "HELLO 3"] {
        compare(&mut ours, &mut theirs, &[request(dialect)]);
        for request in &requests {
            compare(&mut ours, &mut theirs, std::slice::from_ref(request));
        }
    }
}

#[test]
fn what_belongs_to_a_connection_agrees_with_redis() {
    let Some(redis) = Redis::start("connection") else {
        return;
    };
    let server = Server::start(&[]);
    let lines = "\
HELLO|HELLO 3|HELLO|HELLO 2|HELLO 4|HELLO 1|HELLO x|HELLO 3 FOO|HELLO 3 AUTH a|HELLO 3 AUTH a b|HELLO|\
HELLO 3 AUTH default b SETNAME foo|CLIENT GETNAME|HELLO 2 SETNAME a\u{e9}|HELLO 2 SETNAME|HELLO|GET nokey|RESET|GET nokey|\
AUTH|AUTH x|AUTH default x|AUTH a b|AUTH a b c|AUTH DEFAULT x|\
CLIENT KILL|CLIENT KILL x|CLIENT KILL ID|CLIENT KILL ID 999|CLIENT KILL ID x|CLIENT KILL ID 0|CLIENT KILL ADDR 1|\
CLIENT KILL FOO x|CLIENT KILL TYPE foo|CLIENT KILL TYPE pubsub|CLIENT KILL USER foo|CLIENT KILL SKIPME foo|\
CLIENT KILL SKIPME no ID 999|CLIENT KILL LADDR x|CLIENT KILL ID 999 ID|CLIENT KILL TYPE normal ID 999|CLIENT KILL SKIPME yes|\
CLIENT REPLY|CLIENT REPLY x|CLIENT REPLY ON|CLIENT SETINFO a b|CLIENT NO-TOUCH on|\
COMMAND GETKEYS|COMMAND GETKEYS ping|COMMAND GETKEYS ping x|COMMAND GETKEYS get a|COMMAND GETKEYS get a b|COMMAND GETKEYS mset a|\
COMMAND GETKEYS mset a 1 b 2|COMMAND GETKEYS mset a 1 b|COMMAND GETKEYS del a b c|COMMAND GETKEYS nosuch a|COMMAND LIST x|\
DEBUG|DEBUG FOO|DEBUG PROTOCOL";
    let mut lines: Vec<_> = lines.split('|').map(str::to_owned).collect();
    for dialect in ["HELLO 2", "HELLO 3"] {
        lines.push(dialect.to_owned());
        for kind in "string integer double bignum null array set map attrib push verbatim true \
                     false foo"
            .split_whitespace()
        {
            lines.push(format!("DEBUG PROTOCOL {kind}"));
        }
    }
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    for line in lines {
        compare(&mut ours, &mut theirs, &[request(&line)]);
    }
    // Requests without replies, each with one behind it that has one.
    for silent in [
        "CLIENT REPLY SKIP|GET",
        "CLIENT REPLY OFF|PING|CLIENT REPLY SKIP|PING",
    ] {
        for line in silent.split('|') {
            let bytes = encode(&request(line));
            ours.send(&bytes);
            theirs.send(&bytes);
        }
        let lines = ["CLIENT REPLY ON", "PING"];
        compare(&mut ours, &mut theirs, &lines.map(request));
    }
}

#[test]
fn random_sequences_agree_with_redis() {
    let Some(redis) = Redis::start("random") else {
        return;
    };
    let server = Server::start(&[]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let mut random = Random::new("random_sequences_agree_with_redis");
    for _ in 0..800 {
        let mut requests: Vec<Request> = (0..50).map(|_| random_request(&mut random)).collect();
        // Both count expired keys until they come across them: Redis with any command, kvnode with
        // a write.
        for key in KEYS {
            requests.push([b"SETRANGE", key, b"0", b""].map(<[u8]>::to_vec).into());
        }
        requests.push(request("DBSIZE"));
        compare(&mut ours, &mut theirs, &requests);
    }
}

const KEYS: [&[u8]; 6] = [b"a", b"b", b"c", b"key", b"", b"\x00\xff\r\n"];

fn random_request(random: &mut Random) -> Request {
    const COMMANDS: [(&str, &str); 37] = [
        ("GET", "k"),
        ("GET", "k"),
        ("SET", "kv"),
        ("SET", "kvs"),
        ("SET", "kvss"),
        ("SET", "kvsss"),
        ("SETNX", "kv"),
        ("SETEX", "ktv"),
        ("PSETEX", "ktv"),
        ("MSET", "kvkv"),
        ("MSETNX", "kvkv"),
        ("MGET", "kkk"),
        ("GETSET", "kv"),
        ("GETDEL", "k"),
        ("GETEX", "kg"),
        ("GETEX", "kgg"),
        ("APPEND", "kv"),
        ("STRLEN", "k"),
        ("SETRANGE", "kov"),
        ("GETRANGE", "koo"),
        ("INCR", "k"),
        ("DECR", "k"),
        ("INCRBY", "kn"),
        ("DECRBY", "kn"),
        ("DEL", "kk"),
        ("UNLINK", "k"),
        ("EXISTS", "kkk"),
        ("TYPE", "k"),
        ("EXPIRE", "kt"),
        ("PEXPIRE", "kt"),
        ("EXPIREAT", "kac"),
        ("PEXPIREAT", "kAc"),
        ("TTL", "k"),
        ("PTTL", "k"),
        ("PEXPIRETIME", "k"),
        ("PERSIST", "k"),
        ("EXPIRETIME", "k"),
    ];
    let (name, shape) = COMMANDS[random.below(COMMANDS.len())];
    let name = if random.below(4) == 0 {
        name.to_lowercase()
    } else {
        name.to_owned()
    };
    let mut request = vec![name.into_bytes()];
    for kind in shape.chars() {
        random_argument(random, kind, &mut request);
    }
    match random.below(100) {
        0 => request.truncate(random.below(request.len()) + 1),
        1 => random_argument(random, 'v', &mut request),
        _ => {}
    }
    request
}

fn random_argument(random: &mut Random, kind: char, request: &mut Request) {
    let mut push = |text: String| request.push(text.into_bytes());
    match kind {
        'k' => request.push(KEYS[random.below(KEYS.len())].to_vec()),
        'v' => match random.below(6) {
            0 => push(String::new()),
            1 => push(random.below(1000).to_string()),
            2 => push(format!("-{}", random.below(1000))),
            3 => push(
                [
                    "9223372036854775807",
                    "-9223372036854775808",
                    " 1",
                    "1.5",
                    "+1",
                ][random.below(5)]
                .to_owned(),
            ),
            4 => request.push(
                (0..random.below(100))
                    .map(|_| random.next() as u8)
                    .collect(),
            ),
            _ => push("x".repeat(random.below(40))),
        },
        'n' => match random.below(8) {
            0 => push(
                [
                    "9223372036854775807",
                    "-9223372036854775808",
                    "x",
                    "1.0",
                    "",
                ][random.below(5)]
                .to_owned(),
            ),
            1 => push(random.next().to_string()),
            _ => push((random.below(200) as i64 - 100).to_string()),
        },
        'o' => match random.below(20) {
            0 => push("x".to_owned()),
            1 => push("600000000".to_owned()),
            _ => push((random.below(60) as i64 - 20).to_string()),
        },
        // From now on: far enough away, or past; nothing is to expire while the test runs.
        't' => match random.below(8) {
            0 => push(["0", "-1", "x", "9223372036854775807"][random.below(4)].to_owned()),
            _ => push((1_000_000 + random.below(1000)).to_string()),
        },
        'a' | 'A' => {
            let at = if random.below(8) == 0 {
                1
            } else {
                4_102_444_800 + random.below(5)
            };
            push(if kind == 'a' {
                at.to_string()
            } else {
                format!("{at}000")
            });
        }
        'c' => match random.below(8) {
            0 => push("NX".to_owned()),
            1 => push("xx".to_owned()),
            2 => push("GT".to_owned()),
            3 => push("LT".to_owned()),
            4 => {
                push("XX".to_owned());
                random_argument(random, 'c', request);
            }
            _ => {}
        },
        's' | 'g' => match random.below(9) {
            0 => push("NX".to_owned()),
            1 => push("xx".to_owned()),
            2 => push("GET".to_owned()),
            3 => push("KEEPTTL".to_owned()),
            4 => push("PERSIST".to_owned()),
            5 | 6 => {
                push(["EX", "px"][random.below(2)].to_owned());
                random_argument(random, 't', request);
            }
            7 => {
                push("EXAT".to_owned());
                random_argument(random, 'a', request);
            }
            _ => {
                push("pxat".to_owned());
                random_argument(random, 'A', request);
            }
        },
        other => unreachable!("no such kind of argument: {other}"),
    }
}

#[test]
fn expired_keys_are_missing_as_with_redis() {
    let Some(redis) = Redis::start("expired") else {
        return;
    };
    let server = Server::start(&[]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let lines = [
        "GET k",
        "TTL k",
        "PTTL k",
        "PEXPIRETIME k",
        "EXISTS k",
        "TYPE k",
        "STRLEN k",
        "GETRANGE k 0 -1",
        "INCR k",
        "DECRBY k 2",
        "APPEND k x",
        "SETRANGE k 2 x",
        "GETSET k w",
        "GETDEL k",
        "GETEX k",
        "GETEX k EX 0",
        "SETNX k w",
        "SET k w NX",
        "SET k w XX",
        "SET k w KEEPTTL",
        "SET k w GET",
        "SET k w XX GET",
        "MSETNX k w l w",
        "MGET k k",
        "DEL k",
        "UNLINK k",
        "PERSIST k",
        "EXPIRE k 100",
        "EXPIRE k 100 NX",
        "TOUCH k",
    ];
    let mut expiring = Vec::new();
    for number in 0..lines.len() {
        expiring.push(request(&format!("SET key{number} 5 PX 30")));
    }
    compare(&mut ours, &mut theirs, &expiring);
    // Not to win a race, but for the time to pass that the test is about.
    std::thread::sleep(Duration::from_millis(60));
    for (number, line) in lines.iter().enumerate() {
        let key = format!(" key{number}");
        for line in [
            line.replacen(" k", &key, 2),
            format!("GET{key}"),
            format!("TTL{key}"),
            "DEL l".to_owned(),
        ] {
            compare(&mut ours, &mut theirs, &[request(&line)]);
        }
    }
}
