//! The program and its tables, loaded into the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::discriminant;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use aya::maps::{MapError, lpm_trie};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{SchedClassifier, Xdp, XdpMode as AttachMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_log::EbpfLogger;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::process::handover;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::{
    BackendIndex, Book, FlowKey, FlowRecord, RESETS_UNKNOWN, RouterAddresses, RouterInterface, ServiceIndex,
    Settings, SlotIndex, SourceKey, Traffic, VlanDevice,
};

use super::census::{Census, Count};
use super::checks::Checks;
use super::classifier;
use super::directory;
use super::events::Events;
use super::link;
use super::maps::{FlowRecords, Maps, Plain, STALE, Sizes};
use super::pins::{self, Pins};
use super::settings::Policy;
use crate::config::{Limits, XdpMode};
use crate::control::tables::{SourceRange, Tables, Write};

/// The kernel side, built by `cargo xtask build`.
pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-lb-ebpf.o"));

/// The maps that are pinned: what forwarding needs and what must outlive the daemon.
const PINNED: [&str; 27] = [
    "SETTINGS",
    "OWN_MACS",
    "ADDRESSES",
    "SERVICE_PLACES",
    "SERVICES",
    "VIPS",
    "RANGED_ADDRESSES",
    "PORT_RANGES",
    "SLOTS",
    "BACKENDS",
    "SNAT_ADDRESSES",
    "REPLY_PLACES",
    "REPLIES",
    "VLANS",
    "ROUTER_ADDRESSES",
    "FLOWS",
    "HALF_OPEN",
    "QUIC_SERVERS",
    "SOURCES",
    "SOURCE_RATES",
    "FRAGMENTS",
    "REASON_COUNTERS",
    "SERVICE_FLOWS",
    "BACKEND_FLOWS",
    "FORMER_TRAFFIC",
    "BACKEND_COUNTERS",
    "EVENTS",
];

/// SNAT addresses of all services together: sixteen for each of a thousand services.
const SNAT_ADDRESSES: u32 = 16_384;

/// How often tables are read that another daemon writes to.
const READS: usize = 5;

/// What to load, and how large.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bpffs directory of the pins; nothing: nothing is pinned, and all ends with the process.
    pub pin_path: Option<PathBuf>,
    /// The sizes of the tables.
    pub limits: Limits,
    /// What holds for every service.
    pub policy: Policy,
}

/// How the program was attached to an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The interface's index.
    pub index: u32,
    /// Native or generic.
    pub mode: XdpMode,
    /// Why it is not native, where `auto` had to fall back.
    pub note: Option<String>,
}

/// The program and its tables, loaded into the kernel.
pub struct Datapath {
    object: Ebpf,
    maps: Maps,
    pins: Option<Pins>,
    adopted: bool,
    sizes: Sizes,
    settings: Settings,
    /// Without pins: the links, which end with the process.
    links: BTreeMap<String, FdLink>,
    /// Without pins: the links to TC ingress, which end with the process.
    classifiers: BTreeMap<String, FdLink>,
    /// The interfaces that the program is attached to; and whether neighbours are resolved there by the program at TC ingress.
    resolves: BTreeMap<String, bool>,
    has_events: bool,
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
        let pins = Pins::open(pin_path)?;
        let pinned = adoptable(pin_path)?;
        let (maps, sizes) = Maps::take(&mut open(options, OBJECT, &pinned)?)?;
        Self::assemble(options, prepared.object, maps, sizes, Some(pins), true)
    }

    /// Like [`Datapath::load`], with the program and the tables of this object.
    ///
    /// # Errors
    /// Also where its tables are not those that this library knows.
    pub fn load_object(options: &Options, object: &[u8]) -> Result<Self> {
        let pins = options.pin_path.as_deref().map(Pins::open).transpose()?;
        let pinned = options.pin_path.as_deref().map_or_else(Vec::new, pinned);
        let present: Vec<_> = pinned.iter().filter(|(_, path)| path.exists()).collect();
        let adopted = present.len() == PINNED.len();
        if !adopted && let Some(pins) = &pins {
            // A start that was cut short leaves some tables; without a link, no packet has met them.
            ensure!(
                pins.links()?.is_empty(),
                "{} of {} tables are pinned, and the program is attached: remove both with `xdp-lb unload`",
                present.len(),
                PINNED.len()
            );
            for (_, path) in present {
                pins::remove(path)?;
            }
        }
        let loaded = Self::load_with(options, object, pins, &pinned, adopted);
        if let (Err(_), false, Some(pin_path)) = (&loaded, adopted, &options.pin_path)
            && let Err(error) = pins::unload(pin_path)
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
        let (maps, sizes) = Maps::take(&mut object)?;
        verify(&mut object)?;
        Self::assemble(options, object, maps, sizes, pins, adopted)
    }

    /// Puts together what is loaded, and writes what holds for every service.
    fn assemble(
        options: &Options,
        mut object: Ebpf,
        mut maps: Maps,
        sizes: Sizes,
        pins: Option<Pins>,
        adopted: bool,
    ) -> Result<Self> {
        if adopted && sizes.limits != options.limits {
            warn!(
                "limits differ from the adopted tables' {:?}, which stay as they are: to resize them, unload \
                 (`xdp-lb unload`) and start again",
                sizes.limits
            );
        }
        let present = if adopted { Some(maps.settings.get(&0, 0)?.0) } else { None };
        let settings = options.policy.settings(present.as_ref());
        maps.settings.set(0, Plain(settings), 0).context("cannot write the settings")?;
        let program: &mut Xdp = object.program_mut("xdp_lb").context(STALE)?.try_into()?;
        info!(
            adopted,
            verified_instructions = program.info().ok().and_then(|info| info.verified_instruction_count()),
            "datapath loaded: {} services, {} backends, {} slots, {} flow records fit",
            sizes.limits.services,
            sizes.limits.backends,
            sizes.limits.slots,
            sizes.limits.flows
        );
        if adopted {
            maps.adopt()?;
        }
        Ok(Self {
            object,
            maps,
            pins,
            adopted,
            sizes,
            settings,
            links: BTreeMap::new(),
            classifiers: BTreeMap::new(),
            resolves: BTreeMap::new(),
            has_events: true,
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

    /// The loaded object, for tests and benchmarks that run its programs on packets of their own.
    pub fn object(&mut self) -> &mut Ebpf {
        &mut self.object
    }

    /// Changes what holds for every service. A flow hash secret that changes moves flows that have
    /// no record.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<()> {
        let mut settings = policy.settings(Some(&self.settings));
        settings.options = self.settings.options;
        self.write_settings(settings)
    }

    /// Attaches the program to an interface, or puts it in the place of an earlier one's at once,
    /// without a packet lost.
    ///
    /// # Errors
    /// Where there is no such interface, another program is attached, or the driver lacks the mode.
    pub fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attached> {
        let index = if_nametoindex(interface).map_err(|_| anyhow!("there is no interface {interface}"))?;
        // Before the program that may mark packets for it.
        let done = self.attach_classifier(interface, index);
        let mut attached = match self.attach_xdp(interface, index, mode) {
            Ok(attached) => attached,
            Err(error) => {
                self.detach_classifier(interface)?;
                return Err(error);
            }
        };
        self.resolves.insert(interface.to_owned(), done.is_ok());
        if let Err(error) = done {
            let why = format!("packets to neighbours that are not known are lost: {error:#}");
            attached.note = Some(attached.note.map_or_else(|| why.clone(), |note| format!("{note}; {why}")));
        }
        self.set_handover()?;
        Ok(attached)
    }

    fn attach_classifier(&mut self, interface: &str, index: u32) -> Result<()> {
        let pin = self.pins.as_ref().map(|pins| pins.classifier(interface));
        let program: &mut SchedClassifier =
            self.object.program_mut(classifier::NAME).context("no program")?.try_into()?;
        if let Some(link) = classifier::attach(program, interface, index, pin.as_deref())? {
            self.classifiers.insert(interface.to_owned(), link);
        }
        Ok(())
    }

    fn detach_classifier(&mut self, interface: &str) -> Result<()> {
        self.classifiers.remove(interface);
        if let Some(pins) = &self.pins {
            pins::remove_link(&pins.classifier(interface))?;
        }
        classifier::remove_filter(interface);
        self.resolves.remove(interface);
        self.set_handover()
    }

    /// Has the datapath mark packets for the program at TC ingress, where that is on every interface.
    fn set_handover(&mut self) -> Result<()> {
        let is_there = !self.resolves.is_empty() && self.resolves.values().all(|resolves| *resolves);
        let handover = match self.settings.handover {
            _ if !is_there => 0,
            0 => rand::random::<u64>() & !handover::CLEAR | handover::SET,
            present => present,
        };
        if handover != self.settings.handover {
            self.write_settings(Settings { handover, ..self.settings })?;
        }
        Ok(())
    }

    /// Tells the datapath that the daemon lives: `now` by [`monotonic_seconds`].
    pub fn beat(&mut self, now: u32) -> Result<()> {
        self.write_settings(Settings { heartbeat: now, alone: 0, ..self.settings })
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

    fn attach_xdp(&mut self, interface: &str, index: u32, mode: XdpMode) -> Result<Attached> {
        if let Some(attached) = self.replace(interface, index, mode)? {
            return Ok(attached);
        }
        let native = match mode {
            XdpMode::Generic => None,
            XdpMode::Native | XdpMode::Auto => Some(self.attach_anew(interface, index, XdpMode::Native)),
        };
        match (native, mode) {
            (Some(Ok(())), _) => Ok(Attached { index, mode: XdpMode::Native, note: None }),
            (Some(Err(error)), XdpMode::Native) => Err(error),
            (native, _) => {
                self.attach_anew(interface, index, XdpMode::Generic)?;
                let note = native.and_then(Result::err).map(|error| format!("{error:#}"));
                Ok(Attached { index, mode: XdpMode::Generic, note })
            }
        }
    }

    /// Puts the program into the interface's pinned link, where there is one that fits.
    fn replace(&mut self, interface: &str, index: u32, wanted: XdpMode) -> Result<Option<Attached>> {
        let Some(pins) = &self.pins else { return Ok(None) };
        for (_, mode) in pins.links()?.into_iter().filter(|(pinned, _)| pinned == interface) {
            let path = pins.link(interface, mode);
            // A renamed interface keeps its link, and another may have its name by now.
            let is_its = link::interface(&path).is_ok_and(|attached| attached == index);
            if is_its && (wanted == XdpMode::Auto || wanted == mode) {
                let link = FdLink::from(PinnedLink::from_pin(&path)?);
                let link =
                    XdpLink::try_from(link).with_context(|| format!("{} is no XDP link", path.display()))?;
                let program: &mut Xdp =
                    self.object.program_mut("xdp_lb").context("no program")?.try_into()?;
                let id = program
                    .attach_to_link(link)
                    .with_context(|| format!("cannot replace the program on {interface}"))?;
                // The pin keeps the link; this process need not.
                drop(program.take_link(id)?);
                let note = (wanted == XdpMode::Auto && mode == XdpMode::Generic).then(|| {
                    "kept from an earlier daemon; `xdp-lb unload` and a new start try native again".to_owned()
                });
                return Ok(Some(Attached { index, mode, note }));
            }
            pins::remove_link(&path)?;
        }
        Ok(None)
    }

    fn attach_anew(&mut self, interface: &str, index: u32, mode: XdpMode) -> Result<()> {
        let flags = if mode == XdpMode::Generic { AttachMode::Skb } else { AttachMode::Driver };
        let program: &mut Xdp = self.object.program_mut("xdp_lb").context("no program")?.try_into()?;
        let id = program.attach_to_if_index(index, flags).map_err(|error| explain(interface, mode, error))?;
        let link = FdLink::try_from(program.take_link(id)?).map_err(|_| {
            anyhow!("the kernel attached to {interface} without a link: it needs 5.9 or later")
        })?;
        match &self.pins {
            Some(pins) => {
                let path = pins.link(interface, mode);
                link.pin(&path).with_context(|| format!("cannot pin {}", path.display()))?;
            }
            None => {
                self.links.insert(interface.to_owned(), link);
            }
        }
        Ok(())
    }

    /// Detaches the program from an interface.
    pub fn detach(&mut self, interface: &str) -> Result<()> {
        self.links.remove(interface);
        if let Some(pins) = &self.pins {
            for mode in [XdpMode::Native, XdpMode::Generic] {
                pins::remove_link(&pins.link(interface, mode))?;
            }
        }
        self.detach_classifier(interface)
    }

    /// The interfaces that an earlier daemon attached to, or this one.
    pub fn attached_interfaces(&self) -> Result<Vec<String>> {
        match &self.pins {
            Some(pins) => Ok(pins.links()?.into_iter().map(|(interface, _)| interface).collect()),
            None => Ok(self.links.keys().cloned().collect()),
        }
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
        let entries = self.maps.vlans.iter().map(|entry| {
            let (device, Plain(VlanDevice { parent, vlan })) = entry?;
            Ok((device, (parent, vlan as u16)))
        });
        entries.collect::<Result<_, MapError>>().context("cannot read the VLANs")
    }

    /// Tells the datapath which devices are VLANs: device index to parent's index and VLAN id.
    pub fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> Result<()> {
        let present = self.vlans()?;
        for (device, (parent, vlan)) in vlans {
            let device_of = VlanDevice { parent: *parent, vlan: u32::from(*vlan) };
            self.maps.vlans.insert(device, Plain(device_of), 0).context("cannot write a VLAN")?;
        }
        for device in present.keys().filter(|device| !vlans.contains_key(device)) {
            self.maps.vlans.remove(device).context("cannot remove a VLAN")?;
        }
        Ok(())
    }

    /// Tells the datapath which frames are for this host.
    ///
    /// # Errors
    /// Where there are more than the table takes; most of them are in it.
    pub fn set_own_macs(&mut self, own_macs: &BTreeSet<OwnMac>) -> Result<()> {
        self.maps.own_macs.set(own_macs)
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
        let mut settings = self.settings;
        settings.options = if resets { RESETS_UNKNOWN } else { 0 };
        if settings != self.settings {
            self.maps.settings.set(0, Plain(settings), 0).context("cannot write the settings")?;
            self.settings = settings;
        }
        Ok(())
    }

    /// How many packets had each reason, by its number.
    pub fn reasons(&self) -> Result<Vec<u64>> {
        Reason::ALL.iter().map(|reason| self.maps.reason(*reason)).collect()
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

    /// Counts the flows that live, sets the counts right that `max_flows` goes by, and removes the records that are of no
    /// more use. `tables` is what stands in them.
    pub fn census(&mut self, tables: &Tables) -> Result<Census> {
        let mut count = Count::new(tables, &self.settings, monotonic_seconds()?);
        let before = self.maps.flow_counts(tables)?;
        self.maps.sweep_flows(|book, key, record| count.take(book, key, record))?;
        let census = count.finish();
        self.maps.correct_flow_counts(&before, &census)?;
        Ok(census)
    }

    /// Shows every flow record to `visit`, and removes those for which it returns true.
    pub fn sweep_flows(&mut self, visit: impl FnMut(Book, &FlowKey, &FlowRecord) -> bool) -> Result<()> {
        self.maps.sweep_flows(visit)
    }

    /// The flow records, to be read elsewhere.
    ///
    /// # Errors
    /// Where this process has no descriptor left.
    pub fn flow_records(&self) -> Result<FlowRecords> {
        self.maps.flow_records()
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
        ensure!(std::mem::take(&mut self.has_events), "the datapath's events have a listener already");
        Events::new(self.object.take_map("EVENTS").context("the object has no map EVENTS")?)
    }

    /// The way of checks that go to VIPs; there is one who uses it. Nothing of it is pinned: it ends with the daemon.
    pub fn take_checks(&mut self) -> Result<Checks> {
        take_checks(&mut self.object)
    }

    /// Detaches from every interface and removes the pins; says what was removed.
    pub fn unload(&mut self) -> Result<Vec<String>> {
        self.links.clear();
        self.classifiers.clear();
        self.pins.as_ref().map_or_else(|| Ok(Vec::new()), Pins::remove)
    }
}

/// The program, verified by the kernel beside the one that another daemon has attached, over that one's tables: nothing of
/// them is written before [`Datapath::take_over`].
pub struct Prepared {
    object: Ebpf,
    tables: Tables,
}

impl Prepared {
    /// Loads the program with the tables that are pinned.
    ///
    /// # Errors
    /// As [`Datapath::load`], and where not all tables are pinned.
    pub fn load(options: &Options) -> Result<Self> {
        let pin_path = options.pin_path.as_deref().context("only pinned tables can be taken over")?;
        let pinned = adoptable(pin_path)?;
        let mut object = open(options, OBJECT, &pinned)?;
        verify(&mut object)?;
        let read = || {
            let (maps, sizes) = Maps::take(&mut open(options, OBJECT, &pinned)?)?;
            maps.read(&sizes)
        };
        // What the other daemon changes while it is read looks damaged.
        let tables = (1..READS).find_map(|_| read().ok()).map_or_else(read, Ok)?;
        Ok(Self { object, tables })
    }

    /// As [`Datapath::take_checks`].
    pub fn take_checks(&mut self) -> Result<Checks> {
        take_checks(&mut self.object)
    }

    /// What stood in the tables when it was loaded.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }
}

fn take_checks(object: &mut Ebpf) -> Result<Checks> {
    let map = object.take_map("CHECKS").context("the checks' way has a user already")?;
    let program: &mut Xdp = object.program_mut("xdp_check").context("no program")?.try_into()?;
    Checks::new(program.fd()?.as_fd(), map)
}

/// Where the tables are pinned under this path.
fn pinned(pin_path: &Path) -> Vec<(&'static str, PathBuf)> {
    PINNED.map(|name| (name, pins::map(pin_path, name))).into()
}

/// The same, where they are all there.
fn adoptable(pin_path: &Path) -> Result<Vec<(&'static str, PathBuf)>> {
    let pinned = pinned(pin_path);
    if let Some((_, missing)) = pinned.iter().find(|(_, path)| !path.exists()) {
        bail!("there are no tables to take over: {} is missing", missing.display());
    }
    Ok(pinned)
}

/// Opens the object: its tables are those that are pinned, where they are, and new ones of these limits where not.
fn open(options: &Options, object: &[u8], pinned: &[(&str, PathBuf)]) -> Result<Ebpf> {
    let Limits { services, backends, slots, flows, half_open_flows, source_ranges, source_rates, fragments } =
        options.limits;
    let mut loader = EbpfLoader::new();
    for (name, path) in pinned {
        loader.map_pin_path(name, path.clone());
    }
    for (name, entries) in [
        ("SERVICE_PLACES", directory::words(services)),
        ("SERVICES", directory::records(services)),
        ("VIPS", services),
        ("PORT_RANGES", services),
        // Place 0 stays vacant.
        ("BACKENDS", backends + 1),
        ("SLOTS", slots),
        ("FLOWS", flows),
        ("HALF_OPEN", half_open_flows),
        ("REPLY_PLACES", directory::words(backends)),
        ("REPLIES", directory::records(backends)),
        // The old and the new ones, side by side.
        ("QUIC_SERVERS", 2 * backends),
        ("SOURCES", source_ranges),
        ("SOURCE_RATES", source_rates),
        ("FRAGMENTS", fragments),
        ("SNAT_ADDRESSES", SNAT_ADDRESSES),
        ("SERVICE_FLOWS", services),
        ("BACKEND_FLOWS", backends + 1),
        ("FORMER_TRAFFIC", services),
        ("BACKEND_COUNTERS", backends + 1),
    ] {
        loader.map_max_entries(name, entries);
    }
    loader.load(object).map_err(|error| {
        anyhow!(error).context(
            "cannot load the datapath into the kernel: this needs root (or CAP_BPF and CAP_NET_ADMIN) and \
             a kernel of 5.15 or later with BPF and BTF",
        )
    })
}

/// Has the kernel verify the programs.
fn verify(object: &mut Ebpf) -> Result<()> {
    let program: &mut Xdp = object.program_mut("xdp_lb").context(STALE)?.try_into()?;
    program.load().context("the kernel's verifier refused the datapath")?;
    let checks: &mut Xdp = object.program_mut("xdp_check").context(STALE)?.try_into()?;
    checks.load().context("the kernel's verifier refused the program of health checks")?;
    let neighbours: &mut SchedClassifier = object.program_mut(classifier::NAME).context(STALE)?.try_into()?;
    neighbours.load().context("the kernel's verifier refused the program at TC ingress")
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

/// Seconds of the clock that the datapath notes packets by.
pub fn monotonic_seconds() -> Result<u32> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the monotonic clock")?;
    Ok(now.tv_sec() as u32)
}

pub(super) fn explain(interface: &str, mode: XdpMode, error: aya::programs::ProgramError) -> anyhow::Error {
    let code = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
        .find_map(|error| error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error));
    let mode = if mode == XdpMode::Generic { "generic" } else { "native" };
    match code {
        Some(libc::EBUSY) | Some(libc::EEXIST) => anyhow!(
            "another XDP program is attached to {interface}: see `ip link show dev {interface}`; detach it with \
             `ip link set dev {interface} xdp off`, or `xdp-lb unload` where it is an earlier xdp-lb's"
        ),
        Some(libc::EOPNOTSUPP) => anyhow!("the driver of {interface} has no {mode} XDP"),
        _ => anyhow!(error).context(format!("cannot attach to {interface} ({mode})")),
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
