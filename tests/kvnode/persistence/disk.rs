//! What clients see of a disk that is slow, full or broken.
//!
//! strace stands between the server and its disk: it holds every sync until it is killed, or makes
//! them fail. The full disk is a small file system in memory, in a mount namespace of its own.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::start;
use crate::dir::Dir;
use crate::support::{Client, Server, binary, encode};
use crate::tracer::Tracer;

/// From so many bytes on that the log has not written the server lets nobody write.
const CROWDED: u64 = 32 << 20;
/// What is to happen and does not is given up after this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Attaches to a server, with something to be done to its system calls.
fn inject(server: &Server, what: &str) -> Option<Tracer> {
    Tracer::attach(
        server,
        &["-o", "/dev/null", "-e", &format!("inject={what}")],
    )
}

/// From now on no sync of a file ends until the tracer is dropped.
pub(super) fn hold_syncs_of(server: &Server, file: &str) -> Option<Tracer> {
    let what = "inject=fdatasync:delay_enter=600000000";
    Tracer::attach(server, &["-o", "/dev/null", "-P", file, "-e", what])
}

/// From now on nothing is written until the tracer is dropped.
fn hold_writes(server: &Server) -> Option<Tracer> {
    inject(server, "pwrite64:delay_enter=600000000")
}

/// From now on no sync ends until the tracer is dropped.
pub(super) fn hold_syncs(server: &Server) -> Option<Tracer> {
    inject(server, "fdatasync:delay_enter=600000000")
}

/// Waits until a client's replies of so many bytes are held back.
pub(super) fn until_owed<S: Read + Write>(witness: &mut Client<S>, id: u64, bytes: usize) {
    let wanted = format!(" obl={bytes} ");
    loop {
        let list = witness.ask(&format!("CLIENT LIST ID {id}"));
        if list.contains(&wanted) {
            return;
        }
        std::thread::yield_now();
    }
}

pub(super) fn id<S: Read + Write>(client: &mut Client<S>) -> u64 {
    let reply = client.ask("CLIENT ID");
    reply[1..].trim_end().parse().expect("an id")
}

pub(super) fn has_none<S: Read + AsFd>(client: &Client<S>) -> bool {
    !client.has_reply(Duration::ZERO)
}

/// A field of `CLIENT LIST`.
fn number_in(list: &str, name: &str) -> usize {
    let mut fields = list.split(' ');
    let found = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
    found.expect("a field").parse().expect("a number")
}

/// What the log has not written yet.
fn pending_bytes<S: Read + Write>(client: &mut Client<S>) -> u64 {
    let info = client.ask("INFO persistence");
    let mut lines = info.lines();
    let found = lines.find_map(|line| line.strip_prefix("log_pending_bytes:"));
    found.expect("a line").parse().expect("a number")
}

#[test]
fn replies_wait_for_the_sync_and_nobody_else_does() {
    let dir = Dir::new();
    let server = Server::start(&[
        "--data",
        &dir.join("data"),
        "--fsync",
        "always",
        "--io-threads",
        "2",
    ]);
    let [
        mut witness,
        mut writer,
        mut reader,
        mut waiter,
        mut leaver,
        mut idle,
    ] = std::array::from_fn(|_| server.connect());
    let ids = [&mut writer, &mut reader, &mut waiter, &mut leaver].map(id);
    assert_eq!(witness.ask("SET k old"), "+OK\r\n");
    waiter.send(&encode(&["BLPOP", "q", "0"]));
    while !witness
        .ask("INFO clients")
        .contains("blocked_clients:1\r\n")
    {
        std::thread::yield_now();
    }
    let Some(tracer) = hold_syncs(&server) else {
        return;
    };
    writer.send(&encode(&["SET", "k", "new"]));
    until_owed(&mut witness, ids[0], 5);
    // It is heard all the same.
    writer.send(&[encode(&["RPUSH", "q", "a"]), encode(&["PING"])].concat());
    until_owed(&mut witness, ids[0], 5 + 4 + 7);
    // Who could see what is not durable waits as well: a reader, and whom the push has served.
    reader.send(&encode(&["GET", "k"]));
    until_owed(&mut witness, ids[1], 9);
    until_owed(&mut witness, ids[2], 4 + 7 + 7);
    // A client that has said all that it has to say still gets its reply.
    leaver.send(&encode(&["INCR", "n"]));
    leaver.end();
    until_owed(&mut witness, ids[3], 4);
    assert_eq!(idle.ask("PING"), "+PONG\r\n");
    assert!(
        [&writer, &reader, &waiter, &leaver]
            .into_iter()
            .all(has_none)
    );
    drop(tracer);
    assert_eq!(writer.reply(), b"+OK\r\n");
    assert_eq!(writer.reply(), b":1\r\n");
    assert_eq!(writer.reply(), b"+PONG\r\n");
    assert_eq!(reader.reply(), b"$3\r\nnew\r\n");
    assert_eq!(waiter.reply(), b"*2\r\n$1\r\nq\r\n$1\r\na\r\n");
    assert_eq!(leaver.rest(), b":1\r\n");
}

#[test]
fn a_client_is_not_heard_while_too_much_is_held_for_it() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    let (mut witness, mut greedy) = (server.connect(), server.connect());
    let id = id(&mut greedy);
    let value = vec![b'v'; 100_000];
    assert_eq!(witness.call(&[b"SET", &b"k"[..], &value]), b"+OK\r\n");
    let Some(tracer) = hold_syncs(&server) else {
        return;
    };
    let requests = 500;
    greedy.send(&encode(&["INCR", "n"]));
    greedy.send(&encode(&["GET", "k"]).repeat(requests));
    // Three values are as much as may be held.
    until_owed(&mut witness, id, 4 + 3 * 100_011);
    let list = witness.ask(&format!("CLIENT LIST ID {id}"));
    assert!(number_in(&list, "tot-mem") < 1_500_000, "{list}");
    assert!(has_none(&greedy));
    drop(tracer);
    assert_eq!(greedy.reply(), b":1\r\n");
    for _ in 0..requests {
        assert_eq!(greedy.reply().len(), 100_011);
    }
    assert_eq!(greedy.ask("PING"), "+PONG\r\n");
}

#[test]
fn whoever_writes_faster_than_the_disk_waits_and_nobody_else_does() {
    for fsync in super::MODES {
        let dir = Dir::new();
        let server = start(&dir, fsync);
        let [mut witness, mut greedy, mut late, mut reset] =
            std::array::from_fn(|_| server.connect());
        assert_eq!(witness.ask("SET k v"), "+OK\r\n");
        let ids = [&mut greedy, &mut late, &mut reset].map(id);
        let list = |witness: &mut Client<_>, index: usize| {
            witness.ask(&format!("CLIENT LIST ID {}", ids[index]))
        };
        let Some(tracer) = hold_writes(&server) else {
            return;
        };
        let requests = 200;
        let set = encode(&[b"SET", &b"big"[..], &vec![b'v'; 1_000_000]]);
        let both = [set, encode(&["INCR", "n"])].concat();
        std::thread::scope(|scope| {
            let mut half = greedy.another_half();
            scope.spawn(move || (0..requests).for_each(|_| half.write_all(&both).expect("send")));
            // The server stops to listen to it, long before all has been sent. As long as there is
            // less, more may come: the sender need not have run.
            let (start, mut pending, mut same) = (Instant::now(), 0, 0);
            while pending < CROWDED || same < 1_000 {
                let now = pending_bytes(&mut witness);
                same = if now == pending { same + 1 } else { 0 };
                pending = now;
                assert!(start.elapsed() < PATIENCE, "{fsync}: {pending}");
            }
            assert!(pending < 40_000_000, "{fsync}: {pending}");
            // Of what it has sent, the server has a request and a read.
            let greedy_now = list(&mut witness, 0);
            assert!(
                number_in(&greedy_now, "tot-mem") < 4_000_000,
                "{greedy_now}"
            );
            // Whoever writes now waits as well, however little it is, and whoever reads does not.
            late.send(&[encode(&["APPEND", "k", "w"]), encode(&["PING"])].concat());
            reset.send(&encode(&["SET", "k", "never"]));
            for index in [1, 2] {
                while number_in(&list(&mut witness, index), "qbuf") == 0 {
                    std::thread::yield_now();
                }
            }
            if fsync != "always" {
                assert_eq!(witness.ask("GET k"), "$1\r\nv\r\n");
            }
            assert!(has_none(&late));
            // What has not begun never does, once it is known that nobody waits for it.
            reset.reset();
            while list(&mut witness, 2) != "$0\r\n\r\n" {
                std::thread::yield_now();
            }
            drop(tracer);
            for number in 1..=requests {
                assert_eq!(greedy.reply(), b"+OK\r\n", "{fsync}");
                let reply = greedy.reply();
                assert_eq!(reply, format!(":{number}\r\n").as_bytes(), "{fsync}");
            }
        });
        assert_eq!(late.reply(), b":2\r\n", "{fsync}");
        assert_eq!(late.reply(), b"+PONG\r\n", "{fsync}");
        assert_eq!(witness.ask("GET k"), "$2\r\nvw\r\n", "{fsync}");
        assert_eq!(greedy.ask("SET k w"), "+OK\r\n");
        let info = witness.ask("INFO persistence");
        assert!(info.contains("\r\nwrites_refused:0\r\n"), "{info}");
    }
}

#[test]
fn a_server_that_is_stopped_gives_the_replies_that_it_holds() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    let (mut witness, mut writer) = (server.connect(), server.connect());
    let id = id(&mut writer);
    let Some(tracer) = hold_syncs(&server) else {
        return;
    };
    writer.send(&encode(&["INCR", "n"]).repeat(10));
    until_owed(&mut witness, id, 9 * 4 + 5);
    server.signal(Signal::TERM);
    // Nothing is held for this one: it is let go at once, and the other one is not.
    assert!(witness.rest().is_empty());
    assert!(has_none(&writer));
    drop(tracer);
    let replies: String = (1..=10).map(|number| format!(":{number}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&writer.rest()), replies);
    assert_eq!(server.wait().0.code(), Some(0));
}

#[test]
fn a_failed_sync_leaves_nobody_with_a_false_answer() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    let [mut witness, mut writer, mut waiter, mut idle] = std::array::from_fn(|_| server.connect());
    assert_eq!(witness.ask("MSET k old other 1"), "+OK\r\n");
    waiter.send(&encode(&["BLPOP", "q", "0"]));
    while !witness
        .ask("INFO clients")
        .contains("blocked_clients:1\r\n")
    {
        std::thread::yield_now();
    }
    let Some(tracer) = inject(&server, "fdatasync:error=EIO") else {
        return;
    };
    writer.send(&[encode(&["SET", "k", "new"]), encode(&["GET", "other"])].concat());
    let told = String::from_utf8_lossy(&writer.rest()).into_owned();
    assert!(
        told.starts_with("-INDOUBT ") && told.lines().count() == 1,
        "{told}"
    );
    drop(tracer);
    let refused = witness.ask("SET other 2");
    assert!(
        refused.starts_with("-MISCONF ") && refused.contains("restart"),
        "{refused}"
    );
    assert_eq!(witness.ask("RPUSH q a"), refused);
    assert_eq!(witness.ask("FLUSHALL"), refused);
    // What is durable can be read, and what may not be cannot.
    assert_eq!(witness.ask("GET other"), "$1\r\n1\r\n");
    assert_eq!(witness.ask("EXISTS other nokey"), ":1\r\n");
    for line in ["GET k", "MGET other k", "TTL k", "KEYS *", "DBSIZE"] {
        let reply = witness.ask(line);
        assert!(reply.starts_with("-INDOUBT "), "{line}: {reply}");
    }
    assert_eq!(witness.ask("PING"), "+PONG\r\n");
    // A transaction of reads is one, and one with a write is refused when that is queued.
    assert_eq!(witness.ask("MULTI"), "+OK\r\n");
    assert_eq!(witness.ask("GET other"), "+QUEUED\r\n");
    assert_eq!(witness.ask("EXEC"), "*1\r\n$1\r\n1\r\n");
    assert_eq!(witness.ask("MULTI"), "+OK\r\n");
    assert_eq!(witness.ask("GET k"), "+QUEUED\r\n");
    assert!(witness.ask("EXEC").starts_with("-EXECABORT "));
    assert_eq!(witness.ask("MULTI"), "+OK\r\n");
    assert_eq!(witness.ask("INCR other"), refused);
    assert!(witness.ask("EXEC").starts_with("-EXECABORT "));
    assert_eq!(idle.ask("GET other"), "$1\r\n1\r\n");
    assert!(has_none(&waiter));
    let info = witness.ask("INFO persistence");
    assert!(info.contains("\r\naof_last_write_status:err\r\n"), "{info}");
    server.signal(Signal::KILL);
    server.wait();
    let server = start(&dir, "always");
    let mut client = server.connect();
    let found = client.ask("GET k");
    assert!(
        found == "$3\r\nold\r\n" || found == "$3\r\nnew\r\n",
        "{found}"
    );
    assert_eq!(client.ask("GET other"), "$1\r\n1\r\n");
    assert_eq!(client.ask("SET k newer"), "+OK\r\n");
}

/// What runs a program where `set_up` has mounted something, for it alone; or why that cannot be.
pub(super) fn in_own_mounts(set_up: &str) -> Option<Command> {
    let inside = format!("{set_up} && exec \"$@\"");
    let wrapped = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.args([&inside, "sh"]);
        command
    };
    match wrapped().arg("true").output() {
        Ok(output) if output.status.success() => Some(wrapped()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            println!("SKIP: no file system can be mounted here (root may): {said}");
            None
        }
        Err(error) => {
            println!("SKIP: unshare does not run: {error}");
            None
        }
    }
}

/// A server on a small file system of its own that has a file `ballast`, or why not.
fn on_a_small_disk(dir: &Dir, fsync: &str) -> Option<Server> {
    let mount = dir.path().to_str()?;
    let mut command = in_own_mounts(&format!(
        "mount -t tmpfs -o size=400m small {mount} && fallocate -l 240m {mount}/ballast"
    ))?;
    let data = dir.join("data");
    let options = ["--data", &data, "--fsync", fsync];
    Some(Server::start_by(command.arg(binary()), &options))
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space_and_reads_go_on() {
    for fsync in super::MODES {
        let dir = Dir::new();
        let Some(server) = on_a_small_disk(&dir, fsync) else {
            return;
        };
        let mut client = server.connect();
        assert_eq!(client.ask("SET first 1"), "+OK\r\n");
        let value = vec![b'v'; 100_000];
        let (mut written, mut in_doubt) = (0, None);
        let refused = loop {
            let reply = client.call(&[b"SET", format!("key{written}").as_bytes(), &value]);
            match reply.as_slice() {
                b"+OK\r\n" => written += 1,
                doubt if doubt.starts_with(b"-INDOUBT ") => {
                    assert!(client.rest().is_empty());
                    in_doubt = Some(written);
                    written += 1;
                    client = server.connect();
                }
                refused => break String::from_utf8_lossy(refused).into_owned(),
            }
            assert!(written < 5_000, "the disk has 400 MiB");
        };
        assert!(
            refused.starts_with("-MISCONF No space left on device"),
            "{refused}"
        );
        assert_eq!(client.ask("GET first"), "$1\r\n1\r\n");
        assert_eq!(client.ask("DEL first"), refused);
        let found = client.call(&[b"GET", &b"key0"[..]]);
        assert_eq!(found.len(), "$100000\r\n\r\n".len() + value.len());
        if let Some(number) = in_doubt {
            let reply = client.ask(&format!("GET key{number}"));
            assert!(reply.starts_with("-INDOUBT "), "{reply}");
        }
        let info = client.ask("INFO persistence");
        assert!(info.contains("\r\naof_last_write_status:err\r\n"), "{info}");
        let ballast = format!("/proc/{}/root{}", server.pid(), dir.join("ballast"));
        std::fs::remove_file(ballast).expect("room");
        while client.ask("SET second 2") == refused {
            std::thread::yield_now();
        }
        for (line, reply) in [
            ("GET first", "$1\r\n1\r\n"),
            ("GET second", "$1\r\n2\r\n"),
            ("INCR second", ":3\r\n"),
        ] {
            assert_eq!(client.ask(line), reply, "{fsync}: {line}");
        }
        for number in 0..written {
            let found = client.call(&["GET".to_owned(), format!("key{number}")]);
            // What the client was in doubt about has been written now.
            assert_eq!(
                found.len(),
                "$100000\r\n\r\n".len() + value.len(),
                "{number}"
            );
        }
        server.signal(Signal::TERM);
        assert_eq!(server.wait().0.code(), Some(0));
    }
}
