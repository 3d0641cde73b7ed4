//! The Python client, redis-py, against kvnode: `tests/clients/redis_py.py`. It comes from PyPI
//! into a virtual environment below the target directory, once; skipped where that cannot be made.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::Server;

/// A Python with redis-py, or why there is none.
fn python() -> Result<PathBuf, String> {
    let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).expect("requirements.txt");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("redis-py");
    let (python, stamp) = (home.join("bin/python"), home.join("installed"));
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    run(Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&home))?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--retries", "1", "--timeout", "10", "--requirement"])
        .arg(&requirements))?;
    std::fs::write(&stamp, wanted).expect("write the stamp");
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

#[test]
fn redis_py_works_and_survives_a_restart() {
    let python = match python() {
        Ok(python) => python,
        Err(reason) => {
            println!("SKIP: redis-py cannot be installed here: {reason}");
            return;
        }
    };
    let mut server = Server::start(&["--io-threads", "2"]);
    let port = server.port();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/redis_py.py");
    let mut child = Command::new(python)
        .arg(script)
        .arg(&port)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run python");
    let stdout = child.stdout.take().expect("piped");
    let mut passed = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("python's output");
        if line == "RESTART" {
            server.signal(Signal::KILL);
            server.wait();
            server = Server::start(&["--io-threads", "2", "--port", &port]);
            let stdin = child.stdin.as_mut().expect("piped");
            stdin.write_all(b"go\n").expect("answer");
        } else {
            passed.push(line);
        }
    }
    assert!(child.wait().expect("python ends").success(), "{passed:?}");
    assert_eq!(passed.len(), 5, "{passed:?}");
}
