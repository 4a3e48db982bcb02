//! The owner task with tables in memory, for tests of it and of its clients.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use xdp_lb_common::flow_table::record::{Record, WayBack};
use xdp_lb_common::net::{Address, Endpoint, MacAddress};
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::reason::Reason;
use xdp_lb_common::tables::flow::{CONFIRMED, ESTABLISHED};
use xdp_lb_common::tables::{Backend, BackendIndex, FlowKey, ServiceIndex, Traffic};

use super::handle::Handle;
use super::kernel::{FlowTable, Kernel};
use super::owner::Owner;
use super::parts::{Ended, Inputs, Listeners, Parts};
use super::upgrades::Upgrades;
use super::vips::Vips;
use crate::config;
use crate::datapath::explain::Processed;
use crate::datapath::{
    Attached, Census, Counted, Loss, NoInterface, Policy, Sizes, TablesView, monotonic_seconds,
};
use crate::discovery::Update;
use crate::health::{AgentReply, AgentReport, Health, Report, Target, TargetId};
use crate::model::state::BackendState;
use crate::model::{self, Attach, Limits};
use crate::net::vips::{Standings, VipIntent, VipStatus, Wanted};
use crate::net::{Event, NextHop, NoNextHop, OwnMacs, RouterAddressesOf};
use crate::pool::definition::endpoint;
use crate::report::documents::BackendView;
use crate::report::explain::LiveTables;
use crate::report::records::FlowRecords;
use crate::report::traffic::Counters;
use crate::tables::{Tables, Write};

/// The tables in memory, and other requests to the kernel.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) tables: Tables,
    pub(crate) applied: Vec<Vec<Write>>,
    pub(crate) fails: bool,
    /// How long each write takes.
    pub(crate) takes: Duration,
    pub(crate) is_applying: bool,
    /// The attachments: the interfaces' indices and names.
    pub(crate) attached: Vec<(u32, String)>,
    pub(crate) next_index: u32,
    /// Interfaces that have another program.
    pub(crate) foreign: BTreeSet<String>,
    /// From which interface to which flows were moved.
    pub(crate) moved: Vec<(u32, u32)>,
    /// The removed pins.
    pub(crate) unpinned: Vec<String>,
    pub(crate) unmounted: bool,
    /// Why the program at TC ingress is missing, until it is attached again; and whether that fails.
    pub(crate) classifier_lost: Option<String>,
    pub(crate) classifier_refused: bool,
    pub(crate) zeroed: Vec<BackendIndex>,
    pub(crate) former: BTreeMap<ServiceIndex, Traffic>,
    pub(crate) policy: Option<Policy>,
    pub(crate) slots: u32,
    pub(crate) backends: u32,
    pub(crate) unloaded: bool,
    pub(crate) live: HashMap<BackendIndex, u64>,
    pub(crate) flows: Vec<Record>,
    pub(crate) counts: bool,
    pub(crate) censuses: u32,
    /// How long a count of the flows takes.
    pub(crate) count_takes: Duration,
    pub(crate) adopted: bool,
    pub(crate) beats: u32,
    pub(crate) missing: BTreeSet<String>,
    pub(crate) router_addresses: RouterAddressesOf,
    pub(crate) resets_unknown: bool,
    pub(crate) own_addresses: BTreeSet<Address>,
    /// What the kernel has dropped after the program's verdict.
    pub(crate) losses: Vec<Loss>,
}

impl Memory {
    pub(crate) fn index_of(&self, interface: &str) -> Option<u32> {
        self.attached.iter().find(|(_, name)| name == interface).map(|(index, _)| *index)
    }

    /// The names of the interfaces that have the program.
    pub(crate) fn attached_names(&self) -> Vec<&str> {
        self.attached.iter().map(|(_, name)| name.as_str()).collect()
    }
}

#[derive(Clone)]
pub(crate) struct InMemory(pub(crate) Arc<Mutex<Memory>>);

impl InMemory {
    pub(crate) fn new(slots: u32) -> Self {
        Self(Arc::new(Mutex::new(Memory { slots, backends: 64, counts: true, ..Memory::default() })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap()
    }

    /// Records an established flow of a client to a backend in the tables, which has been idle for so many seconds.
    pub(crate) fn record_flow(&self, client: &str, backend: &str, idle: u32) {
        let mut memory = self.lock();
        let is_it = |it: &Backend| SocketAddr::new(it.address.into(), it.port.get()) == address(backend);
        let (index, found) = memory.tables.backends.iter().find(|(_, it)| is_it(it)).unwrap();
        let mut services = memory.tables.services.iter();
        let (vip, _) = services.find(|(_, service)| service.index == found.service).unwrap();
        let seen_from = Endpoint::from_socket(address("198.51.100.2:1024"), vip.protocol);
        let client = Endpoint::from_socket(address(client), vip.protocol);
        let mut record = Record::default();
        let key = FlowKey::new(client, *vip);
        record.set(&key, &seen_from, *index, &found.endpoint_for(vip), &WayBack::default());
        let seen = monotonic_seconds().unwrap() - idle;
        record.words[0] = record.life().taken().begun(seen, ESTABLISHED | CONFIRMED).to_bits();
        memory.flows.push(record);
    }

    /// The slots written since the last call.
    pub(crate) fn slots_written(&self) -> Vec<(u32, usize)> {
        let writes = std::mem::take(&mut self.lock().applied);
        let slots = |write: &Write| match write {
            Write::Slots(at, slots) => Some((at.0, slots.len())),
            _ => None,
        };
        writes.iter().flatten().filter_map(slots).collect()
    }
}

impl Kernel for InMemory {
    fn is_adopted(&self) -> bool {
        self.lock().adopted
    }

    fn sizes(&self) -> Sizes {
        let (backends, slots) = {
            let memory = self.lock();
            (memory.backends, memory.slots)
        };
        let limits =
            Limits { services: 16, backends, slots, flows: 1024, fragments: 1024, ..Limits::default() };
        Sizes { limits, snat_addresses: 64 }
    }

    fn memory(&self) -> anyhow::Result<u64> {
        Ok(300 << 20)
    }

    fn read(&self) -> anyhow::Result<Tables> {
        Ok(self.lock().tables.clone())
    }

    fn apply(&mut self, writes: &[Write]) -> anyhow::Result<()> {
        let takes = {
            let mut memory = self.lock();
            memory.is_applying = true;
            memory.takes
        };
        std::thread::sleep(takes);
        let mut memory = self.lock();
        memory.is_applying = false;
        // A failing write stops half-way.
        let count = if memory.fails { writes.len() / 2 } else { writes.len() };
        writes[..count].iter().for_each(|write| memory.tables.apply(write));
        memory.applied.push(writes.to_vec());
        anyhow::ensure!(!memory.fails, "no memory");
        Ok(())
    }

    fn set_policy(&mut self, policy: &Policy) -> anyhow::Result<()> {
        self.lock().policy = Some(policy.clone());
        Ok(())
    }

    fn write_heartbeat(&mut self) -> anyhow::Result<()> {
        self.lock().beats += 1;
        Ok(())
    }

    fn set_vlans(&mut self, _: &BTreeMap<u32, (u32, u16)>) -> anyhow::Result<()> {
        Ok(())
    }

    fn set_own_macs(&mut self, _: &BTreeSet<OwnMac>) -> anyhow::Result<()> {
        Ok(())
    }

    fn set_router_addresses(&mut self, addresses: &RouterAddressesOf) -> anyhow::Result<()> {
        self.lock().router_addresses.clone_from(addresses);
        Ok(())
    }

    fn set_resets_unknown(&mut self, resets: bool) -> anyhow::Result<()> {
        self.lock().resets_unknown = resets;
        Ok(())
    }

    fn set_own_addresses(&mut self, addresses: &BTreeSet<Address>) -> anyhow::Result<()> {
        self.lock().own_addresses = addresses.clone();
        Ok(())
    }

    fn has_interface(&self, name: &str) -> bool {
        name != "missing" && !self.lock().missing.contains(name)
    }

    /// Bridges have no native XDP.
    fn attach(&mut self, interface: &str, mode: Attach) -> anyhow::Result<Attached> {
        anyhow::ensure!(self.has_interface(interface), NoInterface(interface.into()));
        let mut memory = self.lock();
        anyhow::ensure!(
            !memory.foreign.contains(interface),
            "another XDP program is attached to {interface}"
        );
        let index = match memory.index_of(interface) {
            Some(index) => index,
            None => {
                memory.next_index += 1;
                let index = memory.next_index;
                memory.attached.push((index, interface.into()));
                index
            }
        };
        let mode = match mode {
            Attach::Auto if interface.starts_with("br") => Attach::Tc,
            Attach::Auto => Attach::Xdp,
            mode => mode,
        };
        Ok(Attached::new(index, mode, None))
    }

    fn detach(&mut self, index: u32) -> anyhow::Result<()> {
        self.lock().attached.retain(|(attached, _)| *attached != index);
        Ok(())
    }

    fn attached_interfaces(&self) -> Vec<u32> {
        self.lock().attached.iter().map(|(index, _)| *index).collect()
    }

    fn verify_attached(&self, index: u32) -> Result<String, String> {
        let memory = self.lock();
        let found = memory.attached.iter().find(|(attached, _)| *attached == index);
        found.map(|(_, name)| name.clone()).ok_or_else(|| "something else detached the program".into())
    }

    fn restore_classifier(&mut self, _: u32) -> anyhow::Result<Option<String>> {
        let mut memory = self.lock();
        anyhow::ensure!(!memory.classifier_refused, "no memory for it");
        Ok(memory.classifier_lost.take())
    }

    fn catch_up(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn keep(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn restore_pins(&mut self) -> anyhow::Result<Vec<String>> {
        let mut memory = self.lock();
        anyhow::ensure!(!memory.unmounted, "the pins are not on a BPF file system");
        Ok(std::mem::take(&mut memory.unpinned))
    }

    fn restore(&mut self, expected: &[Write]) -> anyhow::Result<Vec<String>> {
        let mut memory = self.lock();
        let mut restored = Vec::new();
        let mut after = memory.tables.clone();
        expected.iter().for_each(|write| after.apply(write));
        if after == memory.tables {
            return Ok(restored);
        }
        for write in expected {
            let before = memory.tables.clone();
            memory.tables.apply(write);
            if memory.tables != before {
                restored.push(format!("{write:?}"));
            }
        }
        Ok(restored)
    }

    fn restore_whole(&mut self, _: &Tables) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn unload(&mut self) -> anyhow::Result<Vec<String>> {
        self.lock().unloaded = true;
        Ok(vec!["detached from eth0 (native)".into(), "removed 12 tables".into()])
    }

    fn counters(&self) -> anyhow::Result<Arc<dyn Counters>> {
        Ok(Arc::new(self.clone()))
    }

    fn former_traffic(&self, service: ServiceIndex) -> anyhow::Result<Traffic> {
        Ok(self.lock().former.get(&service).copied().unwrap_or_default())
    }

    fn set_former_traffic(&mut self, service: ServiceIndex, traffic: Traffic) -> anyhow::Result<()> {
        self.lock().former.insert(service, traffic);
        Ok(())
    }

    fn zero_backend_traffic(&mut self, backend: BackendIndex) -> anyhow::Result<()> {
        self.lock().zeroed.push(backend);
        Ok(())
    }

    fn flow_table(&self, _: Arc<TablesView>) -> anyhow::Result<Box<dyn FlowTable>> {
        Ok(Box::new(self.clone()))
    }

    fn correct_flow_counts(&mut self, _: &Counted) -> anyhow::Result<()> {
        Ok(())
    }

    fn flow_records(&self) -> Arc<dyn FlowRecords> {
        Arc::new(self.clone())
    }

    fn transmits_redirected(&self, _: u32) -> Option<bool> {
        None
    }

    fn live_tables(&self) -> anyhow::Result<Arc<dyn LiveTables>> {
        Ok(Arc::new(self.clone()))
    }
}

impl LiveTables for InMemory {
    fn process(&self, _: &[u8], _: u32, _: &FlowKey) -> anyhow::Result<Processed> {
        anyhow::bail!("these tables are in memory: no packet is processed")
    }
}

impl FlowTable for InMemory {
    fn count(&mut self) -> anyhow::Result<Counted> {
        let takes = {
            let mut memory = self.lock();
            memory.censuses += 1;
            memory.count_takes
        };
        std::thread::sleep(takes);
        let memory = self.lock();
        anyhow::ensure!(memory.counts, "the kernel is busy");
        let live = memory.live.clone();
        let census = Census { records: live.values().sum(), live, others: HashSet::new() };
        Ok(Counted { census, ..Counted::default() })
    }

    fn move_flows(&mut self, from: u32, to: u32) -> usize {
        self.lock().moved.push((from, to));
        7
    }
}

impl FlowRecords for InMemory {
    fn read(&self, visit: &mut dyn FnMut(&Record)) {
        self.lock().flows.iter().for_each(visit);
    }
}

impl Counters for InMemory {
    fn reasons(&self) -> anyhow::Result<Vec<u64>> {
        Ok(Reason::ALL.iter().map(|reason| *reason as u64).collect())
    }

    fn backend_traffic(&self, backend: BackendIndex) -> anyhow::Result<Traffic> {
        Ok(Traffic { packets_in: backend.0.into(), ..Traffic::default() })
    }

    fn losses(&self) -> anyhow::Result<Vec<Loss>> {
        Ok(self.lock().losses.clone())
    }
}

/// The wanted VIPs, which take effect at once.
#[derive(Clone, Default)]
pub(crate) struct InMemoryVips {
    pub(crate) wanted: Arc<Mutex<Wanted>>,
    statuses: Arc<watch::Sender<Standings>>,
}

impl InMemoryVips {
    pub(crate) fn intents(&self) -> Vec<(String, VipIntent)> {
        let wanted = self.wanted.lock().unwrap();
        wanted.addresses.iter().map(|(address, intent)| (address.to_string(), *intent)).collect()
    }
}

impl Vips for InMemoryVips {
    fn set(&mut self, wanted: Wanted) {
        let present = wanted.addresses.iter().filter(|(_, intent)| **intent == VipIntent::Present);
        let standing = VipStatus {
            interface: wanted.interface.clone(),
            is_own: wanted.interface.is_some(),
            trouble: None,
        };
        self.statuses.send_replace(present.map(|(address, _)| (*address, standing.clone())).collect());
        *self.wanted.lock().unwrap() = wanted;
    }

    fn statuses(&self) -> watch::Receiver<Standings> {
        self.statuses.subscribe()
    }

    fn release(&mut self) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        self.set(Wanted::default());
        async { Ok(vec!["removed 192.0.2.10 from eth0".into()]) }.boxed()
    }
}

/// A running owner task, and everything around it.
pub(crate) struct Daemon {
    pub(crate) directory: TempDir,
    pub(crate) kernel: InMemory,
    pub(crate) handle: Handle,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) agents: mpsc::Sender<AgentReport>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) targets: Arc<Mutex<Vec<(Target, Health)>>>,
    pub(crate) watched: Arc<Mutex<BTreeSet<IpAddr>>>,
    pub(crate) vips: InMemoryVips,
    pub(crate) found: mpsc::Sender<Update>,
    pub(crate) discoveries: Arc<Mutex<Vec<model::Service>>>,
    pub(crate) task: JoinHandle<Ended>,
    pub(crate) upgrades: Upgrades,
    /// Where they are asked for.
    pub(crate) asked: mpsc::Receiver<()>,
}

/// A service of each IP version.
pub(crate) const WEB: &str = r#"
interfaces = ["eth0"]
state_file = "STATE"
limits = { services = 16, backends = 64, slots = 100_000, flows = 1024, fragments = 1024 }

[[service]]
name = "web"
vip = "192.0.2.10:80"
[[service.backend]]
address = "198.51.100.11:8080"
[[service.backend]]
address = "198.51.100.12:8080"

[[service]]
name = "web6"
vip = "[2001:db8::10]:80"
[[service.backend]]
address = "[2001:db8:1::11]:8080"
"#;

pub(crate) const TWO_SERVICES: &str = r#"
interfaces = ["eth0"]
state_file = "STATE"
limits = { services = 16, backends = 64, slots = 100_000, flows = 1024, fragments = 1024 }

[[service]]
name = "web"
vip = "192.0.2.10:80"
[[service.backend]]
address = "198.51.100.11:8080"
[[service.backend]]
address = "198.51.100.12:8080"

[[service]]
name = "api"
vip = "192.0.2.10:443"
[[service.backend]]
address = "198.51.100.13:8443"
"#;

impl Daemon {
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), InMemory::new(100_000), config).unwrap()
    }

    pub(crate) fn start_with(directory: TempDir, kernel: InMemory, config: &str) -> anyhow::Result<Self> {
        Self::start_by(directory, kernel, config, |run| tokio::spawn(run))
    }

    /// With the owner task on its own thread, as in the daemon: a long decision blocks no worker.
    pub(crate) fn start_apart(config: &str) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let apart = |run| tokio::task::spawn_blocking(move || runtime.block_on(run));
        Self::start_by(tempfile::tempdir().unwrap(), InMemory::new(100_000), config, apart).unwrap()
    }

    /// With an owner task that handles nothing.
    pub(crate) fn start_hanging(config: &str) -> Self {
        let hanging = |run: BoxFuture<'static, Ended>| {
            tokio::spawn(async move {
                let _never_polled = run;
                std::future::pending().await
            })
        };
        Self::start_by(tempfile::tempdir().unwrap(), InMemory::new(100_000), config, hanging).unwrap()
    }

    fn start_by(
        directory: TempDir,
        kernel: InMemory,
        config: &str,
        spawn: impl FnOnce(BoxFuture<'static, Ended>) -> JoinHandle<Ended>,
    ) -> anyhow::Result<Self> {
        let config_file = directory.path().join("config.toml");
        write_config(&config_file, config);
        let (targets, watched) = <(Arc<Mutex<_>>, Arc<Mutex<_>>)>::default();
        let (set, watch) = (Arc::clone(&targets), Arc::clone(&watched));
        let vips = InMemoryVips::default();
        let discoveries = Arc::<Mutex<Vec<model::Service>>>::default();
        let discover = Arc::clone(&discoveries);
        let (upgrades, asked) = Upgrades::new();
        let mut owner = Owner::start(Parts {
            listeners: Listeners {
                set_vip_targets: Ok(Box::new(|_| ())),
                set_targets: Box::new(move |targets| *set.lock().unwrap() = targets),
                set_reach: Box::new(|_, _| ()),
                watch: Box::new(move |watched| *watch.lock().unwrap() = watched),
                set_discoveries: Box::new(move |services| *discover.lock().unwrap() = services),
            },
            own_macs: OwnMacs::new(),
            metrics: watch::channel(None).1,
            config: config::load(&config_file).unwrap(),
            config_file,
            kernel: Box::new(kernel.clone()),
            vips: Box::new(vips.clone()),
            upgrades: upgrades.clone(),
            learned: None,
        })?;
        let (requests, receive_requests) = mpsc::channel(8);
        let (reports, receive_reports) = mpsc::channel(64);
        let (agents, receive_agents) = mpsc::channel(64);
        let (events, receive_events) = mpsc::channel(64);
        let (found, receive_found) = mpsc::channel(64);
        let handle = Handle::new(requests, owner.published());
        let inputs = Inputs {
            reports: receive_reports,
            agents: receive_agents,
            events: receive_events,
            found: receive_found,
        };
        let task = spawn(owner.run(receive_requests, inputs).boxed());
        Ok(Self {
            directory,
            kernel,
            handle,
            reports,
            agents,
            events,
            found,
            targets,
            watched,
            vips,
            discoveries,
            task,
            upgrades,
            asked,
        })
    }

    /// Kills the daemon and starts it again: the tables and the files are what is left.
    pub(crate) async fn restart(self, config: &str) -> Self {
        self.task.abort();
        let _ = self.task.await;
        self.kernel.lock().applied.clear();
        Self::start_with(self.directory, self.kernel, config).unwrap()
    }

    async fn id(&self, service: &str, address: &str) -> TargetId {
        let services = self.handle.services().await.unwrap();
        let found = services.iter().find(|it| it.name == service).unwrap();
        let vip = endpoint(found.vip, found.protocol);
        TargetId { service: service.into(), vip, backend: address.parse().unwrap() }
    }

    pub(crate) async fn report(&self, service: &str, address: &str, health: Health, why: &str) {
        let id = self.id(service, address).await;
        let report = Report { id, health, transition: Some(why.into()), latency: None, trouble: None };
        self.reports.send(report).await.unwrap();
    }

    /// Sends a reply of the agent of a backend of `web`.
    pub(crate) async fn agent(&self, address: &str, said: AgentReply) {
        let id = self.id("web", address).await;
        self.agents.send(AgentReport { id, result: Ok(said) }).await.unwrap();
    }

    pub(crate) async fn next_hop(&self, address: &str, next_hop: Result<u8, &str>) {
        let address: IpAddr = address.parse().unwrap();
        let source = if address.is_ipv4() { "198.51.100.1" } else { "2001:db8:1::1" };
        let next_hop = next_hop.map_err(|why| NoNextHop::Here(why.into())).map(|number| NextHop {
            interface: "eth0".into(),
            ifindex: 2,
            vlan: None,
            source_mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddress::new([2, 0, 0, 0, 1, number]),
            router: None,
            source: source.parse().unwrap(),
            on_link_bits: Some(24),
            mtu: 1500,
        });
        self.events.send(Event::NextHop { address, next_hop }).await.unwrap();
    }

    /// Every backend is resolved and healthy.
    pub(crate) async fn all_up(&self) {
        let backends = self.handle.backends(None).await.unwrap();
        for (number, backend) in (11..).zip(&backends) {
            let (service, address) = (&backend.service, &backend.address);
            self.next_hop(&address.ip().to_string(), Ok(number)).await;
            self.report(service, &address.to_string(), Health::Up, "the first check succeeded").await;
        }
        for BackendView { service, .. } in &backends {
            self.until(service, |all| all.iter().all(|it| it.state == BackendState::Up)).await;
        }
        self.kernel.lock().applied.clear();
    }

    /// Waits until the service's backends match.
    pub(crate) async fn until(
        &self,
        service: &str,
        is_so: impl Fn(&[BackendView]) -> bool,
    ) -> Vec<BackendView> {
        for _ in 0..500 {
            let backends = self.handle.backends(Some(service.into())).await.unwrap();
            if is_so(&backends) {
                return backends;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came: {:#?}", self.handle.backends(None).await);
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }
}

pub(crate) fn write_config(file: &std::path::Path, config: &str) {
    let state = file.with_file_name("state.json");
    fs::write(file, config.replace("STATE", state.to_str().unwrap())).unwrap();
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
