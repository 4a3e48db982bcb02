//! `REPLIES`: what to do with a packet from a backend.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::index::BackendIndex;
use crate::layout::record;
use crate::net::{Address, Port};

record! {
    /// The value of `REPLIES`, by a backend's endpoint (port 0: all of its ports without their own entry): what to do with a
    /// packet from it.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Reply {
        /// The source VIP of replies without a record (`nat`). If several VIPs share the backend, the one that had it first.
        pub vip: Address,
        /// The VIP's port. If ports are kept, the first one.
        pub port: Port,
        /// 1: replies may have a flow record, so look there first (`full-nat`, or a backend that several VIPs share).
        pub by_record: u8,
        /// 1: a reply without a record is forwarded statelessly, from `vip`.
        pub stateless: u8,
        /// The backend for which stateless replies are counted.
        pub backend: BackendIndex,
        /// The time since which every flow of the backend is recorded, in seconds of [`Tables::now`]; 0: not every flow is. Once
        /// older flows have ended, a packet without a record is not a reply.
        pub recorded_since: u32,
        /// If ports are kept: the last one.
        pub last_port: Port,
        /// 1: a reply without a record keeps its port, which must be from `port` to `last_port`.
        pub keeps_port: u8,
        /// 1: this is not a backend but a VIP through which backends are checked: a packet from it may answer one of `CHECKS`.
        pub answers_checks: u8,
    }
}

impl Reply {
    /// The source port of a forwarded reply from this port of the backend, if it has no record.
    #[inline(always)]
    pub fn port_for(&self, port: Port) -> Port {
        if self.keeps_port != 0 { port } else { self.port }
    }

    /// Whether a packet from this port of the backend is a reply.
    #[inline(always)]
    pub fn is_from(&self, port: Port) -> bool {
        let number = port.get();
        (self.keeps_port == 0) | ((self.port.get() <= number) & (number <= self.last_port.get()))
    }
}
