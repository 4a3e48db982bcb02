//! Tables with flow records in two LRU hash tables, a record for each direction (layouts up to 3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use xdp_lb_common::flow_table::life::{ANSWERED, Life};
use xdp_lb_common::flow_table::record::{Record, WayBack};
use xdp_lb_common::hash::KEYS;
use xdp_lb_common::net::{Address, Endpoint, MacAddress, Port};
use xdp_lb_common::tables::flow::{BACKEND_FIN, BACKEND_RESET, CONFIRMED, ESTABLISHED, PAIRED, patience};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, BackendState, Code, FlowKey, Mode, SHARED, Service, Settings, Tags, Traffic,
    VlanDevice,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::tables::{Counts, Former};
use crate::datapath::directory::Directory;
use crate::datapath::load::Options;
use crate::datapath::maps::entries;
use crate::datapath::memory::{Records, Words};
use crate::datapath::plain::Plain;
use crate::model::Limits;
use crate::tables::Tables;

/// The number of commit 792b7f2's layout.
pub const LAYOUT_VERSION: u32 = 33_913;

/// The number of its reasons. Number 14 had another meaning.
const REASONS: u32 = 31;
const ANOTHER_REASON: u32 = 14;

/// The value of `SETTINGS`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OldSettings {
    hash_keys: [u64; KEYS],
    snat_port_first: u16,
    snat_port_count: u16,
    padding: u32,
    patience: [u32; 8],
}

/// The value of `FLOWS` and `HALF_OPEN`: one direction of a flow.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OldFlow {
    source: Address,
    destination: Address,
    source_port: Port,
    destination_port: Port,
    backend: BackendIndex,
    /// Seconds, progress and direction: bits 0 to 31, 32 to 39, 40.
    life: u64,
    tags: Tags,
    ifindex: u32,
    destination_mac: MacAddress,
    source_mac: MacAddress,
}

/// The value of `BACKEND_COUNTERS` and `FORMER_TRAFFIC`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct OldTraffic {
    packets_in: u64,
    bytes_in: u64,
    packets_out: u64,
    bytes_out: u64,
    new_flows: u64,
    accepted: u64,
    resets: u64,
}

/// The tables.
pub struct Lru {
    directory: PathBuf,
    limits: Limits,
    settings: Array<MapData, Plain<OldSettings>>,
    backends: Array<MapData, Plain<Backend>>,
    slots: Words,
    snat_addresses: Array<MapData, Plain<Address>>,
    flows: Vec<HashMap<MapData, Plain<FlowKey>, Plain<OldFlow>>>,
}

impl Lru {
    /// Opens those pinned in this directory.
    ///
    /// # Errors
    /// If some are missing.
    pub fn open(directory: &Path, options: &Options) -> Result<Self> {
        let map = |name: &str| data(directory, name);
        let count = |name: &str| entries(&Map::Array(map(name)?));
        let flows = |name: &str| -> Result<_> { Ok(HashMap::try_from(Map::LruHashMap(map(name)?))?) };
        let wanted = options.limits;
        Ok(Self {
            directory: directory.to_owned(),
            limits: Limits {
                services: wanted.services.max(count("FORMER_TRAFFIC")?),
                backends: wanted.backends.max(count("BACKENDS")? - 1),
                slots: wanted.slots.max(count("SLOTS")?),
                ..wanted
            },
            settings: Array::try_from(Map::Array(map("SETTINGS")?))?,
            backends: Array::try_from(Map::Array(map("BACKENDS")?))?,
            slots: Words::new(&Map::Array(map("SLOTS")?))?,
            snat_addresses: Array::try_from(Map::Array(map("SNAT_ADDRESSES")?))?,
            flows: vec![flows("FLOWS")?, flows("HALF_OPEN")?],
        })
    }

    /// The services, read anew: the directory changes while another daemon uses it.
    fn services(&self) -> Result<Directory<Service>> {
        let words = Words::new(&Map::Array(data(&self.directory, "SERVICE_PLACES")?))?;
        Directory::new(words, Records::new(&Map::Array(data(&self.directory, "SERVICES")?))?)
    }
}

fn data(directory: &Path, name: &str) -> Result<MapData> {
    MapData::from_pin(directory.join(name)).with_context(|| format!("cannot open the pinned table {name}"))
}

impl Former for Lru {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn settings(&self) -> Result<Settings> {
        let Plain(old) = self.settings.get(&0, 0).context("cannot read the settings")?;
        Ok(Settings {
            hash_keys: old.hash_keys,
            snat_port_first: old.snat_port_first,
            snat_port_count: old.snat_port_count,
            options: 0,
            patience: patience(0, 0),
            handover: 0,
            heartbeat: 0,
            flow_buckets: 0,
            flow_reach: 0,
            alone: 0,
            own_macs: Default::default(),
        })
    }

    /// Without replies, server ids and source ranges, which follow from the configuration: the daemon writes them anew.
    fn tables(&self) -> Result<Tables> {
        let mut tables = Tables::default();
        for entry in self.services()?.iter() {
            let (vip, service) = entry.context("cannot read the services")?;
            let service = Service { mode: mode(service.mode), source_list: 0, ..service };
            if service.ring_len > 0 {
                let words = self.slots.range(service.ring_offset.0, service.ring_len as usize)?;
                let slot = |word: &std::sync::atomic::AtomicU64| {
                    Slot::from_bits(word.load(std::sync::atomic::Ordering::Relaxed))
                };
                tables.rings.insert(service.ring_offset, words.iter().map(slot).collect());
            }
            for place in service.snat_offset..service.snat_offset + u32::from(service.snat_len) {
                let Plain(address) =
                    self.snat_addresses.get(&place, 0).context("cannot read SNAT addresses")?;
                tables.snat_addresses.insert(place, address);
            }
            tables.services.insert(vip, service);
        }
        for index in 0..self.backends.len() {
            let Plain(backend) = self.backends.get(&index, 0).context("cannot read the backends")?;
            if backend.state != BackendState::Vacant {
                tables.backends.insert(BackendIndex(index), renewed(backend));
            }
        }
        Ok(tables)
    }

    fn counts(&self, tables: &Tables) -> Result<Counts> {
        let reasons: PerCpuArray<_, u64> =
            PerCpuArray::try_from(Map::PerCpuArray(data(&self.directory, "REASON_COUNTERS")?))?;
        let backends: PerCpuArray<_, Plain<OldTraffic>> =
            PerCpuArray::try_from(Map::PerCpuArray(data(&self.directory, "BACKEND_COUNTERS")?))?;
        let former: Array<_, Plain<OldTraffic>> =
            Array::try_from(Map::Array(data(&self.directory, "FORMER_TRAFFIC")?))?;
        let mut counts = Counts::default();
        for number in 0..REASONS {
            let packets = reasons.get(&number, 0).context("cannot read a reason's counter")?.iter().sum();
            counts.reasons.push(if number == ANOTHER_REASON { 0 } else { packets });
        }
        for index in tables.backends.keys() {
            let mut sum = Traffic::default();
            let values = backends.get(&index.0, 0).context("cannot read a backend's counters")?;
            values.iter().for_each(|Plain(one)| sum += traffic(one));
            counts.backends.insert(*index, sum);
        }
        for service in tables.services.values() {
            let Plain(one) = former.get(&service.index.0, 0).context("cannot read a service's counters")?;
            counts.former.insert(service.index, traffic(&one));
        }
        Ok(counts)
    }

    fn vlans(&self) -> Result<BTreeMap<u32, (u32, u16)>> {
        let vlans: HashMap<_, u32, Plain<VlanDevice>> =
            HashMap::try_from(Map::HashMap(data(&self.directory, "VLANS")?))?;
        let entries = vlans.iter().map(|entry| {
            let (device, Plain(VlanDevice { parent, vlan })) = entry?;
            Ok((device, (parent, vlan as u16)))
        });
        entries.collect::<Result<_, aya::maps::MapError>>().context("cannot read the VLANs")
    }

    fn records(&self, since: u32, visit: &mut dyn FnMut(&Record)) -> Result<()> {
        for table in &self.flows {
            // A record that is evicted while it is read is missed, as by a packet.
            for (Plain(key), Plain(flow)) in table.iter().filter_map(Result::ok) {
                if flow.is_reply() {
                    continue;
                }
                let reply = self.reply_of(&key, &flow);
                if (flow.life as u32).max(reply.map_or(0, |reply| reply.life as u32)) >= since {
                    visit(&record(&key, &flow, reply.as_ref()));
                }
            }
        }
        Ok(())
    }
}

impl Lru {
    /// The record of the backend's packets, if there is one.
    fn reply_of(&self, key: &FlowKey, flow: &OldFlow) -> Option<OldFlow> {
        let backend = Endpoint::new(flow.destination, flow.destination_port, key.protocol);
        let client = Endpoint::new(flow.source, flow.source_port, key.protocol);
        let reverse = Plain(FlowKey::new(backend, client));
        let found = self.flows.iter().find_map(|table| table.get(&reverse, 0).ok());
        found.map(|Plain(reply)| reply).filter(OldFlow::is_reply)
    }
}

impl OldFlow {
    const fn progress(&self) -> u8 {
        (self.life >> 32) as u8
    }

    const fn is_reply(&self) -> bool {
        self.life >> 40 == 1
    }
}

/// A flow's record, from its two halves.
fn record(key: &FlowKey, flow: &OldFlow, reply: Option<&OldFlow>) -> Record {
    /// A flow that has lived this many seconds is not spoofed: the number of seconds with packets.
    const STEADY: u8 = 3;
    const OF_REPLIES: u8 = BACKEND_FIN | BACKEND_RESET;
    let source = Endpoint::new(flow.source, flow.source_port, key.protocol);
    let backend = Endpoint::new(flow.destination, flow.destination_port, key.protocol);
    let way = reply.map_or_else(WayBack::default, |reply| WayBack {
        ifindex: reply.ifindex,
        tags: reply.tags,
        destination_mac: reply.destination_mac,
        source_mac: reply.source_mac,
    });
    let others = reply.map_or(0, |reply| reply.progress() & OF_REPLIES);
    let mut progress = flow.progress() & !PAIRED & !OF_REPLIES | others;
    progress |= if reply.is_some() { PAIRED } else { 0 };
    let seen = (flow.life as u32).max(reply.map_or(0, |reply| reply.life as u32));
    let mut proof = 0;
    if progress & ESTABLISHED != 0 {
        progress |= CONFIRMED;
        proof = ANSWERED | STEADY;
    }
    let mut record = Record::default();
    record.set(key, &source, flow.backend, &backend, &way);
    let begun = Life::default().taken().begun(seen, progress);
    record.words[0] = begun.with_proof(proof).to_bits();
    record
}

/// The mode with that old number.
fn mode(old: Code<Mode>) -> Code<Mode> {
    let modes = [Mode::FullNat, Mode::Nat, Mode::Dsr, Mode::Ipip, Mode::Gue];
    let is_old = |number: &u8| old == Code::from_number(*number);
    (0..).zip(modes).find(|(number, _)| is_old(number)).map_or(old, |(_, mode)| mode.into())
}

/// A backend, with the state of that old number, and without its next hop.
fn renewed(old: Backend) -> Backend {
    let states = [BackendState::Vacant, BackendState::Up, BackendState::Draining, BackendState::Down];
    let is_old = |number: &u8| old.state == Code::from_number(*number);
    let state =
        (0..).zip(states).find(|(number, _)| is_old(number)).map_or(old.state, |(_, state)| state.into());
    Backend { state, neighbours: if old.neighbours & 1 != 0 { SHARED } else { 0 }, ..old }
}

fn traffic(old: &OldTraffic) -> Traffic {
    Traffic {
        packets_in: old.packets_in,
        bytes_in: old.bytes_in,
        packets_out: old.packets_out,
        bytes_out: old.bytes_out,
        new_flows: old.new_flows,
        accepted: old.accepted,
        resets: old.resets,
        asked: 0,
    }
}
