//! The one owner of the daemon's state, and the pure functions that turn state into tables.

mod fleet;
pub mod handle;
pub mod kernel;
pub mod plan;
mod rates;
mod room;
mod settling;
pub mod tables;
pub mod wanted;
mod writes;

pub use handle::Handle;
