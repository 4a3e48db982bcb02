//! The owner task of the daemon's state, and its components.

#![forbid(unsafe_code)]

mod attachments;
mod census;
mod discoveries;
pub mod drops;
mod egress;
pub mod events;
mod flow_worker;
mod following;
pub mod handle;
pub mod host;
mod host_addresses;
mod journal;
pub mod kernel;
mod leaving;
pub mod owner;
pub mod parts;
pub mod published;
mod reload;
mod requests;
mod sync;
#[cfg(test)]
pub(crate) mod testing;
pub mod trace;
mod troubles;
mod unknown_flows;
pub mod upgrades;
mod verify;
pub mod vips;

pub use handle::Handle;
pub use owner::Owner;
pub use parts::{Ended, Parts};
