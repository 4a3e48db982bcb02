//! A daemon's endpoint: a socket of this host, or TLS to another host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use http::Uri;
use http::uri::Scheme;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::model::TlsVersion;
use crate::tls;

/// The timeout for connecting to another host, including the handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A daemon's endpoint.
#[derive(Clone, Debug)]
pub enum Endpoint {
    /// Its control socket.
    Socket(PathBuf),
    /// Its listener for other hosts.
    Remote(Arc<Remote>),
}

/// A daemon's listener for other hosts, and the client's TLS config.
#[derive(Debug)]
pub struct Remote {
    url: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

/// The connection of requests and answers.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Endpoint {
    /// The listener at `https://HOST:PORT`, for a client with this certificate and key. Its own certificate must be signed by a
    /// CA of `ca`, or by one that this host trusts. All are PEM files.
    ///
    /// # Errors
    /// If the URL is invalid, or a file is unusable.
    pub fn remote(url: &str, certificate: &Path, key: &Path, ca: Option<&Path>) -> anyhow::Result<Self> {
        let wrong =
            || anyhow::anyhow!("--api \"{url}\" is not the address of a daemon; write https://HOST:PORT");
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else { return Err(wrong()) };
        if uri.scheme() != Some(&Scheme::HTTPS) || uri.path_and_query().is_some_and(|path| path != "/") {
            return Err(wrong());
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
        let file = |option: &str, error: String| anyhow::anyhow!("--{option}: {error}");
        let roots = match ca {
            Some(ca) => tls::roots(ca).map_err(|error| file("ca", error))?,
            None => {
                tls::host_roots().map_err(|error| file("api", format!("{error}, or name a CA with --ca")))?
            }
        };
        let chain = tls::certificates(certificate).map_err(|error| file("certificate", error))?;
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, tls::key(key).map_err(|error| file("key", error))?)
            .map_err(|error| file("certificate", format!("it does not match the key: {error}")))?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls.resumption = Resumption::disabled();
        Ok(Self::Remote(Arc::new(Remote { url: url.to_owned(), host, port, name, tls: Arc::new(tls) })))
    }

    /// The host name in requests.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Socket(_) => "localhost",
            Self::Remote(remote) => remote.url.trim_start_matches("https://").trim_end_matches('/'),
        }
    }

    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Socket(socket) => loop {
                match UnixStream::connect(socket).await {
                    // The daemon's backlog is full (unix(7)): wait for a slot.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    connected => return Ok(Box::new(connected?)),
                }
            },
            Self::Remote(remote) => {
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, remote.connect()).await;
                connected.unwrap_or_else(|_| {
                    let words = format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
                    Err(io::Error::new(io::ErrorKind::TimedOut, words))
                })
            }
        }
    }
}

impl Remote {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        let _ = stream.set_nodelay(true);
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        Ok(Box::new(connector.connect(self.name.clone(), stream).await?))
    }
}

/// If an error is a TLS error: why the client rejects the daemon, or the daemon the client, in words.
pub(super) fn told(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut errors = std::iter::successors(Some(error), |error| error.source());
    errors.find_map(|error| tls::told(error.downcast_ref::<io::Error>()?, TlsVersion::V1_3, "--ca"))
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(socket) => socket.display().fmt(f),
            Self::Remote(remote) => f.write_str(&remote.url),
        }
    }
}
