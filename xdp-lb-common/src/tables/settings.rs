//! `SETTINGS`: what holds for every service.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::hash::KEYS;
use crate::layout::record;
use crate::net::Port;
use crate::own_mac::{self, OwnMac};

/// [`Settings::options`]: a `full-nat` backend that goes on with a flow without a record is told that the flow is over. Set
/// while records are missing for no other reason: none may still be on its way into the tables, and none was evicted.
pub const RESETS_UNKNOWN: u32 = 1;
/// [`Settings::options`]: backends' packets may come in by another interface or VLAN than the one towards their backend.
pub const ASYMMETRIC_REPLIES: u32 = 2;

/// How many ages a flow may have, and one to spare: an index of three bits is always inside.
pub const AGES: usize = 8;

record! {
    /// The one value of `SETTINGS`: what holds for every service.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    pub struct Settings {
        /// The secret of the flow hash; see [`crate::hash`].
        pub hash_keys: [u64; KEYS],
        /// The first port that `full-nat` may give to a flow.
        pub snat_port_first: u16,
        /// How many ports `full-nat` may give out, from the first on; never 0.
        pub snat_port_count: u16,
        /// What else holds: [`RESETS_UNKNOWN`], [`ASYMMETRIC_REPLIES`].
        pub options: u32,
        /// Seconds without a packet after which a flow is over, by what it has come to: see
        /// [`crate::tables::flow::patience`].
        pub patience: [u32; AGES],
        /// What marks a frame that the program at TC ingress is to send: see [`crate::process::handover`]. Random; 0: no such
        /// program is there.
        pub handover: u64,
        /// When the daemon's last heartbeat was, seconds of the monotonic clock; 0: there is none to wait for.
        pub heartbeat: u32,
        /// How many buckets the flow table has: see [`crate::flow_table`].
        pub flow_buckets: u32,
        /// How far the flow table is in use, as packets have found: the number of the last [level](crate::flow_table::Level)
        /// that a flow was recorded in, from 1 on.
        pub flow_reach: u32,
        /// 1: the daemon has let no heartbeat come for [`SILENCE`], as the datapath has found.
        pub alone: u32,
        /// Some of the entries of `OWN_MACS`, all if they are few.
        pub own_macs: [OwnMac; own_mac::IN_SETTINGS],
    }
}

/// The daemon is taken for dead or hung after so many seconds without a heartbeat.
pub const SILENCE: u32 = 8;

impl Settings {
    /// Whether `full-nat` may have given this port to a flow.
    #[inline(always)]
    pub fn is_snat_port(&self, port: Port) -> bool {
        port.get().wrapping_sub(self.snat_port_first) < self.snat_port_count
    }
}
