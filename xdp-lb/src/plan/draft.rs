//! A plan in the making: which indices of the tables each wanted service gets.

use std::collections::{BTreeMap, HashMap, HashSet};

use xdp_lb_common::net::{Address, Endpoint, Port, Protocol};
use xdp_lb_common::tables::{
    Backend, BackendIndex, BackendState, COUNTS_FLOWS, Mode, RECORDS_FLOWS, REJECTS, Reply, SHARED,
    ServerKey, Service, ServiceIndex, SlotIndex,
};

use super::places::{Full, Identity, Places, Plan, RingInput, identities, identity};
use super::room::Room;
use super::wanted::{Sources, WantedBackend, WantedService};
use super::writes::{gone, writes};
use crate::datapath::Sizes;
use crate::ring::{self, Member};
use crate::tables::{SourceRange, Tables};

/// A plan in the making.
pub struct Draft<'a> {
    tables: &'a Tables,
    sizes: &'a Sizes,
    before: &'a Places,
    after: Places,
    slots: Room,
    snat: Room,
    lists: HashSet<u32>,
    /// With the rings whose slots change: new ones, in free room, and those of services that keep theirs.
    desired: Tables,
    new_services: Vec<ServiceIndex>,
    new_backends: Vec<BackendIndex>,
    shortened: Vec<Endpoint>,
    /// Seconds of the datapath's clock; 0: unknown.
    now: u32,
}

impl<'a> Draft<'a> {
    /// The plan that turns the tables into what is wanted, with old and new side by side until the last write.
    pub(crate) fn plan(
        tables: &'a Tables,
        sizes: &'a Sizes,
        places: &'a Places,
        wanted: &[WantedService],
        now: u32,
    ) -> Result<Plan, Full> {
        let services = || tables.services.values();
        let mut draft = Self {
            tables,
            sizes,
            before: places,
            after: Places { rings: BTreeMap::new(), shrinking: BTreeMap::new(), ..places.clone() },
            slots: Room::new(
                sizes.limits.slots,
                services().map(|service| service.ring_offset.0..service.ring_offset.0 + service.ring_len),
            ),
            snat: Room::new(
                sizes.snat_addresses,
                services()
                    .map(|service| service.snat_offset..service.snat_offset + u32::from(service.snat_len)),
            ),
            lists: tables.sources.keys().map(|range| range.list).collect(),
            desired: Tables::default(),
            new_services: Vec::new(),
            new_backends: Vec::new(),
            shortened: Vec::new(),
            now,
        };
        let identities = identities(tables);
        let mut users = Users::new();
        for service in wanted {
            draft.service(service, &identities, &mut users)?;
        }
        draft.replies(&users);
        draft.answers_to_checks(wanted);
        draft.finish()
    }

    fn service(
        &mut self,
        wanted: &WantedService,
        identities: &HashMap<Identity, BackendIndex>,
        users: &mut Users,
    ) -> Result<(), Full> {
        let present = self.tables.services.get(&wanted.vip);
        let index = match present {
            Some(present) => present.index,
            None => {
                let index = self.after.services.take().ok_or(self.full_of_services())?;
                let index = ServiceIndex(index);
                self.new_services.push(index);
                index
            }
        };
        let mut input = Vec::with_capacity(wanted.backends.len());
        for backend in &wanted.backends {
            let place = match identities.get(&identity(index, backend.address)) {
                Some(place) => *place,
                None => {
                    let place = self.after.backends.take().ok_or(self.full_of_backends())?;
                    let place = BackendIndex(place);
                    self.new_backends.push(place);
                    place
                }
            };
            self.desired.backends.insert(place, record(index, wanted, backend));
            let endpoint = Endpoint::from_socket(backend.address, wanted.vip.protocol);
            users.entry(endpoint).or_default().push(User {
                vip: wanted.vip,
                last_port: wanted.last_port,
                mode: wanted.mode,
                only_recorded: wanted.only_recorded,
                place,
            });
            if let (Some(_), Some(id)) = (wanted.quic, backend.server_id) {
                self.desired.quic_servers.insert(ServerKey { service: index, id }, place);
            }
            let WantedBackend { address, weight, portion, .. } = *backend;
            let member = Member { index: place, address, weight, portion };
            input.push((member, backend.state));
        }

        let (ring_offset, ring_len) = self.ring(wanted, present, &input)?;
        let (snat_offset, snat_len) = self.snat_addresses(present, &wanted.snat_addresses)?;
        self.after.rings.insert(wanted.vip, input);
        let mode = wanted.mode.into();
        let counts = if wanted.counts_flows() { COUNTS_FLOWS | RECORDS_FLOWS } else { 0 };
        let rejects = if wanted.rejects { REJECTS } else { 0 };
        let options = if wanted.records_flows { RECORDS_FLOWS } else { 0 } | counts | rejects;
        let (quic_config, server_id_length) = wanted.quic.unwrap_or_default();
        let service = Service {
            index,
            ring_offset,
            ring_len,
            snat_offset,
            snat_len,
            mode,
            new_flow_rate: wanted.new_flow_rate,
            new_flow_burst: wanted.new_flow_burst,
            max_flows: wanted.max_flows,
            source_list: self.source_list(present, &wanted.sources),
            affinity_bits: wanted.affinity_bits,
            quic_config,
            server_id_length,
            options,
            last_port: if wanted.vip.is_range() { wanted.last_port } else { Port::default() },
            ..Service::default()
        };
        self.desired.services.insert(wanted.vip, service);
        Ok(())
    }

    /// The place of the service's ring, and its contents if they change.
    fn ring(
        &mut self,
        wanted: &WantedService,
        present: Option<&Service>,
        input: &RingInput,
    ) -> Result<(SlotIndex, u32), Full> {
        let takes_flows =
            |(member, state): &&(Member, BackendState)| *state == BackendState::Up && member.weight > 0;
        let members: Vec<Member> = input.iter().filter(takes_flows).map(|(member, _)| *member).collect();
        let has_ring =
            present.is_some_and(|present| present.ring_len > 0) || wanted.has_ring && !input.is_empty();
        if members.is_empty() && !has_ring {
            return Ok((SlotIndex(0), 0));
        }
        let present_ring = present.map_or(&[][..], |present| self.tables.ring(present));
        // A ring that should be shorter stays until its flows allow that.
        let merged = (wanted.ring_len < present_ring.len() as u32)
            .then(|| ring::merged(present_ring, wanted.ring_len))
            .flatten();
        let old = merged.as_deref().unwrap_or(present_ring);
        let place = self.ring_place(wanted, present, old.len() as u32, members.len())?;
        if wanted.ring_len < place.1 {
            self.after.shrinking.insert(wanted.vip, wanted.ring_len);
        }
        let is_in_place = present.is_some_and(|present| place == (present.ring_offset, present.ring_len));
        if is_in_place && self.before.rings.get(&wanted.vip) == Some(input) {
            return Ok(place);
        }
        // The backends whose flows may be without a record. UDP has no SYN, so packets to a failing backend go to another one at
        // once, except for recorded flows.
        let keeps_flows = |(_, state): &&(Member, BackendState)| match wanted.vip.protocol {
            Protocol::UDP => matches!(state, BackendState::Up | BackendState::Draining),
            _ => *state != BackendState::Down,
        };
        let living: HashSet<_> = input.iter().filter(keeps_flows).map(|(member, _)| member.index).collect();
        // If no backend takes new flows, established ones keep their slots.
        let owners = match members.is_empty() {
            true => vec![BackendIndex::default(); place.1 as usize],
            false => ring::owners(&members, place.1),
        };
        let mut slots = ring::transition(old, &owners, |backend| !living.contains(&backend));
        if wanted.ring_len < place.1 {
            ring::record_for_merge(&mut slots, wanted.ring_len);
        }
        if !is_in_place || slots != present_ring {
            self.desired.rings.insert(place.0, slots);
        }
        Ok(place)
    }

    /// The ring's place: the present one if its length stays, else one in free room. It has at least `shortest` slots, the number
    /// that it inherits from.
    fn ring_place(
        &mut self,
        wanted: &WantedService,
        present: Option<&Service>,
        shortest: u32,
        members: usize,
    ) -> Result<(SlotIndex, u32), Full> {
        let best = wanted.ring_len.max(shortest);
        let lengths = std::iter::successors(Some(best), |length| ring::shorter(*length))
            .take_while(|length| *length >= shortest && *length as usize >= members);
        for length in lengths {
            let in_place =
                present.filter(|present| present.ring_len == length).map(|present| present.ring_offset);
            // Packets see a ring that is written in place slot by slot, and before the new mode.
            let mode_stays = present.is_none_or(|present| present.mode == wanted.mode);
            let offset = match in_place.filter(|_| mode_stays) {
                None => self.slots.take(length).map(SlotIndex).or(in_place),
                stays => stays,
            };
            if let Some(offset) = offset {
                if length < best {
                    self.shortened.push(wanted.vip);
                }
                return Ok((offset, length));
            }
        }
        Err(Full::Limit { table: "slots", size: self.sizes.limits.slots })
    }

    fn snat_addresses(&mut self, present: Option<&Service>, wanted: &[Address]) -> Result<(u32, u16), Full> {
        let length = wanted.len() as u32;
        let held = |service: &&Service| {
            u32::from(service.snat_len) == length
                && (service.snat_offset..)
                    .zip(wanted)
                    .all(|(place, address)| self.tables.snat_addresses.get(&place) == Some(address))
        };
        let offset = match present.filter(held) {
            _ if wanted.is_empty() => 0,
            Some(service) => service.snat_offset,
            None => self.snat.take(length).ok_or(Full::SnatAddresses(self.sizes.snat_addresses))?,
        };
        self.desired.snat_addresses.extend((offset..).zip(wanted.iter().copied()));
        Ok((offset, length as u16))
    }

    /// The list with the service's source ranges: the present one if it is the same, else a new one, so that each packet is
    /// compared with one complete list.
    fn source_list(&mut self, present: Option<&Service>, wanted: &Sources) -> u32 {
        if wanted.is_empty() {
            return 0;
        }
        let is_same = |list: &u32| {
            self.tables.source_list(*list).eq(wanted.iter().map(|(range, verdict)| (*range, *verdict)))
        };
        let list = present.map(|present| present.source_list).filter(is_same).unwrap_or_else(|| {
            let free = (1..).find(|list| !self.lists.contains(list)).unwrap_or(u32::MAX);
            self.lists.insert(free);
            free
        });
        let range = |(&(address, bits), &verdict)| (SourceRange { list, address, bits }, verdict);
        self.desired.sources.extend(wanted.iter().map(range));
        list
    }

    /// What to do with the backends' packets, and which backends several VIPs share.
    fn replies(&mut self, users: &Users) {
        for (endpoint, own) in users {
            let all: Vec<&User> = own.iter().chain(others(users, endpoint)).collect();
            let nat = || all.iter().filter(|user| user.mode == Mode::Nat);
            let is_shared = nat().count() > 1;
            let full_nat = all.iter().any(|user| user.mode == Mode::FullNat);
            // In other modes, backends reply directly to clients.
            if !full_nat && nat().next().is_none() {
                continue;
            }
            // Flows from before it was shared have no record: their replies are still sent from the first VIP without one.
            let present = self.tables.replies.get(endpoint).filter(|reply| reply.stateless != 0);
            // The entry of all ports does not apply to ports with their own entry.
            let speakers = if endpoint.port == ALL_PORTS { own.len() } else { all.len() };
            let speakers = || all[..speakers].iter().filter(|user| user.mode == Mode::Nat);
            let before = present.and_then(|reply| {
                speakers().find(|user| (user.vip.address, user.vip.port) == (reply.vip, reply.port))
            });
            let named = before.or_else(|| speakers().next());
            let kept = || all.iter().filter(|user| user.vip.is_range());
            let (first, last) = match named {
                Some(user) => (user.vip.port, user.last_port),
                // Every reply needs a record, so all ports that may have one.
                None => (
                    kept().map(|user| user.vip.port).min_by_key(|port| port.get()).unwrap_or_default(),
                    kept().map(|user| user.last_port).max_by_key(|port| port.get()).unwrap_or_default(),
                ),
            };
            let is_recorded = named.is_some() && nat().all(|user| user.only_recorded);
            let keeps_port = named.unwrap_or(&all[0]).vip.is_range();
            let reply = Reply {
                vip: named.map_or(Address::default(), |user| user.vip.address),
                port: first,
                last_port: if keeps_port { last } else { Port::default() },
                keeps_port: u8::from(keeps_port),
                by_record: u8::from(is_shared || full_nat),
                stateless: u8::from(named.is_some()),
                backend: named.map_or(BackendIndex::default(), |user| user.place),
                recorded_since: if is_recorded { recorded_since(present, self.now) } else { 0 },
                ..Reply::default()
            };
            self.desired.replies.insert(*endpoint, reply);
            for user in own.iter().filter(|user| is_shared && user.mode == Mode::Nat) {
                if let Some(backend) = self.desired.backends.get_mut(&user.place) {
                    backend.neighbours |= SHARED;
                }
            }
        }
    }

    /// What to do with packets from the VIPs at which backends are checked.
    fn answers_to_checks(&mut self, wanted: &[WantedService]) {
        let checked = wanted.iter().filter(|service| !service.backends.is_empty());
        for endpoint in checked.filter_map(|service| service.checked_at) {
            let answers = Reply { answers_checks: 1, ..Reply::default() };
            self.desired.replies.entry(endpoint).or_insert(answers);
        }
    }

    fn finish(self) -> Result<Plan, Full> {
        // Until the last write, the tables contain old and new.
        if union(&self.tables.services, &self.desired.services) > self.sizes.limits.services as usize {
            return Err(self.full_of_services());
        }
        if union(&self.tables.replies, &self.desired.replies) > self.sizes.limits.backends as usize {
            return Err(self.full_of_backends());
        }
        let ranges = self.sizes.limits.source_ranges;
        if union(&self.tables.sources, &self.desired.sources) > ranges as usize {
            return Err(Full::Limit { table: "source_ranges", size: ranges });
        }
        let Self { tables, desired, after: mut places, new_services, new_backends, shortened, .. } = self;
        for (_, service) in gone(&tables.services, &desired.services) {
            places.services.put_back(service.index.0);
        }
        for (index, _) in gone(&tables.backends, &desired.backends) {
            places.backends.put_back(index.0);
        }
        Ok(Plan { writes: writes(tables, &desired), new_services, new_backends, shortened, places })
    }

    fn full_of_backends(&self) -> Full {
        Full::Limit { table: "backends", size: self.sizes.limits.backends }
    }

    fn full_of_services(&self) -> Full {
        Full::Limit { table: "services", size: self.sizes.limits.services }
    }
}

/// All ports of a backend that keeps its clients' ports.
const ALL_PORTS: Port = Port::new(0);

/// The services that use each backend's endpoint.
type Users = BTreeMap<Endpoint, Vec<User>>;

/// The endpoints that overlap with one: that of all ports overlaps with each port.
fn others<'a>(users: &'a Users, endpoint: &Endpoint) -> Vec<&'a User> {
    let all = endpoint.with_port(ALL_PORTS);
    if endpoint.port != ALL_PORTS {
        return users.get(&all).into_iter().flatten().collect();
    }
    let of_address = users.range(all..).take_while(|(other, _)| other.address == all.address);
    let meets = |other: &Endpoint| other.protocol == all.protocol && other.port != ALL_PORTS;
    of_address.filter(|(other, _)| meets(other)).flat_map(|(_, users)| users).collect()
}

struct User {
    vip: Endpoint,
    last_port: Port,
    mode: Mode,
    only_recorded: bool,
    place: BackendIndex,
}

/// Since when all flows of a backend are recorded, if they are from now on. A new one has no older flows.
fn recorded_since(present: Option<&Reply>, now: u32) -> u32 {
    match present {
        Some(present) if present.recorded_since == 0 => now,
        Some(present) => present.recorded_since,
        None => 1,
    }
}

fn record(index: ServiceIndex, service: &WantedService, wanted: &WantedBackend) -> Backend {
    let path = wanted.path.unwrap_or_default();
    Backend {
        address: wanted.address.ip().into(),
        source: path.source,
        ifindex: path.ifindex,
        service: index,
        port: Port::new(wanted.address.port()),
        vlan: path.vlan,
        destination_mac: path.destination_mac,
        source_mac: path.source_mac,
        state: wanted.state.into(),
        max_flows: wanted.max_flows,
        mtu: path.mtu,
        neighbours: if service.hairpin { path.neighbours } else { 0 },
    }
}

fn union<K: Ord, V>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> usize {
    gone(one, other).count() + other.len()
}
