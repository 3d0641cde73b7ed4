//! A redis-server to compare with, if one is installed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A server of our own, on a socket of our own.
pub(crate) struct Redis {
    server: Child,
    stream: BufReader<UnixStream>,
    dir: PathBuf,
}

/// What it answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Text(Vec<u8>),
    Error(String),
    Number(i64),
    Nil,
    Array(Vec<Answer>),
}

impl Redis {
    /// Starts one; `None` if it is not installed.
    pub(crate) fn start() -> Option<Self> {
        let (id, random) = (std::process::id(), fastrand::u64(..));
        let dir = std::env::temp_dir().join(format!("latchwork-oracle-{id}-{random}"));
        std::fs::create_dir(&dir).unwrap();
        let socket = dir.join("redis.sock");
        let started = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .arg("--dir")
            .arg(&dir)
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut server) = started else {
            println!("skipped: redis-server is not installed");
            std::fs::remove_dir_all(&dir).unwrap();
            return None;
        };
        let lines = BufReader::new(server.stdout.as_mut().unwrap()).lines();
        let ready = lines
            .map_while(Result::ok)
            .any(|line| line.contains("now ready"));
        assert!(ready, "redis-server has not started");
        let stream = BufReader::new(UnixStream::connect(socket).unwrap());
        Some(Self {
            server,
            stream,
            dir,
        })
    }

    /// Sends the commands together, and returns the answers.
    pub(crate) fn ask(&mut self, commands: &[Vec<&[u8]>]) -> Vec<Answer> {
        let mut request = Vec::new();
        for command in commands {
            write!(request, "*{}\r\n", command.len()).unwrap();
            for word in command {
                write!(request, "${}\r\n", word.len()).unwrap();
                request.extend_from_slice(word);
                request.extend_from_slice(b"\r\n");
            }
        }
        self.stream.get_mut().write_all(&request).unwrap();
        commands.iter().map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().unwrap();
        match kind {
            "+" => Answer::Text(rest.into()),
            "-" => Answer::Error(rest.into()),
            ":" => Answer::Number(number()),
            "$" | "*" if number() < 0 => Answer::Nil,
            "$" => {
                let mut text = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut text).unwrap();
                text.truncate(text.len() - 2);
                Answer::Text(text)
            }
            "*" => Answer::Array((0..number()).map(|_| self.answer()).collect()),
            _ => panic!("not expected: {line}"),
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}
