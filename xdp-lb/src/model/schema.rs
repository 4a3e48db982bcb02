//! The config file's schema: every key, its unit and its default.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent::Agent;
use super::check::{HealthCheck, Probe};
use super::discovery::Discovery;
use super::feedback::Feedback;
use super::policy::{Affinity, Prefix, Quic, ServerId, deserialize_ranges};
use super::recovery::CircuitBreaker;
use super::text;
use super::vip::Vip;

/// A whole config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The interfaces that the program is attached to. At least one.
    pub interfaces: Vec<String>,
    /// How the program is attached.
    pub xdp_mode: XdpMode,
    /// Where changes made through the CLI are kept. Default `/var/lib/xdp-lb/state.json`.
    pub state_file: PathBuf,
    /// The bpffs directory of the pins. Default `/sys/fs/bpf/xdp-lb`.
    pub pin_path: PathBuf,
    /// The secret of the flow hash, 64 hex digits (32 bytes); the same on every node of a fleet.
    /// Default: made at random once and kept with the pins.
    pub flow_hash_secret: Option<[u8; 32]>,
    /// The ports that `full-nat` gives to flows; outside the host's own ephemeral range. Default 1024-32767.
    pub snat_ports: PortRange,
    /// The VIPs as addresses of this host.
    pub vips: Vips,
    /// The control socket.
    pub api: Api,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// The sizes of the tables.
    pub limits: Limits,
    /// When flows are over.
    pub timeouts: Timeouts,
    /// How long a service or backend that was removed may keep its flows. Up to 7 days, default 1 h.
    pub drain_timeout: Duration,
    /// Whether packets of backends may come in by another interface or VLAN than the one towards them.
    pub asymmetric_replies: bool,
    /// Whether health checks may run programs of this host.
    pub allow_exec_checks: bool,
    /// Whether the sender of a packet that has no hops left is told so by ICMP "time exceeded". Default true.
    pub icmp_time_exceeded: bool,
    /// The services, in the file's order.
    pub services: Vec<Service>,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum XdpMode {
    /// Native where the drivers of all interfaces have it, else generic.
    #[default]
    Auto,
    /// In the driver; refused where the driver has no XDP.
    Native,
    /// After the kernel has made a socket buffer: works everywhere, slower.
    Generic,
}

/// The VIPs as addresses of this host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vips {
    /// The interface that the daemon puts them on. `None`: the operator or a router sees to them.
    pub interface: Option<String>,
    /// When it takes them away.
    pub withdraw: Withdraw,
}

/// When a VIP is taken away from this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Withdraw {
    /// When no service has it any more, the node or all of its services are drained, or the datapath is unloaded.
    #[default]
    Never,
    /// Also while none of its services has a backend that is up or draining.
    NoBackends,
}

/// The control socket, and the listener for other hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Default `/run/xdp-lb/api.sock`.
    pub socket: PathBuf,
    /// The groups of this host whose members may do everything, as root may. Default: none.
    pub admin_groups: Vec<String>,
    /// The groups whose members may look, and not change anything. Default: none.
    pub read_groups: Vec<String>,
    /// Where other hosts may use the API. Default: nowhere.
    pub remote: Option<Remote>,
}

/// The listener for other hosts: TLS, with certificates on both sides. The files are PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// The address and port.
    pub listen: SocketAddr,
    /// The listener's certificate, and those between it and its CA.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The certificates of the CAs that sign clients' certificates.
    pub client_ca: PathBuf,
    /// The names of the certificates whose holders may do everything.
    pub admin_certificates: Vec<String>,
    /// The names of those whose holders may look, and not change anything; [`Remote::ANY`]: any that a CA of
    /// `client_ca` signed.
    pub read_certificates: Vec<String>,
}

impl Remote {
    /// What stands for every name.
    pub const ANY: &str = "*";
}

/// The metrics endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// Where Prometheus scrapes. Default `127.0.0.1:9799`; `None` (written "off"): nowhere.
    pub listen: Option<SocketAddr>,
}

/// The sizes of the tables, which bound the memory that the kernel side uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Services. 1 to 65,536, default 4,096.
    pub services: u32,
    /// Backends of all services together. 1 to 1,000,000, default 16,384.
    pub backends: u32,
    /// Slots of all rings together, 8 bytes each. 1,024 to 2^28, default 4,194,304.
    pub slots: u32,
    /// Flow records, about 170 bytes each; a `full-nat` flow takes two. 1,024 to 2^26, default
    /// 1,048,576.
    pub flows: u32,
    /// Records of flows that have sent one packet yet. 1,024 to 2^26, default 262,144.
    pub half_open_flows: u32,
    /// Ranges of the `allow` and `deny` of all services together, up to 128 bytes each, used as they are needed.
    /// 1 to 2^24, default 65,536.
    pub source_ranges: u32,
    /// Clients whose rate of new flows is remembered, about 90 bytes each. 1,024 to 2^24, default 65,536.
    pub source_rates: u32,
    /// Fragmented packets under way at a time, about 170 bytes each. 1,024 to 2^20, default 8,192.
    pub fragments: u32,
}

/// When flows are over, in whole seconds, 1 s to 7 days.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// An established TCP flow without a packet. Default 15 min.
    pub tcp_idle: Duration,
    /// A UDP flow without a packet. Default 60 s.
    pub udp_idle: Duration,
}

/// A range of ports, both ends included. Written `"1024-32767"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// The first port, at least 1.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
}

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
    /// Its name: 1 to 63 letters, digits, `-`, `_` or `.`; no two services share one.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// The address and port, or ports, that clients connect to. No two services share VIP and protocol.
    pub vip: Vip,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// How packets reach the backends.
    #[serde(default)]
    pub mode: Mode,
    /// `full-nat`: the addresses that backends see, of the VIP's family, at most 16. `ipip` and `gue`: the outer
    /// source addresses, of the backends' family. Default: this host's address towards the backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snat_addresses: Vec<IpAddr>,
    /// Which of its flows stay together on one backend.
    #[serde(default, skip_serializing_if = "is_default")]
    pub affinity: Affinity,
    /// Which of its flows are recorded.
    #[serde(default, skip_serializing_if = "is_default")]
    pub flow_tracking: FlowTracking,
    /// What becomes of new flows while no backend takes any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_no_backends: OnNoBackends,
    /// `nat`: whether clients beside a backend reach it from an address of this host.
    #[serde(default, skip_serializing_if = "is_default")]
    pub hairpin: Hairpin,
    /// UDP: how QUIC's connection ids name the backend that a packet is meant for. Default: they are not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<Quic>,
    /// The clients that it lets in; empty: all but those that it denies. Of the VIP's family. Where a client is
    /// in a range of both lists, the longer prefix counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "deserialize_ranges")]
    pub allow: Vec<Prefix>,
    /// The clients that it does not let in.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "deserialize_ranges")]
    pub deny: Vec<Prefix>,
    /// How many flows one client (an IPv4 address, an IPv6 network of 64 bits) may begin in a second, up to
    /// 1,000,000; 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub new_flow_rate: u32,
    /// How many of them it may begin at once, up to 1,000,000; 0: as many as in a second.
    #[serde(default, skip_serializing_if = "is_default")]
    pub new_flow_burst: u32,
    /// When a backend gets no new flows for a while, beyond what its health check says. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Where fewer of its backends are up than this, in percent of those that are no backups and not drained, its
    /// backups take flows, too; and where that is not enough, all that can be reached do, whatever their checks
    /// say. 0 to 100; 0: backups where no other is up, and never those that are down.
    #[serde(default, skip_serializing_if = "is_default")]
    pub panic_threshold: u8,
    /// Over which time a backend that comes back gets its share of new flows, 1 s to 1 h. Default: at once.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::duration_option")]
    pub slow_start: Option<Duration>,
    /// What becomes of the established flows of a backend that is down.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_down: OnDown,
    /// `on_down = "auto"`, `nat` and `full-nat`: for how long a backend that is down has to leave its clients without any
    /// answer before its flows end. 500 ms to 1 h, default 2 s.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::duration_option")]
    pub down_grace: Option<Duration>,
    /// `on_down = "auto"`, `dsr`, `ipip` and `gue`: for how long a backend is down before its flows end. 1 s to 1 day,
    /// default 30 s.
    #[schemars(with = "Option<String>")]
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::duration_option")]
    pub down_timeout: Option<Duration>,
    /// How its backends are asked how they are, beside the health check. Default: they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// What weights follow beside agents, and how that is damped. Default: nothing, and as [`Feedback::default`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Feedback>,
    /// How many flows it may have at a time, up to 2^26; 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_flows: u32,
    /// How its backends are checked. Default: a TCP connect every second for TCP, none for UDP or where the VIP has
    /// more than one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How more backends are found. Default: there are those that are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery: Option<Discovery>,
    /// Its backends.
    #[serde(default, rename = "backend", skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
}

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A forwarding mode.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Mode {
    /// Source and destination rewritten; needs nothing of the network.
    #[default]
    FullNat,
    /// Destination rewritten; the backends route to clients through this host.
    Nat,
    /// Ethernet addresses rewritten; the backends, on the same link, have the VIP and answer clients themselves.
    Dsr,
    /// Put into another IP packet; the backends have the VIP and answer clients themselves.
    Ipip,
    /// Put into a UDP packet (Generic UDP Encapsulation); the backends have the VIP and answer clients themselves.
    Gue,
}

impl Mode {
    /// Whether packets are put into others on their way to the backends.
    pub const fn encapsulates(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Whether packets reach the backends with the VIP and its port as their destination.
    pub const fn keeps_destination(self) -> bool {
        matches!(self, Self::Dsr | Self::Ipip | Self::Gue)
    }
}

/// What happens in `nat` to a client to whom its backend would reply directly: a neighbour on the backend's network, or the
/// backend itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Hairpin {
    /// Its packets leave from an address of this host, as in `full-nat`, so that the replies come back here.
    #[default]
    Auto,
    /// Its packets keep its address. Its connections fail, unless the backend sends those replies here, too.
    Off,
}

/// Which flows are recorded. `full-nat` records every flow, whatever this says: it has to know each one's port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum FlowTracking {
    /// Those whose slot of the ring has changed its owner recently: they alone could change their backend.
    #[default]
    Auto,
    /// All of them: they are counted exactly.
    Always,
}

/// What becomes of new flows while no backend takes any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum OnNoBackends {
    /// The client is told at once: by a TCP reset, or by ICMP "port unreachable" for UDP. Not before the first checks have
    /// ended.
    #[default]
    Reject,
    /// Nothing: the client tries until it gives up.
    Drop,
}

/// A backend of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "address": "198.51.100.13:8080", "weight": 100 }))]
pub struct Backend {
    /// Where it listens; of the VIP's family, unless the mode is `ipip` or `gue`. Port 0 where the VIP has more than
    /// one: packets keep theirs.
    #[schemars(regex(pattern = text::ENDPOINT))]
    #[serde(deserialize_with = "text::deserialize_endpoint")]
    pub address: SocketAddr,
    /// Its share of new flows relative to the others, 0 to 65,535; 0: none. Default 100.
    #[serde(default = "default_weight")]
    pub weight: u16,
    /// What it is called in QUIC's connection ids: needed where its service has `quic`, and there only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<ServerId>,
    /// Whether it takes new flows only where too few others of its service are up.
    #[serde(default, skip_serializing_if = "is_default")]
    pub backup: bool,
    /// How many flows it may have at a time, up to 2^26; 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_flows: u32,
}

/// Whether a value is what it is where nothing is written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The weight of a backend that names none.
pub const fn default_weight() -> u16 {
    100
}

impl Backend {
    /// A backend of this weight, with the defaults of everything else.
    pub const fn new(address: SocketAddr, weight: u16) -> Self {
        Self { address, weight, server_id: None, backup: false, max_flows: 0 }
    }
}

impl Service {
    /// A service without backends, with the defaults of everything else.
    pub fn new(name: impl Into<String>, vip: Vip) -> Self {
        Self {
            name: name.into(),
            vip,
            protocol: Protocol::default(),
            mode: Mode::default(),
            snat_addresses: Vec::new(),
            affinity: Affinity::default(),
            flow_tracking: FlowTracking::default(),
            on_no_backends: OnNoBackends::default(),
            hairpin: Hairpin::default(),
            quic: None,
            allow: Vec::new(),
            deny: Vec::new(),
            new_flow_rate: 0,
            new_flow_burst: 0,
            circuit_breaker: None,
            panic_threshold: 0,
            slow_start: None,
            on_down: OnDown::Auto,
            down_grace: None,
            down_timeout: None,
            agent: None,
            feedback: None,
            max_flows: 0,
            health_check: None,
            discovery: None,
            backends: Vec::new(),
        }
    }

    /// Whether its backends are checked.
    pub fn is_checked(&self) -> bool {
        match &self.health_check {
            Some(check) => check.probe != Probe::None,
            None => self.protocol == Protocol::Tcp && !self.vip.is_range(),
        }
    }

    /// Its health check, or the default one: a TCP connect for TCP, none for UDP or where the VIP has more than one
    /// port.
    pub fn check(&self) -> HealthCheck {
        self.health_check.clone().unwrap_or_else(|| {
            HealthCheck::new(match self.protocol {
                Protocol::Tcp if !self.vip.is_range() => Probe::Tcp,
                _ => Probe::None,
            })
        })
    }
}

impl Api {
    /// Whether others than root may use the socket.
    pub fn has_groups(&self) -> bool {
        !self.admin_groups.is_empty() || !self.read_groups.is_empty()
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: "/run/xdp-lb/api.sock".into(),
            admin_groups: Vec::new(),
            read_groups: Vec::new(),
            remote: None,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9799))) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: 4096,
            backends: 16_384,
            slots: 4_194_304,
            flows: 1_048_576,
            half_open_flows: 262_144,
            source_ranges: 65_536,
            source_rates: 65_536,
            fragments: 8192,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { tcp_idle: Duration::from_secs(15 * 60), udp_idle: Duration::from_secs(60) }
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self { first: 1024, last: 32767 }
    }
}

impl PortRange {
    /// Whether this port is one of the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text::range(text)
            .filter(|&(first, last)| first >= 1 && first <= last)
            .map(|(first, last)| Self { first, last })
            .ok_or_else(|| {
                format!(
                    "{} is not a range of ports from 1 to 65535; write \"1024-32767\"",
                    text::quoted(text)
                )
            })
    }
}

/// What becomes of the established flows of a backend that its health check or its agent calls down.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum OnDown {
    /// `nat`, `full-nat`: they stay while the backend answers any client. The other modes, in which its answers do not
    /// pass here: they stay for `down_timeout`.
    #[default]
    Auto,
    /// They stay.
    Keep,
    /// They end at once.
    Reset,
}

/// The words of an enum: one table for reading and printing.
macro_rules! words {
    ($type:ident: $($word:literal => $variant:ident),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                const KNOWN: &[&str] = &[$($word),+];
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(text::unknown_word(text, KNOWN)),
                }
            }
        }

        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": [$($word),+] })
            }
        }
    };
}

pub(crate) use words;

words!(XdpMode: "auto" => Auto, "native" => Native, "generic" => Generic);
words!(Protocol: "tcp" => Tcp, "udp" => Udp);
words!(Mode: "full-nat" => FullNat, "nat" => Nat, "dsr" => Dsr, "ipip" => Ipip, "gue" => Gue);
words!(Withdraw: "never" => Never, "no-backends" => NoBackends);
words!(FlowTracking: "auto" => Auto, "always" => Always);
words!(OnNoBackends: "reject" => Reject, "drop" => Drop);
words!(OnDown: "auto" => Auto, "keep" => Keep, "reset" => Reset);
words!(Hairpin: "auto" => Auto, "off" => Off);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::parse;
    use crate::model::check::{Body, Http, Method, StatusRange, Tls, TlsVersion, Via};
    use crate::model::{validate_backend, validate_service};

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

    fn service() -> impl Strategy<Value = Service> {
        let address = |v6: bool, net: u8, host: u16| -> IpAddr {
            if v6 {
                std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, net.into(), host).into()
            } else {
                [198, 51, 100, net | (host as u8 & 0x3f)].into()
            }
        };
        let protocol = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
        let backends = prop::collection::btree_map((0u16..64, 1u16..), any::<u16>(), 0..5);
        let range = move |v6: bool, net: u8, host: u16| {
            let address = address(v6, net, host);
            Prefix { address, bits: if v6 { 128 } else { 32 } }
        };
        let ranges = || prop::collection::btree_set(0u16..64, 0..4);
        let ranges = (ranges(), ranges());
        let rate = (0u32..=1_000_000, 0u32..=1_000_000);
        let slow_start = prop::option::of((1u64..=3600).prop_map(Duration::from_secs));
        let follows = prop::option::of((agent(), prop::option::of(feedback())));
        let down = (
            prop::sample::select(vec![OnDown::Auto, OnDown::Keep, OnDown::Reset]),
            prop::option::of((500u64..=3_600_000).prop_map(Duration::from_millis)),
        );
        let recovery = (0u8..=100, slow_start, prop::option::of(circuit_breaker()), follows, down);
        let affinity = prop_oneof![
            Just(Affinity::None),
            Just(Affinity::Source),
            (1u8..=32).prop_map(Affinity::SourcePrefix)
        ];
        let policy =
            (protocol, affinity, recovery, any::<bool>(), prop::collection::btree_set(0u16..64, 0..4));
        (
            "[A-Za-z0-9][A-Za-z0-9._-]{0,62}",
            any::<bool>(),
            1u16..,
            policy,
            ranges,
            rate,
            prop::option::of(check()),
            backends,
        )
            .prop_map(
                move |(
                    name,
                    v6,
                    port,
                    (protocol, affinity, recovery, nat, snat),
                    ranges,
                    rate,
                    health_check,
                    backends,
                )| Service {
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
                    backends: backends
                        .into_iter()
                        .map(|((host, port), weight)| {
                            let max_flows = u32::from(weight) * u32::from(host);
                            let address = SocketAddr::new(address(v6, 0x80, host), port);
                            Backend { max_flows, backup: weight % 2 == 0, ..Backend::new(address, weight) }
                        })
                        .collect(),
                    max_flows: rate.0,
                    affinity,
                    allow: ranges.0.into_iter().map(|host| range(v6, 0, host)).collect(),
                    deny: ranges.1.into_iter().map(|host| range(v6, 0xc0, host)).collect(),
                    panic_threshold: recovery.0,
                    circuit_breaker: recovery.2.map(|breaker| match protocol {
                        Protocol::Tcp => breaker,
                        Protocol::Udp => {
                            CircuitBreaker { failure_percent: None, ..CircuitBreaker::default() }
                        }
                    }),
                    slow_start: recovery.1,
                    on_down: recovery.4.0,
                    down_grace: recovery.4.1.filter(|_| recovery.4.0 == OnDown::Auto),
                    agent: recovery.3.clone().map(|follows| follows.0),
                    feedback: recovery.3.and_then(|follows| follows.1),
                    new_flow_rate: rate.0,
                    new_flow_burst: if rate.0 == 0 { 0 } else { rate.1 },
                    ..Service::new(name, SocketAddr::new(address(v6, 0, 1), port).into())
                },
            )
            .prop_map(|service| {
                let is_checked = service.is_checked();
                let feedback = service.feedback.map(|feedback| match is_checked {
                    true => feedback,
                    false => Feedback { latency: false, floor: None, ..feedback },
                });
                Service { feedback, ..service }
            })
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
    fn a_service_from_the_api_is_held_to_the_rules_of_the_file() {
        let bad = web(r#"{"name":"we b","vip":"192.0.2.10:0","health_check":{"type":"tcp","rise":0},
                "backend":[{"address":"[2001:db8::1]:80"}]}"#)
        .expect("well-formed");
        assert_eq!(
            validate_service(&bad).expect_err("refused"),
            [
                "service \"we b\": name: \"we b\" has ' ' in it; write letters, digits, \"-\", \"_\" and \".\" only",
                "service \"we b\": vip: \"192.0.2.10:0\" has port 0; write 1 to 65535, or \"192.0.2.10:*\" for \
                 all ports",
                "service \"we b\": health_check.rise: 0 is out of range; write 1 to 100",
                "service \"we b\": backend [2001:db8::1]:80: address: \"[2001:db8::1]:80\" is IPv6 and the VIP \
                 192.0.2.10:0 is IPv4; a service and its backends are of one family (but for modes \"ipip\" and \"gue\"), so give the other family a \
                 service of its own",
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
