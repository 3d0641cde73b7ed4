//! kvnode's request parser, included as a module: what it reads, what it refuses, and that the fuzz
//! target's checks hold for the kept corpus and for random input.

#[path = "../fuzz/fuzz_targets/resp_parser/check.rs"]
mod check;
#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/random.rs"]
mod random;
#[path = "../examples/kvnode/request.rs"]
mod request;

use check::{Reading, check, read};
use random::Random;
use request::{ARGUMENT_MAX, ARGUMENTS_MAX, LINE_MAX, Parser, parse_integer};

fn requests(bytes: &[u8]) -> Vec<Vec<String>> {
    let Reading {
        requests, error, ..
    } = read(bytes, []);
    assert_eq!(error, None);
    let text = |argument: Vec<u8>| String::from_utf8(argument).expect("text");
    requests
        .into_iter()
        .map(|request| request.into_iter().map(text).collect())
        .collect()
}

fn error(bytes: &[u8]) -> String {
    let reading = read(bytes, []);
    assert_eq!(reading.requests, Vec::<Vec<Vec<u8>>>::new());
    reading
        .error
        .unwrap_or_else(|| panic!("no error in {:?}", String::from_utf8_lossy(bytes)))
}

fn is_incomplete(bytes: &[u8]) -> bool {
    read(bytes, []) == Reading::default()
}

#[test]
fn the_kept_corpus_passes_the_fuzz_target_s_checks() {
    corpus::each_seed("resp_parser", check);
}

#[test]
fn random_input_passes_the_fuzz_target_s_checks() {
    let mut random = Random::new("random_input_passes_the_fuzz_target_s_checks");
    let pieces: [&[u8]; 20] = [
        b"*",
        b"$",
        b"\r\n",
        b"\r",
        b"\n",
        b"0",
        b"1",
        b"2",
        b"3",
        b"-1",
        b"*1\r\n",
        b"*2\r\n",
        b"$3\r\nGET\r\n",
        b"$0\r\n\r\n",
        b"\"",
        b"'",
        b"\\x41",
        b" ",
        b"ping",
        b"\0",
    ];
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..random.below(12) {
            bytes.extend_from_slice(pieces[random.below(pieces.len())]);
        }
        check(&bytes);
    }
}

#[test]
fn an_array_of_bulk_strings_is_a_request() {
    assert_eq!(
        requests(b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"),
        [["GET", "key"]]
    );
    assert_eq!(requests(b"*1\r\n$0\r\n\r\n"), [[""]]);
    assert_eq!(requests(b"*1\r\n$2\r\n\r\n\r\n"), [["\r\n"]]);
}

#[test]
fn pipelined_requests_come_out_in_order() {
    assert_eq!(
        requests(b"*1\r\n$4\r\nPING\r\nPING\r\n*1\r\n$1\r\nx\r\n"),
        [["PING"], ["PING"], ["x"]]
    );
}

#[test]
fn empty_requests_have_no_arguments() {
    for bytes in [
        &b"*0\r\n"[..],
        b"*-1\r\n",
        b"*-9223372036854775808\r\n",
        b"\r\n",
        b"\n",
        b"   \r\n",
    ] {
        assert_eq!(requests(bytes), [[""; 0]], "{bytes:?}");
    }
}

#[test]
fn an_inline_request_is_split_like_a_shell_s() {
    assert_eq!(requests(b"SET key value\r\n"), [["SET", "key", "value"]]);
    assert_eq!(requests(b"  SET\tkey  value \n"), [["SET", "key", "value"]]);
    assert_eq!(requests(b"SET 'a b' \"c d\"\r\n"), [["SET", "a b", "c d"]]);
    assert_eq!(
        requests(b"ECHO \"\\x41\\n\\r\\t\\b\\a\\\\\\q\"\n"),
        [["ECHO", "A\n\r\t\u{8}\u{7}\\q"]]
    );
    assert_eq!(requests(b"ECHO 'it\\'s \\n'\n"), [["ECHO", "it's \\n"]]);
    assert_eq!(requests(b"ECHO ''\n"), [["ECHO", ""]]);
}

#[test]
fn unbalanced_quotes_are_an_error() {
    for line in [
        &b"ECHO \"a\n"[..],
        b"ECHO 'a\n",
        b"ECHO \"a\"b\n",
        b"ECHO 'a'b\n",
        b"\"\\\n",
    ] {
        assert_eq!(error(line), "unbalanced quotes in request", "{line:?}");
    }
}

#[test]
fn lengths_that_make_no_sense_are_errors() {
    for count in [
        "x",
        "",
        "+1",
        "01",
        "1 ",
        "99999999999999999999",
        "1048577",
        "0x10",
        "--1",
    ] {
        assert_eq!(
            error(format!("*{count}\r\n").as_bytes()),
            "invalid multibulk length",
            "{count}"
        );
    }
    for len in [
        "x",
        "",
        "-1",
        "+1",
        "01",
        "536870913",
        "9223372036854775808",
    ] {
        assert_eq!(
            error(format!("*1\r\n${len}\r\n").as_bytes()),
            "invalid bulk length",
            "{len}"
        );
    }
}

#[test]
fn anything_but_a_bulk_string_in_an_array_is_an_error() {
    assert_eq!(error(b"*1\r\n*1\r\n$1\r\na\r\n"), "expected '$', got '*'");
    assert_eq!(error(b"*1\r\n:1\r\n"), "expected '$', got ':'");
    assert_eq!(error(b"*1\r\n\r\n"), "expected '$', got ' '");
    assert_eq!(error(b"*1\r\n\xff\r\n"), "expected '$', got '?'");
}

#[test]
fn a_miscounted_argument_does_not_turn_data_into_commands() {
    assert_eq!(
        error(b"*1\r\n$3\r\nPINGPING\r\n"),
        "expected CRLF after bulk string"
    );
    assert_eq!(error(b"*1\rx$4\r\nPING\r\n"), "invalid multibulk length");
    assert_eq!(error(b"*1\r\n$4\rxPING\r\n"), "invalid bulk length");
}

#[test]
fn lines_without_an_end_are_given_up() {
    let long = vec![b'1'; LINE_MAX + 1];
    assert_eq!(error(&long), "too big inline request");
    assert_eq!(
        error(&[b"*", &long[..]].concat()),
        "too big mbulk count string"
    );
    assert_eq!(
        error(&[b"*1\r\n$", &long[..]].concat()),
        "too big bulk count string"
    );
    assert!(is_incomplete(&long[..LINE_MAX]));
    assert!(is_incomplete(&[b"*", &long[..LINE_MAX - 2]].concat()));
}

#[test]
fn an_inline_request_of_the_greatest_length_is_read() {
    let line = [&vec![b'a'; LINE_MAX - 1][..], b"\n"].concat();
    assert_eq!(requests(&line)[0][0].len(), LINE_MAX - 1);
    assert_eq!(read(&line, 0..line.len()), read(&line, []));
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut parser = Parser::default();
    let start = format!("*{ARGUMENTS_MAX}\r\n${ARGUMENT_MAX}\r\n");
    assert!(
        parser
            .parse(start.as_bytes())
            .expect("fine so far")
            .is_none()
    );
    assert!(parser.memory() < 256);
    assert_eq!(parser.wants(start.len()), ARGUMENT_MAX + 2);
}

#[test]
fn a_request_beyond_the_total_limit_is_an_error() {
    // Two arguments of half a gigabyte and a third one are more than a gigabyte; their bytes need
    // not be there for the parser to see it, but it must have come past them.
    let header = format!("${ARGUMENT_MAX}\r\n");
    let mut bytes = format!("*3\r\n{header}").into_bytes();
    bytes.resize(bytes.len() + ARGUMENT_MAX, 0);
    bytes.extend_from_slice(format!("\r\n{header}").as_bytes());
    assert_eq!(error(&bytes), "too big request");
}

#[test]
fn arguments_survive_a_pause_in_a_request_with_very_many() {
    let mut bytes = b"*5000\r\n".to_vec();
    for argument in 0..5000 {
        bytes.extend_from_slice(format!("$4\r\n{argument:04}\r\n").as_bytes());
    }
    let whole = read(&bytes, []);
    assert_eq!(whole.requests.len(), 1);
    assert_eq!(read(&bytes, (0..bytes.len()).step_by(100)), whole);
}

#[test]
fn numbers_have_one_spelling() {
    for (text, number) in [
        ("0", 0),
        ("7", 7),
        ("-7", -7),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(parse_integer(text.as_bytes()), Some(number));
    }
    for text in [
        "",
        "-",
        "+1",
        "-0",
        "00",
        "01",
        " 1",
        "1 ",
        "1a",
        "9223372036854775808",
        "-9223372036854775809",
    ] {
        assert_eq!(parse_integer(text.as_bytes()), None, "{text}");
    }
}
