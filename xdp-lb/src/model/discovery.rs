//! How additional backends of a service are found: by DNS, or in a file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::check::dns_name;
use super::choices::{Mode, words};
use super::place::{Place, Problems};
use super::state::Origin;
use super::text::{self, grouped, print_duration, quoted};
use super::values::{absolute_path, within};
use super::vip::Vip;

/// How a service's backends are found. Written flat, in TOML as in JSON:
/// `{type = "dns", name = "web.example.com", port = 8080}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Discovery {
    /// Where they are found.
    pub source: Source,
    /// Maximum number of backends. 1 to 10,000, default 256.
    pub max_backends: u32,
    /// How long a backend that is no longer found may keep its flows. Up to 7 days, default 1 h.
    pub drain_timeout: Duration,
}

/// Where backends are found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// In DNS.
    Dns(Dns),
    /// In this JSON file, which is reread whenever it is replaced.
    File(PathBuf),
}

/// Which DNS records name a service's backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// The fully qualified name to look up, without a search list.
    pub name: String,
    /// The record type. Default: the addresses of the VIP's family.
    pub record: Option<Record>,
    /// The port of backends that are found by address. Default: the VIP's.
    pub port: Option<u16>,
    /// The weight of backends that are found by address. Default 100.
    pub weight: u16,
    /// The resolvers, in order: the next one is used if one does not answer, or fails. At most 8. Default: those of
    /// `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// How long one resolver may take. 100 ms to 30 s, default 2 s.
    pub timeout: Duration,
    /// The shortest time between two lookups, whatever the answer's TTL. 1 s to 1 day, default 5 s.
    pub min_ttl: Duration,
    /// The longest. Up to 1 day, default 5 min.
    pub max_ttl: Duration,
    /// How long an address that is missing from answers counts as there. Up to 1 h, default 30 s.
    pub hold: Duration,
    /// What an answer without any backend does.
    pub on_empty: OnEmpty,
    /// How SRV records that do not have the lowest priority are treated.
    pub priorities: Priorities,
}

/// A DNS record type that names backends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Record {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Names with port and weight (RFC 2782).
    Srv,
}

/// What an answer without backends means.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum OnEmpty {
    /// A mistake more likely than an order: those that were found last are kept.
    #[default]
    Keep,
    /// No backend is left: all drain.
    Drain,
}

/// How SRV records that do not have the lowest priority are treated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "String")]
pub enum Priorities {
    /// They are passed over.
    #[default]
    Lowest,
    /// Their hosts are backups.
    Backup,
}

pub(crate) const MAX_BACKENDS: RangeInclusive<u32> = 1..=10_000;
/// How long leaving backends may keep their flows.
pub(crate) const DRAIN: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(7 * 24 * 3600);
/// The default of that.
pub(crate) const DEFAULT_DRAIN: Duration = Duration::from_secs(3600);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const HOLD: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const MOST_RESOLVERS: usize = 8;

impl Discovery {
    /// From this source, with defaults for everything else.
    pub const fn new(source: Source) -> Self {
        Self { source, max_backends: 256, drain_timeout: DEFAULT_DRAIN }
    }

    /// How long a missing backend is held. A file is replaced as a whole and always complete.
    pub const fn hold(&self) -> Duration {
        match &self.source {
            Source::Dns(dns) => dns.hold,
            Source::File(_) => Duration::ZERO,
        }
    }

    /// Validates it for a service with this VIP and mode, as far as they are known.
    pub(crate) fn check(
        &self,
        (vip, mode): (Option<Vip>, Option<Mode>),
        has_quic: bool,
        place: &Place,
        problems: &mut Problems,
    ) {
        problems.take(
            &place.key("max_backends"),
            within(self.max_backends, &MAX_BACKENDS, |n| grouped(n.into())),
        );
        problems.take(&place.key("drain_timeout"), within(self.drain_timeout, &DRAIN, print_duration));
        match &self.source {
            Source::Dns(dns) => dns.check((vip, mode), has_quic, place, problems),
            Source::File(path) => {
                problems.take(&place.key("path"), absolute_path(&path.to_string_lossy()));
            }
        }
    }
}

impl Dns {
    /// For this name, with defaults for everything else.
    pub const fn new(name: String) -> Self {
        Self {
            name,
            record: None,
            port: None,
            weight: 100,
            resolvers: Vec::new(),
            timeout: Duration::from_secs(2),
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_secs(300),
            hold: Duration::from_secs(30),
            on_empty: OnEmpty::Keep,
            priorities: Priorities::Lowest,
        }
    }

    /// The record type that is looked up for a VIP of this family.
    pub fn record(&self, is_v4: bool) -> Record {
        self.record.unwrap_or(if is_v4 { Record::A } else { Record::Aaaa })
    }

    fn check(
        &self,
        service: (Option<Vip>, Option<Mode>),
        has_quic: bool,
        place: &Place,
        problems: &mut Problems,
    ) {
        problems.take(&place.key("name"), dns_name(&self.name));
        problems.take(&place.key("timeout"), within(self.timeout, &TIMEOUT, print_duration));
        problems.take(&place.key("min_ttl"), within(self.min_ttl, &TTL, print_duration));
        if problems.take(&place.key("max_ttl"), within(self.max_ttl, &TTL, print_duration)).is_some()
            && self.max_ttl < self.min_ttl
        {
            problems.add(
                &place.key("max_ttl"),
                format!(
                    "{} is shorter than min_ttl ({}); write {} or more",
                    print_duration(self.max_ttl),
                    print_duration(self.min_ttl),
                    print_duration(self.min_ttl)
                ),
            );
        }
        problems.take(&place.key("hold"), within(self.hold, &HOLD, print_duration));
        if self.resolvers.len() > MOST_RESOLVERS {
            problems.add(
                &place.key("resolvers"),
                format!("{} are too many; write at most {MOST_RESOLVERS}", self.resolvers.len()),
            );
        }
        for (index, resolver) in self.resolvers.iter().enumerate() {
            problems.take(&place.item("resolvers", index, "resolvers"), resolver_address(*resolver));
        }
        if self.port == Some(0) {
            problems.add(&place.key("port"), "0 is not a port; write 1 to 65,535");
        }
        if has_quic {
            problems.add(
                &place.key("type"),
                "DNS does not provide the server IDs that `quic` needs; write type = \"file\", or remove quic",
            );
        }
        let (Some(vip), Some(mode)) = service else { return };
        let port = self.port.unwrap_or(vip.port());
        if vip.is_range() && self.port.is_some() {
            problems.add(
                &place.key("port"),
                format!("the VIP {vip} has more than one port, and packets keep their port; remove it"),
            );
        } else if mode.keeps_destination() && self.record != Some(Record::Srv) && port != vip.port() {
            problems.add(
                &place.key("port"),
                format!(
                    "{port} is not the VIP's port, but mode \"{mode}\" does not change ports; write {}, or remove it",
                    vip.port()
                ),
            );
        }
        self.check_family(vip, mode, place, problems);
    }

    fn check_family(&self, vip: Vip, mode: Mode, place: &Place, problems: &mut Problems) {
        let wanted = self.record(vip.is_ipv4());
        let is_v4 = match wanted {
            Record::A => true,
            Record::Aaaa => false,
            Record::Srv => return,
        };
        if is_v4 != vip.is_ipv4() && !mode.encapsulates() {
            problems.add(
                &place.key("record"),
                format!(
                    "\"{wanted}\" finds addresses of another family than the VIP {vip}, which only modes \"ipip\" \
                     and \"gue\" support; write \"{}\", or remove it",
                    if is_v4 { Record::Aaaa } else { Record::A }
                ),
            );
        }
    }
}

/// A resolver may well be on this host.
fn resolver_address(resolver: SocketAddr) -> Result<(), String> {
    let address = resolver.ip();
    if address.is_multicast() || address.is_unspecified() || address == IpAddr::from([255; 4]) {
        return Err(format!("\"{address}\" is not a unicast address; write the address of a DNS resolver"));
    }
    if resolver.port() == 0 {
        return Err(format!("\"{resolver}\" has port 0; write 1 to 65535, or no port for 53"));
    }
    Ok(())
}

/// Parses a resolver: an address, with port 53 by default.
pub(crate) fn resolver(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, 53)),
        Err(_) => text::parse_endpoint(text),
    }
}

/// In words: `dns SRV _http._tcp.example.com`, `file /etc/xdp-lb/web.json`.
impl fmt::Display for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Dns(dns) => match dns.record {
                Some(record) => write!(f, "dns {record} {}", dns.name),
                None => write!(f, "dns {}", dns.name),
            },
            Source::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
        })
    }
}

impl FromStr for Record {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "A" => Ok(Self::A),
            "AAAA" => Ok(Self::Aaaa),
            "SRV" => Ok(Self::Srv),
            _ => Err(format!("{} does not provide backends; write \"A\", \"AAAA\" or \"SRV\"", quoted(text))),
        }
    }
}

words!(OnEmpty: "keep" => Keep, "drain" => Drain);
words!(Priorities: "lowest" => Lowest, "backup" => Backup);

impl Discovery {
    /// What its backends' origin is.
    pub const fn origin(&self) -> Origin {
        match self.source {
            Source::Dns(_) => Origin::Dns,
            Source::File(_) => Origin::WatchedFile,
        }
    }
}
