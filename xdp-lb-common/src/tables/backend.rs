//! `BACKENDS`: a backend's way, and whether it gets packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::code::{Code, Coded};
use super::index::ServiceIndex;
use crate::layout::record;
use crate::net::{Address, Be32, Endpoint, MacAddress, Port, Protocol};

/// Whether a backend gets packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum BackendState {
    /// No backend has this index.
    #[default]
    Vacant = 0,
    /// It takes new flows and keeps its flows.
    Up = 1 | KEEPS_FLOWS,
    /// It keeps its flows and gets no new ones.
    Draining = 2 | KEEPS_FLOWS,
    /// Its health check, agent or circuit breaker has taken it out. Like a draining one, it keeps its flows. It takes no SYN, not
    /// even a retransmitted one, except one that may belong to an established flow. Packets that [ask](Traffic::asked) it for an
    /// answer are counted, which shows whether it is alive.
    Failing = 3 | KEEPS_FLOWS,
    /// It gets no packets, and its flows end: a packet of one is answered with a reset (TCP) or ICMP "port unreachable" (UDP; the
    /// next datagram starts a new flow). A flow belongs to it by its record; a TCP flow without a record, by the slot's prior
    /// owner (of a settled slot, its owner). New flows choose another backend.
    Ending = 4,
    /// It gets no packets. A TCP flow with a record here ends as in [`BackendState::Ending`], and so does one without a record in
    /// a slot that it owns. All other flows silently start anew at another backend.
    Down = 5,
}

/// A state's number: the backend gets the packets of its flows.
const KEEPS_FLOWS: u8 = 1 << 7;

impl BackendState {
    /// All states. After the first, each accepts less than the one before it.
    pub const ALL: [Self; 6] =
        [Self::Vacant, Self::Up, Self::Draining, Self::Failing, Self::Ending, Self::Down];
}

impl Coded for BackendState {
    #[inline(always)]
    fn number(self) -> u8 {
        self as u8
    }
}

impl Code<BackendState> {
    /// Whether a backend keeps its flows.
    #[inline(always)]
    pub const fn keeps_flows(self) -> bool {
        self.has(KEEPS_FLOWS)
    }

    /// Its position in [`BackendState::ALL`]: after the first, each accepts less than the one before it.
    pub fn rank(self) -> Option<usize> {
        BackendState::ALL.iter().position(|state| self == *state)
    }
}

record! {
    /// The value of `BACKENDS`: one backend of one service, in one cache line.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C, align(64))]
    pub struct Backend {
        /// Its address.
        pub address: Address,
        /// This host's address towards it: the SNAT address, unless the service has its own.
        pub source: Address,
        /// The interface through which it is reached (if it is on a VLAN, the VLAN's parent).
        pub ifindex: u32,
        /// The service that it belongs to.
        pub service: ServiceIndex,
        /// The port on which it listens; 0: the destination port of the client's packets.
        pub port: Port,
        /// The VLAN ID (IEEE 802.1Q, 1 to 4094) of frames to it; 0: untagged.
        pub vlan: u16,
        /// The next hop's Ethernet address.
        pub destination_mac: MacAddress,
        /// The Ethernet address of the interface towards it.
        pub source_mac: MacAddress,
        /// Whether it gets packets.
        pub state: Code<BackendState>,
        /// `nat`, bits 0 to 6: the prefix length of its network (an IPv4 address is the last 32 bits of 128), whose hosts it would
        /// answer directly; 0: none. Bit 7: [`SHARED`].
        pub neighbours: u8,
        /// The MTU of the path to it, bytes of IP; 0: unlimited.
        pub mtu: u16,
        /// Maximum number of concurrent flows; 0: unlimited.
        pub max_flows: u32,
    }
}

const _: () = assert!(size_of::<Backend>() == 64);

/// [`Backend::neighbours`]: several `nat` VIPs use this backend, so its flows need a record of their replies.
pub const SHARED: u8 = 1 << 7;

impl Backend {
    /// Whether several `nat` VIPs share it.
    #[inline(always)]
    pub fn is_shared(&self) -> bool {
        self.neighbours & SHARED != 0
    }

    /// Whether [`Backend::is_neighbour`] must be called: exact for IPv4; for IPv6 by the first 64 bits, because a link's prefix is
    /// rarely shorter.
    #[inline(always)]
    pub fn may_be_neighbour(&self, client: &Address, is_v4: bool) -> bool {
        if is_v4 {
            return self.is_neighbour(client, is_v4);
        }
        let bits = self.neighbours & !SHARED;
        let [first, _] = self.address.words();
        let [other, _] = client.words();
        (bits != 0) & ((first == other) | (bits < 64))
    }

    /// Whether it would answer this client directly, not through the load balancer: a neighbour on its network, or itself.
    #[inline(always)]
    pub fn is_neighbour(&self, client: &Address, is_v4: bool) -> bool {
        let bits = u32::from(self.neighbours & !SHARED);
        if is_v4 {
            let differences = u64::from(self.address.last().get() ^ client.last().get());
            // Shifts by at most 32: an IPv4 prefix has 96 bits or more. The result is not used if there is no prefix.
            return (bits != 0) & (differences >> ((128 - bits) & 63) == 0);
        }
        let [a, b, c, d] = self.address.0.map(Be32::get);
        let [e, f, g, h] = client.0.map(Be32::get);
        // The differing bits of the addresses.
        let last = u64::from(c ^ g) << 32 | u64::from(d ^ h);
        let first = u64::from(a ^ e) << 32 | u64::from(b ^ f);
        // Each in two steps: a shift by 64 would shift by 0.
        let of_last = bits.saturating_sub(64);
        let of_first = bits.min(64);
        (bits != 0) & (last >> 1 >> (63 - of_last) == 0) & (first >> ((64 - of_first) % 64) == 0)
    }

    /// Its endpoint for this protocol.
    #[inline(always)]
    pub fn endpoint(&self, protocol: Protocol) -> Endpoint {
        Endpoint::new(self.address, self.port, protocol)
    }

    /// The destination of packets that clients send to this endpoint.
    #[inline(always)]
    pub fn endpoint_for(&self, vip: &Endpoint) -> Endpoint {
        Endpoint::new(self.address, self.port_for(vip.port), vip.protocol)
    }

    /// The port of packets that clients send to this one.
    #[inline(always)]
    pub fn port_for(&self, port: Port) -> Port {
        if self.port.word() == 0 { port } else { self.port }
    }
}
