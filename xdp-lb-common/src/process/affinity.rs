//! Hashes that select a flow's slot in its service's ring.

use crate::hash::FlowHash;
use crate::tables::{FlowKey, Service, Settings};

/// The hash that selects the flow's slot in its service's ring: the flow's own, or that of the client if the service keeps all
/// flows of a client together.
#[inline(always)]
pub fn slot_hash(settings: &Settings, service: &Service, key: &FlowKey) -> FlowHash {
    if service.affinity_bits != 0 {
        FlowHash::of_client(&settings.hash_keys, &key.source, service.affinity_bits)
    } else {
        flow_hash(settings, key)
    }
}

/// The hash of the whole 5-tuple, even if the slot is selected by the client's hash.
#[inline(always)]
pub fn flow_hash(settings: &Settings, key: &FlowKey) -> FlowHash {
    FlowHash::new(
        &settings.hash_keys,
        (&key.source, key.source_port),
        (&key.destination, key.destination_port),
    )
}
