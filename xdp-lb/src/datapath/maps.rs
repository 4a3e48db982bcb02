//! The maps as typed tables.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use aya::Ebpf;
use aya::maps::{
    Array, HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues,
};
use xdp_lb_common::flow_table::carry::{Carried, carry};
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::flow_table::{self, Memory as _, walk};
use xdp_lb_common::hash::KEYS;
use xdp_lb_common::net::{Address, Endpoint};
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::filter::{BACKEND, VIP};
use xdp_lb_common::tables::slot::Slot;
use xdp_lb_common::tables::{
    Backend, BackendIndex, BackendState, Reply, RouterAddresses, RouterInterface, ServerKey, Service,
    Settings, SlotIndex, SourceKey, SourceVerdict, Traffic, VlanDevice,
};

use super::addresses::Addresses;
use super::directory::Directory;
use super::flow_counts::FlowCounters;
use super::flow_keeper::FlowKeeper;
use super::flow_sync::FlowSync;
use super::grace;
use super::losses::{Loss, Losses};
use super::memory::{FlowMemory, Misfit, Records, Words};
use super::own_macs::OwnMacs;
use super::plain::Plain;
use super::ranges::Ranges;
use super::view::TablesView;
use super::vips::Vips;
use crate::model::Limits;
use crate::tables::{SourceRange, Tables};

/// What is said of an object whose tables are not the ones that are asked for here.
pub(super) const STALE: &str = "the eBPF object was built from another version of xdp-lb than the daemon: build \
                                both with `cargo xtask build`";

const UNREADABLE: &str = "cannot read the addresses of this host";

/// The flow table, to be read while others use it.
pub struct FlowRecords(Arc<FlowMemory>);

impl FlowRecords {
    /// Shows every flow record to `visit`.
    pub fn read(&self, mut visit: impl FnMut(&Record)) {
        walk::records(&*self.0).for_each(|record| visit(&record));
    }
}

/// The counters of packets, by descriptors of their own: they can be read while others use them.
pub struct Counters {
    reasons: PerCpuArray<MapData, u64>,
    backends: PerCpuArray<MapData, Plain<Traffic>>,
    losses: Option<Losses>,
}

impl Counters {
    /// How many packets had each reason, in the order of [`Reason::ALL`].
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        Reason::ALL.iter().map(|reason| reason_of(&self.reasons, *reason)).collect()
    }

    /// The counters of a backend, all CPUs together.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn backend_traffic(&self, index: BackendIndex) -> Result<Traffic> {
        sum(&self.backends, index.0).context("cannot read a backend's counters")
    }

    /// The packets that the kernel dropped after the program's verdict, where they are counted.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn losses(&self) -> Result<Vec<Loss>> {
        self.losses.as_ref().map_or_else(|| Ok(Vec::new()), Losses::read)
    }
}

/// All tables but the event buffer.
pub struct Maps {
    pub settings: Array<MapData, Plain<Settings>>,
    pub own_macs: OwnMacs,
    pub services: Directory<Service>,
    vips: Vips,
    ranges: Ranges,
    pub backends: Array<MapData, Plain<Backend>>,
    pub replies: Directory<Reply>,
    addresses: Addresses,
    pub snat_addresses: Array<MapData, Plain<Address>>,
    own_addresses: HashMap<MapData, Plain<Address>, u32>,
    vlans: HashMap<MapData, u32, Plain<VlanDevice>>,
    pub router_addresses: HashMap<MapData, Plain<RouterInterface>, Plain<RouterAddresses>>,
    pub quic_servers: HashMap<MapData, Plain<ServerKey>, u32>,
    pub sources: LpmTrie<MapData, Plain<SourceKey>, u32>,
    pub slots: Slots,
    flows: Arc<FlowMemory>,
    pub flow_counts: FlowCounters,
    reasons: PerCpuArray<MapData, u64>,
    former_traffic: Array<MapData, Plain<Traffic>>,
    backend_counters: PerCpuArray<MapData, Plain<Traffic>>,
}

/// The sizes that the tables have: those of an adopted set need not be the configured ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Services, backends, slots and flow records.
    pub limits: Limits,
    /// SNAT addresses.
    pub snat_addresses: u32,
}

impl Maps {
    /// Takes the maps out of a loaded object; says how large they are.
    pub fn take(object: &mut Ebpf) -> Result<(Self, Sizes)> {
        Self::take_all(object).map_err(|error| {
            let is_misfit = error.chain().any(|cause| {
                matches!(
                    cause.downcast_ref(),
                    Some(
                        MapError::InvalidKeySize { .. }
                            | MapError::InvalidValueSize { .. }
                            | MapError::InvalidMapType { .. }
                    )
                ) || cause.is::<Misfit>()
            });
            if is_misfit { error.context(STALE) } else { error }
        })
    }

    /// What is only looked at stays in the object: the program, which is not loaded yet, needs every table.
    fn take_all(object: &mut Ebpf) -> Result<(Self, Sizes)> {
        let words = |name| Words::new(look(object, name)?);
        let (tags, ports, locks) = (words("FLOW_TAGS")?, words("FLOW_PORTS")?, words("FLOW_LOCKS")?);
        let flows = FlowMemory::new(tags, look(object, "FLOW_LINES")?, ports, locks)?;
        let limits = Limits {
            services: entries(look(object, "FORMER_TRAFFIC")?)?,
            // Place 0 stays vacant.
            backends: entries(look(object, "BACKENDS")?)? - 1,
            slots: entries(look(object, "SLOTS")?)?,
            flows: flow_table::flows(flows.buckets()),
            fragments: entries(look(object, "FRAGMENTS")?)?,
            source_ranges: entries(look(object, "SOURCES")?)?,
            source_rates: entries(look(object, "SOURCE_RATES")?)?,
        };
        let sizes = Sizes { limits, snat_addresses: entries(look(object, "SNAT_ADDRESSES")?)? };
        let services = Directory::new(words("SERVICE_PLACES")?, Records::new(look(object, "SERVICES")?)?)?;
        let replies = Directory::new(words("REPLY_PLACES")?, Records::new(look(object, "REPLIES")?)?)?;
        let filter = words("ADDRESSES")?;
        let own_macs = OwnMacs::new(words("OWN_MACS")?)?;
        let (ranged, slots) = (words("RANGED_ADDRESSES")?, Slots { words: words("SLOTS")? });
        let flow_counts = FlowCounters::new(words("SERVICE_FLOWS")?, words("BACKEND_FLOWS")?);
        let mut map = |name: &str| object.take_map(name).ok_or_else(|| absent(name));
        let own_addresses: HashMap<MapData, Plain<Address>, u32> = map("OWN_ADDRESSES")?.try_into()?;
        let own: Vec<_> = own_addresses.keys().collect::<Result<_, _>>().context(UNREADABLE)?;
        let present = services.keys().map(|vip| (vip.address, VIP));
        let present = present.chain(replies.keys().map(|backend| (backend.address, BACKEND)));
        let present = present.chain(own.iter().map(|Plain(address)| (*address, BACKEND)));
        let addresses = Addresses::new(filter, present);
        let ranges = Ranges::new(map("PORT_RANGES")?, ranged, &services.iter().collect::<Result<Vec<_>>>()?)?;
        let maps = Self {
            settings: map("SETTINGS")?.try_into()?,
            own_macs,
            services,
            vips: Vips::new(map("VIPS")?)?,
            ranges,
            backends: map("BACKENDS")?.try_into()?,
            replies,
            addresses,
            snat_addresses: map("SNAT_ADDRESSES")?.try_into()?,
            own_addresses,
            vlans: map("VLANS")?.try_into()?,
            router_addresses: map("ROUTER_ADDRESSES")?.try_into()?,
            quic_servers: map("QUIC_SERVERS")?.try_into()?,
            sources: map("SOURCES")?.try_into()?,
            slots,
            flows: Arc::new(flows),
            flow_counts,
            reasons: map("REASON_COUNTERS")?.try_into()?,
            former_traffic: map("FORMER_TRAFFIC")?.try_into()?,
            backend_counters: map("BACKEND_COUNTERS")?.try_into()?,
        };
        Ok((maps, sizes))
    }

    /// What stands in the tables: for adoption.
    pub fn read(&self, sizes: &Sizes) -> Result<Tables> {
        let mut tables = Tables::default();
        for entry in self.services.iter() {
            let (vip, service) = entry.context("cannot read the services")?;
            tables.services.insert(vip, service);
            if service.ring_len > 0 {
                let ring = self.slots.read(service.ring_offset, service.ring_len)?;
                tables.rings.insert(service.ring_offset, ring);
            }
            for place in service.snat_offset..service.snat_offset + u32::from(service.snat_len) {
                let Plain(address) =
                    self.snat_addresses.get(&place, 0).context("cannot read SNAT addresses")?;
                tables.snat_addresses.insert(place, address);
            }
        }
        for entry in self.replies.iter() {
            let (endpoint, reply) = entry.context("cannot read the replies")?;
            tables.replies.insert(endpoint, reply);
        }
        self.read_keyed(&mut tables)?;
        tables.backends = self.read_backends(sizes.limits.backends)?;
        Ok(tables)
    }

    /// Reads the server ids and the source ranges.
    pub fn read_keyed(&self, tables: &mut Tables) -> Result<()> {
        for entry in self.quic_servers.iter() {
            let (Plain(key), index) = entry.context("cannot read the server ids")?;
            tables.quic_servers.insert(key, BackendIndex(index));
        }
        for entry in self.sources.iter() {
            let (key, verdict) = entry.context("cannot read the source ranges")?;
            let (range, verdict) = source_entry(key.prefix_len(), key.data().0, verdict);
            tables.sources.insert(range, verdict);
        }
        Ok(())
    }

    /// Makes the addresses of this host these.
    pub fn set_own_addresses(&mut self, wanted: &BTreeSet<Address>) -> Result<()> {
        let present: BTreeSet<Address> = self
            .own_addresses
            .keys()
            .map(|key| key.map(|Plain(address)| address))
            .collect::<Result<_, _>>()
            .context(UNREADABLE)?;
        for address in present.difference(wanted) {
            self.own_addresses.remove(&Plain(*address)).context("cannot remove an address of this host")?;
            self.addresses.remove(address, BACKEND);
        }
        for address in wanted.difference(&present) {
            self.own_addresses
                .insert(Plain(*address), 0, 0)
                .context("cannot write an address of this host")?;
            self.addresses.add(address, BACKEND);
        }
        Ok(())
    }

    /// Makes the addresses and the VIPs' ranges those of the services, backends and this host, whatever an earlier daemon left.
    pub fn adopt(&mut self) -> Result<()> {
        self.addresses.restore();
        self.vips.adopt(self.services.keys().copied().collect())?;
        self.ranges.restore().map(drop)
    }

    /// Makes the tables by which packets find services and replies what they should be. Says which were not.
    pub fn restore_lookups(&mut self) -> Result<Vec<&'static str>> {
        let mut restored = Vec::new();
        if !self.services.is_whole() {
            self.services.restore()?;
            restored.push("the directory of services");
        }
        if !self.replies.is_whole() {
            self.replies.restore()?;
            restored.push("the directory of replies");
        }
        restored.extend(self.addresses.restore().then_some("the filter of addresses"));
        Ok(restored)
    }

    /// The same for the tables of the VIPs' addresses and ranges of ports.
    pub fn restore_vips(&mut self) -> Result<Vec<&'static str>> {
        let addresses = self.vips.restore()?.then_some("the VIPs' addresses");
        let ranges = self.ranges.restore()?.then_some("the VIPs' ranges of ports");
        Ok(addresses.into_iter().chain(ranges).collect())
    }

    /// Puts services.
    pub fn put_services(&mut self, services: &[(Endpoint, Service)]) -> Result<()> {
        for (vip, service) in services {
            self.vips.add(*vip)?;
            if !self.services.contains(vip) {
                self.flow_counts.zero_service(service.index.0)?;
            }
        }
        put(&mut self.services, &mut self.addresses, VIP, services)?;
        self.ranges.put(services)
    }

    /// Forgets services.
    pub fn remove_services(&mut self, vips: &[Endpoint]) -> Result<()> {
        self.ranges.remove(vips)?;
        remove(&mut self.services, &mut self.addresses, VIP, vips);
        vips.iter().try_for_each(|vip| self.vips.remove(vip))
    }

    /// Puts what to do with backends' packets.
    pub fn put_replies(&mut self, replies: &[(Endpoint, Reply)]) -> Result<()> {
        put(&mut self.replies, &mut self.addresses, BACKEND, replies)
    }

    /// Forgets backends' endpoints.
    pub fn remove_replies(&mut self, backends: &[Endpoint]) {
        remove(&mut self.replies, &mut self.addresses, BACKEND, backends);
    }

    /// The backends' records, without the vacant places; `last` is the last place.
    pub fn read_backends(&self, last: u32) -> Result<BTreeMap<BackendIndex, Backend>> {
        let mut backends = BTreeMap::new();
        for index in 0..=last {
            let Plain(backend) = self.backends.get(&index, 0).context("cannot read the backends")?;
            if backend.state != BackendState::Vacant {
                backends.insert(BackendIndex(index), backend);
            }
        }
        Ok(backends)
    }

    /// Puts a flow's record of other tables into these.
    pub fn carry(&self, settings: &Settings, record: &Record, now: u32) -> Carried {
        carry(&*self.flows, settings, record, now)
    }

    /// The VLAN devices: device index to parent's index and VLAN id.
    pub fn vlans(&self) -> Result<BTreeMap<u32, (u32, u16)>> {
        let entries = self.vlans.iter().map(|entry| {
            let (device, Plain(VlanDevice { parent, vlan })) = entry?;
            Ok((device, (parent, vlan as u16)))
        });
        entries.collect::<Result<_, MapError>>().context("cannot read the VLANs")
    }

    /// Makes them these.
    pub fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> Result<()> {
        let present = self.vlans()?;
        for (device, (parent, vlan)) in vlans {
            let device_of = VlanDevice { parent: *parent, vlan: u32::from(*vlan) };
            self.vlans.insert(device, Plain(device_of), 0).context("cannot write a VLAN")?;
        }
        for device in present.keys().filter(|device| !vlans.contains_key(device)) {
            self.vlans.remove(device).context("cannot remove a VLAN")?;
        }
        Ok(())
    }

    /// How many packets had each reason, by its number, for as many as there are counters here.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        let count = self.reasons.map().info().context("cannot ask the kernel about a map")?.max_entries();
        let packets = |number| -> Result<u64> {
            let values = self.reasons.get(&number, 0).context("cannot read a reason's counter")?;
            Ok(values.iter().sum())
        };
        (0..count).map(packets).collect()
    }

    /// Sets what was counted of reasons, by their numbers, and of backends.
    pub fn set_counts(&mut self, reasons: &[u64], backends: &BTreeMap<BackendIndex, Traffic>) -> Result<()> {
        for (number, packets) in (0..).zip(reasons) {
            self.reasons.set(number, of_one_cpu(*packets)?, 0).context("cannot write a reason's counter")?;
        }
        for (index, traffic) in backends {
            let written = self.backend_counters.set(index.0, of_one_cpu(Plain(*traffic))?, 0);
            written.context("cannot write a backend's counters")?;
        }
        Ok(())
    }

    /// How many buckets the flow table has.
    pub fn flow_buckets(&self) -> u32 {
        self.flows.buckets()
    }

    /// Shows every flow record to `visit`, and removes those for which it returns true.
    pub fn sweep_flows(&mut self, keys: &[u64; KEYS], visit: impl FnMut(&Record) -> bool) {
        walk::sweep(&*self.flows, keys, visit);
    }

    /// Frees what a daemon that was killed has left behind in the flow table; returns how much.
    pub fn free_abandoned_flows(&mut self) -> u32 {
        walk::free_abandoned(&*self.flows, grace::wait)
    }

    /// The flow records, to be read elsewhere.
    pub fn flow_records(&self) -> FlowRecords {
        FlowRecords(Arc::clone(&self.flows))
    }

    /// Who walks over the flow table beside this.
    pub fn flow_keeper(&self, view: Arc<TablesView>) -> Result<FlowKeeper> {
        let settings = self.shared_settings()?;
        Ok(FlowKeeper::new(Arc::clone(&self.flows), self.flow_counts.share(), settings, view))
    }

    /// Who exchanges flows with peers beside this.
    pub fn flow_sync(&self, view: Arc<TablesView>) -> Result<FlowSync> {
        Ok(FlowSync::new(Arc::clone(&self.flows), self.shared_settings()?, view))
    }

    fn shared_settings(&self) -> Result<Array<MapData, Plain<Settings>>> {
        let map = self.settings.map();
        let descriptor = map.fd().as_fd().try_clone_to_owned().context("cannot share the settings")?;
        Ok(Array::try_from(Map::Array(MapData::from_fd(descriptor)?))?)
    }

    /// How many packets had this reason.
    pub fn reason(&self, reason: Reason) -> Result<u64> {
        reason_of(&self.reasons, reason)
    }

    /// The counters of packets, to be read elsewhere.
    pub fn counters(&self, losses: Option<&Losses>) -> Result<Counters> {
        Ok(Counters {
            reasons: shared(self.reasons.map())?,
            backends: shared(self.backend_counters.map())?,
            losses: losses.map(Losses::share).transpose()?,
        })
    }

    /// What a service's former backends counted.
    pub fn former_traffic(&self, service: u32) -> Result<Traffic> {
        let Plain(traffic) =
            self.former_traffic.get(&service, 0).context("cannot read a service's counters")?;
        Ok(traffic)
    }

    /// Sets that.
    pub fn set_former_traffic(&mut self, service: u32, traffic: Traffic) -> Result<()> {
        self.former_traffic.set(service, Plain(traffic), 0).context("cannot write a service's counters")
    }

    /// The counters of a backend, all CPUs together.
    pub fn backend_traffic(&self, index: u32) -> Result<Traffic> {
        sum(&self.backend_counters, index).context("cannot read a backend's counters")
    }

    /// Sets a backend's counters to 0, and its count of flows.
    pub fn zero_backend_traffic(&mut self, index: u32) -> Result<()> {
        self.flow_counts.zero_backend(index)?;
        zero(&mut self.backend_counters, index).context("cannot clear a backend's counters")
    }
}

/// The range and the verdict of an entry in the kernel.
fn source_entry(prefix: u32, key: SourceKey, verdict: u32) -> (SourceRange, SourceVerdict) {
    let bits = prefix.saturating_sub(SourceKey::SCOPE_BITS).min(128) as u8;
    let range = SourceRange { list: key.scope, address: key.address, bits };
    let is_allowed = verdict == SourceVerdict::Allow as u32;
    (range, if is_allowed { SourceVerdict::Allow } else { SourceVerdict::Deny })
}

/// A table, which stays in the object.
fn look<'a>(object: &'a Ebpf, name: &str) -> Result<&'a Map> {
    Ok(object.map(name).ok_or_else(|| absent(name))?)
}

fn absent(name: &str) -> Misfit {
    Misfit(format!("it has no table {name}"))
}

fn put<R: Copy>(
    directory: &mut Directory<R>,
    addresses: &mut Addresses,
    role: u8,
    entries: &[(Endpoint, R)],
) -> Result<()> {
    let new: BTreeSet<_> =
        entries.iter().map(|(key, _)| key).filter(|key| !directory.contains(key)).collect();
    new.iter().for_each(|key| addresses.add(&key.address, role));
    let result = directory.put(entries);
    // Where there was no room for all of them.
    let absent = new.into_iter().filter(|key| !directory.contains(key));
    absent.for_each(|key| addresses.remove(&key.address, role));
    result
}

fn remove<R: Copy>(directory: &mut Directory<R>, addresses: &mut Addresses, role: u8, keys: &[Endpoint]) {
    let present: BTreeSet<_> = keys.iter().filter(|key| directory.contains(key)).collect();
    directory.remove(keys);
    present.into_iter().for_each(|key| addresses.remove(&key.address, role));
}

/// How many entries a map has in the kernel, which for an adopted one need not be what was asked for.
pub fn entries(map: &Map) -> Result<u32> {
    let (Map::Array(data) | Map::PerCpuArray(data) | Map::LruHashMap(data) | Map::LpmTrie(data)) = map else {
        bail!(Misfit("a table is of another kind".to_owned()));
    };
    Ok(data.info().context("cannot ask the kernel about a map")?.max_entries())
}

fn sum(counters: &PerCpuArray<MapData, Plain<Traffic>>, index: u32) -> Result<Traffic> {
    let values = counters.get(&index, 0)?;
    let mut sum = Traffic::default();
    values.iter().for_each(|Plain(one)| sum += *one);
    Ok(sum)
}

/// How many packets had this reason.
fn reason_of(counters: &PerCpuArray<MapData, u64>, reason: Reason) -> Result<u64> {
    let values = counters.get(&(reason as u32), 0).context("cannot read a reason's counter")?;
    Ok(values.iter().sum())
}

/// The same table by a descriptor of its own.
fn shared<T: aya::Pod>(map: &MapData) -> Result<PerCpuArray<MapData, T>> {
    let descriptor = map.fd().as_fd().try_clone_to_owned().context("cannot share a table of counters")?;
    Ok(PerCpuArray::try_from(Map::PerCpuArray(MapData::from_fd(descriptor)?))?)
}

fn zero(counters: &mut PerCpuArray<MapData, Plain<Traffic>>, index: u32) -> Result<()> {
    counters.set(index, of_one_cpu(Plain(Traffic::default()))?, 0)?;
    Ok(())
}

/// What all CPUs have together, as the first one's. The others have nothing.
fn of_one_cpu<T: aya::Pod>(all: T) -> Result<PerCpuValues<T>> {
    let cpus = aya::util::nr_cpus().map_err(|(what, error)| anyhow::anyhow!("{what}: {error}"))?;
    // SAFETY: zeroes are a value of what any bytes are one of.
    let mut values = vec![unsafe { std::mem::zeroed() }; cpus];
    values[0] = all;
    Ok(PerCpuValues::try_from(values)?)
}

/// The flat array of all rings, in this process's memory (`BPF_F_MMAPABLE`, kernel 5.5).
pub struct Slots {
    words: Words,
}

impl Slots {
    /// Writes slots from this place on.
    ///
    /// # Errors
    /// Where they do not all fit; then none is written.
    pub fn write(&mut self, first: SlotIndex, slots: &[Slot]) -> Result<()> {
        for (word, slot) in self.words.range(first.0, slots.len())?.iter().zip(slots) {
            word.store(slot.to_bits(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Reads slots from this place on.
    ///
    /// # Errors
    /// Where there are not as many.
    pub fn read(&self, first: SlotIndex, count: u32) -> Result<Vec<Slot>> {
        let words = self.words.range(first.0, count as usize)?;
        Ok(words.iter().map(|word| Slot::from_bits(word.load(Ordering::Relaxed))).collect())
    }
}
