//! Tables of any layout, in the current types.

use std::collections::BTreeMap;

use anyhow::Result;
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::tables::{BackendIndex, ServiceIndex, Settings, Traffic};

use crate::model::Limits;
use crate::tables::Tables;

/// Tables of another layout. They are only read.
pub trait Former: Send {
    /// The sizes for the new tables.
    fn limits(&self) -> Limits;
    /// The settings for all services.
    fn settings(&self) -> Result<Settings>;
    /// The contents of the tables that the control plane writes, unless they follow from the configuration anyway.
    fn tables(&self) -> Result<Tables>;
    /// The counters.
    fn counts(&self, tables: &Tables) -> Result<Counts>;
    /// The VLAN devices: device index to parent's index and VLAN id.
    fn vlans(&self) -> Result<BTreeMap<u32, (u32, u16)>>;
    /// Passes every flow record with a packet at this second of the kernel's clock, or later, to `visit`. Its place does not
    /// matter.
    fn records(&self, since: u32, visit: &mut dyn FnMut(&Record)) -> Result<()>;
}

/// The packet counters.
#[derive(Debug, Default)]
pub struct Counts {
    /// By a reason's number.
    pub reasons: Vec<u64>,
    /// By a backend's index.
    pub backends: BTreeMap<BackendIndex, Traffic>,
    /// The counters of services' former backends.
    pub former: BTreeMap<ServiceIndex, Traffic>,
}
