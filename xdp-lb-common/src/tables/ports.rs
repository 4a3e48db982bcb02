//! `PORT_RANGES` and `VIPS`: the ports of an address with services.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::record;
use crate::net::{Endpoint, Port, Protocol};

record! {
    /// The value of `PORT_RANGES`, by VIP address and protocol (port 0): the port ranges of its services.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct PortRanges {
        /// First and last port of each (host order), in descending order of the first port, padded with zeroes. The range of all
        /// ports begins with 0, so it is last.
        pub ranges: [[u16; 2]; Self::MOST],
    }
}

impl PortRanges {
    /// Maximum number of ranges of a VIP address and protocol.
    pub const LIMIT: usize = 8;
    /// The maximum number: the old and the new ones during a change.
    pub const MOST: usize = 2 * Self::LIMIT;

    /// The first port of the first range that contains this port.
    #[inline(always)]
    pub fn find(&self, port: Port) -> Option<Port> {
        let number = i32::from(port.get());
        let mut found = -1;
        // Without a branch for each range, since the verifier would follow them all.
        for [first, last] in self.ranges.into_iter().rev() {
            let (first, last) = (i32::from(first), i32::from(last));
            let outside = ((number - first) | (last - number)) >> 31;
            found = found & outside | first & !outside;
        }
        u16::try_from(found).ok().map(Port::new)
    }
}

record! {
    /// The value of `VIPS`, by a VIP's address: for TCP and for UDP, a port of the address's only service of that protocol (0: it
    /// has several, or none).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct SolePorts {
        /// TCP.
        pub tcp: Port,
        /// UDP.
        pub udp: Port,
    }
}

impl SolePorts {
    /// The value for an address with these services.
    pub fn of(services: impl Iterator<Item = Endpoint> + Clone) -> Self {
        let sole = |protocol| {
            let mut its = services.clone().filter(|vip| vip.protocol == protocol);
            match (its.next(), its.next()) {
                // Any port of a range will do, except 0, which means none.
                (Some(vip), None) => Port::new(vip.port.get().max(1)),
                _ => Port::new(0),
            }
        };
        Self { tcp: sole(Protocol::TCP), udp: sole(Protocol::UDP) }
    }

    /// The port for this protocol.
    #[inline(always)]
    pub fn of_protocol(self, protocol: Protocol) -> Option<Port> {
        let port = match protocol {
            Protocol::TCP => self.tcp,
            Protocol::UDP => self.udp,
            _ => return None,
        };
        (port.word() != 0).then_some(port)
    }
}
