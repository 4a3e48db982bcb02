//! Services and backends: every option with its type, range, default and purpose.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::agent::Agent;
use super::check::{HealthCheck, Probe};
use super::choices::{FlowTracking, Hairpin, Mode, OnDown, OnNoBackends, Protocol};
use super::discovery::Discovery;
use super::feedback::Feedback;
use super::options::options;
use super::policy::{Affinity, EMPTY_RANGES, Prefix, Quic, ServerId, deserialize_ranges};
use super::recovery::{CircuitBreaker, DownPolicy};
use super::section::{Node, Section, Table};
use super::text;
use super::vip::Vip;
use super::{check, written_discovery};

/// The placeholder for an address that is missing or invalid.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The largest limit of flows: the maximum size of the flow table.
pub(crate) const MAX_FLOWS: RangeInclusive<u32> = 0..=1 << 26;
/// The highest rate, in flows per second, and the largest burst.
pub(crate) const RATE: RangeInclusive<u32> = 0..=1_000_000;
/// The longest description, in characters.
const LONGEST_DESCRIPTION: usize = 200;
pub(crate) const PERCENT: RangeInclusive<u8> = 0..=100;

/// Why VIP and protocol cannot change at runtime.
const ANOTHER_SERVICE: &str = "another address, port or protocol is another service: add it (xdp-lb service add), move the clients there, then remove this one (xdp-lb service remove)";

options! {
    /// A service: what clients connect to, and its policy.
    #[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[schemars(example = serde_json::json!({
        "name": "api",
        "vip": "192.0.2.11:80",
        "health_check": { "type": "http", "path": "/healthz" },
        "backend": [{ "address": "198.51.100.11:8080", "weight": 100 }],
    }))]
    pub struct Service {
        #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9._-]+$"))]
        name: String = String::new() => {
            sentence: "What the CLI, the logs and the metrics call it.",
            default: "none: must be given",
            range: "1 to 63 letters, digits, `-`, `_`, `.`; each name once",
            read: |it, key| it.required(key, "name = \"web\"", |name| Ok(name.to_owned())),
            fixed: "a service keeps its name while it runs: rename it in the config file and reload, which keeps its flows",
        }
        vip: Vip = Vip::at(NOWHERE) => {
            sentence: "The address and port that clients connect to, or a range of ports.",
            default: "none: must be given",
            range: "address and port, or more than one port; each once for a protocol",
            read: |it, key| it.required(key, "vip = \"192.0.2.10:80\"", str::parse),
            fixed: ANOTHER_SERVICE,
        }
        #[schemars(length(max = LONGEST_DESCRIPTION))]
        #[serde(default, skip_serializing_if = "is_default", deserialize_with = "deserialize_description")]
        description: String = String::new() => {
            sentence: "What it is for, and who to ask, in your words.",
            default: "none",
            range: "up to 200 printable characters",
            value_name: "TEXT",
            read: |it, key| it.parsed(key, description),
            none: |it| it.description.clear(),
        }
        #[serde(default)]
        protocol: Protocol = Protocol::Tcp => {
            sentence: "The transport protocol.",
            default: "`\"tcp\"`",
            range: "`\"tcp\"`, `\"udp\"`",
            fixed: ANOTHER_SERVICE,
        }
        #[serde(default)]
        mode: Mode = Mode::FullNat => {
            sentence: "How packets reach the backends, and how the replies return.",
            default: "`\"full-nat\"`",
            range: "`\"full-nat\"`, `\"nat\"`, `\"dsr\"`, `\"ipip\"`, `\"gue\"`",
            help: "full-nat (works in any network), nat (backends route to clients through this host), or dsr, ipip or gue (backends have the VIP and reply directly to clients)",
            fixed: "established flows would break, since each mode sends packets in its own way: add a service of that mode at another VIP, move the clients there, then remove this one; or drain the service, change the config file and reload",
        }
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        snat_addresses: Vec<IpAddr> = Vec::new() => {
            sentence: "`full-nat`: the source addresses that backends see; `ipip` and `gue`: the outer source \
                       addresses.",
            default: "this host's address towards the backend",
            range: "up to 16 addresses, each once; only modes `full-nat`, `ipip` and `gue`",
            value_name: "ADDR",
            none: |it| it.snat_addresses.clear(),
        }
        #[serde(default, skip_serializing_if = "is_default")]
        affinity: Affinity = Affinity::None => {
            sentence: "Which flows go to the same backend.",
            default: "`\"none\"`",
            range: "`\"none\"`, `\"source\"`, `\"source/PREFIX\"` with a prefix of 1 to 32 bits (IPv6: 1 to 128)",
            help: "none, source (those of one client: an IPv4 address or an IPv6 /64) or source/PREFIX",
        }
        #[serde(default, skip_serializing_if = "is_default")]
        flow_tracking: FlowTracking = FlowTracking::Auto => {
            sentence: "Which flows are recorded.",
            default: "`\"auto\"`",
            range: "`\"auto\"`, `\"always\"`",
            value_name: "WHICH",
            help: "auto (those whose slot has moved recently) or always",
        }
        #[serde(default, skip_serializing_if = "is_default")]
        on_no_backends: OnNoBackends = OnNoBackends::Reject => {
            sentence: "What happens to new flows while no backend takes any.",
            default: "`\"reject\"`",
            range: "`\"reject\"`, `\"drop\"`",
            value_name: "WHAT",
            help: "reject (TCP reset, ICMP port unreachable) or drop",
        }
        #[serde(default, skip_serializing_if = "is_default")]
        hairpin: Hairpin = Hairpin::Auto => {
            sentence: "`nat`: what happens to clients to which the backend would reply directly.",
            default: "`\"auto\"`",
            range: "`\"auto\"`, `\"off\"`",
            value_name: "WHICH",
            help: "auto (they are translated to an address of this host) or off",
        }
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quic: Option<Quic> = None => {
            sentence: "How QUIC's connection IDs identify the backend.",
            default: "connection IDs are ignored",
            range: "a table: `server_id_length` (1 to 15), `config_id` (0 to 6, default 0); UDP only",
            read: |it, key| it.section(key, Quic::KEYS, Quic::read).flatten().map(Some),
            keys: Quic::KEYS,
            none: |it| it.quic = None,
        }
        #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "deserialize_ranges")]
        allow: Vec<Prefix> = Vec::new() => {
            sentence: "The allowed clients; all others are denied.",
            default: "all clients",
            range: "ranges of the VIP's family, `\"192.0.2.0/24\"` or single addresses, each once",
            value_name: "PREFIX",
            read: ranges,
            none: |it| it.allow.clear(),
        }
        #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "deserialize_ranges")]
        deny: Vec<Prefix> = Vec::new() => {
            sentence: "The denied clients.",
            default: "no clients",
            range: "as `allow`",
            value_name: "PREFIX",
            read: ranges,
            none: |it| it.deny.clear(),
        }
        #[serde(default, skip_serializing_if = "is_default")]
        new_flow_rate: u32 = 0 => {
            sentence: "Maximum number of new flows per second from one client.",
            default: "0: unlimited",
            range: "0 to 1,000,000",
            read: |it, key| it.integer(key, &RATE),
        }
        #[serde(default, skip_serializing_if = "is_default")]
        new_flow_burst: u32 = 0 => {
            sentence: "How many of them may come in one burst.",
            default: "as many as `new_flow_rate`",
            range: "0 to 1,000,000; no effect without `new_flow_rate`",
            read: |it, key| it.integer(key, &RATE),
        }
        #[serde(default, skip_serializing_if = "is_default")]
        panic_threshold: u8 = 0 => {
            sentence: "If fewer backends are up than this, backups take flows, and then backends that are down.",
            default: "0",
            range: "0 to 100, percent",
            read: |it, key| it.integer(key, &PERCENT),
        }
        #[serde(default, skip_serializing_if = "Option::is_none")]
        circuit_breaker: Option<CircuitBreaker> = None => {
            sentence: "When to stop sending new flows to a failing backend for a while.",
            default: "none",
            range: "a table, below",
            help: "open=30s,max_open=5m,window=10s,half_open_portion=10; to also count failed flows (nat, full-nat): failure_percent=50,min_flows=20,max_ejected=50. Omitted keys have these values",
            read: |it, key| it.section(key, CircuitBreaker::KEYS, CircuitBreaker::read).map(Some),
            keys: CircuitBreaker::KEYS,
            none: |it| it.circuit_breaker = None,
        }
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent: Option<Agent> = None => {
            sentence: "How an agent on each backend is queried, in addition to the health check.",
            default: "none",
            range: "a table, below",
            help: "port=8081,interval=2s,timeout=1s,send=TEXT,source=ADDR (HAProxy's agent checks); only the port is required",
            read: |it, key| it.section(key, Agent::KEYS, Agent::read).flatten().map(Some),
            keys: Agent::KEYS,
            none: |it| it.agent = None,
        }
        #[serde(default, skip_serializing_if = "Option::is_none")]
        feedback: Option<Feedback> = None => {
            sentence: "Whether weights follow the latency of checks, and how adjustments are damped.",
            default: "weights as configured",
            range: "a table, below",
            help: "latency=true,floor=25 follows it; min_change=10,hold=10s damps all adjustments, agents' too. Omitted keys have these values, and latency=false",
            read: |it, key| it.section(key, Feedback::KEYS, Feedback::read).map(Some),
            keys: Feedback::KEYS,
            none: |it| it.feedback = None,
        }
        #[schemars(with = "Option<String>")]
        #[serde(default, skip_serializing_if = "Option::is_none", with = "text::duration_option")]
        slow_start: Option<Duration> = None => {
            sentence: "The time over which a returning backend ramps up to its share of new flows.",
            default: "none: at once",
            range: "1 s to 1 h",
            value_name: "TIME",
            none: |it| it.slow_start = None,
        }
        #[serde(default, skip_serializing_if = "is_default")]
        on_down: OnDown = OnDown::Auto => {
            sentence: "What happens to established flows of a backend that is down.",
            default: "`\"auto\"`",
            range: "`\"auto\"`, `\"keep\"`, `\"reset\"`",
            value_name: "WHAT",
            help: "auto (they end once it no longer answers any client, or after --down-timeout if replies do not pass here), keep, or reset (they end at once)",
        }
        #[schemars(with = "Option<String>")]
        #[serde(default, skip_serializing_if = "Option::is_none", with = "text::duration_option")]
        down_grace: Option<Duration> = None => {
            sentence: "How long a backend that is down must be silent before its flows end.",
            default: "`\"2s\"`",
            range: "500 ms to 1 h; modes `nat` and `full-nat`, `on_down = \"auto\"`",
            value_name: "TIME",
            none: |it| it.down_grace = None,
        }
        #[schemars(with = "Option<String>")]
        #[serde(default, skip_serializing_if = "Option::is_none", with = "text::duration_option")]
        down_timeout: Option<Duration> = None => {
            sentence: "How long a backend is down before its flows end.",
            default: "`\"30s\"`",
            range: "1 s to 1 day; modes `dsr`, `ipip` and `gue`, `on_down = \"auto\"`",
            value_name: "TIME",
            none: |it| it.down_timeout = None,
        }
        #[serde(default, skip_serializing_if = "is_default")]
        max_flows: u32 = 0 => {
            sentence: "Maximum number of concurrent flows.",
            default: "0: unlimited",
            range: "0 to 67,108,864",
            read: |it, key| it.integer(key, &MAX_FLOWS),
        }
        #[serde(default, skip_serializing_if = "Option::is_none")]
        health_check: Option<HealthCheck> = None => {
            sentence: "How its backends are checked.",
            default: "`{ type = \"tcp\" }` for TCP, `{ type = \"none\" }` for UDP and for more than one port",
            range: "a table, below",
            read: |it, key| it.section(key, check::KEYS, HealthCheck::read).flatten().map(Some),
            keys: check::KEYS,
            none: |it| it.health_check = Some(HealthCheck::new(Probe::None)),
            in_effect: |it| it.health_check = Some(it.check()),
        }
        #[serde(default, skip_serializing_if = "Option::is_none")]
        discovery: Option<Discovery> = None => {
            sentence: "How additional backends are found: by DNS or in a file.",
            default: "none",
            range: "a table, below",
            read: |it, key| it.section(key, written_discovery::KEYS, Discovery::read).flatten().map(Some),
            keys: written_discovery::KEYS,
            none: |it| it.discovery = None,
        }
        #[serde(default, rename = "backend", skip_serializing_if = "Vec::is_empty")]
        backends as "backend": Vec<Backend> = Vec::new() => {
            sentence: "Its backends.",
            default: "none",
            range: "a list of tables, below",
            read: |it, key| it.sections(key, Backend::KEYS, label, Backend::read),
            fixed: "add and remove backends one by one (xdp-lb backend add, xdp-lb backend remove); set an option of one with backend.ADDR:PORT.KEY=VALUE",
        }
    }
}

options! {
    /// A backend of a service.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[schemars(example = serde_json::json!({ "address": "198.51.100.13:8080", "weight": 100 }))]
    pub struct Backend {
        #[schemars(regex(pattern = text::ENDPOINT))]
        #[serde(deserialize_with = "text::deserialize_endpoint")]
        address: SocketAddr = NOWHERE => {
            sentence: "Where the real server listens.",
            default: "none: must be given",
            range: "address and port, each once in a service; see below",
            read: |it, key| it.required(key, "address = \"198.51.100.11:8080\"", text::parse_endpoint),
            fixed: "another address is another backend: add that one (xdp-lb backend add), then remove this one (xdp-lb backend remove)",
        }
        #[serde(default = "default_weight")]
        weight: u16 = default_weight() => {
            sentence: "Its share of new flows relative to the service's other backends.",
            default: "100",
            range: "0 to 65,535",
        }
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_id: Option<ServerId> = None => {
            sentence: "The server's ID in QUIC's connection IDs.",
            default: "none: must be given if the service has `quic`, and only then",
            range: "as many bytes as `server_id_length` says, in hex, each once in a service",
            value_name: "HEX",
            read: |it, key| it.parsed(key, str::parse).map(Some),
            none: |it| it.server_id = None,
        }
        #[serde(default, skip_serializing_if = "is_default")]
        backup: bool = false => {
            sentence: "Whether it takes new flows only while too few others are up.",
            default: "false",
            range: "true, false",
        }
        #[serde(default, skip_serializing_if = "is_default")]
        max_flows: u32 = 0 => {
            sentence: "Maximum number of concurrent flows.",
            default: "0: unlimited",
            range: "0 to 67,108,864",
            read: |it, key| it.integer(key, &MAX_FLOWS),
        }
    }
}

fn description(text: &str) -> Result<String, String> {
    let length = text.chars().count();
    if length > LONGEST_DESCRIPTION {
        return Err(format!("has {length} characters; write at most {LONGEST_DESCRIPTION}"));
    }
    if let Some(unseen) = text.chars().find(|it| it.is_control() || is_unseen(*it)) {
        return Err(format!("contains the invisible character U+{:04X}; remove it", unseen as u32));
    }
    Ok(text.to_owned())
}

/// Whether a character changes how others are shown, or is not shown itself: Unicode's format characters and separators of
/// lines (general categories Cf, Zl and Zp), as far as they are in use. A terminal could show a line that is none.
const fn is_unseen(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}

fn deserialize_description<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    description(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

/// Ranges of clients. An invalid one has a placeholder, so that the others keep their positions.
fn ranges(section: &mut Section<'_>, key: &str) -> Option<Vec<Prefix>> {
    let list = section.list(key, str::parse)?;
    if list.is_empty() {
        section.problem(key, EMPTY_RANGES);
    }
    Some(list.into_iter().map(|range| range.unwrap_or(Prefix::ALL_IPV4)).collect())
}

/// The label of a table's backend in errors.
fn label(table: &Table, index: usize) -> String {
    let address = match table.get("address") {
        Some(Node::Text(text)) => text.parse().ok(),
        _ => None,
    };
    backend_label(address, index)
}

/// The label of a backend in errors: by address, or by position if the address is unknown.
pub(crate) fn backend_label(address: Option<SocketAddr>, index: usize) -> String {
    match address {
        Some(address) => format!("backend {address}"),
        None => format!("backend #{}", index + 1),
    }
}

/// Whether a value is the default.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The default weight of a backend.
pub const fn default_weight() -> u16 {
    100
}

impl Backend {
    /// A backend of this weight, with defaults for everything else.
    pub const fn new(address: SocketAddr, weight: u16) -> Self {
        Self { address, weight, ..Self::blank() }
    }
}

impl Service {
    /// A service without backends, with defaults for everything else.
    pub fn new(name: impl Into<String>, vip: Vip) -> Self {
        Self { name: name.into(), vip, ..Self::blank() }
    }

    /// Whether its backends are checked.
    pub fn is_checked(&self) -> bool {
        match &self.health_check {
            Some(check) => check.probe != Probe::None,
            None => self.protocol == Protocol::Tcp && !self.vip.is_range(),
        }
    }

    /// For display: with its effective health check, without secrets.
    pub fn shown(&self) -> Self {
        Self { health_check: Some(self.check().shown()), ..self.clone() }
    }

    /// Its health check, or the default one: a TCP connect for TCP, none for UDP or if the VIP has more than one port.
    pub fn check(&self) -> HealthCheck {
        self.health_check.clone().unwrap_or_else(|| {
            HealthCheck::new(match self.protocol {
                Protocol::Tcp if !self.vip.is_range() => Probe::Tcp,
                _ => Probe::None,
            })
        })
    }

    /// When the flows of its backends that are down end.
    pub fn down_policy(&self) -> DownPolicy {
        match self.on_down {
            OnDown::Keep => DownPolicy::Keep,
            OnDown::Reset => DownPolicy::Reset,
            OnDown::Auto if self.mode.keeps_destination() => {
                DownPolicy::After(self.down_timeout.unwrap_or(Duration::from_secs(30)))
            }
            OnDown::Auto => DownPolicy::OnceSilent(self.down_grace.unwrap_or(Duration::from_secs(2))),
        }
    }

    /// Itself without its backends.
    pub(crate) fn without_backends(&self) -> Self {
        // Thousands of backends are not copied to be thrown away.
        let Self { name, description, snat_addresses, allow, deny, agent, health_check, discovery, .. } =
            self;
        Self {
            name: name.clone(),
            description: description.clone(),
            snat_addresses: snat_addresses.clone(),
            allow: allow.clone(),
            deny: deny.clone(),
            agent: agent.clone(),
            health_check: health_check.clone(),
            discovery: discovery.clone(),
            backends: Vec::new(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::config::parse;
    use crate::model::check::{Body, Http, Method, StatusRange, Tls, TlsVersion, Via};
    use crate::model::{Options as _, validate_backend, validate_service};

    fn tls() -> impl Strategy<Value = Tls> {
        let name = prop::option::of("[a-z]{1,9}(\\.[a-z]{1,9}){0,3}");
        (name, any::<bool>(), prop::option::of("(/[a-z.]{0,8}[a-z]){1,3}"), any::<bool>()).prop_map(
            |(server_name, verify, ca_file, newest)| Tls {
                server_name,
                verify,
                ca_file: ca_file.filter(|_| verify).map(Into::into),
                min_version: if newest { TlsVersion::V1_3 } else { TlsVersion::V1_2 },
            },
        )
    }

    fn http() -> impl Strategy<Value = Http> {
        let host = prop::option::of("[a-z]{1,9}(:[1-9][0-9]{0,3})?");
        let method = prop::sample::select(vec![Method::Get, Method::Options, Method::Head]);
        let headers = prop::collection::btree_map("x-[a-z]{1,9}", "[a-zA-Z0-9=:/]([ -~]{0,9}[!-~])?", 0..4);
        let status = prop::collection::vec((100u16..600, 0u16..600), 1..4);
        let body = prop_oneof![
            Just(None),
            "[^\\p{Cc}]{1,20}".prop_map(|text| Some(Body::Contains(text))),
            "[a-z.+]{0,5}[a-z]"
                .prop_filter_map("a pattern", |text| { Some(Some(Body::Matches(text.parse().ok()?))) }),
        ];
        (prop::option::of(tls()), method, "/[a-z0-9/?=&%.]{0,20}", host, headers, status, body).prop_map(
            |(tls, method, path, host, headers, status, body)| Http {
                tls,
                method,
                path,
                host,
                headers: headers.into_iter().collect(),
                status: status
                    .into_iter()
                    .map(|(low, more)| StatusRange { low, high: (low + more).min(599) })
                    .collect(),
                body: body.filter(|_| method != Method::Head),
            },
        )
    }

    fn probe() -> impl Strategy<Value = Probe> {
        let bytes = || prop::collection::vec(any::<u8>(), 1..20);
        let text = || "[^\\p{Cc}]{1,20}".prop_map(String::into_bytes);
        prop_oneof![
            Just(Probe::None),
            Just(Probe::Tcp),
            Just(Probe::Icmp),
            http().prop_map(Probe::Http),
            ("[a-z]{1,9}(\\.[a-z]{1,9}){0,3}\\.?", prop::sample::select(vec!["A", "AAAA", "TXT", "SOA"]))
                .prop_map(|(name, record)| Probe::Dns { name, record: record.into() }),
            (prop_oneof![bytes(), text()], prop::option::of(prop_oneof![bytes(), text()]))
                .prop_map(|(send, expect)| Probe::Udp { send, expect }),
            ("[a-z.]{0,20}", prop::option::of("[a-z]{1,9}"), prop::option::of(tls()))
                .prop_map(|(service, host, tls)| Probe::Grpc { service, host, tls }),
            ("(/[a-z]{1,9}){1,3}", prop::collection::vec("[ -~]{0,9}", 0..3)).prop_map(
                |(program, arguments)| Probe::Exec {
                    command: [vec![program], arguments].concat(),
                    user: "nobody".into(),
                }
            ),
        ]
    }

    fn check() -> impl Strategy<Value = HealthCheck> {
        let counts = (1u16..=100, 1u16..=100, 0u8..=50);
        (probe(), 100u64..=3_600_000, 0f64..=1.0, counts, prop::option::of(1u16..)).prop_map(
            |(probe, interval, part, (rise, fall, jitter), port)| HealthCheck {
                interval: Duration::from_millis(interval),
                fast_interval: port
                    .map(|_| Duration::from_millis(((interval as f64 * part) as u64).clamp(100, interval))),
                jitter,
                timeout: Duration::from_millis(((interval as f64 * part) as u64).clamp(10, interval)),
                rise,
                fall,
                source: None,
                port: port.filter(|_| !matches!(probe, Probe::None | Probe::Icmp)),
                via: Via::Backend,
                probe,
            },
        )
    }

    fn circuit_breaker() -> impl Strategy<Value = CircuitBreaker> {
        (1u64..=60, 1u64..=60, 2u64..=600, 1u8..=50, (1u8..=100, 1u32..=1_000_000, 1u8..=100)).prop_map(
            |(open, more, window, half_open_portion, (failure_percent, min_flows, max_ejected))| {
                CircuitBreaker {
                    open: Duration::from_secs(open),
                    max_open: Duration::from_secs(open + more),
                    window: Duration::from_secs(window),
                    half_open_portion,
                    failure_percent: Some(failure_percent),
                    min_flows: Some(min_flows),
                    max_ejected: Some(max_ejected),
                }
            },
        )
    }

    fn agent() -> impl Strategy<Value = Agent> {
        (1u16.., 100u64..=3_600_000, prop::option::of(0f64..=1.0), "[ -~]{0,20}\n?").prop_map(
            |(port, interval, part, send)| Agent {
                port,
                interval: Duration::from_millis(interval),
                timeout: part
                    .map(|part| Duration::from_millis(((interval as f64 * part) as u64).clamp(10, interval))),
                send,
                source: None,
            },
        )
    }

    fn feedback() -> impl Strategy<Value = Feedback> {
        (prop::option::of(1u8..=100), 1u8..=50, 1u64..=600).prop_map(|(floor, min_change, hold)| Feedback {
            latency: floor.is_some(),
            floor,
            min_change,
            hold: Duration::from_secs(hold),
        })
    }

    fn address(v6: bool, net: u8, host: u16) -> IpAddr {
        match v6 {
            true => std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, net.into(), host).into(),
            false => [198, 51, 100, net | (host as u8 & 0x3f)].into(),
        }
    }

    fn hosts() -> impl Strategy<Value = BTreeSet<u16>> {
        prop::collection::btree_set(0u16..64, 0..4)
    }

    /// A service with what others depend on: its VIP, its protocol and its mode.
    fn plain_service() -> impl Strategy<Value = Service> {
        let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
        let names = ("[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "[^\\p{C}\\p{Zl}\\p{Zp}]{0,200}");
        (names, any::<bool>(), 1u16.., protocol, any::<bool>(), hosts(), prop::option::of(check())).prop_map(
            |((name, description), v6, port, protocol, nat, snat, health_check)| Service {
                description,
                protocol,
                mode: if nat { Mode::Nat } else { Mode::FullNat },
                on_no_backends: if v6 { OnNoBackends::Reject } else { OnNoBackends::Drop },
                flow_tracking: if v6 { FlowTracking::Always } else { FlowTracking::Auto },
                hairpin: if v6 && nat { Hairpin::Off } else { Hairpin::Auto },
                snat_addresses: snat
                    .into_iter()
                    .filter(|_| !nat)
                    .map(|host| address(v6, 0x40, host))
                    .collect(),
                health_check,
                ..Service::new(name, SocketAddr::new(address(v6, 0, 1), port).into())
            },
        )
    }

    /// The same with clients that it serves, and how.
    fn with_clients(service: impl Strategy<Value = Service>) -> impl Strategy<Value = Service> {
        let affinity = prop_oneof![
            Just(Affinity::None),
            Just(Affinity::Source),
            (1u8..=32).prop_map(Affinity::SourcePrefix)
        ];
        let rate = || 0u32..=1_000_000;
        (service, affinity, hosts(), hosts(), rate(), rate()).prop_map(
            |(service, affinity, allow, deny, rate, burst)| {
                let v6 = !service.vip.is_ipv4();
                let range =
                    |net, host| Prefix { address: address(v6, net, host), bits: if v6 { 128 } else { 32 } };
                Service {
                    affinity,
                    allow: allow.into_iter().map(|host| range(0, host)).collect(),
                    deny: deny.into_iter().map(|host| range(0xc0, host)).collect(),
                    max_flows: rate,
                    new_flow_rate: rate,
                    new_flow_burst: if rate == 0 { 0 } else { burst },
                    ..service
                }
            },
        )
    }

    /// The same with backends, and what follows from their health.
    fn with_backends(service: impl Strategy<Value = Service>) -> impl Strategy<Value = Service> {
        let backends = prop::collection::btree_map((0u16..64, 1u16..), any::<u16>(), 0..5);
        let slow_start = prop::option::of((1u64..=3600).prop_map(Duration::from_secs));
        let follows = prop::option::of((agent(), prop::option::of(feedback())));
        let on_down = prop::sample::select(vec![OnDown::Auto, OnDown::Keep, OnDown::Reset]);
        let down_grace = prop::option::of((500u64..=3_600_000).prop_map(Duration::from_millis));
        let breaker = prop::option::of(circuit_breaker());
        (service, backends, 0u8..=100, slow_start, breaker, follows, on_down, down_grace).prop_map(
            |(service, backends, panic_threshold, slow_start, breaker, follows, on_down, down_grace)| {
                let (v6, is_checked) = (!service.vip.is_ipv4(), service.is_checked());
                let backend = |((host, port), weight): ((u16, u16), u16)| {
                    let address = SocketAddr::new(address(v6, 0x80, host), port);
                    let max_flows = u32::from(weight) * u32::from(host);
                    Backend { max_flows, backup: weight % 2 == 0, ..Backend::new(address, weight) }
                };
                let (agent, feedback) = follows.unzip();
                Service {
                    backends: backends.into_iter().map(backend).collect(),
                    panic_threshold,
                    slow_start,
                    circuit_breaker: breaker.map(|breaker| match service.protocol {
                        Protocol::Tcp => breaker,
                        Protocol::Udp => {
                            CircuitBreaker { failure_percent: None, ..CircuitBreaker::default() }
                        }
                    }),
                    on_down,
                    down_grace: down_grace.filter(|_| on_down == OnDown::Auto),
                    agent,
                    feedback: feedback.flatten().map(|feedback| match is_checked {
                        true => feedback,
                        false => Feedback { latency: false, floor: None, ..feedback },
                    }),
                    ..service
                }
            },
        )
    }

    fn service() -> impl Strategy<Value = Service> {
        with_backends(with_clients(plain_service()))
    }

    #[derive(Serialize)]
    struct File {
        interfaces: Vec<String>,
        allow_exec_checks: bool,
        service: Vec<Service>,
    }

    proptest! {
        #[test]
        fn a_service_is_the_same_after_json(service in service()) {
            let json = serde_json::to_string(&service).expect("printed");
            let read: Service = serde_json::from_str(&json).expect("read");
            prop_assert_eq!(&read, &service);
            prop_assert_eq!(validate_service(&read), Ok(()));
        }

        #[test]
        fn a_service_is_the_same_after_a_config_file(service in service()) {
            let interfaces = vec!["eth0".into()];
            let file = File { interfaces, allow_exec_checks: true, service: vec![service.clone()] };
            let config = match parse(&toml::to_string(&file).expect("printed")) {
                Ok(config) => config,
                Err(errors) => return Err(TestCaseError::fail(errors.to_string())),
            };
            prop_assert_eq!(config.services, vec![service]);
        }
    }

    fn web(json: &str) -> Result<Service, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_service_in_json_is_read_with_the_words_of_the_config_file() {
        let minimal = web(r#"{"name":"web","vip":"192.0.2.10:80"}"#).expect("valid");
        assert_eq!((minimal.protocol, minimal.mode), (Protocol::Tcp, Mode::FullNat));
        let cases = [
            (r#"{"name":"web","vip":"192.0.2.10"}"#, "\"192.0.2.10\" has no port; write \"192.0.2.10:80\""),
            (
                r#"{"name":"web","vip":"192.0.2.10:80","mode":"gre"}"#,
                "\"gre\" is not known; did you mean \"gue\"?",
            ),
            (r#"{"name":"web","vip":"192.0.2.10:80","weight":1}"#, "unknown field `weight`"),
            (
                r#"{"name":"web","vip":"192.0.2.10:80","backend":[{"address":"b:1"}]}"#,
                "\"b\" is not an IP address",
            ),
        ];
        for (json, words) in cases {
            let message = web(json).expect_err("refused");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_description_is_one_line_that_fits_a_screen() {
        let of = |text: &str| {
            let json = serde_json::json!({ "name": "web", "vip": "192.0.2.10:80", "description": text });
            let row = Service::OPTIONS.iter().find(|row| row.key == "description").expect("an option");
            let typed = row.value(text).is_ok();
            let read = web(&json.to_string()).map(|service| service.description);
            assert_eq!(typed, read.is_ok(), "the CLI and the API agree: {text:?}");
            read
        };
        let longest = "ü".repeat(200);
        for good in ["Webshop; ask netops@example.com", "", &longest] {
            assert_eq!(of(good).as_deref(), Ok(good));
        }
        for (bad, words) in [
            (&*format!("{longest}."), "has 201 characters; write at most 200"),
            ("two\nlines", "contains the invisible character U+000A; remove it"),
            ("web\u{202e}gnp", "contains the invisible character U+202E; remove it"),
        ] {
            let wrong = of(bad).expect_err("refused");
            assert!(wrong.starts_with(words), "{wrong}");
        }
    }

    #[test]
    fn a_service_from_the_api_is_held_to_the_rules_of_the_file() {
        let bad = web(r#"{"name":"we b","vip":"192.0.2.10:0","health_check":{"type":"tcp","rise":0},
                "backend":[{"address":"[2001:db8::1]:80"}]}"#)
        .expect("well-formed");
        assert_eq!(
            validate_service(&bad).expect_err("refused"),
            [
                "service \"we b\": name: \"we b\" contains ' '; write only letters, digits, \"-\", \"_\" and \".\"",
                "service \"we b\": vip: \"192.0.2.10:0\" has port 0; write 1 to 65535, or \"192.0.2.10:*\" for \
                 all ports",
                "service \"we b\": health_check.rise: 0 is out of range; write 1 to 100",
                "service \"we b\": backend [2001:db8::1]:80: address: \"[2001:db8::1]:80\" is IPv6 but the VIP \
                 192.0.2.10:0 is IPv4; a service and its backends must be of one family (except in modes \"ipip\" and \"gue\"), so give the other family its own service",
            ]
        );
        let backend = Backend::new("192.0.2.10:80".parse().expect("an address"), 1);
        let good = web(r#"{"name":"web","vip":"192.0.2.10:80"}"#).expect("valid");
        assert_eq!(
            validate_backend(&good, &backend).expect_err("refused"),
            [
                "service \"web\": backend 192.0.2.10:80: address: \"192.0.2.10:80\" is the VIP of this service, so \
                 its packets would come back here; write the real server's own address"
            ]
        );
    }

    #[test]
    fn a_health_check_in_words_says_what_is_tried_and_how_often() {
        let words = |probe| HealthCheck::new(probe).to_string();
        let http = Http {
            host: Some("example.com".into()),
            status: vec![StatusRange { low: 200, high: 299 }, StatusRange { low: 401, high: 401 }],
            ..Http::get("/healthz")
        };
        assert_eq!(
            words(Probe::Http(http.clone())),
            "http GET /healthz of example.com, status 200-299, 401, every 1s, timeout 500ms, rise 2, fall 3"
        );
        let tls = Tls {
            server_name: Some("a.example".into()),
            verify: false,
            min_version: TlsVersion::V1_3,
            ..Tls::default()
        };
        let https = Http {
            tls: Some(tls),
            method: Method::Options,
            headers: vec![("X-Probe".into(), "1".into())],
            body: Some(Body::Contains("ok".into())),
            ..http
        };
        assert_eq!(
            words(Probe::Http(https)),
            "https OPTIONS /healthz of example.com, X-Probe: 1, status 200-299, 401, body with \"ok\", TLS 1.3 with \
             a.example, certificate not verified, every 1s, timeout 500ms, rise 2, fall 3"
        );
        for (probe, expected) in [
            (Probe::Icmp, "icmp"),
            (Probe::Udp { send: b"ping".into(), expect: Some(vec![0, 255]) }, "udp \"ping\", expects 0x00ff"),
            (
                Probe::Grpc { service: "shop.Cart".into(), host: None, tls: Some(Tls::default()) },
                "grpc shop.Cart, TLS 1.2 or later",
            ),
            (
                Probe::Exec { command: vec!["/bin/check".into(), "-v".into()], user: "nobody".into() },
                "exec /bin/check -v as nobody",
            ),
        ] {
            assert_eq!(words(probe), format!("{expected}, every 1s, timeout 500ms, rise 2, fall 3"));
        }
        assert_eq!(HealthCheck::new(Probe::None).to_string(), "none");
        let of_vip = HealthCheck { via: Via::Vip, port: Some(81), ..HealthCheck::new(Probe::Tcp) };
        assert_eq!(of_vip.to_string(), "tcp, to the VIP, port 81, every 1s, timeout 500ms, rise 2, fall 3");
    }
}
