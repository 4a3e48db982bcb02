//! What the owner task needs of the datapath, as a trait: its logic is tested without a kernel.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use xdp_lb_common::net::Address;
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::tables::{BackendIndex, Book, FlowKey, FlowRecord, ServiceIndex, Traffic};

use super::tables::{Tables, Write};
use crate::config::XdpMode;
use crate::datapath::{self, Attached, Census, Datapath, Policy, Sizes};

/// The program and its tables. Each method is that of [`Datapath`].
#[expect(missing_docs, reason = "each is described at the method of Datapath")]
pub trait Kernel: Send {
    fn is_adopted(&self) -> bool;
    fn sizes(&self) -> Sizes;
    fn read(&self) -> Result<Tables>;
    fn apply(&mut self, writes: &[Write]) -> Result<()>;
    fn set_policy(&mut self, policy: &Policy) -> Result<()>;
    fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> Result<()>;
    fn set_own_macs(&mut self, own_macs: &BTreeSet<OwnMac>) -> Result<()>;
    fn set_own_addresses(&mut self, addresses: &BTreeSet<Address>) -> Result<()>;
    fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attached>;
    fn detach(&mut self, interface: &str) -> Result<()>;
    fn attached_interfaces(&self) -> Result<Vec<String>>;
    fn unload(&mut self) -> Result<Vec<String>>;
    fn reasons(&self) -> Result<Vec<u64>>;
    fn former_traffic(&self, service: ServiceIndex) -> Result<Traffic>;
    fn set_former_traffic(&mut self, service: ServiceIndex, traffic: Traffic) -> Result<()>;
    fn backend_traffic(&self, index: BackendIndex) -> Result<Traffic>;
    fn zero_backend_traffic(&mut self, index: BackendIndex) -> Result<()>;
    fn census(&mut self, tables: &Tables) -> Result<Census>;
    fn flow_records(&self) -> Result<Box<dyn FlowRecords>>;
}

/// The flow records, for whoever reads them outside of the owner task.
pub trait FlowRecords: Send {
    /// Shows each of them.
    ///
    /// # Errors
    /// Where the kernel refuses.
    fn read(&self, visit: &mut dyn FnMut(Book, &FlowKey, &FlowRecord)) -> Result<()>;
}

impl FlowRecords for datapath::FlowRecords {
    fn read(&self, visit: &mut dyn FnMut(Book, &FlowKey, &FlowRecord)) -> Result<()> {
        datapath::FlowRecords::read(self, visit)
    }
}

impl Kernel for Datapath {
    fn is_adopted(&self) -> bool {
        Datapath::is_adopted(self)
    }

    fn sizes(&self) -> Sizes {
        Datapath::sizes(self)
    }

    fn read(&self) -> Result<Tables> {
        Datapath::read(self)
    }

    fn apply(&mut self, writes: &[Write]) -> Result<()> {
        Datapath::apply(self, writes)
    }

    fn set_policy(&mut self, policy: &Policy) -> Result<()> {
        Datapath::set_policy(self, policy)
    }

    fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> Result<()> {
        Datapath::set_vlans(self, vlans)
    }

    fn set_own_macs(&mut self, own_macs: &BTreeSet<OwnMac>) -> Result<()> {
        Datapath::set_own_macs(self, own_macs)
    }

    fn set_own_addresses(&mut self, addresses: &BTreeSet<Address>) -> Result<()> {
        Datapath::set_own_addresses(self, addresses)
    }

    fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attached> {
        Datapath::attach(self, interface, mode)
    }

    fn detach(&mut self, interface: &str) -> Result<()> {
        Datapath::detach(self, interface)
    }

    fn attached_interfaces(&self) -> Result<Vec<String>> {
        Datapath::attached_interfaces(self)
    }

    fn unload(&mut self) -> Result<Vec<String>> {
        Datapath::unload(self)
    }

    fn reasons(&self) -> Result<Vec<u64>> {
        Datapath::reasons(self)
    }

    fn former_traffic(&self, service: ServiceIndex) -> Result<Traffic> {
        Datapath::former_traffic(self, service)
    }

    fn set_former_traffic(&mut self, service: ServiceIndex, traffic: Traffic) -> Result<()> {
        Datapath::set_former_traffic(self, service, traffic)
    }

    fn backend_traffic(&self, index: BackendIndex) -> Result<Traffic> {
        Datapath::backend_traffic(self, index)
    }

    fn zero_backend_traffic(&mut self, index: BackendIndex) -> Result<()> {
        Datapath::zero_backend_traffic(self, index)
    }

    fn census(&mut self, tables: &Tables) -> Result<Census> {
        Datapath::census(self, tables)
    }

    fn flow_records(&self) -> Result<Box<dyn FlowRecords>> {
        Ok(Box::new(Datapath::flow_records(self)?))
    }
}
