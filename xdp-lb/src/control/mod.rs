//! The one owner of the daemon's state, and the pure functions that turn state into tables.

mod discovery;
pub mod events;
pub mod flows;
pub mod handle;
pub mod host;
mod interfaces;
pub mod kernel;
mod leaving;
mod own_macs;
pub mod owner;
mod reload;
mod traffic;
mod troubles;
mod unknown_flows;
pub mod upgrades;
mod verify;
mod views;
pub mod vips;

pub use handle::Handle;
pub use owner::{Ended, Owner, Parts};
