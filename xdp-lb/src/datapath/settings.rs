//! The settings for all services, in the form of the datapath's tables.

use sha2::{Digest, Sha256};
use xdp_lb_common::hash::KEYS;
use xdp_lb_common::tables::flow::patience;
use xdp_lb_common::tables::{ASYMMETRIC_REPLIES, Settings};

use crate::model::{Config, PortRange, Timeouts};

/// The part of the configuration that the datapath reads for every packet.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The secret of the flow hash. `None`: the one in the adopted tables, or a new random one.
    pub flow_hash_secret: Option<[u8; 32]>,
    /// The SNAT ports of `full-nat`.
    pub snat_ports: PortRange,
    /// The timeouts of flows.
    pub timeouts: Timeouts,
    /// Whether backends' packets may arrive on another interface than the one by which packets to them leave.
    pub asymmetric_replies: bool,
}

impl Policy {
    /// The policy of a config file.
    pub fn of(config: &Config) -> Self {
        Self {
            flow_hash_secret: config.flow_hash_secret,
            snat_ports: config.snat_ports,
            timeouts: config.timeouts,
            asymmetric_replies: config.asymmetric_replies,
        }
    }

    /// The settings' record. `present`: the one in the table, if there is one.
    pub(super) fn settings(&self, present: Option<&Settings>) -> Settings {
        // An interrupted start leaves a table of zeros, without keys for the hash.
        let present = present.filter(|present| present.snat_port_count != 0);
        let keys = match (&self.flow_hash_secret, present) {
            (Some(secret), _) => hash_keys(secret),
            (None, Some(present)) => present.hash_keys,
            (None, None) => hash_keys(&rand::random()),
        };
        let PortRange { first, last } = self.snat_ports;
        Settings {
            hash_keys: keys,
            snat_port_first: first,
            snat_port_count: (last - first).saturating_add(1),
            options: if self.asymmetric_replies { ASYMMETRIC_REPLIES } else { 0 },
            patience: patience(seconds(self.timeouts.tcp_idle), seconds(self.timeouts.udp_idle)),
            handover: present.map_or(0, |present| present.handover),
            heartbeat: present.map_or(0, |present| present.heartbeat),
            alone: present.map_or(0, |present| present.alone),
            flow_buckets: present.map_or(0, |present| present.flow_buckets),
            flow_reach: present.map_or(0, |present| present.flow_reach),
            own_macs: present.map_or_else(Default::default, |present| present.own_macs),
        }
    }
}

fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// The keys of the flow hash from a secret: each is the first 8 bytes (little-endian) of SHA-256 over the secret and the key's
/// number, so that every node with the secret has the same keys.
pub fn hash_keys(secret: &[u8; 32]) -> [u64; KEYS] {
    std::array::from_fn(|number| {
        let digest = Sha256::new().chain_update(secret).chain_update([number as u8]).finalize();
        u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
    })
}
