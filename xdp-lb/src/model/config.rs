//! The configuration outside of services: every key, its unit and its default.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::choices::{Attach, Withdraw};
use super::service::Service;
use super::values::EVERY_CERTIFICATE;
use super::vip::PortRange;

/// A whole config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The interfaces to which the program is attached. At least one.
    pub interfaces: Vec<String>,
    /// How the program is attached to them.
    pub attach: Attaching,
    /// Where changes made through the CLI are kept. Default `/var/lib/xdp-lb/state.json`.
    pub state_file: PathBuf,
    /// The bpffs directory of the pins. Default `/sys/fs/bpf/xdp-lb`.
    pub pin_path: PathBuf,
    /// The secret of the flow hash, 64 hex digits (32 bytes); the same on every node of a fleet.
    /// Default: generated once and kept with the pins.
    pub flow_hash_secret: Option<[u8; 32]>,
    /// The source ports of `full-nat` flows; outside the host's own ephemeral range. Default 1024-32767.
    pub snat_ports: PortRange,
    /// The VIPs as addresses of this host.
    pub vips: Vips,
    /// The control socket.
    pub api: Api,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// The sizes of the tables.
    pub limits: Limits,
    /// When idle flows end.
    pub timeouts: Timeouts,
    /// How long a service or backend that was removed may keep its flows. Up to 7 days, default 1 h.
    pub drain_timeout: Duration,
    /// Whether packets from backends may arrive on another interface or VLAN than the one towards them.
    pub asymmetric_replies: bool,
    /// Whether health checks may run programs on this host.
    pub allow_exec_checks: bool,
    /// Whether the sender of a packet whose TTL runs out here gets ICMP "time exceeded". Default true.
    pub icmp_time_exceeded: bool,
    /// The services, in the file's order.
    pub services: Vec<Service>,
    /// Warnings about keys of the file that no longer have an effect.
    pub obsolete: Vec<&'static str>,
}

/// How the program is attached to each interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Attaching {
    /// To those that are not named.
    pub default: Attach,
    /// To those that are.
    pub interfaces: BTreeMap<String, Attach>,
}

impl Attaching {
    /// To this interface.
    pub fn of(&self, interface: &str) -> Attach {
        self.interfaces.get(interface).copied().unwrap_or(self.default)
    }
}

/// The VIPs as addresses of this host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vips {
    /// The interface to which the daemon adds them. `None`: the daemon does not manage them.
    pub interface: Option<String>,
    /// When it removes them.
    pub withdraw: Withdraw,
}

/// The control socket, and the listener for other hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    /// Default `/run/xdp-lb/api.sock`.
    pub socket: PathBuf,
    /// The groups of this host whose members may do everything, like root. Default: none.
    pub admin_groups: Vec<String>,
    /// The groups whose members have read access. Default: none.
    pub read_groups: Vec<String>,
    /// The listener for other hosts. Default: none.
    pub remote: Option<Remote>,
}

/// The listener for other hosts: TLS, with certificates on both sides. The files are PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remote {
    /// The address and port.
    pub listen: SocketAddr,
    /// The listener's certificate, and the intermediate certificates.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// The certificates of the CAs that sign clients' certificates.
    pub client_ca: PathBuf,
    /// The names of the certificates whose holders may do everything.
    pub admin_certificates: Vec<String>,
    /// The names of certificates whose holders have read access; [`Remote::ANY`]: any signed by a CA of `client_ca`.
    pub read_certificates: Vec<String>,
}

impl Remote {
    /// The wildcard for every name.
    pub const ANY: &str = EVERY_CERTIFICATE;
}

/// The metrics endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metrics {
    /// The address that Prometheus scrapes. Default `127.0.0.1:9799`; `None` (written "off"): no endpoint.
    pub listen: Option<SocketAddr>,
}

/// The sizes of the tables, which bound the kernel's memory for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Services. 1 to 65,536, default 4,096.
    pub services: u32,
    /// Backends of all services together. 1 to 1,000,000, default 16,384.
    pub backends: u32,
    /// Slots of all rings together, 8 bytes each. 1,024 to 2^28, default 4,194,304.
    pub slots: u32,
    /// Recorded flows, 128 bytes each; an IPv6 flow counts twice. 1,024 to 2^26, default 1,048,576.
    pub flows: u32,
    /// Ranges of the `allow` and `deny` of all services together, up to 128 bytes each, used as they are needed.
    /// 1 to 2^24, default 65,536.
    pub source_ranges: u32,
    /// Clients whose rate of new flows is remembered, about 90 bytes each. 1,024 to 2^24, default 65,536.
    pub source_rates: u32,
    /// Fragmented packets in flight at a time, about 170 bytes each. 1,024 to 2^20, default 8,192.
    pub fragments: u32,
}

/// When idle flows end, in whole seconds, 1 s to 7 days.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// An established TCP flow without a packet. Default 15 min.
    pub tcp_idle: Duration,
    /// A UDP flow without a packet. Default 60 s.
    pub udp_idle: Duration,
}

impl Api {
    /// Whether users other than root may use the socket.
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
