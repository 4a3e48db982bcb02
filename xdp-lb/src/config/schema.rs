//! The config file's schema: every key, its unit and its default.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text;
use super::written_check::WrittenCheck;

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
    /// The control socket.
    pub api: Api,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// The sizes of the tables.
    pub limits: Limits,
    /// When flows are over.
    pub timeouts: Timeouts,
    /// The services, in the file's order.
    pub services: Vec<Service>,
}

/// How the program is attached to an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum XdpMode {
    /// Native where the driver has it, else generic.
    #[default]
    Auto,
    /// In the driver; refused where the driver has no XDP.
    Native,
    /// After the kernel has made a socket buffer: works everywhere, slower.
    Generic,
}

/// The control socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Default `/run/xdp-lb/api.sock`.
    pub socket: PathBuf,
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
    /// Services. Default 4,096.
    pub services: u32,
    /// Backends of all services together. Default 16,384.
    pub backends: u32,
    /// Slots of all rings together, 8 bytes each. Default 4,194,304.
    pub slots: u32,
    /// Flow records, about 170 bytes each; a `full-nat` flow takes two. Default 1,048,576.
    pub flows: u32,
}

/// When flows are over, in whole seconds.
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its name: 1 to 63 letters, digits, `-`, `_` or `.`; no two services share one.
    pub name: String,
    /// The address and port that clients connect to. No two services share VIP and protocol.
    #[serde(deserialize_with = "text::deserialize_endpoint")]
    pub vip: SocketAddr,
    /// TCP or UDP.
    #[serde(default)]
    pub protocol: Protocol,
    /// How packets reach the backends.
    #[serde(default)]
    pub mode: Mode,
    /// `full-nat`: the addresses that backends see, of the VIP's family, at most 16.
    /// Default: this host's address towards the backend.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snat_addresses: Vec<IpAddr>,
    /// How its backends are checked. Default: a TCP connect every second for TCP, none for UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
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
}

/// A backend of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// Where it listens; of the VIP's family.
    #[serde(deserialize_with = "text::deserialize_endpoint")]
    pub address: SocketAddr,
    /// Its share of new flows relative to the others, 0 to 65,535; 0: none. Default 100.
    #[serde(default = "default_weight")]
    pub weight: u16,
}

/// The weight of a backend that names none.
pub const fn default_weight() -> u16 {
    100
}

/// How backends are checked. Written flat, in TOML as in JSON:
/// `{type = "http", path = "/healthz", interval = "1s"}`; all but `type` has a default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "WrittenCheck", into = "WrittenCheck")]
pub struct HealthCheck {
    /// What is tried.
    pub probe: Probe,
    /// The time between the starts of two checks, jittered by a tenth. 100 ms to 1 h, default 1 s.
    pub interval: Duration,
    /// How long one check may take. 10 ms up to the interval; default 500 ms, or the interval where
    /// that is shorter.
    pub timeout: Duration,
    /// How many successes in a row make a backend that is down come up. 1 to 100, default 2.
    pub rise: u16,
    /// How many failures in a row make a backend that is up go down. 1 to 100, default 3.
    pub fall: u16,
}

impl HealthCheck {
    /// This probe, with the default interval, timeout, rise and fall.
    pub const fn new(probe: Probe) -> Self {
        Self {
            probe,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
        }
    }
}

/// What a health check tries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nothing: the backend counts as up.
    None,
    /// A TCP connection is accepted.
    Tcp,
    /// `GET path` is answered with a status in the range.
    Http {
        /// The request's path, beginning with `/`. Default `/`.
        path: String,
        /// The `Host` header. Default: the backend's address.
        host: Option<String>,
        /// The lowest and highest status that count as healthy. Default 200 to 399.
        status: (u16, u16),
    },
    /// A DNS query over UDP is answered with NOERROR, or with NXDOMAIN, which a live server may say.
    Dns {
        /// The name that is asked for. Default `.`, whose NS every resolver knows; a server that
        /// only answers for its own zones needs one of their names here.
        name: String,
        /// The record type that is asked for: `A`, `AAAA`, `NS`, ... Default `NS` for the name `.`,
        /// else `A`.
        record: String,
    },
}

impl Service {
    /// Its health check, or the default one: a TCP connect for TCP, none for UDP.
    pub fn check(&self) -> HealthCheck {
        self.health_check.clone().unwrap_or_else(|| {
            HealthCheck::new(match self.protocol {
                Protocol::Tcp => Probe::Tcp,
                Protocol::Udp => Probe::None,
            })
        })
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { socket: "/run/xdp-lb/api.sock".into() }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from(([127, 0, 0, 1], 9799))) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { services: 4096, backends: 16_384, slots: 4_194_304, flows: 1_048_576 }
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

/// The words of an enum: one table for reading and printing. `later` are words that the design
/// knows and this version does not.
macro_rules! words {
    ($type:ident: $($word:literal => $variant:ident),+; later: [$($later:literal),*]) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                const KNOWN: &[&str] = &[$($word),+];
                const LATER: &[&str] = &[$($later),*];
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ if LATER.contains(&text) => Err(text::not_yet(text, KNOWN)),
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
    };
}

words!(XdpMode: "auto" => Auto, "native" => Native, "generic" => Generic; later: []);
words!(Protocol: "tcp" => Tcp, "udp" => Udp; later: []);
words!(Mode: "full-nat" => FullNat, "nat" => Nat; later: ["dsr", "ipip", "gue"]);
