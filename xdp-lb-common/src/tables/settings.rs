//! `SETTINGS`: the settings for all services.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::hash::KEYS;
use crate::layout::record;
use crate::net::Port;
use crate::own_mac::{self, OwnMac};

/// [`Settings::options`]: a `full-nat` backend that sends on a flow without a record gets a reset, because the flow is over. Set
/// while a record can be missing for no other reason: none is still to be copied into the tables, and none was evicted.
pub const RESETS_UNKNOWN: u32 = 1;
/// [`Settings::options`]: backends' packets may arrive on another interface or VLAN than the one towards their backend.
pub const ASYMMETRIC_REPLIES: u32 = 2;

/// The number of ages, rounded up: an index of three bits is always in bounds.
pub const AGES: usize = 8;

record! {
    /// The only value of `SETTINGS`: the settings for all services.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Settings {
        /// The secret of the flow hash; see [`crate::hash`].
        pub hash_keys: [u64; KEYS],
        /// The first SNAT port of `full-nat`.
        pub snat_port_first: u16,
        /// The number of SNAT ports of `full-nat`, from the first on. Never 0.
        pub snat_port_count: u16,
        /// Options, a bit each: [`RESETS_UNKNOWN`], [`ASYMMETRIC_REPLIES`].
        pub options: u32,
        /// Idle timeouts of a flow, in seconds, by its [age](crate::tables::flow::Age): see [`crate::tables::flow::patience`].
        pub patience: [u32; AGES],
        /// The mark of frames that the program at TC ingress sends: see [`crate::process::handover`]. Random; 0: there is no such
        /// program.
        pub handover: u64,
        /// The daemon's last heartbeat, in seconds of the monotonic clock; 0: no heartbeat is expected.
        pub heartbeat: u32,
        /// The number of buckets of the flow table: see [`crate::flow_table`].
        pub flow_buckets: u32,
        /// The part of the flow table in use, as found by packets: the number, from 1, of the last
        /// [level](crate::flow_table::Level) in which a flow was recorded.
        pub flow_reach: u32,
        /// 1: the datapath has found that the last heartbeat is older than [`SILENCE`].
        pub alone: u32,
        /// Some of the entries of `OWN_MACS`; all of them if they are few.
        pub own_macs: [OwnMac; own_mac::IN_SETTINGS],
    }
}

/// The daemon is considered dead or hung after this many seconds without a heartbeat.
pub const SILENCE: u32 = 8;

impl Settings {
    /// Whether this is one of `full-nat`'s SNAT ports.
    #[inline(always)]
    pub fn is_snat_port(&self, port: Port) -> bool {
        port.get().wrapping_sub(self.snat_port_first) < self.snat_port_count
    }
}
