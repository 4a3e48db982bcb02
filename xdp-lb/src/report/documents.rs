//! The JSON documents of the API, which are also what `--output json` prints. Stable: fields are
//! added, never renamed or removed within `/v1`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::health::{AgentAdmin, AgentOperation};
use crate::model::change::{ServiceChange, SettingChange};
use crate::model::state::{
    AdminState, BackendState, FlowStage, HealthState, Origin, TroubleKind, UpgradeState, VipState,
};
use crate::model::{
    Affinity, Agent, CircuitBreaker, Discovery, Feedback, FlowTracking, Hairpin, HealthCheck, Mode, OnDown,
    OnNoBackends, Prefix, Protocol, Quic, ServerId, Vip, XdpMode,
};
use crate::overlay::Leave;

/// The daemon on one screen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Whether the daemon took over tables that were pinned already.
    pub adopted: bool,
    /// The config file.
    pub config_file: String,
    /// The bpffs directory of the pins.
    pub pin_path: String,
    /// What is wrong with the daemon's part of forwarding, in one line; null where nothing is.
    pub trouble: Option<String>,
    /// The same, one for each kind of trouble.
    #[serde(default)]
    pub troubles: Vec<TroubleView>,
    /// How many entries of tables, pins and attachments were found to be missing or changed since the daemon started, and
    /// were restored.
    #[serde(default)]
    pub restored: u64,
    /// What the operator wants of the node: while it is drained, its VIPs are withdrawn.
    #[serde(default)]
    pub admin: AdminState,
    /// What became of the last upgrade that this daemon was part of.
    #[serde(default)]
    pub upgrade: Option<UpgradeView>,
    /// The interfaces.
    pub interfaces: Vec<InterfaceView>,
    /// The VIPs that the daemon puts on this host, by address; none where the config names no `vips.interface`.
    #[serde(default)]
    pub vips: Vec<VipView>,
    /// The services, by name.
    pub services: Vec<ServiceView>,
    /// The backends, by service and address.
    pub backends: Vec<BackendView>,
    /// How full the tables are.
    pub tables: Vec<TableView>,
    /// Packets that were dropped, all reasons together.
    pub dropped_packets: u64,
    /// Packets that were passed to the host, all reasons together.
    pub passed_packets: u64,
}

/// Something that is wrong with the daemon's part of forwarding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TroubleView {
    /// Of which kind.
    pub kind: TroubleKind,
    /// What is wrong, and what to do.
    pub message: String,
    /// Seconds since it began.
    pub since_seconds: u64,
}

/// An interface that the program is to be attached to.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its index; 0 where the program is not attached.
    pub index: u32,
    /// How the program is attached, native or generic; `None` where it is not attached.
    pub mode: Option<XdpMode>,
    /// Whether the link is up and has a carrier.
    pub up: bool,
    /// Why the program is not attached, or why it is not native, where `xdp_mode = "auto"` had to fall back.
    pub note: Option<String>,
}

/// An upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpgradeView {
    /// How far it is.
    pub state: UpgradeState,
    /// What happened, in words.
    pub message: String,
}

/// A VIP that the daemon sees to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VipView {
    /// The address.
    pub address: IpAddr,
    /// Whether it is an address of this host.
    pub state: VipState,
    /// The interface that has it.
    pub interface: Option<String>,
    /// Whether the daemon added it, and so takes it away again. It leaves alone what somebody else added.
    pub added_by_daemon: bool,
    /// Why it is not as it should be.
    pub note: Option<String>,
}

/// How full a table is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TableView {
    /// `services`, `backends`, `slots`, `flows` or `source_ranges`.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Entries that fit (`limits`).
    pub size: u64,
}

/// Packets, bytes and flows since the tables were made, and their recent rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrafficView {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Flows that began.
    pub new_flows: u64,
    /// SYNs that backends accepted, where their replies pass this host.
    #[serde(default)]
    pub accepted: u64,
    /// Connections that backends refused or reset.
    #[serde(default)]
    pub resets: u64,
    /// Packets a second, both ways, over the last few seconds.
    pub packets_per_second: f64,
    /// Bytes a second, both ways, over the last few seconds.
    pub bytes_per_second: f64,
    /// New flows a second over the last few seconds.
    pub new_flows_per_second: f64,
}

/// A service as it stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// What clients connect to.
    pub vip: Vip,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The forwarding mode.
    pub mode: Mode,
    /// The addresses that backends see, where they are named.
    pub snat_addresses: Vec<IpAddr>,
    /// Which of its flows stay together on one backend.
    #[serde(default)]
    pub affinity: Affinity,
    /// How QUIC's connection ids name its backends, where they are looked at.
    #[serde(default)]
    pub quic: Option<Quic>,
    /// The clients that it lets in; empty: all but those that it denies.
    #[serde(default)]
    pub allow: Vec<Prefix>,
    /// The clients that it does not let in.
    #[serde(default)]
    pub deny: Vec<Prefix>,
    /// Maximum number of new flows per second from one client; 0: unlimited.
    #[serde(default)]
    pub new_flow_rate: u32,
    /// How many of them at once; 0: as many as in a second.
    #[serde(default)]
    pub new_flow_burst: u32,
    /// Where fewer of its backends are up than this, in percent, backups take flows, and then those that are down.
    #[serde(default)]
    pub panic_threshold: u8,
    /// When a backend gets no new flows for a while, beyond what its health check says.
    #[serde(default)]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// Over which time a backend that comes back gets its share of new flows; null: at once.
    #[schemars(with = "Option<String>")]
    #[serde(default, with = "crate::model::text::duration_option")]
    pub slow_start: Option<Duration>,
    /// What becomes of the established flows of a backend that is down.
    #[serde(default)]
    pub on_down: OnDown,
    /// How long a backend that is down has to leave its clients without any answer before its flows end, where its mode and
    /// `on_down` look at that; null elsewhere.
    #[schemars(with = "Option<String>")]
    #[serde(default, with = "crate::model::text::duration_option")]
    pub down_grace: Option<Duration>,
    /// How long a backend is down before its flows end, where its mode and `on_down` look at that; null elsewhere.
    #[schemars(with = "Option<String>")]
    #[serde(default, with = "crate::model::text::duration_option")]
    pub down_timeout: Option<Duration>,
    /// How its backends are asked how they are, where they are.
    #[serde(default)]
    pub agent: Option<Agent>,
    /// What weights follow beside agents, and how that is damped; null: nothing, and as by default.
    #[serde(default)]
    pub feedback: Option<Feedback>,
    /// Why backends that are down take new flows, where they do.
    #[serde(default)]
    pub panic: Option<String>,
    /// Maximum number of concurrent flows; 0: unlimited.
    #[serde(default)]
    pub max_flows: u32,
    /// How its backends are checked.
    pub health_check: HealthCheck,
    /// What the operator wants of it.
    #[serde(default)]
    pub admin: AdminState,
    /// How its backends are found beside those that are listed, and how that goes.
    #[serde(default)]
    pub discovery: Option<DiscoveryView>,
    /// Whether it stands in the config file (`file`) or was added by the CLI (`runtime`).
    pub origin: Origin,
    /// Whether it was removed and keeps its flows until they end.
    #[serde(default)]
    pub leaving: bool,
    /// Which of its backends are not used, and why: those that wait for room, or that were found and break a rule. A line
    /// for each.
    #[serde(default)]
    pub unused: Vec<String>,
    /// How many backends it has.
    pub backends: u32,
    /// How many of them take new flows.
    pub backends_serving: u32,
    /// How many slots its ring has.
    pub ring_slots: u32,
    /// Which of its flows are recorded.
    pub flow_tracking: FlowTracking,
    /// What becomes of new flows while no backend takes any.
    #[serde(default)]
    pub on_no_backends: OnNoBackends,
    /// `nat`: whether clients beside a backend reach it from an address of this host.
    pub hairpin: Hairpin,
    /// How far its slots are from rest.
    pub moving: MovingView,
    /// Its traffic.
    pub traffic: TrafficView,
}

/// A service's discovery as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiscoveryView {
    /// How backends are found, as the config has it.
    pub config: Discovery,
    /// What is looked at, in words: `dns SRV _http._tcp.example.com`.
    pub source: String,
    /// How many backends are found and used, whatever their state.
    pub found: u32,
    /// How many were found once, are not any more, and keep their flows until those end.
    pub leaving: u32,
    /// How many were found and wait for room: until some of those that leave have gone.
    #[serde(default)]
    pub waiting: u32,
    /// How many of the found are missing from the last answer and still count as there (`hold`).
    #[serde(default)]
    pub held: u32,
    /// What is odd about the answers: that they differ from each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// What was found and is not used: why, a line each.
    pub refused: Vec<String>,
    /// Seconds since the last good answer; absent where there was none since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_seconds: Option<u64>,
    /// Seconds until it is looked up again; absent where there is no such time, as for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_lookup_seconds: Option<u64>,
    /// Seconds since which it fails; absent where the last answer was good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_seconds: Option<u64>,
    /// Why it fails, in words. What was found before stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Good answers since the daemon started.
    pub answers: u64,
    /// Failures since the daemon started.
    pub failures: u64,
}

/// The slots of a ring that are not settled, since their owner has changed recently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MovingView {
    /// Slots of which a flow may have no record yet.
    pub moving_slots: u32,
    /// Slots that wait for the last flow that is not their owner's.
    pub recorded_slots: u32,
    /// Seconds until none is of the first kind; absent where none is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_recorded_in_seconds: Option<u64>,
}

/// A service with its backends.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceDetailView {
    /// The service.
    pub service: ServiceView,
    /// Its backends, by address.
    pub backends: Vec<BackendView>,
}

/// A backend as it stands.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackendView {
    /// Its service.
    pub service: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: u16,
    /// How much of its weight counts, 0 to 2: 1 where that follows nothing.
    #[serde(default = "whole")]
    pub weight_ratio: f64,
    /// What it is called in QUIC's connection ids.
    #[serde(default)]
    pub server_id: Option<ServerId>,
    /// Whether it takes new flows only where too few others are up.
    #[serde(default)]
    pub backup: bool,
    /// Maximum number of concurrent flows; 0: unlimited.
    #[serde(default)]
    pub max_flows: u32,
    /// Its part of the ring, 0 to 1: the share of new flows that it gets.
    pub share: f64,
    /// What it gets of the share that its weight gives it, 0 to 1: less than 1 while it warms up.
    #[serde(default = "whole")]
    pub portion: f64,
    /// What it does now.
    pub state: BackendState,
    /// Seconds until it is tried again, where its circuit breaker is open; 0: as soon as its check succeeds.
    #[serde(default)]
    pub tried_in_seconds: Option<u64>,
    /// How often its circuit breaker has opened since the daemon started.
    #[serde(default)]
    pub ejections: u64,
    /// What its agent says, where it has one.
    #[serde(default)]
    pub agent: Option<AgentView>,
    /// Why it is in this state, in words.
    pub reason: String,
    /// Seconds since it came into this state.
    pub since_seconds: u64,
    /// What the operator wants of it.
    pub admin: AdminState,
    /// What its health check says.
    pub health: HealthState,
    /// How long the last check took, in seconds.
    pub check_latency_seconds: Option<f64>,
    /// How long checks took recently: a moving average, in seconds; null where there were too few.
    #[serde(default)]
    pub check_latency_average_seconds: Option<f64>,
    /// Where packets to it are sent.
    pub next_hop: Option<NextHopView>,
    /// Whether it stands in the config file or was added by the CLI.
    pub origin: Origin,
    /// Whether it was removed, or is not found any more, and keeps its flows until they end.
    #[serde(default)]
    pub leaving: bool,
    /// Seconds until one that leaves is removed with the flows that it still has.
    #[serde(default)]
    pub leaves_in_seconds: Option<u64>,
    /// Recorded flows that live now.
    pub flows: u64,
    /// Seconds until every flow that it still has from before its slots moved has ended or is among those; null
    /// where that is so now. A backend that drains in a service of `flow_tracking = "auto"` is the common case.
    #[serde(default)]
    pub flows_known_in_seconds: Option<u64>,
    /// Its traffic.
    pub traffic: TrafficView,
}

/// What a backend's agent has said so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentView {
    /// Whether it wants flows.
    pub admin: AgentAdmin,
    /// Whether the backend works.
    pub operation: AgentOperation,
    /// How much of its weight it wants, in percent, 0 to 200.
    pub percent: u16,
    /// The description of its last line.
    pub note: Option<String>,
    /// Why its last answer is not known; what it said before holds.
    pub trouble: Option<String>,
    /// Seconds since it said something else than before; null where nothing was heard of it yet.
    pub since_seconds: Option<u64>,
}

const fn whole() -> f64 {
    1.0
}

/// Where packets to a backend are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NextHopView {
    /// The interface's name.
    pub interface: String,
    /// The next hop's Ethernet address.
    pub mac: String,
    /// The VLAN id of frames to it.
    pub vlan: Option<u16>,
    /// The MTU towards it, bytes of IP.
    pub mtu: u32,
}

/// How what a change takes away leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemovalQuery {
    /// At once, with its flows; else it drains.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
}

impl RemovalQuery {
    /// How it leaves.
    pub const fn leave(self) -> Leave {
        if self.now { Leave::Now } else { Leave::Drain }
    }
}

/// What a reload did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadView {
    /// One line for each change, in words; empty where nothing changes.
    pub changes: Vec<String>,
    /// Keys whose change cannot be made while the daemon runs, which stay as they are.
    pub needs_restart: Vec<String>,
    /// One line for each thing to see to, in words: what a key above takes, or what could not be done yet.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The keys outside of the services whose values are others, those that stay as they are too.
    #[serde(default)]
    pub settings: Vec<SettingChange>,
    /// The services that are others, by name.
    #[serde(default)]
    pub services: Vec<ServiceChange>,
    /// What is wrong with the daemon's part of forwarding, looked at after the reload; absent where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The running configuration, and what of it was changed at runtime.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigView {
    /// The config file.
    pub file: String,
    /// What holds now, as a config file would say it, with where each value comes from as a comment. Secrets are left out.
    pub toml: String,
    /// One line for each runtime change, in words; empty where there is none.
    pub changes: Vec<String>,
    /// The services that were changed at runtime, by name, against what the config file says.
    pub services: Vec<ServiceChange>,
}

/// The recorded flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsView {
    /// How many match.
    pub matching: u64,
    /// As many of them as were asked for, by service, backend and client.
    pub flows: Vec<FlowView>,
    /// The cursor of the next page; absent where this is the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A recorded flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// Its service.
    pub service: String,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The client's address and port.
    pub client: SocketAddr,
    /// What the client sends to.
    pub vip: SocketAddr,
    /// The backend that its packets go to.
    pub backend: SocketAddr,
    /// Whom the backend sees: the client, or in `full-nat` an address of this host.
    pub seen_from: SocketAddr,
    /// How far it has come.
    pub stage: FlowStage,
    /// Seconds since its last packet was noted.
    pub idle_seconds: u32,
}

/// Every counter of passes and drops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CountersView {
    /// One for each reason, in a stable order.
    pub counters: Vec<CounterView>,
}

/// One reason's counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CounterView {
    /// The reason's name.
    pub name: String,
    /// `pass` or `drop`.
    pub verdict: String,
    /// Packets.
    pub packets: u64,
    /// What it means, and what to do.
    pub meaning: String,
}

/// An error's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorView {
    /// What was wrong and what to do.
    pub error: String,
}
