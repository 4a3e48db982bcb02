//! The proof of what nodes tell each other: several load balancers, each with the real datapath, planner, settling, census and exchange, behind
//! a router that may spread all flows anew at any step. Whatever happens in whatever order, a live flow stays on its backend, and its backend sees
//! it come from the same address and port, whichever node its packets meet: nodes die, return with empty tables and join, backends
//! drain and come and go, and nodes hear of that at different times.
//!
//! What the exchange bounds is left out: a flow counts from its second packet on, once that was told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use xdp_lb_common::flow_table::walk;
use xdp_lb_common::host::{Buffer, HostTables};
use xdp_lb_common::net::{Address, Endpoint, MacAddress, Protocol};
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::process::{Scratch, Verdict, process};
use xdp_lb_common::tables::flow::patience;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{Backend, BackendState, Mode, Settings};

use super::planner::Planner;
use super::settling::Settling;
use super::tracking::{Tracking, tracked, tracking};
use super::wanted::{Path, Sources, WantedBackend, WantedService, ring_len};
use crate::datapath::{Count, Sizes};
use crate::fleet::{Basis, SharedFlow, Sharing, TrackedRing};
use crate::model::{Limits, Timeouts};
use crate::tables::{Tables, Write};

const TIMEOUTS: Timeouts = Timeouts { tcp_idle: Duration::from_secs(100), udp_idle: Duration::from_secs(40) };
/// A flow that has been silent for so long may have ended on one node and not on another: after a node's death, a quarter of the idle
/// timeout sooner, and a second for each node that told another one of it.
const LIVES: u32 = 70;
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
const NODES: usize = 4;
const CLIENTS: u16 = 60;
const BACKENDS: u8 = 8;
const CENSUS_EVERY: u32 = 5;
const MODES: [Mode; 2] = [Mode::Nat, Mode::FullNat];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

#[derive(Clone, Debug)]
enum Step {
    /// These clients of a service send a packet each: the next of their flow, or its first two.
    Packets { service: usize, clients: Vec<u16> },
    /// Time passes.
    Wait(u32),
    /// A backend comes into this state, or is removed; nodes whose bit is not set hear of it at the next step.
    Backend { service: usize, number: u8, becomes: Option<BackendState>, hears: u8 },
    /// The router spreads all flows anew.
    Spread(u64),
    /// A node dies, unless it is the last one.
    Dies(usize),
    /// A node comes with empty tables, and joins.
    Joins(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let clients = || prop::collection::vec(0..CLIENTS, 1..40);
    let state = prop_oneof![
        4 => Just(BackendState::Up),
        3 => Just(BackendState::Draining),
        2 => Just(BackendState::Failing)
    ];
    prop_oneof![
        10 => (0..MODES.len(), clients()).prop_map(|(service, clients)| Step::Packets { service, clients }),
        4 => prop_oneof![4 => 1u32..12, 2 => 12u32..45, 1 => 45u32..110].prop_map(Step::Wait),
        6 => (0..MODES.len(), 1..=BACKENDS, prop::option::weighted(0.9, state), any::<u8>()).prop_map(
            |(service, number, becomes, hears)| Step::Backend { service, number, becomes, hears }
        ),
        4 => any::<u64>().prop_map(Step::Spread),
        2 => (0..NODES).prop_map(Step::Dies),
        3 => (0..NODES).prop_map(Step::Joins),
    ]
}

/// A flow as its client and its backend know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Flow {
    backend: SocketAddr,
    source: SocketAddr,
}

struct Node {
    tables: HostTables,
    planner: Planner,
    settling: Settling,
    sharing: Sharing,
}

struct World {
    nodes: Vec<Option<Node>>,
    wanted: Vec<WantedService>,
    /// The nodes that have not heard of the last change.
    unaware: Vec<usize>,
    /// The flows that live, and when their last packet came.
    flows: BTreeMap<(usize, u16), (Flow, u32)>,
    spread: u64,
    seconds: u32,
    begin: Instant,
    told: usize,
}

fn address(service: usize, number: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, number], 8000 + service as u16))
}

fn vip(service: usize) -> Endpoint {
    let socket = SocketAddr::from(([192, 0, 2, 10 + service as u8], 80));
    Endpoint::from_socket(socket, Protocol::TCP)
}

fn wanted_backend(service: usize, number: u8, state: BackendState) -> WantedBackend {
    let path = Path {
        source: Address::from(IpAddr::from([198, 51, 100, 254])),
        ifindex: 3,
        destination_mac: MacAddress::new([2, 0, 0, 0, 0, number]),
        ..Path::default()
    };
    WantedBackend {
        address: address(service, number),
        weight: 100,
        portion: 100,
        state,
        server_id: None,
        max_flows: 0,
        path: Some(path),
    }
}

fn wanted_service(service: usize) -> WantedService {
    WantedService {
        vip: vip(service),
        last_port: vip(service).port,
        mode: MODES[service],
        records_flows: false,
        only_recorded: false,
        rejects: false,
        snat_addresses: vec![],
        affinity_bits: 0,
        quic: None,
        sources: Sources::new(),
        new_flow_rate: 0,
        new_flow_burst: 0,
        max_flows: 0,
        checked_at: None,
        ring_len: 0,
        has_ring: false,
        hairpin: false,
        backends: (1..=3).map(|number| wanted_backend(service, number, BackendState::Up)).collect(),
    }
}

impl Node {
    fn new(seconds: u32) -> Self {
        let settings = Settings {
            hash_keys: std::array::from_fn(|at: usize| (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            snat_port_first: 1024,
            snat_port_count: 30_000,
            options: 0,
            patience: patience(TIMEOUTS.tcp_idle.as_secs() as u32, TIMEOUTS.udp_idle.as_secs() as u32),
            handover: 0,
            heartbeat: 0,
            flow_buckets: 0,
            flow_reach: 0,
            alone: 0,
            own_macs: Default::default(),
        };
        let mut tables = HostTables::new(settings);
        tables.own(OwnMac::new(1, MacAddress::new(OWN_MAC)));
        tables.slots = vec![Slot::default(); SIZES.limits.slots as usize];
        tables.backends = vec![Backend::default(); SIZES.limits.backends as usize + 1];
        tables.snat_addresses = vec![Address::default(); SIZES.snat_addresses as usize];
        tables.now = seconds;
        let sharing = Sharing::new(xdp_lb_common::flow_table::Memory::buckets(&tables.flows));
        Self {
            tables,
            planner: Planner::new(Tables::default(), SIZES),
            settling: Settling::default(),
            sharing,
        }
    }

    fn write(&mut self, write: &Write) {
        let tables = &mut self.tables;
        match write {
            Write::Backend(index, backend) => tables.backends[index.0 as usize] = *backend,
            Write::SnatAddress(place, address) => tables.snat_addresses[*place as usize] = *address,
            Write::Source(..) | Write::RemoveSource(..) => {}
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

    fn change(&mut self, wanted: &[WantedService], now: Instant) -> TestCaseResult {
        let plan = self.planner.plan(wanted, self.tables.now);
        let plan = plan.map_err(|full| TestCaseError::fail(full.to_string()))?;
        self.settling.note(&plan.writes, self.planner.tables(), now);
        plan.writes.iter().for_each(|write| self.write(write));
        self.planner.commit(&plan);
        Ok(())
    }

    fn settle(&mut self, writes: &[Write], now: Instant) {
        self.settling.note(writes, self.planner.tables(), now);
        writes.iter().for_each(|write| self.write(write));
        self.planner.record(writes);
    }

    fn track(&mut self, rings: &[TrackedRing], is_new: bool, now: Instant) {
        let Tracking { writes, moving_for } = tracking(self.planner.tables(), rings, is_new);
        self.settle(&writes, now);
        self.settling.note_moving_for(&moving_for, now);
    }

    fn tick(&mut self, wanted: &[WantedService], now: Instant) -> TestCaseResult {
        self.tables.now += 1;
        if self.tables.now.is_multiple_of(CENSUS_EVERY) {
            let mut count = Count::new(self.planner.tables(), &self.tables.settings, self.tables.now);
            walk::sweep(&self.tables.flows, &self.tables.settings.hash_keys, |record| count.take(record));
            let census = count.finish();
            let shrinking = self.planner.shrinking();
            let writes = self.settling.settled(self.planner.tables(), &census.others, now, shrinking);
            self.settle(&writes, now);
        }
        let writes = self.settling.due(self.planner.tables(), &TIMEOUTS, now);
        self.settle(&writes, now);
        if self.planner.can_shrink() { self.change(wanted, now) } else { Ok(()) }
    }

    fn basis(&self) -> Basis {
        Basis::new(Arc::new(self.planner.tables().clone()), self.tables.settings)
    }

    fn news(&mut self) -> Vec<SharedFlow> {
        let (basis, mut flows) = (self.basis(), Vec::new());
        while !self.sharing.news(&self.tables.flows, &basis, self.tables.now, usize::MAX, &mut flows) {}
        flows
    }

    fn all(&self) -> Vec<SharedFlow> {
        let (basis, mut flows, mut place) = (self.basis(), Vec::new(), Some(0));
        while let Some(from) = place {
            place = Sharing::page(&self.tables.flows, &basis, self.tables.now, from, &mut flows);
        }
        flows
    }

    fn take(&mut self, flows: &[SharedFlow], now: Instant) {
        let basis = self.basis();
        for flow in flows {
            // What is refused is seen where the flow goes on.
            let _ = self.sharing.take(&self.tables.flows, &basis, self.tables.now, flow);
        }
        let differing = self.sharing.differing();
        self.track(&differing, false, now);
    }

    /// Where a client's packet goes, and as whose.
    fn send(&mut self, service: usize, client: u16, is_first: bool) -> Option<Flow> {
        let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 1, 1], OWN_MAC).ipv4(
            [203, 0, 113, 7],
            [192, 0, 2, 10 + service as u8],
            64,
        );
        let tcp = builder.tcp(1000 + client, 80, 1, 1000);
        let tcp = if is_first { tcp.syn() } else { tcp.ack(1) };
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, &[]).expect("a packet");
        let mut packet = Buffer::new(&bytes, 1);
        let Verdict::Redirect(_) = process(&mut packet, &self.tables, &mut Scratch::default()) else {
            return None;
        };
        let bytes = packet.bytes();
        let end = |at: usize, port: usize| {
            let address: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
            SocketAddr::from((address, u16::from_be_bytes([bytes[port], bytes[port + 1]])))
        };
        Some(Flow { source: end(26, 34), backend: end(30, 36) })
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            nodes: (0..NODES).map(|_| None).collect(),
            wanted: (0..MODES.len()).map(wanted_service).collect(),
            unaware: Vec::new(),
            flows: BTreeMap::new(),
            spread: 1,
            seconds: 1000,
            begin: Instant::now(),
            told: 0,
        };
        world.measure_rings();
        (0..NODES - 1).for_each(|node| world.joins(node).expect("the first plan fits"));
        world
    }

    fn now(&self) -> Instant {
        self.begin + Duration::from_secs(self.seconds.into())
    }

    fn measure_rings(&mut self) {
        for wanted in &mut self.wanted {
            wanted.ring_len = ring_len(&wanted.backends);
        }
    }

    /// What a node wants: its SNAT address is its own.
    fn wanted_by(&self, node: usize) -> Vec<WantedService> {
        let own = Address::from(IpAddr::from([203, 0, 113, 100 + node as u8]));
        let with_own = |service: &WantedService| match service.mode {
            Mode::FullNat => WantedService { snat_addresses: vec![own], ..service.clone() },
            _ => service.clone(),
        };
        self.wanted.iter().map(with_own).collect()
    }

    /// Nodes tell each other of what is new.
    fn exchange(&mut self) {
        let now = self.now();
        for from in 0..NODES {
            let Some(node) = &mut self.nodes[from] else { continue };
            let flows = node.news();
            self.told += flows.len();
            for (_, to) in self.nodes.iter_mut().enumerate().filter(|(to, _)| *to != from) {
                to.iter_mut().for_each(|node| node.take(&flows, now));
            }
        }
    }

    fn joins(&mut self, number: usize) -> TestCaseResult {
        if self.nodes[number].is_some() {
            return Ok(());
        }
        let now = self.now();
        let mut node = Node::new(self.seconds);
        let mut wanted = self.wanted_by(number);
        node.change(&wanted, now)?;
        for peer in self.nodes.iter().flatten() {
            let rings = tracked(peer.planner.tables(), &peer.settling, now);
            wanted.iter_mut().for_each(|it| it.has_ring = rings.iter().any(|ring| ring.vip == it.vip));
            node.change(&wanted, now)?;
            node.track(&rings, true, now);
            node.take(&peer.all(), now);
        }
        self.nodes[number] = Some(node);
        Ok(())
    }

    /// The node that the router sends a client's packets to.
    fn node_of(&mut self, service: usize, client: u16) -> &mut Node {
        let there: Vec<usize> = (0..NODES).filter(|node| self.nodes[*node].is_some()).collect();
        let word = self.spread ^ (service as u64) << 32 ^ u64::from(client);
        let hash = word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        self.nodes[there[hash as usize % there.len()]].as_mut().expect("it is there")
    }

    fn packet(&mut self, service: usize, client: u16) -> TestCaseResult {
        let seconds = self.seconds;
        let flow = self.flows.get(&(service, client)).filter(|(_, last)| seconds - last <= LIVES).copied();
        let node = self.node_of(service, client);
        let went = match flow {
            Some((flow, _)) => {
                let went = node.send(service, client, false);
                prop_assert_eq!(went, Some(flow), "client {} of service {}", client, service);
                went
            }
            None => {
                let first = node.send(service, client, true);
                let second = node.send(service, client, false);
                second.filter(|_| first == second)
            }
        };
        match went {
            Some(flow) => drop(self.flows.insert((service, client), (flow, seconds))),
            None => drop(self.flows.remove(&(service, client))),
        }
        Ok(())
    }

    /// The nodes that have not heard of the last change do.
    fn all_hear(&mut self) -> TestCaseResult {
        for number in std::mem::take(&mut self.unaware) {
            self.hears(number)?;
        }
        Ok(())
    }

    fn hears(&mut self, number: usize) -> TestCaseResult {
        let (wanted, now) = (self.wanted_by(number), self.now());
        self.nodes[number].iter_mut().try_for_each(|node| node.change(&wanted, now))
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match step {
            Step::Packets { service, clients } => {
                clients.iter().try_for_each(|client| self.packet(*service, *client))?;
            }
            Step::Wait(seconds) => {
                for _ in 0..*seconds {
                    self.all_hear()?;
                    self.seconds += 1;
                    let now = self.now();
                    for number in 0..NODES {
                        let wanted = self.wanted_by(number);
                        self.nodes[number].iter_mut().try_for_each(|node| node.tick(&wanted, now))?;
                    }
                    self.exchange();
                }
            }
            Step::Backend { service, number, becomes, hears } => {
                self.all_hear()?;
                let address = address(*service, *number);
                let backends = &mut self.wanted[*service].backends;
                let is_known = backends.iter().any(|backend| backend.address == address);
                backends.retain(|backend| backend.address != address);
                backends.extend(becomes.map(|state| wanted_backend(*service, *number, state)));
                if becomes.is_none() {
                    self.flows.retain(|(of, _), (flow, _)| of != service || flow.backend != address);
                }
                self.measure_rings();
                // A node cannot send a flow to a backend that it does not have, and not away from one that is gone.
                let all_hear = becomes.is_none() || !is_known;
                for node in 0..NODES {
                    match all_hear || hears >> node & 1 != 0 {
                        true => self.hears(node)?,
                        false => self.unaware.push(node),
                    }
                }
            }
            Step::Spread(seed) => self.spread = *seed,
            Step::Dies(number) => {
                if self.nodes.iter().flatten().count() > 1 {
                    self.nodes[*number] = None;
                }
            }
            Step::Joins(number) => {
                self.all_hear()?;
                self.joins(*number)?;
            }
        }
        self.exchange();
        Ok(())
    }

    /// After all flows have ended, no slot is tracked, no record is left, and nothing is told.
    fn comes_to_rest(&mut self) -> TestCaseResult {
        self.step(&Step::Wait(TIMEOUTS.tcp_idle.as_secs() as u32 + 400))?;
        for node in self.nodes.iter().flatten() {
            let slots = node.planner.tables().rings.values().flatten();
            prop_assert_eq!(slots.filter(|slot| slot.is_tracked()).count(), 0, "slots that never settle");
            prop_assert_eq!(walk::records(&node.tables.flows).count(), 0, "records of nobody");
        }
        let told = self.told;
        self.step(&Step::Packets { service: 0, clients: (0..CLIENTS).collect() })?;
        self.step(&Step::Packets { service: 0, clients: (0..CLIENTS).collect() })?;
        prop_assert_eq!(self.told, told, "in a settled ring nothing is told");
        Ok(())
    }
}

fn cases() -> u32 {
    std::env::var("XDP_LB_MODEL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(30)
}

#[test]
fn a_live_flow_stays_where_it_is_whichever_node_its_packets_meet() {
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(script in prop::collection::vec(step(), 1..80))| {
        let mut world = World::new();
        for (number, step) in script.iter().enumerate() {
            world.step(step).map_err(|error| TestCaseError::fail(format!("step {number}, {step:?}: {error}")))?;
        }
        world.comes_to_rest()?;
    });
}
