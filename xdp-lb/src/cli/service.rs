//! `xdp-lb service`.

use std::net::IpAddr;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use comfy_table::Cell;
use serde_json::{Map, Value};

use super::backend::{self, flows_left};
use super::confirm::{self, Removal};
use super::drain::{self, Patience, Subject};
use super::flags::{parse_backend, parse_keys, wrong};
use super::output::{Screen, number, text};
use super::units::{self, byte_rate, counted, grouped, rate, span};
use super::{Done, discovery, set};
use crate::api::client::Client;
use crate::model::change::{FlowsLeft, in_words};
use crate::model::request::ServicePatch;
use crate::model::state::AdminState;
use crate::model::{
    self, Affinity, Agent, CircuitBreaker, Feedback, FlowTracking, Hairpin, HealthCheck, Mode, OnDown,
    OnNoBackends, Prefix, Probe, Protocol, Quic, Vip,
};
use crate::report::documents::{BackendView, MovingView, ServiceDetailView, ServiceView};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the services with VIP, mode, serving backends and rates
    List,
    /// Show one service with its backends
    Show {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Add a service; it survives restarts without being in the config file
    Add(Box<Add>),
    /// Change options of a service while it runs; its flows stay where they are
    ///
    /// All of it is validated and saved before it takes effect, and survives restarts. What cannot change while the service
    /// runs is refused, with the way to change it.
    #[command(after_help = set::help::<model::Service>("xdp-lb service set web affinity=source max_flows=100000"))]
    Set {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        /// An option and its new value
        #[arg(required = true, value_name = "KEY=VALUE")]
        options: Vec<String>,
    },
    /// Drain a service: no new flows; its VIP is withdrawn unless another service uses it; existing flows continue
    ///
    /// All of its backends drain. With --wait, returns once the last flow has ended (exit code 0) or the timeout has
    /// passed (exit code 1), and says which. The service stays drained, also across restarts, until `xdp-lb service
    /// enable`.
    Drain {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        #[command(flatten)]
        patience: Patience,
    },
    /// Put a drained service back into service
    Enable {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Remove a service with its backends: it drains, and is removed once its last flow has ended
    ///
    /// It is removed after `drain_timeout` (an hour by default) at the latest. If you add it again at the same VIP
    /// before that, it keeps its flows.
    Remove {
        /// The service's name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
        #[command(flatten)]
        removal: Removal,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdp-lb service add web 192.0.2.10:80 --check http --check-path /healthz \\
      --backend 198.51.100.11:8080 --backend 198.51.100.12:8080=50
  xdp-lb service add dns '[2001:db8::53]:53' --protocol udp --mode nat \\
      --backend '[2001:db8:1::53]:53' --check dns --check-name www.example.com")]
pub(super) struct Add {
    /// Its name: 1 to 63 letters, digits, hyphens, underscores or dots
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The address and port that clients connect to: 192.0.2.10:80, '[2001:db8::10]:80'. Also a range of ports,
    /// 192.0.2.10:5000-5999, or all of them, '192.0.2.10:*'; backends then have port 0
    #[arg(value_parser = str::parse::<Vip>)]
    vip: Vip,
    /// tcp or udp
    #[arg(long, default_value_t, value_parser = str::parse::<Protocol>)]
    protocol: Protocol,
    /// full-nat (works in any network), nat (backends route to clients through this host), or dsr, ipip or gue
    /// (backends have the VIP and reply directly to clients)
    #[arg(long, default_value_t, value_parser = str::parse::<Mode>)]
    mode: Mode,
    /// An address of this host: in full-nat the source address that backends see, in ipip and gue the source of
    /// tunnel packets; may be given several times [default: this host's address towards the backend]
    #[arg(long = "snat-address", value_name = "ADDR")]
    snat_addresses: Vec<IpAddr>,
    /// Which flows go to the same backend: none, source (those of one client: an IPv4 address or an IPv6 /64) or
    /// source/PREFIX
    #[arg(long, default_value_t, value_parser = str::parse::<Affinity>)]
    affinity: Affinity,
    /// Which flows are tracked: auto (those whose slot has moved recently) or always
    #[arg(long, value_name = "WHICH", default_value_t)]
    flow_tracking: FlowTracking,
    /// What happens to new flows while no backend takes any: reject (TCP reset, ICMP port unreachable) or drop
    #[arg(long, value_name = "WHAT", default_value_t)]
    on_no_backends: OnNoBackends,
    /// Mode nat: whether clients on a backend's own network are translated to an address of this host: auto or off
    #[arg(long, value_name = "WHICH", default_value_t)]
    hairpin: Hairpin,
    /// QUIC: length of the server ID, which follows the first byte of a connection ID, in bytes, 1 to 15
    #[arg(long, value_name = "N")]
    quic_server_id_length: Option<u8>,
    /// QUIC: the configuration ID of the servers, 0 to 6 [default: 0]
    #[arg(
        long,
        value_name = "N",
        requires = "quic_server_id_length",
        default_value_t,
        hide_default_value = true
    )]
    quic_config_id: u8,
    /// Allow only clients in this range; may be given several times
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<Prefix>,
    /// Deny clients in this range; may be given several times
    #[arg(long, value_name = "PREFIX")]
    deny: Vec<Prefix>,
    /// Maximum number of new flows per second from one client; 0: unlimited
    #[arg(long, value_name = "N", default_value_t)]
    new_flow_rate: u32,
    /// How many of them may come in one burst [default: as many as in a second]
    #[arg(long, value_name = "N", requires = "new_flow_rate", default_value_t, hide_default_value = true)]
    new_flow_burst: u32,
    /// Maximum number of concurrent flows; 0: unlimited
    #[arg(long, value_name = "N", default_value_t)]
    max_flows: u32,
    /// If fewer backends are up than this, in percent, backups take flows, and then backends that are down; 0:
    /// backups only while no other is up, and never backends that are down
    #[arg(long, value_name = "PERCENT", default_value_t)]
    panic_threshold: u8,
    /// Ramp up a recovered backend's share of new flows over this time: 30s, 5m [default: at once]
    #[arg(long, value_name = "TIME", value_parser = units::parse_span)]
    slow_start: Option<Duration>,
    /// What happens to established flows of a backend that is down: auto (they end once it no longer answers any
    /// client, or after --down-timeout if replies do not pass here), keep, or reset (they end at once)
    #[arg(long, value_name = "WHAT", default_value_t)]
    on_down: OnDown,
    /// nat, full-nat: how long a backend that is down must be silent before its flows end [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_span)]
    down_grace: Option<Duration>,
    /// dsr, ipip, gue: how long a backend is down before its flows end [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = units::parse_span)]
    down_timeout: Option<Duration>,
    /// Stop sending new flows to a failing backend for a while:
    /// open=30s,max_open=5m,window=10s,half_open_portion=10; to also count failed flows (nat, full-nat):
    /// failure_percent=50,min_flows=20,max_ejected=50. Omitted keys have these values
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = parse_keys::<CircuitBreaker>)]
    circuit_breaker: Option<CircuitBreaker>,
    /// Query an agent on each backend (HAProxy's agent checks):
    /// port=8081,interval=2s,timeout=1s,send=TEXT,source=ADDR; only the port is required
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = parse_keys::<Agent>)]
    agent: Option<Agent>,
    /// Adjust weights by the latency of checks (latency=true,floor=25), and damp all adjustments, agents' too:
    /// min_change=10,hold=10s. Omitted keys have these values, and latency=false
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = parse_keys::<Feedback>)]
    feedback: Option<Feedback>,
    /// A backend, with its weight if not 100, its QUIC server ID in hex, a limit of concurrent flows, and whether it
    /// is a backup; may be given several times
    #[arg(long = "backend", value_name = "ADDR:PORT[=WEIGHT][,server-id=HEX][,max-flows=N][,backup]", value_parser = parse_backend)]
    backends: Vec<model::Backend>,
    /// Any option by its key in the config file, as `service set` takes them; may be given several times
    #[arg(long = "option", value_name = "KEY=VALUE")]
    options: Vec<String>,
    #[command(flatten)]
    check: Check,
    #[command(flatten)]
    discovery: discovery::Flags,
}

/// The keys of a health check: the daemon's config has the same.
#[derive(Debug, Args)]
#[command(next_help_heading = "Health check")]
struct Check {
    /// tcp, http, https, dns, udp, icmp, grpc, exec (a program on the daemon's host, if its config file allows that)
    /// or none [default: tcp for a TCP service on one port, else none]
    #[arg(long, value_name = "TYPE")]
    check: Option<String>,
    /// http, https: the path to request [default: /]
    #[arg(long, value_name = "PATH", requires = "check")]
    check_path: Option<String>,
    /// http, https: the Host header; grpc: the authority [default: the address that is checked]
    #[arg(long, value_name = "HOST", requires = "check")]
    check_host: Option<String>,
    /// http, https: GET, HEAD or OPTIONS [default: GET]
    #[arg(long, value_name = "METHOD", requires = "check")]
    check_method: Option<String>,
    /// http, https: an additional header; may be given several times
    #[arg(long = "check-header", value_name = "NAME: VALUE", requires = "check")]
    check_headers: Vec<String>,
    /// http, https: the status codes that count as healthy, such as 200-299,401 [default: 200-399]
    #[arg(long, value_name = "RANGES", requires = "check")]
    check_status: Option<String>,
    /// http, https: text that the response body must contain
    #[arg(long, value_name = "TEXT", requires = "check")]
    check_body: Option<String>,
    /// http, https: a regular expression that the response body must match
    #[arg(long, value_name = "REGEX", requires = "check")]
    check_body_regex: Option<String>,
    /// grpc: use TLS
    #[arg(long, requires = "check")]
    check_tls: bool,
    /// https, grpc: the name that is sent as SNI and that the certificate must be valid for
    #[arg(long, value_name = "NAME", requires = "check")]
    check_server_name: Option<String>,
    /// https, grpc: accept any certificate
    #[arg(long, requires = "check")]
    check_no_verify: bool,
    /// https, grpc: a PEM file on the daemon's host with the trusted CAs [default: the CAs that host trusts]
    #[arg(long, value_name = "FILE", requires = "check")]
    check_ca_file: Option<String>,
    /// https, grpc: the oldest accepted TLS version, 1.2 or 1.3 [default: 1.2]
    #[arg(long, value_name = "VERSION", requires = "check")]
    check_min_tls: Option<String>,
    /// grpc: the service to ask about [default: the server as a whole]
    #[arg(long, value_name = "NAME", requires = "check")]
    check_service: Option<String>,
    /// dns: the name to query [default: .]
    #[arg(long, value_name = "NAME", requires = "check")]
    check_name: Option<String>,
    /// dns: the record type to query [default: NS for ".", else A]
    #[arg(long, value_name = "TYPE", requires = "check")]
    check_record: Option<String>,
    /// udp: the payload to send
    #[arg(long, value_name = "TEXT", requires = "check")]
    check_send: Option<String>,
    /// udp: the same, in hex
    #[arg(long, value_name = "HEX", requires = "check")]
    check_send_hex: Option<String>,
    /// udp: text that the answer must contain [default: any answer is accepted]
    #[arg(long, value_name = "TEXT", requires = "check")]
    check_expect: Option<String>,
    /// udp: the same, in hex
    #[arg(long, value_name = "HEX", requires = "check")]
    check_expect_hex: Option<String>,
    /// exec: the program; each further use adds an argument
    #[arg(long, value_name = "WORD", requires = "check", allow_hyphen_values = true)]
    check_command: Vec<String>,
    /// The port to check [default: the backend's]
    #[arg(long, value_name = "PORT", requires = "check")]
    check_port: Option<u16>,
    /// Which address to check: "backend", or in modes dsr, ipip and gue "vip", through the backend [default: backend]
    #[arg(long, value_name = "WHERE", requires = "check")]
    check_via: Option<String>,
    /// The time between two checks [default: 1s]
    #[arg(long, value_name = "TIME", requires = "check")]
    check_interval: Option<String>,
    /// The time between two checks while the backend's health is changing [default: the normal interval]
    #[arg(long, value_name = "TIME", requires = "check")]
    check_fast_interval: Option<String>,
    /// How much earlier a check may start, at random, in percent of the interval [default: 10]
    #[arg(long, value_name = "PERCENT", requires = "check")]
    check_jitter: Option<u16>,
    /// How long one check may take [default: 500ms]
    #[arg(long, value_name = "TIME", requires = "check")]
    check_timeout: Option<String>,
    /// How many successes in a row bring a backend up [default: 2]
    #[arg(long, value_name = "N", requires = "check")]
    check_rise: Option<u16>,
    /// How many failures in a row take a backend down [default: 3]
    #[arg(long, value_name = "N", requires = "check")]
    check_fall: Option<u16>,
    /// The source address of checks [default: chosen by the routes]
    #[arg(long, value_name = "ADDR", requires = "check")]
    check_source: Option<String>,
}

impl Command {
    pub(super) async fn execute(self, client: &Client, screen: &Screen) -> anyhow::Result<Done> {
        let outcome = match self {
            Self::List => {
                let services = client.services().await?;
                return Ok(screen.show(&services, || table(screen, &services))?.into());
            }
            Self::Show { name } => {
                let detail = client.service(&name).await?;
                return Ok(screen.show(&detail, || detail_table(screen, &detail))?.into());
            }
            Self::Set { name, options } => {
                let options = set::patch_of(&options).map_err(|why| wrong(&["service", "set"], why))?;
                client.patch_service(&name, &ServicePatch { admin: None, options }).await?
            }
            Self::Drain { name, patience } => {
                return drain::execute(client, screen, &Subject::Service(name), &patience).await;
            }
            Self::Enable { name } => {
                client.patch_service(&name, &ServicePatch::admin(AdminState::Enabled)).await?
            }
            Self::Add(add) => client.add_service(&add.service()?).await?,
            Self::Remove { name, removal } => {
                if removal.asks() {
                    let backends = client.service(&name).await?.backends;
                    let flows = backends.iter().map(flows_left).fold(FlowsLeft::default(), FlowsLeft::plus);
                    confirm::ask(&format!("service {name}: this ends {flows}."))?;
                }
                client.remove_service(&name, removal.query()).await?
            }
        };
        Done::of(&outcome, screen)
    }
}

impl Add {
    fn service(self) -> Result<model::Service, clap::Error> {
        let service = model::Service {
            name: self.name,
            vip: self.vip,
            protocol: self.protocol,
            mode: self.mode,
            snat_addresses: self.snat_addresses,
            affinity: self.affinity,
            flow_tracking: self.flow_tracking,
            on_no_backends: self.on_no_backends,
            hairpin: self.hairpin,
            quic: self
                .quic_server_id_length
                .map(|server_id_length| Quic { server_id_length, config_id: self.quic_config_id }),
            allow: self.allow,
            deny: self.deny,
            new_flow_rate: self.new_flow_rate,
            new_flow_burst: self.new_flow_burst,
            panic_threshold: self.panic_threshold,
            slow_start: self.slow_start,
            on_down: self.on_down,
            down_grace: self.down_grace,
            down_timeout: self.down_timeout,
            circuit_breaker: self.circuit_breaker,
            agent: self.agent,
            feedback: self.feedback,
            max_flows: self.max_flows,
            health_check: self.check.health_check()?,
            discovery: self.discovery.discovery()?,
            backends: self.backends,
        };
        set::over(&service, &self.options).map_err(|why| wrong(&["service", "add"], why))
    }
}

impl Check {
    /// Read as the config file's health checks are, with the same defaults and the same errors.
    fn health_check(self) -> Result<Option<HealthCheck>, clap::Error> {
        let Some(kind) = self.check else { return Ok(None) };
        let texts = [
            ("path", self.check_path),
            ("host", self.check_host),
            ("method", self.check_method),
            ("status", self.check_status),
            ("body", self.check_body),
            ("body_regex", self.check_body_regex),
            ("server_name", self.check_server_name),
            ("ca_file", self.check_ca_file),
            ("min_tls", self.check_min_tls),
            ("service", self.check_service),
            ("name", self.check_name),
            ("record", self.check_record),
            ("send", self.check_send),
            ("send_hex", self.check_send_hex),
            ("expect", self.check_expect),
            ("expect_hex", self.check_expect_hex),
            ("interval", self.check_interval),
            ("fast_interval", self.check_fast_interval),
            ("timeout", self.check_timeout),
            ("source", self.check_source),
            ("via", self.check_via),
        ];
        let numbers = [
            ("jitter", self.check_jitter),
            ("rise", self.check_rise),
            ("fall", self.check_fall),
            ("port", self.check_port),
        ];
        let lists = [("headers", self.check_headers), ("command", self.check_command)];
        let flags = [("tls", true, self.check_tls), ("verify", false, self.check_no_verify)];
        let mut written = Map::from_iter([("type".to_owned(), Value::from(kind))]);
        let is_given = |list: &Vec<String>| !list.is_empty();
        written.extend(
            lists.into_iter().filter(|(_, list)| is_given(list)).map(|(key, list)| (key.into(), list.into())),
        );
        written.extend(
            flags.into_iter().filter(|flag| flag.2).map(|(key, value, _)| (key.into(), value.into())),
        );
        written.extend(texts.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into()))));
        written.extend(numbers.into_iter().filter_map(|(key, value)| Some((key.into(), value?.into()))));
        serde_json::from_value(written.into()).map(Some).map_err(|why| wrong(&["service", "add"], why))
    }
}

/// The table of services.
pub(super) fn table(screen: &Screen, services: &[ServiceView]) -> String {
    if services.is_empty() {
        return "no services; to add one: xdp-lb service add, or edit the config file".into();
    }
    let columns = [
        text("SERVICE"),
        text("VIP"),
        text("PROTOCOL"),
        text("MODE"),
        number("SERVING"),
        number("NEW"),
        number("PPS"),
        number("BYTES"),
        text("CHECK"),
        text("ORIGIN"),
    ];
    let rows = services.iter().map(|service| {
        vec![
            Cell::new(&service.name),
            Cell::new(service.vip),
            Cell::new(service.protocol),
            Cell::new(service.mode),
            Cell::new(format!("{}/{}", service.backends_serving, service.backends)),
            Cell::new(rate(service.traffic.new_flows_per_second)),
            Cell::new(rate(service.traffic.packets_per_second)),
            Cell::new(byte_rate(service.traffic.bytes_per_second)),
            Cell::new(service.health_check.probe.kind()),
            Cell::new(service.origin.name()),
        ]
    });
    screen.table(&columns, rows)
}

/// The options that a service's detail tells in words; all others follow by their keys.
const IN_WORDS: &[&str] = &[
    "name",
    "vip",
    "protocol",
    "mode",
    "snat_addresses",
    "affinity",
    "flow_tracking",
    "on_no_backends",
    "hairpin",
    "quic",
    "allow",
    "deny",
    "new_flow_rate",
    "new_flow_burst",
    "panic_threshold",
    "circuit_breaker",
    "agent",
    "feedback",
    "slow_start",
    "on_down",
    "down_grace",
    "down_timeout",
    "max_flows",
    "health_check",
    "discovery",
    "backend",
];

fn detail_table(screen: &Screen, detail: &ServiceDetailView) -> String {
    let ServiceDetailView { service, options, backends } = detail;
    let traffic = &service.traffic;
    let addresses: Vec<_> = service.snat_addresses.iter().map(IpAddr::to_string).collect();
    let snat = match (service.mode, addresses.as_slice()) {
        (Mode::FullNat, []) => "this host's, towards each backend".into(),
        (Mode::FullNat, _) => addresses.join(", "),
        (Mode::Nat | Mode::Dsr, _) | (Mode::Ipip | Mode::Gue, []) => "the client's".into(),
        (Mode::Ipip | Mode::Gue, _) => {
            format!("the client's, in tunnel packets from {}", addresses.join(", "))
        }
    };
    let facts = [
        ("service", service.name.clone()),
        ("VIP", format!("{} {}", service.vip, service.protocol)),
        ("mode", service.mode.to_string()),
        ("source address", snat),
        ("affinity", service.affinity.to_string()),
        ("QUIC", service.quic.map_or_else(|| "connection IDs ignored".into(), |quic| quic.to_string())),
        ("allowed clients", clients(service)),
        ("new flows", new_flows(service, backends)),
        ("health check", check(&service.health_check)),
        ("discovery", service.discovery.as_ref().map_or_else(|| "none".into(), discovery::words)),
        ("serving", serving(service)),
        ("breaker", service.circuit_breaker.map_or_else(|| "none".into(), |breaker| breaker.to_string())),
        (
            "slow start",
            service
                .slow_start
                .map_or_else(|| "none".into(), |time| humantime::format_duration(time).to_string()),
        ),
        ("on down", on_down(service)),
        ("agent", service.agent.as_ref().map_or_else(|| "none".into(), Agent::to_string)),
        ("feedback", feedback(service)),
        ("tracking", service.flow_tracking.to_string()),
        ("no backends", format!("{} new flows", service.on_no_backends)),
        ("hairpin", service.hairpin.to_string()),
        ("ring", format!("{} slots{}", grouped(service.ring_slots.into()), rest(service))),
        ("admin", service.admin.name().to_owned()),
        ("origin", service.origin.name().to_owned()),
        ("in", format!("{} packets, {} bytes", grouped(traffic.packets_in), grouped(traffic.bytes_in))),
        ("out", format!("{} packets, {} bytes", grouped(traffic.packets_out), grouped(traffic.bytes_out))),
        ("total flows", grouped(traffic.new_flows)),
        (
            "now",
            format!(
                "{} packets, {}, {} new flows",
                rate(traffic.packets_per_second),
                byte_rate(traffic.bytes_per_second),
                rate(traffic.new_flows_per_second)
            ),
        ),
    ];
    let mut text: String = facts.iter().map(|(name, value)| format!("{name:<15} {value}\n")).collect();
    for (key, value) in options.iter().filter(|(key, _)| !IN_WORDS.contains(&key.as_str())) {
        text += &format!("{key:<15} {}\n", in_words(value));
    }
    for line in service.discovery.iter().flat_map(|it| discovery::troubles(&service.name, it)) {
        text += &format!("{line}\n");
    }
    text.push('\n');
    text.push_str(&backend::table(screen, backends));
    text
}

/// What becomes of the flows of backends that are down.
fn on_down(service: &ServiceView) -> String {
    let span = |time: Duration| humantime::format_duration(time).to_string();
    match (service.on_down, service.down_grace, service.down_timeout) {
        (OnDown::Keep, ..) => "established flows are kept".into(),
        (OnDown::Reset, ..) => "established flows end at once".into(),
        (OnDown::Auto, Some(grace), _) => {
            format!("established flows end once the backend has been silent for {}", span(grace))
        }
        (OnDown::Auto, None, Some(timeout)) => format!("established flows end after {}", span(timeout)),
        (OnDown::Auto, None, None) => "auto".into(),
    }
}

/// What weights follow, and how.
fn feedback(service: &ServiceView) -> String {
    let policy = service.feedback.unwrap_or_default();
    match service.agent.is_some() || policy.latency {
        true => policy.to_string(),
        false => "none: weights as configured".into(),
    }
}

/// How many backends take new flows, and why others than those that are up.
fn serving(service: &ServiceView) -> String {
    let serving = format!("{} of {} backends", service.backends_serving, service.backends);
    match (&service.panic, service.panic_threshold) {
        (Some(why), _) => format!("{serving}; PANIC, backends that are down take flows too: {why}"),
        (None, 0) => serving,
        (None, threshold) => format!("{serving}; panic threshold {threshold} %"),
    }
}

/// What a ring's slots wait for, in a service's detail.
fn rest(service: &ServiceView) -> String {
    moving(service).map_or_else(|| ", settled".into(), |moving| format!("; {moving}"))
}

/// Which slots of a service are not at rest, and until when; nothing where all are.
pub(super) fn moving(service: &ServiceView) -> Option<String> {
    let MovingView { moving_slots, recorded_slots, all_recorded_in_seconds } = service.moving;
    let move_on = all_recorded_in_seconds.map(|seconds| {
        let (moving, slots) = (grouped(moving_slots.into()), counted(service.ring_slots.into(), "slot"));
        format!("rebalancing: {moving} of {slots}; all their flows are tracked in {}", span(seconds))
    });
    let wait = (recorded_slots > 0).then(|| {
        let carry = if recorded_slots == 1 { "carries" } else { "carry" };
        format!("{} still {carry} flows of their previous backend", counted(recorded_slots.into(), "slot"))
    });
    let parts: Vec<String> = move_on.into_iter().chain(wait).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Whom the service lets in.
fn clients(service: &ServiceView) -> String {
    let list = |ranges: &[Prefix]| ranges.iter().map(Prefix::to_string).collect::<Vec<_>>().join(", ");
    match (service.allow.as_slice(), service.deny.as_slice()) {
        ([], []) => "all".into(),
        ([], deny) => format!("all except {}", list(deny)),
        (allow, []) => list(allow),
        (allow, deny) => format!("{}; denied: {}", list(allow), list(deny)),
    }
}

/// How many flows it lets a client begin, and all of them have.
fn new_flows(service: &ServiceView, backends: &[BackendView]) -> String {
    let rate = match (service.new_flow_rate, service.new_flow_burst) {
        (0, _) => "unlimited".into(),
        (rate, 0) => format!("{} a second per client", grouped(rate.into())),
        (rate, burst) => {
            format!("{} a second per client, bursts of {}", grouped(rate.into()), grouped(burst.into()))
        }
    };
    match service.max_flows {
        0 => rate,
        limit => {
            let flows = backends.iter().map(|backend| backend.flows).sum();
            format!("{rate}; at most {} flows ({} now)", grouped(limit.into()), grouped(flows))
        }
    }
}

fn check(check: &HealthCheck) -> String {
    match check.probe {
        Probe::None => "none: all backends are considered up".into(),
        _ => check.to_string(),
    }
}
