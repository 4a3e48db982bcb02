//! What is asked of whoever is in the namespace, and answered: a message each, JSON, over a Unix socket that keeps messages
//! apart.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::descriptor;

/// What is asked.
#[derive(Serialize, Deserialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// Say whether you are of this build, whose orders these are.
    Build(String),
    /// Make the veth pair, in the place of one that is there: its outer end of this name in the network namespace of the
    /// descriptor that comes with it.
    Open { name: String },
    /// Make a socket that can be bound to this address, and send it back.
    Socket { is_stream: bool, source: IpAddr },
    /// Start this program in the namespace, with the socket that comes with it.
    Heir { program: PathBuf },
}

/// Whether it was done, or why not.
pub(super) type Answer = Result<(), String>;

/// The longest message, in bytes: a path has 4,096 at the most, which JSON may write as six each.
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

/// The next message; `None` where nobody is at the other end any more.
pub(super) fn receive<T: DeserializeOwned>(socket: &OwnedFd) -> Result<Option<(T, Option<OwnedFd>)>> {
    let (message, descriptor) = descriptor::receive(socket.as_fd(), LONGEST)?;
    if message.is_empty() {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&message)?, descriptor)))
}
