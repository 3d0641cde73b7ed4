//! `--data`: what comes back after the server's end, whichever way that came; what it says about
//! its directory; in `disk`, what clients see of a disk that is slow, full or broken; in
//! `meanwhile`, what else may happen while it is slow.

mod disk;
mod meanwhile;

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::Signal;

use self::disk::in_own_mounts;
use crate::dir::Dir;
use crate::random::Random;
use crate::requests::{random_request, random_transaction, state};
use crate::support::{Client, Redis, Server, binary, encode, size};

const MODES: [&str; 3] = ["always", "everysec", "no"];

fn start(dir: &Dir, fsync: &str) -> Server {
    Server::start(&["--data", &dir.join("data"), "--fsync", fsync])
}

/// Everything there is, in a form that can be compared.
fn everything<S: std::io::Read + std::io::Write>(client: &mut Client<S>) -> Vec<Vec<u8>> {
    let replies = state().into_iter().map(|request| {
        let reply = client.call(&request);
        match request[0] == b"KEYS" {
            true => {
                let mut lines: Vec<_> = reply.split(|&byte| byte == b'\n').collect();
                lines.sort_unstable();
                lines.concat()
            }
            false => reply,
        }
    });
    replies.collect()
}

#[test]
fn everything_comes_back_after_an_orderly_end() {
    let mut random = Random::new("everything_comes_back_after_an_orderly_end");
    for fsync in MODES {
        let dir = Dir::new();
        for end in [
            "TERM",
            "SHUTDOWN",
            "SHUTDOWN SAVE",
            "SHUTDOWN NOSAVE",
            "INT",
        ] {
            let server = start(&dir, fsync);
            let mut client = server.connect();
            for _ in 0..size(300, 3_000) {
                let requests = match random.below(4) {
                    0 => random_transaction(&mut random),
                    _ => vec![random_request(&mut random)],
                };
                for request in requests {
                    client.call(&request);
                }
            }
            let before = everything(&mut client);
            match end {
                "TERM" => server.signal(Signal::TERM),
                "INT" => server.signal(Signal::INT),
                words => {
                    let words: Vec<&str> = words.split(' ').collect();
                    client.send(&encode(&words));
                }
            }
            assert!(client.rest().is_empty());
            assert_eq!(server.wait().0.code(), Some(0), "{end}");
            let server = start(&dir, fsync);
            let after = everything(&mut server.connect());
            assert_eq!(after, before, "{fsync}, {end}");
        }
    }
}

#[test]
fn what_moves_between_keys_or_is_popped_by_waiters_comes_back() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    let (mut client, mut waiter) = (server.connect(), server.connect());
    waiter.send(&encode(&["BLPOP", "queue", "0"]));
    while !client.ask("INFO clients").contains("blocked_clients:1\r\n") {
        std::thread::yield_now();
    }
    for line in [
        "RPUSH queue a b c d",
        "LMOVE queue moved LEFT RIGHT",
        "SET x 1",
        "RENAME x y",
        "MSET m 1 n 2",
        "PEXPIREAT m 4102444800001",
        "FLUSHALL",
        "RPUSH queue a b c d",
        "LMOVE queue moved RIGHT LEFT",
        "SET x 1 PX 4000000000",
        "RENAME x y",
        "MSETNX m 1 n 2",
        "PEXPIREAT m 4102444800001",
        "INCRBYFLOAT f 0.1",
        "SET gone 1",
        "DEL gone",
    ] {
        assert!(!client.ask(line).starts_with('-'), "{line}");
    }
    assert_eq!(waiter.reply(), b"*2\r\n$5\r\nqueue\r\n$1\r\na\r\n");
    waiter.send(&encode(&["BLMOVE", "none", "queue", "LEFT", "LEFT", "0"]));
    client.ask("RPUSH none e");
    assert_eq!(waiter.reply(), b"$1\r\ne\r\n");
    server.signal(Signal::KILL);
    server.wait();
    let server = start(&dir, "always");
    let mut client = server.connect();
    for (line, reply) in [
        ("DBSIZE", ":6\r\n"),
        (
            "LRANGE queue 0 -1",
            "*4\r\n$1\r\ne\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
        ),
        ("LRANGE moved 0 -1", "*1\r\n$1\r\nd\r\n"),
        ("PEXPIRETIME m", ":4102444800001\r\n"),
        ("GET y", "$1\r\n1\r\n"),
        ("GET f", "$3\r\n0.1\r\n"),
    ] {
        assert_eq!(client.ask(line), reply, "{line}");
    }
    assert!(client.ask("PTTL y").len() > ":3000000\r\n".len());
}

/// What a client was told before its server was killed.
#[derive(Debug, Default)]
struct Told {
    counter: u64,
    pair: u64,
    list: u64,
}

/// Writes until the server is gone, and tells of each reply.
fn write_until_the_end(
    mut client: Client<TcpStream>,
    number: usize,
    told: &mpsc::Sender<()>,
) -> Told {
    let mut acknowledged = Told::default();
    let mut call = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        client.try_send(&encode(&words)).ok()?;
        let reply = client.try_reply().ok()?;
        assert_ne!(reply[0], b'-', "{line}: {}", reply.escape_ascii());
        // Nobody listens any more once the server has been killed.
        let _ = told.send(());
        Some(())
    };
    let mut round = || {
        let next = acknowledged.counter + 1;
        call(format!("INCR counter:{number}"))?;
        acknowledged.counter = next;
        call(format!("MSET left:{number} {next} right:{number} {next}"))?;
        acknowledged.pair = next;
        call(format!("RPUSH list:{number} {next}"))?;
        acknowledged.list = next;
        call("MULTI".to_owned())?;
        call(format!("DECRBY account:{} {next}", number % 2))?;
        call(format!("INCRBY account:{} {next}", 2 + next % 3))?;
        call("EXEC".to_owned())
    };
    while round().is_some() {}
    acknowledged
}

#[test]
fn what_was_acknowledged_survives_a_kill_and_nothing_is_half_there() {
    let mut random = Random::new("what_was_acknowledged_survives_a_kill");
    let dir = Dir::new();
    let clients = 4;
    for round in 0..size(5, 100) {
        let server = start(&dir, "always");
        server.connect().ask("FLUSHALL");
        let replies = 1 + random.below(3_000);
        // Before anybody writes: the last one to run may find no server.
        let writers: Vec<_> = (0..clients).map(|_| server.connect()).collect();
        let told: Vec<Told> = std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let writers: Vec<_> = writers
                .into_iter()
                .enumerate()
                .map(|(number, client)| {
                    let sender = sender.clone();
                    scope.spawn(move || write_until_the_end(client, number, &sender))
                })
                .collect();
            assert_eq!(receiver.iter().take(replies).count(), replies);
            server.signal(Signal::KILL);
            let writers = writers.into_iter();
            writers
                .map(|writer| writer.join().expect("a writer"))
                .collect()
        });
        server.wait();
        let server = start(&dir, "always");
        let mut client = server.connect();
        let mut number = |key: String| {
            let reply = client.ask(&format!("GET {key}"));
            let digits = reply.lines().nth(1).unwrap_or("0");
            digits.parse::<i64>().expect("a number")
        };
        // At most the command without a reply has been carried out beyond what was told.
        let is_next = |found: i64, told: u64| (told..=told + 1).contains(&(found as u64));
        for (client, told) in told.iter().enumerate() {
            let counter = number(format!("counter:{client}"));
            assert!(
                is_next(counter, told.counter),
                "round {round}: {counter} {told:?}"
            );
            let pair = ["left", "right"].map(|side| number(format!("{side}:{client}")));
            assert!(
                is_next(pair[0], told.pair),
                "round {round}: {pair:?} {told:?}"
            );
            assert_eq!(pair[0], pair[1], "round {round}");
        }
        let sum: i64 = (0..5)
            .map(|account| number(format!("account:{account}")))
            .sum();
        assert_eq!(sum, 0, "round {round}");
        for (number, told) in told.iter().enumerate() {
            let list = client.ask(&format!("LRANGE list:{number} 0 -1"));
            let list: Vec<u64> = list
                .lines()
                .skip(2)
                .step_by(2)
                .map(|element| element.parse().expect("a number"))
                .collect();
            assert!(list.iter().copied().eq(1..=list.len() as u64), "{list:?}");
            assert!(is_next(list.len() as i64, told.list), "{list:?} {told:?}");
        }
    }
}

#[test]
fn save_and_its_kin_answer_as_redis_does() {
    let dir = Dir::new();
    let server = start(&dir, "everysec");
    let mut ours = server.connect();
    let redis = Redis::start();
    let mut theirs = redis.as_ref().map(Redis::connect);
    for line in [
        "SAVE x",
        "SAVE",
        "BGSAVE x",
        "BGSAVE SCHEDULE x",
        "LASTSAVE x",
        "MULTI",
        "SAVE",
        "EXEC",
        "CONFIG GET appendfsync",
        "CONFIG GET save",
        "SHUTDOWN ABORT",
        "COMMAND GETKEYS save",
    ] {
        let reply = ours.ask(line);
        if let Some(theirs) = &mut theirs {
            assert_eq!(reply, theirs.ask(line), "{line}");
        }
    }
    assert_eq!(ours.ask("SET k v"), "+OK\r\n");
    assert_eq!(ours.ask("SAVE"), "+OK\r\n");
    let saved = ours.ask("LASTSAVE");
    assert!(saved.len() > ":1700000000".len(), "{saved}");
    assert!(ours.ask("BGSAVE").starts_with("+Background saving "));
    assert!(
        ours.ask("BGSAVE SCHEDULE")
            .starts_with("+Background saving ")
    );
    let info = ours.ask("INFO persistence");
    for line in [
        "loading:0",
        "aof_enabled:1",
        "aof_last_write_status:ok",
        "rdb_last_bgsave_status:ok",
        "rdb_bgsave_in_progress:",
        "rdb_last_save_time:",
        "rdb_changes_since_last_save:",
    ] {
        assert!(info.contains(&format!("\r\n{line}")), "{line}: {info}");
    }
    let data = dir.join("data");
    let expected = format!("*2\r\n$3\r\ndir\r\n${}\r\n{data}\r\n", data.len());
    assert_eq!(ours.ask("CONFIG GET dir"), expected);
    let expected = "*2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n";
    assert_eq!(ours.ask("CONFIG GET appendonly"), expected);
    // Whoever saves waits, and what it has sent besides comes after it.
    let requests = [["SAVE"], ["PING"], ["SAVE"], ["PING"]].map(|words| encode(&words));
    ours.send(&requests.concat());
    for expected in ["+OK\r\n", "+PONG\r\n"].repeat(2) {
        assert_eq!(ours.reply(), expected.as_bytes());
    }
}

#[test]
fn without_a_directory_there_is_nowhere_to_save_to() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let nowhere = "-ERR there is nowhere to save to: kvnode was started without --data\r\n";
    assert_eq!(client.ask("SAVE"), nowhere);
    assert_eq!(client.ask("BGSAVE"), nowhere);
    assert_eq!(client.ask("BGSAVE SCHEDULE"), nowhere);
    assert!(client.ask("LASTSAVE").starts_with(':'));
    assert!(
        client
            .ask("INFO persistence")
            .contains("\r\naof_enabled:0\r\n")
    );
    assert_eq!(
        client.ask("CONFIG GET dir"),
        "*2\r\n$3\r\ndir\r\n$0\r\n\r\n"
    );
    let text = "-ERR Errors trying to SHUTDOWN. Check logs.\r\n";
    assert_eq!(client.ask("SHUTDOWN SAVE"), text);
    assert_eq!(client.ask("PING"), "+PONG\r\n");
}

/// Runs a server that is to refuse, and returns what it said.
fn refused(options: &[&str]) -> (Output, String) {
    refused_by(&mut Command::new(binary()), options)
}

/// The same by a command that becomes the server.
fn refused_by(command: &mut Command, options: &[&str]) -> (Output, String) {
    let output = command
        .args(["--port", "0"])
        .args(options)
        .output()
        .expect("run kvnode");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
    (output, said)
}

#[test]
fn bad_options_of_durability_are_explained() {
    for (options, text) in [
        (&["--fsync", "always"][..], "--fsync needs --data"),
        (&["--data"], "missing argument for option '--data'"),
        (&["--data", ""], "--data takes a directory"),
        (
            &["--data", "/nowhere", "--fsync", "sometimes"],
            "--fsync takes always, everysec or no, not 'sometimes'",
        ),
    ] {
        let (output, said) = refused(options);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(text) && said.contains("kvnode --help"),
            "{said}"
        );
    }
    let help = Command::new(binary()).arg("--help").output();
    let help = help.expect("run kvnode").stdout;
    assert!(String::from_utf8_lossy(&help).contains("--data DIR"));
}

#[test]
fn a_directory_that_cannot_be_used_is_explained() {
    let dir = Dir::new();
    std::fs::write(dir.path().join("file"), "").expect("write");
    for path in [
        dir.join("file"),
        dir.join("file/below"),
        "/proc/kvnode".to_owned(),
    ] {
        let (output, said) = refused(&["--data", &path]);
        assert_eq!(output.status.code(), Some(1), "{path}: {said}");
        assert!(said.contains(&path), "{path}: {said}");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_explained() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    assert_eq!(server.connect().ask("SET k v"), "+OK\r\n");
    server.signal(Signal::TERM);
    assert!(server.wait().0.success());
    let mount = dir.path().display();
    let set_up = format!("mount --bind {mount} {mount} && mount -o remount,bind,ro {mount}");
    // One that has been used, and one that would have to be made.
    for path in [dir.join("data"), dir.join("new")] {
        let Some(mut command) = in_own_mounts(&set_up) else {
            return;
        };
        let (output, said) = refused_by(command.arg(binary()), &["--data", &path]);
        assert_eq!(output.status.code(), Some(1), "{path}: {said}");
        assert!(said.contains(&path), "{path}: {said}");
        assert!(said.contains("Read-only file system"), "{path}: {said}");
    }
    assert!(!Path::new(&dir.join("new")).exists());
    let server = start(&dir, "always");
    assert_eq!(server.connect().ask("GET k"), "$1\r\nv\r\n");
}

#[test]
fn a_directory_that_is_missing_is_made_with_those_above_it() {
    let dir = Dir::new();
    let data = dir.join("some/where/below");
    let server = Server::start(&["--data", &data]);
    assert_eq!(server.connect().ask("SET k v"), "+OK\r\n");
    assert!(Path::new(&data).is_dir());
}

#[test]
fn two_servers_never_share_a_directory() {
    let dir = Dir::new();
    let server = start(&dir, "everysec");
    assert_eq!(server.connect().ask("SET k v"), "+OK\r\n");
    let (output, said) = refused(&["--data", &dir.join("data")]);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&dir.join("data")), "{said}");
    assert!(said.contains("another server"), "{said}");
    assert_eq!(server.connect().ask("GET k"), "$1\r\nv\r\n");
}

#[test]
fn a_port_in_use_is_explained_before_anything_is_loaded() {
    let server = Server::start(&[]);
    let dir = Dir::new();
    let data = dir.join("data");
    let output = Command::new(binary())
        .args(["--port", &server.port(), "--data", &data])
        .output()
        .expect("run kvnode");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot listen on 127.0.0.1 port"), "{said}");
    assert!(!Path::new(&data).exists());
}

/// Every file below a directory.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

#[test]
fn a_damaged_file_is_named_and_nothing_wrong_is_served() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    let mut client = server.connect();
    for number in 0..500 {
        client.call(&["SET".to_owned(), format!("k{number}"), number.to_string()]);
    }
    assert_eq!(client.ask("SAVE"), "+OK\r\n");
    for number in 500..600 {
        client.call(&["SET".to_owned(), format!("k{number}"), number.to_string()]);
    }
    server.signal(Signal::TERM);
    assert!(server.wait().0.success());
    let data = PathBuf::from(dir.join("data"));
    let mut refusals = 0;
    for file in files(&data) {
        let whole = std::fs::read(&file).expect("read");
        if whole.is_empty() {
            continue;
        }
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let copy = Dir::new();
            let status = Command::new("cp")
                .arg("-a")
                .arg(&data)
                .arg(copy.path())
                .status();
            assert!(status.expect("cp").success());
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            let name = file.strip_prefix(&data).expect("below");
            let path = copy.path().join("data").join(name);
            std::fs::write(&path, &damaged).expect("write");
            let mut child = Command::new(binary())
                .args(["--port", "0", "--data", &copy.join("data")])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("run kvnode");
            let mut line = String::new();
            let mut stdout = std::io::BufReader::new(child.stdout.take().expect("piped"));
            std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
            if let Some(address) = line.strip_prefix("kvnode is listening on ") {
                // What was damaged is not in use, or was not known to be durable.
                let mut client = Client::over_tcp(address.trim_end().parse().expect("an address"));
                for number in 0..600 {
                    let value = number.to_string();
                    let expected = format!("${}\r\n{value}\r\n", value.len());
                    let found = client.ask(&format!("GET k{number}"));
                    assert!(
                        found == expected || (number >= 500 && found == "$-1\r\n"),
                        "{name:?} at {at}: {found}"
                    );
                }
                child.kill().expect("kill");
                child.wait().expect("wait");
            } else {
                let output = child.wait_with_output().expect("wait");
                let said = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(1), "{said}");
                assert!(said.contains(&*path.to_string_lossy()), "{path:?}: {said}");
                assert!(!said.contains("panicked"), "{said}");
                refusals += 1;
            }
        }
    }
    assert!(refusals >= 2, "{refusals}");
}

#[test]
fn it_says_what_it_has_loaded_and_where_from() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    server.connect().ask("MSET a 1 b 2 c 3");
    server.signal(Signal::TERM);
    let (_, said) = server.wait();
    let line = format!(
        "data: {}, fsync always; 0 keys loaded in ",
        dir.join("data")
    );
    assert!(said.contains(&line), "{said}");
    let server = start(&dir, "no");
    server.signal(Signal::TERM);
    let (_, said) = server.wait();
    let line = format!("data: {}, fsync no; 3 keys loaded in ", dir.join("data"));
    assert!(said.contains(&line), "{said}");
}

#[test]
fn an_idle_durable_server_does_not_wake_up() {
    for fsync in MODES {
        let dir = Dir::new();
        let server = start(&dir, fsync);
        let mut client = server.connect();
        for _ in 0..100 {
            assert!(client.ask("INCR n").starts_with(':'));
        }
        assert_eq!(client.ask("SAVE"), "+OK\r\n");
        assert!(client.ask("INCR n").starts_with(':'));
        println!("fsync {fsync}");
        // The time is what is looked at: longer than until the last second's sync.
        server.until_asleep_for(Duration::from_secs(3));
    }
}
