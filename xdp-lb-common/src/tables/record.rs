//! `FLOWS` and `HALF_OPEN`: what becomes of a flow's packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::flow::Life;
use super::index::BackendIndex;
use crate::layout::{key, record};
use crate::net::{Address, Endpoint, MacAddress, Port, Protocol};
use crate::packet::headers::ETHERTYPE_VLAN;

key! {
    /// The key of `FLOWS`: a packet's 5-tuple, as the packet has it.
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
        // Not one array: zeroing three bytes at once is a call of memset.
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

    /// The key of a packet the other way.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self::new(self.destination_endpoint(), self.source_endpoint())
    }

    /// The packet's sender.
    #[inline(always)]
    pub const fn source_endpoint(&self) -> Endpoint {
        Endpoint::new(self.source, self.source_port, self.protocol)
    }

    /// The packet's receiver.
    #[inline(always)]
    pub const fn destination_endpoint(&self) -> Endpoint {
        Endpoint::new(self.destination, self.destination_port, self.protocol)
    }
}

record! {
    /// The value of `FLOWS`: what becomes of one direction of a flow.
    ///
    /// A flow of a `full-nat` service, or of a backend that several VIPs share, has a pair of records:
    /// one under the client's packets and one under the backend's. Each can be made from the other.
    #[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout)]
    #[repr(C)]
    pub struct FlowRecord {
        /// The source address that the packet leaves with.
        pub source: Address,
        /// The destination address that the packet leaves with.
        pub destination: Address,
        /// The source port that the packet leaves with.
        pub source_port: Port,
        /// The destination port that the packet leaves with.
        pub destination_port: Port,
        /// The flow's backend.
        pub backend: BackendIndex,
        /// How far the flow has come, and when it was last heard of.
        pub life: Life,
        /// Replies: the VLAN tags of the client's packets.
        pub tags: Tags,
        /// Replies: the interface that the client's packets come from.
        pub ifindex: u32,
        /// Replies: the Ethernet address that the client's packets come from.
        pub destination_mac: MacAddress,
        /// Replies: the Ethernet address that the client's packets are sent to.
        pub source_mac: MacAddress,
    }
}

const _: () = assert!(size_of::<FlowRecord>() == 72);

/// What became of a record that was to be put where none was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// It is there.
    New,
    /// There was one already, and it is untouched.
    Occupied,
    /// There is no room.
    Full,
}

/// Where flows are recorded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FlowTable {
    /// `FLOWS`: flows that have shown that there is somebody behind them, by a second packet.
    Flows,
    /// `HALF_OPEN`: flows of which one packet has been seen. A flood of packets from made-up senders fills this one only.
    HalfOpen,
}

impl FlowTable {
    /// Both, in the order in which a flow's record is looked for.
    pub const ALL: [Self; 2] = [Self::Flows, Self::HalfOpen];
}

/// A frame's VLAN tags, outermost first: each its EtherType (upper half) and its control field; 0: none.
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

    /// How many bytes an Ethernet header with these tags has.
    #[inline(always)]
    pub const fn header_length(self) -> usize {
        match self {
            Self { outer: 0, .. } => 14,
            Self { inner: 0, .. } => 18,
            _ => 22,
        }
    }
}
