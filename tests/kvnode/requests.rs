//! Requests to send to two servers, for their replies to be compared.

use crate::random::Random;

pub(crate) type Request = Vec<Vec<u8>>;

/// A request written as words with single blanks between them.
pub(crate) fn request(line: &str) -> Request {
    line.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

pub(crate) const KEYS: [&[u8]; 6] = [b"a", b"b", b"c", b"key", b"", b"\x00\xff\r\n"];

/// What a state is made of: every key's type, deadline and value, and which keys there are. Each
/// key is written to first, without effect: both servers count expired keys until they come across
/// them, Redis with any command, kvnode with a write.
pub(crate) fn state() -> Vec<Request> {
    let mut requests = Vec::new();
    for key in KEYS {
        let mut on_key = |name: &[u8], rest: &[&[u8]]| {
            let words = [name, key].into_iter().chain(rest.iter().copied());
            requests.push(words.map(<[u8]>::to_vec).collect());
        };
        on_key(b"SETRANGE", &[b"0", b""]);
        on_key(b"TYPE", &[]);
        on_key(b"PEXPIRETIME", &[]);
        on_key(b"GET", &[]);
        on_key(b"LRANGE", &[b"0", b"-1"]);
    }
    requests.push(request("KEYS *"));
    requests.push(request("DBSIZE"));
    requests
}

/// A transaction: what is queued may be wrong, may block elsewhere, may be thrown away.
pub(crate) fn random_transaction(random: &mut Random) -> Vec<Request> {
    let mut requests = vec![request("MULTI")];
    for _ in 0..random.below(8) {
        requests.push(match random.below(24) {
            0 => request("DBSIZE"),
            1 if random.below(4) == 0 => request("FLUSHALL"),
            2 => request("MULTI"),
            3 => request("WATCH a"),
            4 => request("UNWATCH"),
            5..8 => {
                let timeout = TIMEOUTS[random.below(TIMEOUTS.len())];
                random_blocking(random, &KEYS, timeout)
            }
            _ => random_request(random),
        });
        if requests.last() == Some(&request("DBSIZE")) {
            let state = state();
            requests.pop();
            // Expired keys count until a write comes across them.
            requests.extend(
                state
                    .into_iter()
                    .filter(|request| request[0] == b"SETRANGE"),
            );
            requests.push(request("DBSIZE"));
        }
    }
    requests.push(request(match random.below(12) {
        0 => "DISCARD",
        1 => "EXEC x",
        _ => "EXEC",
    }));
    requests
}

/// A command that waits for an element in a list if it finds none.
pub(crate) fn random_blocking(random: &mut Random, keys: &[&[u8]], timeout: &str) -> Request {
    let key = |random: &mut Random| keys[random.below(keys.len())].to_vec();
    let end = |random: &mut Random| [b"LEFT".to_vec(), b"right".to_vec()][random.below(2)].clone();
    let timeout = timeout.as_bytes().to_vec();
    match random.below(6) {
        name @ (0 | 1) => {
            let mut request = vec![[b"BLPOP".to_vec(), b"BRPOP".to_vec()][name].clone()];
            request.extend((0..random.below(3) + 1).map(|_| key(random)));
            request.push(timeout);
            request
        }
        2 | 3 => {
            let (from, to) = (key(random), key(random));
            vec![
                b"BLMOVE".to_vec(),
                from,
                to,
                end(random),
                end(random),
                timeout,
            ]
        }
        4 => vec![b"BRPOPLPUSH".to_vec(), key(random), key(random), timeout],
        _ => {
            let count = random.below(3) + 1;
            let mut request = vec![b"BLMPOP".to_vec(), timeout, count.to_string().into_bytes()];
            request.extend((0..count).map(|_| key(random)));
            request.push(end(random));
            if random.below(2) == 0 {
                request.push(b"COUNT".to_vec());
                request.push((random.below(4) + 1).to_string().into_bytes());
            }
            request
        }
    }
}

/// What is no integer, or hardly one.
const ODD_NUMBERS: [&str; 16] = [
    "x",
    "",
    "+1",
    "01",
    " 1",
    "1 ",
    "-0",
    "1.0",
    "1e1",
    "0x1",
    "--1",
    "-",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "18446744073709551616",
];

/// What is no floating-point number, or hardly one.
const ODD_FLOATS: [&str; 24] = [
    "inf", "-inf", "Infinity", "nan", "-nan", "x", "", " 1", "1 ", "1e4000", "1e-4960", "0x10",
    "0x.8p1", "0x", "1.", ".5", ".", "-0", "+5", "1_0", "1,5", "1e", "5e-324", "1e18",
];

/// Time-outs, right and wrong, for where nobody waits.
const TIMEOUTS: [&str; 21] = [
    "0",
    "1",
    "0.5",
    "-1",
    "-0",
    "-0.0001",
    "x",
    "",
    " 1",
    "1 ",
    "inf",
    "-inf",
    "nan",
    "1e3",
    "1e15",
    "1e16",
    "1e400",
    "1e-400",
    ".5",
    "1.",
    "9223372036854775807",
];

/// Any command on the [`KEYS`], mostly right, now and then with an argument too many or too few.
pub(crate) fn random_request(random: &mut Random) -> Request {
    const COMMANDS: [(&str, &str); 82] = [
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
        ("INCRBYFLOAT", "kf"),
        ("RENAME", "kk"),
        ("RENAMENX", "kk"),
        ("KEYS", "y"),
        ("SCAN", "z"),
        ("SCAN", "z"),
        ("LPUSH", "kee"),
        ("RPUSH", "keee"),
        ("RPUSH", "keeeeeeee"),
        ("LPUSHX", "ke"),
        ("RPUSHX", "kee"),
        ("LPOP", "k"),
        ("RPOP", "k"),
        ("LPOP", "ki"),
        ("RPOP", "ki"),
        ("LLEN", "k"),
        ("LINDEX", "ki"),
        ("LSET", "kie"),
        ("LINSERT", "kwee"),
        ("LREM", "kie"),
        ("LTRIM", "kii"),
        ("LRANGE", "kii"),
        ("LRANGE", "kii"),
        ("LPOS", "ke"),
        ("LPOS", "kep"),
        ("LPOS", "kepp"),
        ("LMOVE", "kkll"),
        ("RPOPLPUSH", "kk"),
        ("LMPOP", "q"),
        ("SUBSTR", "koo"),
        ("TOUCH", "kk"),
        ("EXPIRE", "ktc"),
        ("PEXPIRE", "ktc"),
        ("EXPIREAT", "kacc"),
        ("GETEX", "kg"),
        ("MGET", "kk"),
        ("LINDEX", "kI"),
        ("LRANGE", "kII"),
        ("LPOS", "keppp"),
        ("LREM", "kIe"),
        ("RPUSH", "kL"),
        ("PING", ""),
        ("ECHO", "v"),
        ("SELECT", "i"),
        ("NOSUCHCOMMAND", "vvv"),
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
    match random.below(60) {
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
                    "5.0e3",
                    "0x1F",
                    "1e4931",
                    "-9223372036854775809",
                    "inf",
                ][random.below(10)]
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
            1 => push(ODD_NUMBERS[random.below(ODD_NUMBERS.len())].to_owned()),
            2 => push(random.next().to_string()),
            _ => push((random.below(200) as i64 - 100).to_string()),
        },
        'f' => match random.below(8) {
            0 => push(ODD_FLOATS[random.below(ODD_FLOATS.len())].to_owned()),
            1 => push(format!(
                "{}e{}",
                random.below(100),
                random.below(40) as i64 - 20
            )),
            _ => push(format!(
                "{}.{}",
                random.below(200) as i64 - 100,
                random.below(1000)
            )),
        },
        'o' => match random.below(20) {
            0 => push(ODD_NUMBERS[random.below(ODD_NUMBERS.len())].to_owned()),
            1 => push("600000000".to_owned()),
            _ => push((random.below(60) as i64 - 20).to_string()),
        },
        // From now on: far enough away, or past; nothing is to expire while the test runs. No two
        // are so near, whether seconds or milliseconds, that the moments at which the servers look
        // at their clocks decide which of two is later.
        't' => match random.below(8) {
            0 => push(["0", "-1", "-1000"][random.below(3)].to_owned()),
            1 => push(ODD_NUMBERS[random.below(ODD_NUMBERS.len())].to_owned()),
            _ => push((1_000_000 + random.below(1 << 30) * 100_000).to_string()),
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
        'e' => match random.below(8) {
            0 => random_argument(random, 'v', request),
            _ => push(["a", "b", "c", "d"][random.below(4)].to_owned()),
        },
        'i' => match random.below(20) {
            0 => push("-9223372036854775807".to_owned()),
            1 => push(ODD_NUMBERS[random.below(ODD_NUMBERS.len())].to_owned()),
            _ => push((random.below(12) as i64 - 5).to_string()),
        },
        // Places in a list, now and then out of all proportion.
        'I' => match random.below(6) {
            0 => push(
                [
                    "9223372036854775807",
                    "-9223372036854775808",
                    "-9223372036854775807",
                    "4294967296",
                    "-2147483649",
                    "9223372036854775808",
                    "-1",
                    "0",
                ][random.below(8)]
                .to_owned(),
            ),
            _ => push((random.below(400) as i64 - 200).to_string()),
        },
        // Mostly a few elements, now and then so many that a list has several chunks.
        'L' => {
            let elements = [3, 3, 3, 300][random.below(4)];
            for _ in 0..elements {
                random_argument(random, 'e', request);
            }
        }
        'y' => push(
            [
                "*", "?", "a*", "[a-c]", "[^a]", "k?y", "*y", "k[d-f]*", "\\a", "[", "", "a[",
                "[a-", "**a",
            ][random.below(14)]
            .to_owned(),
        ),
        // With so high a count that all is found at once.
        'z' => {
            push("0".to_owned());
            push("COUNT".to_owned());
            push(["100000", "100000", "100000", "x", "0"][random.below(20) / 4].to_owned());
            if random.below(2) == 0 {
                push("match".to_owned());
                random_argument(random, 'y', request);
            }
            if random.below(3) == 0 {
                request.push(b"TYPE".to_vec());
                request.push([&b"list"[..], b"String", b"hash"][random.below(3)].to_vec());
            }
        }
        'w' => push(["BEFORE", "after", "x"][random.below(20) % 11 / 5].to_owned()),
        'l' => push(["LEFT", "right", "LEFT", "x"][random.below(16) / 5].to_owned()),
        'p' => {
            push(["RANK", "count", "MAXLEN", "x"][random.below(16) / 5].to_owned());
            random_argument(random, 'i', request);
        }
        // numkeys key … LEFT|RIGHT [COUNT count]
        'q' => {
            let keys = random.below(4);
            push(keys.to_string());
            for _ in 0..keys + random.below(20) / 19 {
                random_argument(random, 'k', request);
            }
            random_argument(random, 'l', request);
            if random.below(2) == 0 {
                request.push(b"COUNT".to_vec());
                random_argument(random, 'i', request);
            }
        }
        other => unreachable!("no such kind of argument: {other}"),
    }
}
