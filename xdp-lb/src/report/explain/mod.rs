//! Explains in words what the datapath would decide about a packet, without sending it.

mod asker;
mod document;
pub(super) mod frame;
mod spread;
mod steps;
mod tables;

pub use self::document::{ExplainStep, ExplainView, SentView, SpreadView, TunnelView};
pub use self::tables::LiveTables;
