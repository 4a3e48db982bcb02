//! The listener for other hosts: TLS 1.3, with a certificate on both sides.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, bail};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ServerConfig, version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

use crate::api::browser::Shown;
use crate::api::caller::Caller;
use crate::api::certificate;
use crate::model::Remote;
use crate::tls;

/// How often the files are checked for changes, on connections.
const FRESH: Duration = Duration::from_secs(1);
/// How long before its expiry a certificate is warned about.
const SOON: Duration = Duration::from_secs(14 * 86400);
/// How long a refused client may take to read the reason.
const PARTING: Duration = Duration::from_secs(1);
/// How often a refusal is logged: anyone can connect.
const REFUSALS: Duration = Duration::from_secs(1);

/// Listens on the address of the config, and reads the files.
///
/// # Errors
///
/// If the address is not available; or all problems with the files.
pub(super) fn listen(config: &Remote) -> anyhow::Result<(TcpListener, Arc<Door>)> {
    let door = Door::new(config)?;
    let listener = bind(config.listen).with_context(|| {
        let hint = match config.listen.port() {
            1..1024 => "; the daemon drops root's privilege, so it cannot use ports below 1024",
            _ => "",
        };
        format!("cannot listen on {} for the API: choose another api.listen{hint}", config.listen)
    })?;
    info!("api: listening for other hosts at https://{}", config.listen);
    Ok((listener, Arc::new(door)))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Authenticates clients. Replaced files apply from the next connection on.
pub(super) struct Door {
    config: Remote,
    read: Mutex<Read>,
    told: Mutex<Option<Instant>>,
}

/// The result of reading the files.
struct Read {
    files: Files,
    /// The state of the files when they were read.
    stamps: Vec<Stamp>,
    /// The time of the last check.
    at: Instant,
}

/// The contents of the files.
#[derive(Clone)]
struct Files {
    tls: Arc<ServerConfig>,
    /// The certificate that is presented to clients.
    certificate: CertificateDer<'static>,
}

/// Changes with a file: its device, number, size, and the time of its last change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Door {
    fn new(config: &Remote) -> anyhow::Result<Self> {
        let stamps = stamps(config);
        let files = match read(config) {
            Ok(files) => files,
            Err(errors) => bail!(errors.join("\n")),
        };
        let read = Mutex::new(Read { files, stamps, at: Instant::now() });
        Ok(Self { config: config.clone(), read, told: Mutex::default() })
    }

    /// Does the handshake with a client. `None` if it has no certificate that a CA of `client_ca` has signed.
    pub(super) async fn admit(
        self: Arc<Self>,
        stream: TcpStream,
    ) -> Option<(TlsStream<TcpStream>, Caller, Shown)> {
        let from = stream.peer_addr().ok()?;
        // Answers are short, and written in one piece.
        let _ = stream.set_nodelay(true);
        let this = Arc::clone(&self);
        let Files { tls, certificate } = tokio::task::spawn_blocking(move || this.files()).await.ok()?;
        match TlsAcceptor::from(tls).accept(stream).into_fallible().await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let caller = certificate::caller(shown, from, &self.config);
                Some((stream, caller, Shown(certificate)))
            }
            Err((error, stream)) => {
                self.tell(from, &error);
                let _ = tokio::time::timeout(PARTING, part(stream)).await;
                None
            }
        }
    }

    fn files(&self) -> Files {
        let mut known = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if known.at.elapsed() >= FRESH {
            known.at = Instant::now();
            let stamps = stamps(&self.config);
            if stamps != known.stamps {
                known.stamps = stamps;
                match read(&self.config) {
                    Ok(files) => {
                        info!("api: the certificate files have changed; new connections use them");
                        known.files = files;
                    }
                    Err(errors) => {
                        warn!("{}; the previous certificates stay in effect", errors.join("; "));
                    }
                }
            }
        }
        known.files.clone()
    }

    fn tell(&self, from: SocketAddr, error: &io::Error) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let why = why(error);
        if told.is_some_and(|told| told.elapsed() < REFUSALS) {
            debug!("api: refused {from}: {why}");
        } else {
            *told = Some(Instant::now());
            warn!("api: refused {from}: {why}");
        }
    }
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Door").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Lets a refused client read the reason: if its data were unread, the kernel would reset the connection.
async fn part(mut stream: TcpStream) {
    const MOST: u64 = 64 << 10;
    if stream.shutdown().await.is_ok() {
        let _ = tokio::io::copy(&mut stream.take(MOST), &mut tokio::io::sink()).await;
    }
}

/// Why a client is refused, in words.
fn why(error: &io::Error) -> String {
    use rustls::Error as E;
    match error.get_ref().and_then(|error| error.downcast_ref::<E>()) {
        Some(E::InvalidCertificate(error)) => tls::refusal(error, ": no CA of api.client_ca"),
        Some(E::NoCertificatesPresented) => "it presents no certificate".into(),
        Some(E::InvalidMessage(_)) => "it does not use TLS".into(),
        Some(E::PeerIncompatible(_)) => "it does not support TLS 1.3".into(),
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

fn files(config: &Remote) -> [&Path; 3] {
    [&config.certificate, &config.key, &config.client_ca]
}

fn stamps(config: &Remote) -> Vec<Stamp> {
    let stamp = |file: &Path| {
        let it = fs::metadata(file).ok()?;
        Some((it.dev(), it.ino(), it.size(), it.ctime(), it.ctime_nsec()))
    };
    files(config).into_iter().map(stamp).collect()
}

/// Reads the files.
fn read(config: &Remote) -> Result<Files, Vec<String>> {
    let mut errors = Vec::new();
    let mut note = |key: &str, error: String| errors.push(format!("api.{key}: {error}"));
    let chain = tls::certificates(&config.certificate).map_err(|error| note("certificate", error)).ok();
    let key = tls::key(&config.key).map_err(|error| note("key", error)).ok();
    let roots = tls::roots(&config.client_ca).map_err(|error| note("client_ca", error)).ok();
    let (Some(chain), Some(key), Some(roots)) = (chain, key, roots) else { return Err(errors) };
    let provider = Arc::new(ring::default_provider());
    let one = |key: &str, error: &dyn std::fmt::Display| vec![format!("api.{key}: {error}")];
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| one("client_ca", &error))?;
    let certificate = chain[0].clone();
    let expiry = certificate::expiry(&certificate);
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| one("listen", &error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| {
            let (certificate, key) = (config.certificate.display(), config.key.display());
            one("certificate", &format!("{certificate} does not match the key {key}: {error}"))
        })?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session does not present the certificate, so one that has expired meanwhile would be accepted.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    if let Some(expiry) = expiry.map(|seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
        && expiry.as_secs() < UnixTime::now().as_secs() + SOON.as_secs()
    {
        let (file, date) = (config.certificate.display(), tls::date(expiry));
        warn!("api.certificate: {file} expires on {date}; clients refuse it after that");
    }
    Ok(Files { tls: Arc::new(tls), certificate })
}

#[cfg(test)]
mod tests;
