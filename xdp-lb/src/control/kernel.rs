//! What the owner task needs of the datapath, as a trait: its logic is tested without a kernel.

use std::collections::{BTreeMap, HashMap};

use xdp_lb_common::tables::{BackendIndex, ServiceIndex, Traffic};

use super::tables::{Tables, Write};
use crate::config::{PortRange, Timeouts, XdpMode};

/// The program and its tables.
pub trait Kernel: Send {
    /// What stands in the tables.
    fn read(&mut self) -> anyhow::Result<Tables>;
    /// Applies the writes in their order. Where one fails, those before it stay.
    fn apply(&mut self, writes: &[Write]) -> anyhow::Result<()>;
    /// Sets what holds for every service.
    fn configure(&mut self, snat_ports: PortRange, timeouts: Timeouts) -> anyhow::Result<()>;
    /// Tells of the VLAN devices: by their index, the parent's index and the VLAN id.
    fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> anyhow::Result<()>;

    /// Attaches the program to an interface, in the place of one that is attached already.
    fn attach(&mut self, interface: &str, mode: XdpMode) -> anyhow::Result<Attached>;
    /// Takes the program off an interface; that is no error where the interface is gone.
    fn detach(&mut self, interface: &str) -> anyhow::Result<()>;
    /// Detaches the program everywhere and removes the pins.
    fn unload(&mut self) -> anyhow::Result<()>;

    /// Packets by [`Reason`](xdp_lb_common::reason::Reason), in the order of their numbers.
    fn reasons(&mut self) -> anyhow::Result<Vec<u64>>;
    /// A service's traffic.
    fn service_traffic(&mut self, service: ServiceIndex) -> anyhow::Result<Traffic>;
    /// A backend's traffic.
    fn backend_traffic(&mut self, backend: BackendIndex) -> anyhow::Result<Traffic>;
    /// Sets a service's counters to zero.
    fn zero_service_traffic(&mut self, service: ServiceIndex) -> anyhow::Result<()>;
    /// Sets a backend's counters to zero.
    fn zero_backend_traffic(&mut self, backend: BackendIndex) -> anyhow::Result<()>;
    /// Counts the flows that live and removes those that are over.
    fn census(&mut self) -> anyhow::Result<Census>;
}

/// How the program is attached to an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The interface's index.
    pub index: u32,
    /// Native or generic.
    pub mode: XdpMode,
    /// Why it is not native, where it was to be if possible.
    pub note: Option<String>,
}

/// The flows that live.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Flows by backend.
    pub live: HashMap<BackendIndex, u64>,
    /// Records of flows in the table, replies' too.
    pub records: u64,
}
