//! One check of one backend.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::{probe_dns, probe_http, probe_tcp};
use crate::config::{HealthCheck, Probe};

/// Why a check did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The backend's fault, in words.
    Backend(String),
    /// This host could not check, which says nothing of the backend.
    Here(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            // No file descriptor, no memory or no source port was left.
            Some(
                Errno::EMFILE
                | Errno::ENFILE
                | Errno::ENOBUFS
                | Errno::ENOMEM
                | Errno::EADDRNOTAVAIL
                | Errno::EAGAIN,
            ) => Self::Here(error),
            Some(errno) => Self::Backend(errno.desc().to_lowercase()),
            None => Self::Backend(error.to_string()),
        }
    }
}

/// Checks a backend once, in no longer than the check's timeout.
pub(super) async fn probe(backend: SocketAddr, check: &HealthCheck) -> Result<(), Failure> {
    let time = Time { all: check.timeout, end: Instant::now() + check.timeout };
    match &check.probe {
        Probe::None => Ok(()),
        Probe::Tcp => probe_tcp::probe(backend, time).await,
        Probe::Http { path, host, status } => {
            probe_http::probe(backend, path, host.as_deref(), *status, time).await
        }
        Probe::Dns { name, record } => probe_dns::probe(backend, name, record, time).await,
    }
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

/// Connects over TCP. When the connection is dropped it is reset, not closed: a balancer that checks
/// thousands of backends each second would otherwise keep a minute's worth of them in TIME_WAIT.
pub(super) async fn connect(backend: SocketAddr, time: Time) -> Result<TcpStream, Failure> {
    let socket = if backend.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_zero_linger()?;
    Ok(time.limit("no answer", socket.connect(backend)).await??)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The words of a check that has 300 ms, or `Ok`.
    pub(in crate::health) async fn check(backend: SocketAddr, probe: Probe) -> Result<(), String> {
        let timeout = Duration::from_millis(300);
        let check =
            HealthCheck { probe, port: None, interval: Duration::from_secs(1), timeout, rise: 2, fall: 3 };
        let began = Instant::now();
        let result = super::probe(backend, &check).await;
        assert!(began.elapsed() < timeout + Duration::from_millis(200), "it took {:?}", began.elapsed());
        result.map_err(|failure| match failure {
            Failure::Backend(words) => words,
            Failure::Here(error) => panic!("this host cannot check: {error}"),
        })
    }
}
