//! Requests on the wire: pipelined, in pieces, inline, large.

use crate::support::{Server, encode};

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let burst: Vec<u8> = (0..10_000)
        .flat_map(|number| encode(&["ECHO", &number.to_string()]))
        .collect();
    client.send(&burst);
    for number in 0..10_000 {
        let number = number.to_string();
        assert_eq!(
            client.reply(),
            format!("${}\r\n{number}\r\n", number.len()).as_bytes()
        );
    }
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
fn a_client_that_has_finished_sending_still_gets_its_replies() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.send(&encode(&["INCR", "n"]).repeat(1_000));
    client.end();
    let replies = client.rest();
    assert_eq!(replies.iter().filter(|&&byte| byte == b':').count(), 1_000);
    assert!(replies.ends_with(b":1000\r\n"));
}
