//! Targets of checks, and their reports.

use std::net::SocketAddr;
use std::time::Duration;

use xdp_lb_common::net::Endpoint;
#[cfg(test)]
use xdp_lb_common::net::Protocol;

use super::agent_line::AgentReply;
use crate::model::{Agent, HealthCheck};

/// A backend of a service. A service of the same name at another VIP, or with another protocol, is another service: results for a
/// backend of one do not apply to the other's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId {
    /// The service's name.
    pub service: String,
    /// Its VIP and protocol.
    pub vip: Endpoint,
    /// The backend's address.
    pub backend: SocketAddr,
}

#[cfg(test)]
impl TargetId {
    /// A backend of a service `web`.
    pub fn of_web(backend: SocketAddr) -> Self {
        let vip = SocketAddr::from(([192, 0, 2, 10], 80));
        Self { service: "web".into(), vip: Endpoint::from_socket(vip, Protocol::TCP), backend }
    }
}

/// A backend to check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The backend.
    pub id: TargetId,
    /// The check.
    pub check: HealthCheck,
    /// The agent to query, if it has one.
    pub agent: Option<Agent>,
}

/// A backend's health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// No check has ended yet. The first one decides at once, without rise or fall.
    Unknown,
    /// Healthy.
    Up,
    /// Not healthy.
    Down,
}

/// A new reply of a backend's agent: the first one, and each that differs from the previous one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentReport {
    /// The backend.
    pub id: TargetId,
    /// The reply, or why there is none.
    pub result: Result<AgentReply, String>,
}

/// The result of one check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The backend.
    pub id: TargetId,
    /// Its health after this check.
    pub health: Health,
    /// The reason, if this check changed the health, or failed for another reason than reported last.
    pub transition: Option<String>,
    /// How long a successful check took.
    pub latency: Option<Duration>,
    /// Why this host could not run the check, which is then not the backend's fault.
    pub trouble: Option<String>,
}
