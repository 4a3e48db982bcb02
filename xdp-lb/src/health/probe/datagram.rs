//! A request and its response in one datagram each, for checks without a connection.

use nix::errno::Errno;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::health::failure::{Failure, Time};

/// The number of unrelated datagrams that are ignored. An off-path attacker may send some. A server that sends only such is
/// broken.
const MAX_UNRELATED: usize = 16;

/// The longest response that is read completely.
const MAX_ANSWER: usize = 4096;

/// Words for error messages.
pub(super) struct Words {
    /// What is missing after a timeout.
    pub(super) missing: &'static str,
    /// What arrived instead, too often. `None`: any number is ignored.
    pub(super) unrelated: Option<&'static str>,
}

/// Sends the request on a connected socket and waits until `read` accepts a response. Sends it again after half the time, because
/// one lost datagram does not mean that the server has failed.
pub(super) async fn ask<T>(
    socket: &UdpSocket,
    question: &[u8],
    time: Time,
    words: Words,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, Failure> {
    send(socket, question).await?;
    if let Ok(answer) = timeout(time.all / 2, answer(socket, &words, &read)).await {
        return answer;
    }
    send(socket, question).await?;
    time.limit(words.missing, answer(socket, &words, &read)).await?
}

async fn send(socket: &UdpSocket, question: &[u8]) -> Result<(), Failure> {
    socket.send(question).await.map(drop).map_err(failure)
}

async fn answer<T>(
    socket: &UdpSocket,
    words: &Words,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, Failure> {
    let mut buffer = [0; MAX_ANSWER];
    let mut count = 0;
    loop {
        let length = socket.recv(&mut buffer).await.map_err(failure)?;
        if let Some(answer) = read(&buffer[..length]) {
            return Ok(answer);
        }
        count += 1;
        if count == MAX_UNRELATED
            && let Some(unrelated) = words.unrelated
        {
            return Err(Failure::Backend(unrelated.to_owned()));
        }
    }
}

/// An ICMP error that the kernel reports.
fn failure(error: std::io::Error) -> Failure {
    if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) {
        return Failure::Backend("port unreachable".to_owned());
    }
    error.into()
}
