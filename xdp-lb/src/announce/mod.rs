//! Configurations of the daemons that bring clients' packets here: what they announce is what this node serves.

#![forbid(unsafe_code)]

mod bird;
mod frr;
mod keepalived;

pub use bird::bird;
pub use frr::frr;
pub use keepalived::{Links, keepalived};

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::model::Config;

/// How often a BFD session is heard, and how many times it may not be: a second and a half, since a machine that is busy for a
/// moment is not dead.
const BFD_MILLISECONDS: u32 = 300;
const BFD_TIMES: u32 = 5;

/// How often this node's number is put before a path that others are to be preferred to.
const PREPENDED: usize = 3;

/// The preference of such a path within one autonomous system; 100 is usual.
const LESS_PREFERRED: u32 = 50;

/// The addresses that routers are to send here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Addresses {
    /// The VIPs.
    pub vips: BTreeSet<IpAddr>,
    /// In a fleet: the addresses in whose name this node sends to backends.
    pub own: BTreeSet<IpAddr>,
    /// Those of other nodes, which this one takes over when they are dead.
    pub others: BTreeSet<IpAddr>,
    /// The interface on which the daemon has the VIPs; nothing: it does not manage them.
    pub interface: Option<String>,
}

impl Addresses {
    /// Those of a config file. `others`: the SNAT addresses of other nodes, which that does not tell.
    #[must_use]
    pub fn of(config: &Config, others: &[IpAddr]) -> Self {
        let snat = config.services.iter().flat_map(|service| service.options.snat_addresses.iter().copied());
        let own: BTreeSet<_> = if config.fleet.is_some() { snat.collect() } else { BTreeSet::new() };
        Self {
            vips: config.services.iter().map(|service| service.vip.ip()).collect(),
            others: others.iter().copied().filter(|it| !own.contains(it)).collect(),
            own,
            interface: config.vips.interface.clone(),
        }
    }

    /// Those of one family.
    fn of_family(&self, family: Family) -> Self {
        let of = |all: &BTreeSet<IpAddr>| all.iter().copied().filter(|it| family.has(it)).collect();
        Self {
            vips: of(&self.vips),
            own: of(&self.own),
            others: of(&self.others),
            interface: self.interface.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.vips.is_empty() && self.own.is_empty() && self.others.is_empty()
    }
}

/// The sessions with routers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bgp {
    /// This node's autonomous system.
    pub own: u32,
    /// The routers'.
    pub theirs: u32,
    /// The routers' addresses.
    pub routers: Vec<IpAddr>,
    /// This node's router id.
    pub id: Ipv4Addr,
    /// Whether BFD tells when the way to a router is broken.
    pub bfd: bool,
}

impl Bgp {
    fn is_internal(&self) -> bool {
        self.own == self.theirs
    }

    /// What is missing: each family has sessions of its own.
    #[must_use]
    pub fn missing(&self, addresses: &Addresses) -> Option<String> {
        let lacks = |family: &&Family| {
            !addresses.of_family(**family).is_empty() && !self.routers.iter().any(|it| family.has(it))
        };
        let family = Family::ALL.iter().find(lacks)?;
        Some(format!(
            "{family} addresses are announced by a session over {family}: add --router with the router's {family} address"
        ))
    }
}

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// The bits of a single address.
    fn bits(self) -> u8 {
        if self == Self::V4 { 32 } else { 128 }
    }

    fn prefix(self, address: &IpAddr) -> String {
        format!("{address}/{}", self.bits())
    }

    fn number(self) -> u8 {
        if self == Self::V4 { 4 } else { 6 }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IPv{}", self.number())
    }
}
