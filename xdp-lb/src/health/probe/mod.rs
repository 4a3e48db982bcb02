//! The types of checks, one file each.

mod datagram;
mod dns;
#[expect(unsafe_code, reason = "the program's user is set between fork and exec")]
mod exec;
mod grpc;
mod http;
mod icmp;
mod tcp;
mod tls;
mod udp;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::exec::MAX_PROGRAMS;
use super::attempt::{Attempt, has_route};
use super::failure::{Failure, Time, words};
use super::target::TargetId;
use super::vip_checks::{VipChecks, VipRoute};
use crate::model::{HealthCheck, Probe, Via};

/// Checks a backend once, within the check's timeout.
pub(in crate::health) async fn probe(
    id: &TargetId,
    check: &HealthCheck,
    shared: &Shared,
) -> Result<(), Failure> {
    let TargetId { service, backend, .. } = id;
    let time = Time { all: check.timeout, end: Instant::now() + check.timeout };
    let vip_route = match check.via {
        Via::Backend => None,
        Via::Vip => Some(shared.vip_route(id, time).await?),
    };
    let (address, source) = match &vip_route {
        None => (backend.ip(), check.source),
        Some(vip_route) => (vip_route.vip(), Some(check.source.map_or_else(|| vip_route.source(), Ok)?)),
    };
    let attempt = Attempt {
        service,
        backend: SocketAddr::new(address, check.port.unwrap_or(backend.port())),
        source,
        vip_route: vip_route.as_ref(),
        time,
    };
    // Boxed while it runs: a TCP check needs a kilobyte, others ten and more.
    let probe: Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>> = match &check.probe {
        Probe::None => return Ok(()),
        Probe::Tcp => Box::pin(tcp::probe(attempt)),
        Probe::Http(http) => Box::pin(http::probe(attempt, http, &shared.tls)),
        Probe::Dns { name, record } => Box::pin(dns::probe(attempt, name, record)),
        Probe::Udp { send, expect } => Box::pin(udp::probe(attempt, send, expect.as_deref())),
        Probe::Icmp => Box::pin(icmp::probe(attempt)),
        Probe::Grpc { service, host, tls } => {
            Box::pin(grpc::probe(attempt, service, host.as_deref(), tls.as_ref(), &shared.tls))
        }
        Probe::Exec { command, user } => Box::pin(exec::probe(attempt, command, user, &shared.programs)),
    };
    match probe.await {
        Err(Failure::OutOfReach(errno)) => {
            let is_ours = vip_route.is_none() && !has_route(attempt.backend, attempt.source);
            Err(if is_ours { Failure::Here(errno.into()) } else { Failure::Backend(words(errno)) })
        }
        result => result,
    }
}

/// State shared by all checks.
#[derive(Debug)]
pub(in crate::health) struct Shared {
    tls: tls::Configs,
    /// Limits the number of programs that run at a time.
    programs: Semaphore,
    vips: Option<Arc<VipChecks>>,
}

impl Shared {
    /// With checks through VIPs, if this daemon supports them.
    pub(in crate::health) fn new(vips: Option<Arc<VipChecks>>) -> Self {
        Self { tls: tls::Configs::default(), programs: Semaphore::new(MAX_PROGRAMS), vips }
    }

    async fn vip_route(&self, id: &TargetId, time: Time) -> Result<VipRoute<'_>, Failure> {
        let unsupported = || Failure::Here(io::Error::other("this daemon cannot check through VIPs"));
        self.vips.as_ref().ok_or_else(unsupported)?.vip_route(id, time).await
    }
}

#[cfg(test)]
pub(in crate::health) mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// The result of a check with a timeout of three seconds.
    pub(in crate::health) async fn check(backend: SocketAddr, probe: Probe) -> Result<(), String> {
        check_so(backend, HealthCheck::new(probe)).await
    }

    /// The same, with more of the check's keys.
    pub(in crate::health) async fn check_so(backend: SocketAddr, check: HealthCheck) -> Result<(), String> {
        let timeout = Duration::from_secs(3);
        let check = HealthCheck { timeout, ..check };
        let began = Instant::now();
        let id = TargetId::of_web(backend);
        let result = probe(&id, &check, &Shared::new(None)).await;
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
    async fn a_source_that_is_not_an_address_of_this_host_is_reported() {
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
