//! One check of one backend.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::probe_exec::{self, MAX_PROGRAMS};
use super::vip_checks::{Passage, VipChecks};
use super::{TargetId, probe_dns, probe_grpc, probe_http, probe_icmp, probe_tcp, probe_udp, tls};
use crate::model::{HealthCheck, Probe, Via};

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

/// Checks a backend once, in no longer than the check's timeout.
pub(super) async fn probe(id: &TargetId, check: &HealthCheck, shared: &Shared) -> Result<(), Failure> {
    let TargetId { service, backend } = id;
    let time = Time { all: check.timeout, end: Instant::now() + check.timeout };
    let passage = match check.via {
        Via::Backend => None,
        Via::Vip => Some(shared.passage(id, time).await?),
    };
    let (address, source) = match &passage {
        None => (backend.ip(), check.source),
        Some(passage) => (passage.vip(), Some(check.source.map_or_else(|| passage.source(), Ok)?)),
    };
    let attempt = Attempt {
        service,
        shared,
        backend: SocketAddr::new(address, check.port.unwrap_or(backend.port())),
        source,
        passage: passage.as_ref(),
        time,
    };
    // Each in memory of its own while it runs: one by TCP needs a kilobyte, others ten and more.
    let probe: Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> = match &check.probe {
        Probe::None => return Ok(()),
        Probe::Tcp => Box::pin(probe_tcp::probe(attempt)),
        Probe::Http(http) => Box::pin(probe_http::probe(attempt, http)),
        Probe::Dns { name, record } => Box::pin(probe_dns::probe(attempt, name, record)),
        Probe::Udp { send, expect } => Box::pin(probe_udp::probe(attempt, send, expect.as_deref())),
        Probe::Icmp => Box::pin(probe_icmp::probe(attempt)),
        Probe::Grpc { service, host, tls } => {
            Box::pin(probe_grpc::probe(attempt, service, host.as_deref(), tls.as_ref()))
        }
        Probe::Exec { command, user } => Box::pin(probe_exec::probe(attempt, command, user)),
    };
    match probe.await {
        Err(Failure::OutOfReach(errno)) => {
            let is_ours = passage.is_none() && !has_route(attempt.backend, attempt.source);
            Err(if is_ours { Failure::Here(errno.into()) } else { Failure::Backend(words(errno)) })
        }
        result => result,
    }
}

/// An error in words.
pub(super) fn words(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

/// Whether this host's routes lead to this address. A neighbour that does not answer, and a router on the way, report the
/// same errors as a route that is missing; connecting a UDP socket sends nothing and looks at the routes alone.
fn has_route(to: SocketAddr, source: Option<IpAddr>) -> bool {
    let connect = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect(&to.into())
    };
    let out_of_reach = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENETDOWN];
    !connect().is_err_and(|error| error.raw_os_error().is_some_and(|errno| out_of_reach.contains(&errno)))
}

/// What checks have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) tls: tls::Configs,
    /// Turns of the programs that checks run.
    pub(super) programs: Semaphore,
    /// How checks reach VIPs, where they can.
    pub(super) vips: Option<Arc<VipChecks>>,
}

impl Shared {
    async fn passage(&self, id: &TargetId, time: Time) -> Result<Passage<'_>, Failure> {
        let unsupported = || Failure::Here(io::Error::other("this daemon cannot check through VIPs"));
        self.vips.as_ref().ok_or_else(unsupported)?.passage(id, time).await
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self { tls: tls::Configs::default(), programs: Semaphore::new(MAX_PROGRAMS), vips: None }
    }
}

/// One check of one backend: what it is made at, where it comes from, and the time that it has.
#[derive(Clone, Copy)]
pub(super) struct Attempt<'a> {
    /// The name of the service that is checked.
    pub(super) service: &'a str,
    /// The address and the port that are checked: the backend's own, or the VIP's.
    pub(super) backend: SocketAddr,
    /// The address of this host that it comes from; `None`: as the routes say.
    pub(super) source: Option<IpAddr>,
    /// The way to the backend, where it goes to the VIP.
    pub(super) passage: Option<&'a Passage<'a>>,
    pub(super) time: Time,
    pub(super) shared: &'a Shared,
}

impl Attempt<'_> {
    /// Connects over TCP.
    pub(super) async fn connect(self) -> Result<TcpStream, Failure> {
        let Some(socket) = self.through_vip(Type::STREAM).await? else {
            return connect(self.backend, self.source, self.time).await;
        };
        connect_from(TcpSocket::from_std_stream(socket.into()), self.backend, self.time).await
    }

    /// A bound socket whose packets go to the VIP through the backend, where this check's are to.
    async fn through_vip(self, kind: Type) -> Result<Option<Socket>, Failure> {
        let (Some(passage), Some(source)) = (self.passage, self.source) else { return Ok(None) };
        passage.socket(kind, source, self.backend.port()).await.map(Some)
    }

    /// A UDP socket that hears the backend alone: the kernel drops what comes from any other address or port.
    pub(super) async fn udp_socket(self) -> Result<UdpSocket, Failure> {
        if let Some(socket) = self.through_vip(Type::DGRAM).await? {
            let socket = UdpSocket::from_std(socket.into())?;
            socket.connect(self.backend).await?;
            return Ok(socket);
        }
        let source = self.source.unwrap_or(match self.backend {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
        let socket =
            UdpSocket::bind(SocketAddr::new(source, 0)).await.map_err(|error| unbound(source, error))?;
        socket.connect(self.backend).await?;
        Ok(socket)
    }
}

/// Connects over TCP.
pub(super) async fn connect(
    to: SocketAddr,
    source: Option<IpAddr>,
    time: Time,
) -> Result<TcpStream, Failure> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0)).map_err(|error| unbound(source, error))?;
    }
    connect_from(socket, to, time).await
}

/// When the connection is dropped it is reset, not closed: a balancer that checks thousands of backends each second would
/// otherwise keep a minute's worth of them in TIME_WAIT.
async fn connect_from(socket: TcpSocket, to: SocketAddr, time: Time) -> Result<TcpStream, Failure> {
    socket.set_zero_linger()?;
    Ok(time.limit("no answer", socket.connect(to)).await??)
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

#[cfg(test)]
pub(super) mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The words of a check that has three seconds, or `Ok`.
    pub(in crate::health) async fn check(backend: SocketAddr, probe: Probe) -> Result<(), String> {
        check_so(backend, HealthCheck::new(probe)).await
    }

    /// The same, of a check with more keys than its probe.
    pub(in crate::health) async fn check_so(backend: SocketAddr, check: HealthCheck) -> Result<(), String> {
        let timeout = Duration::from_secs(3);
        let check = HealthCheck { timeout, ..check };
        let began = Instant::now();
        let id = TargetId { service: "web".into(), backend };
        let result = probe(&id, &check, &Shared::default()).await;
        assert!(began.elapsed() < timeout + Duration::from_secs(10), "it took {:?}", began.elapsed());
        result.map_err(|failure| match failure {
            Failure::Backend(words) => words,
            Failure::OutOfReach(errno) => panic!("nobody looked whose fault it is: {errno}"),
            Failure::Here(error) => format!("this host cannot check: {error}"),
        })
    }

    #[tokio::test]
    async fn a_check_goes_to_its_port_from_its_source() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let listens = listener.local_addr().expect("its address");
        // Nothing listens on the backend's own port.
        let backend = SocketAddr::new(listens.ip(), 1);
        let source = "127.0.0.9".parse().expect("an address");
        let elsewhere =
            HealthCheck { port: Some(listens.port()), source: Some(source), ..HealthCheck::new(Probe::Tcp) };
        assert_eq!(check_so(backend, elsewhere).await, Ok(()));
        let (_connection, peer) = listener.accept().await.expect("a connection");
        assert_eq!(peer.ip(), source);
    }

    #[tokio::test]
    async fn a_source_that_this_host_has_not_is_told() {
        let source = Some("192.0.2.77".parse().expect("an address"));
        for probe in [Probe::Tcp, Probe::Dns { name: ".".into(), record: "NS".into() }] {
            let check = HealthCheck { source, ..HealthCheck::new(probe) };
            assert_eq!(
                check_so("127.0.0.1:1".parse().expect("an address"), check).await,
                Err("this host cannot check: the check's source 192.0.2.77 is not an address of this host"
                    .into())
            );
        }
    }
}
