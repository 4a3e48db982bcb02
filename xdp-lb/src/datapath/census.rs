//! Counting the flows that live, by backend, and finding the records that are of no more use.

use std::collections::{HashMap, HashSet};

use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::process::slot_hash;
use xdp_lb_common::tables::flow::PAIRED;
use xdp_lb_common::tables::{Backend, BackendIndex, Service, ServiceIndex, Settings, SlotIndex};

use crate::tables::Tables;

/// The flow records at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many recorded flows count, by their backend, which keeps its flows.
    pub live: HashMap<BackendIndex, u64>,
    /// How many records are in use; that of an IPv6 flow counts twice, as it takes twice the room.
    pub records: u64,
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
    pub fn take(&mut self, record: &Record) -> bool {
        let Some(backend) = self.tables.backends.get(&record.backend()) else { return true };
        let (protocol, destination) = (record.protocol(), record.destination());
        let is_its =
            destination.address == backend.address && destination.port == backend.port_for(record.vip().port);
        if !is_its || record.life().is_over(protocol, self.now, self.settings) {
            return true;
        }
        if self.is_needless(record, backend) {
            return true;
        }
        self.census.records += if record.is_v6() { 2 } else { 1 };
        let sees_replies = self.sees_replies(backend);
        if backend.state.keeps_flows()
            && record.life().counts(protocol, self.now, self.settings, sees_replies)
        {
            *self.census.live.entry(record.backend()).or_default() += 1;
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
    fn is_needless(&mut self, record: &Record, backend: &Backend) -> bool {
        let Some(service) = self.services.get(&backend.service).filter(|service| service.ring_len > 0) else {
            return false;
        };
        let place = slot_hash(self.settings, service, &record.key()).reduce(service.ring_len);
        let at = SlotIndex(service.ring_offset.0 + place);
        let Some(slot) = self.tables.slot(at) else { return false };
        let is_other = record.backend() != slot.owner();
        if slot.is_tracked() && is_other {
            self.census.others.insert(at);
        }
        let is_paired = record.life().progress() & PAIRED != 0;
        !slot.is_tracked() && !is_other && !service.records_flows() && !is_paired
    }
}
