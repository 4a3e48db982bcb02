//! `CHECKS`: health checks through VIPs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::index::BackendIndex;
use crate::layout::record;
use crate::net::{Endpoint, MacAddress};

record! {
    /// The value of `CHECKS`, by the 5-tuple of the packets that the host sends: a health check through the VIP and one backend.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Check {
        /// The key of the service's record.
        pub service: Endpoint,
        /// The backend that is checked.
        pub backend: BackendIndex,
        /// The interface of the check's socket.
        pub ifindex: u32,
    }
}

/// The Ethernet address of the checks' sockets, reached through [`Check::ifindex`]. Locally administered.
pub const CHECKS_MAC: MacAddress = MacAddress::new([0x02, 0x78, 0x64, 0x70, 0x00, 0x02]);

/// The Ethernet address of that interface.
pub const CHECKS_HOST_MAC: MacAddress = MacAddress::new([0x02, 0x78, 0x64, 0x70, 0x00, 0x01]);
