//! The tables as one packet would find them.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use aya::maps::lpm_trie::Key;
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};
use xdp_lb_common::own_mac::OwnMacs;
use xdp_lb_common::rate::Answer;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::directory::{Keyed, Source};
use xdp_lb_common::tables::filter::Place;
use xdp_lb_common::tables::refusal::RefusalKey;
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, Check, FlowKey, Fragment, FragmentKey, PortRanges, Reply, Route, RouteQuery,
    RouterAddresses, RouterInterface, ServerKey, Service, ServiceIndex, Settings, SlotIndex, SourceKey,
    Tables, Traffic, VlanDevice,
};

use super::flows::CopiedFlows;
use super::kept::Kept;
use super::live::{Directory, LiveTables};
use super::lookup::Lookup;
use crate::datapath::clock::monotonic;
use crate::datapath::memory::Words;
use crate::datapath::plain::Plain;

/// The live tables for one packet, with room for the values that it borrows.
pub struct View<'a> {
    live: &'a LiveTables,
    settings: Settings,
    nanoseconds: u64,
    flows: CopiedFlows<'a>,
    services: Kept<Keyed<Service>>,
    replies: Kept<Keyed<Reply>>,
    port_ranges: Kept<PortRanges>,
    backends: Kept<Backend>,
    snat_addresses: Kept<Address>,
    router_addresses: Kept<RouterAddresses>,
    lookups: RefCell<Vec<Lookup>>,
    /// Why a table could not be read.
    failed: RefCell<Option<anyhow::Error>>,
}

impl<'a> View<'a> {
    /// The tables at this moment.
    ///
    /// # Errors
    /// If the settings or the clock cannot be read.
    pub fn new(live: &'a LiveTables) -> Result<Self> {
        let Plain(settings) = live.settings.get(&0, 0).context("cannot read the settings")?;
        Ok(Self {
            live,
            settings,
            nanoseconds: u64::try_from(monotonic()?.as_nanos())?,
            flows: CopiedFlows::new(&live.flows),
            services: Kept::default(),
            replies: Kept::default(),
            port_ranges: Kept::default(),
            backends: Kept::default(),
            snat_addresses: Kept::default(),
            router_addresses: Kept::default(),
            lookups: RefCell::default(),
            failed: RefCell::default(),
        })
    }

    /// The lookups, whether a record was looked up, and the time in seconds.
    ///
    /// # Errors
    /// If a table could not be read.
    pub fn finish(self) -> Result<(Vec<Lookup>, bool, u32)> {
        let (is_touched, now) = (self.flows.is_touched(), self.seconds());
        match self.failed.into_inner() {
            Some(error) => Err(error.context("cannot read a table of the datapath")),
            None => Ok((self.lookups.into_inner(), is_touched, now)),
        }
    }

    /// The settings.
    pub fn present_settings(&self) -> &Settings {
        &self.settings
    }

    /// The flow table.
    pub fn flows(&self) -> &CopiedFlows<'a> {
        &self.flows
    }

    /// Seconds of the monotonic clock.
    pub fn seconds(&self) -> u32 {
        (self.nanoseconds / 1_000_000_000) as u32
    }

    fn note(&self, lookup: Lookup) {
        let mut lookups = self.lookups.borrow_mut();
        if !lookups.contains(&lookup) {
            lookups.push(lookup);
        }
    }

    /// The value that a map contains.
    fn look<T>(&self, found: Result<T, aya::maps::MapError>) -> Option<T> {
        match found {
            Ok(value) => Some(value),
            Err(aya::maps::MapError::KeyNotFound) => None,
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error.into());
                None
            }
        }
    }
}

/// A word. 0 if it does not exist.
fn word(words: &Words, place: u32) -> u64 {
    words.all().get(place as usize).map_or(0, |word| word.load(Ordering::Acquire))
}

/// A directory, and room for the records found in it.
struct Reader<'a, R> {
    directory: &'a Directory<R>,
    room: &'a Kept<Keyed<R>>,
}

impl<R> Clone for Reader<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Reader<'_, R> {}

impl<'a, R: Copy + 'a> Source<'a> for Reader<'a, R> {
    type Record = R;

    fn word(self, place: u32) -> Option<u64> {
        Some(self.directory.words.all().get(place as usize)?.load(Ordering::Acquire))
    }

    fn record(self, place: u32) -> Option<&'a Keyed<R>> {
        Some(self.room.put(self.directory.records.read(place).ok()?))
    }
}

impl OwnMacs for View<'_> {
    fn own_mac(&self, place: u32) -> u64 {
        word(&self.live.own_macs, place)
    }
}

impl<'v> Tables for View<'v> {
    type FlowTable = CopiedFlows<'v>;
    type Traffic<'t>
        = Box<Traffic>
    where
        Self: 't;

    fn now(&self) -> u32 {
        self.seconds()
    }

    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn roles(&self, address: &Address) -> u8 {
        let place = Place::of(address);
        let roles = place.roles(word(&self.live.addresses, place.word()));
        self.note(Lookup::Roles(*address, roles));
        roles
    }

    fn service(&self, vip: &Endpoint) -> Option<&Service> {
        let found = Reader { directory: &self.live.services, room: &self.services }.find(vip);
        self.note(Lookup::Service(*vip, found.copied()));
        found
    }

    fn may_have_ranges(&self, vip: &Address) -> bool {
        let place = Place::of(vip);
        place.roles(word(&self.live.ranged_addresses, place.word())) != 0
    }

    fn port_ranges(&self, vip: &Endpoint) -> Option<&PortRanges> {
        let Plain(ranges) = self.look(self.live.port_ranges.get(&Plain(*vip), 0))?;
        Some(self.port_ranges.put(ranges))
    }

    fn slot(&self, index: SlotIndex) -> Option<Slot> {
        let bits = self.live.slots.all().get(index.0 as usize)?.load(Ordering::Relaxed);
        let slot = Slot::from_bits(bits);
        self.note(Lookup::Slot(index, slot));
        Some(slot)
    }

    fn backend(&self, index: BackendIndex) -> Option<&Backend> {
        let Plain(backend) = self.look(self.live.backends.get(&index.0, 0))?;
        self.note(Lookup::Backend(index, backend));
        Some(self.backends.put(backend))
    }

    fn snat_address(&self, place: u32) -> Option<&Address> {
        let Plain(address) = self.look(self.live.snat_addresses.get(&place, 0))?;
        Some(self.snat_addresses.put(address))
    }

    fn is_vip(&self, address: &Address) -> bool {
        self.look(self.live.vips.get(&Plain(*address), 0)).is_some()
    }

    fn sole_port(&self, address: &Address, protocol: Protocol) -> Option<Port> {
        let Plain(ports) = self.look(self.live.vips.get(&Plain(*address), 0))?;
        ports.of_protocol(protocol)
    }

    fn is_own(&self, address: &Address) -> bool {
        self.look(self.live.own_addresses.get(&Plain(*address), 0)).is_some()
    }

    fn reply(&self, backend: &Endpoint) -> Option<&Reply> {
        let found = Reader { directory: &self.live.replies, room: &self.replies }.find(backend);
        self.note(Lookup::Reply(*backend, found.is_some()));
        found
    }

    fn device_below(&self, ifindex: u32) -> Option<VlanDevice> {
        self.look(self.live.vlans.get(&ifindex, 0)).map(|Plain(device)| device)
    }

    /// Health checks through VIPs are not processed.
    fn check(&self, _: &FlowKey) -> Option<&Check> {
        None
    }

    fn flow_table(&self) -> &CopiedFlows<'v> {
        &self.flows
    }

    fn may_answer(&self, _: Answer, _: FlowHash) -> bool {
        true
    }

    fn quic_server(&self, key: &ServerKey) -> BackendIndex {
        let index = BackendIndex(self.look(self.live.quic_servers.get(&Plain(*key), 0)).unwrap_or_default());
        self.note(Lookup::QuicServer(index));
        index
    }

    fn source_verdict(&self, key: &SourceKey) -> u32 {
        let longest = Key::new(SourceKey::SCOPE_BITS + 128, Plain(*key));
        let verdict = self.look(self.live.sources.get(&longest, 0)).unwrap_or_default();
        self.note(Lookup::SourceRange(verdict));
        verdict
    }

    fn nanoseconds(&self) -> u64 {
        self.nanoseconds
    }

    fn bucket_full_at(&self, source: &SourceKey) -> Option<u64> {
        let full_at = self.look(self.live.source_rates.get(&Plain(*source), 0));
        self.note(Lookup::Bucket(full_at, self.nanoseconds));
        full_at
    }

    fn set_bucket_full_at(&self, _: &SourceKey, _: u64) {}

    fn fragment(&self, key: &FragmentKey, into: &mut Fragment) -> Option<()> {
        self.note(Lookup::Fragment);
        let Plain(found) = self.look(self.live.fragments.get(&Plain(*key), 0))?;
        *into = found;
        Some(())
    }

    fn put_fragment(&self, _: &FragmentKey, _: &Fragment) -> Option<()> {
        Some(())
    }

    fn service_flows(&self, service: ServiceIndex) -> Option<i64> {
        let flows = word(&self.live.service_flows, service.0) as i64;
        self.note(Lookup::Flows(flows));
        Some(flows)
    }

    fn backend_flows(&self, backend: BackendIndex) -> Option<i64> {
        let flows = word(&self.live.backend_flows, backend.0) as i64;
        self.note(Lookup::Flows(flows));
        Some(flows)
    }

    fn add_flow(&self, _: ServiceIndex, _: BackendIndex, _: i64) {}

    fn router_addresses(&self, interface: &RouterInterface) -> Option<&RouterAddresses> {
        let Plain(addresses) = self.look(self.live.router_addresses.get(&Plain(*interface), 0))?;
        Some(self.router_addresses.put(addresses))
    }

    fn route(&self, query: &RouteQuery) -> Route {
        self.note(Lookup::Route(query.destination.address));
        Route::Unroutable
    }

    fn way(&self, backend: &Backend, _: u32) -> Route {
        self.note(Lookup::Route(backend.address));
        Route::Unroutable
    }

    fn set_alone(&self) {}

    fn traffic(&self, backend: BackendIndex) -> Option<Box<Traffic>> {
        self.note(Lookup::Traffic(backend));
        Some(Box::default())
    }

    fn count(&self, reason: Reason) {
        self.note(Lookup::Reason(reason));
    }

    fn count_refusal(&self, _: &RefusalKey) {}

    fn samples_drop(&self, _: Reason, _: &Address) -> bool {
        false
    }

    fn put_drop(&self, _: &FlowKey, _: &RefusalKey, _: u32) {}
}
