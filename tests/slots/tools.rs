//! What `slots` answers and changes without running a command, and what it says of mistakes.

use std::process::{Command, Stdio};

use latchwork::SharedSemaphore;

use crate::support::{Place, binary, texts};

/// Waits until so many wait for a slot.
fn until_waiting(place: &Place, wanted: u32) {
    let semaphore = place.open();
    while semaphore.waiters() != wanted {
        std::thread::yield_now();
    }
}

#[test]
fn it_gives_up_when_the_time_has_passed() {
    let place = Place::new();
    let mut first = place.start("--permits 1");
    first.command();
    for timeout in ["0", "0.02"] {
        let output = place.run(&format!("--timeout {timeout} -- echo ran"));
        let (stdout, stderr) = texts(&output);
        assert_eq!((output.status.code(), stdout.as_str()), (Some(75), ""));
        assert!(stderr.contains("none of the 1 slots"), "{stderr}");
        assert!(stderr.contains("--list"), "{stderr}");
    }
    assert!(first.end().success());
    assert_eq!(place.run_well("--timeout 0 -- echo ran"), "ran\n");
}

#[test]
fn the_list_shows_who_holds_and_who_waits() {
    let place = Place::new();
    let mut first = place.start("--permits 1");
    first.command();
    let second = place.start("");
    until_waiting(&place, 1);
    let list = place.run_well("--list");
    let lines: Vec<_> = list.lines().collect();
    let name = place.name().display().to_string();
    assert_eq!(
        lines[0],
        format!("{name}: 1 of 1 taken, 1 waiting, ceiling 1024, strict")
    );
    let rows: Vec<Vec<_>> = lines[1..]
        .iter()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["STATE", "PID", "COUNT", "SINCE", "COMMAND"]);
    let (holder, waiter) = (
        first.slots.pid().to_string(),
        second.slots.pid().to_string(),
    );
    assert_eq!(rows[1][..3], ["holds", &holder, "1"]);
    assert!(rows[1][3].ends_with('s'), "{list}");
    assert_eq!(
        rows[1][4..],
        ["sh", "-c", "echo", "$$;", "exec", "cat", ">/dev/null"]
    );
    assert_eq!(rows[2][..5], ["waits", &waiter, "1", "-", "sh"]);
    assert_eq!(rows.len(), 3);
    // The columns begin below one another.
    let commands = lines[1..]
        .iter()
        .map(|line| line.find("COMMAND").or(line.find("sh -c")));
    let mut commands: Vec<_> = commands.collect();
    commands.dedup();
    assert_eq!(commands.len(), 1, "{list}");
    drop(first);
    assert!(second.end().success());
}

#[test]
fn the_number_of_slots_can_be_set() {
    let place = Place::new();
    let mut first = place.start("--permits 1");
    first.command();
    let mut second = place.start("");
    until_waiting(&place, 1);
    place.run_well("--set 2");
    second.command();
    assert_eq!(place.run("--timeout 0 -- true").status.code(), Some(75));
    place.run_well("--set 1");
    assert!(place.run_well("--list").contains("2 of 1 taken"));
    assert!(first.end().success());
    assert!(second.end().success());
    assert!(place.run_well("--list").contains("0 of 1 taken"));
    place.run_well("--timeout 0 -- true");
}

#[test]
fn after_a_cut_nobody_starts_until_enough_have_ended() {
    let place = Place::new();
    // One after the other, so that the one that ends first has had the first slot.
    let running = [(); 3].map(|()| {
        let mut job = place.start("--permits 3");
        job.command();
        job
    });
    place.run_well("--set 1");
    for job in running {
        assert_eq!(place.run("--timeout 0 -- true").status.code(), Some(75));
        assert!(job.end().success());
    }
    place.run_well("--timeout 0 -- true");
}

#[test]
fn one_that_is_there_is_used_as_it_is_and_a_note_says_so() {
    let place = Place::new();
    place.run_well("--permits 2 --ceiling 8 -- true");
    place.run_well("--set 8");
    let output = place.run("--permits 2 --ceiling 9 -- echo ran");
    let (stdout, stderr) = texts(&output);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(0), "ran\n"));
    assert!(stderr.contains("has 8 slots now, not 2"), "{stderr}");
    assert!(stderr.contains("--set 2"), "{stderr}");
    assert!(stderr.contains("a ceiling of 8, not 9"), "{stderr}");
    for silent in ["-q --permits 2 -- true", "--permits 8 -- true", "-- true"] {
        assert_eq!(texts(&place.run(silent)).1, "", "{silent}");
    }
    let output = place.run("--set 9");
    assert_eq!(output.status.code(), Some(69));
    let (_, stderr) = texts(&output);
    assert!(
        stderr.contains("at most 8") && stderr.contains("--ceiling 9"),
        "{stderr}"
    );
}

#[test]
fn one_that_is_not_strict_is_used_with_a_note() {
    let place = Place::new();
    let _theirs = SharedSemaphore::open(place.name(), 3).expect("make one");
    let output = place.run("--permits 3 -- echo ran");
    let (stdout, stderr) = texts(&output);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(0), "ran\n"));
    assert!(stderr.contains("not strict"), "{stderr}");
    assert!(place.run_well("--list").contains("ceiling 3\n"));
}

#[test]
fn many_that_make_it_at_once_make_one() {
    let place = Place::new();
    let jobs: Vec<_> = (1..=8)
        .map(|permits| {
            place
                .slots(["-q", "--permits", &permits.to_string(), "true"])
                .spawn()
        })
        .collect();
    for job in jobs {
        let mut job = job.expect("start slots");
        assert!(job.wait().expect("wait for slots").success());
    }
    let semaphore = place.open();
    let all = semaphore
        .acquire_many(semaphore.max())
        .expect("all are back");
    assert!((1..=8).contains(&all.count()));
}

#[test]
fn closing_refuses_those_who_wait_and_those_who_come() {
    let place = Place::new();
    let mut first = place.start("--permits 1");
    first.command();
    let second = place.slots(["true"]).stderr(Stdio::piped()).spawn();
    until_waiting(&place, 1);
    place.run_well("--close");
    let waited = second.expect("start slots").wait_with_output();
    for refused in [waited.expect("wait for slots"), place.run("-- true")] {
        assert_eq!(refused.status.code(), Some(69));
        let (_, stderr) = texts(&refused);
        assert!(
            stderr.contains("closed") && stderr.contains("--rm"),
            "{stderr}"
        );
    }
    assert!(place.run_well("--list").contains(", closed"));
    assert!(first.end().success());
    place.run_well("--rm");
    place.run_well("--permits 1 -- true");
}

#[test]
fn removing_lets_the_next_one_begin_anew() {
    let place = Place::new();
    let mut first = place.start("--permits 1");
    first.command();
    let output = place.run("--rm");
    assert!(output.status.success());
    let (_, stderr) = texts(&output);
    assert!(stderr.contains("1 that run and 0 that wait"), "{stderr}");
    place.run_well("--permits 2 --timeout 0 -- true");
    assert!(place.run_well("--list").contains("0 of 2 taken"));
    assert!(first.end().success());
    place.run_well("--rm");
    assert_eq!(place.run("--rm").status.code(), Some(69));
}

#[test]
fn a_file_that_is_something_else_is_named_and_can_be_removed() {
    let place = Place::new();
    std::fs::write(place.name(), vec![b'x'; 1 << 16]).expect("write");
    let output = place.run("--permits 1 -- true");
    assert_eq!(output.status.code(), Some(69));
    let (_, stderr) = texts(&output);
    assert!(stderr.contains("--rm"), "{stderr}");
    place.run_well("--rm");
    place.run_well("--permits 1 -- true");
}

#[test]
fn one_that_is_not_there_is_explained() {
    let place = Place::new();
    for arguments in ["-- true", "--list", "--set 3", "--close", "--rm"] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(69), "{arguments}");
        let (_, stderr) = texts(&output);
        assert!(stderr.contains("there is no"), "{stderr}");
        assert!(stderr.contains("--permits K -- COMMAND"), "{stderr}");
    }
    assert!(!place.name().exists());
    let output = Command::new(binary())
        .args([
            "--name",
            "/no/such/directory/slots",
            "--permits",
            "1",
            "true",
        ])
        .output()
        .expect("run slots");
    assert_eq!(output.status.code(), Some(69));
    let (_, stderr) = texts(&output);
    assert!(stderr.contains("/no/such/directory"), "{stderr}");
}

#[test]
fn a_name_is_a_file_of_the_users_own() {
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        let command = command.env("XDG_RUNTIME_DIR", place.directory());
        command.args(arguments).output().expect("run slots")
    };
    assert!(
        run(&["--name", "mine", "--permits", "1", "true"])
            .status
            .success()
    );
    assert!(place.directory().join("latchwork/mine").exists());
    let output = run(&["--name", "not/mine", "--permits", "1", "true"]);
    assert_eq!(output.status.code(), Some(69));
    assert!(texts(&output).1.contains("a name has no slashes"));
}

#[test]
fn bad_arguments_are_explained() {
    let name = "--name /nowhere/at/all";
    for (arguments, said) in [
        (String::new(), "--name says which slots"),
        ("true".into(), "--name says which slots"),
        ("--name".into(), "missing argument for option '--name'"),
        ("--name= true".into(), "--name says which slots"),
        (name.into(), "there is no command to run"),
        (
            format!("{name} --permits 2 --"),
            "there is no command to run",
        ),
        (
            format!("{name} --permits 0 true"),
            "--permits takes a number from 1 to 1048576, not '0'",
        ),
        (
            format!("{name} --permits many true"),
            "--permits takes a number from 1 to 1048576, not 'many'",
        ),
        (
            format!("{name} --timeout -1 true"),
            "--timeout takes seconds such as 10 or 0.5, not '-1'",
        ),
        (
            format!("{name} --timeout nan true"),
            "--timeout takes seconds such as 10 or 0.5, not 'nan'",
        ),
        (
            format!("{name} --permits 9 --ceiling 8 true"),
            "--permits 9 is above --ceiling 8",
        ),
        (
            format!("{name} --list --rm"),
            "--list and --rm do not go together",
        ),
        (
            format!("{name} --set 3 --timeout 1"),
            "--timeout is for running a command, not for --set",
        ),
        (format!("{name} --list true"), "--list runs no command"),
        (
            format!("{name} --frobnicate"),
            "invalid option '--frobnicate'",
        ),
    ] {
        let output = Command::new(binary())
            .args(arguments.split_whitespace())
            .output();
        let output = output.expect("run slots");
        let (stdout, stderr) = texts(&output);
        assert_eq!(
            (output.status.code(), stdout.as_str()),
            (Some(64), ""),
            "{arguments}"
        );
        assert!(
            stderr.contains(said) && stderr.contains("slots --help"),
            "{arguments}: {stderr}"
        );
    }
    let help = Command::new(binary())
        .arg("--help")
        .output()
        .expect("run slots");
    assert!(help.status.success());
    let (help, _) = texts(&help);
    for option in [
        "--permits",
        "--timeout",
        "--list",
        "--set",
        "--close",
        "--rm",
        "126",
        "75",
    ] {
        assert!(help.contains(option), "{option}");
    }
}
