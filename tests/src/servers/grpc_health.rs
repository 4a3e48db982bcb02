//! A gRPC server that tells its health.

use std::net::{Ipv6Addr, SocketAddr};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::certificates::Identity;
use crate::host::Host;

/// tonic's health service (`grpc.health.v1`), on all of a host's addresses. It is serving as a whole, and knows of no
/// service by itself, until [`GrpcHealth::set`] says so. Stopped when dropped.
pub struct GrpcHealth {
    reporter: HealthReporter,
    runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl GrpcHealth {
    /// Starts it, in the clear or over TLS.
    pub fn start(host: &Host, port: u16, identity: Option<&Identity>) -> Result<Self> {
        let listener = host
            .enter(|| std::net::TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?
            .with_context(|| format!("cannot listen on TCP port {port} on {}", host.name()))?;
        listener.set_nonblocking(true).context("cannot wait for connections")?;
        let runtime = Builder::new_current_thread().build().context("no runtime")?;
        let (reporter, service) = health_reporter();
        let (stop, stopped) = oneshot::channel();
        let mut server = Server::builder();
        if let Some(Identity { certificate, key, .. }) = identity {
            let identity = tonic::transport::Identity::from_pem(certificate, key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).context("no TLS")?;
        }
        let serve = move || -> Result<()> {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let incoming = TcpIncoming::from(TcpListener::from_std(listener)?);
                let stopped = async { drop(stopped.await) };
                // What is open then is closed, not waited for.
                tokio::select! {
                    ended = server.add_service(service).serve_with_incoming(incoming) => Ok(ended?),
                    () = stopped => Ok(()),
                }
            })
        };
        let thread = thread::spawn(move || serve().expect("the gRPC server ran"));
        Ok(Self { reporter, runtime, stop: Some(stop), thread: Some(thread) })
    }

    /// What it says of a service; of the server as a whole by an empty name.
    pub fn set(&self, service: &str, is_serving: bool) {
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.runtime.block_on(self.reporter.set_service_status(service, status));
    }
}

impl Drop for GrpcHealth {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join().map_err(|_| anyhow!("it panicked"));
        }
    }
}
