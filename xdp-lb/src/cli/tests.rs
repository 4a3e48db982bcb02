//! The command line as it is typed, against a real server on a real socket.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::output::{Format, Screen};
use super::units::grouped;
use super::upgrade::Upgrade;
use super::{Cli, Command, Done, backend, status};
use crate::api::client::Client;
use crate::api::server::Server;
use crate::config;
use crate::control::testing::{self, WEB, write_config};
use crate::health::Health;
use crate::model::request::FlowQuery;
use crate::model::state::{AdminState, BackendState, UpgradeState};
use crate::model::{self, Affinity, Agent, Feedback, Http, Mode, Probe, Protocol, Quic, StatusRange, Via};
use crate::net::Event;
use crate::report;
use crate::report::documents::{BackendView, MovingView, ServiceView, StatusView};

const TABLE: Screen = Screen { format: Format::Table, colour: false, width: None };

/// The owner task over tables in memory, and a server before it.
struct Daemon {
    owner: testing::Daemon,
    client: Client,
    socket: PathBuf,
    server: JoinHandle<()>,
    _folder: TempDir,
}

fn daemon() -> Daemon {
    daemon_of(WEB)
}

fn daemon_of(config: &str) -> Daemon {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let owner = testing::Daemon::start(config);
    let server = serve(&owner, &socket);
    Daemon { owner, client: Client::new(&socket), socket, server, _folder: folder }
}

fn serve(owner: &testing::Daemon, socket: &Path) -> JoinHandle<()> {
    let config = model::Api { socket: socket.into(), ..model::Api::default() };
    tokio::spawn(Server::bind(&config).unwrap().serve(owner.handle.clone(), std::future::pending()))
}

/// The same, with all backends up, and 42 flows at each.
async fn busy(config: &str) -> Daemon {
    let daemon = daemon_of(config);
    daemon.owner.all_up().await;
    let mut kernel = daemon.owner.kernel.lock();
    kernel.live = kernel.tables.backends.keys().map(|index| (*index, 42)).collect();
    drop(kernel);
    daemon
}

impl Daemon {
    /// Runs a command line; what it prints, or its error.
    async fn run(&self, line: &[&str]) -> anyhow::Result<Done> {
        let cli = parse(line);
        let screen = Screen { format: cli.global.output, ..TABLE };
        let client = &self.client;
        match cli.command {
            Command::Service(command) => command.execute(client, &screen).await,
            Command::Node(command) => command.execute(client, &screen).await,
            Command::Backend(command) => command.execute(client, &screen).await,
            Command::Status(status) => status.execute(client, &screen).await,
            Command::Counters(counters) => counters.execute(client, &screen).await,
            Command::Flows(flows) => flows.execute(client, &screen).await,
            Command::Diff(diff) => diff.execute(client, &screen).await,
            Command::Reload(reload) => reload.execute(client, &screen).await,
            Command::Watch(watch) => {
                let mut text = String::new();
                let print = |line: &str| {
                    text += line;
                    Ok(true)
                };
                watch.execute(client, &screen, print).await.map(|()| Done::from(text))
            }
            Command::Upgrade(upgrade) => upgrade.execute(client, &screen).await.map(Done::from),
            Command::Unload(unload) => {
                unload.execute(None, Some(self.socket.clone()), &screen).await.map(Done::from)
            }
            other => panic!("{other:?} asks no daemon"),
        }
    }

    async fn text(&self, line: &[&str]) -> String {
        self.run(line).await.unwrap().text
    }

    async fn error(&self, line: &[&str]) -> String {
        format!("{:#}", self.run(line).await.unwrap_err())
    }

    async fn json(&self, line: &[&str]) -> Value {
        let mut line = line.to_vec();
        line.extend(["--output", "json"]);
        serde_json::from_str(&self.text(&line).await).unwrap()
    }

    /// The document at a path, as it is.
    async fn get(&self, path: &str) -> Value {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// All flows end after this time.
    fn flows_end_in(&self, time: Duration) {
        let kernel = self.owner.kernel.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            kernel.lock().live.clear();
        });
    }
}

fn parse(line: &[&str]) -> Cli {
    Cli::try_parse_from([&["xdp-lb"], line].concat()).unwrap_or_else(|error| panic!("{error}"))
}

/// What clap says to a wrong command line.
fn usage_error(line: &[&str]) -> String {
    let error = Cli::try_parse_from([&["xdp-lb"], line].concat()).expect_err("a usage error");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

fn failed(done: &Done) -> bool {
    format!("{:?}", done.code) == format!("{:?}", std::process::ExitCode::FAILURE)
}

const NO_SERVICE: &str = "interfaces = [\"eth0\"]\nstate_file = \"STATE\"\n";

const UNLOADED: &str =
    "removed 192.0.2.10 from eth0, detached from eth0 (native), removed 12 tables; the daemon exits\n";

#[test]
fn a_socket_is_refused_by_commands_that_use_no_daemon() {
    for line in
        [&["run", "--config", "/nowhere", "--socket", "/a"][..], &["check", "/nowhere", "--socket", "/a"]]
    {
        let error = parse(line).execute().unwrap_err().downcast::<clap::Error>().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("`api.socket` in its config"), "{error}");
    }
}

#[tokio::test]
async fn an_unload_asks_the_daemon_on_the_given_socket() {
    let daemon = daemon();
    let config = daemon.owner.directory.path().join("other.toml");
    let file =
        "interfaces = [\"eth0\"]\npin_path = \"/sys/fs/bpf/xdp-lb\"\napi.socket = \"/nowhere/api.sock\"\n";
    std::fs::write(&config, file).unwrap();
    assert_eq!(daemon.text(&["unload", "--config", config.to_str().unwrap()]).await, UNLOADED);
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_arguments_say_how_to_write_them() {
    for (line, words) in [
        (&["backend", "add", "web", "198.51.100.11"][..], "write \"198.51.100.11:80\""),
        (&["backend", "add", "web", "2001:db8::1"], "write \"[2001:db8::1]:80\""),
        (&["backend", "add", "web", "backend-1:80"], "not an IP address"),
        (
            &["backend", "set-weight", "web", "198.51.100.11:80", "70000"],
            "70,000 is out of range; write 0 to 65,535",
        ),
        (
            &["backend", "set-weight", "web", "198.51.100.11:80", "x"],
            "\"x\" is not a whole number; write 0 to 65,535, such as 100",
        ),
        (&["backend", "set-weight", "web", "198.51.100.11:80", "-1"], "\"-1\" is not a whole number"),
        (
            &["flows", "--limit", "many"],
            "\"many\" is not a whole number; write 0 to 4,294,967,295, such as 100",
        ),
        (&["watch", "--count", "0"], "0 is out of range; write 1 to "),
        (
            &["decap", "--interface", "eth0", "--gue-port", "70000"],
            "70,000 is out of range; write 1 to 65,535",
        ),
        (
            &["backend", "drain", "web", "198.51.100.11:80", "--wait", "--timeout", "soon"],
            "write 30s, 5m or 1h",
        ),
        (&["backend", "drain", "web", "198.51.100.11:80", "--timeout", "5s"], "--wait"),
        (&["backend", "list", ""], "SERVICE"),
        (&["service", "add", "web", "192.0.2.10:80", "--protocol", "sctp"], "\"tcp\" or \"udp\""),
        (&["service", "add", "web", "192.0.2.10:80", "--mode", "tunnel"], "\"dsr\", \"ipip\" or \"gue\""),
        (&["service", "add", "web", "192.0.2.10:80", "--check-path", "/"], "--check <TYPE>"),
        (&["service", "add", "web", "192.0.2.10:80", "--backend", "198.51.100.11:80=x"], "write 0 to 65,535"),
        (&["status", "--output", "xml"], "table, wide, json, yaml"),
        (&["unload", "--pin-path", "/a", "--config", "b"], "cannot be used with"),
        (&["statsu"], "status"),
    ] {
        let error = usage_error(line);
        assert!(error.contains(words), "{line:?}: {error}");
    }
}

#[tokio::test]
async fn a_service_is_added_with_every_option_that_was_given() {
    let daemon = daemon();
    let line = "service add edge.v6 [2001:db8::20]:443 --protocol tcp --mode full-nat \
                --snat-address 2001:db8::2 --snat-address 2001:db8::3 --affinity source/56 \
                --allow 2001:db8:9::/48 --deny 2001:db8:9:1::/64 --deny 2001:db8:9:2::1 \
                --new-flow-rate 100 --new-flow-burst 300 --max-flows 5000 \
                --backend [2001:db8:1::1]:8443=10,max-flows=77 --backend [2001:db8:1::2]:8443 \
                --check http --check-path /healthz --check-host example.com --check-status 200-299 \
                --check-interval 2s --check-timeout 250ms --check-rise 4 --check-fall 5 --check-fast-interval 200ms \
                --check-jitter 25 --check-source 2001:db8:1::9 --check-port 9000";
    let text = daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
    assert!(text.starts_with("service edge.v6 added"), "{text}");
    let shown = daemon.client.service("edge.v6").await.unwrap();
    assert_eq!(shown.service.vip, "[2001:db8::20]:443".parse().unwrap());
    assert_eq!((shown.service.protocol, shown.service.mode), (Protocol::Tcp, Mode::FullNat));
    assert_eq!(shown.service.snat_addresses.len(), 2);
    assert_eq!(shown.service.affinity, Affinity::SourcePrefix(56));
    assert_eq!((shown.service.new_flow_rate, shown.service.new_flow_burst), (100, 300));
    let text = daemon.text(&["service", "show", "edge.v6"]).await;
    for line in [
        "allowed clients 2001:db8:9::/48; denied: 2001:db8:9:1::/64, 2001:db8:9:2::1/128\n",
        "new flows       100 a second per client, bursts of 300; at most 5,000 flows (0 now)\n",
        "health check    http GET /healthz of example.com, status 200-299, port 9000, from 2001:db8:1::9, \
         every 2s (200ms while changing), jitter 25 %, timeout 250ms, rise 4, fall 5\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
    let check = shown.service.check();
    let probe = Probe::Http(Http {
        host: Some("example.com".into()),
        status: vec![StatusRange { low: 200, high: 299 }],
        ..Http::get("/healthz")
    });
    assert_eq!(check.probe, probe);
    assert_eq!((check.interval, check.timeout), (Duration::from_secs(2), Duration::from_millis(250)));
    assert_eq!((check.rise, check.fall), (4, 5));
    assert_eq!((check.fast_interval, check.jitter), (Some(Duration::from_millis(200)), 25));
    assert_eq!((check.source, check.port), (Some("2001:db8:1::9".parse().unwrap()), Some(9000)));
    let weights: Vec<_> = shown.backends.iter().map(|backend| (backend.weight, backend.max_flows)).collect();
    assert_eq!(weights, [(10, 77), (100, 0)]);
    let line = "service add direct 192.0.2.30:80 --mode dsr --check tcp --check-via vip";
    daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
    assert_eq!(daemon.client.service("direct").await.unwrap().service.check().via, Via::Vip);
}

#[tokio::test]
async fn a_quic_service_is_added_with_its_backends_ids() {
    let daemon = daemon();
    let line = "service add h3 192.0.2.10:443 --protocol udp --quic-server-id-length 2 --quic-config-id 3 \
                --backend 198.51.100.11:443=10,server-id=0a01 --backend 198.51.100.12:443,server-id=0a02";
    daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
    let line = "backend add h3 198.51.100.13:443 --server-id 0A03";
    daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
    let shown = daemon.client.service("h3").await.unwrap();
    assert_eq!(shown.service.quic, Some(Quic { server_id_length: 2, config_id: 3 }));
    let ids: Vec<_> = shown
        .backends
        .iter()
        .map(|backend| (backend.weight, backend.server_id.map(|id| id.to_string()).unwrap_or_default()))
        .collect();
    assert_eq!(ids, [(10, "0a01".into()), (100, "0a02".into()), (100, "0a03".into())]);
    let text = daemon.text(&["service", "show", "h3"]).await;
    assert!(text.contains("QUIC            server ids of 2 bytes, configuration 3\n"), "{text}");
}

#[tokio::test]
async fn an_agent_is_added_and_shown_with_what_it_says() {
    let daemon = daemon();
    let line = "service add shop 192.0.2.10:8000 --agent port=8081,interval=5s,send=77 --feedback hold=30s";
    daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
    let shown = daemon.client.service("shop").await.unwrap().service;
    let agent = Agent { interval: Duration::from_secs(5), send: "77".into(), ..Agent::at(8081) };
    assert_eq!(shown.agent, Some(agent));
    assert_eq!(shown.feedback, Some(Feedback { hold: Duration::from_secs(30), ..Feedback::default() }));
    let text = daemon.text(&["service", "show", "shop"]).await;
    assert!(text.contains("agent           port 8081, sends \"77\", every 5s, timeout 1s\n"), "{text}");
    assert!(text.contains("feedback        weights change by 10 % or more, once in 30s\n"), "{text}");
    let line = "service add fast 192.0.2.10:8001 --feedback latency=true,floor=40";
    daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
    let text = daemon.text(&["service", "show", "fast"]).await;
    let words = "feedback        by the latency of checks, down to 40 %; weights change by 10 % or more, once in 10s\n";
    assert!(text.contains(words), "{text}");
    let text = daemon.text(&["service", "show", "web"]).await;
    assert!(text.contains("agent           none\nfeedback        none: weights as configured\n"), "{text}");
    let half = BackendView { weight_ratio: 0.5, ..report::testing::backend("web", "198.51.100.19:8080") };
    let list = backend::table(&TABLE, &[half]);
    assert!(list.contains("50 % of 100"), "{list}");
}

#[tokio::test]
async fn backups_and_a_panic_threshold_are_added_and_shown() {
    let daemon = daemon();
    let line = "service add shop 192.0.2.10:8000 --panic-threshold 40 --slow-start 90s --circuit-breaker open=10s,failure_percent=30 --backend 198.51.100.11:80=10 \
                --backend 198.51.100.12:80=20,backup";
    daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
    daemon.text(&["backend", "add", "shop", "198.51.100.13:80", "--backup"]).await;
    let shown = daemon.client.service("shop").await.unwrap();
    assert_eq!(shown.service.panic_threshold, 40);
    let breaker = shown.service.circuit_breaker.unwrap();
    assert_eq!((breaker.open, breaker.failure_percent), (Duration::from_secs(10), Some(30)));
    assert_eq!(shown.service.slow_start, Some(Duration::from_secs(90)));
    let kinds: Vec<_> = shown.backends.iter().map(|backend| (backend.weight, backend.backup)).collect();
    assert_eq!(kinds, [(10, false), (20, true), (100, true)]);
    let text = daemon.text(&["service", "show", "shop"]).await;
    assert!(text.contains("panic threshold 40 %\n"), "{text}");
    assert!(text.contains("slow start      1m 30s\n"), "{text}");
    assert!(
        text.contains("breaker         open for 10s to 5m, then 10 % for 10s; on failed checks, and on 30 %"),
        "{text}"
    );
    for (wrong, words) in [
        ("open", "not KEY=VALUE"),
        ("opne=1s", "unknown key \"opne\"; did you mean \"open\"?"),
        ("open=x", "not a duration"),
    ] {
        let line = ["service", "add", "s", "192.0.2.10:8001", "--circuit-breaker", wrong];
        let error = usage_error(&line);
        assert!(error.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_service_in_panic_says_so_in_the_status() {
    let vip = "vip = \"192.0.2.10:80\"";
    let daemon = daemon_of(&WEB.replace(vip, &format!("{vip}\npanic_threshold = 60")));
    daemon.owner.all_up().await;
    daemon.owner.report("web", "198.51.100.11:8080", Health::Down, "connection refused").await;
    daemon.owner.until("web", |backends| backends[0].state != BackendState::Up).await;
    for line in [&["status"][..], &["service", "show", "web"]] {
        let text = daemon.text(line).await;
        assert!(text.contains("PANIC") && text.contains("1 of 2 backends are up"), "{text}");
    }
}

#[tokio::test]
async fn each_kind_of_health_check_is_added_and_shown_in_short() {
    let daemon = daemon_of(&format!("allow_exec_checks = true\n{WEB}"));
    for (index, (arguments, shown)) in [
        ("icmp", "icmp"),
        (
            "https --check-host a.example --check-method OPTIONS --check-header X-Probe:1 --check-header X-B:2 \
             --check-status 200-299,401 --check-body-regex ^ok --check-ca-file /ca.pem --check-min-tls 1.3",
            "https OPTIONS / of a.example, X-Probe: (secret), X-B: (secret), status 200-299, 401, body matching /^ok/, TLS 1.3, \
             signed by \
             /ca.pem",
        ),
        (
            "https --check-server-name b.example --check-no-verify --check-body fine",
            "https GET /, status 200-399, body with \"fine\", TLS 1.2 or later with b.example, certificate not verified",
        ),
        ("udp --check-send ping --check-expect-hex 00ff", "udp \"ping\", expects 0x00ff"),
        ("udp --check-send-hex 00 --check-expect pong", "udp 0x00, expects \"pong\""),
        ("grpc --check-tls --check-service shop.Cart", "grpc shop.Cart, TLS 1.2 or later"),
        ("exec --check-command /bin/check --check-command -v", "exec /bin/check -v as nobody"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("s{index}");
        let line = format!("service add {name} 192.0.2.10:{} --check {arguments}", 1000 + index);
        daemon.text(&line.split_whitespace().collect::<Vec<_>>()).await;
        let text = daemon.text(&["service", "show", &name]).await;
        let line = format!("health check    {shown}, every 1s, timeout 500ms, rise 2, fall 3\n");
        assert!(text.contains(&line), "{line:?} in {text}");
    }
    let text = daemon.text(&["service", "list"]).await;
    for kind in ["icmp", "https", "udp", "grpc", "exec"] {
        assert!(text.contains(kind), "{kind} in {text}");
    }
}

#[tokio::test]
async fn a_wrong_health_check_is_a_usage_error_in_the_configs_words() {
    let daemon = daemon();
    for (arguments, words) in [
        (&["--check", "htpp"][..], "http"),
        (&["--check", "tcp", "--check-path", "/"], "path"),
        (&["--check", "tcp", "--check-interval", "5x"], "interval"),
    ] {
        let line = [&["service", "add", "new", "192.0.2.20:80"], arguments].concat();
        let error = daemon.run(&line).await.unwrap_err().downcast::<clap::Error>().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(daemon.client.services().await.unwrap().len(), 2);
}

#[tokio::test]
async fn backends_are_added_weighed_drained_enabled_and_removed() {
    let daemon = daemon();
    let address = "198.51.100.13:8080";
    daemon.text(&["backend", "add", "web", address, "--weight", "7"]).await;
    let view = async || daemon.client.backend("web", address.parse().unwrap()).await.unwrap();
    assert_eq!(view().await.weight, 7);
    daemon.text(&["backend", "set-weight", "web", address, "0"]).await;
    assert_eq!(view().await.weight, 0);
    daemon.text(&["backend", "drain", "web", address]).await;
    assert_eq!((view().await.admin, view().await.weight), (AdminState::Draining, 0));
    daemon.text(&["backend", "enable", "web", address]).await;
    assert_eq!(view().await.admin, AdminState::Enabled);
    let said = daemon.text(&["backend", "remove", "web", address]).await;
    assert!(said.contains("removed") && said.contains(address), "{said}");
    assert_eq!(
        daemon.error(&["backend", "list", "wbe"]).await,
        "service \"wbe\" does not exist; the services are: web, web6",
        "an unknown service lists the known ones"
    );
}

#[test]
fn backends_are_listed_with_their_state_and_why() {
    let mut backends = report::testing::status().backends;
    backends.truncate(2);
    backends[1].state = BackendState::Down;
    backends[1].reason = "connection refused".into();
    backends[1].check_latency_seconds = None;
    let text = backend::table(&TABLE, &backends);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "SERVICE  ADDRESS             STATE    FOR  WEIGHT   SHARE  FLOWS   NEW      PPS     BYTES   CHECK  ORIGIN  REASON",
            "web      198.51.100.11:8080  up     5m12s     100  50.0 %     42  12/s  1.2 k/s  3.4 MB/s  1.2 ms  file    HTTP 200 in 1.2 ms",
            "web      198.51.100.12:8080  down   5m12s     100  50.0 %     42  12/s  1.2 k/s  3.4 MB/s       -  file    connection refused",
        ]
    );
}

#[tokio::test]
async fn a_drained_service_says_so_in_the_status() {
    let daemon = daemon();
    daemon.text(&["service", "drain", "web"]).await;
    let text = daemon.text(&["status"]).await;
    assert!(text.contains("\nweb: DRAINED: no new flows until xdp-lb service enable web\n"), "{text}");
}

#[test]
fn the_status_fits_one_screen() {
    let text = status::one_screen(&TABLE, &report::testing::status());
    let expected = "\
xdp-lb 0.1.0, up 5m12s, pid 4242, took over from the previous daemon
config /etc/xdp-lb/config.toml, pins /sys/fs/bpf/xdp-lb

INTERFACE  PROGRAM  NOTE
eth0       xdp
eth1       tc       the driver of eth1 has no XDP
eth2       none     not attached: the interface is gone

VIP         STATE    INTERFACE  NOTE
192.0.2.10  present  eth0

fleet edge: this is lb1 at 192.0.2.1:7946
NODE  ADDRESS         STATE           HEARD  FLOWS SENT  RECEIVED  REFUSED  NOTE
lb2   192.0.2.2:7946  synced       0.4s ago       1,200     1,100        3
lb3   192.0.2.3:7946  unreachable         -       1,200     1,100        3

SERVICE  VIP                PROTOCOL  MODE      SERVING  NEW  PPS  BYTES  CHECK  ORIGIN
web      192.0.2.10:80      tcp       full-nat      2/2  0/s  0/s  0 B/s  http   file
web6     [2001:db8::10]:80  tcp       full-nat      2/2  0/s  0/s  0 B/s  http   file

";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("\nflows  524,288  1,048,576  50.0 %\n"), "{text}");
    let last = "7 packets dropped, 1,234,567 passed to the host; reasons: xdp-lb counters\n";
    assert!(text.ends_with(last), "{text}");
}

#[tokio::test]
async fn trouble_is_on_top_of_the_status() {
    let daemon = daemon();
    daemon.owner.kernel.lock().unmounted = true;
    daemon.text(&["node", "undrain"]).await;
    let done = daemon.run(&["status"]).await.unwrap();
    let mut lines = done.text.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("TROUBLE: ") && first.contains("not on a BPF file system"), "{}", done.text);
    assert!(lines.next().unwrap().starts_with("xdp-lb "), "{}", done.text);
    assert_eq!(format!("{:?}", done.code), format!("{:?}", std::process::ExitCode::from(3)));
}

#[test]
fn ten_thousand_backends_still_fit_on_the_screen() {
    let backends = (0..10_000u16).map(|number| {
        let state = if number < 50 { BackendState::Down } else { BackendState::Up };
        BackendView { state, ..report::testing::backend("web", &format!("198.51.100.7:{}", number + 1)) }
    });
    let services = (0..1_000u16).map(|number| {
        let service =
            report::testing::service(&format!("web{number}"), &format!("192.0.2.10:{}", number + 1));
        ServiceView {
            options: model::Service { mode: Mode::Nat, ..service.options },
            backends_serving: u32::from(number >= 3),
            moving: MovingView { recorded_slots: 7, ..MovingView::default() },
            ..service
        }
    });
    let (backends, services) = (backends.collect(), services.collect());
    let text = status::one_screen(&TABLE, &StatusView { backends, services, ..report::testing::status() });
    assert!(text.lines().count() < 75, "{text}");
    assert!(text.contains("\nweb2 ") && !text.contains("\nweb3 "), "{text}");
    assert!(
        text.contains("\n997 services with serving backends; to list them: xdp-lb service list\n"),
        "{text}"
    );
    assert!(text.contains("\n990 more services rebalancing"), "{text}");
    assert!(
        text.contains("\n20 more not up, 9,950 backends up; to list them: xdp-lb backend list\n"),
        "{text}"
    );
}

#[test]
fn a_service_whose_flows_all_have_records_is_not_said_to_rebalance() {
    let moving = MovingView { moving_slots: 12, recorded_slots: 7, all_recorded_in_seconds: Some(60) };
    let text = |mode| {
        let service = report::testing::service("web", "192.0.2.10:80");
        let options = model::Service { mode, ..service.options };
        let services = vec![ServiceView { options, moving, ..service }];
        status::one_screen(&TABLE, &StatusView { services, ..report::testing::status() })
    };
    assert!(text(Mode::Nat).contains("web: rebalancing: 12 of 251 slots; "), "{}", text(Mode::Nat));
    let full_nat = text(Mode::FullNat);
    assert!(!full_nat.contains("rebalancing") && !full_nat.contains("previous backend"), "{full_nat}");
}

#[tokio::test]
async fn a_service_is_shown_with_its_backends() {
    let vip = "vip = \"192.0.2.10:80\"";
    let check = "health_check = { type = \"http\", path = \"/healthz\" }";
    let daemon = daemon_of(&WEB.replace(vip, &format!("{vip}\n{check}")));
    daemon.owner.all_up().await;
    let text = daemon.text(&["service", "show", "web"]).await;
    for line in [
        "VIP             192.0.2.10:80 tcp\n",
        "source address  this host's, towards each backend\n",
        "affinity        none\n",
        "QUIC            connection IDs ignored\n",
        "allowed clients all\n",
        "new flows       unlimited\n",
        "health check    http GET /healthz, status 200-399, every 1s, timeout 500ms, rise 2, fall 3\n",
        "in              3 packets, 0 bytes\n",
        "\nweb      198.51.100.12:8080  up ",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
}

#[tokio::test]
async fn a_set_without_an_option_lists_them_with_their_values() {
    let daemon = daemon();
    for (line, option) in [
        (&["service", "set", "web"][..], "max_flows        Maximum number of concurrent flows."),
        (&["backend", "set", "web", "198.51.100.11:8080"], "0 to 65,535 [default: 100]"),
    ] {
        let error = daemon.error(line).await;
        assert!(error.contains("no option given: write KEY=VALUE") && error.contains(option), "{error}");
    }
    let set = daemon.text(&["service", "set", "web", "max_flows=7"]).await;
    assert_eq!(set.trim_end(), "service web max_flows 0 -> 7");
    let error = daemon.error(&["service", "set", "web"]).await;
    assert!(error.contains("[default: 0: unlimited] [now: 7]"), "{error}");
    assert!(daemon.error(&["service", "set", "wbe"]).await.contains("the services are: web"));
}

#[tokio::test]
async fn counters_are_explained_and_wrap_on_a_narrow_terminal() {
    let daemon = daemon();
    let text = daemon.text(&["counters"]).await;
    let line = "drop     no_backend                         9  the service has no backend that is up: `xdp-lb \
                backend list` shows why";
    assert!(text.lines().any(|found| found == line), "{text}");
    let narrow = Screen { width: Some(80), ..TABLE };
    let Command::Counters(counters) = parse(&["counters"]).command else { panic!("another command") };
    let wrapped = counters.execute(&daemon.client, &narrow).await.unwrap().text;
    assert!(wrapped.lines().all(|line| line.chars().count() <= 80), "{wrapped}");
    assert!(wrapped.lines().count() > text.lines().count());
    assert!(wrapped.contains("drop     no_backend "), "names stay whole: {wrapped}");
}

#[tokio::test]
async fn counters_that_are_zero_are_listed_only_with_all_and_in_json() {
    let daemon = daemon();
    let all = daemon.json(&["counters"]).await["counters"].as_array().unwrap().clone();
    let (zero, counted): (Vec<_>, Vec<_>) = all.iter().partition(|counter| counter["packets"] == 0);
    assert_eq!(zero.len(), 1);
    let lists =
        |text: &str, counter: &Value| text.contains(&format!(" {} ", counter["name"].as_str().unwrap()));
    let text = daemon.text(&["counters"]).await;
    assert!(counted.iter().all(|counter| lists(&text, counter)), "{text}");
    assert!(!zero.iter().any(|counter| lists(&text, counter)), "{text}");
    assert!(text.ends_with("1 counter at zero; to list them: xdp-lb counters --all\n"), "{text}");
    let text = daemon.text(&["counters", "--all"]).await;
    assert!(all.iter().all(|counter| lists(&text, counter)) && !text.contains("--all"), "{text}");
}

#[test]
fn reasons_that_do_not_fit_beside_their_rows_are_below_them() {
    let reason = "connection refused";
    let mut backends = report::testing::status().backends;
    backends[1].reason = reason.into();
    let list = |width| backend::table(&Screen { width, colour: width == Some(80), ..TABLE }, &backends);
    let wide = list(None);
    let row = wide.lines().find(|line| line.ends_with(reason)).expect("a backend is down");
    assert!(list(Some(200)).lines().any(|line| line == row));
    let narrow = list(Some(80));
    let (before, after) = narrow.split_once(&format!("\n  {reason}\n")).unwrap_or_else(|| panic!("{narrow}"));
    assert!(before.lines().last().unwrap().starts_with(row.split("  ").next().unwrap()), "{narrow}");
    assert!(!before.contains("REASON") && !after.contains("REASON"));
}

#[test]
fn on_a_narrow_terminal_columns_leave_by_importance_and_numbers_stay_aligned() {
    let mut backends = report::testing::status().backends;
    backends.truncate(2);
    backends[1].traffic.packets_per_second = 7.0;
    let list = |width, format| backend::table(&Screen { width: Some(width), format, ..TABLE }, &backends);
    let heads = |width| -> Vec<String> {
        let text = list(width, Format::Table);
        assert!(text.lines().all(|line| line.chars().count() <= width.into()), "{text}");
        text.lines().next().unwrap().split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(heads(80).join(" "), "SERVICE ADDRESS STATE FOR SHARE FLOWS NEW PPS");
    assert_eq!(heads(60).join(" "), "SERVICE ADDRESS STATE FLOWS NEW PPS");
    assert_eq!(heads(40).join(" "), "SERVICE ADDRESS STATE");
    let text = list(80, Format::Table);
    let ends: BTreeSet<_> = text
        .lines()
        .filter(|line| line.ends_with("PPS") || line.ends_with("/s"))
        .map(|line| line.chars().count())
        .collect();
    assert_eq!(ends.len(), 1, "numbers end where their heading does: {text}");
    assert!(list(80, Format::Wide).contains("ORIGIN"));
}

#[test]
fn flows_are_counted_where_each_has_a_record_and_else_it_says_so() {
    let of = |flows, flows_complete, max_flows| {
        let backend = report::testing::backend("web", "198.51.100.19:8080");
        let options = model::Backend { max_flows, ..backend.options };
        let list = [BackendView { options, flows, flows_complete, ..backend }];
        let text = backend::table(&TABLE, &list);
        let row: Vec<&str> =
            text.lines().nth(1).unwrap().split("  ").filter(|cell| !cell.is_empty()).collect();
        row[6].trim().to_owned()
    };
    assert_eq!(of(0, true, 0), "0");
    assert_eq!(of(1200, true, 0), "1,200");
    assert_eq!(of(0, false, 0), "-");
    assert_eq!(of(12, false, 0), "12+");
    assert_eq!(of(12, true, 50), "12 of 50");
}

#[tokio::test]
async fn lists_are_ordered_and_filtered() {
    let daemon = daemon();
    daemon.owner.all_up().await;
    daemon.text(&["backend", "set-weight", "web", "198.51.100.12:8080", "300"]).await;
    daemon.text(&["backend", "drain", "web", "198.51.100.11:8080"]).await;
    let list = async |line: &[&str]| -> Vec<String> {
        let list = daemon.json(&[&["backend", "list"], line].concat()).await;
        let address = |backend: &Value| backend["address"].as_str().unwrap().to_owned();
        list.as_array().unwrap().iter().map(address).collect()
    };
    assert_eq!(list(&["--sort", "weight"]).await[0], "198.51.100.12:8080");
    assert_eq!(list(&["--sort", "weight", "--reverse"]).await.last().unwrap(), "198.51.100.12:8080");
    let addresses = list(&["--sort", "address", "web"]).await;
    assert!(addresses.is_sorted() && addresses.len() > 1, "{addresses:?}");
    assert_eq!(list(&["--state", "draining,down"]).await, ["198.51.100.11:8080"]);
    assert_eq!(daemon.text(&["backend", "list", "--state", "panic"]).await, "no backend is in this state\n");
    let services = daemon.json(&["service", "list", "--sort", "service", "--reverse"]).await;
    assert_eq!([&services[0]["name"], &services[1]["name"]], ["web6", "web"]);
    let nonzero = daemon.json(&["counters", "--nonzero"]).await["counters"].as_array().unwrap().clone();
    assert!(!nonzero.is_empty() && nonzero.iter().all(|it| it["packets"] != 0), "{nonzero:?}");
    assert!(daemon.text(&["counters", "--rate"]).await.lines().next().unwrap().contains("  RATE  "));
}

#[tokio::test]
async fn yaml_is_the_same_document() {
    let daemon = daemon();
    let text = daemon.text(&["service", "list", "-o", "yaml"]).await;
    let yaml: Value = serde_yaml_ng::from_str(&text).unwrap();
    assert_eq!(yaml[0]["name"], "web", "{text}");
    assert!(text.contains("\n  vip: 192.0.2.10:80\n"), "{text}");
}

#[tokio::test]
async fn json_is_the_apis_own_document() {
    let daemon = daemon();
    for (line, path) in [
        (&["status"][..], "/v1/status"),
        (&["backend", "list"], "/v1/backends"),
        (&["service", "list"], "/v1/services"),
        (&["service", "show", "web"], "/v1/services/web"),
        (&["counters"], "/v1/counters"),
    ] {
        let mut tries = 0;
        while daemon.json(line).await != daemon.get(path).await {
            // A second may have passed in between.
            tries += 1;
            assert!(tries < 20, "{path}: {}\n{}", daemon.json(line).await, daemon.get(path).await);
        }
    }
    assert_eq!(daemon.json(&["reload"]).await["changes"], serde_json::json!([]));
    let outcome = daemon.json(&["service", "remove", "web6"]).await;
    assert_eq!((&outcome["changed"], outcome["message"].is_string()), (&true.into(), true), "{outcome}");
}

#[test]
fn colour_is_for_states_on_a_terminal_only() {
    let backends = report::testing::status().backends;
    let text = backend::table(&Screen { colour: true, ..TABLE }, &backends);
    assert!(text.contains("\x1b[38;5;10m"), "{text:?}");
    assert!(!backend::table(&TABLE, &backends).contains('\x1b'));
}

#[tokio::test]
async fn empty_lists_say_what_to_do() {
    let daemon = daemon_of(NO_SERVICE);
    assert!(daemon.text(&["service", "list"]).await.starts_with("no services; to add one:"));
    assert!(daemon.text(&["backend", "list"]).await.starts_with("no backends; to add one:"));
    assert!(daemon.text(&["status"]).await.contains("no services"));
    assert_eq!(daemon.json(&["backend", "list"]).await, serde_json::json!([]));
}

#[tokio::test]
async fn further_pages_of_flows_are_fetched_up_to_the_limit() {
    let daemon = daemon();
    let most = FlowQuery::MOST as usize;
    for number in 0..most + 2 {
        let client = format!("203.0.113.{}:{}", number / 1000, 1000 + number % 1000);
        daemon.owner.kernel.record_flow(&client, "198.51.100.11:8080", 0);
    }
    let of = |view: &Value| (view["flows"].as_array().unwrap().len(), view["matching"].as_u64().unwrap());
    let all = daemon.json(&["flows", "--limit", "20000"]).await;
    assert_eq!((of(&all), &all["next"]), ((most + 2, most as u64 + 2), &Value::Null));
    let some = daemon.json(&["flows", "--limit", &(most + 1).to_string()]).await;
    assert_eq!((of(&some), some["next"].is_string()), ((most + 1, most as u64 + 2), true));
    let text = daemon.text(&["flows", "--limit", "2"]).await;
    assert!(text.ends_with("10,000 more; to list them: --limit\n"), "{text}");
}

#[tokio::test]
async fn a_reload_says_what_changed_and_what_needs_a_restart() {
    let daemon = daemon();
    assert_eq!(daemon.text(&["reload"]).await, "nothing changed\n");
    write_config(&daemon.owner.config_file(), &changed());
    assert_eq!(
        daemon.text(&["reload"]).await,
        "service web: backend 198.51.100.12:8080 weight 100 -> 50\n\
         warning: metrics.listen is unchanged: it needs a restart of the daemon\n"
    );
}

/// The file, with another weight and another address of the metrics.
fn changed() -> String {
    let address = "address = \"198.51.100.12:8080\"";
    let changed = WEB.replace(address, &format!("{address}\nweight = 50"));
    format!("metrics.listen = \"127.0.0.1:9700\"\n{changed}")
}

#[tokio::test]
async fn a_plan_says_what_would_change_and_how_many_slots_would_move() {
    let daemon = daemon();
    daemon.owner.all_up().await;
    write_config(&daemon.owner.config_file(), &changed());
    let diff = daemon.run(&["diff"]).await.unwrap();
    assert_eq!(
        diff.text,
        "service web: backend 198.51.100.12:8080 weight 100 -> 50\n\
         metrics.listen 127.0.0.1:9799 -> 127.0.0.1:9700 (needs a restart of the daemon)\n"
    );
    assert!(failed(&diff), "1, as of diff(1)");
    let slots = &daemon.json(&["diff"]).await["services"][0]["slots"];
    let (moving, of) = (slots["moving"].as_u64().unwrap(), slots["of"].as_u64().unwrap());
    assert!(0 < moving && moving < of, "{slots}");
    assert_eq!(
        daemon.text(&["reload", "--dry-run"]).await,
        format!(
            "service web: backend 198.51.100.12:8080 weight 100 -> 50\n\
             service web: {} of {} slots would move\n\
             warning: metrics.listen is unchanged: it needs a restart of the daemon\n",
            grouped(moving),
            grouped(of)
        )
    );
}

#[tokio::test]
async fn a_watch_prints_a_line_per_event() {
    let daemon = daemon();
    let events = daemon.owner.events.clone();
    let adding = tokio::spawn(async move {
        for up in [true, false].into_iter().cycle() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let event = Event::Interface { name: "eth0".into(), index: Some(1), up };
            events.send(event).await.unwrap();
        }
    });
    let text = daemon.text(&["watch", "--count", "2"]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let told = |line: &&str| line.ends_with("Z interface eth0: down");
    assert_eq!(lines.iter().filter(|line| told(line)).count(), 1, "{text}");
    let line = daemon.text(&["watch", "--count", "1", "--output", "json"]).await;
    let event: Value = serde_json::from_str(&line).unwrap();
    assert!(event["event"] == "interface" && event["up"].is_boolean(), "{event}");
    assert!(event["id"].is_string() && event["time"].is_string(), "{event}");
    adding.abort();
}

#[tokio::test]
async fn a_diff_of_nothing_ends_with_0() {
    let daemon = daemon();
    let diff = daemon.run(&["diff"]).await.unwrap();
    assert_eq!(diff.text, "no differences\n");
    assert!(!failed(&diff));
    assert_eq!(daemon.text(&["reload", "--dry-run"]).await, "nothing would change\n");
}

const DRAIN: &[&str] = &["backend", "drain", "web", "198.51.100.11:8080", "--wait"];

#[tokio::test]
async fn a_drain_returns_when_the_last_flow_has_ended() {
    let daemon = busy(WEB).await;
    let began = Instant::now();
    daemon.flows_end_in(Duration::from_millis(700));
    let done = daemon.run(DRAIN).await.unwrap();
    assert!(!failed(&done) && began.elapsed() > Duration::from_millis(700), "{}", done.text);
    assert!(done.text.starts_with("drained 198.51.100.11:8080 of web: the last flow has ended, after "));
}

#[tokio::test]
async fn a_drain_that_takes_too_long_fails_and_reports_what_is_left() {
    let daemon = busy(WEB).await;
    let done = daemon.run(&[DRAIN, &["--timeout", "1s"]].concat()).await.unwrap();
    assert!(failed(&done));
    assert!(
        done.text.starts_with("not drained within 1s: 198.51.100.11:8080 of web still has 42 flows.\n"),
        "{}",
        done.text
    );
    let backend = daemon.client.backend("web", "198.51.100.11:8080".parse().unwrap()).await.unwrap();
    assert_eq!(backend.admin, AdminState::Draining, "it stays drained");
}

#[tokio::test]
async fn a_drain_waits_until_every_flow_is_known_or_all_is_quiet() {
    let vip = "vip = \"192.0.2.10:80\"";
    let config =
        format!("timeouts.tcp_idle = \"3s\"\n{}", WEB.replace(vip, &format!("{vip}\nmode = \"nat\"")));
    let daemon = daemon_of(&config);
    daemon.owner.all_up().await;
    let began = Instant::now();
    let done = daemon.run(&[DRAIN, &["--timeout", "1s"]].concat()).await.unwrap();
    assert!(failed(&done));
    let words = "still has 0 flows, and perhaps idle ones (known in ";
    assert!(done.text.contains(words) && done.text.contains("--quiet"), "{}", done.text);
    let done = daemon.run(&[DRAIN, &["--quiet", "1s"]].concat()).await.unwrap();
    assert!(!failed(&done));
    assert!(done.text.contains("no packet went to it for 1s, after 1s"), "{}", done.text);
    let done = daemon.run(DRAIN).await.unwrap();
    assert!(done.text.contains("the last flow has ended"), "{}", done.text);
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_service_is_drained_with_all_of_its_backends() {
    let daemon = busy(WEB).await;
    let json = daemon.json(&["service", "drain", "web6", "--wait", "--timeout", "1s"]).await;
    assert_eq!(
        (&json["service"], &json["drained"], &json["flows"]),
        (&"web6".into(), &false.into(), &42.into())
    );
    daemon.flows_end_in(Duration::from_millis(200));
    let done = daemon.run(&["service", "drain", "web", "--wait"]).await.unwrap();
    assert!(!failed(&done));
    assert!(done.text.starts_with("drained service web: the last flow has ended, after "), "{}", done.text);
    assert!(daemon.text(&["service", "show", "web"]).await.contains("admin           draining\n"));
    let said = daemon.text(&["service", "enable", "web"]).await;
    assert!(said.starts_with("service web") && said.contains("enabled"), "{said}");
    assert!(daemon.error(&["service", "drain", "wbe"]).await.contains("web, web6"));
}

#[test]
fn conflicting_flags_are_reported_with_the_usage_of_their_command() {
    let check =
        super::flags::wrong(&["service", "add"], "health_check.type: \"htp\" is not known").to_string();
    assert!(check.contains("htp") && check.contains("Usage: xdp-lb service add "), "{check}");
}

#[tokio::test]
async fn a_node_is_drained_once_no_flow_is_left_and_no_packet_comes() {
    let daemon = busy(&format!("vips.interface = \"lo\"\n{WEB}")).await;
    let said = daemon.text(&["node", "drain"]).await;
    assert!(said.starts_with("this node is draining"), "{said}");
    assert!(daemon.text(&["status"]).await.starts_with("DRAINED: the VIPs are withdrawn"));
    let done = daemon.run(&["node", "drain", "--wait", "--timeout", "1s"]).await.unwrap();
    assert!(failed(&done));
    assert!(done.text.contains("this node still has 126 flows"), "{}", done.text);
    assert!(done.text.contains("To put it back into service: xdp-lb node undrain"), "{}", done.text);
    let done = daemon.run(&["node", "drain", "--wait", "--quiet", "1s"]).await.unwrap();
    assert!(!failed(&done) && done.text.contains("no packet went to it for 1s"), "{}", done.text);
    let said = daemon.text(&["node", "undrain"]).await;
    assert!(said.contains("in service"), "{said}");
    let idle = daemon_of(NO_SERVICE);
    let text = idle.text(&["node", "drain", "--wait"]).await;
    assert_eq!(text, "drained this node: the last flow has ended, after 5s\n");
}

#[tokio::test]
async fn flows_are_listed_up_to_a_limit() {
    let daemon = daemon();
    daemon.owner.kernel.record_flow("203.0.113.5:40000", "198.51.100.11:8080", 75);
    daemon.owner.kernel.record_flow("203.0.113.5:40001", "198.51.100.12:8080", 75);
    daemon.owner.kernel.record_flow("[2001:db8:9::5]:40001", "[2001:db8:1::11]:8080", 75);
    let text = daemon.text(&["flows", "web", "--limit", "1"]).await;
    let row = text.lines().find(|line| line.contains("203.0.113.5:40000")).unwrap();
    for cell in
        ["web", "tcp", "192.0.2.10:80", "198.51.100.11:8080", "198.51.100.2:1024", "established", "1m15s"]
    {
        assert!(row.contains(cell), "{cell}: {row}");
    }
    assert!(text.ends_with("1 more; to list them: --limit\n"), "{text}");
    let text = daemon.text(&["flows", "--backend", "198.51.100.13:1"]).await;
    assert!(text.contains("no flows are tracked"), "{text}");
}

#[tokio::test]
async fn a_drain_that_is_not_in_the_tables_yet_has_not_ended() {
    let daemon = daemon();
    daemon.owner.all_up().await;
    daemon.owner.kernel.lock().fails = true;
    let done = daemon.run(&[DRAIN, &["--timeout", "1s"]].concat()).await.unwrap();
    assert!(failed(&done), "{}", done.text);
    daemon.owner.kernel.lock().fails = false;
    assert!(daemon.text(DRAIN).await.contains("the last flow has ended"));
}

#[tokio::test]
async fn a_drain_prints_json_too() {
    let daemon = busy(WEB).await;
    let line = [DRAIN, &["--timeout", "1s", "--output", "json"]].concat();
    let done = daemon.run(&line).await.unwrap();
    assert!(failed(&done));
    let document: Value = serde_json::from_str(&done.text).unwrap();
    assert_eq!((&document["drained"], &document["flows"]), (&false.into(), &42.into()));
}

#[tokio::test]
async fn a_drain_ends_when_someone_enables_or_removes_the_backend() {
    let address = "198.51.100.11:8080";
    for (other, fails, words) in
        [(&["enable"][..], true, "was enabled again"), (&["remove", "--now", "--yes"], false, "was removed")]
    {
        let daemon = busy(WEB).await;
        let later = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            daemon.text(&[&["backend"], other, &["web", address]].concat()).await
        };
        let (done, _) = tokio::join!(daemon.run(DRAIN), later);
        let done = done.unwrap();
        assert_eq!(failed(&done), fails, "{}", done.text);
        assert!(done.text.contains(words), "{}", done.text);
    }
}

#[tokio::test]
async fn a_drain_continues_while_the_daemon_restarts() {
    let Daemon { owner, client, socket, server, _folder } = busy(WEB).await;
    let restart = async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        tokio::time::sleep(Duration::from_millis(700)).await;
        let owner = owner.restart(WEB).await;
        owner.kernel.lock().live.clear();
        serve(&owner, &socket);
        owner
    };
    let Command::Backend(drain) = parse(DRAIN).command else { panic!() };
    let (done, _owner) = tokio::join!(drain.execute(&client, &TABLE), restart);
    let done = done.unwrap();
    assert!(!failed(&done), "{}", done.text);
    assert!(done.text.contains("the last flow has ended, after "), "{}", done.text);
}

#[tokio::test]
async fn unload_asks_the_daemon_with_the_given_pin_path() {
    assert_eq!(daemon().text(&["unload"]).await, UNLOADED);
    assert_eq!(daemon().text(&["unload", "--pin-path", "/sys/fs/bpf/xdp-lb"]).await, UNLOADED);
}

#[test]
fn a_valid_config_is_counted_and_an_invalid_one_names_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let check = |text: &str, format: &str| {
        std::fs::write(&file, text).unwrap();
        let line = ["check", file.to_str().unwrap(), "--output", format];
        let cli = parse(&line);
        let Command::Check(check) = cli.command else { panic!() };
        check.execute(&Screen { format: cli.global.output, ..TABLE })
    };
    let valid = r#"
        interfaces = ["eth0"]
        [[service]]
        name = "web"
        vip = "192.0.2.10:80"
        [[service.backend]]
        address = "198.51.100.11:8080"
        [[service.backend]]
        address = "198.51.100.12:8080"
    "#;
    let text = check(valid, "table").unwrap();
    assert_eq!(text, format!("{} is valid: 1 service, 2 backends\n", file.display()));
    let document: Value = serde_json::from_str(&check(valid, "json").unwrap()).unwrap();
    assert_eq!((&document["services"], &document["backends"]), (&1.into(), &2.into()));
    let error = check(&valid.replace("192.0.2.10:80", "192.0.2.10"), "table").unwrap_err();
    assert!(error.is::<config::Errors>());
    assert!(error.to_string().starts_with(&format!("{}:5: ", file.display())), "{error}");
}

#[test]
fn socket_and_output_can_be_given_before_or_after_the_command() {
    for line in
        [&["--socket", "/a", "--output", "json", "status"], &["status", "--socket", "/a", "--output", "json"]]
    {
        let cli = parse(line);
        assert_eq!(cli.global.socket.as_deref(), Some(Path::new("/a")));
        assert_eq!(cli.global.output, Format::Json);
    }
}

#[test]
fn the_systemd_unit_uses_existing_commands() {
    let unit = include_str!("../../../examples/xdp-lb.service");
    for key in ["ExecStart=", "ExecReload="] {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        parse(&line.split(' ').skip(1).collect::<Vec<_>>());
    }
}

#[test]
fn the_systemd_unit_keeps_the_pins_writable() {
    let unit = include_str!("../../../examples/xdp-lb.service");
    let has = |line: &str| unit.lines().any(|found| found == line);
    assert!(has("ReadWritePaths=/sys/fs/bpf"));
    // It makes that read-only, too, and the daemon would not start.
    assert!(!has("ProtectKernelTunables=yes"));
}

#[test]
fn commands_and_operations_of_the_openapi_document_correspond() {
    const NONE: &[&str] = &[];
    let operations: &[(&str, &[&str])] = &[
        ("run", NONE),
        ("import", NONE),
        ("check", NONE),
        ("decap", NONE),
        ("serve-checks", NONE),
        ("doctor", &["status"]),
        ("service list", &["listServices"]),
        ("service show", &["showService"]),
        ("service add", &["addService"]),
        ("service remove", &["removeService"]),
        ("backend list", &["listBackends", "listServiceBackends"]),
        ("backend add", &["addBackend"]),
        ("backend remove", &["removeBackend"]),
        ("backend drain", &["changeBackend", "showBackend"]),
        ("backend enable", &["changeBackend"]),
        ("backend set-weight", &["changeBackend"]),
        ("backend set", &["changeBackend"]),
        ("service set", &["changeService"]),
        ("config show", &["config"]),
        ("config save", &["config", "planReload", "reload"]),
        ("status", &["status"]),
        ("top", &["status", "counters", "events", "watch", "whoami", "changeBackend", "changeService"]),
        // Whatever the page asks for.
        ("ui", &["whoami", "history", "events", "listServices", "showService", "changeNode"]),
        ("counters", &["counters"]),
        ("flows", &["flows"]),
        ("explain", &["explain"]),
        ("trace", &["trace"]),
        ("guard-trace", NONE),
        ("diff", &["config", "planReload"]),
        ("reload", &["planReload", "reload"]),
        ("watch", &["watch"]),
        ("node drain", &["changeNode"]),
        ("node undrain", &["changeNode"]),
        ("service drain", &["changeService", "showService"]),
        ("service enable", &["changeService"]),
        ("fleet status", &["status"]),
        ("upgrade", &["upgrade", "status"]),
        ("unload", &["status", "unload"]),
    ];
    let mut commands = BTreeSet::new();
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        let inner: Vec<_> =
            command.get_subcommands().map(|inner| format!("{name} {}", inner.get_name())).collect();
        if inner.is_empty() {
            commands.insert(name.to_owned());
        }
        commands.extend(inner);
    }
    let listed: BTreeSet<String> = operations.iter().map(|(command, _)| (*command).to_owned()).collect();
    assert_eq!(commands, listed, "a command that is new belongs into the list above");
    let used: BTreeSet<&str> = operations.iter().flat_map(|(_, used)| used.iter().copied()).collect();
    let paths = crate::api::server::document()["paths"].as_object().unwrap();
    let documented = paths.values().flat_map(|item| item.as_object().unwrap().values());
    let documented: BTreeSet<&str> = documented
        .map(|operation| operation["operationId"].as_str().unwrap())
        .filter(|id| *id != "openapi")
        .collect();
    assert_eq!(used, documented);
}

#[tokio::test]
async fn an_upgrade_succeeds_even_if_the_old_daemon_answers_that_it_is_stopping() {
    let daemon = daemon();
    let upgraded = async {
        let Daemon { mut owner, client, socket, server, _folder } = daemon;
        let upgrade = Upgrade { timeout: Duration::from_secs(30) };
        let took_over = async {
            owner.asked.recv().await.unwrap();
            owner.task.abort();
            while client.status().await.unwrap_err().to_string() != "the daemon is stopping" {}
            // Long enough for the command to hear that, too.
            tokio::time::sleep(Duration::from_millis(500)).await;
            server.abort();
            let _ = server.await;
            let owner = owner.restart(WEB).await;
            let server = serve(&owner, &socket);
            owner.upgrades.note(UpgradeState::Done, "the new one has taken over".into());
            (owner, server)
        };
        let (text, _successor) = tokio::join!(upgrade.execute(&client, &TABLE), took_over);
        text.unwrap()
    };
    let text = upgraded.await;
    assert!(text.starts_with("the new one has taken over: process "), "{text}");
}
