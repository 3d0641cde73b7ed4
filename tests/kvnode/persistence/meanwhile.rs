//! What comes, and who goes, while the disk takes its time over something else.

use std::path::Path;

use rustix::process::Signal;

use super::disk::{has_none, hold_syncs, hold_syncs_of, id, until_owed};
use super::start;
use crate::dir::Dir;
use crate::support::{Client, Redis, Server, encode};

/// Waits until a client's last command is this one.
fn until_last<S: std::io::Read + std::io::Write>(witness: &mut Client<S>, id: u64, command: &str) {
    let wanted = format!(" cmd={command} ");
    while !witness
        .ask(&format!("CLIENT LIST ID {id}"))
        .contains(&wanted)
    {
        std::thread::yield_now();
    }
}

/// What redis-server says to a request while a BGSAVE is going on, if there is one.
fn redis_while_saving(request: &str) -> Option<String> {
    let redis = Redis::start()?;
    let mut client = redis.connect();
    client.ask("SET k v");
    // Ten seconds for the key.
    client.ask("CONFIG SET rdb-key-save-delay 10000000");
    assert_eq!(client.ask("BGSAVE"), "+Background saving started\r\n");
    let reply = client.ask(request);
    // It ends the process that saves.
    client.ask("FLUSHALL");
    Some(reply)
}

#[test]
fn a_save_during_another_is_refused_or_waits_for_its_turn() {
    let dir = Dir::new();
    let server = start(&dir, "everysec");
    let (mut client, mut saver) = (server.connect(), server.connect());
    let id = id(&mut saver);
    assert_eq!(client.ask("SET k v"), "+OK\r\n");
    assert_eq!(client.ask("SAVE"), "+OK\r\n");
    let before = client.ask("LASTSAVE");
    assert_eq!(client.ask("SET k w"), "+OK\r\n");
    let Some(tracer) = hold_syncs(&server) else {
        return;
    };
    assert_eq!(client.ask("BGSAVE"), "+Background saving started\r\n");
    let refused = client.ask("BGSAVE");
    assert_eq!(refused, "-ERR Background save already in progress\r\n");
    if let Some(theirs) = redis_while_saving("BGSAVE") {
        assert_eq!(refused, theirs);
    }
    // These are for all that has been written by now.
    assert_eq!(client.ask("SET late 1"), "+OK\r\n");
    let scheduled = "+Background saving scheduled\r\n";
    assert_eq!(client.ask("BGSAVE SCHEDULE"), scheduled);
    saver.send(&encode(&["SAVE"]));
    until_last(&mut client, id, "save");
    assert!(has_none(&saver));
    // Nothing has been saved so far, and nobody else is kept waiting.
    assert_eq!(client.ask("LASTSAVE"), before);
    let info = client.ask("INFO persistence");
    for line in ["rdb_bgsave_in_progress:1", "rdb_last_bgsave_status:ok"] {
        assert!(info.contains(&format!("\r\n{line}\r\n")), "{line}: {info}");
    }
    assert_eq!(client.ask("GET k"), "$1\r\nw\r\n");
    drop(tracer);
    assert_eq!(saver.reply(), b"+OK\r\n");
    let info = client.ask("INFO persistence");
    assert!(
        info.contains("\r\nrdb_changes_since_last_save:0\r\n"),
        "{info}"
    );
}

#[test]
fn a_save_in_a_transaction_answers_as_redis_does() {
    let dir = Dir::new();
    let server = start(&dir, "everysec");
    let Some(redis) = Redis::start() else {
        return;
    };
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    for line in ["MULTI", "BGSAVE", "BGSAVE SCHEDULE", "LASTSAVE x", "EXEC"] {
        assert_eq!(ours.ask(line), theirs.ask(line), "{line}");
    }
    for line in ["MULTI", "SET k v", "BGSAVE", "EXEC"] {
        assert_eq!(ours.ask(line), theirs.ask(line), "{line}");
    }
    // What the transaction has done is in it.
    let is_saved = |info: &str| {
        let lines = [
            "rdb_bgsave_in_progress:0",
            "rdb_changes_since_last_save:0",
            "rdb_last_bgsave_status:ok",
        ];
        let mut lines = lines.iter();
        lines.all(|line| info.contains(&format!("\r\n{line}\r\n")))
    };
    while !is_saved(&ours.ask("INFO persistence")) {
        std::thread::yield_now();
    }
    let nowhere = Server::start(&[]);
    let mut client = nowhere.connect();
    client.ask("MULTI");
    client.ask("BGSAVE");
    let told = client.ask("EXEC");
    assert!(
        told.starts_with("*1\r\n-ERR there is nowhere to save to"),
        "{told}"
    );
}

#[test]
fn a_shutdown_gives_the_replies_that_are_held_first() {
    for words in [
        &["SHUTDOWN"][..],
        &["SHUTDOWN", "NOSAVE"],
        &["SHUTDOWN", "SAVE"],
    ] {
        let dir = Dir::new();
        let server = start(&dir, "always");
        let [mut witness, mut writer, mut stopper] = std::array::from_fn(|_| server.connect());
        let ids = [&mut writer, &mut stopper].map(id);
        let Some(tracer) = hold_syncs(&server) else {
            return;
        };
        writer.send(&encode(&["INCR", "n"]).repeat(9));
        until_owed(&mut witness, ids[0], 9 * 4);
        // Its own reply is held, too.
        stopper.send(&encode(&["INCR", "m"]));
        until_owed(&mut witness, ids[1], 4);
        stopper.send(&encode(words));
        match words.last() {
            Some(&"SAVE") => until_last(&mut witness, ids[1], "shutdown"),
            // Nothing is held for this one: it is let go at once.
            _ => assert!(witness.rest().is_empty(), "{words:?}"),
        }
        assert!(has_none(&writer) && has_none(&stopper), "{words:?}");
        drop(tracer);
        let replies: String = (1..=9).map(|number| format!(":{number}\r\n")).collect();
        let rest = writer.rest();
        assert_eq!(String::from_utf8_lossy(&rest), replies, "{words:?}");
        assert_eq!(stopper.rest(), b":1\r\n", "{words:?}");
        assert_eq!(server.wait().0.code(), Some(0), "{words:?}");
        let server = start(&dir, "always");
        let mut client = server.connect();
        let found = client.ask("MGET n m");
        assert_eq!(found, "*2\r\n$1\r\n9\r\n$1\r\n1\r\n", "{words:?}");
    }
}

#[test]
fn a_client_that_leaves_while_its_replies_are_held_leaves_nothing_behind() {
    let dir = Dir::new();
    let server = start(&dir, "always");
    let mut witness = server.connect();
    let [mut gone, mut resets, mut killed] = std::array::from_fn(|_| server.connect());
    let ids = [&mut gone, &mut resets, &mut killed].map(id);
    let Some(tracer) = hold_syncs(&server) else {
        return;
    };
    for (client, id) in [&mut gone, &mut resets, &mut killed].into_iter().zip(ids) {
        client.send(&encode(&["INCR", "n"]).repeat(3));
        until_owed(&mut witness, id, 3 * 4);
    }
    // It may only have finished sending: this one's replies stay until they can be written.
    drop(gone);
    // Of these it is known that nobody will read them.
    resets.reset();
    assert_eq!(witness.ask(&format!("CLIENT KILL ID {}", ids[2])), ":1\r\n");
    assert!(killed.rest().is_empty());
    let list = |witness: &mut Client<_>, id: u64| witness.ask(&format!("CLIENT LIST ID {id}"));
    for id in &ids[1..] {
        while list(&mut witness, *id) != "$0\r\n\r\n" {
            std::thread::yield_now();
        }
    }
    assert!(list(&mut witness, ids[0]).contains(" obl=12 "));
    // Whoever gets their places gets none of their replies.
    let mut heirs = [server.connect(), server.connect()];
    for heir in &mut heirs {
        let id = id(heir);
        heir.send(&encode(&["INCR", "m"]));
        until_owed(&mut witness, id, 4);
    }
    drop(tracer);
    for (heir, number) in heirs.iter_mut().zip(1..) {
        assert_eq!(heir.reply(), format!(":{number}\r\n").as_bytes());
        assert_eq!(heir.ask("PING"), "+PONG\r\n");
    }
    while !witness
        .ask("INFO clients")
        .contains("connected_clients:3\r\n")
    {
        std::thread::yield_now();
    }
    // What they did has been done.
    assert_eq!(witness.ask("GET n"), "$1\r\n9\r\n");
}

#[test]
fn a_flushall_during_a_flush_is_the_last_word() {
    for is_killed in [false, true] {
        let dir = Dir::new();
        let server = start(&dir, "always");
        let (mut client, mut saver) = (server.connect(), server.connect());
        for number in 0..100 {
            assert_eq!(client.ask(&format!("SET before:{number} 1")), "+OK\r\n");
        }
        assert_eq!(client.ask("SAVE"), "+OK\r\n");
        for number in 50..150 {
            assert_eq!(client.ask(&format!("SET before:{number} 2")), "+OK\r\n");
        }
        // The second segment; the log is synced meanwhile.
        let segment = dir.join("data/0000000000000002.segment");
        let Some(tracer) = hold_syncs_of(&server, &segment) else {
            return;
        };
        saver.send(&encode(&["SAVE"]));
        while !Path::new(&segment).exists() {
            std::thread::yield_now();
        }
        assert_eq!(client.ask("FLUSHALL"), "+OK\r\n");
        assert_eq!(client.ask("SET before:1 after"), "+OK\r\n");
        let info = client.ask("INFO persistence");
        assert!(info.contains("\r\nflushes_going_on:1\r\n"), "{info}");
        assert!(has_none(&saver));
        if is_killed {
            server.signal(Signal::KILL);
            drop(tracer);
        } else {
            drop(tracer);
            assert_eq!(saver.reply(), b"+OK\r\n");
            assert_eq!(client.ask("DBSIZE"), ":1\r\n");
            assert_eq!(client.ask("SAVE"), "+OK\r\n");
            server.signal(Signal::KILL);
        }
        server.wait();
        let server = start(&dir, "always");
        let mut client = server.connect();
        assert_eq!(client.ask("DBSIZE"), ":1\r\n", "{is_killed}");
        assert_eq!(client.ask("GET before:1"), "$5\r\nafter\r\n");
    }
}
