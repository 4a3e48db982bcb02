//! Counting the flows that live, by backend, and finding the records that are of no more use.

use std::collections::{HashMap, HashSet};

use xdp_lb_common::process::slot_hash;
use xdp_lb_common::tables::flow::PAIRED;
use xdp_lb_common::tables::{
    Backend, BackendIndex, FlowKey, FlowRecord, FlowTable, Service, ServiceIndex, Settings, SlotIndex,
};

use crate::tables::Tables;

/// The flow records at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many recorded flows count, by their backend, which keeps its flows.
    pub live: HashMap<BackendIndex, u64>,
    /// How many records are in use in each table; a flow that is recorded in both directions has two.
    pub records: [u64; FlowTable::ALL.len()],
    /// The slots that are tracked and have a record which says otherwise than they do.
    pub others: HashSet<SlotIndex>,
}

/// A census in the making: about 100 ns a record.
pub struct Count<'a> {
    tables: &'a Tables,
    services: HashMap<ServiceIndex, &'a Service>,
    settings: &'a Settings,
    now: u32,
    census: Census,
}

impl<'a> Count<'a> {
    /// Nothing counted yet. `tables` is what stands in them, `now` seconds of the clock that packets are noted by.
    pub fn new(tables: &'a Tables, settings: &'a Settings, now: u32) -> Self {
        let services = tables.services.values().map(|service| (service.index, service)).collect();
        Self { tables, services, settings, now, census: Census::default() }
    }

    /// Takes in a record; tells whether it is of no more use, and to be removed.
    ///
    /// That is one that is over, one whose backend is gone (its place may have gone to another), and one that says
    /// nothing but what its slot does, which is settled.
    pub fn take(&mut self, table: FlowTable, key: &FlowKey, record: &FlowRecord) -> bool {
        let Some(backend) = self.tables.backends.get(&record.backend) else { return true };
        let is_reply = record.life.is_reply();
        let (own, vip_port) = if is_reply {
            ((key.source, key.source_port), record.source_port)
        } else {
            ((record.destination, record.destination_port), key.destination_port)
        };
        if own != (backend.address, backend.port_for(vip_port))
            || record.life.is_over(key.protocol, self.now, self.settings)
        {
            return true;
        }
        if !is_reply && self.is_needless(key, record, backend) {
            return true;
        }
        self.census.records[table as usize] += 1;
        let is_unproven = table == FlowTable::HalfOpen && self.sees_replies(backend);
        let counts = backend.state.keeps_flows()
            && record.life.counts(key.protocol, self.now, self.settings, is_unproven);
        if !is_reply && counts {
            *self.census.live.entry(record.backend).or_default() += 1;
        }
        false
    }

    /// Whether the backend's replies pass here.
    fn sees_replies(&self, backend: &Backend) -> bool {
        self.services.get(&backend.service).is_some_and(|service| !service.mode.keeps_addresses())
    }

    /// What was counted.
    pub fn finish(self) -> Census {
        self.census
    }

    /// Whether the record says nothing but what its settled slot does; notes where a tracked slot has one that says
    /// otherwise.
    fn is_needless(&mut self, key: &FlowKey, record: &FlowRecord, backend: &Backend) -> bool {
        let Some(service) = self.services.get(&backend.service).filter(|service| service.ring_len > 0) else {
            return false;
        };
        let place = slot_hash(self.settings, service, key).reduce(service.ring_len);
        let at = SlotIndex(service.ring_offset.0 + place);
        let Some(slot) = self.tables.slot(at) else { return false };
        let is_other = record.backend != slot.owner();
        if slot.is_tracked() && is_other {
            self.census.others.insert(at);
        }
        let is_paired = record.life.progress() & PAIRED != 0;
        !slot.is_tracked() && !is_other && !service.records_flows() && !is_paired
    }
}
