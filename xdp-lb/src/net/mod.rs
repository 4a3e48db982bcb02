//! Routes, neighbours and links, over netlink: where a packet to a backend has to be sent.

use std::net::IpAddr;

use xdp_lb_common::net::MacAddress;

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
    /// This host's address towards it.
    pub source: IpAddr,
    /// The route's or interface's MTU, bytes of IP.
    pub mtu: u32,
}
