//! What a node goes by in telling peers of its flows, and in taking in theirs: what stands in its tables.

use std::collections::HashMap;
use std::sync::Arc;

use xdp_lb_common::flow_table::life::Life;
use xdp_lb_common::flow_table::record::{Record, WayBack};
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};
use xdp_lb_common::process::slot_hash;
use xdp_lb_common::tables::flow::{CONFIRMED, COUNTED, ESTABLISHED, PAIRED, is_surely_closed, patience_of};
use xdp_lb_common::tables::{BackendIndex, FlowKey, Mode, Service, ServiceIndex, Settings, SlotIndex};

use super::flow::SharedFlow;
use super::table::{TrackedRing, TrackedSlot};
use crate::tables::Tables;

/// How long, in seconds, peers may not know of a flow's last packets; shorter where an idle one ends sooner.
const REFRESH: u32 = 60;

/// A flow is told again by then at the latest, as a part of the time for which it may be idle.
const PART_OF_PATIENCE: u32 = 4;

/// What stands in the tables, and where to find it.
pub struct Basis {
    tables: Arc<Tables>,
    /// The datapath's settings.
    pub settings: Settings,
    services: HashMap<ServiceIndex, (Endpoint, Service)>,
    /// The backends, by service and where they listen; their port is 0 where they listen on that of the client's packets.
    backends: HashMap<(ServiceIndex, Address, Port), BackendIndex>,
}

impl Basis {
    /// These tables and settings.
    pub fn new(tables: Arc<Tables>, settings: Settings) -> Self {
        let services = tables.services.iter().map(|(vip, service)| (service.index, (*vip, *service)));
        let backends = tables.backends.iter();
        let backends = backends.map(|(index, it)| ((it.service, it.address, it.port), *index)).collect();
        Self { services: services.collect(), backends, tables, settings }
    }

    /// Whether peers know as much of a record with this life as they need, by what they were told of the line. `now`: seconds of this
    /// host's clock.
    pub fn is_told(&self, told: Life, life: Life, record: &Record, now: u32) -> bool {
        if !told.is_record() || !told.is_same_record(life) {
            // Nobody has to know of a flow that was over before it could be told of.
            return is_surely_closed(life.progress());
        }
        let patience = patience_of(record.protocol(), life.progress(), &self.settings);
        let refresh = REFRESH.min(patience / PART_OF_PATIENCE).max(1);
        // A flow that has fallen silent is told of once more: they would end it too soon.
        let has_more = life.last_seen() > told.last_seen();
        (told.progress() ^ life.progress()) & !COUNTED == 0 && !(has_more && told.idle(now) >= refresh)
    }

    /// Whether peers have to be told of the flow of a record: they cannot tell by its slot where its packets go. In a slot that is not
    /// settled, they may be at another step than this node, and go by another of its owners.
    pub fn is_shared(&self, record: &Record) -> bool {
        let progress = record.life().progress();
        let is_confirmed = progress & CONFIRMED != 0;
        // Of a flow of one packet nobody knows whether there is somebody behind it. One that was there before its slot moved may have
        // sent no more than one since.
        let may_be_older = record.protocol() == Protocol::TCP && progress & ESTABLISHED != 0;
        let Some((_, service, number)) = self.slot_of(record).filter(|_| is_confirmed || may_be_older) else {
            return false;
        };
        if service.mode == Mode::FullNat || progress & PAIRED != 0 {
            // One without a port is another node's, which its port could not be kept for.
            return is_confirmed && progress & PAIRED != 0;
        }
        let slot = self.tables.slot(SlotIndex(service.ring_offset.0 + number));
        slot.is_some_and(|slot| slot.is_tracked() || slot.owner() != record.backend())
    }

    /// Whether there is still the backend that a record names: its place may have gone to another one.
    pub fn has_backend_of(&self, record: &Record) -> bool {
        self.slot_of(record).is_some()
    }

    /// The service of a record's flow, and the number of the slot that the flow's hash chooses; nothing where the record is of no use
    /// any more.
    fn slot_of(&self, record: &Record) -> Option<(&Endpoint, &Service, u32)> {
        let backend = self.tables.backends.get(&record.backend())?;
        let (vip, service) = self.services.get(&backend.service)?;
        if !record.destination().is(&backend.endpoint_for(&record.vip())) {
            return None;
        }
        Some((vip, service, slot_hash(&self.settings, service, &record.key()).reduce(service.ring_len)))
    }

    /// Whether it has the same backends as another one, whatever their state.
    pub fn has_backends_of(&self, other: &Self) -> bool {
        self.backends.len() == other.backends.len()
            && self.backends.keys().all(|it| other.backends.contains_key(it))
    }

    /// The record of a peer's flow, whatever this node thinks of its backend's health; nothing where there is no such backend, or the flow cannot be one of its.
    pub fn record_of(&self, flow: &SharedFlow, now: u32) -> Option<Record> {
        let service = self.service_at(&flow.vip)?;
        let index = self.backend_of(service, flow)?;
        let is_translated = flow.source != flow.client;
        let fits_mode = match is_translated {
            true => !service.mode.keeps_addresses(),
            false => service.mode != Mode::FullNat,
        };
        let is_martian = flow.client.address.is_martian() || flow.source.address.is_martian();
        if is_martian || !fits_mode || !is_of_family(flow) {
            return None;
        }
        let mut record = Record::default();
        record.set(
            &FlowKey::new(flow.client, flow.vip),
            &flow.source,
            index,
            &flow.backend,
            &WayBack::default(),
        );
        // The next packet here is to be noted, and with it the way back: not before it comes in another second.
        let seen = now.saturating_sub(u32::from(flow.idle).max(1));
        let life = Life::default().taken().begun(seen, flow.progress & !COUNTED).with_proof(flow.proof);
        record.words[0] = life.to_bits();
        Some(record)
    }

    /// The slot of a flow's record, if that is settled and says otherwise: no packet would look for the record.
    pub fn differing(&self, record: &Record) -> Option<TrackedRing> {
        let (vip, service, number) = self.slot_of(record)?;
        let slot = self.tables.slot(SlotIndex(service.ring_offset.0 + number))?;
        let differs = !slot.is_tracked() && slot.owner() != record.backend();
        let looks = service.records_flows() || service.ring_len == 0;
        let slots = vec![TrackedSlot::of(number)];
        (differs && !looks).then_some(TrackedRing { vip: *vip, length: service.ring_len, slots })
    }

    fn service_at(&self, vip: &Endpoint) -> Option<&Service> {
        if let Some(found) = self.tables.services.get(vip) {
            return Some(found);
        }
        let is_in = |(key, service): &(&Endpoint, &Service)| {
            key.is_range()
                && key.address == vip.address
                && key.protocol == vip.protocol
                && (key.port.get()..=service.last_port.get()).contains(&vip.port.get())
        };
        self.tables.services.iter().find(is_in).map(|(_, service)| service)
    }

    fn backend_of(&self, service: &Service, flow: &SharedFlow) -> Option<BackendIndex> {
        let at = |port| self.backends.get(&(service.index, flow.backend.address, port)).copied();
        let follows = flow.backend.port == flow.vip.port;
        at(flow.backend.port).or_else(|| at(Port::default()).filter(|_| follows))
    }
}

/// Whether all addresses of a flow are of one family.
fn is_of_family(flow: &SharedFlow) -> bool {
    let is_v4 = flow.client.address.is_v4();
    [flow.vip, flow.source, flow.backend].iter().all(|end| end.address.is_v4() == is_v4)
}
