//! Slots in which this node goes by flows' records, since another load balancer of its fleet does.

use std::collections::HashMap;

use xdp_lb_common::net::Endpoint;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, ServiceIndex, SlotIndex};

use crate::fleet::TrackedRing;
use crate::tables::{Tables, Write};

/// The writes by which settled slots of these rings go by records: flows without one stay with the backend that the other one names, else with
/// the owner. New flows go to the owner, as before. Rings of another length are left alone.
pub fn tracking(tables: &Tables, rings: &[TrackedRing]) -> Vec<Write> {
    let backends = tables.backends.iter().map(|(index, it)| ((it.service, it.address, it.port), *index));
    let backends: HashMap<_, _> = backends.collect();
    let at = |service: ServiceIndex, end: &Endpoint| backends.get(&(service, end.address, end.port)).copied();
    let mut writes = Vec::new();
    for ring in rings {
        let Some(service) = tables.services.get(&ring.vip).filter(|it| it.ring_len == ring.length) else {
            continue;
        };
        let slots = tables.ring(service);
        for (number, prior) in &ring.slots {
            let Some(slot) = slots.get(*number as usize) else { continue };
            if slot.is_tracked() || slot.owner() == BackendIndex(0) {
                continue;
            }
            let prior = prior.as_ref().and_then(|end| at(service.index, end)).unwrap_or(slot.owner());
            let place = SlotIndex(service.ring_offset.0 + number);
            writes.push(Write::Slots(place, vec![Slot::moving(slot.owner(), prior)]));
        }
    }
    writes
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::net::Protocol;
    use xdp_lb_common::tables::{Backend, BackendState, Service};

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
        for write in tracking(&tables, &[ring]) {
            tables.apply(&write);
        }
        tables.rings[&SlotIndex(64)].clone()
    }

    #[test]
    fn settled_slots_go_by_records_and_the_others_stay() {
        let slots =
            [Slot::settled(FIRST), Slot::settled(FIRST), Slot::recorded(FIRST), Slot::settled(SECOND)];
        let told = vec![
            (0, Some(end("198.51.100.2:80"))),
            (1, None),
            (2, Some(end("198.51.100.2:80"))),
            (3, Some(end("198.51.100.9:80"))),
            (4, None),
        ];
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
