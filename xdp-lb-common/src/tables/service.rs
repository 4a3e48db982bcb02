//! `SERVICES`: a service's data for the datapath.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::code::{Code, Coded};
use super::directory::Keyed;
use super::index::{ServiceIndex, SlotIndex};
use crate::layout::record;
use crate::net::Port;

/// How a packet reaches its backend, and how the reply returns.
///
/// Bits of its number in a record are properties that it shares with other modes, so that nothing depends on their order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Mode {
    /// Source and destination are rewritten. Replies return to the load balancer's own address.
    #[default]
    FullNat = 0,
    /// The destination is rewritten. The backend routes its replies through the load balancer.
    Nat = 1,
    /// Only the frame's Ethernet addresses are rewritten. The backend has the VIP and replies directly to the client.
    Dsr = 2 | RELAYS,
    /// The packet is encapsulated in IP (RFC 2003, RFC 2473, RFC 4213). The backend replies directly to the client.
    Ipip = 3 | TUNNELS,
    /// The packet is encapsulated in UDP (Generic UDP Encapsulation). The backend replies directly to the client.
    Gue = 4 | TUNNELS,
}

/// A bit of a mode's number: the client's packet reaches the backend with its addresses unchanged.
const RELAYS: u8 = 1 << 6;
/// A bit of a mode's number: the packet is encapsulated.
const TUNNELS: u8 = 1 << 7;

impl Coded for Mode {
    #[inline(always)]
    fn number(self) -> u8 {
        self as u8
    }
}

impl Code<Mode> {
    /// Whether packets to a backend are encapsulated.
    #[inline(always)]
    pub const fn is_tunnel(self) -> bool {
        self.has(TUNNELS)
    }

    /// Whether packets keep the client's address and the VIP, and the backend replies directly.
    #[inline(always)]
    pub const fn keeps_addresses(self) -> bool {
        self.has(RELAYS | TUNNELS)
    }
}

/// [`Service::options`]: every flow is recorded, not only those of moving slots.
pub const RECORDS_FLOWS: u8 = 1;
/// [`Service::options`]: its flows are counted, because it or one of its backends has a `max_flows`.
pub const COUNTS_FLOWS: u8 = 2;
/// [`Service::options`]: new flows are answered (reset, port unreachable) while no backend takes any. Costs other packets
/// nothing: the fast path checks all options but this one.
pub const REJECTS: u8 = 4;

record! {
    /// The value of `SERVICES`: a service's data for the datapath.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Service {
        /// Its number.
        pub index: ServiceIndex,
        /// The first slot of its ring in `SLOTS`.
        pub ring_offset: SlotIndex,
        /// The length of its ring; 0 if it has never had a backend that could take a flow.
        pub ring_len: u32,
        /// The first of its SNAT addresses in `SNAT_ADDRESSES`.
        pub snat_offset: u32,
        /// The number of its SNAT addresses (`ipip` and `gue`: outer source addresses); 0: [`Backend::source`] of each backend is
        /// used.
        pub snat_len: u16,
        /// Its forwarding mode.
        pub mode: Code<Mode>,
        /// Its options, a bit each, such as [`RECORDS_FLOWS`].
        pub options: u8,
        /// Maximum number of new flows per second from one source; 0: unlimited.
        pub new_flow_rate: u32,
        /// The maximum number of them in one burst.
        pub new_flow_burst: u32,
        /// Maximum number of concurrent flows; 0: unlimited.
        pub max_flows: u32,
        /// Its list of source ranges: the scope of the list's entries in `SOURCES`; 0: none.
        pub source_list: u32,
        /// The number of leading bits of the source address that select the slot (an IPv4 address is the last 32 of 128); 0: the
        /// whole 5-tuple does.
        pub affinity_bits: u8,
        /// QUIC: the length of the server ID in a connection ID, 1 to 15 bytes; 0: connection IDs are ignored.
        pub server_id_length: u8,
        /// QUIC: the config ID, in the upper three bits of a connection ID's first byte.
        pub quic_config: u8,
        /// Unused, 0.
        pub padding: u8,
        /// The last port, if it is on a port range.
        pub last_port: Port,
        /// Unused, 0.
        pub more_padding: [u8; 2],
    }
}

impl Service {
    /// Whether every flow is recorded, whatever the state of its slot.
    #[inline(always)]
    pub fn records_flows(&self) -> bool {
        self.mode == Mode::FullNat || self.options & RECORDS_FLOWS != 0
    }

    /// Whether its flows are counted.
    #[inline(always)]
    pub const fn counts_flows(&self) -> bool {
        self.options & COUNTS_FLOWS != 0
    }

    /// Whether new flows are answered while no backend takes any.
    #[inline(always)]
    pub const fn rejects(&self) -> bool {
        self.options & REJECTS != 0
    }
}

// A cache line, with its VIP.
const _: () = assert!(size_of::<Keyed<Service>>() == 64);
