//! Many long TCP connections at once that exchange data, and where each of them is.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;

/// How long an answer may take: longer than a machine is busy, shorter than a connection that is lost takes to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many ask at a time, so that no queue on the way is asked too much.
const GROUP: usize = 64;
/// What is sent and comes back.
const MESSAGE: usize = 200;

/// TCP connections to a [`TcpEcho`](crate::servers::TcpEcho).
pub struct Conversations {
    open: Vec<Conversation>,
    round: u8,
}

/// One of them.
pub struct Conversation {
    stream: TcpStream,
    /// The host that greeted.
    pub backend: String,
}

impl Conversations {
    /// Opens as many.
    pub fn open(client: &Host, server: SocketAddr, count: usize) -> Result<Self> {
        let mut conversations = Self { open: Vec::new(), round: 0 };
        conversations.open_more(client, server, count)?;
        Ok(conversations)
    }

    /// Opens more.
    pub fn open_more(&mut self, client: &Host, server: SocketAddr, count: usize) -> Result<()> {
        let open = || -> Result<Conversation> {
            let stream = TcpStream::connect(server).with_context(|| format!("cannot connect to {server}"))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            let mut greeting = String::new();
            BufReader::with_capacity(1, &stream).read_line(&mut greeting).context("no greeting")?;
            let backend = greeting.split_whitespace().next().context("an empty greeting")?.to_owned();
            Ok(Conversation { stream, backend })
        };
        self.open.extend(client.enter(|| (0..count).map(|_| open()).collect::<Result<Vec<_>>>())??);
        Ok(())
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many are open with this host.
    pub fn with(&self, backend: &str) -> usize {
        self.open.iter().filter(|conversation| conversation.backend == backend).count()
    }

    /// Gives up those with a host.
    pub fn forget(&mut self, backend: &str) {
        self.open.retain(|conversation| conversation.backend != backend);
    }

    /// Sends data over each and waits for it to come back; returns what went wrong, by the host that it was with.
    /// Those are given up.
    pub fn exchange(&mut self) -> Vec<(String, io::Error)> {
        self.round = self.round.wrapping_add(1);
        let message = [self.round; MESSAGE];
        let mut broken = Vec::new();
        for group in self.open.chunks_mut(GROUP) {
            let sent: Vec<_> = group.iter_mut().map(|it| it.stream.write_all(&message)).collect();
            for (conversation, sent) in group.iter_mut().zip(sent) {
                let mut answer = [0; MESSAGE];
                let answered =
                    sent.and_then(|()| conversation.stream.read_exact(&mut answer)).and_then(|()| {
                        if answer == message {
                            Ok(())
                        } else {
                            Err(io::Error::other("another answer than the question"))
                        }
                    });
                if let Err(error) = answered {
                    broken.push((std::mem::take(&mut conversation.backend), error));
                }
            }
        }
        self.open.retain(|conversation| !conversation.backend.is_empty());
        broken
    }
}
