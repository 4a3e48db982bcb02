//! Reading the flow records while the datapath uses them.

use xdp_lb_common::flow_table::record::Record;

use crate::datapath;

/// The flow records as a trait, so that listing them can be tested without a kernel.
pub trait FlowRecords: Send + Sync {
    /// Calls a function with each of them.
    fn read(&self, visit: &mut dyn FnMut(&Record));
}

impl FlowRecords for datapath::FlowRecords {
    fn read(&self, visit: &mut dyn FnMut(&Record)) {
        datapath::FlowRecords::read(self, visit);
    }
}
