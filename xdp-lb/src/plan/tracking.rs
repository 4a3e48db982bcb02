//! Slots in which this node goes by flows' records, since another load balancer of its fleet does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{ServiceIndex, SlotIndex};

use super::settling::Settling;
use crate::fleet::{SlotStep, TrackedRing, TrackedSlot};
use crate::tables::{Tables, Write};

/// What it takes to go by records where another node does.
#[derive(Debug, Default)]
pub struct Tracking {
    /// What is to be written.
    pub writes: Vec<Write>,
    /// For how long slots have been moving there.
    pub moving_for: Vec<(SlotIndex, Duration)>,
}

/// Has settled slots of these rings go by records: flows without one stay with the backend that the other node names, else with the
/// owner. New flows go to the owner, as before. Rings of another length are left alone. `is_new`: this node has had no flows of its
/// own, so that those of which the other one has all records have them here as well.
pub fn tracking(tables: &Tables, rings: &[TrackedRing], is_new: bool) -> Tracking {
    let backends = tables.backends.iter().map(|(index, it)| ((it.service, it.address, it.port), *index));
    let backends: HashMap<_, _> = backends.collect();
    let at = |service: ServiceIndex, end: &Endpoint| backends.get(&(service, end.address, end.port)).copied();
    let mut tracking = Tracking::default();
    for ring in rings {
        let Some(service) = tables.services.get(&ring.vip).filter(|it| it.ring_len == ring.length) else {
            continue;
        };
        let slots = tables.ring(service);
        for TrackedSlot { number, prior, step } in &ring.slots {
            let Some(slot) = slots.get(*number as usize) else { continue };
            let place = SlotIndex(service.ring_offset.0 + number);
            let prior = prior.as_ref().and_then(|end| at(service.index, end));
            if !slot.is_tracked() {
                let next = match step {
                    SlotStep::Recorded if is_new => Slot::recorded(slot.owner()),
                    _ => Slot::moving(slot.owner(), prior.unwrap_or(slot.owner())),
                };
                tracking.writes.push(Write::Slots(place, vec![next]));
            }
            let is_the_same = !slot.is_tracked() || prior == Some(slot.prior());
            if let SlotStep::Moving(time) = step
                && is_the_same
            {
                tracking.moving_for.push((place, *time));
            }
        }
    }
    tracking
}

/// The slots that are not settled, ring by ring.
pub fn tracked(tables: &Tables, settling: &Settling, now: Instant) -> Vec<TrackedRing> {
    let rings = tables.services.iter().map(|(vip, service)| {
        let slot = |(number, slot): (u32, &Slot)| {
            let moving_for = settling.moving_for(SlotIndex(service.ring_offset.0 + number), now);
            let step = match moving_for {
                _ if slot.is_recorded() => SlotStep::Recorded,
                Some(time) => SlotStep::Moving(time),
                None => SlotStep::Unknown,
            };
            slot.is_tracked().then(|| TrackedSlot { number, prior: prior(tables, *slot, vip), step })
        };
        let slots = (0..).zip(tables.ring(service)).filter_map(slot).collect();
        TrackedRing { vip: *vip, length: service.ring_len, slots }
    });
    rings.filter(|ring| !ring.slots.is_empty()).collect()
}

fn prior(tables: &Tables, slot: Slot, vip: &Endpoint) -> Option<Endpoint> {
    let is_moving = !slot.is_recorded() && slot.prior() != slot.owner();
    let prior = tables.backends.get(&slot.prior()).filter(|_| is_moving)?;
    Some(prior.endpoint(vip.protocol))
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::net::Protocol;
    use xdp_lb_common::tables::{Backend, BackendIndex, BackendState, Service};

    use super::*;

    const FIRST: BackendIndex = BackendIndex(1);
    const SECOND: BackendIndex = BackendIndex(2);

    fn end(text: &str) -> Endpoint {
        Endpoint::from_socket(text.parse().unwrap(), Protocol::TCP)
    }

    fn tables(slots: &[Slot]) -> Tables {
        let mut tables = Tables::default();
        let backend = |address: &str| {
            let Endpoint { address, port, .. } = end(address);
            Backend {
                address,
                port,
                service: ServiceIndex(3),
                state: BackendState::Up.into(),
                ..Backend::default()
            }
        };
        tables.backends.insert(FIRST, backend("198.51.100.1:80"));
        tables.backends.insert(SECOND, backend("198.51.100.2:80"));
        let service = Service {
            index: ServiceIndex(3),
            ring_offset: SlotIndex(64),
            ring_len: slots.len() as u32,
            ..Service::default()
        };
        tables.apply(&Write::Slots(SlotIndex(64), slots.to_vec()));
        tables.apply(&Write::Service(end("192.0.2.1:80"), service));
        tables
    }

    fn after(slots: &[Slot], ring: TrackedRing) -> Vec<Slot> {
        let mut tables = tables(slots);
        for write in tracking(&tables, &[ring], false).writes {
            tables.apply(&write);
        }
        tables.rings[&SlotIndex(64)].clone()
    }

    fn slot(number: u32, prior: Option<&str>, step: SlotStep) -> TrackedSlot {
        TrackedSlot { number, prior: prior.map(end), step }
    }

    #[test]
    fn what_a_node_tells_has_another_one_s_slots_move_as_long_as_its_own_do() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(40));
        let slots = [
            Slot::moving(SECOND, FIRST),
            Slot::settled(FIRST),
            Slot::recorded(SECOND),
            Slot::settled(SECOND),
        ];
        let from = tables(&slots);
        let rings = tracked(&from, &Settling::new(&from, now), later);
        let moving = SlotStep::Moving(later - now);
        assert_eq!(
            rings[0].slots,
            [slot(0, Some("198.51.100.1:80"), moving), slot(2, None, SlotStep::Recorded)]
        );
        let to = tables(&[Slot::settled(SECOND); 4]);
        let expected = [(64, Slot::moving(SECOND, FIRST)), (66, Slot::recorded(SECOND))];
        let told = tracking(&to, &rings, true);
        assert_eq!(told.writes, expected.map(|(at, slot)| Write::Slots(SlotIndex(at), vec![slot])));
        assert_eq!(told.moving_for, [(SlotIndex(64), later - now)]);
        let with_flows = tracking(&to, &rings, false).writes;
        assert_eq!(with_flows[1], Write::Slots(SlotIndex(66), vec![Slot::moving(SECOND, SECOND)]));
        let told = tracking(&tables(&[Slot::moving(FIRST, SECOND); 4]), &rings, true);
        assert!(told.writes.is_empty() && told.moving_for.is_empty(), "it moves from another backend there");
        let told = tracking(&from, &rings, true);
        assert_eq!((told.writes.len(), told.moving_for), (0, vec![(SlotIndex(64), later - now)]));
    }

    #[test]
    fn a_ring_of_no_owners_keeps_the_flows_of_backends_that_drain() {
        let ring = |prior| TrackedRing {
            vip: end("192.0.2.1:80"),
            length: 1,
            slots: vec![slot(0, prior, SlotStep::Unknown)],
        };
        let none = Slot::settled(BackendIndex(0));
        let moving = |prior| Slot::moving(BackendIndex(0), prior);
        assert_eq!(after(&[none], ring(Some("198.51.100.2:80"))), [moving(SECOND)]);
        assert_eq!(after(&[none], ring(None)), [moving(BackendIndex(0))]);
    }

    #[test]
    fn settled_slots_go_by_records_and_the_others_stay() {
        let slots =
            [Slot::settled(FIRST), Slot::settled(FIRST), Slot::recorded(FIRST), Slot::settled(SECOND)];
        let told = [Some("198.51.100.2:80"), None, Some("198.51.100.2:80"), Some("198.51.100.9:80"), None];
        let told = (0..).zip(told).map(|(number, prior)| slot(number, prior, SlotStep::Unknown)).collect();
        let ring = TrackedRing { vip: end("192.0.2.1:80"), length: 4, slots: told };
        let expected = [
            Slot::moving(FIRST, SECOND),
            Slot::moving(FIRST, FIRST),
            Slot::recorded(FIRST),
            Slot::moving(SECOND, SECOND),
        ];
        assert_eq!(after(&slots, ring.clone()), expected);
        assert_eq!(after(&slots, TrackedRing { length: 8, ..ring.clone() }), slots, "another length");
        assert_eq!(after(&slots, TrackedRing { vip: end("192.0.2.2:80"), ..ring }), slots, "another service");
    }
}
