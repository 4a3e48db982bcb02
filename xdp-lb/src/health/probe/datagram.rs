//! A question in one datagram and its answer in another, for the checks that have no connection.

use nix::errno::Errno;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::health::failure::{Failure, Time};

/// How many datagrams that are no answer are put up with. An off-path forger may send some; a server that sends nothing
/// else is broken.
const MAX_STRAYS: usize = 16;

/// The longest answer that is read whole.
const MAX_ANSWER: usize = 4096;

/// What the checks that use it call things.
pub(super) struct Words {
    /// What did not come.
    pub(super) missing: &'static str,
    /// What came instead, again and again; `None`: any number is ignored.
    pub(super) unrelated: Option<&'static str>,
}

/// Sends the question on a connected socket until something comes that `read` takes for an answer: at once, and once
/// more at half time, since one lost datagram does not make a server sick.
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
        if count == MAX_STRAYS
            && let Some(unrelated) = words.unrelated
        {
            return Err(Failure::Backend(unrelated.to_owned()));
        }
    }
}

/// What the kernel tells of an ICMP error.
fn failure(error: std::io::Error) -> Failure {
    if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) {
        return Failure::Backend("port unreachable".to_owned());
    }
    error.into()
}
