//! The routing table's answers, and what stands between them and the wire: `VLANS`, `EVENTS`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::record::Tags;
use crate::layout::record;
use crate::net::{Address, Endpoint, MacAddress};

/// A packet to a client, for the routing table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouteQuery {
    /// Who it comes from, in the client's eyes.
    pub source: Endpoint,
    /// The client.
    pub destination: Endpoint,
    /// Its length, bytes of IP.
    pub length: u16,
    /// The interface that it came in by.
    pub ingress: u32,
}

/// Where a packet to a client has to be sent, as the kernel's routing table has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Through this interface, to this neighbour.
    Via {
        /// The interface that transmits.
        ifindex: u32,
        /// The tags of frames to it.
        tags: Tags,
        /// The interface's Ethernet address.
        source_mac: MacAddress,
        /// The neighbour's Ethernet address.
        destination_mac: MacAddress,
    },
    /// To this host itself, or to no single host.
    Local,
    /// Through an interface behind which the neighbour is not known; user space has been asked.
    NeighbourMissing {
        /// The interface, a VLAN device where it is one.
        ifindex: u32,
    },
    /// The packet is larger than the route's MTU.
    TooBig {
        /// The largest IP packet that the route takes, bytes.
        mtu: u16,
    },
    /// Nowhere.
    Unroutable,
}

/// An entry of `EVENTS`: a neighbour whose Ethernet address the datapath needs and does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NeighbourWanted {
    /// The neighbour.
    pub address: Address,
    /// The interface that it is behind.
    pub ifindex: u32,
}

record! {
    /// The value of `VLANS`, by a VLAN device's index: how frames through it leave. And by the index of a port of a bond, team
    /// or bridge: what it is a port of, with the VLAN 0; nothing is routed through a port.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct VlanDevice {
        /// The index of the device that it stands on, which transmits; or that it is a port of.
        pub parent: u32,
        /// The VLAN id, 1 to 4094; 0: a port.
        pub vlan: u32,
    }
}
