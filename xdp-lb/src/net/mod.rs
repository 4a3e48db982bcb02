//! Routes, neighbours, links and addresses, over netlink: where a packet to a backend has to be sent, and which VIPs
//! are addresses of this host.

#[expect(unsafe_code, reason = "packet sockets are system calls")]
mod announce;
pub mod arrivals;
#[expect(unsafe_code, reason = "an ioctl")]
pub mod ethtool;
pub mod filters;
pub mod ingress;
mod kernel;
pub mod kind;
pub mod look;
#[expect(unsafe_code, reason = "entering a network namespace is a system call")]
pub mod namespace;
pub mod netdev;
pub mod offloads;
mod resolver;
mod router;
mod state;
pub mod vips;
pub mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use xdp_lb_common::net::MacAddress;
use xdp_lb_common::tables::{RouterAddresses, RouterInterface};

pub use resolver::Resolver;

/// This host's addresses by the interface behind which they are.
pub type RouterAddressesOf = BTreeMap<RouterInterface, RouterAddresses>;

/// How a backend is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The name of the interface towards it (the VLAN device, where it is on one).
    pub interface: String,
    /// The index of the interface that transmits: the VLAN's parent, where it is on a VLAN.
    pub ifindex: u32,
    /// The VLAN id, 1 to 4094, where it is on a VLAN.
    pub vlan: Option<u16>,
    /// The Ethernet address of the interface towards it.
    pub source_mac: MacAddress,
    /// The Ethernet address of the next hop.
    pub destination_mac: MacAddress,
    /// The router that packets to it go to; `None` where it is on the link itself.
    pub router: Option<IpAddr>,
    /// This host's address towards it.
    pub source: IpAddr,
    /// How many first bits of the address all hosts on its link have in common, by the route to it; `None` where a router
    /// is in between.
    pub on_link_bits: Option<u8>,
    /// The route's or interface's MTU, bytes of IP.
    pub mtu: u32,
}

/// What frames may be addressed to that come in by an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceMacs {
    /// The interface's index.
    pub index: u32,
    /// The index of the bridge, bond or the like that it is a port of.
    pub master: Option<u32>,
    /// Its own MAC, and those of every interface above it: VLANs, macvlans (VRRP's), its bridge or bond, and what stands on
    /// those. Whether they are up does not matter.
    pub macs: BTreeSet<MacAddress>,
}

/// The Ethernet interfaces of this network namespace, by name.
pub type OwnMacs = BTreeMap<String, InterfaceMacs>;

/// Why there is no next hop, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoNextHop {
    /// This host has no way to it, which says nothing of whoever is there: no route, a link that is down or has no
    /// carrier.
    Here(String),
    /// The next hop does not answer this host, which asks for its Ethernet address.
    Silent(String),
}

impl fmt::Display for NoNextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Here(why) | Self::Silent(why)) = self;
        f.write_str(why)
    }
}

/// What the [`Resolver`] tells. Each event replaces what an earlier one said of the same thing, and
/// one that says nothing new is not sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The next hop of a watched address: sent once it is decided, and at every change.
    NextHop {
        /// The watched address.
        address: IpAddr,
        /// Its next hop, or why there is none.
        next_hop: Result<NextHop, NoNextHop>,
    },
    /// The VLAN devices (IEEE 802.1Q) whose parent is a plain interface of this namespace, by their
    /// index: the parent's index and the VLAN id. And the ports of bonds, teams and bridges: the index of that, and 0. Sent
    /// once at first, even if there are none.
    Vlans(BTreeMap<u32, (u32, u16)>),
    /// What frames for this host are addressed to. Sent once at first, and at every change.
    OwnMacs(OwnMacs),
    /// The addresses of this host that stand for it behind each interface, for what it says as a router: sent once at first, and when they change.
    RouterAddresses(RouterAddressesOf),
    /// The addresses of this host. Sent once at first, and when one comes or goes.
    Addresses(BTreeSet<IpAddr>),
    /// An interface: sent for each at first, and when one comes, goes, gets another index, or goes
    /// up or down.
    Interface {
        /// Its name.
        name: String,
        /// Its index; `None` where it is gone.
        index: Option<u32>,
        /// Whether it is up and has a carrier.
        up: bool,
    },
}
