//! `ROUTER_ADDRESSES`: the source addresses of this host's ICMP errors.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{key, record};
use crate::net::Address;

key! {
    /// The key of `ROUTER_ADDRESSES`: an interface on which packets arrive.
    pub struct RouterInterface {
        /// The index of the receiving interface; of a VLAN, its parent.
        pub ifindex: u32,
        /// The VLAN ID (IEEE 802.1Q, 1 to 4094); 0: untagged.
        pub vlan: u32,
    }
}

record! {
    /// The value of `ROUTER_ADDRESSES`: this host's addresses on an interface, from which it sends ICMP errors as a router (RFC
    /// 1812 section 4.3.2.4). All 0: none of that family.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct RouterAddresses {
        /// The IPv4 address.
        pub v4: Address,
        /// The IPv6 address.
        pub v6: Address,
    }
}
