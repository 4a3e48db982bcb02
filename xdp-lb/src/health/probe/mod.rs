//! The kinds of checks, a file each.

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
use super::vip_checks::{Passage, VipChecks};
use crate::model::{HealthCheck, Probe, Via};

/// Checks a backend once, in no longer than the check's timeout.
pub(in crate::health) async fn probe(
    id: &TargetId,
    check: &HealthCheck,
    shared: &Shared,
) -> Result<(), Failure> {
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
        backend: SocketAddr::new(address, check.port.unwrap_or(backend.port())),
        source,
        passage: passage.as_ref(),
        time,
    };
    // Each in memory of its own while it runs: one by TCP needs a kilobyte, others ten and more.
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
            let is_ours = passage.is_none() && !has_route(attempt.backend, attempt.source);
            Err(if is_ours { Failure::Here(errno.into()) } else { Failure::Backend(words(errno)) })
        }
        result => result,
    }
}

/// What checks have in common.
#[derive(Debug)]
pub(in crate::health) struct Shared {
    tls: tls::Configs,
    /// Turns of the programs that checks run.
    programs: Semaphore,
    vips: Option<Arc<VipChecks>>,
}

impl Shared {
    /// With this way to reach VIPs, where there is one.
    pub(in crate::health) fn new(vips: Option<Arc<VipChecks>>) -> Self {
        Self { tls: tls::Configs::default(), programs: Semaphore::new(MAX_PROGRAMS), vips }
    }

    async fn passage(&self, id: &TargetId, time: Time) -> Result<Passage<'_>, Failure> {
        let unsupported = || Failure::Here(io::Error::other("this daemon cannot check through VIPs"));
        self.vips.as_ref().ok_or_else(unsupported)?.passage(id, time).await
    }
}

#[cfg(test)]
pub(in crate::health) mod tests {
    use std::time::Duration;

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
