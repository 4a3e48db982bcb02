//! The contents of the BPF tables as plain collections, and the writes that change them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendIndex, Reply, ServerKey, Service, SlotIndex, SourceVerdict};

/// The tables that the control plane writes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tables {
    /// `SERVICES`, by VIP.
    pub services: BTreeMap<Endpoint, Service>,
    /// `BACKENDS`, without vacant ones.
    pub backends: BTreeMap<BackendIndex, Backend>,
    /// `REPLIES`, by the backend's endpoint.
    pub replies: BTreeMap<Endpoint, Reply>,
    /// `SNAT_ADDRESSES`, by index.
    pub snat_addresses: BTreeMap<u32, Address>,
    /// `QUIC_SERVERS`.
    pub quic_servers: BTreeMap<ServerKey, BackendIndex>,
    /// `SOURCES`.
    pub sources: BTreeMap<SourceRange, SourceVerdict>,
    /// The rings of services, by their first slot in `SLOTS`.
    pub rings: BTreeMap<SlotIndex, Vec<Slot>>,
}

/// A range of clients in a list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceRange {
    /// Which list.
    pub list: u32,
    /// The range's first address.
    pub address: Address,
    /// Its prefix length, of 128 bits.
    pub bits: u8,
}

/// One change of a table. Writes are applied in order, and each is atomic for every packet.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    /// Sets a backend's record; `Backend::default()` makes it vacant.
    Backend(BackendIndex, Backend),
    /// Sets a SNAT address; `Address::default()` makes the place vacant.
    SnatAddress(u32, Address),
    /// Writes slots from this one on, one word each. A new ring is invisible until its service's record is written; slots of a ring
    /// in use may be written one by one in place.
    Slots(SlotIndex, Vec<Slot>),
    /// Sets what to do with a backend's packets.
    Reply(Endpoint, Reply),
    /// Removes a backend's endpoint.
    RemoveReply(Endpoint),
    /// Sets the backend of a server ID.
    QuicServer(ServerKey, BackendIndex),
    /// Removes a server ID.
    RemoveQuicServer(ServerKey),
    /// Sets the verdict of a range. A list has no effect until a service refers to it.
    Source(SourceRange, SourceVerdict),
    /// Removes a range, once no packet in flight can use its list.
    RemoveSource(SourceRange),
    /// Sets a service's record: from here on its packets see this record and its ring.
    Service(Endpoint, Service),
    /// Removes a service.
    RemoveService(Endpoint),
}

impl Tables {
    /// Applies a write to these collections.
    pub fn apply(&mut self, write: &Write) {
        match write {
            Write::Backend(index, backend) => put(&mut self.backends, *index, *backend, Backend::default()),
            Write::SnatAddress(place, address) => {
                put(&mut self.snat_addresses, *place, *address, Address::default());
            }
            Write::Slots(at, slots) => self.write_slots(*at, slots),
            Write::Reply(endpoint, reply) => {
                self.replies.insert(*endpoint, *reply);
            }
            Write::RemoveReply(endpoint) => {
                self.replies.remove(endpoint);
            }
            Write::QuicServer(key, backend) => {
                self.quic_servers.insert(*key, *backend);
            }
            Write::RemoveQuicServer(key) => {
                self.quic_servers.remove(key);
            }
            Write::Source(range, verdict) => {
                self.sources.insert(*range, *verdict);
            }
            Write::RemoveSource(range) => {
                self.sources.remove(range);
            }
            Write::Service(vip, service) => {
                let before = self.services.insert(*vip, *service);
                self.forget_ring(before.filter(|before| {
                    (before.ring_offset, before.ring_len) != (service.ring_offset, service.ring_len)
                }));
            }
            Write::RemoveService(vip) => {
                let before = self.services.remove(vip);
                self.forget_ring(before);
            }
        }
    }

    /// The slots of a service's ring; empty if it has none.
    pub fn ring(&self, service: &Service) -> &[Slot] {
        match self.rings.get(&service.ring_offset) {
            Some(ring) if service.ring_len > 0 => ring,
            _ => &[],
        }
    }

    /// A slot of a service's ring.
    pub fn slot(&self, at: SlotIndex) -> Option<Slot> {
        let (offset, ring) = self.rings.range(..=at).next_back()?;
        ring.get((at.0 - offset.0) as usize).copied()
    }

    /// The ranges of a list.
    pub fn source_list(&self, list: u32) -> impl Iterator<Item = ((Address, u8), SourceVerdict)> {
        let first = |list| SourceRange { list, address: Address::default(), bits: 0 };
        self.sources
            .range(first(list)..first(list.saturating_add(1)))
            .map(|(range, verdict)| ((range.address, range.bits), *verdict))
    }

    fn write_slots(&mut self, at: SlotIndex, slots: &[Slot]) {
        if let Some((offset, ring)) = self.rings.range_mut(..=at).next_back() {
            let begin = (at.0 - offset.0) as usize;
            if let Some(place) = ring.get_mut(begin..begin + slots.len()) {
                place.copy_from_slice(slots);
                return;
            }
        }
        self.rings.insert(at, slots.to_vec());
    }

    fn forget_ring(&mut self, service: Option<Service>) {
        if let Some(service) = service.filter(|service| service.ring_len > 0) {
            self.rings.remove(&service.ring_offset);
        }
    }
}

fn put<K: Ord, V: PartialEq>(table: &mut BTreeMap<K, V>, key: K, value: V, vacant: V) {
    if value == vacant {
        table.remove(&key);
    } else {
        table.insert(key, value);
    }
}
