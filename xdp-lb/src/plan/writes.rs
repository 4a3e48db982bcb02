//! The order of writes in which every packet finds valid tables at any time.

use std::collections::BTreeMap;

use xdp_lb_common::net::Address;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, Reply, SHARED, SlotIndex};

use crate::tables::{Tables, Write};

/// The minimal writes that turn `tables` into `desired`, in a safe order. Anything to which a slot, a reply or a service refers
/// exists as long as the reference, and no slot sends flows to a backend that does not take them. `desired` only has the rings
/// whose slots change.
pub fn writes(tables: &Tables, desired: &Tables) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut late = Vec::new();

    for (index, backend) in changed(&tables.backends, &desired.backends) {
        let before = tables.backends.get(index);
        let first = before.map_or(*backend, |before| first_backend(before, backend));
        if before != Some(&first) {
            writes.push(Write::Backend(*index, first));
        }
        if first != *backend {
            late.push(Write::Backend(*index, *backend));
        }
    }
    for (place, address) in changed(&tables.snat_addresses, &desired.snat_addresses) {
        writes.push(Write::SnatAddress(*place, *address));
    }
    for (endpoint, reply) in changed(&tables.replies, &desired.replies) {
        let before = tables.replies.get(endpoint);
        let first = before.map_or(*reply, |before| first_reply(before, reply));
        if before != Some(&first) {
            writes.push(Write::Reply(*endpoint, first));
        }
        if first != *reply {
            late.push(Write::Reply(*endpoint, *reply));
        }
    }
    for (offset, ring) in &desired.rings {
        match tables.rings.get(offset) {
            Some(before) if before.len() == ring.len() => slots_in_place(*offset, before, ring, &mut writes),
            _ => writes.push(Write::Slots(*offset, ring.clone())),
        }
    }
    for (key, backend) in changed(&tables.quic_servers, &desired.quic_servers) {
        writes.push(Write::QuicServer(*key, *backend));
    }
    for (range, verdict) in changed(&tables.sources, &desired.sources) {
        writes.push(Write::Source(*range, *verdict));
    }
    for (vip, service) in changed(&tables.services, &desired.services) {
        writes.push(Write::Service(*vip, *service));
    }

    for (vip, _) in gone(&tables.services, &desired.services) {
        writes.push(Write::RemoveService(*vip));
    }
    for (key, _) in gone(&tables.quic_servers, &desired.quic_servers) {
        writes.push(Write::RemoveQuicServer(*key));
    }
    for (range, _) in gone(&tables.sources, &desired.sources) {
        writes.push(Write::RemoveSource(*range));
    }
    writes.append(&mut late);
    for (endpoint, _) in gone(&tables.replies, &desired.replies) {
        writes.push(Write::RemoveReply(*endpoint));
    }
    for (index, _) in gone(&tables.backends, &desired.backends) {
        writes.push(Write::Backend(*index, Backend::default()));
    }
    for (place, _) in gone(&tables.snat_addresses, &desired.snat_addresses) {
        writes.push(Write::SnatAddress(*place, Address::default()));
    }
    writes
}

/// The entries of `before` that are not in `after`.
pub fn gone<'a, K: Ord, V>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    before.iter().filter(|(key, _)| !after.contains_key(key))
}

fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    after.iter().filter(|(key, value)| before.get(key) != Some(value))
}

/// A backend's record while slots and replies may still be the old ones: a backend that will take fewer flows keeps its state
/// until no slot refers to it, and one that is no longer shared still records flows.
fn first_backend(before: &Backend, after: &Backend) -> Backend {
    let base = if before.state.rank() < after.state.rank() { before } else { after };
    Backend { neighbours: base.neighbours | (before.neighbours | after.neighbours) & SHARED, ..*base }
}

/// The rule for a backend's packets while services may still be the old ones: both.
fn first_reply(before: &Reply, after: &Reply) -> Reply {
    let base = if before.stateless > after.stateless { before } else { after };
    let recorded_since = before.recorded_since.min(after.recorded_since);
    Reply { by_record: before.by_record.max(after.by_record), recorded_since, ..*base }
}

fn slots_in_place(offset: SlotIndex, before: &[Slot], after: &[Slot], writes: &mut Vec<Write>) {
    let mut place = 0;
    while let Some(skipped) = (place..after.len()).position(|slot| before[slot] != after[slot]) {
        let begin = place + skipped;
        let run = (begin..after.len()).take_while(|slot| before[*slot] != after[*slot]).count();
        writes.push(Write::Slots(SlotIndex(offset.0 + begin as u32), after[begin..begin + run].to_vec()));
        place = begin + run;
    }
}
