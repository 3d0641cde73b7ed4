//! The command: what it gets, and that `slots` ends as it does.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};

use crate::support::{Place, Running, UNTIL_TOLD, binary, stat, texts};

#[test]
fn its_exit_status_is_passed_on() {
    let place = Place::new();
    for status in [0, 1, 42, 75, 255] {
        let script = format!("exit {status}");
        let output = place
            .slots(["--permits", "1", "--", "sh", "-c", &script])
            .output();
        assert_eq!(output.expect("run slots").status.code(), Some(status));
    }
}

#[test]
fn the_signal_that_ends_it_ends_slots_too() {
    let place = Place::new();
    let end_by = |signal: &str| {
        let script = format!("kill -{signal} $$");
        let output = place
            .slots(["--permits", "1", "--", "sh", "-c", &script])
            .output();
        output.expect("run slots").status
    };
    for (name, number) in [
        ("TERM", 15),
        ("KILL", 9),
        ("HUP", 1),
        ("SEGV", 11),
        ("USR1", 10),
    ] {
        let status = end_by(name);
        assert_eq!(status.signal(), Some(number), "{name}: {status}");
        assert!(!status.core_dumped());
    }
    // A real-time signal has no name.
    assert_eq!(end_by("40").code(), Some(128 + 40));
    assert_eq!(place.open().current(), 0);
}

#[test]
fn it_has_the_input_the_output_and_the_rest_of_the_arguments() {
    let place = Place::new();
    let script = [
        "--permits",
        "1",
        "sh",
        "-c",
        "cat; echo \"$@\" >&2",
        "--",
        "--name",
        "x y",
        "--",
        "-q",
    ];
    let mut slots = Running::start(place.slots(script).stderr(std::process::Stdio::piped()));
    slots.output.write("one\ntwo\n");
    slots.output.end_input();
    assert_eq!(slots.output.rest(), "one\ntwo\n");
    assert!(slots.slots.wait().success());
    let output = place.slots(&script[2..]).output().expect("run slots");
    assert_eq!(texts(&output).1, "--name x y -- -q\n");
}

#[test]
fn what_cannot_be_run_has_the_codes_that_shells_give() {
    let place = Place::new();
    for (command, code, said) in [
        (
            "no-such-command-here",
            127,
            "there is no command 'no-such-command-here'",
        ),
        (
            "/no/such/command",
            127,
            "there is no command '/no/such/command'",
        ),
        ("/etc/passwd", 126, "could not run '/etc/passwd'"),
        ("/", 126, "could not run '/'"),
    ] {
        let output = place.run(&format!("--permits 1 -- {command}"));
        assert_eq!(output.status.code(), Some(code), "{command}");
        let (_, stderr) = texts(&output);
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(place.open().current(), 0);
}

/// `slots` under `env`, which says what becomes of signals: a test may be run with some ignored.
fn slots_with(place: &Place, signals: &str, command: &[&str]) -> Running {
    let mut env = Command::new("env");
    env.arg(signals)
        .arg(binary())
        .arg("--name")
        .arg(place.name());
    Running::start(env.args(["--permits", "1", "--"]).args(command))
}

#[test]
fn signals_are_handed_on() {
    let place = Place::new();
    for (name, signal) in [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("TERM", Signal::TERM),
        ("ALRM", Signal::ALARM),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
    ] {
        let script = format!("trap 'echo {name}; exit 7' {name}; echo up; read x");
        let mut slots = slots_with(&place, "--default-signal", &["sh", "-c", &script]);
        assert_eq!(slots.output.line(), "up");
        slots.slots.signal(signal);
        assert_eq!(slots.output.line(), name);
        assert_eq!(slots.slots.wait().code(), Some(7));
    }
}

#[test]
fn a_signal_that_it_does_not_handle_ends_both() {
    let place = Place::new();
    let mut slots = slots_with(&place, "--default-signal", &UNTIL_TOLD);
    slots.command();
    slots.slots.signal(Signal::TERM);
    assert_eq!(slots.slots.wait().signal(), Some(15));
    assert_eq!(slots.output.rest(), "");
    assert_eq!(place.open().current(), 0);
}

#[test]
fn a_signal_ends_slots_while_it_waits() {
    let place = Place::new();
    let mut first = place.start("--permits 1");
    first.command();
    let mut second = slots_with(&place, "--default-signal", &["echo", "up"]);
    let semaphore = place.open();
    while semaphore.waiters() < 1 {
        std::thread::yield_now();
    }
    second.slots.signal(Signal::INT);
    assert_eq!(second.slots.wait().signal(), Some(2));
    assert_eq!(second.output.rest(), "");
    assert!(first.end().success());
}

#[test]
fn what_slots_ignores_the_command_ignores() {
    let place = Place::new();
    let script = "trap 'echo USR1; exit 3' USR1; echo up; read x";
    let mut slots = slots_with(&place, "--ignore-signal=HUP", &["sh", "-c", script]);
    assert_eq!(slots.output.line(), "up");
    slots.slots.signal(Signal::HUP);
    slots.slots.signal(Signal::USR1);
    assert_eq!(slots.output.line(), "USR1");
    assert_eq!(slots.slots.wait().code(), Some(3));
}

#[test]
fn it_stops_and_continues_with_slots() {
    let place = Place::new();
    let arguments = ["--permits", "1", "--"].into_iter().chain(UNTIL_TOLD);
    // In a group of its own: nothing stops in one that no shell could continue.
    let mut slots = Running::start(place.slots(arguments).process_group(0));
    let command = slots.command();
    for _ in 0..3 {
        slots.slots.signal(Signal::TSTP);
        let change = waitid(WaitId::Pid(slots.slots.pid()), WaitIdOptions::STOPPED);
        assert!(change.expect("wait").is_some_and(|status| status.stopped()));
        let state = stat(command.pid.as_raw_nonzero().get() as u32).expect("it is there");
        assert_eq!(state[0], "T");
        assert_eq!(place.open().current(), 1);
        slots.slots.signal(Signal::CONT);
        let change = waitid(WaitId::Pid(slots.slots.pid()), WaitIdOptions::CONTINUED);
        assert!(
            change
                .expect("wait")
                .is_some_and(|status| status.continued())
        );
    }
    assert!(slots.end().success());
}

#[test]
fn the_slot_is_back_when_the_command_ends_though_others_go_on() {
    let place = Place::new();
    // The child that goes on has the command's input, and the descriptor.
    let script = "exec 3<&0; cat <&3 >/dev/null 2>&1 & echo $!";
    let mut slots = Running::start(&mut place.slots(["--permits", "1", "--", "sh", "-c", script]));
    let left = slots.command();
    assert!(slots.slots.wait().success());
    place.run_well("--timeout 0 -- true");
    slots.output.end_input();
    drop(left);
}
