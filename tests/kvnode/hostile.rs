//! Clients that send nonsense, too much, too little, or do not read: what they get, and that nobody
//! else is hurt.

use crate::support::{Server, encode};

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
    // 200 MB of replies are owed by now. The thread takes events in order, so it has dealt with the
    // burst before this.
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
    // To read from it any earlier might save it.
    witness.ask_until("INFO stats", "stalled_client_disconnections:2\r\n");
    assert!(slow.rest().len() < 1_000_000_000);
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
fn a_transaction_without_end_is_refused_and_its_memory_given_back() {
    let server = Server::start(&["--max-queued", "8"]);
    let (mut greedy, mut witness) = (server.connect(), server.connect());
    assert_eq!(greedy.ask("WATCH k"), "+OK\r\n");
    assert_eq!(greedy.ask("MULTI"), "+OK\r\n");
    let value = vec![b'v'; 1 << 20];
    let mut queued = 0;
    let refused = loop {
        let reply = greedy.call(&[b"SET", &b"k"[..], &value]);
        if reply != b"+QUEUED\r\n" {
            break reply;
        }
        queued += 1;
        assert!(queued < 8);
    };
    assert_eq!(queued, 7);
    assert_eq!(refused, b"-ERR transaction too large\r\n");
    // Whoever goes on is told that it is queued, as after any refused command.
    let many = encode(&["INCR", "n"]);
    for _ in 0..100 {
        greedy.send(&many.repeat(1_000));
        for _ in 0..1_000 {
            assert_eq!(greedy.reply(), b"+QUEUED\r\n");
        }
    }
    let list = witness.ask("CLIENT LIST ID 1");
    let held: usize = fields(&list, "tot-mem")[0].parse().expect("a number");
    assert!(held < 10_000, "{list}");
    let text = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(greedy.ask("EXEC"), text);
    assert_eq!(greedy.ask("EXISTS k n"), ":0\r\n");
}

#[test]
fn small_commands_without_end_and_watched_keys_without_end_are_refused() {
    let server = Server::start(&["--max-queued", "1"]);
    let mut greedy = server.connect();
    let mut watched = 0;
    let refused = loop {
        let reply = greedy.ask(&format!("WATCH key{watched}"));
        if reply != "+OK\r\n" {
            break reply;
        }
        watched += 1;
    };
    assert_eq!(refused, "-ERR too many watched keys\r\n");
    assert!((10_000..1_000_000).contains(&watched), "{watched}");
    assert_eq!(greedy.ask("UNWATCH"), "+OK\r\n");
    assert_eq!(greedy.ask("MULTI"), "+OK\r\n");
    let mut queued = 0;
    let refused = loop {
        let reply = greedy.ask("PING");
        if reply != "+QUEUED\r\n" {
            break reply;
        }
        queued += 1;
    };
    assert_eq!(refused, "-ERR transaction too large\r\n");
    assert!((10_000..1_000_000).contains(&queued), "{queued}");
    assert_eq!(greedy.ask("DISCARD"), "+OK\r\n");
    assert_eq!(greedy.ask("PING"), "+PONG\r\n");
}
