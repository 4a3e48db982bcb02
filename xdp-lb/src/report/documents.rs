//! The JSON documents of the API, which are also what `--output json` prints. Stable: fields are
//! added, never renamed or removed within `/v1`.

#![expect(unused_qualifications, reason = "schemars qualifies the functions that make schemas")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::options::{self, OF_BACKEND, OF_SERVICE};
use crate::health::{AgentAdmin, AgentOperation};
use crate::model::change::{ServiceChange, SettingChange};
use crate::model::state::{
    AdminState, BackendState, FlowStage, HealthState, Origin, TroubleKind, UpgradeState, VipState,
};
use crate::model::{Attach, Backend, Discovery, Protocol, Service};
use crate::overlay::Leave;

/// The daemon on one screen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatusView {
    /// The daemon's version.
    pub version: String,
    /// The name of the daemon's host; empty if unknown.
    #[serde(default)]
    pub host: String,
    /// The daemon's process ID.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Whether the daemon took over pinned tables.
    pub adopted: bool,
    /// The config file.
    pub config_file: String,
    /// The bpffs directory of the pins.
    pub pin_path: String,
    /// The troubles with forwarding, in one line; null if there are none.
    pub trouble: Option<String>,
    /// The same, one for each kind of trouble.
    #[serde(default)]
    pub troubles: Vec<TroubleView>,
    /// Table entries, pins and attachments that the daemon restored after something else removed or changed them,
    /// since it started.
    #[serde(default)]
    pub restored: u64,
    /// The state set by the operator: while the node is drained, its VIPs are withdrawn.
    #[serde(default)]
    pub admin: AdminState,
    /// The last upgrade of this daemon.
    #[serde(default)]
    pub upgrade: Option<UpgradeView>,
    /// The last reload of the config file.
    #[serde(default)]
    pub reload: LastReloadView,
    /// The interfaces.
    pub interfaces: Vec<InterfaceView>,
    /// The VIPs that the daemon manages, by address; none without `vips.interface`.
    #[serde(default)]
    pub vips: Vec<VipView>,
    /// The services, by name.
    pub services: Vec<ServiceView>,
    /// The backends, by service and address.
    pub backends: Vec<BackendView>,
    /// How full the tables are.
    pub tables: Vec<TableView>,
    /// How much memory all BPF tables together take, as the kernel accounts for it, bytes; null if it does not tell.
    #[serde(default)]
    pub tables_bytes: Option<u64>,
    /// Packets that were dropped, all reasons together.
    pub dropped_packets: u64,
    /// Packets that were passed to the host, all reasons together.
    pub passed_packets: u64,
    /// Packets dropped per second, over the last few seconds.
    #[serde(default)]
    pub dropped_per_second: f64,
    /// Packets passed to the host per second, over the last few seconds.
    #[serde(default)]
    pub passed_per_second: f64,
}

/// How much of the status is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatusQuery {
    /// Without the services and backends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub brief: bool,
}

/// A trouble with forwarding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TroubleView {
    /// Its kind.
    pub kind: TroubleKind,
    /// What is wrong, and what to do.
    pub message: String,
    /// Seconds since it began.
    pub since_seconds: u64,
}

/// A configured interface.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceView {
    /// Its name.
    pub name: String,
    /// Its index; 0 if the load balancer is not attached.
    pub index: u32,
    /// How the load balancer is attached, never `auto`; `None` if it is not.
    pub mode: Option<Attach>,
    /// Whether the link is up and has a carrier.
    pub up: bool,
    /// Why the load balancer is not attached, or why `attach = "auto"` did not choose XDP.
    pub note: Option<String>,
}

/// The last reload of the config file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastReloadView {
    /// When the config file was last read with success, at a reload or the start: seconds of Unix time.
    pub success_time: u64,
    /// Why the last reload failed; null if it did not, or there was none.
    pub error: Option<String>,
}

/// How the health checks of a backend ended, since the daemon started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChecksView {
    /// The backend answered as it should.
    pub passed: u64,
    /// It did not.
    pub failed: u64,
    /// This host could not make the check.
    pub not_made: u64,
}

/// How many of something took how long.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistogramView {
    /// By their duration, in ascending order; each in one bucket.
    pub buckets: Vec<BucketView>,
    /// All together, in seconds.
    pub sum: f64,
    /// How many there were.
    pub count: u64,
}

/// One bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BucketView {
    /// The longest, in seconds; null: any that is longer than those of the bucket before.
    pub up_to: Option<f64>,
    /// How many.
    pub count: u64,
}

/// An upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpgradeView {
    /// Its stage.
    pub state: UpgradeState,
    /// What happened, in words.
    pub message: String,
}

/// A VIP that the daemon manages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VipView {
    /// The address.
    pub address: IpAddr,
    /// Whether it is an address of this host.
    pub state: VipState,
    /// The interface that has it.
    pub interface: Option<String>,
    /// Whether the daemon added it, and so removes it again. It leaves other addresses alone.
    pub added_by_daemon: bool,
    /// Why it is not in the expected state.
    pub note: Option<String>,
}

/// Packets that the kernel dropped after the program's verdict, of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LossView {
    /// The interface that was to transmit them.
    pub interface: String,
    /// The program's verdict: `redirect`, `transmit` (by the interface that they came in by) or `other`.
    pub verdict: String,
    /// Why, as an error number (errno(3)); 0: the kernel does not tell.
    pub error: u32,
    /// How many, since the daemon started.
    pub packets: u64,
    /// The usual cause, in words.
    pub cause: String,
    /// What to do.
    pub fix: String,
}

/// How full a table is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TableView {
    /// `services`, `backends`, `slots`, `flows` or `source_ranges`.
    pub name: String,
    /// Entries in use.
    pub used: u64,
    /// Capacity, in entries (`limits`).
    pub size: u64,
}

/// Packets, bytes and flows since the tables were created, and their recent rate.
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
    /// New flows.
    pub new_flows: u64,
    /// SYNs that backends accepted, if their replies pass this host.
    #[serde(default)]
    pub accepted: u64,
    /// Connections that backends refused or reset.
    #[serde(default)]
    pub resets: u64,
    /// Packets per second, in both directions, over the last few seconds.
    pub packets_per_second: f64,
    /// Bytes per second, in both directions, over the last few seconds.
    pub bytes_per_second: f64,
    /// New flows per second over the last few seconds.
    pub new_flows_per_second: f64,
    /// Connections per second that backends refused or reset, over the last few seconds.
    #[serde(default)]
    pub resets_per_second: f64,
}

/// A service and its current state.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its options, with the health check and the times that are in effect. Discovery and backends have their own fields.
    #[serde(flatten, with = "options")]
    #[schemars(schema_with = "OF_SERVICE")]
    pub options: Service,
    /// Why backends that are down take new flows, if they do.
    #[serde(default)]
    pub panic: Option<String>,
    /// The state set by the operator.
    #[serde(default)]
    pub admin: AdminState,
    /// How additional backends are found, and the state of that.
    #[serde(default)]
    pub discovery: Option<DiscoveryView>,
    /// Whether it is in the config file (`file`) or was added by the CLI (`runtime`).
    pub origin: Origin,
    /// Whether it was removed and is draining.
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
    /// Its slots that are not settled.
    pub moving: MovingView,
    /// How long its successful health checks took, since the daemon started; null if there were none.
    #[serde(default)]
    pub check_seconds: Option<HistogramView>,
    /// Its traffic.
    pub traffic: TrafficView,
}

/// Its options are read as its own.
impl Deref for ServiceView {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.options
    }
}

/// A service's discovery and its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiscoveryView {
    /// How backends are found, as the config has it.
    pub config: Discovery,
    /// Where backends are looked up, in words: `dns SRV _http._tcp.example.com`.
    pub source: String,
    /// Discovered backends in use, in any state.
    pub found: u32,
    /// Backends that are no longer found and are draining.
    pub leaving: u32,
    /// Backends that were found and wait until draining ones have gone.
    #[serde(default)]
    pub waiting: u32,
    /// Backends that are missing from the last answer and are kept (`hold`).
    #[serde(default)]
    pub held: u32,
    /// Whether answers vary between lookups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Discovered backends that are not used, with the reason, a line each.
    pub refused: Vec<String>,
    /// Seconds since the last successful lookup; absent if there was none since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer_seconds: Option<u64>,
    /// Seconds until the next lookup; absent for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_lookup_seconds: Option<u64>,
    /// Seconds since lookups have been failing; absent if the last one succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_seconds: Option<u64>,
    /// Why lookups fail, in words. Known backends stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Successful lookups since the daemon started.
    pub answers: u64,
    /// Failed lookups since the daemon started.
    pub failures: u64,
}

/// The slots of a ring that are not settled, because they have moved recently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MovingView {
    /// Slots of which a flow may have no record yet.
    pub moving_slots: u32,
    /// Slots that still carry flows of their previous backend.
    pub recorded_slots: u32,
    /// Seconds until there are no slots of the first kind; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all_recorded_in_seconds: Option<u64>,
}

/// A service with its backends.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceDetailView {
    /// The service.
    pub service: ServiceView,
    /// Every option of it by its key in the config file, with its default where none is written; null or `none` where there is no value.
    #[serde(default)]
    pub options: BTreeMap<String, Value>,
    /// Its backends, by address.
    pub backends: Vec<BackendView>,
}

/// A backend and its current state.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackendView {
    /// Its service.
    pub service: String,
    /// Its options.
    #[serde(flatten, with = "options")]
    #[schemars(schema_with = "OF_BACKEND")]
    pub options: Backend,
    /// The current part of its weight, 0 to 2; 1 unless its weight is adjusted.
    #[serde(default = "whole")]
    pub weight_ratio: f64,
    /// Its share of the ring, 0 to 1, which is its share of new flows.
    pub share: f64,
    /// The part that it gets of the share of its weight, 0 to 1; less than 1 during slow start.
    #[serde(default = "whole")]
    pub portion: f64,
    /// Its state.
    pub state: BackendState,
    /// Seconds until its trial, if its circuit breaker is open; 0: as soon as its check succeeds.
    #[serde(default)]
    pub tried_in_seconds: Option<u64>,
    /// Times its circuit breaker has opened since the daemon started.
    #[serde(default)]
    pub ejections: u64,
    /// Its agent's replies, if it has one.
    #[serde(default)]
    pub agent: Option<AgentView>,
    /// Why it is in this state, in words.
    pub reason: String,
    /// Seconds since it entered this state.
    pub since_seconds: u64,
    /// The state set by the operator.
    pub admin: AdminState,
    /// Its health, according to its check.
    pub health: HealthState,
    /// How its checks ended.
    #[serde(default)]
    pub checks: ChecksView,
    /// Duration of the last check, in seconds.
    pub check_latency_seconds: Option<f64>,
    /// Moving average of the duration of checks, in seconds; null if there were too few.
    #[serde(default)]
    pub check_latency_average_seconds: Option<f64>,
    /// Where packets to it are sent.
    pub next_hop: Option<NextHopView>,
    /// Whether it is in the config file or was added by the CLI.
    pub origin: Origin,
    /// Whether it was removed, or is no longer found, and is draining.
    #[serde(default)]
    pub leaving: bool,
    /// Seconds until a draining backend is removed even if it still has flows.
    #[serde(default)]
    pub leaves_in_seconds: Option<u64>,
    /// Active recorded flows.
    pub flows: u64,
    /// Whether each of its active flows is recorded, so that `flows` is their number. False for a backend with settled slots,
    /// unless its service records all flows.
    #[serde(default = "yes")]
    pub flows_complete: bool,
    /// Seconds until every flow from before its slots moved is recorded or has ended; null if that is the case now. It is
    /// typically set for a draining backend in a service with `flow_tracking = "auto"`.
    #[serde(default)]
    pub flows_known_in_seconds: Option<u64>,
    /// Its traffic.
    pub traffic: TrafficView,
}

/// Its options are read as its own.
impl Deref for BackendView {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.options
    }
}

/// The replies of a backend's agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentView {
    /// Whether it wants new flows.
    pub admin: AgentAdmin,
    /// Whether the backend works.
    pub operation: AgentOperation,
    /// The wanted part of its weight, in percent, 0 to 200.
    pub percent: u16,
    /// The description of its last line.
    pub note: Option<String>,
    /// Why its last reply is unknown; the previous one stays in effect.
    pub trouble: Option<String>,
    /// Seconds since its reply changed; null if there was none yet.
    pub since_seconds: Option<u64>,
}

const fn whole() -> f64 {
    1.0
}

const fn yes() -> bool {
    true
}

/// Where packets to a backend are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NextHopView {
    /// The interface's name.
    pub interface: String,
    /// The next hop's Ethernet address.
    pub mac: String,
    /// The VLAN ID of frames to it.
    pub vlan: Option<u16>,
    /// The MTU towards it, bytes of IP.
    pub mtu: u32,
}

/// How removed services and backends leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemovalQuery {
    /// At once, with its flows; otherwise it drains.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
}

impl RemovalQuery {
    /// How it leaves.
    pub const fn leave(self) -> Leave {
        if self.now { Leave::Now } else { Leave::Drain }
    }
}

/// How much of the running configuration is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfigQuery {
    /// Also the values that are the default.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// What a reload did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReloadView {
    /// One line for each change, in words; empty if nothing changes.
    pub changes: Vec<String>,
    /// Changed keys that a reload cannot change, and that keep their values.
    pub needs_restart: Vec<String>,
    /// One line for each thing that needs attention, in words: what a key above needs, or what could not be done yet.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The changed keys outside of the services, including those that a reload cannot change.
    #[serde(default)]
    pub settings: Vec<SettingChange>,
    /// The changed services, by name.
    #[serde(default)]
    pub services: Vec<ServiceChange>,
    /// One line for each change in the file since the daemon read it that has no effect, because a runtime change overrides
    /// it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overridden: Vec<String>,
    /// The troubles with forwarding after the reload; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl ReloadView {
    /// The changed settings that a reload cannot change, a line each, with what they need.
    pub fn beyond_reload(&self) -> impl Iterator<Item = String> {
        self.settings.iter().filter_map(|it| it.takes.as_ref().map(|takes| format!("{it} (needs {takes})")))
    }
}

/// The running configuration, and its runtime changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigView {
    /// The config file.
    pub file: String,
    /// The running configuration as a config file, with the origin of each value as a comment. Secrets are left out.
    pub toml: String,
    /// One line for each runtime change; empty if there are none.
    pub changes: Vec<String>,
    /// The services changed at runtime, by name, compared with the config file.
    pub services: Vec<ServiceChange>,
}

/// The tracked flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlowsView {
    /// How many match.
    pub matching: u64,
    /// The requested number of them, by service, backend and client.
    pub flows: Vec<FlowView>,
    /// The cursor of the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A tracked flow.
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
    /// The source that the backend sees: the client, or in `full-nat` an address of this host.
    pub seen_from: SocketAddr,
    /// Its stage.
    pub stage: FlowStage,
    /// Seconds since its last packet.
    pub idle_seconds: u32,
}

/// Every counter of passes and drops.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CountersView {
    /// One for each reason, in a stable order.
    pub counters: Vec<CounterView>,
    /// Packets that the kernel dropped after the program's verdict, by interface and error, since the daemon started.
    #[serde(default)]
    pub losses: Vec<LossView>,
}

/// One reason's counter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CounterView {
    /// The reason's name.
    pub name: String,
    /// `pass`, `drop` or `answer`.
    pub verdict: String,
    /// Packets.
    pub packets: u64,
    /// Packets per second over the last few seconds.
    #[serde(default)]
    pub packets_per_second: f64,
    /// What it means, and what to do.
    pub meaning: String,
}

/// What part of the past is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Of this service; without it, of all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How far back.
    #[serde(default)]
    pub span: HistorySpan,
    /// Only the last points, at most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub points: Option<u32>,
}

/// How far back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HistorySpan {
    /// 10 minutes, a point a second.
    #[default]
    #[serde(rename = "10m")]
    TenMinutes,
    /// 24 hours, a point for 15 seconds.
    #[serde(rename = "24h")]
    Day,
}

/// Rates of the recent past. The last item of each list is the latest point, `age_seconds` ago. A list begins with the daemon,
/// or with the first packet, so it may be shorter than the span, or empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HistoryView {
    /// The service; null for all together.
    pub service: Option<String>,
    /// Seconds from one point to the next.
    pub step_seconds: u32,
    /// Seconds since the latest point.
    pub age_seconds: u64,
    /// Packets per second, in both directions.
    pub packets_per_second: Vec<f32>,
    /// Bytes per second, in both directions.
    pub bytes_per_second: Vec<f32>,
    /// New flows per second.
    pub new_flows_per_second: Vec<f32>,
    /// Connections per second that backends refused or reset.
    pub resets_per_second: Vec<f32>,
    /// Packets per second that were dropped, answered or passed to the host, for each reason that occurred; only of all
    /// services together.
    pub reasons: BTreeMap<String, Vec<f32>>,
}

/// Who asks, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallerView {
    /// The user or the certificate, in words.
    pub name: String,
    /// Whether it may change things; else it may only look.
    pub admin: bool,
}

/// An error's document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorView {
    /// What was wrong and what to do.
    pub error: String,
}
