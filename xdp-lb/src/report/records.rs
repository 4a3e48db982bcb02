//! The flow records, in memory of their own: they are read while others use them.

use xdp_lb_common::flow_table::record::Record;

use crate::datapath;

/// The flow records, as a trait: what lists them is tested without a kernel.
pub trait FlowRecords: Send + Sync {
    /// Shows each of them.
    fn read(&self, visit: &mut dyn FnMut(&Record));
}

impl FlowRecords for datapath::FlowRecords {
    fn read(&self, visit: &mut dyn FnMut(&Record)) {
        datapath::FlowRecords::read(self, visit);
    }
}
