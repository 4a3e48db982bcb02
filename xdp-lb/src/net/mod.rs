//! Routes, neighbours, links and addresses, over netlink: the next hops of backends, and the VIPs that are addresses of this
//! host.

#[expect(unsafe_code, reason = "packet sockets are system calls")]
mod announce;
pub mod arrivals;
#[expect(unsafe_code, reason = "packet sockets are system calls")]
pub mod claims;
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
#[expect(unsafe_code, reason = "packet sockets are system calls")]
mod packet_socket;
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

/// This host's addresses as a router, by interface.
pub type RouterAddressesOf = BTreeMap<RouterInterface, RouterAddresses>;

/// How packets reach a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The name of the interface towards it (the VLAN device, if it is on a VLAN).
    pub interface: String,
    /// The index of the interface that transmits: the VLAN device's parent, if it is on a VLAN.
    pub ifindex: u32,
    /// The VLAN id, 1 to 4094, if it is on a VLAN.
    pub vlan: Option<u16>,
    /// The Ethernet address of the interface towards it.
    pub source_mac: MacAddress,
    /// The Ethernet address of the next hop.
    pub destination_mac: MacAddress,
    /// The router towards it. `None` if it is on-link.
    pub router: Option<IpAddr>,
    /// This host's address towards it.
    pub source: IpAddr,
    /// The length of the connected prefix that contains it. `None` if it is behind a router.
    pub on_link_bits: Option<u8>,
    /// The route's or interface's MTU, in bytes of IP.
    pub mtu: u32,
}

/// The MACs to which frames received on an interface may be addressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceMacs {
    /// The interface's index.
    pub index: u32,
    /// The index of the bridge, bond or similar device of which it is a port.
    pub master: Option<u32>,
    /// Its own MAC, and those of every interface above it: VLANs, macvlans (such as VRRP's), its bridge or bond, and those above
    /// them, up or down.
    pub macs: BTreeSet<MacAddress>,
}

/// The Ethernet interfaces of this network namespace, by name.
pub type OwnMacs = BTreeMap<String, InterfaceMacs>;

/// Why there is no next hop, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoNextHop {
    /// This host cannot reach it, which says nothing about the backend: no route, or a link that is down or has no carrier.
    Here(String),
    /// The next hop does not answer ARP or neighbour discovery.
    Silent(String),
}

impl fmt::Display for NoNextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Here(why) | Self::Silent(why)) = self;
        f.write_str(why)
    }
}

/// What the [`Resolver`] reports. Each event replaces the earlier one about the same thing. An event without news is not sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The next hop of a watched address. Sent once it is known, and at every change.
    NextHop {
        /// The watched address.
        address: IpAddr,
        /// Its next hop, or why there is none.
        next_hop: Result<NextHop, NoNextHop>,
    },
    /// By index: each VLAN device (IEEE 802.1Q) whose parent is a plain interface of this namespace, with the parent's index and
    /// the VLAN id; and each port of a bond, team or bridge, with that device's index and 0. Sent once at the start, even if
    /// there are none, and at every change.
    Vlans(BTreeMap<u32, (u32, u16)>),
    /// The MACs to which frames for this host are addressed. Sent once at the start, and at every change.
    OwnMacs(OwnMacs),
    /// This host's address as a router on each interface. Sent once at the start, and at every change.
    RouterAddresses(RouterAddressesOf),
    /// The addresses of this host. Sent once at the start, and at every change.
    Addresses(BTreeSet<IpAddr>),
    /// An interface. Sent for each at the start, and when one is added or removed, goes up or down, or gets another index.
    Interface {
        /// Its name.
        name: String,
        /// Its index. `None` if it is gone.
        index: Option<u32>,
        /// Whether it is up and has a carrier.
        up: bool,
    },
}
