//! When moving slots settle.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use xdp_lb_common::net::{Endpoint, Protocol};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{BackendIndex, Mode, Service, ServiceIndex, SlotIndex};

use crate::model::Timeouts;
use crate::ring;
use crate::tables::{Tables, Write};

/// How many counts in a row must find no such flow in a slot before it settles. One count may miss a record, because the table
/// changes meanwhile.
const CLEAN_COUNTS: u8 = 2;

/// How much longer a slot is moving than a flow may be idle. A count may remove the record of a flow whose slot was settled when it
/// looked, and would not notice a packet that came in between.
const SLACK: Duration = Duration::from_millis(500);

/// A remaining time is never reported as zero.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The slots that are not settled.
///
/// They settle in two steps. Once a slot has been moving for longer than a flow may be idle, each of its live flows has a record:
/// flows without one are new, and the prior owner is dropped. Once no record names another backend than the slot does, it is
/// settled, and its records are dropped.
#[derive(Clone, Debug, Default)]
pub struct Settling {
    /// Slots of which a live flow may have no record, and since when each flow that sends a packet gets one.
    moving: BTreeMap<SlotIndex, Instant>,
    /// Slots whose live flows all have a record.
    recorded: BTreeMap<SlotIndex, Recorded>,
    /// No slot is due before this time. There may be a million slots, so they are not examined every second.
    due_from: Option<Instant>,
    /// The earliest start of slots that were added since that was computed.
    added_since: Option<Instant>,
    /// The timeouts for which it was computed.
    timeouts: Option<Timeouts>,
    /// The services that record all of their flows, and since when; `None` from their first flow on.
    recording: BTreeMap<Endpoint, Option<Instant>>,
}

/// A slot whose live flows all have a record.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    /// Since when it has been in this state: a count that started before says nothing about it.
    since: Instant,
    /// How many counts in a row have found no such flow.
    clean: u8,
}

/// The unsettled slots of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Slots of which a flow may have no record yet.
    pub moving: u32,
    /// Slots that still carry flows of another backend than their owner.
    pub recorded: u32,
    /// When the last moving slot becomes a recorded one.
    pub until: Option<Instant>,
}

impl Settling {
    /// The moving slots in these tables, as if they started now: it is unknown how long they have been moving.
    pub fn new(tables: &Tables, now: Instant) -> Self {
        Self::default().again(tables, now)
    }

    /// The same, with the known times since when services have recorded all of their flows.
    pub fn again(&self, tables: &Tables, now: Instant) -> Self {
        let mut settling = Self { recording: self.recording.clone(), ..Self::default() };
        for (offset, ring) in &tables.rings {
            settling.note_slots(*offset, ring, |_| false, now);
        }
        settling.note_recording(tables, &[], now);
        settling
    }

    /// Updates which services record all of their flows, by the tables. Those that are `new` have no older flows.
    pub fn note_recording(&mut self, tables: &Tables, new: &[ServiceIndex], now: Instant) {
        let since = |vip, service: &Service| {
            let is_from_the_first = service.mode == Mode::FullNat || new.contains(&service.index);
            self.recording.get(vip).copied().unwrap_or((!is_from_the_first).then_some(now))
        };
        let services = tables.services.iter().filter(|(_, service)| service.records_flows());
        self.recording = services.map(|(vip, service)| (*vip, since(vip, service))).collect();
    }

    /// The time until every live flow of a service has a record, if it keeps recording them; zero: they all have. An older flow
    /// without a packet lives for its idle timeout, and has none.
    pub fn all_recorded_in(&self, vip: &Endpoint, timeouts: &Timeouts, now: Instant) -> Duration {
        let idle = idle(vip.protocol, timeouts);
        let elapsed = match self.recording.get(vip) {
            Some(None) => return Duration::ZERO,
            Some(Some(since)) => now.saturating_duration_since(*since),
            None => Duration::ZERO,
        };
        if elapsed > idle { Duration::ZERO } else { (idle - elapsed).max(SHORTEST_WAIT) }
    }

    /// Updates which slots are moving and which have settled. `before`: the tables before.
    pub fn note(&mut self, writes: &[Write], before: &Tables, now: Instant) {
        for write in writes {
            if let Write::Slots(at, slots) = write {
                // A flow without a record is older than the slot's first move, however often it has moved since.
                self.note_slots(*at, slots, |at| before.slot(at).is_some_and(is_moving), now);
            }
        }
    }

    /// For how long a slot has been moving.
    pub fn moving_for(&self, at: SlotIndex, now: Instant) -> Option<Duration> {
        self.moving.get(&at).map(|since| now.saturating_duration_since(*since))
    }

    /// Slots have been moving for so long elsewhere: they are due as they are there.
    pub fn note_moving_for(&mut self, slots: &[(SlotIndex, Duration)], now: Instant) {
        for (at, elapsed) in slots {
            if let (Some(since), Some(earlier)) = (self.moving.get_mut(at), now.checked_sub(*elapsed)) {
                *since = earlier.min(*since);
                self.added_since = self.added_since.into_iter().chain([*since]).min();
            }
        }
    }

    /// Whether all slots are settled.
    pub fn is_settled(&self) -> bool {
        self.moving.is_empty() && self.recorded.is_empty()
    }

    /// Whether [`due`](Self::due) may find something.
    pub fn may_be_due(&self, timeouts: &Timeouts, now: Instant) -> bool {
        let shortest = timeouts.tcp_idle.min(timeouts.udp_idle);
        let is_over = |since: Instant| now.duration_since(since) > shortest;
        let is_time = self.timeouts != Some(*timeouts)
            || self.due_from.is_some_and(|from| from <= now)
            || self.added_since.is_some_and(is_over);
        !self.moving.is_empty() && is_time
    }

    /// The writes that drop the prior owner of slots which have been moving for longer than a flow of their service may be idle.
    pub fn due(&mut self, tables: &Tables, timeouts: &Timeouts, now: Instant) -> Vec<Write> {
        if !self.may_be_due(timeouts, now) {
            return Vec::new();
        }
        let mut due_from: Option<Instant> = None;
        let mut present = BTreeMap::new();
        let mut writes = Vec::new();
        for (vip, service) in &tables.services {
            let idle = idle(vip.protocol, timeouts);
            for (at, since) in self.moving.range(ring_of(service)) {
                present.insert(*at, *since);
                due_from = due_from.into_iter().chain(since.checked_add(idle)).min();
                if now.duration_since(*since) > idle + SLACK
                    && let Some(slot) = tables.slot(*at)
                {
                    writes.push(Write::Slots(*at, vec![Slot::recorded(slot.owner())]));
                }
            }
        }
        // Some rings may be gone.
        self.moving = present;
        (self.due_from, self.added_since, self.timeouts) = (due_from, None, Some(*timeouts));
        writes
    }

    /// The writes that settle the slots in which no record names another backend. `others`: the slots in which a count of the flows,
    /// which `began` at this time, found one. Slots of rings that are `shrinking` (to this length) may have to stay recorded until
    /// then.
    pub fn settled(
        &mut self,
        tables: &Tables,
        others: &HashSet<SlotIndex>,
        began: Instant,
        shrinking: &BTreeMap<Endpoint, u32>,
    ) -> Vec<Write> {
        let mut present = BTreeMap::new();
        let mut writes = Vec::new();
        for (vip, service) in &tables.services {
            let is_held = |at: &SlotIndex| {
                let place = (at.0 - service.ring_offset.0) as usize;
                shrinking.get(vip).is_some_and(|length| ring::is_held(tables.ring(service), *length, place))
            };
            for (at, recorded) in self.recorded.range(ring_of(service)) {
                let clean = match () {
                    () if others.contains(at) => 0,
                    () if recorded.since >= began => recorded.clean,
                    () => recorded.clean.saturating_add(1),
                };
                present.insert(*at, Recorded { clean, ..*recorded });
                if clean >= CLEAN_COUNTS
                    && !is_held(at)
                    && let Some(slot) = tables.slot(*at)
                {
                    writes.push(Write::Slots(*at, vec![Slot::settled(slot.owner())]));
                }
            }
        }
        self.recorded = present;
        writes
    }

    /// The unsettled slots of a service.
    pub fn progress(&self, service: &Service, protocol: Protocol, timeouts: &Timeouts) -> Progress {
        let mut progress = Progress::default();
        for since in self.moving.range(ring_of(service)).map(|(_, since)| since) {
            progress.moving += 1;
            progress.until = progress.until.max(since.checked_add(idle(protocol, timeouts)));
        }
        progress.recorded = self.recorded.range(ring_of(service)).count() as u32;
        progress
    }

    /// When all flows of a backend from before its slots moved have a record, for each backend that may have such flows. A service
    /// that records all of its flows has none once it has done so for longer than a flow may be idle.
    pub fn known_at(
        &self,
        vip: &Endpoint,
        service: &Service,
        tables: &Tables,
        timeouts: &Timeouts,
        now: Instant,
    ) -> HashMap<BackendIndex, Instant> {
        let mut known: HashMap<BackendIndex, Instant> = HashMap::new();
        if self.all_recorded_in(vip, timeouts, now).is_zero() {
            return known;
        }
        let recording = self.recording.get(vip).copied().flatten();
        for (at, moving) in self.moving.range(ring_of(service)) {
            let since = recording.map_or(*moving, |since| since.min(*moving));
            let (Some(slot), Some(until)) =
                (tables.slot(*at), since.checked_add(idle(vip.protocol, timeouts)))
            else {
                continue;
            };
            let latest = known.entry(slot.prior()).or_insert(until);
            *latest = until.max(*latest);
        }
        known
    }

    fn note_slots(
        &mut self,
        at: SlotIndex,
        slots: &[Slot],
        was_moving: impl Fn(SlotIndex) -> bool,
        now: Instant,
    ) {
        for (at, slot) in (at.0..).map(SlotIndex).zip(slots) {
            if is_moving(*slot) {
                let since = self.moving.get(&at).copied().filter(|_| was_moving(at)).unwrap_or(now);
                self.moving.insert(at, since);
                self.added_since = self.added_since.into_iter().chain([since]).min();
                self.recorded.remove(&at);
            } else {
                self.moving.remove(&at);
                if slot.is_tracked() {
                    self.recorded.insert(at, Recorded { since: now, clean: 0 });
                } else {
                    self.recorded.remove(&at);
                }
            }
        }
    }
}

/// Whether a live flow of the slot may have no record.
fn is_moving(slot: Slot) -> bool {
    slot.is_tracked() && !slot.is_recorded()
}

fn ring_of(service: &Service) -> std::ops::Range<SlotIndex> {
    service.ring_offset..SlotIndex(service.ring_offset.0 + service.ring_len)
}

/// How long a flow of this protocol may be idle.
pub fn idle(protocol: Protocol, timeouts: &Timeouts) -> Duration {
    match protocol {
        Protocol::UDP => timeouts.udp_idle,
        _ => timeouts.tcp_idle,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use xdp_lb_common::net::{Address, Port};
    use xdp_lb_common::tables::{BackendIndex, RECORDS_FLOWS, Service, ServiceIndex};

    use super::*;

    const A: BackendIndex = BackendIndex(1);
    const B: BackendIndex = BackendIndex(2);

    fn tables(protocol: Protocol) -> Tables {
        let mut tables = Tables::default();
        let service = Service {
            index: ServiceIndex(0),
            mode: Mode::Nat.into(),
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

    const TIMEOUTS: Timeouts =
        Timeouts { tcp_idle: Duration::from_secs(900), udp_idle: Duration::from_secs(60) };
    /// The one that moves.
    const MOVING: SlotIndex = SlotIndex(11);

    fn carry_out(settling: &mut Settling, tables: &mut Tables, writes: &[Write], now: Instant) {
        settling.note(writes, tables, now);
        writes.iter().for_each(|write| tables.apply(write));
    }

    #[test]
    fn the_prior_owner_is_forgotten_after_the_idle_time_of_the_service() {
        let now = Instant::now();
        for (protocol, seconds) in [(Protocol::TCP, 900), (Protocol::UDP, 60)] {
            let mut tables = tables(protocol);
            let mut settling = Settling::new(&tables, now);
            assert_eq!(settling.due(&tables, &TIMEOUTS, now + Duration::from_secs(seconds)), []);
            let later = now + Duration::from_secs(seconds + 1);
            let writes = settling.due(&tables, &TIMEOUTS, later);
            assert_eq!(writes, [Write::Slots(MOVING, vec![Slot::recorded(B)])]);
            carry_out(&mut settling, &mut tables, &writes, later);
            assert_eq!(settling.due(&tables, &TIMEOUTS, later + Duration::from_secs(9999)), []);
        }
    }

    #[test]
    fn a_slot_that_moves_again_is_due_by_its_first_move() {
        let now = Instant::now();
        let mut tables = tables(Protocol::TCP);
        let mut settling = Settling::new(&tables, now);
        let again = [Write::Slots(MOVING, vec![Slot::moving(A, A)])];
        carry_out(&mut settling, &mut tables, &again, now + Duration::from_secs(800));
        let writes = settling.due(&tables, &TIMEOUTS, now + Duration::from_secs(901));
        assert_eq!(writes, [Write::Slots(MOVING, vec![Slot::recorded(A)])]);
    }

    #[test]
    fn a_slot_that_has_been_moving_elsewhere_is_due_as_it_is_there() {
        let now = Instant::now();
        let tables = tables(Protocol::TCP);
        let mut settling = Settling::new(&tables, now);
        let later = now + Duration::from_secs(100);
        settling.note_moving_for(&[(MOVING, Duration::from_secs(10)), (SlotIndex(12), Duration::MAX)], later);
        assert_eq!(
            settling.moving_for(MOVING, later),
            Some(Duration::from_secs(100)),
            "not later than by its own"
        );
        settling.note_moving_for(&[(MOVING, Duration::from_secs(400))], later);
        assert_eq!(settling.moving_for(MOVING, later), Some(Duration::from_secs(400)));
        assert_eq!(settling.due(&tables, &TIMEOUTS, later + Duration::from_secs(500)), []);
        assert_eq!(settling.due(&tables, &TIMEOUTS, later + Duration::from_secs(501)).len(), 1);
    }

    #[test]
    fn a_slot_in_another_one_s_place_is_not_due_by_that_one_s_move() {
        let now = Instant::now();
        let mut tables = tables(Protocol::TCP);
        let mut settling = Settling::new(&tables, now);
        let (vip, service) = tables.services.iter().map(|(vip, service)| (*vip, *service)).next().unwrap();
        let later = now + Duration::from_secs(800);
        carry_out(&mut settling, &mut tables, &[Write::RemoveService(vip)], later);
        let ring = vec![Slot::settled(A), Slot::moving(B, A), Slot::settled(B)];
        let again = [Write::Slots(service.ring_offset, ring), Write::Service(vip, service)];
        carry_out(&mut settling, &mut tables, &again, later);
        assert_eq!(settling.due(&tables, &TIMEOUTS, now + Duration::from_secs(901)), []);
    }

    #[test]
    fn a_slot_settles_when_two_counts_in_a_row_find_nothing_in_it() {
        let now = Instant::now();
        let mut tables = tables(Protocol::TCP);
        let mut settling = Settling::new(&tables, now);
        let writes = [Write::Slots(MOVING, vec![Slot::recorded(B)])];
        carry_out(&mut settling, &mut tables, &writes, now);
        let (nothing, something) = (HashSet::new(), HashSet::from([MOVING]));
        let settled = |settling: &mut Settling, tables: &Tables, others, seconds| {
            settling.settled(tables, others, now + Duration::from_secs(seconds), &BTreeMap::new())
        };
        assert_eq!(settled(&mut settling, &tables, &nothing, 1), []);
        assert_eq!(settled(&mut settling, &tables, &something, 2), [], "the first one missed it");
        assert_eq!(settled(&mut settling, &tables, &nothing, 3), []);
        // Another owner: what was counted before says nothing.
        let writes = [Write::Slots(MOVING, vec![Slot::recorded(A)])];
        carry_out(&mut settling, &mut tables, &writes, now + Duration::from_secs(4));
        assert_eq!(settled(&mut settling, &tables, &nothing, 4), [], "it had begun before");
        assert_eq!(settled(&mut settling, &tables, &nothing, 5), []);
        let writes = settled(&mut settling, &tables, &nothing, 6);
        assert_eq!(writes, [Write::Slots(MOVING, vec![Slot::settled(A)])]);
        carry_out(&mut settling, &mut tables, &writes, now);
        assert_eq!(settled(&mut settling, &tables, &nothing, 7), []);
    }

    #[test]
    fn progress_tells_what_moves_and_until_when() {
        let now = Instant::now();
        let mut tables = tables(Protocol::UDP);
        let (vip, service) = tables.services.iter().map(|(vip, service)| (*vip, *service)).next().unwrap();
        let mut settling = Settling::new(&tables, now);
        let progress = settling.progress(&service, Protocol::UDP, &TIMEOUTS);
        let until = now + TIMEOUTS.udp_idle;
        assert_eq!(progress, Progress { moving: 1, recorded: 0, until: Some(until) });
        let prior = tables.slot(MOVING).unwrap().prior();
        let known = settling.known_at(&vip, &service, &tables, &TIMEOUTS, now);
        assert_eq!(known, HashMap::from([(prior, until)]));
        carry_out(&mut settling, &mut tables, &[Write::Slots(MOVING, vec![Slot::recorded(B)])], now);
        assert_eq!(settling.known_at(&vip, &service, &tables, &TIMEOUTS, now), HashMap::new());
        let progress = settling.progress(&service, Protocol::UDP, &TIMEOUTS);
        assert_eq!(progress, Progress { moving: 0, recorded: 1, until: None });
    }

    #[test]
    fn flows_are_known_once_a_service_has_recorded_them_for_as_long_as_one_lives_without_a_packet() {
        let (now, idle) = (Instant::now(), TIMEOUTS.tcp_idle);
        let mut tables = tables(Protocol::TCP);
        let vip = *tables.services.keys().next().unwrap();
        let known = |settling: &Settling, tables: &Tables, now| {
            let known = settling.known_at(&vip, &tables.services[&vip], tables, &TIMEOUTS, now);
            known.into_values().next()
        };
        let mut settling = Settling::new(&tables, now);
        let second = Duration::from_secs(1);
        tables.services.get_mut(&vip).unwrap().options = RECORDS_FLOWS;
        settling.note_recording(&tables, &[], now - 9 * second);
        assert_eq!(known(&settling, &tables, now), Some(now - 9 * second + idle), "before the slot moved");
        assert_eq!(known(&settling, &tables, now - 8 * second + idle), None);
        settling = settling.again(&tables, now);
        assert_eq!(
            known(&settling, &tables, now),
            Some(now - 9 * second + idle),
            "what is known stays known"
        );
        settling = Settling::new(&tables, now);
        assert_eq!(known(&settling, &tables, now), Some(now + idle), "nobody knows since when");
        settling = Settling::default();
        settling.note_recording(&tables, &[tables.services[&vip].index], now);
        assert_eq!(
            known(&settling.again(&tables, now), &tables, now),
            None,
            "a new service has no older flows"
        );
        tables.services.get_mut(&vip).unwrap().mode = Mode::FullNat.into();
        assert_eq!(known(&Settling::new(&tables, now), &tables, now), None, "the mode records each flow");
    }

    #[test]
    fn a_slot_of_a_ring_that_is_gone_is_forgotten() {
        let now = Instant::now();
        let mut tables = tables(Protocol::TCP);
        let mut settling = Settling::new(&tables, now);
        let vip = *tables.services.keys().next().unwrap();
        tables.apply(&Write::RemoveService(vip));
        assert_eq!(settling.due(&tables, &TIMEOUTS, now + Duration::from_secs(9999)), []);
        assert!(settling.moving.is_empty());
    }
}
