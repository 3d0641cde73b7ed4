//! `examples/kvnode` from outside: real processes, talked to over TCP.

#[path = "support/kvnode.rs"]
mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use support::{Server, binary, encode, is_installed};

/// Runs a script of requests and the replies they must get, `\r\n` written as a blank between the lines.
fn script(server: &Server, lines: &[(&str, &str)]) {
    let mut client = server.connect();
    for (request, expected) in lines {
        let reply = client.ask(request);
        assert_eq!(
            reply
                .strip_suffix("\r\n")
                .unwrap_or(&reply)
                .replace("\r\n", " "),
            *expected,
            "in reply to {request}"
        );
    }
}

#[test]
fn strings_behave_as_with_redis() {
    script(
        &Server::start(&[]),
        &[
            ("GET k", "$-1"),
            ("SET k v", "+OK"),
            ("get k", "$1 v"),
            ("SET k w NX", "$-1"),
            ("SET k w XX", "+OK"),
            ("SET m w XX", "$-1"),
            ("SET k x GET", "$1 w"),
            ("SET n x NX GET", "$-1"),
            ("SET n y NX GET", "$1 x"),
            ("SET k v NX XX", "-ERR syntax error"),
            ("SET k v EX 10 PX 10", "-ERR syntax error"),
            ("SET k v EX 10 KEEPTTL", "-ERR syntax error"),
            ("SET k v EX", "-ERR syntax error"),
            ("SET k v FOO", "-ERR syntax error"),
            ("SET k v EX 0", "-ERR invalid expire time in 'set' command"),
            ("SET k v PX -1", "-ERR invalid expire time in 'set' command"),
            (
                "SET k v EX x",
                "-ERR value is not an integer or out of range",
            ),
            (
                "SET k v EX 9223372036854775807",
                "-ERR invalid expire time in 'set' command",
            ),
            ("SET k v EX 100", "+OK"),
            ("TTL k", ":100"),
            ("SET k w KEEPTTL", "+OK"),
            ("TTL k", ":100"),
            ("SET k w", "+OK"),
            ("TTL k", ":-1"),
            ("SET k w PXAT 4102444800000", "+OK"),
            ("PEXPIRETIME k", ":4102444800000"),
            ("SET k w EXAT 4102444800", "+OK"),
            ("EXPIRETIME k", ":4102444800"),
            ("SET k w PXAT 1", "+OK"),
            ("GET k", "$-1"),
            ("SETEX k 100 v", "+OK"),
            ("SETEX k 0 v", "-ERR invalid expire time in 'setex' command"),
            ("PSETEX k 100000 v", "+OK"),
            ("TTL k", ":100"),
            ("SETNX k v", ":0"),
            ("SETNX fresh v", ":1"),
            ("GETSET fresh w", "$1 v"),
            ("GETSET missing w", "$-1"),
            ("GETDEL fresh", "$1 w"),
            ("GETDEL fresh", "$-1"),
            ("GETEX k", "$1 v"),
            ("TTL k", ":100"),
            ("GETEX k PERSIST", "$1 v"),
            ("TTL k", ":-1"),
            ("GETEX k EX 50", "$1 v"),
            ("TTL k", ":50"),
            (
                "GETEX k EX 0",
                "-ERR invalid expire time in 'getex' command",
            ),
            ("GETEX nokey EX 0", "$-1"),
            ("GETEX k EX 10 PERSIST", "-ERR syntax error"),
            ("GETEX k PXAT 1", "$1 v"),
            ("EXISTS k", ":0"),
            ("APPEND a Hello", ":5"),
            ("APPEND a World", ":10"),
            ("STRLEN a", ":10"),
            ("STRLEN nokey", ":0"),
            ("GETRANGE a 0 4", "$5 Hello"),
            ("GETRANGE a -5 -1", "$5 World"),
            ("SUBSTR a 8 100", "$2 ld"),
            ("GETRANGE a 5 1", "$0 "),
            (
                "GETRANGE a x 1",
                "-ERR value is not an integer or out of range",
            ),
            ("SETRANGE a 5 Redis", ":10"),
            ("GET a", "$10 HelloRedis"),
            ("SETRANGE a -1 x", "-ERR offset is out of range"),
            (
                "SETRANGE a 536870912 x",
                "-ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            ),
            (
                "SETRANGE a 9223372036854775807 x",
                "-ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            ),
            ("SETRANGE pad 3 x", ":4"),
            ("GET pad", "$4 \0\0\0x"),
            ("SETRANGE none 3 ", ":0"),
            ("EXISTS none", ":0"),
            ("MSET x 1 y 2", "+OK"),
            ("MGET x nokey y", "*3 $1 1 $-1 $1 2"),
            (
                "MSET x",
                "-ERR wrong number of arguments for 'mset' command",
            ),
            (
                "MSET x 1 y",
                "-ERR wrong number of arguments for 'mset' command",
            ),
            ("MSETNX x 5 z 3", ":0"),
            ("MSETNX z 3 zz 4", ":1"),
            ("INCR x", ":2"),
            ("INCRBY x 40", ":42"),
            ("DECR x", ":41"),
            ("DECRBY x 41", ":0"),
            ("GET x", "$1 0"),
            ("INCR counter", ":1"),
            ("INCR a", "-ERR value is not an integer or out of range"),
            (
                "INCRBY x 1.5",
                "-ERR value is not an integer or out of range",
            ),
            ("SET big 9223372036854775807", "+OK"),
            ("INCR big", "-ERR increment or decrement would overflow"),
            (
                "DECRBY big -9223372036854775808",
                "-ERR decrement would overflow",
            ),
            ("GET big", "$19 9223372036854775807"),
        ],
    );
}

#[test]
fn keys_behave_as_with_redis() {
    script(
        &Server::start(&[]),
        &[
            ("DBSIZE", ":0"),
            ("MSET a 1 b 2 c 3", "+OK"),
            ("DBSIZE", ":3"),
            ("EXISTS a b nokey a", ":3"),
            ("TOUCH a nokey", ":1"),
            ("TYPE a", "+string"),
            ("TYPE nokey", "+none"),
            ("DEL a nokey a", ":1"),
            ("UNLINK b", ":1"),
            ("TTL nokey", ":-2"),
            ("PTTL c", ":-1"),
            ("EXPIRETIME nokey", ":-2"),
            ("PEXPIRETIME c", ":-1"),
            ("EXPIRE c 100", ":1"),
            ("TTL c", ":100"),
            ("EXPIRE nokey 100", ":0"),
            ("EXPIRE c 200 NX", ":0"),
            ("EXPIRE c 200 XX", ":1"),
            ("EXPIRE c 100 GT", ":0"),
            ("EXPIRE c 300 GT", ":1"),
            ("EXPIRE c 400 LT", ":0"),
            ("EXPIRE c 50 XX LT", ":1"),
            ("TTL c", ":50"),
            (
                "EXPIRE c 50 NX GT",
                "-ERR NX and XX, GT or LT options at the same time are not compatible",
            ),
            (
                "EXPIRE c 50 GT LT",
                "-ERR GT and LT options at the same time are not compatible",
            ),
            ("EXPIRE c 50 FOO", "-ERR Unsupported option FOO"),
            ("EXPIRE c x", "-ERR value is not an integer or out of range"),
            (
                "EXPIRE c 9223372036854775807",
                "-ERR invalid expire time in 'expire' command",
            ),
            ("PERSIST c", ":1"),
            ("PERSIST c", ":0"),
            ("PEXPIRE c 100000", ":1"),
            ("TTL c", ":100"),
            ("PEXPIREAT c 4102444800000", ":1"),
            ("EXPIREAT c 4102444801", ":1"),
            ("PEXPIRETIME c", ":4102444801000"),
            ("EXPIRE c -1", ":1"),
            ("EXISTS c", ":0"),
            ("SET a 1", "+OK"),
            ("FLUSHDB", "+OK"),
            ("DBSIZE", ":0"),
            ("SET a 1", "+OK"),
            ("FLUSHALL ASYNC", "+OK"),
            ("FLUSHALL SYNC", "+OK"),
            ("FLUSHALL NOW", "-ERR syntax error"),
            ("DBSIZE", ":0"),
        ],
    );
}

#[test]
fn connection_and_server_commands_answer_as_with_redis() {
    script(
        &Server::start(&["--max-clients", "77"]),
        &[
            ("PING", "+PONG"),
            ("ping hello", "$5 hello"),
            (
                "PING a b",
                "-ERR wrong number of arguments for 'ping' command",
            ),
            ("ECHO hello", "$5 hello"),
            ("ECHO", "-ERR wrong number of arguments for 'echo' command"),
            ("SELECT 0", "+OK"),
            ("SELECT 1", "-ERR DB index is out of range"),
            ("SELECT x", "-ERR value is not an integer or out of range"),
            (
                "HELLO 3",
                "-ERR unknown command 'HELLO', with args beginning with: '3' ",
            ),
            (
                "nosuch a b",
                "-ERR unknown command 'nosuch', with args beginning with: 'a' 'b' ",
            ),
            ("CONFIG GET save", "*2 $4 save $0 "),
            ("CONFIG GET appendonly", "*2 $10 appendonly $2 no"),
            (
                "CONFIG GET MAXCL?ENTS data*",
                "*4 $9 databases $1 1 $10 maxclients $2 77",
            ),
            ("CONFIG GET nosuch", "*0"),
            (
                "CONFIG",
                "-ERR wrong number of arguments for 'config' command",
            ),
            (
                "CONFIG FOO",
                "-ERR unknown subcommand 'FOO'. Try CONFIG HELP.",
            ),
            ("COMMAND DOCS", "*0"),
            (
                "COMMAND INFO get nosuch",
                "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *0 *0 *0 *0 $-1",
            ),
            ("CLIENT ID", ":1"),
            ("CLIENT GETNAME", "$-1"),
            ("CLIENT SETNAME tester", "+OK"),
            ("CLIENT GETNAME", "$6 tester"),
            (
                "CLIENT SETNAME a\nb",
                "-ERR Client names cannot contain spaces, newlines or special characters.",
            ),
            (
                "CLIENT SETNAME",
                "-ERR wrong number of arguments for 'client|setname' command",
            ),
            ("CLIENT SETINFO LIB-NAME rust", "+OK"),
            ("CLIENT SETINFO FOO rust", "-ERR Unrecognized option 'FOO'"),
            ("CLIENT NO-EVICT on", "+OK"),
            ("CLIENT NO-EVICT maybe", "-ERR syntax error"),
            ("CLIENT LIST ID x", "-ERR Invalid client ID"),
            ("CLIENT LIST TYPE pubsub", "$0 "),
            (
                "CLIENT FOO",
                "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.",
            ),
            ("RESET", "+RESET"),
            ("CLIENT GETNAME", "$-1"),
            ("SHUTDOWN ABORT", "-ERR No shutdown in progress."),
            ("SHUTDOWN FOO", "-ERR syntax error"),
            ("QUIT", "+OK"),
        ],
    );
}

#[test]
fn info_and_client_list_show_what_goes_on() {
    let server = Server::start(&["--io-threads", "2"]);
    let mut one = server.connect();
    let mut two = server.connect();
    assert_eq!(one.ask("CLIENT SETNAME one"), "+OK\r\n");
    assert_eq!(two.ask("CLIENT SETNAME two"), "+OK\r\n");
    assert_eq!(two.ask("SET a 1 EX 100"), "+OK\r\n");
    assert_eq!(two.ask("GET a"), "$1\r\n1\r\n");
    assert_eq!(two.ask("GET b"), "$-1\r\n");
    let list = one.ask("CLIENT LIST");
    assert!(
        list.contains("id=1 addr=127.0.0.1:") && list.contains(" name=one "),
        "{list}"
    );
    assert!(
        list.contains(" name=two ") && list.contains(" cmd=get "),
        "{list}"
    );
    assert!(one.ask("CLIENT INFO").contains(" cmd=client|info "));
    let info = one.ask("INFO");
    for line in [
        "# Server\r\nredis_version:7.0.15\r\n",
        "\r\n\r\n# Clients\r\nconnected_clients:2\r\n",
        "keyspace_hits:1\r\nkeyspace_misses:1\r\n",
        "# Keyspace\r\ndb0:keys=1,avg_ttl=0",
    ] {
        assert!(info.contains(line), "{line:?} is not in {info}");
    }
    let keyspace = one.ask("INFO keyspace");
    assert!(
        keyspace.contains("# Keyspace") && !keyspace.contains("# Server"),
        "{keyspace}"
    );
    let count = one.ask("COMMAND COUNT");
    let all = one.ask("COMMAND");
    assert!(
        all.starts_with(&format!("*{}", &count[1..])),
        "{count} {all}"
    );
    assert!(one.ask("CLIENT HELP").contains("+SETNAME\r\n"));
}

#[test]
fn keys_expire() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    assert_eq!(client.ask("SET k v PX 20"), "+OK\r\n");
    assert_eq!(client.ask("SET n 1 PX 20"), "+OK\r\n");
    // Not to win a race, but for the time to pass that the test is about.
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!(client.ask("GET k"), "$-1\r\n");
    assert_eq!(client.ask("TTL k"), ":-2\r\n");
    assert_eq!(client.ask("EXISTS k"), ":0\r\n");
    assert_eq!(client.ask("APPEND k x"), ":1\r\n");
    assert_eq!(client.ask("TTL k"), ":-1\r\n");
    assert_eq!(client.ask("INCR n"), ":1\r\n");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut burst = Vec::new();
    for number in 0..10_000 {
        burst.extend_from_slice(&encode(&["ECHO", &number.to_string()]));
    }
    let mut writer = server.connect();
    assert_eq!(writer.ask("PING"), "+PONG\r\n");
    std::thread::scope(|scope| {
        let client = &mut client;
        // Alternately, so that neither side has to buffer it all.
        scope.spawn(move || {
            for chunk in burst.chunks(10_000) {
                client.send(chunk);
            }
            for number in 0..10_000 {
                let number = number.to_string();
                assert_eq!(
                    client.reply(),
                    format!("${}\r\n{number}\r\n", number.len()).as_bytes()
                );
            }
        });
    });
}

#[test]
fn inline_requests_and_arrays_mix() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.send(b"PING\r\n*1\r\n$4\r\nPING\r\n\r\n*0\r\nSET 'a b' \"c\\n\"\nGET 'a b'\r\n");
    for expected in ["+PONG\r\n", "+PONG\r\n", "+OK\r\n", "$2\r\nc\n\r\n"] {
        assert_eq!(client.reply(), expected.as_bytes());
    }
}

#[test]
fn a_request_may_arrive_in_any_pieces() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for byte in encode(&["SET", "key", "value"]) {
        client.send(&[byte]);
    }
    assert_eq!(client.reply(), b"+OK\r\n");
    // A complete request and half of the next one: the first is answered at once.
    let (get, ping) = (encode(&["GET", "key"]), encode(&["PING"]));
    client.send(&[&get[..], &ping[..5]].concat());
    assert_eq!(client.reply(), b"$5\r\nvalue\r\n");
    client.send(&ping[5..]);
    assert_eq!(client.reply(), b"+PONG\r\n");
}

#[test]
fn large_values_pass_whole() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let value: Vec<u8> = (0..20_000_000u32)
        .map(|number| (number % 251) as u8)
        .collect();
    assert_eq!(client.call(&[b"SET", &b"big"[..], &value]), b"+OK\r\n");
    let reply = client.call(&["GET", "big"]);
    assert_eq!(&reply[..11], b"$20000000\r\n");
    assert!(reply[11..] == *[&value[..], b"\r\n"].concat());
    assert_eq!(client.ask("PING"), "+PONG\r\n");
}

#[test]
fn nonsense_is_answered_with_an_error_and_the_end_and_hurts_nobody_else() {
    let server = Server::start(&[]);
    let mut witness = server.connect();
    let long = [b'a'; 70_000];
    let nonsense: &[(&[u8], &str)] = &[
        (b"*x\r\n", "invalid multibulk length"),
        (b"*99999999999999999999\r\n", "invalid multibulk length"),
        (b"*2147483647\r\n", "invalid multibulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$9223372036854775807\r\n", "invalid bulk length"),
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n", "expected '$', got '*'"),
        (
            b"*1\r\n$3\r\nPINGPING\r\n",
            "expected CRLF after bulk string",
        ),
        (b"GET \"abc\r\n", "unbalanced quotes in request"),
        (&long, "too big inline request"),
    ];
    for (bytes, text) in nonsense {
        let mut client = server.connect();
        client.send(b"PING\r\n");
        assert_eq!(client.reply(), b"+PONG\r\n");
        // With a request before it, which must be answered, and one after it, which must not.
        let mut all = b"PING\r\n".to_vec();
        all.extend_from_slice(bytes);
        let _ = client.try_send(&all);
        let rest = client.rest();
        assert_eq!(
            String::from_utf8_lossy(&rest),
            format!("+PONG\r\n-ERR Protocol error: {text}\r\n")
        );
        assert_eq!(witness.ask("PING"), "+PONG\r\n");
    }
}

#[test]
fn announcing_much_and_sending_little_costs_the_server_nothing() {
    let server = Server::start(&["--io-threads", "1"]);
    let mut clients: Vec<_> = (0..100).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(b"*1048576\r\n$536870912\r\nabc");
    }
    let mut witness = server.connect();
    let list = witness.ask("CLIENT LIST");
    let held: Vec<usize> = fields(&list, "tot-mem")
        .iter()
        .map(|held| held.parse().expect("a number"))
        .collect();
    assert_eq!(held.len(), 101);
    assert!(held.iter().all(|&held| held < 10_000), "{held:?}");
}

/// One field of every line of `CLIENT LIST`.
fn fields<'a>(list: &'a str, name: &str) -> Vec<&'a str> {
    list.lines()
        .filter_map(|line| {
            line.split(' ')
                .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
        })
        .collect()
}

#[test]
fn a_client_stuck_in_the_middle_of_a_request_is_timed_out_and_an_idle_one_is_not() {
    let server = Server::start(&["--stall-timeout", "1"]);
    let mut idle = server.connect();
    assert_eq!(idle.ask("PING"), "+PONG\r\n");
    let mut stuck = server.connect();
    stuck.send(b"*2\r\n$4\r\nECHO\r\n$10\r\nabc");
    let text = String::from_utf8(stuck.rest()).expect("text");
    assert_eq!(
        text,
        "-ERR Protocol error: timed out in the middle of a request\r\n"
    );
    assert_eq!(idle.ask("PING"), "+PONG\r\n");
    assert!(
        idle.ask("INFO stats")
            .contains("stalled_client_disconnections:1\r\n")
    );
}

#[test]
fn a_client_that_does_not_read_is_held_up_and_gets_everything_once_it_does() {
    let server = Server::start(&["--io-threads", "1"]);
    let mut witness = server.connect();
    let value = vec![b'v'; 100_000];
    assert_eq!(witness.call(&[b"SET", &b"k"[..], &value]), b"+OK\r\n");
    let mut slow = server.connect();
    let requests = 2_000;
    slow.send(&encode(&["GET", "k"]).repeat(requests));
    // 200 MB of replies are owed by now. The thread takes events in order, so it has dealt with the burst before this.
    let list = witness.ask("CLIENT LIST");
    let held: Vec<usize> = fields(&list, "tot-mem")
        .iter()
        .map(|held| held.parse().expect("a number"))
        .collect();
    assert!(held.iter().all(|&held| held < 2_000_000), "{held:?}");
    let expected = [b"$100000\r\n", &value[..], b"\r\n"].concat();
    for _ in 0..requests {
        assert!(slow.reply() == expected);
    }
    assert_eq!(slow.ask("PING"), "+PONG\r\n");
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let server = Server::start(&["--stall-timeout", "1"]);
    let mut witness = server.connect();
    assert_eq!(
        witness.call(&[b"SET", &b"k"[..], &vec![b'v'; 1_000_000]]),
        b"+OK\r\n"
    );
    let mut slow = server.connect();
    slow.send(&encode(&["GET", "k"]).repeat(1_000));
    // The server's own clock decides; a second client's stall is timed after the first one's.
    let mut later = server.connect();
    later.send(b"*1\r\n$4\r\nPI");
    assert!(!later.rest().is_empty());
    assert!(slow.rest().len() < 1_000_000_000);
    assert!(
        witness
            .ask("INFO stats")
            .contains("stalled_client_disconnections:2\r\n")
    );
}

#[test]
fn beyond_max_clients_there_is_a_clear_error_and_a_place_comes_back() {
    let server = Server::start(&["--max-clients", "2"]);
    let mut one = server.connect();
    let mut two = server.connect();
    assert_eq!(one.ask("PING"), "+PONG\r\n");
    assert_eq!(two.ask("PING"), "+PONG\r\n");
    for _ in 0..3 {
        let mut third = server.connect();
        assert_eq!(third.rest(), b"-ERR max number of clients reached\r\n");
    }
    assert_eq!(one.ask("QUIT"), "+OK\r\n");
    assert!(one.rest().is_empty());
    let mut third = server.connect();
    assert_eq!(third.ask("PING"), "+PONG\r\n");
    assert!(two.ask("INFO").contains("connected_clients:2\r\n"));
    assert!(two.ask("INFO").contains("rejected_connections:3\r\n"));
}

#[test]
fn many_clients_on_several_threads_lose_no_increment() {
    let server = Server::start(&["--io-threads", "4"]);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..50 {
                    client.send(&encode(&["INCR", "n"]).repeat(10));
                    for _ in 0..10 {
                        assert!(client.reply().starts_with(b":"));
                    }
                }
            });
        }
    });
    assert_eq!(server.connect().ask("GET n"), "$5\r\n10000\r\n");
}

#[test]
fn signals_end_it_cleanly_and_no_reply_is_lost() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(&["--io-threads", "2"]);
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        let mut slow = server.connect();
        assert_eq!(
            slow.call(&[b"SET", &b"big"[..], &vec![b'v'; 100_000]]),
            b"+OK\r\n"
        );
        let idle = server.connect();
        let requests = 1_000;
        for client in &mut clients {
            client.send(&encode(&["INCR", "n"]).repeat(requests));
        }
        slow.send(&encode(&["GET", "big"]).repeat(200));
        server.signal(signal);
        for client in &mut clients {
            let replies = client.rest();
            assert_eq!(
                replies.iter().filter(|&&byte| byte == b':').count(),
                requests
            );
            assert!(replies.ends_with(b"\r\n"));
        }
        assert_eq!(slow.rest().len(), 200 * (100_000 + 11));
        let (status, _) = server.wait();
        assert_eq!(status.code(), Some(0), "{status}");
        drop(idle);
    }
}

#[test]
fn a_half_received_request_does_not_keep_it_from_ending() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.send(b"PING\r\n*1\r\n$4\r\nPI");
    server.signal(Signal::TERM);
    assert_eq!(client.rest(), b"+PONG\r\n");
    assert_eq!(server.wait().0.code(), Some(0));
}

#[test]
fn shutdown_ends_it_cleanly() {
    let server = Server::start(&[]);
    let mut other = server.connect();
    assert_eq!(other.ask("PING"), "+PONG\r\n");
    let mut client = server.connect();
    client.send(
        &[
            encode(&["PING"]),
            encode(&["SHUTDOWN", "NOSAVE"]),
            encode(&["PING"]),
        ]
        .concat(),
    );
    assert_eq!(client.rest(), b"+PONG\r\n");
    assert!(other.rest().is_empty());
    assert_eq!(server.wait().0.code(), Some(0));
}

#[test]
fn an_idle_server_does_not_wake_up() {
    let server = Server::start(&["--stall-timeout", "1", "--io-threads", "2"]);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        // A stall that ends leaves no timer behind.
        client.send(b"*1\r\n$4\r\nPI");
        client.send(b"NG\r\n");
        assert_eq!(client.reply(), b"+PONG\r\n");
    }
    // The time is what is looked at: first for the server to have gone to sleep, then for it to stay so beyond its
    // stall-timeout.
    let window = Duration::from_millis(1_200);
    std::thread::sleep(window);
    let before = switches(server.pid());
    std::thread::sleep(window);
    assert_eq!(switches(server.pid()), before);
    assert_eq!(clients[0].ask("PING"), "+PONG\r\n");
}

/// How often each thread of a process has gone to sleep.
fn switches(pid: u32) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc");
    let mut switches: Vec<_> = tasks
        .map(|task| {
            let status =
                std::fs::read_to_string(task.expect("task").path().join("status")).expect("status");
            let field = |name| {
                status
                    .lines()
                    .find(|line| line.starts_with(name))
                    .unwrap_or_default()
                    .to_owned()
            };
            (field("Name:"), field("voluntary_ctxt_switches:"))
        })
        .collect();
    switches.sort();
    switches
}

#[test]
fn it_says_what_to_type_next() {
    let server = Server::start(&["--io-threads", "2"]);
    let port = server.port();
    server.connect().send(&encode(&["SHUTDOWN"]));
    let (_, output) = server.wait();
    assert!(output.contains("I/O threads: 2"), "{output}");
    assert!(output.contains(&format!("redis-cli -p {port}")), "{output}");
    assert!(
        output.contains(&format!("redis-benchmark -p {port} ")),
        "{output}"
    );
}

#[test]
fn bad_arguments_are_explained() {
    for (args, text) in [
        (
            &["--port", "x"][..],
            "--port takes a number from 0 to 65535, not 'x'",
        ),
        (&["--port"], "missing argument for option '--port'"),
        (
            &["--bind", "localhost"],
            "--bind takes an IP address such as 127.0.0.1 or ::1, not 'localhost'",
        ),
        (
            &["--io-threads", "0"],
            "--io-threads takes a number from 1 to 256, not '0'",
        ),
        (&["--frobnicate"], "invalid option '--frobnicate'"),
        (&["extra"], "unexpected argument \"extra\""),
    ] {
        let output = Command::new(binary())
            .args(args)
            .output()
            .expect("run kvnode");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            stderr.contains(text) && stderr.contains("kvnode --help"),
            "{stderr}"
        );
    }
    let help = Command::new(binary())
        .arg("--help")
        .output()
        .expect("run kvnode");
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("--max-clients"));
}

#[test]
fn a_port_in_use_is_explained() {
    let server = Server::start(&[]);
    let output = Command::new(binary())
        .args(["--port", &server.port()])
        .output()
        .expect("run kvnode");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains(&format!(
            "cannot listen on 127.0.0.1 port {}",
            server.port()
        )),
        "{stderr}"
    );
}

#[test]
fn redis_cli_works() {
    if !is_installed("redis-cli") {
        return;
    }
    let server = Server::start(&[]);
    let cli = |args: &[&str]| {
        let output = Command::new("redis-cli")
            .args(["-p", &server.port()])
            .args(args)
            .output()
            .expect("run redis-cli");
        assert!(output.status.success(), "{args:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(cli(&["set", "greeting", "hello world"]), "OK\n");
    assert_eq!(cli(&["get", "greeting"]), "hello world\n");
    assert_eq!(cli(&["-r", "3", "incr", "n"]), "1\n2\n3\n");
    assert_eq!(cli(&["mget", "greeting", "nokey"]), "hello world\n\n");
    assert!(cli(&["info"]).contains("redis_version:7.0.15"));
    // As an interactive session starts: it asks for HELLO and COMMAND DOCS and takes no for an answer.
    assert_eq!(
        cli(&["-3", "--raw", "get", "greeting"]).lines().last(),
        Some("hello world")
    );
    let mut session = Command::new("redis-cli")
        .args(["-p", &server.port()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run redis-cli");
    let mut stdin = session.stdin.take().expect("piped");
    std::io::Write::write_all(
        &mut stdin,
        b"set a 1\nincrby a 41\nttl a\nget a\ntype a\ndel a\nquit\n",
    )
    .expect("type");
    drop(stdin);
    let output = session.wait_with_output().expect("redis-cli");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "OK\n42\n-1\n42\nstring\n1\n"
    );
}

#[test]
fn redis_benchmark_runs_clean() {
    if !is_installed("redis-benchmark") {
        return;
    }
    let server = Server::start(&[]);
    for pipeline in ["1", "16"] {
        let output = Command::new("redis-benchmark")
            .args([
                "-p",
                &server.port(),
                "-t",
                "ping,set,get,incr,mset",
                "-n",
                "20000",
                "-P",
                pipeline,
                "-r",
                "1000",
            ])
            .arg("--csv")
            .output()
            .expect("run redis-benchmark");
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{stdout}{stderr}");
        assert!(stdout.contains("\"INCR\""), "{stdout}");
        assert!(
            !stdout.contains("rror") && !stderr.contains("rror") && !stderr.contains("WARN"),
            "{stdout}{stderr}"
        );
    }
    assert!(
        server
            .connect()
            .ask("INFO stats")
            .contains("total_error_replies:0\r\n")
    );
}
