//! Results of the routing table, and the related tables `VLANS` and `EVENTS`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::record::Tags;
use crate::layout::record;
use crate::net::{Address, Endpoint, MacAddress};

/// A packet to a client, whose route is looked up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouteQuery {
    /// Its source address, as the client sees it.
    pub source: Endpoint,
    /// The client.
    pub destination: Endpoint,
    /// Its length in bytes, from the IP header on.
    pub length: u16,
    /// The interface on which it arrived.
    pub ingress: u32,
}

/// Where to send a packet to a client, by the kernel's routing table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Through this interface, to this neighbour.
    Via {
        /// The interface that transmits.
        ifindex: u32,
        /// Their VLAN tags.
        tags: Tags,
        /// The interface's Ethernet address.
        source_mac: MacAddress,
        /// The neighbour's Ethernet address.
        destination_mac: MacAddress,
    },
    /// To this host itself, or to no single host.
    Local,
    /// Through an interface, but the neighbour's Ethernet address is unknown. User space was asked to resolve it.
    NeighbourMissing {
        /// The interface; it may be a VLAN device.
        ifindex: u32,
    },
    /// The packet is larger than the route's MTU.
    TooBig {
        /// The route's MTU, bytes of IP.
        mtu: u16,
    },
    /// There is no route.
    Unroutable,
}

/// An entry of `EVENTS`: a neighbour whose Ethernet address the datapath needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourWanted {
    /// The neighbour.
    pub address: Address,
    /// The interface towards it.
    pub ifindex: u32,
}

record! {
    /// The value of `VLANS`, by a VLAN device's index: how frames through it leave. For a port of a bond, team or bridge: the
    /// device of which it is a port, with VLAN 0. No routes lead through a port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct VlanDevice {
        /// The index of its parent, which transmits, or of the device of which it is a port.
        pub parent: u32,
        /// The VLAN ID, 1 to 4094; 0: a port.
        pub vlan: u32,
    }
}
