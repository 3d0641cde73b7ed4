//! The process: its threads, its arguments, its sleep and its end.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Server, binary, encode};

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
        std::thread::scope(|scope| {
            // Meanwhile, for a stop takes five seconds at most.
            let slow = scope.spawn(|| slow.rest().len());
            for client in &mut clients {
                let replies = client.rest();
                assert_eq!(
                    replies.iter().filter(|&&byte| byte == b':').count(),
                    requests
                );
                assert!(replies.ends_with(b"\r\n"));
            }
            let received = slow.join().expect("the slow client");
            assert_eq!(received, 200 * (100_000 + 11));
        });
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
    // Long enough for both halves of a request to come in time.
    let server = Server::start(&["--stall-timeout", "5", "--io-threads", "2"]);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        // A stall that ends leaves no timer behind.
        client.send(b"*1\r\n$4\r\nPI");
        client.send(b"NG\r\n");
        assert_eq!(client.reply(), b"+PONG\r\n");
    }
    // The time is what is looked at: longer than the stall-timeout.
    server.until_asleep_for(Duration::from_secs(6));
    assert_eq!(clients[0].ask("PING"), "+PONG\r\n");
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
