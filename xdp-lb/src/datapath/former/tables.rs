//! What tables of any layout say, in today's terms.

use std::collections::BTreeMap;

use anyhow::Result;
use xdp_lb_common::flow_table::record::Record;
use xdp_lb_common::tables::{BackendIndex, ServiceIndex, Settings, Traffic};

use crate::model::Limits;
use crate::tables::Tables;

/// Tables of another layout. They are only read.
pub trait Former: Send {
    /// How large the new tables have to be.
    fn limits(&self) -> Limits;
    /// What holds for every service.
    fn settings(&self) -> Result<Settings>;
    /// What stands in the tables that the control plane writes, as far as it does not follow from that anyway.
    fn tables(&self) -> Result<Tables>;
    /// What was counted.
    fn counts(&self, tables: &Tables) -> Result<Counts>;
    /// The VLAN devices: device index to parent's index and VLAN id.
    fn vlans(&self) -> Result<BTreeMap<u32, (u32, u16)>>;
    /// Shows every flow record with a packet at this second of the kernel's clock, or later. Where it stands says nothing.
    fn records(&self, since: u32, visit: &mut dyn FnMut(&Record)) -> Result<()>;
}

/// What packets counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// By a reason's number.
    pub reasons: Vec<u64>,
    /// By a backend's place.
    pub backends: BTreeMap<BackendIndex, Traffic>,
    /// What services' former backends counted.
    pub former: BTreeMap<ServiceIndex, Traffic>,
}
