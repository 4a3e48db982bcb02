//! Two nodes, each with a flow table, and what one tells the other.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use xdp_lb_common::flow_table::host::HostMemory;
use xdp_lb_common::flow_table::life::ANSWERED;
use xdp_lb_common::flow_table::note::note;
use xdp_lb_common::flow_table::outcome::{Begun, Manner};
use xdp_lb_common::flow_table::record::{Room, WayBack};
use xdp_lb_common::net::{Port, Protocol};
use xdp_lb_common::process::slot_hash;
use xdp_lb_common::tables::flow::{BACKEND_FIN, CLIENT_FIN, CONFIRMED, ESTABLISHED, patience};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, BackendState, FlowKey, Mode, Service, ServiceIndex, Settings, SlotIndex,
};

use super::super::table::TrackedSlot;
use super::*;
use crate::tables::{Tables, Write};

const FIRST: BackendIndex = BackendIndex(1);
const SECOND: BackendIndex = BackendIndex(2);
const OPEN: u8 = ESTABLISHED | CONFIRMED;

fn settings() -> Settings {
    Settings {
        hash_keys: std::array::from_fn(|at| (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        snat_port_first: 1024,
        snat_port_count: 1000,
        options: 0,
        patience: patience(900, 60),
        handover: 0,
        heartbeat: 0,
        flow_buckets: 0,
        flow_reach: 0,
        alone: 0,
        own_macs: Default::default(),
    }
}

fn end(text: &str) -> Endpoint {
    Endpoint::from_socket(text.parse().unwrap(), Protocol::TCP)
}

/// A service of two backends in this mode, all of whose slots are this one.
fn tables(mode: Mode, slot: Slot) -> Tables {
    let mut tables = Tables::default();
    for (index, address) in [(FIRST, "198.51.100.1:80"), (SECOND, "198.51.100.2:80")] {
        let Endpoint { address, port, .. } = end(address);
        let backend = Backend {
            address,
            port,
            service: ServiceIndex(3),
            state: BackendState::Up.into(),
            ..Backend::default()
        };
        tables.backends.insert(index, backend);
    }
    let service = Service {
        index: ServiceIndex(3),
        ring_offset: SlotIndex(64),
        ring_len: 8,
        mode: mode.into(),
        ..Service::default()
    };
    tables.apply(&Write::Slots(SlotIndex(64), vec![slot; 8]));
    tables.apply(&Write::Service(end("192.0.2.1:80"), service));
    tables
}

/// A node, at 1,000 seconds of its clock.
struct Node {
    memory: HostMemory,
    basis: Basis,
    sharing: Sharing,
    seconds: u32,
}

impl Node {
    fn new(mode: Mode, slot: Slot) -> Self {
        let memory = HostMemory::new(512, AtomicU64::default);
        Self {
            sharing: Sharing::new(memory.buckets()),
            memory,
            basis: Basis::new(Arc::new(tables(mode, slot)), settings()),
            seconds: 1000,
        }
    }

    /// Its tables change.
    fn becomes(&mut self, mode: Mode, slot: Slot) {
        self.basis = Basis::new(Arc::new(tables(mode, slot)), settings());
    }

    fn pass(&mut self, seconds: u32) {
        self.seconds += seconds;
    }

    fn key(client: u16) -> FlowKey {
        FlowKey::new(end(&format!("203.0.113.7:{client}")), end("192.0.2.1:80"))
    }

    fn room(&self, client: u16) -> Room {
        let mut room = Room { flow: Self::key(client), now: self.seconds, ..Room::default() };
        self.memory.aim(&self.basis.settings, &mut room);
        room
    }

    /// A client's flow begins; `source`: in another name.
    fn begin(&self, client: u16, backend: BackendIndex, progress: u8, source: Option<&str>) {
        let mut room = self.room(client);
        let key = Self::key(client);
        let source = source.map_or(key.source_endpoint(), end);
        let address = format!("198.51.100.{}:80", backend.0);
        room.new.set(&key, &source, backend, &end(&address), &WayBack { ifindex: 7, ..WayBack::default() });
        let port = if source == key.source_endpoint() { 0 } else { Manner::OWN_PORT };
        let begun =
            self.memory.begin_flow(&self.basis.settings, &mut room, Manner(u32::from(progress) | port));
        assert_eq!(begun, Begun::New);
    }

    /// A packet of it is noted.
    fn packet(&self, client: u16, progress: u8) {
        let record = self.look(client).unwrap();
        note(&self.memory, &record, |life| life.noted(self.seconds, life.progress() | progress, ANSWERED));
    }

    fn look(&self, client: u16) -> Option<Record> {
        let mut room = self.room(client);
        let found = self.memory.find_flow(&self.basis.settings, &mut room);
        (found == xdp_lb_common::flow_table::outcome::Found::Record).then_some(room.record)
    }

    fn news(&mut self) -> Vec<SharedFlow> {
        let mut flows = Vec::new();
        while !self.sharing.news(&self.memory, &self.basis, self.seconds, usize::MAX, &mut flows) {}
        flows
    }

    fn clients(&mut self) -> Vec<u16> {
        let mut clients: Vec<_> = self.news().iter().map(|flow| flow.client.port.get()).collect();
        clients.sort_unstable();
        clients
    }

    fn take(&mut self, flow: &SharedFlow) -> Result<(), Refusal> {
        self.sharing.take(&self.memory, &self.basis, self.seconds, flow)
    }
}

#[test]
fn in_a_settled_ring_nothing_is_told_and_in_full_nat_all_is() {
    let mut node = Node::new(Mode::Nat, Slot::settled(FIRST));
    node.begin(1, FIRST, OPEN, None);
    assert!(node.news().is_empty());
    let mut node = Node::new(Mode::FullNat, Slot::settled(FIRST));
    node.begin(1, FIRST, OPEN, Some("198.51.100.9:2000"));
    node.begin(2, FIRST, 0, Some("198.51.100.9:2001"));
    assert_eq!(node.clients(), [1], "one packet may be anybody's");
    assert!(node.news().is_empty(), "it was told");
    node.packet(2, OPEN);
    assert_eq!(node.clients(), [2]);
}

#[test]
fn in_a_slot_that_is_not_settled_all_flows_are_told_since_others_may_be_at_another_step() {
    for slot in [Slot::moving(SECOND, FIRST), Slot::recorded(SECOND)] {
        let mut node = Node::new(Mode::Dsr, slot);
        node.begin(1, FIRST, OPEN, None);
        node.begin(2, SECOND, OPEN, None);
        assert_eq!(node.clients(), [1, 2]);
        assert!(node.news().is_empty());
    }
}

#[test]
fn flows_are_told_as_soon_as_their_slot_says_something_else() {
    let mut node = Node::new(Mode::Nat, Slot::settled(FIRST));
    node.begin(1, FIRST, OPEN, None);
    assert!(node.news().is_empty());
    node.becomes(Mode::Nat, Slot::settled(SECOND));
    assert_eq!(node.clients(), [1]);
}

#[test]
fn a_flow_is_told_again_when_it_closes_and_once_a_minute_while_it_goes_on() {
    let mut node = Node::new(Mode::FullNat, Slot::settled(FIRST));
    node.begin(1, FIRST, OPEN, Some("198.51.100.9:2000"));
    assert_eq!(node.clients(), [1]);
    node.pass(59);
    node.packet(1, 0);
    assert!(node.news().is_empty());
    node.pass(1);
    assert_eq!(node.clients(), [1]);
    node.packet(1, CLIENT_FIN);
    assert_eq!(node.clients(), [1]);
}

#[test]
fn a_flow_that_falls_silent_is_told_once_more_so_that_it_does_not_end_sooner_elsewhere() {
    let mut node = Node::new(Mode::FullNat, Slot::settled(FIRST));
    node.begin(1, FIRST, OPEN, Some("198.51.100.9:2000"));
    assert_eq!(node.clients(), [1]);
    node.pass(2);
    node.packet(1, 0);
    node.pass(57);
    assert!(node.news().is_empty(), "it may go on");
    node.pass(1);
    let told = node.news();
    assert_eq!(told.iter().map(|flow| flow.idle).collect::<Vec<_>>(), [58]);
    node.pass(500);
    assert!(node.news().is_empty(), "there is nothing more to tell");
}

#[test]
fn a_record_of_a_backend_that_is_gone_makes_way_for_the_flow_that_follows_it() {
    let mut from = Node::new(Mode::FullNat, Slot::settled(FIRST));
    from.begin(1, FIRST, OPEN, Some("198.51.100.9:2000"));
    let flow = from.news().remove(0);
    let mut to = Node::new(Mode::FullNat, Slot::settled(FIRST));
    to.begin(1, SECOND, OPEN, Some("198.51.100.8:2000"));
    assert_eq!(to.take(&flow), Err(Refusal::Differs));
    let mut tables = tables(Mode::FullNat, Slot::settled(FIRST));
    tables.backends.remove(&SECOND);
    to.basis = Basis::new(Arc::new(tables), settings());
    assert_eq!(to.take(&flow), Ok(()));
    assert_eq!(to.look(1).unwrap().backend(), FIRST);
}

#[test]
fn a_flow_that_is_over_before_it_is_told_is_not() {
    let mut node = Node::new(Mode::FullNat, Slot::settled(FIRST));
    node.begin(1, FIRST, OPEN | CLIENT_FIN | BACKEND_FIN, Some("198.51.100.9:2000"));
    assert!(node.news().is_empty());
}

#[test]
fn what_is_told_is_in_the_other_table_and_is_not_told_back() {
    let (mut from, mut to) =
        (Node::new(Mode::FullNat, Slot::settled(FIRST)), Node::new(Mode::FullNat, Slot::settled(SECOND)));
    from.begin(1, FIRST, OPEN, Some("198.51.100.9:2000"));
    from.pass(30);
    to.pass(5000);
    for flow in from.news() {
        assert_eq!(to.take(&flow), Ok(()));
    }
    let there = to.look(1).unwrap();
    assert_eq!((there.backend(), there.source()), (FIRST, end("198.51.100.9:2000")));
    assert_eq!(there.life().idle(to.seconds), 30, "by its own clock");
    assert_eq!(there.way_back(), WayBack::default());
    assert!(to.news().is_empty(), "it is not told back");
    assert!(to.sharing.differing().is_empty(), "full-nat goes by records anyway");
}

#[test]
fn what_each_of_two_has_seen_of_a_flow_both_know_and_then_they_are_silent() {
    let node = || Node::new(Mode::FullNat, Slot::settled(FIRST));
    let (mut one, mut other) = (node(), node());
    one.begin(1, FIRST, OPEN, Some("198.51.100.9:2000"));
    one.news().iter().for_each(|flow| other.take(flow).unwrap());
    one.packet(1, BACKEND_FIN);
    other.packet(1, CLIENT_FIN);
    let mut passed = 0;
    for _ in 0..5 {
        let (from_one, from_other) = (one.news(), other.news());
        passed += from_one.len() + from_other.len();
        from_one.iter().for_each(|flow| other.take(flow).unwrap());
        from_other.iter().for_each(|flow| one.take(flow).unwrap());
    }
    for node in [&one, &other] {
        assert_eq!(
            node.look(1).unwrap().life().progress() & (CLIENT_FIN | BACKEND_FIN),
            CLIENT_FIN | BACKEND_FIN
        );
    }
    assert!(passed <= 4, "{passed}");
}

#[test]
fn a_flow_that_a_settled_slot_would_send_elsewhere_names_the_slot() {
    let (mut from, mut to) =
        (Node::new(Mode::Nat, Slot::recorded(SECOND)), Node::new(Mode::Nat, Slot::settled(SECOND)));
    from.begin(1, FIRST, OPEN, None);
    let flow = from.news().remove(0);
    to.take(&flow).unwrap();
    let Some(service) = to.basis_service() else { panic!("the service is there") };
    let number = slot_hash(&to.basis.settings, &service, &Node::key(1)).reduce(8);
    let expected = TrackedRing { vip: end("192.0.2.1:80"), length: 8, slots: vec![TrackedSlot::of(number)] };
    assert_eq!(to.sharing.differing(), [expected]);
    assert!(to.sharing.differing().is_empty());
    to.becomes(Mode::Nat, Slot::moving(SECOND, SECOND));
    to.take(&flow).unwrap();
    assert!(to.sharing.differing().is_empty(), "the slot goes by records");
}

impl Node {
    fn basis_service(&self) -> Option<Service> {
        tables(Mode::Nat, Slot::settled(FIRST)).services.values().next().copied()
    }
}

#[test]
fn a_flow_of_an_unknown_backend_or_one_that_cannot_be_is_refused() {
    let mut from = Node::new(Mode::Nat, Slot::recorded(SECOND));
    from.begin(1, FIRST, OPEN, None);
    let flow = from.news().remove(0);
    let mut to = Node::new(Mode::Nat, Slot::recorded(SECOND));
    let refused = |to: &mut Node, flow: SharedFlow| to.take(&flow) == Err(Refusal::Unknown);
    assert!(refused(&mut to, SharedFlow { backend: end("198.51.100.3:80"), ..flow }));
    assert!(refused(&mut to, SharedFlow { backend: end("198.51.100.1:81"), ..flow }));
    assert!(refused(&mut to, SharedFlow { vip: end("192.0.2.2:80"), ..flow }));
    assert!(refused(&mut to, SharedFlow { client: end("127.0.0.1:5"), source: end("127.0.0.1:5"), ..flow }));
    assert!(refused(&mut to, SharedFlow { client: end("[2001:db8::1]:5"), ..flow }));
    to.becomes(Mode::FullNat, Slot::recorded(SECOND));
    assert!(refused(&mut to, flow), "full-nat changes the source");
    to.becomes(Mode::Dsr, Slot::recorded(SECOND));
    assert!(refused(&mut to, SharedFlow { source: end("198.51.100.9:2000"), ..flow }), "dsr does not");
    assert_eq!(to.take(&flow), Ok(()));
    let elsewhere = SharedFlow { backend: end("198.51.100.2:80"), ..flow };
    assert_eq!(to.take(&elsewhere), Err(Refusal::Differs));
}

#[test]
fn two_flows_of_one_source_port_do_not_get_each_other_s_replies() {
    let mut from = Node::new(Mode::FullNat, Slot::settled(FIRST));
    from.begin(1, FIRST, OPEN, Some("198.51.100.9:2000"));
    let flow = from.news().remove(0);
    let mut to = Node::new(Mode::FullNat, Slot::settled(FIRST));
    to.begin(2, FIRST, OPEN, Some("198.51.100.9:2000"));
    assert_eq!(to.take(&flow), Err(Refusal::PortTaken));
    assert_eq!(to.look(1).unwrap().source(), flow.source, "the client's packets go on");
    assert_eq!(to.clients(), [2], "only who has the port tells of it");
}

#[test]
fn a_flow_from_before_its_slot_moved_is_told_of_after_one_packet_and_a_flood_of_such_is_not() {
    let mut node = Node::new(Mode::Nat, Slot::recorded(SECOND));
    node.begin(1, FIRST, ESTABLISHED, None);
    assert_eq!(node.clients(), [1]);
    (2..=1000).for_each(|client| node.begin(client, FIRST, ESTABLISHED, None));
    assert_eq!(node.news().len() as u32, UNCONFIRMED);
    node.begin(1001, FIRST, OPEN, None);
    assert!(node.clients().contains(&1001), "a flow of two packets does not wait");
    let mut full_nat = Node::new(Mode::FullNat, Slot::settled(FIRST));
    full_nat.begin(1, FIRST, ESTABLISHED, Some("198.51.100.9:2000"));
    assert!(full_nat.news().is_empty(), "it had a record before, or is none");
}

#[test]
fn no_more_is_told_than_there_is_room_for_and_the_rest_follows() {
    let mut node = Node::new(Mode::FullNat, Slot::settled(FIRST));
    (1..=100)
        .for_each(|client| node.begin(client, FIRST, OPEN, Some(&format!("198.51.100.9:{}", 2000 + client))));
    let mut told = Vec::new();
    for _ in 0..10 {
        let mut flows = Vec::new();
        assert!(node.sharing.news(&node.memory, &node.basis, node.seconds, 10, &mut flows));
        assert_eq!(flows.len(), 10);
        told.extend(flows.iter().map(|flow| flow.client.port.get()));
    }
    told.sort_unstable();
    assert_eq!(told, (1..=100).collect::<Vec<u16>>());
    let mut all = Vec::new();
    assert_eq!(Sharing::page(&node.memory, &node.basis, node.seconds, 0, &mut all), None);
    assert_eq!(all.len(), 100, "whoever pulls gets those that were told, too");
}

#[test]
fn where_the_backend_listens_on_the_client_s_port_its_flows_are_known() {
    let mut node = Node::new(Mode::Nat, Slot::recorded(SECOND));
    let mut tables = tables(Mode::Nat, Slot::recorded(SECOND));
    tables.backends.values_mut().for_each(|backend| backend.port = Port::default());
    node.basis = Basis::new(Arc::new(tables), settings());
    node.begin(1, FIRST, OPEN, None);
    let flow = node.news().remove(0);
    let mut to = Node::new(Mode::Nat, Slot::recorded(SECOND));
    std::mem::swap(&mut to.basis, &mut node.basis);
    assert_eq!(to.take(&flow), Ok(()));
    assert_eq!(to.take(&SharedFlow { backend: end("198.51.100.1:81"), ..flow }), Err(Refusal::Unknown));
}
