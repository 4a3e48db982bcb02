//! `FRAGMENTS`: what was done with a packet's first fragment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::code::{Code, Coded};
use super::index::BackendIndex;
use super::record::Tags;
use crate::layout::{key, record};
use crate::net::{Address, Be32, MacAddress, Port, Protocol};

key! {
    /// The key of `FRAGMENTS`: what the fragments of a packet have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
    pub struct FragmentKey {
        /// The packet's source address.
        pub source: Address,
        /// The packet's destination address.
        pub destination: Address,
        /// Its identification; IPv4's has 16 bits.
        pub identification: Be32,
        /// IPv4: its protocol. IPv6: 0.
        pub protocol: Protocol,
        padding: u8,
        more_padding: u16,
    }
}

impl FragmentKey {
    /// The key of these four.
    #[inline(always)]
    pub const fn new(
        source: Address,
        destination: Address,
        identification: Be32,
        protocol: Protocol,
    ) -> Self {
        Self { source, destination, identification, protocol, padding: 0, more_padding: 0 }
    }
}

/// Where the fragments of a packet go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum FragmentTarget {
    /// To this host: the first one was passed on.
    #[default]
    Host = 0,
    /// To a backend.
    Backend = 1,
    /// To a client.
    Client = 2,
}

impl Coded for FragmentTarget {
    #[inline(always)]
    fn number(self) -> u8 {
        self as u8
    }
}

record! {
    /// The value of `FRAGMENTS`: what was done with a packet's first fragment, and is done with the others.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Fragment {
        /// The source address that they leave with.
        pub source: Address,
        /// The destination address that they leave with.
        pub destination: Address,
        /// The backend that they go to or come from.
        pub backend: BackendIndex,
        /// When the first one arrived, seconds of the monotonic clock.
        pub seen: u32,
        /// The source port of the first one, as received.
        pub source_port: Port,
        /// The destination port of the first one, as received.
        pub destination_port: Port,
        /// Where they go.
        pub target: Code<FragmentTarget>,
        /// TCP or UDP.
        pub protocol: Protocol,
        /// Unused, 0.
        pub padding: u16,
        /// The interface that they leave by.
        pub ifindex: u32,
        /// The VLAN tags that they leave with.
        pub tags: Tags,
        /// The Ethernet address that they are sent to.
        pub destination_mac: MacAddress,
        /// The Ethernet address that they are sent from.
        pub source_mac: MacAddress,
    }
}
