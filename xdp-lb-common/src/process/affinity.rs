//! Which slot of its service's ring a flow has.

use crate::hash::FlowHash;
use crate::tables::{FlowKey, Service, Settings};

/// The hash that says which slot of the service's ring a flow has: the flow's own, or its client's where
/// all flows of a client stay together.
#[inline(always)]
pub fn slot_hash(settings: &Settings, service: &Service, key: &FlowKey) -> FlowHash {
    if service.affinity_bits != 0 {
        FlowHash::of_client(&settings.hash_keys, &key.source, service.affinity_bits)
    } else {
        flow_hash(settings, key)
    }
}

/// The hash of the whole 5-tuple: the flow's own, whatever its slot goes by.
#[inline(always)]
pub fn flow_hash(settings: &Settings, key: &FlowKey) -> FlowHash {
    FlowHash::new(
        &settings.hash_keys,
        (&key.source, key.source_port),
        (&key.destination, key.destination_port),
    )
}
