//! Many UDP flows at once, and where each of them goes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;

/// How long an answer may take, and how often a flow asks before it has none.
const PATIENCE: Duration = Duration::from_millis(500);
const TRIES: u32 = 4;

/// UDP flows to a [`UdpEcho`](crate::servers::UdpEcho), one for each source port.
pub struct UdpFlows {
    sockets: Vec<UdpSocket>,
    round: u32,
}

impl UdpFlows {
    /// Opens the sockets; nothing is sent yet.
    pub fn open(client: &Host, server: SocketAddr, ports: Range<u16>) -> Result<Self> {
        let open = |port| -> Result<UdpSocket> {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
                .with_context(|| format!("cannot bind UDP port {port}"))?;
            socket.connect(server)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        };
        let sockets = client.enter(|| ports.map(open).collect::<Result<_>>())??;
        Ok(Self { sockets, round: 0 })
    }

    /// Sends a datagram in each flow; returns the name of the host that answered it, or nothing where none did.
    pub fn ask(&mut self) -> Vec<Option<String>> {
        self.round += 1;
        let question = self.round.to_string();
        // In small groups, so that no queue on the way is asked too much.
        let mut answers = Vec::with_capacity(self.sockets.len());
        for group in self.sockets.chunks(32) {
            let send = |socket: &UdpSocket| drop(socket.send(question.as_bytes()));
            group.iter().for_each(send);
            answers.extend(group.iter().map(|socket| {
                (0..TRIES).find_map(|tried| {
                    if tried > 0 {
                        send(socket);
                    }
                    receive(socket, &question)
                })
            }));
        }
        answers
    }
}

fn receive(socket: &UdpSocket, question: &str) -> Option<String> {
    let mut answer = [0; 256];
    loop {
        let length = socket.recv(&mut answer).ok()?;
        let answer = std::str::from_utf8(&answer[..length]).ok()?;
        // An answer to an earlier round comes late.
        if let Some(name) = answer.strip_suffix(question).and_then(|answer| answer.strip_suffix(' ')) {
            return Some(name.to_owned());
        }
    }
}
