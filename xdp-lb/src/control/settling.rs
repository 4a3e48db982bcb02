//! When slots that move come to rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use xdp_lb_common::net::Protocol;
use xdp_lb_common::slot::Slot;
use xdp_lb_common::tables::SlotIndex;

use super::tables::{Tables, Write};
use crate::config::Timeouts;

/// Since when each slot moves.
#[derive(Debug, Default)]
pub struct Settling {
    since: BTreeMap<SlotIndex, Instant>,
}

impl Settling {
    /// The slots that move in these tables, as if from now on: nobody knows how long they did before.
    pub fn new(tables: &Tables, now: Instant) -> Self {
        let mut settling = Self::default();
        for (offset, ring) in &tables.rings {
            settling.note_slots(*offset, ring, now);
        }
        settling
    }

    /// Notes the slots that begin to move, and those that come to rest.
    pub fn note(&mut self, writes: &[Write], now: Instant) {
        for write in writes {
            if let Write::Slots(at, slots) = write {
                self.note_slots(*at, slots, now);
            }
        }
    }

    /// The writes that settle the slots which have been moving for longer than any flow of their
    /// service lives without a packet: every flow has a record by then.
    pub fn due(&mut self, tables: &Tables, timeouts: &Timeouts, now: Instant) -> Vec<Write> {
        if self.since.is_empty() {
            return Vec::new();
        }
        let mut present = BTreeMap::new();
        let mut writes = Vec::new();
        for (vip, service) in &tables.services {
            let idle = idle(vip.protocol, timeouts);
            let ring = service.ring_offset..SlotIndex(service.ring_offset.0 + service.ring_len);
            for (at, since) in self.since.range(ring.clone()) {
                present.insert(*at, *since);
                if now.duration_since(*since) > idle
                    && let Some(slot) = tables.ring(service).get((at.0 - ring.start.0) as usize)
                {
                    writes.push(Write::Slots(*at, vec![Slot::settled(slot.owner())]));
                }
            }
        }
        // Rings that are gone took their slots with them.
        self.since = present;
        writes
    }

    fn note_slots(&mut self, at: SlotIndex, slots: &[Slot], now: Instant) {
        for (at, slot) in (at.0..).map(SlotIndex).zip(slots) {
            if slot.is_tracked() {
                self.since.insert(at, now);
            } else {
                self.since.remove(&at);
            }
        }
    }
}

fn idle(protocol: Protocol, timeouts: &Timeouts) -> Duration {
    match protocol {
        Protocol::UDP => timeouts.udp_idle,
        _ => timeouts.tcp_idle,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use xdp_lb_common::net::{Address, Endpoint, Port};
    use xdp_lb_common::tables::{BackendIndex, Service, ServiceIndex};

    use super::*;

    const A: BackendIndex = BackendIndex(1);
    const B: BackendIndex = BackendIndex(2);

    fn tables(protocol: Protocol) -> Tables {
        let mut tables = Tables::default();
        let service = Service {
            index: ServiceIndex(0),
            ring_offset: SlotIndex(10),
            ring_len: 3,
            snat_offset: 0,
            snat_len: 0,
            ..Service::default()
        };
        let slots = vec![Slot::settled(A), Slot::moving(B, A), Slot::settled(B)];
        tables.apply(&Write::Slots(SlotIndex(10), slots));
        let vip = Endpoint::new(Address::from(IpAddr::from([192, 0, 2, 1])), Port::new(80), protocol);
        tables.apply(&Write::Service(vip, service));
        tables
    }

    #[test]
    fn a_slot_settles_on_its_owner_after_the_idle_time_of_its_service() {
        let timeouts = Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(60) };
        let now = Instant::now();
        for (protocol, seconds) in [(Protocol::TCP, 900), (Protocol::UDP, 60)] {
            let mut tables = tables(protocol);
            let mut settling = Settling::new(&tables, now);
            assert_eq!(settling.due(&tables, &timeouts, now + Duration::from_secs(seconds)), []);
            let later = now + Duration::from_secs(seconds + 1);
            let writes = settling.due(&tables, &timeouts, later);
            assert_eq!(writes, [Write::Slots(SlotIndex(11), vec![Slot::settled(B)])]);
            writes.iter().for_each(|write| tables.apply(write));
            settling.note(&writes, later);
            assert_eq!(settling.due(&tables, &timeouts, later + Duration::from_secs(9999)), []);
        }
    }

    #[test]
    fn a_slot_of_a_ring_that_is_gone_is_forgotten() {
        let timeouts = Timeouts { tcp_idle: Duration::from_secs(1), udp_idle: Duration::from_secs(1) };
        let now = Instant::now();
        let mut tables = tables(Protocol::TCP);
        let mut settling = Settling::new(&tables, now);
        let vip = *tables.services.keys().next().unwrap();
        tables.apply(&Write::RemoveService(vip));
        assert_eq!(settling.due(&tables, &timeouts, now + Duration::from_secs(9)), []);
        assert!(settling.since.is_empty());
    }
}
