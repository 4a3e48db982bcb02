//! The ways that a packet can take through the load balancer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The address that stands for any of a host's own.
    pub fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// A forwarding mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Backends see the client's address.
    Nat,
    /// Backends see an address of the load balancer.
    FullNat,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nat, Self::FullNat];
}

/// As the config file writes it.
impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
        })
    }
}

/// A family in a mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// The family.
    pub family: Family,
    /// The mode.
    pub mode: Mode,
}

impl Way {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self { family: Family::V4, mode: Mode::Nat },
        Self { family: Family::V4, mode: Mode::FullNat },
        Self { family: Family::V6, mode: Mode::Nat },
        Self { family: Family::V6, mode: Mode::FullNat },
    ];
}

/// Fit for a service's name: `nat-v4`.
impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.mode, if self.family == Family::V4 { "v4" } else { "v6" })
    }
}
