//! A service's policies: affinity, QUIC, and ranges of clients.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::choices::Protocol;
use super::place::{Place, Problems};
use super::section::{Section, Value};
use super::table::Key;
use super::text::quoted;
use super::values::within;

/// Which flows of a service stay together on one backend. Written `"none"`, `"source"` or `"source/24"`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Affinity {
    /// None: each flow by itself.
    #[default]
    None,
    /// Those of one client: of one IPv4 address, or of one IPv6 network of 64 bits, in which a host takes
    /// ever new addresses (RFC 8981).
    Source,
    /// Those of all clients with the same prefix of this length.
    SourcePrefix(u8),
}

impl Affinity {
    /// How many bits of the address count, of a VIP's family; 0: the address does not count by itself.
    pub const fn bits(self, is_v4: bool) -> u8 {
        match self {
            Self::None => 0,
            Self::Source if is_v4 => 32,
            Self::Source => 64,
            Self::SourcePrefix(bits) => bits,
        }
    }

    /// Validates it for a VIP of this family.
    pub(crate) fn check(self, is_v4: bool) -> Result<(), String> {
        let (family, most) = if is_v4 { ("IPv4", 32) } else { ("IPv6", 128) };
        match self {
            Self::SourcePrefix(bits) if bits == 0 || bits > most => Err(format!(
                "\"{self}\" is out of range for an {family} VIP; write \"source/1\" to \"source/{most}\", or \
                 \"source\""
            )),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.pad("none"),
            Self::Source => f.pad("source"),
            Self::SourcePrefix(bits) => write!(f, "source/{bits}"),
        }
    }
}

impl FromStr for Affinity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::None),
            "source" => return Ok(Self::Source),
            _ => {}
        }
        let bits = text.strip_prefix("source/").and_then(|bits| bits.parse().ok());
        bits.map(Self::SourcePrefix).ok_or_else(|| {
            format!("{} is not an affinity; write \"none\", \"source\" or \"source/24\"", quoted(text))
        })
    }
}

/// Conversions for serde.
macro_rules! as_text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl Value for $type {
            fn read(section: &mut Section<'_>, key: &str) -> Option<Self> {
                section.parsed(key, str::parse)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string" })
            }
        }
    };
}

as_text!(Affinity);
as_text!(Prefix);
as_text!(ServerId);

/// How a QUIC service's packets name their backend: draft-ietf-quic-load-balancers-21, without encryption.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quic {
    /// How many bytes of a connection id, behind its first, are the server id. 1 to 15.
    pub server_id_length: u8,
    /// The number in the upper three bits of a connection id's first byte. 0 to 6.
    #[serde(default)]
    pub config_id: u8,
}

impl Quic {
    pub(crate) const LENGTHS: RangeInclusive<u8> = 1..=15;
    pub(crate) const CONFIGS: RangeInclusive<u8> = 0..=6;

    pub(crate) const KEYS: &[&str] = &["server_id_length", "config_id"];
    pub(crate) const TABLE: &[Key] = &[
        Key {
            name: "server_id_length",
            owners: &[],
            help: "QUIC: length of the server ID, which follows the first byte of a connection ID, in bytes, 1 to 15",
            absent: || 0.into(),
        },
        Key {
            name: "config_id",
            owners: &[],
            help: "QUIC: the configuration ID of the servers, 0 to 6 [default: 0]",
            absent: || 0.into(),
        },
    ];

    pub(crate) fn read(quic: &mut Section<'_>) -> Option<Self> {
        const KEY: &str = "server_id_length";
        if !quic.has(KEY) {
            quic.problem(
                KEY,
                "is missing; write the length that the servers use, such as server_id_length = 4",
            );
        }
        let config_id = match quic.has("config_id") {
            true => quic.integer("config_id", &Self::CONFIGS),
            false => Some(0),
        };
        Some(Self { server_id_length: quic.integer(KEY, &Self::LENGTHS)?, config_id: config_id? })
    }

    pub(crate) fn check(self, protocol: Option<Protocol>, place: &Place, problems: &mut Problems) {
        let within = |value, range| within(value, range, |number: u8| number.to_string());
        problems.take(&place.key("server_id_length"), within(self.server_id_length, &Self::LENGTHS));
        problems.take(&place.key("config_id"), within(self.config_id, &Self::CONFIGS));
        if protocol == Some(Protocol::Tcp) {
            problems.add(place, "QUIC runs over UDP; write protocol = \"udp\", or remove it");
        }
    }

    /// Whether a backend's server ID fits.
    pub(crate) fn check_server_id(quic: Option<Self>, id: Option<ServerId>) -> Result<(), String> {
        match (quic, id) {
            (Some(quic), None) => Err(format!(
                "is missing, but the service has quic; write the server's ID as {} hex digits",
                2 * quic.server_id_length
            )),
            (Some(quic), Some(id)) if id.length != quic.server_id_length => Err(format!(
                "\"{id}\" has {} bytes, but the service's server_id_length is {}; write {} hex digits",
                id.length,
                quic.server_id_length,
                2 * quic.server_id_length
            )),
            (None, Some(_)) => Err("requires quic; remove it, or add quic to the service".into()),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Quic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server ids of {} bytes, configuration {}", self.server_id_length, self.config_id)
    }
}

/// What a backend is called in QUIC's connection ids, 1 to 15 bytes. Written in hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerId {
    bytes: [u8; 16],
    length: u8,
}

impl ServerId {
    /// Its bytes, and zeroes behind.
    pub const fn padded(self) -> [u8; 16] {
        self.bytes
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.bytes.get(..self.length.into()).unwrap_or_default()))
    }
}

impl FromStr for ServerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut bytes = [0; 16];
        let length = text.len() / 2;
        let is_read = (1..=15).contains(&length)
            && bytes.get_mut(..length).is_some_and(|bytes| hex::decode_to_slice(text, bytes).is_ok());
        if is_read {
            Ok(Self { bytes, length: length as u8 })
        } else {
            Err(format!("{} is not a server ID; write 1 to 15 bytes in hex, such as \"0a01\"", quoted(text)))
        }
    }
}

/// A network of clients. Written `"192.0.2.0/24"`, `"2001:db8::/32"`, or as a single address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// How many bits its addresses have in common.
    pub bits: u8,
}

impl Prefix {
    /// Every IPv4 address.
    pub(crate) const ALL_IPV4: Self = Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), bits: 0 };

    /// The bits of a single address of this family.
    const fn whole(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// The network of this size that contains an address.
    fn around(address: IpAddr, bits: u8) -> Self {
        let zeroes = u32::from(Self::whole(address) - bits);
        let address = match address {
            IpAddr::V4(v4) => {
                Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(zeroes).unwrap_or(0)).into()
            }
            IpAddr::V6(v6) => {
                Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(zeroes).unwrap_or(0)).into()
            }
        };
        Self { address, bits }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{} is not a range of addresses; write \"192.0.2.0/24\" or \"2001:db8::/32\"",
                quoted(text)
            )
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let whole = Self::whole(address);
        let bits = match bits {
            None => whole,
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= whole).ok_or_else(wrong)?,
        };
        let prefix = Self::around(address, bits);
        if prefix.address == address {
            Ok(prefix)
        } else {
            Err(format!(
                "{} has host bits set; write \"{prefix}\", or \"{address}\" for the single address",
                quoted(text)
            ))
        }
    }
}

/// Reads a list that holds something: an empty one would mean something else than the key's absence.
pub(crate) fn deserialize_ranges<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Prefix>, D::Error> {
    let ranges = Vec::deserialize(from)?;
    if ranges.is_empty() { Err(serde::de::Error::custom(EMPTY_RANGES)) } else { Ok(ranges) }
}

pub(crate) const EMPTY_RANGES: &str = "is empty; write ranges, or remove the key";
