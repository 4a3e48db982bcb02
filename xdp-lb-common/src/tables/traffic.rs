//! `BACKEND_COUNTERS`: the traffic of a backend.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::layout::record;
record! {
    /// The traffic of a backend: the value of `BACKEND_COUNTERS` (one for each CPU), and of `FORMER_TRAFFIC`, in which the control
    /// plane keeps the traffic of a service's former backends.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Traffic {
        /// Packets from clients, forwarded.
        pub packets_in: u64,
        /// Bytes of those packets, with their Ethernet header as received.
        pub bytes_in: u64,
        /// Packets to clients, forwarded.
        pub packets_out: u64,
        /// Bytes of those packets, with their Ethernet header as received.
        pub bytes_out: u64,
        /// New flows.
        pub new_flows: u64,
        /// Accepted SYNs (SYN-ACKs), if the backend's replies pass here.
        pub accepted: u64,
        /// Connections that it has refused or reset: resets with an ACK, if its replies pass here. A reset without an ACK answers
        /// a packet without a connection, which anyone can send.
        pub resets: u64,
        /// Packets from clients that [ask](crate::packet::parse::Parsed::asks) for an answer while the backend was
        /// [failing](BackendState::Failing). Packets of the fast path are not counted: a failing backend gets none of them.
        pub asked: u64,
    }
}

impl Traffic {
    /// Counts a packet from a client.
    #[inline(always)]
    pub fn forwarded(&mut self, bytes: u64, is_new: bool) {
        self.packets_in += 1;
        self.bytes_in += bytes;
        self.new_flows += u64::from(is_new);
    }

    /// Counts a packet to a client.
    #[inline(always)]
    pub fn replied(&mut self, bytes: u64) {
        self.packets_out += 1;
        self.bytes_out += bytes;
    }

    /// Counts a connection that the backend has accepted or reset.
    #[inline(always)]
    pub fn answered(&mut self, is_reset: bool) {
        self.resets += u64::from(is_reset);
        self.accepted += u64::from(!is_reset);
    }
}

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.new_flows += other.new_flows;
        self.accepted += other.accepted;
        self.resets += other.resets;
        self.asked += other.asked;
    }
}
