//! A UDP flow: questions and answers from one port.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::clients::{End, Flow, LOOK, OPENED, PATIENCE};
use super::message::{head, message};
use super::standing::Life;
use super::tally::Ends;

/// How long datagrams are, in bytes: none is too long for a tunnel.
const LENGTH: std::ops::Range<usize> = 16..1_200;

/// How long an answer may take before the datagram counts as lost.
const LOST: Duration = Duration::from_secs(1);

/// A flow whose first datagram was answered.
pub struct Asked {
    socket: UdpSocket,
    /// Who is at its ends.
    pub ends: Ends,
}

/// An answer: the backend's number and what the datagram carried.
struct Answer {
    backend: usize,
    carried: Vec<u8>,
}

/// Sends a first datagram from a port of its own, and waits for the answer.
pub async fn open(flow: &mut Flow) -> Result<Asked> {
    let kind = flow.kind;
    let socket = UdpSocket::bind((kind.family.any(), 0)).await?;
    socket.connect(kind.vip()).await?;
    let request = message(flow.id, 0, flow.rng.usize(LENGTH));
    socket.send(&request).await?;
    let answer = timeout(OPENED, receive(&socket)).await??;
    ensure!(answer.carried == request, "another answer than the question");
    ensure!((1..=super::bed::BACKENDS).contains(&answer.backend), "no backend answered");
    let client = socket.local_addr()?;
    Ok(Asked { socket, ends: Ends { kind, client, backend: answer.backend } })
}

/// Asks until the flow ends.
pub async fn converse(flow: &mut Flow, asked: Asked, life: Life) -> End {
    let Asked { socket, ends } = asked;
    // When the first datagram was sent of those that were lost one after the other.
    let mut silent = None;
    for number in 1.. {
        if let Err(end) = flow.pause(life, silent.is_some()).await {
            return end;
        }
        let sent = Instant::now();
        match ask(flow, &socket, number, ends.backend, life).await {
            Ok(true) => silent = None,
            Ok(false) => {
                flow.shared.tally.lost(flow.kind, sent);
                let since = *silent.get_or_insert(sent);
                if since.elapsed() > PATIENCE {
                    return End::Broken(format!("no answer for {} s", PATIENCE.as_secs()), since);
                }
            }
            Err(end) => return end,
        }
    }
    End::Over
}

/// Sends a datagram; whether its answer came.
async fn ask(
    flow: &mut Flow,
    socket: &UdpSocket,
    number: u64,
    backend: usize,
    life: Life,
) -> Result<bool, End> {
    let request = message(flow.id, number, flow.rng.usize(LENGTH));
    let since = Instant::now();
    // What the host has no route for, while its link is down, is lost.
    if let Err(error) = socket.send(&request).await {
        refused(&error, since)?;
    }
    while since.elapsed() < LOST {
        match timeout(LOOK, receive(socket)).await {
            Err(_) => flow.still(life)?,
            Ok(Err(error)) => match error.downcast_ref::<io::Error>() {
                Some(error) => refused(error, since)?,
                None => return Err(End::Broken(error.to_string(), since)),
            },
            Ok(Ok(answer)) if answer.backend != backend => {
                let why = format!("datagram {number} went to backend-{}", answer.backend);
                return Err(End::Broken(why, since));
            }
            Ok(Ok(answer)) if answer.carried == request => {
                flow.answered(since);
                return Ok(true);
            }
            Ok(Ok(answer)) => match head(&answer.carried) {
                // It comes late: its datagram counts as lost.
                Some((id, earlier)) if id == flow.id && earlier < number => {}
                other => {
                    let why = format!("the answer to datagram {number} is another: {other:?}");
                    return Err(End::Broken(why, since));
                }
            },
        }
    }
    Ok(false)
}

/// Whether an error of the socket ends the flow: somebody has told it that nobody is there.
fn refused(error: &io::Error, since: Instant) -> Result<(), End> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Err(End::Broken("refused (ICMP port unreachable)".to_owned(), since))
        }
        _ => Ok(()),
    }
}

async fn receive(socket: &UdpSocket) -> Result<Answer> {
    let mut datagram = [0; 2_048];
    let length = socket.recv(&mut datagram).await?;
    let (backend, carried) = datagram[..length].split_first_chunk().context("an answer is too short")?;
    Ok(Answer { backend: usize::try_from(u64::from_be_bytes(*backend))?, carried: carried.to_vec() })
}
