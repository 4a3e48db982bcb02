//! Runs the datapath in this process on the live tables, read-only, to find out what would happen to a packet.
//!
//! It is the same [`process`] as in the kernel. Its writes change copies, which are dropped afterwards, and its lookups are
//! recorded, so that the packet's path through the tables can be shown.

#![forbid(unsafe_code)]

mod copies;
mod flows;
mod kept;
mod live;
mod lookup;
mod run;
mod view;

pub use self::live::LiveTables;
pub use self::lookup::Lookup;
pub use self::run::Processed;
