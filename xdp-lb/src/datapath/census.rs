//! Counts the live flows by backend, and finds records that are no longer needed.

use std::collections::{HashMap, HashSet};

use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::process::slot_hash;
use xdp_lb_common::tables::flow::PAIRED;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendIndex, Service, Settings, SlotIndex};

use crate::tables::Tables;

/// A count of the flow records, each read at a different moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The number of flows that count, by backend, for backends that keep their flows.
    pub live: HashMap<BackendIndex, u64>,
    /// The number of records in use. An IPv6 flow counts twice, since its record takes twice the space.
    pub records: u64,
    /// The slots that are tracked and have a record that differs from them.
    pub others: HashSet<SlotIndex>,
}

/// A census in progress.
pub struct Count<'a> {
    /// By backend index, since each record needs one.
    places: Vec<Option<Place<'a>>>,
    settings: &'a Settings,
    now: u32,
    census: Census,
}

/// The backend and service against which a record is compared.
struct Place<'a> {
    backend: &'a Backend,
    service: Option<&'a Service>,
    ring: &'a [Slot],
    live: u64,
}

impl<'a> Count<'a> {
    /// A new census. `tables`: their contents. `now`: seconds of the clock of flow records.
    pub fn new(tables: &'a Tables, settings: &'a Settings, now: u32) -> Self {
        Self::go_on(Census::default(), tables, settings, now)
    }

    /// Continues one that began with earlier contents of the tables.
    pub fn go_on(census: Census, tables: &'a Tables, settings: &'a Settings, now: u32) -> Self {
        let services: HashMap<_, _> =
            tables.services.values().map(|service| (service.index, service)).collect();
        let last = tables.backends.keys().next_back().map_or(0, |index| index.0 as usize + 1);
        let mut places: Vec<Option<Place<'a>>> = (0..last).map(|_| None).collect();
        for (index, backend) in &tables.backends {
            let service = services.get(&backend.service).copied();
            let ring = service.map_or(&[][..], |service| tables.ring(service));
            places[index.0 as usize] = Some(Place { backend, service, ring, live: 0 });
        }
        Self { places, settings, now, census }
    }

    /// Counts a record. Returns whether it is no longer needed and should be removed.
    ///
    /// That is a record that is over, one whose backend is gone (another may have its index), and one that matches its slot, if
    /// the slot is settled.
    pub fn take(&mut self, record: &Record) -> bool {
        let Some(Some(place)) = self.places.get_mut(record.backend().0 as usize) else { return true };
        let (backend, protocol, destination) = (place.backend, record.protocol(), record.destination());
        let is_its =
            destination.address == backend.address && destination.port == backend.port_for(record.vip().port);
        if !is_its || record.life().is_over(protocol, self.now, self.settings) {
            return true;
        }
        match place.use_of(record, self.settings) {
            Use::None => return true,
            Use::Differs(slot) => drop(self.census.others.insert(slot)),
            Use::Kept => {}
        }
        self.census.records += if record.is_v6() { 2 } else { 1 };
        if backend.state.keeps_flows()
            && record.life().counts(protocol, self.now, self.settings, place.sees_replies())
        {
            place.live += 1;
        }
        false
    }

    /// The result.
    pub fn finish(mut self) -> Census {
        for (index, place) in (0..).map(BackendIndex).zip(&self.places) {
            if let Some(Place { live: live @ 1.., .. }) = place {
                *self.census.live.entry(index).or_default() += live;
            }
        }
        self.census
    }
}

/// What a record is needed for.
enum Use {
    /// Nothing: it matches its slot, which is settled.
    None,
    /// It differs from this slot, which is tracked.
    Differs(SlotIndex),
    /// Anything else.
    Kept,
}

impl Place<'_> {
    /// Whether the backend's replies pass here.
    fn sees_replies(&self) -> bool {
        self.service.is_some_and(|service| !service.mode.keeps_addresses())
    }

    fn use_of(&self, record: &Record, settings: &Settings) -> Use {
        let Some(service) = self.service.filter(|_| !self.ring.is_empty()) else { return Use::Kept };
        let place = slot_hash(settings, service, &record.key()).reduce(service.ring_len);
        let Some(slot) = self.ring.get(place as usize) else { return Use::Kept };
        let is_other = record.backend() != slot.owner();
        let is_paired = record.life().progress() & PAIRED != 0;
        match (slot.is_tracked(), is_other) {
            (true, true) => Use::Differs(SlotIndex(service.ring_offset.0 + place)),
            (false, false) if !service.records_flows() && !is_paired => Use::None,
            _ => Use::Kept,
        }
    }
}
