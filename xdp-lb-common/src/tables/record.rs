//! A flow's key, and a frame's tags.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::key;
use crate::net::{Address, Endpoint, Port, Protocol};
use crate::packet::headers::ETHERTYPE_VLAN;

key! {
    /// A packet's 5-tuple.
    pub struct FlowKey {
        /// The packet's source address.
        pub source: Address,
        /// The packet's destination address.
        pub destination: Address,
        /// The packet's source port.
        pub source_port: Port,
        /// The packet's destination port.
        pub destination_port: Port,
        /// TCP or UDP.
        pub protocol: Protocol,
        // Not one array: zeroing three bytes at once would be a call of memset.
        padding: u8,
        more_padding: u16,
    }
}

impl FlowKey {
    /// The key of a packet from `source` to `destination`; the protocol is the source's.
    #[inline(always)]
    pub const fn new(source: Endpoint, destination: Endpoint) -> Self {
        Self {
            source: source.address,
            destination: destination.address,
            source_port: source.port,
            destination_port: destination.port,
            protocol: source.protocol,
            padding: 0,
            more_padding: 0,
        }
    }

    /// The key of a packet in the other direction.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.destination_endpoint(), self.source_endpoint())
    }

    /// The packet's source.
    #[inline(always)]
    pub const fn source_endpoint(&self) -> Endpoint {
        Endpoint::new(self.source, self.source_port, self.protocol)
    }

    /// The packet's destination.
    #[inline(always)]
    pub const fn destination_endpoint(&self) -> Endpoint {
        Endpoint::new(self.destination, self.destination_port, self.protocol)
    }
}

/// A frame's VLAN tags, outermost first: each with its EtherType (upper half) and its control field; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tags {
    /// The outer tag.
    pub outer: u32,
    /// The inner tag; 0 unless there is an outer one.
    pub inner: u32,
}

impl Tags {
    /// The tags of a frame on this VLAN (IEEE 802.1Q); 0: none.
    #[inline(always)]
    pub const fn vlan(id: u16) -> Self {
        let outer = if id == 0 { 0 } else { (ETHERTYPE_VLAN as u32) << 16 | id as u32 };
        Self { outer, inner: 0 }
    }

    /// The length of an Ethernet header with these tags, in bytes.
    #[inline(always)]
    pub const fn header_length(self) -> usize {
        match self {
            Self { outer: 0, .. } => 14,
            Self { inner: 0, .. } => 18,
            _ => 22,
        }
    }
}
