//! "Where would this packet go?": the datapath's own decisions on a packet that nobody has sent, in words.

mod asker;
mod document;
pub(super) mod frame;
mod spread;
mod steps;
mod tables;

pub use self::document::{ExplainStep, ExplainView, SentView, SpreadView, TunnelView};
pub use self::tables::LiveTables;
