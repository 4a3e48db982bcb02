//! The tables for packets that are explained.

use xdp_lb_common::tables::FlowKey;

use crate::datapath::explain::{self, Processed};

/// The tables as a trait, for tests without a kernel.
pub trait LiveTables: Send + Sync {
    /// What would happen to this frame, which arrives on the interface with this index, and whose flow has this key.
    ///
    /// # Errors
    /// If the tables cannot be read.
    fn process(&self, frame: &[u8], ingress: u32, flow: &FlowKey) -> anyhow::Result<Processed>;
}

impl LiveTables for explain::LiveTables {
    fn process(&self, frame: &[u8], ingress: u32, flow: &FlowKey) -> anyhow::Result<Processed> {
        explain::LiveTables::process(self, frame, ingress, flow)
    }
}
