//! Pulling all flows of a peer, by TCP: when a node joins, and when it has missed too much.
//!
//! The node that pulls sends `XLBP`, the version (1), the length of its name (1 byte), its name, and 32 random bytes; the peer answers
//! with 32 random bytes. Keys for both directions follow from the fleet's secret, both names and all of these bytes. From
//! there on each side sends frames: 4 bytes of length, big-endian, and a sealed message, numbered from 0. The first one that opens shows
//! that its sender has the secret, and is in this conversation. What each message is, its first byte says:
//!
//! | first byte | the rest |
//! |---|---|
//! | 0, to the peer | the session of the peer's of which nothing is missed; zeros: none |
//! | 1 | the peer's session, and the number of its next datagram (8 bytes) |
//! | 2 | a part of a ring whose slots are not settled there |
//! | 3 | flows |
//! | 4 | the end |
//!
//! Where the session is the one that nothing is missed of, the end follows at once.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};

use super::flow::{Malformed, SharedFlow, take};
use super::seal::{Key, SEAL, Secret, Session};
use super::table::{SlotStep, TrackedRing, TrackedSlot};

const MAGIC: [u8; 4] = *b"XLBP";
const VERSION: u8 = 1;
const NONCE: usize = 32;

/// The largest frame.
const LARGEST: usize = 64 << 10;

/// The most slots in a message.
const SLOTS: usize = 1000;

/// How long the other side may take for each frame.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one side tells the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Asks for flows. The session: nothing of it is missed.
    Ask(Option<Session>),
    /// The session, and the number of its next datagram.
    Session(Session, u64),
    /// A ring with slots that are not settled, or a part of it.
    Ring(TrackedRing),
    /// Flows.
    Flows(Vec<SharedFlow>),
    /// There is no more.
    End,
}

/// A conversation between two nodes that both have shown that they have the secret, once a message has come.
pub struct Conversation<S> {
    stream: S,
    sends: (Key, u64),
    receives: (Key, u64),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    /// Begins one as the node that pulls.
    ///
    /// # Errors
    /// Where the peer does not answer.
    pub async fn begin(mut stream: S, secret: &Secret, node: &str, peer: &str) -> Result<Self> {
        let own: [u8; NONCE] = rand::random();
        let length = u8::try_from(node.len()).context("the node's name is too long")?;
        let mut hello = MAGIC.to_vec();
        hello.extend([VERSION, length]);
        hello.extend(node.as_bytes());
        hello.extend(own);
        in_time(stream.write_all(&hello)).await?;
        let mut other = [0; NONCE];
        in_time(stream.read_exact(&mut other)).await?;
        let nonces = [own, other].concat();
        Ok(Self {
            stream,
            sends: (secret.key("pull", node, peer, &nonces), 0),
            receives: (secret.key("pull", peer, node, &nonces), 0),
        })
    }

    /// Answers a node that pulls: one of those that are known.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn answer(
        mut stream: S,
        secret: &Secret,
        node: &str,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<(Self, String)> {
        let mut head = [0; 6];
        in_time(stream.read_exact(&mut head)).await?;
        let [magic @ .., version, length] = head;
        ensure!(magic == MAGIC && version == VERSION, "it speaks another protocol or version");
        let mut name = vec![0; usize::from(length)];
        in_time(stream.read_exact(&mut name)).await?;
        let peer = String::from_utf8(name).ok().filter(|name| is_known(name));
        let peer = peer.context("it is not a node of the fleet with this address")?;
        let mut other = [0; NONCE];
        in_time(stream.read_exact(&mut other)).await?;
        let own: [u8; NONCE] = rand::random();
        in_time(stream.write_all(&own)).await?;
        let nonces = [other, own].concat();
        let conversation = Self {
            stream,
            sends: (secret.key("pull", node, &peer, &nonces), 0),
            receives: (secret.key("pull", &peer, node, &nonces), 0),
        };
        Ok((conversation, peer))
    }

    /// Sends a message; a ring with many slots in parts. Returns how many bytes that took.
    ///
    /// # Errors
    /// Where the other side takes too long, or is gone.
    pub async fn send(&mut self, message: &Message) -> Result<usize> {
        if let Message::Ring(ring) = message
            && ring.slots.len() > SLOTS
        {
            let mut bytes = 0;
            for slots in ring.slots.chunks(SLOTS) {
                let part = Message::Ring(TrackedRing { slots: slots.to_vec(), ..*ring });
                bytes += self.send_one(&part).await?;
            }
            return Ok(bytes);
        }
        self.send_one(message).await
    }

    async fn send_one(&mut self, message: &Message) -> Result<usize> {
        let (key, number) = &mut self.sends;
        let sealed = key.seal(*number, &[], message.write());
        *number += 1;
        ensure!(sealed.len() <= LARGEST, "a message is too long");
        let mut frame = (sealed.len() as u32).to_be_bytes().to_vec();
        frame.extend(sealed);
        in_time(self.stream.write_all(&frame)).await?;
        Ok(frame.len())
    }

    /// The next message of the other side.
    ///
    /// # Errors
    /// Where none comes, or it is not the other side's.
    pub async fn receive(&mut self) -> Result<Message> {
        let length = in_time(self.stream.read_u32()).await? as usize;
        ensure!((SEAL..=LARGEST).contains(&length), "a message of {length} bytes");
        let mut sealed = vec![0; length];
        in_time(self.stream.read_exact(&mut sealed)).await?;
        let (key, number) = &mut self.receives;
        let Ok(message) = key.open(*number, &[], &mut sealed) else {
            bail!("it does not have the fleet's secret: compare key_file and the names of fleet and nodes");
        };
        *number += 1;
        Message::read(message).map_err(|Malformed| anyhow::anyhow!("a message that cannot be read"))
    }
}

async fn in_time<T>(future: impl Future<Output = std::io::Result<T>>) -> Result<T> {
    Ok(timeout(PATIENCE, future).await.context("it takes too long")??)
}

impl Message {
    fn write(&self) -> Vec<u8> {
        match self {
            Self::Ask(session) => [&[0][..], &session.unwrap_or_default()].concat(),
            Self::Session(session, next) => [&[1][..], session, &next.to_be_bytes()].concat(),
            Self::Ring(ring) => write_ring(ring),
            Self::Flows(flows) => {
                let mut bytes = vec![3];
                flows.iter().for_each(|flow| flow.write(&mut bytes));
                bytes
            }
            Self::End => vec![4],
        }
    }

    fn read(mut message: &[u8]) -> Result<Self, Malformed> {
        let bytes = &mut message;
        let [kind] = take(bytes)?;
        let read = match kind {
            0 => Self::Ask(Some(take(bytes)?).filter(|session| *session != Session::default())),
            1 => Self::Session(take(bytes)?, u64::from_be_bytes(take(bytes)?)),
            2 => Self::Ring(read_ring(bytes)?),
            3 => Self::Flows(SharedFlow::read_all(std::mem::take(bytes))?),
            4 => Self::End,
            _ => return Err(Malformed),
        };
        if bytes.is_empty() { Ok(read) } else { Err(Malformed) }
    }
}

/// What stands for a slot's time where it is not moving, or nobody knows.
const UNKNOWN: u32 = u32::MAX;
const RECORDED: u32 = u32::MAX - 1;

const RANGE: u8 = 1;
const UDP: u8 = 2;

fn write_ring(ring: &TrackedRing) -> Vec<u8> {
    let is_udp = ring.vip.protocol == Protocol::UDP;
    let mut bytes = vec![2, if ring.vip.is_range() { RANGE } else { 0 } | if is_udp { UDP } else { 0 }];
    write_end(&ring.vip, &mut bytes);
    bytes.extend(ring.length.to_be_bytes());
    for TrackedSlot { number, prior, step } in &ring.slots {
        bytes.extend(number.to_be_bytes());
        // Nobody listens on the unspecified address.
        write_end(&prior.unwrap_or_default(), &mut bytes);
        let milliseconds = match step {
            SlotStep::Moving(time) => u32::try_from(time.as_millis()).unwrap_or(UNKNOWN),
            SlotStep::Recorded => RECORDED,
            SlotStep::Unknown => UNKNOWN,
        };
        bytes.extend(milliseconds.to_be_bytes());
    }
    bytes
}

fn write_end(end: &Endpoint, bytes: &mut Vec<u8>) {
    let address = match IpAddr::from(end.address) {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    bytes.extend(address.octets());
    bytes.extend(end.port.get().to_be_bytes());
}

fn read_ring(bytes: &mut &[u8]) -> Result<TrackedRing, Malformed> {
    let [flags] = take(bytes)?;
    if flags & !(RANGE | UDP) != 0 {
        return Err(Malformed);
    }
    let protocol = if flags & UDP != 0 { Protocol::UDP } else { Protocol::TCP };
    let vip = read_end(protocol, bytes)?;
    let vip = if flags & RANGE != 0 { vip.range() } else { vip };
    let length = u32::from_be_bytes(take(bytes)?);
    let mut slots = Vec::new();
    while !bytes.is_empty() {
        let number = u32::from_be_bytes(take(bytes)?);
        let prior = read_end(protocol, bytes)?;
        let prior = (prior.address != Address::default()).then_some(prior);
        let step = match u32::from_be_bytes(take(bytes)?) {
            UNKNOWN => SlotStep::Unknown,
            RECORDED => SlotStep::Recorded,
            milliseconds => SlotStep::Moving(Duration::from_millis(milliseconds.into())),
        };
        slots.push(TrackedSlot { number, prior, step });
    }
    Ok(TrackedRing { vip, length, slots })
}

fn read_end(protocol: Protocol, bytes: &mut &[u8]) -> Result<Endpoint, Malformed> {
    let address = IpAddr::from(Ipv6Addr::from(take::<16>(bytes)?));
    let port = Port::new(u16::from_be_bytes(take(bytes)?));
    Ok(Endpoint::new(Address::from(address), port, protocol))
}

#[cfg(test)]
mod tests;
