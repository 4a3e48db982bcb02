//! A service's policy: which of a client's flows stay together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text::quoted;

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
    /// Those of all clients whose addresses have so many first bits in common.
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

    /// Whether it goes with a VIP of this family.
    pub(super) fn check(self, is_v4: bool) -> Result<(), String> {
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
            format!("{} is no affinity; write \"none\", \"source\" or \"source/24\"", quoted(text))
        })
    }
}

/// The conversions that serde goes by.
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
    };
}

as_text!(Affinity);
