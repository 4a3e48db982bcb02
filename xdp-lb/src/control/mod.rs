//! The one owner of the daemon's state, and the pure functions that turn state into tables.

pub mod handle;
pub mod plan;
mod room;
pub mod tables;
pub mod wanted;
mod writes;

pub use handle::Handle;
