//! The one owner of the daemon's state, and the pure functions that turn state into tables.

mod agent;
mod breaker;
mod discovery;
mod draft;
mod ejection;
pub mod events;
mod evidence;
mod failing;
mod feedback;
mod fleet;
#[cfg(test)]
mod flow_memory;
pub mod flows;
pub mod handle;
pub mod host;
mod interfaces;
pub mod kernel;
mod latency;
mod leaving;
mod orphan;
mod own_macs;
pub mod owner;
pub mod plan;
mod privilege;
mod rates;
mod reload;
mod room;
pub mod run;
mod selection;
mod settling;
mod slow_start;
mod standby;
pub mod tables;
mod traffic;
mod troubles;
mod unknown_flows;
pub mod upgrade;
mod verify;
mod views;
pub mod vips;
pub mod wanted;
mod writes;

pub use handle::Handle;
pub use owner::{Ended, Owner, Parts};
