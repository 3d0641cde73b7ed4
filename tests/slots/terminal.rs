//! On a terminal.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{Place, binary};

#[test]
fn the_terminals_interrupt_comes_once() {
    let place = Place::new();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
    let master = master.expect("a terminal");
    grantpt(&master).expect("a terminal");
    unlockpt(&master).expect("a terminal");
    let name = ptsname(&master, Vec::new()).expect("a terminal");
    let no_ctty = rustix::pty::OpenptFlags::NOCTTY.bits() as i32;
    let mut terminal = File::options();
    let terminal = terminal.read(true).write(true).custom_flags(no_ctty);
    let terminal = terminal.open(name.to_str().expect("a path")).expect("open");
    let script = "n=0; trap 'n=$((n+1)); echo interrupt' INT; trap 'echo $n in all; exit 0' USR1; \
                  echo up; while :; do read x; done";
    let mut child = Command::new("env")
        .args(["--default-signal", "setsid", "--ctty"])
        .arg(binary())
        .arg("--name")
        .arg(place.name())
        .args(["--permits", "1", "--", "sh", "-c", script])
        .stdin(Stdio::from(terminal))
        .stdout(Stdio::piped())
        .spawn()
        .expect("start slots");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut line = || stdout.next().expect("a line").expect("a line");
    assert_eq!(line(), "up");
    let mut master = File::from(master);
    master.write_all(b"\x03").expect("type Ctrl-C");
    assert_eq!(line(), "interrupt");
    // It comes behind what else there is.
    kill_process(Pid::from_child(&child), Signal::USR1).expect("signal slots");
    assert_eq!(line(), "1 in all");
    assert!(child.wait().expect("wait for slots").success());
}
