//! What is checked, and what the checks report.

use std::net::SocketAddr;
use std::time::Duration;

use super::agent_line::Said;
use crate::model::{Agent, HealthCheck};

/// Which backend of which service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetId {
    /// The service's name.
    pub service: String,
    /// The backend's address.
    pub backend: SocketAddr,
}

/// What is to be checked, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Which backend.
    pub id: TargetId,
    /// How.
    pub check: HealthCheck,
    /// How its agent is asked, where it has one.
    pub agent: Option<Agent>,
}

/// What a backend's health is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// No check has ended yet. The first one decides at once, without rise or fall.
    Unknown,
    /// Healthy.
    Up,
    /// Not healthy.
    Down,
}

/// News of a backend's agent: the first answer, and each that is another than the one before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentReport {
    /// Which backend's.
    pub id: TargetId,
    /// What it says, or why that is not known, in words.
    pub result: Result<Said, String>,
}

/// The end of one check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Which backend.
    pub id: TargetId,
    /// Its health after this check.
    pub health: Health,
    /// Where this check changed the health, or failed for another reason than was told last: why, in words.
    pub transition: Option<String>,
    /// How long the check took, where it succeeded.
    pub latency: Option<Duration>,
    /// Why the check could not be run, where that was this host's own trouble: it says nothing of the backend.
    pub trouble: Option<String>,
}
