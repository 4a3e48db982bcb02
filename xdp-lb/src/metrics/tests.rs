//! Scrapes over real sockets, read by a strict parser of the text formats.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::exposition::Exposition;
use super::families::Snapshot;
use super::serve;
use crate::control::handle::Handle;
use crate::control::testing::{Daemon, TWO_SERVICES};
use crate::health::{AgentAdmin, AgentOperation, Health};
use crate::model::state::{BackendState, TroubleKind};
use crate::report::documents::{AgentView, StatusView, TroubleView};
use crate::report::testing::{backend, counters, losses, service, status};

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5";

async fn served(handle: Handle) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, handle, std::future::pending()));
    address
}

/// What a scrape of this status gets.
fn exposed(status: StatusView) -> String {
    let snapshot = Snapshot { status, counters: counters(), losses: losses(), start_time: 1_800_000_000 };
    Exposition::Prometheus.encode(snapshot).map(Result::unwrap).collect()
}

async fn get(address: SocketAddr, path: &str, accept: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let head = head.to_ascii_lowercase();
    let is_chunked = head.contains("transfer-encoding: chunked");
    let body = if is_chunked { joined(body) } else { body.to_owned() };
    (status, head, body)
}

/// What came in chunks (RFC 9112 section 7.1), to the last one.
fn joined(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, rest) = chunks.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body += &rest[..length];
        chunks = rest[length..].strip_prefix("\r\n").unwrap();
    }
}

/// Families by name: type and samples, each sample its name with labels and its value.
type Scrape = BTreeMap<String, (String, BTreeMap<String, f64>)>;

/// Reads an exposition and panics at whatever `promtool check metrics` or the OpenMetrics
/// specification (section "Text Format") would object to.
fn parse(text: &str, openmetrics: bool) -> Scrape {
    let mut families = Scrape::new();
    let mut current = String::new();
    let mut seen = BTreeSet::new();
    assert!(text.ends_with('\n'), "the last line ends");
    let text = if openmetrics { text.strip_suffix("# EOF\n").expect("EOF at the end") } else { text };
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && !help.contains('\\'), "{line}");
            let kind = lines.next().and_then(|line| line.strip_prefix("# TYPE ")).expect("TYPE follows HELP");
            let (typed, kind) = kind.split_once(' ').unwrap();
            assert_eq!(typed, name);
            assert!(name.starts_with("xdp_lb_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), kind == "counter" && !openmetrics, "{name} is a {kind}");
            let family = (kind.to_owned(), BTreeMap::new());
            assert!(families.insert(name.into(), family).is_none(), "{name} stands once");
            current = name.into();
            continue;
        }
        assert!(!line.starts_with('#'), "{line}");
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        let (name, labels) = series
            .split_once('{')
            .map_or((series, ""), |(name, labels)| (name, labels.strip_suffix('}').expect("labels end")));
        let mut keys = BTreeSet::new();
        for label in labels.split_terminator("\",") {
            let (key, _) = label.split_once("=\"").unwrap_or_else(|| panic!("a label in {line}"));
            assert!(keys.insert(key.to_owned()), "{key} twice in {line}");
        }
        let (kind, samples) = families.get_mut(&current).expect("HELP before samples");
        let suffixes: &[&str] = match kind.as_str() {
            "counter" if openmetrics => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let is_own = |suffix: &&str| name == format!("{current}{suffix}");
        assert!(suffixes.iter().any(is_own), "{name}: a sample of another family");
        assert!(value >= 0.0, "{line}");
        assert!(seen.insert(series.to_owned()), "{series} stands once");
        samples.insert(series.into(), value);
    }
    families
}

#[tokio::test]
async fn both_formats_are_strictly_right_and_say_the_same() {
    let daemon = Daemon::start(TWO_SERVICES);
    let address = served(daemon.handle.clone()).await;
    let (status, head, plain) = get(address, "/metrics", "*/*").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let (status, head, openmetrics) = get(address, "/metrics", OPENMETRICS).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    let samples =
        |scrape: Scrape| -> Vec<_> { scrape.into_values().flat_map(|(_, samples)| samples).collect() };
    let of_daemon =
        |scrape: Scrape| scrape.into_iter().filter(|(name, _)| name.starts_with("xdp_lb_")).collect();
    let (plain, openmetrics) =
        (samples(of_daemon(parse(&plain, false))), samples(of_daemon(parse(&openmetrics, true))));
    assert_eq!(plain, openmetrics);
    assert!(plain.len() > 60);
}

/// A scrape of two services with a backend each, one up and one down.
fn scrape_of_two() -> Scrape {
    let mut down = backend("web6", "[2001:db8:1::11]:8080");
    down.state = BackendState::Down;
    down.check_latency_seconds = None;
    (down.weight_ratio, down.ejections) = (0.25, 3);
    down.agent = Some(AgentView {
        admin: AgentAdmin::Ready,
        operation: AgentOperation::Down,
        percent: 25,
        note: None,
        trouble: Some("connection refused".into()),
        since_seconds: Some(1),
    });
    let mut limited = service("web", "192.0.2.10:80");
    limited.options.max_flows = 5000;
    let mut up = backend("web", "198.51.100.11:8080");
    up.options.max_flows = 100;
    let troubles =
        vec![TroubleView { kind: TroubleKind::Tables, message: "no memory".into(), since_seconds: 7 }];
    let services = vec![limited, service("web6", "[2001:db8::10]:80")];
    let text = exposed(StatusView { services, backends: vec![up, down], troubles, ..status() });
    parse(&text, false)
}

fn value(scrape: &Scrape, series: &str) -> Option<f64> {
    let (_, samples) = &scrape[series.split('{').next().unwrap()];
    samples.get(series).copied()
}

#[test]
fn values_of_services_and_backends_come_from_the_documents() {
    let scrape = scrape_of_two();
    let web = r#"service="web",vip="192.0.2.10:80",protocol="tcp""#;
    let up = r#"service="web",backend="198.51.100.11:8080""#;
    let down = r#"service="web6",backend="[2001:db8:1::11]:8080""#;
    for (series, expected) in [
        (format!(r#"xdp_lb_service_packets_total{{{web},direction="in"}}"#), Some(1000.0)),
        (format!(r#"xdp_lb_service_packets_total{{{web},direction="out"}}"#), Some(0.0)),
        (format!(r#"xdp_lb_service_bytes_total{{{web},direction="in"}}"#), Some(64_000.0)),
        (format!("xdp_lb_service_new_flows_total{{{web}}}"), Some(10.0)),
        (format!("xdp_lb_service_backends{{{web}}}"), Some(2.0)),
        (format!(r#"xdp_lb_backend_packets_total{{{up},direction="in"}}"#), Some(500.0)),
        (format!(r#"xdp_lb_backend_bytes_total{{{up},direction="in"}}"#), Some(32_000.0)),
        (format!("xdp_lb_backend_new_flows_total{{{up}}}"), Some(5.0)),
        (format!("xdp_lb_backend_up{{{up}}}"), Some(1.0)),
        (format!("xdp_lb_backend_up{{{down}}}"), Some(0.0)),
        (format!(r#"xdp_lb_backend_state{{{up},state="up"}}"#), Some(1.0)),
        (format!(r#"xdp_lb_backend_state{{{down},state="down"}}"#), Some(1.0)),
        (format!(r#"xdp_lb_backend_state{{{down},state="up"}}"#), None),
        (format!("xdp_lb_backend_weight{{{up}}}"), Some(100.0)),
        (format!("xdp_lb_backend_weight_ratio{{{up}}}"), Some(1.0)),
        (format!("xdp_lb_backend_weight_ratio{{{down}}}"), Some(0.25)),
        (format!("xdp_lb_backend_agent_up{{{up}}}"), None),
        (format!("xdp_lb_backend_agent_up{{{down}}}"), Some(0.0)),
        (format!("xdp_lb_backend_ejections_total{{{up}}}"), Some(0.0)),
        (format!("xdp_lb_backend_ejections_total{{{down}}}"), Some(3.0)),
        (format!("xdp_lb_backend_share_ratio{{{up}}}"), Some(0.5)),
        (format!("xdp_lb_backend_flows{{{up}}}"), Some(42.0)),
        (format!("xdp_lb_backend_max_flows{{{up}}}"), Some(100.0)),
        (format!("xdp_lb_backend_max_flows{{{down}}}"), None),
        (format!("xdp_lb_service_max_flows{{{web}}}"), Some(5000.0)),
        (format!(r#"xdp_lb_backend_checks_total{{{up},result="passed"}}"#), Some(300.0)),
        (format!(r#"xdp_lb_backend_checks_total{{{up},result="failed"}}"#), Some(7.0)),
        (format!("xdp_lb_backend_check_duration_seconds{{{up}}}"), Some(0.0012)),
        (format!("xdp_lb_backend_check_duration_seconds{{{down}}}"), None),
    ] {
        assert_eq!(value(&scrape, &series), expected, "{series}");
    }
}

#[test]
fn values_of_the_daemon_come_from_the_documents() {
    let scrape = scrape_of_two();
    let build = format!(r#"xdp_lb_build_info{{version="{}",commit="{}"}}"#, crate::VERSION, crate::COMMIT);
    for (series, expected) in [
        (r#"xdp_lb_packets_dropped_total{reason="no_backend"}"#, Some(90.0)),
        (r#"xdp_lb_packets_dropped_total{reason="not_ip"}"#, None),
        (r#"xdp_lb_packets_passed_total{reason="not_tcp_or_udp"}"#, Some(10.0)),
        (r#"xdp_lb_table_entries{table="flows"}"#, Some(524_288.0)),
        (r#"xdp_lb_table_size{table="flows"}"#, Some(1_048_576.0)),
        (r#"xdp_lb_interface_info{interface="eth1",mode="tc"}"#, Some(1.0)),
        (r#"xdp_lb_interface_info{interface="eth2",mode="none"}"#, Some(1.0)),
        (r#"xdp_lb_interface_up{interface="eth1"}"#, Some(1.0)),
        (r#"xdp_lb_interface_attached{interface="eth1"}"#, Some(1.0)),
        (r#"xdp_lb_interface_attached{interface="eth2"}"#, Some(0.0)),
        ("xdp_lb_tables_in_sync", Some(0.0)),
        (r#"xdp_lb_trouble{kind="tables"}"#, Some(1.0)),
        (r#"xdp_lb_trouble{kind="pins"}"#, Some(0.0)),
        ("xdp_lb_restored_total", Some(3.0)),
        (build.as_str(), Some(1.0)),
        ("xdp_lb_start_time_seconds", Some(1.8e9)),
        ("process_start_time_seconds", Some(1.8e9)),
        ("xdp_lb_config_reload_successful", Some(1.0)),
        ("xdp_lb_config_reload_success_timestamp_seconds", Some(1_800_000_100.0)),
    ] {
        assert_eq!(value(&scrape, series), expected, "{series}");
    }
}

#[test]
fn durations_of_checks_are_a_histogram_and_a_failed_reload_is_seen() {
    let mut status = status();
    status.reload.error = Some("no such interface".into());
    let scrape = parse(&exposed(status), false);
    let (kind, samples) = &scrape["xdp_lb_service_check_seconds"];
    // Whatever the order of the labels.
    let of = |part: &str, le: &str| {
        let is_it = |series: &str| {
            series.starts_with(&format!("xdp_lb_service_check_seconds_{part}{{"))
                && series.contains("service=\"web\"")
                && series.contains(le)
        };
        samples.iter().find(|(series, _)| is_it(series)).map(|(_, value)| *value)
    };
    assert_eq!(kind, "histogram");
    assert_eq!(of("bucket", "le=\"0.001\""), Some(3.0), "{samples:?}");
    assert_eq!(of("bucket", "le=\"+Inf\""), Some(4.0), "{samples:?}");
    assert_eq!((of("sum", ""), of("count", "")), (Some(1.25), Some(4.0)));
    assert_eq!(value(&scrape, "xdp_lb_config_reload_successful"), Some(0.0));
}

#[tokio::test]
async fn no_service_and_no_backend_are_right_too() {
    let daemon = Daemon::start("interfaces = [\"eth0\"]\nstate_file = \"STATE\"\n");
    let address = served(daemon.handle.clone()).await;
    parse(&get(address, "/metrics", "").await.2, false);
    parse(&get(address, "/metrics", OPENMETRICS).await.2, true);
}

#[test]
fn hostile_label_values_stay_inside_their_quotes() {
    let mut hostile = service("web", "192.0.2.10:80");
    hostile.options.name = "a\"} 1\nxdp_lb_forged 7\\".into();
    let text = exposed(StatusView { services: vec![hostile], backends: vec![], ..status() });
    assert!(text.contains(r#"service="a\"} 1\nxdp_lb_forged 7\\""#), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("xdp_lb_forged")), "{text}");
}

#[tokio::test]
async fn another_path_says_where_the_metrics_are() {
    let daemon = Daemon::start(TWO_SERVICES);
    let address = served(daemon.handle.clone()).await;
    let (status, _, body) = get(address, "/", "").await;
    assert_eq!((status, body.as_str()), (404, "xdp-lb: the metrics are at /metrics\n"));
}

#[tokio::test]
async fn an_owner_that_has_ended_fails_the_scrape() {
    let daemon = Daemon::start(TWO_SERVICES);
    let address = served(daemon.handle.clone()).await;
    assert_eq!(get(address, "/metrics", "").await.0, 200);
    daemon.task.abort();
    let _ = daemon.task.await;
    let (status, _, body) = get(address, "/metrics", "").await;
    assert_eq!((status, body.as_str()), (503, "the daemon is stopping\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_scrape_does_not_wait_for_a_decision() {
    let daemon = Daemon::start_apart(TWO_SERVICES);
    daemon.all_up().await;
    let address = served(daemon.handle.clone()).await;
    daemon.kernel.lock().takes = Duration::from_secs(4);
    let began = Instant::now();
    daemon.report("web", "198.51.100.11:8080", Health::Down, "connection refused").await;
    while !daemon.kernel.lock().is_applying {
        assert!(began.elapsed() < Duration::from_secs(3), "nothing is decided");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let up = "xdp_lb_backend_up{service=\"web\",backend=\"198.51.100.11:8080\"} ";
    for _ in 0..5 {
        let (status, _, text) = get(address, "/metrics", "").await;
        assert_eq!(status, 200);
        assert!(text.contains(&format!("{up}1")), "nothing has followed yet: {text}");
    }
    daemon.handle.status().await.unwrap();
    assert!(daemon.kernel.lock().is_applying, "it is still being decided, {:?} later", began.elapsed());
    while daemon.kernel.lock().is_applying {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    daemon.until("web", |backends| backends[0].state == BackendState::Down).await;
    assert!(get(address, "/metrics", "").await.2.contains(&format!("{up}0")));
    daemon.handle.unload().await.unwrap();
    daemon.task.await.unwrap();
}

#[tokio::test]
async fn every_metric_is_documented_with_its_type_and_nothing_else_is() {
    let daemon = Daemon::start(TWO_SERVICES);
    let (_, _, text) = get(served(daemon.handle.clone()).await, "/metrics", "").await;
    let served: BTreeMap<_, _> =
        parse(&text, false).into_iter().map(|(name, (kind, _))| (name, kind)).collect();
    let documented: BTreeMap<_, _> = include_str!("../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap().to_owned()))
        .collect();
    assert_eq!(served, documented);
}

/// A status in whose scrape each family has a series.
fn status_of_everything() -> StatusView {
    let mut web = service("web", "192.0.2.10:80");
    web.options.max_flows = 5000;
    let discovery = r#"{"config": {"type": "dns", "name": "web.example.com"}, "source": "dns web.example.com", "found": 1,
        "leaving": 0, "refused": [], "last_answer_seconds": 1, "answers": 1, "failures": 0}"#;
    web.discovery = Some(serde_json::from_str(discovery).unwrap());
    let mut up = backend("web", "198.51.100.11:8080");
    up.options.max_flows = 100;
    up.agent = Some(AgentView {
        admin: AgentAdmin::Ready,
        operation: AgentOperation::Up,
        percent: 100,
        note: None,
        trouble: None,
        since_seconds: Some(1),
    });
    StatusView { services: vec![web], backends: vec![up], ..status() }
}

#[test]
fn the_metrics_are_as_committed() {
    let text = exposed(status_of_everything());
    let help = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} "))).unwrap();
        line.to_owned()
    };
    let labels = |series: &str| -> Vec<String> {
        let labels = series.split_once('{').map_or("", |(_, labels)| labels);
        let keys =
            labels.split_terminator("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
        keys.collect()
    };
    let family = |(name, (kind, samples)): (String, (String, BTreeMap<String, f64>))| {
        let (series, _) = samples.first_key_value().unwrap_or_else(|| panic!("{name} has no series"));
        serde_json::json!({ "name": name, "type": kind, "labels": labels(series), "help": help(&name) })
    };
    let families: Vec<_> = parse(&text, false).into_iter().map(family).collect();
    crate::committed::assert_committed("metrics.json", &families.into());
}
