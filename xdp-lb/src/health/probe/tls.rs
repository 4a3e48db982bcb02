//! TLS for checks: rustls over an established connection.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, version};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::health::attempt::Attempt;
use crate::health::failure::Failure;
use crate::model::{Tls, TlsVersion};
use crate::tls;

/// The key for the file of CAs.
pub(super) const CA: &str = "ca_file";

/// CA files are read again this often, to pick up replaced ones.
const FRESH: Duration = Duration::from_secs(60);

/// The same, while none could be read.
const RETRY: Duration = Duration::from_secs(1);

/// A config that no check has used for this time is dropped. The longest interval is an hour.
const FORGOTTEN: Duration = Duration::from_secs(2 * 3600);

/// The application protocol to negotiate (ALPN, RFC 7301).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Alpn {
    Http1,
    Http2,
}

/// TLS configs, shared by all checks: a host's CAs take about a megabyte, and milliseconds to read. Checks with the same keys
/// share one config. The previous CAs stay in use until new ones are read.
#[derive(Default)]
pub(super) struct Configs(Mutex<HashMap<(Tls, Alpn), Entry>>);

/// A config, or one that is being made. Making it is completed even if the check that needed it has given up.
type Making = Shared<BoxFuture<'static, Result<Arc<ClientConfig>, String>>>;

struct Entry {
    begun: Instant,
    making: Making,
    /// The previous one, in use until the new one is made, or if that fails.
    before: Option<Arc<ClientConfig>>,
}

impl Configs {
    /// The config for these keys.
    async fn get(&self, tls: &Tls, alpn: Alpn) -> Result<Arc<ClientConfig>, String> {
        // The name is not part of a config.
        let key = (Tls { server_name: None, ..tls.clone() }, alpn);
        let making = {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !entries.contains_key(&key) {
                // Removes those that no check uses any more.
                entries.retain(|_, entry| entry.begun.elapsed() < FORGOTTEN);
            }
            let entry = entries.entry(key.clone()).or_insert_with(|| Entry::begin(&key, None));
            let made = entry.making.clone().now_or_never();
            let lasts = if matches!(made, Some(Err(_))) && entry.before.is_none() { RETRY } else { FRESH };
            let made = made.and_then(Result::ok);
            if entry.begun.elapsed() >= lasts {
                let before = made.clone().or_else(|| entry.before.clone());
                *entry = Entry::begin(&key, before);
            }
            match made.or_else(|| entry.before.clone()) {
                Some(config) => return Ok(config),
                None => entry.making.clone(),
            }
        };
        making.await
    }
}

impl fmt::Debug for Configs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configs").finish_non_exhaustive()
    }
}

impl Entry {
    fn begin((tls, alpn): &(Tls, Alpn), before: Option<Arc<ClientConfig>>) -> Self {
        let (tls, alpn, is_there_one) = (tls.clone(), *alpn, before.is_some());
        let made = tokio::task::spawn_blocking(move || {
            let made = make(&tls, alpn).map(Arc::new);
            if let Err(error) = &made
                && is_there_one
            {
                tracing::warn!("health checks: {error}; its previous contents stay in effect");
            }
            made
        });
        let making = async { made.await.unwrap_or_else(|error| Err(error.to_string())) };
        Self { begun: Instant::now(), making: making.boxed().shared(), before }
    }
}
/// Starts TLS on the connection. `host` is the default of the check's `server_name`.
pub(super) async fn handshake(
    configs: &Configs,
    attempt: Attempt<'_>,
    stream: TcpStream,
    tls: &Tls,
    host: Option<&str>,
    alpn: Alpn,
) -> Result<TlsStream<TcpStream>, Failure> {
    let Ok(config) = timeout_at(attempt.time.end, configs.get(tls, alpn)).await else {
        return Err(Failure::Here(io::Error::other("the trusted CAs were not read in time")));
    };
    let config = config.map_err(Failure::Backend)?;
    let name = server_name(tls, host, attempt.backend);
    let connecting = TlsConnector::from(config).connect(name, stream);
    let connected = attempt.time.limit("connected, but no TLS handshake", connecting).await?;
    connected.map_err(|error| failure(error, tls.min_version))
}

/// The name for which the certificate must be valid, sent as SNI unless it is an address.
fn server_name(tls: &Tls, host: Option<&str>, backend: SocketAddr) -> ServerName<'static> {
    let host = host.and_then(|host| http::uri::Authority::try_from(host).ok());
    let host = host.as_ref().map(http::uri::Authority::host);
    let name = tls.server_name.as_deref().or(host).and_then(|name| {
        ServerName::try_from(name.trim_start_matches('[').trim_end_matches(']').to_owned()).ok()
    });
    name.unwrap_or_else(|| ServerName::from(backend.ip()))
}

fn make(tls: &Tls, alpn: Alpn) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&version::TLS12, &version::TLS13],
        TlsVersion::V1_3 => &[&version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| format!("cannot set up TLS: {error}"))?;
    let mut config = if tls.verify {
        builder.with_root_certificates(roots(tls.ca_file.as_deref())?).with_no_client_auth()
    } else {
        let anything = Arc::new(AnyCertificate(provider));
        builder.dangerous().with_custom_certificate_verifier(anything).with_no_client_auth()
    };
    config.alpn_protocols = vec![match alpn {
        Alpn::Http1 => b"http/1.1".to_vec(),
        Alpn::Http2 => b"h2".to_vec(),
    }];
    // A resumed session does not present a certificate, which would hide an expired one.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    match file {
        Some(file) => tls::roots(file).map_err(|error| format!("the check's ca_file: {error}")),
        None => tls::host_roots().map_err(|error| format!("{error}, or name a ca_file")),
    }
}

fn failure(error: io::Error, oldest: TlsVersion) -> Failure {
    match tls::told(&error, oldest, CA) {
        Some(words) => Failure::Backend(words),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::Backend("TLS: the connection was closed during the handshake".to_owned())
        }
        None => error.into(),
    }
}

/// Accepts any certificate. The server must still have its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use xdp_lb_tests::{Authority, Validity};

    use super::super::tests::check;
    use super::*;
    use crate::model::{Http, Probe};

    /// A CA, and the file of its certificate.
    struct Ca {
        authority: Authority,
        file: tempfile::NamedTempFile,
    }

    impl Ca {
        fn new(name: &str) -> Self {
            let authority = Authority::new(name).expect("a CA");
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), authority.certificate()).expect("written");
            Self { authority, file }
        }

        /// The TLS config of a server with these names.
        fn server(
            &self,
            names: &[&str],
            validity: Validity,
            versions: &[&'static rustls::SupportedProtocolVersion],
        ) -> ServerConfig {
            let identity = self.authority.issue(names, validity).expect("signed");
            let key = PrivateKeyDer::try_from(identity.key_der).expect("a key");
            ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(versions)
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![identity.certificate_der.into()], key)
                .expect("a config")
        }

        fn tls(&self) -> Tls {
            Tls { ca_file: Some(self.file.path().into()), ..Tls::default() }
        }
    }

    const BOTH: &[&rustls::SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];

    /// A server that answers every request with 200 and the requested name.
    async fn serve(config: ServerConfig) -> SocketAddr {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let backend = listener.local_addr().expect("its address");
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(connection).await else { continue };
                let session = stream.get_ref().1;
                let protocol = session.alpn_protocol().map(String::from_utf8_lossy).unwrap_or_default();
                let asked = format!("name {} alpn {protocol}", session.server_name().unwrap_or("none"));
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{asked}", asked.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        backend
    }

    fn https(tls: Tls) -> Http {
        Http { tls: Some(tls), ..Http::get("/") }
    }

    async fn told_of(config: ServerConfig, http: Http) -> Result<(), String> {
        check(serve(config).await, Probe::Http(http)).await
    }

    #[tokio::test]
    async fn a_certificate_must_be_signed_by_a_trusted_ca_for_the_name() {
        let ca = Ca::new("One");
        let server = || ca.server(&["a.example", "127.0.0.1"], Validity::Now, BOTH);
        let body = |asked: &str| Some(crate::model::Body::Contains(format!("name {asked} alpn http/1.1")));
        // By the check's server_name, by its Host header, by the backend's address.
        let named = Tls { server_name: Some("a.example".into()), ..ca.tls() };
        let mut config = server();
        config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
        assert_eq!(told_of(config, Http { body: body("a.example"), ..https(named) }).await, Ok(()));
        let mut config = server();
        config.alpn_protocols = vec![b"http/1.1".into()];
        let host = Some("a.example:8443".into());
        assert_eq!(told_of(config, Http { host, body: body("a.example"), ..https(ca.tls()) }).await, Ok(()));
        assert_eq!(told_of(server(), https(ca.tls())).await, Ok(()));

        let other = Tls { server_name: Some("b.example".into()), ..ca.tls() };
        assert_eq!(
            told_of(server(), https(other)).await,
            Err("TLS: the certificate is not for b.example, but for a.example, 127.0.0.1".into())
        );
        for name in ["One", "Another"] {
            let elsewhere = Ca::new(name).server(&["127.0.0.1"], Validity::Now, BOTH);
            assert_eq!(
                told_of(elsewhere, https(ca.tls())).await,
                Err("TLS: the certificate is not signed by a trusted CA; for a CA of your own, set ca_file"
                    .into())
            );
        }
    }

    #[tokio::test]
    async fn an_expired_certificate_is_reported_with_the_date() {
        let ca = Ca::new("One");
        let expired = ca.server(&["127.0.0.1"], Validity::Expired, BOTH);
        assert_eq!(
            told_of(expired, https(ca.tls())).await,
            Err("TLS: the certificate expired on 2020-02-29T00:00:00Z".into())
        );
        let early = ca.server(&["127.0.0.1"], Validity::NotYet, BOTH);
        assert_eq!(
            told_of(early, https(ca.tls())).await,
            Err("TLS: the certificate is not valid before 3020-01-01T00:00:00Z".into())
        );
    }

    #[tokio::test]
    async fn without_verification_any_certificate_will_do() {
        for versions in [BOTH, &[&version::TLS12]] {
            let server = Ca::new("One").server(&["b.example"], Validity::Expired, versions);
            assert_eq!(told_of(server, https(Tls { verify: false, ..Tls::default() })).await, Ok(()));
        }
    }

    #[tokio::test]
    async fn a_version_that_is_too_old_is_reported() {
        let ca = Ca::new("One");
        let newest = Tls { min_version: TlsVersion::V1_3, ..ca.tls() };
        let old = || ca.server(&["127.0.0.1"], Validity::Now, &[&version::TLS12]);
        assert_eq!(told_of(old(), https(ca.tls())).await, Ok(()));
        assert_eq!(
            told_of(old(), https(newest.clone())).await,
            Err("TLS: the server does not support TLS 1.3".into())
        );
        let new = ca.server(&["127.0.0.1"], Validity::Now, &[&version::TLS13]);
        assert_eq!(told_of(new, https(newest)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_server_without_tls_or_without_an_answer_is_reported() {
        let probe = || Probe::Http(https(Tls { verify: false, ..Tls::default() }));
        let answers: [(&[u8], _); 3] = [
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "TLS: the response is not TLS"),
            (b"", "TLS: the connection was closed during the handshake"),
            (b"-", "connected, but no TLS handshake within 3s"),
        ];
        for (answer, words) in answers {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let backend = listener.local_addr().expect("its address");
            let server = tokio::spawn(async move {
                let (mut connection, _) = listener.accept().await.expect("a connection");
                let _ = connection.read(&mut [0; 4096]).await;
                match answer {
                    b"-" => std::future::pending().await,
                    answer => connection.write_all(answer).await,
                }
            });
            assert_eq!(check(backend, probe()).await, Err(words.into()));
            server.abort();
        }
    }

    #[tokio::test]
    async fn a_ca_file_is_read_again_and_stays_in_use_when_it_is_gone() {
        tokio::time::pause();
        let (ca, other) = (Ca::new("One"), Ca::new("Another"));
        let shared = super::super::Shared::new(None);
        let tls = ca.tls();
        let first = shared.tls.get(&tls, Alpn::Http1).await.expect("read");
        let again = shared.tls.get(&tls, Alpn::Http1).await.expect("kept");
        assert!(Arc::ptr_eq(&first, &again));
        std::fs::copy(other.file.path(), ca.file.path()).expect("replaced");
        tokio::time::advance(FRESH).await;
        // While it is read, the previous content stays in use.
        let mut replaced = Arc::clone(&first);
        for _ in 0..500 {
            if !Arc::ptr_eq(&first, &replaced) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            replaced = shared.tls.get(&tls, Alpn::Http1).await.expect("read");
        }
        assert!(!Arc::ptr_eq(&first, &replaced));
        std::fs::remove_file(ca.file.path()).expect("removed");
        for _ in 0..3 {
            tokio::time::advance(FRESH).await;
            std::thread::sleep(Duration::from_millis(100));
            let gone = shared.tls.get(&tls, Alpn::Http1).await.expect("kept");
            assert!(Arc::ptr_eq(&replaced, &gone));
        }

        let absent = Tls { ca_file: Some("/nonexistent/ca.pem".into()), ..tls };
        let Err(words) = shared.tls.get(&absent, Alpn::Http1).await else { panic!("read") };
        assert!(words.starts_with("the check's ca_file: cannot read /nonexistent/ca.pem: "), "{words}");
        let empty = tempfile::NamedTempFile::new().expect("a file");
        let empty = Tls { ca_file: Some(empty.path().into()), ..absent };
        let Err(words) = shared.tls.get(&empty, Alpn::Http1).await else { panic!("read") };
        assert!(words.ends_with(" contains no certificate"), "{words}");
    }

    #[test]
    fn the_name_is_the_checks_own_else_its_hosts_else_the_address() {
        let backend = "[2001:db8::1]:443".parse().expect("an address");
        let name = |server_name: Option<&str>, host| {
            let tls = Tls { server_name: server_name.map(Into::into), ..Tls::default() };
            match super::server_name(&tls, host, backend) {
                ServerName::IpAddress(address) => IpAddr::from(address).to_string(),
                name => name.to_str().into_owned(),
            }
        };
        assert_eq!(name(Some("a.example"), Some("b.example")), "a.example");
        assert_eq!(name(None, Some("b.example:8443")), "b.example");
        assert_eq!(name(None, Some("[2001:db8::2]:8443")), "2001:db8::2");
        assert_eq!(name(None, Some("192.0.2.1")), "192.0.2.1");
        assert_eq!(name(None, None), "2001:db8::1");
    }
}
