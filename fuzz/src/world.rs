//! Tables, made of the fuzzer's bytes.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::AtomicU64;

use arbitrary::{Result, Unstructured};
use xdp_lb_common::flow_table::claim::begin;
use xdp_lb_common::flow_table::host::HostMemory;
use xdp_lb_common::flow_table::outcome::Manner;
use xdp_lb_common::flow_table::record::{Record, Room, WayBack};
use xdp_lb_common::flow_table::walk;
use xdp_lb_common::host::HostTables;
use xdp_lb_common::net::{Address, Endpoint, MacAddress, Port, Protocol};
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::process::handover::{CLEAR, SET};
use xdp_lb_common::tables::flow::{CONFIRMED, patience};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    ASYMMETRIC_REPLIES, Backend, BackendIndex, BackendState, COUNTS_FLOWS, Check, Code, FlowKey, Mode,
    RECORDS_FLOWS, REJECTS, Reply, Route, SHARED, ServerId, ServerKey, Service, ServiceIndex, Settings,
    SlotIndex, SourceKey, SourceVerdict, Tags,
};

/// Few of each, so that what is made of them meets: VIPs, backends, clients, the load balancer's own.
pub const VIPS: [[&str; 2]; 2] = [["192.0.2.10", "192.0.2.11"], ["2001:db8:1::10", "2001:db8:1::11"]];
pub const BACKENDS: [[&str; 3]; 2] = [
    ["198.51.100.11", "198.51.100.12", "198.51.100.13"],
    ["2001:db8:2::11", "2001:db8:2::12", "2001:db8:2::13"],
];
pub const CLIENTS: [[&str; 3]; 2] = [
    ["203.0.113.1", "203.0.113.2", "203.0.113.3"],
    ["2001:db8:3::1", "2001:db8:3::2", "2001:db8:3:4:5:6:7:8"],
];
pub const OWN: [[&str; 2]; 2] = [["198.51.100.1", "198.51.100.2"], ["2001:db8:2::1", "2001:db8:2::2"]];
pub const PORTS: [u16; 5] = [53, 80, 443, 8080, 40_000];

/// The one list of source ranges.
const SOURCE_LIST: u32 = 1;

/// The first of the ports that `full-nat` gives out.
const SNAT_PORT_FIRST: u16 = 40_000;

/// More than are filled by the few packets of an input.
const BUCKETS: u32 = 16;

/// What the tables hold.
pub struct World {
    pub tables: HostTables,
    /// Whether the tables are such as the control plane writes them: one family a service, indices that are there.
    /// Others must do no harm, but what becomes of a packet is nobody's promise.
    pub is_coherent: bool,
    pub services: Vec<(Endpoint, Service)>,
    is_v6: bool,
}

/// One of some addresses of a family.
pub fn address<const N: usize>(
    u: &mut Unstructured<'_>,
    pool: &[[&str; N]; 2],
    is_v6: bool,
) -> Result<Address> {
    Ok(parse(u.choose(&pool[usize::from(is_v6)])?))
}

fn parse(text: &str) -> Address {
    text.parse::<IpAddr>().expect("it is written as an address").into()
}

pub fn port(u: &mut Unstructured<'_>) -> Result<Port> {
    Ok(Port::new(if u.ratio(1, 8)? { u.arbitrary()? } else { *u.choose(&PORTS)? }))
}

pub fn protocol(u: &mut Unstructured<'_>) -> Result<Protocol> {
    Ok(if u.arbitrary()? { Protocol::TCP } else { Protocol::UDP })
}

pub fn mac(number: u8) -> MacAddress {
    MacAddress::new([2, 0, 0, 0, 0, number])
}

/// What a backend calls itself in QUIC's connection ids, as long as they can be.
pub fn server_id_bytes(place: u8) -> [u8; 16] {
    let mut bytes = [place; 16];
    bytes[15] = 0;
    bytes
}

fn server_id(place: u8) -> ServerId {
    ServerId::new(server_id_bytes(place))
}

/// Some or no VLAN tags, such as a parsed frame may have.
pub fn tags(u: &mut Unstructured<'_>) -> Result<Tags> {
    let tag = |u: &mut Unstructured<'_>| -> Result<u32> {
        let ethertype = if u.arbitrary()? { 0x8100 } else { 0x88a8 };
        Ok(ethertype << 16 | u32::from(u.arbitrary::<u16>()?))
    };
    Ok(match u.int_in_range(0..=3)? {
        0 | 1 => Tags::default(),
        2 => Tags { outer: tag(u)?, inner: 0 },
        _ => Tags { outer: tag(u)?, inner: tag(u)? },
    })
}

impl World {
    /// Tables with a few services, backends and routes, and no flows.
    pub fn new(u: &mut Unstructured<'_>) -> Result<Self> {
        let settings = Settings {
            hash_keys: [0x9e37_79b9_7f4a_7c15; _],
            snat_port_first: SNAT_PORT_FIRST,
            snat_port_count: *u.choose(&[20_000, 2, 1, 7919, 25_536])?,
            options: 0,
            patience: patience(900, 60),
            handover: 0,
            heartbeat: 0,
            flow_buckets: 0,
            flow_reach: 0,
            alone: 0,
            own_macs: Default::default(),
        };
        let options = if settings.snat_port_count.is_multiple_of(2) { ASYMMETRIC_REPLIES } else { 0 };
        let settings = Settings { options, ..settings };
        let mut world = Self {
            tables: HostTables::with_buckets(settings, BUCKETS),
            is_coherent: !u.ratio(1, 8)?,
            services: Vec::new(),
            is_v6: false,
        };
        world.tables.now = 1_000_000;
        // What every frame is addressed to, by whichever interface.
        (1..=7).for_each(|ifindex| world.tables.own(OwnMac::new(ifindex, mac(2))));
        // The place that is nobody's.
        world.tables.backends.push(Backend::default());
        if u.ratio(1, 8)? {
            // One that is soon full, or none at all.
            let buckets = u.int_in_range(0..=6)?.min(1);
            world.tables.flows = HostMemory::new(buckets, AtomicU64::default);
        }
        for is_v6 in [false, true] {
            for own in OWN[usize::from(is_v6)] {
                world.tables.snat_addresses.push(parse(own));
                world.tables.own_addresses.insert(parse(own));
            }
            for client in CLIENTS[usize::from(is_v6)] {
                let route = match u.int_in_range(0..=7)? {
                    0 => Route::Local,
                    1 => Route::NeighbourMissing { ifindex: u.int_in_range(1..=7)? },
                    2 => Route::TooBig { mtu: u.arbitrary()? },
                    3 => Route::Unroutable,
                    number => Route::Via {
                        ifindex: number,
                        tags: tags(u)?,
                        source_mac: mac(number as u8),
                        destination_mac: mac(100),
                    },
                };
                world.tables.routes.insert(parse(client), route);
            }
        }
        for index in 0..u.int_in_range(1..=3)? {
            world.add_service(u, ServiceIndex(index))?;
        }
        for _ in 0..u.int_in_range(0..=3)? {
            let is_v6 = u.arbitrary()?;
            let client = address(u, &CLIENTS, is_v6)?;
            let bits = if is_v6 { u.int_in_range(0..=128)? } else { u.int_in_range(96..=128)? };
            let verdict = if u.arbitrary()? { SourceVerdict::Allow } else { SourceVerdict::Deny };
            let range = SourceKey { scope: SOURCE_LIST, address: client.first_bits(bits) };
            world.tables.sources.insert((range, bits), verdict);
        }
        world.write_rules();
        world.add_checks(u)?;
        // Of packets to backends without a daemon, the routes above say nothing: the host's neighbour table gets them.
        if u.arbitrary()? {
            world.tables.settings.handover = 0x1234_5678_9abc_def0 & !CLEAR | SET;
        }
        world.tables.settings.heartbeat = u.int_in_range(0..=1)?;
        Ok(world)
    }

    fn add_service(&mut self, u: &mut Unstructured<'_>, index: ServiceIndex) -> Result<()> {
        self.is_v6 = u.arbitrary()?;
        let mut vip = Endpoint::new(self.any_address(u, &VIPS, self.is_v6)?, port(u)?, protocol(u)?);
        let mut last_port = Port::default();
        if u.ratio(1, 3)? {
            let [first, last] = *u.choose(&[[0, u16::MAX], [40, 100], [443, 8080], [40_000, 40_001]])?;
            vip = Endpoint::new(vip.address, Port::new(first), vip.protocol).range();
            last_port = Port::new(last);
        }
        let modes = [Mode::FullNat, Mode::FullNat, Mode::Nat, Mode::Nat, Mode::Dsr, Mode::Ipip, Mode::Gue];
        let mode = *u.choose(&modes)?;
        let first = self.tables.backends.len() as u32;
        for _ in 0..u.int_in_range(1..=3)? {
            self.add_backend(u, index, vip, mode)?;
        }
        let last = self.tables.backends.len() as u32 - 1;
        let (ring_offset, ring_len) = self.add_ring(u, first..=last)?;
        // Its addresses are of the VIP's family.
        let snat_len = if matches!(mode, Mode::Ipip | Mode::Gue) { 0 } else { u.int_in_range(0..=2)? };
        let mut service = Service {
            index,
            ring_offset: SlotIndex(ring_offset),
            ring_len,
            snat_offset: if self.is_v6 { 2 } else { 0 },
            snat_len,
            mode: mode.into(),
            affinity_bits: if u.ratio(1, 4)? { u.int_in_range(1..=128)? } else { 0 },
            options: if u.ratio(1, 4)? { RECORDS_FLOWS } else { 0 },
            new_flow_rate: if u.ratio(1, 8)? { u.int_in_range(1..=3)? } else { 0 },
            new_flow_burst: u.int_in_range(0..=2)?,
            source_list: if u.ratio(1, 4)? { SOURCE_LIST } else { 0 },
            server_id_length: if vip.protocol == Protocol::UDP && u.ratio(1, 3)? {
                u.int_in_range(1..=15)?
            } else {
                0
            },
            quic_config: u.int_in_range(0..=6)?,
            max_flows: if u.ratio(1, 4)? { u.int_in_range(1..=3)? } else { 0 },
            last_port,
            ..Service::default()
        };
        // Every second one, by what is known already: the corpus says nothing of it.
        service.options |= if index.0 % 2 == 1 { REJECTS } else { 0 };
        let its = &self.tables.backends[first as usize..];
        if service.max_flows != 0 || its.iter().any(|backend| backend.max_flows != 0) {
            service.options |= COUNTS_FLOWS | RECORDS_FLOWS;
        }
        if !self.is_coherent {
            service.mode = Code::from_number(u.arbitrary()?);
            service.options = u.arbitrary()?;
            service.ring_len = u.arbitrary()?;
            service.snat_len = u.arbitrary()?;
            service.affinity_bits = u.arbitrary()?;
            service.server_id_length = u.arbitrary()?;
            service.new_flow_rate = u.arbitrary()?;
            service.new_flow_burst = u.arbitrary()?;
            service.source_list = u.arbitrary()?;
            service.last_port = Port::new(u.arbitrary()?);
        }
        for place in first..=last {
            let id = server_id(place as u8).first_bytes(service.server_id_length);
            self.tables.quic_servers.insert(ServerKey { service: index, id }, BackendIndex(place));
        }
        self.tables.services.insert(vip, service);
        self.services.retain(|(other, _)| *other != vip);
        self.services.push((vip, service));
        Ok(())
    }

    fn add_ring(&mut self, u: &mut Unstructured<'_>, backends: RangeInclusive<u32>) -> Result<(u32, u32)> {
        let ring_offset = self.tables.slots.len() as u32;
        let ring_len = u.int_in_range(0..=6)?;
        for _ in 0..ring_len {
            let any = |u: &mut Unstructured<'_>| self.any_index(u, backends.clone()).map(BackendIndex);
            let (owner, prior) = (any(u)?, any(u)?);
            let moves = u.arbitrary()?;
            self.tables.slots.push(if moves { Slot::moving(owner, prior) } else { Slot::settled(owner) });
        }
        Ok((ring_offset, ring_len))
    }

    fn add_backend(
        &mut self,
        u: &mut Unstructured<'_>,
        service: ServiceIndex,
        vip: Endpoint,
        mode: Mode,
    ) -> Result<()> {
        let index = self.tables.backends.len() as u32;
        // A tunnel may be of the other family.
        let is_v6 = if matches!(mode, Mode::Ipip | Mode::Gue) { u.arbitrary()? } else { self.is_v6 };
        let backend = Backend {
            address: self.any_address(u, &BACKENDS, is_v6)?,
            source: self.any_address(u, &OWN, is_v6)?,
            ifindex: u.int_in_range(1..=3)?,
            service,
            port: if vip.is_range() && self.is_coherent { Port::default() } else { port(u)? },
            vlan: if u.ratio(1, 4)? { u.int_in_range(1..=4094)? } else { 0 },
            destination_mac: mac(10 + index as u8),
            source_mac: mac(2),
            state: state(if u.ratio(1, 3)? { u.int_in_range(0..=6)? } else { 1 }),
            neighbours: match (mode, u.int_in_range(0..=7)?) {
                (Mode::Nat, 0 | 1) => SHARED,
                (Mode::Nat, 2) => u.int_in_range(1..=127)?,
                (Mode::Nat, 3) => SHARED | u.int_in_range(1..=127)?,
                _ => 0,
            },
            mtu: *u.choose(&[1500, 1500, 0, 1300, 100, 60])?,
            max_flows: if u.ratio(1, 4)? { u.int_in_range(1..=3)? } else { 0 },
        };
        self.tables.backends.push(backend);
        Ok(())
    }

    /// Writes what the services say of ranges of ports and of replies, as the control plane does: replies of `nat` without
    /// a record come from the first VIP that has the backend, and a backend that several have is shared.
    fn write_rules(&mut self) {
        let services = std::mem::take(&mut self.services);
        for (vip, service) in services.iter().filter(|(vip, _)| vip.is_range()) {
            let ranges =
                self.tables.port_ranges.entry(Endpoint::new(vip.address, Port::default(), vip.protocol));
            let ranges = &mut ranges.or_default().ranges;
            ranges[ranges.len() - 1] = [vip.port.get(), service.last_port.get()];
            ranges.sort_unstable_by(|one, other| other.cmp(one));
        }
        let mut users = Vec::new();
        for (vip, service) in &services {
            let its = self.tables.backends.iter().enumerate().skip(1);
            for (place, backend) in its.filter(|(_, backend)| backend.service == service.index) {
                let is_nat = service.mode == Mode::Nat;
                if is_nat || service.mode == Mode::FullNat {
                    users.push((place, backend.endpoint(vip.protocol), is_nat, vip, service));
                }
            }
        }
        let meets = |a: &Endpoint, b: &Endpoint| {
            (a.address, a.protocol) == (b.address, b.protocol)
                && (a.port == b.port || a.port == Port::default() || b.port == Port::default())
        };
        let mut shared = Vec::new();
        for (_, endpoint, ..) in &users {
            let own = users.iter().filter(|user| user.1 == *endpoint);
            let others = users.iter().filter(|user| user.1 != *endpoint && meets(&user.1, endpoint));
            let is_shared = own.clone().chain(others.clone()).filter(|user| user.2).count() > 1;
            if is_shared {
                shared.extend(own.clone().filter(|user| user.2).map(|user| user.0));
            }
            let has_record = own.clone().any(|user| self.tables.backends[user.0].is_shared())
                || own.clone().chain(others.clone()).any(|user| !user.2);
            let other_speakers = others.clone().filter(|_| endpoint.port != Port::default());
            let speaker = own.clone().chain(other_speakers).find(|user| user.2);
            let mut rule = Reply { by_record: u8::from(is_shared || has_record), ..Reply::default() };
            if let Some((place, _, _, vip, service)) = speaker {
                rule.vip = vip.address;
                rule.port = vip.port;
                rule.stateless = 1;
                let mut nat = own.clone().chain(others.clone()).filter(|user| user.2);
                // All recorded for long, where that is so.
                rule.recorded_since = u32::from(nat.all(|user| user.4.options & RECORDS_FLOWS != 0));
                rule.backend = BackendIndex(*place as u32);
                rule.keeps_port = u8::from(vip.is_range());
                rule.last_port = if vip.is_range() { service.last_port } else { Port::default() };
            } else if own.clone().any(|user| user.3.is_range()) {
                rule.keeps_port = 1;
                rule.last_port = Port::new(u16::MAX);
            }
            self.tables.replies.insert(*endpoint, rule);
        }
        shared.into_iter().for_each(|place| self.tables.backends[place].neighbours |= SHARED);
        self.services = services;
    }

    /// Checks that go to VIPs, from ports of the balancer's own: of some services whose backends have the VIP, seldom of
    /// others.
    fn add_checks(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        for (vip, service) in self.services.clone() {
            if (!service.mode.keeps_addresses() && self.is_coherent) || !u.ratio(1, 2)? {
                continue;
            }
            let at = self.any_port(u, &vip, &service)?;
            self.tables.replies.entry(at).or_insert(Reply { answers_checks: 1, ..Reply::default() });
            let own = Endpoint::new(address(u, &OWN, !vip.address.is_v4())?, port(u)?, vip.protocol);
            let backend = BackendIndex(self.any_index(u, 0..=self.tables.backends.len() as u32)?);
            let check = Check { service: vip, backend, ifindex: 9 };
            self.tables.checks.insert(FlowKey::new(own, at), check);
        }
        Ok(())
    }

    /// The service that has this port: the one on it alone, else the one on the range that begins last.
    pub fn service_at(&self, end: &Endpoint) -> Option<&Service> {
        let ranges = self.tables.services.iter().filter(|(vip, service)| {
            let ports = vip.port.get()..=service.last_port.get();
            vip.is_range()
                && (vip.address, vip.protocol) == (end.address, end.protocol)
                && ports.contains(&end.port.get())
        });
        let in_range = || ranges.max_by_key(|(vip, _)| vip.port.get()).map(|(_, service)| service);
        self.tables.services.get(end).or_else(in_range)
    }

    /// What becomes of packets from here: the rule of this port, else that of all of the address's.
    pub fn rule_at(&self, end: &Endpoint) -> Option<&Reply> {
        let replies = &self.tables.replies;
        replies.get(end).or_else(|| replies.get(&Endpoint::new(end.address, Port::default(), end.protocol)))
    }

    /// One of a service's ports; seldom one beside them.
    pub fn any_port(&self, u: &mut Unstructured<'_>, vip: &Endpoint, service: &Service) -> Result<Endpoint> {
        if !vip.is_range() {
            return Ok(*vip);
        }
        let (first, last) = (vip.port.get(), service.last_port.get());
        let port = match u.int_in_range(0..=4)? {
            0 => last,
            1 => last.wrapping_add(1),
            2 => first.wrapping_sub(1),
            _ => first.saturating_add(u.int_in_range(0..=2)?),
        };
        Ok(Endpoint::new(vip.address, Port::new(port), vip.protocol))
    }

    /// Where a backend listens; of all ports, one.
    pub fn any_end(
        &self,
        u: &mut Unstructured<'_>,
        backend: &Backend,
        protocol: Protocol,
    ) -> Result<Endpoint> {
        let port = if backend.port == Port::default() { port(u)? } else { backend.port };
        Ok(Endpoint::new(backend.address, port, protocol))
    }

    /// One of some addresses of this family; of any, where the tables need make no sense.
    fn any_address<const N: usize>(
        &self,
        u: &mut Unstructured<'_>,
        pool: &[[&str; N]; 2],
        is_v6: bool,
    ) -> Result<Address> {
        let is_v6 = if self.is_coherent { is_v6 } else { u.arbitrary()? };
        address(u, pool, is_v6)
    }

    fn any_index(&self, u: &mut Unstructured<'_>, there: RangeInclusive<u32>) -> Result<u32> {
        if self.is_coherent { u.int_in_range(there) } else { u.int_in_range(0..=0x00ff_ffff) }
    }

    /// All records there are, in an order of their own.
    pub fn flows(&self) -> Vec<Record> {
        let mut all: Vec<_> = walk::records(&self.tables.flows).collect();
        all.sort_by_key(Record::key);
        all
    }

    /// Puts a flow's record that no packet has made: any key of the pools, with anything in it.
    pub fn add_flow(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let is_v6 = u.arbitrary()?;
        let protocol = protocol(u)?;
        let client = Endpoint::new(address(u, &CLIENTS, is_v6)?, port(u)?, protocol);
        let own = Endpoint::new(address(u, &OWN, is_v6)?, port(u)?, protocol);
        let vip = match u.choose(&self.services) {
            Ok((vip, its)) if vip.address.is_v4() != is_v6 && vip.protocol == protocol => {
                self.any_port(u, vip, its)?
            }
            _ => Endpoint::new(address(u, &VIPS, is_v6)?, port(u)?, protocol),
        };
        let index = u.int_in_range(0..=self.tables.backends.len() as u32)?;
        let backend = match self.tables.backends.get(index as usize) {
            Some(backend) if backend.address.is_v4() != is_v6 => self.any_end(u, backend, protocol)?,
            _ => Endpoint::new(address(u, &BACKENDS, is_v6)?, port(u)?, protocol),
        };
        let is_paired = u.arbitrary()?;
        let now = self.tables.now - u.int_in_range(0..=1000)?;
        let confirmed = if u.arbitrary()? { CONFIRMED } else { 0 };
        let progress = u.arbitrary::<u8>()? & 0x1f | confirmed;
        let way = WayBack {
            tags: tags(u)?,
            ifindex: u.int_in_range(1..=3)?,
            destination_mac: mac(20),
            source_mac: mac(21),
        };
        let (tables, settings, key) = (&self.tables, &self.tables.settings, FlowKey::new(client, vip));
        let mut room = Room { flow: key, now, ..Room::default() };
        room.aim(&settings.hash_keys);
        room.new.set(&key, &own, BackendIndex(index), &backend, &way);
        let port = if is_paired { Manner::OWN_PORT } else { 0 };
        begin(&tables.flows, settings, &mut room, Manner(port | u32::from(progress)));
        Ok(())
    }

    /// Changes one thing, as the control plane or time would.
    pub fn change(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let backends = self.tables.backends.len();
        match u.int_in_range(0..=3)? {
            0 => self.tables.now += u.int_in_range(0..=1000)?,
            1 => {
                self.tables.backends[u.int_in_range(1..=backends - 1)?].state = state(u.int_in_range(1..=5)?);
            }
            2 => {
                let place = u.choose_index(self.services.len())?;
                let service = self.services[place].1;
                if let Some(of_ring) = service.ring_len.checked_sub(1)
                    && let Some(slot) = self
                        .tables
                        .slots
                        .get_mut((service.ring_offset.0 + u.int_in_range(0..=of_ring)?) as usize)
                {
                    let mine = self.tables.backends.iter().enumerate();
                    let mine: Vec<_> = mine.filter(|(_, backend)| backend.service == service.index).collect();
                    let owner = BackendIndex(u.choose(&mine)?.0 as u32);
                    *slot = Slot::moving(owner, slot.owner());
                }
            }
            _ => {
                let all = u.choose_index(2)? == 0;
                walk::sweep(&self.tables.flows, &self.tables.settings.hash_keys, |record| {
                    all || record.life().progress() & CONFIRMED == 0
                });
            }
        }
        Ok(())
    }
}

/// The backends' state at this place, and one that is not known behind them.
fn state(place: usize) -> Code<BackendState> {
    BackendState::ALL.get(place).map_or(Code::from_number(place as u8), |state| (*state).into())
}
