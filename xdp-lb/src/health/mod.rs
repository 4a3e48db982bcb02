//! Health checks, agents, and the health state machine.

mod agent;
mod agent_line;
mod attempt;
mod checker;
mod failure;
mod probe;
mod state;
mod target;
mod vip_checks;

pub use agent_line::{AgentAdmin, AgentOperation, AgentReply};
pub use checker::Checker;
pub use target::{AgentReport, Health, Report, Target, TargetId};
pub use vip_checks::{CheckDatapath, VipChecks, VipTarget};
