//! `ROUTER_ADDRESSES`: in whose name this host answers as a router.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::{key, record};
use crate::net::Address;

key! {
    /// The key of `ROUTER_ADDRESSES`: an interface as packets come in by it.
    pub struct RouterInterface {
        /// The index of the interface that receives: a VLAN's parent.
        pub ifindex: u32,
        /// The VLAN id (IEEE 802.1Q, 1 to 4094); 0 where packets carry no tag.
        pub vlan: u32,
    }
}

record! {
    /// The value of `ROUTER_ADDRESSES`: this host's addresses behind an interface, in whose names it answers as a router (RFC 1812
    /// section 4.3.2.4). All 0: none of that family.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct RouterAddresses {
        /// The IPv4 address.
        pub v4: Address,
        /// The IPv6 address.
        pub v6: Address,
    }
}
