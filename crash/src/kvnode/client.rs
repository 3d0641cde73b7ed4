//! A connection to a server that speaks the Redis protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A command: its words.
pub(super) type Command = Vec<Vec<u8>>;

/// Makes a command of words of any kind.
macro_rules! command {
    ($($word:expr),+ $(,)?) => {
        vec![$(Vec::from($word)),+]
    };
}
pub(super) use command;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<Vec<u8>>),
    Array(Option<Vec<Reply>>),
}

/// No reply takes so long but from a server that hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Client(BufReader<TcpStream>);

impl Client {
    pub(super) fn connect(to: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(to).context("cannot connect")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client(BufReader::new(stream)))
    }

    pub(super) fn send(&mut self, commands: &[Command]) -> Result<()> {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len())?;
            for word in command {
                write!(bytes, "${}\r\n", word.len())?;
                bytes.extend(word);
                bytes.extend(b"\r\n");
            }
        }
        Ok(self.0.get_mut().write_all(&bytes)?)
    }

    pub(super) fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        let len = self.0.read_line(&mut line)?;
        ensure!(len > 0, "the server has closed the connection");
        let line = line.strip_suffix("\r\n").context("half a line")?;
        let (kind, rest) = line.split_at_checked(1).context("an empty reply")?;
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(rest.parse()?),
            "$" => Reply::Bulk(match rest.parse::<i64>()? {
                -1 => None,
                len => {
                    let mut bytes = vec![0; usize::try_from(len)? + 2];
                    self.0.read_exact(&mut bytes)?;
                    bytes.truncate(bytes.len() - 2);
                    Some(bytes)
                }
            }),
            "*" => Reply::Array(match rest.parse::<i64>()? {
                -1 => None,
                len => Some((0..len).map(|_| self.reply()).collect::<Result<_>>()?),
            }),
            _ => bail!("a reply of no kind: {line}"),
        })
    }

    /// Sends commands and returns their replies, none of which may be an error.
    pub(super) fn ask(&mut self, commands: &[Command]) -> Result<Vec<Reply>> {
        self.send(commands)?;
        let replies = commands.iter().map(|command| match self.reply()? {
            Reply::Error(error) => {
                bail!("{}: {error}", String::from_utf8_lossy(&command[0]))
            }
            reply => Ok(reply),
        });
        replies.collect()
    }
}
