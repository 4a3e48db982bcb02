//! The program and its tables, loaded into the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::discriminant;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{MapError, lpm_trie};
use aya::programs::Xdp;
use aya_log::EbpfLogger;
use nix::net::if_::if_nametoindex;
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};
use xdp_lb_common::flow_table;
use xdp_lb_common::flow_table::carry::Carried;
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::net::Address;
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{
    BackendIndex, RESETS_UNKNOWN, RouterAddresses, RouterInterface, ServiceIndex, Settings, SlotIndex,
    SourceKey, Traffic,
};

use super::beside::{Beside, Earlier};
use super::checks::Checks;
use super::classifier::{ClassifierIds, Classifiers};
use super::events::Events;
use super::explain::LiveTables;
use super::flow_keeper::{Counted, FlowKeeper};
use super::links::Links;
use super::load::{Descriptors, OBJECT, Options, all_pinned, open, pinned_in, take_tables, verify};
use super::losses::Losses;
use super::maps::{Counters, FlowRecords, Maps, STALE, Sizes};
use super::pins::{self, Pins};
use super::plain::Plain;
use super::settings::Policy;
use super::unload::unload;
use super::view::TablesView;
use super::{former, link, rows};
use crate::net::netdev::Netdev;
use crate::tables::{SourceRange, Tables, Write};

/// How often tables are read that another daemon writes to.
const READS: usize = 5;

/// The program and its tables, loaded into the kernel.
pub struct Datapath {
    pub(super) object: Ebpf,
    maps: Maps,
    pub(super) pins: Option<Pins>,
    adopted: bool,
    sizes: Sizes,
    pub(super) settings: Settings,
    pub(super) links: Links,
    pub(super) classifiers: Classifiers,
    /// The maps that are pinned, so that they can be pinned again.
    pinned: Vec<(&'static str, OwnedFd)>,
    /// The kernel's id of the program.
    pub(super) id: u32,
    /// The same, of those at TC ingress.
    pub(super) classifier_ids: ClassifierIds,
    /// The VLAN devices that the datapath was told of.
    vlans: Option<BTreeMap<u32, (u32, u16)>>,
    /// The MACs that it was told are this host's, where there was room for all.
    own_macs: Option<BTreeSet<OwnMac>>,
    has_events: bool,
    /// Who tells what drivers can do.
    netdev: Option<Netdev>,
    /// The counts of packets that the kernel drops after the program's verdict.
    losses: Option<Losses>,
    /// Tables of an earlier layout, for as long as these have to catch up with them.
    earlier: Option<Earlier>,
}

impl Datapath {
    /// Loads the program, with the tables that are pinned already or with new ones.
    ///
    /// # Errors
    /// Without the privilege, on a kernel that lacks something, where the pins are another layout's or
    /// in use. New pins are removed again.
    pub fn load(options: &Options) -> Result<Self> {
        Self::load_object(options, OBJECT)
    }

    /// Takes the tables over with a program that is [`Prepared`]: nothing is verified any more.
    ///
    /// # Errors
    /// Where another daemon still uses the pins, or the tables are not all there any more.
    pub fn take_over(options: &Options, prepared: Prepared) -> Result<Self> {
        let pin_path = options.pin_path.as_deref().context("only pinned tables can be taken over")?;
        let object = match prepared.what {
            What::Adopts { object, .. } => object,
            What::Beside(beside) => return Self::take_over_beside(options, *beside),
        };
        let pins = Pins::open(pin_path)?;
        let pinned = all_pinned(pins.directory())?;
        let tables = take_tables(&mut open(options, OBJECT, &pinned)?)?;
        Self::assemble(options, object, tables, Some(pins), true)
    }

    /// Takes over from tables of an earlier layout, which forward until the program is attached.
    fn take_over_beside(options: &Options, beside: Beside) -> Result<Self> {
        let Beside { object, maps, sizes, pinned, mut pins, mut earlier } = beside;
        pins.lock_former()?;
        let writes = earlier.writes()?;
        let mut datapath = Self::assemble(options, object, (maps, sizes, pinned), Some(pins), true)?;
        datapath.apply(&writes)?;
        earlier.carry_counts(&mut datapath.maps)?;
        earlier.carry_flows(&datapath.maps)?;
        datapath.earlier = Some(earlier);
        Ok(datapath)
    }

    /// Copies what has changed in the tables of an earlier layout since they were copied: for when the program is attached.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn catch_up(&mut self) -> Result<()> {
        self.earlier.as_mut().map_or(Ok(()), |earlier| earlier.carry_flows(&self.maps))
    }

    /// Makes this daemon's tables the only ones: it stays.
    ///
    /// # Errors
    /// Where the pins of an earlier layout cannot be removed.
    pub fn keep(&mut self) -> Result<()> {
        self.earlier = None;
        self.pins.as_mut().map_or(Ok(()), Pins::keep)
    }

    /// Like [`Datapath::load`], with the program and the tables of this object.
    ///
    /// # Errors
    /// Also where its tables are not those that this library knows.
    pub fn load_object(options: &Options, object: &[u8]) -> Result<Self> {
        if let Some(pin_path) = &options.pin_path
            && let Some(other) = pins::settle(pin_path, former::is_known)?
        {
            return Self::take_over_beside(options, Beside::prepare(options, object, pin_path, &other)?);
        }
        let pins = options.pin_path.as_deref().map(Pins::open).transpose()?;
        let pinned = pins.as_ref().map_or_else(Vec::new, |pins| pinned_in(pins.directory()));
        let present: Vec<_> = pinned.iter().filter(|(_, path)| path.exists()).collect();
        let adopted = present.len() == rows::pinned().count();
        if !adopted && let Some(pins) = &pins {
            // A start that was cut short leaves some tables; without a link, no packet has met them.
            ensure!(
                pins.links()?.is_empty(),
                "only {} of {} tables are pinned, but the program is attached: remove both with `xdp-lb unload`",
                present.len(),
                rows::pinned().count()
            );
            for (_, path) in present {
                pins::remove(path)?;
            }
        }
        let loaded = Self::load_with(options, object, pins, &pinned, adopted);
        if let (Err(_), false, Some(pin_path)) = (&loaded, adopted, &options.pin_path)
            && let Err(error) = unload(pin_path)
        {
            warn!("{error:#}");
        }
        loaded
    }

    fn load_with(
        options: &Options,
        object: &[u8],
        pins: Option<Pins>,
        pinned: &[(&str, PathBuf)],
        adopted: bool,
    ) -> Result<Self> {
        let mut object = open(options, object, pinned)?;
        let tables = take_tables(&mut object)?;
        verify(&mut object, &options.limits)?;
        Self::assemble(options, object, tables, pins, adopted)
    }

    /// Puts together what is loaded, and writes what holds for every service.
    fn assemble(
        options: &Options,
        mut object: Ebpf,
        (mut maps, mut sizes, pinned): (Maps, Sizes, Descriptors),
        pins: Option<Pins>,
        adopted: bool,
    ) -> Result<Self> {
        let flow_buckets = maps.flow_buckets();
        // Several limits lead to the same number of buckets.
        if flow_table::buckets(options.limits.flows) == flow_buckets {
            sizes.limits.flows = options.limits.flows;
        }
        if adopted && sizes.limits != options.limits {
            warn!(
                "limits differ from those of the adopted tables, {:?}, which stay in effect: to resize the tables, \
                 run `xdp-lb unload` and start again",
                sizes.limits
            );
        }
        let present = if adopted { Some(maps.settings.get(&0, 0)?.0) } else { None };
        let settings = Settings { flow_buckets, ..options.policy.settings(present.as_ref()) };
        maps.settings.set(0, Plain(settings), 0).context("cannot write the settings")?;
        let program: &mut Xdp = object.program_mut("xdp_lb").context(STALE)?.try_into()?;
        let id = link::object_id(program.fd()?.as_fd()).context("cannot ask the kernel about the program")?;
        let instructions = program.info().ok().and_then(|info| info.verified_instruction_count());
        let classifier_ids = ClassifierIds::of(&mut object)?;
        let checks: &mut Xdp = object.program_mut("xdp_check").context(STALE)?.try_into()?;
        let of_checks =
            link::object_id(checks.fd()?.as_fd()).context("cannot ask the kernel about the program")?;
        let losses = Losses::start(&mut object, &[id, of_checks]);
        if let Err(error) = &losses {
            warn!("packets that the kernel drops after they were forwarded are not counted: {error:#}");
        }
        info!(
            adopted,
            verified_instructions = instructions,
            "datapath loaded: {} services, {} backends, {} slots, {} flow records fit",
            sizes.limits.services,
            sizes.limits.backends,
            sizes.limits.slots,
            sizes.limits.flows
        );
        if adopted {
            maps.adopt()?;
            let freed = maps.free_abandoned_flows();
            if freed > 0 {
                warn!(
                    "{freed} flow records were being changed by a daemon that was killed: their flows have none now"
                );
            }
        }
        let links = pins.as_ref().map(Links::adopt).transpose()?.unwrap_or_default();
        let has_xdp = |ifindex| links.mode(ifindex).is_some();
        let adopted_classifiers = pins.as_ref().map(|pins| Classifiers::adopt(pins, has_xdp)).transpose()?;
        let classifiers = adopted_classifiers.unwrap_or_default();
        Ok(Self {
            object,
            maps,
            pins,
            adopted,
            sizes,
            settings,
            links,
            classifiers,
            pinned,
            id,
            classifier_ids,
            vlans: None,
            own_macs: None,
            has_events: true,
            netdev: Netdev::open().ok().flatten(),
            losses: losses.ok(),
            earlier: None,
        })
    }

    /// Whether the tables were there already.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// How large the tables are.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// How much memory the pinned tables take, as the kernel accounts for it, bytes; those that grow, as they are now.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn memory(&self) -> Result<u64> {
        self.pinned
            .iter()
            .map(|(_, map)| link::memory(map.as_fd()))
            .sum::<io::Result<u64>>()
            .context("cannot ask the kernel how much memory the tables take")
    }

    /// The loaded object, for tests and benchmarks that run its programs on packets of their own.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// Changes what holds for every service. A flow hash secret that changes moves flows that have
    /// no record.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<()> {
        let mut settings = policy.settings(Some(&self.settings));
        settings.options |= self.settings.options & RESETS_UNKNOWN;
        self.write_settings(settings)
    }

    /// Whether an interface of this name exists in the calling thread's network namespace.
    pub fn has_interface(name: &str) -> bool {
        if_nametoindex(name).is_ok()
    }

    /// Tells the datapath that the daemon lives: `now` by [`monotonic_seconds`](super::monotonic_seconds). All else stays as it
    /// stands in the table: [`Datapath::restore`] is to find what somebody else changed.
    pub fn write_heartbeat(&mut self, now: u32) -> Result<()> {
        let Plain(present) = self.maps.settings.get(&0, 0).context("cannot read the settings")?;
        let present = Settings { heartbeat: now, alone: 0, ..present };
        self.maps.settings.set(0, Plain(present), 0).context("cannot write the settings")?;
        self.settings = Settings { heartbeat: now, alone: 0, ..self.settings };
        Ok(())
    }

    /// Changes what holds for every service to these settings.
    pub fn write_settings(&mut self, settings: Settings) -> Result<()> {
        self.maps.settings.set(0, Plain(settings), 0).context("cannot write the settings")?;
        self.settings = settings;
        Ok(())
    }

    /// What holds for every service.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Whether the driver of an interface transmits frames that are redirected to it, where the kernel says so (6.3).
    pub fn transmits_redirected(&self, index: u32) -> Option<bool> {
        let features = self.netdev.as_ref()?.features(index).ok()?;
        Some(features.transmits_redirected())
    }

    /// Looks whether all that is to outlive the daemon is pinned, and pins again what is not. Says what was.
    ///
    /// # Errors
    /// Where it cannot be pinned: forwarding ends with the daemon then.
    pub fn restore_pins(&mut self) -> Result<Vec<String>> {
        let Some(pins) = &mut self.pins else { return Ok(Vec::new()) };
        let maps = self.pinned.iter().map(|(name, map)| (*name, map.as_fd()));
        let of_xdp: Vec<_> = self
            .links
            .iter()
            .map(|(ifindex, held)| (held.link.as_fd(), pins.link(ifindex, held.mode)))
            .collect();
        let of_tc: Vec<_> =
            self.classifiers.links().map(|(ifindex, link)| (link, pins.classifier(ifindex))).collect();
        pins.restore(maps, of_xdp.into_iter().chain(of_tc))
    }

    /// Compares what stands in the tables with these entries, and writes again what differs. Says which those are.
    ///
    /// # Errors
    /// Where the tables cannot be read or written.
    pub fn restore(&mut self, expected: &[Write]) -> Result<Vec<String>> {
        let mut differing = Vec::new();
        for write in expected {
            let stands = self.stands(write);
            if !stands.with_context(|| format!("cannot read {}", describe(std::slice::from_ref(write))))? {
                differing.push(write.clone());
            }
        }
        let mut restored: Vec<String> =
            differing.iter().map(|write| describe(std::slice::from_ref(write))).collect();
        restored.extend(self.maps.restore_lookups()?.into_iter().map(str::to_owned));
        self.apply(&differing)?;
        let Plain(settings) = self.maps.settings.get(&0, 0).context("cannot read the settings")?;
        if lasting(settings) != lasting(self.settings) {
            self.write_settings(self.settings)?;
            restored.push("the settings".into());
        }
        if let Some(own_macs) = self.own_macs.as_ref().filter(|own_macs| !self.maps.own_macs.is(own_macs)) {
            self.maps.own_macs.set(own_macs)?;
            restored.push("the MAC addresses of this host".into());
        }
        Ok(restored)
    }

    /// The same of the tables that have to be looked at as a whole, since an entry too many is found by no look for one that
    /// is wanted.
    ///
    /// # Errors
    /// Where the tables cannot be read or written.
    pub fn restore_whole(&mut self, expected: &Tables) -> Result<Vec<String>> {
        let differing = self.differences(expected)?;
        let mut restored: Vec<String> =
            differing.iter().map(|write| describe(std::slice::from_ref(write))).collect();
        self.apply(&differing)?;
        restored.extend(self.maps.restore_vips()?.into_iter().map(str::to_owned));
        if let Some(vlans) = self.vlans.clone()
            && self.vlans()? != vlans
        {
            self.set_vlans(&vlans)?;
            restored.push("the VLAN devices".into());
        }
        Ok(restored)
    }

    /// Whether the tables hold what this write puts there.
    fn stands(&self, write: &Write) -> Result<bool> {
        let maps = &self.maps;
        Ok(match write {
            Write::Backend(index, backend) => maps.backends.get(&index.0, 0)?.0 == *backend,
            Write::SnatAddress(place, address) => maps.snat_addresses.get(place, 0)?.0 == *address,
            Write::Slots(first, slots) => maps.slots.read(*first, slots.len() as u32)? == *slots,
            Write::Reply(endpoint, reply) => maps.replies.find(endpoint) == Some(*reply),
            Write::RemoveReply(endpoint) => maps.replies.find(endpoint).is_none(),
            Write::QuicServer(key, backend) => {
                present(maps.quic_servers.get(&Plain(*key), 0))? == Some(backend.0)
            }
            Write::RemoveQuicServer(key) => present(maps.quic_servers.get(&Plain(*key), 0))?.is_none(),
            Write::Source(range, verdict) => {
                present(maps.sources.get(&source_key(range), 0))? == Some(*verdict as u32)
            }
            // A look for a range may find one that holds it.
            Write::RemoveSource(_) => true,
            Write::Service(vip, service) => maps.services.find(vip) == Some(*service),
            Write::RemoveService(vip) => maps.services.find(vip).is_none(),
        })
    }

    /// The writes that make the tables of server ids and source ranges what is expected.
    fn differences(&self, expected: &Tables) -> Result<Vec<Write>> {
        let mut present = Tables::default();
        self.maps.read_keyed(&mut present)?;
        let mut writes = Vec::new();
        for (key, backend) in &expected.quic_servers {
            if present.quic_servers.remove(key) != Some(*backend) {
                writes.push(Write::QuicServer(*key, *backend));
            }
        }
        for (range, verdict) in &expected.sources {
            if present.sources.remove(range) != Some(*verdict) {
                writes.push(Write::Source(*range, *verdict));
            }
        }
        // What is left is expected by nobody.
        writes.extend(present.quic_servers.into_keys().map(Write::RemoveQuicServer));
        writes.extend(present.sources.into_keys().map(Write::RemoveSource));
        Ok(writes)
    }

    /// What stands in the tables: for adoption.
    pub fn read(&self) -> Result<Tables> {
        self.maps.read(&self.sizes)
    }

    /// Writes to the tables, in the given order.
    ///
    /// # Errors
    /// At the first write that fails; those before it stand.
    pub fn apply(&mut self, writes: &[Write]) -> Result<()> {
        let mut has_waited = false;
        // Many services at once are one change of their table.
        for alike in writes.chunk_by(|one, next| discriminant(one) == discriminant(next)) {
            if matches!(alike, [Write::RemoveSource(_), ..]) && !has_waited {
                wait_for_packets();
                has_waited = true;
            }
            self.write(alike).with_context(|| format!("cannot write {}", describe(alike)))?;
        }
        Ok(())
    }

    /// Writes of one kind.
    fn write(&mut self, writes: &[Write]) -> Result<()> {
        let (mut services, mut no_services) = (Vec::new(), Vec::new());
        let (mut replies, mut no_replies) = (Vec::new(), Vec::new());
        let maps = &mut self.maps;
        for write in writes {
            match write {
                Write::Backend(index, backend) => {
                    maps.backends.set(index.0, Plain(*backend), 0)?;
                }
                Write::SnatAddress(place, address) => maps.snat_addresses.set(*place, Plain(*address), 0)?,
                Write::Slots(first, slots) => maps.slots.write(*first, slots)?,
                Write::Reply(endpoint, reply) => replies.push((*endpoint, *reply)),
                Write::RemoveReply(endpoint) => no_replies.push(*endpoint),
                Write::QuicServer(key, backend) => maps.quic_servers.insert(Plain(*key), backend.0, 0)?,
                Write::RemoveQuicServer(key) => maps.quic_servers.remove(&Plain(*key))?,
                Write::Source(range, verdict) => {
                    maps.sources.insert(&source_key(range), *verdict as u32, 0)?;
                }
                Write::RemoveSource(range) => maps.sources.remove(&source_key(range))?,
                Write::Service(vip, service) => services.push((*vip, *service)),
                Write::RemoveService(vip) => no_services.push(*vip),
            }
        }
        maps.put_services(&services)?;
        maps.remove_services(&no_services)?;
        maps.put_replies(&replies)?;
        maps.remove_replies(&no_replies);
        Ok(())
    }

    /// The VLAN devices that the datapath knows.
    pub fn vlans(&self) -> Result<BTreeMap<u32, (u32, u16)>> {
        self.maps.vlans()
    }

    /// Tells the datapath which devices are VLANs: device index to parent's index and VLAN id.
    pub fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> Result<()> {
        self.maps.set_vlans(vlans)?;
        self.vlans = Some(vlans.clone());
        Ok(())
    }

    /// Tells the datapath which frames are for this host.
    ///
    /// # Errors
    /// Where there are more than the table takes; most of them are in it.
    pub fn set_own_macs(&mut self, own_macs: &BTreeSet<OwnMac>) -> Result<()> {
        let written = self.maps.own_macs.set(own_macs);
        self.own_macs = written.is_ok().then(|| own_macs.clone());
        let mut first = own_macs.iter().copied();
        let own_macs = std::array::from_fn(|_| first.next().unwrap_or_default());
        if own_macs != self.settings.own_macs {
            self.write_settings(Settings { own_macs, ..self.settings })?;
        }
        written
    }

    /// Tells the datapath in whose names it answers as a router.
    pub fn set_router_addresses(
        &mut self,
        addresses: &BTreeMap<RouterInterface, RouterAddresses>,
    ) -> Result<()> {
        let map = &mut self.maps.router_addresses;
        let present =
            map.keys().collect::<Result<Vec<_>, _>>().context("cannot read the router's addresses")?;
        for (interface, of_it) in addresses {
            let written = map.insert(Plain(*interface), Plain(*of_it), 0);
            written.context("cannot write the router's addresses")?;
        }
        for gone in present.iter().filter(|present| !addresses.contains_key(&present.0)) {
            map.remove(gone).context("cannot remove the router's addresses")?;
        }
        Ok(())
    }

    /// Sets whether `full-nat` backends are told that a flow without a record is over: see [`RESETS_UNKNOWN`].
    pub fn set_resets_unknown(&mut self, resets: bool) -> Result<()> {
        let options = self.settings.options & !RESETS_UNKNOWN | if resets { RESETS_UNKNOWN } else { 0 };
        if options != self.settings.options {
            self.write_settings(Settings { options, ..self.settings })?;
        }
        Ok(())
    }

    /// Replaces the addresses of this host, in whose name no packet from a network is taken.
    pub fn set_own_addresses(&mut self, addresses: &BTreeSet<Address>) -> Result<()> {
        self.maps.set_own_addresses(addresses)
    }

    /// How many flows each backend has of the services whose flows are counted.
    pub fn counted_flows(&self, tables: &Tables) -> Result<BTreeMap<BackendIndex, i64>> {
        self.maps.flow_counts.read(tables).map(|counts| counts.of_backends())
    }

    /// How many packets had each reason, by its number.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        Reason::ALL.iter().map(|reason| self.maps.reason(*reason)).collect()
    }

    /// The counters of packets, to be read elsewhere.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn counters(&self) -> Result<Counters> {
        self.maps.counters(self.losses.as_ref())
    }

    /// What a service's former backends counted; 0 for a new service, once that is set.
    pub fn former_traffic(&self, service: ServiceIndex) -> Result<Traffic> {
        self.maps.former_traffic(service.0)
    }

    /// Sets what a service's former backends counted.
    pub fn set_former_traffic(&mut self, service: ServiceIndex, traffic: Traffic) -> Result<()> {
        self.maps.set_former_traffic(service.0, traffic)
    }

    /// A backend's counters.
    pub fn backend_traffic(&self, index: BackendIndex) -> Result<Traffic> {
        self.maps.backend_traffic(index.0)
    }

    /// Sets a backend's counters to 0, for a new backend in an old one's place.
    pub fn zero_backend_traffic(&mut self, index: BackendIndex) -> Result<()> {
        self.maps.zero_backend_traffic(index.0)
    }

    /// Who walks over the flow table beside this, and judges its records by what the view shows.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn flow_keeper(&self, view: Arc<TablesView>) -> Result<FlowKeeper> {
        self.maps.flow_keeper(view)
    }

    /// Sets the counts right that `max_flows` goes by: to what was counted, and what has come to them since that began.
    pub fn correct_flow_counts(&mut self, counted: &Counted) -> Result<()> {
        self.maps.flow_counts.correct(&counted.before, &counted.census)
    }

    /// Shows every flow record to `visit`, and removes those for which it returns true.
    pub fn sweep_flows(&mut self, visit: impl FnMut(&Record) -> bool) {
        self.maps.sweep_flows(&self.settings.hash_keys, visit);
    }

    /// The flow records, to be read elsewhere.
    pub fn flow_records(&self) -> FlowRecords {
        self.maps.flow_records()
    }

    /// The tables, to be read elsewhere: what would become of a packet.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn live_tables(&self) -> Result<LiveTables> {
        LiveTables::open(|name| {
            let (_, map) = self.pinned.iter().find(|(pinned, _)| *pinned == name).context("no such table")?;
            Ok(map.try_clone()?)
        })
    }

    /// Passes what the datapath says of each packet on to this process's log, where it was built to say
    /// anything (`cargo xtask build --log`).
    ///
    /// # Errors
    /// Outside of a tokio runtime.
    pub fn start_log(&mut self) -> Result<()> {
        if self.object.map("AYA_LOGS").is_none() {
            return Ok(());
        }
        let logger = EbpfLogger::init(&mut self.object).context("cannot read the datapath's log")?;
        // SAFETY: the logger owns its descriptor, which stays the same until the logger is dropped.
        let mut logger =
            unsafe { AsyncFd::register(logger) }.context("cannot wait for the datapath's log")?;
        tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
        Ok(())
    }

    /// What the datapath asks of user space; there is one listener.
    pub fn take_events(&mut self) -> Result<Events> {
        ensure!(std::mem::take(&mut self.has_events), "the datapath's events already have a listener");
        Events::new(self.object.take_map("EVENTS").context("the object has no map EVENTS")?)
    }

    /// The way of checks that go to VIPs; there is one who uses it. Nothing of it is pinned: it ends with the daemon.
    pub fn take_checks(&mut self) -> Result<Checks> {
        take_checks(&mut self.object)
    }
}

/// What stands under a key, where anything does.
fn present<T>(found: Result<T, MapError>) -> Result<Option<T>> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The program, verified by the kernel beside the one that another daemon has attached, over that one's tables: nothing of
/// them is written before [`Datapath::take_over`].
pub struct Prepared {
    what: What,
    tables: Tables,
}

enum What {
    /// The tables are of this layout.
    Adopts { object: Ebpf, maps: Box<Maps> },
    /// They are of another one.
    Beside(Box<Beside>),
}

impl Prepared {
    /// Loads the program with the tables that are pinned.
    ///
    /// # Errors
    /// As [`Datapath::load`], and where not all tables are pinned.
    pub fn load(options: &Options) -> Result<Self> {
        let pin_path = options.pin_path.as_deref().context("only pinned tables can be taken over")?;
        if let Some(other) = pins::other(pin_path, former::is_known)? {
            let beside = Beside::prepare(options, OBJECT, pin_path, &other)?;
            let tables = patiently(|| beside.tables())?;
            return Ok(Self { what: What::Beside(Box::new(beside)), tables });
        }
        let pinned = all_pinned(&pins::directory(pin_path))?;
        let mut object = open(options, OBJECT, &pinned)?;
        verify(&mut object, &options.limits)?;
        let (maps, tables) = patiently(|| {
            let (maps, sizes) = Maps::take(&mut open(options, OBJECT, &pinned)?)?;
            let tables = maps.read(&sizes)?;
            Ok((maps, tables))
        })?;
        Ok(Self { what: What::Adopts { object, maps: Box::new(maps) }, tables })
    }

    /// Puts flows' records into the table; returns for how many there was no room. `now`: by
    /// [`monotonic_seconds`](super::monotonic_seconds).
    ///
    /// # Errors
    /// Where the settings cannot be read.
    pub fn put_flows(&self, records: impl Iterator<Item = Record>, now: u32) -> Result<u32> {
        let maps = match &self.what {
            What::Adopts { maps, .. } => maps,
            What::Beside(beside) => &beside.maps,
        };
        let Plain(settings) = maps.settings.get(&0, 0).context("cannot read the settings")?;
        let lost = records.filter(|record| maps.carry(&settings, record, now) != Carried::There);
        Ok(lost.count() as u32)
    }

    /// As [`Datapath::take_checks`].
    pub fn take_checks(&mut self) -> Result<Checks> {
        take_checks(match &mut self.what {
            What::Adopts { object, .. } => object,
            What::Beside(beside) => &mut beside.object,
        })
    }

    /// What stood in the tables when it was loaded.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }
}

/// What the other daemon changes while it is read looks damaged.
fn patiently<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    (1..READS).find_map(|_| read().ok()).map_or_else(read, Ok)
}

fn take_checks(object: &mut Ebpf) -> Result<Checks> {
    let map = object.take_map("CHECKS").context("the path of health checks is already in use")?;
    let program: &mut Xdp = object.program_mut("xdp_check").context("no program")?.try_into()?;
    Checks::new(program.fd()?.as_fd(), map)
}

/// The settings without what changes by itself: the daemon's heartbeat, and what packets have found.
const fn lasting(settings: Settings) -> Settings {
    Settings { heartbeat: 0, alone: 0, flow_reach: 0, ..settings }
}

/// A range's key in the kernel.
fn source_key(range: &SourceRange) -> lpm_trie::Key<Plain<SourceKey>> {
    let key = SourceKey { scope: range.list, address: range.address };
    lpm_trie::Key::new(SourceKey::SCOPE_BITS + u32::from(range.bits), Plain(key))
}

/// Waits until every packet is through that was on its way in the program. The kernel's MEMBARRIER_CMD_GLOBAL
/// (membarrier(2), 4.3) waits for an RCU grace period, and a program runs inside of one. Where it is refused
/// (`nohz_full`), a packet takes far less than the time that is waited then.
fn wait_for_packets() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three numbers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } != 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn describe(writes: &[Write]) -> String {
    let Some(first) = writes.first() else { return "nothing".to_owned() };
    let first = match first {
        Write::Backend(index, backend) => format!("backend {} ({:?})", index.0, backend.address),
        Write::SnatAddress(place, address) => format!("SNAT address {place} ({address:?})"),
        Write::Slots(SlotIndex(first), slots) => format!("{} slots from {first} on", slots.len()),
        Write::Reply(endpoint, _) | Write::RemoveReply(endpoint) => {
            format!("the reply rule of {}", endpoint.socket())
        }
        Write::QuicServer(key, _) | Write::RemoveQuicServer(key) => {
            format!("a server id of service {}", key.service.0)
        }
        Write::Source(range, _) | Write::RemoveSource(range) => {
            format!("the source range {:?}, {} bits, of list {}", range.address, range.bits, range.list)
        }
        Write::Service(vip, _) | Write::RemoveService(vip) => format!("the service at {}", vip.socket()),
    };
    match writes.len() {
        1 => first,
        count => format!("{first} or one of the {} behind it", count - 1),
    }
}
