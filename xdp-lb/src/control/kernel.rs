//! The datapath as a trait, so that the owner task can be tested without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use xdp_lb_common::net::Address;
use xdp_lb_common::own_mac::OwnMac;
use xdp_lb_common::tables::{BackendIndex, ServiceIndex, Traffic};

use crate::datapath::{
    Attached, Counted, Datapath, FlowKeeper, Policy, Sizes, TablesView, monotonic_seconds,
};
use crate::model::Attach;
use crate::net::RouterAddressesOf;
use crate::report::explain::LiveTables;
use crate::report::records::FlowRecords;
use crate::report::traffic::Counters;
use crate::tables::{Tables, Write};

/// The program and its tables. Each method is that of [`Datapath`].
#[expect(missing_docs, reason = "each is described at the method of Datapath")]
pub trait Kernel: Send {
    fn is_adopted(&self) -> bool;
    fn sizes(&self) -> Sizes;
    fn memory(&self) -> Result<u64>;
    fn read(&self) -> Result<Tables>;
    fn apply(&mut self, writes: &[Write]) -> Result<()>;
    fn set_policy(&mut self, policy: &Policy) -> Result<()>;
    fn write_heartbeat(&mut self) -> Result<()>;
    fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> Result<()>;
    fn set_own_macs(&mut self, own_macs: &BTreeSet<OwnMac>) -> Result<()>;
    fn set_router_addresses(&mut self, addresses: &RouterAddressesOf) -> Result<()>;
    fn set_resets_unknown(&mut self, resets: bool) -> Result<()>;
    fn set_own_addresses(&mut self, addresses: &BTreeSet<Address>) -> Result<()>;
    fn has_interface(&self, name: &str) -> bool;
    fn attach(&mut self, interface: &str, mode: Attach) -> Result<Attached>;
    fn detach(&mut self, index: u32) -> Result<()>;
    fn attached_interfaces(&self) -> Vec<u32>;
    fn verify_attached(&self, index: u32) -> Result<String, String>;
    fn transmits_redirected(&self, index: u32) -> Option<bool>;
    fn restore_classifier(&mut self, index: u32) -> Result<Option<String>>;
    fn catch_up(&mut self) -> Result<()>;
    fn keep(&mut self) -> Result<()>;
    fn restore_pins(&mut self) -> Result<Vec<String>>;
    fn restore(&mut self, expected: &[Write]) -> Result<Vec<String>>;
    fn restore_whole(&mut self, expected: &Tables) -> Result<Vec<String>>;
    fn unload(&mut self) -> Result<Vec<String>>;
    fn counters(&self) -> Result<Arc<dyn Counters>>;
    fn former_traffic(&self, service: ServiceIndex) -> Result<Traffic>;
    fn set_former_traffic(&mut self, service: ServiceIndex, traffic: Traffic) -> Result<()>;
    fn zero_backend_traffic(&mut self, index: BackendIndex) -> Result<()>;
    fn flow_table(&self, view: Arc<TablesView>) -> Result<Box<dyn FlowTable>>;
    fn correct_flow_counts(&mut self, counted: &Counted) -> Result<()>;
    fn flow_records(&self) -> Arc<dyn FlowRecords>;
    fn live_tables(&self) -> Result<Arc<dyn LiveTables>>;
}

/// The flow table, for the thread that walks over it. Each method is that of [`FlowKeeper`].
#[expect(missing_docs, reason = "each is described at the method of FlowKeeper")]
pub trait FlowTable: Send {
    fn count(&mut self) -> Result<Counted>;
    fn move_flows(&mut self, from: u32, to: u32) -> usize;
}

impl FlowTable for FlowKeeper {
    fn count(&mut self) -> Result<Counted> {
        FlowKeeper::count(self)
    }

    fn move_flows(&mut self, from: u32, to: u32) -> usize {
        FlowKeeper::move_flows(self, from, to)
    }
}

impl Kernel for Datapath {
    fn is_adopted(&self) -> bool {
        Datapath::is_adopted(self)
    }

    fn sizes(&self) -> Sizes {
        Datapath::sizes(self)
    }

    fn memory(&self) -> Result<u64> {
        Datapath::memory(self)
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

    fn write_heartbeat(&mut self) -> Result<()> {
        Datapath::write_heartbeat(self, monotonic_seconds()?)
    }

    fn set_vlans(&mut self, vlans: &BTreeMap<u32, (u32, u16)>) -> Result<()> {
        Datapath::set_vlans(self, vlans)
    }

    fn set_own_macs(&mut self, own_macs: &BTreeSet<OwnMac>) -> Result<()> {
        Datapath::set_own_macs(self, own_macs)
    }

    fn set_router_addresses(&mut self, addresses: &RouterAddressesOf) -> Result<()> {
        Datapath::set_router_addresses(self, addresses)
    }

    fn set_resets_unknown(&mut self, resets: bool) -> Result<()> {
        Datapath::set_resets_unknown(self, resets)
    }

    fn set_own_addresses(&mut self, addresses: &BTreeSet<Address>) -> Result<()> {
        Datapath::set_own_addresses(self, addresses)
    }

    fn has_interface(&self, name: &str) -> bool {
        Datapath::has_interface(name)
    }

    fn attach(&mut self, interface: &str, mode: Attach) -> Result<Attached> {
        Datapath::attach(self, interface, mode)
    }

    fn detach(&mut self, index: u32) -> Result<()> {
        Datapath::detach(self, index)
    }

    fn attached_interfaces(&self) -> Vec<u32> {
        Datapath::attached_interfaces(self)
    }

    fn verify_attached(&self, index: u32) -> Result<String, String> {
        Datapath::verify_attached(self, index)
    }

    fn transmits_redirected(&self, index: u32) -> Option<bool> {
        Datapath::transmits_redirected(self, index)
    }

    fn restore_classifier(&mut self, index: u32) -> Result<Option<String>> {
        Datapath::restore_classifier(self, index)
    }

    fn catch_up(&mut self) -> Result<()> {
        Datapath::catch_up(self)
    }

    fn keep(&mut self) -> Result<()> {
        Datapath::keep(self)
    }

    fn restore_pins(&mut self) -> Result<Vec<String>> {
        Datapath::restore_pins(self)
    }

    fn restore(&mut self, expected: &[Write]) -> Result<Vec<String>> {
        Datapath::restore(self, expected)
    }

    fn restore_whole(&mut self, expected: &Tables) -> Result<Vec<String>> {
        Datapath::restore_whole(self, expected)
    }

    fn unload(&mut self) -> Result<Vec<String>> {
        Datapath::unload(self)
    }

    fn counters(&self) -> Result<Arc<dyn Counters>> {
        Ok(Arc::new(Datapath::counters(self)?))
    }

    fn former_traffic(&self, service: ServiceIndex) -> Result<Traffic> {
        Datapath::former_traffic(self, service)
    }

    fn set_former_traffic(&mut self, service: ServiceIndex, traffic: Traffic) -> Result<()> {
        Datapath::set_former_traffic(self, service, traffic)
    }

    fn zero_backend_traffic(&mut self, index: BackendIndex) -> Result<()> {
        Datapath::zero_backend_traffic(self, index)
    }

    fn flow_table(&self, view: Arc<TablesView>) -> Result<Box<dyn FlowTable>> {
        Ok(Box::new(Datapath::flow_keeper(self, view)?))
    }

    fn correct_flow_counts(&mut self, counted: &Counted) -> Result<()> {
        Datapath::correct_flow_counts(self, counted)
    }

    fn flow_records(&self) -> Arc<dyn FlowRecords> {
        Arc::new(Datapath::flow_records(self))
    }

    fn live_tables(&self) -> Result<Arc<dyn LiveTables>> {
        Ok(Arc::new(Datapath::live_tables(self)?))
    }
}
