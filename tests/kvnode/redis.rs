//! `examples/kvnode` against a real redis-server: the same requests to both, and the replies
//! compared byte for byte. Skipped without redis-server; written for 7.0.

use std::io::{Read, Write};
use std::time::Duration;

use crate::random::Random;
use crate::requests::{KEYS, Request, random_request, request};
use crate::support::{Client, Redis, Server, encode};

/// What both servers answer to the same requests, sent in one go.
pub(crate) fn compare<A: Read + Write, B: Read + Write>(
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
pub(crate) fn agree(request: &Request, ours: &[u8], theirs: &[u8]) -> bool {
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
        // A scan's first step: how far it comes is each server's own affair.
        _ if name == b"scan" && request.len() == 2 && ours.starts_with(b"*2") => {
            theirs.starts_with(b"*2")
        }
        // In any order.
        _ if name == b"keys" || name == b"scan" => lines(ours) == lines(theirs),
        (Some(ours @ 1..), Some(theirs @ 1..)) if slack > 0 => ours.abs_diff(theirs) <= slack,
        _ => ours == theirs,
    }
}

fn lines(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = reply.split(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    lines
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

#[test]
fn the_corners_of_every_command_agree_with_redis() {
    let Some(redis) = Redis::start() else {
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
    requests.extend(LISTS.split('|').chain(KEYSPACE.split('|')).map(request));
    for dialect in ["HELLO 2", "HELLO 3"] {
        compare(&mut ours, &mut theirs, &[request(dialect)]);
        for request in &requests {
            compare(&mut ours, &mut theirs, std::slice::from_ref(request));
        }
    }
}

const KEYSPACE: &str = "\
FLUSHALL|RANDOMKEY|RANDOMKEY x|MSET a 1 b 2|RPUSH l 1|SCAN|SCAN x|SCAN 0 COUNT|SCAN 0 COUNT 0|SCAN 0 COUNT x|SCAN 0 COUNT -1|SCAN 0 MATCH|\
SCAN 0 FOO 1|SCAN 0 TYPE list COUNT 100000|SCAN 0 TYPE foo COUNT 100000|SCAN 0 TYPE LIST COUNT 100000|SCAN 0 MATCH a COUNT 100000|\
SCAN 18446744073709551616|SCAN  0|SCAN +0 COUNT 100000|SCAN 0x|SCAN 0 COUNT 9223372036854775807 MATCH a MATCH b|SCAN +|SCAN +-0|SCAN |\
SCAN 0 COUNT 100000 TYPE foo TYPE list|SCAN 0 COUNT 100000 TYPE list TYPE foo|SCAN -0 COUNT 100000|\
RENAME|RENAME a|RENAME none a|RENAME a a|RENAME none none|RENAMENX a b|RENAMENX a a|RENAMENX none b|RENAMENX a c|RENAMENX a|\
EXPIRE c 1000|RENAME c d|TTL d|RENAME l d|TTL d|TYPE d|LRANGE d 0 -1|DEL d b|SET only 1|RANDOMKEY|KEYS|KEYS a b|KEYS *|KEYS [|KEYS \\|KEYS |\
KEYS on[l]y|KEYS o*y|MULTI|RENAME only other|RENAME only x|KEYS *|RENAMENX other other|EXEC|KEYS *|\
MEMORY|MEMORY FOO|MEMORY USAGE|MEMORY USAGE none|MEMORY USAGE none SAMPLES|MEMORY USAGE none SAMPLES x|MEMORY USAGE none SAMPLES -1|\
MEMORY USAGE none SAMPLES 5|MEMORY USAGE none FOO 5|COMMAND GETKEYS memory usage a|COMMAND GETKEYS rename a b|FLUSHALL";

const LISTS: &str = "\
DEL f|INCRBYFLOAT f|INCRBYFLOAT f x|INCRBYFLOAT f 1e5000|INCRBYFLOAT f nan|INCRBYFLOAT f inf|INCRBYFLOAT f 0.1|INCRBYFLOAT f 0.2|\
INCRBYFLOAT f -1e-17|INCRBYFLOAT f 5.0e3|INCRBYFLOAT f 0x1p3|INCRBYFLOAT f |GET f|INCR f|DEL f|\
DEL a b c l m s|SET s v|LPUSH|LPUSH l|LPUSH s a|LPUSH l c b a|RPUSH l d e f|LRANGE l 0 -1|LPUSHX nokey a|RPUSHX nokey a b|LPUSHX l z|\
RPUSHX l y z|RPUSHX s x|EXISTS nokey|LLEN l|LLEN s|LLEN nokey|TYPE l|GET l|STRLEN l|APPEND l x|INCR l|GETRANGE l 0 1|SETRANGE l 0 x|\
SETRANGE l 0 |GETSET l x|GETDEL l|GETEX l|GETEX l EX 10|SET l v GET|MGET l s|EXPIRE l 1000|TTL l|PERSIST l|LPUSH m a|SETNX m v|\
LPOP l|RPOP l|LPOP l 0|LPOP l 1|RPOP l 2|LPOP l -1|LPOP l x|LPOP l 9223372036854775808|LPOP l 1 2|LPOP nokey|LPOP nokey 0|LPOP nokey 1|\
LPOP s|LPOP s 1|LPOP s x|LPOP l 9223372036854775807|EXISTS l|RPUSH l a b c a b c|LINDEX l 0|LINDEX l -1|LINDEX l 5|LINDEX l 6|\
LINDEX l -7|LINDEX l x|LINDEX nokey x|LINDEX s x|LINDEX s 0|LINDEX|LSET l 0 A|LSET l -1 C|LSET l 6 x|LSET l -7 x|LSET l x x|\
LSET nokey 0 x|LSET nokey x x|LSET s 0 x|LSET s x x|LRANGE l 0 -1|LRANGE l 1 2|LRANGE l -2 -1|LRANGE l 4 2|LRANGE l -100 100|\
LRANGE l 6 10|LRANGE l x 1|LRANGE l 1 x|LRANGE nokey 0 -1|LRANGE nokey x 1|LRANGE s 0 -1|LRANGE l 9223372036854775807 -1|\
LRANGE l -9223372036854775808 9223372036854775807|LINSERT l BEFORE b x|LINSERT l after b y|LINSERT l foo b y|LINSERT l before no y|\
LINSERT nokey before a b|LINSERT nokey foo a b|LINSERT s before a b|LINSERT l before b|LRANGE l 0 -1|LREM l 1 a|LREM l -1 b|LREM l 0 c|\
LREM l 0 no|LREM l x a|LREM nokey 0 a|LREM s 0 a|LREM nokey x a|LRANGE l 0 -1|LTRIM l 1 -2|LRANGE l 0 -1|LTRIM l x 1|LTRIM nokey 0 1|\
LTRIM s 0 1|LTRIM l 5 1|EXISTS l|RPUSH l a b c a b c a|LREM l -2 a|LREM l 1000 a|LRANGE l 0 -1|DEL l|RPUSH l a b c 1 2 3 c c|\
LPOS l c|LPOS l c RANK 2|LPOS l c RANK -1|LPOS l c RANK 9|LPOS l c COUNT 2|LPOS l c COUNT 0|LPOS l c RANK -1 COUNT 0|LPOS l c MAXLEN 2|\
LPOS l c COUNT 0 MAXLEN 3|LPOS l c RANK -1 COUNT 0 MAXLEN 2|LPOS l c RANK 0|LPOS l c RANK x|LPOS l c COUNT -1|LPOS l c COUNT x|\
LPOS l c MAXLEN -1|LPOS l c MAXLEN x|LPOS l c FOO 1|LPOS l c RANK|LPOS nokey c|LPOS nokey c COUNT 1|LPOS l nope|LPOS l nope COUNT 1|\
LPOS s c|LPOS s c RANK 0|LPOS l 1|LPOS l c rank 1 rank 2|LMOVE l m LEFT RIGHT|LMOVE l m RIGHT LEFT|LMOVE l l LEFT RIGHT|LMOVE l l LEFT LEFT|\
LMOVE l m x LEFT|LMOVE l m LEFT x|LMOVE nokey m LEFT LEFT|LMOVE s m LEFT LEFT|LMOVE l s LEFT LEFT|LMOVE nokey s LEFT LEFT|LMOVE l m LEFT|\
RPOPLPUSH l m|RPOPLPUSH l l|RPOPLPUSH nokey m|RPOPLPUSH l s|RPOPLPUSH s l|RPOPLPUSH nokey s|LRANGE l 0 -1|LRANGE m 0 -1|\
LMPOP|LMPOP 1|LMPOP 1 l|LMPOP 0 l LEFT|LMPOP x l LEFT|LMPOP -1 l LEFT|LMPOP 1 l FOO|LMPOP 1 l LEFT COUNT 0|LMPOP 1 l LEFT COUNT x|\
LMPOP 1 l LEFT COUNT -1|LMPOP 1 l LEFT COUNT 1 COUNT 1|LMPOP 2 l LEFT|LMPOP 5 l LEFT|LMPOP 1 nokey LEFT|LMPOP 9223372036854775807 l LEFT|\
LMPOP 1 l LEFT FOO 1|LMPOP 1 l LEFT COUNT|LMPOP 1 l LEFT|LMPOP 2 nokey l RIGHT COUNT 2|LMPOP 2 l m LEFT COUNT 100|EXISTS l|\
LMPOP 2 s m LEFT|LMPOP 2 nokey s LEFT|LMPOP 2 m s LEFT|EXISTS l m|COMMAND GETKEYS lmpop 2 a b LEFT|COMMAND GETKEYS lmpop x a LEFT|\
COMMAND GETKEYS lmpop 3 a LEFT|COMMAND GETKEYS lmove a b LEFT LEFT|FLUSHALL";

#[test]
fn what_belongs_to_a_connection_agrees_with_redis() {
    let Some(redis) = Redis::start() else {
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
    let Some(redis) = Redis::start() else {
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

#[test]
fn expired_keys_are_missing_as_with_redis() {
    let Some(redis) = Redis::start() else {
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
