//! Why a check failed, and whether the backend or this host is the cause.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

/// Why a check failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The backend is the cause.
    Backend(String),
    /// The network reports that the backend is unreachable: this host's own routes, or a router on the path.
    OutOfReach(Errno),
    /// This host could not run the check, which is not the backend's fault.
    Here(io::Error),
}

impl Failure {
    /// This host could not run the check.
    pub(super) fn here(words: impl Into<String>) -> Self {
        Self::Here(io::Error::other(words.into()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(errno @ (Errno::ENETUNREACH | Errno::EHOSTUNREACH)) => Self::OutOfReach(errno),
            // No file descriptor, memory or source port is left, or this host's routes or firewall block the packets.
            Some(
                Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EADDRNOTAVAIL
                | Errno::EADDRINUSE
                | Errno::EAGAIN
                | Errno::ENETDOWN
                | Errno::EACCES
                | Errno::EPERM
                | Errno::EINVAL,
            ) => Self::Here(error),
            Some(errno) => Self::Backend(words(errno)),
            None => Self::Backend(error.to_string()),
        }
    }
}

/// An error in words.
pub(super) fn words(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

/// The source is not an address of this host, which is not the backend's fault. The backend's state shows why it is not checked.
pub(super) fn unbound(source: IpAddr, error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::AddrNotAvailable && !source.is_unspecified() {
        return Failure::here(format!("the check's source {source} is not an address of this host"));
    }
    error.into()
}

/// The time limit of a check.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) all: Duration,
    pub(super) end: Instant,
}

impl Time {
    /// Awaits a future until the end. `missing` names its result in the error of a timeout.
    pub(super) async fn limit<T>(self, missing: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        let result = tokio::time::timeout_at(self.end, work).await;
        result.map_err(|_| Failure::Backend(format!("{missing} within {:?}", self.all)))
    }
}
