//! Tests the flow memory: the datapath and the control plane together, against a model that remembers every flow. Whatever
//! happens in whatever order, a live flow stays on its backend while that is up, drains or fails its checks (for UDP, while it
//! fails, only if the flow has a record, since nothing else distinguishes it from a new one). If the backend's flows end, the
//! client is told so, and no packet of the flow is sent to another backend.
//!
//! Packets are processed by the datapath's own code, on its host tables. The tables are written by the real planner, one write at
//! a time with packets in between, and settled by the real settling and census.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::flow_table::walk;
use xdp_lb_common::hash::KEYS;
use xdp_lb_common::host::{Buffer, HostTables};
use xdp_lb_common::net::{Address, Endpoint, MacAddress, Protocol};
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::process::{Scratch, Verdict, process, slot_hash};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::flow::{ESTABLISHED, patience};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendState, FlowKey, Mode, Settings};

use super::planner::Planner;
use super::settling::Settling;
use super::wanted::{Path, WantedBackend, WantedService, ring_len};
use crate::datapath::{Count, Sizes};
use crate::model::{Limits, Timeouts};
use crate::tables::{Tables, Write};

const TIMEOUTS: Timeouts = Timeouts { tcp_idle: Duration::from_secs(100), udp_idle: Duration::from_secs(40) };
/// How long a client waits for an answer to its SYN: as long as its record is kept.
const HALF_OPEN: u32 = 30;
const SIZES: Sizes = Sizes {
    limits: Limits {
        services: 4,
        backends: 200,
        slots: 100_000,
        flows: 1,
        source_ranges: 1,
        source_rates: 1,
        fragments: 1,
    },
    snat_addresses: 16,
};
/// The number of clients of each service, each on its own port.
const CLIENTS: u16 = 60;
/// The maximum number of backends per service: more than 20 need a ring of four times the length.
const BACKENDS: u8 = 24;
/// Seconds between two counts of the flows.
const CENSUS_EVERY: u32 = 5;

/// The services: each protocol with and without `flow_tracking = "always"`.
const SERVICES: [(Protocol, bool); 4] =
    [(Protocol::TCP, false), (Protocol::UDP, false), (Protocol::TCP, true), (Protocol::UDP, true)];

/// The next step.
#[derive(Clone, Debug)]
enum Step {
    /// These clients of a service send a packet: the next of their flow, or its first.
    Packets { service: usize, clients: Vec<u16> },
    /// These clients close their flows. TCP only.
    Close { service: usize, clients: Vec<u16> },
    /// Time passes, with the daemon's ticks in it.
    Wait(u32),
    /// A backend gets this state and weight, is added with them, or (`None`) is removed. Packets arrive between the writes.
    Backend { service: usize, number: u8, becomes: Option<(BackendState, u16)> },
    /// The daemon ends, and another one takes over.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let service = 0..SERVICES.len();
    let clients = || prop::collection::vec(0..CLIENTS, 1..40);
    let state = prop_oneof![
        5 => Just(BackendState::Up),
        3 => Just(BackendState::Draining),
        3 => Just(BackendState::Failing),
        2 => Just(BackendState::Ending),
        2 => Just(BackendState::Down),
    ];
    let weight = prop_oneof![3 => Just(100u16), 1 => 1u16..300];
    prop_oneof![
        10 => (service.clone(), clients()).prop_map(|(service, clients)| Step::Packets { service, clients }),
        1 => (service.clone(), clients()).prop_map(|(service, clients)| Step::Close { service, clients }),
        4 => prop_oneof![4 => 1u32..12, 2 => 12u32..45, 1 => 45u32..110].prop_map(Step::Wait),
        8 => (service, 1..=BACKENDS, prop::option::weighted(0.9, (state, weight)))
            .prop_map(|(service, number, becomes)| Step::Backend { service, number, becomes }),
        1 => Just(Step::Restart),
    ]
}

/// A flow as known to its client.
#[derive(Clone, Copy, Debug)]
struct Flow {
    backend: SocketAddr,
    /// Whether the client has sent more than a SYN.
    is_established: bool,
    last_packet: u32,
}

/// The destination MAC of clients' frames.
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// The whole system, with the model.
struct World {
    tables: HostTables,
    planner: Planner,
    settling: Settling,
    wanted: Vec<WantedService>,
    /// The live flows, by service and client: those whose backend has always kept its flows.
    flows: BTreeMap<(usize, u16), Flow>,
    /// The TCP connections whose backend's flows end, before their clients know.
    ended: BTreeMap<(usize, u16), Flow>,
    /// The target and time of each client's last SYN or UDP packet: one that follows soon may belong to the same flow.
    last_first: BTreeMap<(usize, u16), (SocketAddr, u32)>,
    /// The wanted services before the change that is being written.
    before: Vec<WantedService>,
    begin: Instant,
    next_client: u16,
}

fn backend_address(service: usize, number: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, number], 8000 + service as u16))
}

fn vip(service: usize) -> Endpoint {
    let socket = SocketAddr::from(([192, 0, 2, 10 + service as u8], 80));
    Endpoint::from_socket(socket, SERVICES[service].0)
}

fn wanted_backend(service: usize, number: u8, state: BackendState, weight: u16) -> WantedBackend {
    let path = Path {
        source: Address::from(IpAddr::from([198, 51, 100, 254])),
        ifindex: 3,
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, number]),
        ..Path::default()
    };
    WantedBackend {
        address: backend_address(service, number),
        weight,
        // Odd ones are in slow start.
        portion: if weight % 2 == 1 { (weight % 10) as u8 * 10 } else { 100 },
        state,
        server_id: None,
        max_flows: 0,
        path: Some(path),
    }
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            hash_keys: std::array::from_fn(|at: usize| (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            snat_port_first: 1024,
            snat_port_count: 1000,
            options: 0,
            patience: patience(TIMEOUTS.tcp_idle.as_secs() as u32, TIMEOUTS.udp_idle.as_secs() as u32),
            handover: 0,
            heartbeat: 0,
            flow_buckets: 0,
            flow_reach: 0,
            alone: 0,
            own_macs: Default::default(),
        };
        const { assert!(KEYS > 0) };
        let mut tables = HostTables::new(settings);
        tables.own(OwnMac::new(1, MacAddress::new(OWN_MAC)));
        tables.slots = vec![Slot::default(); SIZES.limits.slots as usize];
        tables.backends = vec![Backend::default(); SIZES.limits.backends as usize + 1];
        let wanted = (0..SERVICES.len()).map(|service| {
            let backend = |number| wanted_backend(service, number, BackendState::Up, 100);
            let wanted = WantedService::new(vip(service), Mode::Nat, 0, (1..=3).map(backend).collect());
            WantedService { records_flows: SERVICES[service].1, ..wanted }
        });
        let begin = Instant::now();
        let mut world = Self {
            tables,
            planner: Planner::new(Tables::default(), SIZES),
            settling: Settling::default(),
            before: Vec::new(),
            wanted: wanted.collect(),
            flows: BTreeMap::new(),
            ended: BTreeMap::new(),
            last_first: BTreeMap::new(),
            begin,
            next_client: 0,
        };
        world.change().expect("the first plan fits");
        world
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_secs(u64::from(self.tables.now))
    }

    fn write(&mut self, write: &Write) {
        let tables = &mut self.tables;
        match write {
            Write::Backend(index, backend) => tables.backends[index.0 as usize] = *backend,
            // No service here needs these.
            Write::SnatAddress(..) | Write::Source(..) | Write::RemoveSource(..) => {}
            Write::QuicServer(..) | Write::RemoveQuicServer(..) => {}
            Write::Slots(first, slots) => {
                tables.slots[first.0 as usize..][..slots.len()].copy_from_slice(slots);
            }
            Write::Reply(endpoint, reply) => drop(tables.replies.insert(*endpoint, *reply)),
            Write::RemoveReply(endpoint) => drop(tables.replies.remove(endpoint)),
            Write::Service(vip, service) => drop(tables.services.insert(*vip, *service)),
            Write::RemoveService(vip) => drop(tables.services.remove(vip)),
        }
    }

    /// Changes the tables to the wanted ones, with a packet of some client between any two writes.
    fn change(&mut self) -> TestCaseResult {
        for wanted in &mut self.wanted {
            wanted.ring_len = ring_len(&wanted.backends);
        }
        let plan = self
            .planner
            .plan(&self.wanted, self.tables.now)
            .map_err(|full| TestCaseError::fail(full.to_string()))?;
        let now = self.now();
        self.settling.note(&plan.writes, self.planner.tables(), now);
        let every = plan.writes.len().div_ceil(40);
        for (number, write) in plan.writes.iter().enumerate() {
            self.write(write);
            if number % every == 0 {
                self.next_client = (self.next_client + 7) % CLIENTS;
                for service in 0..SERVICES.len() {
                    self.packet(service, self.next_client)?;
                }
            }
        }
        self.planner.commit(&plan);
        self.before.clone_from(&self.wanted);
        Ok(())
    }

    fn settle(&mut self, writes: &[Write]) {
        let now = self.now();
        self.settling.note(writes, self.planner.tables(), now);
        for write in writes {
            self.write(write);
        }
        self.planner.record(writes);
    }

    /// The owner task's work each second, and each few seconds.
    fn tick(&mut self) -> TestCaseResult {
        self.tables.now += 1;
        if self.tables.now.is_multiple_of(CENSUS_EVERY) {
            let mut count = Count::new(self.planner.tables(), &self.tables.settings, self.tables.now);
            walk::sweep(&self.tables.flows, &self.tables.settings.hash_keys, |record| count.take(record));
            let census = count.finish();
            self.forgets_what_settled_slots_say();
            let shrinking = self.planner.shrinking();
            let (tables, now) = (self.planner.tables(), self.now());
            let writes = self.settling.settled(tables, &census.others, now, shrinking);
            self.settle(&writes);
        }
        let writes = self.settling.due(self.planner.tables(), &TIMEOUTS, self.now());
        self.settle(&writes);
        if self.planner.can_shrink() { self.change() } else { Ok(()) }
    }

    /// Checks that a settled slot's flows have no record, however long they live.
    fn forgets_what_settled_slots_say(&self) {
        for record in walk::records(&self.tables.flows) {
            let key = record.key();
            let Some(service) = self.tables.services.get(&record.vip()) else { continue };
            let place = slot_hash(&self.tables.settings, service, &key).reduce(service.ring_len.max(1));
            let slot = self.tables.slots[(service.ring_offset.0 + place) as usize];
            let is_needed = slot.is_tracked() || slot.owner() != record.backend() || service.records_flows();
            assert!(is_needed, "{key:?} is remembered for nothing");
        }
    }

    /// The target of a packet of this client. `None`: it is dropped because there is no backend, or the client is told that its
    /// flow has ended.
    fn send(
        &mut self,
        service: usize,
        client: u16,
        flags: &str,
    ) -> Result<Option<SocketAddr>, TestCaseError> {
        let source = [203, 0, 113, 7];
        let (destination, port) = ([192, 0, 2, 10 + service as u8], 1000 + client);
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], OWN_MAC).ipv4(source, destination, 64);
        let mut bytes = Vec::new();
        let written = if SERVICES[service].0 == Protocol::UDP {
            builder.udp(port, 80).write(&mut bytes, &[])
        } else {
            let tcp = builder.tcp(port, 80, 1, 1000);
            let tcp = if flags.contains('S') { tcp.syn() } else { tcp.ack(1) };
            let tcp = if flags.contains('F') { tcp.fin() } else { tcp };
            tcp.write(&mut bytes, &[])
        };
        written.expect("a packet");
        let mut packet = Buffer::new(&bytes, 1);
        let mut scratch = Scratch::default();
        match process(&mut packet, &self.tables, &mut scratch) {
            Verdict::Redirect(_) => {
                let bytes = packet.bytes();
                let port = u16::from_be_bytes([bytes[36], bytes[37]]);
                Ok(Some(SocketAddr::from(([bytes[30], bytes[31], bytes[32], bytes[33]], port))))
            }
            // A client whose flow has ended is told so, as far as the rate limit of answers allows.
            Verdict::Drop(Reason::NoBackend | Reason::BackendUnusable | Reason::FlowEnded)
            | Verdict::Transmit => Ok(None),
            Verdict::Pass(Reason::NoService) if !self.tables.services.contains_key(&vip(service)) => Ok(None),
            other => Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }

    /// Whether the client's flow is still alive by its clock.
    fn lives(&self, service: usize, flow: &Flow) -> bool {
        let patience = match (SERVICES[service].0, flow.is_established) {
            (Protocol::UDP, _) => TIMEOUTS.udp_idle.as_secs() as u32,
            (_, true) => TIMEOUTS.tcp_idle.as_secs() as u32,
            (_, false) => HALF_OPEN,
        };
        self.tables.now - flow.last_packet <= patience
    }

    /// A client sends its flow's next packet, or a new flow's first one.
    fn packet(&mut self, service: usize, client: u16) -> TestCaseResult {
        let now = self.tables.now;
        let flow = self.flows.get(&(service, client)).copied().filter(|flow| self.lives(service, flow));
        if let Some(flow) = flow {
            let went = self.send(service, client, "A")?;
            prop_assert_eq!(
                went,
                Some(flow.backend),
                "client {} of service {} has changed its backend",
                client,
                service
            );
            self.flows.insert((service, client), Flow { is_established: true, last_packet: now, ..flow });
            if SERVICES[service].0 == Protocol::UDP {
                self.last_first.insert((service, client), (flow.backend, now));
            }
            return Ok(());
        }
        self.flows.remove(&(service, client));
        if let Some(flow) = self.ended.remove(&(service, client))
            && self.lives(service, &flow)
        {
            let went = self.send(service, client, "A")?;
            // The change may not have been written to the tables yet.
            prop_assert!(
                went.is_none() || self.before != self.wanted && went == Some(flow.backend),
                "client {} of service {} goes on at {:?}, its flow has ended at {}",
                client,
                service,
                went,
                flow.backend
            );
            return Ok(());
        }
        self.begin(service, client)
    }

    /// A client sends the first packet of a flow.
    fn begin(&mut self, service: usize, client: u16) -> TestCaseResult {
        let now = self.tables.now;
        let is_udp = SERVICES[service].0 == Protocol::UDP;
        // Its SYN matches the record of a connection that its backend has not closed.
        let is_open = |record: &Record| !is_udp && record.life().progress() & ESTABLISHED != 0;
        let open_at = self.record(service, client).filter(is_open).map(|record| record.destination());
        let Some(backend) = self.send(service, client, "S")? else { return Ok(()) };
        let follows = open_at == Some(Endpoint::from_socket(backend, Protocol::TCP));
        let state = |wanted: &[WantedService]| {
            let backends = &wanted.get(service)?.backends;
            backends.iter().find(|wanted| wanted.address == backend).map(|wanted| wanted.state)
        };
        let (before, now_wanted) = (state(&self.before), state(&self.wanted));
        // Whether a UDP packet begins a flow is not known, unless all flows are recorded.
        let may_begin = |state: &Option<BackendState>| match state {
            Some(BackendState::Up) => true,
            Some(BackendState::Draining) => is_udp && !SERVICES[service].1,
            _ => false,
        };
        prop_assert!(
            ![before, now_wanted].iter().all(|state| *state == Some(BackendState::Failing))
                || is_udp && self.has_record(service, client)
                || follows,
            "client {} of service {} began at {}, which fails",
            client,
            service,
            backend
        );
        let last_first = self.last_first.insert((service, client), (backend, now));
        let patience = if is_udp { TIMEOUTS.udp_idle.as_secs() as u32 } else { HALF_OPEN };
        let is_again = last_first.is_some_and(|(to, at)| to == backend && now - at <= patience);
        prop_assert!(
            [before, now_wanted].iter().any(may_begin) || is_again || follows,
            "client {} of service {} began at {}",
            client,
            service,
            backend
        );
        let is_kept = match now_wanted {
            Some(BackendState::Up | BackendState::Draining) => true,
            Some(BackendState::Failing) => !is_udp || self.has_record(service, client),
            _ => false,
        };
        if is_kept {
            let flow = Flow { backend, is_established: is_udp, last_packet: now };
            self.flows.insert((service, client), flow);
        }
        Ok(())
    }

    /// Whether the client's flow has a record.
    fn has_record(&self, service: usize, client: u16) -> bool {
        self.record(service, client).is_some()
    }

    fn record(&self, service: usize, client: u16) -> Option<Record> {
        let source = SocketAddr::from(([203, 0, 113, 7], 1000 + client));
        let key = FlowKey::new(Endpoint::from_socket(source, SERVICES[service].0), vip(service));
        walk::records(&self.tables.flows).find(|record| record.key() == key)
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match step {
            Step::Packets { service, clients } => {
                clients.iter().try_for_each(|client| self.packet(*service, *client))?;
            }
            // A UDP flow only ends by silence.
            Step::Close { service, clients } if SERVICES[*service].0 == Protocol::TCP => {
                for client in clients {
                    if let Some(flow) = self.flows.remove(&(*service, *client))
                        && self.lives(*service, &flow)
                    {
                        prop_assert_eq!(self.send(*service, *client, "AF")?, Some(flow.backend));
                    }
                }
            }
            Step::Close { .. } => {}
            Step::Wait(seconds) => (0..*seconds).try_for_each(|_| self.tick())?,
            Step::Backend { service, number, becomes } => {
                let address = backend_address(*service, *number);
                let backends = &mut self.wanted[*service].backends;
                backends.retain(|backend| backend.address != address);
                if let Some((state, weight)) = *becomes {
                    backends.push(wanted_backend(*service, *number, state, weight));
                }
                let state = becomes.map_or(BackendState::Vacant, |(state, _)| state);
                let is_its = |of: usize, flow: &Flow| of == *service && flow.backend == address;
                let is_tcp = SERVICES[*service].0 == Protocol::TCP;
                self.ended.retain(|(of, _), flow| !is_its(*of, flow));
                let keeps = |client: u16| match state {
                    BackendState::Up | BackendState::Draining => true,
                    BackendState::Failing => is_tcp || self.has_record(*service, client),
                    _ => false,
                };
                let kept: BTreeSet<u16> = (0..CLIENTS).filter(|client| keeps(*client)).collect();
                let is_over = |(of, client): &(usize, u16), flow: &mut Flow| {
                    is_its(*of, flow) && !kept.contains(client)
                };
                let ended = self.flows.extract_if(.., is_over);
                let is_known = |flow: &Flow| is_tcp && flow.is_established;
                let ended = ended.filter(|(_, flow)| state == BackendState::Ending && is_known(flow));
                self.ended.extend(ended);
                self.change()?;
            }
            Step::Restart => {
                self.planner = Planner::new(self.planner.tables().clone(), SIZES);
                self.settling = Settling::new(self.planner.tables(), self.now());
                // A daemon that starts plans at once: only then does it know which rings should be shorter.
                self.change()?;
            }
        }
        Ok(())
    }

    /// Checks that no flow is remembered after all have ended.
    fn comes_to_rest(&mut self) -> TestCaseResult {
        for _ in 0..TIMEOUTS.tcp_idle.as_secs() + 300 {
            self.tick()?;
        }
        for (wanted, service) in self.wanted.iter().zip(0..) {
            let ring =
                self.planner.tables().services.get(&vip(service)).map_or(0, |service| service.ring_len);
            prop_assert!(
                ring == 0 || ring == wanted.ring_len,
                "a ring of {} slots for {}",
                ring,
                wanted.ring_len
            );
        }
        let tracked = self.planner.tables().rings.values().flatten().filter(|slot| slot.is_tracked()).count();
        prop_assert_eq!(tracked, 0, "slots that never settle");
        prop_assert_eq!(walk::records(&self.tables.flows).count(), 0, "records of nobody");
        // In a steady ring, the flow memory is neither read nor written.
        for service in (0..SERVICES.len()).filter(|service| !SERVICES[*service].1) {
            for client in 0..CLIENTS {
                self.packet(service, client)?;
                self.packet(service, client)?;
            }
        }
        prop_assert_eq!(walk::records(&self.tables.flows).count(), 0, "a steady ring's records");
        Ok(())
    }
}

fn cases() -> u32 {
    std::env::var("XDP_LB_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

#[test]
fn a_live_flow_never_changes_its_backend_and_ends_with_it() {
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let steps = RefCell::new(0);
    proptest!(config, |(script in prop::collection::vec(step(), 1..120))| {
        let mut world = World::new();
        for (number, step) in script.iter().enumerate() {
            world.step(step).map_err(|error| TestCaseError::fail(format!("step {number}, {step:?}: {error}")))?;
        }
        *steps.borrow_mut() += script.len();
        world.comes_to_rest()?;
    });
    println!("{} steps", steps.borrow());
}

#[test]
fn a_ring_becomes_shorter_also_where_the_daemon_was_restarted_meanwhile() {
    let mut world = World::new();
    let joins = |becomes| Step::Backend { service: 2, number: 20, becomes };
    let script = [joins(Some((BackendState::Up, 1))), Step::Wait(110), joins(None), Step::Restart];
    for step in &script {
        world.step(step).unwrap();
    }
    world.comes_to_rest().unwrap();
}

#[test]
fn flows_that_end_faster_than_clients_can_be_told_go_nowhere() {
    let mut world = World::new();
    let backend = |service, number, becomes| Step::Backend { service, number, becomes };
    let packets = |service, count| Step::Packets { service, clients: vec![0; count] };
    let script = [
        backend(3, 2, None),
        backend(3, 3, None),
        packets(0, 1),
        packets(0, 1),
        backend(0, 1, None),
        packets(0, 1),
        backend(3, 1, Some((BackendState::Ending, 100))),
        packets(3, 15),
        backend(0, 4, Some((BackendState::Up, 100))),
    ];
    for step in &script {
        world.step(step).unwrap();
    }
}
