//! Counting the flows that live, by backend, and finding the records that are of no more use.

use std::collections::{HashMap, HashSet};

use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::process::slot_hash;
use xdp_lb_common::tables::flow::PAIRED;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendIndex, Service, Settings, SlotIndex};

use crate::tables::Tables;

/// The flow records, each as it was when its turn came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many recorded flows count, by their backend, which keeps its flows.
    pub live: HashMap<BackendIndex, u64>,
    /// How many records are in use; that of an IPv6 flow counts twice, as it takes twice the room.
    pub records: u64,
    /// The slots that are tracked and have a record which says otherwise than they do.
    pub others: HashSet<SlotIndex>,
}

/// A census in the making.
pub struct Count<'a> {
    /// By a backend's index: each record asks for one.
    places: Vec<Option<Place<'a>>>,
    settings: &'a Settings,
    now: u32,
    census: Census,
}

/// What a record is held against.
struct Place<'a> {
    backend: &'a Backend,
    service: Option<&'a Service>,
    ring: &'a [Slot],
    live: u64,
}

impl<'a> Count<'a> {
    /// Nothing counted yet. `tables` is what stands in them, `now` seconds of the clock that packets are noted by.
    pub fn new(tables: &'a Tables, settings: &'a Settings, now: u32) -> Self {
        Self::go_on(Census::default(), tables, settings, now)
    }

    /// Goes on with one that was begun by what stood in the tables before.
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

    /// Takes in a record; tells whether it is of no more use, and to be removed.
    ///
    /// That is one that is over, one whose backend is gone (its place may have gone to another), and one that says
    /// nothing but what its slot does, which is settled.
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

    /// What was counted.
    pub fn finish(mut self) -> Census {
        for (index, place) in (0..).map(BackendIndex).zip(&self.places) {
            if let Some(Place { live: live @ 1.., .. }) = place {
                *self.census.live.entry(index).or_default() += live;
            }
        }
        self.census
    }
}

/// What a record is good for.
enum Use {
    /// It says nothing but what its slot does, which is settled.
    None,
    /// It says otherwise than this slot does, which is tracked.
    Differs(SlotIndex),
    /// Something else.
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
