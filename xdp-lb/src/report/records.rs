//! The flow records, read by descriptors of their own: while others use them.

use xdp_lb_common::tables::{FlowKey, FlowRecord, FlowTable};

use crate::datapath;

/// The flow records, as a trait: what lists them is tested without a kernel.
pub trait FlowRecords: Send + Sync {
    /// Shows each of them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn read(&self, visit: &mut dyn FnMut(FlowTable, &FlowKey, &FlowRecord)) -> anyhow::Result<()>;
}

impl FlowRecords for datapath::FlowRecords {
    fn read(&self, visit: &mut dyn FnMut(FlowTable, &FlowKey, &FlowRecord)) -> anyhow::Result<()> {
        datapath::FlowRecords::read(self, visit)
    }
}
