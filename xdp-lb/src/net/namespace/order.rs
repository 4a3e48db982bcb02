//! The requests to the server in the namespace, and its replies: JSON messages over a Unix socket of type SOCK_SEQPACKET.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::descriptor;

/// A request.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// Confirm that you are of this build.
    Build(String),
    /// Make the veth pair, and replace an existing one. Its outer end gets this name, in the network namespace of the descriptor
    /// sent along.
    Open { name: String },
    /// Open a socket that can be bound to this address, and send it back.
    Socket { is_stream: bool, source: IpAddr },
    /// Start this program in the namespace, to serve the socket sent along.
    Heir { program: PathBuf },
}

/// The reply: success, or why not.
pub(super) type Answer = Result<(), String>;

/// Maximum length of a message, in bytes: a path has at most 4,096, and JSON may take six bytes for each.
const LONGEST: usize = 32 << 10;

/// The two ends of a connection.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    pair.context("cannot create a socket pair")
}

pub(super) fn send<T: Serialize>(
    socket: &OwnedFd,
    message: &T,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<()> {
    Ok(descriptor::send(socket.as_fd(), &serde_json::to_vec(message)?, descriptor)?)
}

/// The next message. `None` once the other end has closed.
pub(super) fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> Result<Option<(T, Option<OwnedFd>)>> {
    let (message, descriptor) = descriptor::receive(socket.as_fd(), LONGEST)?;
    if message.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&message)?, descriptor)))
}
