//! The API's listener for other hosts: access, roles, and the log.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use xdp_lb_tests::{Authority, Daemon, Identity, Network, Validity, paths, until};

const URL: &str = "https://192.0.2.1:7443";
const SERVICE: &str = "[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\nhealth_check = { type = \"none\" }\n\
                       backend = [{ address = \"198.51.100.11:8080\" }]\n";
const BACKEND: &str = "/v1/services/web/backends/198.51.100.11:8080";

/// Two hosts, and the certificates of both sides in the folder of the balancer.
struct Site {
    network: Network,
    dir: PathBuf,
    servers: Authority,
    clients: Authority,
}

impl Site {
    fn new() -> Self {
        let network = Network::new("tls", 1).unwrap();
        let dir = network.lb.dir();
        let (servers, clients) = (Authority::new("Servers").unwrap(), Authority::new("Clients").unwrap());
        servers.write(&dir).unwrap();
        clients.write(&dir).unwrap();
        servers
            .issue(&["192.0.2.1", "lb.example.com"], Validity::Now)
            .unwrap()
            .write(&dir, "server")
            .unwrap();
        Self { network, dir, servers, clients }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// The keys of a listener for `alice`, who changes, and `bob`, who looks.
    fn config(&self, listen: &str) -> String {
        format!(
            "api.listen = \"{listen}\"\napi.certificate = {:?}\napi.key = {:?}\napi.client_ca = {:?}\n\
             api.admin_certificates = [\"alice\"]\napi.read_certificates = [\"bob\"]\n{SERVICE}",
            self.file("server.pem"),
            self.file("server.key"),
            self.file("Clients.pem")
        )
    }

    fn start(&self) -> Daemon {
        Daemon::start(&self.network.lb, &["eth0", "eth1"], &self.config("192.0.2.1:7443")).unwrap()
    }

    /// The certificate and key of a client, signed by the CA of clients.
    fn known(&self, name: &str, validity: Validity) -> (PathBuf, PathBuf) {
        self.write(&self.clients.issue_client(name, &[], validity).unwrap(), name)
    }

    fn write(&self, identity: &Identity, name: &str) -> (PathBuf, PathBuf) {
        identity.write(&self.dir, name).unwrap()
    }

    /// curl on the client's host, as whoever this is. Its standard output ends with the status.
    fn curl(&self, who: Option<&(PathBuf, PathBuf)>, arguments: &[&str]) -> Output {
        let mut command = self.network.client.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}"]);
        command.arg("--cacert").arg(self.dir.join("Servers.pem")).args(arguments);
        if let Some((certificate, key)) = who {
            command.arg("--cert").arg(certificate).arg("--key").arg(key);
        }
        command.output().unwrap()
    }

    /// What the API answers: its status and its document.
    fn ask(&self, who: &(PathBuf, PathBuf), arguments: &[&str]) -> (u16, Value) {
        let output = self.curl(Some(who), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.trim_end().rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    fn cli(&self, who: &(PathBuf, PathBuf), words: &[&str]) -> (bool, String) {
        let mut command = self.network.client.command(paths::daemon());
        command.args(words).args(["--api", URL, "--ca"]).arg(self.dir.join("Servers.pem"));
        command.env("XDP_LB_CERTIFICATE", &who.0).env("XDP_LB_KEY", &who.1);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn certificates_have_the_access_that_the_config_gives_and_changes_are_logged_with_the_name() {
    let site = Site::new();
    let daemon = site.start();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| site.known(name, Validity::Now));
    let (status, backend) = (format!("{URL}/v1/status"), format!("{URL}{BACKEND}"));
    let change = ["-X", "PATCH", "-d", "{\"weight\": 50}", backend.as_str()];

    let (code, document) = site.ask(&bob, &[&status]);
    assert_eq!((code, &document["services"][0]["name"]), (200, &json!("web")));
    let (code, document) = site.ask(&bob, &change);
    assert_eq!(code, 403);
    assert!(document["error"].as_str().unwrap().contains("has read access only"), "{document}");
    assert_eq!(daemon.backends(None).unwrap()[0]["weight"], 100);
    let (code, document) = site.ask(&alice, &change);
    assert_eq!((code, &document["changed"]), (200, &json!(true)));
    assert_eq!(daemon.backends(None).unwrap()[0]["weight"], 50);
    let (code, document) = site.ask(&carol, &[&status]);
    assert_eq!(code, 403);
    assert!(document["error"].as_str().unwrap().contains("has no access to this daemon"), "{document}");

    let log = daemon.log();
    for (who, ended) in [
        ("WARN audit: certificate \"bob\" (serial ", format!("from 192.0.2.100:|): PATCH {BACKEND}: 403: ")),
        (
            "INFO audit: certificate \"alice\" (serial ",
            format!("from 192.0.2.100:|): PATCH {BACKEND}: 200: "),
        ),
        ("WARN audit: certificate \"carol\" (serial ", "from 192.0.2.100:|): GET /v1/status: 403: ".into()),
    ] {
        let is_it = |line: &&str| line.contains(who) && ended.split('|').all(|part| line.contains(part));
        assert_eq!(log.lines().filter(is_it).count(), 1, "{who}...{ended}: {log}");
    }

    let (done, said) = site.cli(&alice, &["backend", "drain", "web", "198.51.100.11:8080"]);
    assert!(done, "{said}");
    assert_eq!(daemon.backend_state("web", "198.51.100.11:8080").unwrap(), "draining");
    let (done, said) = site.cli(&bob, &["backend", "enable", "web", "198.51.100.11:8080"]);
    assert!(!done && said.contains("has read access only"), "{said}");
    assert!(site.cli(&bob, &["status"]).1.contains("web"));
}

#[test]
fn a_client_without_a_valid_certificate_or_without_tls_gets_nothing() {
    let site = Site::new();
    let daemon = site.start();
    let status = format!("{URL}/v1/status");
    let alice = site.known("alice", Validity::Now);
    let other = Authority::new("Clients").unwrap().issue_client("alice", &[], Validity::Now).unwrap();
    let other = site.write(&other, "other");
    let (expired, early) = (site.known("late", Validity::Expired), site.known("early", Validity::NotYet));
    let refused = |what: &str, who: Option<&(PathBuf, PathBuf)>, arguments: &[&str]| {
        let output = site.curl(who, arguments);
        assert!(!output.status.success() && output.stdout == b"\n000", "{what}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(site.ask(&alice, &[&status]).0, 200);
    refused("no certificate", None, &[&status]);
    refused("another CA", Some(&other), &[&status]);
    refused("expired", Some(&expired), &[&status]);
    refused("not valid yet", Some(&early), &[&status]);
    refused("TLS 1.2", Some(&alice), &["--tls-max", "1.2", &status]);
    refused("plain HTTP", None, &["http://192.0.2.1:7443/v1/status"]);
    assert_eq!(site.ask(&alice, &[&status]).0, 200);

    let (done, said) = site.cli(&expired, &["status"]);
    assert!(!done && said.contains("the server refused the handshake: certificate expired"), "{said}");
    // As many lines as seconds have passed, at most. A client may be gone before the daemon knows why it refuses it.
    until("the refusal to be logged", Duration::from_secs(15), || {
        let log = daemon.log();
        Ok(log.lines().any(|line| {
            line.contains("api: refused 192.0.2.100:") && line.contains(": it presents no certificate")
        }))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {}", daemon.log()));
}

#[test]
fn replaced_certificates_take_effect_and_invalid_ones_keep_the_daemon_from_starting() {
    let site = Site::new();
    let mut daemon = site.start();
    let status = format!("{URL}/v1/status");
    let alice = site.known("alice", Validity::Now);
    assert_eq!(site.ask(&alice, &[&status]).0, 200);
    let other = Authority::new("Others").unwrap();
    fs::write(site.file("Clients.pem"), other.certificate()).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    assert!(!site.curl(Some(&alice), &[&status]).status.success());
    let alice = site.write(&other.issue_client("alice", &[], Validity::Now).unwrap(), "alice");
    assert_eq!(site.ask(&alice, &[&status]).0, 200);

    let refused = |daemon: &mut Daemon| format!("{:#}", daemon.run().unwrap_err());
    daemon.stop().unwrap();
    fs::set_permissions(site.file("server.key"), Permissions::from_mode(0o604)).unwrap();
    fs::remove_file(site.file("Clients.pem")).unwrap();
    let why = refused(&mut daemon);
    assert!(why.contains("server.key (mode 0604): chmod 600 "), "{why}");
    assert!(why.contains("api.client_ca: cannot read ") && why.contains("Clients.pem: "), "{why}");
    site.clients.write(&site.dir).unwrap();
    site.servers.issue(&["192.0.2.1"], Validity::Now).unwrap().write(&site.dir, "server").unwrap();
    let elsewhere = daemon.config().unwrap().replace("192.0.2.1:7443", "192.0.2.9:7443");
    fs::write(daemon.config_file(), elsewhere).unwrap();
    let why = refused(&mut daemon);
    assert!(
        why.contains("cannot listen on 192.0.2.9:7443 for the API: choose another api.listen: "),
        "{why}"
    );
}
