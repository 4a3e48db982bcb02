//! The datapath in this process, over the live tables, which it reads and does not change: what would become of a packet.
//!
//! It is the very [`process`] that the kernel runs. What it would write, it writes into copies that are dropped with the answer, and each
//! table that it asks is noted, so that its way through the tables can be told.

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
