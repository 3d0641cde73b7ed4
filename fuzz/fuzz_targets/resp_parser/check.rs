//! What must hold of the request parser whatever the bytes: it does not panic, never claims more than it was given,
//! holds memory in proportion to what has arrived, and does not care where the network cut its input.

use crate::request::{ARGUMENT_MAX, ARGUMENTS_MAX, Parser, parse_integer};

/// What a connection would have made of some input: its requests, and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) requests: Vec<Vec<Vec<u8>>>,
    /// How many bytes the requests took.
    pub(crate) used: usize,
    /// The protocol error that ended it.
    pub(crate) error: Option<String>,
}

/// Feeds `bytes` to a parser in pieces that end at `cuts` (ascending) and at the end.
pub(crate) fn read(bytes: &[u8], cuts: impl IntoIterator<Item = usize>) -> Reading {
    let mut parser = Parser::default();
    let mut reading = Reading::default();
    // How far the input must reach at least before another request can be complete.
    let mut wanted = 0;
    for arrived in cuts.into_iter().chain([bytes.len()]) {
        loop {
            let pending = &bytes[reading.used..arrived];
            let outcome = parser.parse(pending).map(|found| {
                found.map(|request| {
                    assert!(request.len <= pending.len(), "claims more than has arrived");
                    assert!(request.len > 0, "makes no progress");
                    assert!(request.args.len() <= ARGUMENTS_MAX);
                    let args: Vec<Vec<u8>> = request.args.iter().map(<[u8]>::to_vec).collect();
                    assert_eq!(args.is_empty(), request.args.is_empty());
                    for (index, argument) in args.iter().enumerate() {
                        assert!(argument.len() <= ARGUMENT_MAX);
                        assert_eq!(request.args.get(index), Some(&argument[..]));
                        assert_eq!(&request.args[index], &argument[..]);
                    }
                    assert_eq!(request.args.from(1).len(), args.len().saturating_sub(1));
                    (args, request.len)
                })
            });
            match outcome {
                Ok(Some((args, len))) => {
                    assert!(
                        reading.used + len >= wanted,
                        "complete with less than it asked for"
                    );
                    reading.requests.push(args);
                    reading.used += len;
                    wanted = 0;
                    parser.shrink();
                }
                Ok(None) => {
                    let more = parser.wants(pending.len());
                    assert!(more > 0, "asks for nothing and waits for it");
                    wanted = arrived + more;
                    // The shortest word takes 2 bytes and costs 8, and every buffer may have doubled.
                    assert!(
                        parser.memory() <= 10 * arrived + 256,
                        "holds {} bytes after {arrived}",
                        parser.memory(),
                    );
                    parser.shrink();
                    break;
                }
                Err(error) => {
                    assert!(!error.text().is_empty());
                    assert!(!error.text().contains(['\r', '\n']));
                    reading.error = Some(error.text().to_owned());
                    return reading;
                }
            }
        }
    }
    reading
}

/// Checks one input.
pub(crate) fn check(bytes: &[u8]) {
    let whole = read(bytes, []);
    if bytes.len() <= 64 {
        for cut in 0..=bytes.len() {
            assert_eq!(read(bytes, [cut]), whole, "cut at {cut}");
        }
        assert_eq!(read(bytes, 0..bytes.len()), whole, "byte by byte");
    } else {
        // Some cuts that depend on the input only, so that a failure can be repeated.
        let mut state = bytes.len() as u64;
        let mut cuts = Vec::new();
        for _ in 0..8 {
            for &byte in bytes.iter().take(32) {
                state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
            let cut = (state >> 16) as usize % (bytes.len() + 1);
            assert_eq!(read(bytes, [cut]), whole, "cut at {cut}");
            cuts.push(cut);
        }
        cuts.sort_unstable();
        assert_eq!(read(bytes, cuts.iter().copied()), whole, "cut at {cuts:?}");
    }
    if let Some(number) = parse_integer(bytes) {
        assert_eq!(
            number.to_string().as_bytes(),
            bytes,
            "a number is read in one spelling only"
        );
    }
}
