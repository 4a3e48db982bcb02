//! `FRAGMENTS`: the decision about a packet's first fragment.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::code::{Code, Coded};
use super::index::BackendIndex;
use super::record::Tags;
use crate::layout::{key, record};
use crate::net::{Address, Be32, MacAddress, Port, Protocol};

key! {
    /// The key of `FRAGMENTS`, which a packet's fragments share (RFC 791 section 3.2, RFC 8200 section 4.5).
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
    /// From its parts.
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

/// The target of a packet's fragments.
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
    /// The value of `FRAGMENTS`: the decision about a packet's first fragment, which the others follow.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Fragment {
        /// Their new source address.
        pub source: Address,
        /// Their new destination address.
        pub destination: Address,
        /// The backend to or from which they are sent.
        pub backend: BackendIndex,
        /// When the first one arrived, seconds of the monotonic clock.
        pub seen: u32,
        /// The source port of the first one, as received.
        pub source_port: Port,
        /// The destination port of the first one, as received.
        pub destination_port: Port,
        /// Their target.
        pub target: Code<FragmentTarget>,
        /// TCP or UDP.
        pub protocol: Protocol,
        /// Unused, 0.
        pub padding: u16,
        /// The interface by which they leave.
        pub ifindex: u32,
        /// Their new VLAN tags.
        pub tags: Tags,
        /// Their new destination MAC.
        pub destination_mac: MacAddress,
        /// Their new source MAC.
        pub source_mac: MacAddress,
    }
}
