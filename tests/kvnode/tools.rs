//! Redis's own tools against kvnode; skipped where they are not installed.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::dir::Dir;
use crate::support::{Server, is_installed};
use crate::tracer::Tracer;

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
    // As an interactive session starts: it asks for HELLO and COMMAND DOCS and takes no for an
    // answer.
    assert_eq!(
        cli(&["-3", "--raw", "get", "greeting"]).lines().last(),
        Some("hello world")
    );
    // It looks for the largest keys with SCAN, TYPE, STRLEN, LLEN and MEMORY USAGE.
    assert_eq!(cli(&["rpush", "list", "a", "b"]), "2\n");
    let mut scanned: Vec<_> = cli(&["--scan"]).lines().map(str::to_owned).collect();
    scanned.sort_unstable();
    assert_eq!(scanned, ["greeting", "list", "n"]);
    assert!(cli(&["--bigkeys"]).contains("Biggest   list found '\"list\"' has 2 items"));
    assert!(cli(&["--memkeys"]).contains("Biggest   list found '\"list\"' has"));
    // Minimum, maximum, average and how many.
    let latency = cli(&["--latency"]);
    assert_eq!(latency.split_whitespace().count(), 4, "{latency}");
    assert_eq!(cli(&["multi"]), "OK\n");
    assert_eq!(cli(&["blpop", "list", "0"]), "list\na\n");
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
    // The fewer requests have the longer replies.
    let lists = "lpush,rpush,lpop,rpop,lrange_100,lrange_300,lrange_500,lrange_600";
    let runs = [
        ("ping,set,get,incr,mset", "20000", "1"),
        ("ping,set,get,incr,mset", "20000", "16"),
        (lists, "1000", "1"),
        (lists, "1000", "16"),
    ];
    for (commands, requests, pipeline) in runs {
        let output = Command::new("redis-benchmark")
            .args([
                "-p",
                &server.port(),
                "-t",
                commands,
                "-n",
                requests,
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
        let last = if commands == lists {
            "LRANGE_600"
        } else {
            "MSET"
        };
        assert!(stdout.contains(&format!("\"{last}")), "{stdout}");
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

#[test]
fn strace_sees_no_system_call_of_an_idle_server_after_clients_came_and_went() {
    if !is_installed("redis-benchmark") {
        return;
    }
    let server = Server::start(&["--io-threads", "2"]);
    let benchmark = Command::new("redis-benchmark")
        .args(["-p", &server.port(), "-n", "20000", "-r", "100", "-q"])
        .args(["-t", "set,incr,mset", "-P", "8"])
        .stdout(Stdio::null())
        .status();
    assert!(benchmark.expect("run redis-benchmark").success());
    // Its last connections are gone when only the asking one is left.
    let mut client = server.connect();
    client.ask_until("INFO clients", "connected_clients:1\r\n");
    drop(client);
    // That one's end is still something to be dealt with.
    server.until_asleep_for(Duration::from_secs(1));
    let dir = Dir::new();
    let counts = dir.join("counts");
    let Some(tracer) = Tracer::attach(&server, &["-c", "-o", &counts]) else {
        return;
    };
    // What is watched is five seconds of nothing.
    std::thread::sleep(Duration::from_secs(5));
    tracer.detach();
    let table = std::fs::read_to_string(&counts).unwrap_or_default();
    assert!(table.trim().is_empty(), "{table}");
    assert_eq!(server.connect().ask("PING"), "+PONG\r\n");
}
