//! The health checks, and the state machine that they feed.

mod agent;
mod agent_line;
mod attempt;
mod checker;
mod failure;
mod probe;
mod state;
mod target;
mod vip_checks;

pub use agent_line::{AgentAdmin, AgentOperation, Said};
pub use checker::Checker;
pub use target::{AgentReport, Health, Report, Target, TargetId};
pub use vip_checks::{Course, VipChecks, Ways};
