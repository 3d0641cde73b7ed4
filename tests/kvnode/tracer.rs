//! strace, attached to a server.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Server, is_installed};

/// A tracer of all threads of a server. When dropped it lets go of the server.
#[derive(Debug)]
pub(crate) struct Tracer(Child);

impl Tracer {
    /// Attaches with these options, or says why that cannot be. What it finds goes to a file.
    pub(crate) fn attach(server: &Server, options: &[&str]) -> Option<Self> {
        if !is_installed("strace") {
            return None;
        }
        let mut strace = Command::new("strace")
            .arg("-f")
            .args(options)
            .args(["-p", &server.pid().to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("run strace");
        let mut said = String::new();
        let mut stderr = BufReader::new(strace.stderr.take().expect("piped"));
        stderr.read_line(&mut said).expect("strace's first line");
        // It tells when it has attached to all the threads there are.
        if !said.contains("attached") {
            println!("SKIP: strace may not attach here: {said}");
            let _ = strace.wait();
            return None;
        }
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Some(Self(strace))
    }

    /// Lets go of the server, and returns when everything has been written.
    pub(crate) fn detach(mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::INT);
        self.0.wait().expect("strace ends");
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
