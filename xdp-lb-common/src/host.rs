//! The datapath on the host: a frame in a byte buffer and tables in plain collections, for tests without a kernel.

extern crate std;

use core::sync::atomic::AtomicU64;
use std::boxed::Box;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::decap;
use crate::flow_table::host::HostMemory;
use crate::hash::FlowHash;
use crate::net::{Address, Endpoint, Port, Protocol};
use crate::own_mac::{OwnMac, OwnMacs, PROBES, WORDS};
use crate::packet::Packet;
use crate::rate::{Answer, Buckets};
use crate::reason::{REASONS, Reason};
use crate::tables::filter::{BACKEND, Place, VIP};
use crate::tables::slot::Slot;
use crate::tables::{
    Backend, BackendIndex, Check, FlowKey, Fragment, FragmentKey, PortRanges, Reply, Route, RouteQuery,
    RouterAddresses, RouterInterface, ServerKey, Service, ServiceIndex, Settings, SlotIndex, SolePorts,
    SourceKey, SourceVerdict, Tables, Traffic, VlanDevice,
};

/// A frame in a buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    ingress: u32,
    headroom: i32,
}

impl Buffer {
    /// A frame received on this interface, with the 256 bytes of headroom that the kernel guarantees (`XDP_PACKET_HEADROOM`).
    pub fn new(bytes: &[u8], ingress: u32) -> Self {
        Self { bytes: bytes.to_vec(), ingress, headroom: 256 }
    }

    /// The same by a driver that leaves no headroom.
    pub fn without_headroom(bytes: &[u8], ingress: u32) -> Self {
        Self { headroom: 0, ..Self::new(bytes, ingress) }
    }

    /// The frame as it stands.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The tables of a backend's decapsulator in plain collections.
pub struct HostBackend {
    /// The settings.
    pub settings: decap::Settings,
    /// The addresses that tunnelled packets are for.
    pub local: BTreeSet<Address>,
    /// Allowed sources: addresses, and the length of their prefix in 128 bits.
    pub allowed: Vec<(Address, u8)>,
    /// How many packets had each outcome.
    pub outcomes: RefCell<[u64; decap::OUTCOMES as usize]>,
}

impl HostBackend {
    /// One without addresses.
    pub fn new(settings: decap::Settings) -> Self {
        let outcomes = RefCell::new([0; decap::OUTCOMES as usize]);
        Self { settings, local: BTreeSet::new(), allowed: Vec::new(), outcomes }
    }
}

impl decap::Tables for HostBackend {
    fn settings(&self) -> Option<&decap::Settings> {
        Some(&self.settings)
    }

    fn is_local(&self, address: &Address) -> bool {
        self.local.contains(address)
    }

    fn is_allowed(&self, source: &Address) -> bool {
        self.allowed.iter().any(|(prefix, bits)| source.first_bits(*bits) == prefix.first_bits(*bits))
    }

    fn count(&self, outcome: decap::Outcome) {
        self.outcomes.borrow_mut()[outcome as usize] += 1;
    }
}

impl Packet for Buffer {
    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }

    fn read<T: FromBytes + Copy>(&self, offset: usize) -> Option<T> {
        let bytes = self.bytes.get(offset..)?.get(..size_of::<T>())?;
        T::read_from_bytes(bytes).ok()
    }

    fn write<T: IntoBytes + Immutable>(&mut self, offset: usize, value: T) -> Option<()> {
        self.bytes.get_mut(offset..)?.get_mut(..size_of::<T>())?.copy_from_slice(value.as_bytes());
        Some(())
    }

    fn move_head(&mut self, by: i32) -> Option<()> {
        let headroom = self.headroom + by;
        if headroom < 0 || by >= self.bytes.len() as i32 {
            return None;
        }
        self.headroom = headroom;
        if by >= 0 {
            self.bytes.drain(..by as usize);
        } else {
            self.bytes.splice(..0, std::iter::repeat_n(0xaa, by.unsigned_abs() as usize));
        }
        Some(())
    }

    fn cut_to(&mut self, length: usize) -> Option<()> {
        let is_longer = self.bytes.len() >= length;
        self.bytes.truncate(length);
        is_longer.then_some(())
    }
}

/// The tables in plain collections.
pub struct HostTables {
    /// Seconds of the monotonic clock.
    pub now: u32,
    /// `SETTINGS`.
    pub settings: Settings,
    /// `OWN_MACS`.
    pub own_macs: Vec<u64>,
    /// `SERVICES`.
    pub services: BTreeMap<Endpoint, Service>,
    /// `PORT_RANGES`.
    pub port_ranges: BTreeMap<Endpoint, PortRanges>,
    /// `SLOTS`.
    pub slots: Vec<Slot>,
    /// `BACKENDS`.
    pub backends: Vec<Backend>,
    /// `SNAT_ADDRESSES`.
    pub snat_addresses: Vec<Address>,
    /// `OWN_ADDRESSES`.
    pub own_addresses: BTreeSet<Address>,
    /// `VLANS`.
    pub devices: BTreeMap<u32, VlanDevice>,
    /// `REPLIES`.
    pub replies: BTreeMap<Endpoint, Reply>,
    /// `CHECKS`.
    pub checks: HashMap<FlowKey, Check>,
    /// `QUIC_SERVERS`.
    pub quic_servers: BTreeMap<ServerKey, BackendIndex>,
    /// `SOURCES`, by the prefix's first address and how many bits of that count.
    pub sources: BTreeMap<(SourceKey, u8), SourceVerdict>,
    /// `SERVICE_FLOWS`.
    pub service_flows: RefCell<BTreeMap<ServiceIndex, i64>>,
    /// `BACKEND_FLOWS`.
    pub backend_flows: RefCell<BTreeMap<BackendIndex, i64>>,
    /// Nanoseconds of the monotonic clock.
    pub nanoseconds: u64,
    /// `SOURCE_RATES`; evicts nothing.
    pub source_rates: RefCell<BTreeMap<SourceKey, u64>>,
    /// `ROUTER_ADDRESSES`.
    pub router_addresses: BTreeMap<RouterInterface, RouterAddresses>,
    /// The routes to clients; others are unroutable.
    pub routes: BTreeMap<Address, Route>,
    /// Whether the datapath has detected that the daemon is gone.
    pub is_alone: Cell<bool>,
    /// The flow table.
    pub flows: HostMemory,
    /// `FRAGMENTS`; evicts nothing by itself.
    pub fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    /// The rate limits of answers, by kind; on the clock `now`.
    pub answers: RefCell<BTreeMap<u32, Box<Buckets>>>,
    /// `REASON_COUNTERS`.
    pub reasons: RefCell<[u64; REASONS as usize]>,
    /// `BACKEND_COUNTERS`.
    pub backend_traffic: RefCell<BTreeMap<BackendIndex, Traffic>>,
}

impl HostTables {
    /// Empty tables.
    pub fn new(settings: Settings) -> Self {
        Self::with_buckets(settings, BUCKETS)
    }

    /// The same with a flow table of so many buckets.
    pub fn with_buckets(settings: Settings, buckets: u32) -> Self {
        Self {
            now: 1000,
            settings,
            own_macs: std::vec![0; WORDS as usize],
            services: BTreeMap::new(),
            port_ranges: BTreeMap::new(),
            slots: Vec::new(),
            backends: Vec::new(),
            snat_addresses: Vec::new(),
            own_addresses: BTreeSet::new(),
            devices: BTreeMap::new(),
            replies: BTreeMap::new(),
            checks: HashMap::new(),
            quic_servers: BTreeMap::new(),
            sources: BTreeMap::new(),
            service_flows: RefCell::default(),
            backend_flows: RefCell::default(),
            nanoseconds: 0,
            source_rates: RefCell::default(),
            router_addresses: BTreeMap::new(),
            routes: BTreeMap::new(),
            is_alone: Cell::new(false),
            flows: HostMemory::new(buckets, AtomicU64::default),
            fragments: RefCell::default(),
            answers: RefCell::default(),
            reasons: RefCell::new([0; REASONS as usize]),
            backend_traffic: RefCell::default(),
        }
    }

    /// Adds a MAC of this host on this interface.
    ///
    /// # Panics
    /// If there are too many.
    pub fn own(&mut self, mac: OwnMac) {
        let free = |probe| Some(mac.place(probe) as usize).filter(|place| self.own_macs[*place] == 0);
        let place = (0..PROBES).find_map(free).expect("a place");
        self.own_macs[place] = mac.to_bits();
        if let Some(free) = self.settings.own_macs.iter_mut().find(|free| **free == OwnMac::default()) {
            *free = mac;
        }
    }
}

impl OwnMacs for HostTables {
    fn own_mac(&self, place: u32) -> u64 {
        self.own_macs.get(place as usize).copied().unwrap_or_default()
    }
}

/// Space for so many flows that no test fills it by accident.
const BUCKETS: u32 = 1024;

impl Tables for HostTables {
    type FlowTable = HostMemory;
    type Traffic<'a> = RefMut<'a, Traffic>;

    fn now(&self) -> u32 {
        self.now
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn roles(&self, address: &Address) -> u8 {
        // Addresses collide here in the same way as in the kernel's table.
        let place = Place::of(address);
        let holds = |endpoint: &Endpoint| Place::of(&endpoint.address) == place;
        let vip = if self.services.keys().any(holds) { VIP } else { 0 };
        let is_own = self.own_addresses.iter().any(|own| Place::of(own) == place);
        let backend = if is_own || self.replies.keys().any(holds) { BACKEND } else { 0 };
        vip | backend
    }

    fn service(&self, vip: &Endpoint) -> Option<&Service> {
        self.services.get(vip)
    }

    fn may_have_ranges(&self, vip: &Address) -> bool {
        let place = Place::of(vip);
        self.port_ranges.keys().any(|ranged| Place::of(&ranged.address) == place)
    }

    fn port_ranges(&self, vip: &Endpoint) -> Option<&PortRanges> {
        self.port_ranges.get(vip)
    }

    fn slot(&self, index: SlotIndex) -> Option<Slot> {
        self.slots.get(index.0 as usize).copied()
    }

    fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        self.backends.get(index.0 as usize)
    }

    fn snat_address(&self, place: u32) -> Option<&Address> {
        self.snat_addresses.get(place as usize)
    }

    fn is_vip(&self, address: &Address) -> bool {
        let first = Endpoint::new(*address, Port::new(0), Protocol(0));
        self.services.range(first..).next().is_some_and(|(vip, _)| vip.address == *address)
    }

    fn sole_port(&self, address: &Address, protocol: Protocol) -> Option<Port> {
        let its = self.services.keys().copied().filter(|vip| vip.address == *address);
        SolePorts::of(its).of_protocol(protocol)
    }

    fn is_own(&self, address: &Address) -> bool {
        self.own_addresses.contains(address)
    }

    fn reply(&self, backend: &Endpoint) -> Option<&Reply> {
        self.replies.get(backend)
    }

    fn device_below(&self, ifindex: u32) -> Option<VlanDevice> {
        self.devices.get(&ifindex).copied()
    }

    fn check(&self, key: &FlowKey) -> Option<&Check> {
        self.checks.get(key)
    }

    fn flow_table(&self) -> &HostMemory {
        &self.flows
    }

    fn may_answer(&self, answer: Answer, destination: FlowHash) -> bool {
        let mut answers = self.answers.borrow_mut();
        let buckets = answers.entry(answer as u32).or_default();
        buckets.take(answer, destination, u64::from(self.now) * 1_000_000_000)
    }

    fn quic_server(&self, key: &ServerKey) -> BackendIndex {
        self.quic_servers.get(key).copied().unwrap_or_default()
    }

    fn source_verdict(&self, key: &SourceKey) -> u32 {
        let verdict = (0..=128).rev().find_map(|bits| {
            let range = SourceKey { address: key.address.first_bits(bits), ..*key };
            self.sources.get(&(range, bits)).map(|verdict| *verdict as u32)
        });
        verdict.unwrap_or(0)
    }

    fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    fn bucket_full_at(&self, source: &SourceKey) -> Option<u64> {
        self.source_rates.borrow().get(source).copied()
    }

    fn set_bucket_full_at(&self, source: &SourceKey, at: u64) {
        self.source_rates.borrow_mut().insert(*source, at);
    }

    fn fragment(&self, key: &FragmentKey, into: &mut Fragment) -> Option<()> {
        *into = *self.fragments.borrow().get(key)?;
        Some(())
    }

    fn put_fragment(&self, key: &FragmentKey, fragment: &Fragment) -> Option<()> {
        self.fragments.borrow_mut().insert(*key, *fragment);
        Some(())
    }

    fn service_flows(&self, service: ServiceIndex) -> Option<i64> {
        Some(self.service_flows.borrow().get(&service).copied().unwrap_or_default())
    }

    fn backend_flows(&self, backend: BackendIndex) -> Option<i64> {
        Some(self.backend_flows.borrow().get(&backend).copied().unwrap_or_default())
    }

    fn add_flow(&self, service: ServiceIndex, backend: BackendIndex, by: i64) {
        *self.service_flows.borrow_mut().entry(service).or_default() += by;
        *self.backend_flows.borrow_mut().entry(backend).or_default() += by;
    }

    fn router_addresses(&self, interface: &RouterInterface) -> Option<&RouterAddresses> {
        self.router_addresses.get(interface)
    }

    fn route(&self, query: &RouteQuery) -> Route {
        self.routes.get(&query.destination.address).copied().unwrap_or(Route::Unroutable)
    }

    fn way(&self, backend: &Backend, _: u32) -> Route {
        self.routes.get(&backend.address).copied().unwrap_or(Route::Unroutable)
    }

    fn set_alone(&self) {
        self.is_alone.set(true);
    }

    fn traffic(&self, backend: BackendIndex) -> Option<RefMut<'_, Traffic>> {
        Some(RefMut::map(self.backend_traffic.borrow_mut(), |all| all.entry(backend).or_default()))
    }

    fn count(&self, reason: Reason) {
        self.reasons.borrow_mut()[reason as usize] += 1;
    }
}
