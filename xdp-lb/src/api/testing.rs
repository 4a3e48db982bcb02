//! An owner task with a small state in memory, for tests of everything that talks to one.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::control::events::EventLog;
use crate::control::flows::FlowPages;
use crate::control::handle::{Handle, Request};
use crate::control::published::Views;
use crate::model::refusal::{Answer, Refusal};
use crate::model::request::{FlowQuery, Outcome};
use crate::model::state::{AdminState, BackendState, FlowStage, HealthState, Origin, TroubleKind, VipState};
use crate::model::{
    self, Affinity, FlowTracking, Hairpin, HealthCheck, Mode, OnNoBackends, Probe, Protocol, XdpMode,
};
use crate::report::documents::{
    BackendView, ConfigView, CounterView, CountersView, FlowView, FlowsView, InterfaceView, NextHopView,
    ReloadView, ServiceDetailView, ServiceView, StatusView, TableView, TrafficView, TroubleView, VipView,
};

/// What the owner task knows.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    /// What the operator wants of the node.
    pub(crate) node: AdminState,
    pub(crate) services: Vec<ServiceView>,
    pub(crate) backends: Vec<BackendView>,
    /// A backend that drains loses this many flows each time it is looked at.
    pub(crate) flows_ending: u64,
    /// For how many looks a backend that drains may have flows that are not known.
    pub(crate) unknown_for: u64,
    /// Whether a backend that drains goes on to get new flows.
    pub(crate) drains_late: bool,
    /// What is wrong with the datapath.
    pub(crate) trouble: Option<String>,
    /// How a reload ends.
    pub(crate) reload: Answer<ReloadView>,
    /// How many flows a page has at most.
    pub(crate) flows_of_a_page: u32,
    /// What those who watch see.
    pub(crate) events: Arc<EventLog>,
}

impl Default for Owner {
    fn default() -> Self {
        Self {
            node: AdminState::Enabled,
            services: vec![service("web", "192.0.2.10:80"), service("web6", "[2001:db8::10]:80")],
            backends: vec![
                backend("web", "198.51.100.11:8080"),
                backend("web", "198.51.100.12:8080"),
                backend("web6", "[2001:db8:1::11]:8080"),
            ],
            flows_ending: 0,
            unknown_for: 0,
            drains_late: false,
            trouble: None,
            reload: Ok(ReloadView::default()),
            flows_of_a_page: FlowQuery::MOST,
            events: Arc::default(),
        }
    }
}

impl FlowPages for Owner {
    fn page(&self, query: &FlowQuery) -> Answer<FlowsView> {
        Ok(self.flows(query))
    }
}

impl Views for Mutex<Owner> {
    fn status(&self) -> Answer<StatusView> {
        Ok(self.lock().unwrap().status())
    }

    fn services(&self) -> Answer<Vec<ServiceView>> {
        Ok(self.lock().unwrap().services.clone())
    }

    fn service(&self, name: &str) -> Answer<ServiceDetailView> {
        let mut owner = self.lock().unwrap();
        let backends = owner.backends(Some(name))?;
        let service = owner.services.iter().find(|service| service.name == name).unwrap().clone();
        Ok(ServiceDetailView { service, options: BTreeMap::new(), backends })
    }

    fn backends(&self, service: Option<&str>) -> Answer<Vec<BackendView>> {
        self.lock().unwrap().backends(service)
    }

    fn counters(&self) -> Answer<CountersView> {
        Ok(counters())
    }

    fn scrape(&self) -> Answer<(StatusView, CountersView)> {
        Ok((self.lock().unwrap().status(), counters()))
    }

    fn drains(&self) -> bool {
        false
    }
}

/// A daemon of which the status alone is told, each time by this.
pub(crate) struct Statuses<F>(Mutex<F>);

impl<F: FnMut() -> Answer<StatusView>> Statuses<F> {
    pub(crate) fn new(status: F) -> Self {
        Self(Mutex::new(status))
    }
}

impl<F: FnMut() -> Answer<StatusView> + Send> Views for Statuses<F> {
    fn status(&self) -> Answer<StatusView> {
        self.0.lock().unwrap()()
    }

    fn services(&self) -> Answer<Vec<ServiceView>> {
        Ok(self.status()?.services)
    }

    fn service(&self, _: &str) -> Answer<ServiceDetailView> {
        Err(Refusal::NotFound("it has none".into()))
    }

    fn backends(&self, _: Option<&str>) -> Answer<Vec<BackendView>> {
        Ok(self.status()?.backends)
    }

    fn counters(&self) -> Answer<CountersView> {
        Ok(counters())
    }

    fn scrape(&self) -> Answer<(StatusView, CountersView)> {
        Ok((self.status()?, counters()))
    }

    fn drains(&self) -> bool {
        false
    }
}

impl Owner {
    /// Starts the task, which ends when every handle is gone.
    pub(crate) fn start(self) -> Handle {
        let (sender, mut requests) = mpsc::channel(8);
        let owner = Arc::new(Mutex::new(self));
        let views = Arc::clone(&owner);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                owner.lock().unwrap().answer(request);
            }
        });
        Handle::new(sender, views)
    }

    /// One flow of each backend.
    fn flows(&self, query: &FlowQuery) -> FlowsView {
        let flow = |backend: &BackendView| FlowView {
            service: backend.service.clone(),
            protocol: Protocol::Tcp,
            client: "203.0.113.5:40000".parse().unwrap(),
            vip: "192.0.2.10:80".parse().unwrap(),
            backend: backend.address,
            seen_from: "198.51.100.2:1024".parse().unwrap(),
            stage: FlowStage::Established,
            idle_seconds: 75,
        };
        let of = |backend: &&BackendView| {
            query.service.as_ref().is_none_or(|service| *service == backend.service)
                && query.backend.is_none_or(|address| address == backend.address)
        };
        let flows: Vec<_> = self.backends.iter().filter(of).map(flow).collect();
        let matching = flows.len() as u64;
        let from = query.cursor.as_ref().and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let end = (from + query.limit.min(self.flows_of_a_page) as usize).min(flows.len());
        let next = (end < flows.len()).then(|| end.to_string());
        FlowsView { matching, flows: flows[from.min(end)..end].to_vec(), next }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::CountFlows(answer) => drop(answer.send(Ok(()))),
            Request::AddService(service, answer) => drop(answer.send(self.add_service(*service))),
            Request::RemoveService(name, _, answer) => drop(answer.send(self.remove_service(&name))),
            Request::AddBackend(service, backend, answer) => {
                drop(answer.send(self.add_backend(&service, backend)));
            }
            Request::PatchBackend(service, address, patch, answer) => {
                let drains_late = self.drains_late;
                drop(answer.send(self.find(&service, address).map(|backend| {
                    for (key, value) in patch.options.keys().filter(|(key, _)| *key == "weight") {
                        backend.weight = value.as_u64().unwrap_or_else(|| panic!("{key}: {value}")) as u16;
                    }
                    backend.admin = patch.admin.unwrap_or(backend.admin);
                    if backend.admin == AdminState::Draining && !drains_late {
                        backend.share = 0.0;
                    }
                    done(format!("changed {address} of {service}"))
                })));
            }
            Request::PatchService(name, patch, answer) => {
                let admin = patch.admin.unwrap_or_default();
                let patched = self.known(&name).map(|()| {
                    for service in self.services.iter_mut().filter(|service| service.name == name) {
                        service.admin = admin;
                    }
                    for backend in self.backends.iter_mut().filter(|backend| backend.service == name) {
                        backend.admin = admin;
                        backend.share = if admin == AdminState::Draining { 0.0 } else { 0.5 };
                    }
                    done(format!("service {name} {}", admin.name()))
                });
                drop(answer.send(patched));
            }
            Request::PatchNode(admin, answer) => {
                self.node = admin;
                drop(answer.send(Ok(done(format!("node {}", admin.name())))));
            }
            Request::RemoveBackend(service, address, _, answer) => {
                let removed = self.find(&service, address).map(|_| done(format!("removed {address}")));
                self.backends.retain(|backend| (&backend.service, backend.address) != (&service, address));
                drop(answer.send(removed));
            }
            Request::Flows(answer) => drop(answer.send(Ok(Box::new(self.clone())))),
            Request::Config(answer) => drop(answer.send(Ok(ConfigView {
                toml: "interfaces = [\"eth0\"]  # file\n".into(),
                ..ConfigView::default()
            }))),
            Request::ConfigFile(answer) => drop(answer.send(Ok("/dev/null".into()))),
            Request::PlanReload(_, _, answer) | Request::Reload(_, _, answer) => {
                drop(answer.send(self.reload.clone()));
            }
            Request::Watch(after, answer) => drop(answer.send(Ok(self.events.reader(after.as_deref())))),
            Request::IsPending(answer) => drop(answer.send(Ok(false))),
            Request::Upgrade(answer) => drop(answer.send(Ok(done("upgraded".into())))),
            Request::Unload(answer) => drop(answer.send(Ok(done("unloaded".into())))),
        }
    }

    pub(crate) fn status(&self) -> StatusView {
        let is_drained = self.node == AdminState::Draining;
        StatusView {
            version: "0.1.0".into(),
            pid: 4242,
            uptime_seconds: 312,
            adopted: true,
            config_file: "/etc/xdp-lb/config.toml".into(),
            pin_path: "/sys/fs/bpf/xdp-lb".into(),
            trouble: self.trouble.clone(),
            troubles: self
                .trouble
                .iter()
                .map(|message| TroubleView {
                    kind: TroubleKind::Tables,
                    message: message.clone(),
                    since_seconds: 7,
                })
                .collect(),
            restored: 3,
            admin: self.node,
            upgrade: None,
            interfaces: vec![
                interface("eth0", 2, Some(XdpMode::Native), None),
                interface("eth1", 3, Some(XdpMode::Generic), Some("the driver of eth1 has no XDP")),
                interface("eth2", 0, None, Some("not attached: the interface is gone")),
            ],
            vips: vec![VipView {
                address: "192.0.2.10".parse().unwrap(),
                state: if is_drained { VipState::Withdrawn } else { VipState::Present },
                interface: (!is_drained).then(|| "eth0".into()),
                added_by_daemon: true,
                note: None,
            }],
            services: self.services.clone(),
            backends: self.backends.clone(),
            tables: vec![TableView { name: "flows".into(), used: 524_288, size: 1_048_576 }],
            dropped_packets: 7,
            passed_packets: 1_234_567,
        }
    }

    fn known(&self, name: &str) -> Answer<()> {
        if self.services.iter().any(|service| service.name == name) {
            return Ok(());
        }
        let known: Vec<_> = self.services.iter().map(|service| service.name.as_str()).collect();
        Err(Refusal::NotFound(format!("no service {name}; there are {}", known.join(", "))))
    }

    fn backends(&mut self, service: Option<&str>) -> Answer<Vec<BackendView>> {
        if let Some(name) = service {
            self.known(name)?;
        }
        for backend in self.backends.iter_mut().filter(|backend| backend.admin == AdminState::Draining) {
            backend.flows = backend.flows.saturating_sub(self.flows_ending);
            backend.flows_known_in_seconds = (self.unknown_for > 0).then_some(self.unknown_for);
            self.unknown_for = self.unknown_for.saturating_sub(1);
        }
        let wanted = |backend: &&BackendView| service.is_none_or(|name| backend.service == name);
        Ok(self.backends.iter().filter(wanted).cloned().collect())
    }

    fn find(&mut self, service: &str, address: SocketAddr) -> Answer<&mut BackendView> {
        self.known(service)?;
        self.backends
            .iter_mut()
            .find(|backend| backend.service == service && backend.address == address)
            .ok_or_else(|| Refusal::NotFound(format!("service {service} has no backend {address}")))
    }

    fn add_service(&mut self, added: model::Service) -> Answer<Outcome> {
        if added.name.len() > 63 {
            return Err(Refusal::Invalid("the name is longer than 63 characters".into()));
        }
        if self.services.iter().any(|service| service.name == added.name) {
            return Err(Refusal::Conflict(format!("service {} exists already", added.name)));
        }
        let mut view = service(&added.name, &added.vip.to_string());
        view.protocol = added.protocol;
        view.mode = added.mode;
        view.snat_addresses = added.snat_addresses;
        view.affinity = added.affinity;
        view.quic = added.quic;
        view.max_flows = added.max_flows;
        (view.allow, view.deny) = (added.allow, added.deny);
        (view.new_flow_rate, view.new_flow_burst) = (added.new_flow_rate, added.new_flow_burst);
        view.slow_start = added.slow_start;
        (view.on_down, view.down_grace, view.down_timeout) =
            (added.on_down, added.down_grace, added.down_timeout);
        (view.agent, view.feedback) = (added.agent, added.feedback);
        view.circuit_breaker = added.circuit_breaker;
        view.panic_threshold = added.panic_threshold;
        view.health_check = added.health_check.unwrap_or(view.health_check);
        self.services.push(view);
        for backend in added.backends {
            self.add_backend(&added.name, backend)?;
        }
        Ok(done(format!("added service {}", added.name)))
    }

    fn remove_service(&mut self, name: &str) -> Answer<Outcome> {
        self.known(name)?;
        self.services.retain(|service| service.name != name);
        self.backends.retain(|backend| backend.service != name);
        Ok(done(format!("removed service {name}")))
    }

    fn add_backend(&mut self, service: &str, added: model::Backend) -> Answer<Outcome> {
        self.known(service)?;
        if self.find(service, added.address).is_ok() {
            return Err(Refusal::Conflict(format!("{service} has {} already", added.address)));
        }
        self.backends.push(BackendView {
            weight: added.weight,
            server_id: added.server_id,
            backup: added.backup,
            max_flows: added.max_flows,
            ..backend(service, &added.address.to_string())
        });
        Ok(done(format!("added {} to {service}", added.address)))
    }
}

fn interface(name: &str, index: u32, mode: Option<XdpMode>, note: Option<&str>) -> InterfaceView {
    InterfaceView { name: name.into(), index, mode, up: true, note: note.map(str::to_owned) }
}

pub(crate) fn service(name: &str, vip: &str) -> ServiceView {
    ServiceView {
        flow_tracking: FlowTracking::Auto,
        on_no_backends: OnNoBackends::Reject,
        hairpin: Hairpin::Auto,
        moving: crate::report::documents::MovingView::default(),
        name: name.into(),
        vip: vip.parse().unwrap(),
        protocol: Protocol::Tcp,
        mode: Mode::FullNat,
        snat_addresses: vec![],
        affinity: Affinity::None,
        quic: None,
        allow: vec![],
        deny: vec![],
        new_flow_rate: 0,
        new_flow_burst: 0,
        max_flows: 0,
        panic_threshold: 0,
        circuit_breaker: None,
        slow_start: None,
        on_down: model::OnDown::Auto,
        down_grace: Some(Duration::from_secs(2)),
        down_timeout: None,
        agent: None,
        feedback: None,
        panic: None,
        health_check: HealthCheck::new(Probe::Http(model::Http::get("/healthz"))),
        admin: AdminState::Enabled,
        discovery: None,
        origin: Origin::File,
        leaving: false,
        unused: vec![],
        backends: 2,
        backends_serving: 2,
        ring_slots: 251,
        traffic: TrafficView { packets_in: 1000, bytes_in: 64_000, new_flows: 10, ..Default::default() },
    }
}

pub(crate) fn backend(service: &str, address: &str) -> BackendView {
    BackendView {
        flows_known_in_seconds: None,
        service: service.into(),
        address: address.parse().unwrap(),
        weight: 100,
        weight_ratio: 1.0,
        server_id: None,
        backup: false,
        max_flows: 0,
        share: 0.5,
        portion: 1.0,
        tried_in_seconds: None,
        ejections: 0,
        agent: None,
        state: BackendState::Up,
        reason: "HTTP 200 in 1.2 ms".into(),
        since_seconds: 312,
        admin: AdminState::Enabled,
        health: HealthState::Up,
        check_latency_seconds: Some(0.0012),
        check_latency_average_seconds: Some(0.0013),
        next_hop: Some(NextHopView {
            interface: "eth1".into(),
            mac: "02:00:00:00:00:11".into(),
            vlan: None,
            mtu: 1500,
        }),
        origin: Origin::File,
        leaving: false,
        leaves_in_seconds: None,
        flows: 42,
        traffic: TrafficView {
            packets_in: 500,
            bytes_in: 32_000,
            new_flows: 5,
            packets_per_second: 1234.0,
            bytes_per_second: 3_400_000.0,
            new_flows_per_second: 12.0,
            ..Default::default()
        },
    }
}

fn counters() -> CountersView {
    let counters = xdp_lb_common::reason::Reason::ALL.iter().map(|reason| CounterView {
        name: reason.name().into(),
        verdict: reason.kind().name().into(),
        packets: *reason as u64 * 10,
        meaning: reason.words().into(),
    });
    CountersView { counters: counters.collect() }
}

fn done(message: String) -> Outcome {
    Outcome { message, changed: true, trouble: None }
}
