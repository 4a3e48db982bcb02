//! `SERVICES`: what the datapath needs to know of a service.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::code::{Code, Coded};
use super::directory::Keyed;
use super::index::{ServiceIndex, SlotIndex};
use crate::layout::record;
use crate::net::Port;

/// How a packet reaches its backend, and how the reply returns.
///
/// Its number in a record says by bits of their own what it has in common with others, so that nothing follows from the order
/// of the modes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Mode {
    /// Source and destination are rewritten; replies come back to the load balancer's own address.
    #[default]
    FullNat = 0,
    /// The destination is rewritten; the backend routes its replies through the load balancer.
    Nat = 1,
    /// Only the frame's Ethernet addresses are rewritten; the backend has the VIP and answers the client itself.
    Dsr = 2 | RELAYS,
    /// The packet is put into another IP packet (RFC 2003, RFC 2473, RFC 4213); the backend answers the client itself.
    Ipip = 3 | TUNNELS,
    /// The packet is put into UDP (Generic UDP Encapsulation); the backend answers the client itself.
    Gue = 4 | TUNNELS,
}

/// A mode's number: the backend gets the client's packet itself.
const RELAYS: u8 = 1 << 6;
/// A mode's number: the backend gets it inside of another one.
const TUNNELS: u8 = 1 << 7;

impl Coded for Mode {
    #[inline(always)]
    fn number(self) -> u8 {
        self as u8
    }
}

impl Code<Mode> {
    /// Whether a backend gets packets inside of others.
    #[inline(always)]
    pub const fn is_tunnel(self) -> bool {
        self.has(TUNNELS)
    }

    /// Whether a backend gets packets with the client's address and the VIP's, and answers the client itself.
    #[inline(always)]
    pub const fn keeps_addresses(self) -> bool {
        self.has(RELAYS | TUNNELS)
    }
}

/// [`Service::options`]: every flow is recorded, not only those of slots that move.
pub const RECORDS_FLOWS: u8 = 1;
/// [`Service::options`]: its flows are counted, since it or one of its backends has a `max_flows`.
pub const COUNTS_FLOWS: u8 = 2;
/// [`Service::options`]: whoever begins a flow while no backend takes any is told so. Costs other packets nothing: the short
/// way asks for all options but this one.
pub const REJECTS: u8 = 4;

record! {
    /// The value of `SERVICES`: what the datapath needs to know of a service.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Service {
        /// Its number.
        pub index: ServiceIndex,
        /// Where its ring begins in `SLOTS`.
        pub ring_offset: SlotIndex,
        /// How many slots its ring has; 0 where it has never had a backend that could take a flow.
        pub ring_len: u32,
        /// Where its SNAT addresses begin in `SNAT_ADDRESSES`.
        pub snat_offset: u32,
        /// How many SNAT addresses it has (`ipip` and `gue`: outer source addresses); 0: each backend's own
        /// [`Backend::source`] serves.
        pub snat_len: u16,
        /// How it forwards.
        pub mode: Code<Mode>,
        /// What else is done for it: [`RECORDS_FLOWS`] and its like, a bit each.
        pub options: u8,
        /// How many flows one source may begin in a second; 0: any number.
        pub new_flow_rate: u32,
        /// How many of them it may begin at once.
        pub new_flow_burst: u32,
        /// Maximum number of concurrent flows; 0: unlimited.
        pub max_flows: u32,
        /// Which list of source ranges holds for it, the scope of its entries in `SOURCES`; 0: none.
        pub source_list: u32,
        /// How many first bits of the source address choose the slot (an IPv4 address is the last 32 of 128); 0:
        /// the whole 5-tuple does.
        pub affinity_bits: u8,
        /// QUIC: how many bytes of a connection id name the server, 1 to 15; 0: connection ids are not looked at.
        pub server_id_length: u8,
        /// QUIC: the configuration's number, in the upper three bits of a connection id's first byte.
        pub quic_config: u8,
        /// Unused, 0.
        pub padding: u8,
        /// The last port, where its key is that of a range.
        pub last_port: Port,
        /// Unused, 0.
        pub more_padding: [u8; 2],
    }
}

impl Service {
    /// Whether every flow is recorded, whatever its slot does.
    #[inline(always)]
    pub fn records_flows(&self) -> bool {
        self.mode == Mode::FullNat || self.options & RECORDS_FLOWS != 0
    }

    /// Whether its flows are counted.
    #[inline(always)]
    pub const fn counts_flows(&self) -> bool {
        self.options & COUNTS_FLOWS != 0
    }

    /// Whether whoever begins a flow is told where no backend takes any.
    #[inline(always)]
    pub const fn rejects(&self) -> bool {
        self.options & REJECTS != 0
    }
}

// With its VIP, a cache line.
const _: () = assert!(size_of::<Keyed<Service>>() == 64);
