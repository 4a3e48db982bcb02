//! Events for watchers, as documents and as text.

use std::fmt;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{ChangeKind, ServiceChange};
use super::state::{AdminState, BackendState};

/// An event with its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventView {
    /// Its ID for `Last-Event-ID`.
    pub id: String,
    /// When it happened, in UTC (RFC 3339).
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub event: WatchEvent,
}

/// Which of the last events are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// At most so many.
    #[serde(default = "EventQuery::usual")]
    pub limit: u32,
}

impl EventQuery {
    const fn usual() -> u32 {
        100
    }
}

/// What a watcher wants besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WatchQuery {
    /// Also a sample of dropped packets: the first of each reason and source in a second, at most 20 a second.
    pub drops: bool,
}

/// The last events, with those of a restart or a fast sequence left out that the daemon no longer has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EventsView {
    /// The latest last.
    pub events: Vec<EventView>,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum WatchEvent {
    /// A backend changed its state.
    Backend {
        /// Its service.
        service: String,
        /// Where it listens.
        address: SocketAddr,
        /// Its state before; null if it is new.
        before: Option<BackendState>,
        /// For how many seconds it was in that state; null if it is new.
        #[serde(default)]
        before_seconds: Option<f64>,
        /// Its state.
        state: BackendState,
        /// Why.
        reason: String,
    },
    /// The weight of a backend that takes new flows was adjusted.
    Weight {
        /// Its service.
        service: String,
        /// Where it listens.
        address: SocketAddr,
        /// Its configured weight.
        weight: u16,
        /// Its current part of that weight, 1: all of it.
        ratio: f64,
        /// Why.
        reason: String,
    },
    /// A service was added, removed or changed, or one of its backends was.
    Service {
        /// Its name.
        service: String,
        /// How it changed.
        kind: ChangeKind,
        /// A line for each difference, at most 32.
        changes: Vec<String>,
    },
    /// The node was drained, or put back into service.
    Node {
        /// Its administrative state.
        admin: AdminState,
    },
    /// A configured interface came up or went down.
    Interface {
        /// Its name.
        interface: String,
        /// Whether its link is up and has a carrier.
        up: bool,
    },
    /// The config file was reloaded.
    Reload {
        /// How many changes it made.
        changes: u64,
    },
    /// The daemon restored something that was missing or that something else had changed.
    Restored {
        /// What.
        what: String,
    },
    /// Something went wrong with forwarding, or has recovered.
    Trouble {
        /// What is wrong; null if nothing is.
        trouble: Option<String>,
    },
    /// A packet was dropped; only where a watcher has asked for them, and of each reason and source the first in a second.
    Drop {
        /// The name of the reason.
        reason: String,
        /// The reason in words.
        meaning: String,
        /// Who sent it.
        client: SocketAddr,
        /// To whom.
        destination: SocketAddr,
        /// `tcp`, `udp`, or another one's number.
        protocol: String,
        /// The interface that it came in by.
        interface: String,
        /// Its service; null if that is unknown.
        service: Option<String>,
        /// Its backend; null if that is unknown, or none was chosen.
        backend: Option<SocketAddr>,
    },
    /// The reader was too slow, or reconnected after a restart: events are missing here.
    Lost {
        /// How many; null if unknown.
        events: Option<u64>,
    },
}

impl WatchEvent {
    /// Maximum number of changes that an event of a service lists.
    pub(crate) const MOST_CHANGES: usize = 32;

    /// The event of a changed service.
    pub fn of_service(change: &ServiceChange) -> Self {
        let changes = change.lines().into_iter().take(Self::MOST_CHANGES).collect();
        Self::Service { service: change.service.clone(), kind: change.kind, changes }
    }

    /// Its name, as in JSON; stable.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Backend { .. } => "backend",
            Self::Weight { .. } => "weight",
            Self::Service { .. } => "service",
            Self::Node { .. } => "node",
            Self::Interface { .. } => "interface",
            Self::Reload { .. } => "reload",
            Self::Restored { .. } => "restored",
            Self::Trouble { .. } => "trouble",
            Self::Drop { .. } => "drop",
            Self::Lost { .. } => "lost",
        }
    }
}

impl fmt::Display for WatchEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backend { service, address, before, state, reason, .. } => {
                write!(f, "service {service}: backend {address}: ")?;
                if let Some(before) = before {
                    write!(f, "{} -> ", before.name())?;
                }
                write!(f, "{}: {reason}", state.name())
            }
            Self::Weight { service, address, weight, ratio, reason } => {
                let percent = (ratio * 100.0).round();
                write!(
                    f,
                    "service {service}: backend {address}: {percent} % of its weight {weight}: {reason}"
                )
            }
            Self::Service { changes, .. } => f.write_str(&changes.join("; ")),
            Self::Node { admin: AdminState::Draining } => f.write_str("this node was drained"),
            Self::Node { admin: AdminState::Enabled } => f.write_str("this node is back in service"),
            Self::Interface { interface, up: true } => write!(f, "interface {interface}: up"),
            Self::Interface { interface, up: false } => write!(f, "interface {interface}: down"),
            Self::Reload { changes } => write!(f, "reloaded, changes: {changes}"),
            Self::Trouble { trouble: Some(trouble) } => write!(f, "TROUBLE: {trouble}"),
            Self::Trouble { trouble: None } => f.write_str("recovered: all troubles are over"),
            Self::Restored { what } => f.write_str(what),
            Self::Drop { reason, meaning, client, destination, protocol, interface, service, .. } => {
                let service =
                    service.as_ref().map_or_else(String::new, |service| format!("service {service}: "));
                write!(
                    f,
                    "{service}dropped {protocol} {client} > {destination} on {interface}: {reason}: {meaning}"
                )
            }
            Self::Lost { events: Some(events) } => write!(f, "{events} events were lost here"),
            Self::Lost { events: None } => f.write_str("events may have been lost here"),
        }
    }
}
