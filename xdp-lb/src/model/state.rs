//! The states that things are in, by the names that the API and the metrics give them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xdp_lb_common::tables::flow::Stage;

/// The kinds of trouble.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TroubleKind {
    /// The BPF tables are out of sync with the configuration.
    Tables,
    /// Slots that have moved cannot be settled.
    Settling,
    /// The flow table cannot be read.
    Flows,
    /// Frames for some of the host's MAC addresses are passed to the host.
    OwnMacs,
    /// The program is not attached to a configured interface.
    Interfaces,
    /// Packets arrive at the interfaces, but the program counts none.
    Packets,
    /// Links and tables are not pinned: forwarding would end with the daemon.
    Pins,
    /// The metrics' port is in use.
    Metrics,
    /// The kernel drops packets after the program has forwarded them.
    Losses,
}

impl TroubleKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Tables,
        Self::Settling,
        Self::Flows,
        Self::OwnMacs,
        Self::Interfaces,
        Self::Packets,
        Self::Pins,
        Self::Metrics,
        Self::Losses,
    ];

    /// Its name, as in JSON and metrics; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Settling => "settling",
            Self::Flows => "flows",
            Self::OwnMacs => "own-macs",
            Self::Interfaces => "interfaces",
            Self::Packets => "packets",
            Self::Pins => "pins",
            Self::Metrics => "metrics",
            Self::Losses => "losses",
        }
    }
}

/// How far an upgrade is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeState {
    /// The new daemon checks, or takes over.
    UnderWay,
    /// This daemon has taken over.
    Done,
    /// This daemon continues: the other one did not become ready.
    Failed,
}

/// Whether a VIP is an address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VipState {
    /// It is one.
    Present,
    /// It is not, as intended: it has no backends, or was drained.
    Withdrawn,
    /// It is not, but should be.
    Missing,
    /// It is one, but should not be: something else added it.
    Stays,
}

impl VipState {
    /// The state's name, as in JSON; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Withdrawn => "withdrawn",
            Self::Missing => "missing",
            Self::Stays => "stays",
        }
    }
}

/// Where a service or a backend comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The config file.
    File,
    /// A change through the CLI or the API.
    Runtime,
    /// A backend that a DNS lookup found.
    Dns,
    /// A backend in the file that its service's discovery watches.
    WatchedFile,
}

impl Origin {
    /// The origin's name, as in JSON; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Runtime => "runtime",
            Self::Dns => "dns",
            Self::WatchedFile => "watched-file",
        }
    }
}

/// A backend's state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// It takes new flows.
    Up,
    /// It keeps its flows and gets no new ones.
    Draining,
    /// Its health check failed: it gets nothing.
    Down,
    /// No next hop is known for it: it gets nothing.
    Unresolved,
    /// Its first health check is pending: it gets nothing yet.
    Checking,
    /// A backup that is up while enough others are: it keeps its flows and gets no new ones.
    Standby,
    /// Its health check failed, but it takes new flows because too few others are up.
    Panic,
    /// Its circuit breaker is open: it keeps its flows and gets no new ones for a while.
    Ejected,
    /// Its circuit breaker is half-open: it is tried with a part of its share of new flows.
    HalfOpen,
}

impl BackendState {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Up,
        Self::Draining,
        Self::Down,
        Self::Unresolved,
        Self::Checking,
        Self::Standby,
        Self::Panic,
        Self::Ejected,
        Self::HalfOpen,
    ];

    /// The state's name, as in JSON; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Down => "down",
            Self::Unresolved => "unresolved",
            Self::Checking => "checking",
            Self::Standby => "standby",
            Self::Panic => "panic",
            Self::Ejected => "ejected",
            Self::HalfOpen => "half-open",
        }
    }

    /// Whether it takes new flows.
    pub const fn takes_new_flows(self) -> bool {
        matches!(self, Self::Up | Self::Panic | Self::HalfOpen)
    }
}

/// The state of a backend, a service with all of its backends, or the node with its VIPs, as set by the operator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AdminState {
    /// To serve when it is healthy.
    #[default]
    Enabled,
    /// To keep its flows and get no new ones.
    Draining,
}

impl AdminState {
    /// The state's name, as in JSON; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Draining => "draining",
        }
    }
}

/// What a health check says of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// No check has ended yet.
    Unknown,
    /// Healthy.
    Up,
    /// Not healthy.
    Down,
}

/// A flow's stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlowStage {
    /// One packet of it has been seen.
    HalfOpen,
    /// It has sent more.
    Established,
    /// A side has begun to close it, or has reset it.
    Closing,
}

impl From<Stage> for FlowStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::HalfOpen => Self::HalfOpen,
            Stage::Established => Self::Established,
            Stage::Closing => Self::Closing,
        }
    }
}

impl FlowStage {
    /// The stage's name, as in JSON; stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}
