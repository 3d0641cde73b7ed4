//! Every command, by script: what it is asked and what it answers.

use std::time::Duration;

use crate::support::{Server, encode};

/// Runs a script of requests and the replies they must get, `\r\n` written as a blank between the
/// lines.
fn script(server: &Server, lines: &[(&str, &str)]) {
    let mut client = server.connect();
    for (request, expected) in lines {
        let reply = client.ask(request);
        let reply = reply
            .strip_suffix("\r\n")
            .unwrap_or(&reply)
            .replace("\r\n", " ");
        // Of a time to live some seconds may have passed on the way.
        if request.starts_with("TTL ")
            && let Some(whole @ 1..) = number(expected)
        {
            let left = number(&reply).unwrap_or_default();
            assert!(
                (whole - 20..=whole).contains(&left),
                "in reply to {request}: {reply} instead of {expected}"
            );
        } else {
            assert_eq!(reply, *expected, "in reply to {request}");
        }
    }
}

fn number(reply: &str) -> Option<i64> {
    reply.strip_prefix(':')?.parse().ok()
}

#[test]
fn an_error_that_quotes_the_client_ends_before_the_line_breaks_at_its_end() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for (sent, quoted) in [("FOO\r\n", "FOO"), ("F\r\nO\n\r\n", "F  O"), ("\n", "")] {
        let reply = client.call(&["EXPIRE", "c", "50", sent]);
        let expected = format!("-ERR Unsupported option {quoted}\r\n");
        assert_eq!(reply, expected.as_bytes(), "{sent:?}");
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
                "%7 $6 server $5 redis $7 version $6 7.0.15 $5 proto :3 $2 id :1 $4 mode \
                 $10 standalone $4 role $6 master $7 modules *0",
            ),
            ("GET nokey", "_"),
            ("HELLO 4", "-NOPROTO unsupported protocol version"),
            ("CONFIG GET save", "%1 $4 save $0 "),
            ("RESET", "+RESET"),
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
fn a_client_is_killed_by_another_one_and_by_itself() {
    let server = Server::start(&["--io-threads", "2"]);
    let mut one = server.connect();
    let mut two = server.connect();
    let mut three = server.connect();
    let id = two
        .ask("CLIENT ID")
        .trim_start_matches(':')
        .trim_end()
        .to_owned();
    assert_eq!(one.ask(&format!("CLIENT KILL ID {id}")), ":1\r\n");
    assert_eq!(one.ask(&format!("CLIENT KILL ID {id}")), ":0\r\n");
    assert!(two.rest().is_empty());
    assert_eq!(three.ask("CLIENT KILL TYPE normal"), ":1\r\n");
    assert!(one.rest().is_empty());
    assert_eq!(three.ask("CLIENT KILL TYPE normal SKIPME no"), ":1\r\n");
    assert!(three.rest().is_empty());
    assert!(
        server
            .connect()
            .ask("INFO clients")
            .contains("connected_clients:1\r\n")
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
        "# Keyspace\r\ndb0:keys=1,expires=1,avg_ttl=0",
    ] {
        assert!(info.contains(line), "{line:?} is not in {info}");
    }
    let keyspace = one.ask("INFO keyspace");
    assert!(
        keyspace.contains("# Keyspace") && !keyspace.contains("# Server"),
        "{keyspace}"
    );
    let latchwork = one.ask("INFO latchwork");
    for line in [
        "# Latchwork\r\n",
        "latches_leaked:0\r\n",
        "store_keys:1\r\n",
    ] {
        assert!(latchwork.contains(line), "{line:?} is not in {latchwork}");
    }
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
fn a_scan_finds_every_key_while_others_come_and_go() {
    let server = Server::start(&[]);
    let (mut client, mut rival) = (server.connect(), server.connect());
    for number in 0..2_000 {
        client.send(&encode(&["SET", &format!("key:{number}"), "v"]));
    }
    for _ in 0..2_000 {
        assert_eq!(client.reply(), b"+OK\r\n");
    }
    let mut found = std::collections::BTreeSet::new();
    let mut cursor = "0".to_owned();
    for step in 0.. {
        rival.ask(&format!("SET other:{step} v"));
        rival.ask(&format!("DEL other:{}", step / 2));
        let reply = client.ask(&format!("SCAN {cursor} MATCH key:* COUNT 50"));
        let mut lines = reply.split("\r\n");
        cursor = lines.nth(2).expect("a cursor").to_owned();
        found.extend(
            lines
                .filter(|line| line.starts_with("key:"))
                .map(str::to_owned),
        );
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 2_000);
    assert!(!client.ask("INFO memory").contains("used_memory:0\r\n"));
    assert_eq!(client.ask("FLUSHALL"), "+OK\r\n");
    assert_eq!(client.ask("SCAN 0"), "*2\r\n$1\r\n0\r\n*0\r\n");
}
