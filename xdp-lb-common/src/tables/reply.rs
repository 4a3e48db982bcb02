//! `REPLIES`: what to do with a packet from a backend.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::index::BackendIndex;
use crate::layout::record;
use crate::net::{Address, Port};

record! {
    /// The value of `REPLIES`, by a backend's endpoint (port 0: each of its ports that has no entry of its own): what to
    /// do with a packet that comes from it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Reply {
        /// The VIP that replies without a record come from (`nat`; where several share the backend, the one
        /// that had it first).
        pub vip: Address,
        /// The VIP's port; where it is kept, the first one.
        pub port: Port,
        /// 1: replies may have a flow record, look there first (`full-nat`, or a backend that several
        /// VIPs share).
        pub by_record: u8,
        /// 1: a reply without a record is answered statelessly, in the name of `vip`.
        pub stateless: u8,
        /// The backend whose counters a stateless reply goes to.
        pub backend: BackendIndex,
        /// Since when every flow of the backend is recorded, in the seconds of [`Tables::now`]; 0: not every flow is. Once the flows
        /// from before have ended, a packet of a flow without a record is not a reply.
        pub recorded_since: u32,
        /// Where the port is kept: the last one.
        pub last_port: Port,
        /// 1: a reply without a record keeps its port, and is one only if that is from `port` to `last_port`.
        pub keeps_port: u8,
        /// 1: this is not a backend but a VIP through which its backends are checked: what comes from it may answer one of
        /// `CHECKS`.
        pub answers_checks: u8,
    }
}

impl Reply {
    /// The port that a reply from this port of the backend leaves with, where it has no record.
    #[inline(always)]
    pub fn port_for(&self, port: Port) -> Port {
        if self.keeps_port != 0 { port } else { self.port }
    }

    /// Whether what comes from this port of the backend is a reply.
    #[inline(always)]
    pub fn is_from(&self, port: Port) -> bool {
        let number = port.get();
        (self.keeps_port == 0) | ((self.port.get() <= number) & (number <= self.last_port.get()))
    }
}
