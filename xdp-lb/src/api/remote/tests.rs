//! The listener for other hosts and the client, over TLS.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use xdp_lb_tests::{Authority, Identity, Validity};

use super::*;
use crate::api::caller::{Role, Who};
use crate::api::client::{Client, Error, Result};
use crate::api::endpoint::Endpoint;
use crate::api::server::Server;
use crate::control::testing::{self, TWO_SERVICES};
use crate::model;
use crate::model::request::ServicePatch;
use crate::model::state::AdminState;

const URI: &str = "spiffe://example.com/deploy";

/// A daemon with a listener, and the CAs of both sides.
struct Daemon {
    _owner: testing::Daemon,
    folder: TempDir,
    servers: Authority,
    clients: Authority,
    address: SocketAddr,
    _server: JoinHandle<()>,
}

/// The config of a listener whose files are in a folder.
fn remote(folder: &Path, listen: SocketAddr) -> Remote {
    Remote {
        listen,
        certificate: folder.join("server.pem"),
        key: folder.join("server.key"),
        client_ca: folder.join("Clients.pem"),
        admin_certificates: vec!["alice".into(), URI.into()],
        read_certificates: vec!["bob".into()],
    }
}

/// The certificates of a listener at 127.0.0.1, in a folder.
fn files() -> (TempDir, Authority, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let (servers, clients) = (Authority::new("Servers").unwrap(), Authority::new("Clients").unwrap());
    servers.issue(&["127.0.0.1"], Validity::Now).unwrap().write(folder.path(), "server").unwrap();
    servers.write(folder.path()).unwrap();
    clients.write(folder.path()).unwrap();
    (folder, servers, clients)
}

fn daemon(read_certificates: &[&str]) -> Daemon {
    let (folder, servers, clients) = files();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let read_certificates = read_certificates.iter().map(|name| (*name).to_owned()).collect();
    let remote = Remote { read_certificates, ..remote(folder.path(), address) };
    let socket = folder.path().join("api.sock");
    let config = model::Api { socket, remote: Some(remote), ..model::Api::default() };
    let server = Server::bind(&config).unwrap();
    let owner = testing::Daemon::start(TWO_SERVICES);
    let server = tokio::spawn(server.serve(owner.handle.clone(), std::future::pending()));
    Daemon { _owner: owner, folder, servers, clients, address, _server: server }
}

impl Daemon {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client with this certificate.
    fn client(&self, identity: &Identity) -> Client {
        let (certificate, key) = identity.write(self.folder.path(), "client").unwrap();
        let url = format!("https://{}", self.address);
        let ca = self.file("Servers.pem");
        Client::of(Endpoint::remote(&url, &certificate, &key, Some(&ca)).unwrap())
    }

    fn named(&self, name: &str, uris: &[&str]) -> Client {
        self.client(&self.clients.issue_client(name, uris, Validity::Now).unwrap())
    }

    /// A TLS connection without a certificate.
    async fn nobody(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(tls::roots(&self.file("Servers.pem")).unwrap())
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap()
    }
}

fn words<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.unwrap_err().to_string()
}

#[tokio::test]
async fn a_certificate_may_do_what_the_config_allows_any_of_its_names() {
    let daemon = daemon(&["bob"]);
    for admin in
        [daemon.named("alice", &[]), daemon.named("anybody", &["urn:x", URI]), daemon.named("bob", &[URI])]
    {
        assert!(
            admin.patch_service("web", &ServicePatch::admin(AdminState::Draining)).await.unwrap().changed
        );
        assert!(admin.patch_service("web", &ServicePatch::admin(AdminState::Enabled)).await.unwrap().changed);
    }
    let reader = daemon.named("bob", &[]);
    assert_eq!(reader.status().await.unwrap().services.len(), 2);
    let refused = words(reader.patch_service("web", &ServicePatch::admin(AdminState::Draining)).await);
    assert!(refused.starts_with("certificate \"bob\" (serial "), "{refused}");
    assert!(
        refused.ends_with(
            ") has read access only; changes are for the certificates in `admin_certificates` in the [api] of the \
             daemon's config"
        ),
        "{refused}"
    );
    for (name, uris) in [("carol", &[][..]), ("Alice", &[]), ("alice ", &["spiffe://example.com/deploy/x"])] {
        let refused = daemon.named(name, uris).status().await.unwrap_err();
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
        assert!(
            refused
                .to_string()
                .contains(") has no access to this daemon; access is for the certificates in "),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn any_certificate_may_read_if_the_config_allows_it_and_change_nothing() {
    let daemon = daemon(&["*"]);
    let carol = daemon.named("carol", &[]);
    carol.status().await.unwrap();
    assert!(
        words(carol.patch_service("web", &ServicePatch::admin(AdminState::Draining)).await)
            .contains("has read access only")
    );
    assert!(
        daemon
            .named("alice", &[])
            .patch_service("web", &ServicePatch::admin(AdminState::Draining))
            .await
            .unwrap()
            .changed
    );
}

#[tokio::test]
async fn missing_foreign_and_expired_certificates_are_refused() {
    let daemon = daemon(&["*"]);
    let other = Authority::new("Clients").unwrap().issue_client("alice", &[], Validity::Now).unwrap();
    let refused = words(daemon.client(&other).status().await);
    assert!(refused.starts_with("the daemon on https://127.0.0.1:"), "{refused}");
    assert!(refused.contains(": TLS: the server refused the handshake: "), "{refused}");
    for validity in [Validity::Expired, Validity::NotYet] {
        let alice = daemon.clients.issue_client("alice", &[], validity).unwrap();
        let refused = words(daemon.client(&alice).status().await);
        assert!(
            refused.contains(": TLS: the server refused the handshake: certificate expired"),
            "{validity:?}: {refused}"
        );
    }
    let mut nobody = daemon.nobody().await;
    let _ = nobody.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let refused = nobody.read_to_end(&mut Vec::new()).await.unwrap_err().to_string();
    assert!(refused.contains("CertificateRequired"), "{refused}");
}

#[tokio::test]
async fn the_client_refuses_a_daemon_that_its_ca_did_not_sign() {
    let daemon = daemon(&[]);
    let (certificate, key) = daemon
        .clients
        .issue_client("alice", &[], Validity::Now)
        .unwrap()
        .write(daemon.folder.path(), "client")
        .unwrap();
    let url = format!("https://{}", daemon.address);
    let client =
        Client::of(Endpoint::remote(&url, &certificate, &key, Some(&daemon.file("Clients.pem"))).unwrap());
    assert_eq!(
        words(client.status().await),
        format!(
            "the daemon on {url}: TLS: the certificate is not signed by a trusted CA; for a CA of your own, set --ca"
        )
    );
    let stranger = daemon.servers.issue(&["192.0.2.7"], Validity::Now).unwrap();
    stranger.write(daemon.folder.path(), "server").unwrap();
    tokio::time::sleep(FRESH).await;
    let refused = words(daemon.named("alice", &[]).status().await);
    assert!(refused.contains("the certificate is not for 127.0.0.1, but for 192.0.2.7"), "{refused}");
}

#[tokio::test]
async fn a_client_that_does_not_speak_tls_is_refused_and_the_next_one_served() {
    let daemon = daemon(&[]);
    let mut plain = TcpStream::connect(daemon.address).await.unwrap();
    plain.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    daemon.named("alice", &[]).status().await.unwrap();
}

#[tokio::test]
async fn clients_that_connect_and_send_nothing_are_disconnected() {
    let daemon = daemon(&[]);
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(daemon.address).await.unwrap());
    }
    let local = Client::new(daemon.file("api.sock"));
    let begun = Instant::now();
    local.status().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "the socket's clients wait: {:?}", begun.elapsed());
    daemon.named("alice", &[]).status().await.unwrap();
    drop(silent);
}

#[tokio::test]
async fn events_are_sent_to_other_hosts() {
    let daemon = daemon(&["*"]);
    let watch = daemon.named("carol", &[]).watch(None).await.unwrap();
    drop(watch);
}

#[tokio::test]
async fn replaced_files_take_effect_unless_they_are_invalid() {
    let daemon = daemon(&[]);
    let alice = daemon.clients.issue_client("alice", &[], Validity::Now).unwrap();
    daemon.client(&alice).status().await.unwrap();
    let others = Authority::new("Others").unwrap();
    fs::write(daemon.file("Clients.pem"), "no certificate").unwrap();
    tokio::time::sleep(FRESH).await;
    daemon.client(&alice).status().await.unwrap();
    fs::write(daemon.file("Clients.pem"), others.certificate()).unwrap();
    tokio::time::sleep(FRESH).await;
    assert!(words(daemon.client(&alice).status().await).contains("the server refused the handshake"));
    let alice = others.issue_client("alice", &[], Validity::Now).unwrap();
    daemon.client(&alice).status().await.unwrap();
}

#[tokio::test]
async fn all_problems_with_the_files_are_reported_at_once() {
    let (folder, _, clients) = files();
    let config = remote(folder.path(), SocketAddr::from(([127, 0, 0, 1], 7443)));
    let refused = || read(&config).map(drop).unwrap_err().join("\n");
    let path = |name: &str| folder.path().join(name).display().to_string();

    fs::set_permissions(path("server.key"), Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(path("server.pem")).unwrap();
    fs::write(path("Clients.pem"), "").unwrap();
    let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("Clients.pem"));
    let said = refused();
    let lines: Vec<_> = said.lines().collect();
    assert!(lines[0].starts_with(&format!("api.certificate: cannot read {certificate}: ")), "{said}");
    assert_eq!(
        lines[1..],
        [
            format!("api.key: every user of this host can read the key {key} (mode 0644): chmod 600 {key}"),
            format!("api.client_ca: {ca} contains no certificate"),
        ]
    );
    let alice = clients.issue_client("alice", &[], Validity::Now).unwrap();
    alice.write(folder.path(), "server").unwrap();
    clients.write(folder.path()).unwrap();
    assert!(read(&config).is_ok());
    fs::write(&key, clients.issue_client("bob", &[], Validity::Now).unwrap().key).unwrap();
    assert!(
        refused().starts_with(&format!("api.certificate: {certificate} does not match the key {key}: ")),
        "{}",
        refused()
    );
    fs::write(&key, alice.certificate).unwrap();
    assert!(refused().starts_with(&format!("api.key: {key} contains no usable key")), "{}", refused());
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_is_reported_with_its_key() {
    let (folder, ..) = files();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = format!("{:#}", listen(&remote(folder.path(), address)).map(drop).unwrap_err());
    assert!(
        error.starts_with(&format!("cannot listen on {address} for the API: choose another api.listen: ")),
        "{error}"
    );
}

#[test]
fn names_cannot_forge_a_line_of_the_log() {
    let name = "a\"\nINFO audit: root".to_owned();
    let from = "[2001:db8::7]:40000".parse().unwrap();
    let who = Who::Certificate { name, serial: "4f".into(), from };
    assert_eq!(
        who.to_string(),
        r#"certificate "a\"\nINFO audit: root" (serial 4f, from [2001:db8::7]:40000)"#
    );
    let der = CertificateDer::from(vec![0x30, 0x82]);
    let broken = certificate::caller(Some(&der), from, &remote(Path::new("/"), from));
    assert_eq!(broken.role, Role::None);
}
