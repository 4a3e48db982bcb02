//! What flows differ in: the forwarding mode, the family and the protocol. There is a service for each kind.

use std::fmt;
use std::net::SocketAddr;

use crate::network::Network;
use crate::way::Family;

/// How packets reach a backend, and how its replies return.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Forwarding {
    /// The destination is rewritten.
    Nat,
    /// Source and destination are rewritten.
    FullNat,
    /// The destination's MAC address is rewritten; replies go straight to the client.
    Dsr,
    /// IP in IP; replies go straight to the client.
    Ipip,
    /// Generic UDP encapsulation; replies go straight to the client.
    Gue,
}

impl Forwarding {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Nat, Self::FullNat, Self::Dsr, Self::Ipip, Self::Gue];

    /// Whether replies go to the client past the load balancer.
    pub fn is_direct(self) -> bool {
        !matches!(self, Self::Nat | Self::FullNat)
    }

    /// The port of the mode's VIPs and backends. Each has one of its own: backends that `nat` services share have all
    /// their flows recorded, and direct replies come from the VIP's own port.
    pub fn port(self) -> u16 {
        7001 + self as u16
    }
}

/// As the config file writes it.
impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::Dsr => "dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        })
    }
}

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// Long connections.
    Tcp,
    /// Questions and answers in datagrams.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A kind of flows, and the service that has them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kind {
    /// How they are forwarded.
    pub mode: Forwarding,
    /// IPv4 or IPv6, clients and backends alike.
    pub family: Family,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl Kind {
    /// All twenty.
    pub fn all() -> impl Iterator<Item = Self> {
        Forwarding::ALL.into_iter().flat_map(|mode| {
            Family::ALL.into_iter().flat_map(move |family| {
                [Protocol::Tcp, Protocol::Udp].map(move |protocol| Self { mode, family, protocol })
            })
        })
    }

    /// Where clients connect to.
    pub fn vip(self) -> SocketAddr {
        SocketAddr::new(Network::vip(self.family), self.mode.port())
    }

    /// The address of backend `number`, counted from 1.
    pub fn backend(self, number: usize) -> SocketAddr {
        Network::endpoint(self.family, number, self.mode.port())
    }
}

/// The service's name: `nat-v4-tcp`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V4 { "v4" } else { "v6" };
        write!(f, "{}-{family}-{}", self.mode, self.protocol)
    }
}
