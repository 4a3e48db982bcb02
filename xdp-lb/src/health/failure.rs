//! Why a check fails, and whose fault that is.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;

/// Why a check did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The backend's fault, in words.
    Backend(String),
    /// The network says that the backend is out of reach: this host's own routes do, or somebody on the way.
    OutOfReach(Errno),
    /// This host could not check, which says nothing of the backend.
    Here(io::Error),
}

impl Failure {
    /// This host could not check, in words.
    pub(super) fn here(words: impl Into<String>) -> Self {
        Self::Here(io::Error::other(words.into()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(errno @ (Errno::ENETUNREACH | Errno::EHOSTUNREACH)) => Self::OutOfReach(errno),
            // No file descriptor, no memory or no source port was left; or its routes or its firewall let nothing out.
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

/// A source that is not this host's says nothing of the backend, whose state tells an operator why it is not checked.
pub(super) fn unbound(source: IpAddr, error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::AddrNotAvailable && !source.is_unspecified() {
        return Failure::here(format!("the check's source {source} is not an address of this host"));
    }
    error.into()
}

/// The time that a check has.
#[derive(Clone, Copy)]
pub(super) struct Time {
    pub(super) all: Duration,
    pub(super) end: Instant,
}

impl Time {
    /// Awaits what has to be done by the end; if it is not, `missing` names what did not come.
    pub(super) async fn limit<T>(self, missing: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        let result = tokio::time::timeout_at(self.end, work).await;
        result.map_err(|_| Failure::Backend(format!("{missing} within {:?}", self.all)))
    }
}
